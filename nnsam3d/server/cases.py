"""The folder of images to segment, and the nnU-Net dataset to which the results are saved."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.files import replacing, write_json
from nnsam3d.inference.model import Model
from nnsam3d.inference.saved import mask_beside
from nnsam3d.inference.watch import Cancelled
from nnsam3d.nnunet.cases import case_name
from nnsam3d.nnunet.datasets import cases_in
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.refusal import Refusal

LABELS, IMAGES, CLICKS = "labelsTr", "imagesTr", "clicks"


class Cases:
    """The cases of a folder that follows nnU-Net's naming.

    With an output folder, saved cases are added to a dataset in nnU-Net's raw format: images, label map, clicks and
    ``dataset.json``.
    """

    def __init__(self, images: Path, model: Model, output: Path | None = None, copy: bool = False) -> None:
        """
        Args:
            output: the dataset's folder; None: nothing is saved.
            copy: copy the images into the dataset. By default they are hard links where the file system has them, so
                that changing a file in one folder changes it in the other one.

        Raises:
            UserError: the folder does not exist or contains no images for this model.
        """
        self.images, self.output, self._model, self._copy = images, output, model, copy
        self._compared: set[tuple[str, str]] = set()  # images whose content is that of the dataset's
        if not images.is_dir():
            raise UserError(f"{images}: no such folder (--images is the folder with the images)")
        if not cases_in(images, model.file_ending):
            raise UserError(f"{images}: no image is named <case>_0000{model.file_ending}, as nnU-Net expects it")

    def _listed(self) -> dict[str, tuple[Path, ...]]:
        """The names and images of all complete cases. Not cached: images may be added while the server runs."""
        ending, channels = self._model.file_ending, self._model.num_channels
        found: dict[str, tuple[Path, ...]] = {}
        for files in cases_in(self.images, ending):
            name = case_name(files[0], ending)
            if [Path(file).name for file in files] == [f"{name}_{channel:04d}{ending}" for channel in range(channels)]:
                found[name] = tuple(Path(file) for file in files)
        return found

    def overview(self) -> list[dict[str, Any]]:
        """The name of each case, and whether it has been saved. Lists the two folders, and reads no file."""
        saved = self._saved()
        return [{"case": name, "saved": name in saved} for name in self._listed()]

    def files(self, case: str) -> tuple[Path, ...]:
        """The images of a case, one per channel. Clients cannot open files outside the folder.

        Raises:
            Refusal: the case does not exist (404).
        """
        listed = self._listed()
        if case not in listed:
            raise Refusal(404, f"the server's folder contains no case {case!r}")
        return listed[case]

    def following(self, case: str) -> str | None:
        """The next unsaved case in the folder's order, continuing from the first case after the last."""
        names, saved = list(self._listed()), self._saved()
        start = names.index(case) + 1 if case in names else 0
        return next((name for name in names[start:] + names[:start] if name not in saved), None)

    def _saved(self) -> set[str]:
        """The names of the label maps in the dataset."""
        ending = self._model.file_ending
        if self.output is None or not (self.output / LABELS).is_dir():
            return set()
        names = [entry.name for entry in os.scandir(self.output / LABELS)]
        return {name[: -len(ending)] for name in names if name.endswith(ending) and not name.startswith(".")}

    def _label_file(self, case: str) -> Path:
        assert self.output is not None
        return self.output / LABELS / f"{case}{self._model.file_ending}"

    def _click_file(self, case: str) -> Path:
        assert self.output is not None
        return self.output / CLICKS / f"{case}.json"

    # ------------------------------------------------------------------ a saved case

    def version(self, case: str) -> str:
        """Changes whenever somebody saves the case; empty if it has not been saved."""
        if self.output is None:
            return ""
        return " ".join(filter(None, (_signature(file) for file in (self._label_file(case), self._click_file(case)))))

    def reopen(self, case: str, conversation: Conversation) -> bool:
        """Brings a saved case back as it was, into a conversation that has just opened its image.

        With its clicks and the mask they started from, if these still give the saved mask. Otherwise (it was edited
        elsewhere, or saved with another model) with the saved mask, which further clicks correct. Undo takes the clicks
        back one by one.

        Returns:
            Whether the case was saved.

        Raises:
            UserError: the saved mask cannot be read, or does not fit the image.
        """
        conversation.version = self.version(case)
        if self.output is None or not self._label_file(case).is_file():
            return False
        session = conversation.session
        saved = self._model.read_labels(self._label_file(case))
        opened = conversation.snapshot()
        if not self._clicks_give(case, conversation, saved):
            conversation.restore(opened)
            session.start_from(self._label_file(case))
        session.begin_here()
        conversation.change()  # what it contains counts in the volumes
        return True

    def _clicks_give(self, case: str, conversation: Conversation, saved: np.ndarray) -> bool:
        """Loads the saved clicks, and whether their mask is the saved one."""
        if not self._click_file(case).is_file():
            return False
        try:
            conversation.session.load_prompts(self._click_file(case))
            return np.array_equal(conversation.session.segmentation, saved)
        except Cancelled:
            raise
        except UserError:  # damaged, or of a model with other labels: the mask remains
            return False

    def save(self, conversation: Conversation, overwrite: bool = False) -> list[str]:
        """Adds the conversation's case to the dataset, with its clicks and the mask they start from.

        Args:
            overwrite: also if somebody else has saved the case since this conversation opened or saved it.

        Returns:
            The files written, relative to the dataset's folder.

        Raises:
            Refusal: the server has no output folder or the dataset has another image of this name (400), somebody else
                has saved the case (409), or a file cannot be written (500).
        """
        if self.output is None:
            raise Refusal(400, "the server was started without --output: download the mask instead")
        case, session = conversation.case, conversation.session
        images = self.files(case)
        if self.version(case) != conversation.version and not overwrite:
            raise Refusal(409, f"case {case} was saved elsewhere since you opened it: saving would replace that")
        copies = [self.output / IMAGES / image.name for image in images]
        label_file, clicks = self._label_file(case), self._click_file(case)
        written = [label_file, *copies]
        try:
            for folder in (IMAGES, LABELS, CLICKS):
                (self.output / folder).mkdir(parents=True, exist_ok=True)
            for image, copy in zip(images, copies, strict=True):
                self._place(image, copy)
            # in this order: a mask to start from that was read from the label file is no longer there, and is copied
            session.save_segmentation(label_file)
            if session.prompts or session.started:
                session.save_prompts(clicks)
                written.append(clicks)
            else:
                clicks.unlink(missing_ok=True)
            if not session.started:
                mask_beside(clicks, self._model.file_ending).unlink(missing_ok=True)
            self._write_dataset_json()
        except OSError as error:
            where = error.filename or self.output
            raise Refusal(500, f"{where}: the case cannot be saved: {error.strerror}") from error
        conversation.version = self.version(case)
        return [str(path.relative_to(self.output)) for path in written]

    def _place(self, image: Path, copy: Path) -> None:
        """Puts an image into the dataset: a hard link if the file system supports it, otherwise a copy.

        Raises:
            Refusal: the dataset has another image of this name (400).
        """
        if not copy.exists():
            if not self._copy:
                try:
                    os.link(image.resolve(), copy)
                    return
                except OSError:  # another file system, or one without hard links
                    pass
            with replacing(copy) as temporary:
                shutil.copyfile(image, temporary)
        elif not copy.samefile(image):
            both = _signature(image), _signature(copy)
            if both not in self._compared and not filecmp.cmp(image, copy, shallow=False):  # compares the sizes first
                raise Refusal(400, f"{copy.name}: the dataset already contains a different image with this name")
            self._compared.add(both)

    def _write_dataset_json(self) -> None:
        assert self.output is not None
        ending, source = self._model.file_ending, self._model.dataset_json
        keys = ("channel_names", "modality", "labels", "regions_class_order")
        kept = {key: source[key] for key in keys if key in source}
        write_json(self.output / "dataset.json", {**kept, "numTraining": len(self._saved()), "file_ending": ending})


def _signature(file: Path) -> str:
    """Changes when the file is written again; empty if there is none."""
    try:
        found = file.stat()
    except OSError:
        return ""
    return f"{file.name}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
