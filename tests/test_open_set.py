"""A class, or -1 exactly where `predict` is -1, from every detector that knows a classifier."""

import pickle

import numpy as np
import pytest
import torch
from estimators import ESTIMATORS, tiny_mlp, tiny_vae
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

import skood
from skood import (
    KNN,
    MSP,
    ConformalDetector,
    DeepEnsemble,
    EnsembleDetector,
    FeatureExtractor,
    MCDropout,
    OODGen,
    PretrainedClassifier,
    TunedThreshold,
)
from skood._open_set import OpenSetDetector, rejecting
from skood.classifiers._network import Network
from skood.metrics import ccr_at_fpr, open_set_f1, oscr

# Of networks that train for a few steps.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{beginning}:UserWarning")
    for beginning in (
        "the classifier is",
        "the training loss of LogitNorm",
        "VMDLS does not use batch_size",
    )
]


def name_of(detector):
    params = detector.get_params(deep=False)
    inner = [params[name] for name in ("classifier", "backbone", "features") if name in params]
    return "-".join(type(part).__name__ for part in [detector, *inner] if part is not None)


KNOWING = [
    estimator
    for estimator in [
        *ESTIMATORS,
        KNN(tiny_mlp(), n_neighbors=3),
        KNN(LinearDiscriminantAnalysis(), n_neighbors=3),
        KNN(make_pipeline(StandardScaler(), tiny_mlp()), n_neighbors=3),
        skood.NECO(tiny_mlp()),
        skood.GMM(tiny_mlp()),
        skood.RelativeMahalanobis(tiny_mlp()),
        MSP(RandomForestClassifier(10, random_state=0)),
        MSP(LinearSVC()),
        DeepEnsemble([LogisticRegression(), tiny_mlp()], score_type="mutual_information"),
        OODGen(tiny_mlp(), tiny_vae(conditional=True), score_type="margin"),
        OODGen(tiny_mlp(), tiny_vae(conditional=True), score_type="max"),
    ]
    if isinstance(estimator, OpenSetDetector)
    and hasattr(estimator, "predict_class")
    # Their classes are named, and not those of y.
    and not isinstance(estimator, skood.posthoc.ConceptDetector)
]


def seeded(detector, **parameters):
    own = {name: 0 for name in detector.get_params() if name.split("__")[-1] == "random_state"}
    return clone(detector).set_params(**own, **parameters)


def many(n=600):
    """Enough rows to calibrate with."""
    rng = np.random.default_rng(1)
    y = np.arange(n) % 3
    return rng.normal(0, 0.5, size=(n, 4)) + 2 * np.eye(3, 4)[y], np.array(["a", "b", "c"])[y]


@pytest.fixture
def rows():
    """Three classes side by side, and rows that are far from all of them."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    X = rng.normal(0, 0.5, size=(90, 4)) + 2 * np.eye(3, 4)[y]
    return X, y, rng.normal(0, 6, size=(30, 4))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


def check(detector, X):
    """What `predict_class` and `predict_proba` say of a fitted detector agrees with the rest."""
    decision, label = detector.predict(X), detector.predict_class(X)
    proba = detector.predict_proba(X)
    assert proba.dtype == np.float64
    assert proba.shape == (len(X), len(detector.classes_))
    np.testing.assert_allclose(proba.sum(1), 1)
    rejected = np.isin(label.astype(str), ["-1", "-1.0"])
    np.testing.assert_array_equal(rejected, decision == -1)
    np.testing.assert_array_equal(
        label[~rejected], np.asarray(detector.classes_)[proba.argmax(1)][~rejected]
    )
    return rejected


@pytest.mark.parametrize("detector", KNOWING, ids=name_of)
@pytest.mark.parametrize("names", [[0, 1, 2], ["ant", "bee"]], ids=["three numbers", "two names"])
def test_a_class_or_the_decision(detector, names, rows):
    X, y, far = rows
    is_used = y < len(names)
    X, y = X[is_used], np.array(names)[y[is_used]]
    parameters = {"contamination": 0.2}
    detector = seeded(detector, **parameters).fit(X, y)
    everything = np.concatenate([X, far])
    rejected = check(detector, everything)
    assert detector.classes_.tolist() == names
    # The network of a reject class may accept all of so few rows.
    if getattr(detector, "score_type", "") != "margin":
        assert 0 < rejected.sum() < len(rejected)
    classifier = getattr(detector, "classifier_", None)
    if classifier is not None and not isinstance(detector, OODGen):
        accepted = everything[~rejected]
        np.testing.assert_array_equal(
            detector.predict_class(accepted), np.asarray(classifier.predict(accepted))
        )
    restored = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(
        restored.predict_class(everything), detector.predict_class(everything)
    )


def test_detectors_that_know_no_class(rows):
    X, y, _ = rows
    encoder = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    for features in (None, StandardScaler(), FeatureExtractor(encoder)):
        detector = KNN(features, n_neighbors=3)
        for known in (detector, clone(detector).fit(X, y)):
            for name in ("predict_class", "predict_proba", "classes_", "classifier_"):
                assert not hasattr(known, name)
    for other in (skood.LogLikelihood, skood.DeepSVDD, skood.ConvNet):
        assert not hasattr(other, "predict_class")
    with pytest.raises(AttributeError) as caught:
        KNN(n_neighbors=3).fit(X).predict_class(X)
    assert "the model of its features is not a classifier" in str(caught.value.__cause__)


def test_a_bare_module_may_turn_out_to_have_no_head(rows):
    X, _, _ = rows
    detector = KNN(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval(), n_neighbors=3)
    # Only its output tells.
    assert hasattr(detector, "predict_class")
    with pytest.warns(UserWarning, match="the output itself, 8 values for each item, is taken"):
        assert not hasattr(detector.fit(X), "predict_class")
    detector.set_params(features=LinearDiscriminantAnalysis())
    detector.fit(X, rows[1])
    assert detector.classifier_ is detector.features_
    assert not hasattr(detector.set_params(features=None).fit(X), "classifier_")


def test_labels_of_a_trained_module(network, rows):
    X, _, far = rows
    everything = np.concatenate([X, far])
    names = np.array(["ant", "bee", "cow"])
    with torch.no_grad():
        most_probable = network(torch.tensor(everything, dtype=torch.float32)).argmax(1).numpy()
    for detector in (MSP(network), KNN(network, n_neighbors=3)):
        bare = detector.fit(X)
        accepted = ~check(bare, everything)
        np.testing.assert_array_equal(bare.classes_, [0, 1, 2])
        np.testing.assert_array_equal(
            bare.predict_class(everything)[accepted], most_probable[accepted]
        )
    for cls in (MSP, KNN):
        named = cls(PretrainedClassifier(network, classes=names)).fit(X)
        accepted = ~check(named, everything)
        np.testing.assert_array_equal(
            named.predict_class(everything)[accepted], names[most_probable[accepted]]
        )
        assert set(named.predict_class(everything)[~accepted]) == {"-1"}


def test_features_of_a_network_of_other_classes(network, rows):
    """Their detector learns from labels that the network does not know."""
    X, y, _ = rows
    names = np.array(["ant", "bee", "cow"])[y]
    detector = skood.Mahalanobis(network).fit(X, names)
    with pytest.raises(
        AttributeError, match=r"\['ant', 'bee', 'cow'\].*has the classes \[0, 1, 2\]"
    ):
        detector.classifier_  # noqa: B018
    assert not hasattr(detector, "predict_class")
    with pytest.raises(AttributeError) as caught:
        detector.predict_class(X)
    assert "PretrainedClassifier(module, classes=...)" in str(caught.value.__cause__)
    named = PretrainedClassifier(network, classes=["ant", "bee", "cow"])
    assert check(skood.Mahalanobis(named).fit(X, names), X).any()
    # Some of its classes are enough.
    assert check(skood.Mahalanobis(network).fit(X, y % 2), X).any()


def test_one_logit(rows):
    X, _, far = rows
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    everything = np.concatenate([X, far])
    with torch.no_grad():
        logit = network(torch.tensor(everything, dtype=torch.float32)).double().numpy()[:, 0]
    for detector in (MSP(network), KNN(network, n_neighbors=3)):
        accepted = ~check(detector.fit(X), everything)
        np.testing.assert_allclose(
            detector.predict_proba(everything)[:, 1], 1 / (1 + np.exp(-logit)), rtol=1e-5
        )
        np.testing.assert_array_equal(
            detector.predict_class(everything)[accepted], (logit > 0)[accepted]
        )


def test_classes_that_do_not_exclude_each_other(network, rows):
    X, _, _ = rows
    multilabel = PretrainedClassifier(network, multilabel=True)
    with torch.no_grad():
        proba = torch.sigmoid(network(torch.tensor(X, dtype=torch.float32)).double()).numpy()
    for detector in (MSP(multilabel), KNN(multilabel, n_neighbors=3)):
        detector.fit(X)
        np.testing.assert_allclose(detector.predict_proba(X), proba, rtol=1e-5)
        assert not hasattr(detector, "predict_class")
        table = skood.evaluate([detector], X, {"far": X + 9}, np.zeros(len(X), dtype=int))
        assert "id_accuracy" not in table[0]
    with pytest.raises(ValueError, match="a member is multilabel"):
        DeepEnsemble([multilabel, network]).fit(X)


@pytest.mark.parametrize("detector", [MSP(tiny_mlp()), KNN(tiny_mlp()), DeepEnsemble()])
def test_before_fit(detector, rows):
    for name in ("predict_class", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(detector, name)(rows[0])
    assert not hasattr(detector, "classes_")


def test_a_classifier_that_names_no_classes(rows):
    class Nameless(LogisticRegression):
        def fit(self, X, y):
            super().fit(X, y)
            self.known = vars(self).pop("classes_")
            return self

        def predict_proba(self, X):
            z = X @ self.coef_.T + self.intercept_
            return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    X, y, _ = rows
    detector = MSP(Nameless()).fit(X, y)
    assert not hasattr(detector, "predict_class")
    assert not hasattr(detector, "predict_proba")
    assert np.isfinite(detector.score_samples(X)).all()


def test_classes_of_an_ensemble_are_the_mean(rows):
    X, y, far = rows
    everything = np.concatenate([X, far])
    for score_type in ("entropy", "mutual_information"):
        ensemble = DeepEnsemble(tiny_mlp(), 3, score_type, random_state=0).fit(X, y)
        proba = np.mean([m.predict_proba(everything) for m in ensemble.estimators_], axis=0)
        np.testing.assert_allclose(ensemble.predict_proba(everything), proba, rtol=1e-9)
        check(ensemble, everything)


def test_scores_and_classes_come_from_the_same_passes(rows, monkeypatch):
    X, y, _ = rows
    detectors = [
        MCDropout(tiny_mlp(dropout=0.2), 4, random_state=0).fit(X, y),
        DeepEnsemble(tiny_mlp(), 2, random_state=0).fit(X, y),
        skood.VMDLS(skood.MLP((8, 8), max_epochs=10), 2, random_state=0).fit(X, y),
        KNN(tiny_mlp(), n_neighbors=3).fit(X, y),
        MSP(tiny_mlp()).fit(X, y),
        skood.LogitNorm(tiny_mlp(), random_state=0).fit(X, y),
    ]
    n_passes, plain = [], Network.map

    def counted(self, function, data, *args, **kwargs):
        n_passes.append(len(data))
        return plain(self, function, data, *args, **kwargs)

    monkeypatch.setattr(Network, "map", counted)
    for detector in detectors:
        counts = []
        for method in ("predict", "predict_class"):
            n_passes.clear()
            getattr(detector, method)(X)
            counts.append(len(n_passes))
        assert counts[0] == counts[1] > 0, type(detector).__name__


def test_a_reject_class(rows):
    """With "margin" a row is rejected where the reject class is the most probable one."""
    X, y, far = rows
    everything = np.concatenate([X, far])
    common = {"reject_weight": 1.0, "random_state": 0}
    detector = OODGen(
        skood.MLP((16,), max_epochs=30), tiny_vae(conditional=True), score_type="margin", **common
    ).fit(X, np.array(["ant", "bee", "cow"])[y])
    assert detector.offset_ == 0
    proba = detector.classifier_.predict_proba(everything)
    rejected = check(detector, everything)
    assert 0 < rejected.sum() < len(rejected)
    np.testing.assert_array_equal(rejected, proba.argmax(1) == 3)
    np.testing.assert_array_equal(
        detector.predict_class(everything), detector.classifier_.predict(everything)
    )
    np.testing.assert_allclose(
        detector.score_samples(everything),
        np.log(proba[:, :-1].max(1)) - np.log(proba[:, -1]),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        detector.predict_proba(everything), proba[:, :-1] / proba[:, :-1].sum(1, keepdims=True)
    )


def test_the_threshold_of_a_reject_class_is_zero_however_many_rows_there_are():
    X, y = many(600)
    network = skood.MLP((8,), max_epochs=2)
    vae = tiny_vae(conditional=True)
    detector = OODGen(network, vae, score_type="margin", random_state=0).fit(X, y)
    assert detector.offset_ == 0
    check(detector, X)


def test_probabilities_of_temperature_scaling(rows):
    X, y, _ = rows
    network = FrozenEstimator(tiny_mlp(random_state=0).fit(X, y))
    detector = skood.TemperatureScaling(network).fit(X, y)
    assert detector.temperature_ != 1
    np.testing.assert_allclose(detector.predict_proba(X).max(1), detector.score_samples(X))
    check(detector, X)


def test_through_a_pipeline_and_inlier_fit(rows):
    X, y, far = rows
    everything = np.concatenate([X, far])
    pipeline = make_pipeline(StandardScaler(), KNN(tiny_mlp(), n_neighbors=3)).fit(X, y)
    proba = pipeline[-1].predict_proba(pipeline[:-1].transform(everything))
    np.testing.assert_array_equal(pipeline.predict_proba(everything), proba)
    assert pipeline.classes_.tolist() == [0, 1, 2]
    wrapped = skood.InlierFit(KNN(tiny_mlp(random_state=0), n_neighbors=3))
    wrapped.fit(everything, np.r_[y, np.full(len(far), -1)])
    check(wrapped, everything)
    assert wrapped.predict_class(X).shape == (len(X),)


def test_accuracy_is_never_blank(rows):
    X, y, far = rows
    mlp = tiny_mlp(random_state=0)
    detectors = {
        "features": KNN(mlp, n_neighbors=3),
        "logits": MSP(mlp),
        "ensemble": DeepEnsemble(mlp, 2, random_state=0),
        "dropout": MCDropout(tiny_mlp(dropout=0.2, random_state=0), 4, random_state=0),
        "training": skood.LogitNorm(mlp),
        "metric": skood.VMDLS(skood.MLP((8, 8), max_epochs=10), 2, random_state=0),
        "reject": OODGen(mlp, tiny_vae(conditional=True), random_state=0),
        "pipeline": make_pipeline(StandardScaler(), KNN(mlp, n_neighbors=3)),
        "inliers": skood.InlierFit(KNN(mlp, n_neighbors=3)),
        "foreign": MSP(LogisticRegression()),
    }
    fitted = {name: detector.fit(X, y) for name, detector in detectors.items()}
    fitted["frozen"] = FrozenEstimator(fitted["features"])
    for row in skood.evaluate(fitted, X, {"far": far}, y):
        detector = fitted[row["detector"]]
        predicted = np.asarray(detector.classes_)[detector.predict_proba(X).argmax(1)]
        assert row["id_accuracy"] == np.mean(predicted == y) > 0.3, row["detector"]


def test_measures_of_open_sets(rows):
    """The measures take what the methods return, whatever the labels are."""
    X, y, far = rows
    for names in (np.array(["ant", "bee", "cow"]), np.array([3, 5, 9])):
        detector = KNN(tiny_mlp(random_state=0), n_neighbors=3).fit(X, names[y])
        everything = np.concatenate([X, far])
        truth = np.r_[names[y], np.full(len(far), -1)]
        if names.dtype.kind == "U":
            assert detector.predict_class(everything).dtype.kind == "U"
        forced = detector.classes_[detector.predict_proba(everything).argmax(1)]
        scores = detector.score_samples(everything)
        accuracy = np.mean(forced[: len(y)] == names[y])
        assert oscr(truth, forced, scores) <= accuracy
        assert ccr_at_fpr(truth, forced, scores, fpr=1.0) == pytest.approx(accuracy)
        label = detector.predict_class(everything)
        right = open_set_f1(truth, label)
        rejected = detector.predict(everything) == -1
        by_hand = [-1 if out else name for out, name in zip(rejected, forced.tolist(), strict=True)]
        assert right == open_set_f1(truth, by_hand)
        assert right > open_set_f1(truth, np.roll(label, 1))


def test_scorers_know_the_classes(rows):
    """A class that the network was not trained on counts as out-of-distribution."""
    X, y, _ = rows
    network = FrozenEstimator(tiny_mlp(random_state=0).fit(X[y < 2], y[y < 2]))
    detector = KNN(network, n_neighbors=3).fit(X[y < 2], y[y < 2])
    expected = skood.metrics.auroc(np.where(y < 2, 1, -1), detector.score_samples(X))
    assert skood.get_ood_scorer("auroc")(detector, X, y) == expected


def test_classes_left_out_of_a_network_that_knows_them(rows):
    """The rows that a detector was fitted to say what is in-distribution, by `InlierFit`."""
    X, y, _ = rows
    network = FrozenEstimator(tiny_mlp(random_state=0).fit(X, y))
    for detector in (KNN(network, n_neighbors=3), MSP(network)):
        settings = {"cv": skood.LeaveClassesOut(), "error_score": "raise"}
        scorer = skood.get_ood_scorer("auroc")
        wrapped = skood.InlierFit(detector)
        assert len(cross_val_score(wrapped, X, y, scoring=scorer, **settings)) == 3
        fitted = wrapped.fit(X[y < 2], y[y < 2])
        assert fitted.classes_.tolist() == [0, 1, 2]
        assert fitted.predict_proba(X).shape[1] == 3


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([4, 5], dtype=np.uint8), [4, -1]),
        (np.array([True, False]), [1, -1]),
        (np.array([0.0, 2.0]), [0.0, -1.0]),
        (np.array(["a", "b"]), ["a", "-1"]),
        (np.array(["a", "b"], dtype=object), ["a", "-1"]),
        (np.array([4, 5], dtype=object), [4, -1]),
    ],
)
def test_rejected_labels(labels, expected):
    result = rejecting(labels, np.array([True, False]))
    assert result.tolist() == expected


def test_classes_left_out_of_a_network_that_names_none(network, rows):
    X, y, _ = rows
    names = np.array(["ant", "bee", "cow"])[y]
    settings = {"cv": skood.LeaveClassesOut(random_state=0), "error_score": "raise"}
    for detector in (KNN(network, n_neighbors=3), MSP(network)):
        wrapped = skood.InlierFit(detector)
        scorer = skood.get_ood_scorer("auroc")
        named = cross_val_score(wrapped, X, names, scoring=scorer, **settings)
        np.testing.assert_array_equal(
            named, cross_val_score(wrapped, X, y, scoring=scorer, **settings)
        )


CALIBRATED = {
    "conformal": ConformalDetector(KNN(tiny_mlp(), n_neighbors=3), random_state=0),
    "training": ConformalDetector(skood.LogitNorm(tiny_mlp()), random_state=0),
    "cross": ConformalDetector(KNN(tiny_mlp()), method="cross", n_splits=3, random_state=0),
    "by class": ConformalDetector(KNN(tiny_mlp()), class_conditional=True, random_state=0),
    "by class of an ensemble": ConformalDetector(
        DeepEnsemble(tiny_mlp(), 2), class_conditional=True, random_state=0
    ),
    "by a classifier": ConformalDetector(
        KNN(), class_conditional=True, classifier=LogisticRegression(), random_state=0
    ),
    "tuned": TunedThreshold(MSP(tiny_mlp()), target=0.9, random_state=0),
    "ensemble": EnsembleDetector(
        [("a", KNN(tiny_mlp())), ("b", KNN()), ("c", MSP(LogisticRegression()))], random_state=0
    ),
    "pipeline": ConformalDetector(
        make_pipeline(StandardScaler(), KNN(tiny_mlp(), n_neighbors=3)), random_state=0
    ),
    "nested": TunedThreshold(
        ConformalDetector(KNN(tiny_mlp()), random_state=0), target=0.8, random_state=0
    ),
    "inliers": ConformalDetector(skood.InlierFit(KNN(tiny_mlp())), random_state=0),
}


@pytest.mark.parametrize("detector", CALIBRATED.values(), ids=CALIBRATED)
def test_the_outer_threshold_decides(detector):
    X, y = many()
    far = np.random.default_rng(2).normal(0, 6, size=(50, 4))
    everything = np.concatenate([X, far])
    assert hasattr(detector, "predict_class")
    assert not hasattr(detector, "classes_")
    detector = clone(detector)
    with pytest.raises(NotFittedError):
        detector.predict_class(X)
    detector.fit(X, y)
    assert detector.classes_.tolist() == ["a", "b", "c"]
    rejected = check(detector, everything)
    assert 0.02 < rejected[:600].mean() < 0.3
    assert np.mean(detector.predict_class(X)[~rejected[:600]] == y[~rejected[:600]]) > 0.8
    # The inner detector has another threshold.
    inner = getattr(detector, "detector_", None)
    if inner is not None:
        assert (inner.predict(everything) != detector.predict(everything)).any()
    row = skood.evaluate([detector], X, {"far": far}, y)[0]
    assert row["id_accuracy"] > 0.8
    restored = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(
        restored.predict_class(everything), detector.predict_class(everything)
    )


def test_probabilities_are_those_of_the_wrapped():
    X, y = many(450)
    for name in ("conformal", "tuned", "pipeline"):
        detector = clone(CALIBRATED[name]).fit(X, y)
        inner = detector.detectors_[0] if name != "tuned" else detector.detector_
        np.testing.assert_array_equal(detector.predict_proba(X), inner.predict_proba(X))
        if name != "pipeline":
            assert detector.classifier_ is inner.classifier_
    assert not hasattr(detector, "classifier_")  # It reads what the Pipeline makes of X.
    for name in ("cross", "ensemble"):
        detector = clone(CALIBRATED[name]).fit(X, y)
        known = [d for d in detector.detectors_ if hasattr(d, "predict_proba")]
        assert len(known) == (3 if name == "cross" else 2)
        mean = np.mean([d.predict_proba(X) for d in known], axis=0)
        np.testing.assert_allclose(detector.predict_proba(X), mean)
        with pytest.raises(AttributeError, match="predict_proba is their mean"):
            detector.classifier_  # noqa: B018
    given = clone(CALIBRATED["by a classifier"]).fit(X, y)
    assert isinstance(given.classifier_, LogisticRegression)
    np.testing.assert_array_equal(given.predict_proba(X), given.classifier_.predict_proba(X))


def test_an_open_set_classifier_with_a_guarantee():
    """Of new rows of known classes at most `alpha` are rejected, the others mostly classified."""
    X, y = many(3000)
    rejected = []
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(3000)
        fit, new = order[:600], order[600:]
        detector = ConformalDetector(MSP(LogisticRegression()), alpha=0.1, random_state=seed)
        labels = detector.fit(X[fit], y[fit]).predict_class(X[new])
        rejected.append(np.mean(labels == "-1"))
        accepted = labels != "-1"
        assert np.mean(labels[accepted] == y[new][accepted]) > 0.97
    # The standard deviation of a rate with 180 calibration rows is .022, of the mean of 20 .005.
    assert 0.08 < np.mean(rejected) <= 0.115


def test_wrapped_detectors_that_know_no_class():
    X, y = many(200)
    for detector in (
        ConformalDetector(KNN(), random_state=0),
        TunedThreshold(IsolationForest(random_state=0), random_state=0),
        EnsembleDetector([("a", KNN()), ("b", IsolationForest(random_state=0))], random_state=0),
        ConformalDetector(make_pipeline(StandardScaler(), KNN()), random_state=0),
        ConformalDetector(GaussianMixture(2, random_state=0), random_state=0),
    ):
        detector.fit(X, y)
        for name in ("predict_class", "predict_proba", "classes_", "classifier_"):
            assert not hasattr(detector, name), (detector, name)
    with pytest.raises(AttributeError) as caught:
        ConformalDetector(KNN(), random_state=0).fit(X).predict_class(X)
    assert "KNN has no predict_proba and classes_" in str(caught.value.__cause__)


def test_members_of_different_classes():
    X, y = many(200)
    first = MSP(LogisticRegression()).fit(X[y != "c"], y[y != "c"])
    second = MSP(LogisticRegression()).fit(X, y)
    named = [("first", FrozenEstimator(first)), ("second", FrozenEstimator(second))]
    ensemble = EnsembleDetector(named, random_state=0).fit(X)
    with pytest.raises(AttributeError, match=r"\['a', 'b'\] and \['a', 'b', 'c'\]"):
        ensemble.classes_  # noqa: B018
    assert not hasattr(ensemble, "predict_class")
    assert ensemble.predict(X).shape == (200,)


def test_a_class_that_a_fold_lacks():
    X, y = many(60)
    y[:] = np.where(y == "c", "a", y)
    y[0] = "c"
    cross = ConformalDetector(
        MSP(LogisticRegression()), method="cross", n_splits=3, alpha=0.1, random_state=0
    ).fit(X, y)
    n_classes = [len(d.classes_) for d in cross.detectors_]
    assert sorted(n_classes) == [2, 3, 3]
    check(cross, X)
    lacking = cross.detectors_[n_classes.index(2)]
    others = [d for d in cross.detectors_ if d is not lacking]
    mean = sum(d.predict_proba(X)[:, 2] for d in others) / 3
    np.testing.assert_allclose(cross.predict_proba(X)[:, 2], mean)


def test_labels_that_a_wrapped_network_names(network):
    X, y = many(200)
    multilabel = KNN(PretrainedClassifier(network, multilabel=True)).fit(X)
    fitted = ConformalDetector(FrozenEstimator(multilabel)).fit(X)
    assert fitted.predict_proba(X).shape == (200, 3)
    assert not hasattr(fitted, "predict_class")
    with pytest.raises(ValueError, match="KNN has no classifier_"):
        ConformalDetector(FrozenEstimator(multilabel), class_conditional=True).fit(X)
    named = KNN(PretrainedClassifier(network, classes=["a", "b", "c"])).fit(X, y)
    fitted = ConformalDetector(FrozenEstimator(named)).fit(X)
    check(fitted, X)
    assert fitted.classifier_ is named.features_
    assert set(fitted.predict_class(X)) <= {"a", "b", "c", "-1"}


def test_a_calibrated_detector_shares_the_pass(network, monkeypatch):
    X, _ = many(200)
    fitted = ConformalDetector(FrozenEstimator(KNN(network).fit(X))).fit(X)
    n_passes, plain = [], Network.map

    def counted(self, function, data, *args, **kwargs):
        n_passes.append(len(data))
        return plain(self, function, data, *args, **kwargs)

    monkeypatch.setattr(Network, "map", counted)
    fitted.predict_class(X)
    assert n_passes == [200]


def test_scorers_read_the_classes_through_a_calibrated_detector():
    X, y = many(200)
    fitted = ConformalDetector(MSP(LogisticRegression()), random_state=0)
    fitted.fit(X[y != "c"], y[y != "c"])
    expected = skood.metrics.auroc(np.where(y != "c", 1, -1), fitted.score_samples(X))
    assert skood.get_ood_scorer("auroc")(fitted, X, y) == expected
