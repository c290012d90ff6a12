"""export.json, which lies beside an exported SavedModel: how it was made of the trained weights."""

from __future__ import annotations

from pydantic import BaseModel

from bertline.models.recipe import ServedDtype
from bertline.serving import storage

EXPORT_FILE = "export.json"
ONNX_FOLDER = "onnx"  # of a Model artifact: the same model for programs without TensorFlow


class Calibration(BaseModel):
    """The temperature, and what it does to the validation rows.

    Attributes:
        temperature: what the model divides its logits by; of a multi-label model one number per label.
        note: why the temperature is 1, "" where it was fitted; of a multi-label model for each label where it is so.
        rows: how many validation rows there are.
        before: `calibration_error` and `log_loss` of those rows at temperature 1 (see estimates.calibration).
        after: the same at `temperature`.
    """

    temperature: float | list[float]
    note: str
    rows: int
    before: dict[str, float]
    after: dict[str, float]


class Threshold(BaseModel):
    """The probability from which a row gets a label, and why it is 0.5 ("" where the validation rows chose it)."""

    value: float
    note: str


class ExportRecord(BaseModel):
    """How a SavedModel was made.

    Attributes:
        dtype: of the layers' weights and products.
        abstain: the probability below which the model abstains, None for never.
        calibration: its temperature.
        thresholds: of a multi-label model; None of one that gives each row one label.
        also: the bytes of each further form, such as `onnx`.
    """

    dtype: ServedDtype
    abstain: float | None
    calibration: Calibration
    thresholds: dict[str, Threshold] | None = None
    also: dict[str, int] = {}


def write(folder: str, record: ExportRecord) -> None:
    """Writes export.json into the folder of a Model artifact."""
    with storage.open_file(f"{folder}/{EXPORT_FILE}", "w") as file:
        file.write(record.model_dump_json(indent=1) + "\n")


def read(folder: str) -> ExportRecord:
    """Reads export.json from the folder of a Model artifact."""
    with storage.open_file(f"{folder}/{EXPORT_FILE}", "r") as file:
        return ExportRecord.model_validate_json(file.read())
