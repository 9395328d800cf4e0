"""Labels that mark anomalies otherwise than by -1, as other libraries have them."""

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KernelDensity

import skood
from skood import MLP, ConformalDetector, DeepSAD, LikelihoodRatio, TunedThreshold


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(200, 3))


TINY = MLP((4,), max_epochs=1, batch_size=64)
RARE_ONES = np.repeat([0, 1], [190, 10])
RATES = [0.1, 0.3]


@pytest.mark.parametrize(
    "detector",
    [
        DeepSAD(TINY, 4),
        skood.OutlierExposure(TINY),
        skood.EnergyRegularized(TINY),
        LikelihoodRatio(KernelDensity(), mutation_rate=RATES),
        LikelihoodRatio(KernelDensity(), reg_weight=RATES),
        LikelihoodRatio(KernelDensity(), [KernelDensity(), KernelDensity(bandwidth=2)]),
        ConformalDetector(DeepSAD(TINY, 4)),
    ],
    ids=lambda detector: type(detector).__name__,
)
@pytest.mark.parametrize(
    "labels",
    [
        RARE_ONES,
        RARE_ONES.astype(float),
        RARE_ONES.astype(bool),
        ~RARE_ONES.astype(bool),
        np.repeat([0, 1], [140, 60]),
        np.where(RARE_ONES, "anomaly", "normal"),
    ],
    ids=["ints", "floats", "outliers", "inliers", "many", "strings"],
)
@pytest.mark.filterwarnings("ignore:y holds:UserWarning")
def test_labels_of_other_libraries_are_refused(X, detector, labels):
    """By detectors to which y says which rows are outliers."""
    with pytest.raises(ValueError, match=r"give np\.where\(is_ood, -1, y\).*leave y out"):
        detector.fit(X, labels)


@pytest.mark.parametrize("objective", ["fpr", "f1", "cost"])
@pytest.mark.filterwarnings("ignore:y holds:UserWarning")
def test_objectives_on_outliers_need_them_marked(X, objective):
    with pytest.raises(ValueError, match=r"np\.where\(is_ood, -1, y\) makes them of other"):
        TunedThreshold(IsolationForest(random_state=0), objective).fit(X, RARE_ONES)


@pytest.mark.parametrize(
    "detector",
    [
        skood.KNN(),
        skood.MSP(LogisticRegression()),
        skood.LogLikelihood(KernelDensity()),
        LikelihoodRatio(KernelDensity()),
        skood.DeepSVDD(TINY, 4),
        skood.LogitNorm(TINY),
        TunedThreshold(IsolationForest(random_state=0), random_state=0),
        ConformalDetector(IsolationForest(random_state=0), random_state=0),
    ],
    ids=lambda detector: type(detector).__name__,
)
def test_labels_that_may_be_classes_are_a_warning(X, detector, recwarn):
    with pytest.warns(UserWarning, match=r"y holds 0, 1 and no -1.*np\.where\(is_ood, -1, y\)"):
        detector.fit(X, RARE_ONES)
    recwarn.clear()
    for labels in (np.where(RARE_ONES, "b", "a"), np.arange(200) % 2, np.r_[-1, RARE_ONES[1:]]):
        detector.fit(X, labels)
    assert not [warning for warning in recwarn if "y holds" in str(warning.message)]


def test_outliers_that_are_marked_are_learned_from(X):
    """`np.where`, as the message has it, gives what is wanted."""
    X[190:] += 6
    marked = np.where(RARE_ONES == 1, -1, RARE_ONES)
    detector = DeepSAD(MLP((8,), max_epochs=20, batch_size=64), 4, random_state=0)
    scores = detector.fit(X, marked).score_samples(X)
    assert scores[190:].max() < np.median(scores[:190])
    # Equal classes, all of them normal, are ignored; and all 1, as scikit-learn marks inliers.
    alone = DeepSAD(TINY, 4, random_state=0).fit(X[:190]).score_samples(X)
    for labels in (np.arange(190) % 2, np.ones(190)):
        fitted = DeepSAD(TINY, 4, random_state=0).fit(X[:190], labels)
        np.testing.assert_array_equal(fitted.score_samples(X), alone)


def test_outliers_from_elsewhere_leave_y_for_classes(X):
    """With `outliers=`, y holds classes alone, which may be of any size."""
    detector = skood.OutlierExposure(TINY, outliers=X + 9, random_state=0)
    with pytest.warns(UserWarning, match="If these are classes of in-distribution rows, other"):
        detector.fit(X, RARE_ONES)
    assert detector.classes_.tolist() == [0, 1]
