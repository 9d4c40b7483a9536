"""The download: what lines and servers do to it, and what then stands on the disk."""

from __future__ import annotations

import shutil
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nnsam3d.checkpoints import download as module
from nnsam3d.checkpoints.download import DownloadError, download, sha256_of


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "sam.pth"


def part_of(target: Path) -> Path:
    return target.with_name("sam.pth.part")


def fetch(server, target: Path) -> None:
    download(f"{server.url}/sam.pth", target, server.digest)


def names_beside(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def assert_complete(server, target: Path) -> None:
    assert target.read_bytes() == server.content
    assert names_beside(target) == [target.name]


def test_all_goes_well_in_one_request(server, target):
    fetch(server, target)
    assert_complete(server, target)
    assert server.served == [(0, len(server.content))]
    fetch(server, target)
    assert len(server.served) == 1, "what is there is not fetched again"


@pytest.mark.parametrize("accident", ["truncated", "reset"])
def test_an_interrupted_download_goes_on_where_it_was(server, target, accident, caplog):
    server.script = [accident, accident]
    fetch(server, target)
    assert_complete(server, target)
    starts = [start for start, _ in server.served]
    assert starts == sorted(set(starts)), "every request asked for new bytes"
    assert len(starts) == 3
    if accident == "truncated":
        assert sum(count for _, count in server.served) == len(server.content), "no byte came twice"
    assert "interrupted" in caplog.text


def test_another_process_goes_on_with_the_part_file(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(server.content[:1000])
    fetch(server, target)
    assert_complete(server, target)
    assert server.served == [(1000, len(server.content) - 1000)]


def test_a_part_file_that_is_already_complete(server, target):
    target.parent.mkdir()
    part_of(target).write_bytes(server.content)
    fetch(server, target)
    assert_complete(server, target)
    assert server.served == []


@pytest.mark.parametrize(
    ("length", "script"),
    [(1000, ["without ranges"]), (1000, ["another range"]), (1000, [416]), (400_000, [])],
)
def test_starting_over_where_going_on_is_impossible(server, target, length, script):
    target.parent.mkdir()
    part_of(target).write_bytes(b"x" * length)
    server.script = script
    fetch(server, target)
    assert_complete(server, target)
    assert server.served[-1] == (0, len(server.content))


def test_server_errors_pass(server, target):
    server.script = [500, 503, 429]
    fetch(server, target)
    assert_complete(server, target)


def test_a_silent_server_is_left_and_asked_again(server, target, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 1.0)
    say = module._say

    def patient(text: str) -> None:  # the second answer may take its time: a busy machine is no silent server
        say(text)
        monkeypatch.setattr(module, "TIMEOUT", 120.0)

    monkeypatch.setattr(module, "_say", patient)
    server.script = ["slow"]
    fetch(server, target)
    assert_complete(server, target)
    assert len(server.served) == 2


def test_attempts_are_bounded_and_what_came_is_kept(server, target):
    server.script = ["truncated"] * 100
    with pytest.raises(DownloadError, match=r"gave up after 6 failures in a row.*is kept"):
        fetch(server, target)
    assert 100 - len(server.script) == 6
    assert names_beside(target) == ["sam.pth.part"]
    server.script = []
    fetch(server, target)
    assert_complete(server, target)


def test_progress_earns_more_attempts(server, target, monkeypatch):
    monkeypatch.setattr(module, "ENOUGH", 100)
    server.script = ["truncated"] * 8
    fetch(server, target)
    assert_complete(server, target)


@pytest.mark.parametrize("status", [403, 404])
def test_refusals_are_final_and_leave_nothing(server, target, status):
    server.script = [status] * 3
    with pytest.raises(DownloadError, match=f"the server answered {status}"):
        fetch(server, target)
    assert len(server.script) == 2, "asked once"
    assert names_beside(target) == []


def test_wrong_content_is_deleted_and_named(server, target):
    with pytest.raises(DownloadError, match=r"wrong content.*not abcdef.*deleted") as error:
        download(f"{server.url}/sam.pth", target, "abcdef")
    assert server.digest in str(error.value)
    assert names_beside(target) == []


def no_names(*args: Any, **kwargs: Any) -> None:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:9/sam.pth", "refused"),
        ("http://no-such-host.invalid/sam.pth", "name resolution"),
        ("no address at all", "unknown url type"),
        ("http://127.0.0.1:port/sam.pth", "nonnumeric port"),
    ],
)
def test_without_a_network_it_fails_at_once(target, url, message, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(module, "FIRST_PAUSE", 1000.0)
    if "invalid" in url:
        monkeypatch.setattr(socket, "getaddrinfo", no_names)
    target.parent.mkdir()
    part_of(target).write_bytes(b"from yesterday")
    with pytest.raises(DownloadError, match=message):
        download(url, target, "abcdef")
    assert names_beside(target) == ["sam.pth.part"], "an earlier part is kept"


def test_the_server_vanishes_in_between(server, target, monkeypatch):
    """Once reached, an unreachable server is worth waiting for."""
    opened = iter([module._open, None, module._open])

    def unsteady(url, start):
        real = next(opened)
        if real is None:
            raise module._Unreachable("no route to host")
        return real(url, start)

    monkeypatch.setattr(module, "_open", unsteady)
    server.script = ["truncated"]
    fetch(server, target)
    assert_complete(server, target)


def test_a_proxy_in_the_environment_is_used(server, target, monkeypatch):
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    download("http://meta.invalid/sam.pth", target, server.digest)
    assert_complete(server, target)


def test_a_mirror_may_be_a_folder(server, target, tmp_path):
    (tmp_path / "mirrored.pth").write_bytes(server.content)
    download((tmp_path / "mirrored.pth").as_uri(), target, server.digest)
    assert_complete(server, target)


def test_too_little_space_is_said_before_anything_is_written(server, target, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(DownloadError, match="not enough space"):
        fetch(server, target)
    assert names_beside(target) == []


def test_a_place_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match="cannot write"):
        fetch(server, tmp_path / "file" / "sam.pth")


def test_two_at_once_download_once(server, target, caplog, monkeypatch):
    waiting, say = threading.Event(), module._say

    def heard(text: str) -> None:
        say(text)
        if text.startswith("waiting for another process"):
            waiting.set()

    monkeypatch.setattr(module, "_say", heard)
    server.script = ["slow"]
    first, second = (threading.Thread(target=fetch, args=(server, target)) for _ in range(2))
    first.start()
    assert server.asked.wait(120)
    second.start()
    assert waiting.wait(120)
    assert not target.exists(), "nothing half-written under the final name"
    assert second.is_alive()
    server.hold.set()
    for thread in (first, second):
        thread.join(120)
        assert not thread.is_alive()
    assert_complete(server, target)
    assert len(server.served) == 1
    assert "waiting for another process that is downloading sam.pth.part" in caplog.text


def test_sha256(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"abc" * 50_000)
    assert sha256_of(file).startswith("a228eb")
