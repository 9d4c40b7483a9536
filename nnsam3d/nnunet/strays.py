"""Prompt files that are read for no case, and what their names should probably be."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from nnsam3d.prompts.formats.detect import is_prompt_file
from nnsam3d.prompts.listing import FIRST_CHANNEL, Listing, list_folder, normalised

POINTS = (".mrk.json", ".fcsv")  # unambiguous suffixes; other programs use the others, too
MAX_COMPARED = 10_000  # pairs of names in a search for similar ones, which is slow


def has_own_suffix(path: Path) -> bool:
    """Whether only lists of points have this suffix, so that the content need not be read to know."""
    return path.name.lower().endswith(POINTS)


def misplaced(images: Path, files: Listing, cases: Collection[str], own: Collection[str]) -> Iterator[str]:
    """A message for every file that names one of these cases but is not read: in another folder, or with ``.txt``.

    Args:
        images: the folder of the images.
        files: of the folder from which prompt files are read.
        cases: the names of all cases.
        own: the cases whose files are looked at.
    """
    known, looked_at = {normalised(case) for case in cases}, {normalised(case) for case in own}
    if files.folder != images:
        beside = list_folder(images)
        for path in [path for case in beside.prompts if case in looked_at for path in beside.prompts_of(case)]:
            if has_own_suffix(path) or is_prompt_file(path):
                yield f"{path} is beside the images, but prompt files are read from {files.folder}"
    for name in files.texts:  # some systems hide the file extension
        starts = (normalised(name)[:length] for length in range(len(name), 0, -1))
        case = next((start for start in starts if start in known), None)
        if case in looked_at and is_prompt_file(files.folder / name):
            yield f"{files.folder / name} ends in .txt and is not read; rename it to <case>.json (or .csv, .fcsv)"


def unmatched(images: Path, files: Listing, cases: Collection[str]) -> Iterator[str]:
    """A message for every prompt file that matches none of the cases, with a similar case name, if any."""
    known = {normalised(case): case for case in cases}
    alike: dict[str, list[str]] = {}
    if not files.prompts.keys() <= known.keys():
        for case in cases:
            alike.setdefault(_rough(case), []).append(case)
    left = MAX_COMPARED
    for case in files.prompts:
        paths = [] if case in known else [p for p in files.prompts_of(case) if has_own_suffix(p) or is_prompt_file(p)]
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
