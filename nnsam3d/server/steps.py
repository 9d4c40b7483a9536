"""Steps of a client that leave no trace if they fail or are cancelled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nnsam3d.server.conversation import Conversation

T = TypeVar("T")


def as_step(job: Callable[[Conversation], T]) -> Callable[[Conversation], T]:
    """The job; if it raises an error, the history of the conversation is as before, redo included."""

    def whole(conversation: Conversation) -> T:
        before = conversation.snapshot()
        try:
            return job(conversation)
        except Exception:
            conversation.restore(before)
            raise

    return whole
