"""Finished cases, and what is known of their targets."""

from __future__ import annotations

import numpy as np

from nnsam3d.learning.finished import target_spacing


def test_what_nobody_has_annotated_is_no_target() -> None:
    labels, properties = np.zeros((40, 80, 80), np.uint8), {"spacing": [2.0, 1.0, 1.0]}
    labels[10:15, 20:30, 20:30] = 1
    wanted = target_spacing(labels, properties, None)
    labels[:, 60:] = 3
    assert target_spacing(labels, properties, 3) == wanted
    assert target_spacing(labels, properties, None) > wanted
