"""Progress bars: who sees them, when they appear and what they say.

A `verbose` is "auto", a bool or an int, here and in every estimator.

- "auto" follows the enclosing :func:`progress_scope`. Where none decides, a bar is shown if a
  person watches (stderr is a terminal, or the process is the kernel of a notebook; never a worker
  process), and only once the work has taken some seconds.
- True, 1 and more: shown at once, wherever stderr goes.
- False and 0: never shown.

A model's own True or False wins over the scopes around it, and an inner scope over an outer one.
The labels of all scopes around a bar stand before its description:
"LikelihoodRatio 1 of 2, foreground: PixelCNN". Scopes are context variables: a thread starts
without any.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import shutil
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # In a notebook without ipywidgets, where the bars are text.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm

__all__ = ["progress_bar", "progress_scope", "tracked"]

_DELAY = 3.0
# What a narrow terminal cuts off stands last.
_FORMAT = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}] {rate_fmt} {bar}"
# Characters that counts, times and a loss take behind the description.
_ROOM_BEHIND = 36


@dataclass(frozen=True)
class _Scope:
    verbose: bool | int | str = "auto"
    labels: tuple[str, ...] = ()


_NO_SCOPE = _Scope()
_scope: ContextVar[_Scope] = ContextVar("progress_scope", default=_NO_SCOPE)


@contextlib.contextmanager
def progress_scope(verbose: bool | int | str = "auto", label: str | None = None) -> Iterator[None]:
    """Decide on the bars that are made inside the block.

    Parameters
    ----------
    verbose : {"auto"}, bool or int, default="auto"
        For the bars whose own `verbose` is "auto". "auto" leaves it to the scope around this one.
    label : str, default=None
        Stands before their description, after the labels of the scopes around this one.
    """
    outer = _scope.get()
    token = _scope.set(
        _Scope(
            outer.verbose if verbose == "auto" else verbose,
            (*outer.labels, label) if label else outer.labels,
        )
    )
    try:
        yield
    finally:
        _scope.reset(token)


class _Bar(tqdm):
    """Bar that stays hidden until its delay is over, and then appears without an update."""

    delay: float
    _timer: threading.Timer | None = None

    def appear_after_delay(self) -> None:
        """Appear when the delay is over; `close` must be called whatever happens."""
        self._timer = threading.Timer(self.delay, self.refresh)
        self._timer.daemon = True
        self._timer.start()

    def refresh(self, *args: Any, **kwargs: Any) -> None:
        """Show the bar as it stands; tqdm's own, which `set_postfix` calls, knows no delay."""
        if self.disable:
            return
        with self.get_lock():
            if self.delay <= 0 or self._time() >= self.start_t + self.delay:
                super().refresh(*args, **kwargs)
                # A bar with a delay to come is closed without its last state.
                self.delay = 0

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().close()


def progress_bar(
    *,
    total: int | None,
    description: str,
    unit: str,
    verbose: bool | int | str = "auto",
    initial: int = 0,
) -> Any:
    """Make a progress bar on stderr, or in the notebook.

    Parameters
    ----------
    total : int or None
        Updates that are expected.
    description : str
        What is done, in plain words.
    unit : str
        What an update counts, "step" for instance.
    verbose : {"auto"}, bool or int, default="auto"
        Whether it is shown; see above.
    initial : int, default=0
        Updates that were made before, by a run that is resumed.

    Returns
    -------
    tqdm
        A context manager with ``update(n=1)`` and ``set_postfix(**values)``, to be used in a
        ``with`` statement.
    """
    bar = _make_bar(total, description, unit, verbose, initial)
    if not bar.disable and bar.delay > 0:
        bar.appear_after_delay()
    return bar


def tracked(
    iterable: Iterable,
    *,
    total: int | None = None,
    description: str,
    unit: str,
    verbose: bool | int | str = "auto",
) -> Iterator:
    """Iterate with a progress bar.

    It appears with the first item that ends after the delay, and not in the midst of one: an
    iterator does not learn of an error in its loop, and would appear after that.

    Parameters
    ----------
    iterable : iterable
    total : int, default=None
        Items in it, where it has no length.
    description, unit, verbose
        As in :func:`progress_bar`.

    Yields
    ------
    object
        The items.
    """
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with _make_bar(total, description, unit, verbose) as bar:
        for item in iterable:
            yield item
            bar.update()


def _make_bar(
    total: int | None, description: str, unit: str, verbose: bool | int | str, initial: int = 0
) -> _Bar:
    scope = _scope.get()
    if verbose == "auto":
        verbose = scope.verbose
    return _Bar(
        total=total,
        initial=initial,
        desc=_described(description, scope.labels),
        unit=unit,
        delay=_DELAY if verbose == "auto" else 0,
        disable=not (_is_watched() if verbose == "auto" else verbose),
        bar_format=_FORMAT,
    )


def _described(description: str, labels: tuple[str, ...]) -> str:
    """Put labels before the description, the inner ones where not all of them fit in."""
    room = shutil.get_terminal_size((120, 24)).columns - _ROOM_BEHIND
    while labels:
        text = f"{' '.join(labels)}: {description}"
        if len(text) <= room:
            return text
        labels = labels[1:]
    return description


def _is_watched() -> bool:
    """Whether a person sees what this process shows."""
    if multiprocessing.parent_process() is not None:
        return False
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    python = sys.modules.get("IPython")
    return python is not None and hasattr(python.get_ipython(), "kernel")
