"""`nnsam3d learn`: a short training on finished cases."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from nnsam3d.commands.model_choice import add_model_arguments, chosen_model
from nnsam3d.errors import UserError

OWN = "learned"  # folder of the model that learns, in the dataset's
DESCRIPTION = """
Tunes a model on the finished cases of a dataset, as `nnsam3d serve --output` writes it, in one short
training. The first time, it writes the model that learns into its own folder; repeat the command after
further cases. Every fourth case is held back: if Dice there falls, the old weights stay. Weights that were
replaced are kept in history/, and learning.json says what every round brought.
"""
EXAMPLE = """
nnsam3d learn --cases Dataset600_Clicked --new       # the starter grows into a model with these labels
nnsam3d learn -m path/to/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres -f 0 --cases Dataset600_Clicked
nnsam3d serve -m Dataset600_Clicked/learned --images imagesTs     # use it
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `nnsam3d learn`."""
    add_model_arguments(parser)
    parser.add_argument(
        "--cases", type=Path, required=True, metavar="FOLDER", help="dataset with imagesTr, labelsTr, dataset.json"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="the model that learns (default: CASES/learned)"
    )
    parser.add_argument(
        "--new",
        action="store_true",
        help="with the starter, or another class-agnostic model: grow a model that knows the dataset's labels and "
        "answers before the first click",
    )
    parser.add_argument(
        "--next",
        type=Path,
        metavar="IMAGES",
        help="then look at some cases of this folder that are not finished, and write in next.json on which of them "
        "the model's answers to different clicks disagree most",
    )
    parser.add_argument("--seconds", type=float, default=30.0, metavar="S", help="of training (default: %(default)g)")
    parser.add_argument(
        "--keep",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of the weights in use in their average with the trained ones (default: %(default)g)",
    )
    add_replay(parser)
    parser.add_argument("--seed", type=int, default=-1, help="makes a round repeatable (default: none)")
    parser.add_argument("-device", default="auto", help="cuda, cpu, mps or cuda:N (default: cuda if there is one)")


def add_replay(container: Any) -> None:
    """The option --replay, of `nnsam3d learn` and `nnsam3d serve`.

    Args:
        container: a parser or a group of its options.
    """
    container.add_argument(
        "--replay",
        type=Path,
        metavar="DATASET",
        help="dataset in nnU-Net's raw format on which the model was trained before (same labels): as many of its "
        "cases as there are finished ones are trained on as well, so that the model keeps what it knew",
    )


def main(args: argparse.Namespace) -> int:
    """One round of learning."""
    if args.seconds <= 0:
        raise UserError(f"--seconds {args.seconds:g}: must be greater than 0")
    if args.next is not None and not args.next.is_dir():
        raise UserError(f"--next {args.next}: no such folder")
    if not 0 <= args.keep < 1:
        raise UserError(f"--keep {args.keep:g}: must be from 0 to below 1")
    base = chosen_model(args)
    # imported late so that `nnsam3d learn --help` is fast
    from nnsam3d.inference.device import choose_device
    from nnsam3d.learning.learn import learn
    from nnsam3d.learning.tune import Tuning
    from nnsam3d.nnunet.checkpoint import TRUST_VARIABLE

    if args.trust_checkpoint:
        os.environ[TRUST_VARIABLE] = "1"  # for the training's process, too
    tuning = Tuning(
        args.seconds, keep=args.keep, seed=args.seed, device=str(choose_device(args.device)), replay=args.replay
    )
    own = args.output or args.cases / OWN
    done = learn(base, args.folds, args.cases, own, tuning, args.new, args.checkpoint)
    print(f"{own}: {done.describe()} ({done.seconds:.0f} s)")
    if args.next is not None:
        from nnsam3d.learning.order import write_order

        order = write_order(args.next, args.cases, own, tuning.device)
        print(f"{own}: next: {', '.join(order) or 'in the order of the list'}")
    return 0
