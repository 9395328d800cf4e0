"""Progress bars: when they are shown, and their descriptions.

A `verbose` is "auto", a bool or an int, here and in every estimator.

- "auto" follows the enclosing :func:`progress_scope`. If no scope decides, a bar is shown in an
  interactive process (stderr is a terminal, or the process is the kernel of a notebook; never in a
  worker process), and only after the work has taken some seconds.
- True, 1 and more: shown at once, even if stderr is redirected.
- False and 0: never shown.

A model's own True or False takes precedence over enclosing scopes, and an inner scope over an
outer one. The labels of all enclosing scopes precede the description of a bar:
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
# The parts that a narrow terminal may cut off come last.
_FORMAT = "{desc}: {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}] {rate_fmt} {bar}"
# Characters taken by counts, times and a loss after the description.
_ROOM_BEHIND = 36


@dataclass(frozen=True)
class _Scope:
    verbose: bool | int | str = "auto"
    labels: tuple[str, ...] = ()


_NO_SCOPE = _Scope()
_scope: ContextVar[_Scope] = ContextVar("progress_scope", default=_NO_SCOPE)


@contextlib.contextmanager
def progress_scope(verbose: bool | int | str = "auto", label: str | None = None) -> Iterator[None]:
    """Set `verbose` and a label for the bars that are made inside the block.

    Parameters
    ----------
    verbose : {"auto"}, bool or int, default="auto"
        For bars whose own `verbose` is "auto". "auto" follows the enclosing scope.
    label : str, default=None
        Precedes the description of the bars, after the labels of the enclosing scopes.
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
        """Redraw the bar after its delay, which tqdm's version, used by `set_postfix`, ignores."""
        if self.disable:
            return
        with self.get_lock():
            if self.delay <= 0 or self._time() >= self.start_t + self.delay:
                super().refresh(*args, **kwargs)
                # With a remaining delay, tqdm would close the bar without its last state.
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
        Updates already made, by a run that is resumed.

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

    The bar appears with the first item that ends after the delay, not during an item: an iterator
    is not notified of an error in its loop, and could show the bar after the error.

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
    """Put labels before the description; if not all fit, only the inner ones."""
    room = shutil.get_terminal_size((120, 24)).columns - _ROOM_BEHIND
    while labels:
        text = f"{' '.join(labels)}: {description}"
        if len(text) <= room:
            return text
        labels = labels[1:]
    return description


def _is_watched() -> bool:
    """Whether this process is interactive, so that its output is seen."""
    if multiprocessing.parent_process() is not None:
        return False
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    python = sys.modules.get("IPython")
    return python is not None and hasattr(python.get_ipython(), "kernel")
