"""Options that select a trained model, named as in nnU-Net."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nnsam3d.errors import UserError


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds -m, or -d and -c with -tr and -p; -f, -chk."""
    model = parser.add_argument_group(
        "model: -m, or -d and -c",
        "Without them: the starter that comes with nnsam3d. It segments any object that is "
        "prompted, in images of one channel; a model trained on your own cases is better on them.",
    )
    model.add_argument("-m", dest="model", type=Path, metavar="FOLDER", help="folder <trainer>__<plans>__<config>")
    model.add_argument("-d", dest="dataset", metavar="D", help="dataset name or number")
    model.add_argument("-c", dest="configuration", metavar="C", help="configuration, for example 3d_fullres")
    model.add_argument("-tr", dest="trainer", metavar="T", default="SAM3DAdapterTrainer", help="default: %(default)s")
    model.add_argument("-p", dest="plans", metavar="P", default="nnUNetPlans", help="default: %(default)s")
    model.add_argument(
        "-f", dest="folds", metavar="F", nargs="+", help="folds to use (default: all trained ones; learn: the first)"
    )
    model.add_argument("-chk", dest="checkpoint", default="checkpoint_final.pth", help="default: %(default)s")
    model.add_argument(
        "--trust_checkpoint",
        action="store_true",
        help="load checkpoints that contain more than data: they can run code of their author on this computer",
    )


def add_labels_argument(group: argparse._ActionsContainer, default: str) -> None:
    """Adds --labels, which takes names with spaces or commas between them.

    Args:
        default: what happens without it, for the help.
    """
    group.add_argument(
        "--labels",
        nargs="+",
        default=[],
        action=_Names,
        metavar="NAME",
        help=f"for class-agnostic models: names of labels 1, 2, …, as --labels tumour node (default: {default})",
    )


class _Names(argparse.Action):
    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, [name for given in values for name in given.split(",") if name])


def chosen_model(args: argparse.Namespace) -> Path:
    """The folder of the selected model, or of the starter.

    Raises:
        UserError: a model is selected by half, or two are, or nnU-Net does not know the dataset.
    """
    if args.model is not None and args.dataset is not None:
        raise UserError("-m and -d cannot be used together: both select a model")
    if args.model is not None:
        return Path(args.model).absolute()  # "." has no name
    if args.dataset is None and args.configuration is None:
        if args.folds is not None:
            raise UserError("-f needs a model: select it with -m FOLDER, or with -d DATASET and -c CONFIGURATION")
        from nnsam3d.nnunet.datasets import STARTER

        return STARTER
    if args.dataset is None or args.configuration is None:
        raise UserError("select the model with -m FOLDER, or with -d DATASET and -c CONFIGURATION")
    from nnsam3d.nnunet.datasets import model_folder

    return model_folder(args.dataset, args.trainer, args.plans, args.configuration)
