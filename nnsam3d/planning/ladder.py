"""The planner's rule: one ladder per dataset; the highest rung within the budget is chosen.

A rung is a backbone, a patch and a batch size. From rung to rung, none of the three becomes smaller, and the rungs do
not depend on the budget, so more memory never reduces any of them. On the chosen rung, training recomputes as little
as possible. docs/planning.md gives the reasons. Grids are in tokens, (D, H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnsam3d.errors import UserError
from nnsam3d.geometry import Triple
from nnsam3d.network import SAM3DConfig, preset_config
from nnsam3d.network.config import CHECKPOINTING
from nnsam3d.planning.facts import DatasetFacts
from nnsam3d.planning.memory import estimate_gb
from nnsam3d.prompts import PromptCodec
from nnsam3d.training.options import TrainingOptions
from nnsam3d.training.plans import preset_stride, token_aspect, token_stride, window_edge

SMALLEST_BATCH = 2
LONGEST = 32  # tokens per axis: 128 voxels of the finest axis, the paper's patch
FULL_STEP = SMALLEST_BATCH * LONGEST**3  # tokens: small patches get a larger batch
SHORTEST = 4  # tokens per axis of the smallest patch, unless the image is smaller
LONGEST_TINY = 16  # maximum tokens per axis for the tiny backbone: 64 voxels
DATASET_SHARE = 0.05  # of the dataset's voxels in one batch at most, like nnU-Net
# Grids made of whole attention windows: no computation on padding.
SIZES = tuple(n for n in range(2, LONGEST + 1) if n <= 8 or any(n % window == 0 for window in (5, 6, 7, 8)))
# Budgets in GB from which a backbone is considered. Memory is a proxy for speed: ViT-L needs three times, ViT-H
# six times the arithmetic of ViT-B, and cards below 4 GB are hardly suitable for training.
FROM_GB = {"tiny": 0.0, "vit_b": 4.0, "vit_l": 40.0, "vit_h": 80.0}
# A larger backbone must not require recomputing whole blocks, which would cost even more time.
MODES = {"tiny": CHECKPOINTING, "vit_b": CHECKPOINTING, "vit_l": CHECKPOINTING[:2], "vit_h": CHECKPOINTING[:2]}
CLICKS, CLICKS_PER_LABEL, MOST_CLICKS = 8, 2, 16


class BudgetTooSmall(UserError):
    """The smallest plan does not fit the budget."""


@dataclass(frozen=True)
class Rung:
    """One step of the ladder; the grid is in the paper's tokens, of which a small network's may contain several."""

    preset: str
    grid_DHW: Triple
    batch: int


@dataclass(frozen=True)
class Choice:
    """The decision for one dataset and budget."""

    budget_gb: float
    estimate_gb: float
    batch: int
    preset: str
    config: SAM3DConfig
    half: bool
    why: tuple[str, ...]

    @property
    def precision(self) -> str:
        return "mixed (GPU)" if self.half else "float32 (CPU)"


def max_clicks(facts: DatasetFacts) -> int:
    """Click slots per training patch: more for more labels, within bounds."""
    return min(CLICKS + CLICKS_PER_LABEL * max(0, facts.click_labels - 2), MOST_CLICKS)


def full_grid(facts: DatasetFacts) -> Triple:
    """The full patch: the whole median image, at most ``LONGEST`` tokens per axis."""
    stride = token_stride(facts.spacing_DHW)
    d, h, w = (
        next((n for n in SIZES if n * step >= size), LONGEST)
        for size, step in zip(facts.shape_DHW, stride, strict=True)
    )
    return d, h, w


def grids(facts: DatasetFacts) -> list[Triple]:
    """Patches from the smallest to the full one: each is the next one with its longest axis (in mm) shortened."""
    edges_mm = [step * mm for step, mm in zip(token_stride(facts.spacing_DHW), facts.spacing_DHW, strict=True)]
    found = [full_grid(facts)]
    while True:
        grid = list(found[-1])
        axes = [axis for axis in range(3) if grid[axis] > SHORTEST]
        if not axes:
            return found[::-1]
        longest = max(axes, key=lambda axis: (round(grid[axis] * edges_mm[axis], 3), axis))
        grid[longest] = SIZES[SIZES.index(grid[longest]) - 1]
        found.append((grid[0], grid[1], grid[2]))


def full_batch(facts: DatasetFacts) -> int:
    """Patches with the volume of two full-sized ones, within 5 % of the dataset's voxels; at least two."""
    stride, grid = token_stride(facts.spacing_DHW), full_grid(facts)
    dataset, patch = facts.cases * math.prod(facts.shape_DHW), math.prod(grid) * math.prod(stride)
    return max(SMALLEST_BATCH, min(FULL_STEP // math.prod(grid), round(DATASET_SHARE * dataset / patch)))


def ladder(facts: DatasetFacts) -> list[Rung]:
    """All rungs, from the lowest to the highest."""
    ascending = grids(facts)
    small = [grid for grid in ascending if max(grid) <= LONGEST_TINY]
    best, batch = ascending[-1], full_batch(facts)
    rungs = [Rung("tiny", grid, SMALLEST_BATCH) for grid in small]
    rungs += [Rung("vit_b", grid, SMALLEST_BATCH) for grid in [small[-1], *ascending[len(small) :]]]
    rungs += [Rung("vit_b", best, more) for more in range(SMALLEST_BATCH + 1, batch + 1)]
    return [*rungs, Rung("vit_l", best, batch), Rung("vit_h", best, batch)]


def rung_config(facts: DatasetFacts, rung: Rung, checkpointing: str) -> SAM3DConfig:
    """The network of a rung, as built by the trainer."""
    patch = [n * step for n, step in zip(rung.grid_DHW, token_stride(facts.spacing_DHW), strict=True)]
    stride = preset_stride(TrainingOptions(preset=rung.preset), patch, facts.spacing_DHW)
    return preset_config(
        rung.preset,
        patch_size=tuple(patch),
        token_stride=stride,
        window=tuple(window_edge(math.ceil(size / step)) for size, step in zip(patch, stride, strict=True)),
        num_image_channels=facts.channels,
        num_classes=facts.heads,
        num_click_labels=facts.click_labels,
        max_clicks=max_clicks(facts),
        checkpointing=checkpointing,
        fine_click_maps=TrainingOptions().fine_click_maps,
        extent_maps=len(PromptCodec(TrainingOptions().kinds, facts.click_labels).maps),
        token_aspect=token_aspect(stride, facts.spacing_DHW),
    )


def choose(facts: DatasetFacts, budget_gb: float) -> Choice:
    """The highest rung that fits, with as little recomputation as possible.

    Raises:
        UserError: the budget is not a positive number.
        BudgetTooSmall: it is too small for the lowest rung.
    """
    if not (budget_gb > 0 and math.isfinite(budget_gb)):
        raise UserError(f"-gpu_memory_target {budget_gb}: the budget must be a positive number of gigabytes.")

    def need(rung: Rung, mode: str) -> float:
        return estimate_gb(rung_config(facts, rung, mode), rung.batch, FROM_GB[rung.preset] > 0)

    rungs = ladder(facts)
    least = need(rungs[0], CHECKPOINTING[-1])
    if least > budget_gb:
        raise BudgetTooSmall(
            f"{facts.name}: a budget of {budget_gb:g} GB is too small. The smallest plan (tiny backbone, patch "
            f"{rung_config(facts, rungs[0], 'none').patch_size}, batch {SMALLEST_BATCH}) needs {least:.2f} GB: use "
            f"-gpu_memory_target {math.ceil(10 * least) / 10:g} or more."
        )
    affordable = [rung for rung in rungs if FROM_GB[rung.preset] <= budget_gb]
    rung = next(rung for rung in reversed(affordable) if need(rung, MODES[rung.preset][-1]) <= budget_gb)
    mode = next(mode for mode in MODES[rung.preset] if need(rung, mode) <= budget_gb)
    config = rung_config(facts, rung, mode)
    return Choice(
        budget_gb=budget_gb,
        estimate_gb=round(need(rung, mode), 2),
        batch=rung.batch,
        preset=rung.preset,
        config=config,
        half=FROM_GB[rung.preset] > 0,
        why=_reasons(facts, budget_gb, rung, config),
    )


def _reasons(facts: DatasetFacts, budget_gb: float, rung: Rung, config: SAM3DConfig) -> tuple[str, ...]:
    best, batch = full_grid(facts), full_batch(facts)
    stride, patch = config.token_stride, "x".join(map(str, config.patch_size))
    edges = " x ".join(f"{step * mm:.3g}" for step, mm in zip(stride, facts.spacing_DHW, strict=True))
    larger = [name for name in FROM_GB if FROM_GB[name] > FROM_GB[rung.preset]]
    if not larger:
        preset = "the largest one"
    elif FROM_GB[larger[0]] > budget_gb:
        preset = f"{larger[0]} is considered from {FROM_GB[larger[0]]:g} GB"
    else:
        preset = f"{larger[0]} does not fit the budget"
    covered = all(size >= image for size, image in zip(config.patch_size, facts.shape_DHW, strict=True))
    whole = "the whole median image" if covered else f"{LONGEST} tokens per axis, as in the paper"
    full = "the full batch for this dataset" if rung.batch == batch else "the largest that fits"
    recomputed = {
        "none": "only the inner part of attention is recomputed",
        "cheap": "MLPs and adapters are recomputed",
        "blocks": "nearly everything is recomputed",
    }
    return (
        f"token stride {tuple(stride)}: tokens of {edges} mm, as close to cubes as strides of 1, 2, 4, 8 allow",
        f"backbone {rung.preset}: {preset}",
        f"patch {patch}: " + (whole if rung.grid_DHW == best else "the largest that fits this backbone and budget"),
        f"batch {rung.batch}: " + ("the minimum, because patches come first" if rung.batch == SMALLEST_BATCH else full),
        f"checkpointing {config.checkpointing}: {recomputed[config.checkpointing]}; less does not fit"
        if config.checkpointing != "none"
        else f"checkpointing none: {recomputed['none']}",
    )
