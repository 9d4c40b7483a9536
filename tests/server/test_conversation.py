"""A conversation without HTTP: the session's history, what a viewer shows of it, and ways back after failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnsam3d.errors import UserError
from nnsam3d.inference.model import Model
from nnsam3d.prompts import CasePrompts, Click, MaskPrompt, PromptError, write_prompts
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.refusal import Refusal

from ..inference.conftest import volume

SHAPE = (16, 24, 24)  # one window
LABEL = 1


@pytest.fixture
def talk(served_model: Model) -> Conversation:
    made = Conversation(lambda: served_model, 2**30)
    made.open_array(volume(SHAPE)[None], (1, 1, 1))
    return made


def block(label: int = LABEL) -> np.ndarray:
    start = np.zeros(SHAPE, np.uint8)
    start[3:9, 4:11, 5:12] = label
    return start


class Viewer:
    """A viewer's mask of one label, which only changes by updates."""

    def __init__(self, talk: Conversation) -> None:
        self.talk, self.mask = talk, np.zeros(SHAPE, np.uint8)

    def update(self) -> None:
        change = self.talk.repaint(LABEL)
        if change is not None:
            self.mask[change[0]] = change[1]
        np.testing.assert_array_equal(self.mask, self.talk.session.segmentation == LABEL)


def test_a_scribble_is_one_step_and_a_wrong_one_none(talk: Conversation) -> None:
    talk.session.add([Click((8, 8, 5), LABEL), Click((9, 9, 5), LABEL), Click((10, 10, 5), LABEL)], "voxel")
    with pytest.raises(PromptError):
        talk.session.add([Click((8, 8, 5), LABEL), Click((99, 9, 5), LABEL)], "voxel")
    assert len(talk.session.clicks) == 3
    assert talk.session.undo()
    assert talk.session.clicks == ()
    assert (talk.session.can_undo, talk.session.can_redo, talk.session.undo()) == (False, True, None)
    assert talk.session.redo()
    assert not talk.session.redo()
    assert len(talk.session.clicks) == 3


def test_one_prompt_is_taken_out_and_one_replaced(talk: Conversation) -> None:
    viewer = Viewer(talk)
    for position in ((8, 8, 5), (12, 12, 8), (16, 16, 8)):
        talk.session.add([Click(position, LABEL)], "voxel")
    talk.session.replace(1, ())
    viewer.update()
    assert [click.position for click in talk.session.clicks] == [(8, 8, 5), (16, 16, 8)]
    with pytest.raises(Refusal, match="not the last step"):
        talk.replace_last([Click((1, 1, 1), LABEL)], "voxel")
    assert talk.session.redo()  # a step: the caller restores what was there
    talk.session.add([Click((4, 4, 4), LABEL)], "voxel")
    talk.replace_last([Click((20, 20, 12), 0)], "voxel")
    viewer.update()
    assert [click.position for click in talk.session.clicks] == [(8, 8, 5), (16, 16, 8), (20, 20, 12)]
    assert talk.session.undo()
    assert len(talk.session.clicks) == 2
    with pytest.raises(PromptError, match="there is no prompt 2"):
        talk.session.replace(2, ())


def test_the_viewers_mask_follows_through_every_step_and_back(talk: Conversation) -> None:
    viewer = Viewer(talk)
    talk.session.add([Click((12, 12, 8), LABEL)], "voxel")
    viewer.update()
    viewer.mask = block()  # the viewer has replaced its mask, and sends it
    talk.start_from(block())
    talk.fill_buffer(block())
    viewer.update()
    talk.session.add([Click((5, 5, 4), 0)], "voxel")
    viewer.update()
    for step in [talk.session.undo] * 3 + [talk.session.redo] * 3:
        assert step()
        viewer.update()
    viewer.mask[:] = 0
    talk.reset()
    viewer.update()
    assert talk.session.undo()
    viewer.update()
    assert viewer.mask.any()


def test_undo_of_a_mask_that_was_never_computed_repaints_what_was_there(talk: Conversation) -> None:
    viewer = Viewer(talk)
    talk.session.add([Click((12, 12, 8), LABEL)], "voxel")
    viewer.update()
    viewer.mask = block()
    talk.start_from(block())
    talk.fill_buffer(block())  # without a prediction
    assert talk.session.undo()
    viewer.update()
    assert viewer.mask.any()


def test_the_next_object_knows_nothing_of_the_last_one(talk: Conversation) -> None:
    viewer = Viewer(talk)
    talk.session.add([Click((12, 12, 8), LABEL)], "voxel")
    viewer.update()
    viewer.mask[:] = 0
    talk.next_object()
    assert (talk.session.can_undo, talk.session.can_redo, talk.session.undo()) == (False, False, None)
    viewer.update()
    assert not viewer.mask.any()


@pytest.mark.parametrize(
    "step", ["click", "remove", "replace", "start", "load", "reset", "undo", "redo", "open", "close"]
)
def test_a_step_that_fails_leaves_everything_as_it_was(
    talk: Conversation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    viewer = Viewer(talk)
    talk.files, talk.case, talk.version, talk.keeps = (tmp_path,), "a", "1", object()
    for position in ((12, 12, 8), (4, 4, 4), (20, 20, 12)):
        talk.session.add([Click(position, LABEL)], "voxel")
    talk.session.undo()
    viewer.update()
    talk.change()
    held = talk.session.clicks, talk.session.can_undo, talk.session.can_redo, talk.volumes()
    about = talk.files, talk.case, talk.version, talk.keeps
    mask = talk.session.segmentation.copy()
    before = talk.snapshot()
    write_prompts(tmp_path / "c.json", CasePrompts("c", "voxel", [Click((1, 1, 1), 1)]))
    does: dict[str, Any] = {
        "remove": lambda: talk.session.replace(0, ()),
        "replace": lambda: talk.replace_last([Click((7, 7, 7), 0)], "voxel"),
        "click": lambda: talk.session.add([Click((7, 7, 7), 0)], "voxel"),
        "start": lambda: talk.start_from(block()),
        "load": lambda: talk.load_prompts(tmp_path / "c.json"),
        "open": lambda: talk.open_array(volume((18, 26, 26))[None], (1, 1, 1)),
        "close": talk.close_image,
        "reset": talk.reset,
        "undo": talk.session.undo,
        "redo": talk.session.redo,
    }
    does[step]()
    talk.restore(before)
    assert (talk.session.clicks, talk.session.can_undo, talk.session.can_redo, talk.volumes()) == held
    assert (talk.files, talk.case, talk.version, talk.keeps) == about
    np.testing.assert_array_equal(talk.session.segmentation, mask)
    viewer.update()
    assert talk.session.redo()
    viewer.update()
    assert talk.session.clicks[-1].position == (20, 20, 12)


def test_without_an_image_clicks_are_refused(talk: Conversation) -> None:
    talk.session.add([Click((12, 12, 8), LABEL)], "voxel")
    assert talk.session.segmentation.any()
    assert talk.nbytes > 0
    talk.close_image()
    for ask in (
        lambda: talk.session.add([Click((1, 1, 1), LABEL)], "voxel"),
        lambda: talk.session.segmentation,
        lambda: talk.start_from(block()),
    ):
        with pytest.raises(UserError, match="no image"):
            ask()
    assert (talk.session.can_undo, talk.session.can_redo) == (False, False)
    assert (talk.nbytes, talk.files, talk.case) == (0, (), "")
    talk.open_array(volume(SHAPE)[None], (1, 1, 1))
    assert talk.session.clicks == ()


def test_a_clients_file_of_clicks_is_one_step_and_names_no_file_of_the_server(
    talk: Conversation, tmp_path: Path
) -> None:
    talk.start_from(block())
    talk.session.add([Click((12, 12, 8), LABEL)], "voxel")
    file = tmp_path / "c.json"
    write_prompts(file, CasePrompts("c", "voxel", [MaskPrompt("/etc/passwd"), Click((1, 1, 1), 1)]))
    with pytest.raises(PromptError, match="load the mask itself"):
        talk.load_prompts(file)
    write_prompts(file, CasePrompts("c", "voxel", [Click((1, 1, 1), 1), Click((2, 2, 2), 0)]))
    talk.load_prompts(file)
    assert len(talk.session.clicks) == 2
    assert talk.session.undo()
    assert [click.position for click in talk.session.clicks] == [(12, 12, 8)]
    assert talk.session.started
