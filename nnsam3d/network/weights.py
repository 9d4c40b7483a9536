"""External weights: Meta's SAM checkpoints and the paper's official state dicts (docs/network.md#parameters)."""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nnsam3d.errors import UserError, first_line
from nnsam3d.files import file_sha256

from .config import PRESETS, SAM3DConfig, Triple
from .sam3d import SAM3D

UNREADABLE = (
    *(RuntimeError, EOFError, OSError, ValueError, KeyError),
    *(pickle.UnpicklingError, struct.error, BadZipFile, SafetensorError),
)
ENCODER = "image_encoder."
# In official states, but computed here (attn_mask) or without influence (docs/network.md#unused-parameters).
IGNORED_OFFICIAL = (".attn_mask", ".positional_encoding_gaussian_matrix")


# Parts of the image encoder that SAM does not have.
NOT_IN_SAM = (
    ".adapter.",
    ".attn.lr",
    ".attn.rel_pos_d",
    ".channel_map",
    ".depth_embed",
    ".detail.",
    ".neck_3d.",
    ".slice_embed.",
)


class WeightsError(UserError):
    """An unusable weights file; the message states what was found and what to do."""


@dataclass(frozen=True)
class LoadReport:
    """The origin of every parameter, by name."""

    path: str
    sha256: str
    loaded: list[str]  # copied from the file
    adapted: list[str]  # computed from entries of the file
    new: list[str]  # only in the network: as initialised
    unused: list[str]  # only in the file

    def summary(self) -> str:
        return (
            f"{Path(self.path).name}: {len(self.loaded)} parameters loaded, {len(self.adapted)} adapted, "
            f"{len(self.new)} new in the network, {len(self.unused)} unused in the file, "
            f"sha256 {self.sha256}"
        )


def load_sam(net: SAM3D, path: str | Path) -> LoadReport:
    """Loads Meta's SAM checkpoint (.pth or .safetensors) into the image encoder.

    Position embedding and the tables for height and width are copied; the table for depth becomes the mean of the two.
    If the file does not fit, nothing is changed (`WeightsError`).
    """
    path = Path(path)
    state = _read(path)
    own = net.state_dict()
    depth_tables = [name for name in own if name.endswith(".attn.rel_pos_d")]
    wanted = [name for name in own if name.startswith(ENCODER) and not any(part in name for part in NOT_IN_SAM)]
    missing = [name for name in wanted if name not in state]
    wrong = [
        f"{name} is {tuple(state[name].shape)}, the network's is {tuple(own[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or wrong:
        if missing:
            problem = f"{len(missing)} parameters are missing, e.g. {missing[0]}"
        else:
            problem = f"{len(wrong)} shapes differ, e.g. {wrong[0]}"
        raise WeightsError(f"{path} does not fit this network ({_sizes(net.config)}): {problem}. {_describe(state)}")
    adapted = {}
    for name in depth_tables:
        tables = [state[name[: -len("d")] + axis] for axis in "hw"]
        if any(table.shape != own[name].shape for table in tables):
            raise WeightsError(
                f"{path}: {name} of shape {tuple(own[name].shape)} cannot be the mean of the tables for height "
                f"and width of shapes {[tuple(t.shape) for t in tables]}: give the network SAM's tables "
                '(pos_embed_size=(64, 64), rel_pos_tables="sam")'
            )
        adapted[name] = (tables[0].float() + tables[1].float()) / 2
    with torch.no_grad():
        for name in wanted:
            own[name].copy_(state[name])
        for name, value in adapted.items():
            own[name].copy_(value)
    taken = {*wanted, *adapted}
    return LoadReport(
        path=str(path),
        sha256=file_sha256(path),
        loaded=wanted,
        adapted=list(adapted),
        new=[name for name in own if name not in taken],
        unused=[name for name in state if name not in taken],
    )


def _read(path: Path) -> dict[str, Tensor]:
    """A SAM checkpoint's state dict."""
    state = _open(path)
    for wrapper in ("model", "state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"{path} contains no state dict of tensors: it is not a SAM checkpoint")
    return dict(state)


def _open(path: Path) -> Any:
    """The content of a weights file, opened without executing code."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file. Specify a checkpoint (.pth or .safetensors)")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = first_line(error)
        raise WeightsError(
            f"{path} cannot be read ({path.stat().st_size} bytes; {reason}). It is damaged, incomplete or not a "
            "weights file: download it again"
        ) from error


def _depth(state: Mapping[str, Any]) -> int:
    found = [int(m[1]) for name in state if (m := re.match(r"image_encoder\.blocks\.(\d+)\.", name))]
    return max(found, default=-1) + 1


def _sizes(config: SAM3DConfig) -> str:
    h, w = config.pos_embed_size
    return f"embed_dim {config.embed_dim}, depth {config.depth}, position table {h} x {w}"


def _describe(state: Mapping[str, Tensor]) -> str:
    """The sizes of a SAM checkpoint, and the matching preset."""
    pos = state.get(ENCODER + "pos_embed")
    if pos is None or pos.ndim != 4:
        return f"It is not a SAM checkpoint: {len(state)} entries, none of them a usable image_encoder.pos_embed"
    depth, (_, h, w, dim) = _depth(state), pos.shape
    found = f"Found: embed_dim {dim}, depth {depth}, position table {h} x {w}"
    for name, sizes in PRESETS.items():
        if (sizes["embed_dim"], sizes["depth"], sizes["pos_embed_size"]) == (dim, depth, (h, w)):
            return f'{found}; it fits the preset "{name}" with its own position tables'
    return f"{found}; no preset has these sizes"


PARTS = ("encoder_dict", "feature_dict", "decoder_dict")  # of an official checkpoint (docs/network.md#parameters)


def from_official(
    source: Mapping[str, Any] | str | Path, *, num_heads: int = 12, window: int | Triple = 8, prompt_heads: int = 8
) -> SAM3D:
    """The paper's network from its official weights, in eval mode and paper mode, at token stride 4.

    Every size but the three below, whose defaults are the paper's, is read from the shapes.

    Args:
        source: one state dict of the whole network, or a checkpoint of the authors' training script: three
            dictionaries, the second a list with one prompt encoder per level. Either as a file or as its content.
        num_heads: attention heads of the image encoder.
        window: of its attention, one number or (D, H, W) tokens.
        prompt_heads: attention heads of the prompt encoder.

    Raises:
        WeightsError: an unreadable file, or entries that do not fit the network.
    """
    state = _official_state(_open(Path(source)) if isinstance(source, str | Path) else source)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    encoder, layer = "image_encoder.", "prompt_encoder.transformer.layers.0."
    depth = _depth(state)
    try:
        _, pos_h, pos_w, dim = shapes[encoder + "pos_embed"]
        grid_d = shapes[encoder + "depth_embed"][1]
        tables = tuple(
            tuple(shapes[f"{encoder}blocks.{i}.attn.rel_pos_{axis}"][0] for axis in "hwd") for i in range(depth)
        )
        config = SAM3DConfig(
            # The official position table is twice the token grid, a token four voxels (docs/network.md#stem).
            patch_size=(4 * grid_d, 2 * pos_h, 2 * pos_w),
            embed_dim=dim,
            depth=depth,
            num_heads=num_heads,
            window=(window, window, window) if isinstance(window, int) else window,
            adapter_dim=shapes[encoder + "blocks.0.adapter.linear1.weight"][0],
            neck_dim=shapes[encoder + "neck_3d.0.0.weight"][0],
            decoder_dim=shapes["mask_decoder.mlahead.head2.0.weight"][0],
            prompt_heads=prompt_heads,
            prompt_mlp_dim=shapes[layer + "mlp.lin1.weight"][0],
            num_queries=shapes[layer + "global_query"][1],
            pos_embed_size=(pos_h, pos_w),
            rel_pos_tables=tables,
            num_classes=shapes["mask_decoder.cls.3.weight"][0],
            paper=True,
        )
    except KeyError as error:
        raise WeightsError(
            f"not an official 3DSAM-adapter state dict: {error.args[0]} is missing. Expected keys that start "
            "with image_encoder., prompt_encoder. and mask_decoder."
        ) from error
    except ValueError as error:  # sizes incompatible with these heads and this window
        raise WeightsError(f"the official state dict does not fit: {error}") from None
    net = SAM3D(config)
    own = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    given = {name: value for name, value in state.items() if not name.endswith(IGNORED_OFFICIAL)}
    problems = [f"{name} is missing" for name in own if name not in given]
    problems += [f"{name} is unknown" for name in given if name not in own]
    problems += [
        f"{name} is {shapes[name]}, expected {own[name]}" for name in given if name in own and shapes[name] != own[name]
    ]
    if problems:
        raise WeightsError(f"{len(problems)} official entries do not fit, e.g. {'; '.join(problems[:3])}")
    net.to(next(value.dtype for value in given.values() if value.is_floating_point()))
    net.load_state_dict(given)
    return net.eval()


def _official_state(source: Any) -> dict[str, Tensor]:
    """One state dict of the whole network, out of either layout."""
    if isinstance(source, Mapping) and any(part in source for part in PARTS):
        encoder, prompts, decoder = (source.get(part) for part in PARTS)
        levels = prompts if isinstance(prompts, list | tuple) else [prompts]
        if not levels or not all(isinstance(part, Mapping) for part in (encoder, levels[-1], decoder)):
            missing = [part for part in PARTS if part not in source]
            raise WeightsError(
                "not a checkpoint of the 3DSAM-adapter training script: it needs "
                f"{', '.join(PARTS)} ({', '.join(missing) or 'one of them'} is missing or not a state dict)"
            )
        # One prompt encoder per level is stored; only the deepest level's is used (docs/network.md#parameters).
        parts: dict[str, Any] = {
            "image_encoder.": encoder,
            "prompt_encoder.": levels[-1],
            "mask_decoder.": decoder,
        }
        source = {prefix + name: value for prefix, part in parts.items() for name, value in part.items()}
    if not isinstance(source, Mapping) or not all(isinstance(value, Tensor) for value in source.values()):
        raise WeightsError("not an official 3DSAM-adapter state dict: it contains values that are not tensors")
    return dict(source)
