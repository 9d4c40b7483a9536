"""The rules of the house: who imports whom, how long a file may be, what the packaging says."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools

import nnsam3d
from benchmarks import house

MAX_LINES = 400
ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(
    file for folder in ("nnsam3d", "trainers", "planners", "benchmarks") for file in (ROOT / folder).rglob("*.py")
)
PACKAGE = [file for file in SOURCES if file.is_relative_to(ROOT / "nnsam3d")]
LARGEST_SHARE = 0.25
# what has one place, and which: everywhere else it is a second implementation
ONE_PLACE = {
    r"os\.replace\(": {"files.py", "checkpoints/download.py", "inference/folder.py"},  # a lock; a folder of files
    r"ndimage\.label\(": {"prompts/components.py"},
    r"\.ljust": {"tables.py"},
    r"\.__class__ = ": {"nnunet/preprocessing.py"},
    r"matplotlib\.use\(": {"nnunet/model.py"},  # puts back what nnU-Net changes
    r"sys\.excepthook = ": {"nnunet/worker_messages.py"},
    r"\(float\(i\), float\(j\), float\(k\)\)": set(),
}


def imports_of(file: Path) -> set[str]:
    """Every absolute module name that a file imports, at any level."""
    return {name for name in house.imports(ast.parse(file.read_text(encoding="utf-8"))) if name[:1] not in ("", ".")}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_file_is_too_long(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_the_oldest_python_can_import_it(file):
    """ruff knows the syntax of Python 3.10, but not what its modules lack."""
    later = {"typing": {"Self", "Never", "LiteralString", "Required", "NotRequired", "Unpack", "assert_never"}}
    later |= {"datetime": {"UTC"}, "enum": {"StrEnum"}, "hashlib": {"file_digest"}, "itertools": {"batched"}}
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    found = {(node.module, alias.name) for node in nodes for alias in node.names}
    assert not {(module, name) for module, name in found if name in later.get(str(module), ())}
    assert "tomllib" not in imports_of(file)


@pytest.mark.parametrize("file", PACKAGE, ids=name_of)
def test_nothing_imports_trainers_or_planners(file):
    leaves = ("nnsam3d.trainers", "nnsam3d.planners")
    assert not [name for name in imports_of(file) if name.startswith(leaves)]


@pytest.mark.parametrize("file", [f for f in SOURCES if f.parent.name in ("trainers", "planners")], ids=name_of)
def test_trainers_and_planners_import_absolutely(file):
    """With nnUNet_extTrainer they are top-level modules: a relative import would fail."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative import in line {node.lineno}"


@pytest.mark.parametrize("pattern", ONE_PLACE)
def test_what_has_one_place_has_no_second(pattern):
    found = {str(f.relative_to(ROOT / "nnsam3d")) for f in PACKAGE if re.search(pattern, f.read_text(encoding="utf-8"))}
    assert found == ONE_PLACE[pattern]


def test_nnunet_is_imported_in_one_file():
    """nnunet/contract.py names all of it, so that an update of nnU-Net is looked at in one place."""
    assert house.importing_nnunet(house.parsed("nnsam3d", "trainers", "planners")) == ["nnsam3d/nnunet/contract.py"]


def test_no_name_is_defined_twice():
    """A newcomer who searches for a class or function finds one. Exceptions: benchmarks/house.py, ENTRY_POINTS."""
    assert house.defined_twice(house.parsed("nnsam3d")) == {}


@pytest.mark.parametrize("room", ["geometry", "prompts", "inference", "network"])
def test_every_argument_of_functions_with_many_is_documented(room):
    """Of three or more; `python -m benchmarks.house --list` names what is missing."""
    told = house.arguments(house.parsed(f"nnsam3d/{room}").values())
    assert [name for name, is_told in told if not is_told] == []


def test_no_files_import_each_other_in_a_circle():
    assert house.circle(house.parsed("nnsam3d")) == []


def test_no_room_is_too_large():
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in PACKAGE}
    rooms = {file.relative_to(ROOT / "nnsam3d").parts[0] for file in PACKAGE if file.parent != ROOT / "nnsam3d"}
    for room in rooms:
        own = sum(count for file, count in lines.items() if file.is_relative_to(ROOT / "nnsam3d" / room))
        assert own <= LARGEST_SHARE * sum(lines.values()), room


def test_import_law():
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent)) or shutil.which("lint-imports")
    if command is None:
        pytest.skip("import-linter is not installed")
    result = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_light_parts_load_no_torch():
    script = (
        "import sys, nnsam3d.geometry, nnsam3d.prompts\n"
        "heavy = {'torch', 'nnunetv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=600)


def test_versions_agree():
    (line,) = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = ")]
    assert line == f'version = "{nnsam3d.__version__}"'
    assert importlib.metadata.version("nnsam3d") == nnsam3d.__version__


def test_links_work_on_a_package_index(monkeypatch):
    """README's are relative in the checkout, and lead to the released tag on the index."""
    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    for name, value in {
        "REPOSITORY": "us/nnsam3d",
        "REF_TYPE": "tag",
        "REF_NAME": "v9",
        "SERVER_URL": "https://x",
    }.items():
        monkeypatch.setenv(f"GITHUB_{name}", value)
    runpy.run_path(str(ROOT / "setup.py"))
    links = re.findall(r"\]\(([^)]+)\)", given["long_description"]) + list(given["project_urls"].values())
    assert all(link.startswith("https://") for link in links)
    ours = [match for link in links if (match := re.fullmatch(r"https://x/us/nnsam3d/(blob|raw)/v9/(.+)", link))]
    assert len(ours) > 20
    assert all((ROOT / match[2]).is_file() for match in ours)
    assert [match[2] for match in ours if match[1] == "raw"] == ["docs/demo.png"]


@pytest.mark.parametrize("package", ["nnsam3d.trainers", "nnsam3d.planners"])
def test_remapped_packages_are_importable_from_anywhere(package, tmp_path):
    subprocess.run([sys.executable, "-c", f"import {package}"], check=True, cwd=tmp_path, timeout=600)


def test_the_doctor_and_the_packaging_name_the_same_nnunet():
    doctor = importlib.import_module("nnsam3d.nnunet.doctor")
    low, high = (".".join(map(str, version)) for version in doctor.NNUNET_RANGE)
    assert f'"nnunetv2>={low},<{high}"' in (ROOT / "pyproject.toml").read_text()


def test_every_package_that_is_imported_is_required():
    """Under its distribution's name, with a lower bound."""
    # "benchmark", "notebook" and "serve"
    extras = ("monai", "ipyniivue", "ipywidgets", "blosc2", "starlette", "uvicorn", "h11")
    names = dict.fromkeys(extras) | {"skimage": "scikit-image"}
    own = {"nnsam3d", "benchmarks", "__future__", *sys.stdlib_module_names}
    imported = {name.partition(".")[0] for file in PACKAGE for name in imports_of(file)} - own
    required = re.findall(r'^    "([\w-]+)>=[\d.]+(?:,<[\d.]+)?",', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    for module in imported:
        assert names.get(module, module) in (None, *required), module


def test_citation_names_this_version():
    assert f"version: {nnsam3d.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_only_commands_print() -> None:
    """Rooms return values or log; nnU-Net's own commands show what its preprocessing and planning print."""
    allowed = {"nnunet/preprocessing.py", "nnunet/worker_messages.py", "planning/planner.py", "cli.py"}
    package = ROOT / "nnsam3d"
    printing = set()
    for file in package.rglob("*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
        if any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls):
            printing.add(str(file.relative_to(package)))
    assert {name for name in printing - allowed if not name.startswith("commands/")} == set()
