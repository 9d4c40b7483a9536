"""Who uses the server: one lease for each client, with its conversation, two clocks, and a share of the memory."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import RLock

from nnsam3d.server.conversation import Conversation
from nnsam3d.server.refusal import Refusal

FULL_SECONDS = 10  # after which a client may ask again


@dataclass
class Lease:
    """One client.

    Attributes:
        used: when the client last did something (the idle clock).
        alive: when anything was last heard of it (the liveness clock).
        lock: held while a request of this client is served: they are served one after the other.
    """

    token: str
    conversation: Conversation
    used: float
    alive: float
    lock: RLock = field(default_factory=RLock)
    busy: int = 0


class Leases:
    """All clients of one model.

    A lease ends when its client gives it back, does nothing for ``idle`` seconds, or is not heard of for ``liveness``
    seconds; never while a request of it is served.
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
            make: a new client's conversation.
            limit: how many clients at once.
            idle, liveness: seconds.
            budget: bytes for the images of all clients and for what is kept for their next clicks.
        """
        self.limit, self.idle, self.liveness, self.budget = limit, idle, liveness, budget
        self._make, self._clock = make, clock
        self._leases: dict[str, Lease] = {}
        self._lock = RLock()

    def __len__(self) -> int:
        return len(self._leases)

    def claim(self) -> Lease:
        """A lease for a new client.

        Raises:
            Refusal: all are taken (503).
        """
        with self._lock:
            self.expire()
            if len(self._leases) >= self.limit:
                raise Refusal(
                    503,
                    f"all {self.limit} places of the server are taken: try again later",
                    {"Retry-After": str(FULL_SECONDS)},
                )
            now = self._clock()
            lease = Lease(secrets.token_urlsafe(24), self._make(), now, now)
            self._leases[lease.token] = lease
            return lease

    def find(self, token: str, acts: bool = True, looks: bool = False) -> Lease:
        """The lease of a token.

        Args:
            acts: the client does something, which sets both clocks; otherwise the liveness clock only.
            looks: neither of them.

        Raises:
            Refusal: there is none, or it has ended (410).
        """
        with self._lock:
            self.expire()
            lease = self._leases.get(token)
            if lease is None:
                raise Refusal(410, "the session has ended or is not known: connect again")
            now = self._clock()
            lease.alive = lease.alive if looks else now
            lease.used = now if acts and not looks else lease.used
            return lease

    def remaining(self, lease: Lease) -> float:
        """Seconds until the idle clock ends a lease."""
        return max(0.0, self.idle - (self._clock() - lease.used))

    def touch(self, lease: Lease, busy: int) -> None:
        """A request of it begins (1) or ends (-1); both clocks start again when it ends."""
        with self._lock:
            lease.busy += busy
            lease.used = lease.alive = self._clock()

    def release(self, token: str) -> None:
        """The client has gone; it may say so twice."""
        with self._lock:
            lease = self._leases.pop(token, None)
        if lease is not None:
            lease.conversation.session.cancel()

    def expire(self) -> None:
        """Ends the leases whose clocks have run out."""
        now = self._clock()
        with self._lock:
            over = [
                lease.token
                for lease in self._leases.values()
                if not lease.busy and (now - lease.used > self.idle or now - lease.alive > self.liveness)
            ]
            for token in over:
                del self._leases[token]

    def make_room(self, wanted: int = 0, but: Lease | None = None) -> None:
        """Keeps to the budget: what is kept for next clicks goes first, of the client that has rested longest.

        In the worker's thread, like everything that a session does.

        Args:
            wanted: bytes that come in addition.
            but: its image will be replaced.

        Raises:
            Refusal: the images alone are too many (503).
        """
        with self._lock:
            leases = sorted(self._leases.values(), key=lambda lease: lease.used)
        free = self.budget - wanted - sum(lease.conversation.nbytes for lease in leases if lease is not but)
        for lease in leases:
            if free >= 0:
                return
            if lease is not but:
                before = lease.conversation.nbytes
                lease.conversation.session.forget_windows()
                free += before - lease.conversation.nbytes
        if free < 0 and wanted:
            raise Refusal(
                503,
                f"the server's memory ({self.budget / 2**30:.1f} GiB) is full of other images: try again later",
                {"Retry-After": str(FULL_SECONDS)},
            )
