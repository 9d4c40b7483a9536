"""Files with the names of prompt files in a folder, listed once, and those among them that are read for no case.

Listing a folder for each of its cases would take time that grows with the square of their number.
"""

from __future__ import annotations

import difflib
import os
import re
import time
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnsam3d.files import MACOS
from nnsam3d.prompts.convert import FIRST_CHANNEL
from nnsam3d.prompts.formats import SUFFIXES, case_of, is_prompt_file

POINTS = (".mrk.json", ".fcsv")  # unambiguous suffixes; other programs use the others, too
SETTLED = 2.0  # seconds; file systems with coarse times may hide a change that follows sooner
MAX_COMPARED = 10_000  # pairs of names in a search for similar ones, which is slow

_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class PromptFiles:
    """The names of files in a folder, as they were when it was listed.

    Attributes:
        folder: the folder, which need not exist.
        by_case: normalised name of a case (:func:`normalised`) -> its files ``<case><suffix>``, sorted.
        texts: names that end in ``.txt``, sorted.
        stamp: identity and time of the folder; None if changes since then could not be noticed by it.
    """

    folder: Path
    by_case: Mapping[str, tuple[str, ...]]
    texts: tuple[str, ...]
    stamp: _Stamp | None

    def of(self, case: str) -> list[Path]:
        """The files with the name of a case, compared in one Unicode form."""
        return [self.folder / name for name in self.by_case.get(normalised(case), ())]

    def current(self) -> PromptFiles:
        """Itself, or a new list if files may have been added, removed or renamed since."""
        return self if self.stamp is not None and self.stamp == _stamp(self.folder) else list_prompt_files(self.folder)


def list_prompt_files(folder: Path) -> PromptFiles:
    """Lists a folder once; no file is opened. A folder that does not exist has no files."""
    stamp = _stamp(folder)
    if stamp is not None and time.time() - stamp[2] / 1e9 < SETTLED:
        stamp = None
    names: list[str] = []
    if folder.is_dir():
        with os.scandir(folder) as entries:  # a dangling link is an unreadable file, not a missing one
            names = sorted(entry.name for entry in entries)
    by_case: dict[str, list[str]] = {}
    for name in names:
        if name.lower().endswith(SUFFIXES) and not name.startswith(MACOS):
            by_case.setdefault(normalised(case_of(name)), []).append(name)
    texts = tuple(name for name in names if name.endswith(".txt") and not name.startswith(MACOS))
    return PromptFiles(folder, {case: tuple(own) for case, own in by_case.items()}, texts, stamp)


def normalised(name: str) -> str:
    """A name in the Unicode form in which names are compared."""
    return unicodedata.normalize("NFC", name)


def _stamp(folder: Path) -> _Stamp | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_mtime_ns)


def has_own_suffix(path: Path) -> bool:
    """Whether only lists of points have this suffix, so that the content need not be read to know."""
    return path.name.lower().endswith(POINTS)


def misplaced(images: Path, files: PromptFiles, cases: Collection[str], own: Collection[str]) -> Iterator[str]:
    """A message for every file that names one of these cases but is not read: in another folder, or with ``.txt``.

    Args:
        images: the folder of the images.
        files: of the folder from which prompt files are read.
        cases: the names of all cases.
        own: the cases whose files are looked at.
    """
    known, looked_at = {normalised(case) for case in cases}, {normalised(case) for case in own}
    if files.folder != images:
        beside = list_prompt_files(images)
        for path in [path for case in beside.by_case if case in looked_at for path in beside.of(case)]:
            if has_own_suffix(path) or is_prompt_file(path):
                yield f"{path} is beside the images, but prompt files are read from {files.folder}"
    for name in files.texts:  # some systems hide the file extension
        starts = (normalised(name)[:length] for length in range(len(name), 0, -1))
        case = next((start for start in starts if start in known), None)
        if case in looked_at and is_prompt_file(files.folder / name):
            yield f"{files.folder / name} ends in .txt and is not read; rename it to <case>.json (or .csv, .fcsv)"


def unmatched(images: Path, files: PromptFiles, cases: Collection[str]) -> Iterator[str]:
    """A message for every prompt file that matches none of the cases, with a similar case name, if any."""
    known = {normalised(case): case for case in cases}
    alike: dict[str, list[str]] = {}
    if not files.by_case.keys() <= known.keys():
        for case in cases:
            alike.setdefault(_rough(case), []).append(case)
    left = MAX_COMPARED
    for case in files.by_case:
        paths = [] if case in known else [p for p in files.of(case) if has_own_suffix(p) or is_prompt_file(p)]
        if not paths:
            continue
        base = case.removesuffix(FIRST_CHANNEL)
        near = known.get(base) or (alike[_rough(base)][0] if len(alike.get(_rough(base), ())) == 1 else None)
        if near is None and len(known) <= left:
            left -= len(known)
            near = _nearest(base, cases)
        meant = f"did you mean {near}.json?" if near else "its name must be <case>.json"
        for path in paths:
            yield f"{path} matches no image in {images}; {meant}"


def _rough(name: str) -> str:
    """A name without what is easily mistaken: capitals, separators, leading zeros."""
    words = re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[\W_]+", " ", name.casefold()))
    return re.sub(r"(?<!\d) | (?!\d)", "", words)  # "1 2" is not 12


def _nearest(name: str, cases: Collection[str]) -> str | None:
    """The most similar name; None if several are, such as those of the other numbers in a series."""
    near = difflib.get_close_matches(name, cases, n=2)
    likeness = [difflib.SequenceMatcher(None, case, name).ratio() for case in near]
    return near[0] if near and likeness[0] > max(likeness[1:], default=0.0) else None
