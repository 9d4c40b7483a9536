"""The error for requests that cannot be served."""

from __future__ import annotations

from collections.abc import Mapping

from nnsam3d.errors import UserError


class Refusal(UserError):
    """A request that cannot be served. The viewer shows the message to its user.

    Attributes:
        status: the HTTP status code.
        headers: additional headers of the response.
    """

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
