"""Shared by the routes of all protocols: the model, its clients, requests and responses."""

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
    """Limits for each client and for all clients together."""

    sessions: int = 8
    idle_seconds: float = 600.0
    liveness_seconds: float = 60.0
    memory_bytes: int = 8 * 2**30  # images, and encoded windows cached for further clicks
    array_bytes: int = 2 * 2**30  # one uploaded image, uncompressed
    waiting: int = 64  # queued requests


@dataclass
class Request:
    """A request whose HTTP has been read and checked.

    Attributes:
        label: NAME of a path /label/NAME/..., otherwise None.
        rest: the part of the path after the route's own path, for routes that end in "/".
        wait: waits for a future of the worker and keeps the connection alive meanwhile.
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
        """The client's lease: from the header, the query (URLs that a browser loads itself) or the path (ITK-SNAP)."""
        return self.headers.get("X-Lease-Token") or self.query.get("lease") or self.rest.partition("/")[0]

    def json(self) -> dict[str, Any]:
        """The body. Raises Refusal (400) if it is not a JSON object."""
        return as_object(self.body or b"{}", "the body")

    def meta(self) -> dict[str, Any]:
        """The header X-Meta."""
        return as_object(self.headers.get("X-Meta", "{}").encode("latin-1"), "the header X-Meta")


def as_object(text: bytes, what: str) -> dict[str, Any]:
    """Parses a JSON object. Raises Refusal (400) if the text is not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"{what} is not valid JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise Refusal(400, f"{what} is not a JSON object")
    return value


@dataclass
class Response:
    """A response; JSON by default."""

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
        lease: "none" if no lease is needed, otherwise which of the lease's clocks the request resets: "acts" (both),
            "lives" (liveness only), "looks" (neither).
        keyed: requires the server's key, if it has one.
        large: accepts arrays and files; other bodies are limited to 1 MiB.
    """

    serve: Callable[[App, Request, Any], Response]
    lease: str = "acts"
    keyed: bool = True
    large: bool = False

    def is_routine(self, method: str) -> bool:
        """Whether clients request it again and again, or with every page: files of the page, heartbeats, progress."""
        return self.lease in ("lives", "looks") or (self.lease == "none" and method == "GET")


class App:
    """One model and its clients.

    Attributes:
        cases: the folder of --images, if given.
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
        """The result of a job, computed in the model's thread while the connection is kept alive."""
        result: T = request.wait(self.worker.submit(job))
        return result

    def work_for(self, request: Request, lease: Lease, job: Callable[[Conversation], T]) -> T:
        """Like :meth:`work`, and frees memory afterwards if the budget is exceeded."""

        def whole() -> T:
            try:
                return job(lease.conversation)
            finally:
                lease.conversation.doing = None
                self.leases.make_room()

        return self.work(request, whole)

    def label(self, request: Request) -> int:
        """The label in the request's path; without one, the model's first label.

        Raises:
            Refusal: the model does not have the label (404).
        """
        labels = {name: value for name, value in self.model.labels.items() if value}
        if request.label is None:
            return min(labels.values())
        name = unquote(request.label)
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
