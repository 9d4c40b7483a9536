"""A phantom CT set on which only a click can tell what is wanted.

Every case has a body, a liver-like organ, a spine, a kidney and two lesions drawn from one distribution. One of
them, chosen at random, is the label; the other is its look-alike. Voxels are anisotropic and images oblique.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.files import write_json

SIZE_XYZ = (40, 40, 20)
SPACING_XYZ = (2.4, 2.4, 4.8)  # mm
AIR, TISSUE, ORGAN, BONE, KIDNEY, LESION = -1000.0, 40.0, 110.0, 400.0, 160.0, 20.0  # HU
NOISE = 12.0  # HU
RADIUS_MM = (9.0, 14.0)
DATASET_NAME = "Dataset990_PhantomCT"


@dataclass(frozen=True)
class PhantomCase:
    """One image with its two lesions.

    Attributes:
        image: CT in HU, oblique and anisotropic.
        target_DHW: the labelled lesion (bool, z, y, x).
        lookalike_DHW: the other one.
    """

    image: sitk.Image
    target_DHW: NDArray[np.bool_]
    lookalike_DHW: NDArray[np.bool_]


def make_case(rng: np.random.Generator) -> PhantomCase:
    """Draw one phantom case."""
    grid_mm = _grid_mm()
    hu = np.full(SIZE_XYZ[::-1], AIR)
    hu[_ellipsoid(grid_mm, (0, 0, 0), (44, 40, 60))] = TISSUE
    hu[_ellipsoid(grid_mm, (-6, -4, 0), (36, 30, 44))] = ORGAN
    hu[_ellipsoid(grid_mm, (0, 33, 0), (8, 7, 60))] = BONE
    hu[_ellipsoid(grid_mm, (30, 14, rng.uniform(-12, 12)), (9, 9, 16))] = KIDNEY
    lesions = _two_lesions(grid_mm, rng)
    for lesion in lesions:
        hu[lesion] = LESION
    hu = ndimage.gaussian_filter(hu, sigma=0.6) + rng.normal(0, NOISE, hu.shape)
    first = int(rng.integers(2))
    image = sitk.GetImageFromArray(hu.astype(np.float32))
    image.SetSpacing(SPACING_XYZ)
    image.SetOrigin(rng.uniform(-100, 100, 3).tolist())
    image.SetDirection(_oblique(rng).ravel().tolist())
    return PhantomCase(image, lesions[first], lesions[1 - first])


def write_dataset(raw_folder: Path, num_training: int, num_test: int, seed: int) -> dict[str, PhantomCase]:
    """Write ``Dataset990_PhantomCT`` in nnU-Net raw format; returns the test cases by name."""
    folder = raw_folder / DATASET_NAME
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(num_training):
        case = make_case(rng)
        sitk.WriteImage(case.image, str(folder / "imagesTr" / f"phantom_{number:03d}_0000.nii.gz"))
        sitk.WriteImage(label_image(case), str(folder / "labelsTr" / f"phantom_{number:03d}.nii.gz"))
    tests = {f"test_{number:03d}": make_case(rng) for number in range(num_test)}
    for name, case in tests.items():
        sitk.WriteImage(case.image, str(folder / "imagesTs" / f"{name}_0000.nii.gz"))
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": num_training,
        "file_ending": ".nii.gz",
    }
    write_json(folder / "dataset.json", dataset)
    return tests


def label_image(case: PhantomCase) -> sitk.Image:
    """The target as label 1, in the image's geometry."""
    label = sitk.GetImageFromArray(case.target_DHW.astype(np.uint8))
    label.CopyInformation(case.image)
    return label


def _grid_mm() -> NDArray[np.float64]:
    """(3, D, H, W): x, y, z in mm from the volume's centre."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SIZE_XYZ, SPACING_XYZ, strict=True)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return np.stack([x, y, z])


def _ellipsoid(
    grid_mm: NDArray[np.float64],
    centre_mm: tuple[float, float, float] | NDArray[np.float64],
    radii_mm: tuple[float, float, float] | NDArray[np.float64],
) -> NDArray[np.bool_]:
    offset = grid_mm - np.reshape(centre_mm, (3, 1, 1, 1))
    return ((offset / np.reshape(radii_mm, (3, 1, 1, 1))) ** 2).sum(0) <= 1


def _two_lesions(grid_mm: NDArray[np.float64], rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Two ellipsoids of one distribution, apart from one another, at about the same height."""
    low, high = RADIUS_MM
    while True:
        centres = rng.uniform((-28, -22, -14), (16, 14, 14), size=(2, 3))
        centres[1, 2] = centres[0, 2] + rng.uniform(-6, 6)
        if np.linalg.norm(centres[0] - centres[1]) > 2 * high + 4:
            return [_ellipsoid(grid_mm, centre, rng.uniform(low, high, size=3)) for centre in centres]


def _oblique(rng: np.random.Generator) -> NDArray[np.float64]:
    """A rotation of up to about 20 degrees around a random axis, as a direction matrix."""
    from scipy.spatial.transform import Rotation

    axis = rng.normal(size=3)
    return Rotation.from_rotvec(axis / np.linalg.norm(axis) * rng.uniform(0.1, 0.35)).as_matrix()
