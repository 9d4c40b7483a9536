"""Whether a prediction around prompts should keep components that nobody asked for.

In a dataset with one tumour per patient, a further component is mostly a false alarm: it goes unless it is prompted. In
a dataset with many lesions per patient, the label means all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nnsam3d.progress import tqdm
from nnsam3d.prompts.components import Components
from nnsam3d.prompts.labels import label_values

CASES = 20  # at most so many are counted
FEW = 2  # components of a label in a case
SMALL = 0.05  # share of a label's volume; smaller components do not count


def suggested_components(
    dataset: Any, labels: Sequence[int], regions: Mapping[int, frozenset[int]] | None = None
) -> str:
    """ "prompted" if most labels of most cases have few components, otherwise "all".

    Args:
        dataset: nnU-Net's, of preprocessed training cases.
        labels: foreground values.
        regions: for datasets with regions: label -> the values inside its region.
    """
    counts = []
    for case in tqdm(sorted(dataset.identifiers)[:CASES], desc="counting components", leave=False):
        segmentation_DHW = np.asarray(dataset.load_case(case)[1][0])
        for label in labels:
            volumes = Components(np.isin(segmentation_DHW, label_values(label, regions))).volumes
            if len(volumes):
                counts.append(int((volumes >= SMALL * volumes.sum()).sum()))
    return "prompted" if not counts or np.median(counts) <= FEW else "all"
