"""Files that are there wholly or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nnsam3d import files
from nnsam3d.errors import UserError
from nnsam3d.files import WriteError, ask_system, keep_as, remove_unfinished, replacing, write_text


def write(path: Path, text: str, keep: Path | None = None) -> None:
    with replacing(path, durable=True, keep=keep) as temporary:
        temporary.write_text(text)


@pytest.mark.parametrize("links", [True, False])
def test_the_one_before_is_kept_and_there_is_always_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path, before = tmp_path / "a", tmp_path / "b"
    if not links:
        monkeypatch.setattr(files.os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    stock, seen = os.replace, []

    def look(source: Path, target: Path) -> None:
        seen.append(path.read_text() if path.is_file() else None)
        stock(source, target)

    monkeypatch.setattr(files.os, "replace", look)
    for text in ("one", "two", "three"):
        write(path, text, before)
    assert (path.read_text(), before.read_text()) == ("three", "two")
    assert seen == [None, "one", "one", "two", "two"]
    keep_as(before, path)
    assert path.read_text() == "two"
    assert {one.name for one in tmp_path.iterdir()} == {"a", "b"}


def test_an_error_leaves_what_was(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "one", durable=True)

    def half() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise MemoryError

    with pytest.raises(MemoryError):
        half()
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a", "one")]


def test_no_search_by_ending_finds_what_is_unfinished(tmp_path: Path) -> None:
    """A process that is killed leaves it."""
    path = tmp_path / "a.nii.gz"
    with replacing(path, ending=".nii.gz") as temporary:
        temporary.write_text("half")
        assert temporary.name.endswith(".nii.gz")
        assert [one for one in tmp_path.iterdir() if one.is_file()] == list(tmp_path.glob("*.nii.gz")) == []
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a.nii.gz", "half")]
    with replacing(path, ending=".nii.gz") as temporary:
        temporary.write_text("whole")
        (temporary.parent.parent / temporary.parent.name.replace(".tmp", "0.tmp")).mkdir()  # a kill left this
    remove_unfinished(path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    names = (".a.12.0f.tmp", "a", ".ab.12.0f.tmp", ".a.swp")
    for name in names:
        (tmp_path / name).touch()
    remove_unfinished(tmp_path / "a")
    assert {one.name for one in tmp_path.iterdir()} == set(names[1:])


@pytest.mark.parametrize("number", sorted(files.CURES))
def test_errors_of_the_system_name_the_file_and_a_cure(tmp_path: Path, number: int) -> None:
    """Also as an OSError, for those who ask for its number; what was there stays."""
    write_text(tmp_path / "a", "old")

    def refuse() -> None:
        with replacing(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise OSError(number, os.strerror(number), str(temporary))

    with pytest.raises(UserError) as caught:
        refuse()
    error = caught.value
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror) == (number, os.strerror(number))
    assert str(error) == f"{tmp_path / 'a'}: cannot be written: {os.strerror(number)}: {files.CURES[number]}"
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("a", "old")]


def test_another_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteError, match=r"/copy: cannot be written: No such file or directory \(/nowhere/source\)"),
        replacing(tmp_path / "copy") as temporary,
    ):
        shutil.copyfile("/nowhere/source", temporary)


def test_a_full_device_says_so(tmp_path: Path) -> None:
    """Libraries that write without looking do not."""
    if not Path("/dev/full").exists():
        pytest.skip("the system has no /dev/full")
    (tmp_path / "file").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        ask_system(tmp_path / "file")
    (tmp_path / "other").write_bytes(b"x")
    ask_system(tmp_path / "other", 5)
    assert (tmp_path / "other").read_bytes() == b"x" + bytes(5)
