"""The history of a model that learns: which cases it has seen, which are held back, and what every round brought."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.files import write_json
from nnsam3d.nnunet.datasets import FINAL

FILE = "learning.json"
HELD_BACK = 4  # of so many finished cases, the last one is never trained on


@dataclass(frozen=True)
class Round:
    """One training on finished cases.

    Attributes:
        finished: when, ISO 8601.
        cases: number of cases that it was trained on.
        seconds: preparation, training and check.
        updates: of the training.
        before, after: mean Dice of the held-back cases; None: there were none.
        accepted: whether the model now has these weights.
        sha256: of these weights, if they were accepted.
        base: mean Dice of the same cases with the class-agnostic model out of which this one grows, after clicks,
            without which it has no answer; None: not compared yet, or the model has not grown.
        best: mean Dice of the same cases with the best weights that were in use before; None: not known.
        clicked: mean Dice to compare with ``base``, of the weights now in use; None in records of earlier versions,
            whose ``base`` is to be compared with ``before`` or ``after``.
    """

    finished: str
    cases: int
    seconds: float
    updates: int
    before: float | None
    after: float | None
    accepted: bool
    sha256: str = ""
    base: float | None = None
    best: float | None = None
    clicked: float | None = None

    def describe(self) -> str:
        """One sentence for a person."""
        if self.before is None or self.after is None:
            return f"learned from {self.cases} cases (not checked: no case is held back yet)"
        change = f"Dice of held-back cases {self.before:.3f} -> {self.after:.3f}"
        if self.accepted and self.after < self.before:
            change += ", slightly lower, which may be noise"
        if self.best is not None and self.best > self.before:
            change += f"; {self.best:.3f} with the best earlier weights"
        if self.base is not None:
            now = "" if self.clicked is None else f"after clicks {self.clicked:.3f}, "
            change += f" ({now}{self.base:.3f} of the model that it began as)"
        return f"learned from {self.cases} cases: {change}" if self.accepted else f"kept the old weights: {change}"


@dataclass(frozen=True)
class Record:
    """The file ``learning.json`` of a model.

    Attributes:
        begun_from: the model that it started as, and the SHA-256 of its weights.
        order: names of all finished cases, in the order in which they were first seen.
        rounds: in order.
        grown: whether the model has grown out of a class-agnostic one.
        fold, checkpoint: of the model that it started as; "": its first fold, in records of earlier versions.

    >>> record = Record("starter", "").seen(["a", "b", "c", "d", "e"])
    >>> record.training, record.held_back
    (('a', 'b', 'c', 'e'), ('d',))
    """

    begun_from: str
    sha256: str
    order: tuple[str, ...] = ()
    rounds: tuple[Round, ...] = ()
    grown: bool = False
    fold: str = ""
    checkpoint: str = FINAL

    @property
    def serves(self) -> bool:
        """Whether the model is to be used rather than the one that it began as: always if it was tuned, but if it has
        grown, only once it is at least as good after clicks on held-back cases."""
        if not self.rounds or not self.grown:
            return bool(self.rounds)
        last = self.rounds[-1]
        now = last.clicked
        if now is None:
            now = last.after if last.accepted else last.before
        return now is not None and last.base is not None and now >= last.base

    def seen(self, cases: Sequence[str]) -> Record:
        """With new cases at the end. Cases that no longer exist keep their place, so that none changes sides."""
        return replace(self, order=(*self.order, *(case for case in cases if case not in self.order)))

    @property
    def training(self) -> tuple[str, ...]:
        """The cases to train on."""
        return tuple(case for n, case in enumerate(self.order, 1) if n % HELD_BACK)

    @property
    def held_back(self) -> tuple[str, ...]:
        """The cases that no round has been trained on."""
        return tuple(case for n, case in enumerate(self.order, 1) if n % HELD_BACK == 0)

    def write(self, model: Path) -> None:
        """Writes it into the model's folder."""
        write_json(model / FILE, asdict(self))


def read_record(model: Path) -> Record | None:
    """The record of a model; None if it has never learned.

    Raises:
        UserError: the file is damaged.
    """
    file = model / FILE
    if not file.is_file():
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        rounds = tuple(Round(**one) for one in values.pop("rounds"))
        return Record(**{**values, "order": tuple(values["order"]), "rounds": rounds})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not the record of a model that learns, or damaged ({error})") from error
