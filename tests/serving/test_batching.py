import asyncio
import threading

import grpc
import numpy as np
import pytest
from factories import save_half_plus_model

from bertline.errors import UserError
from bertline.serving.batching import Batcher, BatchingOptions
from bertline.serving.calls import Call
from bertline.serving.configuration import BatchingParameters, read_text_proto
from bertline.serving.errors import RequestError
from bertline.serving.metrics import Metrics
from bertline.serving.protos import Example
from bertline.serving.servable import Servable


@pytest.fixture(scope="module")
def half_plus_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("half_plus_two")
    save_half_plus_model(folder / "1")
    return Servable(folder / "1", "half_plus_two", 1)


class Recorder:
    """Stands before a servable: notes the rows of each run, and holds runs back until it is opened."""

    def __init__(self, servable):
        self.servable = servable
        self.model, self.version = servable.model, servable.version
        self.runs = []
        self.gate = threading.Event()
        self.gate.set()

    def run(self, call):
        self.gate.wait(20)
        self.runs.append(call.rows)
        return self.servable.run(call)


@pytest.fixture
def recorder(half_plus_two):
    return Recorder(half_plus_two)


def call(*rows, signature="serving_default"):
    return Call({"x:0": np.array(rows, np.float32).reshape(len(rows), -1)}, ("y:0",))


def answers(recorder, options, *calls, scenario=None):
    """What became of each call, all sent at once: y as a list, or the error."""

    async def all_at_once():
        batcher = Batcher(options, Metrics())
        try:
            tasks = [asyncio.ensure_future(batcher.run(recorder, "serving_default", each)) for each in calls]
            await asyncio.sleep(0)
            if scenario:
                await scenario(batcher, tasks)
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            recorder.gate.set()
            batcher.close()

    outcomes = asyncio.run(all_at_once())
    return [each if isinstance(each, BaseException) else each["y:0"].tolist() for each in outcomes]


ONE_THREAD = {"num_batch_threads": 1}


def test_requests_share_a_run_and_each_gets_its_own_rows(recorder):
    options = BatchingOptions(max_batch_size=4, batch_timeout_micros=100_000, **ONE_THREAD)
    assert answers(recorder, options, call(0.0), call(2.0, 4.0), call(6.0)) == [[[2.0]], [[3.0], [4.0]], [[5.0]]]
    assert recorder.runs == [4]


def test_a_batch_that_is_not_full_runs_when_its_time_is_up(recorder):
    options = BatchingOptions(max_batch_size=100, batch_timeout_micros=20_000, **ONE_THREAD)
    assert answers(recorder, options, call(0.0), call(2.0)) == [[[2.0]], [[3.0]]]
    assert recorder.runs == [2]


def test_what_arrives_while_the_thread_is_busy_shares_the_next_run(recorder):
    options = BatchingOptions(max_batch_size=3, **ONE_THREAD)
    recorder.gate.clear()

    async def open_the_gate(batcher, tasks):
        assert batcher.waiting() == 4  # the first one runs
        recorder.gate.set()

    assert answers(recorder, options, *[call(0.0)] * 5, scenario=open_the_gate) == [[[2.0]]] * 5
    assert recorder.runs == [1, 3, 1]


def test_a_full_queue_refuses_at_once(recorder):
    options = BatchingOptions(max_batch_size=2, max_enqueued_batches=2, **ONE_THREAD)
    recorder.gate.clear()

    async def look(batcher, tasks):
        assert [task.done() for task in tasks] == [False] * 5 + [True] * 2
        recorder.gate.set()

    *answered, sixth, seventh = answers(recorder, options, *[call(0.0)] * 7, scenario=look)
    assert answered == [[[2.0]]] * 5  # one runs, four wait
    for error in (sixth, seventh):
        assert error.code is grpc.StatusCode.UNAVAILABLE and "queue" in str(error)
    assert sum(recorder.runs) == 5


def test_a_cancelled_request_is_never_run(recorder):
    options = BatchingOptions(max_batch_size=10, **ONE_THREAD)
    recorder.gate.clear()

    async def cancel(batcher, tasks):
        tasks[1].cancel()
        tasks[3].cancel()
        await asyncio.sleep(0.01)
        assert batcher.waiting() == 2
        recorder.gate.set()

    outcomes = answers(recorder, options, *[call(0.0)] * 5, scenario=cancel)
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "list",
        "CancelledError",
        "list",
        "CancelledError",
        "list",
    ]
    assert recorder.runs == [1, 2]


def test_allowed_sizes_fill_a_batch_with_rows_that_nobody_gets(recorder):
    options = BatchingOptions(max_batch_size=8, allowed_batch_sizes=(2, 8), batch_timeout_micros=20_000, **ONE_THREAD)
    assert answers(recorder, options, call(0.0), call(2.0, 4.0)) == [[[2.0]], [[3.0], [4.0]]]
    assert recorder.runs == [8]


def test_rows_of_different_shapes_share_a_run_only_when_padded(recorder):
    short, long = call([2.0, 4.0]), call([2.0, 4.0, 6.0, 8.0])
    options = BatchingOptions(batch_timeout_micros=20_000, **ONE_THREAD)
    assert answers(recorder, options, short, long) == [[[3.0, 4.0]], [[3.0, 4.0, 5.0, 6.0]]]
    assert recorder.runs == [1, 1]
    padded = BatchingOptions(batch_timeout_micros=20_000, pad_variable_length_inputs=True, **ONE_THREAD)
    # As in TF Serving, the padding is the row's first value, and the outputs keep it.
    assert answers(recorder, padded, short, long) == [[[3.0, 4.0, 3.0, 3.0]], [[3.0, 4.0, 5.0, 6.0]]]
    assert recorder.runs == [1, 1, 2]


def test_a_request_larger_than_a_batch(recorder):
    (error,) = answers(recorder, BatchingOptions(max_batch_size=2), call(0.0, 2.0, 4.0))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "Task size 3 is larger than maximum input batch size 2" in str(error)
    splitting = BatchingOptions(max_batch_size=5, max_execution_batch_size=2, enable_large_batch_splitting=True)
    assert answers(recorder, splitting, call(0.0, 2.0, 4.0, 6.0, 8.0)) == [[[2.0], [3.0], [4.0], [5.0], [6.0]]]
    assert sorted(recorder.runs) == [1, 2, 2]


def test_one_callers_bad_row_does_not_fail_the_others(half_plus_two):
    good = Example()
    good.features.feature["x"].float_list.value.append(2.0)

    def examples(serialized):
        return Call({"examples:0": np.array([serialized], object)}, ("outputs:0",))

    async def both():
        batcher = Batcher(BatchingOptions(batch_timeout_micros=20_000, **ONE_THREAD), Metrics())
        runs = [examples(good.SerializeToString()), examples(b"\xff")]
        try:
            return await asyncio.gather(
                *(batcher.run(half_plus_two, "regress", run) for run in runs), return_exceptions=True
            )
        finally:
            batcher.close()

    answered, failed = asyncio.run(both())
    assert answered["outputs:0"].tolist() == [[3.0]]
    assert isinstance(failed, RequestError) and failed.code is grpc.StatusCode.INVALID_ARGUMENT


def test_one_bad_row_among_many_is_found_by_halves(half_plus_two):
    good = Example()
    good.features.feature["x"].float_list.value.append(2.0)
    calls = [Call({"examples:0": np.array([good.SerializeToString()], object)}, ("outputs:0",)) for _ in range(63)]
    calls.insert(40, Call({"examples:0": np.array([b"\xff"], object)}, ("outputs:0",)))
    recorder = Recorder(half_plus_two)

    async def all_at_once():
        batcher = Batcher(BatchingOptions(max_batch_size=64, batch_timeout_micros=1_000_000, **ONE_THREAD), Metrics())
        try:
            runs = (batcher.run(recorder, "regress", call) for call in calls)
            return await asyncio.gather(*runs, return_exceptions=True)
        finally:
            batcher.close()

    outcomes = asyncio.run(all_at_once())
    assert isinstance(outcomes.pop(40), RequestError)
    assert [outcome["outputs:0"].tolist() for outcome in outcomes] == [[[3.0]]] * 63
    assert recorder.runs[0] == 64 and len(recorder.runs) == 13


def test_no_rows_are_answered_with_none(recorder):
    empty = Call({"x:0": np.zeros([0, 1], np.float32)}, ("y:0",))
    assert answers(recorder, BatchingOptions(allowed_batch_sizes=(1000,)), empty) == [[]]


def test_options_from_a_file(tmp_path):
    file = tmp_path / "batching.config"
    file.write_text("max_batch_size { value: 64 } batch_timeout_micros { value: 0 } allowed_batch_sizes: [8, 64]")
    options = BatchingOptions.of(read_text_proto(file, BatchingParameters))
    assert (options.max_batch_size, options.allowed_batch_sizes) == (64, (8, 64))
    assert (options.batch_timeout_micros, options.max_enqueued_batches) == (0, 10)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be at least 1"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must not be negative"),
        ({"allowed_batch_sizes": (8, 4)}, "must grow"),
        ({"allowed_batch_sizes": (8,)}, "the last of allowed_batch_sizes, 8, must be the largest batch, 1000"),
        ({"enable_large_batch_splitting": True, "max_execution_batch_size": 2000}, "between 1 and max_batch_size"),
    ],
)
def test_options_that_contradict_each_other(parameters, words):
    with pytest.raises(UserError, match=words):
        BatchingOptions(**parameters)
