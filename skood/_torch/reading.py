"""Prefetching of the batches of a data set."""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

__all__ = ["read_ahead", "read_batches"]

# Number of prefetched batches.
_AHEAD = 2


def read_batches(
    read: Callable[[npt.NDArray[np.integer]], Any],
    batches: Sequence[npt.NDArray[np.integer]],
    *,
    device: torch.device,
    slow: bool,
    n_workers: int | None = None,
    seed: int = 0,
) -> Generator[Any, None, None]:
    """Read batches in order, in worker processes where this saves time.

    Parameters
    ----------
    read : callable
        Takes row numbers; returns an array, or a tuple or dict of arrays.
    batches : sequence of ndarray
        Row numbers.
    device : torch.device
        Target of the batches. For a GPU, workers put them into pinned memory.
    slow : bool
        Whether `read` waits for a disk or decodes images.
    n_workers : int or None
        Number of processes; 0 reads in this process. None uses several if reading is slow and the
        device is a GPU, which a single process may starve.
    seed : int
        Seed of torch's and Python's random numbers in the workers.

    Yields
    ------
    ndarray, or tuple or dict of ndarray
    """
    on_gpu = device.type != "cpu"
    if n_workers is None:
        n_workers = min(8, max(1, (os.cpu_count() or 1) - 1)) if on_gpu and slow else 0
    if n_workers == 0 or not batches:
        yield from map(read, batches)
        return
    # Forked workers share the data with this process; elsewhere they get a pickled copy.
    can_fork = sys.platform == "linux"
    loader = DataLoader(
        _Batches(read, batches),
        batch_size=None,
        num_workers=min(n_workers, len(batches)),
        pin_memory=on_gpu,
        # Tensors pass between processes in shared memory.
        collate_fn=partial(_convert, _to_tensor),
        # Without it, the loader draws from torch's global generator.
        generator=torch.Generator().manual_seed(seed),
        multiprocessing_context="fork" if can_fork else None,
    )
    for items in loader:
        yield _convert(_to_array, items)


class _Batches(Dataset):
    def __init__(self, read: Callable, batches: Sequence[npt.NDArray[np.integer]]) -> None:
        self.read = read
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Any:
        return self.read(self.batches[number])


def _convert(function: Callable[[Any], Any], items: Any) -> Any:
    """Apply `function` to each array of nested dicts and tuples."""
    if isinstance(items, dict):
        return {name: _convert(function, values) for name, values in items.items()}
    # Pinning turns tuples into lists.
    if isinstance(items, (tuple, list)):
        return tuple(_convert(function, values) for values in items)
    return function(items)


def _to_tensor(items: Any) -> Any:
    try:
        return torch.from_numpy(np.ascontiguousarray(items))
    except (TypeError, ValueError):  # A dtype or byte order that torch does not have.
        return items


def _to_array(items: Any) -> Any:
    return items.numpy() if isinstance(items, torch.Tensor) else items


def read_ahead(values: Iterable[Any], name: str = "skood-reader") -> Generator[Any, None, None]:
    """Prefetch `values` in a thread of this name, without gradients.

    Exceptions are raised in the consumer; the thread ends with the iterator.
    """
    waiting: queue.Queue[tuple[str, Any]] = queue.Queue(_AHEAD)
    stopped = threading.Event()
    # A new thread uses GPU 0 and its default stream, not the caller's.
    on_device = contextlib.nullcontext()
    if torch.cuda.is_initialized():
        on_device = torch.cuda.stream(torch.cuda.current_stream())

    def put(kind: str, value: Any) -> None:
        while not stopped.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            with torch.no_grad(), on_device:
                for value in values:
                    put("value", value)
                    if stopped.is_set():
                        return
            put("end", None)
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        while True:
            kind, value = waiting.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stopped.set()
        thread.join()
