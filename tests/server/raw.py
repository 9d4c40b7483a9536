"""Requests as bytes on a socket."""

from __future__ import annotations

import contextlib
import socket
import threading

from .conftest import Running


def raw(running: Running, data: bytes, seconds: float = 60) -> bytes:
    """All that comes back until the server closes, or nothing has come for some seconds."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=seconds) as connection:

        def send() -> None:
            with contextlib.suppress(OSError):  # the server has seen enough
                connection.sendall(data)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except OSError:
            pass
        return received
