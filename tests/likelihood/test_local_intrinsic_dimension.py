"""LocalIntrinsicDimension: the dual score, its calibration, and dimensions that are known."""

import pickle

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score

from skood import ImageFlow, LocalIntrinsicDimension, LogLikelihood, NeuralSplineFlow
from skood._torch import partial_results
from skood.likelihood._dimension import Dimension, ThresholdDimension
from skood.likelihood._pair_scores import fit_mixture, joint_density

ESTIMATORS = ["threshold", "convolution", "lanczos"]
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


@pytest.fixture(scope="module")
def rows():
    """Rows near a plane in four dimensions, shape (270, 4)."""
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(270, 2)) @ rng.normal(size=(2, 4))
    return plane + 0.05 * rng.normal(size=(270, 4))


@pytest.fixture(scope="module")
def flow(rows):
    settings = {"n_transforms": 1, "n_bins": 6, "hidden_features": (16,), "max_epochs": 10}
    return NeuralSplineFlow(**settings, learning_rate=1e-2, random_state=0).fit(rows)


@pytest.fixture
def detector(flow):
    settings = {"scale": -1.0, "n_calibration": 60, "random_state": 0}
    return LocalIntrinsicDimension(FrozenEstimator(flow), **settings)


def distribution_function(known, values):
    return np.array([np.mean(known <= value) for value in values])


class Stop:
    """Counts batches of a dimension, and interrupts one."""

    def __init__(self, monkeypatch, cls, at=None):
        self.n, self.at = 0, at
        original = cls.at

        def counting(estimator, *args):
            if self.n == self.at:
                raise KeyboardInterrupt
            self.n += 1
            return original(estimator, *args)

        monkeypatch.setattr(cls, "at", counting)


@each_estimator
def test_score_is_the_smaller_distribution_function(detector, rows, estimator):
    detector.set_params(estimator=estimator, combine="min").fit(rows)
    assert not hasattr(detector, "mixture_")
    X = rows[:50] + 0.3 * np.random.default_rng(1).normal(size=(50, 4))
    pairs = detector.score_pairs(X)
    expected = np.minimum(
        *(distribution_function(detector.train_pairs_[:, k], pairs[:, k]) for k in range(2))
    )
    np.testing.assert_array_equal(detector.score_samples(X), expected)
    assert len(np.unique(expected)) > 3


@pytest.mark.parametrize("estimator", ["convolution", "lanczos"])
def test_joint_score_is_made_of_the_mixture(detector, rows, estimator):
    """Each component at the best pair below the item, by a search over t."""
    detector.set_params(estimator=estimator, combine="joint", n_calibration=100).fit(rows)
    X = rows[:50] + 0.3 * np.random.default_rng(1).normal(size=(50, 4))
    train, mixture = detector.train_pairs_, detector.mixture_
    z = (detector.score_pairs(X) - train.mean(0)) / train.std(0)
    assert mixture.n_components == 3
    t = np.append(0, np.geomspace(1e-4, 1e4, 4000))[:, None]
    expected = 0.0
    for weight, mean, covariance in zip(
        mixture.weights_, mixture.means_, mixture.covariances_, strict=True
    ):
        component = multivariate_normal(mean, covariance)
        expected = expected + weight * np.array([component.pdf(pair - t).max() for pair in z])
    scores = detector.score_samples(X)
    np.testing.assert_allclose(scores, np.log(np.maximum(expected, 1e-290)), atol=0.02, rtol=1e-3)
    # The mixture is of the training pairs, whose density it has where none is beyond it.
    inside = mixture.score_samples(z)
    assert (scores >= inside - 1e-9).all()
    assert np.isclose(scores, inside).any()


def test_more_of_both_is_no_evidence(detector, rows):
    """But more of one than the other allows is, as in a flow of images."""
    detector.set_params(estimator="convolution", combine="joint", n_calibration=200).fit(rows)
    rng = np.random.default_rng(0)
    first = rng.normal(size=300)
    second = -0.9 * first + 0.3 * rng.normal(size=300)
    detector.train_pairs_ = np.stack((-500 + 100 * first, 80 + 20 * second), 1)
    detector.mixture_ = fit_mixture(detector.train_pairs_, 0)

    def score(*z):
        mean, std = detector.train_pairs_.mean(0), detector.train_pairs_.std(0)
        return detector.combine_pairs(mean + np.array([z]) * std)[0]

    typical = [score(1.0, -1.0), score(0, 0), score(-1.0, 1.0)]
    # Both higher: never less in-distribution, however far.
    for start in ((0, 0), (2.0, -1.0), (-3.0, 0.5), (-1.0, -1.0)):
        along = [score(start[0] + t, start[1] + t) for t in (0, 0.5, 1, 3, 10, 1e3)]
        assert (np.diff(along) >= -1e-9).all()
    assert score(9.0, 9.0) >= max(typical) - 1e-9
    # The other three corners, and a pair inside both ranges that is below the line.
    for corner in ((9.0, -9.0), (-9.0, 9.0), (-9.0, -9.0), (-1.5, -1.5), (6.0, 0.0 - 6.0)):
        assert score(*corner) < min(typical) - 1
    assert score(-50.0, -50.0) < score(-9.0, -9.0)
    # Two thresholds would accept this one: each value is above a tenth of the training values.
    minimum = clone(detector).set_params(combine="min").fit(rows)
    minimum.train_pairs_ = detector.train_pairs_
    pair = detector.train_pairs_.mean(0) - 1.2 * detector.train_pairs_.std(0)
    assert minimum.combine_pairs(pair[None])[0] > 0.08
    scores = detector.combine_pairs(detector.train_pairs_)
    assert detector.combine_pairs(pair[None])[0] < np.percentile(scores, 1)


def test_smallest_of_three_distribution_functions(detector, rows):
    """The default: of the log-density, of the dimension, and of their joint density."""
    detector.set_params(estimator="convolution", n_calibration=100).fit(rows)
    X = rows[:50] + 0.3 * np.random.default_rng(1).normal(size=(50, 4))
    pairs, train = detector.score_pairs(X), detector.train_pairs_
    joint = clone(detector).set_params(combine="joint").fit(rows)
    columns = [(train[:, k], pairs[:, k]) for k in range(2)]
    columns.append((joint.combine_pairs(train), joint.combine_pairs(pairs)))
    each = [distribution_function(known, values) for known, values in columns]
    expected = np.min(each, 0) + np.mean(each, 0) / 100
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-12)
    # The mean breaks ties, and changes no order of the smallest ranks.
    order = np.argsort(expected)
    assert (np.diff(np.min(each, 0)[order]) >= 0).all()
    assert {int(k) for k in np.argmin(each, 0)} == {0, 1, 2}


@pytest.mark.parametrize("n", [2, 3, 25, 60])
@pytest.mark.parametrize("kind", ["normal", "one count", "all equal", "on a line"])
def test_joint_score_of_few_or_special_pairs_is_finite(n, kind):
    rng = np.random.default_rng(0)
    train = rng.normal([-500.0, 80.0], [100.0, 20.0], size=(n, 2))
    if kind == "one count":
        train[:, 1] = 3.0
    elif kind == "all equal":
        train[:] = -1234.56, 0.1
    elif kind == "on a line":
        train[:, 1] = 80 - 0.2 * train[:, 0]
    mixture = fit_mixture(train, 0)
    far = np.array([[-1e300, 0.0], [1e300, -5.0], [-np.inf, 80.0], [-9e4, 0.0]])
    scores = joint_density(mixture, train, np.concatenate([train, far]))
    assert np.isfinite(scores).all()
    assert scores[n:].max() < scores[:n].min()
    order = rng.permutation(len(train))
    np.testing.assert_array_equal(joint_density(mixture, train, train[order]), scores[:n][order])


def test_infinite_training_densities():
    """They are left out of the mixture, and have the lowest scores."""
    train = np.random.default_rng(0).normal(size=(50, 2))
    with_infinite = np.concatenate([train, [[-np.inf, 0.0]]])
    scores = joint_density(fit_mixture(with_infinite, 0), with_infinite, with_infinite)
    expected = joint_density(fit_mixture(train, 0), train, train)
    np.testing.assert_allclose(scores[:50], expected)
    assert np.isfinite(scores[50])
    assert scores[50] < expected.min()
    with pytest.raises(ValueError, match="all 2 calibration rows is infinite"):
        fit_mixture(np.full((2, 2), -np.inf), 0)


@each_estimator
def test_pairs(detector, flow, rows, estimator):
    detector.set_params(estimator=estimator).fit(rows)
    pairs = detector.score_pairs(rows[:60])
    assert (pairs.shape, pairs.dtype) == ((60, 2), np.float64)
    np.testing.assert_allclose(pairs[:, 0], flow.score_samples(rows[:60]), atol=1e-4)
    eigenvalues = np.linalg.svd(flow.jacobian(rows[:60]), compute_uv=False) ** 2
    v = np.exp(-2.0)
    if estimator == "threshold":
        np.testing.assert_array_equal(pairs[:, 1], (eigenvalues > v).sum(1))
    elif estimator == "convolution":
        J, z = flow.jacobian(rows[:60]), flow.encode(rows[:60])
        rotated = (np.linalg.svd(J)[2] @ z[:, :, None])[:, :, 0] ** 2
        share = eigenvalues / (eigenvalues + v)
        expected = 4 + v * (eigenvalues * rotated / (eigenvalues + v) ** 2).sum(1)
        expected -= (1 - share).sum(1)
        np.testing.assert_allclose(pairs[:, 1], expected, atol=1e-3)
    else:
        # The four steps are all there are, and one probe is a random trace.
        count = (eigenvalues / (eigenvalues + v)).sum(1)
        many = detector.set_params(n_probes=64).fit(rows).score_pairs(rows[:60])[:, 1]
        np.testing.assert_allclose(many, count, atol=0.5)


def test_threshold_and_decisions(detector, rows):
    detector.set_params(contamination=0.1, n_calibration=None).fit(rows)
    scores = detector.score_samples(rows)
    assert detector.offset_ == pytest.approx(np.percentile(scores, 10))
    is_in = scores >= detector.offset_
    np.testing.assert_array_equal(detector.predict(rows), np.where(is_in, 1, -1))
    # Far from the plane the density is low, whatever the dimension.
    far = rows[:20] + 2 * np.random.default_rng(0).normal(size=(20, 4))
    assert (detector.predict(far) == -1).mean() > 0.8


def test_threshold_is_read_from_the_calibration_rows(detector, rows, monkeypatch):
    """Which are scored once: two batches of 32."""
    calls = Stop(monkeypatch, ThresholdDimension)
    detector.fit(rows)
    assert calls.n == 2
    scores = detector.combine_pairs(detector.train_pairs_)
    assert detector.offset_ == pytest.approx(np.percentile(scores, 5))


@each_estimator
def test_calibration_rows_get_the_numbers_of_scoring(detector, rows, estimator):
    detector.set_params(estimator=estimator, n_calibration=90).fit(rows)
    assert detector.train_pairs_.shape == (90, 2)
    pairs = detector.score_pairs(rows)
    known = {tuple(pair) for pair in pairs}
    assert {tuple(pair) for pair in detector.train_pairs_} <= known
    # All of different rows.
    assert len(np.unique(detector.train_pairs_[:, 0])) == 90


@each_estimator
def test_scale_of_local_pca(detector, rows, estimator):
    """At the scale that is found, the mean dimension equals the dimension of the analysis."""
    detector.set_params(estimator=estimator, scale="lpca", n_calibration=None).fit(rows)
    assert 1 <= detector.target_dimension_ <= 4
    mean = detector.train_pairs_[:256, 1].mean()
    assert mean == pytest.approx(detector.target_dimension_, abs=0.02)
    # The other rows are scored as these are, at the scale found.
    assert len(detector.train_pairs_) == 270
    pairs = detector.score_pairs(rows)
    np.testing.assert_allclose(
        np.sort(detector.train_pairs_[:, 1]), np.sort(pairs[:, 1]), atol=1e-3
    )
    fixed = clone(detector).set_params(scale=detector.scale_).fit(rows)
    assert fixed.target_dimension_ is None
    np.testing.assert_allclose(fixed.score_pairs(rows), pairs)


@each_estimator
def test_target_dimension(detector, rows, estimator):
    detector.set_params(estimator=estimator, scale="lpca", target_dimension=1.5, n_calibration=None)
    detector.fit(rows)
    assert detector.target_dimension_ == 1.5
    assert detector.train_pairs_[:256, 1].mean() == pytest.approx(1.5, abs=0.02)


def test_target_dimension_errors(detector, rows, monkeypatch):
    """Before a density is trained."""
    monkeypatch.setattr(NeuralSplineFlow, "fit", lambda *_: pytest.fail("trained"))
    detector.set_params(density=NeuralSplineFlow(), target_dimension=1.5)
    with pytest.raises(ValueError, match="both choose the scale"):
        detector.fit(rows)
    with pytest.raises(ValueError, match="has 4 values; expected a dimension between 0 and 4"):
        detector.set_params(scale="lpca", target_dimension=4.0).fit(rows)


@each_estimator
def test_curve_has_the_dimensions_of_each_scale(detector, rows, estimator):
    detector.set_params(estimator=estimator, scale=-1.0).fit(rows)
    scales, curve = detector.dimension_curve(rows[:20], [-2.0, -1.0, 0.5])
    np.testing.assert_array_equal(scales, [-2.0, -1.0, 0.5])
    assert (curve.shape, curve.dtype) == ((20, 3), np.float64)
    np.testing.assert_allclose(curve[:, 1], detector.score_pairs(rows[:20])[:, 1], atol=1e-4)
    other = detector.set_params(scale=0.5).fit(rows).score_pairs(rows[:20])
    np.testing.assert_allclose(curve[:, 2], other[:, 1], atol=1e-4)
    scales, curve = detector.dimension_curve(rows[:20])
    np.testing.assert_allclose(scales, np.linspace(-4.5, 5.5, 50))
    if estimator == "threshold":
        # All dimensions at the least scale, and none at the largest.
        assert (np.diff(curve, axis=1) <= 0).all()
        assert curve[:, 0].mean() > 3.5
        assert curve[:, -1].max() == 0


def test_curve_errors(detector, rows):
    with pytest.raises(NotFittedError):
        detector.dimension_curve(rows)
    detector.fit(rows)
    for scales in ([], [np.nan], [[0.0]], 0.0):
        with pytest.raises(ValueError, match="expected finite numbers in one dimension"):
            detector.dimension_curve(rows, scales)
    with pytest.raises(ValueError, match="times only of a diffusion model"):
        detector.dimension_curve(rows, times=[0.1])


@pytest.mark.parametrize("rule", ["plateau", "percentile"])
def test_scale_by_plateau_or_percentile(rows, rule):
    """A plane with little noise: its dimension is 2 between the scales of noise and plane."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2)) @ rng.normal(size=(2, 4)) + 0.003 * rng.normal(size=(600, 4))
    settings = {"n_transforms": 2, "hidden_features": (32,), "max_epochs": 30}
    flow = NeuralSplineFlow(**settings, learning_rate=1e-2, random_state=0).fit(X)
    detector = LocalIntrinsicDimension(FrozenEstimator(flow), scale=rule, random_state=0).fit(X)
    assert detector.target_dimension_ is None
    dimensions = detector.train_pairs_[:256, 1]
    if rule == "plateau":
        assert dimensions.mean() == pytest.approx(2, abs=0.2)
    else:
        assert np.percentile(dimensions, 10) <= 0.93 * 4
        _, lower = detector.dimension_curve(X, [detector.scale_ - 0.5])
        assert np.percentile(lower, 10) == 4


def test_probes_and_rows_are_drawn_by_random_state(flow, rows):
    def fitted(seed):
        settings = {"estimator": "lanczos", "scale": -1.0, "n_calibration": 50}
        detector = LocalIntrinsicDimension(FrozenEstimator(flow), **settings, random_state=seed)
        return detector.fit(rows)

    first, again, other = fitted(0), fitted(0), fitted(1)
    np.testing.assert_array_equal(first.train_pairs_, again.train_pairs_)
    np.testing.assert_array_equal(first.score_pairs(rows), again.score_pairs(rows))
    assert (first.train_pairs_ != other.train_pairs_).any()
    assert (first.score_pairs(rows)[:, 1] != other.score_pairs(rows)[:, 1]).any()


@each_estimator
def test_scores_are_deterministic_and_of_the_row(detector, rows, estimator):
    detector.set_params(estimator=estimator).fit(rows)
    X = rows[:70]
    pairs = detector.score_pairs(X)
    np.testing.assert_array_equal(detector.score_pairs(X), pairs)
    np.testing.assert_array_equal(detector.score_pairs(X[::-1])[::-1], pairs)
    parts = [detector.score_pairs(X[i : i + 9]) for i in range(0, 70, 9)]
    np.testing.assert_array_equal(np.concatenate(parts), pairs)


@each_estimator
def test_pickle_and_clone(detector, rows, estimator):
    detector.set_params(estimator=estimator).fit(rows)
    scores = detector.score_samples(rows)
    restored = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(restored.score_samples(rows), scores)
    np.testing.assert_array_equal(clone(detector).fit(rows).score_samples(rows), scores)


def test_frozen_density_is_not_trained_again(detector, flow, rows):
    weights = {name: w.clone() for name, w in flow.module_.state_dict().items()}
    detector.fit(rows[:100])
    assert detector.density_.estimator is flow
    assert all((w == flow.module_.state_dict()[name]).all() for name, w in weights.items())
    trained = LocalIntrinsicDimension(clone(flow), scale=-1.0, random_state=0).fit(rows)
    np.testing.assert_array_equal(trained.density_.score_samples(rows), flow.score_samples(rows))


def test_memory_and_the_seed_of_the_density(flow, rows, tmp_path, monkeypatch):
    model = clone(flow).set_params(random_state=None)
    detector = LocalIntrinsicDimension(model, scale=-1.0, memory=str(tmp_path), random_state=0)
    first = detector.fit(rows).score_samples(rows)

    def fail(*_):
        pytest.fail("trained again")

    monkeypatch.setattr(NeuralSplineFlow, "fit", fail)
    again = clone(detector).set_params(scale=0.0).fit(rows)
    np.testing.assert_array_equal(
        clone(again).set_params(scale=-1.0).fit(rows).score_samples(rows), first
    )


def test_default_density_goes_by_the_shape_of_the_data(rows, monkeypatch):
    short = {"max_epochs": 1, "max_steps": 2}
    for cls in (ImageFlow, NeuralSplineFlow):
        fit = cls.fit
        monkeypatch.setattr(
            cls, "fit", lambda self, X, y=None, fit=fit: fit(self.set_params(**short), X, y)
        )
    assert type(LocalIntrinsicDimension(scale=0.0).fit(rows).density_) is NeuralSplineFlow
    images = np.random.default_rng(0).integers(256, size=(4, 4, 4), dtype=np.uint8)
    detector = LocalIntrinsicDimension(scale=0.0).fit(images)
    assert type(detector.density_) is ImageFlow
    assert detector.score_pairs(images).shape == (4, 2)


@pytest.mark.parametrize(
    ("estimator", "cls", "size"),
    [("threshold", ThresholdDimension, 32), ("lanczos", Dimension, 128)],
)
def test_scoring_resumes(detector, rows, tmp_path, monkeypatch, estimator, cls, size):
    monkeypatch.setattr(partial_results, "_SECONDS_BETWEEN_SAVES", 0.0)
    n_batches = -(-len(rows) // size)
    detector.set_params(estimator=estimator).fit(rows[:100])
    expected = detector.score_pairs(rows)
    detector.set_params(checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:
        Stop(patch, cls, at=2)
        with pytest.raises(KeyboardInterrupt):
            detector.score_pairs(rows)
    for n_left in (n_batches - 2, 0):
        with monkeypatch.context() as patch:
            calls = Stop(patch, cls)
            np.testing.assert_array_equal(detector.score_pairs(rows), expected)
            assert calls.n == n_left
    assert len(list(tmp_path.iterdir())) == 1


def test_saved_scores_belong_to_the_settings_and_the_data(detector, flow, rows, tmp_path):
    detector.set_params(checkpoint_dir=str(tmp_path))

    def n_files(X=rows, **settings):
        clone(detector).set_params(**settings).fit(rows[:50]).score_pairs(X)
        return len(list(tmp_path.iterdir()))

    # The calibration rows, and what is scored.
    assert n_files() == 2
    assert n_files() == 2
    assert n_files(contamination=0.1) == 2
    changed = rows.copy()
    changed[7, 2] += 1e-3
    assert n_files(X=changed) == 3
    assert n_files(X=rows[:-1]) == 4
    assert n_files(scale=-1.1) == 6
    assert n_files(estimator="convolution") == 8
    assert n_files(estimator="lanczos") == 10
    assert n_files(estimator="lanczos", n_steps=2) == 12
    assert n_files(estimator="lanczos", n_probes=2) == 14
    other = clone(flow).set_params(max_epochs=2).fit(rows)
    assert n_files(density=FrozenEstimator(other)) == 16


def test_saved_spectra_are_reused(detector, rows, tmp_path, monkeypatch):
    detector.set_params(scale="lpca", checkpoint_dir=tmp_path).fit(rows)
    monkeypatch.setattr(ThresholdDimension, "spectrum", lambda *_: pytest.fail("computed again"))
    again = clone(detector).fit(rows)
    np.testing.assert_array_equal(again.train_pairs_, detector.train_pairs_)
    assert again.scale_ == detector.scale_


@each_estimator
def test_what_is_beyond_the_flow(detector, rows, estimator):
    """A value of 1e300 overflows: an error with advice, or the lowest score."""
    detector.set_params(estimator=estimator, combine="joint").fit(rows)
    far = np.concatenate([rows[:3], np.full((1, 4), 1e30)])
    scores = detector.score_samples(far)
    assert np.isfinite(scores).all()
    assert scores[3] < detector.score_samples(rows).min()
    assert clone(detector).set_params(combine="min").fit(rows).score_samples(far)[3] == 0
    # Below the lowest rank of the 60 training pairs.
    assert clone(detector).set_params(combine="all").fit(rows).score_samples(far)[3] < 1 / 60
    np.testing.assert_array_equal(detector.score_samples(far)[:3], detector.score_samples(rows[:3]))
    for method in (detector.score_samples, detector.score_pairs):
        with pytest.raises(ValueError, match="contains NaN"):
            method(np.full((2, 4), np.nan))


def test_errors(detector, rows):
    with pytest.raises(NotFittedError):
        detector.score_pairs(rows)
    with pytest.raises(ValueError, match="'estimator' parameter of LocalIntrinsicDimension"):
        detector.set_params(estimator="exact").fit(rows)
    with pytest.raises(ValueError, match="expected an ImageFlow, a NeuralSplineFlow or"):
        LocalIntrinsicDimension(LogLikelihood()).fit(rows)


def noisy_manifold(dimension, n_values, n, *, noise, seed):
    """A sphere of that dimension, in a random subspace, with noise; shape (n, n_values)."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(5).normal(size=(n_values, dimension + 1)))[0]
    points = rng.normal(size=(n, dimension + 1))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points @ basis.T + noise * rng.normal(size=(n, n_values))


@pytest.mark.parametrize(("dimension", "n_values"), [(1, 3), (2, 5)])
def test_dimension_of_a_manifold(dimension, n_values):
    """At a scale between the scales of the noise and of the curvature."""
    X, new = (
        noisy_manifold(dimension, n_values, n, noise=0.02, seed=seed)
        for seed, n in enumerate((1500, 200))
    )
    settings = {"n_transforms": 2, "hidden_features": (32, 32), "max_epochs": 30}
    flow = NeuralSplineFlow(**settings, learning_rate=1e-2, random_state=0).fit(X)

    def mean_dimension(estimator, scale, **settings):
        detector = LocalIntrinsicDimension(
            FrozenEstimator(flow), estimator=estimator, scale=scale, random_state=0, **settings
        )
        return detector.set_params(n_calibration=50).fit(X).score_pairs(new)[:, 1].mean()

    assert mean_dimension("threshold", -1.1) == pytest.approx(dimension, rel=0.1)
    # Smooth counts change more slowly with the scale.
    assert mean_dimension("convolution", -0.6) == pytest.approx(dimension, rel=0.1)
    # The probes' own error is large in so few dimensions.
    assert mean_dimension("lanczos", -1.2, n_probes=32) == pytest.approx(dimension, rel=0.25)
    # Below the noise there are all dimensions.
    assert mean_dimension("threshold", -6.0) == pytest.approx(n_values, rel=0.02)


@each_estimator
def test_black_images_are_likely_and_of_a_low_dimension(of_digits, digits, estimator):
    """The paradox of likelihoods: the density is highest where it has no volume."""
    detector = LocalIntrinsicDimension(
        FrozenEstimator(of_digits), estimator=estimator, scale=-2.0, random_state=0
    ).fit(digits[:150])
    ood = np.zeros((20, 8, 8))
    X = np.concatenate([digits[600:700], ood])
    is_in = np.arange(120) < 100
    log_prob, dimension = detector.score_pairs(X).T
    assert roc_auc_score(is_in, log_prob) < 0.1
    assert roc_auc_score(is_in, dimension) > 0.95
    assert roc_auc_score(is_in, detector.score_samples(X)) > 0.95
    # Noise has many dimensions, but a low density.
    noise = np.random.default_rng(0).integers(17, size=(20, 8, 8))
    pairs = detector.score_pairs(noise)
    assert pairs[:, 1].min() > np.median(dimension[:100])
    assert (detector.predict(noise) == -1).all()


def test_lanczos_on_images_has_the_order_of_the_exact_count(of_digits, digits):
    pairs = {
        estimator: LocalIntrinsicDimension(
            FrozenEstimator(of_digits), estimator=estimator, scale=-2.0, n_probes=4, random_state=0
        )
        .fit(digits[:20])
        .score_pairs(digits[600:664])
        for estimator in ESTIMATORS
    }
    for estimator in ESTIMATORS[1:]:
        np.testing.assert_allclose(pairs[estimator][:, 0], pairs["threshold"][:, 0], atol=1e-3)
        correlation = np.corrcoef(pairs[estimator][:, 1], pairs["threshold"][:, 1])[0, 1]
        assert correlation > 0.5, estimator
