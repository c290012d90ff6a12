import pytest
from pydantic import ValidationError

from bertline.models.recipe import ExportOptions, ModelOptions, TrainOptions


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (ModelOptions, {"abstain": 0.6}, "abstain has moved: write it as export.abstain"),
        (TrainOptions, {"calibrate": "none"}, "calibrate has moved: write it as export.calibrate"),
    ],
)
def test_what_moved_to_export_is_refused_with_its_new_place(section, values, said):
    with pytest.raises(ValidationError, match=said):
        section(**values)
    assert ExportOptions(**values)
