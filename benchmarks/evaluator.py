"""The Evaluator's cost against one pass of the model: `python -m benchmarks.evaluator configs/sentiment.yaml`.

Runs the stages of the newest finished run that judge its model again: in this process, one after another, on the same
inputs, into a scratch folder. Before and after them the exported model answers the test rows once, in batches like the
Evaluator's. Loading the model is not part of that time; it counts as the Evaluator's own cost.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peer import write_result
from benchmarks.speed import BUSY
from bertline.errors import UserError
from bertline.pipeline import config as configs
from bertline.pipeline import lineage, metadata_store
from bertline.pipeline.stages import Node

PASSES, OWN_SECONDS = 1.5, 15.0  # the Evaluator may take this many times one pass, plus these seconds
# The stages that judge a model; those that a run does not have are skipped.
STAGES = (Node.BASELINE, Node.EVALUATOR, Node.EXPLAINER, Node.LABEL_QUALITY, Node.REVIEW)


def limit(one_pass: float) -> float:
    """Seconds that the Evaluator may take if one pass over the test rows takes `one_pass`."""
    return PASSES * one_pass + OWN_SECONDS


class FinishedRun:
    """The stages of the newest run that was evaluated: what went in, and what came out."""

    def __init__(self, config: configs.Config):
        store = lineage.Store(config)
        runs = [run for run in store.run_ids() if (stage := store.stage(run, Node.EVALUATOR)) and stage.outputs]
        if not runs:
            raise UserError(
                f"no evaluated run under {config.root_folder}; start one with `bertline run` of the same config."
            )
        self.stages = {stage.name: stage for stage in store.stages(runs[-1]) if stage.outputs}
        self._store = metadata_store.connect(config.metadata_location)

    def inputs(self, name: str) -> dict[str, Any]:
        """The artifacts that a stage read, as MLMD has them, by the names of its inputs."""
        from ml_metadata.proto import metadata_store_pb2 as mlmd

        (output, *_) = (artifact for outputs in self.stages[name].outputs.values() for artifact in outputs)
        events = self._store.get_events_by_artifact_ids([output.id])
        # The execution that made it: a cached one has it as an output too, and comes later.
        made_by = min(event.execution_id for event in events if event.type == mlmd.Event.OUTPUT)
        read = [e for e in self._store.get_events_by_execution_ids([made_by]) if e.type == mlmd.Event.INPUT]
        artifacts = {
            artifact.id: artifact for artifact in self._store.get_artifacts_by_id([event.artifact_id for event in read])
        }
        return {event.path.steps[0].key: artifacts[event.artifact_id] for event in read}


def again(run: FinishedRun, name: str, folder: Path) -> float:
    """Runs a stage of a finished run again; returns its seconds.

    Args:
        run: whose inputs and parameters it gets.
        name: of the stage.
        folder: for its outputs.
    """
    import apache_beam as beam

    from bertline.pipeline import beam_options, pipeline

    component = getattr(pipeline, name)
    spec, parameters = component.SPEC_CLASS, run.stages[name].parameters
    arguments: dict[str, Any] = {key: parameters[key] for key in spec.PARAMETERS if key in parameters}
    if "beam_pipeline" in spec.PARAMETERS:
        arguments["beam_pipeline"] = beam.Pipeline(argv=beam_options.arguments(beam_options.BeamOptions()))
    for key, proto in run.inputs(name).items():
        arguments[key] = spec.INPUTS[key].type()
        arguments[key].set_mlmd_artifact(proto)
    missing = [key for key, channel in spec.INPUTS.items() if key not in arguments and not channel.optional]
    if missing:
        raise UserError(f"the run is of another bertline, whose {name} had no {', '.join(missing)}; run again.")
    for key, channel in spec.OUTPUTS.items():
        arguments[key] = channel.type()
        arguments[key].uri = str(folder / name / key)
        Path(arguments[key].uri).mkdir(parents=True)
    began = time.monotonic()
    component.test_call(**arguments)
    return time.monotonic() - began


def one_pass(run: FinishedRun) -> tuple[float, int]:
    """Seconds of the exported model's answers to the test rows, and how many rows these are."""
    from tfx.utils import path_utils

    from bertline.components import evaluator, examples
    from bertline.components.options import EvaluateOptions

    inputs = run.inputs(Node.EVALUATOR)
    table = examples.read_examples(f"{inputs['examples'].uri}/Split-test", [])
    options = EvaluateOptions.model_validate_json(run.stages[Node.EVALUATOR].parameters["options"])
    saved_model = path_utils.serving_model_path(inputs["model"].uri)
    rows, seconds = evaluator.predict(saved_model, table, options.batch_size)
    return seconds, len(rows.labels)


class Others:
    """The share of the processors that other programs took since this was made."""

    def __init__(self):
        self._began, self._used = time.monotonic(), self._seconds()

    @staticmethod
    def _seconds() -> float:
        import psutil

        times = psutil.cpu_times()
        own = psutil.Process().cpu_times()
        return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice - own.user - own.system

    def percent(self) -> float:
        """Of all processors, 0 to 100."""
        import psutil

        share = (self._seconds() - self._used) / (psutil.cpu_count() * (time.monotonic() - self._began))
        return 100 * max(share, 0.0)  # the two clocks count in ticks of their own


def main(config: Path) -> int:
    """Prints and writes the figures; returns 1 if the limit does not hold, 2 if that could not be judged."""
    run = FinishedRun(configs.load(config))
    others = Others()
    before, rows = one_pass(run)
    with tempfile.TemporaryDirectory() as folder:
        seconds = {name: again(run, name, Path(folder)) for name in STAGES if name in run.stages}
    after, _ = one_pass(run)
    busy, bound = others.percent(), limit((before + after) / 2)
    print(f"{rows:,} test rows; one pass of the model takes {before:.1f} s before and {after:.1f} s after")
    for name, took in seconds.items():
        print(f"  {name:14} {took:6.1f} s" + (f", at most {bound:.1f}" if name == Node.EVALUATOR else ""))
    write_result("evaluator", {"rows": rows, "pass": [before, after], "stages": seconds, "busy_percent": busy})
    holds = seconds[Node.EVALUATOR] <= bound
    if busy > BUSY and not holds:
        print(
            f"no verdict: other programs used {busy:.0f}% of the processors, for which {OWN_SECONDS:g} s leave no room"
        )
        return 2
    print("holds" if holds else "FAILS")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "configs/sentiment.yaml")))
