import grpc
import pytest

from bertline.errors import UserError
from bertline.serving.errors import RequestError
from bertline.serving.limits import Limits
from bertline.serving.protos import DataType, Example, Input, TensorProto

SMALL = Limits(max_batch_rows=3, max_text_bytes=10, max_request_bytes=1000)


def strings(*values: bytes, shape: tuple[int, ...] | None = None) -> TensorProto:
    return tensor(DataType.DT_STRING, shape or (len(values),), string_val=values)


def tensor(dtype: int, shape: tuple[int, ...], **values) -> TensorProto:
    proto = TensorProto(dtype=dtype, **values)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def example(**texts: bytes) -> Example:
    proto = Example()
    for name, text in texts.items():
        proto.features.feature[name].bytes_list.value.append(text)
    return proto


def refusal(inputs: dict[str, TensorProto], limits: Limits = SMALL) -> str:
    with pytest.raises(RequestError) as caught:
        limits.check(inputs, {})
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT
    return str(caught.value)


@pytest.mark.parametrize(
    "inputs",
    [
        {"text": strings(b"ten bytes!", b"", b"c")},
        {"n": tensor(DataType.DT_INT64, (), int64_val=[7])},
        {"x": tensor(DataType.DT_FLOAT, (3, 2), float_val=[1.0] * 6)},
        {"empty": tensor(DataType.DT_FLOAT, (0, 10**15))},
        {},
    ],
)
def test_what_fits_passes(inputs):
    SMALL.check(inputs, {})


def test_rows():
    assert refusal({"text": strings(*[b"a"] * 4)}) == (
        "input text: 4 rows; the most in one request is 3 (max_batch_rows)"
    )


def test_a_long_text_is_named_by_its_row():
    assert refusal({"n": strings(b"a"), "text": strings(b"a", b"eleven chars")}) == (
        "input text: row 1: a text of 12 bytes; the longest is 10 (max_text_bytes)"
    )


def test_packed_strings_are_held_to_the_limit_as_a_whole():
    packed = tensor(DataType.DT_STRING, (2,), tensor_content=b"\x05\x05" + b"a" * 10)
    assert "a text of 12 bytes" in refusal({"text": packed})


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (DataType.DT_FLOAT, {"float_val": [0.5]}),
        (DataType.DT_INT8, {"int_val": [1]}),
        (DataType.DT_STRING, {"string_val": [b"a"]}),
        (DataType.DT_FLOAT8_E5M2, {}),
    ],
)
def test_a_short_list_that_stands_for_terabytes_is_refused(dtype, value):
    assert "max_request_bytes" in refusal({"x": tensor(dtype, (1, 10**12), **value)}, Limits())


def test_a_text_repeated_by_the_shape_counts_each_time():
    # 1,024 rows of 16 columns, all the one text of 64 KiB: 1 GiB from 64 KiB on the wire.
    assert "max_request_bytes" in refusal({"text": strings(b"a" * (64 << 10), shape=(1024, 16))}, Limits())


def test_the_sizes_of_all_inputs_count_together():
    row = tensor(DataType.DT_DOUBLE, (1, 100), double_val=[0.0])  # 800 bytes in memory
    SMALL.check({"a": row}, {})
    assert refusal({"a": row, "b": row}) == (
        "input b: the request's tensors take 1600 bytes or more in memory; the most is 1000 (max_request_bytes)"
    )


def test_negative_sizes_do_not_cancel_out():
    assert "negative" in refusal({"x": tensor(DataType.DT_FLOAT, (1, -2, -2))})


def test_more_strings_than_the_shape_holds():
    assert refusal({"text": strings(b"a", b"b", shape=(1,))}) == "input text: 2 strings for a shape of 1"


# === Input, of Classify and Regress ===


def test_examples_that_fit_pass():
    SMALL.check_input(Input())
    SMALL.check_input(Input(example_list={"examples": [example(text=b"ten bytes!")] * 3}))


def test_too_many_examples():
    with pytest.raises(RequestError, match=r"input: 4 rows; the most in one request is 3 \(max_batch_rows\)"):
        SMALL.check_input(Input(example_list={"examples": [example()] * 4}))


@pytest.mark.parametrize("kind", ["example_list", "example_list_with_context"])
def test_a_long_value_is_named_by_example_and_feature(kind):
    rows = {"examples": [example(text=b"a"), example(text=b"a", title=b"eleven chars")]}
    with pytest.raises(RequestError, match="input: example 1, feature title: a text of 12 bytes") as caught:
        SMALL.check_input(Input(**{kind: rows}))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_a_context_counts_once_for_each_example():
    context = example(**{f"f{number}": b"ten bytes!" for number in range(20)})
    SMALL.check_input(Input(example_list_with_context={"examples": [example()], "context": context}))
    with pytest.raises(RequestError, match="the context copied into each of 3 examples"):
        SMALL.check_input(Input(example_list_with_context={"examples": [example()] * 3, "context": context}))


def test_limits_are_positive():
    with pytest.raises(UserError, match="max_text_bytes is 0: it must be at least 1"):
        Limits(max_text_bytes=0)
