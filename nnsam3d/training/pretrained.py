"""Where a training's SAM weights come from: an explicit choice, found before anything is computed.

Imports no torch: the look-up is also what ``nnsam3d doctor`` reports.
"""

from __future__ import annotations

import os
from pathlib import Path

from nnsam3d.errors import UserError

ENVIRONMENT_VARIABLE = "NNSAM3D_WEIGHTS"
SCRATCH = "scratch"
AUTO = "auto"
# Meta's file names; the last part is the start of the file's SHA-256
OFFICIAL_FILES = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}


def default_weights_folder() -> Path:
    """Where checkpoints are looked for when ``NNSAM3D_WEIGHTS`` is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "nnsam3d" / "weights"


def find_weights(preset: str, weights: str = AUTO) -> Path | None:
    """The checkpoint file a training starts from; None means from scratch.

    Args:
        preset: backbone preset, e.g. "vit_b".
        weights: option ``weights``: "auto", "scratch" or a file.

    Raises:
        UserError: the file is missing; the message gives every way to provide it.
    """
    if weights == SCRATCH:
        return None
    if weights != AUTO:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"option weights={weights!r}: no such file. {_ways(preset)}")
        return path
    if preset not in OFFICIAL_FILES:
        return None  # tiny: nobody has published weights for it
    candidates = _candidates(preset)
    for path in candidates:
        if path.is_file():
            return path
    looked = ", ".join(str(path) for path in candidates)
    raise UserError(f"no SAM checkpoint for preset {preset} (looked for {looked}). {_ways(preset)}")


def _candidates(preset: str) -> list[Path]:
    name = OFFICIAL_FILES[preset]
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    if not given:
        return [default_weights_folder() / name]
    path = Path(given).expanduser()
    return [path / name] if path.is_dir() else [path]


def _ways(preset: str) -> str:
    name = OFFICIAL_FILES.get(preset)
    ways = [f'nnsam3d_options="... weights={SCRATCH}" (train everything from random weights)']
    if name:
        ways.insert(0, f"put Meta's {name} into {default_weights_folder()}")
        ways.insert(1, f"{ENVIRONMENT_VARIABLE}=<file or folder that holds {name}>")
        ways.insert(2, 'nnsam3d_options="... weights=<file>"')
    return "Ways on: " + "; ".join(ways) + "."
