"""From a trained model, an image and clicks to a segmentation: :class:`Session`, and `nnsam3d predict`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsam3d.inference.model import Model
    from nnsam3d.inference.session import Session

__all__ = ["Model", "Session"]


def __getattr__(name: str) -> Any:
    """Late, so that `nnsam3d predict --help` does not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"nnsam3d.inference.{name.lower()}"), name)
