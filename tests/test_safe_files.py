"""Files are written whole or not at all, and read only as they were written."""

import errno
import os
import re
import socket
import stat
import subprocess
import sys

import pytest

from skood import _safe_files
from skood._safe_files import (
    UnreadableFileError,
    check_writable,
    checked_file,
    open_checked,
    remove_abandoned,
    whole_file,
)

LABEL = "something 1 name"
NAME = ".skood-" + "0" * 32 + ".tmp"
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="locks, modes and pipes of Linux")


def write(path, content=b"content\n", label=LABEL):
    with checked_file(path, label) as file:
        file.write(content)


def read(path, label=LABEL):
    with open_checked(path, label) as file:
        return file.read()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    for error in OSError(errno.ENOSPC, "No space"), KeyboardInterrupt():
        with pytest.raises(type(error)), whole_file(path) as file:
            file.write(b"after")
            file.flush()
            assert path.read_bytes() == b"before"
            raise error
        assert os.listdir(tmp_path) == ["file"]
    with whole_file(path) as file:
        file.write(b"after")
    assert path.read_bytes() == b"after"
    assert os.listdir(tmp_path) == ["file"]


@needs_linux
def test_a_folder_that_is_missing_is_named(tmp_path):
    folder = tmp_path / "none"
    with pytest.raises(FileNotFoundError, match=f"no such folder: '{re.escape(str(folder))}'"):
        with whole_file(folder / "file"):
            pass


def test_permissions_are_those_of_open(tmp_path):
    path, plain = tmp_path / "file", tmp_path / "plain"
    plain.touch()
    write(path)
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    write(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_followed(tmp_path):
    (tmp_path / "folder").mkdir()
    path, link = tmp_path / "folder" / "file", tmp_path / "link"
    link.symlink_to(path)
    write(link)
    assert link.is_symlink()
    assert read(path) == read(link) == b"content\n"


@pytest.mark.parametrize("content", [b"", b"content", bytes(3_000_000)])
def test_content(tmp_path, content):
    write(tmp_path / "file", content)
    assert read(tmp_path / "file") == content
    with open_checked(tmp_path / "file", LABEL) as file:
        assert file.seek(-3, os.SEEK_END) == len(content) - 3 if content else True
        assert file.read(10) == content[-3:]


@needs_linux
def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "file"
    write(path)
    content = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for position, byte in enumerate(content):
            for bit in range(8):
                os.pwrite(file.fileno(), bytes([byte ^ 1 << bit]), position)
                with pytest.raises(UnreadableFileError, match="^" + str(path)):
                    read(path)
            os.pwrite(file.fileno(), bytes([byte]), position)
    assert read(path) == b"content\n"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UnreadableFileError, match="incomplete"):
            read(path)
    path.write_bytes(content + b"\n")
    with pytest.raises(UnreadableFileError, match="incomplete"):
        read(path)


def test_a_file_of_something_else(tmp_path):
    write(tmp_path / "file", label="something 2 name")
    with pytest.raises(UnreadableFileError, match="holds something 2 name, not something 1 name"):
        read(tmp_path / "file")
    for missing in "none", "file/none":
        with pytest.raises(FileNotFoundError):
            read(tmp_path / missing)


@needs_linux
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in tmp_path / "pipe", tmp_path / "folder", tmp_path / "socket", "/dev/zero":
            with pytest.raises(UnreadableFileError, match=f"{path} is not a regular file"):
                read(path)
    write(tmp_path / "pipe")
    assert read(tmp_path / "pipe") == b"content\n"
    with pytest.raises(OSError, match="/dev/null is a device"):
        write("/dev/null")
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe", "socket"]


@needs_linux
def test_only_files_of_dead_processes_are_removed(tmp_path):
    code = (
        "import sys; from skood._safe_files import whole_file\n"
        f"with whole_file({str(tmp_path / 'file')!r}) as file:\n"
        "    file.write(b'part'); file.flush(); print('ready', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "ready\n"
        with whole_file(tmp_path / "own") as file:
            file.write(b"part")
            (tmp_path / NAME).touch()
            (tmp_path / "mine.tmp").touch()
            remove_abandoned(tmp_path)
            names = set(os.listdir(tmp_path))
            assert len(names) == 3
            assert "mine.tmp" in names
            assert NAME not in names
        other.kill()
        other.wait()
        remove_abandoned(tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["mine.tmp", "own"]
    finally:
        other.kill()
        other.communicate()
    remove_abandoned(tmp_path / "none")


@needs_linux
def test_a_file_that_is_removed_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    flock, removed = _safe_files.fcntl.flock, []

    def remove_then_lock(file, how):
        if not removed:
            removed.extend(tmp_path.iterdir())
            removed[0].unlink()
        flock(file, how)

    monkeypatch.setattr(_safe_files.fcntl, "flock", remove_then_lock)
    write(tmp_path / "file")
    assert len(removed) == 1
    assert read(tmp_path / "file") == b"content\n"


def test_without_locks(tmp_path, monkeypatch):
    """As on Windows, where an open file cannot be removed."""
    monkeypatch.setattr(_safe_files, "fcntl", None)
    (tmp_path / NAME).touch()
    remove_abandoned(tmp_path)
    write(tmp_path / "file")
    assert read(tmp_path / "file") == b"content\n"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    with pytest.raises(NotADirectoryError) as caught:
        check_writable(folder, "checkpoint_dir")
    assert f"nothing can be written to checkpoint_dir='{folder}': Not a directory" in str(
        caught.value
    )
    assert "pass a folder with free space" in str(caught.value)
    (tmp_path / "file").unlink()
    check_writable(folder, "checkpoint_dir")
    assert os.listdir(folder) == []
    # Work was done since then: it must not be lost.
    folder.rmdir()
    folder.touch()
    check_writable(folder, "checkpoint_dir")
