"""Tuner: searches for hyperparameters on the transformed Examples; the Trainer then trains with the best.

TFX's own Tuner takes a KerasTuner and its Keras models. This one runs Optuna over the Trainer's own code, and leaves
the same artifacts in the same form.
"""

from pathlib import Path

from tfx.dsl.component.experimental.annotations import InputArtifact, OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.types import standard_artifacts

from bertline.components import pretrained, probe_head, trainer
from bertline.components.artifacts import Backbone, ProbeHead, PseudoLabels, Variants
from bertline.components.options import TuneOptions
from bertline.components.tuning import trials
from bertline.components.tuning.search import Search, log_progress
from bertline.models.recipe import ModelOptions, TrainOptions


@component
def Tuner(
    transform_graph: InputArtifact[standard_artifacts.TransformGraph],
    transformed_examples: InputArtifact[standard_artifacts.Examples],
    best_hyperparameters: OutputArtifact[standard_artifacts.HyperParameters],
    tuner_results: OutputArtifact[standard_artifacts.TunerResults],
    model_options: Parameter[str],
    train_options: Parameter[str],
    tune_options: Parameter[str],
    folder: Parameter[str],
    code: Parameter[str],
    probe: InputArtifact[ProbeHead] = None,
    variants: InputArtifact[Variants] = None,
    pseudo_labels: InputArtifact[PseudoLabels] = None,
    backbone: InputArtifact[Backbone] = None,
):
    """Runs trials until their number or the time is up. What `bertline tune` has done on the same rows counts.

    Args:
        transform_graph: Transform's graph, which says whether rows are pairs.
        transformed_examples: token ids and label ids; the splits train and validation are read.
        best_hyperparameters: best_hyperparameters.txt, KerasTuner's HyperParameters as JSON.
        tuner_results: tuner_results.json, all trials.
        model_options: a ModelOptions as JSON.
        train_options: a TrainOptions as JSON; the first trial trains with them as they are.
        tune_options: a TuneOptions as JSON.
        folder: local folder of the trials, which outlives an interrupted run.
        code: key of the code that trains; trials by other code are not taken up.
        probe: what heads start from.
        variants: more training rows, made of the others (see augmenter); None for none.
        pseudo_labels: more training rows, which the probe has labelled (see pseudo_labeller); None for none.
        backbone: the Pretrainer's weights; None for the configured ones.

    Raises:
        UserError: a split is empty, nothing can be searched, or no trial could be completed.
    """
    options = pretrained.model_of(ModelOptions.model_validate_json(model_options), backbone)
    recipe, tuning = TrainOptions.model_validate_json(train_options), TuneOptions.model_validate_json(tune_options)
    task = trainer.read_task(
        transform_graph.uri,
        transformed_examples.uri,
        options,
        more=trainer.more_rows(recipe, variants, pseudo_labels),
        probed=probe_head.read(probe.uri) if probe else None,
    )
    outcome = Search(task, options, recipe, tuning, Path(folder), code).run(log_progress)
    trials.write_hyperparameters(best_hyperparameters.uri, outcome.space, outcome.best.values)
    trials.write_results(tuner_results.uri, outcome.trials)
    best_hyperparameters.set_string_custom_property("summary", outcome.summary())
