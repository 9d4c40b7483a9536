"""A folder of images to work through, and the nnU-Net dataset that grows from it."""

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
    """The cases of a folder in nnU-Net's naming.

    With an output folder, a saved case becomes part of a dataset in nnU-Net's raw format there: image, label map,
    ``dataset.json``, and the clicks beside them.
    """

    def __init__(self, images: Path, model: Model, output: Path | None = None) -> None:
        """Raises UserError: no such folder, or no images of this model in it."""
        self.images, self.output, self._model = images, output, model
        self._listed()

    def _listed(self) -> dict[str, tuple[Path, ...]]:
        """Looked up anew each time: images may be added while the server runs."""
        found = find_cases(self.images, self._model)
        whole = [case for case in found if len(case.images) == self._model.num_channels]
        return {case.name: tuple(Path(file) for file in case.images) for case in whole}

    def overview(self) -> list[dict[str, Any]]:
        """Names, and whether they are saved."""
        return [{"case": name, "saved": self._is_saved(name)} for name in self._listed()]

    def files(self, case: str) -> tuple[Path, ...]:
        """The images of a case, one for each channel.

        Raises:
            Refusal: there is no such case (404); whatever a client asks for, nothing outside of the folder is opened.
        """
        listed = self._listed()
        if case not in listed:
            raise Refusal(404, f"there is no case {case!r} in the server's folder")
        return listed[case]

    def _is_saved(self, case: str) -> bool:
        return self.output is not None and self._label_file(case).is_file()

    def _label_file(self, case: str) -> Path:
        assert self.output is not None
        return self.output / LABELS / f"{case}{self._model.file_ending}"

    def save(self, case: str, session: Session) -> list[str]:
        """Writes a case into the dataset, and returns what was written, relative to its folder.

        Raises:
            Refusal: the server has no output folder (400), or cannot write there (500).
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
        """The next case that is not saved, in the folder's order and from its beginning again."""
        names = list(self._listed())
        start = names.index(case) + 1 if case in names else 0
        return next((name for name in names[start:] + names[:start] if not self._is_saved(name)), None)

    def _write_dataset_json(self) -> None:
        assert self.output is not None
        ending, told = self._model.file_ending, self._model.dataset_json
        kept = {key: told[key] for key in ("channel_names", "modality", "labels", "regions_class_order") if key in told}
        count = len(list((self.output / LABELS).glob(f"*{ending}")))
        write_json(self.output / "dataset.json", {**kept, "numTraining": count, "file_ending": ending})


def _place(image: Path, copy: Path) -> None:
    """A hard link where the file system has them, else a copy."""
    if copy.exists():
        if not copy.samefile(image) and copy.stat().st_size != image.stat().st_size:
            raise UserError(f"{copy.name}: the dataset holds another image of this name already")
        return
    try:
        os.link(image.resolve(), copy)
    except OSError:
        with replacing(copy) as temporary:
            shutil.copyfile(image, temporary)
