"""Combined p-values: their formulas, and the guarantee for detectors that agree."""

import numpy as np
import pytest
from scipy.stats import betabinom, chi2, combine_pvalues, hmean
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

import skood
from skood.calibration import ConformalDetector, EnsembleDetector
from skood.calibration._ensemble import _COMBINATIONS

each_combination = pytest.mark.parametrize("combination", _COMBINATIONS)


def columns(column, n, frozen=True):
    models = [column(j) for j in range(n)]
    return [(f"c{j}", FrozenEstimator(m) if frozen else m) for j, m in enumerate(models)]


def correlated(rng, n, correlation=0.9):
    """Scores of three detectors that mostly agree."""
    covariance = np.full((3, 3), correlation) + (1 - correlation) * np.eye(3)
    return rng.multivariate_normal(np.zeros(3), covariance, size=n)


def test_formulas():
    p = np.random.default_rng(0).uniform(0.01, 1, size=(20, 3))
    np.testing.assert_allclose(
        _COMBINATIONS["fisher"](p), [-combine_pvalues(row, "fisher").statistic for row in p]
    )
    np.testing.assert_allclose(_COMBINATIONS["harmonic"](p), hmean(p, axis=1))
    np.testing.assert_allclose(_COMBINATIONS["bonferroni"](p), 3 * p.min(1))
    np.testing.assert_allclose(_COMBINATIONS["mean_rank"](p), p.mean(1))


@each_combination
def test_score_combines_p_values_of_the_first_half(combination, column):
    """Up to interpolation within a rank, which is below 1 / (n + 1)."""
    rng = np.random.default_rng(0)
    X, new = correlated(rng, 400), correlated(rng, 50)
    ensemble = EnsembleDetector(columns(column, 3), combination, random_state=0).fit(X)
    n = len(ensemble.reference_scores_[0])
    assert n == ensemble.n_calibration_ == 200
    low = np.array(
        [(ref[:, None] <= new[:, j]).sum(0) for j, ref in enumerate(ensemble.reference_scores_)]
    ).T
    scores = ensemble.score_samples(new)
    combine = _COMBINATIONS[combination]
    with np.errstate(divide="ignore"):
        bounds = combine(low / (n + 1)), combine((low + 1) / (n + 1))
    assert (bounds[0] <= scores).all()
    assert (scores <= bounds[1]).all()


@each_combination
def test_false_alarms_of_detectors_that_agree(combination, column):
    rng = np.random.default_rng(1)
    alpha, n_rows, n_calibration, n_sets = 0.1, 50, 29, 600
    ensemble = EnsembleDetector(columns(column, 3), combination, alpha)
    rates = []
    for i in range(n_sets):
        ensemble.set_params(random_state=i).fit(correlated(rng, 58))
        rates.append(np.mean(ensemble.predict(correlated(rng, n_rows)) == -1))
    assert ensemble.n_calibration_ == n_calibration
    k = alpha * (n_calibration + 1)
    error = betabinom(n_rows, k, n_calibration + 1 - k).std() / n_rows / np.sqrt(n_sets)
    assert np.mean(rates) == pytest.approx(alpha, abs=4 * error)


def test_chi_squared_promises_too_much(column):
    """Counterexample to the test above: p-values treated as independent."""
    rng = np.random.default_rng(1)
    X, new = correlated(rng, 2000), correlated(rng, 2000)
    p_values = [ConformalDetector(model).fit(X).p_values(new) for _, model in columns(column, 3)]
    statistic = -2 * np.log(p_values).sum(0)
    assert np.mean(chi2.sf(statistic, 6) <= 0.01) > 0.03


def test_false_alarms_of_fitted_densities():
    rng = np.random.default_rng(2)
    detectors = [("narrow", KernelDensity(bandwidth=0.1)), ("wide", KernelDensity(bandwidth=1.0))]
    ensemble = EnsembleDetector(detectors, "harmonic", 0.2, calibration_fraction=0.5)
    rates = []
    for i in range(300):
        ensemble.set_params(random_state=i).fit(rng.normal(size=(38, 2)))
        rates.append(np.mean(ensemble.predict(rng.normal(size=(50, 2))) == -1))
    assert ensemble.n_calibration_ == 10
    error = betabinom(50, 2, 9).std() / 50 / np.sqrt(300)
    assert np.mean(rates) == pytest.approx(2 / 11, abs=4 * error)


@pytest.mark.parametrize("combination", ["fisher", "harmonic", "bonferroni"])
def test_finds_what_either_detector_finds(combination, column):
    rng = np.random.default_rng(3)
    X, new = rng.normal(size=(800, 2)), rng.normal(size=(200, 2))
    new[:10, 0] -= 6
    new[10:20, 1] -= 6
    detector = EnsembleDetector(columns(column, 2), combination, random_state=0).fit(X)
    assert np.mean(detector.predict(new[:10]) == -1) >= 0.9
    assert np.mean(detector.predict(new[10:20]) == -1) >= 0.9
    selected = detector.select(new, fdr=0.2)
    assert selected[:20].mean() >= 0.9
    assert selected[20:].mean() < 0.1


@pytest.mark.parametrize("combination", ["fisher", "mean_rank"])
def test_gathers_weak_evidence(combination, column):
    """Weak evidence from four detectors is stronger than from one of them."""
    rng = np.random.default_rng(3)
    X, new = rng.normal(size=(2000, 4)), rng.normal(-1.5, 1, size=(500, 4))
    models = columns(column, 4)
    one = ConformalDetector(models[0][1]).fit(X)
    together = EnsembleDetector(models, combination, random_state=0).fit(X)
    found = [np.mean(detector.predict(new) == -1) for detector in (one, together)]
    assert found[0] < 0.55
    assert found[1] > 0.8


@each_combination
def test_rejects_exactly_where_p_is_at_most_alpha(combination, column):
    X = np.round(correlated(np.random.default_rng(0), 117), 1)
    new = np.round(correlated(np.random.default_rng(1), 300), 1)
    for alpha in (0.05, 0.1, 1 / 3, 0.5):
        ensemble = EnsembleDetector(columns(column, 3), combination, alpha, random_state=0).fit(X)
        expected = np.where(ensemble.p_values(new) > alpha, 1, -1)
        np.testing.assert_array_equal(ensemble.predict(new), expected)


@each_combination
def test_ranking_of_far_outliers_is_kept(combination, column):
    X = correlated(np.random.default_rng(0), 200)
    ensemble = EnsembleDetector(columns(column, 3), combination, random_state=0).fit(X)
    far = -np.array([5.0, 10, 1e3, 1e6, 1e9])[:, None] * np.ones(3)
    assert (np.diff(ensemble.score_samples(far)) < 0).all()
    lowest = np.full((1, 3), -np.finfo(float).max)
    assert np.isfinite(ensemble.score_samples(lowest)).all()


@each_combination
def test_rounding_errors_of_a_score_change_little(combination, column):
    """Also for a row among the calibration rows."""
    X = correlated(np.random.default_rng(0), 200)
    ensemble = EnsembleDetector(columns(column, 3), combination, random_state=0).fit(X)
    for error in (1 - 1e-13, 1 + 1e-13):
        np.testing.assert_allclose(
            ensemble.score_samples(X * error), ensemble.score_samples(X), rtol=1e-6
        )


@pytest.mark.filterwarnings("ignore:.*was trained before")
def test_rows_held_out(column):
    X = np.arange(100.0)[:, None]
    detectors = [*columns(column, 1), ("trained", column())]
    ensemble = EnsembleDetector(detectors, alpha=0.2, random_state=0).fit(X)
    trained = ensemble.named_detectors_.trained
    assert ensemble.detectors_[1] is trained
    held_out = set(np.arange(100.0)) - set(trained.rows_[:, 0])
    assert len(held_out) == 30
    assert set(ensemble.reference_scores_[1]) < held_out
    assert len(ensemble.reference_scores_[1]) == ensemble.n_calibration_ == 15


def test_parameters_of_the_detectors(column):
    detectors = [("near", skood.KNN(n_neighbors=2)), ("mixture", GaussianMixture())]
    ensemble = EnsembleDetector(detectors, random_state=0)
    assert ensemble.get_params()["near__n_neighbors"] == 2
    changed = clone(ensemble).set_params(near__n_neighbors=4, mixture=KernelDensity(), alpha=0.1)
    assert changed.detectors[0][1].n_neighbors == 4
    assert isinstance(changed.detectors[1][1], KernelDensity)
    assert ensemble.detectors[0][1].n_neighbors == 2
    assert "near__n_neighbors" not in ensemble.get_params(deep=False)


@pytest.mark.filterwarnings("ignore:.*was trained before")
def test_labels_are_needed_where_a_detector_needs_them(column):
    X = np.random.default_rng(0).normal(size=(80, 2))
    ensemble = EnsembleDetector(
        [*columns(column, 1), ("msp", skood.MSP(skood.MLP((4,), max_epochs=1)))], alpha=0.2
    )
    assert ensemble.__sklearn_tags__().target_tags.required
    y = np.where(X[:, 0] > 0, "a", "b")
    assert ensemble.fit(X, y).predict(X).shape == (80,)
    with pytest.raises(ValueError, match="MSP requires y to be passed"):
        ensemble.fit(X)


@pytest.mark.parametrize(
    ("detectors", "message"),
    [
        ([], "expected a list of .name, detector. tuples"),
        ([KernelDensity()], "expected a list of .name, detector. tuples"),
        ([("a", "b")], "with detectors that have fit and score_samples"),
        ([("a", KernelDensity()), ("a", KernelDensity())], "not unique"),
        ([("alpha", KernelDensity())], "conflict with constructor arguments"),
        ([("a__b", KernelDensity())], "must not contain __"),
    ],
)
def test_errors_of_detectors(detectors, message):
    with pytest.raises(ValueError, match=message):
        EnsembleDetector(detectors).fit(np.zeros((20, 2)))


def test_errors(column):
    with pytest.raises(ValueError, match=r"'combination' parameter .* a str among"):
        EnsembleDetector(columns(column, 1), "stouffer").fit(np.zeros((20, 2)))
    with pytest.raises(ValueError, match="of 5 in-distribution items holds out 1, at least 2"):
        EnsembleDetector(columns(column, 1, frozen=False), calibration_fraction=0.2).fit(
            np.zeros((5, 1))
        )
    # All 14 rows are held out from a fitted detector, and half of them calibrate.
    message = "7 calibration rows are too few for alpha=0.05.* 19 are .*38 in-distribution rows"
    with pytest.warns(UserWarning, match=message):
        ensemble = EnsembleDetector(columns(column, 1)).fit(np.arange(14.0)[:, None])
    assert ensemble.offset_ == -np.inf
    assert np.isfinite(EnsembleDetector(columns(column, 1)).fit(np.zeros((38, 1))).offset_)
    assert (ensemble.predict([[-100.0], [3.0]]) == 1).all()
