"""The routes of nnInteractive, spoken by its real client: every mask is the Session's."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.opening import write_model
from nnsam3d.inference import Session
from nnsam3d.inference.model import Model

from .conftest import SHAPE, SPACING, Running, Start, image_array

remote = pytest.importorskip("nnInteractive.inference.remote", reason="needs nninteractive-client (pip)")
Client = remote.nnInteractiveRemoteInferenceSession

CLICKS = [((10, 20, 15), True), ((9, 22, 14), False), ((12, 18, 20), True)]


@pytest.fixture
def session(served_model: Model) -> Session:
    made = Session(served_model)
    made.set_image(image_array(), spacing=SPACING)
    return made


def connect(running: Running, path: str = "", seed: int = 0, **options: Any) -> Any:
    client = Client(running.url + path, **options)
    client.set_image(image_array(seed)[None], {"spacing": np.array([-SPACING[0], *SPACING[1:]])})
    client.set_target_buffer(np.zeros(SHAPE, np.uint8))
    return client


def click(session: Session, position: tuple[int, int, int], positive: bool, label: int = 1) -> np.ndarray:
    session.add_click(position, label if positive else 0, "array")
    return session.segmentation == label


def test_clicks_undo_and_reset_are_the_sessions(running: Running, session: Session) -> None:
    with connect(running) as client:
        assert client.original_image_shape == (1, *SHAPE)
        masks = [np.zeros(SHAPE, bool)]
        for position, positive in CLICKS:
            box = client.add_point_interaction([float(c) for c in position], positive)
            masks.append(click(session, position, positive))
            np.testing.assert_array_equal(client.target_buffer, masks[-1])
            changed = np.argwhere(masks[-1] != masks[-2])
            expected = [[a, b + 1] for a, b in zip(changed.min(0).tolist(), changed.max(0).tolist(), strict=True)]
            assert (box or []) == (expected if len(changed) else [])
        assert masks[1].any()
        for mask in masks[-2::-1]:
            assert client.undo()
            np.testing.assert_array_equal(client.target_buffer, mask)
        assert not client.undo()
        client.add_point_interaction(CLICKS[0][0], True)
        client.reset_interactions()
        assert not client.target_buffer.any()
        client.add_point_interaction(CLICKS[0][0], True)
        np.testing.assert_array_equal(client.target_buffer, masks[1])


def test_clicks_that_are_computed_later(running: Running, session: Session) -> None:
    with connect(running) as client:
        for position, positive in CLICKS[:2]:
            assert client.add_point_interaction(position, positive, run_prediction=False) is None
            mask = click(session, position, positive)
        assert not client.target_buffer.any()
        client._predict()
        np.testing.assert_array_equal(client.target_buffer, mask)


def test_the_label_is_chosen_by_the_address(running: Running, session: Session) -> None:
    with connect(running, "/label/organ") as client:
        client.add_point_interaction(CLICKS[0][0], True)
        np.testing.assert_array_equal(client.target_buffer, click(session, CLICKS[0][0], True, label=2))
    with pytest.raises(Exception, match="no label 'liver'; it has lesion, organ"):
        Client(running.url + "/label/liver")


def test_a_scribble_is_a_few_clicks_and_one_step(running: Running, session: Session) -> None:
    drawing = np.zeros((1, 1, 12), np.uint8)
    drawing[0, 0, 2:11] = 1
    with connect(running) as client:
        client.add_scribble_interaction(drawing, True, interaction_bbox=[[10, 11], [20, 21], [8, 20]])
        lease = running.app.leases.find(client._lease_token)
        clicks = lease.conversation.session.clicks
        assert 2 <= len(clicks) <= 4
        assert all(one.position[1:] == (20, 10) and 10 <= one.position[0] < 19 for one in clicks)
        for one in clicks:
            session.add_click(one.position, 1)
        np.testing.assert_array_equal(client.target_buffer, session.segmentation == 1)
        assert client.undo()
        assert not client.target_buffer.any()


def test_an_initial_segmentation_is_what_clicks_correct(running: Running, session: Session) -> None:
    start = np.zeros(SHAPE, np.uint8)
    start[1:4, 2:8, 3:9] = 1  # far from the click's windows at least in part
    with connect(running) as client:
        assert client.add_initial_seg_interaction(start) is None
        np.testing.assert_array_equal(client.target_buffer, start)
        client.add_point_interaction(CLICKS[0][0], True)
        session.start_from(start)
        np.testing.assert_array_equal(client.target_buffer, click(session, CLICKS[0][0], True))
        assert client.undo()
        np.testing.assert_array_equal(client.target_buffer, start)
        client.reset_interactions()
        client.add_point_interaction(CLICKS[0][0], True)
        session.reset()
        np.testing.assert_array_equal(client.target_buffer, click(session, CLICKS[0][0], True))


def test_two_clients_do_not_see_each_other(running: Running, served_model: Model) -> None:
    with connect(running) as one, connect(running, seed=1) as other:
        for client, seed in ((one, 0), (other, 1), (one, 0)):
            session = Session(served_model)
            session.set_image(image_array(seed), spacing=SPACING)
            client.reset_interactions()
            client.add_point_interaction(CLICKS[0][0], True)
            np.testing.assert_array_equal(client.target_buffer, click(session, CLICKS[0][0], True))


def test_words_reach_the_viewer(running: Running) -> None:
    """As the reason phrase, which is what viewers show."""
    with connect(running) as client:
        for call, words in (
            (lambda: client.add_point_interaction([99, 0, 0], True), "outside the image"),
            (lambda: client.add_bbox_interaction([[0, 5], [0, 5], [0, 5]], True), "boxes are not supported"),
            (lambda: client.add_lasso_interaction(np.ones((2, 2, 2), np.uint8), True), "lasso is not supported"),
            (lambda: client.set_target_buffer(np.zeros((3, 3, 3), np.uint8)), "the buffer has shape"),
            (lambda: client.set_image(np.zeros((2, *SHAPE), np.int16), {"spacing": [1, 1, 1]}), "must have the shape"),
            (lambda: client.set_image(np.zeros((1, *SHAPE), np.int16), {}), "spacing must"),
        ):
            with pytest.raises(Exception, match=words):
                call()
        # the viewer shows an image that was refused: its clicks must not be answered from the one before
        with pytest.raises(Exception, match="no image"):
            client.add_point_interaction(CLICKS[0][0], True)
        client.set_image(image_array()[None], {"spacing": list(SPACING)})
        client.set_target_buffer(np.zeros(SHAPE, np.uint8))
        assert client.add_point_interaction(CLICKS[0][0], True) is not None
        assert client.supported_interactions == {
            "points": True, "scribble": True, "bbox2d": False, "bbox3d": False, "lasso": False
        }  # fmt: skip


def test_keys_places_and_ends(start: Start) -> None:
    running = start(key="open sesame", sessions=1)
    with pytest.raises(Exception, match="401"):
        Client(running.url)
    client = Client(running.url, api_key="open sesame")
    with pytest.raises(remote.ServerAtCapacityError):
        Client(running.url, api_key="open sesame")
    running.app.leases.idle = 0.5

    def beat() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            client.heartbeat()
            time.sleep(0.1)

    with pytest.raises(remote.SessionExpiredError):  # a heartbeat is no action
        beat()
    assert not len(running.app.leases)
    with pytest.raises(remote.SessionExpiredError):
        client.lease_status()
    with Client(running.url, api_key="open sesame") as again:
        assert again.ping()
    assert not len(running.app.leases)  # given back


def test_a_large_image(start: Start, tmp_path: Path) -> None:
    """With a network that finds nothing, so that a click takes one window."""
    running = start(Model(write_model(tmp_path / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"), mirroring=False))
    image = np.random.default_rng(0).integers(-1000, 1000, (1, 200, 200, 200), dtype=np.int16)
    with Client(running.url) as client:
        client.set_image(image, {"spacing": [1.0, 1.0, 1.0]})
        client.set_target_buffer(np.zeros(image.shape[1:], np.uint8))
        client.add_point_interaction([100, 100, 100], True)
        assert client.target_buffer[100, 100, 100]
        assert not client.target_buffer[:40].any()
