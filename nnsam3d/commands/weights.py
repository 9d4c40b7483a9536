"""`nnsam3d weights list|download|verify|path`: SAM's checkpoints on this machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnsam3d.checkpoints.download import DownloadError, sha256_of
from nnsam3d.checkpoints.pretrained import (
    ENVIRONMENT_VARIABLE,
    OFFICIAL_FILES,
    URL_VARIABLE,
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

DESCRIPTION = """
Lists Meta's SAM checkpoints and where they are on this machine, downloads them (interrupted downloads
are resumed, the digest in the file name is verified, proxies are taken from the environment), and
verifies existing ones. A training that needs a missing checkpoint downloads it automatically.
NNSAM3D_WEIGHTS sets a local file or folder, nnsam3d_weights_url a mirror. The options of an action are
shown by, for example, `nnsam3d weights download --help`.
"""
EXAMPLE = """
nnsam3d weights list
nnsam3d weights download vit_b
nnsam3d weights download vit_b --to /shared/sam && export NNSAM3D_WEIGHTS=/shared/sam
nnsam3d weights verify
export NNSAM3D_WEIGHTS=$(nnsam3d weights path vit_b)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `nnsam3d weights` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|download|verify|path")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    presets = list(OFFICIAL_FILES)
    action("list", "list the available files and where they are stored")
    download = action("download", "download Meta's file; resumes interrupted downloads and verifies the digest")
    download.add_argument("preset", choices=presets)
    download.add_argument("--to", metavar="FOLDER", type=Path, help="destination folder, instead of the default")
    download.add_argument("--url", help=f"address of the file or its folder, instead of Meta's (also: {URL_VARIABLE})")
    verify = action("verify", "compare files with the digest in their name; status 0 if all are correct")
    verify.add_argument("presets", nargs="*", metavar="preset", help="default: all that exist")
    path = action("path", "print the path of the file that a training would use")
    path.add_argument("preset", choices=presets)


def main(args: argparse.Namespace) -> int:
    """`nnsam3d weights`."""
    if args.action == "list":
        return _list()
    if args.action == "download":
        return _download(args.preset, args.to, args.url)
    if args.action == "verify":
        return _verify(args.presets)
    print(_path_of(args.preset))
    return 0


def _list() -> int:
    """Available and local checkpoints."""
    rows = [("preset", "file", "size", "found")]
    for preset, file in OFFICIAL_FILES.items():
        rows.append((preset, file.name, f"{file.mib} MiB", str(locate(preset) or "no")))
    print(columns(rows))
    print(f"\nDownloads go to {download_folder()}.")
    if wrong := invalid_setting():
        print(f"{wrong}: correct it, or: unset {ENVIRONMENT_VARIABLE}")
    return 0


def _download(preset: str, folder: Path | None, url: str | None) -> int:
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


def _verify(presets: list[str]) -> int:
    """Check digests; 0 if all are correct.

    Raises:
        UserError: a preset is unknown, or its file or any file is missing.
    """
    for preset in presets:
        if preset not in OFFICIAL_FILES:
            raise UserError(f"no such preset: {preset}; the presets with weights are {', '.join(OFFICIAL_FILES)}")
    if presets:
        paths = [_path_of(preset) for preset in presets]
    else:
        paths = [path for preset in OFFICIAL_FILES if (path := locate(preset)) is not None]
    if not paths:
        raise UserError(f"nothing to verify: no SAM checkpoint was found. {ways(next(iter(OFFICIAL_FILES)))}")
    correct = [_is_correct(path) for path in dict.fromkeys(paths)]
    return 0 if all(correct) else 1


def _is_correct(path: Path) -> bool:
    preset = next((preset for preset, file in OFFICIAL_FILES.items() if file.name == path.name), None)
    found = sha256_of(path)
    sys.stderr.flush()
    if preset is None:
        print(f"unknown  {path}: not one of Meta's file names, so there is no digest to compare; SHA-256 {found}")
        return False
    expected = OFFICIAL_FILES[preset].digest
    if found.startswith(expected):
        print(f"ok       {path}: SHA-256 {found}")
        return True
    print(
        f"wrong    {path}: SHA-256 {found} does not start with {expected}: damaged, incomplete or a different file\n"
        f"         fix: rm '{path}' && nnsam3d weights download {preset}"
    )
    return False


def _path_of(preset: str) -> Path:
    """The file that a training would use.

    Raises:
        UserError: it is not on this machine.
    """
    found = locate(preset)
    if found is None:
        raise UserError(f"{not_found(preset)}. {ways(preset)}")
    return found
