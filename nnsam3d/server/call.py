"""A request on its way to a route: the client's lease is found, the body read within the limits, the work queued."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from nnsam3d.server.app import MIB, App
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.leases import Lease, Resets
from nnsam3d.server.refusal import Refusal
from nnsam3d.server.wire import PROCESSING

T = TypeVar("T")
BINARY = "application/octet-stream"
SMALL_BODY = MIB
# Seconds after which a waiting client gets "102 Processing". Clients of the protocol give up after 60 s of silence.
# Some others, such as Python's http.client, take an interim response for the answer: it must not come early.
PATIENCE = 15.0
BODY_SECONDS = 60.0  # for any body, and for large ones
SLOWEST = 50_000  # bytes per second more
CLIENT_LEFT = 499  # only seen in the log


class Disconnected(Exception):
    """The client has gone, so there is nobody to answer."""


@dataclass
class Call:
    """One request.

    Attributes:
        body: complete.
        stack: of what ends with the request, such as reserved memory.
    """

    app: App
    request: Request
    client: Lease | None
    body: bytearray
    stack: AsyncExitStack

    @property
    def lease(self) -> Lease:
        """The client's lease; only for routes that need one."""
        assert self.client is not None
        return self.client

    @property
    def token(self) -> str:
        """The client's lease as sent, which need not exist."""
        return _token(self.request)

    @property
    def query(self) -> dict[str, str]:
        return dict(self.request.query_params)

    @property
    def label(self) -> int:
        """The label in the address (/label/NAME/...), else the model's first. Raises Refusal (404): no such label."""
        return self.app.label(self.request.scope["nnsam3d"]["label"])

    def json(self) -> dict[str, Any]:
        """The body. Raises Refusal (400) if it is not a JSON object."""
        return as_object(bytes(self.body) or b"{}", "the body")

    def meta(self) -> dict[str, Any]:
        """The header X-Meta. Raises Refusal (400) if it is not a JSON object."""
        return as_object(self.request.headers.get("X-Meta", "{}").encode("latin-1"), "the header X-Meta")

    async def work(self, job: Callable[[Conversation], T]) -> T:
        """The result of a job, computed in the model's thread.

        Meanwhile, the client is told that the request is being processed. If it disconnects, the job is cancelled.

        Raises:
            Refusal: the job was cancelled (409), the queue is full, the memory is taken, or the server is stopping
                (503).
            Disconnected: the client has gone.
        """
        lease, conversation = self.lease, self.lease.conversation
        await self.stack.enter_async_context(self.app.reserved(conversation.working_bytes))
        ticket = conversation.session.ticket()  # it can be cancelled from now on

        def whole() -> T:
            try:
                with self.app.computing(), conversation.session.computing(ticket):
                    return job(conversation)
            finally:
                conversation.doing = None
                self.app.leases.make_room()

        future = self.app.worker.submit(whole, quick=conversation.is_quick)
        lease.job = future
        waiting: asyncio.Future[Any] = asyncio.wrap_future(future)
        gone: asyncio.Future[Any] = asyncio.ensure_future(_until_gone(self.request.receive))
        try:
            while True:
                await asyncio.wait({waiting, gone}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
                if waiting.cancelled() and self.app.worker.closed:
                    raise Refusal(503, "the server is stopping")
                if waiting.cancelled():
                    raise Refusal(409, "cancelled: everything is as before this request")
                if waiting.done():
                    return waiting.result()  # type: ignore[no-any-return]
                if gone.done() and future.cancel():
                    raise Disconnected
                if gone.done():  # the job has begun: it stops at the next window
                    conversation.session.cancel()
                    gone = asyncio.ensure_future(asyncio.sleep(3600))
                elif processing := self.request.scope.get("extensions", {}).get(PROCESSING):
                    await processing()
        finally:
            gone.cancel()

    async def step(self, job: Callable[[Conversation], T]) -> T:
        """As :meth:`work`, for a step of the history: if it fails or is cancelled, all is as before, redo included."""

        def whole(conversation: Conversation) -> T:
            before = conversation.snapshot()
            try:
                return job(conversation)
            except Exception:
                conversation.restore(before)
                raise

        return await self.work(whole)

    async def unpacked(self, size: int, unpack: Callable[[], T]) -> T:
        """The result of a decompression, in a thread. Only one runs at a time.

        Args:
            size: of the result in bytes, which is reserved until the request has been answered.
        """
        await self.reserve(size)
        async with self.app.unpacking:
            return await asyncio.to_thread(unpack)

    async def reserve(self, size: int) -> None:
        """Reserves memory until the request has been answered; see :meth:`App.reserved`."""
        await self.stack.enter_async_context(self.app.reserved(size, self.lease))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def as_object(text: bytes, what: str) -> dict[str, Any]:
    """Parses a JSON object. Raises Refusal (400) if the text is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"{what} is not valid JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"{what} is not a JSON object")
    return value


def three_numbers(values: Any, what: str) -> list[float]:
    """Checks for three finite numbers. Raises Refusal (400)."""
    if (
        not isinstance(values, list)
        or len(values) != 3
        or any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values)
        or not all(abs(value) < 1e9 for value in values)  # NaN is not; integers of any length can be compared
    ):
        raise Refusal(400, f"{what} must be three numbers")
    return [float(value) for value in values]


def spacing_mm(values: Any, what: str) -> list[float]:
    """Checks a spacing. Viewers send negative values for flipped axes. Raises Refusal (400)."""
    spacing = [abs(value) for value in three_numbers(values, what)]
    if not all(spacing):
        raise Refusal(400, f"invalid spacing: {spacing} mm")
    return spacing


# ---------------------------------------------------------------------- routes

Serve = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True)
class Endpoint:
    """An ASGI application that serves one route of a protocol.

    Attributes:
        lease: "none" if no lease is needed, otherwise which of the lease's clocks the request resets: see
            :meth:`Leases.find`.
        keyed: requires the server's key, if it has one.
        large: accepts arrays and files; other bodies are limited to 1 MiB.
        claims: accepts the token of a promised lease (:meth:`App.promise`).
        opens: opens the image that the viewer shows already. If that fails, the client has no image: clicks must not be
            answered from an older one.
    """

    method: str
    path: str
    serve: Serve
    lease: Resets | Literal["none"] = "acts"
    keyed: bool = True
    large: bool = False
    claims: bool = False
    opens: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        # what clients request again and again, or with every page, is logged only when it fails
        routine = self.lease in ("lives", "looks") or (self.lease == "none" and self.method == "GET")
        scope["nnsam3d"].update(name=self.path, routine=routine)
        app: App = request.app.state.served
        if self.keyed and app.key is not None:
            _check_key(app.key, request)
        if self.lease == "none":
            return await self._serve(app, request, None, send)
        token = _token(request)  # its lease is found before a large body is read
        client = app.kept(token) if self.claims else app.leases.find(token, "looks")
        if self.lease != "acts":
            app.leases.find(client.token, self.lease)
            return await self._serve(app, request, client, send)
        app.leases.touch(client, 1)
        try:
            async with client.lock:  # the requests of a client are served one at a time
                app.leases.find(client.token)
                return await self._serve(app, request, client, send)
        finally:
            app.leases.touch(client, -1)

    async def _serve(self, app: App, request: Request, client: Lease | None, send: Send) -> None:
        """The answer is sent before memory is given back and the client's next request begins."""
        async with AsyncExitStack() as stack:
            try:
                body = await _body(app, request, app.limits.array_bytes if self.large else SMALL_BODY, stack)
                response = await self.serve(Call(app, request, client, body, stack))
            except Exception:
                if self.opens and client is not None:
                    client.conversation.close_image()
                raise
            await response(request.scope, request.receive, send)


def route(method: str, path: str, serve: Serve, lease: Resets | Literal["none"] = "acts", **flags: bool) -> Route:
    """A route of a protocol, see :class:`Endpoint`."""
    return Route(path, Endpoint(method, path, serve, lease, **flags), methods=[method])


def _token(request: Request) -> str:
    """The client's lease: from the header, the query (URLs that a browser loads itself) or the path (ITK-SNAP)."""
    header, query = request.headers.get("X-Lease-Token"), request.query_params.get("lease")
    return header or query or str(request.path_params.get("token", ""))


def _check_key(wanted: str, request: Request) -> None:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ") or request.query_params.get("key", "")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode()):
        raise Refusal(401, "the server's key is missing or wrong", {"WWW-Authenticate": "Bearer"})


async def _body(app: App, request: Request, limit: int, stack: AsyncExitStack) -> bytearray:
    """The body. Its memory is reserved before it is read, and it must arrive in time."""
    if "transfer-encoding" in request.headers:
        raise Refusal(411, "the request needs a Content-Length")
    length = int(request.headers.get("Content-Length", 0))
    if length > limit:
        raise Refusal(413, f"the body has {length:,} bytes; the limit is {limit:,}")
    await stack.enter_async_context(app.reserved(length))
    body = bytearray()
    start = time.monotonic()
    while len(body) < length:
        ends = start + BODY_SECONDS + len(body) / SLOWEST  # by what has arrived: announcing much gives no time
        try:
            message = await asyncio.wait_for(request.receive(), max(0.0, ends - time.monotonic()))
        except asyncio.TimeoutError as error:  # not the built-in one before Python 3.11
            raise Refusal(408, "the body of the request did not arrive in time", {"Connection": "close"}) from error
        if message["type"] == "http.disconnect":
            raise Disconnected
        body += message["body"]
    request.scope["nnsam3d"]["unread"] = False
    return body
