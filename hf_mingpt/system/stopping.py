"""Stopping a run: SIGTERM, Ctrl-C, or the end of its launcher."""

import signal
import threading
import time
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from .launching import find_launcher


class StopSignal:
    """Notices a request to stop while the `with` block runs, so that the run can save a checkpoint before it ends.

    A request is SIGTERM, SIGINT (Ctrl-C), or the end of the launcher: a launcher that is killed does not forward the
    signal. A second Ctrl-C ends the process at once.
    """

    def __enter__(self) -> "StopSignal":
        self.received, self.received_at = 0, 0.0  # number of the signal, and when it was received
        self.launcher = find_launcher()
        self.previous = {}
        if threading.current_thread() is threading.main_thread():  # Python allows no handlers in other threads
            self.previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _receive(self, number: int, _: Any) -> None:
        if number == self.received == signal.SIGINT and time.monotonic() - self.received_at > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        if not self.received:  # a signal that is sent to a process and to its group arrives twice
            self.received, self.received_at = number, time.monotonic()

    def received_by_any(self, accelerator: Accelerator) -> int:
        """The largest signal number that any process has received, or 0. Every process must call it.

        Several processes communicate, for which the host waits; one process only looks.
        """
        if not self.received and self.launcher and _has_ended(self.launcher):
            self.received = signal.SIGTERM
        if accelerator.num_processes == 1:
            return self.received
        received = torch.tensor([self.received], device=accelerator.device)
        return int(accelerator.gather(received).max().item())

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
