"""Where servers listen."""

from __future__ import annotations

import socket

import grpc

from bertline.errors import UserError
from bertline.serving import tls
from bertline.serving.configuration import SSLConfig

BACKLOG = 512  # connections that wait to be accepted


def address_of(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 host in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        UserError: the address cannot be opened; the message names the way out.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        opened = socket.create_server((host, port), family=family, backlog=BACKLOG)
        # uvicorn writes head and body separately, and the body waited 40 ms for the head's acknowledgement.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return opened
    except (OSError, OverflowError) as error:
        message = f"cannot listen on {address_of(host, port)}: {error}; choose another port, or a free one with"
        raise UserError(f"{message} --port=-1 or --rest_api_port=-1") from error


def open_for_grpc(server: grpc.aio.Server, address: str, config: SSLConfig | None) -> int:
    """Opens HOST:PORT or unix:PATH for a gRPC server, with TLS where it is configured; returns the port's number.

    Raises:
        UserError: it cannot be opened, or the config cannot be used; the message names the reason.
    """
    try:
        if config:
            return server.add_secure_port(address, tls.grpc_credentials(config))
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise UserError(f"cannot listen on {address}: {_reason(address)}") from error


def _reason(address: str) -> str:
    """The reason why an address cannot be opened, which grpc does not tell."""
    if address.startswith("unix:"):
        return "the folder must exist and be writable, and the path at most 107 bytes long"
    host, _, port = address.rpartition(":")
    listening(host.strip("[]"), int(port)).close()
    return "it was taken until a moment ago; try again"
