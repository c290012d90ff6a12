import asyncio
import hashlib
import os
import stat
import time
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from unprivileged import NOBODY, unprivileged

from bertline.errors import UserError
from bertline.serving import access
from bertline.serving.access import Access, AccessInterceptor, key_of
from bertline.serving.errors import RequestError
from bertline.serving.keys import add_key, read_keys, remove_key
from bertline.serving.protos import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelServiceServicer,
    ModelServiceStub,
    add_ModelServiceServicer_to_server,
)

UNAUTHENTICATED, RESOURCE_EXHAUSTED = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.yaml"


def refusal(keys: Access, key: str | None, **options) -> RequestError:
    with pytest.raises(RequestError) as caught:
        keys.check(key, **options)
    return caught.value


@contextmanager
def reachable(folder):
    """For the length of a block, everybody may look into a folder of pytest's."""
    closed = [(parent, parent.stat().st_mode) for parent in (folder, *folder.parents) if not parent.stat().st_mode & 1]
    for parent, mode in closed:
        parent.chmod(mode | 0o055)
    try:
        yield
    finally:
        for parent, mode in closed:
            parent.chmod(mode)


def refused(*args, **kwargs):
    raise PermissionError(1, "Operation not permitted")


def names(folder):
    return {path.name for path in folder.iterdir()}


# === Key file ===


def test_a_key_is_kept_as_its_hash_alone(file):
    key = add_key(file, "mobile-app", per_second=5, per_minute=60, days=30)
    assert key.startswith("bertline_") and len(key) == len("bertline_") + 43  # 256 bits in base 64
    text = file.read_text()
    assert key not in text and key.removeprefix("bertline_") not in text
    (kept,) = read_keys(file)
    assert kept.name == "mobile-app" and (kept.per_second, kept.per_minute) == (5, 60)
    assert kept.sha256 == hashlib.sha256(key.encode()).hexdigest()
    assert kept.expires - kept.created == timedelta(days=30)


def test_only_the_owner_can_read_a_new_file(file):
    add_key(file, "a")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_rewrite_keeps_the_mode(file):
    file.write_text("keys: []\n")
    file.chmod(0o640)
    add_key(file, "a")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_a_rewrite_by_root_keeps_the_owner_who_can_rewrite_it_too(file):
    file.write_text("keys: []\n")
    file.chmod(0o644)
    owner = NOBODY if os.geteuid() == 0 else os.geteuid()  # only root can rewrite another user's file
    for path in (file, file.parent):
        os.chown(path, owner, os.getegid())
    key = add_key(file, "a")
    add_key(file, "b")
    remove_key(file, "b")
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (owner, 0o644)
    with reachable(file.parent), unprivileged():
        assert Access.read(file).check(key) == "a"
        remove_key(file, "a")
    assert read_keys(file) == [] and names(file.parent) == {"keys.yaml", "keys.yaml.lock"}


def test_another_users_file_is_not_taken_away_from_its_server(file, monkeypatch):
    add_key(file, "a")
    file.chmod(0o644)
    (file.parent / "keys.yaml.lock").unlink()
    file.parent.chmod(0o777)
    before = file.read_bytes()
    if os.geteuid() != 0:  # the file is one's own then, so the test refuses in the system's place
        monkeypatch.setattr(os, "chown", refused)
    owner = f"belongs to user {file.stat().st_uid}, group {file.stat().st_gid}"
    with reachable(file.parent), unprivileged(), pytest.raises(UserError, match=owner):
        remove_key(file, "a")
    assert file.read_bytes() == before and names(file.parent) <= {"keys.yaml", "keys.yaml.lock"}


def test_roles(file):
    keys = {role: add_key(file, role, role=role) for role in ("predict", "admin")}
    checked = Access.read(file)
    assert checked.check(keys["admin"]) == checked.check(keys["admin"], role="admin") == "admin"
    assert checked.check(keys["predict"]) == "predict"
    error = refusal(checked, keys["predict"], role="admin")
    assert error.code == grpc.StatusCode.PERMISSION_DENIED
    assert "API key predict has the role predict, and this method takes admin" in str(error)


def test_a_file_of_before_there_were_roles_holds_keys_that_predict(file):
    file.write_text(f"keys: [{ENTRY}]")
    assert [key.role for key in read_keys(file)] == ["predict"]
    add_key(file, "b")
    assert "role" not in file.read_text(), "an older server would refuse the file"


def test_a_link_to_the_file_stays_a_link(file, tmp_path):
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    add_key(link, "a")
    assert link.is_symlink() and [key.name for key in read_keys(file)] == ["a"]


def test_a_name_is_taken_once_and_removed_once(file):
    add_key(file, "a")
    add_key(file, "b")
    with pytest.raises(UserError, match="has a key named a; remove it first"):
        add_key(file, "a")
    remove_key(file, "a")
    with pytest.raises(UserError, match="no key named a; it has: b"):
        remove_key(file, "a")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "two words"}, "name 'two words'"),
        ({"name": "a", "per_minute": 0}, "per_minute 0: Input should be greater than 0"),
        ({"name": "a", "days": 0}, "days is 0: it must be at least 1"),
    ],
)
def test_values_out_of_range(file, values, words):
    with pytest.raises(UserError, match=words):
        add_key(file, **values)
    assert not file.exists()


HASH = "0" * 64
ENTRY = f"{{name: a, sha256: '{HASH}', created: 2026-01-01T00:00:00Z}}"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file: Input should be a valid dictionary"),
        ("keys: [", "not YAML, line 1"),
        ("keys: [{name: a}]", "keys.0.sha256: Field required"),
        (f"keys: [{ENTRY}, {ENTRY}]", "two keys have the name a"),
        (f"keys: [{ENTRY}]\nkey: []", "key: Extra inputs are not permitted"),
        (f"keys: [{{name: a, sha256: '{HASH}', created: 2026-01-01}}]", "keys.0.created"),
        (f"keys: [{{name: a, sha256: '{HASH}', created: 2026-13-01T00:00:00Z}}]", "a date or number that cannot be"),
        (f"keys: [{{name: a, sha256: {'9' * 5000}}}]", "a date or number that cannot be"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(file, text, words):
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        Access.read(file)
    assert str(file) in str(caught.value) and words in str(caught.value)


def test_a_key_put_in_by_mistake_is_not_repeated(file):
    file.write_text("keys: [name: a, key: bertline_secret")
    with pytest.raises(UserError) as caught:
        Access.read(file)
    assert "secret" not in str(caught.value)


def test_json_is_read_too(file):
    file.write_text(f'{{"keys": [{{"name": "a", "sha256": "{HASH}", "created": "2026-01-01T00:00:00Z"}}]}}')
    assert [key.name for key in read_keys(file)] == ["a"]


# === Checks ===


def test_the_key_says_who_calls(file):
    keys = {name: add_key(file, name) for name in ("first", "second", "third")}
    checked = Access.read(file)
    assert [checked.check(key) for key in keys.values()] == ["first", "second", "third"]


@pytest.mark.parametrize("key", [None, "", "wrong", "ключ", HASH])
def test_without_a_key_or_with_a_wrong_one(file, key):
    add_key(file, "a")
    assert refusal(Access.read(file), key).code == UNAUTHENTICATED


def test_the_hash_in_the_file_is_no_key(file):
    add_key(file, "a")
    assert refusal(Access.read(file), read_keys(file)[0].sha256).code == UNAUTHENTICATED


def test_an_expired_key_is_named(file):
    key = add_key(file, "a", days=2)
    keys, now = Access.read(file), datetime.now(UTC)
    assert keys.check(key, now=now + timedelta(days=1)) == "a"
    error = refusal(keys, key, now=now + timedelta(days=3))
    assert error.code == UNAUTHENTICATED and "API key a expired at" in str(error)


def test_every_entry_is_compared_in_constant_time(file, monkeypatch):
    keys = [add_key(file, name) for name in ("first", "second", "third")]
    compared, compare = [], access.hmac.compare_digest
    monkeypatch.setattr(access.hmac, "compare_digest", lambda a, b: compared.append(a) or compare(a, b))
    hashes = [key.sha256 for key in read_keys(file)]
    checked = Access.read(file)
    assert checked.check(keys[0]) == "first"
    assert refusal(checked, "wrong").code == UNAUTHENTICATED
    assert compared == hashes + hashes


def test_a_rate_is_each_keys_own_and_says_how_long_to_wait(file):
    key, other = add_key(file, "a", per_minute=3), add_key(file, "b")
    keys = Access.read(file)
    for _ in range(3):
        keys.check(key)
    error = refusal(keys, key)
    assert error.code == RESOURCE_EXHAUSTED
    assert str(error) in {f"API key a is over its rate of 3 per 1 minute; try again in {wait} s" for wait in (59, 60)}
    assert keys.check(other) == "b"


def test_what_the_second_refuses_does_not_count_for_the_minute(file):
    key = add_key(file, "a", per_second=1, per_minute=2)
    keys = Access.read(file)
    keys.check(key)
    for _ in range(5):
        assert "1 per 1 second" in str(refusal(keys, key))
    time.sleep(1.05)
    assert keys.check(key) == "a"


def test_a_change_of_the_file_counts_at_once(file):
    old = add_key(file, "old")
    keys = Access.read(file)
    new = add_key(file, "new")
    assert keys.check(new) == "new"
    remove_key(file, "old")
    assert str(refusal(keys, old)) == "unknown API key"


def test_a_file_that_cannot_be_read_closes_the_door_and_is_logged_once(file, caplog):
    key, faults = add_key(file, "a", per_minute=100), []
    good = file.read_text()
    keys = Access.read(file, lambda: faults.append(1))
    file.write_text("keys: [")
    for _ in range(3):
        error = refusal(keys, key)
        assert error.code == UNAUTHENTICATED and "cannot read its file of API keys" in str(error)
    assert not keys.is_open() and len(faults) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{file}: not YAML, line 1; until it can be read, every call is refused"
    ]
    file.unlink()
    assert not keys.is_open() and "No such file" in caplog.records[-1].getMessage()
    file.write_text(good)
    assert keys.is_open() and keys.check(key) == "a" and len(faults) == 1


def test_a_file_that_another_user_may_no_longer_read_closes_the_door_until_it_may(file):
    key = add_key(file, "a")
    file.chmod(0o644)
    with reachable(file.parent):
        with unprivileged():
            keys = Access.read(file)
            assert keys.check(key) == "a"
        file.chmod(0)  # not even its owner may read it
        with unprivileged():
            assert refusal(keys, key).code == UNAUTHENTICATED
        file.chmod(0o644)
        with unprivileged():
            assert keys.check(key) == "a"


def test_a_folder_that_opens_again_opens_the_door(file, monkeypatch):
    """The file itself has not changed then, so only a further try can tell."""
    monkeypatch.setattr(access, "RETRY_SECONDS", 0.0)
    key = add_key(file, "a")
    file.chmod(0o644)
    with reachable(file.parent):
        keys = Access.read(file)
        file.parent.chmod(0)
        with unprivileged():
            assert refusal(keys, key).code == UNAUTHENTICATED
        file.parent.chmod(0o755)
        with unprivileged():
            assert keys.check(key) == "a"


def test_yaml_nested_too_deep_is_told(file):
    file.write_text("[" * 20_000)
    with pytest.raises(UserError, match="nested too deep"):
        read_keys(file)


# === Headers ===


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Bearer abc"}, "abc"),
        ({"authorization": "bearer  abc "}, "abc"),
        ({"x-api-key": "abc"}, "abc"),
        ({"authorization": "Basic dTpw", "x-api-key": "abc"}, "abc"),
        ({"authorization": "Bearer ", "x-api-key": ""}, None),
        ({"authorization": "abc"}, None),
        ({}, None),
    ],
)
def test_where_a_key_is_found(headers, key):
    assert key_of(headers) == key


# === A real server ===


class Statuses(ModelServiceServicer):
    async def GetModelStatus(self, request, context):
        return GetModelStatusResponse(model_version_status=[{"version": 7}])


@asynccontextmanager
async def channel(file):
    server = grpc.aio.server(interceptors=[AccessInterceptor(Access.read(file))])
    add_ModelServiceServicer_to_server(Statuses(), server)
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
            yield opened
    finally:
        await server.stop(None)


async def status(opened, **metadata):
    call = ModelServiceStub(opened).GetModelStatus
    answer = await call(GetModelStatusRequest(), metadata=tuple(metadata.items()), timeout=10)
    return answer.model_version_status[0].version


async def services(opened, **metadata):
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    call = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo
    answers = call(iter([request]), metadata=tuple(metadata.items()), timeout=10)
    return [service.name async for answer in answers for service in answer.list_services_response.service]


async def code(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code()


def test_unary_calls_need_a_key(file):
    key = add_key(file, "a")

    async def calls():
        async with channel(file) as opened:
            assert await status(opened, authorization=f"Bearer {key}") == 7
            assert await status(opened, **{"x-api-key": key}) == 7
            assert await code(status(opened)) == UNAUTHENTICATED
            assert await code(status(opened, authorization="Bearer wrong")) == UNAUTHENTICATED

    asyncio.run(calls())


def test_streams_need_a_key(file):
    key = add_key(file, "a")

    async def calls():
        async with channel(file) as opened:
            assert reflection.SERVICE_NAME in await services(opened, authorization=f"Bearer {key}")
            assert await code(services(opened)) == UNAUTHENTICATED

    asyncio.run(calls())


def test_methods_that_are_not_there_are_told_with_a_key_alone(file):
    key = add_key(file, "a")

    async def calls():
        async with channel(file) as opened:
            call = opened.unary_unary("/no.Service/Method")
            assert await code(call(b"")) == UNAUTHENTICATED
            assert await code(call(b"", metadata=(("x-api-key", key),))) == grpc.StatusCode.UNIMPLEMENTED

    asyncio.run(calls())


def test_health_is_for_all(file):
    add_key(file, "a")

    async def calls():
        async with channel(file) as opened:
            answer = await health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING

    asyncio.run(calls())


def test_a_removed_key_stops_and_a_rate_holds_on_an_open_channel(file):
    key, limited = add_key(file, "a"), add_key(file, "b", per_minute=2)

    async def calls():
        async with channel(file) as opened:
            assert await status(opened, authorization=f"Bearer {key}") == 7
            remove_key(file, "a")
            assert await code(status(opened, authorization=f"Bearer {key}")) == UNAUTHENTICATED
            answers = await asyncio.gather(
                *(status(opened, authorization=f"Bearer {limited}") for _ in range(5)), return_exceptions=True
            )
            assert answers.count(7) == 2
            assert {answer.code() for answer in answers if answer != 7} == {RESOURCE_EXHAUSTED}

    asyncio.run(calls())
