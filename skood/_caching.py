"""Functions whose results are cached on disk."""

from __future__ import annotations

import contextlib
import copy
import functools
import json
import types
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import joblib
from joblib._store_backends import FileSystemStoreBackend
from sklearn.utils.validation import check_memory

from skood._safe_files import (
    UnreadableFileError,
    check_writable,
    checked_file,
    make_folder,
    open_checked,
    remove_abandoned,
    whole_file,
)

__all__ = ["cached"]

# Changes with the content of entries; entries of other versions are not read.
_VERSION = 1

# Folders whose last file could not be written, each with one warning.
_failing: set[str] = set()


def cached(
    memory: str | joblib.Memory | None,
    function: Callable,
    *,
    ignore: Sequence[str] | None = None,
) -> Callable:
    """Return a copy of `function` whose results are cached in `memory`.

    It is a copy because joblib writes the source of a function object only into the first folder
    that caches it in a process. A second folder would lack the source, and the next process would
    ignore the results there.

    Entries on a local disk carry a checksum. A damaged entry is computed again, with a warning that
    names it. A result that cannot be stored is returned, with a warning. Unpickling an entry runs
    the code in it: the checksum protects from accidents, not from other people.

    Parameters
    ----------
    memory : str, joblib.Memory or None
        A folder; None caches nothing.
    function : callable
        A module-level function.
    ignore : sequence of str or None, default=None
        Arguments that the result does not depend on.

    Raises
    ------
    OSError
        By this function or by the returned one, before anything is computed, if nothing can be
        written to the folder.
    """
    assert isinstance(function, types.FunctionType)
    code, name = function.__code__, function.__name__
    copied = types.FunctionType(code, function.__globals__, name, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    ignored = None if ignore is None else list(ignore)
    opened = memory
    if isinstance(memory, str):
        # As joblib.Memory reads it.
        folder = Path(memory).expanduser()
        if not folder.is_dir():
            check_writable(folder, "memory")
        try:
            opened = check_memory(memory)
        except OSError as error:
            _warn_of_writing(str(folder / "joblib"), f"the folder {folder} is gone", error)
            return copied
    opened = check_memory(opened)
    if type(getattr(opened, "store_backend", None)) is not FileSystemStoreBackend:
        return opened.cache(copied, ignore=ignored)

    @functools.wraps(copied)
    def call(*args: Any, **kwargs: Any) -> Any:
        checked = copy.copy(opened)
        checked.store_backend = store = _CheckedStore(opened.store_backend)
        memorized = checked.cache(copied, ignore=ignored)
        reference = memorized.call_and_shelve(*args, **kwargs)
        if not store.computed:
            try:
                return reference.get()
            except FileNotFoundError:
                pass  # Removed meanwhile, for example by joblib.Memory.reduce_size.
            except MemoryError:
                raise
            except Exception as error:
                _warn(f"the cache entry of {name} {_reason(error)}. It is computed again")
            store.reads = False
            memorized.call_and_shelve(*args, **kwargs)
        return store.computed[0]

    return call


def _reason(error: Exception) -> str:
    known = isinstance(error, UnreadableFileError)
    return f"cannot be used: {error}" if known else f"raised {type(error).__name__}: {error}"


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def _warn_of_writing(folder: str, problem: str, error: Exception) -> None:
    """Warn once until a file can be written to the folder again."""
    if folder not in _failing:
        _failing.add(folder)
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
        _warn(f"{problem}: {reason}. Results are not cached, but not lost")


class _CheckedStore(FileSystemStoreBackend):
    """Joblib's store of one call, with files that are written whole and carry a checksum.

    Parameters
    ----------
    store : FileSystemStoreBackend
        As configured by ``joblib.Memory``.

    Attributes
    ----------
    computed : list
        The result, if this call computed it.
    reads : bool
        Whether existing results are used.
    """

    def __init__(self, store: FileSystemStoreBackend) -> None:
        self.__dict__.update(vars(store))
        self.computed: list[Any] = []
        self.reads = True

    def contains_item(self, call_id: Sequence[str]) -> bool:
        for folder in (self.location, self._path(call_id, "")):
            remove_abandoned(folder)
        found = self.reads and super().contains_item(call_id)
        if not found:
            check_writable(self.location, "memory")
        return found

    def load_item(self, call_id: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        if self.computed:
            return self.computed[0]
        path = self._path(call_id, "output.pkl")
        with open_checked(path, _label("result", call_id)) as file:
            if self.mmap_mode is None:
                return joblib.load(file)
        return joblib.load(path, mmap_mode=self.mmap_mode)

    def dump_item(self, call_id: Sequence[str], item: Any, *args: Any, **kwargs: Any) -> None:
        self.computed.append(item)
        self._write(
            call_id,
            "output.pkl",
            "result",
            lambda file: joblib.dump(item, file, compress=self.compress),
        )

    def get_metadata(self, call_id: Sequence[str]) -> dict[str, Any]:
        # Nothing needs them, and opening a pipe in their place would wait for ever.
        return {}

    def store_metadata(self, call_id: Sequence[str], metadata: dict[str, Any]) -> None:
        path = self._path(call_id, "metadata.json")
        with contextlib.suppress(OSError), whole_file(path, sync=False) as file:
            file.write(json.dumps(metadata).encode())

    def get_cached_func_code(self, call_id: Sequence[str]) -> str:
        path = self._path(call_id, "func_code.py")
        remove_abandoned(path.parent)
        try:
            with open_checked(path, _label("source", call_id)) as file:
                return file.read().decode()
        except UnreadableFileError as error:
            _warn(
                f"the cache of {call_id[-1]} is emptied, since the source of its entries is "
                f"unknown: {error}"
            )
            self.clear_path(call_id)
            raise FileNotFoundError(path) from error

    def store_cached_func_code(self, call_id: Sequence[str], func_code: str | None = None) -> None:
        if func_code is not None:
            check_writable(self.location, "memory")
            source = func_code.encode()
            self._write(call_id, "func_code.py", "source", lambda file: file.write(source))

    def _path(self, call_id: Sequence[str], name: str) -> Path:
        return Path(self.location, *call_id, name)

    def _write(
        self, call_id: Sequence[str], name: str, kind: str, write: Callable[[BinaryIO], Any]
    ) -> None:
        """Write a file; if that fails, warn."""
        path = self._path(call_id, name)
        try:
            make_folder(path.parent)
            # A file that a power failure has damaged is noticed, and computed again.
            with checked_file(path, _label(kind, call_id), sync=False) as file:
                write(file)
        except Exception as error:
            _warn_of_writing(self.location, f"the cache entry {path} cannot be written", error)
        else:
            if kind == "result":  # A full disk may still take the short source.
                _failing.discard(self.location)


def _label(kind: str, call_id: Sequence[str]) -> str:
    return f"cached {kind} {_VERSION} {'/'.join(call_id)}"
