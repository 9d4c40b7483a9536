"""A bar in a file writes a line a minute, and on a terminal as tqdm does."""

from __future__ import annotations

import io

import pytest

from nnsam3d import progress
from nnsam3d.progress import tqdm


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("seconds", [1, 7, 90])
def test_a_file_gets_a_line_a_minute(clock, seconds):
    file = io.StringIO()
    with tqdm(total=100, desc="train", file=file, mininterval=0) as bar:
        for step in range(100):
            clock[0] += seconds
            bar.update()
            bar.set_postfix_str(f"loss {step}")
    lines = file.getvalue().splitlines()
    assert lines[0].startswith("train:   0%")
    assert lines[-1].startswith("train: 100%")
    assert "" not in lines
    assert "\r" not in file.getvalue()
    assert 100 * seconds / 120 <= len(lines) - 2 <= 100 * seconds / 60


def test_messages_do_not_disturb_lines_in_a_file(clock, capsys):
    with tqdm(total=2, desc="predict") as bar:
        tqdm.write("a message")
        bar.update(2)
    said, bars = capsys.readouterr()
    assert said == "a message\n"
    assert [line.split(":")[0] for line in bars.splitlines()] == ["predict", "predict"]


def test_a_bar_that_does_not_stay_has_no_last_line(clock):
    file = io.StringIO()
    list(tqdm(range(3), file=file, leave=False))
    assert len(file.getvalue().splitlines()) == 1


def test_a_terminal_is_drawn_again_and_again(clock):
    terminal = Terminal()
    list(tqdm(range(5), file=terminal, mininterval=0))
    assert terminal.getvalue().count("\r") >= 5
