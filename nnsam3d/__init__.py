"""Click-promptable 3D segmentation (3DSAM-adapter) through nnU-Net's own commands.

Importing this package is cheap: it loads neither torch nor numpy. Import the part that you need:
`nnsam3d.network`, `nnsam3d.prompts`, `nnsam3d.training`, …
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nnsam3d.inference import Session
    from nnsam3d.notebook import SessionWidget

__version__ = "0.1.0"


def widget(session: Session, image: Any = None, height: int = 480) -> SessionWidget:
    """A session to click in inside a notebook, see :class:`nnsam3d.notebook.SessionWidget`.

    Needs the extra: ``pip install '/path/to/nnsam3d[notebook]'``.
    """
    from nnsam3d.notebook import SessionWidget

    return SessionWidget(session, image, height)
