"""Artifact types of our own, for what TFX has no type for, and the files that one stage writes and others read.

Each type is named `bertline.` and its class: the form that Kubeflow's pipeline spec takes; containers find it by that.
"""

from tfx.types.artifact import Artifact

# In LastBlessed's Model, beside Format-Serving: the weights that a warm start takes, as the Trainer's Weights has them
KERAS_FOLDER = "Keras"
ADAPTER_FILE = "lora.npz"  # in Weights, of lora and adalora: the factors, which are merged into the weights too
BASELINE_FILE = "answers-test.parquet"  # in BaselineAnswers: answers to the same rows
ISSUES_FILE = "label_issues.csv"  # in LabelReport: rows whose label is probably wrong, the surest first
NEAR_DUPLICATES_FILE = "near_duplicates.csv"  # texts that stand almost alike in two splits
LABEL_SUMMARY_FILE = "label_quality.json"  # the counts of both, see label_quality.summarise
ATTRIBUTIONS_FILE = "attributions.json"  # in Attributions: see explainer.explain
VARIANTS_FILE = "variants.csv"  # in Variants: where each came from, see bertline.components.variants
PSEUDO_FILE = "pseudo_labels.csv"  # in PseudoLabels: the rows with source, label and probability
REVIEW_FILE = "review.html"  # in ReviewPage


class Weights(Artifact):
    """The trained classifier: the Keras weights and classifier.json that `Family.load` of its family reads."""

    TYPE_NAME = "bertline.Weights"


class Backbone(Artifact):
    """Weights after further pre-training, as a Hugging Face folder, and pretraining.json; see components.pretrained."""

    TYPE_NAME = "bertline.Backbone"


class Quarantine(Artifact):
    """Rows that ingestion could not use: quarantine.csv, and the counts of all rows in ingest.json."""

    TYPE_NAME = "bertline.Quarantine"


class DataReport(Artifact):
    """Statistics of the texts, a split at a time: text_statistics.json."""

    TYPE_NAME = "bertline.DataReport"


class Variants(Artifact):
    """More training rows, made of others: transformed Examples in Split-train, and VARIANTS_FILE in the same order."""

    TYPE_NAME = "bertline.Variants"


class PseudoLabels(Artifact):
    """Training rows that had no label: transformed Examples in Split-train, and PSEUDO_FILE in the same order."""

    TYPE_NAME = "bertline.PseudoLabels"


class BaselineAnswers(Artifact):
    """What a model to compare with, TF-IDF or the probe, answers to the test rows: BASELINE_FILE."""

    TYPE_NAME = "bertline.BaselineAnswers"


class Embeddings(Artifact):
    """The rows' vectors by the pretrained encoder, a file per split: see bertline.components.vectors."""

    TYPE_NAME = "bertline.Embeddings"


class ProbeHead(Artifact):
    """The probe's head, its figures and its validation logits: see bertline.components.probe_head."""

    TYPE_NAME = "bertline.ProbeHead"


class LabelReport(Artifact):
    """What is probably wrong with the labels and the splits: ISSUES_FILE, NEAR_DUPLICATES_FILE, LABEL_SUMMARY_FILE."""

    TYPE_NAME = "bertline.LabelReport"


class CompressionReport(Artifact):
    """The trade of a student against its teacher: compression.json, see bertline.components.compression_report."""

    TYPE_NAME = "bertline.CompressionReport"


class TrackingRecord(Artifact):
    """Whether and where an experiment tracker was told of a run, in its properties."""

    TYPE_NAME = "bertline.TrackingRecord"


class Attributions(Artifact):
    """What each word adds to the answers that the review page explains: ATTRIBUTIONS_FILE."""

    TYPE_NAME = "bertline.Attributions"


class ReviewPage(Artifact):
    """What a person reads to judge a run: REVIEW_FILE, whole in itself."""

    TYPE_NAME = "bertline.ReviewPage"


class ModelCard(Artifact):
    """What the users of a model should know: MODEL_CARD.md, see bertline.components.model_card."""

    TYPE_NAME = "bertline.ModelCard"
