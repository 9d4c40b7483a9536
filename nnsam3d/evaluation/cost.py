"""The cost of an arm."""

from __future__ import annotations

from pathlib import Path

import torch

from nnsam3d.checkpoints.pretrained import RECORD_KEY, SCRATCH
from nnsam3d.evaluation.results import ArmCost
from nnsam3d.network import SAM3D, freeze_pretrained, parameter_counts
from nnsam3d.network.cost import as_built, count_flop, measure
from nnsam3d.nnunet.checkpoint import open_checkpoint
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.training.started_from import is_frozen


def model_cost(model: TrainedModel, kind: str) -> ArmCost:
    """Parameters, arithmetic of one window, and the length of the training.

    Args:
        model: with a single fold.
        kind: of the arm.
    """
    configuration, network = model.configuration_manager, model.networks[0]
    record = configuration.configuration.get(RECORD_KEY, {"source": SCRATCH})
    total, trained = _parameters(network, pretrained=is_frozen(record))
    window = [int(size) for size in configuration.patch_size]
    forward, click = _flop(model, kind, window)
    seconds, epochs = _training(model.checkpoint_files[0])
    return ArmCost(kind, total, trained, window, forward / 1e9, click / 1e9, record, seconds, epochs)


def _parameters(network: torch.nn.Module, pretrained: bool) -> tuple[int, int]:
    """The number of parameters, and of trained parameters."""
    if not isinstance(network, SAM3D):
        total, _ = parameter_counts(network)
        return total, total
    fresh = as_built(network)  # loaded networks do not record which parameters were trained
    if pretrained:
        freeze_pretrained(fresh)
    return parameter_counts(fresh)


def _flop(model: TrainedModel, kind: str, window: list[int]) -> tuple[float, float]:
    """FLOP of one window, and of a further click on it, from shapes."""
    if isinstance(model.networks[0], SAM3D):
        cost = measure(model.networks[0])
        return cost.forward_flop, cost.click_flop
    channels = model.num_channels + (model.codec.num_channels if model.prompt_types else 0)
    network = as_built(model.networks[0]).eval()
    with torch.no_grad():
        forward = count_flop(lambda: network(torch.empty(1, channels, *window, device="meta")))
    return forward, forward if kind == "clicks" else 0


def _training(checkpoint: Path) -> tuple[float, int]:
    """Seconds inside epochs, and their number."""
    stored = open_checkpoint(checkpoint, mapped=True)
    log = stored.get("logging") or {}
    starts, ends = (log.get(f"epoch_{what}_timestamps", []) for what in ("start", "end"))
    seconds = sum(end - start for start, end in zip(starts, ends, strict=False))
    return round(seconds, 1), len(ends)
