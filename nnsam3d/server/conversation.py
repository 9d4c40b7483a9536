"""The image and the interactions of one client, on top of :class:`nnsam3d.inference.Session`.

Everything here runs in the worker's thread, unless it says otherwise.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnsam3d.geometry import Slices
from nnsam3d.geometry.boxes import box_between, hull, moved
from nnsam3d.inference.given import ReadImage, files_version
from nnsam3d.inference.history import SessionSnapshot
from nnsam3d.inference.model import Model
from nnsam3d.inference.session import Session
from nnsam3d.prompts import Prompt
from nnsam3d.prompts.components import bounding_box, volume_and_count
from nnsam3d.prompts.labels import label_values
from nnsam3d.server.refusal import Refusal

# beside the session's history
KEPT = ("model", "session", "files", "case", "version", "draft", "keeps", "_buffer", "_touched")
PAUSE = 60.0  # seconds; whoever does nothing for longer is not at work


class Conversation:
    """A session, and what a viewer shows of it.

    A step of its history is one action of the user: a click, a box, or a scribble, which can become several prompts.

    Attributes:
        doing: what the session is doing, and the number of windows it has finished; None while it is idle. May be read
            from any thread.
        files: the image's files, if it was opened from files.
        case: the name of the case, if it belongs to the server's folder.
        version: of the saved case when it was opened or last saved, see :meth:`Cases.version`.
        draft: version of the case's draft when it was opened or last written; empty if there was none.
        warnings: for the user, beside those of the session.
        keeps: an object that must exist as long as the image.
    """

    def __init__(
        self, newest: Callable[[], Model], cache_bytes: int, between_windows: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            newest: the model for the next image; one that learns changes between images.
            cache_bytes: for windows that are kept for further clicks.
            between_windows: called before every window that is computed.
        """
        self._newest, self._cache_bytes = newest, cache_bytes
        self._between_windows = between_windows
        self.model = newest()
        self.session = Session(self.model, cache_bytes=cache_bytes, progress=self._progress)
        self.doing: tuple[str, int] | None = None
        self.files: tuple[Path, ...] = ()
        self.case = ""
        self.keeps: Any = None
        self.version = self.draft = ""
        self.warnings: tuple[str, ...] = ()
        self._seconds, self._worked = 0.0, time.monotonic()
        self._buffer: NDArray[np.uint8] | None = None
        self._synchronised = False
        self._touched: Slices | None = None
        self._ahead: ReadImage | None = None
        self._ahead_bytes = 0

    def _progress(self, what: str, number: int) -> None:
        self.doing = what, number
        if what == "window":
            self._between_windows()

    @property
    def image_bytes(self) -> int:
        """Memory that is needed as long as the image is open. May be read from any thread."""
        buffer = self._buffer
        return self.session.snapshot().image_bytes + (0 if buffer is None else buffer.nbytes)

    @property
    def nbytes(self) -> int:
        """Memory used by the image and everything computed from it. May be read from any thread."""
        buffer = self._buffer
        return self.session.kept_bytes + self._ahead_bytes + (0 if buffer is None else buffer.nbytes)

    @property
    def working_bytes(self) -> int:
        """Memory that a step takes beside that, at least: the label map before and after it, and a window."""
        model = self.model
        voxels = self.session.snapshot().image_bytes // (4 * model.num_channels)  # images are float32
        channels = model.num_channels + model.codec.num_channels
        maps = channels + 3 * model.label_manager.num_segmentation_heads  # sums and weights of windows, too
        return 2 * voxels + 4 * maps * math.prod(model.patch_size)

    @property
    def is_quick(self) -> bool:
        """Whether windows of the image are kept, so that the next step is quick."""
        return self.session.snapshot().keeps_windows

    # ------------------------------------------------------------------ image

    def open_array(self, array: NDArray[Any], spacing: Sequence[float]) -> None:
        """Opens a new image (C, z, y, x) and discards everything about the old one."""
        self._take_newest()
        self.session.set_image(array, spacing=spacing)
        self._opened((), "")

    def open_files(self, files: Sequence[Path], case: str) -> None:
        """Opens a new image, one file per channel."""
        ahead = self._ahead if self.has_read(files) else None
        self.forget_ahead()
        self._take_newest()
        self.session.set_image([str(file) for file in files] if ahead is None else ahead)
        self._opened(tuple(files), case)

    def read_ahead(self, files: Sequence[Path], size: int) -> None:
        """Reads an image that may be opened next. May run in any thread.

        Args:
            size: bytes that it takes, which count until it is read.

        Raises:
            UserError: a file that cannot be read.
        """
        self._ahead, self._ahead_bytes, case = None, size, self.case
        read = None
        try:
            read = ReadImage.of(self.model, files)
        finally:
            self._ahead = read if self.case == case else None  # otherwise another image was opened meanwhile
            self._ahead_bytes = 0 if self._ahead is None else self._ahead.nbytes

    def has_read(self, files: Sequence[Path]) -> bool:
        """Whether these files were read ahead, and have not changed since. May run in any thread."""
        ahead = self._ahead
        return ahead is not None and ahead.files == tuple(map(str, files)) and ahead.version == files_version(files)

    def forget_ahead(self) -> None:
        """Gives the memory of the image back that was read ahead."""
        self._ahead, self._ahead_bytes = None, 0

    @property
    def ahead_files(self) -> tuple[str, ...]:
        """The files that were read ahead. May be read from any thread."""
        ahead = self._ahead
        return () if ahead is None else ahead.files

    def close_image(self) -> None:
        """Holds no image any more: the next one was refused, and clicks that follow are not meant for this one."""
        self.session.restore(SessionSnapshot())
        self._opened((), "")
        self.forget_ahead()
        self.keeps = None

    def _take_newest(self) -> None:
        model = self._newest()
        if model is not self.model:
            self.model = model
            self.session = Session(model, cache_bytes=self._cache_bytes, progress=self._progress)

    def _opened(self, files: tuple[Path, ...], case: str) -> None:
        self.files, self.case, self.version, self.draft = files, case, "", ""
        self.warnings, self._seconds, self._worked = (), 0.0, time.monotonic()
        self._buffer, self._synchronised = None, False
        self._touched = None

    # ------------------------------------------------------------------ interactions

    def take_seconds(self) -> float:
        """Seconds of work on this image since it was opened, or since the last call; pauses count as :data:`PAUSE`."""
        self.is_worked_on()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def is_worked_on(self) -> None:
        """Call this with every step."""
        now = time.monotonic()
        self._seconds += min(now - self._worked, PAUSE)
        self._worked = now

    def replace_last(self, prompts: Sequence[Prompt], space: str) -> None:
        """Adds prompts in place of the last one, as if that had never been made.

        Raises:
            Refusal: the last step was not a prompt (409).
            PromptError: as for :meth:`Session.add`; the last prompt is gone then, if the caller does not restore it.
        """
        if not isinstance(self.session.undo(), Prompt):
            raise Refusal(409, "the prompt to replace was not the last step")
        self.session.add(prompts, space)

    def reset(self) -> None:
        """Removes all prompts and the initial segmentation, a step that can be undone, and clears the buffer."""
        self.session.reset()
        self.clear_buffer()

    def next_object(self) -> None:
        """As :meth:`reset`, for a viewer that begins another object: undo must not bring this one back."""
        self.reset()
        self.session.begin_here()

    def start_from(self, segmentation: NDArray[Any] | Path) -> None:
        """Sets an initial label map, which further clicks correct."""
        self.session.start_from(segmentation)
        self._synchronised = False

    def load_prompts(self, path: Path) -> None:
        """Replaces all prompts by those of a prompt file that a client has sent.

        Raises:
            PromptError: the file is invalid, or names a mask, which would be one of the server's files; the prompts
                remain.
        """
        self.session.load_prompts(path, masks=False)

    def snapshot(self) -> tuple[SessionSnapshot, dict[str, Any]]:
        """What there is before a step whose computation may fail or be cancelled."""
        return self.session.snapshot(), {name: getattr(self, name) for name in KEPT}

    def restore(self, snapshot: tuple[SessionSnapshot, dict[str, Any]]) -> None:
        """Puts everything back as it was, redo included."""
        past, kept = snapshot
        vars(self).update(kept)
        self.session.restore(past)
        self._synchronised = False  # the next update compares all voxels

    # ------------------------------------------------------------------ results

    def change(self) -> tuple[Slices, NDArray[Any]] | None:
        """The part of the label map that the last step changed: a box and its contents; None if nothing changed."""
        segmentation, box = self.session.segmentation, self.session.changed_box
        if box is None:
            return None
        self._touched = box if self._touched is None else hull([self._touched, box])
        return box, np.ascontiguousarray(segmentation[box])

    def volumes(self) -> dict[str, tuple[float, int]]:
        """Volume in ml and number of components of every label that occurs."""
        if self._touched is None:
            return {}
        part = self.session.segmentation[self._touched]
        found: dict[str, tuple[float, int]] = {}
        for name, label in self.model.labels.items():
            mask = np.isin(part, self.values(label)) if label else np.zeros(1, bool)
            if mask.any():
                found[name] = volume_and_count(mask, self.session.spacing)
        return found

    def mask(self, label: int, box: Slices | None = None) -> NDArray[np.uint8]:
        """1 inside a label (a region: any of its values), for a box or the whole image."""
        part = self.session.segmentation if box is None else self.session.segmentation[box]
        return np.isin(part, self.values(label)).astype(np.uint8)

    def values(self, label: int) -> list[int]:
        """The values in the label map that belong to a label."""
        return label_values(label, self.model.regions)

    def clear_buffer(self) -> None:
        """Call this when the viewer has cleared its mask."""
        self._buffer, self._synchronised = None, False

    def fill_buffer(self, mask: NDArray[np.uint8]) -> None:
        """Call this when the viewer has replaced its mask."""
        self._buffer, self._synchronised = mask.copy(), False

    def repaint(self, label: int) -> tuple[Slices, NDArray[np.uint8]] | None:
        """The update of the viewer's mask of a label: a box and the mask in it; None if nothing changed."""
        segmentation = self.session.segmentation
        box = self.session.changed_box
        if self._buffer is None:
            self._buffer = np.zeros(segmentation.shape, np.uint8)
        if not self._synchronised:
            box = box_between((0, 0, 0), segmentation.shape)
        self._synchronised = True
        if box is None:
            return None
        part = self.mask(label, box)
        different = part != self._buffer[box]
        if not different.any():
            return None
        inner = bounding_box(different)
        self._buffer[box] = part
        return moved(inner, [side.start for side in box]), np.ascontiguousarray(part[inner])
