"""Many clients at once: no wrong mask, no lost click, flat memory; and a server that is killed loses no saved file."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnsam3d.inference.model import Model
from nnsam3d.server.arrays import unpack

from ..inference.conftest import read
from .conftest import AT, SHAPE, Running, Start, click, opened_array, until, write_cases

CLICKS = [([10, 20, 15], True), ([9, 22, 14], False), ([12, 18, 20], True)]


def expected(model: Model, seed: int) -> list[np.ndarray]:
    """The masks after no click, one, two, three."""
    session = opened_array(model, seed)
    masks = [np.zeros(SHAPE, np.uint8)]
    for position, positive in CLICKS:
        session.add_click(position, int(positive), "array")
        masks.append((session.segmentation == 1).astype(np.uint8))
    return masks


class Viewer(threading.Thread):
    """A client that clicks, undoes and resets at random, and looks at every mask."""

    def __init__(self, running: Running, seed: int, masks: list[np.ndarray], goes_on: Callable[[int], bool]) -> None:
        super().__init__(daemon=True)
        self.running, self.masks, self.goes_on = running, masks, goes_on
        self.rng, self.seed = random.Random(seed), seed % 2
        self.steps, self.wrong = 0, []  # type: tuple[int, list[str]]

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self.wrong.append(repr(error))

    def _ask(self, path: str, body: Any) -> Any:
        reply = self.running.ask("POST", path, body, self.lease)
        if reply.status != 200:
            raise AssertionError(f"{path}: {reply.status} {reply.reason}")
        return reply

    def _run(self) -> None:
        self.lease = self.running.viewer(self.seed)
        mask, done = np.zeros(SHAPE, np.uint8), 0
        while self.goes_on(self.steps):
            if done < len(CLICKS) and self.rng.random() < 0.7:
                position, positive = CLICKS[done]
                reply = self._ask("/add_point_interaction", {"coordinates": position, "include_interaction": positive})
                done += 1
            elif self.rng.random() < 0.7:
                reply = self._ask("/undo", {})
                done = max(0, done - 1)
            else:
                self._ask("/reset_interactions", {})
                mask, done = np.zeros(SHAPE, np.uint8), 0
                continue
            box = json.loads(reply.headers["x-meta"])["bbox"]
            if box is not None:
                mask[tuple(slice(low, high) for low, high in box)] = unpack(reply.body, 2**24)
            self.steps += 1
            if not np.array_equal(mask, self.masks[done]):
                self.wrong.append(f"step {self.steps}: another mask than the session's after {done} clicks")
        self._ask("/release", {})


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


def together(start: Start, model: Model, clients: int, goes_on: Callable[[int], bool]) -> None:
    """All clients at the same time.

    Args:
        goes_on: whether a client that has made so many steps makes another one.
    """
    running = start(sessions=clients)
    masks = [expected(model, seed) for seed in range(2)]
    before = resident_mb()
    viewers = [Viewer(running, seed, masks[seed % 2], goes_on) for seed in range(clients)]
    for viewer in viewers:
        viewer.start()
    for viewer in viewers:
        viewer.join(600)
    assert [viewer.wrong for viewer in viewers if viewer.wrong] == []
    assert all(viewer.steps for viewer in viewers)
    assert resident_mb() - before < 50 * clients + 200  # their windows
    assert not len(running.app.leases)


def test_a_few_clients_at_once(start: Start, served_model: Model) -> None:
    together(start, served_model, 4, lambda steps: steps < 10)


@pytest.mark.slow
def test_sixteen_clients_for_two_minutes(start: Start, served_model: Model) -> None:
    until = time.monotonic() + 120
    together(start, served_model, 16, lambda _: time.monotonic() < until)


def test_a_client_that_vanishes_in_the_middle_frees_its_place(start: Start) -> None:
    running = start(sessions=1)
    running.viewer()
    running.app.leases.liveness = 0.2
    until(lambda: not len(running.app.leases))
    assert running.ask("POST", "/claim").status == 200


def test_killed_in_the_middle_it_keeps_what_was_saved(served_folder: Path, tmp_path: Path) -> None:
    """The command itself, in a process of its own; at the end SIGTERM."""
    images, output = write_cases(tmp_path / "images"), tmp_path / "out"
    command = [sys.executable, "-m", "nnsam3d", "serve", "-m", str(served_folder), "--images", str(images)]
    command += ["--output", str(output), "--port", "0"]
    for end in (signal.SIGKILL, signal.SIGTERM):
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        try:
            assert server.stdout is not None
            address = next(line.split()[2] for line in server.stdout if "viewers" in line)

            def ask(path: str, body: Any, lease: str = "", address: str = address) -> bytes:
                request = urllib.request.Request(address + path, json.dumps(body).encode(), {"X-Lease-Token": lease})
                with urllib.request.urlopen(request, timeout=60) as reply:
                    found: bytes = reply.read()
                return found

            lease = json.loads(ask("/api/claim", {}))["lease_token"]
            ask("/api/open", {"case": "a"}, lease)
            ask("/api/prompt", click(AT, "lesion"), lease)
            ask("/api/save", {}, lease)
            saver = threading.Thread(
                target=lambda lease=lease: [ask("/api/save", {}, lease) for _ in range(50)], daemon=True
            )
            threading.excepthook = lambda args: None
            saver.start()
            time.sleep(0.3)
            server.send_signal(end)
            code = server.wait(120)
        finally:
            server.kill()
            server.communicate()  # closes its pipe
            threading.excepthook = threading.__excepthook__
        assert code == (0 if end == signal.SIGTERM else -signal.SIGKILL)
        assert read(output / "labelsTr" / "a.nii.gz")[10, 20, 15] == 1
        assert json.loads((output / "dataset.json").read_text())["numTraining"] == 1
        assert json.loads((output / "clicks" / "a.json").read_text())["clicks"]
