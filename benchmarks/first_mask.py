"""From `nnsam3d serve` to a mask: the page in Chromium opens a file, is clicked, and saves.

    python -m benchmarks.first_mask IMAGE LABELS [--command /path/to/nnsam3d] [--into docs/starter.md]

Seconds since the command was started, and the Dice of the mask that the page shows after each click. The first click is
on the voxel deepest inside the target, every further one on the voxel deepest inside the largest error. The command can
be that of another environment, such as one into which a wheel has just been installed. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from playwright.sync_api import sync_playwright

from benchmarks.page import conditions, publish
from nnsam3d.geometry import ImageGrid
from nnsam3d.prompts import next_click
from nnsam3d.tables import markdown

TITLE = "From the command to a mask"
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
MASK = "() => btoa([...nnsam3d.viewer.labels].map((n) => String.fromCharCode(n)).join(''))"
IDLE = "() => window.nnsam3d && nnsam3d.page.ready && !nnsam3d.work.running"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_mask", description=__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("labels", type=Path, help="the true label map; everything but 0 is the target")
    parser.add_argument("--command", default="nnsam3d", help="that starts the server (default: nnsam3d)")
    parser.add_argument("--clicks", type=int, default=5)
    parser.add_argument("--into", type=Path, help=f"a Markdown file whose section '{TITLE}' is replaced")
    given = parser.parse_args(arguments)
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(given.labels))) > 0
    begin = time.monotonic()
    server = subprocess.Popen([given.command, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.:]+", line)))
        rows = [["the page's address is printed", f"{time.monotonic() - begin:.1f}", ""]]
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            tab = browser.new_page(viewport={"width": 1280, "height": 800})
            rows += _clicked(tab, url, given.image, truth, given.clicks, begin)
            browser.close()
    finally:
        server.terminate()
    table = markdown(["", "seconds", "Dice"], rows)
    publish(f"## {TITLE}\n\n{conditions('first_mask', arguments)}\n\n{table}\n", given.into)
    return 0


def _clicked(tab: Any, url: str, image: Path, truth: NDArray[np.bool_], count: int, begin: float) -> list[list[str]]:
    """Rows of what happens, when, and how good the mask is then."""
    rows = []

    def happened(what: str, value: str = "") -> None:
        until(tab, IDLE)
        rows.append([what, f"{time.monotonic() - begin:.1f}", value])

    tab.goto(url)
    happened("the page is open")
    tab.set_input_files("#image-file", image)
    until(tab, "() => nnsam3d.page.image")
    happened("the image is open")
    grid, mask = ImageGrid.from_file(image), np.zeros_like(truth)
    spacing = grid.spacing_xyz[::-1]
    for number in range(1, count + 1):
        click = next_click(truth, mask, spacing, labels=[1])
        if click is None:
            break
        place = grid.index_to_world([click.voxel[::-1]], "ras")[0].tolist()
        tab.evaluate("(mm) => nnsam3d.viewer.goTo(mm)", place)
        pixel = tab.evaluate("(mm) => nnsam3d.viewer.project(mm)", place)[0]
        view = tab.locator("#view").bounding_box()
        tab.mouse.click(view["x"] + pixel["x"], view["y"] + pixel["y"], button="left" if click.label else "right")
        until(tab, f"() => nnsam3d.page.prompts.length >= {number}")
        until(tab, IDLE)
        mask = _shown(tab, truth.shape)
        dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        happened(f"click {number} is answered", f"{dice:.2f}")
    with tempfile.TemporaryDirectory() as folder, tab.expect_download() as download:
        tab.click("#mask")
        saved = Path(folder) / "mask.nii.gz"
        download.value.save_as(saved)
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(saved))) > 0, mask)
    happened("the mask is saved")
    return rows


def _shown(tab: Any, shape_ZYX: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask that the page shows."""
    return np.frombuffer(base64.b64decode(tab.evaluate(MASK)), np.uint8).reshape(shape_ZYX) > 0


def until(tab: Any, expression: str, seconds: float = 120) -> None:
    """Waits until an expression of the page is true."""
    end = time.monotonic() + seconds
    while not tab.evaluate(expression):
        if time.monotonic() > end:
            raise TimeoutError(f"{expression}: {tab.text_content('#status')} {tab.text_content('#notice')}")
        tab.wait_for_timeout(30)


if __name__ == "__main__":
    raise SystemExit(main())
