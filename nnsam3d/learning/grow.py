"""A model of one's own, from the first finished cases.

It begins with the weights of a class-agnostic model, such as the starter, and knows the dataset's labels, so that it
can answer before the first click.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnsam3d.errors import UserError
from nnsam3d.files import write_json
from nnsam3d.learning.finished import FinishedCase, read_finished, target_spacing
from nnsam3d.learning.tune import write_checkpoint
from nnsam3d.network.fitting import load_fitting
from nnsam3d.nnunet.contract import PlansManager, determine_num_input_channels
from nnsam3d.nnunet.datasets import ANY_SPACING_KEY, FINAL, OPTIONS_KEY
from nnsam3d.nnunet.model import TrainedModel
from nnsam3d.training.options import options_of_checkpoint
from nnsam3d.training.plans import rewrite_plans


def grow(model: TrainedModel, cases: Sequence[FinishedCase], dataset_json: dict[str, Any], folder: Path) -> None:
    """Writes a model's folder: plans, dataset.json and the first weights.

    Patch and network are those of the model. The spacing is the median of those at which it would work on the cases, so
    fine that a patch is not larger than the image: most of it would be padding.

    Args:
        model: class-agnostic, of one fold.
        cases: at least one.
        dataset_json: of the cases: labels and channels.
        folder: to write.

    Raises:
        UserError: the model is not class-agnostic, or has another number of channels.
    """
    if not model.class_agnostic:
        raise UserError(f"{model.folder}: has labels of its own, so there is nothing to grow: tune it")
    spacings = []
    for case in cases:
        _, labels, properties = read_finished(case, model)
        steps = np.array(properties["spacing"], float)
        filled = float((np.array(labels.shape) * steps).max()) / max(model.patch_size)
        spacings.append(max(float(steps.min()), min(target_spacing(labels, properties, case.ignored), filled)))
    plans = copy.deepcopy(model.plans_manager.plans)
    entry = plans["configurations"][model.configuration]
    entry.pop(ANY_SPACING_KEY, None)
    entry["spacing"] = [float(np.median(spacings))] * 3
    trained = options_of_checkpoint(entry[OPTIONS_KEY], str(model.folder)).as_dict()
    entry[OPTIONS_KEY] = {**trained, "targets": "labels", "data": "dataset"}
    options = options_of_checkpoint(entry[OPTIONS_KEY], str(model.folder))
    plans = rewrite_plans(plans, model.configuration, dataset_json, options)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(model.configuration)
    channels = determine_num_input_channels(manager, configuration, dataset_json)
    heads = manager.get_label_manager(dataset_json).num_segmentation_heads
    network = model.trainer.build_network_architecture(manager, configuration, channels, heads, False)  # type: ignore[attr-defined]
    load_fitting(network, model.networks[0].state_dict(), model.checkpoint_files[0])
    checkpoint = {
        "network_weights": network.state_dict(),
        "init_args": {"configuration": model.configuration, "fold": 0},
        "trainer_name": model.trainer.__name__,
    }
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    write_json(folder / "dataset.json", dataset_json)
    write_checkpoint(checkpoint, folder / "fold_0" / FINAL)
    write_json(folder / "plans.json", plans)  # last: a folder with plans is complete
