"""One connection, below ASGI: what uvicorn and h11 do not do.

uvicorn reads requests and writes responses. By hand remain only the four things that it does not offer, each of which
a client or an attacker needs:

- Interim responses. A first click can take minutes, and clients of nnInteractive give up after 60 s of silence.
  "102 Processing" keeps them waiting; ASGI has no message for it (extension ``PROCESSING`` of the scope).
- Reason phrases. Viewers show the phrase of the status line to their users, and not the body; ASGI has none (the header
  ``Reason`` of a response becomes the phrase).
- Strict heads. h11 accepts heads that a proxy in front may read differently (folded lines, repeated lengths, a length
  beside a transfer encoding): they are refused before h11 sees them. The next request is read after the answer only.
- Deadlines. uvicorn waits for ever for a head, for the rest of a refused body, and for a client that does not read.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

PROCESSING = "nnsam3d.processing"  # in scope["extensions"]: an async function that sends an interim response
CONNECTIONS = 256  # beyond this, the connection that has been idle longest is closed
HEAD_BYTES = 2**16
HEAD_SECONDS = 20.0  # from its first byte to its last
IDLE_SECONDS = 20.0  # without a request
DRAIN_SECONDS = 60.0  # for the rest of a body after its refusal: some clients read the response after sending all
STUCK_SECONDS = 60.0  # without taking any byte of a response
TICK = 1.0  # s between two looks at the clock

END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
REQUEST_LINE = re.compile(rb"[A-Z]{3,16} (?:/[\x21-\x7e]*|\*) HTTP/1\.[01]")
FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
ONCE = (b"host", b"content-length", b"transfer-encoding")


class Wire(H11Protocol):
    """The protocol of one connection; see the module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Connection(h11.SERVER, HEAD_BYTES + 1024)
        self.app = self._with_interim_responses(self.app)
        self._waiting = bytearray()  # received, but not given to h11 yet
        self._body_left: float = 0  # bytes of the current request's body that have not been received
        self._since = self.loop.time()  # when the current state began: idle, in the head, or draining
        self._unsent = (0, self._since)  # bytes in the send buffer, and since when there are so many
        self._tick: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ receiving

    @property
    def is_idle(self) -> bool:
        """Whether no request is being received or answered."""
        return self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # asyncio does so for sockets of one kind only; without it, every answer waits 40 ms for a delayed ACK
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tick = self.loop.call_later(TICK, self._look)
        others = [one for one in self.connections if isinstance(one, Wire) and not one.transport.is_closing()]
        idle = [one for one in others if one.is_idle and one is not self]
        if len(others) > CONNECTIONS and idle:
            min(idle, key=lambda one: one._since).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._tick is not None:
            self._tick.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_idle and not self._waiting:
            self._since = self.loop.time()  # a new head begins
        if not self._waiting and len(data) <= self._body_left:
            self._receive(data)
        else:
            self._waiting += data
            self._advance()

    def _receive(self, part: bytes) -> None:
        self._body_left -= len(part)
        super().data_received(part)

    def _advance(self) -> None:
        """Gives h11 what belongs to the current request, or a whole head that has been checked."""
        while self._waiting and not self.transport.is_closing():
            if self._body_left:
                size = int(min(self._body_left, len(self._waiting)))
                part = bytes(self._waiting[:size])
                del self._waiting[:size]
                self._receive(part)
            elif not self.is_idle:  # the next request, before the current one is answered
                if len(self._waiting) > HEAD_BYTES:
                    self.flow.pause_reading()
                return
            elif not self._take_head():
                return

    def _take_head(self) -> bool:
        """Whether there was a whole head."""
        while self._waiting[:1] in (b"\r", b"\n"):  # RFC 9112 asks to ignore empty lines before a request
            del self._waiting[:1]
        end = END_OF_HEAD.search(self._waiting)
        size = len(self._waiting) if end is None else end.end()
        if size > HEAD_BYTES:
            self._refuse(431, "the head of the request is too long")
        elif end is None:
            self._unset_keepalive_if_required()
        else:
            head = bytes(self._waiting[:size])
            length = length_of_body(head)
            if isinstance(length, str):
                self._refuse(400, length)
                return False
            del self._waiting[:size]
            self._body_left = length
            super().data_received(head)
            return True
        return False

    def on_response_complete(self) -> None:
        """Also called if the body has not been received yet; the rest of it is then read and dropped."""
        self._since = self.loop.time()
        super().on_response_complete()
        self._advance()

    def send_400_response(self, msg: str) -> None:
        """Of h11: a malformed chunked body. An answer may have begun."""
        begun = self.cycle is not None and self.cycle.response_started
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        return self.transport.close() if begun else self._refuse(400, "malformed body")

    def _refuse(self, status: int, words: str) -> None:
        body = b'{"detail": "%s"}' % words.encode("ascii")
        head = f"HTTP/1.1 {status} {words}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(head.encode("ascii") + b"Connection: close\r\n\r\n" + body)
        self.transport.close()

    # ------------------------------------------------------------------ deadlines

    def _look(self) -> None:
        now = self.loop.time()
        size = self.transport.get_write_buffer_size()
        if size == 0 or size != self._unsent[0]:
            self._unsent = size, now
        if size and now - self._unsent[1] > STUCK_SECONDS:
            return self.transport.abort()
        waited = now - self._since
        answered = self.cycle is not None and self.cycle.response_complete
        if self.is_idle and self._waiting and waited > HEAD_SECONDS:
            return self._refuse(408, "the head of the request did not arrive in time")
        if self.is_idle and not self._waiting and not size and waited > IDLE_SECONDS:
            return self.transport.close()
        if answered and self._body_left and waited > DRAIN_SECONDS:
            return self.transport.abort()
        if not self.is_idle and not answered:
            self._since = now
        self._tick = self.loop.call_later(TICK, self._look)
        return None

    # ------------------------------------------------------------------ sending

    def _with_interim_responses(self, app: Any) -> Callable[..., Awaitable[None]]:
        async def extended(scope: Any, receive: Any, send: Any) -> None:
            async def processing() -> None:
                if scope["http_version"] != "1.0" and self.conn.our_state is h11.SEND_RESPONSE:
                    interim = h11.InformationalResponse(status_code=102, headers=[], reason=b"Processing")
                    self.transport.write(self.conn.send(interim) or b"")

            scope.setdefault("extensions", {})[PROCESSING] = processing
            await app(scope, receive, send)

        return extended


class _Connection(h11.Connection):
    """Sends the header ``Reason`` as the reason phrase."""

    def send(self, event: Any) -> Any:
        if isinstance(event, h11.Response):
            phrases = [value for name, value in event.headers if name == b"reason"]
            others = [(name, value) for name, value in event.headers.raw_items() if name.lower() != b"reason"]
            reason = phrases[0] if phrases else event.reason
            event = h11.Response(status_code=event.status_code, headers=others, reason=reason)
        return super().send(event)


def length_of_body(head: bytes) -> float | str:
    """Bytes of the body that follows a head, infinite if it is chunked; words if the head is malformed.

    Stricter than HTTP allows, so that no proxy can see other requests than this server.
    """
    first, *lines = head.rstrip(b"\r\n").split(b"\r\n")
    if not REQUEST_LINE.fullmatch(first):
        return "malformed request line"
    fields: dict[bytes, bytes] = {}
    for line in lines:
        field = FIELD.fullmatch(line)
        if field is None:
            return "malformed header line"
        name = field[1].lower()
        if name in ONCE and name in fields:
            return f"more than one header {name.decode()}"
        fields[name] = field[2].strip()
    length = fields.get(b"content-length")
    if b"transfer-encoding" in fields:
        return "both Content-Length and Transfer-Encoding" if length is not None else math.inf
    if length is not None and not (length.isdigit() and len(length) < 20):
        return "Content-Length is not a number"
    return int(length or 0)
