"""`nnsam3d weights list|download|verify|path`: SAM's checkpoints on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnsam3d.checkpoints.inventory import download_preset, list_weights, path_of, verify
from nnsam3d.checkpoints.pretrained import OFFICIAL_FILES, URL_VARIABLE


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
        return list_weights()
    if args.action == "download":
        return download_preset(args.preset, args.to, args.url)
    if args.action == "verify":
        return verify(args.presets)
    print(path_of(args.preset))
    return 0
