"""docs/prompts.md says what is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnsam3d import cli
from nnsam3d.commands import prompts as command_module
from nnsam3d.prompts import read_prompts
from nnsam3d.prompts.formats.detect import FORMATS, SUFFIXES
from nnsam3d.prompts.kinds import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "prompts.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_file_is_read(tmp_path: Path) -> None:
    kinds = [("click", "click"), ("mask", "box", "line", "scribble", "lasso", "click")]
    for text, expected in zip(blocks("json"), kinds, strict=True):
        (tmp_path / "liver_003.json").write_text(text, encoding="utf-8")
        prompts = read_prompts(tmp_path / "liver_003.json", labels={"background": 0, "tumour": 1})
        assert prompts.case == "liver_003"
        assert tuple(prompt.kind for prompt in prompts.prompts) == expected


def test_the_example_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sitk.WriteImage(sitk.Image(20, 20, 20, sitk.sitkUInt8), "liver_003_0000.nii.gz")
    (program,) = blocks("python")
    exec(program, {})
    assert np.fromstring(capsys.readouterr().out.strip(" []\n"), sep=" ").tolist() == [12, 8, 5]


def test_every_format_and_suffix_is_told() -> None:
    page = PAGE.read_text(encoding="utf-8")
    told = re.findall(r"^\| `([a-z0-9][a-z0-9-]+)` \|", page, re.MULTILINE)
    assert [name for name in told if name not in KINDS] == list(FORMATS)
    assert all(suffix in page for suffix in SUFFIXES)


def test_every_kind_is_told_and_every_key() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, kind in KINDS.items():
        assert f"| `{name}` |" in page
        assert all(f'"{key}"' in page or f"`{key}`" in page for key in kind.keys), name


def test_the_commands_are_understood() -> None:
    text = (PAGE.read_text(encoding="utf-8") + command_module.EXAMPLE).replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("nnsam3d prompts")]
    assert len(commands) >= 10
    for command in commands:
        cli.build_command_parser("prompts").parse_args(command[2:])
