"""Download a large file over an unreliable connection: resumed, verified, and complete under its final name.

Partial downloads are kept in `<name>.part`, which is also the lock: one process downloads, the others wait.
Proxies are taken from the environment (http_proxy, https_proxy, no_proxy). Imports no torch.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nnsam3d import __version__
from nnsam3d.errors import UserError
from nnsam3d.progress import tqdm

logger = logging.getLogger(__name__)
TIMEOUT = 15.0  # seconds without data, connecting included
MAX_FAILURES = 5  # consecutive attempts with less than ENOUGH bytes
ENOUGH = 1 << 20
LONGEST_PAUSE = 30.0  # seconds; pauses start with FIRST_PAUSE and double
FIRST_PAUSE = 1.0
CHUNK = 1 << 16
TEMPORARY_STATUS = {408, 425, 429, 500, 502, 503, 504}
RANGE_NOT_SATISFIABLE = 416


class DownloadError(UserError):
    """A download that failed or cannot succeed; the message gives the reason."""


class _Interrupted(Exception):
    """Worth another attempt."""


class _Unreachable(_Interrupted):
    """Worth another attempt only if the server was reached before."""


def download(url: str, target: Path, digest: str) -> Path:
    """Fetch `url` into `target`, resuming an earlier attempt. An existing target is kept.

    Args:
        digest: the start of the file's SHA-256, in hexadecimal digits.

    Raises:
        DownloadError: no network, no such file, wrong content, no space or no permission. The part file is deleted
            only after wrong content.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while not target.is_file():
            with part.open("ab") as file:
                _lock(file, part)
                if not _is_still(file, part):
                    continue  # another process finished or deleted it meanwhile
                if target.is_file():
                    part.unlink()
                else:
                    _complete(url, file, part, target, digest)
    except OSError as error:
        raise DownloadError(f"cannot write {part}: {error.strerror or error}") from error
    return target


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file of any size, with a progress bar."""
    digest = hashlib.sha256()
    with path.open("rb") as file, _bar(f"checking {path.name}", path.stat().st_size) as bar:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()


def _lock(file: BinaryIO, part: Path) -> None:
    """Wait for the lock on `file`. The system releases it when its owner ends, even after a crash."""
    try:
        import fcntl
    except ImportError:  # Windows: without a lock
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(f"waiting for another process that is downloading {part.name}")
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return


def _is_still(file: BinaryIO, part: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), part.stat())
    except FileNotFoundError:
        return False


def _complete(url: str, file: BinaryIO, part: Path, target: Path, digest: str) -> None:
    try:
        _fetch(url, file, part)
        os.fsync(file.fileno())
    except BaseException:
        if not _size(file):
            part.unlink()
        raise
    found = sha256_of(part)
    if not found.startswith(digest):
        size = _size(file)
        part.unlink()
        raise DownloadError(
            f"{url}: wrong content: the SHA-256 of the {size} downloaded bytes starts with "
            f"{found[: len(digest)]}, not {digest}. The file was deleted; try again or use another address"
        )
    os.replace(part, target)


def _fetch(url: str, file: BinaryIO, part: Path) -> None:
    """Attempts until the file is complete; each resumes where the last one was interrupted."""
    failures, reached = 0, False
    while True:
        before = _size(file)
        try:
            _attempt(url, file, part)
            return
        except _Interrupted as error:
            if isinstance(error, _Unreachable) and not reached:
                raise DownloadError(f"{url}: {error}") from error
            reached = reached or not isinstance(error, _Unreachable)
            failures = 1 if _size(file) - before >= ENOUGH else failures + 1
            if failures > MAX_FAILURES:
                kept = f"; {part} is kept and the next download resumes it" if _size(file) else ""
                raise DownloadError(f"{url}: gave up after {failures} failures in a row: {error}{kept}") from error
            pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE)
            _say(f"interrupted ({error}); resuming in {pause:.0f} s")
            time.sleep(pause)


def _attempt(url: str, file: BinaryIO, part: Path) -> None:
    have = _size(file)
    response = _open(url, have)
    with response:
        status = getattr(response, "status", None) or 200  # file:// has none
        if status == RANGE_NOT_SATISFIABLE:
            if _number(r"bytes \*/(\d+)", response) == have:
                return  # it was complete before
            file.truncate(0)
            raise _Interrupted("the partial file does not match the server's file: starting over")
        start, total = _number(r"bytes (\d+)-", response), _number(r"bytes \d+-\d+/(\d+)", response)
        if status != 206:  # the whole file: the server ignores ranges, or none was requested
            file.truncate(0)
            length = response.headers.get("Content-Length")
            start, total = 0, int(length) if length and length.isdigit() else None
        elif start != have:
            file.truncate(0)
            raise _Interrupted("the server did not send the requested range: starting over")
        _require_space(part, total, have=start)
        with _bar(part.stem, total, start) as bar:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and _size(file) < total:
        raise _Interrupted(f"the connection ended after {_size(file)} of {total} bytes")


def _open(url: str, start: int) -> Any:
    """The response to a request for the bytes from `start`; the statuses 200, 206 and 416 come back."""
    headers = {"User-Agent": f"nnsam3d/{__version__}"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(url, headers=headers)
        # a new opener: the shared one keeps the proxies of its first use
        return urllib.request.build_opener().open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == RANGE_NOT_SATISFIABLE and start:
            return error
        error.close()
        if error.code in TEMPORARY_STATUS:
            raise _Interrupted(f"the server answered {error.code} {error.reason}") from error
        raise DownloadError(f"{url}: the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:  # not connected: no name, no route, refused, certificate, proxy
        raise _Unreachable(str(error.reason)) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise DownloadError(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error


def _chunks(response: Any) -> Iterator[bytes]:
    try:
        while chunk := response.read(CHUNK):
            yield chunk
    except (OSError, http.client.HTTPException) as error:
        raise _Interrupted(_reason(error)) from error


def _require_space(part: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        raise DownloadError(
            f"not enough space in {part.parent}: {(total - have) / 2**20:.0f} MiB needed, {free / 2**20:.0f} MiB free"
        )


def _number(pattern: str, response: Any) -> int | None:
    match = re.match(pattern, response.headers.get("Content-Range") or "")
    return int(match.group(1)) if match else None


def _size(file: BinaryIO) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


def _bar(what: str, total: int | None, start: int = 0) -> Any:
    return tqdm(
        desc=what,
        total=total,
        initial=start,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        mininterval=0.2,
    )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _say(text: str) -> None:
    logger.warning("nnsam3d: %s", text)  # on the error stream, unless a program has set up its own logging
