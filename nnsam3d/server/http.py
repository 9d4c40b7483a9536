"""The web server: Starlette's routes behind one door, which checks where a request comes from, and uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
import time
import traceback
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nnsam3d.errors import UserError
from nnsam3d.inference.session import Cancelled
from nnsam3d.server import itksnap, nninteractive, page
from nnsam3d.server.app import App
from nnsam3d.server.call import CLIENT_LEFT, Disconnected
from nnsam3d.server.refusal import Refusal
from nnsam3d.server.wire import CONNECTIONS, IDLE_SECONDS, Wire

logger = logging.getLogger(__name__)

ROUTES = [*nninteractive.ROUTES, *itksnap.ROUTES, *page.ROUTES]
EXPIRES = 0.5  # s between two looks for clients that have gone
STOPPING = 60  # s for the requests that are being served
DRAINED = 2**28  # bytes; the rest of a refused body up to this size is read and dropped
PHRASE = 300  # characters of the reason phrase
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; style-src 'self' 'unsafe-inline'; script-src 'self' 'wasm-unsafe-eval'; "
    "frame-ancestors 'none'",
}


@dataclass(frozen=True)
class Access:
    """Where requests may come from.

    Attributes:
        hosts: names by which a proxy makes the server known, besides its own addresses.
        prefix: path under which a proxy passes requests on without removing it, such as "/segment".
        verbose: log all requests with full paths, which can contain patients' file names.
    """

    hosts: tuple[str, ...] = ()
    prefix: str = ""
    verbose: bool = False

    def __post_init__(self) -> None:
        # names of hosts ignore case, and browsers send them in lower case
        object.__setattr__(self, "hosts", tuple(name.lower() for name in self.hosts))


def is_local(host: str) -> bool:
    """Whether an address or name means this computer only.

    >>> is_local("127.0.0.1"), is_local("[::1]"), is_local("localhost"), is_local("0.0.0.0")
    (True, True, True, False)
    """
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host.lower() == "localhost"


def web(app: App, access: Access, local: bool) -> Starlette:
    """The ASGI application.

    Args:
        local: whether the server listens on this computer only; then no other name may be used for it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async def expire() -> None:
            while True:
                app.leases.expire()
                await asyncio.sleep(EXPIRES)

        task = asyncio.ensure_future(expire())
        yield
        task.cancel()
        await asyncio.to_thread(app.worker.close)

    handlers: Any = {
        Refusal: lambda _, error: refused(error.status, str(error), error.headers),
        Cancelled: lambda _, error: refused(409, str(error)),
        UserError: lambda _, error: refused(400, str(error)),
        HTTPException: _unknown,
    }
    door = Middleware(Door, access=access, local=local)
    made = Starlette(routes=ROUTES, middleware=[door], exception_handlers=handlers, lifespan=lifespan)
    made.router.redirect_slashes = False
    made.state.served = app
    return made


def refused(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    """The message is also the reason phrase, because viewers show that and not the body."""
    phrase = "".join(letter if letter.isprintable() else " " for letter in " ".join(message.split()))
    phrase = phrase.encode("latin-1", "replace").decode("latin-1")[:PHRASE].strip()
    message = message.encode("utf-8", "backslashreplace").decode()
    return JSONResponse({"detail": message}, status, {**(headers or {}), "Reason": phrase})


def _unknown(request: Request, error: HTTPException) -> Response:
    """Unknown addresses and methods."""
    allowed = (error.headers or {}).get("Allow", "")
    if error.status_code == 405 and request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": f"{allowed}, OPTIONS"})
    methods = " or ".join(one for one in allowed.split(", ") if one != "HEAD")
    words = {404: "unknown address", 405: f"use {methods} here"}.get(error.status_code, str(error.detail))
    return refused(error.status_code, words, dict(error.headers or {}))


class Door:
    """ASGI middleware: where a request comes from, which label its address names, the log, errors of the server.

    It leaves notes for the others in ``scope["nnsam3d"]``: ``label`` (NAME of /label/NAME/..., or None), ``name`` (of
    the route, for the log), ``routine``, ``unread`` (whether a body has not been read).
    """

    def __init__(self, inner: ASGIApp, access: Access, local: bool) -> None:
        self._inner, self._access, self._local = inner, access, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._inner(scope, receive, send)
        headers = Headers(scope=scope)
        length = int(headers.get("content-length", 0))
        notes = scope["nnsam3d"] = {"label": None, "name": "?", "routine": False, "unread": length > 0}
        start, status = time.perf_counter(), 0
        address = scope["raw_path"].decode("ascii", "replace")  # as sent: percent-encoded, without control characters

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    sent.setdefault(name, value)
                sent.setdefault("Cache-Control", "no-cache" if notes["name"] == "/page" else "no-store")
                if (notes["unread"] and length > DRAINED) or "transfer-encoding" in headers:
                    sent["Connection"] = "close"
            await send(message)

        try:
            response = self._admitted(scope, headers)
            await (response or self._inner)(scope, receive, sending)
        except Refusal as refusal:
            await refused(refusal.status, str(refusal), refusal.headers)(scope, receive, sending)
        except Disconnected:
            status = status or CLIENT_LEFT
        except Exception:
            traceback.print_exc()
            if not status:
                await refused(500, "internal error: see the server's log")(scope, receive, sending)
        finally:
            if self._access.verbose or status >= 400 or not notes["routine"]:
                shown = address if self._access.verbose else notes["name"]
                words = time.strftime("%H:%M:%S"), scope["method"], shown, status
                logger.info(" ".join(map(str, (*words, f"{1000 * (time.perf_counter() - start):.0f} ms"))))
        return None

    def _admitted(self, scope: Scope, headers: Headers) -> Response | None:
        """Checks the origin of a request and removes prefix and label from its path; a response if it ends here."""
        self._check_origin(scope, headers)
        path: str = scope["raw_path"].decode("ascii")
        whole = path
        if self._access.prefix and (path == self._access.prefix or path.startswith(self._access.prefix + "/")):
            path = path[len(self._access.prefix) :]
        if path.startswith("/label/"):
            label, slash, rest = path[len("/label/") :].partition("/")
            scope["nnsam3d"]["label"], path = unquote(label), slash + rest
        if not path:  # the addresses in the page are relative to a folder
            query = scope["query_string"].decode("ascii", "replace")
            return RedirectResponse(f"{whole.rpartition('/')[2]}/{'?' + query if query else ''}", 308)
        if path.startswith("/page/"):
            scope["nnsam3d"].update(name="/page", routine=True)
        scope["path"], scope["raw_path"] = unquote(path), path.encode("ascii")
        return None

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        """Protects against pages of other servers that send requests through the user's browser."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
        if self._local and not (is_local(name) or name.lower() in self._access.hosts):
            raise Refusal(
                403,
                f"use 127.0.0.1 or localhost as the address of this server, not {name[:80]!r}; behind a proxy, start "
                "it with --allow-host NAME",
            )
        origin = headers.get("origin")
        try:
            given = urlsplit(origin or "")
            known = given.netloc == host or given.hostname in self._access.hosts
        except ValueError:
            known = False
        site, navigates = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode") == "navigate"
        foreign = site in ("cross-site", "same-site") and not (navigates and scope["method"] == "GET")
        if (origin is not None and not known) or foreign:
            raise Refusal(403, "requests from other websites are not allowed")


class Server(uvicorn.Server):
    """Serves an :class:`App` until :meth:`close` is called, or a signal arrives."""

    def __init__(
        self,
        address: tuple[str, int],
        app: App,
        access: Access | None = None,
        certificate: tuple[Path, Path | None] | None = None,
    ) -> None:
        """
        Args:
            address: host and port; 0: any free port.
            certificate: PEM files for TLS, certificate and private key (None: in the same file).

        Raises:
            OSError: the address cannot be used, or a file cannot be read.
        """
        self.app = app
        self._ended = threading.Event()
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server((address[0].strip("[]"), address[1]), family=family, backlog=256)
        self.port = int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            web(app, access or Access(), is_local(address[0])),
            http=Wire,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=2 * CONNECTIONS,
            timeout_keep_alive=int(IDLE_SECONDS),
            timeout_graceful_shutdown=STOPPING,
            ssl_certfile=None if certificate is None else certificate[0],
            ssl_keyfile=None if certificate is None else certificate[1],
        )
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # errors are logged at the door
        super().__init__(config)
        config.load()  # reads the certificate

    def serve_forever(self) -> None:
        """Blocks until the server has stopped."""
        try:
            self.run(sockets=[self._socket])
        finally:
            self._socket.close()
            self._ended.set()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Of SIGINT and SIGTERM: finishes the requests that are being served; the second one ends at once."""
        logger.info("\nnnsam3d: stopping when the running requests are finished")
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    def close(self, seconds: float = 60.0) -> None:
        """Accepts no new requests, finishes the running ones, and stops. Not to be called from the serving thread."""
        self.config.timeout_graceful_shutdown = max(1, int(seconds))
        self.should_exit = True
        self._ended.wait(seconds + 5)


def address_of(host: str, port: int, tls: bool, prefix: str = "") -> str:
    """The address to print, for people and viewers."""
    shown = "127.0.0.1" if host in ("", "localhost") else f"[{host}]" if ":" in host else host
    return f"http{'s' * tls}://{shown}:{port}{quote(prefix)}"
