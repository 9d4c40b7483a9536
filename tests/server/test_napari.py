"""The real napari plugin clicks, undoes, and goes to the next object: its masks are the session's.

Needs an environment of its own, as napari brings Qt: NNSAM3D_NAPARI_PYTHON names its python (pip install
"napari[pyqt6]" napari-nninteractive), and xvfb-run has to be there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nnsam3d.inference.model import Model

from .conftest import SPACING, Running, image_array, opened_array

PYTHON = os.environ.get("NNSAM3D_NAPARI_PYTHON")
CLICKS = {"10,20,15,+": ((10, 20, 15), 1), "9,22,14,-": ((9, 22, 14), 0)}


@pytest.mark.slow
@pytest.mark.skipif(not PYTHON or not shutil.which("xvfb-run"), reason="NNSAM3D_NAPARI_PYTHON and xvfb-run are needed")
def test_napari(running: Running, served_model: Model, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", image_array())
    script = Path(__file__).with_name("napari_plugin.py")
    files = [str(tmp_path / name) for name in ("image.npy", "masks.npz", "picture.png")]
    clicks = [",".join(map(str, SPACING)), *CLICKS]
    command = ["xvfb-run", "-a", "-s", "-screen 0 1280x800x24", str(PYTHON), str(script), running.url, *files, *clicks]
    environment = {**os.environ, "QT_QPA_PLATFORM": "xcb", "LIBGL_ALWAYS_SOFTWARE": "1"}
    subprocess.run(command, env=environment, check=True, timeout=170)
    masks = np.load(tmp_path / "masks.npz")
    session = opened_array(served_model)
    for number, (voxel, label) in enumerate(CLICKS.values()):
        session.add_click(voxel, label, "array")
        np.testing.assert_array_equal(masks[f"mask_{number}"], session.segmentation == 1)
    session.undo()
    np.testing.assert_array_equal(masks["undone"], session.segmentation == 1)
    assert not masks["next"].any()
