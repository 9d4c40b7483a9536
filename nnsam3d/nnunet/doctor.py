"""`nnsam3d doctor`: checks of the installation; each problem comes with a fix.

A check is a function that yields findings. It imports the packages that it examines, so that a broken torch is an
ordinary finding, and a failing check does not affect the others.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from nnsam3d import __version__
from nnsam3d.errors import UserError
from nnsam3d.nnunet import link
from nnsam3d.nnunet.findings import Finding, note, numbers, ok, one_line, problem, try_import, version_of

MIN_PYTHON = (3, 10)
MIN_TORCH = (2, 6)
NNUNET_RANGE = ((2, 8), (2, 9))

# Distribution name -> module that must import.
OTHER_PACKAGES = {
    "batchgenerators": "batchgenerators",
    "batchgeneratorsv2": "batchgeneratorsv2",
    "dynamic-network-architectures": "dynamic_network_architectures",
    "acvl-utils": "acvl_utils",
    "timm": "timm",
    "numpy": "numpy",
    "scipy": "scipy",
    "scikit-image": "skimage",
    "SimpleITK": "SimpleITK",
    "matplotlib": "matplotlib",
    "tqdm": "tqdm",
    "safetensors": "safetensors",
    "nibabel": "nibabel",
    "isal": "isal",
    "jinja2": "jinja2",
    "pandas": "pandas",
}

SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED, ENOUGH_SHARED = 2**27, 2**30  # bytes; Docker's default is 64 MiB, a batch of 2 x 128 cubed takes 34

FOLDERS = {
    "nnUNet_raw": "your images",
    "nnUNet_preprocessed": "preprocessed images",
    "nnUNet_results": "trained models",
}


def check_python() -> Iterator[Finding]:
    """Python's version, and the location of nnsam3d."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        yield problem(f"Python {found} is too old", "create an environment with Python 3.10 or newer")
    else:
        yield ok(f"Python {found} ({sys.executable})")
    installed = version_of("nnsam3d")
    folder = Path(__file__).resolve().parents[1]
    if installed is None:
        yield problem(f"nnsam3d {__version__} runs from {folder} without being installed", "pip install -e .")
    elif installed != __version__:
        yield problem(
            f"nnsam3d {__version__} runs from {folder}, but version {installed} is installed",
            "reinstall with the pip of this environment: pip install -e .",
        )
    else:
        yield ok(f"nnsam3d {__version__} ({folder})")


def check_torch() -> Iterator[Finding]:
    """torch, torchvision, and their compatibility."""
    reinstall = "install both together: pip install --upgrade --force-reinstall torch torchvision"
    torch, error = try_import("torch")
    if torch is None:
        yield problem(f"torch does not import: {error}", reinstall)
        return
    if numbers(torch.__version__) < MIN_TORCH:
        yield problem(f"torch {torch.__version__} is too old", "pip install --upgrade torch torchvision")
    else:
        yield ok(f"torch {torch.__version__}")
    torchvision, error = try_import("torchvision")
    if torchvision is not None:
        try:
            boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
            torchvision.ops.nms(boxes, torch.ones(1), 0.5)
        except Exception as failure:
            error = one_line(failure)
    version = version_of("torchvision") or ""
    if not error:
        yield ok(f"torchvision {version}, built for this torch")
    elif torchvision is None and not version:
        yield problem(f"torchvision is not installed ({error})", reinstall)
    else:
        yield problem(
            f"torchvision {version} was not built for torch {torch.__version__} ({error}); nnU-Net cannot be imported",
            reinstall,
        )


def check_nnunet() -> Iterator[Finding]:
    """nnU-Net's version, and whether it can be imported."""
    fix = "pip install 'nnunetv2>=2.8,<2.9'"
    version = version_of("nnunetv2")
    if version is None:
        yield problem("nnunetv2 is not installed", fix)
        return
    low, high = NNUNET_RANGE
    if not low <= numbers(version) < high:
        yield problem(f"nnunetv2 {version} is outside the tested range >=2.8, <2.9", fix)
        return
    module, error = try_import("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    if module is None:
        yield problem(f"nnunetv2 {version} does not import: {error}", "fix torch first, then: " + fix)
    else:
        yield ok(f"nnunetv2 {version} ({link.nnunet_folder()})")


def check_other_packages() -> Iterator[Finding]:
    """The dependencies of nnU-Net and nnsam3d."""
    versions = []
    for distribution, module in OTHER_PACKAGES.items():
        imported, error = try_import(module)
        if imported is None:
            yield problem(f"{module} does not import: {error}", f"pip install {distribution}")
        else:
            versions.append(f"{distribution} {version_of(distribution) or '?'}")
    yield ok(", ".join(versions))


def check_link() -> Iterator[Finding]:
    """Whether nnU-Net finds the trainers, through stubs or nnUNet_extTrainer."""
    try:
        nnunet, trainers = link.nnunet_folder(), link.trainers_folder()
        wanted = link.registered(nnunet)
    except UserError as error:
        yield problem("nnU-Net or nnsam3d is incomplete", str(error))
        return
    if not wanted:
        yield problem(
            "nnsam3d.trainers contains no trainer", "pip install --force-reinstall --no-deps /path/to/nnsam3d"
        )
        return
    stubs = {entry.stub: entry.text for entry in wanted}
    present = link.stubs_in(nnunet)
    stale = [s for s in present if s not in stubs or s.read_text(encoding="utf-8") != stubs[s]]
    named = [p for p in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep) if p.strip()]
    external = any(Path(path).resolve() == trainers for path in named)
    for path in named:
        if not Path(path).is_dir():
            yield note(
                f"nnUNet_extTrainer contains {path}, which is not a folder; nnU-Net ignores it",
                "export nnUNet_extTrainer=$(nnsam3d link --print-path)   (or unset it)",
            )
    if stale:
        names = ", ".join(stub.name for stub in stale)
        yield problem(f"outdated stubs from another version of nnsam3d: {names}", "nnsam3d link")
    elif not present and not external:
        yield problem(
            "nnU-Net does not know nnsam3d's trainers",
            "nnsam3d link   (read-only nnU-Net: export nnUNet_extTrainer=$(nnsam3d link --print-path))",
        )
    elif present and (missing := [entry for entry in wanted if entry.stub not in present]):
        names = ", ".join(entry.name for entry in missing)
        yield problem(f"not yet linked into nnU-Net: {names}", "nnsam3d link")
    else:
        yield from _check_lookup(wanted, f"links in {nnunet}" if present else f"nnUNet_extTrainer={trainers}")


def _check_lookup(wanted: Iterable[link.Registered], way: str) -> Iterator[Finding]:
    """Look the trainers up as nnU-Net's commands do."""
    trainer_names = [entry.name for entry in wanted if entry.module.startswith("nnsam3d.trainers.")]
    finder, error = try_import("nnunetv2.utilities.find_objects")
    if finder is None:
        yield problem(f"nnU-Net's search for trainers does not import: {error}", "fix the problems above")
        return
    for name in trainer_names:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                finder.recursive_find_trainer_class_by_name(name)
        except Exception as failure:
            yield problem(
                f"nnU-Net cannot load {name}: {one_line(failure)}",
                "fix the problems above; if there are none: pip install --upgrade --force-reinstall /path/to/nnsam3d",
            )
            return
    yield ok(f"nnU-Net finds {', '.join(trainer_names)} ({way})")


def check_folders() -> Iterator[Finding]:
    """nnU-Net's three folders."""
    for variable, content in FOLDERS.items():
        value = os.environ.get(variable)
        if not value:
            yield problem(
                f"{variable} is not set ({content})",
                f"export {variable}=/path/to/{variable}   (and add the line to ~/.bashrc)",
            )
        elif not Path(value).is_dir():
            yield problem(f"{variable}={value} is not a folder", f'mkdir -p "${variable}"')
        elif not os.access(value, os.W_OK):
            if variable == "nnUNet_raw":
                yield note(f"{variable}={value} is read-only: sufficient for reading, but not for converting data")
            else:
                yield problem(
                    f"{variable}={value} cannot be written to",
                    f"use a folder of your own: export {variable}=/path/to/{variable}",
                )
        else:
            yield ok(f"{variable}={value}")


def check_options() -> Iterator[Finding]:
    """The training options in the environment."""
    given = os.environ.get("nnsam3d_options")
    module, error = try_import("nnsam3d.training.options")
    if module is None:
        yield problem(f"nnsam3d.training.options does not import: {error}", "fix the problems above first")
        return
    try:
        module.options_from_environment()
    except Exception as failure:
        yield problem(
            f"nnsam3d_options={given!r} is invalid: {one_line(failure)}", "correct it, or: unset nnsam3d_options"
        )
    else:
        yield ok(f"nnsam3d_options={given!r}" if given else "nnsam3d_options is not set: the plans apply")


def check_weights() -> Iterator[Finding]:
    """SAM's pretrained weights, as found by a training."""
    pretrained, error = try_import("nnsam3d.checkpoints.pretrained")
    if pretrained is None:  # without tqdm
        yield problem(f"nnsam3d.checkpoints.pretrained does not import: {error}", "fix the problems above first")
        return
    if wrong := pretrained.invalid_setting():
        yield problem(wrong, "correct it, or unset NNSAM3D_WEIGHTS to download the weights")
        return
    found = {preset: path for preset in pretrained.OFFICIAL_FILES if (path := pretrained.locate(preset))}
    for preset, path in found.items():
        yield ok(f"SAM's weights for {preset}: {path} ({path.stat().st_size / 2**20:.0f} MiB)")
    if not found:
        yield note(
            "SAM's weights are not on this machine: a training with a pretrained preset downloads them",
            "to download them now: nnsam3d weights download vit_b   "
            "(offline: export NNSAM3D_WEIGHTS=/path/to/the/file/or/folder)",
        )


def check_device() -> Iterator[Finding]:
    """The device of trainings."""
    torch, _ = try_import("torch")
    if torch is None:
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield ok(f"cuda:{index}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        return
    if torch.version.cuda and any(Path("/dev").glob("nvidia[0-9]*")):
        yield note(
            f"there is an NVIDIA GPU, but torch {torch.__version__} cannot use it",
            "update the driver, or install a matching torch (nvidia-smi shows the driver's CUDA version)",
        )
    yield note(
        f"no GPU: running on the CPU ({os.cpu_count()} cores)",
        "add `-device cpu` to nnUNetv2_train and nnUNetv2_predict",
    )
    if os.environ.get("OMP_WAIT_POLICY", "").lower() != "passive":
        yield note(
            "OMP_WAIT_POLICY is not passive: on a CPU, torch's idle threads slow down nnU-Net's workers",
            "export OMP_WAIT_POLICY=passive",
        )


def check_workers() -> Iterator[Finding]:
    """What nnU-Net's worker processes need: shared memory, and a number of them that its commands support."""
    given = os.environ.get("nnUNet_n_proc_DA")
    if given is not None and not (given.strip().isdigit() and int(given) > 0):
        yield problem(
            f"nnUNet_n_proc_DA={given}: nnU-Net's planner stops with it, which takes it as the number of threads",
            "export nnUNet_n_proc_DA=1   (or unset it)",
        )
    if not SHARED_MEMORY.is_dir():
        return
    size = shutil.disk_usage(SHARED_MEMORY)
    text = f"{SHARED_MEMORY}: {size.free / 2**20:.0f} of {size.total / 2**20:.0f} MiB of shared memory are free"
    fix = "docker run --shm-size=8g   (or --ipc=host); else remove what other programs left there"
    if size.free < LEAST_SHARED:
        yield problem(f"{text}: too few, workers die when they hand over images, and a training waits for ever", fix)
    elif size.free < ENOUGH_SHARED:
        yield note(f"{text}: too few for large windows, with which workers die and a training waits for ever", fix)
    else:
        yield ok(text)


Check = Callable[[], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "Python": check_python,
    "PyTorch": check_torch,
    "nnU-Net": check_nnunet,
    "other packages": check_other_packages,
    "registration": check_link,
    "folders": check_folders,
    "options": check_options,
    "weights": check_weights,
    "device": check_device,
    "workers": check_workers,
}


def examine(checks: dict[str, Check] | None = None) -> Iterator[tuple[str, Finding]]:
    """Run the checks; yields each finding with the name of its check."""
    for name, check in (CHECKS if checks is None else checks).items():
        try:
            for finding in check():
                yield name, finding
        except Exception as error:
            yield name, problem(f"the check itself failed: {one_line(error)}", "please report this")
