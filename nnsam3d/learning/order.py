"""Which case next: the one on which the model's answers to different prompts differ most teaches it most."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from nnsam3d.files import write_json
from nnsam3d.inference.image import PreparedImage
from nnsam3d.inference.model import Model
from nnsam3d.learning.check import CACHE_BYTES
from nnsam3d.learning.record import read_record
from nnsam3d.nnunet.cases import case_name
from nnsam3d.nnunet.datasets import FINAL, cases_in
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.nnunet.reading import spacing_of
from nnsam3d.prompts import CasePrompts, PromptSimulator, case_rng
from nnsam3d.prompts.components import dice_of

logger = logging.getLogger(__name__)

FILE = "next.json"
MOST_CASES = 8  # that are looked at after a round
DRAWS = 2  # of prompts


def disagreement(model: TrainedModel, name: str, images: Sequence[str]) -> float:
    """0: the answers to clicks at different places are equal; 1: they have nothing in common, or nothing is found.

    The clicks are drawn from the model's own answer without prompts, one on every label in it.

    Args:
        model: with labels of its own: a class-agnostic one has no answer without prompts.
        name: of the case, which seeds the clicks.
        images: one file per channel.
    """
    image, properties = model.read(images)
    prepared = PreparedImage(model, image, properties, CACHE_BYTES, files=images)
    alone = prepared.segment(None).label_map
    labels = tuple(value for value in sorted(set(model.labels.values())) if value > 0 and (alone == value).any())
    if not labels:
        return 1.0
    simulator = PromptSimulator(labels, spacing_of(properties))
    answers = []
    for seed in range(DRAWS):
        clicks = simulator.fixed(alone, len(labels), case_rng(name, seed))
        prompts = CasePrompts.of_array(name, [one.voxel for one in clicks], [one.label for one in clicks])
        answers.append(prepared.segment(prompts).label_map)
    first, second = answers
    return 1 - float(np.mean([dice_of(first == label, second == label) for label in labels]))


def write_order(images: Path, finished: Path, own: Path, device: str) -> list[str]:
    """Writes the order of some cases that are to do, those with the largest disagreement first, beside the model.

    Args:
        images: folder of all cases.
        finished: the dataset of finished ones.
        own: folder of the model that learns.
        device: torch's name.

    Returns:
        Their names in order; none before the model is to be used, or if it is class-agnostic.
    """
    record = read_record(own)
    if record is None or not record.serves:
        return []
    model = Model(own, ["0"], FINAL, torch.device(device), mirroring=False)
    if model.class_agnostic:
        return []
    ending = model.file_ending
    names = {case_name(files[0], ending): files for files in cases_in(images, ending)}
    left = [
        name
        for name, files in names.items()
        if len(files) == model.num_channels and not (finished / "labelsTr" / f"{name}{ending}").is_file()
    ]
    found = {}
    for name in left[:MOST_CASES]:
        try:
            found[name] = disagreement(model, name, names[name])
        except Exception as error:  # a case that cannot be read must not stop the others
            logger.warning(f"case {name}: {error}")
    order = sorted(found, key=lambda name: -found[name])
    write_json(own / FILE, {name: round(found[name], 4) for name in order})
    return order


def read_order(own: Path) -> list[str]:
    """The names of :func:`write_order`; none if there is no order, or it cannot be read."""
    try:
        return list(json.loads((own / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return []
