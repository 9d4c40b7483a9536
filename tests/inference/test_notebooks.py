"""The notebooks in examples/ run on a model like the demo's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import write_model

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DATASET = "Dataset990_PhantomCT"


SLOW = {"annotate_and_learn": [("MOST = 8, 0.85, 10", "MOST = 2, 0.85, 2"), ('"10", "--seed"', '"2", "--seed"')]}
"""Notebooks that train, and what makes them shorter."""


@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW))
        for path in sorted(EXAMPLES.glob("*.ipynb"))
    ],
)
def test_the_cells_run(
    notebook: Path, tmp_path: Path, write_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"demo/results/{DATASET}/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    write_model(tmp_path / name, labels={"background": 0, "lesion": 1})
    image = write_image("test_000_0000.nii.gz", shape=(20, 40, 40))
    images = tmp_path / "demo" / "raw" / DATASET / "imagesTs"
    images.mkdir(parents=True)
    shutil.move(image, images / image.name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for long, _ in SLOW.get(notebook.stem, ()):
        assert any(long in "".join(cell["source"]) for cell in cells), long
    for cell in cells:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            for long, short in SLOW.get(notebook.stem, ()):
                source = source.replace(long, short)
            exec(compile(source, notebook.name, "exec"), names)
