"""What a class-agnostic network is to segment in a training patch: one target, drawn from what is there.

The same patch has different truths, so that only the prompt can say which one is meant. What is not drawn is what the
network must not take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.prompts.components import NEIGHBOURS_26, Components, bounding_box

ENTRY, INSIDE, DECLARED = "nnsam3d", "inside", "declared"  # in dataset.json; ENTRY also in plans
OBJECT, OBJECT_VALUE, IGNORED_VALUE = "object", 1, 2  # in the truth of a class-agnostic network
KINDS = {"component": 0.7, "label": 0.12, "union": 0.12, "part": 0.06}
"""How often each kind of target is drawn."""
SMALLEST = 10  # voxels; smaller components are targets only where there are no others


@dataclass(frozen=True)
class Targets:
    """The targets of a dataset.

    Attributes:
        groups: sets of label values that may be meant together: every label alone, declared regions, and a label with
            all that lies inside it.
        ignore_label: the value of voxels that nobody has annotated; None: there are none.

    >>> labels = np.zeros((8, 8, 8), int)
    >>> labels[1:4, 1:4, 1:4], labels[5:8, 5:8, 5:8] = 1, 2
    >>> targets = Targets.of({"labels": {"background": 0, "liver": 1, "spleen": 2}})
    >>> target = targets.draw(labels, np.random.default_rng(0))
    >>> np.unique(target).tolist(), np.unique(labels[target == 1]).tolist()
    ([0, 1], [2])
    """

    groups: tuple[frozenset[int], ...]
    ignore_label: int | None = None

    @classmethod
    def of(cls, dataset_json: Mapping[str, Any]) -> Targets:
        """
        Args:
            dataset_json: its labels or regions. ``{"nnsam3d": {"inside": {"4": 1}}}`` says that label 4 lies inside of
                label 1.
        """
        entry = dataset_json.get(ENTRY, {})
        labels = entry.get(DECLARED, dataset_json)["labels"]
        sets = [frozenset(np.atleast_1d(value).tolist()) for name, value in labels.items() if name != "ignore"]
        values = frozenset().union(*sets) - {0}
        outer = {int(inner): int(whole) for inner, whole in entry.get(INSIDE, {}).items()}
        wholes = [frozenset(v for v in values if value in _with_outer(v, outer)) for value in sorted(values)]
        singles = [frozenset([value]) for value in sorted(values)]
        groups = dict.fromkeys(one - {0} for one in [*singles, *wholes, *sets])
        ignore = labels.get("ignore")
        return cls(tuple(group for group in groups if group), None if ignore is None else int(ignore))

    @property
    def ignored_value(self) -> int | None:
        """The value of voxels in a drawn truth that nobody has annotated."""
        return None if self.ignore_label is None else IGNORED_VALUE

    def draw(self, labels_DHW: NDArray[Any], rng: Generator) -> NDArray[np.int16]:
        """A truth (D, H, W): 1 is the target, 2 what nobody has annotated, 0 the rest. Without labels it is empty.

        Of the labels, one with eight times the volume is drawn twice as often.
        """
        truth = np.zeros(labels_DHW.shape, np.int16)
        if self.ignore_label is not None:
            truth[labels_DHW == self.ignore_label] = IGNORED_VALUE
        volumes = np.bincount(np.maximum(labels_DHW, 0).reshape(-1))
        known = frozenset().union(*self.groups)
        foreground = [value for value in np.flatnonzero(volumes).tolist() if value in known]
        if not foreground:
            return truth
        weights = np.cbrt(volumes[foreground])
        value = int(rng.choice(foreground, p=weights / weights.sum()))
        groups = [group for group in self.groups if value in group]
        group = groups[int(rng.integers(len(groups)))]
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        mask = np.isin(labels_DHW, list(group))
        if kind != "label":
            mask = _component(mask, labels_DHW == value, rng)
        if kind == "union":
            mask |= _neighbour(mask, labels_DHW, foreground, rng)
        elif kind == "part":
            mask = _part(mask, rng)
        truth[mask] = OBJECT_VALUE
        return truth


def class_agnostic(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """dataset.json of a class-agnostic network: a single label, "object", and the ignore label if there is one.

    What the dataset declares is kept in its entry "nnsam3d".
    """
    entry = dict(dataset_json.get(ENTRY, {}))
    if DECLARED in entry:
        return dict(dataset_json)
    declared = {key: dataset_json[key] for key in ("labels", "regions_class_order") if key in dataset_json}
    ignore = {"ignore": IGNORED_VALUE} if "ignore" in dataset_json["labels"] else {}
    kept = {key: value for key, value in dataset_json.items() if key not in declared}
    labels = {"background": 0, OBJECT: OBJECT_VALUE, **ignore}
    return {**kept, "labels": labels, ENTRY: {**entry, DECLARED: declared}}


def is_class_agnostic(configuration: Mapping[str, Any]) -> bool:
    """Whether a configuration in a model's plans is that of a class-agnostic network."""
    return bool(configuration.get(ENTRY, {}).get("targets") == "any")


def _with_outer(value: int, outer: Mapping[int, int]) -> list[int]:
    """The value, and everything that it lies inside of."""
    chain = [value]
    while outer.get(chain[-1], chain[0]) not in chain:
        chain.append(outer[chain[-1]])
    return chain


def _component(mask: NDArray[np.bool_], wanted: NDArray[np.bool_], rng: Generator) -> NDArray[np.bool_]:
    """One of the components that contain a wanted voxel, with equal probability."""
    found = [one for one in Components(mask) if wanted[one.place][one.box].any()]
    large = [one for one in found if one.box.sum() >= SMALLEST] or found
    one = large[int(rng.integers(len(large)))]
    alone = np.zeros_like(mask)
    alone[one.place] = one.box
    return alone


def _neighbour(
    mask: NDArray[np.bool_], labels_DHW: NDArray[Any], foreground: Sequence[int], rng: Generator
) -> NDArray[np.bool_]:
    """The component of another label that touches a mask; empty if there is none."""
    place = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in bounding_box(mask))  # a voxel more
    rim = ndimage.binary_dilation(mask[place], NEIGHBOURS_26) & ~mask[place]
    touching = sorted(set(np.unique(labels_DHW[place][rim]).tolist()) & set(foreground))
    if not touching:
        return np.zeros_like(mask)
    other = labels_DHW == touching[int(rng.integers(len(touching)))]
    touched = np.zeros_like(mask)
    touched[place] = rim
    return _component(other & ~mask, touched, rng)


def _part(mask: NDArray[np.bool_], rng: Generator) -> NDArray[np.bool_]:
    """What lies on one side of a plane through a mask; all of it if that leaves too little."""
    voxels_N3 = np.argwhere(mask)
    along_N = voxels_N3 @ rng.standard_normal(3)
    chosen_N3 = voxels_N3[along_N <= np.quantile(along_N, rng.uniform(0.3, 0.7))]
    if len(chosen_N3) < SMALLEST:
        return mask
    part = np.zeros_like(mask)
    part[tuple(chosen_N3.T)] = True
    return part
