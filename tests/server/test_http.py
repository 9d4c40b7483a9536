"""What reaches the routes and what does not: sizes, keys, foreign pages, prefixes, slow clients, the end."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.routing import Route

from nnsam3d.server.app import MIB
from nnsam3d.server.arrays import pack
from nnsam3d.server.call import Endpoint
from nnsam3d.server.http import ROUTES, Access, address_of

from .conftest import META, Gate, Running, Start, image_array, received, until

POINT = b'{"coordinates": [10, 20, 15], "include_interaction": true}'


def click_of(lease: str) -> bytes:
    """A request for a click, without the end of its head."""
    head = f"POST /add_point_interaction HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Lease-Token: {lease}\r\n"
    return f"{head}Content-Length: {len(POINT)}\r\n".encode()


def test_errors_have_words_in_phrase_and_body(running: Running) -> None:
    for method, path, status, words in (
        ("GET", "/nothing", 404, "unknown address"),
        ("POST", "/healthz", 405, "use GET"),
        ("POST", "/set_image", 410, "connect again"),
        ("GET", "/page/../app.py", 404, "unknown address"),
        ("GET", "/page/%2e%2e%2fapp.py", 404, "unknown address"),
        ("GET", "/page/node_modules/x.js", 404, "unknown address"),
        ("GET", "/label/liver%0d%0a/healthz", 404, "no label"),
    ):
        reply = running.ask(method, path)
        assert reply.status == status, path
        assert words in reply.reason
        assert words in reply.json()["detail"]


def test_pages_of_other_servers_are_refused(running: Running) -> None:
    assert running.ask("GET", "/healthz").status == 200
    for headers in (
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},  # another server on this computer
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Dest": "image"},
        {"Origin": "null"},
        {"Origin": "http://["},
    ):
        assert running.ask("POST", "/claim", headers=headers).status == 403, headers
    same = {"Origin": running.url, "Host": f"127.0.0.1:{running.port}"}
    assert running.ask("POST", "/claim", headers=same).status == 200
    # a link to the page is no attack
    assert running.ask("GET", "/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status == 200


def test_images_of_other_pages_take_no_places(start: Start) -> None:
    """Whatever a browser can be made to GET without a token changes nothing."""
    running = start(sessions=2)
    tokens = [running.ask("GET", "/start_session").json()["session_id"] for _ in range(20)]
    assert not len(running.app.leases)
    for one in ROUTES:
        if isinstance(one, Route) and "GET" in (one.methods or ()):
            running.ask("GET", re.sub(r"{.*?}", "0", one.path))
    assert not len(running.app.leases)
    assert running.ask("POST", f"/upload_raw/{tokens[0][:-1]}x", b"").status == 410, "only promised tokens"


def test_a_server_behind_a_proxy_knows_its_names(start: Start) -> None:
    running = start(access=Access(hosts=("hub.Example.org",), prefix="/user/me/seg"))
    assert running.ask("GET", "/healthz", headers={"Host": "Hub.Example.org:80"}).status == 200
    ours = {"Host": "hub.example.org", "Origin": "https://hub.example.org"}
    for headers in (ours, {**ours, "Host": f"127.0.0.1:{running.port}"}, {}):
        for path in ("/healthz", "/user/me/seg/healthz", "/user/me/seg/label/lesion/healthz"):
            assert running.ask("GET", path, headers=headers).status == 200
    assert running.ask("GET", "/healthz", headers={"Host": "evil.example"}).status == 403
    assert running.ask("POST", "/claim", headers={**ours, "Origin": "https://evil.example"}).status == 403
    for path, location in (("/user/me/seg?key=a%20b", "seg/?key=a%20b"), ("/label/lesion", "lesion/")):
        reply = running.ask("GET", path)
        assert (reply.status, reply.headers["location"]) == (308, location), "addresses in the page are relative"


def test_the_key_is_asked_for_everywhere_but_at_the_door(start: Start) -> None:
    running = start(key="secr&t%")
    for one in ROUTES:
        if not isinstance(one, Route):
            continue
        endpoint = one.endpoint
        assert isinstance(endpoint, Endpoint)
        assert running.ask(endpoint.method, re.sub(r"{.*?}", "0", one.path)).status == (401 if endpoint.keyed else 200)
    for headers, query in (({"Authorization": "Bearer secr&t%"}, ""), ({}, "?key=secr%26t%25")):
        assert running.ask("POST", "/claim" + query, headers=headers).status == 200
    assert running.ask("POST", "/claim?key=Secr%26t%25").status == 401
    assert running.ask("POST", "/claim", headers={"Authorization": "Bearer \xff"}).status == 401


def test_what_http_offers(running: Running) -> None:
    whole = running.ask("GET", "/page/style.css", headers={"Accept-Encoding": "gzip"})
    assert whole.headers["content-encoding"] == "gzip"
    assert running.ask("GET", "/page/style.css", headers={"If-None-Match": whole.headers["etag"]}).status == 304
    head = running.ask("HEAD", "/page/style.css")
    assert (head.status, head.body) == (200, b"")
    assert running.ask("HEAD", "/healthz").status == 200
    options = running.ask("OPTIONS", "/healthz")
    assert options.status == 204
    assert "GET" in options.headers["allow"]
    part = running.ask("GET", "/page/style.css", headers={"Range": "bytes=0-9"})
    assert (part.status, len(part.body)) == (206, 10)
    for reply in (whole, options, running.ask("GET", "/nothing")):
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in reply.headers["content-security-policy"]


def test_large_bodies_are_refused_unread(start: Start) -> None:
    running = start(array_bytes=4 * MIB)
    lease = running.claim()
    assert running.ask("POST", "/undo", b" " * (MIB + 1), lease).status == 413
    assert running.ask("POST", "/set_image", b" " * (5 * MIB), lease).status == 413
    image = pack(np.zeros((1, 256, 256, 256), np.uint8))  # small on the wire
    assert len(image) < MIB
    assert running.ask("POST", "/set_image", image, lease).status == 413
    head = f"POST /set_image HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Lease-Token: {lease}\r\nContent-Length: {10**14}\r\n\r\n"
    assert running.raw(head.encode()).startswith(b"HTTP/1.1 413")
    chunked = head.replace(f"Content-Length: {10**14}", "Transfer-Encoding: chunked")
    assert running.raw(chunked.encode()).startswith(b"HTTP/1.1 411")


def test_a_refused_body_is_read_before_the_next_request(start: Start) -> None:
    """On the same connection: the rest of the body is not taken for a request."""
    running = start(array_bytes=4 * MIB)
    body = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 30_000
    head = f"POST /claim HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    end = b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    answers = re.findall(rb"HTTP/1.1 (\d+)", running.raw(head + body + end))
    assert answers == [b"413", b"200"]


def test_one_request_after_the_other_on_one_connection(running: Running) -> None:
    """Also if they are sent before the answers arrive, with every head checked."""
    one = b"GET /status HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    assert running.raw(one * 3 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).count(b'"ok"') == 4
    answers = re.findall(rb"HTTP/1.1 (\d+)", running.raw(one * 2 + one.replace(b"Host:", b"Host :") + one))
    assert answers == [b"200", b"200", b"400"]


def test_a_client_that_stops_in_the_middle_blocks_nobody(running: Running) -> None:
    lease = running.claim()
    stuck = []
    for half in (b"POST /claim HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\nhalf", b"GET /hea", b""):
        for _ in range(100):
            connection = socket.create_connection(("127.0.0.1", running.port))
            connection.sendall(half)
            stuck.append(connection)
    assert running.ask("POST", "/heartbeat", {}, lease).status == 200
    for connection in stuck:
        connection.close()


@pytest.mark.parametrize("part", ["nothing", "head", "body", "dripping head", "refused body"])
def test_deadlines_hold_for_every_byte(start: Start, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    for name in ("HEAD_SECONDS", "IDLE_SECONDS", "DRAIN_SECONDS", "TICK"):
        monkeypatch.setattr(f"nnsam3d.server.wire.{name}", 0.2)
    monkeypatch.setattr("nnsam3d.server.call.BODY_SECONDS", 0.3)
    monkeypatch.setattr("nnsam3d.server.call.SLOWEST", 1e9)
    running = start()
    head = b"POST /claim HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\n"
    large = head.replace(b"1000", b"2000000")
    sent, drips = {
        "nothing": (b"", b""),
        "head": (b"GET /", b""),
        "body": (head, b"x"),
        "dripping head": (b"GET /", b"x"),
        "refused body": (large, b"x"),
    }[part]
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(sent)
        over = threading.Event()

        def drip() -> None:
            while drips and not over.wait(0.02):
                try:
                    connection.sendall(drips)
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        answer = received(connection)
        over.set()
    status = answer[9:12].decode()
    assert status == {"nothing": "", "head": "408", "body": "408", "dripping head": "408", "refused body": "413"}[part]
    assert running.ask("GET", "/healthz").status == 200


def test_a_client_that_does_not_read_is_dropped(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnsam3d.server.wire.STUCK_SECONDS", 0.3)
    monkeypatch.setattr("nnsam3d.server.wire.TICK", 0.1)
    running = start()
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(b"GET /page/niivue.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20)
        until(lambda: not running.server.server_state.connections)


def test_more_connections_than_places_drop_the_idle_ones(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnsam3d.server.wire.CONNECTIONS", 10)
    running = start()
    idle = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(30)]
    assert running.ask("GET", "/healthz").status == 200
    assert len(running.server.server_state.connections) <= 11
    for connection in idle:
        connection.close()


def test_a_long_answer_is_announced(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nnsam3d.server.call.PATIENCE", 0.1)
    lease = running.viewer()
    new = click_of(lease) + b"Connection: close\r\n\r\n" + POINT
    for request, begins in (
        (new, b"HTTP/1.1 102 Processing\r\n\r\n"),
        (new.replace(b"HTTP/1.1", b"HTTP/1.0"), b"HTTP/1.1 200 "),  # which has no interim responses
    ):
        gate = Gate(running.app.worker)  # something else is computed
        threading.Timer(0.5, gate.over.set).start()
        answer = running.raw(request)
        assert answer.startswith(begins)
        assert b"HTTP/1.1 200 " in answer


def test_a_patient_server_outlasts_an_impatient_client(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx, on which nninteractive-client is built, counts its read time-out from the last interim response."""
    monkeypatch.setattr("nnsam3d.server.call.PATIENCE", 0.2)
    lease = running.viewer()
    threading.Timer(4.0, Gate(running.app.worker).over.set).start()
    with httpx.Client(base_url=running.url, headers={"X-Lease-Token": lease}, timeout=2.0) as client:
        assert client.post("/add_point_interaction", content=POINT).status_code == 200


def test_stopping_finishes_the_answer_under_way(start: Start) -> None:
    running = start()
    lease = running.claim()
    gate = Gate(running.app.worker)
    with ThreadPoolExecutor(2) as pool:
        reply = pool.submit(running.ask, "POST", "/set_image", pack(image_array()[None]), lease, META)
        until(lambda: running.app.worker.waiting)
        stop = pool.submit(running.server.close)
        until(lambda: running.server.should_exit)
        gate.over.set()
        assert reply.result(60).status == 200
        stop.result(60)
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


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "nnsam3d")
    return caplog


def lines(log: pytest.LogCaptureFixture, wanted: str) -> str:
    """The log, as soon as it contains a text."""
    until(lambda: wanted in "\n".join(log.messages))
    return "\n".join(log.messages)


def test_the_log_names_no_files(running: Running, log: Any) -> None:
    lease = running.claim()
    running.ask("GET", f"/api/image/0/SMITH_JOHN.nii.gz?lease={lease}")
    running.ask("POST", "/api/upload?name=SMITH.nii.gz", b"x", lease)
    running.ask("POST", "/api/heartbeat", {}, lease)
    running.ask("GET", "/healthz")
    running.ask("GET", "/label/unknown/healthz")
    running.ask("GET", "/the_end")
    printed = lines(log, "? 404")
    assert "/api/image/" in printed
    assert "heartbeat" not in printed
    assert re.findall(r"healthz (\d+)", printed) == ["404"], "what a client repeats is logged when it fails"
    assert "SMITH" not in printed
    assert lease not in printed


def test_the_verbose_log_is_text(start: Start, log: Any) -> None:
    running = start(access=Access(verbose=True))
    running.raw(b"GET /%1b[31m%0d%0a\x1b[31m HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    running.ask("GET", "/%1b[31m%0a/the_end")
    printed = lines(log, "the_end")
    assert "\x1b" not in printed
    assert "/%1b[31m%0a/the_end 404" in printed


def test_a_client_that_leaves_is_no_error_of_the_server(running: Running, log: Any) -> None:
    lease = running.viewer()
    gate = Gate(running.app.worker)
    with socket.create_connection(("127.0.0.1", running.port)) as connection:
        connection.sendall(click_of(lease) + b"\r\n" + POINT)
        until(lambda: running.app.worker.waiting)
    assert "add_point_interaction 499" in lines(log, "499")
    gate.over.set()
    assert running.ask("POST", "/undo", {}, lease).headers["x-meta"] == '{"ran_prediction": false, "bbox": null}'


def test_addresses_that_are_printed_can_be_used() -> None:
    assert address_of("127.0.0.1", 80, False) == "http://127.0.0.1:80"
    assert address_of("::1", 80, False, "/seg") == "http://[::1]:80/seg"
    assert address_of("0.0.0.0", 443, True) == "https://0.0.0.0:443"


def test_ipv6(start: Start) -> None:
    try:
        running = start(host="::1")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    assert httpx.get(address_of("::1", running.port, False) + "/healthz", timeout=60).status_code == 200


def test_behind_tls(start: Start, tmp_path: Path) -> None:
    """With the certificate and its key in one file or two; clients of the viewers as well."""
    certificate, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    try:
        subprocess.run(
            [*command, "-keyout", str(private), "-out", str(certificate), "-addext", "subjectAltName=DNS:localhost"],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    both = tmp_path / "both.pem"
    both.write_text(certificate.read_text() + private.read_text())
    trust = ssl.create_default_context(cafile=str(certificate))
    for files in ((certificate, private), (both, None)):
        url = f"https://localhost:{start(certificate=files).port}"
        with httpx.Client(base_url=url, verify=trust, timeout=60) as client:
            assert client.get("/healthz").json() == {"ok": True}
            assert client.post("/claim", headers={"Origin": url}).status_code == 200
