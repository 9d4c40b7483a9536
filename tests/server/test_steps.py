"""Steps that are cancelled or fail leave everything as it was; what is shown meanwhile; labels of any number."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnsam3d.inference.model import Model
from nnsam3d.server import nninteractive, page

from .conftest import AT, Gate, Reply, Running, Start, click, opened_array, until

CLICK, OTHER = click(AT, "lesion"), click((20, 18, 10), "organ")


@pytest.fixture
def opened(serve_cases: Start) -> tuple[Running, str]:
    """A case with a click, and one that was undone."""
    running = serve_cases()
    lease = running.claim("a")
    for path, body in (("prompt", CLICK), ("prompt", OTHER), ("undo", {})):
        running.change(f"/api/{path}", body, lease)
    return running, lease


STEPS = {
    "click": ("/api/prompt", click((5, 5, 5), "organ")),
    "undo": ("/api/undo", {}),
    "redo": ("/api/redo", {}),
    "reset": ("/api/reset", {}),
    "clicks": (
        "/api/prompts?name=x.json",
        {"nnsam3d_prompts": 1, "space": "voxel", "clicks": [{"position": [20, 18, 10], "label": "organ"}]},
    ),
}


def told(running: Running, lease: str) -> tuple[Any, ...]:
    """What the client's session holds."""
    session = running.app.leases.find(lease, "looks").conversation.session
    return session.clicks, session.can_undo, session.can_redo, session.segmentation.tobytes()


def waiting(running: Running, lease: str, place: int) -> None:
    """Until the client's request is so far back in the queue."""
    wanted = {"what": "waiting", "number": place}
    until(lambda: running.ask("GET", "/api/progress", lease=lease).json() == wanted)


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_is_cancelled_in_the_queue(opened: tuple[Running, str], step: str) -> None:
    running, lease = opened
    before = told(running, lease)
    gate = Gate(running.app.worker)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(running.ask, "POST", *STEPS[step], lease)
        try:
            waiting(running, lease, 1)
            running.ask("POST", "/api/cancel", {}, lease)
            assert reply.result(60).status == 409
        finally:
            gate.over.set()
    running.app.worker.submit(lambda: None).result(60)
    assert told(running, lease) == before
    assert running.ask("POST", *STEPS[step], lease).status == 200, "the next one is not cancelled"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_whose_computation_fails(
    opened: tuple[Running, str], step: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    running, lease = opened
    before = told(running, lease)
    with monkeypatch.context() as patch:
        patch.setattr(page.Conversation, "change", lambda conversation: 1 // 0)
        assert running.ask("POST", *STEPS[step], lease).status == 500
    assert told(running, lease) == before
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_the_place_in_the_queue(opened: tuple[Running, str]) -> None:
    """Behind what is quick, and told to the client."""
    running, lease = opened
    gate = Gate(running.app.worker)
    for quick in (True, True, False):
        running.app.worker.submit(lambda: None, quick=quick)
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(running.ask, "POST", *STEPS["click"], lease)
        try:
            waiting(running, lease, 3)  # a further click: behind the two quick ones
        finally:
            gate.over.set()
        assert reply.result(60).status == 200
    assert running.ask("GET", "/api/progress", lease=lease).json() == {"what": None, "number": 0}


def test_a_further_click_is_answered_during_another_clients_first_one(
    running: Running, served_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both masks are those of a session of their own."""
    leases = [running.viewer(seed) for seed in range(2)]
    point = {"coordinates": [10, 20, 15], "include_interaction": True}
    running.ask("POST", "/add_point_interaction", point, leases[0])
    begun, sent = threading.Event(), threading.Event()
    others = running.app.worker.let_others
    order: list[str] = []

    def let_others() -> None:
        if not begun.is_set():
            begun.set()
            assert sent.wait(60)
        others()

    slow = running.app.leases.find(leases[1]).conversation
    monkeypatch.setattr(slow, "_between_windows", let_others)
    with ThreadPoolExecutor(2) as pool:

        def ask(name: str, lease: str) -> Reply:
            reply = running.ask("POST", "/add_point_interaction", point, lease)
            order.append(name)
            return reply

        first = pool.submit(ask, "first", leases[1])
        assert begun.wait(60)
        further = pool.submit(ask, "further", leases[0])
        until(lambda: running.app.worker.waiting)
        sent.set()
        assert (first.result(60).status, further.result(60).status) == (200, 200)
    assert order == ["further", "first"]
    for number, lease in enumerate(leases):
        session = opened_array(served_model, number)
        for _ in range(2 - number):
            session.add_click((10, 20, 15), 1, "array")
        found = running.app.leases.find(lease).conversation.session.segmentation
        np.testing.assert_array_equal(found, session.segmentation)


def test_labels_above_255(opened: tuple[Running, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """np.uint8(300) is 44."""
    running, lease = opened
    mask = np.array([[[0, 1]]], np.uint8)
    assert nninteractive._labelled(mask, 300).tolist() == [[[0, 300]]]
    assert nninteractive._labelled(mask, 255).tolist() == [[[0, 255]]]
    box = (slice(0, 1), slice(0, 1), slice(0, 1))
    before = told(running, lease)
    with monkeypatch.context() as patch:
        patch.setattr(page.Conversation, "change", lambda conversation: (box, np.array([[[300]]])))
        reply = running.ask("POST", *STEPS["click"], lease)
    assert (reply.status, "255" in reply.reason) == (400, True)
    assert told(running, lease) == before


def test_two_tabs_on_one_case(serve_cases: Start) -> None:
    """Each is told of the other; the second save asks first."""
    running = serve_cases(saves=True)
    leases = [running.claim() for _ in range(2)]
    opened = [running.ask("POST", "/api/open", {"case": "a"}, lease).json() for lease in leases]
    assert [one["also_open"] for one in opened] == [0, 1]
    assert running.ask("GET", "/api/next", lease=running.claim()).json() == {"next": "b"}, "a is open elsewhere"
    told = [running.change("/api/prompt", *given)[0] for given in zip((CLICK, OTHER), leases, strict=True)]
    assert [one["also_open"] for one in told] == [1, 1]
    assert [[said for said in one["remarks"] if "newer draft" in said] != [] for one in told] == [False, True]
    statuses = [
        running.ask("POST", f"/api/save{query}", {}, lease).status
        for lease, query in zip([*leases, *reversed(leases)], ("", "", "?overwrite=1", ""), strict=True)
    ]
    assert statuses == [200, 409, 200, 409]
    again = running.ask("POST", "/api/open", {"case": "a"}, leases[0]).json()
    assert [one["label"] for one in again["prompts"]] == ["organ"]
    assert (again["saved"], again["can_undo"]) == (True, True)


def test_what_was_saved_is_not_opened_over_somebody_elses_draft(serve_cases: Start) -> None:
    running = serve_cases(saves=True)
    leases = [running.claim("a") for _ in range(2)]
    running.change("/api/prompt", OTHER, leases[0])
    assert running.ask("POST", "/api/save", {}, leases[0]).status == 200
    for lease in leases:
        running.ask("POST", "/api/open", {"case": "a"}, lease)
    running.change("/api/prompt", CLICK, leases[0])
    opened = [running.ask("POST", "/api/open", {"case": "a", "saved": True}, lease).json() for lease in leases[::-1]]
    assert [[one["label"] for one in each["prompts"]] for each in opened] == [["organ", "lesion"], ["organ"]]
    assert opened[1]["draft"] is False, "the first one's own draft goes"


def test_a_step_that_cannot_be_shown_is_no_draft(
    serve_cases: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve_cases(saves=True)
    lease = running.claim("a")
    running.change("/api/prompt", CLICK, lease)
    draft = (tmp_path / "out" / "drafts" / "a.json").read_text()
    box = (slice(0, 1), slice(0, 1), slice(0, 1))
    with monkeypatch.context() as patch:
        patch.setattr(page.Conversation, "change", lambda conversation: (box, np.array([[[300]]])))
        assert running.ask("POST", "/api/prompt", OTHER, lease).status == 400
    assert (tmp_path / "out" / "drafts" / "a.json").read_text() == draft
    told = running.change("/api/prompt", OTHER, lease)[0]
    assert not [said for said in told["remarks"] if "draft" in said]
