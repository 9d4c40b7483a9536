"""What the pages about prediction and sessions show works."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nnsam3d.cli import build_command_parser

from .conftest import write_model

DOCS = Path(__file__).resolve().parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found


def test_the_example_of_the_session_page_runs(
    tmp_path: Path, write_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "demo/results/Dataset990_PhantomCT/SAM3DAdapterTrainer__nnUNetPlans__3d_fullres"
    write_model(tmp_path / name, labels={"background": 0, "lesion": 1})
    image = write_image("test_000_0000.nii.gz", shape=(20, 40, 40))
    images = tmp_path / "demo" / "raw" / "Dataset990_PhantomCT" / "imagesTs"
    images.mkdir(parents=True)
    shutil.move(image, images / image.name)
    monkeypatch.chdir(tmp_path)
    for block in blocks("session.md", "python"):
        exec(compile(block, "docs/session.md", "exec"), {})
    assert (tmp_path / "test_000.json").is_file()


def test_the_command_lines_of_the_prediction_page_are_understood() -> None:
    lines = [line for block in blocks("prediction.md", "") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("nnsam3d predict ")]
    assert len(commands) >= 3
    for line in commands:
        build_command_parser("predict").parse_args(shlex.split(line, comments=True)[2:])
