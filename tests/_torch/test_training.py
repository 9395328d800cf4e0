"""The training loop: schedules, stopping, penalties, errors."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from skood._torch import compiling, precision as precision_module, run as run_module
from skood._torch.checkpoint import Checkpoint
from skood._torch.compiling import maybe_compile
from skood._torch.objective import Objective
from skood._torch.settings import TrainingSettings
from skood._torch.training import hold_out, train
from skood.density import PixelCNN

CPU = torch.device("cpu")
PLAIN = TrainingSettings(
    max_epochs=3,
    max_steps=None,
    batch_size=4,
    learning_rate=0.1,
    betas=(0.0, 0.0),
    lr_schedule="constant",
    lr_decay=1.0,
    clip_norm=None,
    patience=None,
    precision="fp32",
    compile=False,
    verbose=0,
)


class Scalar(Objective):
    """One parameter, whose negative is the loss; records the rows that are read.

    With betas of 0, Adam moves it by the learning rate at every step.
    """

    def __init__(self, loss=None):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))
        self.given_loss = loss
        self.training_rows, self.validation_rows, self.values = [], [], []

    def read(self, rows):
        return rows

    def prepare(self, rows, generator):
        if generator is None:
            assert not self.training
            self.validation_rows.append(rows)
        else:
            assert self.training
            self.training_rows.append(rows)
            self.values.append(self.value.item())
        return torch.from_numpy(rows), torch.tensor(generator is None)

    def loss(self, rows, is_validation):
        if self.given_loss is not None:
            return self.given_loss(self, rows, is_validation)
        return -self.value * torch.ones(len(rows))


def run(settings=PLAIN, n=20, loss=None, fraction=0.0, objective=None, **kwargs):
    """Train a Scalar on `n` rows, of which a fraction is held out."""
    objective = Scalar(loss) if objective is None else objective
    seed = kwargs.pop("seed", 0)
    parts = hold_out(n, fraction, seed)
    history = train(objective, *parts, settings, seed=seed, device=CPU, **kwargs)
    assert not objective.training
    return objective, history


def test_every_epoch_reads_every_row_once_in_a_new_order():
    objective, history = run(PLAIN, n=20)
    assert len(objective.training_rows) == 3 * 5
    epochs = [np.concatenate(objective.training_rows[i : i + 5]) for i in (0, 5, 10)]
    for rows in epochs:
        assert sorted(rows) == list(range(20))
    assert len({tuple(rows) for rows in epochs}) == 3
    assert len(history["loss"]) == 3
    assert "validation_loss" not in history


def test_last_rows_that_fill_no_batch_wait_for_the_next_epoch():
    objective, _ = run(replace(PLAIN, max_epochs=20), n=11)
    assert [len(rows) for rows in objective.training_rows] == [4] * 2 * 20
    assert set(np.concatenate(objective.training_rows)) == set(range(11))


def test_batch_is_never_larger_than_the_data():
    objective, _ = run(replace(PLAIN, batch_size=100), n=7)
    assert [len(rows) for rows in objective.training_rows] == [7] * 3


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "n_steps", "n_epochs"),
    [(3, None, 15, 3), (3, 7, 7, 2), (3, 5, 5, 1), (2, 100, 10, 2), (50, 1, 1, 1)],
)
def test_max_epochs_and_max_steps(max_epochs, max_steps, n_steps, n_epochs):
    settings = replace(PLAIN, max_epochs=max_epochs, max_steps=max_steps)
    objective, history = run(settings)
    assert len(objective.training_rows) == n_steps
    assert len(history["loss"]) == n_epochs
    assert objective.value.item() == pytest.approx(0.1 * n_steps)


def test_history_is_the_mean_over_the_steps_of_an_epoch():
    _, history = run(replace(PLAIN, max_steps=7))
    # The loss at step k is -0.1 k; the second epoch has two steps.
    assert history["loss"] == pytest.approx([-0.2, -0.55])


def test_penalty_is_added_once_a_step():
    class Penalised(Scalar):
        def penalty(self):
            return 0 * self.value + 7

    _, plain = run()
    _, penalised = run(objective=Penalised(), fraction=0.2)
    assert penalised["loss"][0] == pytest.approx(plain["loss"][0] + 7, abs=0.2)
    assert max(penalised["validation_loss"]) < 0


def test_named_terms_add_up_and_are_kept():
    class Terms(Scalar):
        def loss(self, rows, is_validation):
            pairs = torch.full((len(rows), len(rows)), 3.0)
            return {"fall": -self.value * torch.ones(len(rows)), "pairs": pairs}

    _, history = run(objective=Terms(), fraction=0.2)
    _, plain = run(fraction=0.2)
    for part in ("", "validation_"):
        assert history[f"{part}fall"] == pytest.approx(plain[f"{part}loss"])
        assert history[f"{part}pairs"] == [3.0] * 3
        assert history[f"{part}loss"] == pytest.approx([v + 3 for v in plain[f"{part}loss"]])


def test_metrics_are_means_over_their_rows():
    class Measured(Scalar):
        def metrics(self, rows, is_validation):
            return {"even": rows[rows % 2 == 0].double(), "is_large": rows >= 10}

    objective, history = run(objective=Measured(), fraction=0.5)
    rows = np.unique(np.concatenate(objective.validation_rows))
    assert history["validation_even"] == pytest.approx([rows[rows % 2 == 0].mean()] * 3)
    assert history["validation_is_large"] == pytest.approx([(rows >= 10).mean()] * 3)


def test_start_sees_the_first_batch_before_the_first_step():
    calls = []

    class Starting(Scalar):
        def start(self, *batch):
            calls.append((batch[0].tolist(), self.value.item()))

    objective, _ = run(objective=Starting())
    assert calls == [(objective.training_rows[0].tolist(), 0.0)]


def test_hooks_come_in_their_order():
    calls = []

    class Hooked(Scalar):
        def start(self, *batch):
            calls.append("start")

        def start_epoch(self, epoch, *, resumed):
            assert not resumed
            calls.append(epoch)

        def read(self, rows):
            calls.append("read")
            return rows

        def after_step(self):
            calls.append(f"after {self.value.item():.1f}")

    run(replace(PLAIN, max_epochs=2), n=8, objective=Hooked())
    steps = ["read", "after 0.1", "read", "after 0.2"], ["read", "after 0.3", "read", "after 0.4"]
    steps[0].insert(1, "start")
    assert calls == [0, *steps[0], 1, *steps[1]]


def test_epoch_batches_are_those_of_the_objective():
    class Doubled(Scalar):
        def epoch_batches(self, rows, batch_size, rng):
            return np.repeat(rows[::-1], 2).reshape(-1, batch_size)

    objective, history = run(objective=Doubled(), n=6)
    expected = [[5, 5, 4, 4], [3, 3, 2, 2], [1, 1, 0, 0]] * 3
    assert [rows.tolist() for rows in objective.training_rows] == expected
    assert len(history["loss"]) == 3


def test_groups_of_parameters_have_their_own_rates():
    class Grouped(Scalar):
        def __init__(self):
            super().__init__()
            self.head = nn.Parameter(torch.zeros(()))

        def parameter_groups(self):
            return [{"params": [self.value]}, {"params": [self.head], "lr_scale": 0.1}]

        def loss(self, rows, is_validation):
            return -(self.value + self.head) * torch.ones(len(rows))

    objective, _ = run(replace(PLAIN, lr_schedule="exponential", lr_decay=0.9), objective=Grouped())
    assert objective.value.item() == pytest.approx(sum(0.1 * 0.9**k for k in range(15)), rel=1e-5)
    assert objective.head.item() == pytest.approx(0.1 * objective.value.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "n_steps", "expected"),
    [
        ("constant", 1000, {0: 1, 999: 1}),
        ("exponential", 1000, {0: 1, 1: 0.99, 2: 0.9801, 500: 0.99**500}),
        # Warm-up during 5 % of the steps, then half a cosine down to 0.01.
        ("cosine", 1000, {0: 0.02, 24: 0.5, 49: 1, 50: 1, 525: 0.505, 1000: 0.01}),
        ("cosine", 100_000, {0: 0.005, 199: 1, 200: 1, 50_100: 0.505, 100_000: 0.01}),
        ("cosine", 10, {0: 1, 1: 1, 10: 0.01}),
        ("cosine", 1, {0: 1}),
        # 0.1 from half of the steps on, 0.01 from three quarters on.
        ("step", 100, {0: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 99: 0.01}),
        ("step", 5, {2: 1, 3: 0.1, 4: 0.01}),
    ],
)
def test_lr_factor_at_known_points(schedule, n_steps, expected):
    settings = replace(PLAIN, lr_schedule=schedule, lr_decay=0.99)
    for step, factor in expected.items():
        assert settings.lr_factor(step, n_steps) == pytest.approx(factor, abs=1e-9)
    assert all(0 < settings.lr_factor(step, n_steps) <= 1 for step in range(0, n_steps, 7))


@pytest.mark.parametrize("schedule", ["constant", "exponential", "cosine", "step"])
def test_schedule_sets_the_learning_rate(schedule):
    settings = replace(PLAIN, lr_schedule=schedule, lr_decay=0.9, max_epochs=8)
    objective, _ = run(settings)
    moves = np.diff([*objective.values, objective.value.item()])
    expected = [0.1 * settings.lr_factor(step, 40) for step in range(40)]
    np.testing.assert_allclose(moves, expected, rtol=1e-4)
    assert (schedule == "constant") == (np.ptp(moves) < 1e-6)


@pytest.mark.parametrize(("clip_norm", "expected"), [(None, 5.0), (2.0, 2.0), (9.0, 5.0)])
def test_clip_norm(clip_norm, expected):
    target = torch.tensor([3.0, 4.0])

    class Plane(Scalar):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def loss(self, rows, is_validation):
            return (self.weight * target).sum().expand(len(rows))

    plane, _ = run(replace(PLAIN, clip_norm=clip_norm), n=8, objective=Plane())
    gradient = plane.weight.grad
    assert float(gradient.norm()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient / gradient.norm(), target / 5)


def hill(module, rows, is_validation):
    """Validation loss lowest where the parameter is 1; the training loss always falls."""
    if is_validation:
        return (module.value - 1).square().expand(len(rows))
    return -module.value * torch.ones(len(rows))


VALIDATING = replace(PLAIN, max_epochs=20, learning_rate=0.05)


def test_validation_part_is_kept_out_of_training():
    objective, history = run(VALIDATING, fraction=0.2)
    training_rows = set(np.concatenate(objective.training_rows))
    validation_rows = np.concatenate(objective.validation_rows)
    assert len(training_rows) == 16
    assert set(validation_rows) | training_rows == set(range(20))
    assert set(validation_rows).isdisjoint(training_rows)
    assert len(validation_rows) == 20 * 4
    assert len(history["validation_loss"]) == 20
    other, _ = run(VALIDATING, fraction=0.2, seed=1)
    assert set(np.concatenate(other.validation_rows)) != set(validation_rows)


def test_hold_out():
    training, held_out = hold_out(20, 0.25, 0)
    assert len(held_out) == 5
    np.testing.assert_array_equal(np.sort(np.r_[training, held_out]), np.arange(20))
    assert not np.array_equal(held_out, hold_out(20, 0.25, 1)[1])
    assert np.array_equal(held_out, hold_out(20, 0.25, 0)[1])
    assert len(hold_out(20, 0.0, 0)[1]) == 0


def test_hold_out_takes_the_same_fraction_of_every_class():
    class_indices = np.repeat([0, 1, 2], [50, 10, 3])
    training, held_out = hold_out(63, 0.2, 0, class_indices)
    assert np.bincount(class_indices[held_out]).tolist() == [10, 2]
    np.testing.assert_array_equal(np.sort(np.r_[training, held_out]), np.arange(63))


def test_weights_of_the_best_epoch_are_restored():
    # Four steps of 0.05 an epoch: the parameter is 1 after the fifth.
    objective, history = run(VALIDATING, loss=hill, fraction=0.2)
    assert objective.value.item() == pytest.approx(1, abs=1e-5)
    assert len(objective.training_rows) == 20 * 4
    assert np.argmin(history["validation_loss"]) == 4
    expected = [(0.2 * epoch - 1) ** 2 for epoch in range(1, 21)]
    assert history["validation_loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("patience", [1, 3])
def test_patience_stops_training_early(patience):
    objective, history = run(replace(VALIDATING, patience=patience), loss=hill, fraction=0.2)
    assert len(history["validation_loss"]) == len(history["loss"]) == 5 + patience
    assert len(objective.training_rows) == 4 * (5 + patience)
    assert objective.value.item() == pytest.approx(1, abs=1e-5)


def test_patience_without_validation_changes_nothing():
    objective, _ = run(replace(PLAIN, patience=1))
    assert len(objective.training_rows) == 15


def test_validation_loss_weighs_every_row_alike():
    def loss(module, rows, is_validation):
        return rows.double() + 0 * module.value

    objective, history = run(replace(VALIDATING, batch_size=4), loss=loss, fraction=0.5)
    rows = np.concatenate(objective.validation_rows)[:10]
    assert history["validation_loss"] == pytest.approx([rows.mean()] * 20)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_is_an_error(bad):
    def loss(module, rows, is_validation):
        return module.value + torch.full((len(rows),), bad if module.value < -0.45 else 0.0)

    message = (
        f"the training loss became {bad} before step 10; lower learning_rate or clip_norm, "
        "or check X for extreme values"
    )
    with pytest.raises(FloatingPointError, match=message):
        run(loss=loss)


def test_nothing_bad_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "_SECONDS_BETWEEN_CHECKPOINTS", 0.0)

    def loss(module, rows, is_validation):
        return module.value + torch.full((len(rows),), math.nan if module.value < -0.55 else 0.0)

    with pytest.raises(FloatingPointError, match="before step 7"):
        run(loss=loss, checkpoint=Checkpoint(tmp_path / "run.pt", CPU))
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    assert state["step"] == 6


def test_global_random_state_is_neither_changed_nor_read():
    def noise(seed):
        drawn = []
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = torch.get_rng_state()

        def loss(module, rows, is_validation):
            drawn.append(torch.rand(()).item())
            return module.value.expand(len(rows))

        run(loss=loss)
        assert torch.equal(torch.get_rng_state(), before)
        return drawn

    first = noise(1)
    assert first == noise(2)
    assert len(set(first)) == len(first)


def test_global_random_state_is_restored_after_an_error():
    before = torch.get_rng_state()

    def loss(module, rows, is_validation):
        raise ArithmeticError("on purpose")

    with pytest.raises(ArithmeticError, match="on purpose"):
        run(loss=loss)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_applies_to_training_only(monkeypatch, precision, dtype):
    monkeypatch.setattr(precision_module, "_fault", lambda *_: None)
    seen = {True: set(), False: set()}

    def loss(module, rows, is_validation):
        seen[bool(is_validation)].add((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
        return module.value.expand(len(rows))

    objective, _ = run(replace(VALIDATING, precision=precision), loss=loss, fraction=0.2)
    assert seen == {False: {dtype}, True: {torch.float32}}
    assert objective.value.dtype == torch.float32


def test_progress_bar(capsys):
    run(replace(PLAIN, verbose=1), description="learning to grow")
    shown = capsys.readouterr().err
    assert "learning to grow" in shown
    assert "15/15" in shown
    run()
    assert capsys.readouterr().err == ""


class TestCompile:
    @staticmethod
    def fit(**settings):
        objective, history = run(replace(PLAIN, **settings))
        return objective.value.item(), history

    @pytest.mark.parametrize("error", [RuntimeError, OSError])
    @pytest.mark.parametrize("when", ["compiling", "running"])
    def test_goes_on_uncompiled_where_the_compiler_fails(self, monkeypatch, error, when):
        def fail(*_):
            raise error("no compiler")

        monkeypatch.setattr(torch, "compile", fail if when == "compiling" else lambda _: fail)
        message = rf"failed \({error.__name__}: no compiler\); training goes on uncompiled"
        with pytest.warns(UserWarning, match=message) as caught:
            result = self.fit(compile=True)
        assert len(caught) == 1
        assert result == self.fit(compile=False)

    def test_errors_of_the_loss_are_not_hidden(self, monkeypatch):
        monkeypatch.setattr(torch, "compile", lambda function: function)

        def loss(module, rows, is_validation):
            raise ValueError("a mistake in the loss")

        with pytest.raises(ValueError, match="a mistake in the loss"):
            run(replace(PLAIN, compile=True), loss=loss)

    @pytest.mark.parametrize(
        ("wanted", "n_steps", "has_compiler", "compiles"),
        [
            (False, 3000, True, False),
            (True, 1, False, True),
            ("auto", 2000, True, True),
            ("auto", 1999, True, False),
            ("auto", 2000, False, False),
        ],
    )
    def test_auto_compiles_where_it_pays(
        self, monkeypatch, wanted, n_steps, has_compiler, compiles
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(
            compiling.shutil, "which", lambda name: f"/bin/{name}" if has_compiler else None
        )
        assert (maybe_compile(abs, wanted, n_steps) is not abs) == compiles


def test_a_model_ruined_by_its_last_step_is_an_error():
    """The loss of the last step is finite, but the weights after it are not."""
    density = PixelCNN(n_filters=3, n_resnet=1, max_steps=1, learning_rate=1e39, random_state=0)
    with pytest.raises(FloatingPointError, match="weights that are not finite; lower"):
        density.fit(np.zeros((4, 3, 3)))


@pytest.mark.parametrize("compares", [True, False])
def test_last_epoch_is_kept_where_epochs_do_not_compare(compares):
    """The validation loss grows with every epoch, as with a growing margin."""

    class Growing(Scalar):
        epochs_compare = compares

        def loss(self, rows, is_validation):
            return self.value * (1 if is_validation else -1) * torch.ones(len(rows))

    objective, history = run(replace(PLAIN, patience=1), n=10, fraction=0.2, objective=Growing())
    assert len(history["loss"]) == (2 if compares else 3)
    assert objective.value.item() == pytest.approx(0.2 if compares else 0.6)
