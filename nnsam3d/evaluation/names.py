"""The names of protocols and arms, and what they stand for. Imports nothing heavy."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nnsam3d.errors import UserError

MAX_CLICKS = 10
DEFAULT_PLANS = "nnUNetPlans"
ORACLE = "+oracle"
CLIPPED = "clipped:"
ELLIPSOID = "ellipsoid"
START = "start"
STARTER_ARM = "starter"
CHALLENGE_CLICKS = 5


@dataclass(frozen=True)
class Protocol:
    """What an arm is told about a case, step by step.

    Attributes:
        first: what it begins with: "uniform" (a click on a random voxel), "center" (on the deepest one), a kind of
            prompt (one around every label), "challenge" (the box of the CVPR 2025 challenge) or "start" (a mask).
        corrected: whether clicks follow, each in the centre of the largest error of the last answer.
        needs: the kind of prompt that an arm must take; "" = clicks.
        tested: numbers of clicks with a paired test, fixed in advance and few, because correction reduces their power.
        paired: number of clicks in the picture of paired cases.
        most: largest number of clicks; None: that of the run.
    """

    name: str
    summary: str
    first: str
    corrected: bool
    needs: str = ""
    tested: tuple[int, ...] = (3, 5, 10)  # 5 is the last step of the CVPR 2025 challenge
    paired: int = 1
    most: int | None = None

    @property
    def extent(self) -> bool:
        """Whether the answer before the first click is one to a prompt."""
        return bool(self.needs) and self.first != START

    def limit(self, max_clicks: int) -> int:
        """The largest number of clicks in a run with at most ``max_clicks``."""
        return max_clicks if self.most is None else min(self.most, max_clicks)


DRAWN = {
    "box": "a box around every label, each face wrong by up to 10 % of its edge (at least a voxel)",
    "line": "a line across every label on one slice, as in RECIST",
    "scribble": "a scribble through the middle of every label",
    "lasso": "a curve around every label on one slice, drawn by a trembling hand",
}
"""The kinds of prompts that can be simulated, apart from clicks, and how the benchmark draws them."""

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("random", "one click on a random voxel of every label (the paper's)", "uniform", False, tested=(1,)),
        Protocol(
            "center", "one click on the deepest voxel of every label's largest component", "center", False, tested=(1,)
        ),
        Protocol(
            "iterative",
            "a random first click, the same for all arms; then repeatedly the centre of the largest error",
            "uniform",
            True,
        ),
        *(
            Protocol(kind, f"{about}; then clicks as in iterative", kind, True, kind, (0, 1, 3, 5), 0)
            for kind, about in DRAWN.items()
        ),
        Protocol(
            "cvpr25",
            "the CVPR 2025 challenge's: the box on the middle slice and the range of slices; then five times a click "
            "on every label, in the middle of the largest error (misses and false alarms together)",
            "challenge",
            True,
            "box",
            (0, 1, 5),
            0,
            CHALLENGE_CLICKS,
        ),
        Protocol(
            START,
            "a mask to start from (--start), such as nnU-Net's own answer; then clicks as in iterative",
            START,
            True,
            "mask",
            (1, 3, 5),
        ),
    )
}


@dataclass(frozen=True)
class ArmName:
    """``TRAINER[:PLANS][+oracle]``, ``clipped:TRAINER[:PLANS]``, ``starter`` or ``ellipsoid``, as given by the user.

    Attributes:
        trainer: "" if there is no model in nnUNet_results.
        control: "" for a model, or what is made of its answer: "oracle", "clipped"; "ellipsoid" has no model.
    """

    text: str
    trainer: str
    plans: str
    control: str = ""

    @property
    def has_model(self) -> bool:
        return self.control != ELLIPSOID

    @property
    def is_oracle(self) -> bool:
        return self.control == "oracle"

    def check_model(self, takes_prompts: bool) -> None:
        """Raises UserError for an oracle of a model that takes prompts."""
        if self.is_oracle and takes_prompts:
            raise UserError(f"arm {self.text}: the oracle control is for models without clicks; remove {ORACLE}")


def parse_arm(text: str) -> ArmName:
    """
    Raises:
        UserError: invalid form.
    """
    if text in (ELLIPSOID, STARTER_ARM):
        return ArmName(text, "", DEFAULT_PLANS, ELLIPSOID if text == ELLIPSOID else "")
    found = re.fullmatch(rf"({CLIPPED})?(\w+)(?::(\w+))?(\{ORACLE})?", text)
    if found is None or (found[1] and found[4]):
        known = f"TRAINER, TRAINER:PLANS, TRAINER{ORACLE}, {CLIPPED}TRAINER, {STARTER_ARM} or {ELLIPSOID}"
        raise UserError(f"arm {text!r}: write {known}")
    control = "clipped" if found[1] else "oracle" if found[4] else ""
    return ArmName(text, found[2], found[3] or DEFAULT_PLANS, control)
