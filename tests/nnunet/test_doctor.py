"""`nnsam3d doctor`: each check on a healthy and on an ill installation."""

from __future__ import annotations

import os
import re
import shutil
import types
from importlib import metadata
from pathlib import Path

import pytest

from nnsam3d import cli
from nnsam3d.nnunet import doctor, link
from nnsam3d.nnunet.findings import Finding, numbers, one_line, render, try_import


def levels(findings) -> list[str]:
    return [finding.level for finding in findings]


def only_problem(findings) -> Finding:
    (found,) = [finding for finding in findings if finding.level == "problem"]
    assert found.fix, "every problem has its fix"
    return found


def pretend_imports(monkeypatch: pytest.MonkeyPatch, **modules: object) -> None:
    """Let the doctor import stand-ins: a module, or an error to raise."""

    def fake(name: str):
        found = modules.get(name.replace(".", "_"))
        if isinstance(found, Exception):
            return None, one_line(found)
        return (found, "") if found is not None else try_import(name)

    monkeypatch.setattr(doctor, "try_import", fake)


def fake_torch(version: str = "2.8.0", cuda: str | None = None) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        __version__=version,
        tensor=lambda data: data,
        ones=lambda n: [1.0] * n,
        version=types.SimpleNamespace(cuda=cuda),
        cuda=types.SimpleNamespace(is_available=lambda: False),
    )


def fake_torchvision(error: Exception | None = None) -> types.SimpleNamespace:
    def nms(*args):
        if error:
            raise error

    return types.SimpleNamespace(ops=types.SimpleNamespace(nms=nms))


# ---- versions ----


def test_python(monkeypatch):
    assert "problem" not in levels(doctor.check_python())
    monkeypatch.setattr(doctor, "MIN_PYTHON", (99, 0))
    assert "too old" in only_problem(doctor.check_python()).text


def test_nnsam3d_not_installed_or_another_version(monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert "without being installed" in only_problem(doctor.check_python()).text
    monkeypatch.setattr(doctor, "version_of", lambda name: "0.0.1")
    assert "version 0.0.1 is installed" in only_problem(doctor.check_python()).text


def test_torch_and_torchvision_that_fit(monkeypatch):
    pretend_imports(monkeypatch, torch=fake_torch(), torchvision=fake_torchvision())
    assert levels(doctor.check_torch()) == ["ok", "ok"]


def test_torchvision_built_for_another_torch(monkeypatch):
    error = RuntimeError("operator torchvision::nms does not exist")
    pretend_imports(monkeypatch, torch=fake_torch(), torchvision=error)
    found = only_problem(doctor.check_torch())
    assert "torchvision::nms does not exist" in found.text
    assert "torch torchvision" in found.fix

    pretend_imports(monkeypatch, torch=fake_torch(), torchvision=fake_torchvision(error))
    assert "torchvision::nms does not exist" in only_problem(doctor.check_torch()).text


def test_torch_missing_or_old(monkeypatch):
    pretend_imports(monkeypatch, torch=ModuleNotFoundError("No module named 'torch'"))
    assert "does not import" in only_problem(doctor.check_torch()).text
    pretend_imports(monkeypatch, torch=fake_torch("2.1.2+cu121"), torchvision=fake_torchvision())
    assert "too old" in only_problem(doctor.check_torch()).text


@pytest.mark.parametrize("version", ["2.6.4", "2.7.0", "2.9.0", "3.0.0"])
def test_nnunet_of_the_wrong_version(monkeypatch, version):
    monkeypatch.setattr(doctor, "version_of", lambda name: version)
    found = only_problem(doctor.check_nnunet())
    assert version in found.text
    assert "nnunetv2>=2.8,<2.9" in found.fix


def test_nnunet_missing_or_broken(monkeypatch):
    monkeypatch.setattr(doctor, "version_of", lambda name: None)
    assert "not installed" in only_problem(doctor.check_nnunet()).text
    monkeypatch.setattr(doctor, "version_of", lambda name: "2.8.1")
    pretend_imports(monkeypatch, nnunetv2_training_nnUNetTrainer_nnUNetTrainer=ImportError("no"))
    assert "does not import" in only_problem(doctor.check_nnunet()).text


def test_other_packages(monkeypatch):
    needed = {re.split("[>=<]", one)[0] for one in metadata.requires("nnsam3d") or () if "extra" not in one}
    assert needed <= {"torch", "nnunetv2", *doctor.OTHER_PACKAGES}
    monkeypatch.setattr(doctor, "OTHER_PACKAGES", {"numpy": "numpy"})
    assert levels(doctor.check_other_packages()) == ["ok"]
    monkeypatch.setattr(doctor, "OTHER_PACKAGES", {"no-such-thing": "no_such_thing"})
    assert only_problem(doctor.check_other_packages()).fix == "pip install no-such-thing"


def test_numbers():
    assert numbers("2.8.1+cu121") == (2, 8, 1)
    assert numbers("2.10.0a0") == (2, 10, 0)
    assert numbers("unknown") == ()
    assert numbers("2.10") > numbers("2.9.1")


# ---- registration ----


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """An nnU-Net and a trainers folder with one trainer; nnU-Net's search succeeds."""
    nnunet, trainers, planners = tmp_path / "nnunetv2", tmp_path / "trainers", tmp_path / "planners"
    for folder in (*(nnunet / target for target in link.TARGET_FOLDERS.values()), trainers, planners):
        folder.mkdir(parents=True)
    (trainers / "One.py").write_text("class One: ...\n")
    folders = {"nnsam3d.trainers": trainers, "nnsam3d.planners": planners, "nnunetv2": nnunet}
    monkeypatch.setattr(link, "package_folder", lambda package: folders[package])
    monkeypatch.setattr(link, "nnunet_folder", lambda: nnunet)
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    asked: list[str] = []
    finder = types.SimpleNamespace(recursive_find_trainer_class_by_name=asked.append)
    pretend_imports(monkeypatch, nnunetv2_utilities_find_objects=finder)
    return types.SimpleNamespace(nnunet=nnunet, trainers=trainers, asked=asked, finder=finder)


def test_neither_linked_nor_external(installation):
    found = only_problem(doctor.check_link())
    assert found.fix.startswith("nnsam3d link")
    assert "nnUNet_extTrainer=$(nnsam3d link --print-path)" in found.fix


def test_linked(installation):
    link.link(installation.nnunet, link.registered(installation.nnunet))
    assert levels(doctor.check_link()) == ["ok"]
    assert installation.asked == ["One"]


def test_external(installation, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(installation.trainers))
    assert levels(doctor.check_link()) == ["ok"]
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(["/no/such", str(installation.trainers)]))
    assert levels(doctor.check_link()) == ["note", "ok"]
    monkeypatch.setenv("nnUNet_extTrainer", "/no/such")
    assert levels(doctor.check_link()) == ["note", "problem"]


def test_stale_and_missing_stubs(installation):
    link.link(installation.nnunet, link.registered(installation.nnunet))
    (installation.trainers / "Two.py").write_text("class Two: ...\n")
    found = only_problem(doctor.check_link())
    assert (found.text, found.fix) == ("not yet linked into nnU-Net: Two", "nnsam3d link")
    (installation.trainers / "One.py").unlink()
    assert "another version" in only_problem(doctor.check_link()).text


def test_a_trainer_that_does_not_load(installation, monkeypatch):
    link.link(installation.nnunet, link.registered(installation.nnunet))

    def fail(name):
        raise ImportError("something under it is missing")

    monkeypatch.setattr(installation.finder, "recursive_find_trainer_class_by_name", fail)
    assert "something under it is missing" in only_problem(doctor.check_link()).text


def test_a_search_that_does_not_import(installation, monkeypatch):
    link.link(installation.nnunet, link.registered(installation.nnunet))
    pretend_imports(monkeypatch, nnunetv2_utilities_find_objects=ImportError("no"))
    assert "search for trainers does not import" in only_problem(doctor.check_link()).text


def test_no_trainers_at_all(installation):
    shutil.rmtree(installation.trainers)
    installation.trainers.mkdir()
    assert "contains no trainer" in only_problem(doctor.check_link()).text


# ---- environment ----


def test_folders(monkeypatch, tmp_path):
    for variable in doctor.FOLDERS:
        monkeypatch.setenv(variable, str(tmp_path))
    assert levels(doctor.check_folders()) == ["ok", "ok", "ok"]

    monkeypatch.delenv("nnUNet_results")
    assert "nnUNet_results is not set" in only_problem(doctor.check_folders()).text
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "missing"))
    assert only_problem(doctor.check_folders()).fix == 'mkdir -p "$nnUNet_results"'


def test_folders_that_cannot_be_written(monkeypatch, tmp_path):
    for variable in doctor.FOLDERS:
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert levels(doctor.check_folders()) == ["note", "problem", "problem"]


def test_options(monkeypatch):
    monkeypatch.delenv("nnsam3d_options", raising=False)
    assert levels(doctor.check_options()) == ["ok"]
    monkeypatch.setenv("nnsam3d_options", "preset=tiny num_epochs=20")
    assert levels(doctor.check_options()) == ["ok"]
    monkeypatch.setenv("nnsam3d_options", "prest=tiny")
    assert "prest" in only_problem(doctor.check_options()).text


def test_weights(monkeypatch, tmp_path):
    monkeypatch.delenv("NNSAM3D_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert levels(doctor.check_weights()) == ["note"]
    monkeypatch.setenv("NNSAM3D_WEIGHTS", str(tmp_path))
    (tmp_path / "a_name_that_no_training_looks_for.pth").touch()
    assert levels(doctor.check_weights()) == ["note"]
    (tmp_path / "sam_vit_b_01ec64.pth").write_bytes(b"0")
    (found,) = doctor.check_weights()
    assert (found.level, "vit_b" in found.text) == ("ok", True)
    monkeypatch.setenv("NNSAM3D_WEIGHTS", str(tmp_path / "sam_vit_b_01ec64.pth"))
    assert levels(doctor.check_weights()) == ["ok"]
    monkeypatch.setenv("NNSAM3D_WEIGHTS", str(tmp_path / "other.pth"))
    assert "does not exist" in only_problem(doctor.check_weights()).text


def test_device(monkeypatch):
    pretend_imports(monkeypatch, torch=fake_torch())
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    (found,) = doctor.check_device()
    assert found.level == "note"
    assert "-device cpu" in found.fix
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert "OMP_WAIT_POLICY" in list(doctor.check_device())[-1].text


def test_device_with_a_gpu(monkeypatch):
    torch = fake_torch(cuda="12.6")
    torch.cuda = types.SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        get_device_properties=lambda index: types.SimpleNamespace(name="GPU", total_memory=80 * 2**30),
    )
    pretend_imports(monkeypatch, torch=torch)
    (found,) = doctor.check_device()
    assert found == Finding("ok", "cuda:0: GPU, 80 GiB")


# ---- the report ----


@pytest.mark.parametrize(("free_MiB", "level"), [(0, "problem"), (64, "problem"), (512, "note"), (8192, "ok")])
def test_shared_memory(monkeypatch, tmp_path, free_MiB, level):
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    usage = types.SimpleNamespace(total=64 * 2**20, used=0, free=free_MiB * 2**20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage)
    (found,) = doctor.check_workers()
    assert found.level == level
    assert f"{free_MiB} of 64 MiB" in found.text
    assert ("--shm-size" in found.fix) == (level != "ok")
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "missing")
    assert list(doctor.check_workers()) == [], "not on this system"


@pytest.mark.parametrize("count", ["0", "-1", "two", ""])
def test_a_number_of_workers_with_which_nnunet_stops(monkeypatch, tmp_path, count):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "missing")
    monkeypatch.setenv("nnUNet_n_proc_DA", count)
    assert f"nnUNet_n_proc_DA={count}:" in only_problem(doctor.CHECKS["workers"]()).text
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    assert levels(doctor.check_workers()) == []


def test_a_failing_check_takes_no_other_with_it():
    def broken():
        raise OSError("disk gone")
        yield

    def fine():
        yield Finding("ok", "fine")

    found = list(doctor.examine({"broken": broken, "fine": fine}))
    assert [finding.level for _, finding in found] == ["problem", "ok"]
    assert "disk gone" in found[0][1].text


def test_report_and_exit_status(monkeypatch, capsys):
    def check(*findings):
        monkeypatch.setattr(doctor, "CHECKS", {"only": lambda: iter(findings)})

    check(Finding("ok", "fine"), Finding("note", "by the way", "do this"))
    assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:3] == ["[ ok ] fine", "[note] by the way", "       hint: do this"]
    assert cli.main(["doctor", "--quiet"]) == 0
    assert capsys.readouterr().out == ""

    check(Finding("ok", "fine"), Finding("problem", "ill", "a pill"))
    assert cli.main(["doctor", "--quiet"]) == 1
    said = capsys.readouterr().out
    assert said.startswith("[FAIL] ill\n       fix: a pill\n")
    assert "1 problem found." in said


def test_render_without_a_cure():
    assert render(Finding("note", "so it is")) == "[note] so it is"
