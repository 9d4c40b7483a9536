"""A web server that misbehaves on demand, and serves what stands for an official checkpoint."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from nnsam3d.checkpoints import download, pretrained


class WeightsServer:
    """Serves `content` under every path. `script` holds what the next requests meet, then all goes well."""

    def __init__(self) -> None:
        self.content = bytes(range(256)) * 1200  # 300 KiB
        self.script: list[str | int] = []
        self.served: list[tuple[int, int]] = []  # per answer with a body: from which byte, how many
        self.hold = threading.Event()  # "slow" answers wait for it in the middle
        self.asked = threading.Event()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.http.server_port}/sam"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:6]

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        how = self.script.pop(0) if self.script else "well"
        if isinstance(how, int) or how.startswith("416 "):
            request.send_response(int(str(how).split()[0]))
            request.send_header("Content-Length", "0")
            if isinstance(how, str):
                request.send_header("Content-Range", how[4:])
            request.end_headers()
            return
        asked = re.match(r"bytes=(\d+)-", request.headers.get("Range", ""))
        start = int(asked.group(1)) if asked and how != "without ranges" else 0
        if start >= len(self.content):
            self.script.insert(0, f"416 bytes */{len(self.content)}")
            self._answer(request)
        else:
            self._send(request, how, start, partial=bool(asked) and how != "without ranges")

    def _send(self, request: BaseHTTPRequestHandler, how: str, start: int, partial: bool) -> None:
        body = self.content[start:]
        request.send_response(206 if partial else 200)
        request.send_header("Content-Length", str(len(body)))
        if partial:
            first = start + 1 if how == "another range" else start
            request.send_header("Content-Range", f"bytes {first}-{len(self.content) - 1}/{len(self.content)}")
        request.end_headers()
        sent = body if how in ("well", "without ranges") else body[: len(body) // 2]
        self.served.append((start, len(sent)))
        request.wfile.write(sent)
        request.wfile.flush()
        self.asked.set()
        if how == "slow":
            self.hold.wait(120)
            request.wfile.write(body[len(sent) :])
        if how == "reset":  # the connection is torn, not closed
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            request.connection.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """A local server; its content is the official file of vit_b."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.001)
    made = WeightsServer()
    file = pretrained.OfficialFile(f"sam_vit_b_{made.digest}.pth", 1)
    monkeypatch.setitem(pretrained.OFFICIAL_FILES, "vit_b", file)
    monkeypatch.setenv(pretrained.URL_VARIABLE, made.url)
    thread = threading.Thread(target=made.http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    made.hold.set()
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture
def no_local_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No checkpoint, no network; returns the folder that downloads go to."""
    monkeypatch.delenv(pretrained.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv(pretrained.URL_VARIABLE, "http://127.0.0.1:9")
    return tmp_path / "cache" / "nnsam3d" / "weights"
