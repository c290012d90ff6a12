"""Pretrainer: goes on with the pre-training of the backbone, on the user's texts, before anything reads its weights."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import pretrained, splitting, trainer
from bertline.components.artifacts import Backbone
from bertline.components.checkpoint_folders import remove_checkpoints
from bertline.components.data import texts as unlabelled
from bertline.components.examples import Table, read_splits
from bertline.components.object_store import local_copy
from bertline.components.options import DataOptions
from bertline.components.pretrained import Texts
from bertline.errors import UserError
from bertline.models import families, features, pretraining
from bertline.models.bert import backbone as weights
from bertline.models.bert import classifier, folder, masked_lm
from bertline.models.bert.backbone_config import masked_lm_fault
from bertline.models.bert.masked_lm import MaskedLm
from bertline.models.bert.tokenizer import MASK, SEPARATOR, SPECIAL, START, Tokenizer, read_vocabulary
from bertline.models.dataset import Rows
from bertline.models.features import TEXT, TEXT_PAIR
from bertline.models.masking import Masking
from bertline.models.recipe import ModelOptions, PretrainOptions
from bertline.serving import storage

HELD_OUT = 0.05  # share of the texts that only show the loss
MOST_HELD_OUT = 1000  # texts; their loss is then known to a hundredth or two
WHOLE_TEXTS = 1 << 20  # tokens: the tokenizer cuts nothing off, and long texts become several rows
BATCH = 4096  # texts per call of the tokenizer
TRAIN, *JUDGING = features.SPLITS


@component
def Pretrainer(
    examples: InputArtifact[standard_artifacts.Examples],
    backbone: OutputArtifact[Backbone],
    options: Parameter[str],
    model_options: Parameter[str],
    data: Parameter[str],
    precision: Parameter[str],
    base_folder: Parameter[str],
    checkpoint_dir: Parameter[str],
) -> None:
    """Trains the backbone as a masked language model, and writes it as a folder that stages take in its place.

    Texts that are validation or test rows, or a column of one, are left out. A network that has seen them, labels or
    not, would be judged on texts that it knows, as no served text is.

    Args:
        examples: raw Examples of ingestion, all splits.
        backbone: a folder in Hugging Face's layout, and RECORD_FILE.
        options: a PretrainOptions as JSON.
        model_options: a ModelOptions as JSON.
        data: the task's DataOptions as JSON, which say how files are read.
        precision: `train.precision`.
        base_folder: where relative paths start.
        checkpoint_dir: folder that outlives an interrupted run.

    Raises:
        UserError: the backbone is no BERT, a file cannot be read, too few texts are left, or the loss is no longer a
            number.
    """
    recipe, model = PretrainOptions.model_validate_json(options), ModelOptions.model_validate_json(model_options)
    check(model)
    tables = read_splits(examples, multi_label=True)
    collected = _Collected(each for split in JUDGING for each in _texts_of(tables[split]))
    task = DataOptions.model_validate_json(data)
    if recipe.training_rows:
        collected.add([text] for text in _texts_of(tables[TRAIN]))
    if recipe.source:
        with local_copy(base_folder, unlabelled.paths(recipe.source)) as place:
            collected.add(
                unlabelled.read(unlabelled.files(recipe.source, place), unlabelled.reading(task, recipe.text))
            )
    if len(task.text_columns) > 1:
        collected.leave_out_columns((text for split in JUDGING for text in tables[split][TEXT]), task.text_separator)
    train, held_out = collected.parts(recipe.seed)
    rows = [tokenised(part, model) for part in (train, held_out)]
    source = weights.local_folder(model)
    keras.utils.set_random_seed(recipe.seed)  # of weights that are drawn
    head = masked_lm.head_of(source)
    masked = MaskedLm(classifier.from_options(model, 2, seed=recipe.seed), head, recipe.seed)
    checkpoints = f"{checkpoint_dir}/{fingerprint(rows, precision, model, recipe)}"
    before, history = pretraining.fit(
        masked,
        masking(model, recipe),
        *rows,
        recipe,
        precision=precision,
        checkpoints=checkpoints,
        on_progress=trainer.log_progress,
    )
    folder.write(Path(backbone.uri), masked, weights.vocabulary(model), source)
    counts = collected.counts(len(train), len(held_out))
    figures = {
        "before": {"loss": before.validation_loss, "accuracy": before.validation_accuracy},
        "history": asdict(history),
        "head": "found" if head else "drawn",
    }
    with storage.open_file(f"{backbone.uri}/{pretrained.RECORD_FILE}", "w") as file:
        json.dump(pretrained.record(counts, **figures), file, indent=1)
    backbone.set_string_custom_property("summary", summary(counts, before, history, drawn=head is None))
    remove_checkpoints(checkpoint_dir, checkpoints)


def check(model: ModelOptions) -> None:
    """Raises UserError where the backbone was not trained as a masked language model."""
    if families.of(model) is not families.BERT:
        raise UserError("pretrain: only BERTs can be pre-trained further; take it out, or name another model.backbone")
    if fault := masked_lm_fault(weights.kind(model)):
        raise UserError(f"pretrain: {fault}")


# === Texts ===


def _texts_of(rows: Table) -> Iterable[str]:
    """The texts of ingestion's rows, each text of a pair by itself."""
    return (text for name in (TEXT, TEXT_PAIR) for text in rows[name] if text)


class _Collected:
    """Texts, each once, without those of rows that judge.

    Args:
        judging: texts of the validation and test rows.
    """

    def __init__(self, judging: Iterable[str]):
        self._judging = {splitting.text_key(text) for text in judging}
        self._texts: dict[splitting.TextKey, str] = {}
        self._read = self._repeated = self._held_back = self._refused = 0

    def add(self, texts: Iterable[Sequence[str]]) -> None:
        """Takes rows' texts: each row's own, and behind it those that it joins; [] stands for a row that has none."""
        for row in texts:
            if not row:
                self._refused += 1
                continue
            self._read += 1
            keys = [splitting.text_key(text) for text in row]
            text, key = row[0], keys[0]
            if not self._judging.isdisjoint(keys):
                self._held_back += 1
            elif key in self._texts:
                self._repeated += 1
            else:
                self._texts[key] = text

    def leave_out_columns(self, judging: Iterable[str], separator: str) -> None:
        """Leaves out texts that are the first or the last columns of a row that judges.

        Where a column ends in a joined text is not known, so each place where it could is tried.

        Args:
            judging: joined texts of the validation and test rows.
            separator: what joins columns.
        """
        whole = {splitting.normalised(text): key for key, text in self._texts.items()}
        lengths = {len(text) for text in whole}  # a long row has thousands of places, each of which would be a copy
        ends = re.compile(re.escape(splitting.normalised(separator)) or " ")
        for text in map(splitting.normalised, judging):
            for cut in ends.finditer(text):
                end = cut.start() - text.endswith(" ", 0, cut.start())
                begin = cut.end() + text.startswith(" ", cut.end())
                for part in (range(end), range(begin, len(text))):
                    if len(part) in lengths and (own := text[part.start : part.stop]) in whole:
                        del self._texts[whole.pop(own)]
                        self._held_back += 1

    def parts(self, seed: int) -> tuple[list[str], list[str]]:
        """Texts to train on, and texts that only show the loss; which is which does not depend on their order.

        Raises:
            UserError: there are too few.
        """
        ordered = [self._texts[key] for key in sorted(self._texts)]
        if len(ordered) < 2:
            raise UserError(
                f"pretrain: {len(ordered)} texts are left of {self._read:,}; {self._held_back:,} are validation or "
                "test rows. Name more texts in pretrain.source"
            )
        held_out = min(max(round(HELD_OUT * len(ordered)), 1), MOST_HELD_OUT)
        chosen = set(np.random.default_rng(seed).permutation(len(ordered))[:held_out].tolist())
        train = [text for place, text in enumerate(ordered) if place not in chosen]
        return train, [ordered[place] for place in sorted(chosen)]

    def counts(self, trained: int, held_out: int) -> Texts:
        """What became of the texts."""
        return Texts(self._read, self._repeated, self._held_back, self._refused, trained, held_out)


def tokenised(texts: list[str], options: ModelOptions) -> Rows:
    """The texts' ids. A text that is longer than `model.max_length` becomes several rows, so nothing is cut off."""
    words = weights.vocabulary(options)
    tokenizer = Tokenizer(words.path, lowercase=words.lowercase, max_length=WHOLE_TEXTS)
    start, end, room = tokenizer.id(START), tokenizer.id(SEPARATOR), options.max_length - 2
    rows: list[np.ndarray] = []
    for place in range(0, len(texts), BATCH):
        ids, _ = tokenizer(tf.constant(texts[place : place + BATCH]))
        for row in np.split(ids.flat_values.numpy().astype(np.int32), ids.row_splits.numpy()[1:-1]):
            inner = row[1:-1]
            parts = np.split(inner, range(room, len(inner), room))
            rows += [np.concatenate([[start], part, [end]]).astype(np.int32) for part in parts if len(part)]
    if not rows:
        raise UserError("pretrain: the vocabulary of model.backbone knows none of the texts")
    joined = tf.RaggedTensor.from_row_lengths(np.concatenate(rows), [len(row) for row in rows])
    return Rows(joined, None, np.zeros(len(rows), np.int32))


# === The network ===


def masking(options: ModelOptions, recipe: PretrainOptions) -> Masking:
    """How the vocabulary's tokens are masked.

    Raises:
        UserError: it has no [MASK].
    """
    path = weights.vocabulary(options).path
    words = read_vocabulary(path)
    if MASK not in words:
        raise UserError(f"pretrain: {path} has no {MASK}; the weights were not trained as a masked language model")
    never = np.isin(np.array(words, object), SPECIAL)
    continues = np.array([word.startswith("##") for word in words]) if recipe.whole_words else None
    return Masking(recipe.mask_share, words.index(MASK), never, continues)


def fingerprint(rows: list[Rows], precision: str, model: ModelOptions, recipe: PretrainOptions) -> str:
    """A name made of everything that a pre-training's result depends on."""
    parts = [weights.digest(model), precision, model.model_dump_json(), recipe.model_dump_json()]
    digest = hashlib.sha256(json.dumps(["pretrain", *parts]).encode())
    for part in rows:
        digest.update(part.token_ids.flat_values.numpy().tobytes() + part.token_ids.row_splits.numpy().tobytes())
    return digest.hexdigest()[:16]


# === What is shown ===


def summary(texts: Texts, before: pretraining.Epoch, history: pretraining.History, *, drawn: bool) -> str:
    """The screen's line."""
    last = history.epochs[-1]
    notes = [
        f"{texts.held_back:,} texts left out as validation or test rows" if texts.held_back else "",
        f"{texts.refused:,} rows without a text" if texts.refused else "",
        "the head began with random weights" if drawn else "",
        f"resumed at step {history.resumed_at[-1]}" if history.resumed_at else "",
    ]
    return ", ".join(
        [
            f"{texts.trained:,} texts, {last.epoch} epochs, masked-LM loss {before.validation_loss:.2f} -> "
            f"{last.validation_loss:.2f} on {texts.held_out:,} others",
            f"{history.examples_per_second:.0f} examples/s",
            *filter(None, notes),
        ]
    )
