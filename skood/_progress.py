"""Progress bars of tqdm: when they are shown, and their descriptions.

A `verbose` is "auto", a bool or an int, here and in every estimator. True and numbers above 0 show
a bar at once; False and 0 never show it. "auto" takes the `verbose` of the innermost
:func:`progress_scope` that has another value. If there is none, the bar is shown if it takes more
than a few seconds, stderr is a terminal or the process is the kernel of a notebook, and the
process is no worker process.

A notebook with ipywidgets shows widgets, another one text. In a log, a bar that is asked for writes
a line at its start, at its end, and every half minute.

Scopes are context variables: a thread starts without any.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook without ipywidgets, where the bars are text.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["progress_bar", "progress_scope", "tracked"]

Verbose = bool | int | str

_DELAY = 3.0
# Seconds between the lines of a log.
_LOG_INTERVAL = 30.0
# A narrow terminal may cut off the end.
_FORMAT = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}] {rate_fmt} {bar}"
# Characters of counts, times and a loss after the description.
_ROOM_BEHIND = 36
# The `verbose` and the labels of the enclosing scopes.
_scope: ContextVar[tuple[Verbose, tuple[str, ...]]] = ContextVar("scope", default=("auto", ()))


@contextlib.contextmanager
def progress_scope(verbose: Verbose = "auto", label: str | None = None) -> Iterator[None]:
    """Set the `verbose` of the bars made in the block, and put a label before their descriptions.

    The labels of nested scopes are joined: "LikelihoodRatio 1 of 2, foreground: PixelCNN".
    """
    outer_verbose, labels = _scope.get()
    token = _scope.set(
        (outer_verbose if verbose == "auto" else verbose, (*labels, label) if label else labels)
    )
    try:
        yield
    finally:
        _scope.reset(token)


class _Bar(tqdm):
    """Bar that appears when its delay is over; tqdm's waits for the next update, too."""

    delay: float
    _timer: threading.Timer | None = None

    def appear_after_delay(self) -> None:
        """Start a timer, which `close` must end."""
        self._timer = threading.Timer(self.delay, self.refresh)
        self._timer.daemon = True
        self._timer.start()

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        """Redraw the bar after its delay, which tqdm ignores in `set_postfix`."""
        with self.get_lock():
            if not self.disable and (self.delay <= 0 or self._time() >= self.start_t + self.delay):
                super().refresh(*args, **kwargs)
                # With a delay, tqdm closes a bar without its last state.
                self.delay = 0

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().close()


class _LogBar(_Bar):
    """Bar in a log, with few lines."""

    _shown_at = -math.inf

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        now = self._time()
        if now - self._shown_at >= _LOG_INTERVAL:
            self._shown_at = now
            super().refresh(*args, **kwargs)


class _Lines:
    """File in which every state of a bar is a line."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, text: str) -> None:
        # tqdm also writes line ends and movements of the cursor alone.
        state = text.replace("\x1b[A", "").strip()
        if state:
            self._file.write(f"{state}\n")

    def flush(self) -> None:
        self._file.flush()


def _renew_lock() -> None:
    """Give the bars of this process a lock of their own.

    Forked processes share tqdm's lock: one that is killed while it has the lock stops all others.
    """
    _Bar.set_lock(threading.RLock())


_renew_lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def progress_bar(*, verbose: Verbose = "auto", **params: Any) -> Any:
    """Make a bar for a ``with`` statement, with ``update(n=1)`` and ``set_postfix(**values)``.

    Parameters
    ----------
    verbose : {"auto"}, bool or int, default="auto"
    **params : dict
        The `total` number of updates, or None; the `description`; the `unit` that an update
        counts; and the `initial` number of updates, made by a run that is resumed.
    """
    bar = _make_bar(verbose, **params)
    if not bar.disable and bar.delay > 0:
        bar.appear_after_delay()
    return bar


def tracked(iterable: Iterable, *, verbose: Verbose = "auto", **params: Any) -> Iterator:
    """Iterate with a bar, which takes the parameters of :func:`progress_bar`.

    It appears at the end of an item: an iterator is not told of an error in its loop, and with a
    timer the bar could appear after it.
    """
    return iter(_make_bar(verbose, iterable=iterable, **params))


def _make_bar(verbose: Verbose, *, description: str, **params: Any) -> _Bar:
    outer_verbose, labels = _scope.get()
    if verbose == "auto":
        verbose = outer_verbose
    room = shutil.get_terminal_size((120, 24)).columns - _ROOM_BEHIND
    while labels and len(" ".join(labels)) + len(f": {description}") > room:
        labels = labels[1:]
    if verbose == "auto":
        hidden = multiprocessing.parent_process() is not None or not _is_interactive()
    else:
        hidden = not verbose or sys.stderr is None
    kind = _Bar
    if not hidden and not _is_interactive():
        kind = _LogBar
        params["file"] = _Lines(sys.stderr)
    return kind(
        desc=f"{' '.join(labels)}: {description}" if labels else description,
        delay=_DELAY if verbose == "auto" else 0,
        disable=hidden,
        bar_format=_FORMAT,
        **params,
    )


def _is_interactive() -> bool:
    """Whether a bar can be redrawn: on a terminal, or in a notebook."""
    if sys.stderr is None:
        return False
    python = sys.modules.get("IPython")
    if python is not None and hasattr(python.get_ipython(), "kernel"):
        return True
    return not hasattr(sys.stderr, "isatty") or sys.stderr.isatty()
