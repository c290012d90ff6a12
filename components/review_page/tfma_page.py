"""One HTML file with TFMA's own web components and a run's results in them; it fetches Google Charts when shown."""

from __future__ import annotations

import json
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import apache_beam as beam
import tensorflow_model_analysis as tfma
from markupsafe import Markup
from tensorflow_model_analysis import constants
from tensorflow_model_analysis.proto import config_pb2
from tensorflow_model_analysis.view import util, view_types

from bertline.components import tfma_counts
from bertline.components.answers import LENGTH_BUCKET, Answers, slice_columns
from bertline.components.evaluation import Metrics
from bertline.components.options import EvaluateOptions
from bertline.components.review_page import page
from bertline.models import features

CLASSES = 8  # get plots and fairness indicators, the lowest F1 first; 30 kB each
PLOT_THRESHOLDS = 100  # TFMA's default of 1,000 points per curve is more than it has pixels
CALIBRATION_BUCKETS = 20
FAIRNESS_THRESHOLDS = (0.25, 0.5, 0.75)  # fairness-indicators' own
# TFMA's metrics by what the fairness component calls them
FAIRNESS = {
    "true_positive_rate": "TPR",
    "true_negative_rate": "TNR",
    "false_positive_rate": "FPR",
    "false_negative_rate": "FNR",
    "positive_rate": "PredictedPositiveRate",
}
OUTPUT = "probabilities"


def render(
    beam_pipeline: beam.Pipeline,
    name: str,
    rows: Answers,
    metrics: Metrics,
    options: EvaluateOptions,
    folders: dict[str, Path],
) -> str:
    """The page.

    TFMA counts plots and fairness indicators from the exported predictions; the model is not run again.

    Args:
        beam_pipeline: to count in.
        name: the task's.
        rows: the run's test rows.
        metrics: the run's.
        options: the run's.
        folders: TFMA's results of runs by their id, the oldest first, the last of them this run's.
    """
    results = {run_id: load(folder) for run_id, folder in folders.items()}
    classes = metrics.classes
    plotted = sorted(classes, key=lambda each: metrics.per_class[each].f1 or 0.0)[:CLASSES]
    with tempfile.TemporaryDirectory(prefix="bertline-tfma-") as folder:
        counted = _count(beam_pipeline, rows, plotted, options, folder)
    data = {
        "slicing": _slicing(list(results.values())[-1], classes, plotted, options),
        "plots": [_plot(counted, classes, each) for each in plotted],
        "time_series": _time_series(results),
        "fairness": [_fairness(counted, classes, each) for each in plotted],
    }
    return _page(name, data)


def _page(name: str, data: dict[str, Any]) -> str:
    components = (resources.files(tfma) / "static" / "vulcanized_tfma.js").read_text(encoding="utf-8")
    script = page.asset("tfma.js")
    return (
        page.environment(page.FOLDER)
        .get_template("tfma.html.j2")
        .render(
            name=name,
            data=data,
            components=Markup(components),
            script=Markup(script),
            policy=f"'{page.source(components)}' '{page.source(script)}'",
            # A label may hold "</script>".
            payload=Markup(json.dumps(data, allow_nan=False).replace("<", "\\u003c")),
        )
    )


# === TFMA's results ===


def load(folder: Path) -> tfma.EvalResult:
    """TFMA's results of a run's own model; the folder also has those of the last blessed model where there was one."""
    config = tfma.load_eval_result(str(folder)).config
    named = [spec.name for spec in config.model_specs]
    own = features.CANDIDATE
    return tfma.load_eval_result(str(folder), model_name=own if own in named else None)


def _count(
    beam_pipeline: beam.Pipeline,
    rows: Answers,
    plotted: list[str],
    options: EvaluateOptions,
    folder: str,
) -> tfma.EvalResult:
    """Plots and fairness indicators of the `plotted` classes, counted by TFMA."""
    slices = slice_columns(rows.table, options)
    batch = tfma_counts.record_batch({features.CANDIDATE: rows}, slices)
    config = _config([rows.classes.index(each) for each in plotted], list(slices))
    tfma_counts.analyse(beam_pipeline, batch, config, folder)
    return tfma.load_eval_result(folder)


def _config(class_ids: list[int], slice_keys: list[str]) -> config_pb2.EvalConfig:
    def metric(kind: str, **config: Any) -> config_pb2.MetricConfig:
        return config_pb2.MetricConfig(class_name=kind, config=json.dumps(config))

    indicators = [
        metric(kind, thresholds=[threshold], name=f"fairness_indicators_metrics/{shown}@{threshold}")
        for shown, kind in FAIRNESS.items()
        for threshold in FAIRNESS_THRESHOLDS
    ]
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(
                prediction_keys={OUTPUT: f"{features.CANDIDATE}_{OUTPUT}"}, label_keys={OUTPUT: features.LABEL_ID}
            )
        ],
        slicing_specs=[config_pb2.SlicingSpec(), *(config_pb2.SlicingSpec(feature_keys=[key]) for key in slice_keys)],
        metrics_specs=[
            config_pb2.MetricsSpec(output_names=[OUTPUT], metrics=[metric("ExampleCount")]),
            config_pb2.MetricsSpec(
                output_names=[OUTPUT],
                binarize=config_pb2.BinarizationOptions(class_ids={"values": class_ids}),
                metrics=[
                    metric("CalibrationPlot", num_buckets=CALIBRATION_BUCKETS),
                    metric("ConfusionMatrixPlot", num_thresholds=PLOT_THRESHOLDS),
                    *indicators,
                ],
            ),
        ],
    )


# === What each component takes ===


def _slicing(
    result: tfma.EvalResult, classes: list[str], shown: list[str], options: EvaluateOptions
) -> list[dict[str, Any]]:
    """All rows, and the slices of each column: `title`, `config` and `data` of tfma-nb-slicing-metrics."""
    config = util.get_slicing_config(result.config)
    columns = [*options.slices, *([LENGTH_BUCKET] if options.length_buckets else [])]
    by_title = {"all rows": util.get_slicing_metrics(result.slicing_metrics)}
    by_title |= {column: util.get_slicing_metrics(result.slicing_metrics, column) for column in columns}
    return [
        {
            "title": title,
            "config": config,
            "data": [{"slice": each["slice"], "metrics": _flat(each["metrics"], classes, shown)} for each in data],
        }
        for title, data in by_title.items()
    ]


def _plot(result: tfma.EvalResult, classes: list[str], name: str) -> dict[str, Any]:
    """A class's `data` and `config` of tfma-nb-plot, and its `title`."""
    overall = tfma.slicer.SingleSliceSpec()
    data, config = util.get_plot_data_and_config(result.plots, overall, OUTPUT, class_id=classes.index(name))
    return {"title": name, "data": data, "config": config}


def _time_series(results: dict[str, tfma.EvalResult]) -> dict[str, Any]:
    """Runs as tfma-nb-time-series takes them: `data` and `config`."""
    named = [each._replace(model_location=run_id, data_location=run_id) for run_id, each in results.items()]
    runs = view_types.EvalResults(named, constants.MODEL_CENTRIC_MODE)
    data = util.get_time_series(runs, tfma.slicer.SingleSliceSpec(), display_full_path=False)
    return {
        "data": [{**each, "metrics": _flat(each["metrics"], [], [])} for each in data],
        "config": {"isModelCentric": True},
    }


def _fairness(result: tfma.EvalResult, classes: list[str], name: str) -> dict[str, Any]:
    """A class's fairness indicators, a slice an entry, as fairness-nb-container takes them: `data`, and its `title`."""
    key = f"classId:{classes.index(name)}"
    data = []
    for slice_key, outputs in result.slicing_metrics:
        values = {**outputs[OUTPUT][""], **outputs[OUTPUT][key]}
        data.append({"slice": tfma.slicer.stringify_slice_key(slice_key), "metrics": values})
    return {"title": name, "data": data}


def _flat(outputs: dict[str, Any], classes: list[str], shown: list[str]) -> dict[str, Any]:
    """TFMA's metrics under one output and no class, so that the components show them at once.

    A class's metrics have its name behind theirs; only those of the `shown` classes are kept.
    """
    flat = {}
    for by_class in outputs.values():
        for key, values in by_class.items():
            label = classes[int(key.removeprefix("classId:"))] if key and classes else ""
            for metric, value in values.items():
                if not key or label in shown:
                    flat[f"{' '.join(metric.split())}{f' ({label})' if label else ''}"] = value
    return {"": {"": flat}}
