"""The folder of images to segment, and the nnU-Net dataset to which the results are saved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError
from nnsam3d.files import replacing, write_json
from nnsam3d.inference.folder import find_cases
from nnsam3d.inference.model import Model
from nnsam3d.inference.session import Session
from nnsam3d.server.refusal import Refusal

LABELS, IMAGES, CLICKS = "labelsTr", "imagesTr", "clicks"


class Cases:
    """The cases of a folder that follows nnU-Net's naming.

    With an output folder, saved cases are added to a dataset in nnU-Net's raw format: images, label map, clicks and
    ``dataset.json``.
    """

    def __init__(self, images: Path, model: Model, output: Path | None = None) -> None:
        """Raises UserError: the folder does not exist or contains no images for this model."""
        self.images, self.output, self._model = images, output, model
        self._listed()

    def _listed(self) -> dict[str, tuple[Path, ...]]:
        """Not cached: images may be added while the server runs."""
        found = find_cases(self.images, self._model)
        whole = [case for case in found if len(case.images) == self._model.num_channels]
        return {case.name: tuple(Path(file) for file in case.images) for case in whole}

    def overview(self) -> list[dict[str, Any]]:
        """The name of each case, and whether it has been saved."""
        return [{"case": name, "saved": self._is_saved(name)} for name in self._listed()]

    def files(self, case: str) -> tuple[Path, ...]:
        """The images of a case, one per channel. Clients cannot open files outside the folder.

        Raises:
            Refusal: the case does not exist (404).
        """
        listed = self._listed()
        if case not in listed:
            raise Refusal(404, f"the server's folder contains no case {case!r}")
        return listed[case]

    def _is_saved(self, case: str) -> bool:
        return self.output is not None and self._label_file(case).is_file()

    def saved_mask(self, case: str) -> Path | None:
        """The label map of a saved case."""
        return self._label_file(case) if self._is_saved(case) else None

    def _label_file(self, case: str) -> Path:
        assert self.output is not None
        return self.output / LABELS / f"{case}{self._model.file_ending}"

    def save(self, case: str, session: Session) -> list[str]:
        """Adds a case to the dataset and returns the files written, relative to the dataset's folder.

        Raises:
            Refusal: the server has no output folder (400) or cannot write to it (500).
        """
        if self.output is None:
            raise Refusal(400, "the server was started without --output: download the mask instead")
        images = self.files(case)
        written = [self.output / IMAGES / image.name for image in images]
        label_file, clicks = self._label_file(case), self.output / CLICKS / f"{case}.json"
        try:
            for folder in (IMAGES, LABELS, CLICKS):
                (self.output / folder).mkdir(parents=True, exist_ok=True)
            for image, copy in zip(images, written, strict=True):
                _place(image, copy)
            session.save_segmentation(label_file)
            if session.clicks:
                session.save_prompts(clicks)
                written.append(clicks)
            self._write_dataset_json()
        except OSError as error:
            raise Refusal(500, f"the case cannot be saved: {error.strerror}") from error
        return [str(path.relative_to(self.output)) for path in (label_file, *written)]

    def following(self, case: str) -> str | None:
        """The next unsaved case in the folder's order, continuing from the first case after the last."""
        names = list(self._listed())
        start = names.index(case) + 1 if case in names else 0
        return next((name for name in names[start:] + names[:start] if not self._is_saved(name)), None)

    def _write_dataset_json(self) -> None:
        assert self.output is not None
        ending, source = self._model.file_ending, self._model.dataset_json
        keys = ("channel_names", "modality", "labels", "regions_class_order")
        kept = {key: source[key] for key in keys if key in source}
        saved = [path for path in (self.output / LABELS).glob(f"*{ending}") if not path.name.startswith(".")]
        write_json(self.output / "dataset.json", {**kept, "numTraining": len(saved), "file_ending": ending})


def _place(image: Path, copy: Path) -> None:
    """Creates a hard link if the file system supports it, otherwise a copy."""
    if copy.exists():
        if not copy.samefile(image) and copy.stat().st_size != image.stat().st_size:
            raise UserError(f"{copy.name}: the dataset already contains a different image with this name")
        return
    try:
        os.link(image.resolve(), copy)
    except OSError:
        with replacing(copy) as temporary:
            shutil.copyfile(image, temporary)
