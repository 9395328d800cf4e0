"""Data that are not as a method would have them: the right number, or an error that helps."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from torch import nn

import skood


def every(*names, **params):
    return [getattr(skood, name)(**params) for name in names]


FROM_FEATURES = [
    *every("GMM", "Mahalanobis", "RelativeMahalanobis", "NECO"),
    skood.KNN(n_neighbors=2),
]
FROM_NETWORK = every(
    "ASH", "AdaSCALE", "DICE", "Energy", "FDBD", "GEN", "GradNorm", "IODIN", "KLMatching", "LTS"
) + every("MSP", "NCI", "ODIN", "PNML", "ReAct", "Residual", "SCALE", "SHE", "VRA", "ViM")


def name(detector):
    return type(detector).__name__


@pytest.mark.parametrize("detector", FROM_FEATURES, ids=name)
def test_constant_and_collinear_features(detector, trained):
    """Both leave the covariance without full rank; the order of the rows must survive."""
    _, X, y = trained
    plain = detector.fit(X, y).score_samples(X)
    more = np.column_stack([X, np.full(len(X), 1e3), X[:, 0] - 2 * X[:, 1]])
    for dtype in (np.float64, np.float32):
        scores = detector.fit(more.astype(dtype), y).score_samples(more.astype(dtype))
        assert np.isfinite(scores).all()
        if isinstance(detector, (skood.Mahalanobis, skood.RelativeMahalanobis)):
            np.testing.assert_allclose(scores, plain, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("detector", FROM_FEATURES, ids=name)
def test_a_class_with_one_sample_and_a_single_class(detector, trained):
    _, X, y = trained
    y = y.copy()
    y[0] = 9
    assert np.isfinite(detector.fit(X, y).score_samples(X)).all()
    one = detector.fit(X, np.zeros(len(X), dtype=int)).score_samples(X)
    np.testing.assert_array_equal(one, detector.fit(X).score_samples(X))


@pytest.mark.parametrize("detector", FROM_NETWORK, ids=name)
def test_features_that_are_all_zero(detector, trained):
    """A dead network: no error of 0 / 0, and no NaN."""
    _, X, y = trained
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        module[0].weight.zero_()
        module[0].bias.fill_(-1)
    scores = detector.set_params(classifier=module).fit(X, y).score_samples(X)
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("detector", FROM_NETWORK, ids=name)
def test_string_labels_and_known_outliers(detector, trained):
    _, X, y = trained
    names = np.array(["ant", "bee", "cow"])[y]
    detector.set_params(classifier=skood.MLP((8,), max_epochs=3, random_state=0), random_state=0)
    scores = detector.fit(X, names).score_samples(X)
    np.testing.assert_array_equal(detector.fit(X, y).score_samples(X), scores)
    with_outliers = [*names, -1, -1]
    mixed = np.concatenate([X, X[:2] + 50])
    for labels in (with_outliers, np.array([*names, -1, "-1"], dtype=object)):
        np.testing.assert_array_equal(detector.fit(mixed, labels).score_samples(X), scores)


@pytest.mark.parametrize("detector", FROM_NETWORK, ids=name)
def test_labels_of_a_single_class(detector, trained):
    _, X, _ = trained
    detector.set_params(classifier=skood.MLP((8,), max_epochs=1))
    with pytest.raises(ValueError, match="y has one class"):
        detector.fit(X, np.zeros(len(X)))


HARD_FOR_A_NETWORK = [*FROM_NETWORK, *every("Gram", "LayerMahalanobis", "NAC", "NNGuide")]


def plain_network():
    generator = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    for parameter in module.parameters():
        parameter.data.normal_(generator=generator)
    return module


@pytest.mark.parametrize("detector", [*FROM_FEATURES, *HARD_FOR_A_NETWORK], ids=name)
@pytest.mark.parametrize("scale", [0.0, 1e-310, 1e-160, 1e30, 1e140, 1e200, 1e305])
def test_any_finite_data_give_scores_or_an_error_that_helps(detector, scale, trained):
    _, X, y = trained
    if "classifier" in detector.get_params():
        detector.set_params(classifier=plain_network())
    one_far_off = np.where(np.arange(len(X))[:, None] == 7, X * scale, X)
    for data in (X * scale, one_far_off, np.full_like(X, scale)):
        try:
            scores = detector.fit(data, y).score_samples(data)
        except ValueError as error:
            assert "rescale X" in str(error)
        else:
            assert np.isfinite(detector.offset_)
            assert np.isfinite(scores).all()


def test_overflow_is_told_with_its_size(trained):
    _, X, y = trained
    with pytest.raises(
        ValueError, match=r"features or logits of magnitude .*e\+200, but float64 allows"
    ):
        skood.Mahalanobis().fit(X * 1e200)
    detector = skood.Mahalanobis().fit(X)
    with pytest.raises(ValueError, match="rescale X"):
        detector.score_samples(X * 1e200)
    far = np.where(np.arange(len(X))[:, None] == 7, X * 1e20, X)
    with pytest.raises(ValueError, match=r"so large that reg_covar=0.001 is lost"):
        skood.GMM().fit(far, y)
    with pytest.raises(ValueError, match="too far to fit a tail to"):
        skood.OpenMax(plain_network(), rows="all").fit(X * 1e30, y)


def test_fdbd_at_the_mean_feature(trained):
    _, X, _ = trained
    detector = skood.FDBD(plain_network()).fit(np.full_like(X, 3.0))
    assert np.isfinite(detector.score_samples(np.full((1, 5), 3.0))).all()
    assert np.isfinite(detector.offset_)


def test_fewer_rows_than_neighbours(trained):
    network, X, _ = trained
    with pytest.warns(UserWarning, match="n_neighbors=500 is more than the 180 training rows"):
        knn = skood.KNN(n_neighbors=500).fit(X)
    assert knn.n_neighbors_ == 180
    all_of_them = skood.KNN(n_neighbors=180).fit(X)
    np.testing.assert_array_equal(knn.score_samples(X), all_of_them.score_samples(X))
    with pytest.warns(UserWarning, match="n_neighbors=10 is more than the 9 rows in the bank"):
        guide = skood.NNGuide(FrozenEstimator(network), bank_fraction=0.05).fit(X)
    assert (guide.n_neighbors_, guide.n_neighbors) == (9, 10)
    assert np.isfinite(guide.score_samples(X)).all()


def test_too_many_components(trained):
    network, X, _ = trained
    with pytest.raises(ValueError, match="n_components=16 leaves no residual of 16 features"):
        skood.ViM(FrozenEstimator(network), n_components=16).fit(X)
    with pytest.raises(ValueError, match=r"n_components=5, but there are 5 feature\(s\)"):
        skood.NECO(n_components=5).fit(X)


def test_labels_the_classifier_does_not_know(trained):
    network, X, y = trained
    frozen = FrozenEstimator(network)
    with pytest.raises(ValueError, match=r"y has the labels \[7\], but the classifier"):
        skood.SHE(frozen).fit(X, np.where(y == 2, 7, y))
    with pytest.raises(ValueError, match="no training row is of class 2"):
        skood.SHE(frozen).fit(X[y < 2], y[y < 2])
    with pytest.raises(ValueError, match="SHE requires y to be passed"):
        skood.SHE(frozen).fit(X)


def test_openmax_needs_a_tail(trained):
    network, X, y = trained
    with pytest.raises(ValueError, match="class 2 has 1 correctly classified training rows"):
        skood.OpenMax(FrozenEstimator(network)).fit(X[:121], y[:121])


def test_temperature_without_an_optimum(trained):
    network, X, y = trained
    right = network.predict(X) == y
    with pytest.warns(UserWarning, match="is all right on the .* held-out rows"):
        detector = skood.TemperatureScaling(FrozenEstimator(network)).fit(X[right], y[right])
    assert detector.temperature_ == 1.0


def test_images_of_another_size(images, y):
    network = skood.ConvNet((4,), max_epochs=1).fit(images, y)
    detector = skood.ODIN(FrozenEstimator(network)).fit(images)
    for bad in (np.zeros((2, 1, 7, 7)), np.zeros((2, 3, 6, 6))):
        with pytest.raises(ValueError, match="was fitted on items of shape"):
            detector.score_samples(bad)


def test_max_logit_needs_a_network(trained):
    _, X, _ = trained
    with pytest.raises(TypeError, match="NECO with these parameters reads logits"):
        skood.NECO(max_logit=True, n_components=2).fit(X)


def test_thresholds_in_the_wrong_order(trained):
    network, X, _ = trained
    with pytest.raises(ValueError, match=r"low=95 is above high=60"):
        skood.VRA(FrozenEstimator(network), 95, 60).fit(X)


def test_saturated_probabilities_stay_finite(trained):
    _, X, y = trained
    tree = FrozenEstimator(DecisionTreeClassifier().fit(X, y))
    for detector in every("MSP", "MaxLogit", "Entropy", "GEN", "KLMatching"):
        assert np.isfinite(detector.set_params(classifier=tree).fit(X, y).score_samples(X)).all()


def test_max_logit_of_probabilities_is_the_logarithm_of_msp(trained):
    _, X, y = trained
    forest = FrozenEstimator(RandomForestClassifier(10, random_state=0).fit(X, y))
    scores = skood.MaxLogit(forest).fit(X).score_samples(X)
    np.testing.assert_allclose(np.exp(scores), skood.MSP(forest).fit(X).score_samples(X))


PROBABILITIES = {
    "forest": lambda: RandomForestClassifier(10, random_state=0),
    "Pipeline": lambda: make_pipeline(StandardScaler(), RandomForestClassifier(10)),
    "calibrated": lambda: CalibratedClassifierCV(LogisticRegression(), cv=2),
    "search": lambda: GridSearchCV(DecisionTreeClassifier(), {"max_depth": [2]}, cv=2),
    "neighbours": lambda: KNeighborsClassifier(),
    "network of scikit-learn": lambda: MLPClassifier((4,), max_iter=5),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", PROBABILITIES)
@pytest.mark.parametrize(
    "detector", [skood.Energy(), skood.Energy(temperature=2.0), skood.OpenMax()], ids=str
)
def test_probabilities_are_no_logits(trained, kind, frozen, detector):
    """The energy of probabilities at T = 2 is larger for outliers."""
    _, X, y = trained
    model = PROBABILITIES[kind]()
    if frozen:
        model = FrozenEstimator(model.fit(X, y))
    detector = clone(detector).set_params(classifier=model)
    with pytest.raises(ValueError, match=r"reads logits, but the classifier gives only prob.*MSP"):
        detector.fit(X, y)


def test_decision_functions_are_logits(trained):
    _, X, y = trained
    models = [
        LogisticRegression(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=2),
        HistGradientBoostingClassifier(max_iter=3),
    ]
    for model in models:
        logits = model.fit(X, y).decision_function(X)
        scores = skood.Energy(FrozenEstimator(model)).fit(X).score_samples(X)
        np.testing.assert_allclose(scores, logsumexp(logits, axis=1))
        openmax = skood.OpenMax(FrozenEstimator(model), rows="all").fit(X, y)
        assert openmax.centres_.shape == (3, 3)
        np.testing.assert_allclose(openmax.centres_[0], logits[y == 0].mean(0))


@pytest.mark.parametrize("method", ["Energy", "OpenMax", "NNGuide", "LTS", "RankFeat"])
def test_softmax_whose_logits_are_unknown(method):
    """A network that puts out probabilities, of no layer's output."""

    class Probabilities(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.pool = nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1)
            self.weight = nn.Parameter(torch.eye(3, 4))

        def forward(self, x):
            h = self.pool(self.body(x).relu()).flatten(1)
            return torch.softmax(h @ self.weight.T, 1)

    X = np.random.default_rng(0).normal(size=(60, 1, 5, 5)).astype(np.float32)
    network = skood.PretrainedClassifier(Probabilities().eval(), features_from="pool")
    with pytest.raises(ValueError, match=rf"{method} reads logits, but the classifier gives only"):
        getattr(skood, method)(network).fit(X, np.arange(60) % 3)


def test_no_temperature_for_a_class_that_is_impossible(trained):
    """A probability of 0 would count as 1e-308, and all others hardly at all."""
    _, X, y = trained
    tree = FrozenEstimator(DecisionTreeClassifier(random_state=0).fit(X, y))
    wrong = np.append((y[:5] + 1) % 3, y[5:])
    with pytest.raises(ValueError, match=r"the classifier gives 5 of 180 .*probability 0"):
        skood.TemperatureScaling(tree).fit(X, wrong)
    forest = RandomForestClassifier(max_depth=1, random_state=0).fit(X, y)
    detector = skood.TemperatureScaling(FrozenEstimator(forest)).fit(X, wrong)
    proba = forest.predict_proba(X) ** (1 / detector.temperature_)
    expected = (proba / proba.sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose(detector.score_samples(X), expected)
