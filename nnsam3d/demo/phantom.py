"""Phantom CTs in which only a click identifies the target.

Every case has a body, a liver-like organ, a spine, a kidney and two lesions from the same distribution. Voxels are
anisotropic, and images oblique. There are two types:

- separate: the lesions are far apart. One of them, chosen at random, is the label; the other is its look-alike.
- bridged: the lesions touch. In training, the label is both of them or one, so that a click on one is ambiguous. In the
  tests, the label is one of them: segmenting both requires a correction.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from nnsam3d.files import write_json
from nnsam3d.geometry.label_files import write_image

SIZE_XYZ = (40, 40, 20)
SPACING_XYZ = (2.4, 2.4, 4.8)  # mm
AIR, TISSUE, ORGAN, BONE, KIDNEY, LESION = -1000.0, 40.0, 110.0, 400.0, 160.0, 20.0  # HU
NOISE = 12.0  # HU
RADIUS_MM = (9.0, 14.0)
OVERLAP_MM = (1.0, 3.0)  # of bridged lesions, along the line between their centres
BOTH = 0.5  # share of the bridged training cases labelled as a whole: then 2 of 3 clicks on one lesion mean both
CENTRES_MM = ((-28.0, -22.0, -14.0), (16.0, 14.0, 14.0))  # of lesions, x, y, z
DATASET_NAME = "Dataset990_PhantomCT"


@dataclass(frozen=True)
class PhantomCase:
    """One image with its two lesions.

    Attributes:
        image: CT in HU, oblique and anisotropic.
        target_DHW: the labelled lesion, or both (bool, z, y, x).
        lookalike_DHW: the other lesion; empty if both are labelled.
    """

    image: sitk.Image
    target_DHW: NDArray[np.bool_]
    lookalike_DHW: NDArray[np.bool_]


def make_case(rng: np.random.Generator) -> PhantomCase:
    """Draw one phantom case with separate lesions, one of them the target."""
    grid_mm, hu = _body(rng)
    return _case(hu, _two_lesions(grid_mm, rng), rng)


def make_bridged_case(rng: np.random.Generator, both: bool = False) -> PhantomCase:
    """Draw one phantom case with two lesions that touch; the target is one of them, or ``both``."""
    grid_mm, hu = _body(rng)
    return _case(hu, _bridged_lesions(grid_mm, rng), rng, both)


def write_dataset(
    raw_folder: Path, num_training: int, num_test: int, seed: int, bridged_share: float = 0.0
) -> dict[str, PhantomCase]:
    """Write ``Dataset990_PhantomCT`` in nnU-Net raw format; returns the test cases (separate lesions) by name.

    Args:
        bridged_share: share of training cases with lesions that touch (evenly distributed).
    """
    folder = raw_folder / DATASET_NAME
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(num_training):
        bridged = int((number + 1) * bridged_share) > int(number * bridged_share)
        case = make_bridged_case(rng, both=bool(rng.random() < BOTH)) if bridged else make_case(rng)
        write_image(case.image, folder / "imagesTr" / f"phantom_{number:03d}_0000.nii.gz")
        write_image(label_image(case), folder / "labelsTr" / f"phantom_{number:03d}.nii.gz")
    tests = {f"test_{number:03d}": make_case(rng) for number in range(num_test)}
    _write_images(folder / "imagesTs", tests)
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", dataset)
    return tests


def write_bridged_tests(raw_folder: Path, number: int, seed: int) -> dict[str, PhantomCase]:
    """Write test images with one of two touching lesions as target to ``imagesTs_bridged``; returns them by name."""
    rng = np.random.default_rng([seed, 1])
    tests = {f"bridged_{index:03d}": make_bridged_case(rng) for index in range(number)}
    _write_images(raw_folder / DATASET_NAME / "imagesTs_bridged", tests)
    return tests


def label_image(case: PhantomCase) -> sitk.Image:
    """The target as label 1, in the image's geometry."""
    label = sitk.GetImageFromArray(case.target_DHW.astype(np.uint8))
    label.CopyInformation(case.image)
    return label


def _write_images(folder: Path, cases: dict[str, PhantomCase]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, case in cases.items():
        write_image(case.image, folder / f"{name}_0000.nii.gz")


def _body(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The grid in mm, (3, D, H, W), and HU without lesions, (D, H, W)."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SIZE_XYZ, SPACING_XYZ, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    grid_mm = np.stack([x, y, z])  # from the volume's centre
    hu = np.full(SIZE_XYZ[::-1], AIR)
    hu[_ellipsoid(grid_mm, (0, 0, 0), (44, 40, 60))] = TISSUE
    hu[_ellipsoid(grid_mm, (-6, -4, 0), (36, 30, 44))] = ORGAN
    hu[_ellipsoid(grid_mm, (0, 33, 0), (8, 7, 60))] = BONE
    hu[_ellipsoid(grid_mm, (30, 14, rng.uniform(-12, 12)), (9, 9, 16))] = KIDNEY
    return grid_mm, hu


def _case(
    hu: NDArray[np.float64], lesions: list[NDArray[np.bool_]], rng: np.random.Generator, both: bool = False
) -> PhantomCase:
    """The image, blurred, noisy and oblique, with its lesions, one of them the target, or ``both``."""
    for lesion in lesions:
        hu[lesion] = LESION
    hu = ndimage.gaussian_filter(hu, sigma=0.6) + rng.normal(0, NOISE, hu.shape)
    first = int(rng.integers(2))
    image = sitk.GetImageFromArray(hu.astype(np.float32))
    image.SetSpacing(SPACING_XYZ)
    image.SetOrigin(rng.uniform(-100, 100, 3).tolist())
    image.SetDirection(_oblique(rng).ravel().tolist())
    if both:
        return PhantomCase(image, lesions[0] | lesions[1], np.zeros_like(lesions[0]))
    return PhantomCase(image, lesions[first], lesions[1 - first])


def _ellipsoid(grid_mm: NDArray[np.float64], centre_mm: ArrayLike, radii_mm: ArrayLike) -> NDArray[np.bool_]:
    return _radii_away(grid_mm, centre_mm, radii_mm) <= 1


def _radii_away(grid_mm: NDArray[np.float64], centre_mm: ArrayLike, radii_mm: ArrayLike) -> NDArray[np.float64]:
    """Squared distance from an ellipsoid's centre in units of its radii: 1 on the surface, (D, H, W)."""
    offset = grid_mm - np.reshape(centre_mm, (3, 1, 1, 1))
    return ((offset / np.reshape(radii_mm, (3, 1, 1, 1))) ** 2).sum(0)  # type: ignore[no-any-return]


def _two_lesions(grid_mm: NDArray[np.float64], rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Two ellipsoids from the same distribution, far apart, at about the same height."""
    low, high = RADIUS_MM
    while True:
        centres = rng.uniform(*CENTRES_MM, size=(2, 3))
        centres[1, 2] = centres[0, 2] + rng.uniform(-6, 6)
        if np.linalg.norm(centres[0] - centres[1]) > 2 * high + 4:
            return [_ellipsoid(grid_mm, centre, rng.uniform(low, high, size=3)) for centre in centres]


def _bridged_lesions(grid_mm: NDArray[np.float64], rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Two such ellipsoids that overlap a little, at about the same height; a voxel of both belongs to the nearer."""
    low, high = np.array(CENTRES_MM)
    while True:
        radii = rng.uniform(*RADIUS_MM, size=(2, 3))
        angle, rise = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25)
        towards = np.array([np.cos(angle), np.sin(angle), rise]) / np.hypot(1, rise)
        reach = float((1 / np.linalg.norm(towards / radii, axis=1)).sum()) - rng.uniform(*OVERLAP_MM)
        first = rng.uniform(low, high)
        second = first + reach * towards
        if not ((low <= second) & (second <= high)).all():
            continue
        away = np.stack([_radii_away(grid_mm, *one) for one in zip((first, second), radii, strict=True)])
        lesions = [(away[own] <= 1) & (away.argmin(0) == own) for own in (0, 1)]
        if (ndimage.binary_dilation(lesions[0]) & lesions[1]).any():  # they share a face
            return lesions


def _oblique(rng: np.random.Generator) -> NDArray[np.float64]:
    """A rotation of up to about 20 degrees around a random axis, as a direction matrix."""
    axis = rng.normal(size=3)
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * rng.uniform(0.1, 0.35)).as_matrix()
