"""What a training says of itself: where it stands, the figures of its epochs, and its history."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """Where training stands."""

    epoch: int  # from 1
    epochs: int
    step: int  # of all steps
    steps: int
    loss: float  # mean over the epoch so far
    examples_per_second: float
    seconds_left: float  # if all epochs are run


@dataclass
class Epoch:
    """The figures of one pass over the training rows."""

    epoch: int  # from 1
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclass
class History:
    """How training went. Checkpoints hold it beside the tensors."""

    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0  # from 1; 0 before the first is done
    step: int = 0  # steps done
    loss_sum: float = 0.0  # over the rows of the epoch under way
    rows: int = 0  # of the epoch under way, trained on so far
    timed_rows: int = 0  # the rows of step_seconds
    step_seconds: float = 0.0  # inside training steps, without tracing
    wall_seconds: float = 0.0
    precision: str = ""
    skipped_steps: int = 0  # whose gradients overflowed in float16; see optimizer.LossScale
    weights: int = 0  # of the network
    trained_weights: int = 0  # of them, those that the method trains; what it adds comes beside the network's
    ranks: dict[str, int] = field(default_factory=dict)  # by kernel, such as "0/query", where adalora chose them
    resumed_at: list[int] = field(default_factory=list)  # steps at which an interrupted run went on

    @property
    def best(self) -> Epoch:
        """The epoch whose weights the model has after `fit`."""
        return self.epochs[self.best_epoch - 1]

    @property
    def examples_per_second(self) -> float:
        """Training speed, without tracing and validation."""
        return self.timed_rows / self.step_seconds if self.step_seconds else 0.0

    def add_step(self, loss: float, rows: int, *, skipped: bool, seconds: float | None) -> None:
        """Counts a step.

        Args:
            loss: its mean.
            rows: trained on.
            skipped: whether it changed no weight.
            seconds: that it took; None for the first one, which spends most of its time on tracing.
        """
        self.step += 1
        self.skipped_steps += skipped
        self.loss_sum += loss * rows
        self.rows += rows
        if seconds is not None:
            self.timed_rows += rows
            self.step_seconds += seconds

    def progress(self, epochs: int, steps: int, batch_size: int) -> Progress:
        """Where a training of so many epochs and steps stands after a step.

        Args:
            epochs: of the whole training.
            steps: of the whole training.
            batch_size: rows a step.
        """
        speed = self.examples_per_second
        return Progress(
            epoch=min(len(self.epochs) + 1, epochs),
            epochs=epochs,
            step=self.step,
            steps=steps,
            loss=self.loss_sum / self.rows,
            examples_per_second=speed,
            seconds_left=(steps - self.step) * batch_size / speed if speed else math.nan,
        )

    @property
    def updates(self) -> int:
        """Steps that changed the weights, as the optimizer counts them."""
        return self.step - self.skipped_steps

    def stale_epochs(self) -> int:
        """Epochs since the best one."""
        return len(self.epochs) - self.best_epoch

    def take(self, text: str) -> None:
        """Takes the state of another history, which `json.dumps(asdict(other))` wrote."""
        fields = json.loads(text)
        vars(self).update({**fields, "epochs": [Epoch(**epoch) for epoch in fields["epochs"]]})
