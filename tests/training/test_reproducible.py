"""Random streams: kept and taken up again; batches by number, whoever computes them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from nnsam3d.training.reproducible import NumberedBatches, repeatable, seed_streams, stored_streams, use_streams


def draw() -> tuple[float, ...]:
    return random.random(), float(np.random.normal()), float(torch.randn(1))  # noqa: NPY002


class Loader:
    """As nnU-Net's: from the global generators, and it remembers nothing."""

    def set_thread_id(self, thread_id: int) -> None: ...

    def __next__(self) -> tuple[float, ...]:
        return draw()


def test_streams_pass_through_a_checkpoint_of_plain_data(tmp_path: Path) -> None:
    seed_streams(5)
    draw()  # a normal number leaves another one behind
    torch.save(stored_streams(), tmp_path / "streams.pth")
    expected = [draw() for _ in range(700)]
    seed_streams(6)
    assert draw() != expected[0]
    use_streams(torch.load(tmp_path / "streams.pth", weights_only=True))
    assert [draw() for _ in range(700)] == expected


def test_a_batch_depends_on_the_seed_and_its_number_alone() -> None:
    first = NumberedBatches(Loader(), (1, 0), 0, 1)
    batches = [next(first) for _ in range(6)]
    assert len(set(batches)) == 6
    later = NumberedBatches(Loader(), (1, 0), 4, 1)
    assert next(later) == batches[4]
    assert next(NumberedBatches(Loader(), (1, 1), 0, 1)) != batches[0]


def test_batches_leave_the_streams_of_the_training_alone() -> None:
    seed_streams(1)
    expected = [draw() for _ in range(3)]
    seed_streams(1)
    batches = NumberedBatches(Loader(), (9,), 0, 1)
    assert [(next(batches), draw())[1] for _ in range(3)] == expected


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_order_is_the_same_with_any_number_of_processes(workers: int) -> None:
    alone = NumberedBatches(Loader(), (1, 0), 7, 1)
    augmenter = repeatable(Loader(), (1, 0), 7, workers, pin_memory=False)
    assert [next(augmenter) for _ in range(8)] == [next(alone) for _ in range(8)]
    if workers:
        augmenter._finish()
