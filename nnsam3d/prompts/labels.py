"""The labels of clicks: from dataset.json, and from the words in prompt files."""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnsam3d.prompts.kinds.checks import PromptError, PromptWarning, short

NEARLY_WHOLE = 1e-3
_IGNORE = "ignore"
_BACKGROUND = "background"  # part of every dataset.json

Meaning = Literal["exact", "word", "numbered", "foreground", "value", "negative"]
"""How to interpret a label in a file.

exact: a name or number from dataset.json, as in nnsam3d files. word: a word of another program, whose numbers are not
labels. numbered: a word to which the program may have appended a number. foreground: a word, or just "foreground".
value: a word of another program in which numbers are labels. negative: just "not this", which is not translated by a
label for all words.
"""

LabelMap = str | int | Mapping[str, str | int]
"""The user's translation of words that are not labels: one label for all of them, or a label for each word."""


def click_labels(dataset_json: Mapping[str, Any]) -> dict[str, int]:
    """Label names and the values of their clicks, without the ignore label.

    In datasets with regions (labels that are lists of values), the value of a region is its entry in
    ``regions_class_order``, which is also the value of its own voxels in a segmentation, as in nnU-Net's
    ``LabelManager``. Background is 0.

    Raises:
        PromptError: no usable "labels", or regions without a matching ``regions_class_order``.

    >>> click_labels({"labels": {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}})
    {'background': 0, 'liver': 1, 'tumour': 2}
    >>> click_labels({"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]})
    {'background': 0, 'whole': 1, 'core': 2}
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


def declared_values(dataset_json: Mapping[str, Any]) -> dict[int, frozenset[int]]:
    """Click label -> the values of a segmentation inside it: several in a region, otherwise its own.

    Raises:
        PromptError: see :func:`click_labels`.

    >>> declared_values({"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]})
    {0: frozenset({0}), 1: frozenset({1, 2}), 2: frozenset({2})}
    """
    labels = click_labels(dataset_json)
    declared = {label: dataset_json["labels"][name] for name, label in labels.items()}
    return {label: frozenset(np.atleast_1d(value).tolist()) for label, value in declared.items()}


def numbered_labels(used: Iterable[object], known: Mapping[str, int] | None = None) -> dict[str, int]:
    """Names and values for labels that nobody has declared: objects of a class-agnostic model.

    Args:
        used: labels of prompts, in order. A name gets the smallest free value; a number, also in quotes, keeps its
            value and is its own name, unless it is the value of a known name. None is skipped.
        known: names and values that are kept.

    >>> numbered_labels(["liver", 0, "spleen", 5, "liver", 2])
    {'background': 0, 'liver': 1, 'spleen': 2, '5': 5}
    """
    labels = {_BACKGROUND: 0, **(known or {})}
    for label in used:
        if label is None:
            continue
        is_name = isinstance(label, str)
        name = label if isinstance(label, str) else str(int(label))  # type: ignore[call-overload]
        if name in labels:  # nearly always: each prompt of each step of a history comes here
            continue
        taken = {*labels.values()}
        value = int(name) if not is_name or re.fullmatch("[0-9]{1,4}", name) else 0  # not a date, for example
        if value not in taken:
            labels[name] = value
        elif is_name:
            labels[name] = next(number for number in itertools.count(1) if number not in taken)
    return labels


def label_values(label: int, regions: Mapping[int, frozenset[int]] | None) -> list[int]:
    """The values of a label map that lie in a label.

    Args:
        label: its value; 0 = background.
        regions: values by label; None without regions.

    >>> label_values(1, {1: frozenset({1, 2}), 2: frozenset({2})}), label_values(1, None)
    ([1, 2], [1])
    """
    return [label] if regions is None or not label else sorted(regions[label])


def value_around(label: int, regions: Mapping[int, frozenset[int]] | None) -> int:
    """The value of a voxel that is taken out of a label: with regions, that of the smallest region around it, else 0.

    Args:
        label: its value.
        regions: values by label; None without regions.

    >>> value_around(2, {1: frozenset({1, 2}), 2: frozenset({2})}), value_around(2, None)
    (1, 0)
    """
    if regions is None:
        return 0
    around = [other for other, values in regions.items() if values > regions[label]]
    return min(around, key=lambda other: len(regions[other]), default=0)


def resolve_label(label: object, names: Mapping[str, int], where: str) -> int:
    """The label value of a name or number.

    Args:
        label: as given by the user.
        names: the allowed labels, from :func:`click_labels`.
        where: start of the error message, for example "liver_003.json: click 2".

    Raises:
        PromptError: not a name or value of ``names``; booleans and floats are refused.

    >>> resolve_label("tumour", {"background": 0, "tumour": 1}, "liver_003.json: click 2")
    1
    >>> resolve_label("tumor", {"background": 0, "tumour": 1}, "click 2")
    Traceback (most recent call last):
    nnsam3d.prompts.kinds.checks.PromptError: click 2: unknown label 'tumor'; allowed: "background" (0), "tumour" (1)
    """
    if isinstance(label, str) and label in names:
        return int(names[label])
    is_number = hasattr(label, "__index__") and not isinstance(label, bool)
    if is_number and int(label) in names.values():  # type: ignore[call-overload]
        return int(label)  # type: ignore[call-overload]
    raise PromptError(f"{where}: unknown label {label!r}; allowed: {_allowed(names)}")


def _allowed(names: Mapping[str, int]) -> str:
    return ", ".join(f'"{name}" ({value})' for name, value in names.items())


def translate_label(
    word: object, names: Mapping[str, int] | None, translation: LabelMap | None = None, *, meaning: Meaning = "word"
) -> int | str:
    """Translate a word in another program's file to a name or number from dataset.json.

    The first rule that applies: the user's translation of the word; the word "background"; the user's translation of
    all words; a name; a name with Slicer's numbering ("lesion-3"); a number, if the format's numbers are labels; for a
    click that just means "foreground", the only foreground label.

    **A bare number is not a label:** it is the other program's numbering of its points.

    Args:
        word: a missing one (None, empty, "nan") can only be translated by the user.
        names: from :func:`click_labels`; None: any, so that the word is returned, without the program's own number.
        translation: given by the user.
        meaning: see :data:`Meaning`.

    Raises:
        PromptError: no rule applies.

    >>> translate_label("kidney-1", None), translate_label("kidney-1", None, meaning="numbered")
    ('kidney-1', 'kidney')
    """
    text = _text_of(word)
    stem = _without_number(text)
    each = translation if isinstance(translation, Mapping) else {}
    number = _whole_number(text)
    for key in (text, stem, *(() if number is None else (str(number),))):
        if key in each:
            return _known(each[key], names)
    if _BACKGROUND in (text.casefold(), stem.casefold()):
        return _BACKGROUND
    if meaning == "negative":
        raise PromptError(
            f'label {short(text)} means only "not this", not necessarily background: state it, e.g. '
            f"--label {text}={_BACKGROUND}"
        )
    if translation is not None and not isinstance(translation, Mapping):
        return _known(translation, names)
    if number is not None and meaning == "value" and (names is None or number in names.values()):
        return number
    if names is None:
        if text and (number is None or meaning == "foreground"):
            return stem if meaning == "numbered" else text
    else:
        for candidate in (text, stem):
            if candidate in names and number is None:
                return candidate
        foreground_names = [name for name, value in names.items() if value != 0]
        if meaning == "foreground" and len(foreground_names) == 1:
            return foreground_names[0]
    allowed = "" if names is None else f"; allowed: {_allowed(names)}"
    if not text:
        raise PromptError(f"the label is missing{allowed}")
    if number is not None and meaning != "value":
        raise PromptError(f"label {short(text)} is a number assigned by the program of the file, not a label{allowed}")
    raise PromptError(f"label {short(text)} is not in this dataset{allowed}")


def numbered_word(label: str, number: int) -> str:
    """A label as a word that is read as the same label where words may be numbered.

    Args:
        label: a name, or a number as text.
        number: of the point, appended to labels that look numbered or are numbers.

    >>> numbered_word("lesion", 1), numbered_word("lesion-2", 1), numbered_word("2", 3)
    ('lesion', 'lesion-2-1', '2-3')
    """
    looks_numbered = _without_number(label) != label or _whole_number(label) is not None
    return f"{label}-{number}" if looks_numbered else label


def _text_of(word: object) -> str:
    """The word as text; "" if missing."""
    if word is None or (isinstance(word, float) and math.isnan(word)):
        return ""
    if isinstance(word, bool) or not isinstance(word, (str, int, float)):
        raise PromptError(f"label must be a name, got {short(word)}")
    text = str(word).strip()
    return "" if text.lower() in ("", "nan") else text


def _whole_number(text: str) -> int | None:
    """1 for "1", "1.0" and "+1"; None if it is not a whole number."""
    match = re.fullmatch(r"\+?([0-9]{1,9})(\.0*)?", text)
    return int(match[1]) if match else None


def _without_number(text: str) -> str:
    match = re.fullmatch(r"(.+)-[0-9]{1,9}", text[:1000], re.DOTALL)
    return match[1] if match else text


def whole_labels(array: NDArray[Any], where: str) -> NDArray[Any]:
    """A label map of integers; floating-point values close to whole numbers are rounded.

    Args:
        where: the file, for messages.

    Raises:
        PromptError: values further than 0.001 from whole numbers, as in interpolated maps or probabilities.

    Warns:
        PromptWarning: values were rounded.
    """
    if array.dtype.kind in "iub":
        return array
    if array.dtype.kind != "f":
        raise PromptError(f"{where}: is no label map of whole numbers, but holds values of type {array.dtype}")
    rounded = np.rint(array)
    with np.errstate(invalid="ignore"):  # infinite values are refused below
        off = np.abs(array - rounded)
    if not np.isfinite(array).all() or off.max(initial=0.0) > NEARLY_WHOLE:
        worst = float(array.reshape(-1)[int(np.argmax(off))])
        raise PromptError(
            f"{where}: contains values that are not labels, for example {worst:g}; is it interpolated, or a map of "
            "probabilities?"
        )
    if off.max(initial=0.0) > 0:
        warnings.warn(f"{where}: labels that are not whole numbers were rounded", PromptWarning, stacklevel=2)
    return rounded.astype(np.int32)


def _known(label: str | int, names: Mapping[str, int] | None) -> int | str:
    if names is not None and not _is_label(label, names):
        raise PromptError(f"the stated label {short(label)} is not in this dataset; allowed: {_allowed(names)}")
    number = _whole_number(label) if isinstance(label, str) and (names is None or label not in names) else None
    return label if number is None else number


def _is_label(label: str | int, names: Mapping[str, int]) -> bool:
    """Users may also give the number of a label."""
    number = label if isinstance(label, int) else _whole_number(label)
    return label in names or (number is not None and number in names.values())


def _values(name: str, value: Any) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values):
        raise PromptError(f'dataset.json: label "{name}" must be a whole number or a list, got {value!r}')
    return [int(v) for v in values]
