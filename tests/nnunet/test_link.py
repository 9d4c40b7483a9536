"""`nnsam3d link`, on copies: the installed nnunetv2 is never written to."""

from __future__ import annotations

import ast
import builtins
import errno
import importlib
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnsam3d import cli
from nnsam3d.errors import UserError
from nnsam3d.nnunet import link

TRAINER_FOLDER = "training/nnUNetTrainer"
PLANNER_FOLDER = "experiment_planning/experiment_planners"


@pytest.fixture
def nnunet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nnunetv2 of the right shape, which `link` takes for the installed one."""
    folder = tmp_path / "site-packages" / "nnunetv2"
    for name in (TRAINER_FOLDER, PLANNER_FOLDER):
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").touch()
    (folder / TRAINER_FOLDER / "nnUNetTrainer.py").write_text("class nnUNetTrainer: ...\n")
    (folder / "__init__.py").touch()
    monkeypatch.setattr(link, "nnunet_folder", lambda: folder)
    return folder


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Stand-ins for nnsam3d.trainers and nnsam3d.planners: one of each."""
    folders = {"nnsam3d.trainers": tmp_path / "trainers", "nnsam3d.planners": tmp_path / "planners"}
    for folder in folders.values():
        folder.mkdir()
        (folder / "__init__.py").write_text("class NotThis: ...\n")
    (folders["nnsam3d.trainers"] / "Trained.py").write_text("class Trained: ...\nclass _Helper: ...\n")
    (folders["nnsam3d.planners"] / "Planned.py").write_text("from somewhere import Planned, Other\n")
    monkeypatch.setattr(link, "package_folder", lambda package: folders[package])
    return folders


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_link_writes_a_stub_for_each_class_and_undo_takes_exactly_them_back(nnunet, packages, capsys):
    before = files_of(nnunet)

    assert cli.main(["link"]) == 0
    trainer_stub = nnunet / TRAINER_FOLDER / "nnsam3d_Trained.py"
    planner_stub = nnunet / PLANNER_FOLDER / "nnsam3d_Planned.py"
    assert set(files_of(nnunet)) - set(before) == {str(s.relative_to(nnunet)) for s in (trainer_stub, planner_stub)}
    said = capsys.readouterr().out
    assert str(trainer_stub) in said
    assert str(planner_stub) in said
    assert "from nnsam3d.trainers.Trained import Trained  # noqa" in trainer_stub.read_text()
    assert "from nnsam3d.planners.Planned import Planned  # noqa" in planner_stub.read_text()

    assert cli.main(["link", "--undo"]) == 0
    assert files_of(nnunet) == before
    assert str(trainer_stub) in capsys.readouterr().out


def test_link_twice_changes_nothing(nnunet, packages, capsys):
    cli.main(["link"])
    first = {f: f.stat().st_mtime_ns for f in nnunet.rglob("*.py")}
    capsys.readouterr()

    assert cli.main(["link"]) == 0
    assert {f: f.stat().st_mtime_ns for f in nnunet.rglob("*.py")} == first
    assert "wrote" not in capsys.readouterr().out


def test_link_renews_old_stubs_and_drops_those_without_a_class(nnunet, packages):
    old = nnunet / TRAINER_FOLDER / "nnsam3d_Trained.py"
    gone = nnunet / TRAINER_FOLDER / "nnsam3d_Gone.py"
    for stub in (old, gone):
        stub.write_text(f"{link.MARKER}\nfrom nnsam3d.trainers.Gone import Gone\n")

    assert cli.main(["link"]) == 0
    assert "Trained" in old.read_text()
    assert not gone.exists()


def test_undo_leaves_other_peoples_files_alone(nnunet, packages, capsys):
    foreign = nnunet / TRAINER_FOLDER / "nnsam3d_mine.py"
    foreign.write_text("# my own trainer\n")

    assert cli.main(["link", "--undo"]) == 0
    assert foreign.exists()
    assert "Nothing to undo" in capsys.readouterr().out


def test_link_does_not_overwrite_another_persons_file(nnunet, packages, capsys):
    foreign = nnunet / TRAINER_FOLDER / "nnsam3d_Trained.py"
    foreign.write_text("# my own trainer\n")
    before = files_of(nnunet)

    assert cli.main(["link"]) == 1
    assert str(foreign) in capsys.readouterr().err
    assert files_of(nnunet) == before


@pytest.mark.parametrize("refused", [PLANNER_FOLDER, TRAINER_FOLDER])
def test_a_read_only_nnunet_is_an_error_that_tells_the_other_way(nnunet, packages, monkeypatch, capsys, refused):
    before = files_of(nnunet)
    real_replace = os.replace

    def replace(source, target):
        if refused in str(target):
            raise PermissionError(errno.EROFS, "Read-only file system", str(target))
        real_replace(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert cli.main(["link"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("nnsam3d: error: cannot write into the installed nnU-Net")
    assert "Read-only file system" in said
    assert "nnUNet_extTrainer=$(nnsam3d link --print-path)" in said
    assert "Traceback" not in said
    assert files_of(nnunet) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into read-only folders")
def test_a_folder_without_write_permission(nnunet, packages, capsys):
    folder = nnunet / TRAINER_FOLDER
    folder.chmod(0o555)
    try:
        assert cli.main(["link"]) == 1
    finally:
        folder.chmod(0o755)
    assert "nnUNet_extTrainer" in capsys.readouterr().err


def test_a_folder_that_cannot_be_one(nnunet, packages, capsys):
    shutil.rmtree(nnunet / PLANNER_FOLDER)
    (nnunet / PLANNER_FOLDER).write_text("a file where the folder should be")
    before = files_of(nnunet)

    assert cli.main(["link"]) == 1
    assert "cannot write into" in capsys.readouterr().err
    assert files_of(nnunet) == before


def test_an_incomplete_nnunet_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(link, "package_folder", lambda package: tmp_path)
    with pytest.raises(UserError, match="not a complete nnunetv2"):
        link.nnunet_folder()


def test_a_missing_package_is_named():
    with pytest.raises(UserError, match="not installed"):
        link.package_folder("nnsam3d_that_is_nowhere")
    with pytest.raises(UserError, match="not installed"):
        link.package_folder("nnsam3d_that_is_nowhere.trainers")


@pytest.mark.parametrize("entry", link.registered(link.nnunet_folder()), ids=lambda entry: entry.name)
def test_each_module_is_named_after_its_class(entry):
    file = Path(*entry.module.split(".")[1:]).with_suffix(".py")
    assert f'__all__ = ["{entry.name}"]' in (Path(__file__).parents[2] / file).read_text()


# ---- The stub itself ----


def stub_for(tmp_path: Path, module: str) -> Path:
    stub = tmp_path / "stub.py"
    stub.write_text(link.Registered(module, stub).text)
    ast.parse(stub.read_text())
    return stub


def test_a_stub_is_harmless_once_nnsam3d_is_gone(tmp_path, monkeypatch):
    stub = stub_for(tmp_path, "nnsam3d.trainers.Nowhere")
    assert "Nowhere" not in runpy.run_path(str(stub))  # the class went with an update

    real_import = builtins.__import__

    def without_nnsam3d(name, *args, **kwargs):
        if name.partition(".")[0] == "nnsam3d":
            raise ModuleNotFoundError("No module named 'nnsam3d'", name="nnsam3d")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_nnsam3d)
    assert "Nowhere" not in runpy.run_path(str(stub))


def test_a_stub_is_harmless_when_the_class_left_its_module(tmp_path):
    stub = stub_for(tmp_path, "nnsam3d.trainers")
    assert "trainers" not in runpy.run_path(str(stub))


def test_a_stub_hides_no_other_missing_package(tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import a_package_that_is_nowhere\n")
    monkeypatch.setitem(sys.modules, "nnsam3d.trainers.broken", None)
    monkeypatch.delitem(sys.modules, "nnsam3d.trainers.broken")
    monkeypatch.setattr(importlib.import_module("nnsam3d.trainers"), "__path__", [str(tmp_path)])
    stub = stub_for(tmp_path, "nnsam3d.trainers.broken")
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_nowhere"):
        runpy.run_path(str(stub))


# ---- Through nnU-Net's own search ----

FINDER = """
import sys
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
{preparation}
found = recursive_find_python_class({arguments})
print(found.__module__, found.__name__)
"""


def find_in_a_process(preparation: str, arguments: str, **environment: str) -> str:
    script = FINDER.format(preparation=preparation, arguments=arguments)
    result = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


@pytest.fixture
def dummy_trainers(tmp_path: Path) -> Path:
    """A trainers folder whose trainer costs nothing to import."""
    folder = tmp_path / "dummy_trainers"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "DummyTrainer.py").write_text("class DummyTrainer:\n    pass\n")
    return folder


def test_nnunets_search_finds_a_linked_class(nnunet, dummy_trainers):
    """nnU-Net's real search walks a folder with our stub, and comes to the class in nnsam3d."""
    stub = nnunet / TRAINER_FOLDER / "nnsam3d_DummyTrainer.py"
    entry = link.Registered("nnsam3d.trainers.DummyTrainer", stub)
    assert link.link(nnunet, [entry]) == ([stub], [])

    folder = nnunet / TRAINER_FOLDER
    found = find_in_a_process(
        f"import nnsam3d.trainers; nnsam3d.trainers.__path__.append({str(dummy_trainers)!r})",
        f"{str(folder)!r}, 'DummyTrainer', None",
    )
    assert found == "nnsam3d.trainers.DummyTrainer DummyTrainer"


def test_nnunets_search_finds_a_class_through_ext_trainer(dummy_trainers):
    found = find_in_a_process(
        "",
        f"{str(dummy_trainers)!r}, 'DummyTrainer', None, cleanup_imports_from_base_folder=True",
    )
    assert found == "DummyTrainer DummyTrainer"


@pytest.mark.e2e
def test_nnunet_finds_the_real_trainer(tmp_path):
    """The trainer itself, by the function that nnU-Net's commands call, in a copy of nnunetv2."""
    site = tmp_path / "site"
    shutil.copytree(link.nnunet_folder(), site / "nnunetv2", ignore=shutil.ignore_patterns("__pycache__", "nnsam3d_*"))
    search = (
        "from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find;"
        "import nnunetv2; trainer = find('SAM3DAdapterTrainer');"
        "print(nnunetv2.__path__[0], trainer.__module__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "nnUNet_extTrainer": ""}
    subprocess.run([sys.executable, "-m", "nnsam3d", "link"], env=environment, check=True, timeout=600)
    result = subprocess.run(
        [sys.executable, "-c", search], env=environment, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == f"{site / 'nnunetv2'} nnsam3d.training.trainer"


def test_print_path_names_the_folder_and_imports_nothing_heavy(capsys):
    assert cli.main(["link", "--print-path"]) == 0
    folder = Path(capsys.readouterr().out.strip())
    assert folder.is_absolute()
    assert (folder / "__init__.py").is_file()
    assert folder.name == "trainers"
