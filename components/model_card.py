"""ModelCard: what a model's users should know, as Markdown that goes with each release.

The sections are those of "Model Cards for Model Reporting" (Mitchell et al. 2019). The front matter is for Hugging
Face's model hub. What only a person knows is in the config's `card`; if nobody has written it, the card says so.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types import standard_artifacts

from bertline.components import artifacts, compression_report, export_record, markdown, other_family, pretrained
from bertline.components.artifacts import Backbone, CompressionReport, DataReport, Quarantine
from bertline.components.evaluation import Metrics, figure_name, read_metrics
from bertline.components.ingestion import INGEST_FILE
from bertline.components.options import CompressOptions, Query
from bertline.components.review_page import figures
from bertline.components.training_record import read_history
from bertline.components.tuning import trials
from bertline.components.validation import STATISTICS_FILE
from bertline.models import families
from bertline.models.recipe import ModelOptions, TrainOptions
from bertline.serving.releases import CARD_FILE

TAGS = ["bertline", "tensorflow", "text-classification"]
UNKNOWN_LICENSE = "unknown"  # Hugging Face's word for a licence that is not stated


@component
def ModelCard(
    evaluation: InputArtifact[standard_artifacts.ModelEvaluation],
    blessing: InputArtifact[standard_artifacts.ModelBlessing],
    model_run: InputArtifact[standard_artifacts.ModelRun],
    model: InputArtifact[standard_artifacts.Model],
    quarantine: InputArtifact[Quarantine],
    data_report: InputArtifact[DataReport],
    model_card: OutputArtifact[artifacts.ModelCard],
    config: Parameter[str],
    data: Parameter[str],
    train: Parameter[str],
    compress: Parameter[str],
    release: Parameter[str],
    compression: InputArtifact[CompressionReport] = None,
    backbone: InputArtifact[Backbone] = None,
) -> None:
    """Writes the model's card.

    Args:
        evaluation: metrics.json is read.
        blessing: the gates' verdicts.
        model_run: the training's history, and where a search changed it the recipe.
        model: the Exporter's; export.json is read.
        quarantine: ingestion's counts.
        data_report: statistics of the texts.
        model_card: MODEL_CARD.md.
        config: JSON of the config's `name`, `model` and `card`.
        data: DataOptions as JSON; on a cluster each run may have its own, as the next two.
        train: TrainOptions as JSON.
        compress: CompressOptions as JSON.
        release: JSON of the run's facts, as the Pusher gets them.
        compression: the trade of student and teacher; None where nothing was compressed.
        backbone: the Pretrainer's weights; None where there are none.
    """
    sections = {"data": data, "train": train, "compress": compress}
    card = render(
        {
            **json.loads(config),
            **{name: json.loads(section) for name, section in sections.items()},
            **trials.trained_sections(model_run),
        },
        json.loads(release),
        metrics=read_metrics(evaluation.uri),
        verdicts=json.loads(blessing.get_string_custom_property("verdicts")),
        training=read_history(model_run.uri),
        export=export_record.read(model.uri),
        ingest=_read(f"{quarantine.uri}/{INGEST_FILE}"),
        texts=_read(f"{data_report.uri}/{STATISTICS_FILE}"),
        compression=compression_report.read(compression.uri) if compression else None,
        pretraining=pretrained.headline(backbone.uri) if backbone else None,
    )
    with fileio.open(f"{model_card.uri}/{CARD_FILE}", "w") as file:
        file.write(card)
    model_card.set_string_custom_property("summary", f"{len(card.splitlines())} lines")


def render(config: dict[str, Any], release: dict[str, Any], **found: Any) -> str:
    """The card.

    Args:
        config: the config's `name`, `data`, `model`, `train`, `compress` and `card`.
        release: the run's facts.
        **found: what the stages left: `metrics`, `verdicts`, `training`, `export`, `ingest`, `texts` and `compression`;
            `pretraining` as pretrained.headline has it, None without one.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown; `plain` makes strings from data harmless there
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        plain=markdown.plain,
        repr=repr,  # shows what cannot be seen
        score=_score,
        span=_span,
        named=figure_name,
        percent="{:.1%}".format,
        count="{:,.0f}".format,
    )
    made = _made(config, found["compression"])
    text = environment.get_template("model_card.md.j2").render(
        {
            **config,
            **found,
            "release": release,
            "front_matter": front_matter(config, found["metrics"], made.model),
            "architecture": _architecture(made.model),
            "teacher": _architecture(ModelOptions.model_validate(config["model"])),
            "recipe": made.recipe,
            "other_family": made.other_family,
            "quarantined": sum(found["ingest"]["quarantined"].values()),
            "slices": figures.slices(found["metrics"]),
            "fairness": [each for each in found["verdicts"] if each["kind"].startswith("fairness")],
            "said": _said,
            "missing": _missing,
        }
    )
    return re.sub(r"\n{3,}", "\n\n", text)


class _Made(NamedTuple):
    """What made the model that goes on; `other_family` is that of a student whose teacher is of another one."""

    model: ModelOptions
    recipe: TrainOptions
    other_family: str | None = None


def _made(config: dict[str, Any], compression: CompressionReport | None) -> _Made:
    """The config's own model and recipe, or those of the student that took its place."""
    model, train = ModelOptions.model_validate(config["model"]), TrainOptions.model_validate(config["train"])
    compress = CompressOptions.model_validate(config["compress"])
    if compression is None or compression.chosen != "student" or not compress.trains_student:
        return _Made(model, train)
    recipe = compress.distill.recipe(train)
    if compress.family is None:
        return _Made(model, recipe)
    return _Made(other_family.options_of(model, compress), recipe, compress.family)


def front_matter(config: dict[str, Any], metrics: Metrics, model: ModelOptions) -> str:
    """The card's metadata as YAML, by Hugging Face's own library."""
    card = config["card"]
    sources = config["data"]["source"]
    source = ", ".join(each if isinstance(each, str) else str(Query.model_validate(each)) for each in sources)
    accuracy = "Subset accuracy" if metrics.multi_label else "Accuracy"
    micro = (metrics.micro_f1, "f1", {"average": "micro"}, "Micro F1")  # elsewhere it is the accuracy
    results_shown = (  # Hugging Face's name of the metric, its arguments, and the name that it shows
        (metrics.accuracy, "accuracy", None, accuracy),
        *([micro] if metrics.multi_label else []),
        (metrics.macro_f1, "f1", {"average": "macro"}, "Macro F1"),
        (metrics.weighted_f1, "f1", {"average": "weighted"}, "Weighted F1"),
    )
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=config["name"],
            dataset_name=source,
            dataset_split="test",
            metric_type=kind,
            metric_name=shown,
            metric_args=arguments,
            metric_value=round(value, 6),
        )
        for value, kind, arguments, shown in results_shown
    ]
    family = families.of(model)
    data = ModelCardData(
        model_name=config["name"],
        language=card["languages"] or None,
        license=card["license"] or UNKNOWN_LICENSE,
        pipeline_tag="text-classification",
        tags=[*TAGS, family.name.replace("_", "-")],
        eval_results=results,
    )
    return data.to_yaml()


def _architecture(model: ModelOptions) -> str:
    return families.of(model).describe(model)


def _said(words: str | None, default: str, key: str) -> str:
    return words or default or f"{_missing(key).capitalize()}."


def _missing(key: str) -> str:
    return f"nobody has written this (`card.{key}` in the config)"


def _score(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"


def _read(path: str) -> Any:
    with fileio.open(path, "r") as file:
        return json.loads(file.read())
