"""What reaches the routes and what does not: sizes, keys, foreign pages, slow clients, the end."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
import time
from typing import Any

import numpy as np
import pytest

from nnsam3d.server.app import MIB
from nnsam3d.server.arrays import pack
from nnsam3d.server.http import ROUTES

from .conftest import Running, Start, image_array


def raw(running: Running, data: bytes, seconds: float = 5) -> bytes:
    """All that comes back until the server closes, or the time is over."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        try:
            while part := connection.recv(65536):
                received += part
        except TimeoutError:
            pass
        return received


def test_errors_have_words_in_phrase_and_body(running: Running) -> None:
    for method, path, status, words in (
        ("GET", "/nothing", 404, "unknown address"),
        ("POST", "/healthz", 405, "use GET"),
        ("POST", "/set_image", 410, "connect again"),
        ("GET", "/page/../app.py", 404, "no such file"),
        ("GET", "/page/%2e%2e%2fapp.py", 404, "no such file"),
    ):
        reply = running.ask(method, path)
        assert reply.status == status
        assert words in reply.reason
        assert words in reply.json()["detail"]


def test_pages_of_other_servers_are_refused(running: Running) -> None:
    assert running.ask("GET", "/healthz").status == 200
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
    ):
        assert running.ask("POST", "/claim", headers=headers).status == 403
    same = {"Origin": running.url, "Host": f"127.0.0.1:{running.port}"}
    assert running.ask("POST", "/claim", headers=same).status == 200


def test_the_key_is_asked_for_everywhere_but_at_the_door(start: Start) -> None:
    running = start(key="secret")
    for (method, path), route in ROUTES.items():
        wanted = 401 if route.keyed else 200
        reply = running.ask(method, path)
        assert reply.status == wanted or (path == "/page/" and reply.status == 404), path
    for headers, query in (({"Authorization": "Bearer secret"}, ""), ({}, "?key=secret")):
        assert running.ask("POST", "/claim" + query, headers=headers).status == 200
    assert running.ask("POST", "/claim?key=Secret").status == 401


def test_large_bodies_are_refused_unread(start: Start) -> None:
    running = start(array_bytes=4 * MIB)
    lease = running.ask("POST", "/claim").json()["lease_token"]
    assert running.ask("POST", "/undo", b" " * (MIB + 1), lease).status == 413
    assert running.ask("POST", "/set_image", b" " * (5 * MIB), lease).status == 413
    image = pack(np.zeros((1, 256, 256, 256), np.uint8))  # small on the wire
    assert len(image) < MIB
    assert running.ask("POST", "/set_image", image, lease).status == 413
    head = f"POST /set_image HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Lease-Token: {lease}\r\nContent-Length: {10**14}\r\n\r\n"
    assert raw(running, head.encode()).startswith(b"HTTP/1.1 413")
    chunked = head.replace(f"Content-Length: {10**14}", "Transfer-Encoding: chunked")
    assert raw(running, chunked.encode()).startswith(b"HTTP/1.1 411")


def test_a_client_that_stops_in_the_middle_blocks_nobody(running: Running) -> None:
    lease = running.ask("POST", "/claim").json()["lease_token"]
    stuck = []
    for _ in range(20):
        connection = socket.create_connection(("127.0.0.1", running.port))
        connection.sendall(b"POST /claim HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf")
        stuck.append(connection)
    start = time.perf_counter()
    assert running.ask("POST", "/heartbeat", {}, lease).status == 200
    assert time.perf_counter() - start < 2
    for connection in stuck:
        connection.close()


def test_a_long_answer_is_announced(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnsam3d.server.http.PATIENCE", 0.1)
    lease = running.ask("POST", "/claim").json()["lease_token"]
    running.ask(
        "POST", "/set_image", pack(image_array()[None]), lease, {"X-Meta": '{"image_properties":{"spacing":[1,1,1]}}'}
    )
    gate = threading.Event()
    running.app.worker.submit(gate.wait)  # something else is computed
    body = json.dumps({"coordinates": [10, 20, 15], "include_interaction": True}).encode()
    head = f"POST /add_point_interaction HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Lease-Token: {lease}\r\nConnection: close\r\n"
    threading.Timer(0.5, gate.set).start()
    received = raw(running, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body, 20)
    assert received.startswith(b"HTTP/1.1 102 Processing\r\n\r\n")
    assert b"HTTP/1.1 200 OK" in received
    gate = threading.Event()
    running.app.worker.submit(gate.wait)
    threading.Timer(0.5, gate.set).start()
    assert running.ask("POST", "/undo", {}, lease).status == 200


def test_stopping_finishes_the_answer_under_way(start: Start) -> None:
    running = start()
    lease = running.ask("POST", "/claim").json()["lease_token"]
    meta = {"X-Meta": '{"image_properties":{"spacing":[1,1,1]}}'}
    gate = threading.Event()
    running.app.worker.submit(gate.wait)
    replies: list[Any] = []
    ask = threading.Thread(
        target=lambda: replies.append(running.ask("POST", "/set_image", pack(image_array()[None]), lease, meta))
    )
    ask.start()
    while running.app.worker._waiting < 2:
        time.sleep(0.01)
    stop = threading.Thread(target=running.server.close)
    stop.start()
    time.sleep(0.2)
    gate.set()
    ask.join(10)
    stop.join(10)
    assert [reply.status for reply in replies] == [200]
    with pytest.raises(OSError):
        running.ask("GET", "/healthz")


def test_a_failure_of_ours_is_told_without_its_trace(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(running.app.leases, "claim", lambda: 1 / 0)
    reply = running.ask("POST", "/claim")
    assert reply.status == 500
    assert b"ZeroDivision" not in reply.body
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_log_names_no_files(running: Running, capsys: Any) -> None:
    lease = running.ask("POST", "/api/claim").json()["lease_token"]
    running.ask("GET", f"/api/image/0/SMITH_JOHN.nii.gz?lease={lease}")
    running.ask("POST", "/api/upload?name=SMITH.nii.gz", b"x", lease)
    time.sleep(0.1)
    running.ask("POST", "/api/heartbeat", {}, lease)
    running.ask("GET", "/healthz")
    running.ask("GET", "/label/unknown/healthz")
    time.sleep(0.1)
    printed = capsys.readouterr()
    assert "/api/image/" in printed.out
    assert "heartbeat" not in printed.out
    assert re.findall(r"healthz (\d+)", printed.out) == ["404"], "what a client repeats is logged when it fails"
    assert "SMITH" not in printed.out + printed.err
    assert lease not in printed.out


BODIES: tuple[Any, ...] = (
    {"coordinates": [10, 20, 15], "include_interaction": True},
    {"shape": [20, 40, 30], "dtype": "uint8"},
    {"position": [1, 2, 3], "label": "lesion", "space": "voxel"},
    {"case": "a"},
)


def _mutated(rng: random.Random, value: Any) -> Any:
    """A JSON value like this one, and wrong somewhere, mostly."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(list(value))
        return {**value, key: _mutated(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        return [*value[:place], _mutated(rng, value[place]), *value[place + 1 :]]
    return rng.choice(
        [None, True, -1, 1e300, 10**30, "", "x" * 50, [], {}, [1, 2], {"a": 1}, "lesion", 0.5, [None] * 3]
    )


@pytest.mark.parametrize("family", ["nninteractive", "itksnap", "page"])
def test_malformed_requests(start: Start, family: str, capsys: Any) -> None:
    """Thousands of them: always an answer, never a stray exception. `test-slow` sends ten thousand to each family."""
    _storm(start(sessions=3), family, 400)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("family", ["nninteractive", "itksnap", "page"])
def test_ten_thousand_malformed_requests(start: Start, family: str, capsys: Any) -> None:
    _storm(start(sessions=3), family, 10_000)
    assert "Traceback" not in capsys.readouterr().err


def _storm(running: Running, family: str, count: int) -> None:
    from nnsam3d.server import itksnap, nninteractive, page

    routes = list({"nninteractive": nninteractive, "itksnap": itksnap, "page": page}[family].ROUTES)
    rng = random.Random(family)
    image = pack(image_array()[None])
    meta = '{"image_properties":{"spacing":[1,1,1]},"interaction_bbox":[[0,20],[0,40],[0,30]]}'
    lease = running.ask("POST", "/claim").json()["lease_token"]
    running.ask("POST", "/set_image", image, lease, {"X-Meta": meta})
    for number in range(count):
        method, path = rng.choice(routes)
        path += (
            rng.choice(["", lease, f"{lease}?x=1&y=nan&z=", "?name=../../x.nii", "?lease=%00", "0/x"])
            if path[-1] == "/"
            else ""
        )
        if path in ("/release", "/api/release", "/end_session/" + lease):
            continue
        body = rng.choice([b"", b"{", b"[" * 2000, rng.randbytes(40), image[: rng.randrange(len(image))], None])
        if body is None:
            body = json.dumps(_mutated(rng, rng.choice(BODIES))).encode()
        headers = {"X-Meta": rng.choice([meta, "{", "[]", json.dumps(_mutated(rng, json.loads(meta)))])}
        if rng.random() < 0.2:
            headers["Content-Type"] = "multipart/form-data; boundary=x"
            body = b'--x\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n' + body + b"\r\n--x--"
        reply = running.ask(method, path, body, lease, headers)
        assert reply.status != 500, (number, method, path, body[:100], headers, reply.body)
    assert running.ask("POST", "/heartbeat", {}, lease).status in (200, 410)
