"""The result of one case and click seed, and the cost of an arm: values here, JSON files in the benchmark's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnsam3d.evaluation.metrics import Scores
from nnsam3d.evaluation.plan import Job
from nnsam3d.prompts import VoxelClick
from nnsam3d.prompts.kinds import Shape


@dataclass(frozen=True)
class NetworkRuns:
    """Windows processed by the network: as a whole, or by the halves of SAM3D (without and with clicks)."""

    whole: int = 0
    encoded: int = 0
    decoded: int = 0

    def __sub__(self, earlier: NetworkRuns) -> NetworkRuns:
        return NetworkRuns(self.whole - earlier.whole, self.encoded - earlier.encoded, self.decoded - earlier.decoded)


@dataclass(frozen=True)
class ArmCost:
    """The cost of an arm's model.

    Attributes:
        kind: of the arm, see :attr:`nnsam3d.evaluation.arms.Arm.kind`.
        window: voxels (D, H, W).
        window_gflop: of one window.
        click_gflop: of a further click on a known window: less only if features are kept between clicks.
        weights: the initial weights of the training.
        training_seconds: inside epochs, with online validation; 0: unknown.
    """

    kind: str
    parameters: int = 0
    trained_parameters: int = 0
    window: Sequence[int] = ()
    window_gflop: float = 0.0
    click_gflop: float = 0.0
    weights: Mapping[str, Any] = field(default_factory=dict)
    training_seconds: float = 0.0
    epochs: int = 0


@dataclass(frozen=True)
class ScoredAnswer:
    """An answer and its scores.

    Attributes:
        clicks: number so far; in the challenge's protocol, of clicks on each label.
        click: the last one, at (z, y, x); None without any.
        scores: by name of the label.
        obeyed: share of all clicks so far that the network obeyed by itself; None: there were none.
        obedience_known: False for results of earlier versions, which do not contain it.
    """

    clicks: int
    click: VoxelClick | None
    scores: Mapping[str, Scores]
    obeyed: float | None = None
    obedience_known: bool = True

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        click = None if self.click is None else {"zyx": list(self.click.voxel), "label": self.click.label}
        known = {"obeyed": self.obeyed} if self.obedience_known else {}
        return {"clicks": self.clicks, "click": click, "scores": dict(self.scores), **known}

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> ScoredAnswer:
        """From :meth:`as_dict`."""
        click = stored["click"]
        return cls(
            stored["clicks"],
            VoxelClick(tuple(click["zyx"]), click["label"]) if click else None,
            stored["scores"],
            stored.get("obeyed"),
            "obeyed" in stored,
        )


@dataclass(frozen=True)
class Timing:
    """What a case took.

    Attributes:
        prepare: seconds from a read image to one that is ready for prompts.
        first: whether the image was prepared for this click seed; later ones use the same prepared image.
        steps: seconds of each step.
        work: windows of each step.
        peak_memory_mb: of the device; on a CPU, of the process.
    """

    prepare: float = 0.0
    first: bool = False
    steps: tuple[float, ...] = ()
    work: tuple[NetworkRuns, ...] = ()
    peak_memory_mb: float | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Timing:
        """From JSON."""
        work = tuple(NetworkRuns(**runs) for runs in stored.get("work", ()))
        return cls(**{**stored, "steps": tuple(stored.get("steps", ())), "work": work})


@dataclass(frozen=True)
class Result:
    """One case, click seed, arm and protocol.

    Attributes:
        first: the first prompts, with points (z, y, x) on the image.
        refused: why the arm does not take part in the protocol; then there are no steps.
        start_sha256: of what the masks come from with which the protocol "start" begins.
    """

    job: Job
    case: str
    seed: int
    checkpoint_sha256: str
    truth_sha256: str
    steps: tuple[ScoredAnswer, ...]
    timing: Timing
    first: tuple[Shape, ...] = ()
    refused: str = ""
    start_sha256: str = ""

    def as_dict(self, timing: bool = True) -> dict[str, Any]:
        """JSON-ready, without the job."""
        first = [
            {"kind": one.kind, "label": one.label, "points_zyx": np.round(one.points_N3, 4).tolist()}
            for one in self.first
        ]
        return {
            "case": self.case,
            "seed": self.seed,
            "checkpoint_sha256": self.checkpoint_sha256,
            "truth_sha256": self.truth_sha256,
            **({"start_sha256": self.start_sha256} if self.start_sha256 else {}),
            **({"refused": self.refused} if self.refused else {}),
            **({"first": first} if first else {}),
            "steps": [step.as_dict() for step in self.steps],
            **({"timing": asdict(self.timing) if self.steps else {"first": False}} if timing else {}),
        }

    @classmethod
    def read(cls, job: Job, path: Path) -> Result:
        """From the file that holds :meth:`as_dict`."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        first = tuple(Shape(one["kind"], one["label"], np.array(one["points_zyx"])) for one in stored.pop("first", ()))
        steps = tuple(ScoredAnswer.of(step) for step in stored.pop("steps"))
        return cls(job, steps=steps, timing=Timing.of(stored.pop("timing")), first=first, **stored)

    def step(self, clicks: int) -> ScoredAnswer:
        """With corrections, step n has n clicks; without, step 1 has all. If no error was left before, the last one."""
        return self.steps[min(clicks, len(self.steps) - 1)]
