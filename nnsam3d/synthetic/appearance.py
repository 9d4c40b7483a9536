"""How a scene looks: a look for every region, then what a scanner does to it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from nnsam3d.synthetic.noise import smooth_noise
from nnsam3d.synthetic.scene import INSIDE, OBJECTS, Scene

SURROUNDINGS = 2 * OBJECTS + 1  # the look of what is outside of the body
LOOKS = 2 * OBJECTS + 2
EQUAL_SHARE, FAINT_SHARE = 0.06, 0.16  # of objects that look like a neighbour, or nearly so
FAINT = (0.04, 0.12)  # contrast of those
INNER = (0.1, 0.5)  # contrast of what lies inside an object
KINDS = {"ct": 0.35, "mr": 0.4, "pet": 0.25}
"""Share of each kind of image."""


def draw_image(rng: Generator, scene: Scene, pitch_DHW: Sequence[float]) -> NDArray[np.float32]:
    """An image (D, H, W) of a scene, as one of :data:`KINDS` would show it; its unit is arbitrary, of CT HU.

    Args:
        pitch_DHW: edges of a voxel in units of the finest one.
    """
    kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    pitch = np.asarray(pitch_DHW)
    image = _regions(rng, scene, pitch, kind)
    if kind == "mr" or (kind == "pet" and rng.random() < 0.3):  # a bias field
        shading = smooth_noise(rng, image.shape, rng.uniform(15, 50) / pitch)
        image *= np.exp(np.float32(rng.uniform(0, 0.35)) * shading)
    image = _resolved(rng, image, pitch, kind)
    if kind == "ct":
        image += np.float32(rng.uniform(0.005, 0.05)) * _grain(rng, image.shape, pitch, 1.2)
        return np.clip(image * 1200 - 1000, -1024, 3000)  # HU: 0 is air, water lies at 0.83
    if kind == "mr":  # the magnitude of a complex signal
        level = np.float32(rng.uniform(0.005, 0.07))
        real, imaginary = (level * _grain(rng, image.shape, pitch, 1.0) for _ in range(2))
        return np.hypot(image + real, imaginary) * np.float32(np.exp(rng.uniform(np.log(100), np.log(2000))))
    noise = np.sqrt(np.maximum(image, 0.02)) * _grain(rng, image.shape, pitch, 2.0)  # counts
    image = np.maximum(image + np.float32(rng.uniform(0.01, 0.1)) * noise, 0)
    return image * np.float32(np.exp(rng.uniform(np.log(500), np.log(5000))))


def _regions(rng: Generator, scene: Scene, pitch: NDArray, kind: str) -> NDArray[np.float32]:
    """Mean, texture at several scales, and a slow gradient for every region."""
    labels = np.where(scene.body_DHW | (scene.labels_DHW > 0), scene.labels_DHW, np.uint8(SURROUNDINGS))
    mean, texture = _looks(rng, labels, kind)
    shape = labels.shape
    image = mean[labels]
    for scale in (rng.uniform(0.8, 2.5), rng.uniform(2.5, 6), rng.uniform(8, 20)):
        amount = texture * rng.dirichlet([0.6, 1.4], LOOKS)[:, 0].astype(np.float32)
        image += amount[labels] * smooth_noise(rng, shape, scale / pitch)
    return image


def _looks(rng: Generator, labels_DHW: NDArray[np.uint8], kind: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(LOOKS,) mean, 0 to about 1, and strength of the texture."""
    mean = rng.uniform(0, 1, LOOKS)
    texture = rng.uniform(0, 0.12, LOOKS) * rng.choice([1.0, 2.5], LOOKS, p=[0.85, 0.15])
    if kind == "pet" or (kind == "mr" and rng.random() < 0.3):  # few bright regions
        mean = mean ** rng.uniform(1.5, 4)
    if kind == "ct":  # soft tissue within 150 HU around water; now and then bone and air
        rare = rng.random(LOOKS)
        tissue = 0.79 + rng.uniform(0.08, 0.25) * mean
        mean = np.where(rare < 0.06, 0.1 + 0.2 * mean, np.where(rare > 0.92, 1.0 + 0.6 * mean, tissue))
        texture = texture * 0.25
    mean[SURROUNDINGS] = 0 if kind == "ct" else rng.uniform(0, 0.1)
    texture[SURROUNDINGS] *= 0.2
    unit = 0.2 if kind == "ct" else 1.0  # of contrasts
    for label, neighbours in _neighbours(labels_DHW).items():
        if label in (0, SURROUNDINGS):
            continue
        draw, other = rng.random(), int(rng.choice(neighbours))
        sign, faint, inner = rng.choice([-1, 1]), rng.uniform(*FAINT), rng.uniform(*INNER)
        if label in INSIDE:
            mean[label] = mean[INSIDE[label]] + sign * inner * unit
        elif draw < EQUAL_SHARE and other in range(1, OBJECTS + 1):
            mean[label], texture[label] = mean[other], texture[other]
        elif draw < EQUAL_SHARE + FAINT_SHARE:
            mean[label] = mean[other] + sign * faint * unit
    return np.maximum(mean, 0).astype(np.float32), texture.astype(np.float32)


def _neighbours(labels_DHW: NDArray[np.uint8]) -> dict[int, list[int]]:
    """Label -> the labels that it shares a face with, or itself, in order of the labels."""
    touching = np.zeros((LOOKS, LOOKS), bool)
    for axis in range(3):
        whole = np.moveaxis(labels_DHW, axis, 0)
        touching[whole[1:].reshape(-1), whole[:-1].reshape(-1)] = True
    touching |= touching.T
    found = {}
    for label in np.flatnonzero(touching.any(1)).tolist():
        found[label] = [other for other in np.flatnonzero(touching[label]).tolist() if other != label] or [label]
    return found


def _resolved(rng: Generator, image_DHW: NDArray[np.float32], pitch: NDArray, kind: str) -> NDArray[np.float32]:
    """Blurred, and in some images with slices along one axis that are thicker than the voxels."""
    blur = rng.uniform(0.8, 2.0) if kind == "pet" else rng.uniform(0, 1.1)
    sigma = blur / pitch
    image = ndimage.gaussian_filter(image_DHW, sigma, truncate=3) if blur > 0.2 else image_DHW
    if kind != "pet" and rng.random() < 0.25:
        axis, thickness = int(np.argmax(pitch)) if rng.random() < 0.5 else int(rng.integers(3)), int(rng.integers(2, 4))
        image = ndimage.uniform_filter1d(image, thickness, axis)
        centres = np.arange(thickness // 2, image.shape[axis], thickness)
        nearest = np.abs(np.arange(image.shape[axis])[:, None] - centres).argmin(1)
        image = np.take(image, centres[nearest], axis)
        image = ndimage.uniform_filter1d(image, thickness, axis)  # interpolated between them
    return image


def _grain(rng: Generator, shape: Sequence[int], pitch: NDArray, widest: float) -> NDArray[np.float32]:
    """Noise, white or slightly smooth."""
    scale = rng.uniform(0.6, widest)
    if scale < 1:
        return rng.standard_normal(shape, dtype=np.float32)
    return smooth_noise(rng, shape, scale / pitch)
