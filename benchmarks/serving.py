"""Time of a click through the server, until a viewer on the same computer has the updated mask.

    python -m benchmarks.serving -m MODEL_FOLDER --image case_0000.nii.gz --labels case.nii.gz [--clicks 30]
    python -m benchmarks.serving -m MODEL_FOLDER --image ... --labels ... --clients 16 --seconds 120

A sequence consists of five clicks on a newly opened image, each in the middle of the largest error. With several
clients, all of them do so without a pause, so that first clicks of some run while others make further ones.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.page import conditions
from nnsam3d.inference.device import choose_device
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.reading import spacing_of
from nnsam3d.prompts import next_click
from nnsam3d.server.app import App, Limits
from nnsam3d.server.arrays import pack, unpack
from nnsam3d.server.http import Server

SEQUENCE = 5


class Viewer:
    """A minimal client of nnInteractive's protocol."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        self.headers: dict[str, str] = {}
        self.headers["X-Lease-Token"] = json.loads(self.ask("/claim", b"")[1])["lease_token"]

    def ask(self, path: str, body: bytes, **meta: Any) -> tuple[dict[str, Any], bytes]:
        self.connection.request("POST", path, body, {**self.headers, "X-Meta": json.dumps(meta)})
        reply = self.connection.getresponse()
        content = reply.read()
        if reply.status != 200:
            raise RuntimeError(f"{path}: {reply.status} {reply.reason}")
        return json.loads(reply.headers.get("X-Meta", "{}")), content


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("-m", dest="model", type=Path, required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--labels", required=True, help="ground truth, for placing the clicks")
    parser.add_argument("--clicks", type=int, default=30, help="of each client (default: 30)")
    parser.add_argument("--clients", type=int, default=1, help="at the same time (default: 1)")
    parser.add_argument("--seconds", type=float, help="instead of a number of clicks")
    given = parser.parse_args(arguments)
    model = Model(given.model, device=choose_device("auto"), mirroring=False)
    image_CZYX, properties = model.read([given.image])
    truth = model.read_labels(given.labels) == 1
    server = Server(("127.0.0.1", 0), App(model, Limits(sessions=given.clients)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    spacing = spacing_of(properties)
    ends = None if given.seconds is None else time.monotonic() + given.seconds

    def goes_on(made: int) -> bool:
        return made < given.clicks if ends is None else time.monotonic() < ends

    with ThreadPoolExecutor(given.clients) as pool:
        client = partial(measure, server.port, image_CZYX, truth, spacing, goes_on)
        results = [one.result() for one in [pool.submit(client) for _ in range(given.clients)]]
    first, further = ([seconds for result in results for seconds in result[kind]] for kind in range(2))
    server.close()
    print(conditions("serving", arguments))
    for name, seconds in (("first click", first), ("further click", further)):
        p95 = sorted(seconds)[int(0.95 * (len(seconds) - 1))]
        print(f"{name}: n = {len(seconds)}, median {statistics.median(seconds):.3f} s, p95 {p95:.3f} s")
    return 0


def measure(
    port: int, image_CZYX: np.ndarray, truth: np.ndarray, spacing: list[float], goes_on: Callable[[int], bool]
) -> tuple[list[float], list[float]]:
    """Seconds of one client's first clicks (on a newly opened image) and further clicks.

    Args:
        image_CZYX: the image. truth: (z, y, x), the target. spacing: mm along z, y, x.
        goes_on: whether another sequence follows after so many clicks.

    Raises:
        RuntimeError: the server refused a request.
    """
    viewer = Viewer(port)
    first: list[float] = []
    further: list[float] = []
    while goes_on(len(first) + len(further)):
        viewer.ask("/set_image", pack(image_CZYX), image_properties={"spacing": spacing})
        mask = np.zeros(truth.shape, np.uint8)
        for number in range(SEQUENCE):
            click = next_click(truth, mask, spacing, labels=[1])
            if click is None:
                break
            body = json.dumps({"coordinates": click.voxel, "include_interaction": bool(click.label)}).encode()
            start = time.perf_counter()
            meta, content = viewer.ask("/add_point_interaction", body)
            if meta["bbox"] is not None:
                mask[tuple(slice(low, high) for low, high in meta["bbox"])] = unpack(content, 2**32)
            (further if number else first).append(time.perf_counter() - start)
    return first, further


if __name__ == "__main__":
    sys.exit(main())
