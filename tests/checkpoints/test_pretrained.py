"""Which SAM weights a training starts from: found early, downloaded, or refused with every way on."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsam3d.checkpoints import download
from nnsam3d.checkpoints.pretrained import (
    ENVIRONMENT_VARIABLE,
    META,
    OFFICIAL_FILES,
    URL_VARIABLE,
    download_folder,
    find_weights,
    locate,
    url_of,
)
from nnsam3d.errors import UserError

B, L = OFFICIAL_FILES["vit_b"].name, OFFICIAL_FILES["vit_l"].name
WAYS = (
    META,
    ENVIRONMENT_VARIABLE,
    URL_VARIABLE,
    "weights=<file>",
    "weights=scratch",
    "weights download vit_b",
)
pytestmark = pytest.mark.usefixtures("no_local_weights")


def test_the_official_files() -> None:
    digests = {preset: file.digest for preset, file in OFFICIAL_FILES.items()}
    assert digests == {"vit_b": "01ec64", "vit_l": "0b3195", "vit_h": "4b8939"}


def test_scratch_is_explicit_except_for_tiny() -> None:
    assert find_weights("vit_b", "scratch") is None
    assert find_weights("tiny") is None


def test_missing_checkpoint_names_every_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], download._open
    monkeypatch.setattr(download, "_open", lambda url, start: asked.append(url) or real(url, start))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} s"))
    with pytest.raises(UserError, match=r"no SAM checkpoint for preset vit_b .* the download failed") as error:
        find_weights("vit_b")
    assert len(asked) == 1, "a server that cannot be reached is asked once"
    for part in (B, *WAYS):
        assert part in str(error.value)
    with pytest.raises(UserError, match="no such file"):
        find_weights("vit_b", "/nowhere/sam.pth")


def test_file_folder_and_cache_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_local_weights: Path
) -> None:
    file = tmp_path / L
    file.touch()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(file))
    assert find_weights("vit_l") == file
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    assert find_weights("vit_l") == file
    cached = no_local_weights / OFFICIAL_FILES["vit_h"].name
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert find_weights("vit_h") == cached, "what was downloaded is found beside a folder of one's own"
    monkeypatch.delenv(ENVIRONMENT_VARIABLE)
    assert find_weights("vit_h") == cached
    assert find_weights("vit_h", str(file)) == file


def test_a_file_of_any_name_serves_every_preset_but_metas_only_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, presets in (("medsam.pth", {"vit_b", "vit_l", "vit_h"}), (L, {"vit_l"})):
        (tmp_path / name).touch()
        monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / name))
        assert {preset for preset in OFFICIAL_FILES if locate(preset)} == presets


def test_a_wrong_name_in_the_environment_is_no_reason_to_download(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "typo"))
    with pytest.raises(UserError, match="typo does not exist"):
        find_weights("vit_b")
    assert server.served == []


def test_a_training_downloads_what_it_misses(server, no_local_weights: Path, caplog) -> None:
    found = find_weights("vit_b")
    assert found == no_local_weights / OFFICIAL_FILES["vit_b"].name
    assert found.read_bytes() == server.content
    assert "downloading it" in caplog.text
    assert find_weights("vit_b") == found
    assert len(server.served) == 1


def test_downloads_go_to_the_folder_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_local_weights: Path
) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path))
    assert download_folder() == tmp_path
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert download_folder() == no_local_weights


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert url_of("vit_b") == f"http://127.0.0.1:9/{B}"
    assert url_of("vit_b", "https://mirror/sam/") == f"https://mirror/sam/{B}"
    assert url_of("vit_b", "https://mirror/b.pth?key=1") == "https://mirror/b.pth?key=1"
    monkeypatch.delenv(URL_VARIABLE)
    assert url_of("vit_b") == f"https://dl.fbaipublicfiles.com/segment_anything/{B}"
