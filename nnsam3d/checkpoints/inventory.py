"""What weights there are, what is here, and whether it is right: what `nnsam3d weights` prints."""

from __future__ import annotations

import sys
from pathlib import Path

from nnsam3d.checkpoints.download import DownloadError, sha256_of
from nnsam3d.checkpoints.pretrained import (
    ENVIRONMENT_VARIABLE,
    OFFICIAL_FILES,
    candidates,
    download_folder,
    download_weights,
    locate,
    named_in_vain,
    not_found,
    ways,
)
from nnsam3d.errors import UserError
from nnsam3d.tables import columns


def list_weights() -> int:
    """Print what there is to have and what is here; always 0."""
    rows = [("preset", "file", "size", "found")]
    for preset, file in OFFICIAL_FILES.items():
        rows.append((preset, file.name, f"{file.mib} MiB", str(locate(preset) or "no")))
    print(columns(rows))
    print(f"\nDownloads go to {download_folder()}.")
    if wrong := named_in_vain():
        print(f"{wrong}: correct it, or: unset {ENVIRONMENT_VARIABLE}")
    return 0


def download(preset: str, folder: Path | None = None, url: str | None = None) -> int:
    """Download a preset's file, or check the one that is there.

    Raises:
        UserError: it did not come, or a wrong file stands in its place.
    """
    folder = (folder or download_folder()).expanduser().absolute()
    file = OFFICIAL_FILES[preset]
    path = folder / file.name
    if path.is_file():
        if not sha256_of(path).startswith(file.digest):
            raise UserError(f"{path} is there, but is not Meta's file: delete it or move it away, then try again")
        print(f"{path} is there already, and right")
    else:
        try:
            download_weights(preset, folder, url)
        except DownloadError as error:
            raise UserError(f"{error}. {ways(preset)}") from error
        print(f"{path}: downloaded, digest {file.digest} checked")
    if path not in [candidate.absolute() for candidate in candidates(preset)]:
        print(f"For a training to find it: export {ENVIRONMENT_VARIABLE}={path}")
    return 0


def verify(presets: list[str]) -> int:
    """Check digests; 0 if every file is right.

    Raises:
        UserError: a preset is unknown, or its file or any file is missing.
    """
    for preset in presets:
        if preset not in OFFICIAL_FILES:
            raise UserError(f"no such preset: {preset}; the presets with weights are {', '.join(OFFICIAL_FILES)}")
    if presets:
        paths = [path_of(preset) for preset in presets]
    else:
        paths = [path for preset in OFFICIAL_FILES if (path := locate(preset)) is not None]
    if not paths:
        raise UserError(f"nothing to verify: no SAM checkpoint was found. {ways(next(iter(OFFICIAL_FILES)))}")
    right = [_is_right(path) for path in dict.fromkeys(paths)]
    return 0 if all(right) else 1


def _is_right(path: Path) -> bool:
    expected = {file.name: file.digest for file in OFFICIAL_FILES.values()}.get(path.name)
    found = sha256_of(path)
    sys.stderr.flush()
    if expected is None:
        print(f"unknown  {path}: none of Meta's file names, so there is no digest to compare; SHA-256 {found}")
        return False
    if found.startswith(expected):
        print(f"ok       {path}: SHA-256 {found}")
        return True
    preset = next(preset for preset, file in OFFICIAL_FILES.items() if file.name == path.name)
    print(
        f"wrong    {path}: SHA-256 {found} does not start with {expected}: damaged, incomplete or another file\n"
        f"         cure: rm '{path}' && nnsam3d weights download {preset}"
    )
    return False


def path_of(preset: str) -> Path:
    """The file that a training would use.

    Raises:
        UserError: it is not on this machine.
    """
    found = locate(preset)
    if found is None:
        raise UserError(f"{not_found(preset)}. {ways(preset)}")
    return found
