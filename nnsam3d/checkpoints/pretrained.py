"""Where a training gets SAM's weights: an explicit choice, resolved before anything is computed.

The same lookup serves the training, `nnsam3d weights` and `nnsam3d doctor`. Imports no torch.
"""

from __future__ import annotations

import logging
import os
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from nnsam3d.checkpoints.download import DownloadError, download
from nnsam3d.errors import UserError

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "NNSAM3D_WEIGHTS"
URL_VARIABLE = "nnsam3d_weights_url"
META = "https://dl.fbaipublicfiles.com/segment_anything"
SCRATCH = "scratch"
RECORD_KEY = "nnsam3d_weights"  # in the plans' configuration: which weights a training started from
AUTO = "auto"


@dataclass(frozen=True)
class OfficialFile:
    """A file that Meta published; the last part of its name is the start of its SHA-256."""

    name: str
    mib: int  # size, about

    @property
    def digest(self) -> str:
        """The first digits of the file's SHA-256."""
        return Path(self.name).stem.rsplit("_", 1)[-1]


OFFICIAL_FILES = {
    "vit_b": OfficialFile("sam_vit_b_01ec64.pth", 358),
    "vit_l": OfficialFile("sam_vit_l_0b3195.pth", 1192),
    "vit_h": OfficialFile("sam_vit_h_4b8939.pth", 2446),
}


def find_weights(preset: str, weights: str = AUTO) -> Path | None:
    """The checkpoint file a training starts from; None means from scratch. Downloads a missing one.

    Args:
        preset: backbone preset, e.g. "vit_b".
        weights: option ``weights``: "auto", "scratch" or a file.

    Raises:
        UserError: the file is missing and could not be downloaded; the message lists all ways to provide it.
    """
    if weights == SCRATCH:
        return None
    if weights != AUTO:
        path = Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"option weights={weights!r}: no such file. Correct the path. {ways(preset)}")
        return path
    if preset not in OFFICIAL_FILES:
        return None  # tiny has no published weights
    found = locate(preset)
    if found is not None:
        return found
    missing = not_found(preset)
    if wrong := invalid_setting():
        raise UserError(f"{missing}: {wrong}. {ways(preset)}")
    logger.warning(f"nnsam3d: {missing}: downloading it")
    try:
        return download_weights(preset)
    except DownloadError as error:
        raise UserError(f"{missing}, and the download failed: {error}. {ways(preset)}") from error


def locate(preset: str) -> Path | None:
    """The checkpoint of a pretrained preset on this machine, or None."""
    return next((path for path in candidates(preset) if path.is_file()), None)


def not_found(preset: str) -> str:
    """The start of an error message: no checkpoint found, and where it was searched."""
    looked = ", ".join(str(path) for path in candidates(preset))
    return f"no SAM checkpoint for preset {preset} (searched: {looked})"


def candidates(preset: str) -> list[Path]:
    """Where the checkpoint of a pretrained preset is searched, in this order."""
    name = OFFICIAL_FILES[preset].name
    default = default_weights_folder() / name
    named = _named_place()
    if named is None:
        return [default]
    if named.is_dir():
        return [named / name, default]
    if named.name in {file.name for file in OFFICIAL_FILES.values()} - {name}:
        return [default]  # it names the file of another preset
    return [named]


def default_weights_folder() -> Path:
    """Where checkpoints are searched and stored when ``NNSAM3D_WEIGHTS`` is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "nnsam3d" / "weights"


def download_folder() -> Path:
    """Where downloads go: the folder that ``NNSAM3D_WEIGHTS`` names, if it can be written to."""
    named = _named_place()
    usable = named is not None and named.is_dir() and os.access(named, os.W_OK)
    return named if named is not None and usable else default_weights_folder()


def download_weights(preset: str, folder: Path | None = None, url: str | None = None) -> Path:
    """Download the official checkpoint of a preset, unless the file exists.

    Args:
        folder: by default `download_folder`.
        url: of the file or its folder; by default ``nnsam3d_weights_url``, then Meta's.

    Raises:
        DownloadError: the download failed; the message gives the reason, but no alternatives (see `ways`).
    """
    file = OFFICIAL_FILES[preset]
    return download(url_of(preset, url), (folder or download_folder()) / file.name, file.digest)


def url_of(preset: str, url: str | None = None) -> str:
    """The address of a preset's official checkpoint, at Meta or at the mirror `url`."""
    base = url or os.environ.get(URL_VARIABLE) or META
    if urllib.parse.urlsplit(base).path.endswith(".pth"):
        return base
    return f"{base.rstrip('/')}/{OFFICIAL_FILES[preset].name}"


def invalid_setting() -> str:
    """An error message if ``NNSAM3D_WEIGHTS`` names a path that does not exist, otherwise ""."""
    named = _named_place()
    return f"{ENVIRONMENT_VARIABLE}={named} does not exist" if named is not None and not named.exists() else ""


def ways(preset: str) -> str:
    """All ways to provide the weights, as a sentence for messages."""
    found = [f'nnsam3d_options="... weights={SCRATCH}" (train everything from random weights)']
    if preset in OFFICIAL_FILES:
        name = OFFICIAL_FILES[preset].name
        found[:0] = [
            f"nnsam3d weights download {preset} (behind a proxy: export https_proxy=...; "
            f"from a mirror: export {URL_VARIABLE}=...)",
            f"copy {META}/{name} by hand into {default_weights_folder()}",
            f"{ENVIRONMENT_VARIABLE}=<{name} or its folder>",
            'nnsam3d_options="... weights=<file>"',
        ]
    return "Alternatives: " + "; ".join(found) + "."


def _named_place() -> Path | None:
    given = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(given).expanduser() if given else None
