"""export.json, which lies beside an exported SavedModel: how it was made of the trained weights."""

from __future__ import annotations

from pydantic import BaseModel

from bertline.models.recipe import ServedDtype
from bertline.serving import storage

EXPORT_FILE = "export.json"


class Calibration(BaseModel):
    """The temperature, and what it does to the validation rows.

    Attributes:
        temperature: what the model divides its logits by.
        note: why the temperature is 1, "" where it was fitted.
        rows: how many validation rows there are.
        before: `calibration_error` and `log_loss` of those rows at temperature 1 (see estimates.calibration).
        after: the same at `temperature`.
    """

    temperature: float
    note: str
    rows: int
    before: dict[str, float]
    after: dict[str, float]


class ExportRecord(BaseModel):
    """How a SavedModel was made.

    Attributes:
        dtype: of the layers' weights and products.
        abstain: the probability below which the model abstains, None for never.
        calibration: its temperature.
    """

    dtype: ServedDtype
    abstain: float | None
    calibration: Calibration


def write(folder: str, record: ExportRecord) -> None:
    """Writes export.json into the folder of a Model artifact."""
    with storage.open_file(f"{folder}/{EXPORT_FILE}", "w") as file:
        file.write(record.model_dump_json(indent=1) + "\n")


def read(folder: str) -> ExportRecord:
    """Reads export.json from the folder of a Model artifact."""
    with storage.open_file(f"{folder}/{EXPORT_FILE}", "r") as file:
        return ExportRecord.model_validate_json(file.read())
