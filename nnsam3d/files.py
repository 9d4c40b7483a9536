"""Atomic writing of result files, and digests of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MACOS = "._"  # prefix of the files in which macOS stores metadata on other file systems


@contextmanager
def replacing(path: Path, durable: bool = False, keep: Path | None = None, ending: str = "") -> Iterator[Path]:
    """A temporary file in the same folder, renamed to ``path`` at the end and deleted after an error.

    All result files are written through this function.

    Args:
        durable: flush the file to disk first, so that it survives a power cut.
        keep: a second name in the same folder, under which the old content of ``path`` is kept. At any time,
            there is a complete file at ``path``.
        ending: of the temporary file, for writers that choose the format by it. The file then lies in a temporary
            folder: if the process is killed, no search of the folder for files with this ending finds it.
    """
    hidden = _beside(path)
    temporary = hidden / f"unfinished{ending}" if ending else hidden
    if ending:
        hidden.mkdir()
    try:
        yield temporary
        if durable:
            _flush(temporary)
        if keep is not None and path.is_file():
            keep_as(path, keep)
        os.replace(temporary, path)
        if durable:
            _flush(path.parent)  # the new name, too
    finally:
        _remove(hidden)


def remove_unfinished(path: Path) -> None:
    """Deletes temporary files of ``path`` left by killed processes. No other process may be writing ``path``."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        _remove(left)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # an earlier error is the one that matters
        path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path)


def _beside(path: Path) -> Path:
    # The same folder is on the same file system, so that renaming is atomic. The suffix hides the file from searches.
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def keep_as(path: Path, keep: Path) -> None:
    """Gives the current file at ``path`` a second name in the same folder, replacing any file of that name."""
    second = _beside(keep)
    try:
        os.link(path, second)  # fast for files of any size
    except OSError:  # the file system does not support hard links
        shutil.copyfile(path, second)
    os.replace(second, keep)


def _flush(path: Path) -> None:
    """Flushes a file to disk, or a folder if the system supports it."""
    is_folder = path.is_dir()
    # Windows cannot open folders, and some network file systems cannot flush them
    with contextlib.suppress(OSError) if is_folder else contextlib.nullcontext():
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Write ``text`` as UTF-8, atomically.

    Args:
        durable: flush to disk; for data created by a person.
    """
    with replacing(path, durable) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
