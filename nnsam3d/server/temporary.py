"""The folder for everything that the server stores while it runs: uploads are patients' images."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "nnsam3d_serve_"
LOCK = "lock"


@contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """A folder for all temporary files of this process, deleted at the end.

    Folders of servers that were killed are deleted first: the system releases the locks of a process however it ends.
    """
    _remove_left(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))  # readable by its owner only
    before = tempfile.tempdir
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tempfile.tempdir = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before
            shutil.rmtree(folder, ignore_errors=True)


def _remove_left(parent: Path) -> None:
    for folder in parent.glob(PREFIX + "*"):
        with suppress(OSError):  # of another user, or just being made
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
