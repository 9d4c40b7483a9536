"""The model learns from saved cases, in a process of its own, while people go on annotating."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnsam3d.inference.model import Model
from nnsam3d.learning.record import read_record
from nnsam3d.nnunet.datasets import FINAL

logger = logging.getLogger(__name__)

NICE = 15
# The process's workers stop and go on with it. In the server's session: if the server is killed while they are stopped,
# the system ends them (SIGHUP to an orphaned group).
OWN_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}


def newest(current: Model, own: Path) -> Model:
    """The model that learns, once it is to be used (:attr:`Record.serves`); until then, the current one.

    Args:
        current: the model in use.
        own: folder of the model that learns.
    """
    record = read_record(own) if own.is_dir() else None
    if record is None or not record.serves:
        return current
    names = [name for name, value in current.labels.items() if value]
    agnostic = current.class_agnostic and not record.grown and not current.open_labels
    return Model(own, ["0"], FINAL, current.device, mirroring=False, objects=names if agnostic else [])


class Learner:
    """Runs `nnsam3d learn` after saved cases, one round at a time; what is saved during a round is for the next one.

    The process has a low priority, and does not run while a client's request is being computed. Locks: ``_lock`` guards
    the process and the wishes; it is never held while something is computed or waited for.

    Attributes:
        said: what the last round brought, for people; "" before it.
    """

    def __init__(self, options: Sequence[str], own: Path, changed: Callable[[], None]) -> None:
        """
        Args:
            options: of `nnsam3d learn`, beside -o.
            own: folder of the model that learns.
            changed: called after a round that has changed the weights, in a thread.
        """
        self._command = [sys.executable, "-m", "nnsam3d", "learn", *options, "-o", str(own)]
        self._own, self._changed = own, changed
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False  # another round
        self._computing = 0
        self._closed = False
        self.said = ""

    @property
    def learns(self) -> bool:
        """Whether a round is running."""
        return self._process is not None

    def case_saved(self) -> None:
        """Begins a round, or notes that one more is needed."""
        with self._lock:
            self._wanted = True
            if self._process is None and not self._closed:
                self._start()

    def _start(self) -> None:
        self._wanted = False
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **OWN_GROUP
        )
        os.setpriority(os.PRIO_PROCESS, self._process.pid, NICE)
        if self._computing:
            self._signal(signal.SIGSTOP)
        threading.Thread(target=self._wait, args=(self._process,), name="nnsam3d-learner", daemon=True).start()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        _, errors = process.communicate()
        with self._lock:
            self._process = None
            closed = self._closed
        if closed:
            return
        if process.returncode:
            reason = errors.decode("utf-8", "replace").strip().splitlines()
            self.said = f"learning failed: {reason[-1] if reason else f'status {process.returncode}'}"
            logger.warning(self.said)
        else:
            record = read_record(self._own)
            if record is not None and record.rounds:
                self.said = record.rounds[-1].describe()
                logger.info(self.said)
                try:
                    self._changed()
                except Exception as error:  # the old weights go on serving
                    self.said = f"{self.said}, but the new weights cannot be loaded: {error}"
                    logger.warning(self.said)
        with self._lock:
            if self._wanted and not self._closed and self._process is None:
                self._start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The process does not run inside this block, which may be entered by several threads."""
        with self._lock:
            self._computing += 1
            if self._computing == 1:
                self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            with self._lock:
                self._computing -= 1
                if not self._computing:
                    self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError, PermissionError):  # it has just ended
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Ends the process. Its round is lost, the weights are complete: the next one makes up for it."""
        with self._lock:
            self._closed = True
            process = self._process
            self._signal(signal.SIGCONT)
        if process is not None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
