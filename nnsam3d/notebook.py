"""A session to click in inside a notebook, on ipyniivue: ``nnsam3d.widget(session)``. Needs the extra ``notebook``."""

from __future__ import annotations

import gzip
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import nibabel
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError
from nnsam3d.inference.session import Session
from nnsam3d.nnunet.lazy import LazyVolume
from nnsam3d.prompts.components import Components

try:
    import ipywidgets
    from ipyniivue import MultiplanarType, NiiVue, ShowRender, Volume
except ImportError as error:
    raise UserError(f"{error.name} is missing: pip install 'nnsam3d[notebook]'") from error

BACKGROUND = "background"
OPACITY = 0.5
# After Okabe and Ito, brighter, for a dark ground; as on the page of `nnsam3d serve`.
COLOURS = ((255, 176, 0), (86, 180, 233), (0, 190, 130), (230, 110, 190), (240, 228, 66), (254, 97, 0), (120, 140, 255))


class SessionWidget(ipywidgets.VBox):
    """Three planes in which every click goes to a session, and what belongs to it.

    A click says that the chosen label is there ("background": that it is not). Dragging and the wheel only move the
    crosshair. The session can be used in other cells as well; :meth:`refresh` shows what they did.

    Attributes:
        session: the one that is clicked in.
        viewer: the ``ipyniivue.NiiVue`` with the image and the mask.
        label: drop-down list of what a click says.
        status: what the last step came to.
    """

    def __init__(self, session: Session, image: ArrayLike | None = None, height: int = 480) -> None:
        """
        Args:
            image: (z, y, x), what is shown; None: the session's own image, its first channel.
            height: of the planes, in pixels.

        Raises:
            UserError: an image of another shape, or a session without one.
        """
        self.session = session
        self._affine = _affine(session)
        self._moves: set[tuple[float, ...]] = set()  # where the pointer was since the last click
        self._place: tuple[float, ...] = ()  # of the last click, on the canvas
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
        self.label = ipywidgets.Dropdown(options=names, description="Click says")
        self.undo_button = _button("Undo", "undo", self.undo)
        self.redo_button = _button("Redo", "repeat", self.redo)
        self.reset_button = _button("Reset", "trash", self.reset)
        self.status = ipywidgets.Label()
        bar = ipywidgets.HBox([self.label, self.undo_button, self.redo_button, self.reset_button])
        super().__init__([bar, self.viewer, self.status])
        self.refresh()

    # ------------------------------------------------------------------ steps

    def click(self, position: Sequence[float], label: int | str | None = None, space: str = "voxel") -> None:
        """A click from code; without a label the chosen one. A position that cannot be is said in the status."""
        chosen = self.label.value if label is None else label
        self._step(lambda: self.session.add_click(position, chosen, space))

    def undo(self) -> None:
        self._step(self.session.undo)

    def redo(self) -> None:
        self._step(self.session.redo)

    def reset(self) -> None:
        self._step(self.session.reset)

    def refresh(self) -> None:
        """Shows the session's segmentation as it is now."""
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
        mask = self._volume("mask.nii.gz", segmentation.astype(np.uint8), opacity=OPACITY)
        mask.set_colormap_label(_colours(max(self.session.labels.values())))
        self.viewer.volumes = [self._image, mask]
        clicks = len(self.session.clicks)
        self.undo_button.disabled = self.reset_button.disabled = not clicks
        said = [f"{clicks} click{'' if clicks == 1 else 's'}, {seconds:.2f} s", *self._facts(segmentation)]
        self.status.value = " · ".join([*said, *self.session.remarks])

    def _facts(self, segmentation: NDArray[Any]) -> list[str]:
        """Volume and number of components of every value that is there."""
        names = {value: name for name, value in self.session.labels.items()}
        voxel_ml = math.prod(self.session.spacing) / 1000
        said = []
        for value in np.unique(segmentation[segmentation > 0]).tolist():
            mask = segmentation == value
            parts = len(Components(mask))
            volume = np.count_nonzero(mask) * voxel_ml
            said.append(f"{names.get(value, value)}: {volume:.2f} ml in {parts} part{'' if parts == 1 else 's'}")
        return said

    # ------------------------------------------------------------------ from the browser

    def _moved(self, location: dict[str, Any]) -> None:
        self._moves.add(tuple(location["xy"]))
        self._mm = tuple(location["mm"][:3])

    def _released(self, mouse: dict[str, Any]) -> None:
        """A click, where the crosshair came here in one step: dragging takes several, turning the 3D view none.

        The wheel moves the crosshair as well, and tells the place of the last click for it.
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


def _button(text: str, icon: str, does: Callable[[], None]) -> Any:
    button = ipywidgets.Button(description=text, icon=icon, layout=ipywidgets.Layout(width="auto"))
    button.on_click(lambda _: does())
    return button


def _affine(session: Session) -> NDArray[np.float64]:
    """Index i, j, k -> RAS mm; without a place in the world the image's own axes."""
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
                "the model's preprocessing does not keep the image: give it as well, widget(session, image)"
            )
        return volume._image_CZYX[0].astype(np.float32)
    array = np.asarray(image, np.float32)
    if array.shape != session.shape:
        raise UserError(f"the image has the shape {array.shape} (z, y, x), the session's {session.shape}")
    return array


def _colours(most: int) -> dict[str, list[int]]:
    colours = [(0, 0, 0), *(COLOURS[n % len(COLOURS)] for n in range(most))]
    red, green, blue = (list(channel) for channel in zip(*colours, strict=True))
    return {"R": red, "G": green, "B": blue, "A": [0] + [255] * most, "I": list(range(most + 1))}
