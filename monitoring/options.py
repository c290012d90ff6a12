"""The options of `bertline monitor`, each default with its reason beside it."""

from __future__ import annotations

from datetime import timedelta

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from bertline.components.options import Duration, Share
from bertline.models.recipe import Section


class MonitorOptions(Section):
    """When `bertline monitor` raises an alarm, and who is told; see docs/monitoring.md."""

    # What is judged at a time, such as 30m, 24h or 7d. Hours of the day differ in what people write, days less so
    window: Duration = timedelta(hours=24)
    # Windows that the newest one is compared with, beside the model's test rows: a week, so that each weekday is there
    windows_before: NonNegativeInt = 7
    # Alarms a month that may be expected where nothing changes, over all that is looked at together. More finds smaller
    # changes sooner, and wears people out
    false_alarms: PositiveFloat = 1.0
    # A window with fewer answers alarms nobody: 200 say a share only to within 7 points
    minimum_requests: PositiveInt = 200
    # The least share of the texts that must have moved: with a million texts a window, any difference is certain
    smallest_shift: Share = 0.05
    # Accuracy that may be lost against the test rows before it is an alarm
    accuracy_loss: Share = 0.03
    # By what factor the slowest 20th of the answers must have become slower before it is an alarm: the load of a day
    # makes smaller differences
    slower_by: float = Field(default=1.5, gt=1)
    # Who is told, as apprise's addresses: json://HOST/PATH, mailto://..., slack://... ${NAME} stands for a variable of
    # the environment, such as a token
    notify: list[str] = Field(default_factory=list)
