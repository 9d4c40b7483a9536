"""`nnsam3d link`."""

from __future__ import annotations

import argparse

from nnsam3d.errors import UserError
from nnsam3d.nnunet import link

DESCRIPTION = """
Writes stub files for nnsam3d's trainers and planners into the installed nnU-Net, so that
nnUNetv2_train -tr SAM3DAdapterTrainer works. Run it once after installing or updating either package;
running it again is harmless. If nnU-Net's folder is read-only, set nnUNet_extTrainer instead.
"""
EXAMPLE = """
nnsam3d link
nnsam3d link --undo
export nnUNet_extTrainer=$(nnsam3d link --print-path)    # read-only nnU-Net
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d link`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--undo", action="store_true", help="remove the files that link wrote")
    group.add_argument("--print-path", action="store_true", help="write nothing; print the value for nnUNet_extTrainer")


def main(args: argparse.Namespace) -> int:
    """Write or remove the stubs, and list them."""
    if args.print_path:
        print(link.trainers_folder())
        return 0
    nnunet = link.nnunet_folder()
    if args.undo:
        removed = link.unlink(nnunet)
        for stub in removed:
            print(f"removed {stub}")
        print(f"{len(removed)} removed." if removed else f"Nothing to undo in {nnunet}.")
        return 0
    wanted = link.registered(nnunet)
    written, removed = link.link(nnunet, wanted)
    for entry in wanted:
        state = "wrote    " if entry.stub in written else "unchanged"
        print(f"{state} {entry.stub}  ({entry.name})")
    for stub in removed:
        print(f"removed   {stub}  (no such class in this nnsam3d)")
    if not wanted:
        raise UserError("nnsam3d has no trainers to link: pip install --force-reinstall --no-deps /path/to/nnsam3d")
    names = ", ".join(entry.name for entry in wanted)
    print(f"nnU-Net now finds {names}. Undo with: nnsam3d link --undo")
    return 0
