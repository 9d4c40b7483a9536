"""Recognition of formats by content. The suffix only affects error messages."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, TypeAlias

from nnsam3d.geometry.stored import GZIP
from nnsam3d.prompts.formats.base import Format, json_type
from nnsam3d.prompts.formats.challenge_npz import MAGIC, NPZ, open_parts
from nnsam3d.prompts.formats.challenges import AUTOPET, GRAND_CHALLENGE, MONAI
from nnsam3d.prompts.formats.markups import MARKUPS
from nnsam3d.prompts.formats.meant import is_meant, wrapped
from nnsam3d.prompts.formats.napari import NAPARI
from nnsam3d.prompts.formats.ours import OURS
from nnsam3d.prompts.formats.slicer import FCSV, TABLE
from nnsam3d.prompts.kinds.checks import PromptError, short

FORMATS = {f.name: f for f in (OURS, MARKUPS, FCSV, TABLE, AUTOPET, NPZ, GRAND_CHALLENGE, MONAI, NAPARI)}
MAX_BYTES = 16 * 2**20
START = 4096  # bytes, from which the kind of content is recognised

Loaded: TypeAlias = tuple[Format, Any, list[str]]
"""A file's format and content, and problems found while reading (duplicate keys)."""


def load(path: Path, name: str | None) -> Loaded:
    """The file's format and content, and problems found while reading (duplicate keys).

    Args:
        name: the format, if stated by the user.

    Raises:
        PromptError: unreadable, malformed, unknown or ambiguous.
    """
    if name is not None and name not in FORMATS:
        raise PromptError(f"unknown prompt format {short(name)}; known: {', '.join(FORMATS)}")
    stated = FORMATS[name] if name else None
    problems: list[str] = []
    raw = b"" if stated and stated.holds == "npz" else _bytes(path, whole=stated is not None)
    holds = stated.holds if stated else _what_it_holds(path, raw)
    content: Any
    if holds == "npz":
        content = open_parts(path)
    else:
        content = _text(path, raw)
        if holds == "json":
            content = _json_object(path, content, problems)
    if stated:
        return stated, content, problems
    found = recognised(holds, content)
    if len(found) == 1:
        return found[0], content, problems
    if found:
        names = ", ".join(f.name for f in found)
        raise PromptError(f"{path}: the format could be {names}; state it, for example --format {found[0].name}")
    if holds == "json" and wrapped(content):
        raise PromptError(f"{path}: a prompt file inside of another JSON object: remove what is around it")
    raise _Unknown(f"{path}: {_nothing_known(holds, content)}. Known prompt formats: {', '.join(FORMATS)}")


def recognised(holds: str, content: Any) -> list[Format]:
    """The formats that match this content."""
    return [f for f in FORMATS.values() if f.holds == holds and f.recognises(content)]


def is_prompt_file(path: Path) -> bool:
    """Whether this is a prompt file, valid or not. False for unrelated files."""
    return load_if_prompts(path) is not None


def load_if_prompts(path: Path, labels: Collection[str] | None = None) -> Loaded | PromptError | None:
    """What :func:`load` returns, or raises for an invalid prompt file; None for unrelated files.

    For callers that go on to read the file, so that it is opened and parsed once.

    Args:
        labels: names of the dataset's labels, see :func:`is_meant`.
    """
    try:
        loaded = load(path, None)
    except _Unknown:
        return None
    except PromptError as error:
        return error
    return loaded if is_meant(loaded[0].name, loaded[1], labels) else None


class _Unknown(PromptError):
    """Well-formed, but not a prompt file."""


def _nothing_known(holds: str, content: Any) -> str:
    if holds == "json":
        keys = ", ".join(short(key, 30) for key in list(content)[:8]) or "none"
        return f"this JSON file contains no known prompts (its keys: {keys})"
    if holds == "npz":
        return 'this npz file contains no "clicks"'
    return (
        "this text file is not a known list of points (Slicer's has # header lines or the columns label, l, p, s; "
        "napari's axis-0)"
    )


def _what_it_holds(path: Path, raw: bytes) -> str:
    start = raw[:START]
    if start.startswith(MAGIC):
        return "npz"
    text = start.decode(_encoding(start), errors="replace").lstrip("\ufeff \t\r\n")
    if text.startswith(("{", "[")):
        return "json"
    return "text" if path.suffix.lower() in (".fcsv", ".csv", ".txt") else "json"


def _bytes(path: Path, whole: bool) -> bytes:
    """The content up to just above the largest allowed size; only the start of npz files, unless ``whole``."""
    try:
        with open(path, "rb") as file:
            start = file.read(START)
            more = len(start) == START and (whole or not start.startswith(MAGIC))
            return start + file.read(max(0, MAX_BYTES + 1 - START)) if more else start
    except OSError as error:
        raise PromptError(f"{path}: the prompt file cannot be read ({error.strerror})") from None


def _text(path: Path, raw: bytes) -> str:
    if len(raw) > MAX_BYTES:
        raise _Unknown(f"{path}: larger than {MAX_BYTES // 2**20} MB, so not a prompt file")
    if raw.startswith(GZIP):
        kind = PromptError if _packed_prompts(raw) else _Unknown
        raise kind(f"{path}: compressed prompt files are not read: decompress it (gunzip)")
    try:
        return raw.decode(_encoding(raw))
    except UnicodeDecodeError as error:
        # in a legacy encoding, it is an unrelated file unless it looks like points
        known = path.suffix.lower() not in (".json", ".csv") or _encoding(raw) != "utf-8" or _recognised_somehow(raw)
        kind = PromptError if known else _Unknown
        raise kind(
            f"{path}: the text encoding is unknown (byte {error.start} is not UTF-8): save it again as UTF-8"
        ) from None


def _packed_prompts(raw: bytes) -> bool:
    """Whether a gzip file contains prompts, as far as its start shows."""
    try:
        start = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(raw, 2**20)
    except zlib.error:
        return False
    return _recognised_somehow(start.lstrip(b"\xef\xbb\xbf"))


def _encoding(raw: bytes) -> str:
    """UTF-8, 16 or 32, by the byte order mark or the zeros of ASCII characters."""
    return json.detect_encoding(raw[:4]) if raw else "utf-8"  # uses only these bytes


def _recognised_somehow(raw: bytes) -> bool:
    text = raw.decode("latin-1")
    if text.lstrip().startswith(("{", "[")):
        return _has_our_words(text)
    return bool(recognised("text", text))


def _has_our_words(text: str) -> bool:
    return any(f'"{key}"' in text for key in ("nnsam3d_prompts", "markups", "clicks", "points"))


def _json_object(path: Path, text: str, problems: list[str]) -> dict[str, Any]:
    """The object in the file; duplicate keys are added to ``problems``, other errors are raised."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        once = dict(pairs)
        if len(once) < len(pairs):
            repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
            problems.extend(f"key {json.dumps(key[:80])} appears more than once in one object" for key in repeated)
        return once

    try:
        content = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        lines = error.msg == "Extra data" and not _has_our_words(text)  # JSON lines: not a prompt file
        raise (_Unknown if lines else PromptError)(f"{path}: malformed JSON at {where}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # numbers with thousands of digits, thousands of brackets
        raise PromptError(f"{path}: malformed JSON: {error}") from None
    if not isinstance(content, dict):
        text = f"{path}: must hold one JSON object, not {json_type(content)}"
        if wrapped(content):
            raise PromptError(f"{text} around a prompt file: remove what is around the object")
        raise _Unknown(text)
    return content


def case_of(path: str | os.PathLike[str]) -> str:
    """The case in the name of a prompt file: ``liver_003.mrk.json`` -> ``liver_003``."""
    name = os.path.basename(path)
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(path).stem


PACKED = (".mrk.json.gz", ".json.gz", ".fcsv.gz", ".csv.gz")
SUFFIXES = (".mrk.json", ".json", ".fcsv", ".npz", ".csv", *PACKED)
"""Suffixes of prompt files (``<case><suffix>``), longer ones first; compressed files are found to be refused."""
