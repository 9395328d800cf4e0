"""X reaches models of others as it came, through every estimator that holds one."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.utils import get_tags
from torch.utils.data import TensorDataset

import skood
from skood import share_forward_pass
from skood.inspection import ScoreDistributionDisplay

pandas = pytest.importorskip("pandas")

N = 120
RNG = np.random.default_rng(0)
FRAME = pandas.DataFrame(
    {
        "amount": RNG.normal(size=N),
        "age": 9 * RNG.normal(size=N) + 40,
        "country": RNG.choice(list("abc"), N),
    }
)
NUMBERS = FRAME[["amount", "age"]]
Y = (FRAME.amount > 0).to_numpy().astype(int)
WORDS = "red green blue one two three cat dog bird fish".split()
TEXTS = [" ".join(RNG.choice(WORDS, 6)) for _ in range(N)]
IMAGES = RNG.integers(256, size=(N, 3, 8, 8), dtype=np.uint8)
SPARSE = scipy.sparse.csr_array(RNG.random((N, 6)) * (RNG.random((N, 6)) > 0.5))


class Came(TransformerMixin, BaseEstimator):
    """Raises unless X is of the kind that it was in the first place."""

    def __init__(self, kind, item_shape):
        self.kind = kind
        self.item_shape = item_shape

    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        assert isinstance(X, self.kind), type(X)
        assert np.shape(X)[1:] == self.item_shape
        return X


def columns():
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return make_column_transformer(
        (numbers, ["amount", "age"]),
        (OneHotEncoder(sparse_output=False), ["country"]),
    )


class Pixels(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.fitted_ = True
        return self

    def transform(self, X):
        return np.asarray(X, np.float32).reshape(len(X), -1)[:, ::50] / 255


def of_texts():
    return make_pipeline(TfidfVectorizer(), TruncatedSVD(3, random_state=0))


KINDS = {
    "frame": (FRAME, Came(pandas.DataFrame, (3,)), columns),
    "missing": (
        FRAME.assign(amount=FRAME.amount.where(np.arange(N) % 7 > 0)),
        Came(pandas.DataFrame, (3,)),
        columns,
    ),
    "texts": (TEXTS, Came(list, ()), of_texts),
    "array-of-texts": (np.array(TEXTS, dtype=object), Came(np.ndarray, ()), of_texts),
    "sparse": (SPARSE, Came(scipy.sparse.csr_array, (6,)), lambda: TruncatedSVD(3, random_state=0)),
    "images": (IMAGES, Came(np.ndarray, (3, 8, 8)), Pixels),
    "tensor": (torch.tensor(IMAGES), Came(torch.Tensor, (3, 8, 8)), Pixels),
    "dataset": (TensorDataset(torch.tensor(IMAGES)), Came(np.ndarray, (3, 8, 8)), Pixels),
}


def net():
    return skood.MLP((4,), max_epochs=2, random_state=0)


def ensemble(made):
    detectors = [
        ("knn", made(skood.KNN(n_neighbors=3))),
        ("forest", made(IsolationForest(random_state=0))),
        ("distance", skood.Mahalanobis(made.transformer())),
    ]
    return skood.EnsembleDetector(detectors, alpha=0.1, random_state=0)


DETECTORS = {
    "LogLikelihood": lambda made: skood.LogLikelihood(made(GaussianMixture(random_state=0))),
    "LikelihoodRatio": lambda made: skood.LikelihoodRatio(
        made(GaussianMixture(2, random_state=0)), background=made(KernelDensity())
    ),
    "Typicality": lambda made: skood.Typicality(made(KernelDensity())),
    "WAIC": lambda made: skood.WAIC(made(KernelDensity()), 3, bootstrap=True, random_state=0),
    "DensityOfStates": lambda made: skood.DensityOfStates(made(KernelDensity())),
    "LatentNorm": lambda made: skood.LatentNorm(made(PCA(2, whiten=True)), statistic="norm"),
    "KNN": lambda made: skood.KNN(made.transformer(), n_neighbors=3),
    "Mahalanobis": lambda made: skood.Mahalanobis(made.transformer()),
    "RelativeMahalanobis": lambda made: skood.RelativeMahalanobis(made.transformer()),
    "GMM": lambda made: skood.GMM(made.transformer()),
    "NECO": lambda made: skood.NECO(made.transformer()),
    "MSP": lambda made: skood.MSP(made(LogisticRegression())),
    "MaxLogit": lambda made: skood.MaxLogit(made(LogisticRegression())),
    "Energy": lambda made: skood.Energy(made(LogisticRegression())),
    "Entropy": lambda made: skood.Entropy(made(LogisticRegression())),
    "GEN": lambda made: skood.GEN(made(LogisticRegression())),
    "KLMatching": lambda made: skood.KLMatching(made(LogisticRegression())),
    "conformal": lambda made: skood.ConformalDetector(
        made(skood.KNN(n_neighbors=3)), random_state=0
    ),
    "cross": lambda made: skood.ConformalDetector(
        made(IsolationForest(random_state=0)), method="cross", random_state=0
    ),
    "class-conditional": lambda made: skood.ConformalDetector(
        made(skood.KNN(n_neighbors=3)),
        0.5,
        class_conditional=True,
        classifier=made(LogisticRegression()),
        random_state=0,
    ),
    "conformal-MSP": lambda made: skood.ConformalDetector(
        skood.MSP(made(LogisticRegression())), random_state=0
    ),
    "conformal-network": lambda made: skood.ConformalDetector(
        skood.KNN(made(net()), n_neighbors=3), random_state=0
    ),
    "conformal-InlierFit": lambda made: skood.ConformalDetector(
        skood.InlierFit(made(skood.KNN(n_neighbors=3))), random_state=0
    ),
    "TunedThreshold": lambda made: skood.TunedThreshold(
        made(skood.KNN(n_neighbors=3)), random_state=0
    ),
    "EnsembleDetector": ensemble,
    "InlierFit": lambda made: skood.InlierFit(made(IsolationForest(random_state=0))),
}


class Made:
    """Pipelines that begin with the transformer of a kind."""

    def __init__(self, kind):
        self.X, self.came, self.make = KINDS[kind]

    def transformer(self):
        return make_pipeline(self.came, self.make())

    def __call__(self, model):
        return make_pipeline(self.came, self.make(), model)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.filterwarnings("ignore:predicted classes with too few:UserWarning")
def test_as_it_came(name, kind):
    """Fitted with known outliers and without; rows are scored alike in any part of X."""
    made = Made(kind)
    if name == "InlierFit" and kind == "dataset":
        pytest.skip("hands a Dataset on, which no transformer of scikit-learn takes")
    detector = DETECTORS[name](made).fit(made.X, Y)
    scores = detector.score_samples(made.X)
    assert scores.shape == (N,)
    assert np.isfinite(scores).all()
    assert np.ptp(scores) > 0
    np.testing.assert_array_equal(
        detector.predict(made.X), np.where(scores >= detector.offset_, 1, -1)
    )
    if kind != "dataset":
        part = detector.score_samples(made.X[:30])
        np.testing.assert_allclose(part, scores[:30], rtol=1e-5, atol=1e-6)
    with_outliers = DETECTORS[name](made).fit(made.X, np.where(np.arange(N) < 20, -1, Y))
    assert np.isfinite(with_outliers.score_samples(made.X)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_model_by_itself(kind):
    made = Made(kind)
    X = IMAGES if kind == "dataset" else made.X
    classifier = made(LogisticRegression()).fit(X, Y)
    scores = skood.MSP(FrozenEstimator(classifier)).fit(made.X).score_samples(made.X)
    np.testing.assert_allclose(scores, classifier.predict_proba(X).max(1), rtol=1e-6)
    density = made(GaussianMixture(random_state=0)).fit(X)
    scores = skood.LogLikelihood(FrozenEstimator(density)).fit(made.X).score_samples(made.X)
    np.testing.assert_allclose(scores, density.score_samples(X), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluate(kind):
    made = Made(kind)
    detectors = {
        "conformal": DETECTORS["conformal"](made),
        "distance": DETECTORS["Mahalanobis"](made),
        "forest": made(IsolationForest(random_state=0)),
    }
    table = skood.evaluate(detectors, made.X, {"the same": made.X}, X_train=made.X)
    assert [(row["detector"], row["auroc"]) for row in table] == [(name, 0.5) for name in detectors]


def test_display():
    made = Made("missing")
    detector = DETECTORS["conformal"](made).fit(made.X)
    display = ScoreDistributionDisplay.from_estimator(detector, {"ID": made.X, "OOD": made.X[:9]})
    np.testing.assert_array_equal(display.scores["ID"], detector.score_samples(made.X))


def test_the_transformer_is_not_fitted_to_calibration_rows():
    """The rate of false alarms is alpha, since the vocabulary comes from the rows to fit alone."""
    texts = [f"word{i} word{i + 1} word{i + 2}" for i in range(100)]
    pipeline = make_pipeline(
        TfidfVectorizer(), TruncatedSVD(3, random_state=0), skood.Mahalanobis()
    )
    detector = skood.ConformalDetector(pipeline, calibration_fraction=0.4, random_state=0).fit(
        texts
    )
    known = set(detector.detectors_[0][0].vocabulary_)
    assert 0 < len(known) < 102
    assert detector.n_calibration_ == 40


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_background_of_a_frame(frame):
    """The default background is a density of mutated rows with the same columns."""
    frame = pytest.importorskip(frame).DataFrame(
        {name: NUMBERS[name].to_numpy() for name in NUMBERS}
    )
    settings = {"mutation_rate": [0.2, 0.4], "random_state": 0}
    detector = skood.LikelihoodRatio(GaussianMixture(random_state=0), **settings).fit(frame)
    plain = skood.LikelihoodRatio(GaussianMixture(random_state=0), **settings).fit(
        NUMBERS.to_numpy()
    )
    np.testing.assert_allclose(
        detector.score_samples(frame), plain.score_samples(NUMBERS.to_numpy())
    )
    assert list(detector.background_.feature_names_in_) == ["amount", "age"]


class TestColumns:
    SWAPPED = NUMBERS[["age", "amount"]]

    @pytest.mark.parametrize(
        "model",
        [
            LogisticRegression(),
            make_pipeline(StandardScaler(), LogisticRegression()),
            net(),
            make_pipeline(StandardScaler(), net()),
        ],
        ids=["scikit-learn", "pipeline", "ours", "ours-in-a-pipeline"],
    )
    def test_of_frozen_classifiers(self, model):
        model.fit(NUMBERS, Y)
        detectors = [skood.MSP(FrozenEstimator(model)), skood.MSP(FrozenEstimator(model))]
        detectors[1] = skood.ConformalDetector(detectors[1], random_state=0)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was trained before", category=UserWarning)
            for detector in detectors:
                detector.fit(NUMBERS).score_samples(NUMBERS)
                assert list(detector.feature_names_in_) == ["amount", "age"]
                with pytest.raises(ValueError, match="feature names"):
                    detector.score_samples(self.SWAPPED)
                with pytest.raises(ValueError, match="feature names"):
                    detector.fit(self.SWAPPED)

    @pytest.mark.parametrize(
        ("model", "detect"),
        [
            (skood.NeuralSplineFlow(n_transforms=1, max_epochs=1), skood.LogLikelihood),
            (skood.VAE(1, max_epochs=1), skood.LogLikelihood),
            (KernelDensity(), skood.Typicality),
            (StandardScaler(), skood.KNN),
            (net(), skood.Mahalanobis),
            (skood.Autoencoder(1, max_epochs=1), skood.Mahalanobis),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseEstimator) else "",
    )
    def test_of_frozen_models(self, model, detect):
        model.fit(NUMBERS, Y)
        detect(FrozenEstimator(model)).fit(NUMBERS)
        with pytest.raises(ValueError, match="feature names"):
            detect(FrozenEstimator(model)).fit(self.SWAPPED)

    def test_of_frozen_detectors(self):
        for detector in (skood.KNN(n_neighbors=3), IsolationForest(random_state=0)):
            frozen = FrozenEstimator(detector.fit(NUMBERS))
            for wrapper in (
                skood.ConformalDetector(frozen),
                skood.TunedThreshold(frozen),
                skood.EnsembleDetector([("one", frozen)]),
            ):
                wrapper.fit(NUMBERS).predict(NUMBERS)
                with pytest.raises(ValueError, match="feature names"):
                    wrapper.fit(self.SWAPPED)
                with pytest.raises(ValueError, match="feature names"):
                    wrapper.fit(NUMBERS).predict(self.SWAPPED)

    def test_shared_data_are_checked_too(self):
        detector = skood.Mahalanobis().fit(share_forward_pass(NUMBERS))
        assert list(detector.feature_names_in_) == ["amount", "age"]
        with pytest.raises(ValueError, match="feature names"):
            detector.score_samples(share_forward_pass(self.SWAPPED))

    def test_a_refit_forgets_them(self):
        detector = skood.Mahalanobis().fit(NUMBERS).fit(NUMBERS.to_numpy())
        assert not hasattr(detector, "feature_names_in_")
        detector.fit(share_forward_pass(NUMBERS)).fit(share_forward_pass(NUMBERS.to_numpy()))
        assert not hasattr(detector, "feature_names_in_")

    def test_a_column_more_is_the_business_of_who_reads_it(self):
        """A ColumnTransformer takes the columns that it knows."""
        detector = skood.ConformalDetector(
            make_pipeline(columns(), skood.KNN(n_neighbors=3)), random_state=0
        ).fit(FRAME)
        scores = detector.score_samples(FRAME)
        more = FRAME.assign(other=1)[["other", "country", "amount", "age"]]
        np.testing.assert_array_equal(detector.score_samples(more), scores)
        with pytest.raises(ValueError, match=r"columns are missing: \{.amount.\}"):
            detector.score_samples(FRAME.drop(columns="amount"))

    def test_are_checked_for_models_that_check_nothing(self):
        function = FunctionTransformer(np.asarray)
        for detector in (
            skood.KNN(function, n_neighbors=3),
            skood.ConformalDetector(make_pipeline(Pixels(), skood.KNN(n_neighbors=3))),
            skood.ConformalDetector(skood.KNN(function, n_neighbors=3)),
            skood.EnsembleDetector(
                [("a", make_pipeline(function, skood.Mahalanobis()))], alpha=0.1
            ),
        ):
            detector.fit(NUMBERS).predict(NUMBERS)
            with pytest.raises(ValueError, match="feature names"):
                detector.predict(self.SWAPPED)

    def test_an_array_without_names_is_warned_of(self):
        model = FrozenEstimator(net().fit(NUMBERS, Y))
        with pytest.warns(UserWarning, match="X does not have valid feature names, but MLP was"):
            skood.MSP(model).fit(NUMBERS.to_numpy())


class TestWhoReadsNumbers:
    @pytest.mark.parametrize(
        ("X", "message"),
        [
            (FRAME, "column 'country'.*encode it in a Pipeline"),
            (TEXTS, "X contains strings or paths"),
            (FRAME[["amount"]].where(FRAME.amount > 0).to_numpy(), "NaN"),
        ],
        ids=["frame", "texts", "missing"],
    )
    @pytest.mark.parametrize(
        "detector",
        [
            skood.KNN(),
            skood.ConformalDetector(skood.KNN()),
            skood.EnsembleDetector([("a", skood.KNN()), ("b", IsolationForest())]),
            skood.LogLikelihood(skood.NeuralSplineFlow(max_epochs=1)),
        ],
        ids=["KNN", "conformal", "ensemble", "flow"],
    )
    def test_says_what_is_wrong(self, X, message, detector):
        with pytest.raises(ValueError, match=message):
            detector.fit(X)
        with pytest.raises(ValueError, match=message):
            detector.fit(share_forward_pass(X))

    def test_before_anything_is_trained(self):
        """The default background mutates numbers, which texts are not."""
        density = make_pipeline(TfidfVectorizer(), Untrainable())
        with pytest.raises(ValueError, match="background="):
            skood.LikelihoodRatio(density).fit(TEXTS)


def test_numbers_for_a_detector_on_texts():
    detector = skood.KNN(of_texts(), n_neighbors=3).fit(TEXTS)
    with pytest.raises(ValueError, match=r"was fitted on items of shape \(\)"):
        detector.score_samples(np.zeros((3, 4)))


class Untrainable(BaseEstimator):
    def fit(self, X, y=None):
        raise AssertionError("trained")

    def score_samples(self, X):
        raise AssertionError("scored")


def test_tags_are_those_of_the_models_inside():
    def allows(detector):
        tags = get_tags(detector).input_tags
        return tags.sparse, tags.allow_nan

    assert allows(skood.MSP(LogisticRegression())) == (True, False)
    assert allows(skood.ConformalDetector(IsolationForest())) == (True, True)
    mixed = [("a", IsolationForest()), ("b", skood.KNN())]
    assert allows(skood.EnsembleDetector(mixed)) == (False, False)
    assert allows(skood.KNN()) == (False, False)
    assert allows(skood.Mahalanobis(StandardScaler())) == (False, False)
    with pytest.raises(ValueError, match="that are NaN; if X has missing values, impute them"):
        skood.Mahalanobis(StandardScaler()).fit(np.where(NUMBERS > 0, NUMBERS, np.nan))


def test_a_search_inside_a_detector_gets_frames_too():
    search = GridSearchCV(
        make_pipeline(columns(), LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=3
    )
    scores = skood.MSP(search).fit(FRAME, Y).score_samples(FRAME)
    assert scores.shape == (N,)
    # Images are flat rows for what scikit-learn checks itself.
    search = GridSearchCV(KernelDensity(), {"bandwidth": [1.0, 100.0]}, cv=3)
    assert skood.LogLikelihood(search).fit(IMAGES).density_.n_features_in_ == 192


@pytest.mark.parametrize(
    "detector",
    [
        skood.MSP(FrozenEstimator(skood.MLP())),
        skood.MSP(FrozenEstimator(LogisticRegression())),
        skood.KNN(FrozenEstimator(PCA())),
        skood.LogLikelihood(FrozenEstimator(skood.NeuralSplineFlow())),
        skood.ConformalDetector(FrozenEstimator(skood.KNN())),
        skood.TunedThreshold(FrozenEstimator(make_pipeline(StandardScaler(), skood.KNN()))),
    ],
    ids=repr,
)
def test_frozen_models_are_fitted(detector):
    with pytest.raises(NotFittedError):
        detector.fit(NUMBERS, Y)
