"""`nnsam3d link`: make nnU-Net find the trainers and planners of nnsam3d by name.

nnU-Net searches classes in its own folders. `link` writes a stub module there for every module of
`nnsam3d.trainers` and `nnsam3d.planners`, which only imports the class from nnsam3d. nnU-Net imports the modules of a
folder before it searches sub-folders, so stubs are found quickly.

Neither nnunetv2 nor a trainer is imported here (both import torch): folders are found through import specs, and each
module is named after its class.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnsam3d.errors import UserError
from nnsam3d.files import write_text

MARKER = "# Written by `nnsam3d link`; `nnsam3d link --undo` removes it."
STUB_PREFIX = "nnsam3d_"

TARGET_FOLDERS = {
    "nnsam3d.trainers": "training/nnUNetTrainer",
    "nnsam3d.planners": "experiment_planning/experiment_planners",
}

_STUB = """\
{marker}
try:
    from {module} import {name}  # noqa: F401
except ImportError as error:
    # nnU-Net imports this file whenever it looks for a class: a missing nnsam3d must not stop it.
    if error.name not in {tolerated!r}:
        raise
"""


@dataclass(frozen=True)
class Registered:
    """A module with a class for nnU-Net of the same name, and its stub in nnU-Net."""

    module: str
    stub: Path

    @property
    def name(self) -> str:
        return self.module.rpartition(".")[2]

    @property
    def text(self) -> str:
        package = self.module.rpartition(".")[0]
        tolerated = ("nnsam3d", package, self.module)
        return _STUB.format(marker=MARKER, module=self.module, name=self.name, tolerated=tolerated)


def package_folder(package: str) -> Path:
    """The folder of an importable package, found without importing it."""
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.submodule_search_locations:
        distribution = package.partition(".")[0]
        raise UserError(f"{package} is not installed in this Python; fix: pip install {distribution}")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def nnunet_folder() -> Path:
    """The folder of the installed nnunetv2."""
    folder = package_folder("nnunetv2")
    if not (folder / "training/nnUNetTrainer/nnUNetTrainer.py").is_file():
        raise UserError(
            f"{folder} is not a complete nnunetv2 (no training/nnUNetTrainer/nnUNetTrainer.py); "
            "fix: pip install --force-reinstall --no-deps 'nnunetv2>=2.8,<2.9'"
        )
    return folder


def trainers_folder() -> Path:
    """The value for `nnUNet_extTrainer`."""
    return package_folder("nnsam3d.trainers")


def registered(nnunet: Path) -> list[Registered]:
    """All modules for nnU-Net, with the paths of their stubs in `nnunet`."""
    return [
        Registered(f"{package}.{file.stem}", nnunet / target / f"{STUB_PREFIX}{file.stem}.py")
        for package, target in TARGET_FOLDERS.items()
        for file in sorted(package_folder(package).glob("[!_]*.py"))
    ]


def is_ours(file: Path) -> bool:
    """Whether this file contains the marker of stubs."""
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return lines.readline().rstrip("\r\n") == MARKER
    except OSError:
        return False


def stubs_in(nnunet: Path) -> list[Path]:
    """The stubs in this nnunetv2, written by any version of nnsam3d."""
    folders = [nnunet / target for target in TARGET_FOLDERS.values()]
    return [file for folder in folders for file in sorted(folder.glob("*.py")) if is_ours(file)]


def link(nnunet: Path, wanted: Iterable[Registered]) -> tuple[list[Path], list[Path]]:
    """Write missing and outdated stubs, and remove stubs without a class.

    Returns the written and the removed files. If a stub cannot be written, the new ones are removed again.
    """
    stubs = {entry.stub: entry.text for entry in wanted}
    for stub in stubs:
        if stub.exists() and not is_ours(stub):
            raise UserError(f"{stub} exists and was not written by nnsam3d; move it and link again")
    outdated = [s for s, text in stubs.items() if not s.exists() or s.read_text(encoding="utf-8") != text]
    created: list[Path] = []
    try:
        for stub in outdated:
            new = not stub.exists()
            write_text(stub, stubs[stub])
            if new:
                created.append(stub)
    except OSError as error:
        for stub in created:
            stub.unlink(missing_ok=True)
        raise UserError(
            f"cannot write into the installed nnU-Net ({nnunet}): {error.strerror or error}. "
            "Nothing was changed.\n"
            "For such installations, use this instead (training and prediction only, not planning):\n"
            "    export nnUNet_extTrainer=$(nnsam3d link --print-path)"
        ) from error
    removed = [stub for stub in stubs_in(nnunet) if stub not in stubs]
    _remove(nnunet, removed)
    return outdated, removed


def unlink(nnunet: Path) -> list[Path]:
    """Remove all stubs, and nothing else; returns them."""
    stubs = stubs_in(nnunet)
    _remove(nnunet, stubs)
    return stubs


def _remove(nnunet: Path, stubs: Iterable[Path]) -> None:
    try:
        for stub in stubs:
            stub.unlink()
            for compiled in stub.parent.glob(f"__pycache__/{stub.stem}.*.pyc"):
                compiled.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot remove {error.filename or 'a stub'} from {nnunet} ({error.strerror}); "
            "run `nnsam3d link --undo` as the user who owns that folder"
        ) from error
