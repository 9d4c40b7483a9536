"""The notebooks in examples/ run on a model like the demo's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SLOW = {"annotate_and_learn": [("MOST = 8, 0.85, 10", "MOST = 2, 0.85, 2"), ('"10", "--seed"', '"2", "--seed"')]}
"""Notebooks that train, and what makes them shorter."""


@pytest.mark.parametrize(
    "notebook",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW))
        for path in sorted(EXAMPLES.glob("*.ipynb"))
    ],
)
@pytest.mark.usefixtures("demo")
def test_the_cells_run(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
