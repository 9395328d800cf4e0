"""Background models: mutations and the penalty on kernels."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import kstest, uniform
from tiny_models import make_vae

from skood.density import NeuralSplineFlow, PixelCNN


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def mutate(x, rate, n_levels=256, seed=0):
    return PixelCNN(mutation_rate=rate, n_levels=n_levels)._mutate(x, None, generator(seed))


def assert_binomial(successes, n, p):
    assert abs(successes - n * p) <= 5 * np.sqrt(n * p * (1 - p))


def assert_uniform(values, n_values):
    """Chi-square test of integers 0 .. n_values - 1, at five standard deviations."""
    counts = np.bincount(values, minlength=n_values)
    assert len(counts) == n_values
    assert stats.chisquare(counts).statistic < n_values - 1 + 5 * np.sqrt(2 * (n_values - 1))


@pytest.fixture(scope="module")
def levels():
    """Sub-pixels of 256 levels, not uniform, shape (60, 3, 20, 20)."""
    values = np.random.default_rng(0).binomial(255, 0.3, size=(60, 3, 20, 20))
    values.reshape(-1)[:5000] = np.repeat([0, 255], 2500)
    return torch.from_numpy(values).float()


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("n_levels", [256, 17, 2])
def test_mutation_moves_each_subpixel_by_a_uniform_number_of_levels(levels, rate, n_levels):
    x = levels % n_levels
    before = x.clone()
    mutated = mutate(x, rate, n_levels)
    assert torch.equal(x, before)
    assert mutated.dtype == x.dtype
    assert mutated.shape == x.shape
    moves = (mutated - x).long().remainder(n_levels).flatten().numpy()
    assert set(np.unique(mutated)) <= set(range(n_levels))
    moved = moves > 0
    assert_binomial(moved.sum(), moved.size, rate * (n_levels - 1) / n_levels)
    if n_levels > 2:
        assert_uniform(moves[moved] - 1, n_levels - 1)


def test_mutation_treats_every_subpixel_on_its_own(levels):
    p = 0.3 * 255 / 256
    moved = (mutate(levels, 0.3) != levels).numpy()
    for axis in range(4):
        first, second = np.split(np.moveaxis(moved, axis, 0)[: 2 * (moved.shape[axis] // 2)], 2)
        assert_binomial((first & second).sum(), first.size, p**2)
        assert_binomial(first.sum(), first.size, p)


@pytest.mark.parametrize("value", [0, 100, 255])
def test_moments_of_a_mutated_subpixel(value):
    rate, n = 0.3, 200_000
    mutated = mutate(torch.full((n // 100, 1, 10, 10), float(value)), rate).double().numpy()
    uniform = np.arange(256)
    for power in (1, 2):
        mean = (1 - rate) * value**power + rate * (uniform**power).mean()
        square = (1 - rate) * value ** (2 * power) + rate * (
            uniform.astype(float) ** (2 * power)
        ).mean()
        error = np.sqrt((square - mean**2) / n)
        assert abs((mutated**power).mean() - mean) < 5 * error


def test_mutation_rate_zero_and_one(levels):
    assert torch.equal(mutate(levels, 0), levels)
    mutated = mutate(levels, 1).numpy()
    assert_uniform(mutated.astype(int).ravel(), 256)
    # A uniform level has variance 5461.25, and kurtosis 1.8.
    assert mutated.var() == pytest.approx(5461.25, rel=5 * np.sqrt(0.8 / mutated.size))
    correlation = np.corrcoef(mutated.ravel(), levels.numpy().ravel())[0, 1]
    assert abs(correlation) < 5 / np.sqrt(mutated.size)


def test_mutation_is_decided_by_the_generator(levels):
    assert torch.equal(mutate(levels, 0.2, seed=1), mutate(levels, 0.2, seed=1))
    assert not torch.equal(mutate(levels, 0.2, seed=1), mutate(levels, 0.2, seed=2))


@pytest.fixture
def mutations(monkeypatch):
    """Pairs of a batch before and after mutation, collected over a fit."""
    seen = []
    original = PixelCNN._mutate

    def recording(self, x, source, generator):
        mutated = original(self, x, source, generator)
        seen.append((x, mutated))
        return mutated

    monkeypatch.setattr(PixelCNN, "_mutate", recording)
    return seen


def test_mutations_are_drawn_afresh_for_every_batch_of_training(tiny, mutations):
    X = np.repeat(np.random.default_rng(0).integers(256, size=(1, 6, 6), dtype=np.uint8), 20, 0)
    tiny(mutation_rate=0.5, max_steps=4, batch_size=5, validation_fraction=0.5).fit(X)
    # Two batches of training an epoch, and none of the two of validation.
    assert len(mutations) == 4
    rows = torch.cat([mutated for _, mutated in mutations])
    assert len(torch.unique(rows.flatten(1), dim=0)) == len(rows) == 20
    for x, _ in mutations:
        assert torch.equal(x, torch.from_numpy(X[:5, None]).float())


def test_nothing_is_mutated_at_rate_zero(tiny, images, mutations):
    tiny(mutation_rate=0).fit(images)
    assert mutations == []


def test_model_trains_on_mutations_and_validates_on_the_data(tiny):
    # The untrained model takes black for likely, as it gets all the mass below it.
    X = np.zeros((20, 5, 4), dtype=np.uint8)
    settings = {"learning_rate": 1e-12, "validation_fraction": 0.5, "max_steps": 1}
    plain = tiny(**settings).fit(X)
    mutated = tiny(**settings, mutation_rate=1.0).fit(X)
    expected = -plain.score_samples(X)[0]
    for density in (plain, mutated):
        assert density.history_["validation_loss"] == pytest.approx([expected], rel=1e-5)
    assert plain.history_["loss"] == pytest.approx([expected], rel=1e-5)
    assert mutated.history_["loss"][0] > expected + 20


def test_mutated_model_expects_mutations(tiny):
    """A model of black images that are mutated at rate 1 is a model of noise."""
    X = np.zeros((20, 4, 4), dtype=int)
    settings = {"n_levels": 4, "value_range": (0, 3), "max_steps": 150, "n_filters": 4}
    settings["pixel_origin"] = "grey"
    bits = {
        rate: tiny(**settings, mutation_rate=rate).fit(X).bits_per_dim(X).mean() for rate in (0, 1)
    }
    assert bits[0] < 0.1
    # log2(4) in noise; a logistic cannot be quite uniform.
    assert bits[1] == pytest.approx(2, abs=0.3)


def squared_kernels(density):
    """Sum of the squared kernels, from the parameters alone."""
    total = 0.0
    parameters = {k: v.detach() for k, v in density.module_.named_parameters()}
    for name, parameter in parameters.items():
        if name.endswith("weight"):
            gain = parameters.get(name.removesuffix("weight") + "gain")
            # A normalised kernel has the norm of its gain.
            total += float((parameter if gain is None else gain).double().square().sum())
    return total


@pytest.mark.parametrize("weight_norm", [False, True])
@pytest.mark.parametrize("n_hierarchies", [1, 2])
def test_reg_weight_adds_the_squared_kernels_once_a_step(tiny, images, weight_norm, n_hierarchies):
    def fit(reg_weight, batch_size):
        return tiny(
            weight_norm=weight_norm,
            n_hierarchies=n_hierarchies,
            reg_weight=reg_weight,
            batch_size=batch_size,
            learning_rate=1e-12,
            max_steps=1,
        ).fit(images)

    for batch_size in (4, 24):
        plain, penalised = fit(0.0, batch_size), fit(2.5, batch_size)
        added = penalised.history_["loss"][0] - plain.history_["loss"][0]
        assert added == pytest.approx(2.5 * squared_kernels(penalised), rel=1e-5)
        assert squared_kernels(penalised) > 1


def test_validation_loss_has_no_penalty(tiny, images):
    settings = {"validation_fraction": 0.5, "learning_rate": 1e-12, "max_steps": 1}
    plain, penalised = (tiny(**settings, reg_weight=w).fit(images) for w in (0, 100))
    assert penalised.history_["validation_loss"] == plain.history_["validation_loss"]
    assert penalised.history_["loss"][0] > plain.history_["loss"][0] + 100


@pytest.mark.parametrize(("weight_norm", "factor"), [(False, 5), (True, 1.3)])
def test_reg_weight_shrinks_the_kernels(tiny, images, weight_norm, factor):
    free, held = (
        squared_kernels(tiny(weight_norm=weight_norm, reg_weight=w, max_steps=60).fit(images))
        for w in (0, 10)
    )
    assert free > factor * held


@pytest.fixture(scope="module")
def rows():
    """Rows whose features have different marginals, and depend on each other."""
    rng = np.random.default_rng(0)
    first = rng.integers(4, size=500)
    return np.c_[first, 10 * first + rng.integers(2, size=500), rng.normal(size=500)]


class TestOfRows:
    def mutate(self, rows, rate, batch):
        flow = NeuralSplineFlow(mutation_rate=rate)
        source = flow._open(rows, reset=True)
        flow._build(source)
        x = flow._tensor(batch, torch.device("cpu"))
        mutated = flow._mutate(x, source, generator()).double().numpy()
        return mutated * flow.scale_ + flow.mean_

    def test_entries_become_values_of_their_feature(self, rows):
        batch = np.tile(rows, (40, 1))
        mutated = self.mutate(rows, 1.0, batch)
        for feature in range(3):
            values, counts = np.unique(rows[:, feature].round(4), return_counts=True)
            drawn, often = np.unique(mutated[:, feature].round(4), return_counts=True)
            assert set(drawn) <= {*values, *(values + 1e-4).round(4), *(values - 1e-4).round(4)}
            if len(values) < 10:
                expected = counts * len(batch) / len(rows)
                statistic = ((often - expected) ** 2 / expected).sum()
                assert statistic < len(values) - 1 + 5 * np.sqrt(2 * (len(values) - 1))
        # What is left of the dependence between features is chance.
        for a, b in [(0, 1), (0, 2), (1, 2)]:
            correlation = np.corrcoef(mutated[:, a], mutated[:, b])[0, 1]
            assert abs(correlation) < 5 / np.sqrt(len(batch))

    @pytest.mark.parametrize("rate", [0, 0.2])
    def test_rate(self, rows, rate):
        batch = np.tile(rows, (40, 1)) + 100
        mutated = self.mutate(rows, rate, batch)
        moved = abs(mutated - batch) > 1
        assert abs(mutated - batch)[~moved].max() < 1e-3
        for feature in range(3):
            assert_binomial(moved[:, feature].sum(), len(batch), rate)
        assert_binomial((moved[:, 0] & moved[:, 1]).sum(), len(batch), rate**2)

    def test_mutations_loosen_the_dependence_that_is_learned(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=600)
        X = np.c_[x, x + 0.1 * rng.normal(size=600)]
        settings = {"n_transforms": 1, "hidden_features": (16,), "learning_rate": 1e-2}

        def gap(rate):
            flow = NeuralSplineFlow(**settings, max_epochs=15, mutation_rate=rate, random_state=0)
            flow.fit(X)
            return flow.score(X) - flow.score(np.c_[X[:, 0], np.roll(X[:, 1], 1)])

        assert gap(0) > 2
        assert gap(1) < 0.5

    def test_reg_weight_adds_the_squared_kernels_in_use(self, rows):
        def fit(reg_weight):
            return NeuralSplineFlow(
                n_transforms=2,
                hidden_features=(8,),
                reg_weight=reg_weight,
                learning_rate=1e-12,
                max_steps=1,
                validation_fraction=0,
                random_state=0,
            ).fit(rows)

        penalised = fit(3.0)
        state = penalised.module_.state_dict()
        kernels = [name for name in state if name.endswith("weight")]
        assert len(kernels) == 4
        expected = sum(
            float((state[name] * state[name.removesuffix("weight") + "mask"]).square().sum())
            for name in kernels
        )
        added = penalised.history_["loss"][0] - fit(0.0).history_["loss"][0]
        assert added == pytest.approx(3.0 * expected, rel=1e-4)


class TestMutationOfVAE:
    def mutate(self, X, batch, rate, **settings):
        """Mutations of a batch, in the units of X."""
        vae = make_vae(mutation_rate=rate, **settings)
        source = vae._open(X, reset=True)
        vae._build(source)
        x = vae._tensor(batch, torch.device("cpu"))
        before = x.clone()
        mutated = vae._mutate(x, source, torch.Generator().manual_seed(0))
        assert torch.equal(x, before)
        assert mutated.dtype == x.dtype
        return vae._preprocessing.inverse(mutated).numpy()

    @pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian", "logistic"])
    def test_of_pixels_draws_from_the_whole_range(self, rate, likelihood):
        X = np.full((60, 3, 10, 10), -3.0)
        mutated = self.mutate(X, X, rate, likelihood=likelihood, value_range=(-5, 11))
        moved = mutated != -3
        assert abs(moved.mean() - rate) <= 5 * np.sqrt(rate * (1 - rate) / X.size)
        if rate:
            assert kstest(mutated[moved], uniform(-5, 16).cdf).pvalue > 1e-4
        # Each value by itself: channels and rows of a pixel move independently.
        both = (moved[:, 0] & moved[:, 1]).mean()
        assert abs(both - rate**2) <= 5 * np.sqrt(rate**2 * (1 - rate**2) / X[:, 0].size)

    @pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
    def test_of_standardised_rows_draws_values_of_the_feature(self, rate):
        rng = np.random.default_rng(0)
        first = rng.integers(4, size=500)
        X = np.c_[first, 100 * first + 7.0]
        batch = np.tile([[-50.0, -50.0]], (4000, 1))
        mutated = self.mutate(X, batch, rate)
        moved = mutated > -49
        error = np.sqrt(rate * (1 - rate) / len(batch))
        assert (abs(moved.mean(0) - rate) <= 5 * error).all()
        assert abs(moved.all(1).mean() - rate**2) <= 5 * np.sqrt(rate**2 * (1 - rate**2) / 4000)
        for feature in range(2):
            drawn = mutated[moved[:, feature], feature]
            assert set(np.unique(drawn.round(2))) == (set(X[:, feature]) if rate else set())
        if rate == 1:
            # Not from one row together.
            assert abs(np.corrcoef(mutated.T)[0, 1]) < 5 / np.sqrt(4000)


def test_background_vae_expects_mutations():
    X = np.zeros((40, 6, 6))
    # Without validation, whose items are not mutated and would choose an epoch that suits them.
    settings = {"likelihood": "bernoulli", "max_steps": 200, "learning_rate": 3e-2}
    settings["validation_fraction"] = 0
    plain, mutated = (make_vae(**settings, mutation_rate=r).fit(X) for r in (0.0, 0.5))
    assert plain.score(X) > -1
    # Half of the values are uniform: the mean of a pixel is 1 / 4.
    assert mutated.score(X) == pytest.approx(36 * np.log(0.75), rel=0.25)
