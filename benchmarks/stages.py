"""The stages from the file to token ids, one by one, as the line runs them: what the benchmarks of scale time."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import apache_beam as beam
from tfx import types
from tfx.components.schema_gen.executor import Executor as SchemaGen
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import channel_utils, standard_artifacts

from bertline.components import statistics, transform, validation
from bertline.components.artifacts import DataReport, Quarantine
from bertline.components.example_gen import ExampleGen
from bertline.components.options import DataOptions, ValidationOptions
from bertline.models.recipe import ModelOptions
from bertline.pipeline import beam_options
from bertline.pipeline.stages import Node


class Stages:
    """The stages over one source, each run once and in this order.

    Args:
        folder: where the artifacts go, in a folder per artifact.
        data: source and columns; relative sources start in the folder.
        model: vocabulary and max_length.
        beam_arguments: for every Beam pipeline.
    """

    def __init__(self, folder: Path, data: DataOptions, model: ModelOptions, beam_arguments: list[str]):
        self.folder, self._data, self._model, self._beam = folder, data, model, beam_arguments
        self.examples = self._artifact(standard_artifacts.Examples)
        self.graph = self._artifact(standard_artifacts.TransformGraph)
        self.transformed = self._artifact(standard_artifacts.Examples, "TransformedExamples")

    @cached_property
    def all(self) -> dict[str, Callable[[], None]]:
        """Name -> the stage."""
        return {
            Node.EXAMPLE_GEN: self._ingest,
            Node.STATISTICS_GEN: self._count,
            Node.DATA_GATE: self._gate,
            Node.TRANSFORM: self._transform,
        }

    def _ingest(self) -> None:
        ExampleGen.test_call(
            examples=self.examples,
            quarantine=self._artifact(Quarantine),
            data=self._data.model_dump_json(),
            base_folder=str(self.folder),
            fingerprint="",
            beam_pipeline=beam.Pipeline(argv=self._beam),
        )

    def _count(self) -> None:
        self._statistics = self._artifact(standard_artifacts.ExampleStatistics)
        component = validation.statistics_gen(self._channel(self.examples), self._data)
        self._run(statistics.Executor, component, {"examples": [self.examples]}, {"statistics": [self._statistics]})
        # A stage of its own in the line. It takes a moment, however many rows there are.
        self._schema = self._artifact(standard_artifacts.Schema)
        SchemaGen().Do({"statistics": [self._statistics]}, {"schema": [self._schema]}, {"infer_feature_shape": 1})

    def _gate(self) -> None:
        anomalies = self._artifact(standard_artifacts.ExampleAnomalies)
        anomalies.split_names = "[]"  # ExampleValidator is left out: it reads only the statistics
        validation.DataGate.test_call(
            examples=self.examples,
            schema=self._schema,
            anomalies=anomalies,
            report=self._artifact(DataReport),
            data=self._data.model_dump_json(),
            validation=ValidationOptions().model_dump_json(),
            model=self._model.model_dump_json(),
            beam_pipeline=beam.Pipeline(argv=self._beam),
        )

    def _transform(self) -> None:
        component = transform.transform(
            self._channel(self.examples), self._channel(self._schema), self._model, self._data
        )
        self._run(
            transform.Executor,
            component,
            {"examples": [self.examples], "schema": [self._schema]},
            {"transform_graph": [self.graph], "transformed_examples": [self.transformed]},
        )

    def _run(self, executor: type[BaseBeamExecutor], component: Any, inputs: Any, outputs: Any) -> None:
        context = BaseBeamExecutor.Context(
            beam_pipeline_args=self._beam, tmp_dir=str(self.folder / "tmp"), unique_id="1"
        )
        properties = {key: value for key, value in component.spec.exec_properties.items() if value is not None}
        executor(context).Do(inputs, outputs, properties)

    def _artifact(self, kind: type[types.Artifact], name: str = "") -> Any:
        made = kind()
        made.uri = str(self.folder / (name or kind.__name__))
        Path(made.uri).mkdir(parents=True, exist_ok=True)
        return made

    @staticmethod
    def _channel(artifact: types.Artifact) -> types.BaseChannel:
        return channel_utils.as_channel([artifact])


def beam_arguments(workers: int) -> list[str]:
    """Beam's arguments for this many workers, as a config sets them: one is in memory, more are processes."""
    runner = "in-memory" if workers == 1 else "multi-processing"
    return beam_options.arguments(beam_options.BeamOptions(runner=runner, workers=workers))
