import pytest
import tensorflow as tf

from bertline.errors import UserError
from bertline.models import hardware
from bertline.models.hardware import Hardware


def machine(flags=(), gpus=(), tpu=False):
    return Hardware(cores=2, bfloat16_flags=flags, gpus=gpus, tpu=tpu)


@pytest.mark.parametrize(
    ("here", "precision", "distribution", "text"),
    [
        (machine(), "float32", "one_device", "cpu x2, float32"),
        (machine(("amx_bf16", "avx512_bf16")), "mixed_bfloat16", "one_device", "cpu x2, bf16 (AMX)"),
        (machine(("avx512_bf16",)), "mixed_bfloat16", "one_device", "cpu x2, bf16 (AVX512)"),
        (machine(gpus=(("A100", (8, 0)),)), "mixed_bfloat16", "one_device", "A100 x1, bf16"),
        (machine(gpus=(("T4", (7, 5)),) * 2), "mixed_float16", "mirrored", "T4 x2, fp16"),
        (machine(gpus=(("P100", (6, 0)),)), "float32", "one_device", "P100 x1, float32"),
        (machine(tpu=True), "mixed_bfloat16", "tpu", "tpu, bf16"),
    ],
)
def test_choices(here, precision, distribution, text):
    assert (here.precision, here.distribution, str(here)) == (precision, distribution, text)


def test_this_machine():
    here = hardware.describe()
    assert here.cores >= 1
    assert hardware.compute_dtype("auto").name in str(
        {"mixed_bfloat16": "bfloat16"}.get(here.precision, here.precision)
    )


def test_the_config_can_force_a_precision():
    assert hardware.compute_dtype("float32") == tf.float32
    assert hardware.compute_dtype("mixed_float16") == tf.float16


def test_no_tpu_is_one_clear_error():
    with pytest.raises(UserError, match="no TPU is reached"):
        hardware.strategy("tpu")


def test_workers_that_nobody_told_of_each_other_are_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UserError, match="multi_worker needs TF_CONFIG in the environment"):
        hardware.strategy("multi_worker")


def test_a_machine_by_itself_is_its_own_chief():
    assert hardware.is_chief(hardware.strategy("one_device"))
