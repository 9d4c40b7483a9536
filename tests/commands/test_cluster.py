"""`nnsam3d cluster` and `nnsam3d predict --slurm`: what is submitted, with stand-ins for SLURM's programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nnsam3d.cli import main
from nnsam3d.nnunet.link import trainers_folder
from nnsam3d.prompts.targets import class_agnostic

DATASET = "Dataset999_Test"


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's, with seven preprocessed cases."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name / DATASET).mkdir(parents=True)
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    monkeypatch.delenv("nnsam3d_options", raising=False)
    monkeypatch.setenv("nnUNet_extTrainer", str(trainers_folder()))
    data = tmp_path / "preprocessed" / DATASET / "data"
    data.mkdir()
    for number in range(7):
        (data / f"case_{number}.b2nd").touch()
        (data / f"case_{number}_seg.b2nd").touch()
    configurations = {"3d_fullres": {"data_identifier": "data", "architecture": {}}}
    (data.parent / "nnUNetPlans.json").write_text(json.dumps({"configurations": configurations}))
    return tmp_path


def told(fake_slurm: Path) -> list[str]:
    path = fake_slurm / "told_sbatch"
    lines = path.read_text().splitlines() if path.is_file() else []
    path.unlink(missing_ok=True)
    return [" ".join(Path(word).name if "/" in word else word for word in line.split()[1:]) for line in lines]


def train(*more: str) -> int:
    return main(["cluster", "train", "999", "3d_fullres", "--slurm", "partition=gpu", *more])


def finish(folders: Path, *folds: int) -> Path:
    model = folders / "results" / DATASET / "SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    for fold in folds:
        (model / f"fold_{fold}" / "validation").mkdir(parents=True)
        (model / f"fold_{fold}" / "checkpoint_final.pth").touch()
        (model / f"fold_{fold}" / "validation" / "summary.json").touch()
    return model


def test_folds_are_an_array_and_what_is_done_or_in_the_queue_is_not_submitted(folders, fake_slurm, capsys):
    model = finish(folders, 1)
    assert train("--slurm-max", "3", "--find_best") == 0
    assert told(fake_slurm) == [
        "--array=0,2-4%3 train.sh",
        "--dependency=afterok:100 --kill-on-invalid-dep=yes find_best.sh",
    ]
    text = (model / "slurm" / "train.sh").read_text()
    assert (
        f'{DATASET} 3d_fullres "$SLURM_ARRAY_TASK_ID" -tr SAM3DAdapterTrainer -p nnUNetPlans -device cuda --c &' in text
    )
    queue = ("100_0 RUNNING None", "100_2 FAILED None", "100_3 PENDING None", "100_4 RUNNING None")
    (fake_slurm / "queue").write_text("\n".join(queue))
    assert train("--find_best") == 0
    assert told(fake_slurm) == [
        "--array=2 train.sh",
        "--dependency=afterok:100_0:100_3:100_4:102 --kill-on-invalid-dep=yes find_best.sh",
    ], "it does not wait for the failed one"
    finish(folders, 0, 2, 3, 4)
    (fake_slurm / "queue").write_text("")
    assert train("--find_best") == 0
    assert told(fake_slurm) == ["find_best.sh"]
    assert "all folds are trained" in capsys.readouterr().out


def test_other_clusters_get_the_commands_themselves(folders, fake_slurm, capsys):
    model = finish(folders, 1, 2)
    command = ["cluster", "train", "999", "3d_fullres", "-f", "0", "1", "all"]
    assert main([*command, "--print"]) == 0
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if not line.startswith(("export ", "# "))]
    assert f"export nnUNet_raw={folders / 'raw'}" in printed
    assert [line.partition("nnUNetv2_train ")[2].split()[:3] for line in lines] == [
        [DATASET, "3d_fullres", "0"],
        [DATASET, "3d_fullres", "all"],
    ]
    assert main(command) == 1
    assert "--slurm TEXT is missing" in capsys.readouterr().err
    done = ["cluster", "train", "999", "3d_fullres", "-f", "1", "2", "--print"]
    assert main(done) == 0
    assert capsys.readouterr().out == "# nnsam3d: nothing to submit: all folds are trained\n"
    assert main([*done, "--npz"]) == 0
    assert capsys.readouterr().out.count("nnUNetv2_train") == 2, "validated, but without probabilities"
    for fold in (1, 2):
        for name in ("a.nii.gz", "b.nii.gz", "a.npz", "a.pkl", "b.npz")[: 3 + 2 * (fold == 1)]:
            (model / f"fold_{fold}" / "validation" / name).touch()
    assert main([*done, "--npz"]) == 0
    assert capsys.readouterr().out.count("nnUNetv2_train") == 1, "one probability map is missing"
    assert told(fake_slurm) == []


def test_splits_are_there_before_anything_is_submitted_and_are_nnunets(folders, fake_slurm):
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    assert train("--print") == 0
    path = folders / "preprocessed" / DATASET / "splits_final.json"
    theirs = generate_crossval_split([f"case_{number}" for number in range(7)], seed=12345, n_splits=5)
    assert json.loads(path.read_text()) == [{key: list(map(str, split[key])) for key in split} for split in theirs]
    path.write_text("[]")
    assert train("--print") == 0
    assert path.read_text() == "[]", "a user's own splits stay"
    assert told(fake_slurm) == []


def test_a_training_that_skips_its_validation_is_finished_without_it(folders, fake_slurm, capsys, monkeypatch):
    model = finish(folders, 0)
    (model / "fold_0" / "validation" / "summary.json").unlink()
    command = ["cluster", "train", "999", "3d_fullres", "-f", "0", "--print"]
    for plans, options, done in (
        ({}, "", False),
        ({"final_validation": 0}, "", True),
        ({"final_validation": 0}, "final_validation=1", False),
        ({}, "final_validation=0", True),
    ):
        (model / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {"nnsam3d": plans}}}))
        monkeypatch.setenv("nnsam3d_options", options)
        assert main(command) == 0
        assert ("all folds are trained" in capsys.readouterr().out) == done, (plans, options)


def test_a_class_agnostic_training_is_finished_without_a_validation(folders, fake_slurm, capsys):
    model = finish(folders, 0)
    (model / "fold_0" / "validation" / "summary.json").unlink()
    own = {"labels": {"background": 0, "organ": 1}, "nnsam3d": {"inside": {}}}
    for dataset_json, done in ((own, False), (class_agnostic(own), True)):
        (model / "dataset.json").write_text(json.dumps(dataset_json))
        assert main(["cluster", "train", "999", "3d_fullres", "-f", "0", "--print"]) == 0
        assert ("all folds are trained" in capsys.readouterr().out) == done


def test_what_would_end_every_job_is_found_before(folders, fake_slurm, capsys, monkeypatch):
    assert train("-tr", "FooTrainer") == 1
    assert "nnU-Net cannot find this trainer" in capsys.readouterr().err
    monkeypatch.setenv("nnsam3d_options", "presett=tiny")
    assert train() == 1
    assert "presett" in capsys.readouterr().err
    monkeypatch.delenv("nnsam3d_options")
    monkeypatch.setattr("nnsam3d.nnunet.link.stubs_in", lambda nnunet: [])
    monkeypatch.delenv("nnUNet_extTrainer")
    assert train() == 1
    assert "fix: nnsam3d link" in capsys.readouterr().err
    assert told(fake_slurm) == []


def test_printed_commands_wait_for_the_trainings(folders, fake_slurm, capsys):
    assert train("--find_best", "--print", "-f", "0", "1") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("train=$(sbatch --parsable --array=0-1 ")
    assert '"--dependency=afterok:$train"' in last


def test_mistakes_are_told(folders, fake_slurm, capsys):
    for arguments, words in (
        (("-f", "x"), "a fold must be a number or all"),
        (("-f", "all", "--find_best"), "needs validation cases"),
        (("-p", "P2"), "P2.json is missing"),
    ):
        assert train(*arguments) == 1
        assert words in capsys.readouterr().err
    assert train("-f", "all", "0") == 0
    assert told(fake_slurm) == ["--array=0 train.sh", "train_all.sh"]


def test_a_prediction_is_an_array_of_parts_and_a_report(folders, fake_slurm, tmp_path, capsys):
    images, prompts = tmp_path / "images", tmp_path / "my clicks"
    images.mkdir()
    prompts.mkdir()
    model = finish(folders, 0)
    (model / "dataset.json").write_text("{}")
    (model / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {}}}))
    command = ["predict", "-i", str(images), "-o", str(tmp_path / "out"), "-d", "999", "-c", "3d_fullres", "-f", "0"]
    command += ["--prompts", str(prompts), "--disable_tta", "-num_parts", "3", "--slurm", "partition=gpu"]
    assert main(command) == 0
    assert told(fake_slurm) == [
        "--array=0-2 predict.sh",
        "--dependency=afterany:100 --kill-on-invalid-dep=yes merge.sh",
    ]
    text = (tmp_path / "out" / "slurm" / "predict.sh").read_text()
    assert f"-m {model} -f 0 -chk checkpoint_final.pth --scope clicked -step_size 0.5 -device auto" in text
    assert f"--prompts '{prompts}' --disable_tta --continue_prediction -num_parts 3 -part_id" in text
    (fake_slurm / "queue").write_text("100_1 RUNNING None\n")
    assert main(command) == 1
    assert "already being predicted by the jobs 100_1: wait" in capsys.readouterr().err
    (fake_slurm / "queue").write_text("")
    (tmp_path / "out" / "slurm" / "part_1.json").write_text(json.dumps(report(["case_1"])))
    assert main(command) == 0
    assert json.loads((tmp_path / "out" / "slurm" / "part_1.json").read_text())["outdated"]
    told(fake_slurm)
    assert main([*command, "-f", "3"]) == 1
    (model / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {"nnsam3d": {"targets": "any"}}}}))
    assert main(command) == 1
    assert "specify --labels" in capsys.readouterr().err
    assert told(fake_slurm) == [], "nothing that must fail is submitted"


def report(cases: list[str], failed: str = "") -> dict[str, Any]:
    entries = [{"case": case, "status": "failed" if case == failed else "done", "error": case} for case in cases]
    return {
        "arguments": {"part_id": 1, "scope": "clicked"},
        "device": "cpu",
        "seconds": 2.0,
        "versions": {},
        "cases": entries,
    }


def test_parts_are_merged_in_the_order_of_one_command(tmp_path, capsys):
    names = [f"case_{number}" for number in range(8)]
    parts = [tmp_path / f"part_{part}.json" for part in range(3)]
    for number, part in enumerate(parts):
        part.write_text(json.dumps(report(names[number::3])))
    assert main(["cluster", "merge", str(tmp_path / "report.json"), *map(str, parts)]) == 0
    merged = json.loads((tmp_path / "report.json").read_text())
    assert [case["case"] for case in merged["cases"]] == names
    assert (merged["seconds"], merged["arguments"], len(merged["parts"])) == (6.0, {"scope": "clicked"}, 3)
    parts[1].write_text(json.dumps(report(names[1::3], failed="case_4")))
    parts[2].write_text(json.dumps(report(names[2::3]) | {"outdated": True}))  # of an earlier run
    assert main(["cluster", "merge", str(tmp_path / "report.json"), *map(str, parts)]) == 1
    told = capsys.readouterr().err
    assert "failed: case_4" in told
    assert f"a part has left no report: {parts[2]}" in told
