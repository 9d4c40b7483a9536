"""The bench: its tables are complete, and its processes measure what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsam3d.evaluation import bench


def test_one_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "docs" / "performance.md"
    assert bench.main(["--repeats", "1", "--output", str(output)]) == 0
    text = output.read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert f"python -m nnsam3d.evaluation.bench --repeats 1 --output {output}" in text
    rows = {cells[1].strip(): cells[2:5] for line in text.splitlines() if len(cells := line.split("|")) == 6}
    # the official network's figures (SPEC §14); the plain one is the same
    assert rows["vit_b, 128³: forward, GFLOP"][0].strip() == "9,096"
    assert float(rows['vit_b, 128³: kept for backward, "none", GB'][0]) == pytest.approx(29.5, abs=0.2)
    for name, (_, _, ratio) in rows.items():
        if name.startswith(("vit_b", "tiny")):
            assert float(ratio) < 0.9, name
    assert {"forward, ms", "a further click, ms", "training step, ms"} <= set(rows)


def test_a_task_reports_its_memory() -> None:
    result = bench.work("tiny", bench.OURS, "step", mode="blocks")
    assert result["peak_mb"] >= result["above_mb"] >= 0
    assert result["seconds"] > 0
