"""Training in several processes, by torch's DistributedDataParallel."""

from __future__ import annotations

import contextlib
import functools
import io
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from skood._torch.objective import Objective, declared

__all__ = ["Processes"]

# A second Ctrl-C within this time ends the process at once.
_SECONDS_TO_END = 3.0
# Waiting for the other processes is told after this time.
_SECONDS_TO_WARNING = 30.0
# Each agreement on Ctrl-C waits for the GPU.
_STEPS_BETWEEN_AGREEMENTS = 8


class Processes:
    """The processes that train a network together; a single one without a process group.

    They are the ranks of torch's default process group, which the user initialises. Every process
    calls `fit` with the same data and parameters, and computes its rows of every batch. The random
    numbers of a step differ from process to process.

    Parameters
    ----------
    device : torch.device
        Device of this process.

    Attributes
    ----------
    rank : int
    size : int
        Number of processes.

    Raises
    ------
    RuntimeError
        In several processes, outside the main thread: threads would exchange their tensors in an
        order that differs from process to process.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = 0, 1
        self._pressed_at: float | None = None
        if dist.is_available() and dist.is_initialized():
            self.rank, self.size = dist.get_rank(), dist.get_world_size()
        elif "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            # Worker processes of a rank inherit its environment.
            if multiprocessing.parent_process() is None:
                _warn_of_missing_group()
        in_main_thread = threading.current_thread() is threading.main_thread()
        if self.size > 1 and not in_main_thread:
            raise RuntimeError(
                f"training in the {self.size} processes of a process group runs in the main thread "
                "of each; call fit there, and train one model at a time (n_jobs=None)"
            )

    @property
    def own_stream(self) -> tuple[int, ...]:
        """Integers that distinguish the random numbers of this process."""
        return () if self.size == 1 else (self.rank,)

    def part(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Return the rows of a batch that this process computes."""
        return rows if self.size == 1 else rows[self.rank :: self.size]

    def gather(self, value: Any) -> list[Any]:
        """Return the value of each process."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._on_device():
            dist.all_gather_object(values, value)
        return values

    def interleave(self, results: list[Any]) -> list[Any]:
        """Return the results for all batches in order, of which each process has every size-th.

        Parameters
        ----------
        results : list
            Tuples of dicts of tensors.
        """
        if self.size == 1:
            return results
        on_cpu = [
            tuple({name: tensor.cpu() for name, tensor in named.items()} for named in result)
            for result in results
        ]
        lists = self.gather(on_cpu)
        return [lists[k % self.size][k // self.size] for k in range(sum(map(len, lists)))]

    def from_first(self, value: Any) -> Any:
        """Return the value of the first process."""
        if self.size == 1:
            return value
        values = [value]
        with self._on_device():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def state_from_first(self, state: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the state of the first process, with tensors on the device of this one."""
        if self.size == 1:
            return state
        file = io.BytesIO()
        if self.rank == 0:
            torch.save(state, file)
        received = io.BytesIO(self.from_first(file.getvalue()))
        return torch.load(received, map_location=self.device, weights_only=True)

    def check_same(self, key: str, name: str) -> None:
        """Raise where a hash of data and parameters differs from process to process.

        A warning tells that the others have not called `fit` yet.
        """
        if self.size == 1:
            return
        waiting = threading.Timer(_SECONDS_TO_WARNING, self._warn_of_waiting, [name])
        waiting.daemon = True
        waiting.start()
        try:
            keys = self.gather(key)
        finally:
            waiting.cancel()
        differing = [rank for rank in range(self.size) if keys[rank] != keys[0]]
        if differing:
            raise ValueError(
                f"{name}: the data, labels or parameters of rank 0 and rank {differing} differ; "
                f"each of the {self.size} processes must call fit with all of X, in the "
                "same order, and with the same parameters: batches are divided among processes "
                "inside fit. Detectors need an integer random_state"
            )

    def _warn_of_waiting(self, name: str) -> None:
        warnings.warn(
            f"{name}: rank {self.rank} waits for the other processes; each of the {self.size} must "
            "call fit with the same data and parameters, or none, before init_process_group",
            stacklevel=2,
        )

    def check_divisible(
        self, objective: Objective, batches: Sequence[npt.NDArray], name: str
    ) -> None:
        """Raise where the processes cannot divide the batches of an objective."""
        if self.size == 1:
            return
        reason = declared(objective, "couples_rows", ["read", "prepare", "loss", "after_step"])
        if reason is None and self.device.type != "cuda":
            names = [k for k, module in objective.named_modules() if isinstance(module, _BatchNorm)]
            if names:
                reason = (
                    f"the batch normalisation {names[0]!r} depends on all rows of a batch, and "
                    "torch computes it across processes on CUDA devices only"
                )
        fewest = min(map(len, batches), default=0)
        if reason is None and fewest < self.size:
            reason = f"a batch has {fewest} row(s), fewer than processes"
        if reason is not None:
            raise ValueError(
                f"{name} cannot be trained in {self.size} processes: {reason}. Train it in one "
                "process, before torch.distributed.init_process_group or after "
                "destroy_process_group"
            )

    @contextlib.contextmanager
    def synchronised(self, objective: Objective) -> Iterator[None]:
        """Normalise batches over all processes inside the block, by torch's SyncBatchNorm.

        Torch's warning of gradients that are copied, which is of no use to users, is not shown.
        """
        if self.size == 1:
            yield
            return
        replaced = [
            (parent, name, child)
            for parent in objective.modules()
            for name, child in parent.named_children()
            if isinstance(child, _BatchNorm)
        ]
        for parent, name, child in replaced:
            # Parameters and buffers are shared with the layer that is replaced.
            setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        try:
            with warnings.catch_warnings():
                # Gradients of convolutions with one input channel, in the format channels_last.
                warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
                yield
        finally:
            for parent, name, child in replaced:
                child.train(getattr(parent, name).training)
                setattr(parent, name, child)

    def parallel(self, objective: Objective, step: Callable[..., Any]) -> Callable[..., Any]:
        """Return `step`, whose gradients are then means over all processes.

        All processes get the parameters and buffers of the first process.
        """
        if self.size == 1:
            return step
        return DistributedDataParallel(
            _Step(objective, step),
            device_ids=[self.device] if self.device.type == "cuda" else None,
            # The averaged weights of a model, for example, get no gradient.
            static_graph=True,
        )

    def weighted(
        self, losses: dict[str, Tensor], rows: npt.NDArray[np.integer]
    ) -> dict[str, Tensor]:
        """Scale the mean losses of a part; their means over processes are means over rows."""
        n = len(self.part(rows))
        if n * self.size == len(rows):
            return losses
        return {name: loss * (n * self.size / len(rows)) for name, loss in losses.items()}

    def means(self, losses: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the means over all processes of detached losses."""
        if self.size == 1:
            return losses
        values = torch.stack([loss.detach().double() for loss in losses.values()])
        dist.all_reduce(values)
        return dict(zip(losses, values / self.size, strict=True))

    def all(self, value: bool) -> bool:
        """Whether `value` is true in all processes."""
        return all(self.gather(value))

    @contextlib.contextmanager
    def noting_interrupts(self) -> Iterator[None]:
        """Note Ctrl-C inside the block, until `raise_if_interrupted` raises it in all processes.

        A second Ctrl-C within three seconds is raised at once.
        """
        default = signal.default_int_handler
        if self.size == 1 or signal.getsignal(signal.SIGINT) is not default:
            yield
            return

        def note(number: int, frame: Any) -> None:
            before, self._pressed_at = self._pressed_at, monotonic()
            if before is not None and self._pressed_at - before < _SECONDS_TO_END:
                raise KeyboardInterrupt

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, default)

    def raise_if_interrupted(self, step: int | None = None) -> None:
        """Raise KeyboardInterrupt in all processes if Ctrl-C was pressed in one.

        Parameters
        ----------
        step : int or None, default=None
            Number of the step; the processes agree at some steps only. None: now.
        """
        if self.size == 1 or (step is not None and step % _STEPS_BETWEEN_AGREEMENTS):
            return
        pressed = torch.tensor(float(self._pressed_at is not None), device=self.device)
        dist.all_reduce(pressed)
        if pressed:
            self._pressed_at = None
            raise KeyboardInterrupt

    def _on_device(self) -> contextlib.AbstractContextManager:
        """Objects pass through the current CUDA device."""
        on_cuda = self.device.type == "cuda"
        return torch.cuda.device(self.device) if on_cuda else contextlib.nullcontext()


class _Step(nn.Module):
    """A training step as a module with the parameters of the objective."""

    def __init__(self, objective: Objective, step: Callable[..., Any]) -> None:
        super().__init__()
        self.objective = objective
        self.step = step

    def forward(self, *args: Any) -> Any:
        return self.step(*args)


@functools.cache
def _warn_of_missing_group() -> None:
    warnings.warn(
        f"torchrun started WORLD_SIZE={os.environ['WORLD_SIZE']} processes, but each trains alone, "
        "since torch.distributed has no process group; call "
        "torch.distributed.init_process_group() before fit to train one model together",
        stacklevel=2,
    )
