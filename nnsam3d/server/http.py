"""The HTTP server: reads requests and sends responses. The only module that uses sockets.

Based on the standard library's threading server: every connection has its own thread, so that none blocks another.
"""

from __future__ import annotations

import hmac
import json
import socket
import sys
import threading
import time
import traceback
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from nnsam3d import __version__
from nnsam3d.errors import UserError
from nnsam3d.inference.session import Cancelled
from nnsam3d.server import itksnap, nninteractive, page
from nnsam3d.server.app import JSON, MIB, App, Request, Response, Route
from nnsam3d.server.refusal import Refusal

KEY = "Authorization"
LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
ROUTES: dict[tuple[str, str], Route] = {**nninteractive.ROUTES, **itksnap.ROUTES, **page.ROUTES}
SMALL_BODY = MIB
# Seconds after which a waiting client gets "102 Processing". Clients of the protocol give up after 60 s of silence.
# Some others, such as Python's http.client, take an interim response for the answer: it must not come early.
PATIENCE = 15.0
SOCKET_SECONDS = 60.0  # without data, after which a connection is closed
CONNECTIONS = 256
SLOWEST = 50_000  # bytes per second; uploads that stay below this rate are aborted
DRAINED = 2**28  # bytes; a rejected body up to this size is read and discarded
PHRASE = 300  # characters of the reason phrase
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; script-src 'self' 'wasm-unsafe-eval'; frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """Serves an :class:`App` until :meth:`close`."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], app: App, key: str | None = None, verbose: bool = False) -> None:
        """
        Args:
            key: clients must send it; None: no key required.
            verbose: log all requests with full paths, which can contain patients' file names.
        """
        self.app, self.key, self.verbose = app, key, verbose
        self.loopback = address[0] in LOOPBACK
        self._connections = threading.BoundedSemaphore(CONNECTIONS)
        self._serving = 0
        self._idle = threading.Condition()
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._connections.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that disconnects is not an error of the server."""
        if not isinstance(sys.exc_info()[1], OSError):
            traceback.print_exc()

    def service_actions(self) -> None:
        """Called twice a second."""
        self.app.leases.expire()

    def begin(self) -> None:
        with self._idle:
            self._serving += 1

    def end(self) -> None:
        with self._idle:
            self._serving -= 1
            self._idle.notify_all()

    def close(self, seconds: float = 60.0) -> None:
        """Accepts no new requests, finishes the running ones, and stops. Not to be called from the serving thread."""
        self.shutdown()
        with self._idle:
            self._idle.wait_for(lambda: not self._serving, timeout=seconds)
        self.server_close()
        self.app.worker.close()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version = f"nnsam3d/{__version__}"
    sys_version = ""
    timeout = SOCKET_SECONDS
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def _serve(self, method: str) -> None:
        self.server.begin()
        start, status = time.perf_counter(), 500
        self._name, self._routine = "?", False  # the route's name: the log must not contain file names
        self._left = self._length()
        try:
            try:
                route, request = self._routed_request(method)
                response = self._answer(route, request)
            except Refusal as refusal:
                response = _refused(refusal.status, str(refusal), refusal.headers)
            except CancelledError:
                response = _refused(503, "the server is stopping")
            except Cancelled as error:
                response = _refused(409, str(error))
            except UserError as error:
                response = _refused(400, str(error))
            status = response.status
            self._send(response)
        except OSError:  # the client has disconnected
            self.close_connection = True
        except Exception:
            traceback.print_exc()
            self._send(_refused(500, "internal error: see the server's log"))
        finally:
            self.server.end()
            if self.server.verbose or status >= 400 or not self._routine:
                self._log(method, self._name, status, time.perf_counter() - start)

    # ------------------------------------------------------------------ reading

    def _length(self) -> int:
        """Length of the body in bytes; -1 if unknown."""
        given = self.headers.get("Content-Length")
        if given is None:
            return -1 if self.headers.get("Transfer-Encoding") else 0
        return int(given) if given.isascii() and given.isdigit() and len(given) < 16 else -1

    def _routed_request(self, method: str) -> tuple[Route, Request]:
        self._check_origin()
        try:
            url = urlsplit(self.path)
            query = dict(parse_qsl(url.query, keep_blank_values=True, max_num_fields=32))
        except ValueError as error:
            raise Refusal(400, "invalid address") from error
        path, label = _without_label(url.path)
        key, rest = _route_of(method, path)
        route, self._name = ROUTES[key], key[1]
        self._routine = route.is_routine(method)
        if route.keyed:
            self._check_key(query)
        request = Request(method, key[1], label, query, self.headers, b"", self._wait, rest)
        if route.lease != "none":  # before a large body is read
            self.server.app.leases.find(request.token, looks=True)
        request.body = self._body(self.server.app.limits.array_bytes if route.large else SMALL_BODY)
        return route, request

    def _check_origin(self) -> None:
        """Protects against pages of other servers that send requests through the user's browser."""
        host = self.headers.get("Host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.server.loopback and name not in LOOPBACK:
            raise Refusal(403, f"use 127.0.0.1 or localhost as the address of this server, not {name[:80]!r}")
        origin = self.headers.get("Origin")
        foreign = origin is not None and urlsplit(origin).netloc != host
        if foreign or self.headers.get("Sec-Fetch-Site") == "cross-site":
            raise Refusal(403, "requests from other websites are not allowed")

    def _check_key(self, query: dict[str, str]) -> None:
        wanted = self.server.key
        if wanted is None:
            return
        given = self.headers.get(KEY, "").removeprefix("Bearer ") or query.get("key", "")
        if not hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode()):
            raise Refusal(401, "the server's key is missing or wrong", {"WWW-Authenticate": "Bearer"})

    def _body(self, limit: int) -> bytes:
        if self._left < 0:
            raise Refusal(411, "the request has no valid Content-Length")
        if self._left > limit:
            raise Refusal(413, f"the body has {self._left:,} bytes; the limit is {limit:,}")
        deadline = time.monotonic() + SOCKET_SECONDS + self._left / SLOWEST
        parts = []
        while self._left:  # allocates memory for received data only, not for the announced length
            part = self.rfile.read(min(self._left, MIB))
            if not part or time.monotonic() > deadline:
                raise ConnectionError("the client has disconnected or is too slow")
            parts.append(part)
            self._left -= len(part)
        return b"".join(parts)

    # ------------------------------------------------------------------ processing

    def _answer(self, route: Route, request: Request) -> Response:
        app = self.server.app
        if route.lease == "none":
            return route.serve(app, request, None)
        lease = app.leases.find(request.token, acts=route.lease == "acts", looks=route.lease == "looks")
        if route.lease != "acts":
            return route.serve(app, request, lease)
        with lease.lock:
            app.leases.touch(lease, 1)
            try:
                return route.serve(app, request, lease)
            finally:
                app.leases.touch(lease, -1)

    def _wait(self, future: Future[Any]) -> Any:
        """Waits for a result. If the client disconnects meanwhile, its job is cancelled if it has not started."""
        while True:
            try:
                return future.result(PATIENCE)
            except FutureTimeout:
                if future.done():
                    raise
                try:
                    if self.request_version != "HTTP/1.0":
                        self.wfile.write(b"HTTP/1.1 102 Processing\r\n\r\n")
                except OSError:
                    future.cancel()
                    raise

    # ------------------------------------------------------------------ sending

    def _send(self, response: Response) -> None:
        self._drain()
        self.send_response(response.status, response.headers.pop("Reason", None))
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        for name, value in response.headers.items():
            self.send_header(name, value)
        for name, value in (("X-Content-Type-Options", "nosniff"), ("Content-Security-Policy", POLICY)):
            self.send_header(name, value)
        self.send_header("Referrer-Policy", "no-referrer")
        if "Cache-Control" not in response.headers:
            self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response.body)

    def _drain(self) -> None:
        """Reads the rest of the body, because some clients read the response only after sending all of it."""
        if self._left < 0 or self._left > DRAINED:
            self.close_connection = True
            return
        while self._left > 0:
            part = self.rfile.read(min(self._left, MIB))
            if not part:
                self.close_connection = True
                return
            self._left -= len(part)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The response to malformed requests."""
        self.close_connection = True
        self._left = 0
        self._send(_refused(code, message or "malformed request"))

    def log_message(self, format: str, *args: Any) -> None:
        """Disables the standard library's log, which contains paths."""

    def _log(self, method: str, name: str, status: int, seconds: float) -> None:
        shown = self.path if self.server.verbose else name
        print(f"{time.strftime('%H:%M:%S')} {method} {shown} {status} {1000 * seconds:.0f} ms", flush=True)


def _without_label(path: str) -> tuple[str, str | None]:
    """/label/tumour/claim -> /claim, tumour."""
    if not path.startswith("/label/"):
        return path, None
    label, slash, rest = path[len("/label/") :].partition("/")
    return slash + rest or "/", label


def _route_of(method: str, path: str) -> tuple[tuple[str, str], str]:
    if (method, path) in ROUTES:
        return (method, path), ""
    start = path.rfind("/")
    while start >= 0:  # the longest matching route that ends in "/"
        if start and (method, path[: start + 1]) in ROUTES:
            return (method, path[: start + 1]), path[start + 1 :]
        start = path.rfind("/", 0, start)
    other = "POST" if method == "GET" else "GET"
    if (other, path) in ROUTES:
        raise Refusal(405, f"use {other} here", {"Allow": other})
    raise Refusal(404, "unknown address")


def _refused(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The message is also the reason phrase, because viewers show that and not the body."""
    phrase = " ".join(message.split()).encode("latin-1", "replace").decode("latin-1")[:PHRASE]
    body = json.dumps({"detail": message}).encode()
    return Response(body, JSON, {**(headers or {}), "Reason": phrase}, status)
