"""What is known of a trial, and the files that a search leaves: TFX's standard ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bertline.components.tuning.space import Space
from bertline.models.recipe import ModelOptions, TrainOptions
from bertline.serving import storage

if TYPE_CHECKING:
    from tfx.types import Artifact

# As TFX's own Tuner names them (tfx/components/tuner/executor.py).
HYPERPARAMETERS_FILE = "best_hyperparameters.txt"
RESULTS_FILE = "tuner_results.json"
TUNED = "tuned"  # property of the Trainer's ModelRun: the sections that a search has changed; see `sections`


@dataclass(frozen=True)
class Trial:
    """A trial that counts: one that was interrupted goes on as another.

    Attributes:
        number: in the order of the search, from 1, which is the config itself.
        state: complete, pruned (stopped early, as others were better at that point), or failed.
        values: by key; of trial 1 the config's own.
        loss: validation loss of its best epoch, in nats; of a pruned one, so far. None where it failed.
        accuracy: share of the validation rows answered rightly after that epoch.
        epochs: that were trained.
        seconds: of training, with interruptions left out.
        note: why it failed, or which trial it repeats.
    """

    number: int
    state: Literal["complete", "pruned", "failed"]
    values: dict[str, Any] = field(default_factory=dict)
    loss: float | None = None
    accuracy: float | None = None
    epochs: int = 0
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """What a search has found so far.

    Attributes:
        space: what was searched.
        trials: in their order; the first is the config itself.
        importances: by key, the share of the losses' spread that it explains; {} while there are too few trials.
        train_rows: rows that trials were trained on.
        validation_rows: rows that they were judged on.
    """

    space: Space
    trials: list[Trial]
    importances: dict[str, float]
    train_rows: int
    validation_rows: int

    @property
    def best(self) -> Trial | None:
        """The complete trial with the least validation loss, of equals the first; None while there is none."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return min(complete, key=lambda trial: trial.loss, default=None)

    @property
    def start(self) -> Trial:
        """The trial of the config itself."""
        return self.trials[0]

    @property
    def seconds(self) -> float:
        """Spent on training in all trials."""
        return sum(trial.seconds for trial in self.trials)

    def summary(self) -> str:
        """Such as "20 trials in 44 minutes, the best is trial 7: validation loss 0.512 (the config's 0.561)"."""
        best, start = self.best, self.start
        own = f"{start.loss:.4f}" if start.state == "complete" else "failed"
        pruned = sum(trial.state == "pruned" for trial in self.trials)
        return (
            f"{len(self.trials)} trials ({pruned} pruned) in {self.seconds / 60:.1f} minutes, the best is trial "
            f"{best.number}: validation loss {best.loss:.4f} (the config's own {own}), accuracy {best.accuracy:.3f}"
        )


# === Files ===


def write_hyperparameters(folder: str, space: Space, values: Mapping[str, Any]) -> None:
    """Writes the values as KerasTuner's HyperParameters, as TFX's Trainer takes them.

    Args:
        folder: of a HyperParameters artifact.
        space: what was searched; the file names it too.
        values: by key.
    """
    import keras_tuner

    parameters = keras_tuner.HyperParameters()
    for each in space.dimensions:
        if each.is_whole:
            parameters.Int(each.name, *each.values)
        elif each.is_range:
            parameters.Float(each.name, *each.values, sampling="log" if each.log else "linear")
        else:
            parameters.Choice(each.name, list(each.values))
    parameters.values = dict(values)
    with storage.open_file(f"{folder}/{HYPERPARAMETERS_FILE}", "w") as file:
        json.dump(parameters.get_config(), file, indent=1)


def read_hyperparameters(folder: str) -> dict[str, Any]:
    """The values by key, from a HyperParameters artifact."""
    with storage.open_file(f"{folder}/{HYPERPARAMETERS_FILE}", "r") as file:
        return json.load(file)["values"]


def sections(model: ModelOptions, recipe: TrainOptions) -> str:
    """The sections model and train as the Trainer took them, as JSON: the config has those before the search."""
    return json.dumps({"model": model.model_dump(mode="json"), "train": recipe.model_dump(mode="json")})


def trained_sections(model_run: Artifact) -> dict[str, Any]:
    """What `sections` wrote, by name; {} where there was no search."""
    return json.loads(model_run.get_string_custom_property(TUNED) or "{}")


def write_results(folder: str, trials: Sequence[Trial]) -> None:
    """Writes all trials as TFX's Tuner does: a list of objects with `trial_id`, `score` and the values."""
    records = [
        {"trial_id": str(trial.number), "score": trial.loss, **trial.values, "bertline": asdict(trial)}
        for trial in trials
    ]
    with storage.open_file(f"{folder}/{RESULTS_FILE}", "w") as file:
        json.dump(records, file, indent=1)
