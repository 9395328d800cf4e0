"""Threads and forked processes: what of a process only one thread may use at a time.

A batch switches a network to eval mode, hooks into its layers, and uses all cores; derivatives in
forward mode have levels that all threads share. Training draws from torch's global generators.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator

import torch

__all__ = ["Turns", "computing"]


class Turns:
    """Reentrant lock that threads get in the order in which they ask for it.

    A forked process holds the lock only if the thread that forked held it.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        # Identifiers of the threads that wait, each with a lock that is released when it may go on.
        self._waiting: deque[tuple[int, threading.Lock]] = deque()
        self._owner: int | None = None
        # Number of nested blocks of the owner.
        self.depth = 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget_other_threads)

    @property
    def is_held(self) -> bool:
        """Whether this thread has the lock."""
        return self._owner == threading.get_ident()

    def __enter__(self) -> None:
        if not self.is_held:
            self._wait()
        self.depth += 1

    def __exit__(self, *error: object) -> None:
        self.depth -= 1
        if not self.depth:
            self._release()

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """Let other threads have the lock inside the block."""
        depth, self.depth = self.depth, 0
        self._release()
        try:
            yield
        finally:
            self._take_back(depth)

    def _take_back(self, depth: int) -> None:
        interrupt: KeyboardInterrupt | None = None
        while not self.is_held:
            try:
                self._wait()
            except KeyboardInterrupt as error:  # The enclosing blocks end with the lock.
                interrupt = error
        self.depth = depth
        if interrupt is not None:
            raise interrupt

    def _wait(self) -> None:
        entry = threading.get_ident(), threading.Lock()
        with self._guard:
            if self._owner is None:
                self._owner = entry[0]
                return
            entry[1].acquire()
            self._waiting.append(entry)
        try:
            entry[1].acquire()
        except BaseException:  # Ctrl-C
            with self._guard:
                was_given = entry not in self._waiting
                if not was_given:
                    self._waiting.remove(entry)
            if was_given:
                self._release()
            raise

    def _release(self) -> None:
        with self._guard:
            self._owner, gate = self._waiting.popleft() if self._waiting else (None, None)
            if gate is not None:
                gate.release()

    def _forget_other_threads(self) -> None:
        self._guard = threading.Lock()
        self._waiting.clear()
        if not self.is_held:
            self._owner, self.depth = None, 0


# Held while a network computes a batch.
computing = Turns()


def _use_one_thread() -> None:
    """Run torch in this thread alone: its other threads do not exist in a forked process."""
    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)


# Without it, the first parallel operation of the child waits for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_use_one_thread)
