"""One history in a session: every change is a step, undo and redo walk through all of them, nothing else is lost."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.history import MASKS, History, State
from nnsam3d.inference.model import Model
from nnsam3d.inference.session import Cancelled
from nnsam3d.prompts import CasePrompts, Click, PromptError, write_prompts

from .conftest import opened, volume
from .test_session import count_encodings

SHAPE = (16, 24, 24)  # one window


@pytest.fixture
def session(model: Model) -> Session:
    return opened(model, volume(SHAPE))


def ball(seed: int = 0) -> np.ndarray:
    start = np.zeros(SHAPE, np.uint8)
    low = 2 + seed % 4
    start[low : low + 6, low : low + 7, low + 3 : low + 10] = 1 + seed % 2
    return start


def fresh(model: Model, state: State) -> np.ndarray:
    """The mask of a session that has never held anything else."""
    made = opened(model, volume(SHAPE))
    if state.start is not None:
        made.start_from(state.start.label_map_ZYX)
    for click in state.prompts:
        made.add_click(click.position, click.label)
    return made.segmentation


def test_a_mask_to_start_from_is_a_step_and_undo_brings_the_clicks_back(session: Session) -> None:
    session.add_click((12, 12, 8), "lesion")
    session.add_click((5, 5, 4), "background")
    before, clicks = session.segmentation.copy(), session.clicks
    session.start_from(ball())
    assert session.clicks == ()
    assert session.started
    np.testing.assert_array_equal(session.segmentation, ball())
    assert session.undo() == "segmentation"
    assert session.clicks == clicks
    assert not session.started
    np.testing.assert_array_equal(session.segmentation, before)
    assert session.redo() == "segmentation"
    np.testing.assert_array_equal(session.segmentation, ball())
    session.undo()
    assert session.undo() == clicks[1]


def test_every_kind_of_change_is_one_step(session: Session, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    write_prompts(file, CasePrompts("c", "voxel", [Click((9, 9, 6), 1), Click((15, 15, 9), 2)]))
    assert (session.undo(), session.redo(), session.can_undo, session.can_redo) == (None, None, False, False)
    seen: list[tuple[Any, ...]] = [()]
    for change in (
        lambda: session.add_click((12, 12, 8), "lesion"),
        lambda: session.add_clicks([(3, 3, 3), (4, 4, 4)], 0),
        lambda: session.load_prompts(file),
        lambda: session.add_clicks([(8, 9, 10)], "organ", space="array"),
        lambda: session.start_from(ball()),
        session.reset,
        session.reset,
    ):
        change()
        seen.append(session.clicks)
    steps = [Click((12, 12, 8), "lesion"), "clicks", "prompts", Click((10, 9, 8), "organ"), "segmentation"]
    steps += ["reset", "reset"]
    for step, clicks in zip(steps[::-1], seen[-2::-1], strict=True):
        assert session.can_undo
        assert session.undo() == step
        assert session.clicks == clicks
        assert session.can_redo
    assert session.undo() is None
    assert [session.redo() for _ in steps] == steps
    assert session.redo() is None
    assert session.clicks == seen[-1]


def test_several_clicks_are_added_or_none(session: Session) -> None:
    session.add_click((12, 12, 8), "lesion")
    session.undo()
    with pytest.raises(PromptError, match="outside"):
        session.add_clicks([(3, 3, 3), (99, 3, 3)], "lesion")
    assert session.clicks == ()
    session.add_clicks([], "lesion")
    assert (session.can_undo, session.can_redo) == (False, True), "neither was a step"


def test_wrong_masks_and_files_are_no_steps(session: Session, tmp_path: Path) -> None:
    session.add_click((12, 12, 8), "lesion")
    session.undo()
    (tmp_path / "bad.json").write_text("{")
    for wrong in (
        lambda: session.start_from(np.zeros((2, 2, 2))),
        lambda: session.start_from(np.full(SHAPE, 9)),
        lambda: session.load_prompts(tmp_path / "bad.json"),
        lambda: session.load_prompts(tmp_path / "none.json"),
    ):
        with pytest.raises(UserError):
            wrong()
    assert (session.can_undo, session.can_redo) == (False, True)


def test_the_callers_mask_may_change_afterwards(session: Session) -> None:
    mine = ball()
    session.start_from(mine)
    mine[:] = 0
    np.testing.assert_array_equal(session.segmentation, ball())


@pytest.mark.parametrize("seed", range(5))
def test_any_sequence_ends_as_if_nothing_else_had_been(
    session: Session, model: Model, tmp_path: Path, seed: int
) -> None:
    """Against the plainest model of a history: a list of states, and a place in it."""
    choose = random.Random(seed)
    now = lambda: (session.clicks, session.started)  # noqa: E731
    states, place, kept = [now()], 0, None
    for number in range(25):
        what = choose.choice(
            ["click"] * 3 + ["clicks", "prompts", "start", "reset", "look", "keep", "back"] + ["undo", "redo"] * 2
        )
        i, j, k = choose.randrange(24), choose.randrange(24), choose.randrange(16)
        if what == "look":
            assert session.segmentation.shape == SHAPE
        elif what == "keep":
            kept = session.snapshot(), list(states), place
        elif what == "back" and kept is not None:
            session.restore(kept[0])
            states, place = list(kept[1]), kept[2]
        elif what == "undo":
            place = max(0, place - 1)
            session.undo()
        elif what == "redo":
            place = min(len(states) - 1, place + 1)
            session.redo()
        elif what != "back":
            if what == "click":
                session.add_click((i, j, k), choose.randrange(3))
            elif what == "clicks":
                session.add_clicks([(i, j, k), (j, i, k)], choose.randrange(3))
            elif what == "prompts":
                write_prompts(
                    tmp_path / "c.json", CasePrompts("c", "voxel", [Click((i, j, k), 1)] * choose.randrange(3))
                )
                session.load_prompts(tmp_path / "c.json")
            elif what == "start":
                session.start_from(ball(number))
            else:
                session.reset()
            states, place = [*states[: place + 1], now()], place + 1
        assert now() == states[place]
        assert (session.can_undo, session.can_redo) == (place > 0, place < len(states) - 1)
    np.testing.assert_array_equal(session.segmentation, fresh(model, session.snapshot().history.state))


def test_restoring_is_exact_also_over_another_image(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.add_click((12, 12, 8), "lesion")
    session.add_click((4, 4, 4), "organ")
    session.undo()
    mask, box = session.segmentation.copy(), session.changed_box
    before = session.snapshot()
    session.start_from(ball())
    session.add_click((7, 7, 7), 0)
    assert session.segmentation.any()
    session.set_image(volume((18, 26, 26)), spacing=(1, 1, 1))
    session.add_click((1, 1, 1), 0)
    session.restore(before)
    counts = count_encodings(monkeypatch)
    np.testing.assert_array_equal(session.segmentation, mask)
    assert session.changed_box == box
    assert counts == [0, 0], "what was computed is still there"
    assert session.redo() == Click((4, 4, 4), "organ")
    assert session.undo() == Click((4, 4, 4), "organ")


def test_a_new_image_has_a_new_history(session: Session) -> None:
    session.start_from(ball())
    session.undo()
    session.set_image(volume(SHAPE), spacing=(1, 1, 1))
    assert (session.undo(), session.redo(), session.started) == (None, None, False)


def test_masks_in_the_history_are_bounded_and_count_as_memory(session: Session) -> None:
    _ = session.shape
    empty = session.kept_bytes
    for number in range(MASKS + 5):
        session.start_from(ball(number))
        session.add_click((12, 12, 8), 0)
    assert session.kept_bytes == empty + MASKS * ball().nbytes
    undone = 0
    while session.undo() is not None:
        undone += 1
    assert undone == 2 * MASKS - 1
    np.testing.assert_array_equal(session.segmentation, ball(5))


def test_a_history_of_prompts_takes_them_back_one_by_one(session: Session) -> None:
    session.start_from(ball())
    session.add_clicks([(3, 3, 3), (4, 4, 4)], 0)
    session.begin_here()
    assert [session.undo(), session.undo(), session.undo()] == [Click((4, 4, 4), 0), Click((3, 3, 3), 0), None]
    assert session.started
    assert History.of_prompts(State()) == History()


# ---------------------------------------------------------------------- tickets


def test_a_job_that_is_cancelled_while_it_waits_does_not_begin(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = count_encodings(monkeypatch)
    waiting, later = session.ticket(), None
    session.cancel()
    later = session.ticket()
    with pytest.raises(Cancelled), session.computing(waiting):
        session.add_click((12, 12, 8), "lesion")
    assert session.clicks == ()
    assert counts == [0, 0]
    with session.computing(later):
        session.add_click((12, 12, 8), "lesion")
        assert session.segmentation.any()


def test_a_job_is_cancelled_while_it_computes_and_the_next_one_is_not(model: Model) -> None:
    reached, go_on = threading.Event(), threading.Event()

    def stop_at_a_window(what: str, number: int) -> None:
        if what == "window" and not go_on.is_set():
            reached.set()
            assert go_on.wait(60)

    session = Session(model, progress=stop_at_a_window)
    session.set_image(volume((30, 90, 90)), spacing=(1, 1, 1))
    session.add_clicks([(12, 12, 8), (80, 80, 20)], "lesion")
    running, waiting = session.ticket(), session.ticket()
    told: list[BaseException] = []

    def job() -> None:
        try:
            with session.computing(running):
                _ = session.segmentation
        except Cancelled as error:
            told.append(error)

    thread = threading.Thread(target=job)
    thread.start()
    assert reached.wait(60)
    session.cancel()
    after = session.ticket()
    go_on.set()
    thread.join(60)
    assert len(told) == 1
    with pytest.raises(Cancelled), session.computing(waiting):
        pass
    with session.computing(after):
        assert session.segmentation.any()


def test_without_tickets_cancelling_concerns_the_running_computation_only(session: Session) -> None:
    session.cancel()
    session.add_click((12, 12, 8), "lesion")
    assert session.segmentation.any()
    with session.computing(session.ticket()):
        session.undo()
        session.redo()
        session.cancel()
        with pytest.raises(Cancelled):  # within the job, also if nothing had to be computed
            _ = session.segmentation
    assert session.segmentation.any()
