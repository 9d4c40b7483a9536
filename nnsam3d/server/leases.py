"""The clients of the server: each has a lease with a conversation, two timers, and a share of the memory."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Literal

from nnsam3d.server.conversation import Conversation
from nnsam3d.server.refusal import Refusal

Resets = Literal["acts", "lives", "looks"]
FULL_SECONDS = 10  # Retry-After when the server is full


@dataclass
class Lease:
    """One client.

    Attributes:
        used: time of the client's last action (idle clock).
        alive: time of its last action or heartbeat (liveness clock).
        lock: held while a request of this client is served, so that its requests are served one at a time.
        reading: held while an image is read ahead, so that opening it waits for that.
        busy: number of requests of this client being served.
        job: what was queued last for the model.
    """

    token: str
    conversation: Conversation
    used: float
    alive: float
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    busy: int = 0
    job: Future[Any] | None = None


class Leases:
    """All clients of one model.

    A lease ends when its client releases it, is idle for ``idle`` seconds, or sends nothing for ``liveness`` seconds;
    never while one of its requests is being served.
    """

    def __init__(
        self,
        make: Callable[[], Conversation],
        limit: int,
        idle: float,
        liveness: float,
        budget: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            make: creates the conversation of a new client.
            limit: maximum number of clients.
            idle, liveness: seconds.
            budget: bytes for the requests being served, the images of all clients, and the windows cached for further
                clicks.
        """
        self.limit, self.idle, self.liveness, self.budget = limit, idle, liveness, budget
        self._reserved = 0
        self._ended: deque[str] = deque(maxlen=1024)  # tokens that cannot be claimed again
        self._make, self._clock = make, clock
        self._leases: dict[str, Lease] = {}
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._leases)

    def is_new(self, token: str) -> bool:
        """Whether no lease has ever had this token."""
        with self._lock:
            return token not in self._leases and token not in self._ended

    def claim(self, token: str | None = None) -> Lease:
        """A lease for a new client.

        Args:
            token: of the lease; None: a new one.

        Raises:
            Refusal: the server is full (503).
        """
        with self._lock:
            self.expire()
            if len(self._leases) >= self.limit:
                raise Refusal(
                    503,
                    f"the server is full ({self.limit} clients): try again later",
                    {"Retry-After": str(FULL_SECONDS)},
                )
            now = self._clock()
            lease = Lease(token or secrets.token_urlsafe(24), self._make(), now, now)
            self._leases[lease.token] = lease
            return lease

    def find(self, token: str, resets: Resets = "acts") -> Lease:
        """The lease of a token.

        Args:
            resets: "acts" resets both clocks, "lives" the liveness clock, "looks" neither.

        Raises:
            Refusal: the lease does not exist or has ended (410).
        """
        with self._lock:
            self.expire()
            lease = self._leases.get(token)
            if lease is None:
                raise Refusal(410, "the session has ended or is unknown: connect again")
            if resets != "looks":
                lease.alive = self._clock()
            if resets == "acts":
                lease.used = lease.alive
            return lease

    def remaining(self, lease: Lease) -> float:
        """Seconds until a lease ends because its client is idle."""
        return max(0.0, self.idle - (self._clock() - lease.used))

    def touch(self, lease: Lease, busy: int) -> None:
        """A request begins (``busy`` = 1) or ends (-1). Resets both clocks."""
        with self._lock:
            lease.busy += busy
            lease.used = lease.alive = self._clock()

    def release(self, token: str) -> None:
        """Ends a lease, if it exists, and cancels the running computation."""
        with self._lock:
            lease = self._leases.pop(token, None)
            self._ended.append(token)
        if lease is not None:
            lease.conversation.session.cancel()

    def expire(self) -> None:
        """Ends all leases whose idle or liveness time is over."""
        now = self._clock()
        with self._lock:
            over = [
                lease.token
                for lease in self._leases.values()
                if not lease.busy and (now - lease.used > self.idle or now - lease.alive > self.liveness)
            ]
            for token in over:
                del self._leases[token]
            self._ended.extend(over)

    def opened_by_others(self, own: Lease) -> list[str]:
        """The cases of the server's folder that other clients have open; once for every client."""
        with self._lock:
            others = [lease.conversation.case for lease in self._leases.values() if lease is not own]
        return [case for case in others if case]

    # ------------------------------------------------------------------ memory

    @property
    def free(self) -> int:
        """Bytes of the budget that nobody uses; negative if cached windows have to go."""
        with self._lock:
            used = sum(lease.conversation.nbytes for lease in self._leases.values())
            return self.budget - self._reserved - used

    def reserve(self, size: int, but: Lease | None = None) -> None:
        """Reserves bytes for a request; a negative number gives them back.

        Args:
            but: a lease whose image is about to be replaced, so that its memory does not count.

        Raises:
            Refusal: images and other requests need the memory (503).
        """
        with self._lock:
            images = sum(lease.conversation.image_bytes for lease in self._leases.values() if lease is not but)
            if size > 0 and self._reserved + images + size > self.budget:
                raise Refusal(
                    503,
                    f"images and requests of other clients fill the server's memory ({self.budget / 2**30:.2g} GiB): "
                    "try again later, or start the server with a larger --memory",
                    {"Retry-After": str(FULL_SECONDS)},
                )
            self._reserved += size

    def make_room(self) -> None:
        """Keeps the budget: drops images that were read ahead, then cached windows, of the client idle longest first.

        Must run in the worker's thread, like everything that a session does.
        """
        with self._lock:
            held = [lease.conversation for lease in sorted(self._leases.values(), key=lambda lease: lease.used)]
        for drop in [one.forget_ahead for one in held] + [one.session.forget_windows for one in held]:
            if self.free >= 0:
                return
            drop()
