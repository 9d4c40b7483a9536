"""The weights a training starts from, for its log and its plans: SAM's, nnU-Net's -pretrained_weights, or none."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnsam3d.checkpoints.pretrained import AUTO, SCRATCH
from nnsam3d.errors import UserError
from nnsam3d.nnunet.checkpoint import UntrustedCheckpoint, open_checkpoint
from nnsam3d.nnunet.datasets import PROMPT_TYPES_KEY, STARTER, WEIGHTS

STARTER_WEIGHTS = "starter"  # value of the option weights


def being_loaded() -> Path | None:
    """The file of -pretrained_weights if nnU-Net is loading it now, in this thread; else None."""
    return _known_to_a_caller("load_pretrained_weights", "fname")


def will_be_loaded() -> Path | None:
    """The file of -pretrained_weights if nnU-Net initialises the network in order to load it; else None."""
    return _known_to_a_caller("maybe_load_checkpoint", "pretrained_weights_file")


def _known_to_a_caller(function: str, variable: str) -> Path | None:
    """The file in a variable of nnU-Net's function that loads it into the network without telling the trainer."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_name == function and frame.f_locals.get(variable) is not None:
            return Path(frame.f_locals[variable])
    return None


def model_file(weights: str) -> Path | None:
    """The checkpoint of a trained model that the option ``weights`` names; None if it names no model's.

    Args:
        weights: "starter", or a file: a checkpoint of nnU-Net (.pth), or weights that nnsam3d has written
            (.safetensors); SAM's own files are no models.

    Raises:
        UntrustedCheckpoint: the file would run code when it is opened.
    """
    if weights == STARTER_WEIGHTS:
        return STARTER / "fold_0" / WEIGHTS
    if weights in (AUTO, SCRATCH):
        return None
    path = Path(weights).expanduser()
    try:
        open_checkpoint(path, mapped=True)
    except UntrustedCheckpoint:
        raise
    except UserError:
        return None
    return path


def trained_kinds(checkpoint: Mapping[str, Any], file: Path) -> tuple[str, ...] | None:
    """The kinds of prompts that a model was trained with; None: unknown.

    Args:
        checkpoint: its content.
        file: its own, in the folder of a fold, whose parent may hold the plans.
    """
    known, saved = checkpoint["init_args"], file.absolute().parent.parent / "plans.json"
    plans = known.get("plans") or (json.loads(saved.read_text(encoding="utf-8")) if saved.is_file() else {})
    kinds = plans.get("configurations", {}).get(known.get("configuration"), {}).get(PROMPT_TYPES_KEY)
    return None if kinds is None else tuple(kinds)


def is_frozen(record: dict[str, Any]) -> bool:
    """Whether a recorded training kept its backbone. SAM's weights are frozen; those of a training need not be."""
    return bool(record.get("frozen", record["source"] != SCRATCH))


def innermost(network: nn.Module) -> nn.Module:
    """The network without the wrappers of DistributedDataParallel and torch.compile."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network
