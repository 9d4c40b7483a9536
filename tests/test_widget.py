"""The notebook's widget, without a browser: what the browser would tell is told by hand."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

import nnsam3d
from nnsam3d.errors import UserError
from nnsam3d.inference import Session
from nnsam3d.inference.model import Model
from nnsam3d.prompts.kinds import KINDS

from .inference.conftest import volume, write_model
from .server.conftest import with_kinds

pytest.importorskip("ipyniivue", reason="THE WIDGET IS NOT TESTED: pip install 'nnsam3d[notebook]'")
pytest.importorskip("ipywidgets")

SHAPE = (20, 40, 30)  # z, y, x
AT = (12, 25, 9)  # i, j, k
AFFINE = np.array([[-1.2, 0.5, 0, 40], [0.5, 1.2, 0, -30], [0, 0, 2, 5], [0, 0, 0, 1]], float)  # flipped and oblique
EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "session_in_a_notebook.ipynb"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return Model(write_model(tmp_path_factory.mktemp("widget") / "model"), mirroring=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "case_0000.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume(SHAPE).astype(np.int16).T, AFFINE), path)
    return path


@pytest.fixture
def widget(model: Model, file: Path) -> Any:
    session = Session(model)
    session.set_image(file)
    return nnsam3d.widget(session)


def shown(volume_widget: Any) -> Any:
    """The image that the browser gets."""
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(volume_widget.data))


def mask(widget: Any) -> np.ndarray:
    """(z, y, x)"""
    return np.asarray(shown(widget.viewer.volumes[1]).dataobj).T


def tell(widget: Any, event: str, **data: Any) -> None:
    """As a message of the browser."""
    widget.viewer._handle_custom_msg({"event": event, "data": data}, [])


def moved(widget: Any, index: tuple[int, int, int], xy: list[int]) -> None:
    mm = AFFINE @ [*index, 1]
    tell(widget, "location_change", mm=mm.tolist(), xy=xy, vox=[0, 0, 0], frac=[0, 0, 0])


def released(widget: Any, xy: list[int]) -> None:
    tell(widget, "mouse_up", mouse_pos=xy, is_dragging=False, frac_pos=[0, 0, 0])


def test_a_click_lands_where_it_was(widget: Any, file: Path, model: Model) -> None:
    image = shown(widget.viewer.volumes[0])
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-4)
    np.testing.assert_array_equal(np.asarray(image.dataobj), np.asarray(nibabel.load(file).dataobj))
    assert not mask(widget).any()
    moved(widget, AT, [100, 50])
    released(widget, [100, 50])
    expected = Session(model)
    expected.set_image(file)
    expected.add_click(AT, "lesion")
    assert widget.session.clicks == expected.clicks
    np.testing.assert_array_equal(mask(widget), expected.segmentation)
    np.testing.assert_allclose(shown(widget.viewer.volumes[1]).affine, AFFINE, atol=1e-4)
    assert "1 click," in widget.status.value
    assert "lesion: " in widget.status.value


def test_only_a_click_is_one(widget: Any) -> None:
    released(widget, [10, 10])  # the right button, the 3D view, or beside the planes: the crosshair stays
    for x in (100, 105, 110):  # a drag
        moved(widget, AT, [x, 50])
    released(widget, [110, 50])
    assert not widget.session.clicks
    moved(widget, (12, 25, 10), [110, 50])  # the wheel, which tells where the pointer was pressed last
    moved(widget, AT, [80, 60])
    released(widget, [80, 60])
    assert [tuple(round(n) for n in one.position) for one in widget.session.clicks] == [AT]


def test_labels_undo_redo_reset(widget: Any) -> None:
    assert widget.label.options == ("lesion", "organ", "background")
    assert widget.undo_button.disabled
    widget.label.value = "organ"
    widget.click(AT)
    widget.label.value = "background"
    widget.click((20, 10, 5))
    assert [one.label for one in widget.session.clicks] == ["organ", "background"]
    two = mask(widget)
    assert widget.redo_button.disabled
    widget.undo_button.click()
    widget.undo_button.click()
    assert not mask(widget).any()
    widget.redo_button.click()
    widget.redo_button.click()
    np.testing.assert_array_equal(mask(widget), two)
    widget.reset_button.click()
    assert not widget.session.clicks
    assert widget.reset_button.disabled
    widget.undo_button.click()
    np.testing.assert_array_equal(mask(widget), two)


def test_a_mask_to_start_from_can_be_undone(widget: Any) -> None:
    start = np.zeros(SHAPE, np.uint8)
    start[3:6, 3:6, 3:6] = 2
    widget.session.start_from(start)
    widget.refresh()
    np.testing.assert_array_equal(mask(widget), start)
    assert not widget.undo_button.disabled
    assert not widget.reset_button.disabled
    widget.undo_button.click()
    assert not mask(widget).any()
    assert widget.undo_button.disabled


def test_steps_of_other_cells_are_shown(widget: Any) -> None:
    widget.session.add_click(AT, "lesion")
    widget.refresh()
    np.testing.assert_array_equal(mask(widget), widget.session.segmentation)
    assert not widget.undo_button.disabled


def test_prompts_of_other_cells_are_counted_and_undone(tmp_path_factory: pytest.TempPathFactory, file: Path) -> None:
    folder = with_kinds(write_model(tmp_path_factory.mktemp("drawing") / "model"), tuple(KINDS))
    session = Session(Model(folder, mirroring=False))
    session.set_image(file)
    widget = nnsam3d.widget(session)
    session.add_box((8, 20, 6), (15, 28, 12), "lesion")
    widget.refresh()
    assert widget.status.value.startswith("1 prompt (1 box), ")
    np.testing.assert_array_equal(mask(widget), session.segmentation)
    session.add_box((8, 20, 9), (15, 28, 9), "lesion")
    widget.click(AT)
    assert widget.status.value.startswith("3 prompts (2 boxes, 1 click), ")
    for left in ("2 prompts (2 boxes)", "1 prompt (1 box)", "0 clicks"):
        widget.undo_button.click()
        assert widget.status.value.startswith(left + ", ")
    assert not mask(widget).any()
    assert widget.undo_button.disabled


def test_mistakes_are_said_in_the_status(widget: Any) -> None:
    widget.click((100, 0, 0))
    assert "outside" in widget.status.value
    assert not widget.session.clicks


def test_arrays_have_no_place_in_the_world(model: Model) -> None:
    session = Session(model)
    session.set_image(volume(SHAPE), spacing=(2.0, 1.0, 1.5))
    made = nnsam3d.widget(session, volume(SHAPE, seed=1))
    np.testing.assert_allclose(shown(made.viewer.volumes[0]).affine, np.diag([1.5, 1, 2, 1]))
    tell(made, "location_change", mm=[12 * 1.5, 25, 9 * 2, 1], xy=[5, 5], vox=[0, 0, 0], frac=[0, 0, 0])
    released(made, [5, 5])
    assert session.segmentation[AT[::-1]] == 1
    with pytest.raises(UserError, match="shape"):
        nnsam3d.widget(session, np.zeros((2, 2, 2)))


def test_the_package_stays_light() -> None:
    script = "import sys, nnsam3d; nnsam3d.widget; assert not {'torch', 'numpy', 'ipywidgets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)


def test_the_example_is_executed_and_names_no_machine() -> None:
    notebook = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]
    text = EXAMPLE.read_text(encoding="utf-8")
    assert not [part for part in ("/root/", "/home/", "/work/", "/tmp/", "/usr/") if part in text]
    assert len(text) < 400_000
