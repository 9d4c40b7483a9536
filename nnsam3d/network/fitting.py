"""Weights of a trained model as the beginning of another one, with other labels, image channels, prompts or sizes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nnsam3d.errors import UserError
from nnsam3d.files import file_sha256
from nnsam3d.prompts import PromptCodec

from .stem import resampled_positions
from .weights import LoadReport

CLASSES = ("mask_decoder.cls.3.", "mask_decoder.extent_logits.", "mask_decoder.voxel_logits.")
"""Layers with one output per class."""
CLICKS = ("prompt_encoder.click_map.", "mask_decoder.click_map.")
EXTENTS = ("mask_decoder.extent_map.", "mask_decoder.extent_logits.")
VOXELS = "mask_decoder.voxel_map."  # its inputs: clicks by label, then extents
IMAGE = "image_encoder.detail.at_voxels.0."
FUSION = "mask_decoder.cls.0."  # its last inputs are the image
POSITIONS = "image_encoder.pos_embed"
TABLES = re.compile(r"image_encoder\.(?:(depth_embed)|blocks\.\d+\.attn\.rel_pos_[hwd])$")
OWN = -1  # in a list of sources: as initialised
LEAST = 0.5  # share of parameters; less is no beginning
_Names = list[str] | None


def load_fitting(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    path: Path,
    kinds: tuple[Sequence[str] | None, Sequence[str] | None] = (None, None),
) -> LoadReport:
    """Copies the weights of a model into a network, as far as they fit.

    What has the same name and shape is copied. For :class:`SAM3D`, what depends on labels, image channels and sizes is
    adapted: labels that the model does not have begin as its last one (of a class-agnostic model: the object), every
    image channel with its share of the weights for the model's channels, and tables of positions are interpolated.
    Inputs for maps of prompts that the model does not know stay as they are.

    Args:
        network: changed in place.
        weights: of the model's checkpoint.
        path: of that checkpoint, for the report.
        kinds: of prompts that the model and the network are trained with; None: unknown.

    Raises:
        UserError: too little fits: the two are networks of another size or kind.
    """
    own = network.state_dict()
    loaded, adapted = [], []
    maps = _maps(kinds[0]), _maps(kinds[1])
    mixed: tuple[str, ...] = ()  # where an equal shape does not mean the same
    if _without_background(own) != _without_background(weights):
        mixed += CLASSES
    if None not in maps and maps[0] != maps[1]:
        mixed += (*EXTENTS, VOXELS)
    if _click_blocks(own) != _click_blocks(weights):
        mixed += (VOXELS,)
    with torch.no_grad():
        for name, values in own.items():
            given = weights.get(name)
            if given is None:
                continue
            if given.shape == values.shape and not name.startswith(mixed):
                loaded.append(name)
            else:
                given = _adapted(name, given, values, weights, own, maps)
                if given is None:
                    continue
                adapted.append(name)
            values.copy_(given)
    taken = {*loaded, *adapted}
    share = sum(own[name].numel() for name in taken) / sum(values.numel() for values in own.values())
    if share < LEAST:
        raise UserError(
            f"{path}: only {share:.0%} of the network's parameters can be taken from it: train a network of the same "
            "size, with the option preset of that model (of the starter: preset=tiny)"
        )
    return LoadReport(
        path=str(path),
        sha256=file_sha256(path),
        loaded=loaded,
        adapted=adapted,
        new=[name for name in own if name not in taken],
        unused=[name for name in weights if name not in taken],
    )


def _adapted(
    name: str,
    given: Tensor,
    values: Tensor,
    there: Mapping[str, Tensor],
    here: Mapping[str, Tensor],
    maps: tuple[_Names, _Names],
) -> Tensor | None:
    """A parameter in the shape of the network's own; None if nobody knows how."""
    if given.ndim != values.ndim:
        return None
    if name == POSITIONS:
        given = resampled_positions(given, (values.shape[1], values.shape[2]))
        return given if given.shape == values.shape else None
    if table := TABLES.match(name):
        given = _interpolated(given, values.shape, axis=1 if table[1] else 0)
        return given if given.shape == values.shape else None
    embedding = "prompt_encoder.label_embed.weight"
    if embedding not in there or embedding not in here:
        return None
    labels = len(there[embedding]), len(here[embedding])
    if name == embedding:
        given = given[_rows(*labels)]
    if name.startswith(CLASSES):
        if _without_background(there) and not _without_background(here):
            return None
        if _without_background(here) and not _without_background(there):
            given = given[1:] - given[:1]  # the logit of a region is that of its label less that of background
        given = given[_rows(len(given), len(values))]
    if name.startswith(CLICKS):
        blocks = _by_number(given.shape[1] // labels[0], values.shape[1] // labels[1])
        given = _taken(given, _blocks(*labels, blocks), values)
    if name.startswith(EXTENTS):
        sources = _extents(given.shape[1], values.shape[1], labels, maps)
        if {*sources} == {OWN}:
            return None
        given = _taken(given, sources, values)
    if name.startswith(VOXELS):
        clicks = _click_blocks(there), _click_blocks(here)
        first = labels[0] * clicks[0]
        extents = _extents(given.shape[1] - first, values.shape[1] - labels[1] * clicks[1], labels, maps)
        sources = [*_blocks(*labels, _by_number(*clicks)), *(n if n == OWN else n + first for n in extents)]
        if {*sources} == {OWN}:
            return None
        given = _taken(given, sources, values)
    if name.startswith(IMAGE):
        given = _channels(given, values.shape[1])
    if name.startswith(FUSION):
        features = 4 * len(given)  # three levels and the prompted one
        image = _channels(given[:, features:], values.shape[1] - 4 * len(values))
        given = torch.cat([given[:, :features], image], 1)
    return given if given.shape == values.shape else None


def _rows(there: int, here: int) -> list[int]:
    """For every label of the network, a label of the model."""
    return [min(label, there - 1) for label in range(here)]


def _without_background(state: Mapping[str, Tensor]) -> bool:
    """Whether the network has one output per region, and none for background."""
    last, labels = state.get("mask_decoder.cls.3.weight"), state.get("prompt_encoder.label_embed.weight")
    return last is not None and labels is not None and len(last) < len(labels)


def _maps(kinds: Sequence[str] | None) -> _Names:
    """Names of the maps of prompts with an extent, in the order of their blocks."""
    return None if kinds is None else [name for name, _ in PromptCodec.of(kinds, {"": 1}, (1, 1, 1)).maps]


def _click_blocks(state: Mapping[str, Tensor]) -> int:
    """The blocks of maps of clicks at the voxels."""
    return int("mask_decoder.click_map.weight" in state)


def _by_number(there: int, here: int) -> list[int]:
    """For every block of the network, the one of the model with its number."""
    return [block if block < there else OWN for block in range(here)]


def _blocks(labels_there: int, labels_here: int, blocks: Iterable[int]) -> list[int]:
    """For every input of the network, one of the model; inputs are blocks of one map per label.

    Args:
        blocks: for every block of the network, one of the model.
    """
    rows = _rows(labels_there, labels_here)
    return [OWN if block == OWN else block * labels_there + row for block in blocks for row in rows]


def _extents(there: int, here: int, labels: tuple[int, int], maps: tuple[_Names, _Names]) -> list[int]:
    """As :func:`_blocks` for maps of prompts with an extent, of which background has none.

    Blocks are those of maps with the same name; by number where nobody knows the names and there are as many.
    """
    own, other = labels[0] - 1, labels[1] - 1
    number = there // own, here // other
    names, wanted = maps
    if names is not None and wanted is not None and (len(names), len(wanted)) == number:
        blocks = [names.index(name) if name in names else OWN for name in wanted]
    else:
        blocks = _by_number(*number) if number[0] == number[1] else [OWN] * number[1]
    return _blocks(own, other, blocks)


def _taken(given: Tensor, sources: list[int], values: Tensor) -> Tensor:
    """Inputs of the model in the order of the network's; its own where there is no source."""
    parts = [values[:, n : n + 1] if source == OWN else given[:, source : source + 1].to(values.dtype)
             for n, source in enumerate(sources)]  # fmt: skip
    if len(parts) != values.shape[1] or given.shape[0] != values.shape[0]:
        return given
    return torch.cat(parts, 1)


def _channels(given: Tensor, number: int) -> Tensor:
    """Weights (O, I, ...) for another number of image channels: the mean, so that equal channels give the same sum."""
    return given.sum(1, keepdim=True).expand(-1, number, *given.shape[2:]) / number


def _interpolated(table: Tensor, shape: torch.Size, axis: int) -> Tensor:
    """A table of positions along one axis, linearly interpolated to another length."""
    rows = table.movedim(axis, -1)
    flat = F.interpolate(rows.reshape(1, -1, rows.shape[-1]).float(), size=shape[axis], mode="linear")
    return flat.reshape(*rows.shape[:-1], -1).movedim(-1, axis)
