"""A server with a small random network, and ways to speak to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.network import SAM3D, SAM3DConfig
from nnsam3d.nnunet.datasets import PROMPT_TYPES_KEY
from nnsam3d.prompts import PromptCodec
from nnsam3d.prompts.kinds import KINDS
from nnsam3d.server.app import App, Limits
from nnsam3d.server.arrays import pack
from nnsam3d.server.cases import Cases
from nnsam3d.server.http import Access, Server
from nnsam3d.server.worker import Worker

from ..inference.conftest import opened, volume, write_model

SHAPE = (20, 40, 30)
SPACING = (2.0, 1.0, 1.5)
META = {"X-Meta": json.dumps({"image_properties": {"spacing": SPACING}})}  # of nnInteractive's images
AT = (15, 20, 10)  # i, j, k of the middle of the bright part
PATCH = (40, 40, 48)  # the whole image at the model's spacing: windows are tested elsewhere
GEOMETRIES = {
    "plain": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flipped": (-1, 0, 0, 0, -1, 0, 0, 0, 1),
    "oblique": (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1),
    "permuted": (0, 1, 0, 0, 0, 1, 1, 0, 0),
}


class FinalResponse(http.client.HTTPResponse):
    """Skips interim responses ("102 Processing"), as browsers and httpx do."""

    def _read_status(self) -> tuple[str, int, str]:
        answer = super()._read_status()  # type: ignore[misc]
        while 100 < answer[1] < 200:
            while self.fp.readline().strip():
                pass
            answer = super()._read_status()  # type: ignore[misc]
        return answer


@dataclass
class Reply:
    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Running:
    """A server in a thread of this process."""

    server: Server
    app: App

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = b"", lease: str = "", headers: dict[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own; a body that is no bytes goes as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.response_class = FinalResponse
        sent = {**({"X-Lease-Token": lease} if lease else {}), **(headers or {})}
        try:
            connection.request(method, path, data, sent)
            reply = connection.getresponse()
            return Reply(reply.status, reply.reason, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        finally:
            connection.close()

    def raw(self, data: bytes) -> bytes:
        """Bytes on a socket: all that comes back until the server closes, or nothing has come for a minute."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:

            def send() -> None:
                with contextlib.suppress(OSError):  # the server has seen enough
                    connection.sendall(data)

            threading.Thread(target=send, daemon=True).start()
            return received(connection)

    def claim(self, case: str = "") -> str:
        """The lease of a new client of the page, which opens a case of the folder, if one is named."""
        lease: str = self.ask("POST", "/api/claim").json()["lease_token"]
        if case:
            assert self.ask("POST", "/api/open", {"case": case}, lease).status == 200
        return lease

    def viewer(self, seed: int = 0) -> str:
        """The lease of a new client of nnInteractive's protocol, with an image."""
        lease: str = self.ask("POST", "/claim").json()["lease_token"]
        assert self.ask("POST", "/set_image", pack(image_array(seed)[None]), lease, META).status == 200
        return lease

    def gives_memory_back(self) -> None:
        """An answer arrives just before what its request has reserved is given back."""
        until(lambda: not self.app.leases._reserved)

    def change(self, path: str, body: Any, lease: str) -> tuple[dict[str, Any], np.ndarray]:
        """A step through the page's routes: what is told, and the voxels."""
        reply = self.ask("POST", path, body, lease)
        assert reply.status == 200, reply.body
        (length,) = struct.unpack_from("<I", reply.body)
        return json.loads(reply.body[4 : 4 + length]), np.frombuffer(reply.body[4 + length :], np.uint8)


def until(what: Callable[[], object]) -> None:
    """Waits for it."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection, or nothing has come for a minute."""
    connection.settimeout(60)
    found = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(65536):
            found += part
    return found


class Gate:
    """A job that runs until it is told to end, and has begun."""

    def __init__(self, worker: Worker) -> None:
        self.begun, self.over = threading.Event(), threading.Event()
        self.future = worker.submit(self)
        assert self.begun.wait(60)

    def __call__(self) -> None:
        self.begun.set()
        assert self.over.wait(60)


Start = Callable[..., Running]


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    return write_model(folder, patch=PATCH)


@pytest.fixture(scope="session")
def served_model(served_folder: Path) -> Model:
    return Model(served_folder, mirroring=False)


@pytest.fixture(scope="session")
def drawing_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model that listens to prompts of all kinds; what it answers makes no sense."""
    name = "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    folder = write_model(tmp_path_factory.mktemp("drawing") / name, patch=PATCH)
    return Model(with_kinds(folder, tuple(KINDS)), mirroring=False)


def with_kinds(folder: Path, kinds: tuple[str, ...]) -> Path:
    """The same model, trained with these kinds of prompts."""
    plans = json.loads((folder / "plans.json").read_text())
    labels = json.loads((folder / "dataset.json").read_text())["labels"]
    configuration = plans["configurations"]["3d_fullres"]
    configuration[PROMPT_TYPES_KEY] = list(kinds)
    architecture = configuration["architecture"]["arch_kwargs"]
    architecture["extent_maps"] = len(PromptCodec.of(kinds, labels, configuration["spacing"]).maps)
    (folder / "plans.json").write_text(json.dumps(plans))
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    torch.manual_seed(0)
    network = SAM3D(SAM3DConfig(**architecture, num_image_channels=1, num_classes=len(labels)))
    network.load_state_dict(checkpoint["network_weights"], strict=False)
    with torch.no_grad():  # the maps' layers begin with zeros
        for name, parameter in network.named_parameters():
            if ".extent_" in name and not name.endswith(".lr"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    torch.save(checkpoint | {"network_weights": network.state_dict()}, file)
    return folder


@pytest.fixture
def start(served_model: Model) -> Iterator[Start]:
    """Starts servers that end with the test."""
    running: list[Running] = []

    def started(
        model: Model = served_model,
        cases: Cases | None = None,
        key: str | None = None,
        access: Access | None = None,
        host: str = "127.0.0.1",
        certificate: tuple[Path, Path | None] | None = None,
        **limits: Any,
    ) -> Running:
        app = App(model, Limits(**limits), cases, key)
        server = Server((host, 0), app, access, certificate)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(Running(server, app))
        return running[-1]

    yield started
    for one in running:
        one.server.close(5)


@pytest.fixture
def running(start: Start) -> Running:
    return start()


@pytest.fixture
def serve_cases(start: Start, served_model: Model, tmp_path: Path) -> Start:
    """Starts servers with the cases "a" and "b" in tmp_path / "images"; they may save to tmp_path / "out"."""

    def started(model: Model = served_model, saves: bool = False, **images: Any) -> Running:
        folder = write_cases(tmp_path / "images", **images)
        return start(model, cases=Cases(folder, model, tmp_path / "out" if saves else None))

    return started


def image_array(seed: int = 0) -> np.ndarray:
    return volume(SHAPE, seed).astype(np.int16)


def opened_array(model: Model, seed: int = 0) -> Session:
    """A session that says what is right for the clients of :meth:`Running.viewer`."""
    return opened(model, image_array(seed), SPACING)


def click(position: Sequence[float], label: str, space: str = "voxel") -> dict[str, Any]:
    """For the page's routes."""
    return {"type": "click", "position": list(position), "space": space, "label": label}


def write_cases(folder: Path, names: tuple[str, ...] = ("a", "b"), geometry: str = "plain") -> Path:
    """Images in nnU-Net's naming."""
    folder.mkdir()
    for seed, name in enumerate(names):
        image = sitk.GetImageFromArray(image_array(seed))
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin((-20.0, 30.0, 5.0))
        image.SetDirection(GEOMETRIES[geometry])
        sitk.WriteImage(image, str(folder / f"{name}_0000.nii.gz"))
    return folder
