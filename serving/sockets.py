"""Where servers listen."""

from __future__ import annotations

import socket

from bertline.errors import UserError

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
