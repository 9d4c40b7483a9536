"""`nnsam3d <command>`.

The module of a command in `nnsam3d.commands`, with `DESCRIPTION`, `EXAMPLE`, `add_arguments(parser)` and
`main(args) -> int`, is imported only when the command is used, so that `nnsam3d --help` responds immediately.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import logging
import re
import sys
import textwrap
import warnings
from collections.abc import Sequence
from types import ModuleType

from nnsam3d import __version__
from nnsam3d.errors import UserError
from nnsam3d.files import CURES

COMMANDS = {
    "link": "register the trainers of nnsam3d with nnU-Net",
    "doctor": "check the installation and suggest fixes",
    "weights": "list, download and verify SAM's pretrained weights",
    "prompts": "inspect, convert and simulate prompt files",
    "plan-table": "show the plans for different memory budgets",
    "predict": "segment a folder of images with their prompt files",
    "serve": "segment in 3D Slicer, napari, MITK, ITK-SNAP, or in a browser",
    "learn": "tune a model on the cases that were finished so far",
    "benchmark": "compare models with clicks to nnU-Net and to controls, and write a report",
    "cluster": "submit trainings to SLURM",
    "synthesize": "make a dataset of synthetic volumes for class-agnostic training",
    "demo": "run everything on phantoms, in minutes, on a CPU",
}
"""The commands and a summary of each, for `nnsam3d --help`. Their own help is in their modules."""


def build_top_parser() -> argparse.ArgumentParser:
    """The parser of `nnsam3d` itself; imports no command."""
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="nnsam3d",
        usage="nnsam3d [--help] [--version] <command> [options]",
        description="Click-promptable 3D segmentation through nnU-Net's own commands.",
        epilog=(
            f"commands:\n{commands}\n\n"
            "first steps:\n"
            "  nnsam3d serve                                            # segment an image now, with the starter\n"
            "  nnsam3d link                                             # once\n"
            "  nnUNetv2_train 513 3d_fullres 0 -tr SAM3DAdapterTrainer  # then as usual\n\n"
            "`nnsam3d <command> --help` shows a command's options and an example."
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nnsam3d {__version__}")
    parser.add_argument("command", nargs="?", metavar="<command>", help=argparse.SUPPRESS)
    return parser


def build_command_parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command; imports the command's module for its options."""
    module = _import_module(name)
    parser = argparse.ArgumentParser(
        prog=f"nnsam3d {name}",
        description=_filled(module.DESCRIPTION),
        epilog="example:\n" + textwrap.indent(module.EXAMPLE.strip(), "  "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.main)
    _add_examples_to_actions(parser, name, module.EXAMPLE)
    return parser


def _add_examples_to_actions(parser: argparse.ArgumentParser, name: str, example: str) -> None:
    """Adds the examples of `nnsam3d <command> <action>` to the help of each action."""
    commands = re.split(r"(?<!\\)\n", example.strip())  # a backslash continues a line
    for group in (one for one in parser._actions if isinstance(one, argparse._SubParsersAction)):
        for action, its_parser in group.choices.items():
            own = [command for command in commands if f"nnsam3d {name} {action}" in command]
            if own:
                shown = "example:\n" + textwrap.indent("\n".join(own), "  ")
                its_parser.epilog = "\n\n".join(filter(None, (its_parser.epilog, shown)))
                its_parser.formatter_class = argparse.RawDescriptionHelpFormatter
                its_parser.description = _filled(its_parser.description or "")


def _filled(text: str) -> str:
    """Each paragraph filled to the line width."""
    return "\n\n".join(textwrap.fill(" ".join(part.split()), 100) for part in text.strip().split("\n\n"))


def module_of(name: str) -> str:
    """The module of a command: `plan-table` is nnsam3d.commands.plan_table."""
    return f"nnsam3d.commands.{name.replace('-', '_')}"


def _import_module(name: str) -> ModuleType:
    module = module_of(name)
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == module or module.startswith(f"{missing}."):
            raise UserError(f"`nnsam3d {name}` is not part of this installation ({missing} is missing)") from error
        raise UserError(
            f"`nnsam3d {name}` needs the Python package {missing!r}, which is not installed; "
            "fix: pip install --upgrade /path/to/nnsam3d"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    plain, warnings.formatwarning = warnings.formatwarning, _formatted
    logger, told = logging.getLogger("nnsam3d"), _Told()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(told)
    for stream in (sys.stdout, sys.stderr):  # names of files may contain bytes that are not UTF-8
        if getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(arguments)
    except UserError as error:
        print(f"nnsam3d: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in CURES or error.filename is None:
            raise
        print(f"nnsam3d: error: {error.filename}: {error.strerror}: {CURES[error.errno]}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("nnsam3d: stopped", file=sys.stderr)
        return 130
    finally:
        warnings.formatwarning = plain
        logger.removeHandler(told)
        logger.setLevel(level)


class _Told(logging.Handler):
    """What this library logs, for people: information on the output, everything else on the error stream."""

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, RuntimeError, ValueError):  # the terminal may be gone
            stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
            print(self.format(record), file=stream, flush=True)


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Warnings of this library are for users: without the place in the code."""
    if category.__module__.startswith("nnsam3d."):
        return f"nnsam3d: warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _run(arguments: list[str]) -> int:
    top = build_top_parser()
    if not arguments:
        top.print_help()
        return 2
    name = arguments[0]
    if name.startswith("-"):
        top.parse_args(arguments)  # --help and --version end here
        top.error("specify a command first: " + ", ".join(COMMANDS))
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        top.error(f"unknown command {name!r}{hint}; the commands are {', '.join(COMMANDS)}")
    args = build_command_parser(name).parse_args(arguments[1:])
    return int(args.run(args))


if __name__ == "__main__":
    sys.exit(main())
