import pytest

from bertline.errors import UserError
from bertline.models import divergence
from bertline.models.optimizer import LossScale


def check(loss=0.7, factor=1.0, skipped=True):
    scale = LossScale()
    scale.factor.assign(factor)
    divergence.check(loss, skipped=skipped, loss_scale=scale, place="at step 3 of 90", way_out="lower the rate")


def test_a_training_goes_on_while_its_gradients_can_be_made_smaller():
    check(factor=1.0)
    check(factor=0.5, skipped=False)


def test_gradients_that_overflow_whatever_the_scale_end_it():
    with pytest.raises(
        UserError, match=r"gradients overflow float16 at step 3 of 90, .*; lower the rate, or set train.prec"
    ):
        check(factor=0.5)


def test_a_loss_that_is_no_number_ends_it():
    with pytest.raises(UserError, match="the training loss became nan at step 3 of 90; lower the rate"):
        check(loss=float("nan"), skipped=False)
