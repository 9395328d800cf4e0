"""LocalIntrinsicDimension on a diffusion model."""

import numpy as np
import pytest
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity

from skood import Diffusion, LocalIntrinsicDimension, NeuralSplineFlow


def circle(n, *, noise, seed):
    """A circle in three dimensions, (n, 3)."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0, 2 * np.pi, size=n)
    points = np.stack((np.cos(angle), np.sin(angle), 0.5 * np.cos(angle)), 1)
    return points + noise * rng.normal(size=(n, 3))


@pytest.fixture(scope="module")
def model():
    settings = {"hidden_features": 64, "max_steps": 900, "batch_size": 64, "ema_decay": 0.99}
    model = Diffusion(**settings, learning_rate=5e-3, n_steps=5, precision="fp32", random_state=0)
    return model.fit(circle(2000, noise=0.01, seed=0))


@pytest.fixture
def detector(model):
    return LocalIntrinsicDimension(
        FrozenEstimator(model), scale=-1.5, n_calibration=60, random_state=0
    )


def test_dimension_of_a_circle(detector, model):
    X = circle(300, noise=0.01, seed=1)
    detector.fit(X)
    assert detector.estimator_ == "flipd"
    dimensions = detector.score_pairs(X)[:, 1]
    # Far below the curvature and far above the noise.
    assert np.median(dimensions) == pytest.approx(1, abs=0.3)
    # The noise fills the space, and from afar the circle is a point.
    sizes = [np.median(detector.set_params(scale=r).fit(X).score_pairs(X)[:, 1]) for r in (-4.5, 3)]
    assert sizes[0] > 2
    assert sizes[1] < 0.3


def test_pairs(detector, model):
    X = circle(50, noise=0.05, seed=1)
    pairs = detector.fit(X).score_pairs(X)
    np.testing.assert_allclose(pairs[:, 0], model.score_samples(X), atol=1e-4)
    np.testing.assert_array_equal(detector.score_pairs(X[::-1])[::-1], pairs)


def test_flipd_is_made_of_scores(detector, model):
    """The trace by finite differences of the score function, which is public."""
    X = circle(20, noise=0.05, seed=1)
    t = 0.1
    b = 0.1 * t + 19.9 * t**2 / 2
    r = np.log(np.expm1(b)) / 2
    found = detector.set_params(scale=r).fit(X).score_pairs(X)[:, 1]
    h, shrunk = 1e-3, np.exp(-b / 2)
    trace = 0.0
    for k in range(3):
        step = np.zeros(3)
        step[k] = h * model.scale_[k]
        up, down = (model.score_function(X + sign * step, t)[:, k] for sign in (1, -1))
        # The score is that at the shrunken item.
        trace = trace + (up - down) / (2 * h * shrunk)
    score = model.score_function(X, t)
    expected = 3 + (1 - np.exp(-b)) * (trace + (score**2).sum(1))
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_scale_of_local_pca(detector):
    X = circle(300, noise=0.01, seed=1)
    detector.set_params(scale="lpca").fit(X)
    assert detector.target_dimension_ == pytest.approx(1, abs=0.3)
    assert detector.train_pairs_[:, 1].mean() == pytest.approx(detector.target_dimension_, abs=0.05)


@pytest.mark.parametrize("rule", ["plateau", "percentile"])
def test_other_scales(detector, rule):
    """The circle is of dimension 1 on the plateau; below the noise it has all three."""
    X = circle(100, noise=0.01, seed=1)
    detector.set_params(scale=rule).fit(X)
    assert detector.target_dimension_ is None
    dimensions = detector.train_pairs_[:, 1]
    if rule == "plateau":
        assert dimensions.mean() == pytest.approx(1, abs=0.3)
    else:
        assert np.percentile(dimensions, 10) == pytest.approx(0.93 * 3, abs=0.05)


def test_curve_over_scales_and_times(detector, model):
    X = circle(30, noise=0.01, seed=1)
    detector.set_params(scale=-1.5, target_dimension=None).fit(X)
    scales, curve = detector.dimension_curve(X, times=[0.05, 0.3])
    b = [0.1 * t + 19.9 * t**2 / 2 for t in (0.05, 0.3)]
    np.testing.assert_allclose(scales, np.log(np.expm1(b)) / 2, rtol=1e-6)
    _, again = detector.dimension_curve(X, scales)
    np.testing.assert_array_equal(curve, again)
    fixed = detector.set_params(scale=float(scales[1])).fit(X)
    np.testing.assert_allclose(fixed.score_pairs(X)[:, 1], curve[:, 1], atol=1e-5)
    scales, curve = detector.dimension_curve(X)
    np.testing.assert_allclose(scales[[0, -1]], model.log_ratios())
    assert curve.shape == (30, 50)
    for error, match in (
        ({"scales": [-9.0]}, "models noise from"),
        ({"times": [2.0]}, "expected a time from t_min"),
        ({"times": [0.1], "scales": [0.0]}, "expected one of them"),
    ):
        with pytest.raises(ValueError, match=match):
            detector.dimension_curve(X, **error)


def test_many_values_need_probes():
    X = np.random.default_rng(0).normal(size=(40, 70))
    model = Diffusion(max_steps=2, n_steps=1, random_state=0).fit(X)
    settings = {"scale": 0.0, "n_calibration": 20, "random_state": 0}
    one, many = (
        LocalIntrinsicDimension(FrozenEstimator(model), n_probes=n, **settings).fit(X)
        for n in (1, 64)
    )
    # The model is a standard normal distribution, whose Jacobian is a multiple of the identity.
    np.testing.assert_allclose(one.score_pairs(X)[:, 1], many.score_pairs(X)[:, 1], atol=0.5)


def test_resumes(detector, tmp_path, monkeypatch):
    X = circle(300, noise=0.01, seed=1)
    expected = detector.fit(X).score_pairs(X)
    detector.set_params(checkpoint_dir=tmp_path).fit(X)
    np.testing.assert_array_equal(detector.score_pairs(X), expected)
    monkeypatch.setattr(Diffusion, "_tensor", None)
    np.testing.assert_array_equal(detector.score_pairs(X), expected)


def test_errors(detector, model):
    X = circle(30, noise=0.01, seed=1)
    with pytest.raises(ValueError, match="estimator='lanczos' does not suit a diffusion model"):
        detector.set_params(estimator="lanczos").fit(X)
    with pytest.raises(ValueError, match="estimator='flipd' does not suit a flow"):
        flow = NeuralSplineFlow(max_epochs=1, hidden_features=(8,))
        LocalIntrinsicDimension(flow, estimator="flipd").fit(X)
    with pytest.raises(ValueError, match="expected an ImageFlow, a NeuralSplineFlow or a Diff"):
        LocalIntrinsicDimension(KernelDensity()).fit(X)
