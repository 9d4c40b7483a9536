"""`nnsam3d benchmark` with protocols that begin with a box or a mask, on untrained models."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.cli import main
from nnsam3d.evaluation.plan import read_setting
from nnsam3d.evaluation.results import Result
from nnsam3d.evaluation.summary import collect

from .conftest import run_here

KINDS = "nnUNetClickTrainer:nnUNetKindsPlans"
BASELINE = "nnUNetBaselineTrainer"
ARMS = (KINDS, "SAM3DAdapterTrainer", BASELINE, "ellipsoid", f"clipped:{BASELINE}")
PROTOCOLS = ("lasso", "cvpr25", "start")


def arguments(dataset: str, output: Path) -> list[str]:
    what = ["-d", dataset, "--seeds", "0", "--clicks", "6", "--disable_tta", "-device", "cpu", "-o", str(output)]
    return ["benchmark", "run", *what, "--arms", *ARMS, "--protocols", *PROTOCOLS]


@pytest.fixture(scope="module")
def finished(bench_folders, tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    output = tmp_path_factory.mktemp("extent")
    run_here(arguments("Dataset998_Benchmark", output), bench_folders, checkout)
    return output


def results_of(output: Path, protocol: str) -> dict[tuple[str, str], Result]:
    results = collect(read_setting(output), output)
    return {(one.job.arm, one.case): one for one in results if one.job.protocol == protocol}


def test_an_arm_that_does_not_take_a_kind_is_reported_and_the_run_goes_on(bench, finished):
    report = json.loads((finished / "report.json").read_text())
    refused = {(row["arm"], row["protocol"]): row["reason"] for row in report["refused"]}
    body = "answers only to boxes, lines, lassos"
    assert refused == {
        ("SAM3DAdapterTrainer", "lasso"): "does not take lassos",
        ("SAM3DAdapterTrainer", "cvpr25"): "does not take boxes",
        ("ellipsoid", "start"): body,
        (f"clipped:{BASELINE}", "start"): body,
    }
    assert "| SAM3DAdapterTrainer | does not take lassos |" in (finished / "report.md").read_text()
    assert {row["arm"] for row in report["scores"] if row["protocol"] == "lasso"} == set(ARMS) - {ARMS[1]}


def test_all_arms_get_the_same_first_prompts_and_controls_answer_once(bench, finished):
    for protocol, kind in (("lasso", "lasso"), ("cvpr25", "box")):
        results = results_of(finished, protocol)
        for case in ("c", "d"):
            first = {arm: results[arm, case].first for arm in ARMS if results[arm, case].steps}
            assert len({str(prompts) for prompts in first.values()}) == 1
            assert [prompt.kind for prompt in first[KINDS]] == [kind]
            assert all(len(results[arm, case].steps) == 1 for arm in ARMS[2:])
            assert results[KINDS, case].steps[-1].clicks == {"lasso": 6, "cvpr25": 5}[protocol]


def test_a_start_is_the_answer_of_the_other_arm(bench, finished):
    results = results_of(finished, "start")
    for case in ("c", "d"):
        scores = [results[arm, case].steps[0].scores for arm in ARMS[:3]]
        assert scores[0] == scores[1] == scores[2]
        assert all(results[arm, case].steps[1].click for arm in ARMS[:2])
    assert len(list((finished / "starts").rglob("*.npz"))) == 2


def test_the_ellipsoid_is_scored_against_the_truth(bench, finished):
    """The phantom is a block: the ellipsoid in its exact box fills pi / 6 of it."""
    results = results_of(finished, "cvpr25")
    expected = 2 * (np.pi / 6) / (1 + np.pi / 6)
    for case in ("c", "d"):
        dice = results["ellipsoid", case].steps[0].scores["lesion"]["dice"]
        assert dice == pytest.approx(expected, abs=0.06)


def test_the_report_shows_the_prompts(bench, finished):
    markdown = (finished / "report.md").read_text()
    for protocol in ("lasso", "cvpr25"):
        assert f"figures/prompts_{bench}_3d_fullres_{protocol}.png" in markdown
    assert f"prompts_{bench}_3d_fullres_start" not in markdown
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (finished / name).stat().st_size > 1000
    assert "0 clicks: the answer to the first prompt alone" in markdown
    table = markdown.split("Protocol cvpr25")[1].split("Protocol start")[0]
    assert {line.split(" | ")[1] for line in table.splitlines() if line.startswith(f"| {KINDS} | ")} >= {"0", "1", "5"}
    assert f"| {KINDS} | 6 |" not in table, "the challenge has five clicks"


def test_a_start_can_be_a_folder_of_files(bench, bench_folders, here, tmp_path):
    masks = tmp_path / "masks"
    shutil.copytree(Path(bench_folders["nnUNet_raw"]) / bench / "labelsTr", masks)
    few = ["--arms", "SAM3DAdapterTrainer", "--protocols", "start", "--start", str(masks)]
    assert main([*arguments(bench, tmp_path / "bench"), *few]) == 0
    for result in results_of(tmp_path / "bench", "start").values():
        assert [step.scores["lesion"]["dice"] for step in result.steps] == [1.0], "there is nothing to correct"
    changed = sitk.ReadImage(str(masks / "c.nii.gz"))
    sitk.WriteImage(changed * 0, str(masks / "c.nii.gz"))
    assert main([*arguments(bench, tmp_path / "bench"), *few]) == 0
    results = {case: one for (_, case), one in results_of(tmp_path / "bench", "start").items()}
    assert results["c"].steps[0].scores["lesion"]["dice"] == 0.0, "computed anew from the changed mask"
    assert results["d"].steps[0].scores["lesion"]["dice"] == 1.0
