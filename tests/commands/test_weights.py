"""`nnsam3d weights`: what it prints, and its exit status."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnsam3d import cli
from nnsam3d.checkpoints.pretrained import ENVIRONMENT_VARIABLE, OFFICIAL_FILES, URL_VARIABLE

pytestmark = pytest.mark.usefixtures("no_local_weights")


@pytest.fixture
def weights(capsys: pytest.CaptureFixture[str]):
    """Runs the command; returns status, output and errors."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        status = cli.main(["weights", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


def test_the_whole_life_of_a_file(weights, server, no_local_weights: Path) -> None:
    file = no_local_weights / OFFICIAL_FILES["vit_b"].name
    status, out, _ = weights("list")
    assert (status, str(file) in out, str(no_local_weights) in out) == (0, False, True)
    assert all(official.name in out for official in OFFICIAL_FILES.values())
    assert weights("path", "vit_b")[0] == 1

    status, out, _ = weights("download", "vit_b")
    assert (status, out) == (0, f"{file}: downloaded, digest {server.digest} verified\n")
    assert str(file) in weights("list")[1]
    assert weights("path", "vit_b")[:2] == (0, f"{file}\n")
    status, out, _ = weights("verify")
    assert (status, out[:3]) == (0, "ok ")
    assert "exists already" in weights("download", "vit_b")[1]
    assert len(server.served) == 1

    file.write_bytes(server.content[:-1])
    status, out, _ = weights("verify", "vit_b")
    assert (status, out[:6]) == (1, "wrong ")
    assert f"fix: rm '{file}' && nnsam3d weights download vit_b" in out
    status, _, error = weights("download", "vit_b")
    assert (status, "delete or move it" in error) == (1, True)
    assert file.stat().st_size == len(server.content) - 1, "a user's file is not overwritten"


def test_elsewhere(weights, server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--url wins over the environment; a folder that no training looks into is said."""
    monkeypatch.setenv(URL_VARIABLE, "http://127.0.0.1:9")
    status, out, _ = weights("download", "vit_b", "--to", tmp_path / "mine", "--url", f"{server.url}/x.pth")
    file = tmp_path / "mine" / OFFICIAL_FILES["vit_b"].name
    assert (status, file.read_bytes() == server.content) == (0, True)
    assert f"export {ENVIRONMENT_VARIABLE}={file}" in out


def test_a_failed_download_names_the_other_ways(weights) -> None:
    status, _, error = weights("download", "vit_h")
    assert status == 1
    for part in ("refused", "by hand", ENVIRONMENT_VARIABLE, "weights=scratch"):
        assert part in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("path", "vit_l"), "no SAM checkpoint for preset vit_l"),
        (("verify", "vit_l"), "no SAM checkpoint for preset vit_l"),
        (("verify",), "nothing to verify"),
        (("verify", "vit_x"), "no such preset: vit_x"),
    ],
)
def test_nothing_there(weights, arguments, message) -> None:
    status, _, error = weights(*arguments)
    assert (status, message in error) == (1, True)


def test_a_file_with_a_name_of_its_own_cannot_be_verified(weights, tmp_path, monkeypatch) -> None:
    (tmp_path / "medsam.pth").write_bytes(b"abc")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "medsam.pth"))
    status, out, _ = weights("verify")
    assert (status, out.count("unknown ")) == (1, 1)


def test_a_wrong_name_in_the_environment_is_said(weights, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "typo"))
    assert "typo does not exist" in weights("list")[1]


@pytest.mark.parametrize("arguments", [[], ["download", "tiny"], ["lst"]])
def test_wrong_arguments(weights, arguments) -> None:
    with pytest.raises(SystemExit) as end:
        weights(*arguments)
    assert end.value.code == 2
