"""The page's files: nothing from elsewhere, nothing inline, and all of them in a wheel."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nnsam3d.server.static import FOLDER
from nnsam3d.server.static import LIBRARY as NAME

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = FOLDER / NAME


def test_the_page_holds_no_inline_script_and_names_no_other_server() -> None:
    files = [file for file in FOLDER.iterdir() if file.suffix in (".html", ".js", ".css") and file != LIBRARY]
    assert len(files) > 5
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://", text), file.name
        assert not re.search(r"""["'`(]/(api|page)\b""", text), f"{file.name}: addresses are relative, for proxies"
        assert len(text.splitlines()) <= 400, file.name
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script[^>]*>", html) == ['<script type="module" src="page/app.js">']
    assert not re.search(r"\son\w+=|<style|style=", html)
    used = set(re.findall(r'\$\("([\w-]+)"\)', "".join(f.read_text() for f in files if f.suffix == ".js")))
    assert used <= set(re.findall(r'id="([\w-]+)"', html))


def test_the_library_is_named_locked_and_licensed() -> None:
    wanted = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    locked = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    assert wanted == {"@niivue/niivue": locked["node_modules/@niivue/niivue"]["version"]}
    assert all("integrity" in entry for name, entry in locked.items() if name)
    notice = (ROOT / "NOTICE").read_text()
    assert "BSD 2-Clause License" in notice
    assert "Copyright (c) 2021, Niivue" in notice


@pytest.mark.slow
def test_a_wheel_holds_the_page(tmp_path: Path) -> None:
    if not LIBRARY.is_file():
        pytest.skip("niivue.js is missing: bring it with `make page`")
    names = ["nnsam3d", "planners", "trainers", "LICENSE", "NOTICE", "README.md", "pyproject.toml", "setup.py"]
    for name in names:  # not in the checkout, where other builds may run
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("node_modules", "__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "wheel", "."]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    for file in FOLDER.iterdir():
        if file.is_file():
            assert f"nnsam3d/server/page/{file.name}" in held
