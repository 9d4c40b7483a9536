"""The bench: its tables are complete, and its processes measure what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import bench, bench_gpu


def rows_of(text: str) -> dict[str, list[str]]:
    lines = [line.split("|") for line in text.splitlines()]
    return {cells[1].strip(): [cell.strip() for cell in cells[2:5]] for cells in lines if len(cells) == 6}


@pytest.mark.slow
def test_costs_beside_the_plain_network() -> None:
    rows = rows_of(bench.costs())
    # the official network's figures (docs/network.md#cost); the plain one's are the same
    assert rows["vit_b, 128³: forward, GFLOP"][0] == "9,096"
    assert rows["vit_b, 128³: a further click, GFLOP"][0] == "1,290"
    assert float(rows['vit_b, 128³: saved for the backward pass, "none", GB'][0]) == pytest.approx(29.5, abs=0.2)
    ratios = {name: float(cells[2]) for name, cells in rows.items() if name.startswith(("vit_b", "tiny"))}
    assert len(ratios) == 12
    assert max(ratios.values()) < 0.9
    assert ratios["vit_b, 128³: stem, GFLOP"] < 0.02


def test_a_step_tells_what_it_did_and_its_memory() -> None:
    result = bench.work("tiny", bench.OURS, "step", mode="blocks")
    assert result["peak_mb"] >= result["above_mb"] >= 0
    assert result["seconds"] > 0
    log = [line.split("GB")[-1].split(",")[0].strip() for line in result["log"][1:]]
    assert log == ["forward pass", "backward pass", "AdamW"]


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "docs" / "performance.md"
    assert bench.main(["--repeats", "1", "--output", str(output)]) == 0
    text = output.read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    assert f"python -m benchmarks.bench --repeats 1 --output {output}" in text
    assert {"forward, ms", "a further click, ms", "training step, ms"} <= set(rows_of(text))


def test_gpu_columns_with_the_cpu_as_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_gpu, "CHECKPOINTING", ("none",))
    text = bench_gpu.section({"tiny": lambda mode: bench.Subject("tiny", bench.OURS, mode)}, 1, device="cpu")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| tiny")]
    assert [cells[1].strip() for cells in rows] == [
        "tiny, 64³: forward",
        "tiny, 64³: a further click",
        'tiny, 64³: training step, "none"',
    ]
    assert all(float(cells[2].replace(",", "")) > 0 for cells in rows)
    assert 0 < float(rows[0][5].strip().rstrip("%")) < 150


@pytest.mark.parametrize("what", ["prediction", "click", "decoder"])
def test_both_sides_do_the_same_work(what: str) -> None:
    for side in (bench.PLAIN, bench.OURS):
        assert bench.work("tiny", side, what)["seconds"] > 0
