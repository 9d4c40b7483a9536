"""The rows of the report's tables, and everything together: what :mod:`.summary` computes and the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

from nnsam3d.evaluation.plan import Setting
from nnsam3d.evaluation.statistics import Estimate

T = TypeVar("T")
METRICS = ("dice", "nsd_5mm", "nsd_2mm", "hd95", "volume_error", "detected")


@dataclass(frozen=True)
class Place:
    """Where a row belongs."""

    dataset: str
    configuration: str
    protocol: str
    arm: str
    label: str


@dataclass(frozen=True)
class ScoreRow(Place):
    """Scores, by :data:`METRICS`, after a number of clicks."""

    clicks: int
    scores: Mapping[str, Estimate]
    obeyed: Estimate

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        place = {one.name: getattr(self, one.name) for one in fields(Place)}
        return {**place, "clicks": self.clicks, **as_json(self.scores), "obeyed": as_json(self.obeyed)}


@dataclass(frozen=True)
class Reach(Estimate):
    """Clicks to a target; ``reached`` is the share of sequences that reached it."""

    reached: float


@dataclass(frozen=True)
class End:
    """The end of sequences of clicks.

    Attributes:
        clicks: at the end.
        median_dice: over patients.
        good: Dice -> the share of sequences that reach it.
    """

    clicks: int
    sequences: int
    median_dice: float | None
    good: Mapping[float, float | None]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        known = {"clicks": self.clicks, "sequences": self.sequences, "median_dice": self.median_dice}
        return known | {f"dice_{dice:g}": share for dice, share in self.good.items()}


@dataclass(frozen=True)
class CurveRow(Place):
    """A summary over clicks; ``obeyed`` by number of clicks, ``clicks_to`` by Dice."""

    obeyed: Mapping[str, Estimate]
    end: End
    dice_auc: Estimate
    nsd_2mm_auc: Estimate
    clicks_to: Mapping[float, Reach]

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        known = {one.name: as_json(getattr(self, one.name)) for one in fields(self) if one.name != "clicks_to"}
        return known | {f"clicks_to_{target:g}": as_json(reach) for target, reach in self.clicks_to.items()}


@dataclass(frozen=True)
class DifferenceRow(Place):
    """Reference minus arm; ``better``: the number of patients in which the reference is strictly better."""

    metric: str
    clicks: int
    mean: float | None
    low: float | None
    high: float | None
    n: int
    better: int
    p: float | None
    p_corrected: float | None

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.mean, self.low, self.high, self.n)


@dataclass(frozen=True)
class TrainingRow(Place):
    """Mean Dice of each training by its seed, and standard deviations."""

    clicks: int
    means: Mapping[str, float | None]
    between_trainings: float | None
    between_patients: float | None


@dataclass(frozen=True)
class RefusedRow(Place):
    """Why an arm takes no part in a protocol."""

    reason: str


@dataclass(frozen=True)
class ArmCost:
    """The cost of an arm's model.

    Attributes:
        kind: of the arm, see :attr:`nnsam3d.evaluation.arms.Arm.kind`.
        window: voxels (D, H, W).
        window_gflop: of one window.
        click_gflop: of a further click on a known window: less only if features are kept between clicks.
        training_seconds: inside epochs, with online validation; 0: unknown.
        weights: the initial weights of the training.
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
class Effort:
    """Means over cases: seconds and GFLOP from a read image to its first answer, and per further click."""

    seconds_per_case: float | None
    seconds_per_further_click: float | None
    gflop_per_case: float | None
    gflop_per_further_click: float | None
    peak_memory_mb: float | None


@dataclass(frozen=True)
class CostRow:
    """Cost and effort of one training of an arm."""

    dataset: str
    configuration: str
    fold: str
    arm: str
    training: int | None
    cost: ArmCost
    effort: Effort
    checkpoint_sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready: one level."""
        place = {name: getattr(self, name) for name in ("dataset", "configuration", "fold", "arm", "training")}
        place = {name: value for name, value in place.items() if value is not None}
        return place | as_json(self.cost) | {"checkpoint_sha256": self.checkpoint_sha256} | as_json(self.effort)


@dataclass(frozen=True)
class Summary:
    """The content of the report.

    Attributes:
        reference: the arm with which all others are compared.
        cases: their number in each dataset.
        checkpoints: (arm, dataset, fold, SHA-256). truths: (dataset, case, SHA-256).
        environment: versions and machine. commands: that made the results.
    """

    setting: Setting
    reference: str
    cases: Mapping[str, int]
    scores: Sequence[ScoreRow]
    curves: Sequence[CurveRow]
    differences: Sequence[DifferenceRow]
    refused: Sequence[RefusedRow]
    trainings: Sequence[TrainingRow]
    costs: Sequence[CostRow]
    checkpoints: Sequence[tuple[str, str, str, str]]
    truths: Sequence[tuple[str, str, str]]
    environment: Mapping[str, str]
    commands: Sequence[str]

    def at(self, **place: str) -> Summary:
        """Only the rows of this dataset, configuration, protocol or label; a cost has no protocol and no label."""

        def here(rows: Sequence[T]) -> list[T]:
            return [row for row in rows if all(getattr(row, name, value) == value for name, value in place.items())]

        return replace(
            self,
            scores=here(self.scores),
            curves=here(self.curves),
            differences=here(self.differences),
            refused=here(self.refused),
            trainings=here(self.trainings),
            costs=here(self.costs),
        )


def as_json(value: Any) -> Any:
    """Dataclasses as dictionaries, at every level."""
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if is_dataclass(value):
        return {one.name: as_json(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, list | tuple) else value
