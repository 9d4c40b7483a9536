"""A segmentation that grows click by click, for viewers and notebooks. No torch type leaves it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import GeometryError, ImageGrid, grid_of_file
from nnsam3d.geometry.label_files import check_ending
from nnsam3d.inference.base import Base
from nnsam3d.inference.device import choose_device
from nnsam3d.inference.image import Box, PreparedImage, Segmentation, changed_box
from nnsam3d.inference.model import Model
from nnsam3d.inference.watch import Cancelled, Progress, Watch
from nnsam3d.nnunet.reading import check_image, image_grid
from nnsam3d.prompts import ENCODING, CasePrompts, Click, PromptError, read_prompts, write_prompts
from nnsam3d.prompts.channel import DECIMALS
from nnsam3d.prompts.convert import FIRST_CHANNEL
from nnsam3d.prompts.labels import whole_labels
from nnsam3d.prompts.types import checked_position, checked_space

__all__ = ["CACHE_BYTES", "Cancelled", "Session"]

CACHE_BYTES = 4 * 2**30
_State = tuple[PreparedImage | None, str, list[Click], list[Click], Segmentation | None, Box | None, Base | None]


class Session:
    """One image, a list of clicks, and the segmentation that belongs to them.

    The segmentation depends on the image and the list of clicks only: undo, redo and replaying a saved file give
    the identical mask. Windows that were encoded once are kept (bounded, least recently used), so that a further
    click there costs only prompt encoder and mask decoder. A session is not thread-safe: one thread at a time.

    ```python
    session = Session("results/Dataset513_STS_PET/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres", folds=[0])
    session.set_image("STS_001_0000.nii.gz")
    session.add_click((102, 88, 41), "tumour")     # index i, j, k of the image file
    session.segmentation                           # (z, y, x), the image's own grid
    ```
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str],
        folds: Sequence[int | str] | int | str | None = None,
        device: str = "auto",
        cache_bytes: int = CACHE_BYTES,
        progress: Progress = lambda what, number: None,
    ) -> None:
        """
        Args:
            model: nnU-Net's model folder, or a loaded model to share between sessions.
            folds: which to ensemble, None = all trained ones; every fold costs its time and memory.
            device: "auto" (a GPU if there is one), "cpu", "cuda:1", ...; a loaded model stays where it is.
            cache_bytes: bound of what is kept for further clicks; one ViT-B window of 128³ takes 168 MB per fold.
            progress: told what begins: "reading" (0) an image, a "window" (how many this computation has done before;
                again for every fold and mirroring), "warming up" (0). In the thread that does it.

        Raises:
            UserError: no such model, or no such device.
        """
        folds = [folds] if isinstance(folds, (int, str)) else folds
        if not isinstance(model, Model):
            model = Model(Path(model), folds, device=choose_device(device), mirroring=False)
        self._model = model
        self._cache_bytes = cache_bytes
        self._progress = progress
        self._watch = Watch(progress)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="nnsam3d-reader")
        self._coming: Future[PreparedImage] | None = None
        self._image: PreparedImage | None = None
        self._case = "session"
        self._clicks: list[Click] = []  # positions are index i, j, k
        self._undone: list[Click] = []
        self._result: Segmentation | None = None
        self._changed: Box | None = None
        self._base: Base | None = None
        self._stale = True
        self._before: _State | None = None  # while a new image is read in the background

    # ------------------------------------------------------------------ image

    def set_image(
        self,
        image: ArrayLike | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        spacing: Sequence[float] | None = None,
        properties: dict[str, Any] | None = None,
        background: bool = False,
    ) -> None:
        """Takes a new image and forgets all clicks. It is read, and preprocessed later where it is looked at.

        Args:
            image: an image file, a list of files (one per channel), or an array (z, y, x) or (C, z, y, x).
            spacing: mm along z, y, x, of an array; files and ``properties`` bring their own.
            properties: what nnU-Net's reader returned with the array; with them world clicks are possible.
            background: return at once, and read in a thread; whatever needs the image waits for it, and raises what
                this call would raise: the session is as it was before this call then.

        Raises:
            UserError: a file that cannot be read, an array without spacing, a wrong shape or number of channels.
        """
        given = [image] if isinstance(image, (str, os.PathLike)) else image
        files: list[str] = []
        if isinstance(given, Sequence) and given and isinstance(given[0], (str, os.PathLike)):
            files = [os.fspath(file) for file in given]  # type: ignore[arg-type]
        properties = properties or ({} if files else {"spacing": _checked_spacing(spacing)})
        # a copy: windows are cut from it later, whatever becomes of the caller's
        array = None if files else np.array(given, np.float32)
        coming = self._reader.submit(self._open, files, array, properties)
        if not background:
            coming.result()  # before anything is forgotten: a wrong image leaves the session as it was
        if self._coming is None:
            self._before = self._state()
        else:
            self._coming.cancel()  # an image that nobody has waited for
        self._coming, self._image = coming, None
        self._case = Path(files[0]).name.removesuffix(FIRST_CHANNEL + self._model.file_ending) if files else "session"
        self._clicks, self._undone = [], []
        self._result, self._changed, self._base = None, None, None
        self._forget()

    def _open(self, files: list[str], array: Any, properties: dict[str, Any]) -> PreparedImage:
        if files:
            self._progress("reading", 0)
            data, properties = self._model.read(files)
        else:
            data = array[None] if array.ndim == 3 else array
            check_image(data, "the image", self._model.num_channels)
        return PreparedImage(self._model, data, properties, self._cache_bytes, self._watch)

    def warm_up(self) -> None:
        """Runs both halves of the network on an empty window: what is compiled or tuned at first use is done then."""
        self._progress("warming up", 0)
        self._model.warm_up()

    def cancel(self) -> None:
        """Stops the computation that runs now, from another thread: it raises :class:`Cancelled`.

        The clicks stay as they are, and so does what is known: undo the last click, or ask for the segmentation again.
        Without a computation it does nothing.
        """
        self._watch.cancelled.set()

    @property
    def labels(self) -> dict[str, int]:
        """What a click may say: name -> value; 0 is background, the negative click."""
        return dict(self._model.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the image."""
        z, y, x = self._prepared.shape_ZYX
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm along z, y, x of the image."""
        z, y, x = (float(step) for step in self._prepared.raw_properties["spacing"])
        return z, y, x

    @property
    def grid(self) -> ImageGrid:
        """Where the image's voxels lie.

        Raises:
            GeometryError: the image is an array without the ``properties`` of nnU-Net's reader.
        """
        return image_grid("lps", self._prepared.raw_properties, self.shape)

    # ------------------------------------------------------------------ clicks

    def add_click(self, position: Sequence[float], label: int | str, space: str = "voxel") -> None:
        """One more click.

        Args:
            position: index i, j, k (x, y, z) of the image for "voxel"; mm for "lps" and "ras"; z, y, x for "array".
            label: name or number of dataset.json; "background" or 0 says "this is not it".

        Raises:
            PromptError: a position outside the image or an unknown label; the session stays as it was.
        """
        click = Click(self._to_index(position, space), label)
        self._prepared.check(self._prompts([*self._clicks, click]))
        self._clicks.append(click)
        self._undone = []
        self._forget()

    def undo(self) -> Click | None:
        """Takes the last click back, and returns it (position as index i, j, k); None if there is none."""
        if not self._clicks:
            return None
        self._undone.append(self._clicks.pop())
        self._forget()
        return self._undone[-1]

    def redo(self) -> Click | None:
        """Puts the click back that was taken back last; None if there is none."""
        if not self._undone:
            return None
        self._clicks.append(self._undone.pop())
        self._forget()
        return self._clicks[-1]

    def reset(self) -> None:
        """Takes all clicks back, and the segmentation to start from; the image and what is known about it stay."""
        self._clicks, self._undone, self._base = [], [], None
        self._forget()

    def start_from(self, segmentation: ArrayLike | str | os.PathLike[str]) -> None:
        """Takes a segmentation that clicks will correct, see :class:`Base`, and forgets all clicks.

        Args:
            segmentation: a label map (z, y, x) of the image's shape, or a file with one. What clicks change is computed
                with the network, everything else stays. It is not part of what :meth:`save_prompts` writes.

        Raises:
            UserError: another shape, a file that lies elsewhere than the image, values that are no labels of the
                model, or an unreadable file; the session stays as it was.
        """
        image = self._prepared
        where = "the segmentation"
        if isinstance(segmentation, (str, os.PathLike)):
            where = os.fspath(segmentation)
            array = self._model.read_labels(where)
        else:
            array = whole_labels(np.asarray(segmentation), where)
        if array.shape != image.shape_ZYX:
            raise UserError(f"{where}: has the shape {array.shape} (z, y, x), the image {image.shape_ZYX}")
        if isinstance(segmentation, (str, os.PathLike)):
            self._check_place(where)
        self._base = Base(array, self._model.labels, self._model.regions, self.spacing)
        self._clicks, self._undone = [], []
        self._forget()

    def _check_place(self, file: str) -> None:
        """Raises UserError: the file's voxels lie elsewhere than the image's, as those of another case do."""
        try:
            own, theirs = self.grid, grid_of_file(file, self._model.reader_name)("lps")
        except GeometryError:
            return  # an image without a place in the world
        ends = np.vstack([np.zeros(3), np.diag(np.subtract(own.size_xyz or (1, 1, 1), 1))])
        apart_mm = np.linalg.norm(own.index_to_world(ends) - theirs.index_to_world(ends), axis=1).max()
        if apart_mm > max(self.spacing):
            raise UserError(
                f"{file}: has the image's shape, but lies up to {apart_mm:.0f} mm from it: is it of another case? "
                "Resample it to the image first"
            )

    @property
    def clicks(self) -> tuple[Click, ...]:
        """In the order they were made, positions as index i, j, k."""
        return tuple(self._clicks)

    def save_prompts(self, path: str | os.PathLike[str]) -> None:
        """Writes the clicks as a prompt file that `nnsam3d predict` and :meth:`load_prompts` read.

        Args:
            path: ending in .json (our format), or in .mrk.json (3D Slicer's, in mm).

        Raises:
            UserError: there is no click, which a prediction would refuse, another ending, .mrk.json for an array
                without geometry, or the file cannot be written.
        """
        if not self._clicks:
            raise UserError("there are no clicks to save: without a prompt file a case is segmented automatically")
        in_mm = os.fspath(path).lower().endswith(".mrk.json")  # Slicer's
        write_prompts(path, self._prompts(self._clicks), image=self.grid if in_mm else None, labels=self.labels)

    def save_segmentation(self, path: str | os.PathLike[str]) -> None:
        """Writes the label map as an image file with the geometry of the image.

        Raises:
            UserError: the image is an array without geometry, the ending cannot hold a segmentation, or the file cannot
                be written; a file that was there stays.
        """
        _ = self.grid  # raises where there is none
        check_ending(Path(path), self._model.reader_name)
        self._model.save_labels(np.array(self.segmentation), Path(path), self._prepared.raw_properties)

    def load_prompts(self, path: str | os.PathLike[str]) -> None:
        """Replaces all clicks by those of a prompt file.

        Raises:
            PromptError: the file is wrong; the session stays as it was.
        """
        image = self._prepared
        grid_of = partial(image_grid, properties=image.raw_properties, shape_zyx=image.shape_ZYX)
        prompts = read_prompts(path, image=grid_of, labels=self._model.labels)
        prompts = ENCODING.usable(prompts, str(path), self._model.prompt_types)
        clicks = list(prompts.to("voxel", grid_of(prompts.space)).clicks)
        image.check(self._prompts(clicks))
        self._clicks, self._undone = clicks, []
        self._forget()

    # ------------------------------------------------------------------ results

    @property
    def segmentation(self) -> NDArray[Any]:
        """Label map (z, y, x) on the image's own grid, read-only; background before the first positive click."""
        view = self._update().label_map.view()
        view.flags.writeable = False
        return view

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the user should know: an image with nothing to see, a click at which the network found nothing."""
        return (*self._prepared.remarks, *self._update().remarks)

    @property
    def kept_bytes(self) -> int:
        """Memory of the image and of what is kept for further clicks; 0 while an image is being read."""
        image = None if self._coming is not None else self._image
        return 0 if image is None else image.nbytes + image.windows.kept_bytes

    def forget_windows(self) -> None:
        """Gives the memory back that is kept for further clicks; the next click computes its windows again."""
        if self._coming is None and self._image is not None:
            self._image.windows.forget()

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(K, z, y, x), K as in nnU-Net's probabilities (labels or regions); clicks do not bind here."""
        return self._prepared.probabilities(self._update())

    @property
    def changed_box(self) -> Box | None:
        """The smallest box (slices z, y, x) that holds what the last change altered; None if nothing changed."""
        self._update()
        return self._changed

    # ------------------------------------------------------------------ inside

    @property
    def _prepared(self) -> PreparedImage:
        if self._coming is not None:
            coming, before = self._coming, self._before
            self._coming = self._before = None
            try:
                self._image = coming.result()
            except Exception:
                if before is not None:
                    self._image, self._case, self._clicks, self._undone, self._result, self._changed, self._base = (
                        before
                    )
                raise
        if self._image is None:
            raise UserError("the session has no image yet: call set_image first")
        return self._image

    def _prompts(self, clicks: Sequence[Click]) -> CasePrompts:
        return CasePrompts(self._case, "voxel", tuple(clicks))

    def _to_index(self, position: Sequence[float], space: str) -> tuple[float, float, float]:
        image = self._prepared
        x, y, z = checked_position(position)
        if space == "array":
            return z, y, x
        if space not in ("voxel", "lps", "ras"):
            raise PromptError(f'unknown space {space!r}; allowed: "voxel", "lps", "ras", "array"')
        grid = image_grid(checked_space(space), image.raw_properties, image.shape_ZYX)
        index_N3 = grid.to_index([(x, y, z)], space)
        # mm are not exact: a click on the centre of a voxel is stored as such
        i, j, k = (index_N3 if space == "voxel" else np.round(index_N3, DECIMALS))[0].tolist()
        return i, j, k

    def _forget(self) -> None:
        self._stale = True

    def _state(self) -> _State:
        return self._image, self._case, self._clicks, self._undone, self._result, self._changed, self._base

    def _update(self) -> Segmentation:
        image = self._prepared
        if self._result is None or self._stale:
            self._watch.start(image.windows.computed)
            before = self._result
            prompts = self._prompts(self._clicks)
            self._result = self._base.correct(image, prompts) if self._base else image.segment(prompts, automatic=False)
            self._changed = changed_box(before, self._result)
            self._stale = False
        return self._result


def _checked_spacing(spacing: Sequence[float] | None) -> list[float]:
    if spacing is None:
        raise UserError("an array does not know the size of its voxels: give spacing=(z, y, x) in mm")
    values = [float(value) for value in spacing]
    if len(values) != 3 or not all(0 < value < float("inf") for value in values):
        raise UserError(f"spacing {tuple(spacing)}: three positive numbers are needed, mm along z, y, x")
    return values
