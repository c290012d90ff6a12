"""Artifact types of our own, for what TFX has no type for."""

from tfx.types.artifact import Artifact


class Quarantine(Artifact):
    """Rows that ingestion could not use: quarantine.csv, and the counts of all rows in ingest.json."""

    TYPE_NAME = "BertlineQuarantine"


class DataReport(Artifact):
    """Statistics of the texts, a split at a time: text_statistics.json."""

    TYPE_NAME = "BertlineDataReport"
