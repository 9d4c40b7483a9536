"""Shared by the routes of all protocols: the model, its clients, and the limits."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

from nnsam3d.inference.model import Model
from nnsam3d.server.cases import Cases
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.learner import Learner
from nnsam3d.server.leases import Lease, Leases
from nnsam3d.server.refusal import Refusal
from nnsam3d.server.worker import Worker

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits for each client and for all clients together."""

    sessions: int = 8
    idle_seconds: float = 600.0
    liveness_seconds: float = 60.0
    memory_bytes: int = 8 * 2**30  # everything: bodies, uploads, images, windows cached for further clicks
    array_bytes: int = 2 * 2**30  # one uploaded image, uncompressed
    waiting: int = 64  # queued requests


class App:
    """One model and its clients.

    Attributes:
        model: the newest one; conversations take it with their next image.
        learner: with which it learns from saved cases.
        cases: the folder of --images, if given.
        key: what clients must send; None: nothing.
        unpacking: held while an upload is decompressed, so that only one is at a time.
    """

    def __init__(self, model: Model, limits: Limits, cases: Cases | None = None, key: str | None = None) -> None:
        self.model, self.limits, self.cases, self.key = model, limits, cases, key
        self.worker = Worker(limits.waiting)
        self.leases = Leases(
            lambda: Conversation(lambda: self.model, limits.memory_bytes // 2, self.worker.let_others),
            limits.sessions,
            limits.idle_seconds,
            limits.liveness_seconds,
            limits.memory_bytes,
        )
        self.learner: Learner | None = None
        self.unpacking = asyncio.Lock()
        self._secret = secrets.token_bytes(32)

    def take(self, model: Model) -> None:
        """Serves another model: clients get it with their next image."""
        self.model = model

    def computing(self) -> AbstractContextManager[None]:
        """A context in which the learning pauses."""
        return nullcontext() if self.learner is None else self.learner.paused()

    @asynccontextmanager
    async def reserved(self, size: int, lease: Lease | None = None) -> AsyncIterator[None]:
        """Reserves bytes of the memory budget. Must run in the event loop.

        Args:
            lease: whose image is about to be replaced, so that its memory does not count.

        Raises:
            Refusal: the memory is taken by images and other requests (503).
        """
        self.leases.reserve(size, lease)
        try:
            if size > MIB and self.leases.free < 0:  # cached windows are dropped in the thread that uses them
                await asyncio.wrap_future(self.worker.submit(self.leases.make_room, quick=True))
            yield
        finally:
            self.leases.reserve(-size)

    # ------------------------------------------------------------------ leases that begin with a GET

    def promise(self) -> str:
        """A token with which a client may claim a lease later, in a POST. Making one changes nothing."""
        token = secrets.token_urlsafe(24)
        return token + self._signature(token)

    def kept(self, token: str) -> Lease:
        """The lease of a token, claimed now if it was only promised.

        Raises:
            Refusal: the server is full (503), or the token is unknown or its lease has ended (410).
        """
        signed = hmac.compare_digest(token[32:].encode("utf-8", "replace"), self._signature(token[:32]).encode())
        if signed and self.leases.is_new(token):
            return self.leases.claim(token)
        return self.leases.find(token, "looks")

    def _signature(self, token: str) -> str:
        return hmac.new(self._secret, token.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:32]

    # ------------------------------------------------------------------ what the model can do

    def label(self, name: str | None) -> int:
        """The value of a label; without a name, of the model's first label.

        Raises:
            Refusal: the model does not have the label (404).
        """
        labels = {known: value for known, value in self.model.labels.items() if value}
        if name is None:
            return min(labels.values())
        if name not in labels:
            raise Refusal(404, f"the model has no label {name!r}; it has {', '.join(labels)}")
        return labels[name]

    def check_one_channel(self) -> None:
        """Raises Refusal (400) if the model has several channels: viewers send only one."""
        channels = self.model.num_channels
        if channels > 1:
            raise Refusal(
                400,
                f"this model needs {channels} images per case, but viewers send only one: start the server with "
                "--images FOLDER and use its own page",
            )
