"""Which SAM weights a training starts from: found early, or refused with every way on."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsam3d.errors import UserError
from nnsam3d.training.pretrained import ENVIRONMENT_VARIABLE, OFFICIAL_FILES, find_weights


@pytest.fixture(autouse=True)
def _no_local_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_scratch_is_explicit_except_for_tiny() -> None:
    assert find_weights("vit_b", "scratch") is None
    assert find_weights("tiny") is None


def test_missing_checkpoint_names_every_way() -> None:
    with pytest.raises(UserError) as error:
        find_weights("vit_b")
    for part in (OFFICIAL_FILES["vit_b"], ENVIRONMENT_VARIABLE, "weights=<file>", "weights=scratch"):
        assert part in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        find_weights("vit_b", "/nowhere/sam.pth")


def test_file_folder_and_cache_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / OFFICIAL_FILES["vit_l"]
    file.touch()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(file))
    assert find_weights("vit_l") == file
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    assert find_weights("vit_l") == file
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    cached = tmp_path / "cache" / "nnsam3d" / "weights" / OFFICIAL_FILES["vit_h"]
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_weights("vit_h") == cached
    assert find_weights("vit_h", str(file)) == file
