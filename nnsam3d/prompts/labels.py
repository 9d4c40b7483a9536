"""From dataset.json to the labels that a click may carry."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nnsam3d.prompts.types import PromptError, checked_label, short

_IGNORE = "ignore"
_BACKGROUND = "background"  # every dataset.json has it

LabelMap = str | int | Mapping[str, str | int]
"""What the user says about words that are no labels: one label for all of them, or a label for each word."""


def click_labels(dataset_json: Mapping[str, Any]) -> dict[str, int]:
    """Name -> label value that a click of that name carries. The ignore label is not among them.

    Plain labels give their value. Region datasets (a label is a list of values) give, for every region, its
    entry of ``regions_class_order``: the value that the region's own voxels get in the written segmentation,
    the same rule as nnU-Net's ``LabelManager``. Background is 0.

    Raises:
        PromptError: no usable "labels", or regions without a matching ``regions_class_order``.
    """
    labels = dataset_json.get("labels")
    if not isinstance(labels, Mapping) or "background" not in labels:
        raise PromptError('dataset.json needs "labels": {name: value}, with "background": 0 among them')
    declared = {name: _values(name, value) for name, value in labels.items() if name != _IGNORE}
    if not any(len(values) > 1 for values in declared.values()):
        return {name: values[0] for name, values in declared.items()}
    regions = [name for name, values in declared.items() if set(values) != {0}]
    order = dataset_json.get("regions_class_order")
    if not isinstance(order, (list, tuple)) or len(order) != len(regions):
        raise PromptError(
            f"dataset.json has regions ({', '.join(regions)}), so it needs regions_class_order "
            f"with one value for each of them, got {order!r}"
        )
    background = {name: 0 for name in declared if name not in regions}
    return background | {name: int(value) for name, value in zip(regions, order, strict=True)}


def resolve_label(label: object, names: Mapping[str, int], where: str) -> int:
    """The label value of a name or number.

    Args:
        label: what the user wrote.
        names: the allowed ones, from :func:`click_labels`.
        where: beginning of the error message, for example "liver_003.json: click 2".

    Raises:
        PromptError: not a name or value of ``names``; booleans and floats are refused, not rounded.
    """
    if isinstance(label, str) and label in names:
        return int(names[label])
    is_number = hasattr(label, "__index__") and not isinstance(label, bool)
    if is_number and int(label) in names.values():  # type: ignore[call-overload]
        return int(label)  # type: ignore[call-overload]
    allowed = ", ".join(f'"{name}" ({value})' for name, value in names.items())
    raise PromptError(f"{where}: unknown label {label!r}; allowed: {allowed}")


def translate_label(
    word: object, names: Mapping[str, int] | None, said: LabelMap | None = None, *, foreground: bool = False
) -> int | str:
    """The label that a word in another program's file stands for, as a name or number of dataset.json.

    In this order: what the user said about the word; a name; a number, as text too; a name with Slicer's numbering
    ("lesion-3"); what the user said about all words; for ``foreground`` the only foreground label there is.

    Args:
        names: from :func:`click_labels`; without them a word stays as it is.
        said: the user's translation.
        foreground: the word means no more than "foreground", for example "tumor" of autoPET.

    Raises:
        PromptError: none of these, or no word at all.
    """
    word = checked_label(word)
    stem = _without_number(word)
    each = said if isinstance(said, Mapping) else {}
    for key in (str(word), stem):
        if key in each:
            return _known(each[key], names)
    for candidate in (word, stem):
        found = _as_label(candidate, names)
        if found is not None:
            return found
    if said is not None and not isinstance(said, Mapping):
        return _known(said, names)
    if names is None:
        return word
    foreground_names = [name for name, value in names.items() if value != 0]
    if foreground and len(foreground_names) == 1:
        return foreground_names[0]
    allowed = ", ".join(f'"{name}" ({value})' for name, value in names.items())
    raise PromptError(f"label {short(word)} is none of this dataset; allowed: {allowed}")


def _without_number(word: int | str) -> str:
    match = re.fullmatch(r"(.+)-[0-9]{1,9}", str(word)[:1000], re.DOTALL)
    return match[1] if match else str(word)


def _as_label(word: int | str, names: Mapping[str, int] | None) -> int | str | None:
    if word == _BACKGROUND or (names is not None and isinstance(word, str) and word in names):
        return word
    is_number = isinstance(word, int) or re.fullmatch(r"[0-9]{1,9}", word) is not None
    if is_number and (names is None or int(word) in names.values()):
        return int(word)
    return None


def _known(label: str | int, names: Mapping[str, int] | None) -> int | str:
    if names is not None and _as_label(label, names) is None:
        allowed = ", ".join(f'"{name}" ({value})' for name, value in names.items())
        raise PromptError(f"the stated label {short(label)} is none of this dataset; allowed: {allowed}")
    return label


def _values(name: str, value: Any) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values):
        raise PromptError(f'dataset.json: label "{name}" must be a whole number or a list, got {value!r}')
    return [int(v) for v in values]
