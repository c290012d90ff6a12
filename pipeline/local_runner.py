"""Runs the line on this machine with TFX's launcher, stage by stage; only one run at a time uses a root."""

from __future__ import annotations

import copy
import gc
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
from rich.text import Text

from bertline.components import trackers
from bertline.components.augmentation import operations
from bertline.components.data import sql, task_files
from bertline.components.errors import in_words
from bertline.components.tuning import study
from bertline.errors import UserError
from bertline.models import portable
from bertline.pipeline import beam_options, damage, facts, review, run_ids, screen, stage_files, stages
from bertline.pipeline.config import Config
from bertline.pipeline.screen import display
from bertline.pipeline.stages import Node
from bertline.serving import releases, storage

if TYPE_CHECKING:
    from bertline.components.options import DataOptions
    from bertline.pipeline.facts import RunFacts
    from bertline.pipeline.lineage import Stage, Store
    from bertline.pipeline.screen import Screen

log = logging.getLogger("bertline.runner")

NEWEST = 50  # artifacts that show where a folder's results lie: some two runs of them
TRACKED = "bertline.TrackingRecord"  # bertline.components.artifacts.TrackingRecord, which brings TFX


class RunFailed(Exception):
    """A stage failed; the screen and the log have said why."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    Attributes:
        run_id: when it started.
        version: the version that the push stage serves, "" where a gate or the canary blocked it.
        cached: whether every stage's result was found in the metadata store.
        blocked: the reason why nothing was pushed, for a person; "" if a version was.
        review: the review page; None where it could not be written.
    """

    run_id: str
    version: str
    cached: bool
    blocked: str
    review: Path | None


def run(config: Config, config_name: str) -> RunResult:
    """Runs the whole line and shows its progress on the screen.

    Args:
        config: the task.
        config_name: how the screen names the config.

    Raises:
        UserError: the root is in use by another run, or the data cannot be found.
        RunFailed: a stage failed.
    """
    started = time.monotonic()
    with launching(config, config_name) as (console, launcher):
        result = launcher.launch(console)
        total = time.monotonic() - started
        note = ", every stage cached" if result.cached else ""
        console.print(screen.line("total", f"log {display(launcher.log_file)}{note}", total, style="dim"))
        if result.review:
            console.print(screen.line("review", display(result.review)))
        else:
            standing = "the push stands" if result.version else "the verdicts above stand"
            missing = ("no review page could be written", "yellow")
            console.print(Text.assemble(missing, f"  {standing}; why: {display(launcher.log_file)}"))
    return result


@contextmanager
def launching(config: Config, config_name: str) -> Iterator[tuple[Screen, Launcher]]:
    """Holds the root, opens the screen and the log, and yields what launches the line's stages.

    An exception within is shown in a few lines, with the place of the log.

    Args:
        config: the task.
        config_name: how the screen names the config.

    Raises:
        UserError: the root is in use by another run, or the data cannot be found.
        RunFailed: what was done within failed.
    """
    run_id = run_ids.new()
    root = config.root_folder
    trackers.check(config.tracking)
    if config.export.also:
        portable.check_installed()
    if config.tune.every_run:
        study.require()
    beam_options.check_runs_here(config.beam)
    task_files.of_task(config.data.with_queries(lambda _: None), config.folder)  # at once where a file is missing
    if config.train.augment:
        operations.check(config.train.augment, config.folder)
    for key, source in config.unlabelled.items():
        from bertline.components import unlabelled  # brings TensorFlow

        unlabelled.check(key, source, config.data, config.folder)  # before hours of training
    log_file = root / "logs" / f"{run_ids.file_stem(run_id)}.log"
    with exclusive(root), screen.quiet(log_file) as console, _bare_arguments():
        try:
            data = _with_rows(config, console)
            with console.status("starting (importing TensorFlow and TFX takes some ten seconds)"):
                if config.export.also:
                    from bertline.models.portable import families  # brings TensorFlow, and onnx, which is an extra

                    families.check(config.model)
                launcher = Launcher(config, data, run_id, log_file)
            version = (f"bertline {installed.version('bertline')}", "bold")
            console.print(Text.assemble(version, f"  {config_name}  run {run_id}  {hardware()}"))
            gc.freeze()  # what was imported stays: the collection after each stage need not look at it
            yield console, launcher
        except (KeyboardInterrupt, Exception) as error:
            _report(console, error, log_file)
            raise RunFailed(str(error)) from error
        finally:
            gc.unfreeze()


def _with_rows(config: Config, console: Screen) -> DataOptions:
    """The task's data, where a database's rows have been written to files below the root."""
    if not config.data.queries:
        return config.data
    with console.status("asking the database"):
        return sql.fetched(config.data, config.folder, config.root_folder / sql.FOLDER)


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Holds the root folder for one run.

    Raises:
        UserError: another run holds it, or the folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(root / ".lock")
        lock.acquire(timeout=0)
    except filelock.Timeout:
        holder = (root / ".holder").read_text() if (root / ".holder").exists() else "unknown"
        raise UserError(
            f"another run is using {root} (process {holder}). "
            "Wait for it to end, or give this config a `root` of its own."
        ) from None
    except OSError as error:
        raise UserError(
            f"{root} cannot be written: {error.strerror}. Set `root` in the config to a folder of your own."
        ) from error
    try:
        (root / ".holder").write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


@contextmanager
def _bare_arguments() -> Iterator[None]:
    """Hides bertline's command line: TFX hands sys.argv to Beam, which would take the options for its own."""
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        yield
    finally:
        sys.argv = arguments


def _report(console: Screen, error: BaseException, log_file: Path) -> None:
    """Shows the cause in a few lines, and where the rest is."""
    log.error("the run ended", exc_info=error)
    if isinstance(error, KeyboardInterrupt):
        way_on = "  the same command continues: finished stages are cached, training resumes"
        console.print(Text.assemble(("\ninterrupted", "bold red"), way_on))
        return
    console.print(Text.assemble(("failed", "bold red"), f"  {in_words(error)}"))
    console.print(f"the whole log: {display(log_file)}", style="dim")


def hardware() -> str:
    """What the line runs on, such as "cpu x2, bf16 (AMX)"."""
    from bertline.models import hardware as devices

    return str(devices.describe())


# === What is known before the run ===


def gather_facts(config: Config, store: Store, data_fingerprint: str) -> RunFacts:
    """Collects everything that keys the cache beside the config: data, code, serving folder and past pushes."""
    from bertline.pipeline import lineage

    values = config.model_dump(mode="json")
    files = stage_files.fingerprints(values, config.folder)
    looked_up = facts.look(values, data_fingerprint, config.serving_folder, facts.git_commit(), files)
    pushed = [artifact.custom_properties["pushed_version"].string_value for artifact in store.artifacts("PushedModel")]
    # Only the versions that pruning keeps must be there.
    expected = sorted({version for version in pushed if version})[-config.serve.keep_versions :]
    withdrawn = releases.withdrawn_versions(config.serving_folder)
    present = {*releases.versions(config.serving_folder), *withdrawn}
    return replace(
        looked_up,
        vanished=len([version for version in expected if int(version) not in present]),
        withdrawn=", ".join(map(str, withdrawn)),
        untracked=sum(not record.custom_properties["tracked"].int_value for record in store.artifacts(TRACKED)),
        history=json.dumps(lineage.past_figures(store, json.loads(looked_up.release)["inputs"])),
    )


# === Running the stages ===


class Launcher:
    """One run: compiles the line and launches its nodes in order.

    Attributes:
        run_id: when it started.
        config: the task.
        facts: what was known before it started.
        log_file: what libraries say.
    """

    def __init__(self, config: Config, data: DataOptions, run_id: str, log_file: Path):
        from tfx.dsl.compiler import compiler
        from tfx.orchestration.local import runner_utils
        from tfx.orchestration.portable import runtime_parameter_utils

        from bertline.pipeline import lineage, metadata_store, parts, pipeline

        self.run_id, self.config, self.log_file = run_id, config, log_file
        self.store = lineage.Store(config)
        if not config.metadata:  # a database is shared by machines, each with a root of its own
            damage.check_place(config.root_folder, self.store.last_artifacts(NEWEST))
        self.facts = gather_facts(config, self.store, task_files.fingerprint(task_files.of_task(data, config.folder)))
        log.info("facts of run %s: %s", run_id, self.facts)
        config = config.model_copy(update={"data": data})  # the facts are those of the config as it is written
        line = pipeline.create_pipeline(
            config,
            self.facts,
            parts.Settings.local(config),
            pipeline_root=str(config.root_folder / "artifacts"),
            metadata=metadata_store.connection(config.metadata_location),
        )
        self.ir = compiler.Compiler().compile(line)
        runtime_parameter_utils.substitute_runtime_parameter(self.ir, {"pipeline-run-id": run_id})
        self._deployment = runner_utils.extract_local_deployment_config(self.ir)
        self._nodes = {node.pipeline_node.node_info.id: node.pipeline_node for node in self.ir.nodes}

    def launch(self, console: Screen) -> RunResult:
        """Launches and shows every stage, and sums the run up."""
        done: dict[Node, Stage] = {}
        page = None
        for line, members in stages.lines().items():
            began = time.monotonic()
            try:
                done |= self.launch_line(console, line)
                if line == Node.REVIEW.line:
                    page = self._publish_page(done[Node.REVIEW])
            except Exception as error:
                if not all(node.reports for node in members):
                    raise
                log.error("stage %s failed after the push", line, exc_info=error)
                console.print(screen.line(line, f"failed: {in_words(error)}", time.monotonic() - began))
                break  # later stages read what this one did not make
        return self._result(done, page)

    def launch_line(self, console: Screen, line: str) -> dict[Node, Stage]:
        """Launches the stages of one line of the screen, and shows it; {} where the config leaves them out."""
        wired = [node for node in stages.lines()[line] if node in self._nodes]
        done: dict[Node, Stage] = {}
        if not wired:
            return done
        with screen.StageView(console, line) as view:
            for node in wired:
                self._launch_node(self._nodes[node])
                gc.collect()  # a model and its graphs are full of cycles, and the next stage loads its own
                done[node] = self.store.stage(self.run_id, node)
                if node.makes_model:
                    self._check_or_note_sizes(done[node])
        self._show(console, line, list(done.values()), view.seconds)
        return done

    def _launch_node(self, node: Any) -> None:
        from tfx.orchestration import metadata
        from tfx.orchestration.local import runner_utils
        from tfx.orchestration.portable import launcher
        from tfx.proto.orchestration import executable_spec_pb2

        connections = self._deployment.metadata_connection_config
        connection = getattr(connections, connections.WhichOneof("connection_config"))
        began = time.monotonic()
        launcher.Launcher(
            pipeline_node=node,
            mlmd_connection=metadata.Metadata(connection),
            pipeline_info=self.ir.pipeline_info,
            pipeline_runtime_spec=self.ir.runtime_spec,
            executor_spec=runner_utils.extract_executor_spec(self._deployment, node.node_info.id),
            custom_driver_spec=runner_utils.extract_custom_driver_spec(self._deployment, node.node_info.id),
            custom_executor_operators={executable_spec_pb2.BeamExecutableSpec: self._beam_operator},
        ).launch()
        log.info("stage %s took %.1f s", node.node_info.id, time.monotonic() - began)

    def _check_or_note_sizes(self, stage: Stage) -> None:
        """Compares cached results with the sizes that they were made with, before a stage reads them."""
        for artifact in (artifact for artifacts in stage.outputs.values() for artifact in artifacts):
            if stage.state == "cached":
                damage.check_size(stage.name, artifact)
            else:
                self.store.note_size(artifact, storage.size(artifact.uri))

    def _beam_operator(self, executor_spec: Any, platform_config: Any = None) -> Any:
        """Runs a Beam stage on the config's engine, which its spec does not name, as the spec keys the cache."""
        from tfx.orchestration.portable import beam_executor_operator

        with_engine = copy.deepcopy(executor_spec)
        for argument in beam_options.arguments(self.config.beam):
            with_engine.beam_pipeline_args_placeholders.add().value.string_value = argument
        return beam_executor_operator.BeamExecutorOperator(with_engine, platform_config)

    def _show(self, console: Screen, line: str, executions: list[Stage], seconds: float) -> None:
        if executions[-1].name == Node.REVIEW:
            return  # the run's last line says where the page is
        # The stage whose figures are shown says whether they are cached: train is, whatever LastBlessed looked up anew.
        shown = next((execution for execution in reversed(executions) if execution.summary), executions[-1])
        cached = " (cached)" if shown.state == "cached" else ""
        console.print(screen.line(line, shown.summary.replace(f"{Path.cwd()}/", "") + cached, seconds))
        if verdicts := executions[-1].text("verdicts"):
            console.print(screen.gates_table(json.loads(verdicts)))

    def _result(self, done: dict[Node, Stage], page: Path | None) -> RunResult:
        version = done[Node.PUSHER].text("pushed_version")
        verdicts = json.loads(done[Node.EVALUATOR].text("verdicts"))
        reasons = [verdict["reason"] for verdict in verdicts if not verdict["passed"]]
        refused = done[Node.PUSHER].text("refused")
        blocked = "" if version else refused or "; ".join(reasons) or done[Node.CANARY].summary
        cached = page is not None and all(execution.state == "cached" for execution in done.values())
        return RunResult(self.run_id, version, cached, blocked, page)

    def _publish_page(self, stage: Stage) -> Path:
        """Copies the page to where a person finds it by the run's id; returns its path."""
        from bertline.components.artifacts import REVIEW_FILE

        (artifact,) = stage.outputs["review"]
        target = review.page_file(self.config, self.run_id)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(Path(artifact.uri) / REVIEW_FILE, target)
        return target
