"""`nnsam3d weights list|download|verify|path`: SAM's checkpoints on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from nnsam3d.checkpoints.inventory import download, list_weights, path_of, verify
from nnsam3d.checkpoints.pretrained import OFFICIAL_FILES, URL_VARIABLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `nnsam3d weights` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|download|verify|path")

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    presets = list(OFFICIAL_FILES)
    action("list", "show the known files, and where they are found")
    download = action("download", "download Meta's file; resumes, and checks the digest")
    download.add_argument("preset", choices=presets)
    download.add_argument("--to", metavar="FOLDER", type=Path, help="where to put it, instead of the usual place")
    download.add_argument(
        "--url", help=f"the file, or the folder that holds it, elsewhere than at Meta (also: {URL_VARIABLE})"
    )
    verify = action("verify", "compare files with the digest in their name; status 0 if all are right")
    verify.add_argument("presets", nargs="*", metavar="preset", help="default: all that are found")
    path = action("path", "print the path of the file that a training would use")
    path.add_argument("preset", choices=presets)


def main(args: argparse.Namespace) -> int:
    """`nnsam3d weights`."""
    if args.action == "list":
        return list_weights()
    if args.action == "download":
        return download(args.preset, args.to, args.url)
    if args.action == "verify":
        return verify(args.presets)
    print(path_of(args.preset))
    return 0
