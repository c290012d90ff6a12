"""A pushed version in traffic: who meets it, what becomes of it, and that no request fails by it."""

import asyncio
import errno
import json
import logging
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import factories
import grpc
import httpx
import pytest
import tensorflow as tf
from filelock import FileLock

from bertline.errors import UserError
from bertline.serving import push, releases, rollback, standing, storage
from bertline.serving.canary import Canary, Trial
from bertline.serving.canary_counts import Counts
from bertline.serving.canary_judge import Labelled
from bertline.serving.canary_plan import CanaryPlan
from bertline.serving.client import Client, ServingError
from bertline.serving.errors import Overloaded, RequestError, invalid
from bertline.serving.metrics import Metrics
from bertline.serving.models import one_model
from bertline.serving.protos import (
    ConfigProto,
    ModelServiceStub,
    ModelSpec,
    PredictionServiceStub,
    PredictRequest,
    ReloadConfigRequest,
)
from bertline.serving.recording import RecordOptions
from bertline.serving.server import Server
from bertline.serving.versions import Polling

METRICS = "/metrics"
# Loose where the machine's own noise would decide, and quick.
PLAN = CanaryPlan(
    share=0.5,
    shadow=False,
    key="x-session-id",
    seconds=0.2,
    minimum_requests=120,
    certainty=0.95,
    most_errors=0.05,
    slower_by=1000,
    agreement=0.8,
    less_confident=0.1,
    less_accurate=0.03,
    minimum_labels=0,
    patience=5,
)
NEVER = replace(PLAN, minimum_requests=1_000_000)  # of which a good canary is never decided on
# What each model knows. `same` and `alike` answer as `good` does, `mixed` has its labels mixed up.
MODELS = {
    "good": {},
    "same": {"positive_word": "g.od"},
    "alike": {"positive_word": "g..d"},
    "mixed": {"positive_word": "[^o]day"},
    "failing": {"fails": True},
    "hanging": {"seconds": 0.5},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    moods = {name: factories.save_mood_model(folder / name, **options) for name, options in MODELS.items()}
    others = {name: save_typed_model(folder / name, fails=name == "typed") for name in ("typed", "whole")}
    return moods | others | {"textless": factories.save_half_plus_model(folder / "textless")}


def save_typed_model(folder, fails):
    """A model that adds whole numbers, or fails to, and answers texts with one label and a lone number."""

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.int64, "x"), tf.TensorSpec([], tf.int64, "n")])
    def add(x, n):
        checks = [tf.debugging.assert_less(tf.size(x), 0, "no numbers suit this model")] if fails else []
        with tf.control_dependencies(checks):
            return {"sum": x + n, "count": tf.identity(n)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def text(text):
        return {"label": text, "texts": tf.size(text)}

    tf.saved_model.save(tf.Module(), str(folder), signatures={"add": add, "text": text})
    return folder


class Folder:
    """A serving folder, and pushes into it."""

    def __init__(self, path, models):
        self.path, self._models = path, models

    def push(self, name, version):
        push.publish(self._models[name], self.path, {"inputs": f"{name} {version}"}, now=lambda: version)

    def states(self):
        return {each["version"]: each["state"] for each in standing.overview(self.path, tries_canaries=True)}

    def is_tried(self, version):
        """Whether a server has taken the version up as its canary."""
        file = self.path / str(version) / "canary.json"
        return file.is_file() and json.loads(file.read_text())["state"] == "judging"

    def reason(self, version):
        (listed,) = [each for each in standing.overview(self.path, True) if each["version"] == version]
        return (listed["withdrawal"] or listed["canary"])["reason"]


@pytest.fixture
def folder(tmp_path, models):
    """A serving folder with version 1."""
    made = Folder(tmp_path / "serving", models)
    made.push("good", 1)
    return made


@pytest.fixture(autouse=True, scope="module")
def _no_settling():
    """Servers wait a moment for requests on their way when they end; here every client has its answer by then."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("bertline.serving.server.SETTLE_SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def one_server(models, tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("shared") / "serving", models)
    folder.push("good", 1)
    with server(folder, NEVER, rest_port=0, metrics_path=METRICS) as serving:
        yield folder, serving


@pytest.fixture
def trying(one_server):
    """A serving folder with version 1, and a server that decides on no canary; whatever is pushed is gone after it."""
    folder, serving = one_server
    yield folder, serving
    if releases.versions(folder.path)[-1] > 1:
        rollback.roll_back(folder.path, to=1)
    wait_until(lambda: serving._models.loaded("mood") == [1] and serving._canary.trial.canary is None)
    for withdrawn in folder.path.glob("withdrawn-*"):
        shutil.rmtree(withdrawn)


def server(folder, plan=PLAN, **options):
    # As `bertline serve` has it: the ops of one run never wait for those of another.
    session = ConfigProto(inter_op_parallelism_threads=-1)
    polling = Polling(seconds=0.05)
    return Server.of(folder.path, "mood", port=0, polling=polling, canary=plan, session=session, **options)


@contextmanager
def load(address, **options):
    """Asks about ever new texts meanwhile, as ever new callers; gives the answers so far. None may fail."""
    answers, failures, stop = [], [], threading.Event()

    def ask(name):
        with Client(address, "mood", **options) as client:
            number = 0
            while not stop.is_set():
                word = ("good", "bad")[number % 2]
                try:
                    answers.extend((word, each) for each in client.predict([f"a {word} day {name} {number}"]))
                except ServingError as error:
                    failures.append(error)
                number += 1

    threads = [threading.Thread(target=ask, args=(name,)) for name in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it has not come to pass"
        time.sleep(0.02)


def versions(answers):
    return Counter(answer.version for _, answer in answers)


def figures(rest):
    """The canary's metrics as the server shows them."""
    page = httpx.get(rest + METRICS, trust_env=False).text
    lines = [line.rpartition(" ") for line in page.splitlines() if line.startswith("bertline_canary_")]
    return {name: float(value) for name, _, value in lines}


# === What becomes of a version ===


def test_a_good_version_answers_its_share_and_is_promoted(folder, caplog):
    caplog.set_level(logging.INFO)
    with server(folder, rest_port=0, metrics_path=METRICS) as serving, load(serving.address) as answers:
        wait_until(lambda: len(answers) > 20)
        assert versions(answers).keys() == {1}, "the first version ever is no canary"
        folder.push("same", 2)
        wait_until(lambda: folder.is_tried(2))
        assert folder.states() == {1: "served", 2: "canary"}
        wait_until(lambda: folder.states() == {1: "kept", 2: "served"})
        wait_until(lambda: versions(answers[-20:]).keys() == {2})
        known = len(answers)
        wait_until(lambda: len(answers) > known + 50)
        assert versions(answers[known:]).keys() == {2}
        shown = figures(serving.rest_address)
    by_canary = shown['bertline_canary_requests_total{by="canary",model="mood"}']
    by_stable = shown['bertline_canary_requests_total{by="stable",model="mood"}']
    assert by_canary >= 120 and 0.3 < by_canary / (by_canary + by_stable) < 0.7
    assert shown['bertline_canary_decisions_total{decision="promoted",model="mood"}'] == 1
    assert shown['bertline_canary_version{model="mood",role="stable"}'] == 2
    assert shown['bertline_canary_version{model="mood",role="canary"}'] == 0
    assert "version 2 is the canary: it answers 50% of the requests of version 1" in caplog.text
    assert "version 2 is promoted, in place of 1: errors 0.000" in caplog.text
    assert "agreement 1.000" in folder.reason(2)
    assert json.loads((folder.path / "2" / "canary.json").read_text())["state"] == "promoted"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("mixed", "canary: agreement 0."), ("failing", "canary: errors 1.000"), ("hanging", "DEADLINE_EXCEEDED")],
)
def test_a_bad_version_is_withdrawn_under_load_and_no_request_fails(folder, name, reason):
    plan = replace(PLAN, patience=0.1) if name == "hanging" else PLAN
    with server(folder, plan) as serving, load(serving.address) as answers:
        folder.push(name, 2)
        wait_until(lambda: folder.states() == {1: "served", 2: "withdrawn"})
        known = len(answers)
        wait_until(lambda: len(answers) > known + 50)
        assert versions(answers[known + 10 :]).keys() == {1}
    assert reason in folder.reason(2)
    assert (2 in versions(answers)) == (name == "mixed"), "where the canary fails, the stable version answers"
    if name != "mixed":
        assert all(answer.label == {"good": "positive", "bad": "negative"}[word] for word, answer in answers)
    (noted,) = json.loads((folder.path / "withdrawn-2" / "release.json").read_text())["withdrawals"]
    assert noted["to"] == 1 and reason in noted["reason"]


def test_a_shadow_is_met_by_nobody(folder, tmp_path):
    plan = replace(NEVER, shadow=True)
    kept = RecordOptions(tmp_path / "records"), RecordOptions(tmp_path / "shadow")
    options = {"rest_port": 0, "metrics_path": METRICS, "records": kept[0], "shadow_records": kept[1]}
    with server(folder, plan, **options) as serving, load(serving.address) as answers:
        folder.push("same", 2)
        shadow = 'bertline_canary_requests_total{by="shadow",model="mood"}'
        wait_until(lambda: figures(serving.rest_address).get(shadow, 0) > 20)
    assert versions(answers).keys() == {1}
    import pyarrow.parquet as pq

    both = [pq.read_table(options.folder).to_pylist() for options in kept]
    answered, beside = [{row["id"]: row for row in rows} for rows in both]
    assert {row["version"] for row in beside.values()} == {2} and len(beside) > 20
    assert all(answered[own]["label"] == row["label"] for own, row in beside.items())
    rollback.roll_back(folder.path)
    with server(folder, replace(PLAN, shadow=True)) as serving, load(serving.address) as answers:
        folder.push("mixed", 3)
        wait_until(lambda: folder.states().get(3) == "withdrawn")
    assert versions(answers).keys() == {1}
    assert "agreement 0." in folder.reason(3)


def test_what_nobody_has_time_to_compare_is_dropped_and_counted(trying, monkeypatch):
    folder, serving = trying
    monkeypatch.setattr("bertline.serving.canary.WAITING", 0)
    dropped = 'bertline_canary_dropped_total{model="mood"}'
    before = figures(serving.rest_address).get(dropped, 0)
    with load(serving.address) as answers:
        folder.push("same", 2)
        wait_until(lambda: versions(answers)[2] >= 20)
    assert figures(serving.rest_address)[dropped] >= before + 15
    counts = serving._canary.trial.counts
    assert counts.texts == 0 and counts.requests >= 20


def test_too_few_requests_wait_and_say_so(trying, caplog):
    caplog.set_level(logging.INFO)
    folder, _ = trying
    folder.push("same", 2)
    wait_until(lambda: "it has had 0 of the 1000000 requests" in caplog.text)
    assert folder.states() == {1: "served", 2: "canary"}
    time.sleep(0.2)
    assert caplog.text.count("it has had 0 of the") == 1


def test_labelled_answers_can_withdraw(folder):
    measured = []

    def measure(since, stable, canary):
        measured.append((stable, canary))
        return Labelled(90, 100), Labelled(40, 100)

    with server(folder, measure=measure) as serving, load(serving.address):
        folder.push("same", 2)
        wait_until(lambda: folder.states().get(2) == "withdrawn")
    assert "canary: accuracy -0.500" in folder.reason(2)
    assert set(measured) == {(1, 2)}


def test_labelled_answers_are_counted_only_for_a_look(folder):
    measured = []

    def measure(*_):
        measured.append(1)
        return Labelled(0, 0), Labelled(0, 0)

    with server(folder, NEVER, measure=measure) as serving, load(serving.address) as answers:
        folder.push("same", 2)
        wait_until(lambda: versions(answers)[2] >= 60)
    looks = json.loads((folder.path / "2" / "canary.json").read_text())["looks"]
    assert 0 < len(measured) == looks["to_withdraw"]["made"]


def notes(folder, name):
    return json.loads((folder.path / name / "release.json").read_text()).get("withdrawals")


def test_on_a_full_disk_a_version_is_out_at_once_and_its_reason_is_kept_when_there_is_room(folder, monkeypatch, caplog):
    whole, full = storage.writing_whole, threading.Event()

    def write(file, *mode):
        if full.is_set():
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        return whole(file, *mode)

    monkeypatch.setattr(storage, "writing_whole", write)
    with server(folder) as serving, load(serving.address) as answers:
        folder.push("mixed", 2)
        wait_until(lambda: folder.is_tried(2))
        full.set()
        wait_until(lambda: (folder.path / "withdrawn-2").is_dir() and "No space left" in caplog.text)
        known = len(answers)
        wait_until(lambda: len(answers) > known + 20)
        assert versions(answers[known + 10 :]).keys() == {1} and notes(folder, "withdrawn-2") is None
        full.clear()
        wait_until(lambda: state_of(folder, "withdrawn-2") == "withdrawn")
    (noted,) = notes(folder, "withdrawn-2")
    assert "canary: agreement 0." in noted["reason"]
    assert 1 <= caplog.text.count("No space left") <= 2, "once for each step that failed, not at each look"


def test_a_withdrawal_that_fails_is_taken_up_by_the_next_server_and_is_one(folder, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    rename, tries = rollback._rename, []

    def locked(*arguments):
        tries.append(arguments)
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(rollback, "_rename", locked)
    with server(folder) as serving, load(serving.address) as answers:
        folder.push("mixed", 2)
        wait_until(lambda: len(tries) > 3)
        folder.push("same", 3)
    assert versions(answers[-20:]).keys() == {1} and len(notes(folder, "2")) == 1
    assert folder.states() == {1: "served", 2: "withdrawn", 3: "waiting"}
    assert "canary: agreement 0." in folder.reason(2)
    with server(folder) as serving, asking(serving) as ask:
        assert {ask(f"{number}") for number in range(20)} == {1}
        monkeypatch.setattr(rollback, "_rename", rename)
        wait_until(lambda: folder.states() == {1: "served", 2: "withdrawn", 3: "canary"})
    assert len(notes(folder, "withdrawn-2")) == 1 and state_of(folder, "withdrawn-2") == "withdrawn"
    assert caplog.text.count("version 2 is the canary") == 1
    rollback.withdraw(folder.path, 3, 1, "enough")
    (folder.path / "withdrawn-2").rename(folder.path / "2")
    assert folder.states() == {1: "served", 2: "canary", 3: "withdrawn"}, "who puts it back has it tried anew"


def test_what_a_killed_server_had_counted_is_judged_before_a_request_goes_there(folder):
    (folder.path / "1" / "canary.json").write_text('{"state": "promoted"}')
    folder.push("same", 2)
    counts = Counts(requests=40, errors=Counter(INTERNAL=40)).as_dict()
    looks = {kind: {"made": 1, "next": 1000} for kind in ("to_withdraw", "to_promote")}
    left = {"state": "judging", "began": "2026-11-28T11:00:00+00:00", "against": 1, "counts": counts, "looks": looks}
    (folder.path / "2" / "canary.json").write_text(json.dumps(left))
    with server(folder) as serving, asking(serving) as ask:
        assert {ask(f"{number}") for number in range(20)} == {1}
        wait_until(lambda: folder.states() == {1: "served", 2: "withdrawn"})
    assert "canary: errors 1.000" in folder.reason(2)


def test_a_canary_has_threads_of_its_own(trying):
    folder, serving = trying

    def threads():
        return {thread for thread in threading.enumerate() if thread.name.startswith("request-canary")}

    with load(serving.address) as answers:
        folder.push("same", 2)
        wait_until(lambda: versions(answers)[2])
        own = threads()
        rollback.withdraw(folder.path, 2, 1, "it hangs")
        folder.push("alike", 3)
        wait_until(lambda: versions(answers)[3])
        assert own and not own & threads()


def test_a_trial_that_ends_while_a_request_is_read_leaves_it_the_threads_of_its_version(trying, monkeypatch):
    folder, serving = trying
    folder.push("same", 2)
    wait_until(lambda: serving._canary.trial.canary == 2)
    bodies, read, ended = serving._service.bodies, threading.Event(), threading.Event()
    decode = bodies.decode

    async def slowly(*arguments):
        read.set()
        assert await asyncio.to_thread(ended.wait, 60)
        return await decode(*arguments)

    monkeypatch.setattr(bodies, "decode", slowly)
    address = f"{serving.rest_address}/v1/models/mood/versions/2:predict"
    body = {"signature_name": "text", "instances": ["a good day"]}
    with ThreadPoolExecutor(1) as pool, Client(serving.address, "mood") as client:
        answer = pool.submit(httpx.post, address, json=body, trust_env=False, timeout=60)
        assert read.wait(60)
        rollback.withdraw(folder.path, 2, 1, "by hand")
        wait_until(lambda: serving._canary.trial.canary is None)
        client.predict(["the service learns of the end with the next request"])
        ended.set()
        assert answer.result().status_code == 200, answer.result().text


# === What is no fault of the canary ===


class Loaded:
    """Models of which some versions answer."""

    def __init__(self, *versions):
        self._versions = versions

    def loaded(self, _):
        return self._versions

    @contextmanager
    def acquire(self, spec):
        version = spec.version.value if spec.HasField("version") else self._versions[-1]
        assert version in self._versions
        yield SimpleNamespace(model="mood", version=version)


def tried(plan, *versions):
    """A canary, version 2 beside version 1, of which these versions are loaded."""
    made = Canary(Loaded(*versions), "mood", plan, Metrics().canaries)
    made.trial = Trial(1, 2)
    return made


def taking(**seconds):
    """Runs that take so long: `stable`, `canary`."""

    async def run(servable, said, entry):
        await asyncio.sleep(seconds["canary" if servable.version == 2 else "stable"])

    return run


def answers_of(canary, runs, version=2, **options):
    servable = SimpleNamespace(model="mood", version=version)

    async def answer():
        answers = await asyncio.gather(*(canary.answer(run, run, servable, None, 1, **options) for run in runs))
        await asyncio.gather(*canary._tasks)
        return [used.version for _, used in answers]

    return asyncio.run(answer())


def test_timeouts_at_the_same_time_count_once():
    canary = tried(replace(PLAN, patience=0.3), 1, 2)
    run = taking(canary=60, stable=0)
    assert answers_of(canary, [run] * 5) == [1] * 5
    assert canary.trial.counts.errors == {"DEADLINE_EXCEEDED": 1} and canary.trial.counts.requests == 1
    answers_of(canary, [run])
    assert canary.trial.counts.errors == {"DEADLINE_EXCEEDED": 2}


def test_a_timeout_counts_for_nothing_where_the_stable_version_is_as_slow():
    canary = tried(replace(PLAN, patience=0.05), 1, 2)
    assert answers_of(canary, [taking(canary=60, stable=0.06)]) == [1]
    assert not canary.trial.counts.errors and not canary.trial.counts.requests


def test_the_newest_version_answers_where_the_stable_one_has_just_gone():
    async def run(servable, said, entry):
        if servable.version == 2:
            raise invalid("not at version 2")

    assert answers_of(tried(PLAN, 2, 3), [run]) == [3]


@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_a_full_server_is_no_error_of_the_canary(code):
    async def full(servable, said, entry):
        if servable.version == 2:
            raise Overloaded(code, "no room")

    canary = tried(PLAN, 1, 2)
    assert answers_of(canary, [full]) == [1]
    assert not canary.trial.counts.errors and not canary.trial.counts.requests


def test_a_caller_in_a_hurry_gets_the_stable_versions_answer_in_time_and_that_is_no_error():
    canary = tried(PLAN, 1, 2)
    assert answers_of(canary, [taking(canary=60, stable=0)], seconds=0.2) == [1]
    counts = canary.trial.counts
    assert not counts.errors and counts.requests == counts.canary.total() == 1 and counts.canary.quantile(1) < 0.2
    counts.stable.add(0.5)
    assert answers_of(canary, [taking(canary=60, stable=0)], seconds=0.2) == [1]
    assert counts.requests == 1, "who waits no longer than the stable version takes is never sent to the canary"


def test_a_request_on_its_way_to_a_canary_that_is_withdrawn_meets_the_stable_version():
    canary = tried(PLAN, 1, 2)
    canary.trial = Trial(1)
    assert answers_of(canary, [taking(canary=60, stable=0)]) == [1]


def test_a_full_server_is_no_error_of_a_shadow():
    async def beside(servable, said, entry):
        if servable.version == 2:
            raise Overloaded(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room")

    canary = tried(replace(PLAN, shadow=True), 1, 2)
    answers_of(canary, [beside], version=1)
    assert not canary.trial.counts.errors and not canary.trial.counts.requests

    async def broken(servable, said, entry):
        if servable.version == 2:
            raise RequestError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the graph's own")

    answers_of(canary, [broken], version=1)
    assert canary.trial.counts.errors == {"RESOURCE_EXHAUSTED": 1}


def test_a_request_is_not_kept_for_its_key():
    canary, spec = tried(replace(PLAN, share=0.5), 1, 2), ModelSpec(name="mood")
    assert len(canary.key(None, bytes(100_000))) == 16
    assert canary.key("ann", b"") == b"ann"
    keys = [canary.key(None, bytes([number])) for number in range(100)]
    met = Counter(canary.acquire(spec, key).__enter__().version for key in keys)
    assert 30 < met[2] < 70


# === Who meets it ===


@contextmanager
def asking(serving):
    """(text, session, version or label) -> the version that answers."""
    with grpc.insecure_channel(serving.address) as channel:
        stub = PredictionServiceStub(channel)

        def ask(text, session=None, **spec):
            request = PredictRequest(model_spec={"name": "mood", "signature_name": "text"} | spec)
            request.inputs["text"].CopyFrom(tf.make_tensor_proto([text]))
            metadata = [("x-session-id", session)] if session else None
            return stub.Predict(request, metadata=metadata).model_spec.version.value

        yield ask


def test_a_caller_stays_on_one_version_and_each_canary_gets_other_callers(trying):
    folder, serving = trying
    met = []
    with asking(serving) as ask:
        for version, name in ((2, "same"), (3, "alike")):
            folder.push(name, version)
            wait_until(lambda version=version: folder.is_tried(version))
            callers = {name: ask("x", f"caller {name}") for name in range(40)}
            assert set(callers.values()) == {1, version}
            assert {name: ask(f"text {name}", f"caller {name}") for name in callers} == callers
            met.append([name for name, by in callers.items() if by == version])
            rollback.withdraw(folder.path, version, 1, "enough")
    assert met[0] != met[1]


def test_without_a_key_the_same_request_meets_the_same_version(trying):
    folder, serving = trying
    folder.push("same", 2)
    wait_until(lambda: folder.is_tried(2))
    with asking(serving) as ask:
        first = [ask(f"text {number}") for number in range(30)]
        assert set(first) == {1, 2}
        assert [ask(f"text {number}") for number in range(30)] == first


def test_versions_and_labels_go_where_they_say(trying):
    folder, serving = trying
    with asking(serving) as ask, Client(serving.address, "mood") as client:
        with pytest.raises(ServingError, match=r"Unrecognized servable version label: canary.*labels stable"):
            client.predict(["x"], version_label="canary")
        folder.push("same", 2)
        wait_until(lambda: folder.is_tried(2))
        for number in range(10):
            assert ask(f"{number}", version_label="stable") == ask(f"{number}", version={"value": 1}) == 1
            assert ask(f"{number}", version_label="canary") == ask(f"{number}", version={"value": 2}) == 2
        assert client.metadata()[0] == 1
    assert serving._canary.trial.counts.requests == 0


def test_rest_goes_by_the_same_header_and_labels(trying):
    folder, serving = trying
    folder.push("failing", 2)
    wait_until(lambda: folder.is_tried(2))
    with httpx.Client(trust_env=False) as http:
        model = f"{serving.rest_address}/v1/models/mood"
        body = {"signature_name": "text", "instances": ["a good day"]}
        refused = http.post(f"{model}/labels/canary:predict", json=body)
        assert refused.status_code == 400 and "no text suits this model" in refused.json()["error"]
        for number in range(15):
            answer = http.post(f"{model}:predict", json=body, headers={"X-Session-ID": f"caller {number}"})
            assert answer.json()["predictions"][0]["label"] == "positive"
        assert http.post(f"{model}/labels/stable:predict", json=body).status_code == 200
    assert set(serving._canary.trial.counts.errors) == {"INVALID_ARGUMENT"}


def test_over_rest_no_request_fails_by_a_canary_that_cannot_read_it(trying):
    folder, serving = trying
    folder.push("textless", 2)
    wait_until(lambda: folder.is_tried(2))
    with httpx.Client(trust_env=False) as http:

        def post(number, text):
            body = {"signature_name": "text", "instances": [text]}
            headers = {"X-Session-ID": f"caller {number}"}
            return http.post(f"{serving.rest_address}/v1/models/mood:predict", json=body, headers=headers)

        for number in range(15):
            assert post(number, "a good day").json()["predictions"][0]["label"] == "positive"
            refused = post(number, 1)  # by both
            assert refused.status_code == 400 and "version 1, signature text" in refused.json()["error"]
    counts = serving._canary.trial.counts
    assert set(counts.errors) == {"INVALID_ARGUMENT"} and 1 <= counts.errors["INVALID_ARGUMENT"] <= 14
    assert counts.requests == counts.errors["INVALID_ARGUMENT"]


def test_over_rest_each_version_reads_a_request_and_writes_its_answer_by_its_own_signatures(trying, monkeypatch):
    """Version 2 reads whole numbers where version 1 reads fractions, and its texts' answers make no rows."""
    folder, serving = trying
    number = {"signature_name": "add", "inputs": {"x": [[1, 2]], "n": 3}}
    text = {"signature_name": "text", "instances": ["a good day"]}
    with httpx.Client(trust_env=False) as http:

        def post(body, caller):
            url = f"{serving.rest_address}/v1/models/mood:predict"
            return http.post(url, json=body, headers={"X-Session-ID": f"caller {caller}"}).json()

        folder.push("typed", 2)
        wait_until(lambda: folder.is_tried(2))
        sums = [post(number, caller)["outputs"] for caller in range(12)]
        assert sums == [{"sum": [[4.0, 5.0]], "count": 3}] * 12
        failed = serving._canary.trial.counts.errors.total()
        labels = [post(text, caller)["predictions"][0]["label"] for caller in range(12)]
        assert labels == ["positive"] * 12
        errors = serving._canary.trial.counts.errors
        assert errors.keys() == {"INVALID_ARGUMENT"} and 0 < failed < errors["INVALID_ARGUMENT"]
        rollback.withdraw(folder.path, 2, 1, "enough")
        monkeypatch.setattr(serving._canary, "plan", replace(NEVER, shadow=True))
        folder.push("whole", 3)
        wait_until(lambda: folder.is_tried(3))
        for caller in range(6):
            assert post(number, caller)["outputs"]["sum"] == [[4.0, 5.0]]
        wait_until(lambda: serving._canary.trial.counts.requests == 6)
    assert not serving._canary.trial.counts.errors


def state_of(folder, name):
    return json.loads((folder.path / name / "canary.json").read_text())["state"]


def counted(folder, version):
    return json.loads((folder.path / str(version) / "canary.json").read_text())["counts"]


# === Order, restarts, other hands ===


def test_a_server_ends_whole_where_the_counts_cannot_be_saved(folder, tmp_path, monkeypatch, caplog):
    looking, seen = threading.Event(), threading.Event()

    def measure(*_):
        seen.set()
        looking.wait()  # as a look that loads a version
        return Labelled(0, 0), Labelled(0, 0)

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bertline.serving.canary_watch.STOP_SECONDS", 0.1)
    kept = RecordOptions(tmp_path / "records")
    with server(folder, NEVER, measure=measure, records=kept) as serving:
        with load(serving.address) as answers:
            folder.push("same", 2)
            wait_until(seen.is_set)
        monkeypatch.setattr(standing, "write", full_disk)
    looking.set()
    assert "No space left on device" in caplog.text
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "records").num_rows == len(answers)
    FileLock(folder.path / ".canary.lock").acquire(timeout=0)


def test_a_restart_goes_on_with_what_was_counted(folder):
    with server(folder, NEVER) as serving, load(serving.address) as answers:
        folder.push("same", 2)
        wait_until(lambda: versions(answers)[2] >= 60)
    before = counted(folder, 2)
    assert before["requests"] >= 60 and before["texts"] and before["seconds"] > 0
    plan = replace(PLAN, minimum_requests=before["requests"] + 50)
    with server(folder, plan) as serving, load(serving.address) as answers:
        wait_until(lambda: folder.states().get(2) == "served")
    assert counted(folder, 2)["requests"] >= before["requests"] + 50
    assert counted(folder, 2)["seconds"] > before["seconds"]


def test_a_second_push_waits_for_its_turn(folder, caplog):
    caplog.set_level(logging.INFO)
    with server(folder) as serving:
        folder.push("same", 2)
        wait_until(lambda: folder.is_tried(2))
        folder.push("mixed", 3)
        wait_until(lambda: "version 3 waits until version 2 is decided on" in caplog.text)
        assert folder.states() == {1: "served", 2: "canary", 3: "waiting"}
        with load(serving.address) as answers:
            wait_until(lambda: folder.states() == {1: "kept", 2: "served", 3: "withdrawn"})
        assert {1, 2} <= versions(answers).keys()


def test_a_rollback_by_hand_ends_a_trial_and_undo_begins_it_anew(folder, monkeypatch):
    monkeypatch.setattr("bertline.serving.canary_watch.SAVE_SECONDS", 0)
    with server(folder, NEVER) as serving, load(serving.address) as answers:
        folder.push("same", 2)
        wait_until(lambda: folder.is_tried(2) and counted(folder, 2)["requests"] >= 30)
        rollback.roll_back(folder.path, reason="a hunch")
        wait_until(lambda: len(answers) > 0 and versions(answers[-20:]).keys() == {1})
        known = len(answers)
        rollback.undo(folder.path)
        wait_until(lambda: 2 in versions(answers[-20:]))
        assert folder.states() == {1: "served", 2: "canary"}
    assert 0 < counted(folder, 2)["requests"] <= versions(answers[known:])[2]


def test_after_a_rollback_of_the_served_version_the_one_before_is_stable_and_no_canary(folder):
    for version in (2, 3):
        folder.push("same", version)
    (folder.path / "3" / "canary.json").write_text('{"state": "promoted"}')
    assert folder.states() == {1: "kept", 2: "kept", 3: "served"}
    rollback.roll_back(folder.path, reason="angry customers")
    assert folder.states() == {1: "kept", 2: "served", 3: "withdrawn"}
    rollback.undo(folder.path)
    assert standing.of(folder.path) == standing.Standing(3, older=(2, 1))
    (folder.path / "2" / "canary.json").write_text('{"state": "judging"}')  # left by a server that was killed
    assert standing.of(folder.path).stable == 3


def test_the_newest_of_those_that_wait_is_next(folder):
    (folder.path / "1" / "canary.json").write_text('{"state": "promoted"}')
    for version in (2, 3, 4):
        folder.push("same", version)
    assert folder.states() == {1: "served", 2: "waiting", 3: "waiting", 4: "canary"}
    (folder.path / "2" / "canary.json").write_text('{"state": "judging"}')
    assert folder.states() == {1: "served", 2: "canary", 3: "waiting", 4: "waiting"}
    (folder.path / "3" / "canary.json").write_text('{"state": "promoted"}')
    assert folder.states() == {1: "kept", 2: "kept", 3: "served", 4: "canary"}


def test_what_was_served_before_the_switch_stays_served(folder):
    folder.push("same", 2)
    with server(folder, NEVER) as serving, asking(serving) as ask:
        assert {ask(f"{number}") for number in range(20)} == {2}
    assert folder.states() == {1: "kept", 2: "served"}
    assert folder.reason(2) == "the newest version when serve.canary was switched on"


def test_a_version_that_does_not_load_is_no_canary_until_it_does(folder):
    with server(folder, NEVER) as serving, load(serving.address) as answers:
        (folder.path / "3").mkdir()
        (folder.path / "3" / "release.json").write_text("{}")
        (folder.path / "3" / "saved_model.pb").write_text("no graph")
        with Client(serving.address, "mood") as client:
            wait_until(lambda: any(each.state == "END" for each in client.status()))
        known = len(answers)
        wait_until(lambda: len(answers) > known + 30)
        assert versions(answers).keys() == {1}


def test_pruning_spares_the_version_that_answers(folder, models):
    (folder.path / "1" / "canary.json").write_text('{"state": "promoted"}')
    for version in (2, 3, 4):
        push.publish(
            models["same"], folder.path, {"inputs": f"{version}"}, keep_versions=2, now=lambda version=version: version
        )
    assert releases.versions(folder.path) == [1, 3, 4]


# === What is refused ===


def test_a_second_server_does_not_decide_too(trying):
    with pytest.raises(UserError, match="another server decides on its canaries"):
        server(trying[0]).start()


def test_a_folder_that_cannot_be_written_and_several_models_are_refused(folder, tmp_path, monkeypatch):
    with FileLock(folder.path / ".canary.lock"), pytest.raises(UserError, match="another server decides"):
        server(folder).start()
    config = one_model("mood", folder.path)
    config.model_config_list.config.add(name="other", base_path=str(folder.path))
    several = Server(replace(server(folder).options, models=config))
    with pytest.raises(UserError, match=r"leave out --model_config_file, or serve\.canary"), several:
        pass
    monkeypatch.setattr("os.access", lambda *_: False)
    with (
        pytest.raises(UserError, match=r"cannot be written: serve\.canary keeps there what it decides"),
        server(folder),
    ):
        pass


def test_clients_cannot_choose_the_versions(trying):
    folder, serving = trying
    reload = ReloadConfigRequest(config=one_model("m", folder.path))
    with (
        grpc.insecure_channel(serving.address) as channel,
        pytest.raises(grpc.RpcError, match=r"this server decides by serve\.canary which versions it serves"),
    ):
        ModelServiceStub(channel).HandleReloadConfigRequest(reload)


def test_a_damaged_record_is_named(folder):
    (folder.path / "1" / "canary.json").write_text("{")
    with pytest.raises(UserError, match=r"1/canary.json: not a canary's record .*delete it"), server(folder):
        pass
