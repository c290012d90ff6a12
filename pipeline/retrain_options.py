"""When `bertline watch` runs the line by itself, each default with its reason beside it."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, get_args

from pydantic import Field, PositiveInt

from bertline.components.options import Duration
from bertline.models.recipe import Section

Trigger = Literal["change", "span", "drift", "schedule"]
TRIGGERS: tuple[str, ...] = get_args(Trigger)


class RetrainOptions(Section):
    """What `bertline watch` runs the line for, and how often; see docs/monitoring.md."""

    # change: of the data or the config, at once, as whoever edits a file expects. span: a new {SPAN}. drift: an alarm
    # of `bertline monitor`, once there are rows that the last run has not seen. schedule: `every`
    on: list[Trigger] = Field(default_factory=lambda: ["change"], min_length=1)
    every: Duration = timedelta(days=7)  # of schedule, from the beginning of one run to that of the next
    # The least time between a run's end and the next one by span, drift or schedule: a day is one window of the
    # monitor, before which nobody knows how the new model does
    pause: Duration = timedelta(days=1)
    most_a_week: PositiveInt = 7  # runs in any 7 days: more would push models that nobody has seen at work
    # Runs by span, drift or schedule start from the weights of the last blessed model, which takes fewer epochs. false:
    # train.warm_start decides
    warm_start: bool = True
