"""The measurement of opening an image, on a small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import opening


def test_every_part_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PLANE", 64)
    model = opening.write_model(tmp_path / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres")
    image = opening.write_image(tmp_path / "ct_0000.nii.gz", 40)
    found = {name: worker(model, str(image)) for name, worker in opening.WORKERS.items()}
    assert found["read"]["image_gb"] == 40 * 64 * 64 * 4 / 1e9
    assert all(value > 0 for name in found for key, value in found[name].items() if "gb" not in key)
    row = opening._row(40, found)
    assert len(row) == 10
