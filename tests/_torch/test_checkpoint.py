"""Checkpoints that cannot be written, or that are damaged, lose no training."""

import errno
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from torch import nn

from skood import MLP, ConformalDetector, LogLikelihood, _safe_files
from skood._safe_files import checked_file, open_checked
from skood._torch import checkpoint, run as run_module
from skood._torch.checkpoint import Checkpoint
from skood._torch.objective import Objective
from skood._torch.settings import TrainingSettings
from skood._torch.training import train
from skood.density import Autoencoder, NeuralSplineFlow, TwoStep

CPU = torch.device("cpu")
DATA = torch.randn(26, 3, generator=torch.Generator().manual_seed(0))
LABEL = "checkpoint 2 run.pt"
# Eight steps, in two epochs of four.
SETTINGS = TrainingSettings(
    max_epochs=2,
    max_steps=None,
    batch_size=5,
    learning_rate=0.5,
    betas=(0.9, 0.99),
    lr_schedule="cosine",
    lr_decay=1.0,
    clip_norm=1.0,
    patience=None,
    precision="fp32",
    compile=False,
    verbose=0,
)


class Mean(Objective):
    """Learns the mean of the data; `n_steps` counts the steps of this object."""

    def __init__(self, stop=None):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(3))
        self.register_buffer("running", torch.zeros(3))
        self.n_steps, self.stop = 0, stop

    def read(self, rows):
        return DATA[rows].numpy()

    def prepare(self, items, generator):
        return (torch.from_numpy(items),)

    def loss(self, x):
        if self.training:
            if self.n_steps == self.stop:
                raise KeyboardInterrupt
            self.n_steps += 1
            self.running += x.mean(0)
        return (x - self.mean).square().sum(1)


def run(path, stop=None):
    """Return weights, history and number of steps; interrupted before step `stop`."""
    objective = Mean(stop)
    saved = None if path is None else Checkpoint(path, CPU)
    rows = np.arange(20), np.arange(20, 26)
    history = train(objective, *rows, SETTINGS, seed=0, device=CPU, checkpoint=saved)
    return objective.state_dict(), history, objective.n_steps


def interrupt(path, stop):
    with pytest.warns(UserWarning, match="was interrupted"):
        run(path, stop)


def assert_same(result, expected):
    for name, weights in expected[0].items():
        assert torch.equal(result[0][name], weights), name
    assert result[1] == expected[1]


def make_flow(**settings):
    return NeuralSplineFlow(n_transforms=1, hidden_features=(4,), max_epochs=1, **settings)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "folder"
    density = make_flow(checkpoint_dir=folder)
    X, y = np.zeros((8, 2), np.float32), np.arange(8) % 2
    for estimator in (
        MLP((2,), checkpoint_dir=folder),
        density,
        # Before the first of several models is trained.
        TwoStep(Autoencoder(1), density),
        LogLikelihood(density),
        ConformalDetector(LogLikelihood(density)),
    ):
        before = set(vars(estimator))
        with pytest.raises(NotADirectoryError) as caught:
            estimator.fit(X, y)
        assert f"nothing can be written to checkpoint_dir='{folder}'" in str(caught.value)
        assert not {"module_", "density_", "autoencoder_"} & (set(vars(estimator)) - before)
    (tmp_path / "run.pt").mkdir()
    with pytest.warns(UserWarning, match="is not a regular file"):
        with pytest.raises(IsADirectoryError, match="is a folder, not a file; remove it"):
            run(tmp_path / "run.pt")


@pytest.mark.parametrize("fault", ["full", "gone"])
def test_a_checkpoint_that_cannot_be_written_later_is_one_warning(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(run_module, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    expected = run(None)
    path, save = tmp_path / "folder" / "run.pt", torch.save
    write = _safe_files._Hashing.write

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    def failing(state, file):
        if 2 <= state["step"] <= 3:
            if fault == "full":
                monkeypatch.setattr(_safe_files._Hashing, "write", full)
            elif path.parent.is_dir():
                shutil.rmtree(path.parent)
                path.parent.touch()
        else:
            monkeypatch.setattr(_safe_files._Hashing, "write", write)
        if state["step"] == 4 and fault == "gone":
            path.parent.unlink()
            path.parent.mkdir()
        save(state, file)

    monkeypatch.setattr(torch, "save", failing)
    with pytest.warns(UserWarning, match=f"the checkpoint {path} cannot be written: ") as caught:
        assert_same(run(path), expected)
    assert len(caught) == 1
    if fault == "full":
        # The next saves tried again.
        again = run(path)
        assert_same(again, expected)
        assert again[2] == 0
        assert os.listdir(path.parent) == ["run.pt"]


def saved_state(path):
    with open_checked(path, LABEL) as file:
        return torch.load(file, weights_only=True)


def change(state, how):
    """Make a state that is well formed, but of another run."""
    objective, optimizer = state["objective"], state["optimizer"]
    if how == "no state":
        return [state]
    if how == "no key":
        del state["history"]
    elif how == "another key":
        state["more"] = 1
    elif how == "a type":
        state["step"] = "3"
    elif how == "a shape":
        objective["running"] = torch.zeros(4)
    elif how == "a dtype":
        objective["running"] = torch.zeros(3, dtype=torch.float64)
    elif how == "no weights":
        del objective["mean"]
    elif how == "no tensor":
        objective["running"] = [0.0] * 3
    elif how == "best":
        state["best"] = {}
    elif how == "groups":
        optimizer["param_groups"][0]["params"].pop()
    elif how == "no groups":
        del optimizer["param_groups"]
    elif how == "a moment":
        optimizer["state"][0]["exp_avg"] = torch.zeros(1, 2, 3)
    elif how == "moments of more":
        optimizer["state"][9] = optimizer["state"][0]
    elif how == "history":
        state["history"] = {"loss": ["low"]}
    elif how == "sums":
        state["sums"] = {"loss": 3.0}
    return state


@pytest.mark.parametrize(
    "how",
    [
        *("no state", "no key", "another key", "a type", "a shape", "a dtype", "no weights"),
        *("no tensor", "best", "groups", "no groups", "a moment", "moments of more"),
        *("history", "sums"),
    ],
)
def test_a_checkpoint_of_something_else_is_one_warning(tmp_path, how):
    path, expected = tmp_path / "run.pt", run(None)
    interrupt(path, 4)
    state = change(saved_state(path), how)
    with checked_file(path, LABEL) as file:
        torch.save(state, file)
    with pytest.warns(UserWarning, match=f"{path} does not .*. Training starts anew") as caught:
        assert_same(run(path), expected)
    assert len(caught) == 1
    assert saved_state(path)["step"] == expected[2] == 8


def test_a_damaged_checkpoint_is_one_warning(tmp_path):
    """Also one of an earlier version, without a checksum, or of another run."""
    path, expected = tmp_path / "run.pt", run(None)
    interrupt(path, 4)
    content, state = path.read_bytes(), saved_state(path)
    rng = np.random.default_rng(0)
    files = [content[: len(content) // 2], b""]
    for position in rng.choice(8 * len(content), 200, replace=False):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        files.append(bytes(damaged))
    for damaged in files:
        path.write_bytes(damaged)
        with pytest.warns(UserWarning, match=f"{path} (is|holds)") as caught:
            assert Checkpoint(path, CPU).take(None, None) is None
        assert len(caught) == 1
    torch.save(state, path)
    with pytest.warns(UserWarning, match="Training starts anew") as caught:
        assert_same(run(path), expected)
    assert len(caught) == 1
    shutil.copy(path, tmp_path / "other.pt")
    with pytest.warns(UserWarning, match="holds checkpoint 2 run.pt, not checkpoint 2 other.pt"):
        Checkpoint(tmp_path / "other.pt", CPU)


def test_a_checkpoint_runs_no_code(tmp_path):
    """Even with a right checksum."""

    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "planted"),)

    with checked_file(tmp_path / "run.pt", LABEL) as file:
        torch.save({"seed": Planted()}, file)
    with pytest.warns(UserWarning, match="run.pt cannot be read: UnpicklingError"):
        Checkpoint(tmp_path / "run.pt", CPU)
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_finished_run_is_read_from_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    first = run(tmp_path / "run.pt")

    def refuse(*args):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(checkpoint, "check_writable", refuse)
    monkeypatch.setattr(checkpoint, "checked_file", refuse)
    assert_same(run(tmp_path / "run.pt"), first)


@pytest.mark.parametrize("where", ["between", "within"])
def test_ctrl_c_while_saving_keeps_the_best_weights(tmp_path, monkeypatch, where):
    """The second Ctrl-C ends the saving."""
    expected = run(None)

    def press_twice(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    if where == "between":
        monkeypatch.setattr(torch, "save", press_twice)
    else:
        monkeypatch.setattr(_safe_files._Hashing, "write", press_twice)
    trained = Mean()
    with pytest.warns(UserWarning, match="was interrupted after 8 of 8 steps.* ends the fit"):
        with pytest.raises(KeyboardInterrupt):
            train(
                trained,
                np.arange(20),
                np.arange(20, 26),
                SETTINGS,
                seed=0,
                device=CPU,
                checkpoint=Checkpoint(tmp_path / "run.pt", CPU),
            )
    assert not trained.training
    assert torch.equal(trained.mean, expected[0]["mean"])
    assert os.listdir(tmp_path) == []
