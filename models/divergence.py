"""What ends a training: a loss that is no number, or gradients that float16 cannot hold."""

from __future__ import annotations

import math

from bertline.errors import UserError
from bertline.models.optimizer import LossScale


def lower(rate_key: str, rate: float, norm_key: str) -> str:
    """What the user can lower, for `check` and `check_validation`."""
    return f"lower {rate_key} (now {rate:g}) or {norm_key}"


def check_validation(value: float, *, epoch: int, way_out: str, what: str = "validation loss") -> None:
    """Checks the weights that an epoch leaves: its last step's gradients have not been through a loss yet.

    Args:
        value: the loss, or what it would be made of.
        epoch: from 1.
        way_out: as `lower` says it.
        what: the value is.

    Raises:
        UserError: it is no number.
    """
    if not math.isfinite(value):
        raise UserError(f"the {what} became {value} after epoch {epoch}; {way_out}")


def check(loss: float, *, skipped: bool, loss_scale: LossScale | None, place: str, way_out: str) -> None:
    """Checks that training can go on after a step.

    Args:
        loss: of the step.
        skipped: whether its gradients overflowed, so that it changed no weight.
        loss_scale: of the training; None where it is not in float16.
        place: which step it was, such as "at step 3 of 90".
        way_out: as `lower` says it.

    Raises:
        UserError: the loss is no number, or the gradients overflow although the loss has been scaled below itself.
    """
    if not math.isfinite(loss):
        raise UserError(f"the training loss became {loss} {place}; {way_out}")
    if skipped and loss_scale is not None and float(loss_scale.factor.numpy()) < 1:
        raise UserError(
            f"the gradients overflow float16 {place}, whatever the loss is scaled by; {way_out}, or set "
            "train.precision: float32"
        )
