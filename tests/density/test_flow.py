"""NeuralSplineFlow: a proper density of rows that learns more than their covariance."""

import pickle
import random
import re

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.datasets import make_moons
from torch.utils.data import TensorDataset

from skood.density import NeuralSplineFlow


def make_flow(**kwargs):
    settings = {
        "n_transforms": 2,
        "n_bins": 6,
        "hidden_features": (24, 24),
        "learning_rate": 1e-2,
        "max_epochs": 20,
        "random_state": 0,
    }
    return NeuralSplineFlow(**{**settings, **kwargs})


@pytest.fixture(scope="module")
def moons():
    """Two half-moons away from the origin, on scales of their own; shape (1600, 2)."""
    X, _ = make_moons(1600, noise=0.08, random_state=0)
    return X * [1.0, 20.0] + [5.0, -100.0]


@pytest.fixture(scope="module")
def of_moons(moons):
    return make_flow().fit(moons[:1000])


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(80, 3)) @ rng.normal(size=(3, 3)) + [1, 2, 3]


def test_density_integrates_to_one(moons, of_moons):
    low, high = moons.min(0) - np.ptp(moons, 0) / 2, moons.max(0) + np.ptp(moons, 0) / 2
    n = 100
    x, y = (low[i] + (high[i] - low[i]) * (np.arange(n) + 0.5) / n for i in range(2))
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    mass = np.exp(of_moons.score_samples(grid)).sum() * np.prod((high - low) / n)
    assert mass == pytest.approx(1, abs=0.02)


def test_learns_more_than_a_gaussian(moons, of_moons):
    gaussian = multivariate_normal(moons[:1000].mean(0), np.cov(moons[:1000].T))
    held_out = moons[1000:]
    assert of_moons.score(held_out) > gaussian.logpdf(held_out).mean() + 0.5
    assert of_moons.score(held_out) == of_moons.score_samples(held_out).mean()


def test_scores_are_float64_and_the_same_in_any_batch(moons, of_moons):
    scores = of_moons.score_samples(moons[:100])
    assert scores.dtype == np.float64
    assert scores.shape == (100,)
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(of_moons.score_samples(moons[:100][order]), scores[order])
    parts = [of_moons.score_samples(moons[i : i + 7]) for i in range(0, 100, 7)]
    np.testing.assert_array_equal(np.concatenate(parts)[:100], scores)
    n_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        np.testing.assert_allclose(of_moons.score_samples(moons[:100]), scores, rtol=1e-5)
    finally:
        torch.set_num_threads(n_threads)


def test_rescaled_data_have_the_same_density_up_to_the_jacobian(rows):
    scale, shift = np.array([4.0, 1 / 64, 1000.0]), np.array([-3.0, 50.0, 0.25])
    settings = {"max_epochs": 3}
    plain = make_flow(**settings).fit(rows).score_samples(rows)
    rescaled = make_flow(**settings).fit(rows * scale + shift).score_samples(rows * scale + shift)
    np.testing.assert_allclose(rescaled, plain - np.log(scale).sum(), atol=1e-3)


def test_large_reg_weight_leaves_the_standard_normal_of_the_standardised_data(rows):
    """Without kernels every row gets the same splines, which are near the identity."""
    penalised = make_flow(reg_weight=1e3, max_epochs=200, max_steps=300, learning_rate=3e-3)
    free = make_flow(max_epochs=200, max_steps=300, learning_rate=3e-3).fit(rows)
    scores = penalised.fit(rows).score_samples(rows)
    mean, std = rows.mean(0), rows.std(0)
    independent = norm(mean, std).logpdf(rows).sum(1)
    assert abs(scores - independent).mean() < 0.5
    assert free.score(rows) > independent.mean() + 0.7

    # What a step in the first feature changes no longer depends on the other features.
    below, above = rows.copy(), rows.copy()
    below[:, 0], above[:, 0] = mean[0] - std[0], mean[0] + std[0]
    steps = [flow.score_samples(above) - flow.score_samples(below) for flow in (penalised, free)]
    assert steps[0].std() < 0.05 * steps[1].std()


@pytest.mark.parametrize("value", [0.0, 5.0, 0.1, 1 / 3, -1e6])
def test_constant_feature_changes_nothing(rows, value):
    X = np.c_[rows, np.full(len(rows), value)]
    flow = make_flow(max_epochs=3).fit(X)
    assert flow.scale_[3] == 1
    np.testing.assert_allclose(flow.scale_[:3], rows.std(0))
    scores = flow.score_samples(X)
    assert np.isfinite(scores).all()
    assert scores.max() < 10
    assert np.isfinite(flow.sample(5, random_state=0)).all()


def test_one_feature():
    rng = np.random.default_rng(0)
    x = np.where(rng.random(600) < 0.5, -3, 3) + 0.5 * rng.normal(size=600)
    flow = make_flow(max_epochs=30).fit(x[:, None])
    grid = np.linspace(-10, 10, 2001)
    density = np.exp(flow.score_samples(grid[:, None]))
    assert density.sum() * 0.01 == pytest.approx(1, abs=0.01)
    assert density[abs(grid - 3) < 0.5].mean() > 5 * density[abs(grid) < 0.5].mean()


def test_sample_has_the_mean_and_covariance_of_the_data(moons, of_moons):
    drawn = of_moons.sample(4000, random_state=0)
    assert drawn.shape == (4000, 2)
    assert drawn.dtype == np.float64
    z = (drawn - moons.mean(0)) / moons.std(0)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.15)
    np.testing.assert_allclose(np.cov(z.T), np.corrcoef(moons.T), atol=0.15)
    np.testing.assert_array_equal(
        of_moons.sample(10, random_state=1), of_moons.sample(10, random_state=1)
    )
    assert (of_moons.sample(10, random_state=1) != of_moons.sample(10, random_state=2)).all()
    assert (of_moons.sample(10) != of_moons.sample(10)).all()


def test_sample_follows_the_density(of_moons):
    """The mean of -log p over samples is the entropy, which a grid gives as well."""
    drawn = of_moons.sample(2000, random_state=0)
    scores = of_moons.score_samples(drawn)
    low, high = drawn.min(0), drawn.max(0)
    uniform = low + (high - low) * np.random.default_rng(0).random((8000, 2))
    log_p = of_moons.score_samples(uniform)
    terms = -np.exp(log_p) * log_p * np.prod(high - low)
    error = np.hypot(terms.std() / np.sqrt(8000), scores.std() / np.sqrt(2000))
    assert abs(terms.mean() + scores.mean()) < 5 * error


def test_forms_of_the_same_rows(rows):
    rows = rows.astype(np.float32)
    scores = make_flow(max_epochs=2).fit(rows).score_samples(rows)
    for X in (
        rows.astype(np.float64),
        rows.tolist(),
        np.asfortranarray(rows),
        torch.from_numpy(rows),
        TensorDataset(torch.from_numpy(rows), torch.arange(len(rows))),
    ):
        flow = make_flow(max_epochs=2).fit(X)
        np.testing.assert_array_equal(flow.score_samples(X), scores)
    integers = np.arange(60).reshape(20, 3) % 7
    by_dtype = [
        make_flow(max_epochs=2).fit(integers.astype(dtype)).score(integers)
        for dtype in (np.uint8, np.int64, np.float64)
    ]
    assert by_dtype[0] == by_dtype[1] == by_dtype[2]


@pytest.mark.parametrize("shape", [(9, 4, 4), (9, 3, 4, 4), (9, 4, 4, 1)])
def test_images_are_refused(shape):
    message = "but NeuralSplineFlow models rows; use PixelCNN for images, or reshape X to"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_flow().fit(np.zeros(shape))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((1, 3)), "Found array with 1 sample(s)"),
        (np.full((9, 3), np.nan), "Input X contains NaN"),
        (np.full((9, 3), np.inf), "Input X contains infinity"),
    ],
)
def test_what_fit_refuses(X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_flow().fit(X)


def test_training_moves_every_parameter(rows):
    # A first feature that depends on nothing leaves masked kernels where they are.
    trained = make_flow(max_steps=3, validation_fraction=0).fit(rows).module_
    untrained = make_flow(max_steps=3, validation_fraction=0, learning_rate=1e-12).fit(rows).module_
    parameters = dict(trained.named_parameters())
    assert len(parameters) == 2 * 3 * 2
    for name, before in untrained.named_parameters():
        assert (parameters[name] - before).abs().max() > 1e-3, name


def test_pickle_clone_and_random_state(rows):
    def states():
        _, keys, position, *_ = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (keys.tobytes(), position), torch.get_rng_state().tolist()

    before = states()
    flow = make_flow(max_epochs=2, mutation_rate=0.3).fit(rows)
    scores = flow.score_samples(rows)
    drawn = flow.sample(5, random_state=0)
    assert states() == before
    restored = pickle.loads(pickle.dumps(flow))
    np.testing.assert_array_equal(restored.score_samples(rows), scores)
    np.testing.assert_array_equal(restored.sample(5, random_state=0), drawn)
    torch.manual_seed(99)
    np.testing.assert_array_equal(clone(flow).fit(rows).score_samples(rows), scores)
    other = clone(flow).set_params(random_state=1).fit(rows).score_samples(rows)
    assert (other != scores).any()
