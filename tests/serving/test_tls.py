import asyncio
import ipaddress
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bertline.errors import UserError
from bertline.serving import tls
from bertline.serving.configuration import SSLConfig, read_text_proto


class Party:
    """A key and a certificate, of a CA of its own or signed by another's."""

    def __init__(self, name: str, signed_by: "Party | None" = None, days: tuple[int, int] = (-1, 1)):
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        signer, now = signed_by or self, datetime.now(UTC)
        built = (
            x509.CertificateBuilder(signer._name, self._name, self._key.public_key(), x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=signed_by is None, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        )
        self.certificate = built.sign(signer._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def key(self, encryption=None) -> str:
        form = serialization.PrivateFormat.PKCS8
        hidden = encryption or serialization.NoEncryption()
        return self._key.private_bytes(serialization.Encoding.PEM, form, hidden).decode()


CA = Party("ca")
SERVER, CLIENT = Party("server", CA), Party("client", CA)
STRANGER = Party("stranger", Party("another ca"))


def config(server: Party = SERVER, **changes) -> SSLConfig:
    return SSLConfig(**{"server_key": server.key(), "server_cert": server.certificate, **changes})


MUTUAL = {"custom_ca": CA.certificate, "client_verify": True}


# === What cannot be used ===


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server_key": ""}, "server_key: holds no private key; give the text of the PEM file"),
        ({"server_key": "/etc/server.key"}, "server_key: holds no private key"),
        ({"server_cert": "/etc/server.crt"}, "server_cert: holds no certificate"),
        ({"server_cert": SERVER.certificate.replace("M", "%")}, "server_cert: not a certificate in PEM form"),
        ({"server_key": SERVER.certificate}, "server_key: not a private key in PEM form"),
        (
            {"server_key": SERVER.key(serialization.BestAvailableEncryption(b"secret"))},
            "server_key: encrypted",
        ),
        ({"server_key": CLIENT.key()}, "server_key: not the key of server_cert, CN=server"),
        ({"server_cert": CA.certificate + SERVER.certificate}, "server_key: not the key of server_cert, CN=ca"),
        ({"client_verify": True}, "custom_ca: empty, but client_verify needs"),
        ({"client_verify": True, "custom_ca": "ca.pem"}, "custom_ca: holds no certificate"),
        (
            {"client_verify": True, "custom_ca": Party("old ca", days=(-9, -2)).certificate},
            "custom_ca: the certificate CN=old ca expired on",
        ),
    ],
)
@pytest.mark.parametrize("use", [tls.grpc_credentials, tls.ssl_context])
def test_the_field_at_fault_is_named(use, changes, words):
    with pytest.raises(UserError) as caught:
        use(config(**changes))
    assert words in str(caught.value)


@pytest.mark.parametrize(("days", "words"), [((-9, -2), "expired on"), ((2, 9), "holds only from")])
def test_dates(days, words):
    with pytest.raises(UserError, match=f"server_cert: the certificate CN=server {words}"):
        tls.ssl_context(config(Party("server", CA, days)))


def test_no_message_repeats_the_key():
    broken = SERVER.key().replace("END", "END ")
    with pytest.raises(UserError) as caught:
        tls.grpc_credentials(config(server_key=broken))
    assert SERVER.key().splitlines()[1] not in str(caught.value)


def test_the_key_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError):  # it is there that the file is made
        tls.ssl_context(config())
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tls.ssl_context(config())
    assert list(tmp_path.iterdir()) == []


def test_a_chain_with_the_servers_certificate_first():
    tls.ssl_context(config(server_cert=SERVER.certificate + CA.certificate))


def test_an_old_authority_may_stay_beside_the_new():
    old = Party("old ca", days=(-9, -2)).certificate
    context = tls.ssl_context(config(client_verify=True, custom_ca=old + CA.certificate))
    assert context.verify_mode == ssl.CERT_REQUIRED and context.cert_store_stats()["x509_ca"] == 2


# === Real connections ===


def credentials(client: Party | None, authority: Party = CA) -> grpc.ChannelCredentials:
    pair = (client.key().encode(), client.certificate.encode()) if client else (None, None)
    return grpc.ssl_channel_credentials(authority.certificate.encode(), *pair)


async def grpc_answer(ssl_config: SSLConfig, credentials: grpc.ChannelCredentials | None):
    """Of a health check over a new channel: the status, or the code of the refusal."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_secure_port("127.0.0.1:0", tls.grpc_credentials(ssl_config))
    await server.start()
    address = f"127.0.0.1:{port}"
    opened = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    try:
        async with opened:
            check = health_pb2_grpc.HealthStub(opened).Check
            return (await check(health_pb2.HealthCheckRequest(), timeout=10)).status
    except grpc.aio.AioRpcError as error:
        return error.code()
    finally:
        await server.stop(None)


SERVING, UNAVAILABLE = health_pb2.HealthCheckResponse.SERVING, grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("changes", "credentials", "answer"),
    [
        ({}, credentials(None), SERVING),
        ({}, credentials(None, Party("another ca")), UNAVAILABLE),
        ({}, None, UNAVAILABLE),
        (MUTUAL, credentials(CLIENT), SERVING),
        (MUTUAL, credentials(None), UNAVAILABLE),
        (MUTUAL, credentials(STRANGER), UNAVAILABLE),
    ],
    ids=["tls", "server unknown to client", "plain text", "mutual", "no certificate", "another's certificate"],
)
def test_grpc(changes, credentials, answer):
    assert asyncio.run(grpc_answer(config(**changes), credentials)) == answer


async def rest_answer(ssl_config: SSLConfig, client: Party | None, folder: Path) -> str:
    context = tls.ssl_context(ssl_config)
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("hello"))])
    settings = uvicorn.Config(
        app, port=0, log_config=None, lifespan="off", ssl_context_factory=lambda config, default: context
    )
    server = uvicorn.Server(settings)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    trusting = ssl.create_default_context(cadata=CA.certificate)
    if client:
        file = folder / "client.pem"
        file.write_text(client.key() + client.certificate)
        trusting.load_cert_chain(file)
    try:
        async with httpx.AsyncClient(verify=trusting, trust_env=False) as http:
            return (await http.get(f"https://127.0.0.1:{port}/")).text
    finally:
        server.should_exit = True
        await serving


@pytest.mark.parametrize(("changes", "client"), [({}, None), (MUTUAL, CLIENT)], ids=["tls", "mutual"])
def test_rest(changes, client, tmp_path):
    assert asyncio.run(rest_answer(config(**changes), client, tmp_path)) == "hello"


@pytest.mark.parametrize("client", [None, STRANGER], ids=["no certificate", "another's certificate"])
def test_rest_refuses_a_client_it_does_not_know(client, tmp_path):
    with pytest.raises(httpx.HTTPError):
        asyncio.run(rest_answer(config(**MUTUAL), client, tmp_path))


def test_from_the_text_of_an_ssl_config_file(tmp_path):
    def quoted(text: str) -> str:
        return '"' + text.replace("\n", "\\n") + '"'

    file = tmp_path / "ssl.pbtxt"
    file.write_text(
        f"server_key: {quoted(SERVER.key())}\nserver_cert: {quoted(SERVER.certificate)}\n"
        f"custom_ca: {quoted(CA.certificate)}\nclient_verify: true\n"
    )
    read = read_text_proto(file, SSLConfig)
    assert asyncio.run(grpc_answer(read, credentials(CLIENT))) == SERVING
