"""What a folder holds for each case, listed once.

Listing a folder for each of its cases would take time that grows with the square of their number.
"""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias

from nnsam3d.files import MACOS
from nnsam3d.prompts.formats.detect import SUFFIXES, case_of
from nnsam3d.prompts.kinds.checks import PromptError

FIRST_CHANNEL = "_0000"
SETTLED = 2.0  # seconds; in file systems with coarse times, changes that follow sooner could go unnoticed
_Names: TypeAlias = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Listing:
    """The names of files in a folder, as they were when it was listed. Names of cases are :func:`normalised`.

    Attributes:
        folder: the folder, which need not exist.
        prompts: case -> the names ``<case><suffix>`` of prompt files, sorted.
        images: case -> the names ``<case>_0000.<ending>``, sorted.
        texts: names that end in ``.txt``, sorted.
    """

    folder: Path
    prompts: _Names
    images: _Names
    texts: tuple[str, ...]

    def prompts_of(self, case: str) -> list[Path]:
        """The files with a case's name and the suffix of a prompt file; Unicode forms do not matter."""
        return [self.folder / name for name in self.prompts.get(normalised(case), ())]

    def images_of(self, case: str) -> list[Path]:
        """The images of a case's first channel; Unicode forms do not matter."""
        return [self.folder / name for name in self.images.get(normalised(case), ())]


def without_copies(paths: Sequence[Path]) -> list[Path]:
    """Prompt files without the compressed copies beside them."""
    return [path for path in paths if path.suffix.lower() != ".gz"] or list(paths)


def only_prompt_file(case: str, paths: Sequence[Path]) -> Path | None:
    """The prompt file of a case; None if there is none.

    Args:
        case: its name.
        paths: of its files, in one folder; a compressed copy beside another file does not count.

    Raises:
        PromptError: the case has several; the message lists them.
    """
    found = without_copies(paths)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise PromptError(
            f"{found[0].parent}: case {case} has several prompt files: {names}. Keep one and move the others."
        )
    return found[0] if found else None


def list_folder(folder: Path) -> Listing:
    """A listing of a folder; no file is opened. A folder that does not exist has no files.

    It is kept until files are added, removed or renamed, so that callers may ask for each of many cases.
    """
    try:
        found = os.stat(folder)
    except OSError:
        return Listing(folder, {}, {}, ())
    stamp = (found.st_dev, found.st_ino, found.st_mtime_ns)
    settled = time.time() - found.st_mtime > SETTLED
    return _kept(folder, stamp) if settled else _listed(folder)


@lru_cache(maxsize=4)
def _kept(folder: Path, stamp: tuple[int, int, int]) -> Listing:
    return _listed(folder)


def _listed(folder: Path) -> Listing:
    names: list[str] = []
    if folder.is_dir():
        with os.scandir(folder) as entries:  # a dangling link is an unreadable file, not a missing one
            names = sorted(entry.name for entry in entries if not entry.name.startswith(MACOS))
    prompts = [name for name in names if name.lower().endswith(SUFFIXES)]
    # prompts, and files that converters write beside an image, are no images
    images = [name for name in names if f"{FIRST_CHANNEL}." in name and not name.lower().endswith(SUFFIXES)]
    return Listing(
        folder,
        _grouped((case_of(name), name) for name in prompts),
        _grouped((name.rpartition(f"{FIRST_CHANNEL}.")[0], name) for name in images),
        tuple(name for name in names if name.endswith(".txt")),
    )


def _grouped(pairs: Iterable[tuple[str, str]]) -> _Names:
    groups: dict[str, list[str]] = {}
    for case, name in pairs:
        groups.setdefault(normalised(case), []).append(name)
    return {case: tuple(names) for case, names in groups.items()}


def normalised(name: str) -> str:
    """A name in the Unicode form in which names are compared."""
    return unicodedata.normalize("NFC", name)
