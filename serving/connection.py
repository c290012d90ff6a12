"""How a client reaches a server: channel, retries, TLS and key, and in words what can go wrong."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc

# grpc's own balancing and retries, for both clients. ModelService has no retries: its callers want the present state.
SERVICE_CONFIG = {
    # Each failed try takes a token and each answer gives a tenth back. At half of them there are no more retries: a
    # server with too much to do is not asked five times for each call. Fifty failures are more than CONCURRENCY
    # requests meet while one server restarts.
    "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    "methodConfig": [
        {
            "name": [{"service": "tensorflow.serving.PredictionService"}],
            "retryPolicy": {
                "maxAttempts": 5,  # the most that grpc allows; 3 s in all, in which a full queue empties
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}
# Every address of a name gets its share. grpc's default would send all requests to the first that answers.
BALANCED, UNBALANCED = [{"round_robin": {}}], [{"pick_first": {}}]
CHANNEL_OPTIONS = [
    ("grpc.per_rpc_retry_buffer_size", 2**31 - 1),  # grpc does not try a request of more than 256 KiB again otherwise
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),  # grpc's own second makes a fresh server look slow
    ("grpc.max_reconnect_backoff_ms", 1000),
    # When a server is lost its name is looked up again, so that new pods are found. grpc's own 30 s between two looks
    # are longer than replacing all pods can take, and all retries of a request take 3 s.
    ("grpc.dns_min_time_between_resolutions_ms", 2000),
    ("grpc.enable_http_proxy", 0),  # a proxy for the web does not lead to a model server
]
# What grpc says when it never reached a server.
UNREACHED = ("connections to all backends failing", "failed to connect", "errors resolving", "DNS resolution failed")

Pem = bytes | str | os.PathLike


class Connection:
    """A server's address, and what it takes to reach it: TLS and key. Opens a channel of grpc or of grpc.aio.

    Args and errors are those of `bertline.serving.client.Client`.

    Attributes:
        address: the server's.
        headers: sent with each request; None where there is no key.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: bool | Pem = False,
        client_certificate: Pem | None = None,
        client_key: Pem | None = None,
        server_name: str | None = None,
        api_key: str | None = None,
        allow_insecure_key: bool = False,
        headers: Mapping[str, str] | None = None,
    ):
        if (client_certificate is None) != (client_key is None):
            raise ValueError("mutual TLS takes both client_certificate and client_key")
        if tls is False and (client_certificate is not None or server_name is not None):
            raise ValueError("client_certificate, client_key and server_name are for TLS: give tls= too")
        if api_key is not None and tls is False and not (allow_insecure_key or is_local(address)):
            raise ValueError(
                f"the API key would travel unencrypted to {address}: connect with TLS, or, where nobody can listen, "
                "accept that with allow_insecure_key=True"
            )
        self.address = address
        sent = [(name, _header_value(value, name)) for name, value in (headers or {}).items()]
        if api_key is not None:
            sent.append(("authorization", f"Bearer {_header_value(api_key, 'the API key')}"))
        self.headers = tuple(sent) or None
        self._credentials = None
        if tls is not False:
            roots = None if tls is True else _pem(tls)
            self._credentials = grpc.ssl_channel_credentials(roots, _pem(client_key), _pem(client_certificate))
        # localhost is one server under two addresses, of which it may answer at one only.
        balancing = UNBALANCED if _host(address) == "localhost" else BALANCED
        self._options = [
            *CHANNEL_OPTIONS,
            ("grpc.service_config", json.dumps(SERVICE_CONFIG | {"loadBalancingConfig": balancing})),
            *([("grpc.ssl_target_name_override", server_name)] if server_name else []),
        ]

    def open(self, transport: ModuleType) -> Any:
        """A channel of `transport`, grpc or grpc.aio."""
        if self._credentials is None:
            return transport.insecure_channel(self.address, self._options)
        return transport.secure_channel(self.address, self._credentials, self._options)

    def explain(self, code: grpc.StatusCode, details: str, seconds: float) -> str:
        """What a failed request's status means, and the way out; `seconds` is the time that the request had."""
        address = self.address
        if code == grpc.StatusCode.UNAVAILABLE and re.search("handshake|verification", details, re.IGNORECASE):
            return (
                f"no TLS connection to {address}: the files must be PEM, `tls` must hold the authority of the server's "
                f"certificate, `server_name` a name in it, and the client's key belong to its certificate ({details})"
            )
        if code == grpc.StatusCode.UNAVAILABLE and details.startswith(UNREACHED) and "Socket closed" in details:
            return (
                f"{address} hangs up before the first request: it may speak TLS (`tls`) or ask for the client's "
                f"certificate (`client_certificate`), or be no gRPC server ({details})"
            )
        if code == grpc.StatusCode.UNAVAILABLE and details.startswith(UNREACHED):
            return f"no model server answers at {address}: start it with `bertline serve` ({details})"
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return f"{address} gave no answer within {seconds:g} s: send fewer or shorter texts, or allow more time"
        if code == grpc.StatusCode.UNAUTHENTICATED:
            return f"{address} answered {code.name}: {details}; give a key that it knows: api_key, or BERTLINE_API_KEY"
        return f"{address} answered {code.name}: {details}"


def _pem(source: Pem | None) -> bytes | None:
    return source if source is None or isinstance(source, bytes) else Path(source).read_bytes()


def is_local(address: str) -> bool:
    """Whether a gRPC target can only be this machine: a Unix socket, "localhost", or loopback addresses."""
    if re.match(r"unix(-abstract)?:", address):
        return True
    hosts = re.sub(r"^(dns:|ipv4:|ipv6:)?/*", "", address).split(",")
    return all(_is_loopback(_host(host)) for host in hosts)


def _host(address: str) -> str:
    return re.sub(r":\d+$", "", address).strip("[]")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name: where it leads is not known here


def _header_value(value: str, name: str) -> str:
    if not value or not value.isascii() or not value.isprintable():
        raise ValueError(f"{name} must be printable ASCII; a line end that came with it from a file must go")
    return value
