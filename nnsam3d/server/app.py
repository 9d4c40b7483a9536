"""What all families of routes share: the model, its clients, and how a request is answered."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, TypeVar
from urllib.parse import unquote

from nnsam3d.inference.model import Model
from nnsam3d.server.cases import Cases
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.leases import Lease, Leases
from nnsam3d.server.refusal import Refusal
from nnsam3d.server.worker import Worker

T = TypeVar("T")
BINARY, JSON = "application/octet-stream", "application/json"
MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and all of them together."""

    sessions: int = 8
    idle_seconds: float = 600.0
    liveness_seconds: float = 60.0
    memory_bytes: int = 8 * 2**30  # images, and what is kept for next clicks
    array_bytes: int = 2 * 2**30  # one image as it is sent, uncompressed
    waiting: int = 64  # requests


@dataclass
class Request:
    """A request, read and checked as far as HTTP goes.

    Attributes:
        label: of the path /label/NAME/..., None without.
        rest: what follows the route's own path, for routes that end in "/".
        wait: waits for a future of the worker, and keeps the client patient meanwhile.
    """

    method: str
    path: str
    label: str | None
    query: Mapping[str, str]
    headers: Message
    body: bytes
    wait: Callable[[Future[Any]], Any]
    rest: str = ""

    @property
    def token(self) -> str:
        """Of the client's lease: a header, in addresses that a browser loads by itself, or in ITK-SNAP's paths."""
        return self.headers.get("X-Lease-Token") or self.query.get("lease") or self.rest.partition("/")[0]

    def json(self) -> dict[str, Any]:
        """Raises Refusal (400) for a body that is no JSON object."""
        return as_object(self.body or b"{}", "the body")

    def meta(self) -> dict[str, Any]:
        """The header X-Meta."""
        return as_object(self.headers.get("X-Meta", "{}").encode("latin-1"), "the header X-Meta")


def as_object(text: bytes, what: str) -> dict[str, Any]:
    """Raises Refusal (400) for what is no JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"{what} is no JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"{what} is no JSON object")
    return value


@dataclass
class Response:
    """An answer; JSON unless something else is said."""

    body: bytes = b"{}"
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200

    @classmethod
    def of(cls, **values: Any) -> Response:
        """A JSON object of these values."""
        return cls(json.dumps(values).encode())


@dataclass(frozen=True)
class Route:
    """How one path is served.

    Attributes:
        lease: "none", or what the request does to the client's clocks: "acts", "lives" (heard of, no more), "looks".
        keyed: needs the server's key, where there is one.
        large: takes arrays and files; other bodies end at 1 MiB.
    """

    serve: Callable[[App, Request, Any], Response]
    lease: str = "acts"
    keyed: bool = True
    large: bool = False


class App:
    """One model and its clients.

    Attributes:
        cases: the folder given with --images; None without.
    """

    def __init__(self, model: Model, limits: Limits, cases: Cases | None = None) -> None:
        self.model, self.limits, self.cases = model, limits, cases
        self.worker = Worker(limits.waiting)
        self.leases = Leases(
            lambda: Conversation(model, limits.memory_bytes // 2),
            limits.sessions,
            limits.idle_seconds,
            limits.liveness_seconds,
            limits.memory_bytes,
        )

    def work(self, request: Request, job: Callable[[], T]) -> T:
        """A job's result, computed in the model's thread while the client is kept patient."""
        result: T = request.wait(self.worker.submit(job))
        return result

    def work_for(self, request: Request, lease: Lease, job: Callable[[Conversation], T]) -> T:
        """As :meth:`work`; afterwards the memory is within its budget again."""

        def whole() -> T:
            try:
                return job(lease.conversation)
            finally:
                lease.conversation.doing = None
                self.leases.make_room()

        return self.work(request, whole)

    def label(self, request: Request) -> int:
        """The label of the request's path; the first one without.

        Raises:
            Refusal: the model has no such label (404).
        """
        labels = {name: value for name, value in self.model.labels.items() if value}
        if request.label is None:
            return min(labels.values())
        name = unquote(request.label)
        if name not in labels:
            raise Refusal(404, f"the model has no label {name!r}; it has {', '.join(labels)}")
        return labels[name]

    def check_one_channel(self) -> None:
        """Raises Refusal (400) for a model of several channels: viewers send one."""
        channels = self.model.num_channels
        if channels > 1:
            raise Refusal(
                400,
                f"this model looks at {channels} images of a case at once, and viewers send one: start the server with "
                "--images FOLDER and click in its own page",
            )
