"""Transformers' fine-tuning with several epochs and rates: the fit that the validation rows like best is judged."""

from __future__ import annotations

import time

import torch
from huggingface import FineTuning, command_line, prepare
from rows import report, score, write_predictions


def main() -> None:
    """Fits each pair of epochs and rate with the first seed, and prints the figures of the best."""
    parser = command_line()
    parser.add_argument("--tried-epochs", type=int, nargs="+", required=True)
    parser.add_argument("--tried-rates", type=float, nargs="+", required=True)
    arguments = parser.parse_args()
    rows, splits, classes, tokenizer = prepare(arguments)
    expected = torch.tensor(splits["validation"].labels)

    best, spent, weights = None, 0.0, 0
    for epochs in arguments.tried_epochs:
        for rate in arguments.tried_rates:
            arguments.epochs, arguments.learning_rate = epochs, rate
            began = time.process_time()
            fit = FineTuning(tokenizer, splits, classes, arguments, arguments.seeds[0])
            fit.fit()
            seconds = time.process_time() - began
            spent += seconds
            weights = sum(weight.numel() for weight in fit.model.parameters())
            logits = fit.predict("validation")
            accuracy = float((logits.argmax(dim=1) == expected).float().mean())
            merit = accuracy, -float(fit.loss(logits, expected))
            if best is None or merit > best[0]:
                answers = [classes[i] for i in fit.predict("test").argmax(dim=1)]
                best = merit, {"epochs": epochs, "rate": rate}, answers, seconds
    (_, chosen, answers, seconds) = best
    write_predictions(arguments.predictions, rows["test"], [answers])
    scores = score([row["label"] for row in rows["test"]], answers)
    # The chosen fit's own time, as if its rate had been known before; `tried_seconds` is that of all.
    report(
        {"runs": [scores], "chosen": chosen, "processor_seconds": seconds, "tried_seconds": spent, "weights": weights}
    )


if __name__ == "__main__":
    main()
