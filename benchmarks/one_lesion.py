"""One lesion among many: Dice of the lesion that is prompted, and how much of the others comes with it.

    python -m benchmarks.one_lesion IMAGES LABELS [--channel 0] [--smallest 60] [--largest 5000] [--most 10]

Every connected component of the foreground is a target of its own; prompts are placed as `nnsam3d benchmark` does,
the first click in the middle or on a random voxel of the lesion. The model is the starter, or that of --model.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnsam3d.evaluation.names import PROTOCOLS, Protocol
from nnsam3d.evaluation.protocols import Truth, as_prompts, run_protocol
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model
from nnsam3d.nnunet.datasets import STARTER
from nnsam3d.nnunet.reading import spacing_of
from nnsam3d.progress import tqdm
from nnsam3d.prompts.components import Components, dice_of
from nnsam3d.tables import markdown

CLICKS = (0, 1, 2, 3, 5)
CACHE_BYTES = 2**29


def lesions(
    model: Model, args: argparse.Namespace
) -> Iterator[tuple[str, PreparedImage, NDArray[np.uint8], NDArray[np.bool_], tuple[float, float, float]]]:
    """Name, image, the lesion as a label map, all other lesions, and mm along z, y, x; the largest ones first."""
    for file in sorted(args.labels.glob("*.nii.gz")):
        case = file.name.removesuffix(".nii.gz")
        files = (str(args.images / f"{case}_{args.channel:04d}.nii.gz"),)
        image, properties = model.read(files)
        foreground = model.read_labels(str(file)) > 0
        components = Components(foreground)
        fitting = [n for n in np.argsort(-components.volumes) if args.smallest <= components.volumes[n] <= args.largest]
        prepared = PreparedImage(model, image, properties, CACHE_BYTES, files=files)
        for number in fitting[: args.most]:
            component, lesion = components[int(number)], np.zeros(foreground.shape, np.uint8)
            lesion[component.place] = component.box
            yield f"{case}_{number + 1}", prepared, lesion, foreground & (lesion == 0), spacing_of(properties)


def measured(
    protocol: Protocol,
    name: str,
    image: PreparedImage,
    lesion: NDArray[np.uint8],
    others: NDArray[np.bool_],
    spacing: tuple[float, float, float],
) -> NDArray[np.float64]:
    """Dice, and the share of the others that is taken, after CLICKS clicks: (2, len(CLICKS))."""
    found = []
    for step in run_protocol(
        protocol,
        Truth(name, lesion, spacing, (1,)),
        seed=0,
        answer=lambda prompts: image.segment(as_prompts(name, prompts.clicks(), prompts.shapes)).label_map,
        max_clicks=max(CLICKS),
    ):
        answer = step.answer > 0
        found.append((dice_of(answer, lesion > 0), (answer & others).sum() / max(1, others.sum())))
    return np.array([found[min(number, len(found) - 1)] for number in CLICKS]).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder CASE_0000.nii.gz")
    parser.add_argument("labels", type=Path, help="folder CASE.nii.gz")
    parser.add_argument("--model", type=Path, default=STARTER, help="a model folder (default: the starter)")
    parser.add_argument("--channel", type=int, default=0, help="of the image (default: 0)")
    parser.add_argument("--smallest", type=int, default=60, help="lesion, in voxels (default: 60)")
    parser.add_argument("--largest", type=int, default=5000, help="lesion, in voxels (default: 5000)")
    parser.add_argument("--most", type=int, default=10, help="lesions of a case (default: 10)")
    args = parser.parse_args()
    model = Model(args.model, None, mirroring=False)
    middle = replace(PROTOCOLS["iterative"], first="center")
    asked = {"click in the middle": middle} | {name: PROTOCOLS[name] for name in ("iterative", "box", "lasso")}
    results: dict[str, list[NDArray[np.float64]]] = {name: [] for name in asked}
    for one in tqdm(list(lesions(model, args)), desc="lesions", unit="lesion"):
        for name, protocol in asked.items():
            results[name].append(measured(protocol, *one))
    rows = []
    for name, found in results.items():
        dice, others = np.mean(found, axis=0)
        rows.append([name, *(f"{d:.2f} ({o:.3f})" for d, o in zip(dice, others, strict=True))])
    print(f"{len(found)} lesions; mean Dice (share of all other lesions that is taken) by number of clicks\n")
    print(markdown(["first prompt", *map(str, CLICKS)], rows))


if __name__ == "__main__":
    main()
