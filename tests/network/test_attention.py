from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nnsam3d.network.attention import WindowAttention, merge, partition, relative_rows, window_layout
from nnsam3d.network.image_encoder import Block

from . import oracle
from .conftest import same

BOTH = pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-6), (torch.float32, 5e-6)])
CPU = torch.device("cpu")


@BOTH
def test_attention_alone(dtype: torch.dtype, relative: float) -> None:
    data = oracle.load("attention_alone")
    attention = WindowAttention(32, 4, (4, 4, 4), (27, 27, 27))
    oracle.fill(attention, data, "attn.")
    x = oracle.seeded(data["input_seed"], data["input_shape"], dtype)
    layout = window_layout((4, 4, 4), (4, 4, 4), False, CPU, dtype)
    out = attention.to(dtype)(x.flatten(1, 3), layout).view_as(x)
    oracle.check(out, data["out"], relative)


@pytest.mark.parametrize("length", [27, 31, 63, 127])
@pytest.mark.parametrize("size", [4, 8])
def test_relative_rows(length: int, size: int) -> None:
    data = oracle.load("relpos_interp")
    table = oracle.seeded(data[f"table{length}_seed"], (length, 6), torch.float64)
    oracle.check(relative_rows(table, size), data[f"R_{length}_to_q{size}"], 1e-6)


def test_shift_mask_is_the_official_one() -> None:
    data = oracle.load("shift_mask_32_w8_s4")
    layout = window_layout((32, 32, 32), (8, 8, 8), True, CPU, torch.float32)
    mask = layout.query_WNY @ layout.key_WNX[..., 24:].mT  # after the one-hot coordinates
    allowed = (mask == 0).numpy()
    assert set(mask.unique().tolist()) == {0.0, -100.0, -200.0, -300.0}
    np.testing.assert_array_equal(allowed.sum((1, 2)), data["allowed_per_window"])
    assert hashlib.sha256(np.packbits(allowed).tobytes()).hexdigest() == str(data["sha256_packbits"])
    np.testing.assert_array_equal(allowed.argmax(2), data["group_rep"])


BLOCKS = ["block_shift_32", "block_noshift_32", "block_noshift_aniso", "block_shift_w4", "block_shift_w4_lr"]


@BOTH
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str, dtype: torch.dtype, relative: float) -> None:
    data = oracle.load(name)
    cfg = oracle.json_of(data["cfg"])
    window = (cfg["window"],) * 3
    state = oracle.official_state(data, f"{name}.", cfg["attn_lr"])
    lengths = tuple(state[f"attn.rel_pos_{axis}"].shape[0] for axis in "hwd")
    block = Block(cfg["dim"], cfg["num_heads"], window, lengths, state["adapter.linear1.weight"].shape[0])
    oracle.fill(block, data, f"{name}.", cfg["attn_lr"])
    x = oracle.seeded(data["input_seed"], data["input_shape"], dtype)
    with torch.no_grad():
        layout = window_layout(cfg["grid_HWD"], window, cfg["shift"] > 0, CPU, dtype)
        out = block.to(dtype)(x, layout)
    if "out" in data:
        oracle.check(out, data["out"], relative, name)
    else:
        oracle.check(oracle.at(out, data["pos_hwd"], True), data["out_at_pos"], relative, name)
    oracle.check(out.mean((0, 1, 2, 3)), data["out_channel_mean"], relative, name)
    if dtype == torch.float64:
        oracle.check_stats(out, data["out_stats"])


def brute_force(
    attention: WindowAttention, x: torch.Tensor, window: tuple[int, int, int], shifted: bool
) -> torch.Tensor:
    """Attention token by token, written from docs/network.md#window-attention: only real tokens, explicit regions."""
    grid = x.shape[1:4]
    padded = [-(-g // w) * w for g, w in zip(grid, window, strict=True)]
    shift = [w // 2 if shifted else 0 for w in window]
    heads, c = attention.num_heads, x.shape[-1] // attention.num_heads
    q, k, v = attention.qkv(x[0]).unflatten(-1, (3, heads, c)).unbind(3)  # H, W, D, heads, c
    tables = []
    for axis, w in zip("hwd", window, strict=True):
        table = getattr(attention, f"rel_pos_{axis}")
        tables.append(F.interpolate(table.T[None], size=2 * w - 1, mode="linear")[0].T)
    places: dict[tuple, list] = {}
    for token in itertools.product(*(range(g) for g in grid)):
        rolled = [(t - s) % p for t, s, p in zip(token, shift, padded, strict=True)]
        region = tuple(
            0 if r < p - w else 1 if r < p - s else 2 for r, p, w, s in zip(rolled, padded, window, shift, strict=True)
        )
        box = tuple(r // w for r, w in zip(rolled, window, strict=True))
        inside = [r % w for r, w in zip(rolled, window, strict=True)]
        places.setdefault((box, region), []).append((token, inside))
    out = torch.zeros_like(x[0])
    for group in places.values():
        h, w, d = torch.tensor([token for token, _ in group]).unbind(1)
        inside = torch.tensor([i for _, i in group])
        scores = torch.einsum("qac,kac->aqk", q[h, w, d], k[h, w, d]) * c**-0.5
        for axis in range(3):
            offset = inside[:, None, axis] - inside[None, :, axis] + window[axis] - 1
            term = torch.einsum("qac,qkc->aqk", q[h, w, d], tables[axis][offset])
            scores = scores + attention.lr * term
        out[h, w, d] = torch.einsum("aqk,kac->qac", scores.softmax(-1), v[h, w, d]).flatten(1)
    return attention.proj(out)[None]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(
    ("grid", "window"),
    [
        ((10, 12, 9), (8, 8, 8)),  # padding on every axis
        ((8, 6, 4), (4, 6, 2)),  # no padding; one axis is a single window
        ((5, 3, 7), (4, 4, 3)),  # grid smaller than the window on one axis, odd window
        ((4, 5, 6), (1, 5, 3)),
    ],
)
def test_real_tokens_only(grid: tuple[int, int, int], window: tuple[int, int, int], shifted: bool) -> None:
    torch.manual_seed(3)
    attention = WindowAttention(12, 3, window, (7, 9, 31)).double()
    with torch.no_grad():
        for p in attention.parameters():
            p.normal_(std=0.4)  # scores small enough that the mask of -100 is as good as minus infinity
    attention.lr.data.fill_(0.7)
    x = torch.randn(2, *grid, 12, dtype=torch.float64)
    layout = window_layout(grid, window, shifted, CPU, torch.float64)
    out = merge(attention(partition(x, layout), layout), layout)
    for item in range(2):
        same(out[item : item + 1], brute_force(attention, x[item : item + 1], window, shifted), 1e-12)


def test_partition_and_merge_are_inverse() -> None:
    x = torch.randn(2, 5, 7, 6, 3)
    layout = window_layout((5, 7, 6), (4, 2, 3), True, CPU, torch.float32)
    windows = partition(x, layout)
    assert windows.shape == (2 * layout.num_windows, 24, 3)
    assert torch.equal(merge(windows, layout), x)
