"""A segmentation that grows click by click, for viewers and notebooks. No torch type leaves it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnsam3d.errors import UserError
from nnsam3d.geometry import ImageGrid, Slices
from nnsam3d.geometry.label_files import check_ending
from nnsam3d.inference.device import choose_device
from nnsam3d.inference.drawing import Drawing
from nnsam3d.inference.given import ReadImage, given_image, given_model
from nnsam3d.inference.history import History, HistoryStep, SessionSnapshot, State, changed_box, prompt_at
from nnsam3d.inference.image import PreparedImage, Segmentation
from nnsam3d.inference.model import Model
from nnsam3d.inference.saved import read_state, write_state
from nnsam3d.inference.start_mask import read_start_mask
from nnsam3d.inference.watch import Cancelled, Progress, Watch
from nnsam3d.nnunet.label_files import save_label_map
from nnsam3d.nnunet.reading import check_image, spacing_of
from nnsam3d.prompts import CasePrompts, Click, Prompt, PromptError
from nnsam3d.prompts.convert import FIRST_CHANNEL

__all__ = ["CACHE_BYTES", "Cancelled", "Session"]

CACHE_BYTES = 4 * 2**30


class Session(Drawing):
    """One image, a list of clicks, and the segmentation that belongs to them.

    The segmentation depends on the image, the list of clicks and the mask to start from only: undo, redo and replaying
    a saved file give the identical mask. Undo and redo walk through one history, of which every call that changes
    clicks or that mask is a step. Windows that were encoded once are kept (bounded, least recently used), so that a
    further click there costs only SAM's prompt encoder and mask decoder. Not thread-safe: one thread at a time.

    ```python
    session = Session("results/Dataset513_STS_PET/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres", folds=[0])
    session.set_image("STS_001_0000.nii.gz")
    session.add_click((102, 88, 41), "tumour")     # index i, j, k of the image file
    session.segmentation                           # (z, y, x), the image's own grid
    ```
    """

    def __init__(
        self,
        model: Model | str | os.PathLike[str] | None = None,
        folds: Sequence[int | str] | int | str | None = None,
        device: str | None = "auto",
        cache_bytes: int = CACHE_BYTES,
        progress: Progress = lambda what, number: None,
    ) -> None:
        """
        Args:
            model: nnU-Net's model folder, that of one fold, or a loaded model to share; None: the starter (any object).
            folds: which to ensemble, None = all trained ones; every fold costs its time and memory.
            device: "auto" (a GPU if there is one), "cpu", "cuda:1", ...; a loaded model stays where it is.
            cache_bytes: bound of what is kept for further clicks; one ViT-B window of 128³ takes 168 MB per fold.
            progress: told what begins: "reading" (0) an image, a "window" (how many this computation has done before;
                again for every fold and mirroring), "warming up" (0). In the thread that does it.

        Raises:
            UserError: no such model, or no such device.
        """
        if not isinstance(model, Model):
            folder, folds, checkpoint = given_model(model, folds)
            model = Model(folder, folds, checkpoint, choose_device(device), mirroring=False)
        self._model = model
        self._cache_bytes = cache_bytes
        self._progress = progress
        self._watch = Watch(progress)
        self._now = SessionSnapshot()

    # ------------------------------------------------------------------ image

    def set_image(
        self, image: Any, spacing: Sequence[float] | None = None, properties: dict[str, Any] | None = None
    ) -> None:
        """Takes a new image and begins a new history. It is read, and preprocessed later where it is looked at.

        Args:
            image: an image file, a list of files (one per channel), an array (z, y, x) or (C, z, y, x), an image of
                SimpleITK, nibabel or MONAI with its geometry (see :func:`given_image`), or a :class:`ReadImage`.
            spacing: mm along z, y, x, of an array; files and ``properties`` bring their own.
            properties: what nnU-Net's reader returned with the array; with them world clicks are possible.

        Raises:
            UserError: a file that cannot be read, an array without spacing, a wrong shape or number of channels; the
                session stays as it was.
        """
        if isinstance(image, ReadImage):
            files, data, properties = list(image.files), image.array, image.properties
        else:
            # a copy: windows are cut from it later, whatever becomes of the caller's
            files, array, properties = given_image(image, spacing, properties, self._model.reader_name)
            if array is None:
                self._progress("reading", 0)
                data, properties = self._model.read(files)
            else:
                data = array[None] if array.ndim == 3 else array
                check_image(data, "the image", self._model.num_channels)
        prepared = PreparedImage(self._model, data, properties, self._cache_bytes, self._watch, files)
        case = Path(files[0]).name.removesuffix(FIRST_CHANNEL + self._model.file_ending) if files else "session"
        self._now = SessionSnapshot(prepared, case)

    def warm_up(self) -> None:
        """Runs the network on an empty window: what is compiled or tuned at first use is done then."""
        self._progress("warming up", 0)
        self._model.warm_up()

    def cancel(self) -> None:
        """Stops the computation that runs now, if any, from another thread: it raises :class:`Cancelled`."""
        self._watch.cancel()

    def ticket(self) -> int:
        """For :meth:`computing`, from any thread; :meth:`cancel` concerns all tickets handed out before."""
        return self._watch.ticket()

    def computing(self, ticket: int) -> AbstractContextManager[None]:
        """A context: what is computed inside belongs to this ticket. Raises Cancelled if the ticket was cancelled."""
        return self._watch.computing(ticket)

    @property
    def labels(self) -> dict[str, int]:
        """Name -> value; 0 is background. Class-agnostic models take any name, which gets the smallest free value."""
        used = self._now.history.labels if self._model.open_labels else None
        return used or dict(self._model.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) of the image."""
        z, y, x = self._prepared.shape_ZYX
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm along z, y, x of the image."""
        return spacing_of(self._prepared.raw_properties)

    @property
    def grid(self) -> ImageGrid:
        """Where the image's voxels lie.

        Raises:
            GeometryError: the image is an array without the ``properties`` of nnU-Net's reader.
        """
        return self._prepared.grid()

    def add(self, prompts: Sequence[Prompt], space: str = "voxel") -> None:
        """Prompts of any kind, which are one step; without any, there is no step.

        Args:
            prompts: with positions in ``space``, see :meth:`add_click`.

        Raises:
            PromptError: a prompt outside the image, of an unknown label or of a kind that the model was not trained
                with; none of them is added.
        """
        added = [prompt_at(self._prepared, prompt, space) for prompt in prompts]
        if not added:
            return
        state = replace(self._now.history.state, prompts=(*self.prompts, *added))
        self._prepared.check(CasePrompts(self._now.case, "voxel", state.prompts))
        words = "clicks" if all(isinstance(prompt, Click) for prompt in added) else "prompts"
        self._go(self._now.history.after(added[0] if len(added) == 1 else words, state))

    def replace(self, number: int, prompts: Sequence[Prompt], space: str = "voxel") -> None:
        """Puts others in the place of one prompt, whenever it was made: a step.

        Args:
            number: its place in :attr:`prompts`, from 0.
            prompts, space: as for :meth:`add`.

        Raises:
            PromptError: there is none there, or as for :meth:`add`; the session stays as it was.
        """
        if not 0 <= number < len(self.prompts):
            raise PromptError(f"there is no prompt {number}: there are {len(self.prompts)}, counted from 0")
        added = [prompt_at(self._prepared, prompt, space) for prompt in prompts]
        changed = (*self.prompts[:number], *added, *self.prompts[number + 1 :])
        self._prepared.check(CasePrompts(self._now.case, "voxel", changed))
        state = replace(self._now.history.state, prompts=changed)
        self._go(self._now.history.after("replaced" if added else "removed", state))

    def remove(self, number: int) -> None:
        """Takes out one prompt: :meth:`replace` with none."""
        self.replace(number, ())

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self._now.history.can_undo

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to put back."""
        return self._now.history.can_redo

    def undo(self) -> HistoryStep | None:
        """Takes the last step back, and returns it.

        Returns:
            The prompt (positions as index i, j, k) if the step was one; else "clicks" (several), "prompts" (several, or
            :meth:`load_prompts`), "removed", "replaced", "segmentation" (:meth:`start_from`) or "reset"; None if there
            is no step.
        """
        if not self._now.history.can_undo:
            return None
        self._go(self._now.history.undone())
        return self._now.history.next_step

    def redo(self) -> HistoryStep | None:
        """Puts the step back that was taken back last, and returns it as :meth:`undo` does; None if there is none."""
        if not self._now.history.can_redo:
            return None
        self._go(self._now.history.redone())
        return self._now.history.last_step

    def reset(self) -> None:
        """Takes all clicks back, and the segmentation to start from; the image and what is known about it stay."""
        self._go(self._now.history.after("reset", State()))

    def begin_here(self) -> None:
        """Begins a new history with what there is: only the prompts themselves can be undone, one by one."""
        self._now = replace(self._now, history=History.of_prompts(self._now.history.state))

    def start_from(self, segmentation: ArrayLike | str | os.PathLike[str]) -> None:
        """Takes a segmentation that clicks will correct, see :class:`StartMask`, in place of all clicks.

        Args:
            segmentation: a label map (z, y, x) of the image's shape, or a file with one.

        Raises:
            UserError: another shape or place than the image's, values that are no labels of the model, or an unreadable
                file; the session stays as it was.
        """
        self._go(self._now.history.after("segmentation", State(start=read_start_mask(segmentation, self._prepared))))

    def start_automatically(self) -> None:
        """Takes the model's answer without prompts as the segmentation to start from.

        Raises:
            UserError: the model is class-agnostic.
        """
        if self._model.class_agnostic:
            raise UserError("this model segments what prompts point at: it has no answer without one")
        self._watch.start(self._prepared.computed)
        self.start_from(self._prepared.segment(None).label_map)

    def snapshot(self) -> SessionSnapshot:
        """What the session holds now, for :meth:`restore`; immutable. From any thread."""
        return self._now

    def restore(self, snapshot: SessionSnapshot) -> None:
        """Puts the session back, with image, clicks, redo and result: a step failed or was cancelled."""
        self._now = snapshot

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts in the order they were made, positions as index i, j, k."""
        return self._now.history.state.prompts

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks among them."""
        return tuple(prompt for prompt in self.prompts if isinstance(prompt, Click))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of prompts that the model was trained with: "click", "box", ..."""
        return self._model.codec.kinds

    @property
    def started(self) -> bool:
        """Whether there is a segmentation to start from."""
        return self._now.history.state.start is not None

    def save_prompts(self, path: str | os.PathLike[str], masks: bool = True) -> None:
        """Writes the prompts as a prompt file that `nnsam3d predict` and :meth:`load_prompts` read.

        It names the segmentation to start from: its file, or a copy in ``nnsam3d_masks`` beside the prompt file.

        Args:
            path: ending in .json (our format), or in .mrk.json (3D Slicer's, in mm).
            masks: False: the prompts only; the segmentation to start from is not part of the file.

        Raises:
            UserError: there is nothing to save, another ending, .mrk.json for an array without geometry or with a
                segmentation to start from, or the file cannot be written.
        """
        write_state(Path(path), self._now.case, self._now.history.state, self._prepared, masks)

    def save_segmentation(self, path: str | os.PathLike[str]) -> None:
        """Writes the label map as an image file with the geometry of the image, complete or not at all.

        Raises:
            UserError: an array without geometry, an ending that holds no segmentation, or the file cannot be written.
        """
        _ = self.grid  # raises where there is none
        check_ending(Path(path), self._model.reader_name)
        label_map, properties = np.array(self.segmentation), self._prepared.raw_properties
        save_label_map(self._model.reader, label_map, Path(path), properties)

    def load_prompts(self, path: str | os.PathLike[str], masks: bool = True) -> None:
        """Replaces all clicks by those of a prompt file, and the segmentation to start from if the file names one.

        Args:
            masks: False: refuse a file that names a segmentation: a stranger's file must not choose what is read.

        Raises:
            PromptError: the file is wrong; the session stays as it was.
            UserError: the segmentation that it names is wrong, see :meth:`start_from`; the same.
        """
        state = read_state(Path(path), self._prepared, self._now.history.state.start, masks)
        self._go(self._now.history.after("prompts", state))

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
        """Memory of image, masks, result and what is kept for further clicks. From any thread."""
        now = self._now
        return now.image_bytes + now.result_bytes

    def forget_windows(self) -> None:
        """Gives the memory back that is kept for further clicks; the next click computes its windows again."""
        image = self._now.image
        if image is not None:
            image.forget()

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(K, z, y, x), K as in nnU-Net's probabilities (labels or regions); clicks do not bind here."""
        return self._prepared.probabilities(self._update())

    @property
    def changed_box(self) -> Slices | None:
        """The smallest box (slices z, y, x) that holds what the last change altered; None if nothing changed."""
        _ = self.segmentation
        return self._now.changed

    # ------------------------------------------------------------------ inside

    @property
    def _prepared(self) -> PreparedImage:
        if self._now.image is None:
            raise UserError("the session has no image yet: call set_image first")
        return self._now.image

    def _go(self, history: History) -> None:
        self._now = replace(self._now, history=history, stale=True)

    def _update(self) -> Segmentation:
        image, now = self._prepared, self._now
        if now.result is None or now.stale:
            self._watch.start(image.computed)
            result = now.history.state.segmented(image, now.case, self.labels)
            self._now = now = replace(now, result=result, changed=changed_box(now.result, result), stale=False)
        assert now.result is not None
        return now.result
