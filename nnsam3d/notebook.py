"""Interactive segmentation in notebooks with ipyniivue: ``nnsam3d.widget(session)``. Needs the extra ``notebook``."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import nibabel
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError
from nnsam3d.inference.session import Session
from nnsam3d.nnunet.lazy import LazyVolume
from nnsam3d.prompts import Click, Prompt
from nnsam3d.prompts.components import volume_and_count
from nnsam3d.tables import counted

try:
    import ipywidgets
    from ipyniivue import MultiplanarType, NiiVue, ShowRender, Volume
except ImportError as error:
    raise UserError(f"{error.name} is missing: pip install '/path/to/nnsam3d[notebook]'") from error

BACKGROUND = "background"
OPACITY = 0.5
# Okabe and Ito's palette, brightened for a dark background; the same as on the page of `nnsam3d serve`.
COLOURS = (
    *((255, 176, 0), (86, 180, 233), (0, 190, 130), (230, 110, 190), (240, 228, 66), (254, 97, 0), (120, 140, 255)),
    (220, 220, 220),
)
COLOUR_TABLE = {
    **{channel: [0, *values] for channel, values in zip("RGB", zip(*COLOURS, strict=True), strict=True)},
    "A": [0] + [255] * len(COLOURS),
    "I": list(range(len(COLOURS) + 1)),
}


class SessionWidget(ipywidgets.VBox):
    """Three planes and a 3D view; every click is added to a session.

    A click marks a voxel of the selected label ("background": a voxel of none). Dragging and scrolling only move the
    crosshair. Other cells can use the session too, also with prompts of other kinds, which are counted and undone here;
    call :meth:`refresh` to show their changes.

    Attributes:
        session: receives the clicks.
        viewer: the ``ipyniivue.NiiVue`` with image and mask.
        label: drop-down list with the label of the next click.
        status: number of prompts, time, volumes and warnings after the last step.
    """

    def __init__(self, session: Session, image: ArrayLike | None = None, height: int = 480) -> None:
        """
        Args:
            image: (z, y, x), the image to display; None for the first channel of the session's image.
            height: of the viewer in pixels.

        Raises:
            UserError: the image has a different shape, or the session has no image.
        """
        self.session = session
        self._affine = _affine(session)
        self._moves: set[tuple[float, ...]] = set()  # pointer positions since the last click
        self._place: tuple[float, ...] = ()  # of the last click, in canvas pixels
        self._mm: tuple[float, ...] = ()
        self.viewer = NiiVue(
            height=height,
            multiplanar_layout=MultiplanarType.GRID,
            multiplanar_show_render=ShowRender.ALWAYS,
            crosshair_color=(0.35, 0.78, 1.0, 0.8),
            crosshair_width=0.3,
            is_radiological_convention=True,
            sagittal_nose_left=True,
            is_force_mouse_click_to_voxel_centers=True,
        )
        self._image = self._volume("image.nii.gz", _shown(session, image), colormap="gray")
        self.viewer.on_location_change(self._moved)
        self.viewer.on_mouse_up(self._released)

        names = [name for name, value in session.labels.items() if value] + [BACKGROUND]
        self.label = ipywidgets.Dropdown(options=names, description="Label")
        self.undo_button = _button("Undo", "undo", self.undo)
        self.redo_button = _button("Redo", "repeat", self.redo)
        self.reset_button = _button("Reset", "trash", self.reset)
        self.status = ipywidgets.Label()
        bar = ipywidgets.HBox([self.label, self.undo_button, self.redo_button, self.reset_button])
        super().__init__([bar, self.viewer, self.status])
        self.refresh()

    # ------------------------------------------------------------------ steps

    def click(self, position: Sequence[float], label: int | str | None = None, space: str = "voxel") -> None:
        """Adds a click, by default with the selected label. Errors are shown in the status line."""
        chosen = self.label.value if label is None else label
        self._step(lambda: self.session.add_click(position, chosen, space))

    def undo(self) -> None:
        self._step(self.session.undo)

    def redo(self) -> None:
        self._step(self.session.redo)

    def reset(self) -> None:
        self._step(self.session.reset)

    def refresh(self) -> None:
        """Shows the current segmentation of the session."""
        self._step(lambda: None)

    def _step(self, does: Callable[[], Any]) -> None:
        self.status.value = "computing…"
        start = time.perf_counter()
        try:
            does()
            segmentation = self.session.segmentation
        except UserError as error:
            self.status.value = str(error)
            return
        seconds = time.perf_counter() - start
        colours = np.where(segmentation > 0, (segmentation - 1) % len(COLOURS) + 1, 0)
        mask = self._volume("mask.nii.gz", colours.astype(np.uint8), opacity=OPACITY)
        mask.set_colormap_label(COLOUR_TABLE)
        self.viewer.volumes = [self._image, mask]
        prompts = self.session.prompts
        self.undo_button.disabled = not self.session.can_undo
        self.redo_button.disabled = not self.session.can_redo
        self.reset_button.disabled = not (prompts or self.session.started)
        parts = [f"{_counted(prompts)}, {seconds:.2f} s", *self._facts(segmentation)]
        self.status.value = " · ".join([*parts, *self.session.remarks])

    def _facts(self, segmentation: NDArray[Any]) -> list[str]:
        """Volume and number of components of every label that occurs."""
        names = {value: name for name, value in self.session.labels.items()}
        facts = []
        for value in np.unique(segmentation[segmentation > 0]).tolist():
            volume, parts = volume_and_count(segmentation == value, self.session.spacing)
            facts.append(f"{names.get(value, value)}: {volume:.2f} ml in {counted(parts, 'part')}")
        return facts

    # ------------------------------------------------------------------ from the browser

    def _moved(self, location: dict[str, Any]) -> None:
        self._moves.add(tuple(location["xy"]))
        self._mm = tuple(location["mm"][:3])

    def _released(self, mouse: dict[str, Any]) -> None:
        """Recognises a click: the crosshair moved exactly once, to here. Dragging moves it repeatedly, rotating never.

        Scrolling also moves the crosshair, but reports the position of the last click.
        """
        place = tuple(mouse["mouse_pos"])
        clicked = self._moves - {self._place} == {place}
        self._moves, self._place = set(), place
        if clicked:
            index = np.linalg.solve(self._affine, [*self._mm, 1.0])[:3]
            self.click(np.rint(index).tolist())

    def _volume(self, name: str, array_ZYX: NDArray[Any], **options: Any) -> Any:
        image = nibabel.Nifti1Image(array_ZYX.transpose(2, 1, 0), self._affine)
        return Volume(name=name, data=gzip.compress(image.to_bytes(), 1), **options)


def _counted(prompts: Sequence[Prompt]) -> str:
    """ "2 clicks", or "3 prompts (1 box, 2 clicks)" if there are others."""
    kinds = Counter(prompt.kind for prompt in prompts)
    if set(kinds) <= {Click.kind}:
        return counted(len(prompts), "click")
    parts = [counted(count, kind) for kind, count in kinds.items()]
    return f"{counted(len(prompts), 'prompt')} ({', '.join(parts)})"


def _button(text: str, icon: str, does: Callable[[], None]) -> Any:
    button = ipywidgets.Button(description=text, icon=icon, layout=ipywidgets.Layout(width="auto"))
    button.on_click(lambda _: does())
    return button


def _affine(session: Session) -> NDArray[np.float64]:
    """Index i, j, k -> RAS mm; for an image without world geometry, along its own axes."""
    try:
        corners = session.grid.index_to_world([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)], "ras")
    except GeometryError:
        return np.diag([*reversed(session.spacing), 1.0])
    affine = np.eye(4)
    affine[:3, 3] = corners[0]
    affine[:3, :3] = (corners[1:] - corners[0]).T
    return affine


def _shown(session: Session, image: ArrayLike | None) -> NDArray[np.float32]:
    if image is None:
        volume = session._prepared.volume
        if not isinstance(volume, LazyVolume):
            raise UserError(
                "the image is not available after the model's preprocessing: pass it, widget(session, image)"
            )
        return volume._image_CZYX[0].astype(np.float32)
    array = np.asarray(image, np.float32)
    if array.shape != session.shape:
        raise UserError(f"the image has the shape {array.shape} (z, y, x), but the session's image {session.shape}")
    return array
