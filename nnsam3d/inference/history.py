"""The steps of a session: what it holds after each of them, and a place among them. Everything here is immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from nnsam3d.geometry import Slices
from nnsam3d.geometry.boxes import hull, moved
from nnsam3d.inference.image import PreparedImage, Segmentation
from nnsam3d.inference.start_mask import StartMask
from nnsam3d.prompts import CasePrompts, Prompt, PromptError
from nnsam3d.prompts.channel import DECIMALS
from nnsam3d.prompts.labels import numbered_labels
from nnsam3d.prompts.types import checked_space

MASKS = 8
"""So many masks to start from are kept; steps before them can no longer be undone."""

HistoryStep = Prompt | str


@dataclass(frozen=True)
class State:
    """What a segmentation depends on, beside the image.

    Attributes:
        prompts: in order of creation, positions as index i, j, k.
        start: the mask to start from.
    """

    prompts: tuple[Prompt, ...] = ()
    start: StartMask | None = None

    def segmented(self, image: PreparedImage, case: str, labels: Mapping[str, int]) -> Segmentation:
        """What the prompts, and the mask, say about an image.

        Args:
            image: the prepared image.
            case: its name, for messages.
            labels: see :meth:`PreparedImage.label_values`.

        Raises:
            PromptError, UserError: as :meth:`PreparedImage.segment`.
        """
        prompts = CasePrompts(case, "voxel", self.prompts)
        if self.start is not None:
            return self.start.correct(image, prompts, labels)
        return image.segment(prompts, automatic=False, labels=labels)


@dataclass(frozen=True)
class History:
    """States of a session in order, and the place of the current one.

    Attributes:
        states: at least one.
        steps: what led from each state to the next one: a prompt, or a word for anything else.
        place: of the current state; those behind it can be redone.

    >>> history = History().after("reset", State()).undone()
    >>> history.can_undo, history.can_redo, history.next_step
    (False, True, 'reset')
    """

    states: tuple[State, ...] = (State(),)
    steps: tuple[HistoryStep, ...] = ()
    place: int = 0

    @classmethod
    def of_prompts(cls, state: State) -> History:
        """Begins with the state's mask; each prompt is a step, and has been made."""
        states = [replace(state, prompts=state.prompts[:n]) for n in range(len(state.prompts) + 1)]
        return cls(tuple(states), state.prompts, len(state.prompts))

    @property
    def state(self) -> State:
        """The current state."""
        return self.states[self.place]

    @property
    def labels(self) -> dict[str, int]:
        """Names and values of labels that nobody has declared, of all states, so that undo changes no value; or {}."""
        known: dict[str, int] = {}
        for state in self.states:
            known |= {} if state.start is None else state.start.labels
            known = numbered_labels((prompt.label for prompt in state.prompts), known)
        return known if len(known) > 1 else {}

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return self.place > 0

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return self.place < len(self.steps)

    @property
    def last_step(self) -> HistoryStep:
        """What :meth:`undone` takes back."""
        return self.steps[self.place - 1]

    @property
    def next_step(self) -> HistoryStep:
        """What :meth:`redone` puts back."""
        return self.steps[self.place]

    @property
    def masks(self) -> tuple[StartMask, ...]:
        """The masks to start from, each once."""
        return tuple({id(state.start): state.start for state in self.states if state.start is not None}.values())

    def after(self, step: HistoryStep, state: State) -> History:
        """With one more step; what could be redone is gone."""
        place = self.place + 1
        grown = History((*self.states[:place], state), (*self.steps[: place - 1], step), place)
        while len(grown.masks) > MASKS:
            grown = History(grown.states[1:], grown.steps[1:], grown.place - 1)
        return grown

    def undone(self) -> History:
        """One step back; there must be one."""
        return replace(self, place=self.place - 1)

    def redone(self) -> History:
        """One step forward; there must be one."""
        return replace(self, place=self.place + 1)


@dataclass(frozen=True)
class SessionSnapshot:
    """All that a session holds at one time.

    Attributes:
        image: None before the first one.
        case: its name.
        history: the steps on this image.
        result: the last one computed.
        changed: where it differs from the one before.
        stale: whether there were steps since.
    """

    image: PreparedImage | None = None
    case: str = "session"
    history: History = History()
    result: Segmentation | None = None
    changed: Slices | None = None
    stale: bool = True

    @property
    def image_bytes(self) -> int:
        """Memory of the image and of the masks that undo needs."""
        return 0 if self.image is None else self.image.nbytes + sum(start.nbytes for start in self.history.masks)

    @property
    def result_bytes(self) -> int:
        """Memory of the result, and of what is kept for further clicks."""
        result = 0 if self.result is None else self.result.nbytes
        return result + (0 if self.image is None else self.image.kept_bytes)

    @property
    def keeps_windows(self) -> bool:
        """Whether the next click can be quick."""
        return self.image is not None and self.image.kept_bytes > 0


def prompt_at(image: PreparedImage, prompt: Prompt, space: str) -> Prompt:
    """A prompt with its positions as index i, j, k.

    Args:
        image: of the session.
        prompt: with positions as index i, j, k of the image for "voxel"; mm for "lps" and "ras"; z, y, x for "array".
        space: "voxel", "lps", "ras" or "array".

    Raises:
        PromptError: the model was not trained with this kind, or an unknown space.
        GeometryError: mm, for an image without geometry.
    """
    kinds = image.model.codec.kinds
    if prompt.kind not in kinds and prompt.trained:
        raise PromptError(f"this model was trained with prompts of type {', '.join(kinds)}, not {prompt.kind}")
    if space == "array":
        return prompt.at(prompt.points("voxel")[:, ::-1], "voxel")
    if space not in ("voxel", "lps", "ras"):
        raise PromptError(f'unknown space {space!r}; allowed: "voxel", "lps", "ras", "array"')
    if space == "voxel":
        return prompt
    known = checked_space(space)
    # mm are not exact: a click on the centre of a voxel is stored as such
    index_N3 = image.grid(known).to_index(prompt.points(known), known)
    return prompt.at(np.round(index_N3, DECIMALS), "voxel")


def changed_box(before: Segmentation | None, after: Segmentation) -> Slices | None:
    """The smallest box that holds every voxel in which two results differ; None if they do not."""
    changed = []
    for box in (*(before.boxes if before else ()), *after.boxes):
        part = after.label_map[box] != (0 if before is None else before.label_map[box])
        starts = [side.start for side in box]
        for found in ndimage.find_objects(part.astype(np.uint8)):
            changed.append(moved(found, starts))
    return hull(changed) if changed else None
