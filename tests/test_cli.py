"""The command line: what there is, how it fails, and that it answers at once."""

from __future__ import annotations

import argparse
import errno
import importlib
import logging
import os
import subprocess
import sys
import types

import pytest

import nnsam3d
from nnsam3d import cli, commands
from nnsam3d.errors import UserError

# The command line that users' scripts rely on. A change here is a change for them: say so in CHANGELOG.md.
OPTIONS = {
    "link": {"--help", "--undo", "--print-path"},
    "doctor": {"--help", "--quiet"},
    "weights": {"--help"},
    "prompts": {"--help"},
    "plan-table": {"--help", "--fingerprint", "--budget", "--why"},
    "synthesize": {"--help", "--output", "--seed", "--size", "--spacing", "--jobs", "--preview"},
}
COMMANDS = {*OPTIONS, "demo"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "nnsam3d", *arguments], capture_output=True, text=True, timeout=600)


def test_commands_are_the_promised_ones():
    assert set(cli.COMMANDS) >= COMMANDS


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_the_promised_ones(name):
    parser = cli.build_command_parser(name)
    options = {string for action in parser._actions for string in action.option_strings if string.startswith("--")}
    assert options == OPTIONS[name]


@pytest.mark.parametrize("command", ["", *OPTIONS, "benchmark run"])
def test_help_imports_nothing_heavy(command):
    arguments = [*command.split(), "--help"]
    script = (
        "import sys\nfrom nnsam3d import cli\n"
        f"try: cli.main({arguments!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'nnunetv2', 'SimpleITK'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr


def test_help_answers_at_once():
    """It loads itself, a few of Python's own modules and nothing of anybody else's: that is what takes time."""
    script = (
        "import sys\nbefore = set(sys.modules)\nfrom nnsam3d import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "print('\\n'.join(['', 'loaded', *sorted(set(sys.modules) - before)]))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    loaded = result.stdout.split("\nloaded\n")[1].split()
    others = {name.split(".")[0] for name in loaded} - {*sys.stdlib_module_names, "nnsam3d"}
    assert not others
    ours = [name for name in loaded if name.split(".")[0] == "nnsam3d"]
    assert len(ours) < 12, ours
    assert len(loaded) - len(ours) < 80, loaded


def test_top_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for name, summary in cli.COMMANDS.items():
        assert name in said
        assert summary in said


@pytest.mark.parametrize("name", OPTIONS)
def test_each_help_shows_an_example(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert f"example:\n  nnsam3d {name}" in said


@pytest.mark.parametrize("action", ["prompts simulate", "benchmark run", "cluster train", "weights download"])
def test_the_help_of_an_action_shows_its_examples(action, capsys):
    name = action.split()[0]
    with pytest.raises(SystemExit):
        cli.main([*action.split(), "--help"])
    examples = capsys.readouterr().out.partition("example:\n")[2].splitlines()
    commands = [line for line in examples if "nnsam3d" in line]
    assert commands
    assert all(f"nnsam3d {action}" in line for line in commands)
    assert len(commands) == importlib.import_module(cli.module_of(name)).EXAMPLE.count(f"nnsam3d {action}")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_texts_are_complete(name):
    module = importlib.import_module(cli.module_of(name))
    assert f"nnsam3d {name}" in module.EXAMPLE
    assert cli.COMMANDS[name]
    assert module.DESCRIPTION.strip().endswith(".")


def test_version():
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"nnsam3d {nnsam3d.__version__}\n")


def test_no_command_shows_the_help(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["lnk"])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "unknown command 'lnk' (did you mean link?)" in said
    assert "doctor" in said


@pytest.mark.parametrize("arguments", [["link", "--uno"], ["link", "extra"], ["link", "--undo", "--print-path"]])
def test_wrong_options(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    assert end.value.code == 2
    assert "usage: nnsam3d link" in capsys.readouterr().err


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """A command `do` whose main is what the test gives."""

    def make(main):
        module = types.ModuleType(cli.module_of("do"))
        module.DESCRIPTION, module.EXAMPLE = "Does it.", "nnsam3d do"
        module.add_arguments = lambda parser: None
        module.main = main
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(cli.COMMANDS, "do", "do it")

    return make


def test_exit_status_is_the_commands(command):
    command(lambda args: 7)
    assert cli.main(["do"]) == 7


def test_user_errors_come_without_a_traceback(command, capsys):
    def fail(args):
        raise UserError("case_3.json: click 2: label 'tumor' is unknown")

    command(fail)
    assert cli.main(["do"]) == 1
    assert capsys.readouterr().err == "nnsam3d: error: case_3.json: click 2: label 'tumor' is unknown\n"


def test_other_errors_keep_their_traceback(command):
    def fail(args):
        raise ValueError("a bug")

    command(fail)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["do"])


def test_control_c(command, capsys):
    def stopped(args):
        raise KeyboardInterrupt

    command(stopped)
    assert cli.main(["do"]) == 130
    assert "stopped" in capsys.readouterr().err


def test_a_command_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setitem(cli.COMMANDS, "no-such-part", "do it")
    assert cli.main(["no-such-part"]) == 1
    assert "not part of this installation" in capsys.readouterr().err


def test_a_command_that_misses_a_package(monkeypatch, capsys, tmp_path):
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_nowhere\n")
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    monkeypatch.setitem(cli.COMMANDS, "needs-more", "do it")
    assert cli.main(["needs-more"]) == 1
    assert "needs the Python package 'a_package_that_is_nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, True), (errno.EACCES, True), (errno.ECHILD, False)])
def test_errors_of_the_disk_are_one_line(monkeypatch, capsys, number, told):
    """Wherever a command writes; other errors of the system are bugs, with a traceback."""

    def full(args):
        raise OSError(number, os.strerror(number), "/data/overlay.png")

    monkeypatch.setattr(importlib.import_module("nnsam3d.commands.doctor"), "main", full)
    if told:
        assert cli.main(["doctor"]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith(f"nnsam3d: error: /data/overlay.png: {os.strerror(number)}: ")
    else:
        with pytest.raises(OSError, match="overlay"):
            cli.main(["doctor"])


def test_what_rooms_log_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("nnsam3d.some.room")

    def command(args: argparse.Namespace) -> int:
        logger.info("all is well")
        logger.warning("nnsam3d: warning: it is not")
        return 0

    monkeypatch.setattr("nnsam3d.commands.doctor.main", command)
    for _ in range(2):
        assert cli.main(["doctor"]) == 0
        assert capsys.readouterr() == ("all is well\n", "nnsam3d: warning: it is not\n")
    logger.info("outside a command")
    assert capsys.readouterr() == ("", "")
