"""The measurement of opening an image, on a small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import opening
from benchmarks.page import with_section


def test_every_part_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PLANE", 64)
    model = opening.write_model(tmp_path / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres")
    image = opening.write_image(tmp_path / "ct_0000.nii.gz", 40)
    found = {name: worker(model, str(image)) for name, worker in opening.WORKERS.items()}
    assert found["read"]["image_gb"] == 40 * 64 * 64 * 4 / 1e9
    assert all(value > 0 for name in found for key, value in found[name].items() if "gb" not in key)
    row = opening._row(40, found)
    assert len(row) == 11


@pytest.mark.parametrize("page", ["", "# P\n\n## A\n\na\n\n## Notes\n\nn\n", "# P\n\n## Opening a CT\n\nold\n\n## Z\n"])
def test_only_its_own_section_of_a_page_changes(page: str) -> None:
    section = "## Opening a CT\n\nnew\n"
    once = with_section(page, section)
    assert section in once
    assert "old" not in once
    assert with_section(once, section) == once
    rest = once.replace(section, "").split()
    assert rest == page.replace("## Opening a CT\n\nold\n", "").split()
    assert "Notes" not in page or once.index("## Notes") > once.index(section)
