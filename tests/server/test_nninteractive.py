"""The routes of nnInteractive, spoken by its real client: every mask is the Session's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.opening import write_model
from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.prompts import Scribble

from .conftest import SHAPE, SPACING, Running, Start, image_array, opened_array

remote = pytest.importorskip("nnInteractive.inference.remote", reason="needs nninteractive-client (pip)")
Client = remote.nnInteractiveRemoteInferenceSession

CLICKS = [((10, 20, 15), True), ((9, 22, 14), False), ((12, 18, 20), True)]


@pytest.fixture
def session(served_model: Model) -> Session:
    return opened_array(served_model)


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
            session = opened_array(served_model, seed)
            client.reset_interactions()
            client.add_point_interaction(CLICKS[0][0], True)
            np.testing.assert_array_equal(client.target_buffer, click(session, CLICKS[0][0], True))


def test_words_reach_the_viewer(running: Running) -> None:
    """As the reason phrase, which is what viewers show."""
    with connect(running) as client:
        for call, words in (
            (lambda: client.add_point_interaction([99, 0, 0], True), "outside the image"),
            (
                lambda: client.add_bbox_interaction([[0, 5], [0, 5], [0, 5]], True),
                "not trained with prompts of type box",
            ),
            (
                lambda: client.add_lasso_interaction(np.ones((2, 2, 2), np.uint8), True),
                "not trained with prompts of type lasso",
            ),
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


# ---------------------------------------------------------------------- a model that was trained with all kinds

LOW, HIGH = (8, 15, 12), (12, 25, 20)  # z, y, x, both inside


@pytest.fixture
def drawing(start: Start, drawing_model: Model) -> Iterator[tuple[Any, Session]]:
    """A client, and a session that says what is right."""
    with connect(start(drawing_model)) as client:
        yield client, opened_array(drawing_model)


def shows(client: Any, session: Session) -> None:
    np.testing.assert_array_equal(client.target_buffer, session.segmentation == 1)


def test_a_client_enables_what_the_model_supports(running: Running, drawing: tuple[Any, Session]) -> None:
    with connect(running) as client:
        expected = {"points": True, "scribble": True, "bbox2d": False, "bbox3d": False, "lasso": False}
        assert client.supported_interactions == expected
    assert drawing[0].supported_interactions == dict.fromkeys(expected, True)


def test_boxes_are_half_open(drawing: tuple[Any, Session]) -> None:
    client, session = drawing
    client.add_bbox_interaction([[a, b + 1] for a, b in zip(LOW, HIGH, strict=True)], True)
    session.add_box(LOW, HIGH, 1, "array")
    assert session.segmentation.any()
    shows(client, session)
    # on a slice, with a thickness of one; an empty range and one beyond the image's end mean the voxels that there are
    for ends in ([[10, 11], [15, 26], [12, 99]], [[10, 10], [26, 15], [12, 99]]):
        client.add_bbox_interaction(ends, False)
        session.add_box((10, 15, 12), (10, 25, SHAPE[2] - 1), 0, "array")
        assert not session.segmentation[10, 15:26, 12:].any()
        shows(client, session)
        assert client.undo()
        session.undo()
        shows(client, session)
    for ends, words in (
        ([[30, 40], [15, 26], [12, 21]], "outside the image"),
        ([[8, 13], [15, 26]], "bbox_coords must be"),
        ([[8, 13], [15, 26], [12, None]], "bbox_coords must be"),
        ([[8, 13], [15, 26], [12, 1e12]], "bbox_coords must be"),
    ):
        with pytest.raises(Exception, match=words):
            client.add_bbox_interaction(ends, True)
    shows(client, session)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("filled", [True, False])
def test_a_lasso_is_the_outline_of_its_mask(drawing: tuple[Any, Session], axis: int, filled: bool) -> None:
    client, session = drawing
    plane = tuple(slice(10, 11) if one == axis else slice(8, 17) for one in range(3))
    mask = np.zeros(SHAPE, np.uint8)
    mask[plane] = 1
    drawn = mask.copy()
    if not filled:
        drawn[tuple(slice(10, 11) if one == axis else slice(10, 15) for one in range(3))] = 0
    ends = [[0, n] if one == axis else [5, n - 2] for one, n in enumerate(SHAPE)]
    client.add_lasso_interaction(drawn[tuple(slice(*end) for end in ends)], True, interaction_bbox=ends)
    corners = np.array([[7.5, 7.5], [7.5, 16.5], [16.5, 16.5], [16.5, 7.5]])
    session.add_lasso(np.insert(corners, axis, 10, axis=1), 1, "array")
    wanted = session.segmentation == 1
    # the corners of the traced outline are cut
    assert wanted.any()
    assert (client.target_buffer != wanted).sum() <= 0.02 * wanted.sum()
    session.add_lasso(np.insert(corners, axis, 10, axis=1), 0, "array")
    client.add_lasso_interaction(drawn, False)
    assert not client.target_buffer[mask > 0].any()
    assert not session.segmentation[mask > 0].any()


def test_a_scribble_keeps_all_its_voxels(drawing: tuple[Any, Session]) -> None:
    client, session = drawing
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[10, 18:22, 8:20] = 1
    client.add_scribble_interaction(drawn, True)
    session.add([Scribble(np.argwhere(drawn), 1, joined=False)], "array")
    assert session.segmentation.any()
    shows(client, session)
    drawn[9:11, 25:30, 8:20] = 1
    client.add_scribble_interaction(drawn, False)
    assert not client.target_buffer[drawn > 0].any()
    assert client.undo()
    shows(client, session)
    with pytest.raises(Exception, match="the scribble is empty"):
        client.add_scribble_interaction(0 * drawn, True)


def test_a_mask_beyond_the_image_is_refused_before_it_is_unpacked(
    drawing: tuple[Any, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = drawing
    large = np.zeros((SHAPE[0], 400, 300), np.uint8)
    monkeypatch.setattr("nnsam3d.server.nninteractive.unpack", None)
    for add in (client.add_scribble_interaction, client.add_lasso_interaction):
        for mask, box in (
            (large, None),
            (large, [[0, SHAPE[0]], [0, 400], [0, 300]]),
            (large[:1, :1, :1], [[10, 11], [40, 41], [10, 11]]),
        ):
            with pytest.raises(Exception, match="beyond the image"):
                add(mask, True, interaction_bbox=box)
    client.target_buffer = large.copy()  # otherwise the client itself refuses
    with pytest.raises(Exception, match="the segmentation has shape"):
        client.add_initial_seg_interaction(large)


def test_the_network_sees_an_initial_segmentation(drawing: tuple[Any, Session]) -> None:
    client, session = drawing
    start = np.zeros(SHAPE, np.uint8)
    start[6:14, 15:25, 10:20] = 1
    client.add_initial_seg_interaction(start)
    client.add_point_interaction(CLICKS[0][0], True)
    session.start_from(start)
    np.testing.assert_array_equal(client.target_buffer, click(session, CLICKS[0][0], True))
    session.reset()
    assert (click(session, CLICKS[0][0], True) != client.target_buffer).any()
    client.add_bbox_interaction([[8, 13], [15, 26], [12, 21]], True)
    client.reset_interactions()
    client.add_point_interaction(CLICKS[0][0], True)
    shows(client, session)
