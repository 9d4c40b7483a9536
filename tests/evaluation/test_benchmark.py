"""`nnsam3d benchmark` as a whole on untrained models: interrupted and resumed, and its report."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d.cli import main
from nnsam3d.errors import UserError
from nnsam3d.evaluation import metrics, runner
from nnsam3d.evaluation.pictures import quartile_cases
from nnsam3d.evaluation.plan import Job, Setting, cases_of, read_setting
from nnsam3d.evaluation.summary import Group, collect
from nnsam3d.jobs import local

from .conftest import Ended, result_of, run_here

ARMS = ("SAM3DAdapterTrainer", "nnUNetClickTrainer", "nnUNetBaselineTrainer", "nnUNetBaselineTrainer+oracle")


def arguments(dataset: str, output: Path) -> list[str]:
    what = ["-d", dataset, "--seeds", "0", "7", "--clicks", "5", "--disable_tta", "-device", "cpu"]
    return ["benchmark", "run", *what, "-o", str(output)]


@pytest.fixture(scope="module")
def finished(bench_folders, tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """A run that nobody disturbed."""
    output = tmp_path_factory.mktemp("finished")
    run_here(arguments("Dataset998_Benchmark", output), bench_folders, checkout)
    return output


def test_an_interrupted_run_ends_in_the_same_bytes(bench, here, finished, tmp_path, monkeypatch, capsys):
    output = tmp_path / "bench"
    real, answered = runner._click, []

    def interrupted(*args):
        if len(answered) == 3:
            raise KeyboardInterrupt
        answered.append(1)
        return real(*args)

    monkeypatch.setattr(runner, "_click", interrupted)
    assert main(arguments(bench, output)) == 130
    done = [path for path in output.rglob("seed_*/*.json") if path.suffix == ".json"]
    assert len(done) == 3
    # a unit that was being written, and one of a model that was trained anew since
    torn = done[0].with_name(f".{done[0].name}.123.tmp")
    torn.write_text("{")
    stale = json.loads(done[1].read_text()) | {"checkpoint_sha256": "0" * 64}
    done[1].write_text(json.dumps(stale))
    monkeypatch.setattr(runner, "_click", real)
    assert main(arguments(bench, output)) == 0
    assert (output / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    # and a third time there is nothing to do
    monkeypatch.setattr(runner, "_click", interrupted)
    assert main(arguments(bench, output)) == 0


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(bench, bench_folders, here, tmp_path):
    """SIGKILL: nobody could tidy up, and the process that computed must not go on behind the next run's back."""
    few = ["--arms", "nnUNetClickTrainer", "--protocols", "iterative", "--seeds", "0", "1", "2", "3"]
    assert main([*arguments(bench, tmp_path / "whole"), *few]) == 0
    output = tmp_path / "killed"
    command = [sys.executable, "-m", "nnsam3d.cli", *arguments(bench, output), *few]
    with subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 600
        while not list(output.rglob("seed_*/*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    there = {path: path.read_bytes() for path in output.rglob("seed_*/*.json")}
    assert 1 <= len(there) < 8
    assert main([*arguments(bench, output), *few]) == 0
    assert (output / "results.json").read_bytes() == (tmp_path / "whole" / "results.json").read_bytes()
    assert all(path.read_bytes() == before for path, before in there.items()), "what was done is not done again"


def test_arms_get_the_same_first_clicks_and_their_own_later_ones(bench, finished):
    results = collect(read_setting(finished), finished)
    iterative = [result for result in results if result.job.protocol == "iterative"]
    for case in ("c", "d"):
        first, second = {}, {}
        for result in iterative:
            if result.case == case and len(result.steps) > 2:
                first[result.job.arm, result.seed] = result.steps[1].click
                second[result.job.arm, result.seed] = result.steps[2].click
        assert {arm for arm, _ in first} == set(ARMS) - {"nnUNetBaselineTrainer"}
        for seed in (0, 7):
            assert len({str(click) for (_, s), click in first.items() if s == seed}) == 1
        assert first[ARMS[0], 0] != first[ARMS[0], 7]
        assert len({str(click) for (_, s), click in second.items() if s == 0}) > 1
        assert all(click.label == 1 for click in first.values())


def test_only_held_back_cases_and_all_of_them(bench, finished):
    results = collect(read_setting(finished), finished)
    assert {result.case for result in results} == {"c", "d"}
    assert len(results) == 4 * 2 * 2 * 2  # arms, protocols, cases, seeds


def checked_units(output: Path, dataset: str, values: dict[str, tuple[int, ...]]):
    """File, content and ground truth of the units of seed 0, whose Dice must be that of the label maps."""
    labels = Path(os.environ["nnUNet_raw"]) / dataset / "labelsTr"
    for file in output.rglob("seed_0/*.json"):
        unit = json.loads(file.read_text())
        truth = sitk.GetArrayFromImage(sitk.ReadImage(str(labels / f"{unit['case']}.nii.gz")))
        for step in unit["steps"]:
            if step["clicks"] not in runner.READ_OUTS:
                continue
            label_map = runner.read_map(file.with_suffix(".npz"), step["clicks"])
            for name, own in values.items():
                found, true = np.isin(label_map, own), np.isin(truth, own)
                dice = 2 * (found & true).sum() / (found.sum() + true.sum())
                assert step["scores"][name]["dice"] == pytest.approx(dice)
        yield file, unit, truth


def test_regions_are_clicked_bound_and_scored(region_dataset, here, tmp_path):
    """Labels of the truth are clicked, regions are scored, in every arm; the report names them."""
    output = tmp_path / "bench"
    assert main([*arguments(region_dataset, output), "--seeds", "0", "--clicks", "3", "--protocols", "iterative"]) == 0
    seen = set()
    for file, unit, truth in checked_units(output, region_dataset, {"tumour": (1, 2), "core": (2,)}):
        clicked = [step["click"] for step in unit["steps"] if step["click"]]
        assert all(truth[tuple(click["zyx"])] == click["label"] for click in clicked)
        seen.add(file.parent.parent.parent.name)
    assert seen == set(ARMS)
    rows = json.loads((output / "report.json").read_text())["scores"]
    assert {row["label"] for row in rows} == {"mean over labels", "tumour", "core"}


def test_clicked_voxels_hold_in_every_arm_that_listens(bench, finished):
    for unit_file in finished.rglob("iterative/seed_0/*.json"):
        unit = json.loads(unit_file.read_text())
        last = unit["steps"][-1]["clicks"]
        if last not in runner.KEPT or not last:
            continue
        label_map = runner.read_map(unit_file.with_suffix(".npz"), last)
        for step in unit["steps"][1:]:
            assert label_map[tuple(step["click"]["zyx"])] == step["click"]["label"]


def test_the_dice_in_the_results_is_that_of_the_label_maps(bench, finished):
    assert len(list(checked_units(finished, bench, {"lesion": (1,)}))) == 4 * 2 * 2  # arms, protocols, cases


def test_the_report_is_complete_and_stands_alone(bench, finished):
    page = (finished / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page.replace('href="#', "")), "nothing is loaded from elsewhere"
    assert page.count("<svg") == 3  # curves, and pairs of both protocols
    for arm in ARMS:
        assert arm in page
    markdown = (finished / "report.md").read_text()
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (finished / name).stat().st_size > 1000
    assert "nnsam3d benchmark run" in markdown or "commands" in markdown or "sha256" in markdown
    report = json.loads((finished / "report.json").read_text())
    costs = {row["arm"]: row for row in report["costs"]}
    assert [costs[arm]["kind"] for arm in ARMS] == ["sam", "clicks", "automatic", "oracle"]
    assert costs[ARMS[0]]["click_gflop"] < costs[ARMS[0]]["window_gflop"]
    assert costs[ARMS[2]]["gflop_per_case"] == pytest.approx(4 * costs[ARMS[2]]["window_gflop"])
    assert costs[ARMS[1]]["gflop_per_further_click"] == pytest.approx(4 * costs[ARMS[1]]["window_gflop"])
    assert 0 < costs[ARMS[0]]["gflop_per_further_click"] < costs[ARMS[0]]["gflop_per_case"]
    assert costs[ARMS[3]]["gflop_per_further_click"] == 0
    assert costs[ARMS[2]]["gflop_per_further_click"] is None
    assert costs[ARMS[1]]["parameters"] > costs[ARMS[2]]["parameters"] > 0
    assert all(row["training_seconds"] == 150 and row["epochs"] == 2 for row in costs.values())
    assert all(row["seconds_per_case"] > 0 and row["peak_memory_mb"] > 50 for row in costs.values())
    lines = list(csv.DictReader((finished / "report.csv").read_text().splitlines()))
    scores = [row for row in report["scores"] if (row["arm"], row["protocol"]) == (ARMS[0], "iterative")]
    for clicks in (0, 1):
        own = [float(r["dice"]) for r in lines if (r["arm"], r["protocol"]) == (ARMS[0], "iterative")
               and r["clicks"] == str(clicks)]  # fmt: skip
        assert scores[clicks]["dice"]["mean"] == pytest.approx(np.mean(own))
        assert scores[clicks]["dice"]["n"] == 2


def test_a_report_can_be_written_where_the_dataset_is_not_at_hand(bench, finished, tmp_path, monkeypatch):
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.delenv(f"nnUNet_{name}")
    assert main(["benchmark", "report", "-o", str(finished), "--to", str(tmp_path)]) == 0
    for name in ("report.json", "report.csv"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes()
    assert "overlays" not in (tmp_path / "report.md").read_text(), "there is no image to lay them over"
    assert "overlays" in (finished / "report.md").read_text()


def test_obedience_and_the_price_of_a_click_are_reported(bench, finished):
    report = json.loads((finished / "report.json").read_text())
    results = collect(read_setting(finished), finished)
    for row in report["curves"]:
        own = [one for one in results if (one.job.arm, one.job.protocol) == (row["arm"], "iterative")]
        assert set(row["obeyed"]) == {"1", "5"}, "there are no more than 5 clicks"
        if row["arm"] == ARMS[2]:
            assert row["obeyed"]["1"]["mean"] is None, "nothing to obey"
        else:
            shares = [one.step(1).obeyed for one in own]
            assert row["obeyed"]["1"]["mean"] == pytest.approx(np.mean([one for one in shares if one is not None]))
        dice = [one.steps[-1].scores["lesion"]["dice"] for one in own]
        assert row["end"]["dice_0.85"] == pytest.approx(np.mean(np.array(dice) >= 0.85))
    for name in ("report.md", "report.html"):
        text = (finished / name).read_text()
        for column in ("obeyed, 1 click", "obeyed, 5 clicks", "s per further click", "median Dice, 5 clicks"):
            assert column in text
    table = (finished / "report.md").read_text().split("**Obedience, cost and effect of clicks")[1].split("\n\n")[1]
    lines = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in table.splitlines()}
    assert lines[ARMS[2]][1:4] == ["–"] * 3
    assert all("–" not in lines[arm][1:4] for arm in (ARMS[0], ARMS[1], ARMS[3]))
    with (finished / "report.csv").open() as file:
        assert all((row["obeyed"] == "") == (row["clicks"] == "0") for row in csv.DictReader(file))


def test_results_of_an_earlier_version_are_reported_with_a_dash(bench, finished, tmp_path):
    """No "obeyed" in the units, no label map after two clicks."""
    old = tmp_path / "old"
    shutil.copytree(finished, old, ignore=shutil.ignore_patterns("figures", "report.*"))
    for path in old.rglob("seed_*/*.json"):
        unit = json.loads(path.read_text())
        unit["steps"] = [{key: step[key] for key in ("clicks", "click", "scores")} for step in unit["steps"]]
        path.write_text(json.dumps(unit))
    for path in old.rglob("seed_*/*.npz"):
        with np.load(path) as stored:
            maps = {n: stored[f"clicks_{n}"] for n in (0, 1, 3, 5) if f"clicks_{n}" in stored.files}
        runner.write_maps(path, maps)
    assert main(["benchmark", "report", "-o", str(old)]) == 0
    report = json.loads((old / "report.json").read_text())
    assert all(row["obeyed"]["mean"] is None for row in report["scores"])
    assert all(share["mean"] is None for row in report["curves"] for share in row["obeyed"].values())
    rows = [{**row, "obeyed": None} for row in report["scores"]]
    now = json.loads((finished / "report.json").read_text())["scores"]
    assert rows == [{**row, "obeyed": None} for row in now]
    markdown = (old / "report.md").read_text()
    assert re.search(r"\| SAM3DAdapterTrainer \| – \| – \| \d", markdown)
    assert "figures/corrections" not in markdown, "a map after one click must not pass for one after two"
    assert "figures/overlays" in markdown


def test_a_correction_is_pictured(bench, finished):
    """The picture is there, is no empty page, and is that of the protocol with corrections."""
    from matplotlib.image import imread

    (path,) = (finished / "figures").glob("corrections_*.png")
    assert path.name == f"corrections_{bench}_3d_fullres_iterative.png"
    assert f"(figures/{path.name})" in (finished / "report.md").read_text()
    picture = imread(path)[..., :3]
    height, width = picture.shape[:2]
    assert width > height, "two cases by two arms of three panels"
    assert (picture.std(-1) > 0.05).mean() > 0.02, "colours: answers, truth, clicks"
    panels = [picture[:, n * width // 6 : (n + 1) * width // 6] for n in range(6)]
    assert all((panel.std(-1) > 0.05).any() for panel in panels)


def test_cases_are_pictured_by_rank_before_any_click():
    before = {"a": 0.5, "b": 0.1, "c": 0.9, "d": None, "e": 0.7, "f": 0.3}
    for after in (0.0, 1.0):
        results = tuple(result_of(case, dice, after) for case, dice in before.items())
        chosen = quartile_cases(Group("D", "3d_fullres", "iterative", "arm", results, 5), 0)
        assert [one.case for one in chosen] == ["f", "a", "e"], "whatever comes of it"
    few = Group("D", "3d_fullres", "iterative", "arm", (result_of("a", 0.5, 0), result_of("b", 0.1, 0)), 5)
    assert [one.case for one in quartile_cases(few, 0)] == ["b", "a"]


def test_differences_are_the_references_minus_the_others(bench, finished):
    report = json.loads((finished / "report.json").read_text())
    means = {(r["arm"], r["protocol"], r["clicks"]): r["dice"]["mean"] for r in report["scores"]}
    checked = 0
    for row in report["differences"]:
        if row["metric"] != "dice" or row["arm"] == "nnUNetBaselineTrainer":
            continue
        expected = means[ARMS[0], row["protocol"], row["clicks"]] - means[row["arm"], row["protocol"], row["clicks"]]
        assert row["mean"] == pytest.approx(expected)
        assert row["p_corrected"] >= row["p"]
        checked += 1
    assert checked == 6  # two arms: 3 and 5 clicks of iterative, 1 of center
    tested = {protocol: {r["clicks"] for r in report["differences"] if r["protocol"] == protocol}
              for protocol in ("iterative", "center")}  # fmt: skip
    assert tested == {"iterative": {3, 5}, "center": {1}}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--arms", "nnUNetTrainer"], "nnUNetPlans.json is missing"),
        (["--arms", "nnUNetTrainr"], "cannot find the trainer nnUNetTrainr"),
        (["--arms", "nnUNetClickTrainer+oracle"], "for models without clicks"),
        (["--arms", "nnUNetClickTrainer", "nnUNetClickTrainer:nnUNetPlans"], "each arm may occur once"),
        (["-f", "all"], "trained on all cases"),
        (["-f", "5"], "folds 0 to 1"),
        (["-d", "777"], "777"),
        (["--train-minutes", "3"], "add --train"),
        (["--arms", "nnUNetTrainer", "--train", "--train-minutes", "3"], "cannot be trained for a number of minutes"),
        (["--protocols", "start", "--arms", "SAM3DAdapterTrainer"], "--start"),
        (["--protocols", "start", "--start", "nowhere"], "neither an arm of this run nor a folder"),
        (["--start", "nnUNetBaselineTrainer"], "no effect"),
        (["--arms", "clipped:nnUNetBaselineTrainer+oracle"], "clipped:TRAINER"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_computed(bench, here, tmp_path, capsys, extra, words):
    assert main([*arguments(bench, tmp_path / "bench"), *extra]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "bench" / "benchmark.json").exists(), "a mistake does not bind the folder"


def test_missing_monai_is_said_before_hours_of_training(bench, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(metrics.importlib.util, "find_spec", lambda _: None)
    assert main([*arguments(bench, tmp_path / "bench"), "--train"]) == 1
    assert "pip install monai" in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()


def test_a_failed_job_names_arm_and_case_and_the_others_are_done(bench, here, tmp_path, monkeypatch, capsys):
    """An arm that breaks on one case: in a process of its own, as every job."""
    real = runner._click

    def broken(setting, job, truth, *others):
        if job.arm == ARMS[1] and truth.case == "d":
            raise ValueError("of no value")
        return real(setting, job, truth, *others)

    def start_guarded(target, arguments):
        process = Ended()
        try:
            target(*arguments)
        except SystemExit as error:
            process.exitcode = error.code
        return process

    monkeypatch.setattr(runner, "_click", broken)
    monkeypatch.setattr(local, "start", start_guarded)
    few = ["--arms", *ARMS[1:3], "--protocols", "iterative", "--seeds", "0"]
    assert main([*arguments(bench, tmp_path / "bench"), *few]) == 1
    told = capsys.readouterr().err
    assert "1 of 2 jobs failed" in told
    assert "nnUNetClickTrainer_iterative_" in told
    assert "case d: ValueError: of no value" in told
    done = {path.parent.parent.parent.name for path in (tmp_path / "bench").rglob("seed_0/*.json")}
    assert done == set(ARMS[1:3])
    monkeypatch.setattr(runner, "_click", real)
    assert main([*arguments(bench, tmp_path / "bench"), *few]) == 0


def test_another_setting_does_not_mix_with_an_old_run(bench, finished, capsys):
    assert main([*arguments(bench, finished), "--seeds", "1"]) == 1
    assert "another setting (seeds: 0 7 there, 1 now)" in capsys.readouterr().err


def test_training_cases_are_refused_as_tests_even_under_another_name(bench, bench_folders, here, tmp_path, capsys):
    raw = Path(bench_folders["nnUNet_raw"]) / bench
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    (images / "new_0000.nii.gz").write_bytes((raw / "imagesTr/a_0000.nii.gz").read_bytes())
    (labels / "new.nii.gz").write_bytes((raw / "labelsTr/a.nii.gz").read_bytes())
    test = ["--test-images", str(images), "--test-labels", str(labels)]
    assert main([*arguments(bench, tmp_path / "bench"), *test]) == 1
    assert "is a training case" in capsys.readouterr().err
    for arm in ("starter", "ellipsoid"):  # not trained on anything of this dataset
        setting = Setting((bench,), ("3d_fullres",), ("0",), (arm,), ("box",), test_images=test[1], test_labels=test[3])
        assert [case.name for case in cases_of(setting, setting.jobs()[0])] == ["new"]


def test_a_fold_that_trained_on_its_own_validation_cases_is_refused(bench, bench_folders, monkeypatch, tmp_path):
    folder = tmp_path / "preprocessed" / bench
    folder.mkdir(parents=True)
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["a", "c"], "val": ["c", "d"]}]))
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    job = Job(bench, "3d_fullres", "0", ARMS[0], "iterative")
    with pytest.raises(UserError, match="c are in training and validation"):
        cases_of(Setting((bench,), ("3d_fullres",), ("0",), ARMS, ("iterative",)), job)
