"""What is read from a connection: the framing of requests, on its own and through the server."""

from __future__ import annotations

import json
import math
import random
import re
import socket
from typing import Any

import pytest

from nnsam3d.server.wire import length_of_body

from .conftest import Running, Start, received

GOOD = b"POST /claim HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (GOOD, 2),
        (GOOD.replace(b"Content-Length: 2", b"content-length:2"), 2),
        (GOOD.replace(b"Content-Length: 2", b"X: \xff"), 0),
        (GOOD.replace(b"Content-Length: 2", b"Transfer-Encoding: chunked"), math.inf),
    ],
)
def test_honest_heads(head: bytes, length: float) -> None:
    assert length_of_body(head) == length


MALFORMED = {
    "length and encoding": b"Content-Length: 2\r\nTransfer-Encoding: chunked",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3",
    "the same length twice": b"Content-Length: 2\r\ncontent-length: 2",
    "a list of lengths": b"Content-Length: 2, 2",
    "space before the colon": b"Content-Length : 2",
    "tab before the colon": b"Content-Length\t: 2",
    "a folded line": b"X: a\r\n b\r\nContent-Length: 2",
    "a line folded by a tab": b"Content-Length:\r\n\t2",
    "two hosts": b"Host: localhost\r\nContent-Length: 2",
    "two encodings": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    "a sign": b"Content-Length: +2",
    "hexadecimal": b"Content-Length: 0x2",
    "digits of another script": "Content-Length: \u0662".encode(),
    "nothing": b"Content-Length:",
    "a bare line feed": b"X: a\nContent-Length: 2",
    "a bare carriage return": b"X: a\rContent-Length: 2",
    "a null byte": b"X: \0\r\nContent-Length: 2",
    "an escape": b"X: \x1b[31m\r\nContent-Length: 2",
    "no colon": b"Content-Length 2",
    "no name": b": 2\r\nContent-Length: 2",
    "too many digits": b"Content-Length: " + b"9" * 400,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_heads_that_a_proxy_could_read_differently(running: Running, name: str) -> None:
    """A5: 400 and the end of the connection, so that what follows can never become a request."""
    head = GOOD.replace(b"Content-Length: 2", MALFORMED[name])
    assert isinstance(length_of_body(head), str)
    answer = running.raw(head + b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 2)
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"400"]
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["detail"]


@pytest.mark.parametrize(
    "line",
    [
        b"GET",
        b"GET /",
        b"GET / HTTP/9.9",
        b"get / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET http://evil/ HTTP/1.1",
        b"\x16\x03\x01",
    ],
)
def test_request_lines(running: Running, line: bytes) -> None:
    assert running.raw(line + b"\r\nHost: 127.0.0.1\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_heads_without_an_end(running: Running) -> None:
    assert running.raw(b"GET /" + b"x" * 2**17).startswith(b"HTTP/1.1 431")
    assert running.raw(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2**14).startswith(b"HTTP/1.1 431")


def test_heads_and_bodies_in_any_pieces(running: Running) -> None:
    """The answers do not depend on where the network cuts."""
    body = b'{"a": 1}'
    request = b"POST /claim HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    whole = request + b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    for step in (1, 2, 7, 50):
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(whole), step):
                connection.sendall(whole[start : start + step])
            answer = received(connection)
        assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200", b"200"]
        lease = json.loads(re.search(rb"{.*?}", answer)[0])["lease_token"]  # type: ignore[index]
        running.ask("POST", "/release", b"", lease)


ADDRESSES = (
    "/healthz",
    "/claim",
    "/api/claim",
    "/status",
    "/set_image",
    "/api/upload?name=x.nii",
    "/label/lesion/claim",
)
FIELDS = (
    b"Content-Length: 4", b"Content-Length: 100", b"Content-Length: -1", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip", b"Connection: close", b"Connection: keep-alive", b"Expect: 100-continue",
    b"Upgrade: websocket\r\nConnection: upgrade", b"Upgrade: h2c", b"X-Meta: {", b"X-Lease-Token: x", b"Origin: http://[",
    b"Range: bytes=5-1", b"Range: bytes=-", b"Accept-Encoding: gzip;q=x", b"If-None-Match: *", b"Cookie: \xe9",
    b"If-Modified-Since: yesterday", b"Content-Type: multipart/form-data; boundary=", b"Host: 127.0.0.1:x", b"Host:",
)  # fmt: skip


def random_request(rng: random.Random) -> bytes:
    method = rng.choice(("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "CONNECT", "PRI"))
    version = rng.choice(("HTTP/1.1",) * 8 + ("HTTP/1.0", "HTTP/2.0"))
    lines = [f"{method} {rng.choice(ADDRESSES)} {version}".encode(), b"Host: 127.0.0.1"]
    lines += [rng.choice(FIELDS) for _ in range(rng.randrange(4))]
    body = rng.choice((b"", b"{}", b"{}{}", b"4\r\n{}  \r\n0\r\n\r\n", b"\xff" * 100, b"GET / HTTP/1.1\r\n\r\n"))
    data = bytearray(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    for _ in range(rng.choice((0, 0, 1, 3))):
        place = rng.randrange(len(data))
        data[place : place + rng.randrange(3)] = rng.choice(
            (b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b"\0", b"\xff", b"/")
        )
    return bytes(data)


@pytest.mark.parametrize("count", [1_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_raw_requests(start: Start, monkeypatch: pytest.MonkeyPatch, capsys: Any, count: int) -> None:
    """Always an answer or the end of the connection, never an internal error; afterwards, the server is as before."""
    for name in ("wire.HEAD_SECONDS", "wire.DRAIN_SECONDS", "wire.TICK", "call.BODY_SECONDS"):
        monkeypatch.setattr(f"nnsam3d.server.{name}", 0.05)
    monkeypatch.setattr("nnsam3d.server.call.SLOWEST", 1e9)
    running = start(sessions=4, liveness_seconds=0.5)
    rng, statuses = random.Random(0), set[bytes]()
    end = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    for _ in range(count):
        request = random_request(rng)
        found = re.findall(rb"HTTP/1.1 (\d\d\d)", running.raw(request + end))
        assert found, request
        assert b"500" not in found, request
        statuses.update(found)
    assert {b"200", b"204", b"400", b"404", b"405", b"410"} <= statuses
    assert running.ask("GET", "/healthz").status == 200
    running.gives_memory_back()
    assert "Traceback" not in capsys.readouterr().err


def test_answers_do_not_wait_for_a_delayed_acknowledgement(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
        connection.sendall(b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        connection.recv(100)
        (wire,) = running.server.server_state.connections
        own = wire.transport.get_extra_info("socket")
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
