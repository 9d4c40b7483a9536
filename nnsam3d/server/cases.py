"""The folder of images to segment, and the nnU-Net dataset to which the results are saved."""

from __future__ import annotations

import filecmp
import json
import logging
import os
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.files import copy_file, file_version, write_json, write_text, writing
from nnsam3d.inference.model import Model
from nnsam3d.inference.saved import mask_beside
from nnsam3d.inference.watch import Cancelled
from nnsam3d.learning.order import read_order
from nnsam3d.nnunet.cases import case_name
from nnsam3d.nnunet.datasets import cases_in
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.journal import Journal, Note
from nnsam3d.server.refusal import Refusal

logger = logging.getLogger(__name__)

LABELS, IMAGES, CLICKS, DRAFTS = "labelsTr", "imagesTr", "clicks", "drafts"


class Cases:
    """The cases of a folder that follows nnU-Net's naming.

    With an output folder, saved cases are added to a dataset in nnU-Net's raw format: images, label map, clicks and
    ``dataset.json``. Until then, every step of a case is kept as a draft.

    Attributes:
        journal: the table of the annotation; None without an output folder.
    """

    def __init__(
        self, images: Path, model: Model, output: Path | None = None, copy: bool = False, learned: Path | None = None
    ) -> None:
        """
        Args:
            output: the dataset's folder; None: nothing is saved.
            copy: copy the images into the dataset. By default they are hard links where the file system has them, so
                that changing a file in one folder changes it in the other one.
            learned: folder of a model that learns and says which case is next (:func:`write_order`).

        Raises:
            UserError: the folder does not exist or contains no images for this model.
        """
        self.images, self.output, self._model, self._copy = images, output, model, copy
        self._learned = learned
        self.journal = None if output is None else Journal(output)
        self._compared: set[tuple[str, str]] = set()  # images whose content is that of the dataset's
        self._check_labels()
        if not images.is_dir():
            raise UserError(f"{images}: no such folder (--images is the folder with the images)")
        names = [case_name(files[0], model.file_ending) for files in cases_in(images, model.file_ending)]
        if not names:
            raise UserError(f"{images}: no image is named <case>_0000{model.file_ending}, as nnU-Net expects it")
        if left := [ascii(name) for name in names if not _is_unicode(name)]:
            logger.warning(f"{images}: these cases are left out, rename them: no UTF-8 in the name: {', '.join(left)}")

    def _listed(self) -> dict[str, tuple[Path, ...]]:
        """The names and images of all complete cases. Not cached: images may be added while the server runs."""
        ending, channels = self._model.file_ending, self._model.num_channels
        found: dict[str, tuple[Path, ...]] = {}
        for files in cases_in(self.images, ending):
            name = case_name(files[0], ending)
            wanted = [f"{name}_{channel:04d}{ending}" for channel in range(channels)]
            if _is_unicode(name) and [Path(file).name for file in files] == wanted:
                found[name] = tuple(Path(file) for file in files)
        return found

    def overview(self) -> list[dict[str, Any]]:
        """The name and state of each case. Lists the folders; reads no file but a table that others have changed."""
        if self.journal is not None:
            self.journal.look_again()
        saved, drafts = self._names(LABELS), self._names(DRAFTS)
        rows = [self._row(name, name in saved, name in drafts) for name in self._listed()]
        rank = {} if self._learned is None else {name: number for number, name in enumerate(read_order(self._learned))}
        return [{**row, "rank": rank[row["case"]]} if row["case"] in rank else row for row in rows]

    def _row(self, name: str, saved: bool, draft: bool) -> dict[str, Any]:
        note = Note(name) if self.journal is None else self.journal.note(name)
        state = note.mark or ("draft" if draft else "done" if saved else "todo")
        told = {"flagged": note.flagged, "comment": note.comment}
        return {"case": name, "saved": saved, "draft": draft, "state": state, **told}

    def row(self, case: str) -> dict[str, Any]:
        """The name and state of one case."""
        if self.journal is not None:
            self.journal.look_again()
        return self._row(case, self.version(case) != "", self._is_draft(case))

    def files(self, case: str) -> tuple[Path, ...]:
        """The images of a case, one per channel. Clients cannot open files outside the folder.

        Raises:
            Refusal: the case does not exist (404).
        """
        listed = self._listed()
        if case not in listed:
            raise Refusal(404, f"the server's folder contains no case {case!r}")
        return listed[case]

    def following(self, case: str, elsewhere: Sequence[str] = ()) -> str | None:
        """The next case to do in the folder's order, continuing from the first case after the last.

        Args:
            case: the one before.
            elsewhere: cases that others have open come last.
        """
        rows = self.overview()
        names = [row["case"] for row in rows]
        at = names.index(case) if case in names else -1
        left = [row for row in rows[at + 1 :] + rows[: max(at, 0)] if row["state"] in ("todo", "draft")]
        ranks = {row["case"]: (row["case"] in elsewhere, row.get("rank", len(rows))) for row in left}
        return min(ranks, key=lambda name: ranks[name]) if ranks else None

    def _ending(self, folder: str) -> str:
        return self._model.file_ending if folder == LABELS else ".json"

    def _names(self, folder: str) -> set[str]:
        """The cases with a file in a folder of the dataset."""
        ending = self._ending(folder)
        if self.output is None or not (self.output / folder).is_dir():
            return set()
        names = [entry.name for entry in os.scandir(self.output / folder)]
        return {name.removesuffix(ending) for name in names if name.endswith(ending) and not name.startswith(".")}

    def _file(self, folder: str, case: str) -> Path:
        assert self.output is not None
        return self.output / folder / f"{case}{self._ending(folder)}"

    # ------------------------------------------------------------------ drafts

    def _is_draft(self, case: str) -> bool:
        return self.output is not None and self._file(DRAFTS, case).is_file()

    def has_newer_draft(self, conversation: Conversation) -> bool:
        """Whether somebody else has written the draft of a conversation's case since it was opened or written here."""
        return self._draft_version(conversation.case) not in ("", conversation.draft)

    def _draft_version(self, case: str) -> str:
        return "" if self.output is None else file_version(self._file(DRAFTS, case))

    def keep_draft(self, conversation: Conversation) -> None:
        """Writes what a conversation has done to its case since it was saved, so that nothing is lost with it.

        If that is not possible, the conversation's warnings say so: the step itself has succeeded.
        """
        case, session = conversation.case, conversation.session
        if self.output is None or not case:
            return
        conversation.warnings = ()
        if self.version(case) != conversation.version:
            conversation.warnings = ("this case was saved elsewhere since you opened it: no draft is kept",)
            return
        if self.has_newer_draft(conversation):
            words = "somebody else has a newer draft of this case: open it again; no draft is kept here"
            conversation.warnings = (words,)
            return
        draft = self._file(DRAFTS, case)
        try:
            if session.prompts or session.started:
                with writing(draft):
                    draft.parent.mkdir(parents=True, exist_ok=True)
                write_text(_base_of(draft), conversation.version)
                session.save_prompts(draft)
                conversation.draft = file_version(draft)
            else:
                self._drop_draft(conversation)
        except OSError as error:
            conversation.warnings = (f"no draft is kept: {error}",)

    def _drop_draft(self, conversation: Conversation) -> None:
        draft = self._file(DRAFTS, conversation.case)
        draft.unlink(missing_ok=True)
        _base_of(draft).unlink(missing_ok=True)
        mask_beside(draft, self._model.file_ending).unlink(missing_ok=True)
        conversation.draft = ""

    # ------------------------------------------------------------------ a saved case

    def version(self, case: str) -> str:
        """Changes whenever somebody saves the case; empty if it has not been saved."""
        if self.output is None:
            return ""
        return " ".join(
            filter(None, (file_version(file) for file in (self._file(LABELS, case), self._file(CLICKS, case))))
        )

    def reopen(self, case: str, conversation: Conversation, draft: bool = True) -> None:
        """Brings a case back as it was, into a conversation that has just opened its image: a draft, or what was saved.

        With its clicks and the mask they started from, if these still give the saved mask. Otherwise (it was edited
        elsewhere, or saved with another model) with the saved mask, which further clicks correct. Undo takes the clicks
        back one by one.

        Args:
            draft: False: what was saved; a draft is dropped.

        Raises:
            UserError: the saved mask cannot be read, or does not fit the image.
        """
        conversation.version, conversation.draft = self.version(case), self._draft_version(case)
        if draft and self._is_draft(case) and self._draft_given(case, conversation):
            return
        if self.output is None or not self._file(LABELS, case).is_file():
            return
        session = conversation.session
        saved = self._model.read_labels(self._file(LABELS, case))
        opened = conversation.snapshot()
        if not self._clicks_give(case, conversation, saved):
            conversation.restore(opened)
            session.start_from(self._file(LABELS, case))
        session.begin_here()
        conversation.change()  # what it contains counts in the volumes
        if not draft:  # not before: it must be there if the saved mask cannot be read
            self._drop_draft(conversation)

    def _draft_given(self, case: str, conversation: Conversation) -> bool:
        """Loads a draft, and whether that was possible: one that is damaged, or of other labels, is left alone."""
        opened = conversation.snapshot()
        try:
            conversation.session.load_prompts(self._file(DRAFTS, case))
            conversation.session.begin_here()
            conversation.change()
            # saving then asks if somebody has saved the case since the draft was begun
            conversation.version = _base_of(self._file(DRAFTS, case)).read_text(encoding="utf-8")
        except Cancelled:
            raise
        except Exception:  # whatever it is, the case must open
            logger.exception(f"{self._file(DRAFTS, case)}: the draft cannot be opened")
            conversation.restore(opened)
            return False
        return True

    def _clicks_give(self, case: str, conversation: Conversation, saved: np.ndarray) -> bool:
        """Loads the saved clicks, and whether their mask is the saved one."""
        if not self._file(CLICKS, case).is_file():
            return False
        try:
            conversation.session.load_prompts(self._file(CLICKS, case))
            return np.array_equal(conversation.session.segmentation, saved)
        except Cancelled:
            raise
        except UserError:  # damaged, or of a model with other labels: the mask remains
            return False

    def save(self, conversation: Conversation, overwrite: bool = False, annotator: str = "") -> list[str]:
        """Adds the conversation's case to the dataset, with its clicks and the mask they start from.

        Args:
            overwrite: also if somebody else has saved the case, or has a newer draft of it, since this conversation
                opened or saved it.
            annotator: name for the table.

        Returns:
            The files written, relative to the dataset's folder.

        Raises:
            Refusal: the server has no output folder or the dataset has another image of this name (400), somebody else
                has saved the case or has a newer draft (409), or a file cannot be written (500).
        """
        if self.output is None:
            raise Refusal(400, "the server was started without --output: download the mask instead")
        case, session = conversation.case, conversation.session
        images = self.files(case)
        if self.version(case) != conversation.version and not overwrite:
            raise Refusal(409, f"case {case} was saved elsewhere since you opened it: saving would replace that")
        if self.has_newer_draft(conversation) and not overwrite:
            raise Refusal(409, f"somebody else has a newer draft of case {case}: saving would replace that")
        copies = [self.output / IMAGES / image.name for image in images]
        label_file, clicks = self._file(LABELS, case), self._file(CLICKS, case)
        written, before = [label_file, *copies], self.version(case)
        try:
            for folder in (IMAGES, LABELS, CLICKS):
                (self.output / folder).mkdir(parents=True, exist_ok=True)
            for image, copy in zip(images, copies, strict=True):
                self._place(image, copy)
            # in this order: a mask to start from that was the label file or a draft's is no longer there, and is copied
            session.save_segmentation(label_file)
            mask_beside(self._file(DRAFTS, case), self._model.file_ending).unlink(missing_ok=True)
            if session.prompts or session.started:
                session.save_prompts(clicks)
                written.append(clicks)
            else:
                clicks.unlink(missing_ok=True)
            if not session.started:
                mask_beside(clicks, self._model.file_ending).unlink(missing_ok=True)
            self._write_dataset_json()
            conversation.version = self.version(case)
            self._drop_draft(conversation)
            self._note(conversation, annotator)
        except Exception as error:
            if self.version(case) != before:  # what was written until then is this conversation's
                conversation.version = self.version(case)
            self.keep_draft(conversation)  # whose mask may be gone
            if not isinstance(error, OSError):
                raise
            where = error.filename or self.output
            raise Refusal(500, f"{where}: the case cannot be saved: {error.strerror}") from error
        return [str(path.relative_to(self.output)) for path in written]

    def _note(self, conversation: Conversation, annotator: str) -> None:
        assert self.journal is not None
        self.journal.look_again()
        before = self.journal.note(conversation.case)
        self.journal.change(
            conversation.case,
            mark="" if before.mark == "skipped" else before.mark,
            annotator=annotator or before.annotator,
            prompts=len(conversation.session.prompts),
            seconds=before.seconds + conversation.take_seconds(),
            saved=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )

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
            copy_file(image, copy)
        elif not copy.samefile(image):
            both = file_version(image), file_version(copy)
            if both not in self._compared and not filecmp.cmp(image, copy, shallow=False):  # compares the sizes first
                raise Refusal(400, f"{copy.name}: the dataset already contains a different image with this name")
            self._compared.add(both)

    def _declared(self) -> dict[str, Any]:
        """Labels and channels of the dataset."""
        source = self._model.dataset_json
        keys = ("channel_names", "modality", "labels", "regions_class_order")
        kept = {key: source[key] for key in keys if key in source}
        return {**kept, "labels": dict(self._model.labels)} if self._model.class_agnostic else kept

    def _check_labels(self) -> None:
        """Raises UserError if the dataset has other labels: their values would change their meaning."""
        file = None if self.output is None else self.output / "dataset.json"
        if file is None or not file.is_file():
            return
        try:
            theirs = json.loads(file.read_text(encoding="utf-8"))["labels"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file}: not the dataset.json of a dataset, or damaged ({error})") from error
        ours = self._declared()["labels"]
        if theirs != ours:
            raise UserError(f"{file}: the dataset has the labels {theirs}, the model {ours}: choose another --output")

    def _write_dataset_json(self) -> None:
        assert self.output is not None
        counted = {"numTraining": len(self._names(LABELS)), "file_ending": self._model.file_ending}
        write_json(self.output / "dataset.json", {**self._declared(), **counted})


def _is_unicode(name: str) -> bool:
    """Whether a file's name can be sent; Python holds bytes that are no UTF-8 as surrogates."""
    return name.encode("utf-8", "ignore").decode() == name


def _base_of(draft: Path) -> Path:
    """The file with the version of the saved case on which a draft builds."""
    return draft.with_suffix(".version")
