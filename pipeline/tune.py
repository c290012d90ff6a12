"""`bertline tune`: searches for better hyperparameters on rows that the line has prepared, and writes a config."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from rich.table import Table
from rich.text import Text

from bertline.components.options import Duration
from bertline.components.tuning import study
from bertline.components.tuning.space import METHOD
from bertline.errors import UserError
from bertline.pipeline import local_runner, screen, tuned_config
from bertline.pipeline.config import Config, check_can_be_tuned
from bertline.pipeline.screen import display
from bertline.pipeline.stages import Node

if TYPE_CHECKING:
    from bertline.components.tuning.search import Search
    from bertline.components.tuning.trials import Outcome, Trial
    from bertline.pipeline.screen import Screen

# The lines of the screen before training, without the baseline, which reads test rows and which no trial needs.
LINES = ("ingest", "validate", "tokenise", "pretrain", "probe", "augment", "pseudo")
FOLDER = "tuning"  # below the task's root
PAGE = "tuning.html"
STATE_STYLES = {"complete": "", "pruned": "dim", "failed": "red"}
log = logging.getLogger("bertline.tune")


def with_options(config: Config, trials: int | None, time: str | None) -> Config:
    """The config with what the command line says of its search.

    Raises:
        UserError: the time cannot be read, or a config like this cannot be tuned.
    """
    try:
        duration = config.tune.time if time is None else TypeAdapter(Duration).validate_python(time)
    except ValidationError as error:
        raise UserError(f"--time: {time!r}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    try:
        check_can_be_tuned(config)
    except ValueError as error:
        raise UserError(f"{error}.") from None
    options = config.tune.model_copy(update={"trials": trials or config.tune.trials, "time": duration})
    return config.model_copy(update={"tune": options})


def tune(config: Config, path: Path, output: Path | None = None) -> bool:
    """Runs the search and shows it; writes the tuned config. True where a person interrupted it.

    Args:
        config: the task, with the trials and the time of its search.
        path: of its file.
        output: of the tuned config; None for NAME-tuned.yaml beside it.

    Raises:
        UserError: the tuned config would replace a file that is not one, or the data cannot be found.
        RunFailed: a stage failed, or no trial could be completed.
    """
    target = output or path.with_name(f"{path.stem}-tuned.yaml")
    tuned_config.check_target(path, target)
    study.require()
    with local_runner.launching(config, str(path)) as (console, launcher):
        done = {}
        for line in LINES:
            done |= launcher.launch_line(console, line)
        launcher.store.note_tuning(launcher.run_id)
        search = _search(config, done, launcher.facts.cache_keys[Node.TRAINER])
        interrupted = _run(search, config, console)
        outcome = search.outcome
        if outcome.best is None:
            console.print("no trial was completed, so nothing is written; the same command goes on")
            return interrupted
        tuned_config.write(config, path, target, outcome)
        _show(outcome, console)
        if left := tuned_config.left_out(config, outcome):
            method = outcome.best.values[METHOD]
            console.print(screen.line("note", f"left out, since method: {method} does not take it: {', '.join(left)}"))
        console.print(screen.line("page", display(_write_page(config, outcome))))
        console.print(f"wrote {display(target)}; next: bertline run {display(target)}")
    return interrupted


def _search(config: Config, done: dict[Node, Any], code: str) -> Search:
    """The search on what the stages have left."""
    from bertline.components import pretrained, probe_head, trainer
    from bertline.components.tuning.search import Search

    def artifact(node: Node, output: str) -> Any:
        """What the stage has left; None where the line has no such stage."""
        return done[node].outputs[output][0] if node in done else None

    probe = artifact(Node.PROBE, "head")
    made, labelled = artifact(Node.AUGMENTER, "variants"), artifact(Node.PSEUDO_LABELLER, "rows")
    model = pretrained.model_of(config.model, artifact(Node.PRETRAINER, "backbone"))
    task = trainer.read_task(
        artifact(Node.TRANSFORM, "transform_graph").uri,
        artifact(Node.TRANSFORM, "transformed_examples").uri,
        model,
        more=[rows.uri for rows in (made, labelled) if rows],
        probed=probe and probe_head.read(probe.uri),
    )
    return Search(task, model, config.train, config.tune, Path(config.below_root(FOLDER)), code)


def _run(search: Search, config: Config, console: Screen) -> bool:
    """Runs the trials with their progress on the screen; True where a person interrupted them."""
    from bertline.components.tuning.search import log_progress

    trials = config.tune.trials
    for trial in search.outcome.trials:  # of earlier calls
        console.print(_line(trial, trials))
    try:
        with screen.StageView(console, "tune"):
            search.run(log_progress, lambda trial: console.print(_line(trial, trials)))
    except KeyboardInterrupt:
        log.info("interrupted")
        console.print(Text.assemble(("interrupted", "bold red"), "  the same command goes on where it stopped"))
        return True
    return False


# === What a person sees ===


def _line(trial: Trial, trials: int) -> Table:
    head = f"trial {trial.number}/{trials}  {_figures(trial)}"
    return screen.line("tune", f"{head}  {_values(trial)}", trial.seconds, style=STATE_STYLES[trial.state])


def _figures(trial: Trial) -> str:
    if trial.loss is None:
        return f"failed: {trial.note}"
    pruned = f" after {trial.epochs} epochs" if trial.state == "pruned" else ""
    state = "" if trial.state == "complete" else f"{trial.state}{pruned}  "
    return f"{state}loss {trial.loss:.4f}  accuracy {trial.accuracy:.3f}"


def _values(trial: Trial) -> str:
    shown = (f"{key.partition('.')[2]} {_number(value)}" for key, value in trial.values.items())
    return ", ".join(shown) + (f"  ({trial.note})" if trial.note and trial.loss is not None else "")


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(outcome: Outcome) -> Table:
    """The trials, the best first."""
    keys = list(dict.fromkeys(each.key for each in outcome.space.dimensions))
    shown = Table(box=None, pad_edge=False)
    for column in ("trial", "", "loss", "accuracy", "epochs run", "seconds"):
        shown.add_column(column, justify="left" if column == "" else "right")
    for key in keys:
        shown.add_column(key.partition(".")[2], overflow="fold")
    ranked = sorted(
        outcome.trials, key=lambda trial: (trial.state != "complete", trial.loss is None, trial.loss or 0.0)
    )
    for trial in ranked:
        remark = "the config" if trial.number == 1 else "" if trial.state == "complete" else trial.state
        style = "bold green" if trial is outcome.best else STATE_STYLES[trial.state]
        figures = ("", "") if trial.loss is None else (f"{trial.loss:.4f}", f"{trial.accuracy:.3f}")
        values = (_number(trial.values[key]) if key in trial.values else "-" for key in keys)
        cells = (str(trial.number), remark, *figures, str(trial.epochs), f"{trial.seconds:.0f}", *values)
        shown.add_row(*cells, style=style)
    return shown


def _write_page(config: Config, outcome: Outcome) -> Path:
    from bertline.components.tuning import page

    made_at = datetime.now(UTC).isoformat(sep=" ", timespec="minutes")
    file = Path(config.below_root(FOLDER, PAGE))
    file.write_text(page.render(config.name, outcome, made_at), encoding="utf-8")
    return file


def _show(outcome: Outcome, console: Screen) -> None:
    best, start = outcome.best, outcome.start
    console.print(table(outcome))
    console.print(screen.line("tune", outcome.summary()))
    if best is start:
        cost = "no trial was better than the config itself, whose values the file has"
    else:
        cost = f"training takes {best.seconds:.0f} s where the config's own took {start.seconds:.0f} s"
    console.print(screen.line("cost", f"{outcome.seconds:.0f} s for {len(outcome.trials)} trials; {cost}"))
