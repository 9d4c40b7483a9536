"""Atomic writing of result files, and digests of files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError

MACOS = "._"  # prefix of the files in which macOS stores metadata on other file systems
CURES = {
    errno.ENOSPC: "free space, or choose another folder",
    errno.EDQUOT: "free space, or choose another folder",
    errno.EFBIG: "raise the limit for the size of a file (ulimit -f), or choose another disk",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.EIO: "check the disk, or choose another folder",
    errno.ENOENT: "create its folder first",
    errno.EISDIR: "choose another name",
}
"""What the user can do about an error of the system, as an end of a sentence."""


class WriteError(UserError, OSError):
    """A file could not be written. The message names the file, the system's reason and a cure.

    It is also an :class:`OSError` with the system's ``errno`` and ``strerror``.
    """

    def __init__(self, path: Path, error: OSError) -> None:
        """
        Args:
            path: the file that should have been written, under its final name. error: the system's.
        """
        reason = error.strerror or str(error)
        if error.filename is not None and not str(error.filename).startswith(str(path.parent)):
            reason = f"{reason} ({error.filename})"  # another file, for example the source of a copy
        cure = CURES.get(error.errno or 0)
        super().__init__(f"{path}: cannot be written: {reason}" + (f": {cure}" if cure else ""))
        self.errno, self.strerror = error.errno, error.strerror

    def __str__(self) -> str:
        return str(self.args[0])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns errors of the system into :class:`WriteError` that names ``path``, the final name of what is written.

    Raises:
        WriteError: the block has raised an OSError.
    """
    try:
        yield
    except WriteError:
        raise  # it names its file
    except OSError as error:
        raise WriteError(path, error) from error


@contextmanager
def replacing(path: Path, durable: bool = False, keep: Path | None = None, ending: str = "") -> Iterator[Path]:
    """A temporary file in the same folder, renamed to ``path`` at the end and deleted after an error.

    All result files are written through this function.

    Args:
        path: the final name. Until the end, what is there stays.
        durable: flush the file to disk first, so that it survives a power cut.
        keep: a second name in the same folder, under which the old content of ``path`` is kept. At any time,
            there is a complete file at ``path``.
        ending: of the temporary file, for writers that choose the format by it. The file then lies in a temporary
            folder: if the process is killed, no search of the folder for files with this ending finds it.

    Raises:
        WriteError: the system refuses: a full disk, missing permissions, a missing folder.
    """
    hidden = _beside(path)
    temporary = hidden / f"unfinished{ending}" if ending else hidden
    with writing(path):
        if ending:
            hidden.mkdir()
        try:
            yield temporary
            if durable:
                flush(temporary)
            if keep is not None and path.is_file():
                keep_as(path, keep)
            os.replace(temporary, path)
            if durable:
                flush(path.parent)  # the new name, too
        finally:
            _remove(hidden)


def ask_system(file: Path, size: int = 2**20) -> None:
    """Appends zeros to a file that a library could not complete. Such libraries do not say why; the system does.

    Args:
        file: a temporary file, which is deleted afterwards.
        size: bytes to append; at most 64 MiB are.

    Raises:
        OSError: the system's reason, for example that the disk is full. Nothing is raised if there is space now.
    """
    left = min(size, 2**26)
    with file.open("ab", buffering=0) as end:
        while left > 0:
            left -= end.write(bytes(min(left, 2**20)))
        os.fsync(end.fileno())


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


def flush(path: Path) -> None:
    """Flushes a file to disk, or a folder if the system supports it.

    Raises:
        OSError: the file does not reach the disk. Some file systems report a full disk only here.
    """
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

    Raises:
        WriteError: see :func:`replacing`.
    """
    with replacing(path, durable) as temporary, temporary.open("x", encoding="utf-8") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, see :func:`write_text`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def copy_file(source: Path, path: Path, durable: bool = False) -> None:
    """Copies a file's content, see :func:`replacing`."""
    with replacing(path, durable) as temporary:
        shutil.copyfile(source, temporary)


def file_version(path: Path) -> str:
    """Changes when the file is written again; empty if there is none. Does not read it."""
    try:
        found = path.stat()
    except OSError:
        return ""
    return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"


def known_sha256(path: Path) -> str:
    """The SHA-256 of a file, read only once as long as it stays the same file (:func:`file_version`)."""
    return _sha256_of(path, file_version(path))


@cache
def _sha256_of(path: Path, _version: str) -> str:
    return file_sha256(path)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file of any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
