"""The click in the centre of the largest error, computed on the tensors' device without synchronising with the CPU.

The definition is :func:`nnsam3d.prompts.next_click`, which serves on the CPU: there is nothing to synchronise, and it
visits only the voxels of errors. For an accelerator, the rest of this file is an equivalent for whole batches, in which
no operation has a shape or control flow that depends on values.

Components are labelled on blocks of 2 x 2 x 2 voxels. All voxels of a block touch each other, so a block and a truth
value together form one node, with an eighth as many nodes as voxels. Two blocks are connected if both have a voxel at
their common boundary. Each node takes the smallest number among its neighbours and passes it to the node whose number
it had before (a parallel union-find), so that the number of rounds grows with the logarithm of a component's extent.

Axis letters: B batch, V truth values, D H W voxels, d h w blocks, M nodes (= B * V * d * h * w), N clicks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nnsam3d.prompts.centres import error_centres

# Rounds on an accelerator. In patches of 128^3, errors of all kinds need 3 to 7, a path winding through the patch 9.
# With too few rounds a component would remain split and its parts count separately; the click is still in an error.
_ROUNDS = 12

# Squared distances that differ by less than this relative tolerance count as equal, because of rounding errors.
_TIE = 1e-5

_LARGEST = torch.iinfo(torch.int32).max


@torch.no_grad()
def error_clicks(
    truth_BDHW: Tensor,
    predicted_BDHW: Tensor,
    clicks_BN3: Tensor,
    labels_BN: Tensor,
    spacing: Sequence[float],
    *,
    labels: Sequence[int],
    ignore_label: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One click per batch item in the centre of its largest error, labelled with the truth found there.

    Errors, their order and their centres are those of :func:`nnsam3d.prompts.next_click`: the largest 26-connected
    component of one truth value that has an unclicked voxel. Ties in volume are resolved by the smaller label, then by
    the first position (raster order of blocks of 2 x 2 x 2 voxels, not of voxels).

    Args:
        truth_BDHW: integer label map.
        predicted_BDHW: integer label map.
        clicks_BN3: previous clicks, voxel positions (D, H, W), floating point; they are never returned again.
        labels_BN: their labels; -1 = padding, whose position is ignored.
        spacing: mm along D, H, W.
        labels: foreground values that can be clicked, in addition to 0. Memory grows with their number.
        ignore_label: never clicked, even if it is in ``labels``.

    Returns:
        Positions (B, 3) with the dtype of ``clicks_BN3`` and labels (B,) with the dtype of ``labels_BN``; label -1 and
        position 0 for items without an error to click.
    """
    values = sorted({0, *labels} - {ignore_label})
    at_once = truth_BDHW.device.type == "cpu"
    clicked_BDHW = _marked(clicks_BN3, labels_BN, truth_BDHW.shape)
    positions_B3, found_B = _clicks(truth_BDHW, predicted_BDHW, clicked_BDHW, spacing, values, at_once)
    return positions_B3.to(clicks_BN3.dtype), found_B.to(labels_BN.dtype)


def _clicks(
    truth_BDHW: Tensor,
    predicted_BDHW: Tensor,
    clicked_BDHW: Tensor,
    spacing: Sequence[float],
    values: Sequence[int],
    at_once: bool,
) -> tuple[Tensor, Tensor]:
    """Positions (B, 3) and labels (B,), int64. ``at_once``: control flow may depend on values, as on the CPU."""
    if at_once:
        return _defined(truth_BDHW, predicted_BDHW, clicked_BDHW, spacing, values)
    errors_BDHW = truth_BDHW != predicted_BDHW
    if not values:
        nothing_B = truth_BDHW.new_full(truth_BDHW.shape[:1], -1, dtype=torch.int64)
        return nothing_B.new_zeros(len(nothing_B), 3), nothing_B
    masks_BVDHW = torch.stack([errors_BDHW & (truth_BDHW == value) for value in values], 1)
    piece_BDHW = _largest_pieces(masks_BVDHW, clicked_BDHW)
    index_B, found_B = _centres(piece_BDHW, piece_BDHW & ~clicked_BDHW, spacing)
    label_B = truth_BDHW.flatten(1).gather(1, index_B[:, None])[:, 0].long()
    return _unravelled(index_B, piece_BDHW.shape) * found_B[:, None], torch.where(found_B, label_B, -1)


def _defined(
    truth_BDHW: Tensor,
    predicted_BDHW: Tensor,
    clicked_BDHW: Tensor,
    spacing: Sequence[float],
    values: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """By the definition, with the accelerator's order of errors of the same volume."""
    positions_B3 = torch.zeros(len(truth_BDHW), 3, dtype=torch.int64)
    found_B = torch.full((len(truth_BDHW),), -1, dtype=torch.int64)
    items = zip(truth_BDHW.numpy(), predicted_BDHW.numpy(), clicked_BDHW.numpy(), strict=True)
    for item, (truth, predicted, clicked) in enumerate(items):
        taken = np.argwhere(clicked) if clicked.any() else ()
        click = next(error_centres(truth, truth != predicted, spacing, values, taken, grain=2), None)
        if click is not None:
            positions_B3[item], found_B[item] = torch.tensor(click.voxel), click.label
    return positions_B3, found_B


def _marked(clicks_BN3: Tensor, labels_BN: Tensor, shape: torch.Size) -> Tensor:
    """(B, D, H, W) True at clicked voxels."""
    size = math.prod(shape[1:])
    index_BN, valid_BN = torch.zeros_like(labels_BN, dtype=torch.int64), labels_BN >= 0
    for axis, length in enumerate(shape[1:]):
        voxel_BN = clicks_BN3[..., axis].round().long()
        valid_BN = valid_BN & (voxel_BN >= 0) & (voxel_BN < length)
        index_BN = index_BN * length + voxel_BN
    # Invalid clicks mark an additional voxel at the end, which is cut off.
    marked = torch.zeros(shape[0], size + 1, dtype=torch.bool, device=clicks_BN3.device)
    return marked.scatter_(1, torch.where(valid_BN, index_BN, size), True)[:, :size].reshape(shape)


def _unravelled(index_B: Tensor, shape: torch.Size) -> Tensor:
    """(B, 3) voxels for raster indices in a volume of ``shape`` (B, D, H, W)."""
    _, _, height, width = shape
    return torch.stack([index_B // (height * width), index_B // width % height, index_B % width], 1)


# ---- The largest component ----


def _largest_pieces(masks_BVDHW: Tensor, clicked_BDHW: Tensor) -> Tensor:
    """(B, D, H, W) each item's largest 26-connected component of one mask that has an unclicked voxel."""
    code_BVdhw, clicked_B1dhw = _packed(masks_BVDHW), _packed(clicked_BDHW[:, None])
    number_M = _numbered(code_BVdhw).long()
    volume_M = torch.zeros_like(number_M).scatter_add_(0, number_M, _bits(code_BVdhw).long().reshape(-1))
    # By volume, then by the smaller number, so that ranks are unique.
    rank_M = volume_M.gather(0, number_M) * len(number_M) - number_M
    rank_BVdhw = rank_M.view(code_BVdhw.shape)
    free_BVdhw = (code_BVdhw & ~clicked_B1dhw) != 0
    best_B1111 = (rank_BVdhw * free_BVdhw).amax((1, 2, 3, 4), keepdim=True)
    winner_Bdhw = (code_BVdhw * (rank_BVdhw == best_B1111)).amax(1)
    depth, height, width = masks_BVDHW.shape[2:]
    return _unpacked(winner_Bdhw)[:, :depth, :height, :width]


def _packed(mask_BVDHW: Tensor) -> Tensor:
    """(B, V, d, h, w) uint8: eight voxels per number, bit 4 z + 2 y + x. The last block along each axis is empty."""
    margin = [m for length in reversed(mask_BVDHW.shape[2:]) for m in (0, 2 + length % 2)]
    code = F.pad(mask_BVDHW.to(torch.uint8), margin)
    for weight, axis in ((2, 4), (4, 3), (16, 2)):
        even, odd = code.unflatten(axis, (-1, 2)).unbind(axis + 1)
        code = even + odd * weight
    return code


def _unpacked(code_Bdhw: Tensor) -> Tensor:
    """(B, 2 d, 2 h, 2 w) bool: the inverse of :func:`_packed`."""
    for shift, axis in ((4, 1), (2, 2), (1, 3)):
        halves = code_Bdhw & (2**shift - 1), code_Bdhw >> shift
        code_Bdhw = torch.stack(halves, axis + 1).flatten(axis, axis + 1)
    return code_Bdhw.bool()


def _bits(code: Tensor) -> Tensor:
    """The number of set bits in each uint8, summed over pairs, then fours, then eight."""
    code = code - ((code >> 1) & 0x55)
    code = (code & 0x33) + ((code >> 2) & 0x33)
    return (code + (code >> 4)) & 0x0F


def _numbered(code_BVdhw: Tensor) -> Tensor:
    """(M,) int32 number of each node's component: the smallest index of its nodes."""
    links = list(_links(code_BVdhw))
    number_M = torch.arange(code_BVdhw.numel(), device=code_BVdhw.device, dtype=torch.int32)
    for _ in range(_ROUNDS):
        before_M, number_M = number_M, _swept(number_M, links)
        number_M = number_M.scatter_reduce(0, before_M.long(), number_M, "amin")
        for _ in range(2):
            number_M = number_M.gather(0, number_M.long())
    return number_M


def _links(code_BVdhw: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For each of 13 directions the index step, and (M - step,) int32: 0 if the two nodes are connected, else all bits.

    Because the last block along each axis is empty, a step beyond the end of a row never connects nodes.
    """
    code_M = code_BVdhw.reshape(-1)
    height, width = code_BVdhw.shape[3:]
    for direction in itertools.product((-1, 0, 1), repeat=3):
        step = (direction[0] * height + direction[1]) * width + direction[2]
        if direction > (0, 0, 0) and step < len(code_M):
            opposite = [-d for d in direction]
            apart = ((code_M[:-step] & _side(direction)) == 0) | ((code_M[step:] & _side(opposite)) == 0)
            yield step, apart.int() * _LARGEST


def _side(direction: Sequence[int]) -> int:
    """The bits of the voxels that touch the next block in this direction."""
    at = [(0, 1) if d == 0 else (int(d > 0),) for d in direction]
    return sum(1 << (4 * z + 2 * y + x) for z, y, x in itertools.product(*at))


def _swept(number_M: Tensor, links: Sequence[tuple[int, Tensor]]) -> Tensor:
    """Assign to each node the smallest number of its connected neighbours, one direction after the other."""
    number_M = number_M.clone()
    for step, gap in links:
        low, high = number_M[:-step], number_M[step:]
        # Across a gap the other number becomes the largest int32.
        torch.minimum(low, high | gap, out=low)
        torch.minimum(high, low | gap, out=high)
    return number_M


# ---- The centre of the component ----


def _centres(piece_BDHW: Tensor, free_BDHW: Tensor, spacing: Sequence[float]) -> tuple[Tensor, Tensor]:
    """(B,) raster index of the deepest unclicked voxel of a component, and whether there is one.

    Ties are resolved by the distance to the mean of the component's voxels.
    """
    depth_BDHW = _squared_depth(piece_BDHW, spacing) * free_BDHW
    best_B111 = depth_BDHW.amax((1, 2, 3), keepdim=True)
    near_BDHW = free_BDHW & (depth_BDHW >= best_B111 * (1 - _TIE))
    from_mean_BN = torch.where(near_BDHW, _squared_from_mean(piece_BDHW, spacing), torch.inf).flatten(1)
    # The first of several minima is selected by index, because argmin does not guarantee which one it returns.
    first_BN = from_mean_BN <= from_mean_BN.amin(1, keepdim=True) * (1 + _TIE) + _TIE * min(spacing) ** 2
    size = from_mean_BN.shape[1]
    index_BN = torch.arange(size, device=first_BN.device).expand(first_BN.shape)
    found_B = near_BDHW.flatten(1).any(1)
    return torch.where(first_BN, index_BN, size - 1).amin(1), found_B


def _squared_from_mean(piece_BDHW: Tensor, spacing: Sequence[float]) -> Tensor:
    """(B, D, H, W) squared distance, in mm², to the mean of the component's voxels."""
    inside_BDHW = piece_BDHW.float()
    squared = inside_BDHW.new_zeros(())
    for axis, pitch in enumerate(spacing, 1):
        counts_BA = inside_BDHW.sum([a for a in (1, 2, 3) if a != axis])
        place_A = torch.arange(piece_BDHW.shape[axis], device=piece_BDHW.device)
        mean_B1 = (counts_BA * place_A).sum(1, keepdim=True) / counts_BA.sum(1, keepdim=True).clamp(min=1)
        squared = squared + _along(((place_A - mean_B1) * pitch) ** 2, axis)
    return squared


def _squared_depth(piece_BDHW: Tensor, spacing: Sequence[float]) -> Tensor:
    """(B, D, H, W) float32: squared distance, in mm², to the nearest voxel outside the component; 0 outside.

    Exact: the distance along one axis, then the lower envelope of parabolas along the others, over relevant offsets.
    """
    # The depth is at most half the smallest extent of the volume.
    reach = min(pitch * (length + 1) / 2 for pitch, length in zip(spacing, piece_BDHW.shape[1:], strict=True))
    squared_BDHW = (_line_depth(piece_BDHW, 3) * spacing[2]) ** 2
    for axis in (2, 1):
        squared_BDHW = _lowest_parabola(squared_BDHW, axis, spacing[axis - 1], reach)
    return squared_BDHW


def _line_depth(piece_BDHW: Tensor, axis: int) -> Tensor:
    """(B, D, H, W) float32: distance along one axis to the nearest voxel outside the component, in voxels.

    Computed in steps of 1, 2, 4, ... voxels.
    """
    length = piece_BDHW.shape[axis]
    depth_BDHW = piece_BDHW * _along(_to_border(length, piece_BDHW.device)[None], axis)
    step = 1
    while step < length // 2 + 1:
        _lower(depth_BDHW, depth_BDHW, axis, step, step)
        step *= 2
    return depth_BDHW


def _lowest_parabola(squared_BDHW: Tensor, axis: int, pitch: float, reach: float) -> Tensor:
    """The minimum over offsets k along the axis of the value at k + (k * pitch)^2, for offsets up to ``reach`` mm."""
    length = squared_BDHW.shape[axis]
    border = _along((_to_border(length, squared_BDHW.device)[None] * pitch) ** 2, axis)
    lowest_BDHW = torch.minimum(squared_BDHW, border)
    for offset in range(1, min(length, int(reach / pitch * (1 + _TIE)) + 1)):
        _lower(lowest_BDHW, squared_BDHW, axis, offset, (offset * pitch) ** 2)
    return lowest_BDHW


def _lower(target_BDHW: Tensor, source_BDHW: Tensor, axis: int, offset: int, cost: float) -> None:
    """Reduce the target, in place, to at most source + cost at ``offset`` voxels in both directions."""
    count = target_BDHW.shape[axis] - offset
    for to, since in ((offset, 0), (0, offset)):
        part = target_BDHW.narrow(axis, to, count)
        torch.minimum(part, source_BDHW.narrow(axis, since, count) + cost, out=part)


def _to_border(length: int, device: torch.device) -> Tensor:
    """(length,) float32: distance in voxels to the nearest position outside the volume."""
    place = torch.arange(1, length + 1, device=device, dtype=torch.float32)
    return torch.minimum(place, length + 1 - place)


def _along(line_BA: Tensor, axis: int) -> Tensor:
    """(B, A) reshaped to (B, D, H, W), with length 1 along the other two axes."""
    return line_BA.reshape([-1 if a == axis else 1 if a else len(line_BA) for a in range(4)])
