"""`.npz` of the CVPR 2025 interactive segmentation challenge: ``clicks``, ``clicks_order``, ``boxes`` beside the image.

``clicks`` is a list with one ``{"fg": [[z, y, x], ...], "bg": [...]}`` per class, in array order. Classes are
named by ``text_prompts``, if present. A single class is the only foreground label of the dataset; the labels of several
classes must be stated by the user. ``clicks_order`` is a list per class of "fg" / "bg". ``boxes`` has one entry per
class: its extent along z, and that of its middle slice. Only these parts of the file are read, and Python objects in
them only as plain data (:mod:`.plain_pickle`).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from nnsam3d.prompts.formats.base import Format, Reading, found_click, json_type, reversed_position
from nnsam3d.prompts.formats.plain_pickle import NotPlain, load_plain
from nnsam3d.prompts.formats.viewers import found_box
from nnsam3d.prompts.kinds.checks import PromptError, short
from nnsam3d.prompts.labels import Meaning
from nnsam3d.prompts.types import MAX_CLICKS

MAX_PART_BYTES = 2**20
MAX_CLASSES = 256
MAGIC = b"PK"

_PARTS = ("clicks", "clicks_order", "boxes", "text_prompts")
_KINDS = ("fg", "bg")
_BOX_KEYS = ("z_mid_x_min", "z_mid_y_min", "z_min", "z_mid_x_max", "z_mid_y_max", "z_max")  # i, j, k of both corners


def open_parts(path: Path) -> dict[str, Any]:
    """The parts of the file with prompts, as plain Python data.

    Raises:
        PromptError: the file is damaged, or a part contains more than data.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in _PARTS if f"{name}.npy" in archive.namelist()]
            return {name: _plain_array(_member(archive, f"{name}.npy")) for name in names}
    except NotPlain as error:
        raise PromptError(f"{path}: {error}") from None
    except Exception as error:  # zipfile, zlib and numpy raise various errors for damaged files
        raise PromptError(f"{path}: damaged npz file ({type(error).__name__}: {str(error)[:100]})") from None


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    # bounded: the size in the directory may be wrong
    # the two methods that numpy uses; others could expand without limit
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotPlain(f"{name} is compressed with a method that numpy does not use")
    with archive.open(name) as file:
        data = file.read(MAX_PART_BYTES + 1)
    if len(data) > MAX_PART_BYTES:
        raise NotPlain(f"{name} is larger than {MAX_PART_BYTES // 2**20} MB: not clicks")
    return data


def _plain_array(data: bytes) -> Any:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    rest = data[file.tell() :]
    if dtype.hasobject:
        value = load_plain(rest)
        return value[0] if shape == () and isinstance(value, list) and len(value) == 1 else value
    if dtype.kind not in "biufU" or not dtype.itemsize or len(rest) != np.prod(shape, dtype=float) * dtype.itemsize:
        raise NotPlain(f"an array of type {short(dtype.str)} and shape {short(shape)} cannot be used")
    return np.frombuffer(rest, dtype).reshape(shape, order="F" if fortran else "C").tolist()


def recognises(parts: dict[str, Any]) -> bool:
    """By the names of its parts."""
    return "clicks" in parts or "boxes" in parts


def parse(parts: dict[str, Any], stated: str | None) -> Reading:
    """Clicks in order of creation, class by class.

    With a single class, "bg" is background. With several, it only means "not this class": its label is then "bg",
    which the user must translate, like the numbers of the classes.
    """
    reading = Reading.of("voxel", stated)
    boxes = parts.get("boxes")
    clicks = parts.get("clicks", [] if "boxes" in parts else None)
    names = _class_names(parts, max(_length(clicks), _length(boxes)))
    # a single class is the only foreground label
    meaning: Meaning = "foreground" if len(names) == 1 else "word"
    if "boxes" in parts:
        faults = reading.left_out if _length(clicks) else reading.problems  # optional if there are clicks
        if _is_per_class(boxes, "boxes", "boxes", faults):
            _boxes(boxes, names, meaning, faults, reading)
    if not _is_per_class(clicks, "clicks", "classes", reading.problems):
        return reading
    orders = parts.get("clicks_order")
    if orders is not None and (not isinstance(orders, (list, tuple)) or len(orders) != len(clicks)):
        reading.problems.append('"clicks_order" must have one list for each entry of "clicks"')
        orders = None
    for number, entry in enumerate(clicks, start=1):
        order = orders[number - 1] if orders is not None else None
        _one_class(entry, order, number, names, meaning, reading)
        if len(reading.found) > MAX_CLICKS:
            break
    return reading


def _is_per_class(value: Any, key: str, many: str, faults: list[str]) -> TypeGuard[Sequence[Any]]:
    if not isinstance(value, (list, tuple)):
        found = "nothing" if value is None else json_type(value)
        faults.append(f'"{key}" must be a list with one object for each class, not {found}')
    elif len(value) > MAX_CLASSES:
        faults.append(f"{len(value)} {many}; at most {MAX_CLASSES} are allowed")
    else:
        return True
    return False


def _boxes(boxes: Sequence[Any], names: list[str], meaning: Meaning, faults: list[str], reading: Reading) -> None:
    """One box per class; both ends belong to it."""
    for number, (box, name) in enumerate(zip(boxes, names, strict=False), start=1):
        where = f"box of class {number}"
        if box is None or box == {}:
            continue
        missing = [key for key in _BOX_KEYS if not isinstance(box, dict) or key not in box]
        if missing:
            faults.append(f"{where}: {', '.join(missing)} missing in {short(box)}")
            continue
        low, high = ([box[key] for key in keys] for keys in (_BOX_KEYS[:3], _BOX_KEYS[3:]))
        reading.found.append(found_box(where, low, high, name, meaning))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, tuple)) else 0


def _class_names(parts: dict[str, Any], count: int) -> list[str]:
    """The names of the classes: text prompts, or else numbers, which are not labels of the dataset.

    Text prompts are numbered by the classes of the whole dataset; the lists in the file have one entry for each class
    in the image, in the same order. If there are more prompts than entries, the assignment is unknown.
    """
    texts = parts.get("text_prompts")
    texts = {key: name for key, name in texts.items() if str(key).isdigit()} if isinstance(texts, dict) else {}
    in_order = [texts[key] for key in sorted(texts, key=int)]
    names = in_order if len(in_order) == count else [None] * count
    return [name if isinstance(name, str) and name else str(number) for number, name in enumerate(names, start=1)]


def _one_class(entry: Any, order: Any, number: int, names: list[str], meaning: Meaning, reading: Reading) -> None:
    where = f"class {number}"
    # "bg" means background, or only "not this class"
    negative: tuple[str, Meaning] = ("background", "word") if len(names) == 1 else ("bg", "negative")
    if not isinstance(entry, dict) or not set(entry) <= set(_KINDS):
        reading.problems.append(f'{where}: must be an object with "fg" and "bg", got {short(entry)}')
        return
    lists = {kind: entry.get(kind, []) for kind in _KINDS}
    for kind, points in lists.items():
        if not isinstance(points, (list, tuple)):
            reading.problems.append(f'{where}: "{kind}" must be a list of positions, got {short(points)}')
            return
    if sum(map(len, lists.values())) > MAX_CLICKS:
        reading.problems.append(f"{where}: more than {MAX_CLICKS} clicks")
        return
    if order is None:
        order = [kind for kind in _KINDS for _ in lists[kind]]
    usable = isinstance(order, (list, tuple)) and len(order) <= MAX_CLICKS and all(isinstance(o, str) for o in order)
    if not usable or sorted(order) != sorted(kind for kind in _KINDS for _ in lists[kind]):
        counts = ", ".join(f'{len(points)} "{kind}"' for kind, points in lists.items())
        reading.problems.append(f'{where}: "clicks_order" does not match the clicks ({counts}): {short(order)}')
        return
    remaining = {kind: iter(points) for kind, points in lists.items()}
    for place, kind in enumerate(order, start=1):
        position = reversed_position(next(remaining[kind]))
        found = f'{where}, click {place} ("{kind}")'
        label = (names[number - 1], meaning) if kind == "fg" else negative
        reading.found.append(found_click(found, position, *label))


NPZ = Format("challenge-npz", "npz", recognises, parse)
