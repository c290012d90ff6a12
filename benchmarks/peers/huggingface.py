"""Hugging Face Transformers fine-tuning the same weights by the same recipe, in the mode meant to be its best on a CPU.

The mode: bf16 autocast, batches grouped by length and padded to their longest row, fused AdamW, PyTorch's own
attention kernel, tokens made once. docs/benchmarks.md says which of these were measured.
"""

from __future__ import annotations

import argparse
import copy
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rows import add_file_arguments, read_rows, report, score, write_predictions
from transformers import AutoTokenizer, BertForSequenceClassification, get_linear_schedule_with_warmup
from transformers.utils import logging

GROUP = 50  # batches sorted together by length, as Transformers' own length-grouped sampler does


@dataclass
class Split:
    """Token ids and label indices of a split's rows, unpadded."""

    encodings: list[dict[str, list[int]]]
    labels: list[int]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.labels)

    def length(self, index: int) -> int:
        """Tokens of one row."""
        return len(self.encodings[index]["input_ids"])


def command_line() -> argparse.ArgumentParser:
    """The arguments; the recipe's defaults are those of models/recipe.py."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_file_arguments(parser)
    parser.add_argument("--weights", type=Path, required=True, help="folder in the Hugging Face layout")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--warmup-share", type=float, default=0.1)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--clip-norm", type=float, default=1.0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--class-weights", choices=("none", "balanced"), default="none")
    parser.add_argument("--patience", type=int, default=2, help="epochs without a better validation loss")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[17])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    parser.add_argument("--max-steps", type=int, help="stop after this many steps and report only the speed")
    parser.add_argument("--skip-steps", type=int, default=10, help="first steps left out of examples_per_second")
    return parser


def encode(tokenizer, rows: list[dict[str, str]], labels: list[str], max_length: int) -> Split:
    """Tokenises a split once, before training."""
    pairs = [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
    encoded = tokenizer([row["text"] for row in rows], pairs, truncation=True, max_length=max_length)
    encodings = [{name: values[i] for name, values in encoded.items()} for i in range(len(rows))]
    return Split(encodings, [labels.index(row["label"]) for row in rows])


def grouped_batches(split: Split, batch_size: int, shuffle: random.Random) -> list[list[int]]:
    """Row indices in batches of similar length: shuffled, sorted within groups, the batches shuffled again."""
    order = list(range(len(split)))
    shuffle.shuffle(order)
    batches = []
    for start in range(0, len(order), GROUP * batch_size):
        group = sorted(order[start : start + GROUP * batch_size], key=split.length)
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    shuffle.shuffle(batches)
    return batches


def collate(tokenizer, split: Split, batch: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Pads a batch to its longest row: inputs int64 [batch, longest], labels int64 [batch]."""
    inputs = tokenizer.pad([split.encodings[i] for i in batch], return_tensors="pt")
    return dict(inputs), torch.tensor([split.labels[i] for i in batch])


def optimizer_of(model: torch.nn.Module, arguments: argparse.Namespace) -> torch.optim.Optimizer:
    """AdamW whose decay spares biases and LayerNorm, in PyTorch's fused form."""
    decayed, spared = [], []
    for name, weight in model.named_parameters():
        (spared if name.endswith("bias") or "LayerNorm" in name else decayed).append(weight)
    groups = [{"params": decayed, "weight_decay": arguments.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=arguments.learning_rate, fused=True)


def loss_of(labels: list[int], classes: int, class_weights: str) -> torch.nn.CrossEntropyLoss:
    """Cross-entropy; `balanced` weighs each label by rows / (labels x rows of the label)."""
    if class_weights == "none":
        return torch.nn.CrossEntropyLoss()
    counts = torch.bincount(torch.tensor(labels), minlength=classes)
    return torch.nn.CrossEntropyLoss(weight=len(labels) / (classes * counts.float()))


class FineTuning:
    """One fit of the classifier: its model, its clock and its recipe."""

    def __init__(
        self, tokenizer, splits: dict[str, Split], classes: list[str], arguments: argparse.Namespace, seed: int
    ):
        torch.manual_seed(seed)
        self.tokenizer, self.splits, self.classes, self.arguments = tokenizer, splits, classes, arguments
        self.shuffle = random.Random(seed)
        rates = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
        dropout = dict.fromkeys(rates, arguments.dropout)
        self.model = BertForSequenceClassification.from_pretrained(
            arguments.weights, num_labels=len(classes), use_safetensors=True, dtype=torch.float32, **dropout
        )
        self.forward = torch.compile(self.model, dynamic=True) if arguments.compile else self.model
        self.loss = loss_of(splits["train"].labels, len(classes), arguments.class_weights)
        self.step_times: list[tuple[int, float]] = []  # rows and seconds of each step

    def autocast(self) -> torch.autocast:
        """The precision of the forward pass."""
        return torch.autocast("cpu", torch.bfloat16, enabled=self.arguments.precision == "bf16")

    def steps(self) -> Iterator[int]:
        """Trains; yields the epoch after each step."""
        train, arguments = self.splits["train"], self.arguments
        steps_an_epoch = -(-len(train) // arguments.batch_size)
        total = steps_an_epoch * arguments.epochs
        optimizer = optimizer_of(self.model, arguments)
        schedule = get_linear_schedule_with_warmup(optimizer, round(arguments.warmup_share * total), total)
        for epoch in range(arguments.epochs):
            self.model.train()
            for batch in grouped_batches(train, arguments.batch_size, self.shuffle):
                started = time.perf_counter()
                inputs, labels = collate(self.tokenizer, train, batch)
                with self.autocast():
                    logits = self.forward(**inputs).logits
                self.loss(logits.float(), labels).backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), arguments.clip_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                self.step_times.append((len(batch), time.perf_counter() - started))
                yield epoch

    def fit(self) -> None:
        """Trains all epochs with early stopping, and restores the epoch with the best validation loss."""
        best_loss, best_epoch, best_weights, seen = float("inf"), 0, None, 0
        steps_an_epoch = -(-len(self.splits["train"]) // self.arguments.batch_size)
        for epoch in self.steps():
            seen += 1
            if seen % steps_an_epoch:
                continue
            logits = self.predict("validation")
            loss = float(self.loss(logits, torch.tensor(self.splits["validation"].labels)))
            if loss < best_loss:
                best_loss, best_epoch, best_weights = loss, epoch, copy.deepcopy(self.model.state_dict())
            elif epoch - best_epoch >= self.arguments.patience:
                break
        self.model.load_state_dict(best_weights)

    def predict(self, split_name: str) -> torch.Tensor:
        """Logits of a split's rows in their order: float32 [rows, classes]."""
        split = self.splits[split_name]
        self.model.eval()
        order = sorted(range(len(split)), key=split.length)
        logits = torch.empty(len(split), len(self.classes))
        with torch.inference_mode(), self.autocast():
            for start in range(0, len(order), 2 * self.arguments.batch_size):
                batch = order[start : start + 2 * self.arguments.batch_size]
                inputs, _ = collate(self.tokenizer, split, batch)
                logits[batch] = self.model(**inputs).logits.float()
        return logits

    def speed(self) -> dict[str, float]:
        """Training examples per second, after the first steps and over all of them."""
        timed = self.step_times[self.arguments.skip_steps :] or self.step_times
        return {
            "examples_per_second": sum(rows for rows, _ in timed) / sum(seconds for _, seconds in timed),
            "examples_per_second_overall": sum(rows for rows, _ in self.step_times)
            / sum(seconds for _, seconds in self.step_times),
            "train_seconds": sum(seconds for _, seconds in self.step_times),
            "steps": len(self.step_times),
        }


class Task(NamedTuple):
    """What a fit reads: the rows as they are and tokenised, by split, and the label names, sorted."""

    rows: dict[str, list[dict[str, str]]]
    splits: dict[str, Split]
    classes: list[str]
    tokenizer: Any


def prepare(arguments: argparse.Namespace) -> Task:
    """Reads and tokenises the rows, and sets what holds for the whole process."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    rows = read_rows(arguments.rows)
    classes = sorted({row["label"] for row in rows["train"]})
    tokenizer = AutoTokenizer.from_pretrained(arguments.weights)
    splits = {split: encode(tokenizer, of_split, classes, arguments.max_length) for split, of_split in rows.items()}
    return Task(rows, splits, classes, tokenizer)


def main() -> None:
    """Runs the fits that the command line asks for and prints their figures."""
    arguments = command_line().parse_args()
    rows, splits, classes, tokenizer = prepare(arguments)

    runs, predictions = [], []
    for seed in arguments.seeds:
        started = time.perf_counter()
        fine_tuning = FineTuning(tokenizer, splits, classes, arguments, seed)
        if arguments.max_steps:
            for _ in fine_tuning.steps():
                if len(fine_tuning.step_times) == arguments.max_steps:
                    break
            runs.append({"seed": seed} | fine_tuning.speed())
            continue
        fine_tuning.fit()
        predicting = time.perf_counter()
        predicted = [classes[i] for i in fine_tuning.predict("test").argmax(dim=1)]
        predict_speed = {"predictions_per_second": len(predicted) / (time.perf_counter() - predicting)}
        predictions.append(predicted)
        scores = score([row["label"] for row in rows["test"]], predicted)
        seconds = {"seconds": time.perf_counter() - started}
        runs.append({"seed": seed} | scores | fine_tuning.speed() | predict_speed | seconds)
    if predictions:
        write_predictions(arguments.predictions, rows["test"], predictions)
    report({"runs": runs, "torch": torch.__version__, "threads": arguments.threads, "precision": arguments.precision})


if __name__ == "__main__":
    main()
