"""The page in a browser: headless Chromium, the real server, a small network."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.geometry import ImageGrid
from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.server.cases import Cases
from nnsam3d.server.conversation import Conversation
from nnsam3d.server.http import Access
from nnsam3d.server.static import FOLDER
from nnsam3d.server.static import LIBRARY as NAME

from ..inference.conftest import opened, read
from .conftest import SHAPE, SPACING, Gate, Running, Start, until

LIBRARY = FOLDER / NAME
AXE = FOLDER / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = pytest.mark.browser
CHROMIUM = os.environ.get("NNSAM3D_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-dev-shm-usage"]
SIZE = {"width": 1010, "height": 670}  # the smallest of the wide layout, because software renders it
SECONDS = 60  # a software renderer on a busy machine

TARGET = (8, 28, 13)  # i, j, k: bright, and off the middle on every axis, so that a flip shows
GEOMETRIES = {
    "plain": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    "flipped": (-1, 0, 0, 0, -1, 0, 0, 0, -1),
    "oblique": (0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1),
    "turned": (0, 0, 1, 1, 0, 0, 0, 1, 0),
    "unsaid": (),  # a file that does not say where its voxels lie
}


def write_image(path: Path, geometry: str, bright: tuple[int, int, int] = TARGET) -> Path:
    array = np.random.default_rng(0).normal(100, 8, SHAPE).astype(np.int16)
    i, j, k = bright
    array[k - 2 : k + 3, j - 3 : j + 4, i - 3 : i + 4] += 150
    path.parent.mkdir(exist_ok=True)
    if geometry == "unsaid":
        nibabel.save(nibabel.Nifti1Image(array.T, None), path)
        return path
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-20.0, 30.0, 5.0))
    image.SetDirection(GEOMETRIES[geometry])
    sitk.WriteImage(image, str(path))
    return path


def write_base(path: Path, like: Path) -> np.ndarray:
    """A label map to start from, on the grid of an image."""
    base = np.zeros(SHAPE, np.uint8)
    base[2:6, 4:12, 3:9] = 2
    image = sitk.GetImageFromArray(base)
    image.CopyInformation(sitk.ReadImage(str(like)))
    sitk.WriteImage(image, str(path))
    return base


# ---------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="THE PAGE IS NOT TESTED: pip install playwright")
    if not LIBRARY.is_file():
        pytest.skip("THE PAGE IS NOT TESTED: niivue.js is missing, bring it with `make page`")
    if not Path(CHROMIUM).is_file():
        pytest.skip("THE PAGE IS NOT TESTED: no Chromium (apt-get install chromium, or set NNSAM3D_CHROMIUM)")
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


@dataclass
class Opened:
    """The page of a server, and what it did that it should not."""

    tab: Any
    url: str
    expect: str = ""  # pattern of complaints that belong to the test
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def js(self, expression: str, argument: Any = None) -> Any:
        """Not `wait_for_function`, whose `eval` the page's policy forbids."""
        return self.tab.evaluate(expression, argument)

    def until(self, expression: str) -> None:
        end = time.monotonic() + SECONDS
        while not self.js(expression):
            assert time.monotonic() < end, (expression, self.text("#status"), self.text("#notice"), self.complaints)
            self.tab.wait_for_timeout(30)

    def idle(self, when: str = "true") -> None:
        """Nothing is being computed, and what was is drawn; and something else is the case."""
        self.until(f"() => window.nnsam3d && nnsam3d.page.ready && ({when}) && !nnsam3d.work.running")
        self.frame()

    def opens(self, case: str) -> None:
        self.idle(f"nnsam3d.page.image.case === '{case}'")

    def push(self, button: str) -> None:
        self.tab.click(button)
        self.idle()

    def reload(self) -> None:
        self.tab.reload()
        self.idle()

    def press(self, key: str) -> None:
        self.tab.keyboard.press(key)
        self.idle()

    def forgotten_by(self, running: Running) -> None:
        """The server ends the session, and the page has not noticed: heartbeats, which might notice it first, end."""
        self.js("() => nnsam3d.server.clock.terminate()")
        self.tab.wait_for_load_state("networkidle")
        for lease in list(running.app.leases._leases):
            running.app.leases.release(lease)

    def frame(self) -> None:
        self.js("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def text(self, selector: str) -> str:
        return str(self.tab.text_content(selector))

    def labels(self) -> np.ndarray:
        """The mask that is shown (z, y, x)."""
        said = self.js("() => btoa([...nnsam3d.viewer.labels].map((n) => String.fromCharCode(n)).join(''))")
        return np.frombuffer(base64.b64decode(said), np.uint8).reshape(SHAPE)

    def clicks(self) -> list[tuple[list[int], str]]:
        found = self.js("() => nnsam3d.page.prompts")
        return [([round(n) for n in one["entry"]["position"]], one["label"]) for one in found]

    def pixel(self, ras: list[float], plane: str) -> tuple[float, float]:
        """Where a place is drawn, after the planes were put through it."""
        self.js("(mm) => nnsam3d.viewer.goTo(mm)", ras)
        self.frame()
        places = self.js("(mm) => nnsam3d.viewer.project(mm)", ras)
        place = places[["axial", "sagittal", "coronal"].index(plane)]
        box = self.tab.locator("#view").bounding_box()
        return box["x"] + place["x"], box["y"] + place["y"]

    def click(self, ras: list[float], plane: str = "axial", **how: Any) -> None:
        self.tab.mouse.click(*self.pixel(ras, plane), **how)
        self.idle()

    def drag(self, ras: list[list[float]], plane: str = "axial", ends: bool = True) -> None:
        """With the left button through these places, on the slice of the first one.

        Args:
            ends: also release the button.
        """
        self.tab.mouse.move(*self.pixel(ras[0], plane))
        self.tab.mouse.down()
        box = self.tab.locator("#view").bounding_box()
        for place in ras[1:]:
            shown = self.js("(mm) => nnsam3d.viewer.project(mm)", place)[["axial", "sagittal", "coronal"].index(plane)]
            self.tab.mouse.move(box["x"] + shown["x"], box["y"] + shown["y"], steps=4)
        if ends:
            self.tab.mouse.up()
            self.idle()

    def prompts(self) -> list[dict[str, Any]]:
        """What a prompt file would say of them."""
        return self.js("() => nnsam3d.page.prompts.map((one) => one.entry)")

    def colour(self, ras: list[float], plane: str) -> np.ndarray:
        """Mean colour of a few pixels there; without crosshair and markers."""
        from PIL import Image

        x, y = self.pixel(ras, plane)
        self.js("() => { document.getElementById('marks').style.visibility = 'hidden' }")
        self.js("() => { nnsam3d.viewer.nv.setCrosshairWidth(0) }")
        self.frame()
        shot = self.tab.screenshot(clip={"x": x - 2, "y": y - 2, "width": 4, "height": 4})
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float).mean((0, 1))


Open = Callable[..., Opened]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Opens a server's page; afterwards nothing may have gone elsewhere, and nothing been complained of."""
    opened: list[Opened] = []

    def visited(running: Running, query: str = "", expect: str = "", **options: Any) -> Opened:
        context = browser.new_context(**{"viewport": SIZE, "accept_downloads": True, **options})
        one = Opened(context.new_page(), running.url, expect)
        one.tab.on("request", lambda request: one.requests.append(request.url))
        one.tab.on("pageerror", lambda error: one.complaints.append(str(error)))
        one.tab.on("console", lambda said: said.type in ("error", "warning") and one.complaints.append(said.text))
        one.tab.goto(running.url + "/" + query)
        opened.append(one)
        one.idle()
        return one

    yield visited
    for one in opened:
        foreign = [url for url in one.requests if not url.startswith((one.url + "/", "data:", "blob:"))]
        complaints = [text for text in one.complaints if not (one.expect and re.search(one.expect, text))]
        one.tab.context.close()
        assert (foreign, complaints) == ([], [])


@dataclass
class Work:
    """A server with a folder of images, and the session that says what is right."""

    running: Running
    images: Path
    output: Path
    session: Session

    def ras(self, index: Sequence[float]) -> list[float]:
        return self.session.grid.index_to_world([index], "ras")[0].tolist()

    def saved(self) -> np.ndarray:
        """The label map of the first case."""
        return read(self.output / "labelsTr" / "a.nii.gz")


@pytest.fixture
def work(start: Start, served_model: Model, tmp_path: Path) -> Callable[..., Work]:
    def made(geometry: str = "plain", count: int = 1, model: Model = served_model) -> Work:
        images = tmp_path / "images"
        files = [write_image(images / f"{name}_0000.nii.gz", geometry) for name in "abcd"[:count]]
        output = tmp_path / "out"
        running = start(model, cases=Cases(images, model, output))
        return Work(running, images, output, opened(model, files[0]))

    return made


# ---------------------------------------------------------------------- where clicks land


WHERE = [
    pytest.param(geometry, "axial", marks=[pytest.mark.slow] if geometry == "plain" else []) for geometry in GEOMETRIES
] + [("oblique", "coronal"), ("oblique", "sagittal")]


@pytest.mark.parametrize(("geometry", "plane"), WHERE)
def test_the_mask_appears_where_the_click_was(work: Any, visit: Open, geometry: str, plane: str) -> None:
    there = work(geometry)
    page = visit(there.running)
    target, elsewhere = there.ras(TARGET), there.ras((SHAPE[2] - 1 - TARGET[0], SHAPE[1] - 1 - TARGET[1], 5))
    page.js("() => nnsam3d.viewer.setContrast([0, 300])")
    assert page.colour(target, plane).mean() > 170, "the bright target is not drawn where the page says it is"
    assert page.colour(elsewhere, plane).mean() < 130
    page.click(target, plane)
    there.session.add_click(TARGET, "lesion")
    assert page.clicks() == [(list(TARGET), "lesion")]
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)
    red, _, blue = page.colour(target, plane)
    assert red - blue > 40, "the label's colour is not where the click was"
    page.click(there.ras((20, 10, 6)), plane, button="right")
    there.session.add_click((20, 10, 6), 0)
    assert page.clicks()[1:] == [([20, 10, 6], "background")]
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)


def test_the_windows_that_are_offered_follow_from_the_values(
    start: Start, visit: Open, served_model: Model, tmp_path: Path
) -> None:
    """No name of a channel says CT, as with the starter."""
    rng = np.random.default_rng(0)
    pet = rng.gamma(1, 800, SHAPE)
    pet[0, 0, 0] = 30_000
    ct = np.where(np.arange(SHAPE[2]) < 9, -1000, 40) + rng.integers(-20, 20, SHAPE)
    for name, array in (("a", ct), ("b", pet), ("c", ct + 0.5)):
        (tmp_path / "images").mkdir(exist_ok=True)
        file = tmp_path / "images" / f"{name}_0000.nii.gz"
        sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.float32 if name == "c" else np.int16)), str(file))
    page = visit(start(cases=Cases(tmp_path / "images", served_model, None)))
    offered = "() => [...document.querySelectorAll('#contrast option')].map((one) => one.text)"
    shown = "() => [nnsam3d.viewer.image.cal_min, nnsam3d.viewer.image.cal_max]"
    choose = "(value) => { const list = document.querySelector('#contrast'); list.value = value;"
    choose += " list.dispatchEvent(new Event('change')) }"  # in a small window, the list is in a menu
    both, windows = ["automatic", "automatic, inverted"], ["soft tissue", "lung", "bone", "brain"]
    assert page.js(offered) == both + windows
    page.js(choose, "-1350,150")
    assert page.js("() => document.querySelector('#contrast').value") == "-1350,150"
    assert page.js(shown) == [-1350, 150]
    page.tab.locator("#cases").get_by_text("b", exact=True).click()
    page.opens("b")
    assert page.js(offered) == [*both, "percentiles 1 to 99", "full range"]
    assert page.js("() => document.querySelector('#contrast').value") == "auto", "lung is no longer offered"
    page.js(choose, "1-99")
    np.testing.assert_allclose(page.js(shown), np.percentile(pet.astype(np.int16), [1, 99]), atol=2)
    page.js(choose, "full")
    assert page.js(shown) == [pet.astype(np.int16).min(), 30_000]
    page.tab.locator("#cases").get_by_text("c", exact=True).click()
    page.opens("c")
    assert page.js(shown) == [pytest.approx(float(ct.min()) + 0.5), pytest.approx(float(ct.max()) + 0.5)], "full range"


def test_beside_the_planes_a_click_does_nothing(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running)
    box = page.tab.locator("#view").bounding_box()
    sent = len(page.requests)
    # the gap in the middle, a margin beside a plane, and the 3D view
    for x, y in ((0.5, 0.5), (0.5, 0.2), (0.2, 0.5), (0.005, 0.25), (0.75, 0.75)):
        page.tab.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.idle()
    x, y = page.pixel(there.ras(TARGET), "axial")
    page.tab.mouse.move(x, y)  # a drag is no click
    page.tab.mouse.down()
    page.tab.mouse.move(x + 12, y, steps=3)
    page.tab.mouse.up()
    page.tab.mouse.dblclick(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
    page.idle()
    assert page.clicks() == []
    assert [url for url in page.requests[sent:] if "/api/prompt" in url] == []
    for view in ("3D", "all"):  # the planes come back after the rendering
        page.js("(view) => nnsam3d.viewer.show(view)", view)
        page.frame()
    page.click(there.ras(TARGET))
    assert page.clicks() == [(list(TARGET), "lesion")]
    there.session.add_click(TARGET, "lesion")
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)


def test_undo_redo_and_reset_are_steps_away_from_what_was_saved(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running)
    page.click(there.ras(TARGET))
    one = page.labels()
    page.click(there.ras((12, 28, 13)))
    two = page.labels()
    page.press("s")
    for key, expected in (("z", one), ("y", two), ("r", np.zeros_like(one)), ("z", two), ("z", one)):
        page.press(key)
        np.testing.assert_array_equal(page.labels(), expected, err_msg=key)
        assert page.js("() => nnsam3d.page.dirty") is (expected is not two), key
    page.click(there.ras((12, 28, 13)))  # the same click, but of another history
    assert page.js("() => nnsam3d.page.dirty")
    there.session.add_click(TARGET, "lesion")
    np.testing.assert_array_equal(one, there.session.segmentation)


def test_all_of_it_with_the_keyboard(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running)
    page.js("(mm) => nnsam3d.viewer.goTo(mm)", there.ras(TARGET))
    page.tab.locator("#view").focus()
    for key in ("2", "ArrowRight", "ArrowUp", "PageUp", "Enter", "Shift+ArrowLeft", "Shift+Enter"):
        page.press(key)
    i, j, k = TARGET  # the screen shows the patient's right on the left: voxels i count to the patient's left
    assert page.clicks() == [([i + 1, j - 1, k + 1], "organ"), ([i - 4, j - 1, k + 1], "background")]
    page.tab.keyboard.press("?")
    assert page.tab.locator("#help").is_visible()
    page.tab.keyboard.press("Escape")
    page.tab.keyboard.press("0")
    assert page.js("() => nnsam3d.page.label") == "background"


# ---------------------------------------------------------------------- files


def test_a_folder_becomes_a_dataset(work: Any, visit: Open) -> None:
    there = work(count=2)
    page = visit(there.running)
    page.click(there.ras(TARGET))
    page.until("() => performance.getEntriesByType('resource').some(({ name }) => name.includes('/api/ahead/b_0000'))")
    page.tab.keyboard.press("n")
    page.opens("b")
    assert not [url for url in page.requests if "/api/image/0/b" in url], "it was brought ahead"
    there.session.add_click(TARGET, "lesion")
    np.testing.assert_array_equal(there.saved(), there.session.segmentation)
    assert json.loads((there.output / "dataset.json").read_text())["numTraining"] == 1
    assert not page.labels().any()
    page.click(there.ras(TARGET))
    assert page.labels()[TARGET[::-1]] == 1
    page.push("#save")
    page.push("#save-next")
    assert page.text("#status") == "All cases are done."
    assert page.text("#cases-count") == "2 cases, 2 saved"


def test_a_saved_case_opens_with_its_mask_and_an_empty_one_is_skipped(work: Any, visit: Open) -> None:
    there = work(count=2)
    page = visit(there.running)
    page.click(there.ras(TARGET))
    mask, facts = page.labels(), page.text("#labels")
    page.press("s")
    page.tab.locator("#cases").get_by_text("b", exact=True).click()
    page.opens("b")
    page.tab.keyboard.press("s")  # empty: Playwright answers the question with no
    page.press("n")
    assert [path.name for path in (there.output / "labelsTr").iterdir()] == ["a.nii.gz"]
    page.tab.locator("#cases").get_by_text("a", exact=True).click()
    page.opens("a")
    np.testing.assert_array_equal(page.labels(), mask)
    assert page.text("#labels") == facts
    page.push("#reset")
    assert not page.labels().any()
    page.push("#undo")
    np.testing.assert_array_equal(page.labels(), mask)
    page.press("s")
    np.testing.assert_array_equal(there.saved(), mask)


def test_what_is_not_saved_is_asked_for(work: Any, visit: Open) -> None:
    there = work(count=2)
    page = visit(there.running)
    page.click(there.ras(TARGET))
    page.tab.click("#cases li:nth-child(2)")
    page.tab.click("#unsaved button[value=stay]")
    assert page.js("() => nnsam3d.page.image.case") == "a"
    page.tab.click("#cases li:nth-child(2)")
    page.tab.click("#unsaved button[value=leave]")
    page.opens("b")
    assert not (there.output / "labelsTr").exists()


def test_a_file_is_opened_corrected_and_downloaded(
    running: Running, visit: Open, served_model: Model, tmp_path: Path
) -> None:
    file = write_image(tmp_path / "scan.nii.gz", "oblique")
    page = visit(running)
    page.tab.set_input_files("#image-file", file)
    page.idle("nnsam3d.page.image")
    session = opened(served_model, file)
    base = write_base(tmp_path / "base.nii.gz", file)
    page.tab.set_input_files("#segmentation-file", tmp_path / "base.nii.gz")
    page.idle("nnsam3d.page.base")
    np.testing.assert_array_equal(page.labels(), base)
    page.click(session.grid.index_to_world([TARGET], "ras")[0].tolist())
    session.start_from(base)
    session.add_click(TARGET, "lesion")
    np.testing.assert_array_equal(page.labels(), session.segmentation)
    for button, name in (("#prompts", "scan.json"), ("#mask", "scan.nii.gz")):
        with page.tab.expect_download() as download:
            page.tab.click(button)
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / "down" / name)
        page.idle()
        assert page.js("() => nnsam3d.page.dirty") is (name == "scan.json"), "without --output, the mask is what counts"
    mask = sitk.ReadImage(str(tmp_path / "down" / "scan.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), session.segmentation)
    assert ImageGrid.from_sitk(mask) == ImageGrid.from_file(file)
    replayed = opened(served_model, file)
    replayed.load_prompts(tmp_path / "down" / "scan.json")
    assert [one.label for one in replayed.clicks] == ["lesion"]
    page.push("#reset")
    page.tab.set_input_files("#segmentation-file", tmp_path / "down" / "scan.json")
    page.idle("nnsam3d.page.prompts.length")
    assert page.clicks() == [(list(TARGET), "lesion")]
    np.testing.assert_array_equal(page.labels(), replayed.segmentation)
    page.press("z")
    assert not page.labels().any()


def test_a_click_beside_the_image_says_where_to_click(running: Running, visit: Open, tmp_path: Path) -> None:
    page = visit(running)
    page.tab.keyboard.press("l")
    assert page.text("#status") == "Open an image first."
    page.tab.set_input_files("#image-file", write_image(tmp_path / "scan.nii.gz", "plain"))
    page.idle("nnsam3d.page.image")
    page.frame()
    left, top, width, height = page.js(
        "() => nnsam3d.viewer.tiles.find((tile) => tile.name === '3D').position.concat()"
    )
    box = page.tab.locator("#view").bounding_box()
    at = (box["x"] + (left + width / 2) * box["width"], box["y"] + (top + height / 2) * box["height"])
    page.tab.mouse.click(*at)
    page.idle()
    assert page.text("#status").startswith("Nothing was clicked")
    assert page.clicks() == []


def test_a_file_that_is_no_image_is_refused_in_words(running: Running, visit: Open, tmp_path: Path) -> None:
    (tmp_path / "no.nii").write_text("no image")
    page = visit(running, expect="status of 400")
    page.tab.set_input_files("#image-file", tmp_path / "no.nii")
    page.until("() => !document.getElementById('notice').hidden")
    page.idle()
    assert len(page.text("#notice-text")) > 20
    assert "no.nii" in page.text("#notice-text")
    assert not re.search(r"/|\\|_0000|ITK", page.text("#notice-text"))


OF_ITK = """/tmp/nnsam3d_x1/no_0000.nii: the image cannot be read: Exception thrown in SimpleITK ImageFileReader_Read:
/work/src/Code/IO/src/sitkImageReaderBase.cxx:99: sitk::ERROR: no reader for "/tmp/nnsam3d_x1/no_0000.nii\""""


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        (OF_ITK, "no.nii: the image cannot be read"),
        (r"C:\Users\me\Temp\no_0000.nii.gz is not an image", "no.nii is not an image"),
        ("the file has 3 MB/s, at labelsTr/a.nii", "the file has 3 MB/s, at labelsTr/a.nii"),
    ],
)
def test_errors_tell_no_folders_and_no_libraries(
    running: Running, visit: Open, tmp_path: Path, detail: str, shown: str
) -> None:
    (tmp_path / "no.nii").write_text("no image")
    page = visit(running, expect="status of 400")
    page.tab.route("**/api/upload*", lambda route: route.fulfill(status=400, json={"detail": detail}))
    page.tab.set_input_files("#image-file", tmp_path / "no.nii")
    page.until("() => !document.getElementById('notice').hidden")
    assert page.text("#notice-text") == shown


# ---------------------------------------------------------------------- slow, lost


def test_a_slow_step_says_what_it_does_and_can_be_stopped(
    work: Any, visit: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = work()
    page = visit(there.running, expect="status of 409")
    computed = Conversation.change

    def slow(conversation: Conversation) -> Any:
        for number in range(600):
            conversation.session._watch(number)  # raises where the user cancels
            time.sleep(0.05)
        return computed(conversation)

    monkeypatch.setattr(Conversation, "change", slow)
    for _ in range(2):
        page.tab.mouse.click(*page.pixel(there.ras(TARGET), "axial"))
    page.until("() => /part \\d+ of the image.*1 waiting/.test(document.getElementById('busy-text').textContent)")
    page.press("Escape")
    assert page.text("#status").startswith("Stopped")
    assert not page.tab.locator("#busy").is_visible()
    monkeypatch.undo()
    page.click(there.ras(TARGET))
    there.session.add_click(TARGET, "lesion")
    assert page.clicks() == [(list(TARGET), "lesion")]
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)


def test_a_lost_session_is_found_again_with_its_clicks(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running, expect="status of 410")
    page.click(there.ras(TARGET))
    page.forgotten_by(there.running)
    page.click(there.ras((12, 28, 13)))
    assert page.text("#notice-action") == "Reconnect and restore 2 clicks"
    page.tab.click("#notice-action")
    page.idle("nnsam3d.page.prompts.length === 2")
    there.session.add_click(TARGET, "lesion")
    there.session.add_click((12, 28, 13), "lesion")
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)


def test_a_heartbeat_that_finds_the_session_lost_asks_to_reconnect_before_anything_is_added(
    work: Any, visit: Open
) -> None:
    there = work()
    page = visit(there.running, expect="status of 410")
    page.click(there.ras(TARGET))
    page.forgotten_by(there.running)
    page.js("() => nnsam3d.server.heartbeat()")
    assert page.text("#notice-action") == "Reconnect and restore 1 click"
    page.click(there.ras((12, 28, 13)))
    assert page.text("#status") == "Nothing was added: reconnect first."
    page.tab.click("#notice-action")
    page.idle("nnsam3d.page.prompts.length === 1")
    there.session.add_click(TARGET, "lesion")
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)


def test_a_lost_session_is_not_restored_over_somebody_elses_draft(work: Any, visit: Open) -> None:
    there = work()
    first = visit(there.running, expect="status of 410")
    first.click(there.ras(TARGET))
    first.forgotten_by(there.running)
    second = visit(there.running)
    for index in ((20, 10, 6), (5, 5, 5), (12, 28, 13)):
        second.click(there.ras(index))
    file = there.output / "drafts" / "a.json"
    theirs = file.read_text()
    first.click(there.ras((12, 28, 13)))
    first.tab.click("#notice-action")
    first.idle("document.getElementById('notice-text').textContent.includes('newer draft')")
    assert file.read_text() == theirs
    first.tab.click("#cases li")
    first.tab.click("#unsaved button[value=leave]")
    first.idle("!nnsam3d.page.restoring")
    assert first.clicks() == second.clicks()
    np.testing.assert_array_equal(first.labels(), second.labels())


def test_a_lost_session_of_a_saved_case_is_found_again_as_it_was(work: Any, visit: Open) -> None:
    """The server starts a saved case from its mask, which was not beneath the clicks."""
    there = work()
    page = visit(there.running, expect="status of 410")

    def lose_and_reconnect() -> None:
        page.forgotten_by(there.running)
        page.click(there.ras((12, 28, 13)))
        page.tab.click("#notice-action")
        page.idle("nnsam3d.page.prompts.length")

    page.click(there.ras(TARGET))
    page.press("s")
    lose_and_reconnect()
    there.session.add_click(TARGET, "lesion")
    there.session.add_click((12, 28, 13), "lesion")
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)
    page.press("r")
    # pressed twice before the first one has done anything
    page.js("() => [1, 2].forEach(() => window.dispatchEvent(new KeyboardEvent('keydown', { key: 'z' })))")
    page.idle()
    there.session.undo()
    assert page.clicks() == [(list(TARGET), "lesion")]
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)


def test_a_lost_session_of_a_case_that_started_from_a_mask_is_found_again(
    work: Any, visit: Open, tmp_path: Path
) -> None:
    """Only the server has the mask beneath the clicks with which a saved case opens."""
    there = work()
    page = visit(there.running, expect="status of 410")
    base = write_base(tmp_path / "base.nii.gz", there.images / "a_0000.nii.gz")
    page.tab.set_input_files("#segmentation-file", tmp_path / "base.nii.gz")
    page.idle("nnsam3d.page.base")
    page.click(there.ras(TARGET))
    page.press("s")
    page.reload()
    assert page.clicks() == [(list(TARGET), "lesion")]
    page.forgotten_by(there.running)
    page.click(there.ras((20, 10, 6)))
    page.tab.click("#notice-action")
    page.idle("nnsam3d.page.prompts.length === 2")
    there.session.start_from(base)
    there.session.add_click(TARGET, "lesion")
    there.session.add_click((20, 10, 6), "lesion")
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)
    assert page.js("() => nnsam3d.page.dirty")


def test_a_page_that_cannot_begin_says_so_and_tries_again(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running, expect="status of 50|ERR_FAILED")
    failures = [
        ("**/api/cases", lambda route: route.fulfill(status=500, json={"detail": "the disk is away"})),
        ("**/api/next", lambda route: route.abort()),
    ]
    for address, fail in failures:
        page.js("() => { localStorage.clear(); sessionStorage.clear() }")
        page.tab.route(address, fail)
        page.reload()
        assert (page.text("#empty-text"), page.text("#status")) == ("Not connected.", "Not connected.")
        assert page.text("#notice-action") == "Try again"
        until(lambda: not len(there.running.app.leases))
        page.tab.unroute(address)
    page.tab.click("#notice-action")
    page.idle("nnsam3d.page.image?.case === 'a'")
    page.tab.route("**/api/open", lambda route: route.fulfill(status=503, json={"detail": "the memory is full"}))
    page.reload()
    assert (page.text("#status"), page.text("#notice-text")) == ("Connected.", "the memory is full")
    assert page.text("#empty-text") == "a could not be shown: select it again."
    page.tab.unroute("**/api/open")
    page.tab.click("#cases li")
    page.idle("nnsam3d.page.image?.case === 'a'")


def test_a_closed_page_frees_its_session_and_a_key_is_passed_on(start: Start, visit: Open) -> None:
    running = start(key="secret")
    page = visit(running, "?key=secret")
    assert len(running.app.leases._leases) == 1
    page.tab.goto("about:blank")
    until(lambda: not len(running.app.leases))


# ---------------------------------------------------------------------- nothing is lost


def test_a_download_is_not_saved_where_there_is_a_folder_to_save_to(work: Any, visit: Open) -> None:
    there = work(count=2)
    page = visit(there.running)
    page.click(there.ras(TARGET))
    page.press("s")
    page.click(there.ras((20, 10, 6)), button="right")
    for key in ("p", "m"):
        with page.tab.expect_download():
            page.press(key)
        assert page.js("() => nnsam3d.page.dirty"), key
    page.tab.keyboard.press("n")
    page.opens("b")
    there.session.add_click(TARGET, "lesion")
    there.session.add_click((20, 10, 6), 0)
    np.testing.assert_array_equal(there.saved(), there.session.segmentation)


def test_loaded_masks_and_clicks_are_steps(work: Any, visit: Open, tmp_path: Path) -> None:
    there = work()
    page = visit(there.running)
    base = write_base(tmp_path / "base.nii.gz", there.images / "a_0000.nii.gz")
    there.session.add_click((20, 10, 6), "organ")
    there.session.save_prompts(tmp_path / "clicks.json")
    page.click(there.ras(TARGET))
    page.press("s")
    mask = page.labels()
    states = [mask]
    for file, has in (("base.nii.gz", "base"), ("clicks.json", "prompts[0]?.label === 'organ'")):
        page.tab.set_input_files("#segmentation-file", tmp_path / file)
        page.idle(f"nnsam3d.page.{has}")
        assert page.js("() => nnsam3d.page.dirty"), file
        states.append(page.labels())
    np.testing.assert_array_equal(states[1], base)
    assert (states[2] != base).any()
    for key, state in (("z", 1), ("z", 0), ("y", 1), ("y", 2), ("z", 1), ("z", 0)):
        page.press(key)
        np.testing.assert_array_equal(page.labels(), states[state], err_msg=f"{key} {state}")
    assert page.clicks() == [(list(TARGET), "lesion")]
    assert not page.js("() => nnsam3d.page.dirty")


def test_a_click_that_is_still_computed_is_not_left_without_a_word(work: Any, visit: Open) -> None:
    there = work(count=2)
    page = visit(there.running)
    held: list[Any] = []

    def hold(route: Any) -> None:  # Playwright does not take held.append itself
        held.append(route)

    page.tab.route("**/api/prompt", hold)
    page.tab.route("**/api/progress", lambda route: route.fulfill(json={"what": "waiting", "number": 2}))
    page.tab.mouse.click(*page.pixel(there.ras(TARGET), "axial"))
    page.until("() => /Waiting: 2 requests before this one/.test(document.getElementById('busy-text').textContent)")
    page.tab.click("#cases li:nth-child(2)")
    page.tab.click("#unsaved button[value=stay]")
    held[0].continue_()
    page.idle()
    assert page.clicks() == [(list(TARGET), "lesion")]


def test_two_pages_on_one_case_do_not_overwrite_each_other(work: Any, visit: Open) -> None:
    there = work()
    first, second = visit(there.running), visit(there.running, expect="status of 409")
    assert second.tab.locator("#also").is_visible()
    first.click(there.ras(TARGET))
    assert first.tab.locator("#also").is_visible()
    first.press("s")
    theirs = there.saved()
    second.click(there.ras((20, 10, 6)))
    own = second.labels()
    assert (own != theirs).any()
    for answer in ("stay", "overwrite", "reload"):
        if answer == "reload":  # the first page saves, and the second one has changed something since
            first.click(there.ras((12, 28, 13)))
            first.tab.keyboard.press("s")
            first.tab.click("#conflict button[value=overwrite]")
            first.idle("!nnsam3d.page.dirty")
            theirs = first.labels()
            second.click(there.ras((5, 5, 5)))
        second.tab.keyboard.press("s")
        second.push(f"#conflict button[value={answer}]")
        if answer != "stay":
            second.idle("!nnsam3d.page.dirty")
        if answer == "reload":
            np.testing.assert_array_equal(second.labels(), theirs)
        assert second.js("() => nnsam3d.page.dirty") is (answer == "stay")
        np.testing.assert_array_equal(there.saved(), own if answer == "overwrite" else theirs, err_msg=answer)
    first.expect = "status of 409"


def test_a_click_of_minutes_is_waited_for(work: Any, visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interim responses do not disturb the browser, and the page says how many requests are before this one."""
    monkeypatch.setattr("nnsam3d.server.call.PATIENCE", 0.05)
    there = work()
    page = visit(there.running)
    gate = Gate(there.running.app.worker)
    page.tab.mouse.click(*page.pixel(there.ras(TARGET), "axial"))
    page.until("() => document.querySelector('#busy-text').textContent.startsWith('Waiting: 1 request before')")
    gate.over.set()
    page.idle()
    assert page.clicks() == [(list(TARGET), "lesion")]


@pytest.mark.parametrize("lost", ["the request", "the answer"])
def test_a_click_lost_with_the_network_is_sent_again(work: Any, visit: Open, lost: str) -> None:
    there = work()
    page = visit(there.running, expect="ERR_FAILED|ERR_INTERNET")

    def lose(route: Any) -> None:
        if lost == "the answer":
            route.fetch()
        route.abort()

    page.click(there.ras(TARGET))
    page.tab.route("**/api/prompt", lose)
    for index in ((12, 28, 13), (20, 10, 6)):  # the second one goes after the first one, and both are lost again
        page.click(there.ras(index), button="right" if index[0] == 20 else "left")
    assert page.text("#notice-action") == "Retry 2 clicks"
    assert page.js("() => nnsam3d.page.waiting.length") == 2
    page.tab.unroute("**/api/prompt")
    page.tab.click("#notice-action")
    page.idle("nnsam3d.page.prompts.length === 3")
    assert page.clicks() == [(list(TARGET), "lesion"), ([12, 28, 13], "lesion"), ([20, 10, 6], "background")]
    for index, label in ((TARGET, "lesion"), ((12, 28, 13), "lesion"), ((20, 10, 6), 0)):
        there.session.add_click(index, label)
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)
    assert not page.tab.locator("#notice").is_visible()
    page.press("s")
    np.testing.assert_array_equal(there.saved(), there.session.segmentation)


CUT = """() => {
    const usual = window.fetch;
    window.fetch = async (path, ...more) => {
        const response = await usual(path, ...more);
        if (path !== "api/prompt") return response;
        window.fetch = usual;
        response.arrayBuffer = () => Promise.reject(new TypeError("network error"));
        return response;
    };
}"""


def test_a_click_whose_answer_ends_in_its_middle_is_sent_again(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running)
    page.js(CUT)
    page.click(there.ras(TARGET))
    assert page.text("#notice-action") == "Retry"
    page.tab.click("#notice-action")
    page.idle("nnsam3d.page.prompts.length === 1")
    there.session.add_click(TARGET, "lesion")
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)
    page.press("s")
    np.testing.assert_array_equal(there.saved(), there.session.segmentation)


@pytest.mark.parametrize("how", ["cancelled", "no answer", "no mask"])
def test_nothing_is_done_to_a_case_that_is_open_but_not_shown(work: Any, visit: Open, how: str) -> None:
    """The server has opened it, and the page has not."""
    there = work(count=2)
    page = visit(there.running, expect="status of 409|ERR_FAILED")
    page.click(there.ras(TARGET))
    page.press("s")
    gates: list[Gate] = []

    def fail(route: Any) -> None:
        if how == "cancelled":
            gates.append(Gate(there.running.app.worker))
            return route.continue_()
        if how == "no answer":
            route.fetch()
        return route.abort()

    address = "**/api/open" if how == "no answer" else "**/api/mask/b*"
    page.tab.route(address, fail)
    page.tab.click("#cases li:nth-child(2)")
    if how == "cancelled":
        page.until("() => /Waiting: 1 request/.test(document.getElementById('busy-text').textContent)")
        page.tab.keyboard.press("Escape")
        page.idle("!nnsam3d.page.image")
        gates[0].over.set()
    page.idle("!nnsam3d.page.image")
    assert page.text("#empty-text") == "b could not be shown: select it again."
    assert (page.text("#image-name"), page.tab.locator("#notes").is_visible()) == ("No image", False)
    sent = len(page.requests)
    for key in "szyruq":
        page.press(key)
    assert [url for url in page.requests[sent:] if "/api/progress" not in url and "/api/heartbeat" not in url] == []
    page.tab.unroute(address)
    page.tab.click("#cases li:nth-child(2)")
    page.idle("nnsam3d.page.image?.case === 'b'")
    assert not page.tab.locator("#empty").is_visible()
    page.click(there.ras(TARGET))
    page.press("s")
    assert sorted(path.name for path in (there.output / "labelsTr").iterdir()) == ["a.nii.gz", "b.nii.gz"]
    there.session.add_click(TARGET, "lesion")
    np.testing.assert_array_equal(there.saved(), there.session.segmentation)


def test_a_page_opens_with_the_case_that_was_open_last(work: Any, visit: Open) -> None:
    there = work(count=3)
    page = visit(there.running)
    page.tab.click("#cases li:nth-child(2)")
    page.opens("b")
    page.reload()
    assert page.js("() => nnsam3d.page.image.case") == "b"
    page.click(there.ras(TARGET))
    page.press("s")
    mask = page.labels()
    page.reload()
    assert page.js("() => nnsam3d.page.image.case") == "b"
    assert page.clicks() == [(list(TARGET), "lesion")]
    np.testing.assert_array_equal(page.labels(), mask)
    (there.images / "b_0000.nii.gz").unlink()
    page.reload()
    assert page.js("() => nnsam3d.page.image.case") == "a"


def test_the_page_works_under_a_path_of_a_proxy(start: Start, visit: Open, served_model: Model, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "a_0000.nii.gz", "plain")
    cases = Cases(tmp_path / "images", served_model, tmp_path / "out")
    running = start(cases=cases, key="secret", access=Access(prefix="/user/x"))
    page = visit(running, "user/x?key=secret")
    page.tab.locator("#view").focus()
    page.press("Enter")
    assert len(page.clicks()) == 1
    outside = [url for url in page.requests if not url.startswith((f"{page.url}/user/x", "blob:", "data:"))]
    assert outside == []
    assert page.js("() => nnsam3d.server.heartbeat().then(() => Boolean(nnsam3d.server.lease))")


# ---------------------------------------------------------------------- how it looks


FAR_LABELS = """async () => {
    const { paint } = await import("/page/palette.js");
    const shown = new Uint8Array(2);
    paint(Uint8Array.of(10, 130), shown, [2, 1, 1], [[0, 2], [0, 1], [0, 1]], [1, 1, 1], "solid");
    return [...shown];
}"""


def test_labels_differ_without_colours(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running)
    rows = page.js("() => [...document.querySelectorAll('#labels .label')].map((row) => row.innerText)")
    assert [re.sub(r"\s+", " ", row).strip() for row in rows] == ["lesion – 1", "organ – 2", "background not this 0"]
    assert page.js("() => document.getElementById('fill').value") == "pattern"
    page.tab.keyboard.press("2")
    page.click(there.ras(TARGET))
    shown = np.array(page.js("() => [...nnsam3d.viewer.mask.img]"), np.uint8).reshape(SHAPE)
    labels = page.labels()
    assert {tuple(np.unique(shown[labels == value])) for value in (1, 2)} <= {(3,), (5, 6), (5,), (6,), ()}
    assert page.tab.locator("body").evaluate(
        "(body) => body.scrollWidth <= innerWidth && body.scrollHeight <= innerHeight"
    )
    assert page.js(FAR_LABELS) == [21, 21], "label 130, for which the table has no entry, looks like label 10"


def test_a_click_is_moved_with_the_mouse_and_to_the_crosshair(work: Any, visit: Open) -> None:
    there = work("oblique")
    page = visit(there.running)
    i, j, k = TARGET
    page.click(there.ras((i, j - 12, k)))
    page.click(there.ras((i + 10, j - 12, k)), button="right")
    page.drag([there.ras((i, j - 12, k)), there.ras(TARGET)])
    background = ([i + 10, j - 12, k], "background")
    assert page.clicks() == [([i, j, k], "lesion"), background], "moved, and still the first one"
    there.session.add_click(TARGET, "lesion")
    there.session.add_click((i + 10, j - 12, k), 0)
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)
    page.press("z")
    assert page.clicks() == [([i, j - 12, k], "lesion"), background]
    page.js("(mm) => nnsam3d.viewer.goTo(mm)", there.ras((i, j, k + 1)))
    page.push("[aria-label='Move prompt 1 to the crosshair']")
    assert page.clicks() == [([i, j, k + 1], "lesion"), background]
    # an answer to an earlier step arrives, whose prompts are new objects
    page.drag([there.ras((i, j, k + 1)), there.ras((i, j - 6, k + 1))], ends=False)
    page.js("() => { nnsam3d.page.prompts = nnsam3d.page.prompts.map((one) => ({ ...one })) }")
    page.tab.mouse.up()
    page.idle()
    assert page.clicks() == [([i, j - 6, k + 1], "lesion"), background]
    page.press("z")
    page.tab.click("[aria-label='Move prompt 1 to the crosshair']")
    assert page.js("() => nnsam3d.page.can.redo"), "it is there already: no step"
    page.drag([there.ras((i, j, k + 1)), there.ras((i, j - 6, k + 1))], ends=False)
    page.tab.keyboard.press("Escape")
    page.tab.mouse.up()
    page.idle()
    assert page.clicks() == [([i, j, k + 1], "lesion"), background]


def test_a_comment_stays_while_it_is_typed(work: Any, visit: Open) -> None:
    there = work(count=2)
    page = visit(there.running)
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.tab.route("**/api/note", hold)
    page.tab.click("#flag")
    page.tab.fill("#comment", "border?")
    page.tab.wait_for_timeout(100)
    held[0].continue_()
    page.idle("document.getElementById('flag').ariaPressed === 'true'")
    assert page.tab.input_value("#comment") == "border?"
    page.tab.unroute("**/api/note")
    page.press("Tab")
    page.tab.click("#cases li:nth-child(2)")
    page.opens("b")
    assert page.tab.input_value("#comment") == ""
    page.tab.click("#cases li:nth-child(1)")
    page.opens("a")
    assert page.tab.input_value("#comment") == "border?"


SIZES = [(1366, 768), (900, 600), (844, 390), (768, 1024), (390, 844)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_in_small_windows_everything_is_in_reach(work: Any, visit: Open, size: tuple[int, int]) -> None:
    there = work(count=3)
    page = visit(there.running, viewport={"width": size[0], "height": size[1]})
    page.tab.locator("#view").focus()
    page.press("Enter")
    assert page.js(
        "() => document.body.scrollHeight <= innerHeight && document.documentElement.scrollWidth <= innerWidth"
    )
    assert page.tab.locator("header").bounding_box()["height"] <= 56
    for part in ("header", "#views", "#labels .name"):
        assert page.tab.locator(part).last.evaluate("(one) => one.scrollWidth <= one.clientWidth"), part
    stage = page.tab.locator("#stage").bounding_box()
    assert stage["width"] * stage["height"] > 0.4 * size[0] * size[1]
    hit = """(wanted) => {
        const { left, top, right, bottom } = document.querySelector(wanted).getBoundingClientRect();
        const found = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
        return Boolean(found?.closest(wanted)) && top >= 0 && bottom <= innerHeight && left >= 0 && right <= innerWidth;
    }"""
    for wanted in (
        "#labels .label",
        "#undo",
        "#redo",
        "#reset",
        "#save",
        "#save-next",
        "#help-button",
        "#clicks .click",
    ):
        assert page.js(hit, wanted), wanted
    page.tab.locator("#cases-row").scroll_into_view_if_needed()
    if not page.tab.locator("#cases").is_visible():
        page.tab.click("#cases-count")
    page.tab.click("#cases li:nth-child(2)")
    page.tab.click("#unsaved button[value=leave]")
    page.opens("b")
    if not page.tab.locator("#fill").is_visible():
        page.tab.click("#display-button")
    page.tab.select_option("#fill", "outline")
    assert page.js("() => scrollY + document.body.scrollTop") == 0
    if size[0] < 1240:
        page.tab.keyboard.press("Escape")
        assert not page.tab.locator("#fill").is_visible()


def test_on_a_tablet_fingers_click_draw_and_zoom(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running, "", "cancel a touch", viewport={"width": 1024, "height": 768}, has_touch=True)
    touches = page.tab.context.new_cdp_session(page.tab)

    def fingers(*paths: list[tuple[float, float]]) -> None:
        """From the first place of each path to its last one."""
        for number, places in enumerate(zip(*paths, strict=True)):
            points = [{"x": x, "y": y, "id": finger} for finger, (x, y) in enumerate(places)]
            kind = "touchMove" if number else "touchStart"
            touches.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        touches.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        page.idle()

    i, j, k = TARGET
    x, y = page.pixel(there.ras(TARGET), "axial")
    fingers([(x, y), (x + 3, y + 5)])  # a finger rolls
    assert page.clicks() == [(list(TARGET), "lesion")]
    there.session.add_click(TARGET, "lesion")
    np.testing.assert_array_equal(page.labels(), there.session.segmentation)
    fingers([(x, y), (x + 30, y)], [(x + 60, y + 60), (x + 90, y + 60)])
    assert len(page.clicks()) == 1, "two fingers click nothing"
    page.tab.tap("#tools button[data-tool=paint]")
    end = page.pixel(there.ras((i + 4, j, k)), "axial")
    fingers([(x, y), ((x + end[0]) / 2, y), end])
    assert [one["type"] for one in page.prompts()] == ["click", "paint"]
    page.tab.tap("#undo")
    page.idle()
    assert [one["type"] for one in page.prompts()] == ["click"]


# what axe-core finds of WCAG 2.2 AA, such as contrasts below 4.5, names that are missing, and roles that do not fit
CHECK = """async (rules) => {
    const { violations } = await axe.run(document, { runOnly: rules, resultTypes: ["violations"] });
    return violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
}"""
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]


def test_the_page_is_accessible(work: Any, visit: Open) -> None:
    if not AXE.is_file():
        pytest.skip("THE PAGE'S ACCESSIBILITY IS NOT TESTED: axe-core is missing, bring it with `make page`")
    there = work(count=2)
    page = visit(there.running)
    page.tab.evaluate(f"() => {{ {AXE.read_text(encoding='utf-8')} }}")  # the page's policy forbids a script tag
    assert page.js(CHECK, RULES) == []
    page.click(there.ras(TARGET))
    page.tab.click("#cases-count")
    assert page.js(CHECK, RULES) == []
    page.js("() => document.getElementById('save').style.setProperty('color', '#456')")
    assert [said for said in page.js(CHECK, RULES) if 'id="save"' in said and said.startswith("color-contrast")]
    page.js("() => document.getElementById('save').removeAttribute('style')")
    page.tab.keyboard.press("?")
    assert page.js(CHECK, RULES) == []
    page.tab.keyboard.press("Escape")
    page.tab.set_viewport_size({"width": 900, "height": 600})
    page.tab.click("#display-button")
    assert page.js(CHECK, RULES) == []


def test_shortcuts_of_one_character_can_be_turned_off(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running)
    page.click(there.ras(TARGET))
    page.tab.click("#help-button")
    page.tab.uncheck("#letters")
    page.tab.keyboard.press("Escape")
    for _ in range(2):  # the second time after a reload, which asks about unsaved work
        page.tab.locator("#view").focus()
        chosen = page.js("() => nnsam3d.page.label")
        for key in "zrsnmpohvl2?[]+-":
            page.tab.keyboard.press(key)
        page.idle()
        assert page.js("() => nnsam3d.page.label") == chosen
        assert not page.tab.locator("dialog[open]").count()
        assert page.tab.locator("button[aria-keyshortcuts=Z]").count() == 0
        assert not page.tab.locator("#undo kbd").is_visible()
        before = len(page.clicks())
        page.press("Enter")
        assert len(page.clicks()) == before + 1
        page.push("#save")
        page.reload()
    page.tab.click("#help-button")
    page.tab.check("#letters")
    page.tab.keyboard.press("Escape")
    page.tab.keyboard.press("2")
    assert page.js("() => nnsam3d.page.label") == "organ"
    page.press("r")
    assert page.clicks() == []


HOLD_FRAMES = """() => {
    window.held = [];
    window.askFrame = window.requestAnimationFrame;
    window.requestAnimationFrame = (draw) => held.push(draw);
}"""
RELEASE_FRAMES = """() => {
    window.requestAnimationFrame = askFrame;
    for (const draw of held) requestAnimationFrame(draw);
}"""


def test_a_click_does_not_depend_on_how_fast_the_planes_are_drawn(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running)
    i, j, k = TARGET
    at = page.pixel(there.ras(TARGET), "axial")
    page.tab.mouse.move(*at)
    page.tab.locator("#view").focus()
    page.js("() => { nnsam3d.viewer.plane = 0 }")
    page.js(HOLD_FRAMES)
    for _ in range(3):
        page.tab.keyboard.press("PageUp")
    page.tab.mouse.down()
    page.tab.mouse.up()
    page.js(RELEASE_FRAMES)
    page.idle()
    assert page.clicks() == [([i, j, k + 3], "lesion")]
    page.tab.mouse.down()
    page.tab.keyboard.press("PageDown")  # and stays where the pointer went down
    page.frame()
    page.tab.mouse.up()
    page.idle()
    assert page.clicks()[1:] == [([i, j, k + 3], "lesion")]


def test_a_hundred_cases_can_be_searched_and_filtered(work: Any, visit: Open) -> None:
    there = work()
    for n in range(99):
        os.link(there.images / "a_0000.nii.gz", there.images / f"patient_{n:02d}_0000.nii.gz")
    page = visit(there.running)
    page.click(there.ras(TARGET))
    page.press("s")

    def listed() -> list[str]:
        return page.js("() => [...document.querySelectorAll('#cases .name')].map((one) => one.textContent)")

    assert page.text("#cases-count") == "100 cases, 1 saved"
    assert page.tab.inner_text("#cases-filter").split() == ["All", "100", "To", "do", "99", "Done", "1"]
    assert len(listed()) == 100
    page.tab.click("#cases-filter [data-state=done]")
    assert listed() == ["a"]
    page.tab.click("#cases-filter [data-state=todo]")
    page.tab.fill("#cases-search", "ENT_4")
    assert listed() == [f"patient_4{n}" for n in range(10)]
    page.tab.keyboard.press("Enter")
    page.tab.keyboard.press("ArrowDown")
    page.tab.keyboard.press("Enter")
    page.opens("patient_41")
    page.tab.fill("#cases-search", "nobody")
    assert listed() == []
    assert page.tab.locator("#no-cases").is_visible()


def test_the_mask_can_be_hidden_and_outlined(work: Any, visit: Open) -> None:
    there = work()
    page = visit(there.running, viewport={"width": 1280, "height": 720})  # the settings are not in a menu
    page.click(there.ras(TARGET))
    shown = page.colour(there.ras(TARGET), "axial")
    page.tab.keyboard.press("h")
    page.frame()
    red, _, blue = page.colour(there.ras(TARGET), "axial")
    assert abs(red - blue) < 5 < shown[0] - shown[2], "grey, and before in the label's colour"
    assert page.tab.locator("#hide").get_attribute("aria-pressed") == "true"
    page.tab.keyboard.press("h")
    page.frame()
    np.testing.assert_allclose(page.colour(there.ras(TARGET), "axial"), shown, atol=2)
    page.tab.select_option("#fill", "outline")
    page.click(there.ras((12, 28, 13)))  # the outline follows a change
    page.click(there.ras((20, 10, 6)), button="right")
    labels = page.labels()
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1)), constant_values=255)
    around = [
        padded[:, 1 + y : SHAPE[1] + 1 + y, 1 + x : SHAPE[2] + 1 + x] for y, x in ((0, 1), (0, -1), (1, 0), (-1, 0))
    ]
    rim = (labels > 0) & np.any([labels != one for one in around], axis=0)
    drawn = np.array(page.js("() => [...nnsam3d.viewer.mask.img]"), np.uint8).reshape(SHAPE) > 0
    assert 0 < rim.sum() < (labels > 0).sum()
    np.testing.assert_array_equal(drawn, rim)


def test_a_station_keeps_drafts_states_notes_and_a_table(work: Any, visit: Open) -> None:
    there = work(count=4)
    page = visit(there.running)
    page.tab.keyboard.press("?")
    page.tab.fill("#annotator", "Ada")
    page.tab.keyboard.press("Escape")
    page.click(there.ras(TARGET))
    drawn = page.labels()
    page.reload()  # as after a crash: nothing was saved
    np.testing.assert_array_equal(page.labels(), drawn)
    assert page.clicks() == [(list(TARGET), "lesion")]
    assert page.js("() => nnsam3d.page.dirty")
    assert "Draft 1" in page.tab.inner_text("#cases-filter")
    page.press("u")
    page.press("g")
    page.tab.fill("#comment", "border?")
    page.press("Tab")
    page.tab.keyboard.press("n")  # saves, and opens the next one
    page.opens("b")
    assert "Draft" not in page.tab.inner_text("#cases-filter")
    page.tab.keyboard.press("k")
    page.opens("c")
    page.tab.keyboard.press("q")  # the answer without prompts, as a step
    page.idle()
    assert page.labels().any()
    assert page.js("() => nnsam3d.page.dirty")
    page.tab.keyboard.press("n")
    page.opens("d")
    assert page.tab.inner_text("#cases-filter").split() == [
        *("All", "4", "To", "do", "1", "Done", "1", "Skipped", "1", "Unsure", "1")
    ]
    page.tab.click("#cases-filter [data-state=unsure]")
    row = page.tab.locator("#cases li")
    assert row.inner_text().split() == ["a", "⚑", "unsure"]
    assert row.get_attribute("title") == "border?"
    with (there.output / "annotation.csv").open(newline="") as table:
        rows = {row["case"]: row for row in csv.DictReader(table)}
    assert {case: (row["mark"], row["annotator"], row["prompts"]) for case, row in rows.items()} == {
        "a": ("unsure", "Ada", "1"),
        "b": ("skipped", "", "0"),
        "c": ("", "Ada", "0"),
    }
    row.click()
    page.opens("a")
    assert page.tab.input_value("#comment") == "border?"
    assert page.tab.get_attribute("#flag", "aria-pressed") == "true"
    np.testing.assert_array_equal(page.labels(), drawn)
