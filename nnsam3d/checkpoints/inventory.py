"""Available weights, local files and their verification: the actions of `nnsam3d weights`."""

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
    invalid_setting,
    locate,
    not_found,
    ways,
)
from nnsam3d.errors import UserError
from nnsam3d.tables import columns


def list_weights() -> int:
    """Print the available and the local checkpoints; always 0."""
    rows = [("preset", "file", "size", "found")]
    for preset, file in OFFICIAL_FILES.items():
        rows.append((preset, file.name, f"{file.mib} MiB", str(locate(preset) or "no")))
    print(columns(rows))
    print(f"\nDownloads go to {download_folder()}.")
    if wrong := invalid_setting():
        print(f"{wrong}: correct it, or: unset {ENVIRONMENT_VARIABLE}")
    return 0


def download_preset(preset: str, folder: Path | None = None, url: str | None = None) -> int:
    """Download a preset's file, or check an existing one.

    Raises:
        UserError: the download failed, or a wrong file is in its place.
    """
    folder = (folder or download_folder()).expanduser().absolute()
    file = OFFICIAL_FILES[preset]
    path = folder / file.name
    if path.is_file():
        if not sha256_of(path).startswith(file.digest):
            raise UserError(f"{path} exists, but is not Meta's file: delete or move it, then try again")
        print(f"{path} exists already; its digest is correct")
    else:
        try:
            download_weights(preset, folder, url)
        except DownloadError as error:
            raise UserError(f"{error}. {ways(preset)}") from error
        print(f"{path}: downloaded, digest {file.digest} verified")
    if path not in [candidate.absolute() for candidate in candidates(preset)]:
        print(f"To use it in a training: export {ENVIRONMENT_VARIABLE}={path}")
    return 0


def verify(presets: list[str]) -> int:
    """Check digests; 0 if all are correct.

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
    correct = [_is_correct(path) for path in dict.fromkeys(paths)]
    return 0 if all(correct) else 1


def _is_correct(path: Path) -> bool:
    expected = {file.name: file.digest for file in OFFICIAL_FILES.values()}.get(path.name)
    found = sha256_of(path)
    sys.stderr.flush()
    if expected is None:
        print(f"unknown  {path}: not one of Meta's file names, so there is no digest to compare; SHA-256 {found}")
        return False
    if found.startswith(expected):
        print(f"ok       {path}: SHA-256 {found}")
        return True
    preset = next(preset for preset, file in OFFICIAL_FILES.items() if file.name == path.name)
    print(
        f"wrong    {path}: SHA-256 {found} does not start with {expected}: damaged, incomplete or a different file\n"
        f"         fix: rm '{path}' && nnsam3d weights download {preset}"
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
