"""Interruptions: a resumed run ends with the weights of an uninterrupted run."""

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from skood import LogLikelihood
from skood._torch import checkpoint, run as run_module
from skood._torch.checkpoint import Checkpoint
from skood._torch.objective import Objective
from skood._torch.run import TrainingRun, finishing_step
from skood._torch.settings import TrainingSettings
from skood._torch.training import hold_out, train
from skood.density import ImageFlow, NeuralSplineFlow, PixelCNN

SETTINGS = TrainingSettings(
    max_epochs=4,
    max_steps=None,
    batch_size=5,
    learning_rate=0.05,
    betas=(0.9, 0.99),
    lr_schedule="cosine",
    lr_decay=1.0,
    clip_norm=1.0,
    patience=None,
    precision="fp32",
    compile=False,
    verbose=0,
)
VALIDATING = replace(SETTINGS, patience=2)
LOOKING_AHEAD = replace(SETTINGS, lookahead=0.9)
CPU = torch.device("cpu")
DATA = torch.randn(26, 3, generator=torch.Generator().manual_seed(0))


class Noisy(Objective):
    """A network with dropout on noisy data, with a running mean of each epoch's inputs."""

    def __init__(self, seed, stop):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.3), nn.Linear(6, 1))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("mean_before", torch.zeros(3))
        self.stop = stop
        self.calls = {"training": 0, "validation": 0}

    def start_epoch(self, epoch, *, resumed):
        if not resumed:
            self.mean_before.copy_(self.mean)
            self.mean.zero_()

    def read(self, rows):
        return DATA[rows].numpy()

    def prepare(self, items, generator):
        part = "validation" if generator is None else "training"
        self.calls[part] += 1
        if self.calls[part] - 1 == self.stop.get(part):
            raise KeyboardInterrupt
        x = torch.from_numpy(items)
        return (x if generator is None else x + torch.randn(x.shape, generator=generator),)

    def loss(self, x):
        if self.training:
            self.mean += x.mean(0)
        return (self.network(x - self.mean_before)[:, 0] - x.square().sum(1)).square()


def run(settings, path, *, seed=0, fraction=None, **stop):
    """Train, interrupted at the given batch of training or validation."""
    fraction = (
        fraction if fraction is not None else 0.0 if settings in (SETTINGS, LOOKING_AHEAD) else 0.4
    )
    objective = Noisy(seed, stop)
    checkpoint = None if path is None else Checkpoint(path, CPU)
    seed = seed if checkpoint is None else checkpoint.seed(seed)
    parts = hold_out(len(DATA), fraction, seed)
    history = train(objective, *parts, settings, seed=seed, device=CPU, checkpoint=checkpoint)
    assert not objective.training
    return objective.state_dict(), history, objective.calls


def assert_same(result, expected):
    for name, weights in expected[0].items():
        assert torch.equal(result[0][name], weights), name
    assert result[1] == expected[1]


# Five steps an epoch without validation; with it three, and two batches of validation.
@pytest.mark.parametrize(
    ("settings", "stop"),
    [
        (SETTINGS, {"training": 0}),
        (SETTINGS, {"training": 3}),
        (SETTINGS, {"training": 5}),
        (SETTINGS, {"training": 19}),
        (LOOKING_AHEAD, {"training": 3}),
        (LOOKING_AHEAD, {"training": 7}),
        (LOOKING_AHEAD, {"training": 19}),
        (VALIDATING, {"training": 2}),
        (VALIDATING, {"training": 3}),
        (VALIDATING, {"validation": 0}),
        (VALIDATING, {"validation": 3}),
        (VALIDATING, {"validation": 5}),
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, settings, stop):
    expected = run(settings, None)
    checkpoint = tmp_path / "deep" / "run.pt"
    with pytest.warns(UserWarning, match="training was interrupted after") as caught:
        interrupted = run(settings, checkpoint, **stop)
    assert len(caught) == 1
    assert len(interrupted[1]["loss"]) < len(expected[1]["loss"])
    resumed = run(settings, checkpoint)
    assert_same(resumed, expected)
    steps = interrupted[2]["training"] - ("training" in stop) + resumed[2]["training"]
    assert steps == expected[2]["training"]
    assert [path.name for path in checkpoint.parent.iterdir()] == ["run.pt"]


class Normalised(Noisy):
    """Raises SIGINT within a step, after the batch statistics were updated."""

    def __init__(self, seed, stop):
        super().__init__(seed, {})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
        self.stop_in_step, self.n_steps = stop, 0

    def loss(self, x):
        loss = super().loss(x)
        if self.training:
            self.n_steps += 1
            if self.n_steps - 1 == self.stop_in_step:
                signal.raise_signal(signal.SIGINT)
        return loss


@pytest.mark.parametrize("stop", [0, 3, 7])
def test_ctrl_c_waits_for_the_end_of_a_step(tmp_path, stop):
    parts = np.arange(20), np.arange(20, 26)
    settings = {"seed": 0, "device": CPU}
    whole = Normalised(0, None)
    expected = train(whole, *parts, SETTINGS, **settings)
    first, second = Normalised(0, stop), Normalised(0, None)
    message, path = f"was interrupted after {stop + 1} of 16 steps", tmp_path / "run.pt"
    with pytest.warns(UserWarning, match=message):
        train(first, *parts, SETTINGS, checkpoint=Checkpoint(path, CPU), **settings)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert train(second, *parts, SETTINGS, checkpoint=Checkpoint(path, CPU), **settings) == expected
    for name, value in whole.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def test_ctrl_c_waits_until_an_epoch_is_recorded(tmp_path, monkeypatch):
    """With the loss of the epoch alone, a resumed run would record the epoch twice."""
    expected = run(VALIDATING, None)
    means = TrainingRun.mean_losses

    def press(self):
        if self.epoch == 1 and self.count == 3:
            signal.raise_signal(signal.SIGINT)
        return means(self)

    path = tmp_path / "run.pt"
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="was interrupted after 6"):
        patch.setattr(TrainingRun, "mean_losses", press)
        _, history, _ = run(VALIDATING, path)
    assert len(history["loss"]) == len(history["validation_loss"]) == 2
    assert_same(run(VALIDATING, path), expected)


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), finishing_step():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_was_interrupted_is_not_cached(tmp_path):
    """No later fit takes an interrupted density or detector for a trained one."""
    X = np.random.default_rng(0).normal(size=(40, 3))
    model = make_flow(random_state=0)
    detector = LogLikelihood(model, memory=str(tmp_path), random_state=0)
    expected = LogLikelihood(model, random_state=0).fit(X).score_samples(X)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, NeuralSplineFlow, 2)
        with pytest.warns(UserWarning, match="interrupted"):
            cut_short = clone(detector).fit(X)
    assert (cut_short.score_samples(X) != expected).any()
    np.testing.assert_array_equal(clone(detector).fit(X).score_samples(X), expected)


def test_warning_says_how_far_it_came(tmp_path):
    message = "training was interrupted after 7 of 20 steps; the model keeps what it had learned"
    with pytest.warns(UserWarning, match=message):
        run(SETTINGS, tmp_path / "run.pt", training=7)


def test_many_interruptions(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_SECONDS_TO_END", 0.0)
    expected = run(VALIDATING, None)
    for _ in range(5):
        with pytest.warns(UserWarning, match="was interrupted"):
            run(VALIDATING, tmp_path / "run.pt", training=1)
    with pytest.warns(UserWarning, match="was interrupted"):
        run(VALIDATING, tmp_path / "run.pt", validation=0)
    assert_same(run(VALIDATING, tmp_path / "run.pt"), expected)


def test_killed_run_resumes_from_its_last_checkpoint(tmp_path, monkeypatch):
    """A killed process saves nothing at its end."""
    monkeypatch.setattr(run_module, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    expected = run(SETTINGS, None)
    saved = []
    original = TrainingRun.save

    def save_then_die(self):
        original(self)
        saved.append(self.step)
        if self.step == 8:
            raise SystemExit

    monkeypatch.setattr(TrainingRun, "save", save_then_die)
    with pytest.raises(SystemExit):
        run(SETTINGS, tmp_path / "run.pt")
    assert saved == list(range(1, 9))
    monkeypatch.setattr(TrainingRun, "save", original)
    assert_same(run(SETTINGS, tmp_path / "run.pt"), expected)


@pytest.mark.parametrize("settings", [SETTINGS, VALIDATING])
def test_finished_run_is_not_trained_again(tmp_path, settings):
    first = run(settings, tmp_path / "run.pt")
    again = run(settings, tmp_path / "run.pt")
    assert_same(again, first)
    assert again[2] == {"training": 0, "validation": 0}


def test_interrupted_model_has_its_best_weights(tmp_path):
    """Ctrl-C keeps the weights of the best epoch, which is not the last one."""
    settings = replace(VALIDATING, max_epochs=30, patience=None, learning_rate=0.3)
    with pytest.warns(UserWarning, match="was interrupted"):
        weights, history, _ = run(settings, tmp_path / "run.pt", training=80)
    best = int(np.argmin(history["validation_loss"]))
    assert best < len(history["validation_loss"]) - 1
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    for name, value in weights.items():
        assert torch.equal(value, state["best"][name])
        assert not torch.equal(value, state["objective"][name])


def test_resumed_run_keeps_its_seed(tmp_path):
    """With random_state=None the new seed must not change the validation rows."""
    expected = run(VALIDATING, None)
    with pytest.warns(UserWarning, match="was interrupted"):
        run(VALIDATING, tmp_path / "run.pt", training=4)
    assert_same(run(VALIDATING, tmp_path / "run.pt", seed=1), expected)


def interrupt_at(monkeypatch, cls, call):
    """Make a density's mutation raise KeyboardInterrupt at its n-th call."""
    original = cls._mutate
    calls = iter(range(1000))

    def mutate(self, *args):
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(cls, "_mutate", mutate)


def make_pixelcnn(**kwargs):
    settings = {"n_filters": 3, "n_resnet": 1, "weight_norm": True, "dropout": 0.2}
    return PixelCNN(**settings, mutation_rate=0.3, max_epochs=3, batch_size=4, **kwargs)


def make_flow(**kwargs):
    return NeuralSplineFlow(
        n_transforms=1,
        hidden_features=(8,),
        mutation_rate=0.3,
        validation_fraction=0,
        max_epochs=3,
        batch_size=4,
        **kwargs,
    )


def make_image_flow(**kwargs):
    settings = {"n_transforms": (2, 1), "n_filters": 4, "n_blocks": 1, "dropout": 0.2}
    return ImageFlow(**settings, mutation_rate=0.3, max_epochs=3, batch_size=4, **kwargs)


CASES = {
    "ImageFlow": (make_image_flow, np.random.default_rng(0).random((14, 4, 3))),
    "PixelCNN": (make_pixelcnn, np.random.default_rng(0).random((14, 4, 3))),
    "NeuralSplineFlow": (make_flow, np.random.default_rng(0).normal(size=(14, 3))),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", [0, 1, 3, 5])
def test_interrupted_density_is_usable_and_resumes(monkeypatch, tmp_path, case, step):
    make, X = CASES[case]
    expected = make(random_state=0).fit(X).score_samples(X)
    density = make(random_state=0, checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:
        interrupt_at(patch, type(density), step)
        message = rf"{case} \(mutation 0.3\) was interrupted after {step} of 9 steps"
        with pytest.warns(UserWarning, match=message):
            density.fit(X)
    scores = density.score_samples(X)
    assert np.isfinite(scores).all()
    assert (scores != expected).any()
    assert density.sample(2).shape == (2, *density.input_shape_)
    np.testing.assert_array_equal(density.fit(X).score_samples(X), expected)


def test_a_checkpoint_is_read_once(monkeypatch, tmp_path):
    make, X = CASES["NeuralSplineFlow"]
    density = make(random_state=0, checkpoint_dir=tmp_path).fit(X)
    read, opened = [], checkpoint.open_checked
    monkeypatch.setattr(
        checkpoint, "open_checked", lambda *args: read.append(args[0]) or opened(*args)
    )
    density.fit(X)
    assert read == list(tmp_path.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_checkpoint_file_belongs_to_parameters_and_data(tmp_path, case):
    make, X = CASES[case]

    def n_files(X=X, **kwargs):
        make(**{"random_state": 0, "checkpoint_dir": str(tmp_path), **kwargs}).fit(X)
        assert {path.suffix for path in tmp_path.iterdir()} == {".pt"}
        return len(list(tmp_path.iterdir()))

    assert n_files() == 1
    assert n_files() == 1
    # The device does not matter.
    assert n_files(device="cpu") == 1
    changed = X.copy()
    changed[5, 0] = 0.123
    for n, other in enumerate(
        [
            {"reg_weight": 0.1},
            {"max_steps": 5},
            {"learning_rate": 1e-4},
            {"random_state": 1},
            {"random_state": None},
            {"X": changed},
            {"X": X[:-1]},
        ]
    ):
        assert n_files(**other) == n + 2, other
    assert n_files(random_state=None) == 8


def test_checkpoint_belongs_to_the_labels(tmp_path):
    make, X = CASES["PixelCNN"]
    y = np.arange(14) % 2
    density = make(conditional=True, random_state=0, checkpoint_dir=tmp_path)
    first = density.fit(X, y).class_log_prob(X)
    swapped = density.fit(X, np.roll(y, 1)).class_log_prob(X)
    alone = make(conditional=True, random_state=0).fit(X, np.roll(y, 1)).class_log_prob(X)
    np.testing.assert_array_equal(swapped, alone)
    assert (swapped != first).any()
