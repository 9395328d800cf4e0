"""Files that are written whole or not at all, and that are read only as they were written."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be removed.
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "UnreadableFileError",
    "check_writable",
    "checked_file",
    "make_folder",
    "open_checked",
    "open_regular",
    "remove_abandoned",
    "whole_file",
]

_TEMPORARY = re.compile(r"\.skood-[0-9a-f]{32}\.tmp")
_TRAILER = re.compile(rb"\n# skood ([^\n]*) sha256:([0-9a-f]{64})\n\Z")
_LONGEST_TRAILER = 8192
_CHUNK = 1 << 20

# Folders that this process has written to.
_written_before: set[Path] = set()


class UnreadableFileError(Exception):
    """A file exists, but does not hold what was written; the message starts with the path."""


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str], *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` at the end of the block.

    A process that opens `path` meanwhile sees the former file. If the block or the writing fails,
    the former file remains and the new one is removed. The new file has the permissions of the
    former file; if there was none, the default permissions. A symbolic link is followed.

    Parameters
    ----------
    path : str or Path
        In a folder that exists.
    sync : bool, default=True
        Whether the content is on the disk before the name points to it, so that a power failure
        leaves the former or the new file. It takes some 10 ms.

    Yields
    ------
    binary file
        Open for reading and writing.

    Raises
    ------
    OSError
        When the file cannot be written, or `path` is a folder or a device.
    """
    path = Path(os.path.realpath(path))
    if path.is_char_device() or path.is_block_device():
        raise OSError(f"{path} is a device, not a file")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such folder", str(path.parent))
    names: list[Path] = []
    try:
        with _create(path.parent, names) as file:
            temporary = names[-1]
            yield file
            file.flush()
            if path.is_file():
                with contextlib.suppress(OSError):
                    temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            if sync:
                os.fsync(file.fileno())
            if fcntl is not None:
                # The lock is still held, so that nobody takes the file for an abandoned one.
                temporary.replace(path)
        if fcntl is None:
            temporary.replace(path)
    except BaseException:
        for name in names:
            name.unlink(missing_ok=True)
        raise
    if sync:
        _sync_folder(path.parent)


def _create(folder: Path, names: list[Path]) -> BinaryIO:
    """Create a file with a unique name, locked for as long as it is open.

    The name is the last of `names`. It is added before the file exists, so that the caller can
    remove the file whenever Ctrl-C strikes.
    """
    while True:
        names.append(folder / f".skood-{uuid.uuid4().hex}.tmp")
        file = names[-1].open("x+b")
        if fcntl is not None:
            # File systems without locks raise; their temporary files are never cleaned up.
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        # Another process may have removed the file before it was locked.
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_abandoned(folder: str | os.PathLike[str]) -> None:
    """Remove the temporary files that dead processes left in a folder.

    A process locks the file that it writes, and the system unlocks the files of dead processes.

    Parameters
    ----------
    folder : str or Path
        Need not exist.
    """
    try:
        names = [name for name in os.listdir(folder) if _TEMPORARY.fullmatch(name)]
    except OSError:
        return
    for name in names:
        path = Path(folder, name)
        with contextlib.suppress(OSError, UnreadableFileError):
            if fcntl is None:
                path.unlink()
                continue
            with open_regular(path, os.O_RDWR) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


def open_regular(path: str | os.PathLike[str], access: int = os.O_RDONLY) -> BinaryIO:
    """Open an existing file, but no pipe, socket, device or folder, which could block.

    Parameters
    ----------
    path : str or Path
    access : int, default=os.O_RDONLY
        ``os.O_RDONLY`` or ``os.O_RDWR``.

    Raises
    ------
    FileNotFoundError
        When there is none.
    UnreadableFileError
        When it cannot be opened, or is not a regular file.
    """
    flags = access | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        # Opening a device may already have an effect.
        if stat.S_ISREG(os.stat(path).st_mode):
            descriptor = os.open(path, flags)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return os.fdopen(descriptor, "rb" if access == os.O_RDONLY else "r+b")
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        raise UnreadableFileError(f"{path} cannot be opened: {error.strerror}") from error
    raise UnreadableFileError(f"{path} is not a regular file")


class _Hashing(io.RawIOBase):
    """Writes to a file and hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def end(self, label: str) -> None:
        self.write(b"\n# skood " + label.encode() + b" sha256:")
        self._file.write(self._hash.hexdigest().encode() + b"\n")


class _Content(io.RawIOBase):
    """Reads the first bytes of a file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        file.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            offset, whence = self._size + offset, os.SEEK_SET
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        left = max(0, self._size - self._file.tell())
        return self._file.readinto(memoryview(buffer)[:left])  # type: ignore[attr-defined]


@contextlib.contextmanager
def checked_file(
    path: str | os.PathLike[str], label: str, *, sync: bool = True
) -> Iterator[BinaryIO]:
    """Open a new file like `whole_file`, and add a last line with `label` and a checksum.

    Parameters
    ----------
    path : str or Path
    label : str
        What the file holds: a kind, a version and an identity, in one line.
    sync : bool, default=True
        As for `whole_file`.

    Yields
    ------
    binary file
        Open for writing from start to end, without seeking.
    """
    with whole_file(path, sync=sync) as file:
        hashing = _Hashing(file)
        yield hashing  # type: ignore[misc]
        hashing.end(label)


@contextlib.contextmanager
def open_checked(path: str | os.PathLike[str], label: str) -> Iterator[BinaryIO]:
    """Open a file that `checked_file` wrote, once its content has been compared with the checksum.

    Parameters
    ----------
    path : str or Path
    label : str
        The label that the file was written with.

    Yields
    ------
    binary file
        Open for reading the content.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    UnreadableFileError
        When it is damaged, not a regular file, or holds something else.
    """
    with open_regular(path) as file:
        try:
            size = _checked_size(file, path, label)
        except OSError as error:
            raise UnreadableFileError(f"{path} cannot be read: {error.strerror}") from error
        yield io.BufferedReader(_Content(file, size), _CHUNK)


def _checked_size(file: BinaryIO, path: str | os.PathLike[str], label: str) -> int:
    """Compare a file with its checksum, and return the number of bytes before its last line."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _LONGEST_TRAILER))
    tail = file.read()
    found = _TRAILER.search(tail)
    if found is None:
        raise UnreadableFileError(
            f"{path} is incomplete, or was not written by this version of skood: it does not end "
            "with a checksum"
        )
    if found[1] != label.encode():
        came = found[1].decode(errors="backslashreplace")
        raise UnreadableFileError(f"{path} holds {came}, not {label}")
    digest, left = hashlib.sha256(), size - 65
    file.seek(0)
    while left and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    if digest.hexdigest().encode() != found[2]:
        raise UnreadableFileError(f"{path} is damaged: its content does not match its checksum")
    return size - len(tail) + found.start()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, unless it exists; raise an OSError if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        # "File exists" would not say what is wrong with that.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def check_writable(folder: str | os.PathLike[str], parameter: str) -> None:
    """Raise an error if files cannot be written to a folder, before any work is done.

    Nothing is raised if this process has written to the folder before: the work done since then
    must not be lost. The folder is made if it does not exist, and freed of abandoned files.

    Parameters
    ----------
    folder : str or Path
    parameter : str
        The parameter that named the folder, for the message.

    Raises
    ------
    OSError
        With the path, the reason of the system and a remedy.
    """
    folder = Path(os.path.realpath(folder))
    try:
        make_folder(folder)
        remove_abandoned(folder)
        names: list[Path] = []
        try:
            with _create(folder, names) as file:
                file.write(bytes(4096))
        finally:
            for name in names:
                name.unlink(missing_ok=True)
    except OSError as error:
        if folder in _written_before:
            return
        raise OSError(
            error.errno,
            f"nothing can be written to {parameter}={str(folder)!r}: {error.strerror}; pass a "
            f"folder with free space that this process may write to, or {parameter}=None",
        ) from error
    _written_before.add(folder)
