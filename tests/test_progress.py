"""When progress bars are shown, and their descriptions."""

import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import redirect_stderr
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.neighbors import KernelDensity

from skood import (
    BoundarySampler,
    ConformalDetector,
    EnsembleDetector,
    LikelihoodRatio,
    LogLikelihood,
    TunedThreshold,
    _progress,
    evaluate,
)
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
    """Return the output of a bar with one update."""
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


class TestLog:
    def test_lines_at_the_start_and_the_end(self, pipe):
        with bar(pipe, 1, total=200) as made:
            for i in range(200):
                made.update()
                made.set_postfix(loss=i)
                time.sleep(0.001)
        first, last = pipe.getvalue().splitlines()
        assert first.startswith("counting: 0/200")
        assert last.startswith("counting: 200/200") and "loss=199" in last

    def test_a_line_after_each_interval(self, pipe):
        with bar(pipe, 1) as made:
            now = [made._time()]
            made._time = lambda: now[0]
            for seconds in (20, 20, 10):
                now[0] += seconds
                made.update()
                made.set_postfix(loss=1)
        assert re.findall(r"counting: (\d)", pipe.getvalue()) == ["0", "2", "3"]

    def test_nested_bars_move_no_cursor(self, pipe):
        with bar(pipe, 1), bar(pipe, 1, "inside"):
            pass
        lines = [line.split(":")[0] for line in pipe.getvalue().split("\n")]
        assert lines == ["counting", "inside", "inside", "counting", ""]
        assert "\x1b" not in pipe.getvalue() and "\r" not in pipe.getvalue()

    def test_without_stderr(self):
        with bar(None, 1) as made:
            made.update()


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


class Talkative(KernelDensity):
    """Density with progress bars."""

    def __init__(self, bandwidth=1.0, verbose="auto"):
        super().__init__(bandwidth=bandwidth)
        self.verbose = verbose

    def fit(self, X, y=None):
        return self._show("learning", super().fit, X)

    def score_samples(self, X):
        return self._show("measuring", super().score_samples, X)

    def _show(self, doing, method, X):
        with progress_bar(total=1, description=doing, unit="row", verbose=self.verbose) as bar:
            result = method(X)
            bar.update()
            return result


def said(function, *args, **kwargs):
    """Return the result of a call, and the descriptions of its bars."""
    with redirect_stderr(io.StringIO()) as file:
        result = function(*args, **kwargs)
    return result, re.findall(r"([^\r\n]*): 0/", file.getvalue())


@pytest.fixture
def X(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return np.random.default_rng(0).normal(size=(40, 2))


class TestDetectors:
    def test_likelihood_ratio_says_which_model(self, X):
        detector = LikelihoodRatio(Talkative(), verbose=1, random_state=0)
        detector, labels = said(detector.fit, X)
        scoring = ["LikelihoodRatio scoring: measuring"] * 2
        # Two models, on items and on outliers made from them.
        checking = ["LikelihoodRatio checking the ratio: measuring"] * 4
        assert labels == [
            "LikelihoodRatio 1 of 2, foreground: learning",
            "LikelihoodRatio 2 of 2, background (mutation 0.1): learning",
            *checking,
            *scoring,
        ]
        assert said(detector.score_samples, X)[1] == scoring
        assert said(detector.set_params(verbose=0).score_samples, X)[1] == []

    def test_likelihood_ratio_with_a_choice(self, X):
        detector = LikelihoodRatio(
            Talkative(), mutation_rate=[0.1, 0.2], reg_weight=[0, 5], verbose=1, random_state=0
        )
        labels = said(detector.fit, X)[1]
        assert labels[1:6] == [
            "LikelihoodRatio 2 of 5, background (mutation 0.1, weight 0): learning",
            "LikelihoodRatio 3 of 5, background (mutation 0.1, weight 5): learning",
            "LikelihoodRatio 4 of 5, background (mutation 0.2, weight 0): learning",
            "LikelihoodRatio 5 of 5, background (mutation 0.2, weight 5): learning",
            "LikelihoodRatio choosing the background: measuring",
        ]

    def test_a_given_background_has_no_rate(self, X):
        detector = LikelihoodRatio(Talkative(), Talkative(2.0), verbose=1)
        assert said(detector.fit, X)[1][1] == "LikelihoodRatio 2 of 2, background: learning"

    def test_silent_in_a_pipe_unless_asked(self, X):
        assert said(LogLikelihood(Talkative()).fit, X)[1] == []
        assert said(LogLikelihood(Talkative(verbose=1)).fit, X)[1] != []
        assert said(LogLikelihood(Talkative(verbose=1), verbose=0).fit, X)[1] != []
        assert said(LogLikelihood(Talkative(verbose=0), verbose=1).fit, X)[1] == []

    def test_folds_and_members_are_counted(self, X):
        conformal = ConformalDetector(
            LogLikelihood(Talkative()), 0.5, method="cross", n_splits=2, verbose=1, random_state=0
        )
        learning = [line for line in said(conformal.fit, X)[1] if line.endswith("learning")]
        assert learning == [
            f"ConformalDetector (fold {i} of 2) LogLikelihood: learning" for i in (1, 2)
        ]
        assert (
            said(conformal.p_values, X)[1]
            == ["ConformalDetector scoring LogLikelihood scoring: measuring"] * 2
        )
        members = [("a", LogLikelihood(Talkative())), ("b", Talkative())]
        ensemble = EnsembleDetector(members, alpha=0.5, verbose=1, random_state=0)
        learning = [line for line in said(ensemble.fit, X)[1] if line.endswith("learning")]
        assert learning == [
            "EnsembleDetector (1 of 2, a) LogLikelihood: learning",
            "EnsembleDetector (2 of 2, b): learning",
        ]

    def test_an_inner_detector_decides_for_itself(self, X):
        tuned = TunedThreshold(LogLikelihood(Talkative(), verbose=0), verbose=1, random_state=0)
        assert said(tuned.fit, X)[1] == []
        tuned = TunedThreshold(LogLikelihood(Talkative(), verbose=1), verbose=0, random_state=0)
        assert said(tuned.fit, X)[1][0] == "TunedThreshold LogLikelihood: learning"

    def test_evaluate(self, X):
        detectors = {"a": LogLikelihood(Talkative()), "b": LogLikelihood(Talkative(verbose=1))}
        sets = {"far": X + 9}
        kwargs = {"X_train": X}
        assert said(evaluate, {"a": detectors["a"]}, X, sets, **kwargs)[1] == []
        assert said(evaluate, {"a": detectors["a"]}, X, sets, verbose=1, **kwargs)[1] == [
            "evaluating detectors"
        ]
        assert "LogLikelihood: learning" in said(evaluate, detectors, X, sets, **kwargs)[1]

    @pytest.mark.parametrize("verbose", ["always", -1, 0.5])
    def test_errors(self, X, verbose):
        for estimator in (LogLikelihood(verbose=verbose), BoundarySampler(verbose=verbose)):
            with pytest.raises(ValueError, match="'verbose' parameter"):
                estimator.fit(X)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_killed_process_stops_no_other_bar():
    """The lock of the bars is not shared with a forked process, which may die with it."""

    def die_with_the_lock():
        _progress._Bar.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    def refresh():
        progress_bar(total=2, description="", unit="step", verbose=False).refresh()

    refresh()
    forking = multiprocessing.get_context("fork")
    processes = [forking.Process(target=target) for target in (die_with_the_lock, refresh)]
    for process in processes:
        process.start()
        process.join(20)
    assert [process.exitcode for process in processes] == [-signal.SIGKILL, 0]
