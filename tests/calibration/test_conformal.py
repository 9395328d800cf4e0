"""Conformal p-values: exact values on small sets, and simulations of the guarantee."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import betabinom
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skood
from skood.calibration import ConformalDetector
from skood.calibration._base import warn_of_trained
from skood.embeddings import from_torchvision

# Deviations of a mean that fixed seeds stay within, unless the rate is wrong.
Z = 4


def rejected(detector, X):
    return np.mean(detector.predict(X) == -1)


def assert_rate(rates, n_calibration, alpha, n_rows):
    """Rates of false alarms on `n_rows` rows each are beta-binomial, with a mean up to alpha."""
    k = np.floor(alpha * (n_calibration + 1) + 1e-9)
    rate = betabinom(n_rows, k, n_calibration + 1 - k)
    assert rate.mean() / n_rows <= alpha + 1e-12
    tolerance = Z * rate.std() / n_rows / np.sqrt(len(rates))
    assert np.mean(rates) == pytest.approx(k / (n_calibration + 1), abs=tolerance)


def test_p_values_by_hand(column):
    X = np.array([[2.0], [1.0], [5.0], [2.0]])
    detector = ConformalDetector(FrozenEstimator(column().fit(X)), alpha=0.4).fit(X)
    new = np.array([[0.9], [1], [1.5], [2], [4], [5], [6]])
    expected = np.array([1, 2, 2, 4, 4, 5, 5]) / 5
    np.testing.assert_array_equal(detector.p_values(new), expected)
    # Two of five ranks are rejected: what lies below the second smallest score.
    assert detector.offset_ == 2
    np.testing.assert_array_equal(detector.predict(new), [-1, -1, -1, 1, 1, 1, 1])
    np.testing.assert_array_equal(detector.score_samples(new), new[:, 0])


def test_cross_conformal_p_values_by_hand(column):
    """Every fold counts its own rows; Column does not learn, so this equals one large split."""
    X = np.arange(1.0, 10.0)[:, None]
    detector = ConformalDetector(column(), alpha=0.2, method="cross", n_splits=4, random_state=0)
    detector.fit(X)
    assert sorted(np.concatenate(detector.calibration_scores_)) == list(range(1, 10))
    for model, scores in zip(detector.detectors_, detector.calibration_scores_, strict=True):
        assert not set(model.rows_[:, 0]) & set(scores)
        assert len(model.rows_) + len(scores) == 9
    new = np.array([[0.5], [1], [1.5], [2], [8.5], [20]])
    np.testing.assert_array_equal(detector.p_values(new), np.array([1, 2, 2, 3, 9, 10]) / 10)
    np.testing.assert_array_equal(detector.predict(new), [-1, -1, -1, 1, 1, 1])


def settings():
    frozen = FrozenEstimator(LogisticRegression().fit([[-1.0, 0], [1.0, 0]], [0, 1]))
    return {
        "split": {},
        "cross": {"method": "cross", "n_splits": 3},
        "class-conditional": {"class_conditional": True, "classifier": frozen},
    }


each_setting = pytest.mark.parametrize("setting", settings().values(), ids=settings())


@each_setting
@pytest.mark.parametrize("alpha", [0.05, 0.07, 0.1, 0.29, 1 / 3, 0.5, 0.9])
def test_rejects_exactly_where_p_is_at_most_alpha(setting, alpha, column):
    """With ties, and with n for which alpha (n + 1) is a whole number."""
    rng = np.random.default_rng(0)
    for n in (21, 29, 57, 99, 100):
        # Few different values: many calibration rows on the threshold.
        X, new = (np.round(rng.normal(size=(size, 2)), 1) for size in (n, 200))
        detector = ConformalDetector(column(1), alpha, random_state=0, **setting)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            detector.fit(X)
        p_values = detector.p_values(new)
        np.testing.assert_array_equal(detector.predict(new), np.where(p_values > alpha, 1, -1))
        np.testing.assert_array_equal(
            detector.decision_function(new), detector.score_samples(new) - detector.offset_
        )


@each_setting
def test_infinite_scores(setting, column):
    X = np.random.default_rng(0).normal(size=(200, 2))
    model = column(1)
    model.score_samples = lambda X: np.where(X[:, 1] < -1, -np.inf, X[:, 1])
    detector = ConformalDetector(FrozenEstimator(model), 0.3, random_state=0, **setting).fit(X)
    new = np.column_stack([np.linspace(-2, 2, 50), np.linspace(-2, 2, 50)])
    p_values = detector.p_values(new)
    np.testing.assert_array_equal(detector.predict(new), np.where(p_values > 0.3, 1, -1))
    assert np.isfinite(detector.decision_function(new)).all()


def test_false_alarms_of_a_split():
    """A density that overfits, and 29 calibration rows: exactly a tenth on average."""
    rng = np.random.default_rng(1)
    detector = ConformalDetector(KernelDensity(bandwidth=0.1), 0.1, calibration_fraction=0.5)
    rates = [
        rejected(detector.set_params(random_state=i).fit(rng.normal(size=(58, 2))), new)
        for i in range(1000)
        for new in [rng.normal(size=(50, 2))]
    ]
    assert detector.n_calibration_ == 29
    assert_rate(rates, 29, 0.1, 50)


def test_percentile_of_training_scores_promises_too_much():
    """Counterexample to the test above: the threshold of a density that overfits."""
    rng = np.random.default_rng(1)
    detector = skood.LogLikelihood(KernelDensity(bandwidth=0.1), contamination=0.1)
    rates = [
        rejected(detector.fit(rng.normal(size=(58, 2))), rng.normal(size=(50, 2)))
        for _ in range(20)
    ]
    assert np.mean(rates) > 0.5


def test_false_alarms_of_cross_conformal():
    rng = np.random.default_rng(2)
    alpha, n, n_splits = 0.1, 29, 4
    detector = ConformalDetector(
        KernelDensity(bandwidth=0.3), alpha, method="cross", n_splits=n_splits
    )
    rates = [
        rejected(detector.set_params(random_state=i).fit(rng.normal(size=(n, 2))), new)
        for i in range(400)
        for new in [rng.normal(size=(50, 2))]
    ]
    standard_error = np.std(rates) / np.sqrt(len(rates))
    bound = 2 * alpha + 2 * (1 - alpha) * (n_splits - 1) / (n + n_splits)
    assert np.mean(rates) <= bound
    assert np.mean(rates) == pytest.approx(alpha, abs=0.02 + Z * standard_error)


def two_classes(rng, n):
    """Rows of class 1 lie further from their centre."""
    y = (rng.random(n) < 0.4).astype(int)
    return np.column_stack([6.0 * y, np.zeros(n)]) + rng.normal(size=(n, 2)) * (1 + y)[:, None], y


def test_false_alarms_within_predicted_classes():
    rng = np.random.default_rng(3)
    X, y = two_classes(rng, 500)
    classifier = FrozenEstimator(LogisticRegression().fit(X, y))
    density = FrozenEstimator(KernelDensity(bandwidth=0.5).fit(X))
    rates = {True: [], False: []}
    for _ in range(250):
        X, _ = two_classes(rng, 150)
        new, _ = two_classes(rng, 100)
        for conditional, collected in rates.items():
            detector = ConformalDetector(
                density, 0.1, class_conditional=conditional, classifier=classifier
            ).fit(X)
            alarm, predicted = detector.predict(new) == -1, classifier.predict(new)
            collected.append([alarm[predicted == label].mean() for label in (0, 1)])
    mean, error = (f(rates[True], axis=0) for f in (np.mean, np.std))
    # At most alpha, by less than one rank of about 60 rows.
    assert np.all(mean <= 0.1 + Z * error / np.sqrt(250))
    assert np.all(mean >= 0.1 - 1 / 40 - Z * error / np.sqrt(250))
    marginal = np.mean(rates[False], axis=0)
    assert marginal[0] < 0.05 < 0.15 < marginal[1]


def test_class_conditional_p_values_by_hand(column):
    classifier = FrozenEstimator(LogisticRegression().fit([[-1.0, 0], [1.0, 0]], ["a", "b"]))
    X = np.array([[-1.0, 3], [-1, 1], [-1, 2], [1, 10], [1, 30], [1, 20]])
    detector = ConformalDetector(
        FrozenEstimator(column(1)), 0.25, class_conditional=True, classifier=classifier
    ).fit(X)
    new = np.array([[-1.0, 0], [-1, 2.5], [1, 2.5], [1, 25]])
    np.testing.assert_array_equal(detector.p_values(new), np.array([1, 3, 1, 3]) / 4)
    np.testing.assert_array_equal(detector.predict(new), [-1, 1, -1, 1])
    np.testing.assert_array_equal(detector.calibrated_classes_, ["a", "b"])
    np.testing.assert_array_equal(detector.thresholds_, [1, 10])
    np.testing.assert_array_equal(detector.score_samples(new), [-1, 1.5, -7.5, 15])


def test_classes_with_few_rows_are_compared_with_all(column):
    classifier = FrozenEstimator(LogisticRegression().fit([[-1.0, 0], [1.0, 0]], [0, 1]))
    X = np.column_stack([np.repeat([-1.0, 1.0], [6, 2]), np.arange(8.0)])
    detector = ConformalDetector(
        FrozenEstimator(column(1)), 0.2, class_conditional=True, classifier=classifier
    )
    with pytest.warns(UserWarning, match=r"\{1: 2\}; their rows are compared with all 8"):
        detector.fit(X)
    np.testing.assert_array_equal(detector.calibrated_classes_, [0])
    new = np.array([[-1.0, 3.5], [1.0, 3.5], [1.0, -1.0]])
    np.testing.assert_allclose(detector.p_values(new), [5 / 7, 5 / 9, 1 / 9])
    np.testing.assert_array_equal(detector.predict(new), [1, 1, -1])


def test_classifier_of_the_detector():
    X, y = two_classes(np.random.default_rng(0), 300)
    detector = skood.MSP(LogisticRegression())
    conformal = ConformalDetector(detector, 0.1, class_conditional=True, random_state=0).fit(X, y)
    assert conformal.classifier_ is conformal.detectors_[0].classifier_
    np.testing.assert_array_equal(conformal.classes_, [0, 1])
    frozen = FrozenEstimator(detector.fit(X, y))
    calibrated = ConformalDetector(frozen, 0.1, class_conditional=True).fit(X)
    assert calibrated.classifier_ is detector.classifier_
    assert calibrated.n_calibration_ == 300


def test_a_classifier_to_be_trained_holds_rows_out_from_a_fitted_detector(column):
    X, y = two_classes(np.random.default_rng(0), 100)
    detector = ConformalDetector(
        FrozenEstimator(column()), 0.2, class_conditional=True, classifier=LogisticRegression()
    )
    with pytest.warns(UserWarning, match="Column was trained before"):
        assert detector.fit(X, y).n_calibration_ == 30
    assert detector.__sklearn_tags__().target_tags.required
    with pytest.raises(ValueError, match="its classifier, LogisticRegression, is yet to be"):
        detector.fit(X)


def test_select_controls_the_false_discovery_rate():
    rng = np.random.default_rng(4)
    mixture = FrozenEstimator(GaussianMixture(random_state=0).fit(rng.normal(size=(300, 2))))
    proportions, found = [], []
    for _ in range(500):
        detector = ConformalDetector(mixture, 0.2).fit(rng.normal(size=(200, 2)))
        new = np.concatenate([rng.normal(size=(80, 2)), rng.normal(4, 1, size=(20, 2))])
        selected = detector.select(new, fdr=0.2)
        proportions.append(selected[:80].sum() / max(1, selected.sum()))
        found.append(selected[80:].mean())
    standard_error = np.std(proportions) / np.sqrt(500)
    # 80 of 100 rows are inliers, and the procedure spends the level on all 100.
    assert np.mean(proportions) <= 0.2 * 0.8 + Z * standard_error
    assert np.mean(proportions) >= 0.1
    assert np.mean(found) > 0.8


def test_select_controls_the_false_discovery_rate_with_a_rare_class(column):
    """One inlier in thirty is of a class with much lower scores, and too few calibration rows."""
    rng = np.random.default_rng(6)
    classifier = FrozenEstimator(LogisticRegression().fit([[-1.0, 0], [1.0, 0]], [0, 1]))
    detector = ConformalDetector(
        FrozenEstimator(column(1)), 0.1, class_conditional=True, classifier=classifier
    )

    def draw(n):
        rare = rng.random(n) < 1 / 30
        return np.column_stack([np.where(rare, 1, -1), rng.normal(size=n) - 6 * rare])

    outliers = np.tile([-1.0, -9.0], (2, 1))
    proportions, selected_outliers = [], []
    for _ in range(1500):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "predicted classes with too few")
            detector.fit(draw(100))
        selected = detector.select(np.concatenate([draw(10), outliers]), fdr=0.1)
        proportions.append(selected[:10].sum() / max(1, selected.sum()))
        selected_outliers.append(selected[10:].mean())
    standard_error = np.std(proportions) / np.sqrt(1500)
    assert np.mean(proportions) <= 0.1 * 10 / 12 + Z * standard_error
    assert np.mean(selected_outliers) > 0.7


def test_select_takes_a_row_of_an_unseen_class_for_an_inlier(column):
    classifier = FrozenEstimator(LogisticRegression().fit([[-1.0, 0], [1.0, 0]], [0, 1]))
    X = np.column_stack([np.full(30, -1.0), np.arange(30.0)])
    detector = ConformalDetector(
        FrozenEstimator(column(1)), class_conditional=True, classifier=classifier
    ).fit(X)
    new = np.array([[-1.0, -5.0], [1.0, -5.0]])
    np.testing.assert_array_equal(detector.select(new, fdr=0.1), [True, False])


def test_a_trained_model_inside_is_noticed():
    """It was trained on the calibration rows, unless others are given."""
    rng = np.random.default_rng(7)
    rates = {False: [], True: []}
    for _ in range(60):
        X, held_out, new = (rng.normal(size=(n, 3)) for n in (200, 200, 200))
        seen = skood.LogLikelihood(FrozenEstimator(KernelDensity(bandwidth=0.1).fit(X)))
        detector = ConformalDetector(seen, 0.1, random_state=0)
        with pytest.warns(UserWarning, match="KernelDensity was trained before, .*X_calibration="):
            rates[False].append(rejected(detector.fit(X), new))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            detector.fit(X, X_calibration=held_out)
        assert detector.n_calibration_ == 200
        rates[True].append(rejected(detector, new))
    assert np.mean(rates[False]) > 0.5
    assert_rate(rates[True], 200, 0.1, 200)


def test_a_torch_network_inside_is_noticed():
    X, y = two_classes(np.random.default_rng(0), 60)
    network = torch.nn.Linear(2, 2)
    for detector in (
        skood.MSP(network),
        skood.MSP(skood.PretrainedClassifier(network)),
        make_pipeline(StandardScaler(), skood.MSP(network)),
    ):
        with pytest.warns(UserWarning, match="was trained before"):
            ConformalDetector(detector, 0.2, random_state=0).fit(X, y)
    extractor = from_torchvision("resnet18", weights=None, device="cpu")
    with pytest.warns(UserWarning, match="^ImageExtractor was trained before"):
        warn_of_trained([skood.KNN(extractor)])
    with pytest.warns(UserWarning, match="MLP was trained before"):
        skood.EnsembleDetector(
            [
                ("msp", skood.MSP(FrozenEstimator(skood.MLP(max_epochs=1).fit(X, y)))),
                ("knn", skood.KNN(n_neighbors=2)),
            ],
            alpha=0.2,
        ).fit(X, y)


def test_calibration_rows_that_are_given(column):
    X, given = np.arange(20.0)[:, None], np.arange(100.0, 130.0)[:, None]
    detector = ConformalDetector(column(), 0.1).fit(X, X_calibration=given)
    np.testing.assert_array_equal(detector.detectors_[0].rows_, X)
    np.testing.assert_array_equal(detector.calibration_scores_[0], given[:, 0])
    with pytest.warns(UserWarning, match=r"9 calibration rows .* 19 are needed\. Give more"):
        ConformalDetector(column()).fit(X, X_calibration=given[:9])
    with pytest.raises(ValueError, match='X_calibration is for method="split", got "cross"'):
        ConformalDetector(column(), method="cross").fit(X, X_calibration=given)
    with pytest.raises(ValueError, match="2 features"):
        ConformalDetector(column()).fit(X, X_calibration=np.zeros((30, 2)))
    both = [("a", column()), ("b", column())]
    ensemble = skood.EnsembleDetector(both, alpha=0.1).fit(X, X_calibration=given)
    assert all(len(model.rows_) == 20 for model in ensemble.detectors_)
    assert ensemble.n_calibration_ == len(ensemble.reference_scores_[0]) == 15
    with pytest.raises(ValueError, match="X_calibration has 1 row, at least 2"):
        skood.EnsembleDetector(both).fit(X, X_calibration=given[:1])


@pytest.mark.parametrize(("n", "n_rows", "n_low", "fdr"), [(19, 1, 1, 0.05), (19, 9, 3, 0.15)])
def test_select_includes_the_bound(n, n_rows, n_low, fdr, column):
    """The p-values of the low rows are 1 / (n + 1) = fdr n_low / n_rows."""
    detector = ConformalDetector(FrozenEstimator(column())).fit(np.arange(n)[:, None])
    new = np.where(np.arange(n_rows) < n_low, -1.0, n)[:, None]
    assert detector.select(new, fdr=fdr).sum() == n_low


def test_select_is_the_procedure_of_benjamini_and_hochberg(column):
    calibration = np.random.default_rng(0).normal(size=(99, 1))
    detector = ConformalDetector(FrozenEstimator(column())).fit(calibration)
    new = np.random.default_rng(1).normal(-1, 1, size=(40, 1))
    p_values = detector.p_values(new)
    order = np.sort(p_values)
    passing = np.flatnonzero(order <= 0.13 * np.arange(1, 41) / 40)
    np.testing.assert_array_equal(detector.select(new, fdr=0.13), p_values <= order[passing[-1]])
    assert 0 < detector.select(new, fdr=0.13).sum() < 40
    assert not detector.select(new + 5).any()
    with pytest.raises(ValueError, match="fdr=10; expected a rate between 0 and 1"):
        detector.select(new, fdr=10)


@each_setting
def test_too_few_rows_reject_nothing(setting, column):
    X = np.random.default_rng(0).normal(size=(15, 2))
    detector = ConformalDetector(FrozenEstimator(column(1)), 0.05, **setting)
    with pytest.warns(UserWarning, match=r"15 calibration rows .* alpha=0.05: .* 1 / 16.* 19 are"):
        detector.fit(X)
    new = np.array([[0.0, -1e6], [0.0, -2e6]])
    np.testing.assert_array_equal(detector.p_values(new), [1 / 16, 1 / 16])
    np.testing.assert_array_equal(detector.predict(new), [1, 1])
    assert np.diff(detector.score_samples(new)) < 0


@pytest.mark.parametrize("alpha", [0.02, 0.05, 0.07, 0.1, 1 / 3, 1 / 49, 0.999])
def test_the_number_of_rows_that_is_asked_for_suffices(alpha, column):
    needed = int(np.ceil(1 / alpha - 1 - 1e-9))
    model = FrozenEstimator(column())
    n_rows = max(2, needed)
    detector = ConformalDetector(model, alpha).fit(np.arange(n_rows)[:, None])
    assert rejected(detector, [[-1.0]]) == 1
    if needed > 2:
        with pytest.warns(UserWarning, match=f"{needed} are needed"):
            ConformalDetector(model, alpha).fit(np.arange(needed - 1)[:, None])


def test_cross_keeps_the_ranking_of_outliers(column):
    X = np.random.default_rng(0).normal(size=(60, 1))
    detector = ConformalDetector(column(), method="cross", random_state=0).fit(X)
    new = -np.array([3.0, 5, 10, 1e3, 1e6, 1e9])[:, None]
    assert len(np.unique(detector.p_values(new))) == 1
    assert (np.diff(detector.score_samples(new)) < 0).all()


def test_cross_rejects_scores_far_above_the_others(column):
    """The term that breaks ties is below 1 for any score."""
    X = np.where(np.arange(60) % 15, 0.0, 1e30)[:, None]
    detector = ConformalDetector(column(), 0.95, method="cross", n_splits=2, random_state=0)
    detector.fit(X)
    np.testing.assert_array_equal(detector.p_values([[1e20], [1e31]]), [57 / 61, 1])
    np.testing.assert_array_equal(detector.predict([[1e20], [1e31]]), [-1, 1])


def test_calibration_rows_are_held_out(column):
    X = np.arange(50.0)[:, None]
    y = np.arange(50) % 3
    detector = ConformalDetector(column(), 0.1, calibration_fraction=0.4, random_state=0)
    model = detector.fit(X, y).detectors_[0]
    assert model is not detector.detector
    assert len(detector.calibration_scores_[0]) == detector.n_calibration_ == 20
    assert sorted([*model.rows_[:, 0], *detector.calibration_scores_[0]]) == list(range(50))
    np.testing.assert_array_equal(model.labels_, model.rows_[:, 0] % 3)


@pytest.mark.parametrize("method", ["split", "cross"])
def test_a_fitted_detector_is_calibrated_on_all_rows(method, column):
    fitted = column().fit(np.zeros((3, 1)))
    y = np.repeat([0, -1], [40, 10])
    detector = ConformalDetector(FrozenEstimator(fitted), method=method)
    detector.fit(np.arange(50.0)[:, None], y)
    assert detector.detectors_ == [fitted]
    np.testing.assert_array_equal(detector.calibration_scores_[0], np.arange(40))


def test_known_outliers(column, recorder):
    """They are passed to detectors of this package alone, and not used for calibration."""
    X = np.r_[np.arange(40.0), np.arange(100.0, 110.0)][:, None]
    y = np.repeat([3, -1], [40, 10])
    order = np.random.default_rng(0).permutation(50)
    for model in (column(), recorder()):
        detector = ConformalDetector(model, 0.1, random_state=0).fit(X[order], y[order])
        assert detector.calibration_scores_[0].max() < 40
    detector = detector.detectors_[0]
    np.testing.assert_array_equal(np.sort(detector.outliers_[:, 0]), np.arange(100, 110))
    assert len(detector.inliers_) == 28
    np.testing.assert_array_equal(detector.labels_, 3)
    other = ConformalDetector(column(), 0.1, random_state=0).fit(X, y).detectors_[0]
    assert other.rows_.max() < 40


def test_errors(column):
    X = np.random.default_rng(0).normal(size=(30, 2))
    with pytest.raises(ValueError, match=r"'detector' .* 'fit' and 'score_samples'"):
        ConformalDetector(LogisticRegression()).fit(X)
    with pytest.raises(ValueError, match="'alpha'"):
        ConformalDetector(column(), 1.0).fit(X)
    with pytest.raises(ValueError, match='takes method="split", got "cross"'):
        ConformalDetector(column(), method="cross", class_conditional=True).fit(X)
    with pytest.raises(ValueError, match="KNN has no classifier_; give one as classifier="):
        ConformalDetector(skood.KNN(n_neighbors=2), 0.2, class_conditional=True).fit(X)
    with pytest.raises(ValueError, match=r"calibration_fraction=0.9 of 10 .* leaves 1 to"):
        ConformalDetector(column(), calibration_fraction=0.9).fit(X[:10])
    with pytest.raises(ValueError, match="4 in-distribution items are too few for n_splits=5"):
        ConformalDetector(column(), method="cross").fit(X[:4])
    with pytest.raises(ValueError, match="3 in-distribution items are too few for n_splits=2"):
        ConformalDetector(column(), method="cross", n_splits=2).fit(X[:3])
    model = column()
    model.score_samples = lambda X: np.full(len(X), np.nan)
    with pytest.raises(ValueError, match="Column gave NaN as the score of 30 of 30 items"):
        ConformalDetector(FrozenEstimator(model)).fit(X)
