"""What a client is told when its request cannot be served."""

from __future__ import annotations

from collections.abc import Mapping

from nnsam3d.errors import UserError


class Refusal(UserError):
    """A request that is not served; the message is for the person at the viewer.

    Attributes:
        status: HTTP's.
        headers: to send with it.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
