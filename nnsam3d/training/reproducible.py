"""Random states that can be stored in a checkpoint, and batches that depend only on a seed and their number."""

from __future__ import annotations

import ctypes
import io
import os
import random
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch

from nnsam3d.nnunet.contract import MultiThreadedAugmenter, NonDetMultiThreadedAugmenter, SingleThreadedAugmenter

WORKERS = "nnUNet_n_proc_DA"
PR_SET_PDEATHSIG = 1  # of Linux's prctl


def stored_streams() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, as types that torch's restricted unpickler can read."""
    version, words, python_gauss = random.getstate()
    numpys: Any = np.random.get_state()  # noqa: NPY002
    _, keys, position, has_gauss, gauss = numpys
    return {
        "python": [version, list(words), python_gauss],
        "numpy": [torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def use_streams(stored: dict[str, Any]) -> None:
    """Restore the states of :func:`stored_streams`; the tensors may be on any device."""
    version, words, python_gauss = stored["python"]
    random.setstate((version, tuple(words), python_gauss))
    keys, position, has_gauss, gauss = stored["numpy"]
    numpy_keys = keys.cpu().numpy().astype(np.uint32)
    np.random.set_state(("MT19937", numpy_keys, position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(stored["torch"].cpu())
    if torch.cuda.is_initialized():
        for device, state in enumerate(stored["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state.cpu(), device)


def seed_streams(*numbers: int) -> None:
    """Seed all generators; different numbers (zero or positive) give different streams."""
    python, numpy, torchs = np.random.SeedSequence(numbers).generate_state(3)
    random.seed(int(python))
    np.random.seed(int(numpy))  # noqa: NPY002
    torch.manual_seed(int(torchs))


class NumberedBatches:
    """A loader whose batch n depends only on (seed, n), regardless of the process that computes it.

    This works because nnU-Net's loader draws every batch from the global generators and has no other state.
    """

    def __init__(self, loader: Any, seed: Sequence[int], first: int, workers: int) -> None:
        """
        Args:
            first: number of the first batch.
            workers: number of processes that compute batches in turn.
        """
        self.loader = loader
        self.seed = tuple(seed)
        self.first = self.number = first
        self.workers = workers

    def set_thread_id(self, thread_id: int) -> None:
        """Called by the augmenter in each of its processes.

        One thread each, as in nnU-Net's own augmenter: after a fork, OpenMP would wait for the parent's threads.
        """
        torch.set_num_threads(1)
        self.loader.set_thread_id(thread_id)
        self.number = self.first + thread_id

    def __iter__(self) -> NumberedBatches:
        return self

    def __next__(self) -> Any:
        before = stored_streams()
        seed_streams(*self.seed, self.number)
        try:
            return next(self.loader)
        finally:
            use_streams(before)
            self.number += self.workers


def repeatable(loader: Any, seed: Sequence[int], first: int, workers: int, pin_memory: bool) -> Any:
    """An augmenter that returns batches in the order of their numbers.

    Args:
        loader, seed, first: as for :class:`NumberedBatches`.
        workers: number of processes; 0 = none.
    """
    batches = NumberedBatches(loader, seed, first, max(1, workers))
    if not workers:
        return SingleThreadedAugmenter(batches, None)
    # nnU-Net's own augmenter returns batches in the order in which its processes finish them
    return MultiThreadedAugmenter(
        batches, None, workers, num_cached_per_queue=3, pin_memory=pin_memory, wait_time=0.002
    )


_training: int | None = None  # the process whose data workers end with it


@contextmanager
def workers_end_with_this_process() -> Iterator[None]:
    """In this context, processes that are forked end with this one, however it ends (Linux).

    Otherwise a data worker that waits for the training would wait for ever after kill -9 or a second Ctrl-C.
    """
    global _training
    before, _training = _training, os.getpid()
    try:
        yield
    finally:
        _training = before


def _end_with_the_training() -> None:
    if _training is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != _training:  # it ended before that call
        os._exit(1)


os.register_at_fork(after_in_child=_end_with_the_training)


def end_workers(*loaders: Any) -> None:
    """Ends the processes of nnU-Net's augmenters, as nnU-Net does after a training.

    Otherwise, the augmenters' threads would report them as missing when this process exits.
    """
    for loader in loaders:
        if isinstance(loader, (NonDetMultiThreadedAugmenter, MultiThreadedAugmenter)):
            with redirect_stdout(io.StringIO()):
                loader._finish()


@contextmanager
def without_workers() -> Iterator[None]:
    """In this context, nnU-Net starts no data worker processes."""
    before = os.environ.get(WORKERS)
    os.environ[WORKERS] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[WORKERS]
        else:
            os.environ[WORKERS] = before
