"""From a trained model, an image and clicks to a segmentation: :class:`Session`, and `nnsam3d predict`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsam3d.inference.model import Model
    from nnsam3d.inference.session import Session

__all__ = ["Model", "Session"]


def __getattr__(name: str) -> Any:
    """Late, so that `nnsam3d predict --help` does not wait for torch."""
    if name == "Session":
        from nnsam3d.inference.session import Session

        return Session
    if name == "Model":
        from nnsam3d.inference.model import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
