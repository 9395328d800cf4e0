"""Who sees progress bars, when they appear and what they say."""

import io
import multiprocessing
import subprocess
import sys
import threading
from contextlib import redirect_stderr
from types import SimpleNamespace

import pytest

from skood import _progress
from skood._progress import progress_bar, progress_scope, tracked


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def pipe():
    return io.StringIO()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(_progress, "_DELAY", 0)


def bar(file, verbose="auto", description="counting", total=3, **kwargs):
    with redirect_stderr(file):
        return progress_bar(
            total=total, description=description, unit="step", verbose=verbose, **kwargs
        )


def listed(file, items, *, description="counting", **kwargs):
    with redirect_stderr(file):
        return list(tracked(items, description=description, unit="item", **kwargs))


def shown(file, *args, **kwargs):
    """What a bar with one update writes."""
    start = len(file.getvalue())
    with bar(file, *args, **kwargs) as made:
        made.update()
    return file.getvalue()[start:]


@pytest.mark.parametrize("verbose", [True, 1, 2])
def test_asked_for_it_is_shown_everywhere_and_at_once(pipe, verbose):
    with bar(pipe, verbose):
        assert "counting: 0/3" in pipe.getvalue()


@pytest.mark.parametrize("verbose", [False, 0])
def test_declined_it_is_never_shown(terminal, at_once, verbose):
    assert shown(terminal, verbose) == ""


@pytest.mark.usefixtures("at_once")
class TestAuto:
    def test_on_a_terminal(self, terminal):
        assert "counting: 1/3" in shown(terminal)

    def test_not_in_a_pipe(self, pipe):
        assert shown(pipe) == ""

    def test_without_stderr(self):
        with bar(None) as made:
            made.update()
            made.set_postfix(loss=1)

    def test_in_a_notebook(self, pipe, monkeypatch):
        shell = SimpleNamespace(kernel=None)
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        assert "counting: 1/3" in shown(pipe)
        del shell.kernel
        assert shown(pipe) == ""

    def test_not_in_a_worker_process(self, terminal, monkeypatch):
        monkeypatch.setattr(multiprocessing, "parent_process", object)
        assert shown(terminal) == ""
        assert "counting" in shown(terminal, verbose=1)


class TestDelay:
    def test_short_work_shows_nothing(self, terminal):
        with bar(terminal) as made:
            for _ in range(3):
                made.update()
                made.set_postfix(loss=1.5)
        assert listed(terminal, range(3)) == [0, 1, 2]
        assert terminal.getvalue() == ""

    def test_long_work_shows_a_bar_before_its_first_update(self, terminal, monkeypatch):
        monkeypatch.setattr(_progress, "_DELAY", 0.01)
        with bar(terminal) as made:
            made._timer.join(5)
            assert "counting: 0/3" in terminal.getvalue()
            made.set_postfix(loss=1.5)
            assert "loss=1.5" in terminal.getvalue()
        assert terminal.getvalue().endswith("\n")

    def test_nothing_appears_after_the_end(self, terminal, monkeypatch):
        monkeypatch.setattr(_progress, "_DELAY", 0.01)
        with bar(terminal) as made:
            timer = made._timer
        timer.join(5)
        assert not timer.is_alive()
        assert terminal.getvalue() == ""

    def test_tracked_waits_for_no_timer(self, terminal):
        threads = listed(terminal, (threading.enumerate() for _ in "ab"))
        assert not any(isinstance(thread, threading.Timer) for thread in threads[-1])


def test_tracked_counts(pipe):
    assert listed(pipe, iter("abc"), total=3, verbose=1) == ["a", "b", "c"]
    assert "counting: 3/3" in pipe.getvalue()
    assert listed(pipe, "ab", description="naming", verbose=1) == ["a", "b"]
    assert "naming: 2/2" in pipe.getvalue()


def test_a_resumed_run_goes_on(pipe):
    assert "counting: 8/9" in shown(pipe, 1, total=9, initial=7)


class TestScope:
    def test_decides_for_auto(self, pipe):
        with progress_scope(1):
            assert "counting" in shown(pipe)
        assert shown(pipe) == ""

    def test_silences(self, terminal, at_once):
        with progress_scope(0):
            assert shown(terminal) == ""
        assert "counting" in shown(terminal)

    def test_a_bar_with_a_mind_of_its_own_wins(self, pipe):
        with progress_scope(0):
            assert "counting" in shown(pipe, verbose=1)
        with progress_scope(1):
            assert shown(pipe, verbose=0) == ""

    def test_the_inner_one_wins(self, pipe):
        with progress_scope(1), progress_scope(0):
            assert shown(pipe) == ""
        with progress_scope(0), progress_scope(1):
            assert "counting" in shown(pipe)

    def test_auto_inherits(self, pipe):
        with progress_scope(1), progress_scope("auto", label="inner"):
            assert "inner: counting" in shown(pipe)

    def test_ends_with_an_error(self, pipe):
        with pytest.raises(KeyError), progress_scope(1, label="outer"):
            raise KeyError
        assert shown(pipe) == ""

    def test_labels_nest(self, terminal):
        with progress_scope(1, label="LikelihoodRatio"), progress_scope(label="1 of 2, foreground"):
            assert "\rLikelihoodRatio 1 of 2, foreground: PixelCNN: 0/3 [" in shown(
                terminal, description="PixelCNN"
            )
        assert "\rPixelCNN: 0/3 [" in shown(terminal, 1, "PixelCNN")

    @pytest.mark.parametrize(
        ("columns", "expected"),
        [(81, "outer inner: counting"), (57, "outer inner: counting"), (56, "inner: counting")],
    )
    def test_labels_leave_room_for_loss_and_time(self, terminal, monkeypatch, columns, expected):
        monkeypatch.setenv("COLUMNS", str(columns))
        with progress_scope(1, label="outer"), progress_scope(label="inner"):
            assert f"\r{expected}: 0/3 [" in shown(terminal)

    def test_a_thread_starts_without_any(self, pipe):
        with progress_scope(1):
            thread = threading.Thread(target=shown, args=(pipe,))
            thread.start()
            thread.join()
        assert pipe.getvalue() == ""


def test_importing_warns_of_nothing_in_a_notebook_without_widgets():
    code = (
        "import sys, types; sys.modules['ipywidgets'] = None\n"
        "sys.modules['ipykernel.zmqshell'] = types.ModuleType('zmqshell')\n"
        "shell = types.SimpleNamespace(kernel=None)\n"
        "sys.modules['IPython'] = types.SimpleNamespace(get_ipython=lambda: shell)\n"
        "from skood._progress import progress_bar\n"
        "with progress_bar(total=2, description='counting', unit='step', verbose=1) as bar:\n"
        "    bar.update(2)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True
    )
    assert "counting: 2/2" in run.stderr
