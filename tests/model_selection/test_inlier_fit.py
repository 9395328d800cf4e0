import pickle

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array, issparse
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_outlier_detector
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.utils.data import Dataset, TensorDataset

import skood
from skood.model_selection import InlierFit, LeaveClassesOut, OODSplit, get_ood_scorer

CHECKED = [
    InlierFit(IsolationForest(n_estimators=5, random_state=0)),
    InlierFit(skood.Mahalanobis()),
    InlierFit(make_pipeline(StandardScaler(), OneClassSVM())),
]


def frame(X, **kwargs):
    return pytest.importorskip("pandas").DataFrame(X, **kwargs)


def series(values, **kwargs):
    return pytest.importorskip("pandas").Series(values, **kwargs)


@parametrize_with_checks(CHECKED)
def test_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray,
        np.ndarray.tolist,
        frame,
        torch.from_numpy,
        csr_array,
        lambda X: X.reshape(150, 1, 2),
    ],
    ids=["array", "list", "frame", "tensor", "sparse", "images"],
)
@pytest.mark.parametrize("labels", [np.asarray, np.ndarray.tolist, series])
def test_types(records, problem, convert, labels):
    X, y = problem
    rows = convert(X)
    InlierFit(records).fit(rows, labels(y))
    ((fitted_to, fitted_labels, _),) = records.fits
    assert type(fitted_to) is type(rows)
    assert type(fitted_labels) is type(labels(y))
    dense = fitted_to.toarray() if issparse(rows) else np.asarray(fitted_to)
    np.testing.assert_array_equal(dense.reshape(120, 2), X[:120])
    np.testing.assert_array_equal(fitted_labels, y[:120])


def test_frames_keep_their_names_and_index(records, problem):
    X, y = problem
    pd = pytest.importorskip("pandas")
    index = np.arange(150)[::-1] + 7
    frame = pd.DataFrame(X, columns=["a", "b"], index=index)
    InlierFit(records).fit(frame, pd.Series(y, index=index))
    ((rows, labels, _),) = records.fits
    pd.testing.assert_frame_equal(rows, frame.iloc[:120])
    assert labels.index.equals(rows.index)
    wrapped = InlierFit(skood.Mahalanobis()).fit(frame, y)
    assert wrapped.feature_names_in_.tolist() == ["a", "b"]
    assert wrapped.n_features_in_ == 2


@pytest.mark.parametrize(
    "wrap", [skood.share_forward_pass, lambda X: TensorDataset(torch.tensor(X))]
)
def test_checked_data_and_datasets(problem, wrap):
    X, y = problem
    fitted = InlierFit(skood.Mahalanobis()).fit(wrap(X), y)
    expected = skood.Mahalanobis().fit(X[y >= 0], y[y >= 0])
    np.testing.assert_allclose(fitted.score_samples(wrap(X)), expected.score_samples(X))
    assert fitted.offset_ == pytest.approx(expected.offset_)


class ReadsNoOutlier(Dataset):
    """Its last 30 items cannot be read."""

    def __init__(self, X):
        self.X = X

    def __len__(self):
        return len(self.X) + 30

    def __getitem__(self, index):
        return self.X[index], 0


def test_a_dataset_is_streamed(problem):
    X, y = problem
    InlierFit(skood.Mahalanobis()).fit(ReadsNoOutlier(X[:120]), y)


def test_everything_is_handed_on(problem):
    X, y = problem
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    wrapped = InlierFit(pipeline).fit(X, y)
    inner = clone(pipeline).fit(X[:120], y[:120])
    for method in ("predict", "predict_proba", "predict_log_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(wrapped, method)(X), getattr(inner, method)(X))
    assert wrapped.score(X, y) == inner.score(X, y) == 0.8 * wrapped.score(X[:120], y[:120])
    assert wrapped.classes_.tolist() == [0, 1, 2]
    assert is_classifier(wrapped)
    scaler = InlierFit(StandardScaler()).fit(X, y)
    np.testing.assert_array_equal(scaler.transform(X), inner[0].transform(X))
    detector = InlierFit(skood.MSP(LogisticRegression())).fit(X, y)
    np.testing.assert_array_equal(
        detector.predict(X), np.where(detector.decision_function(X) >= 0, 1, -1)
    )
    np.testing.assert_array_equal(
        InlierFit(IsolationForest(random_state=0)).fit_predict(X, y),
        IsolationForest(random_state=0).fit(X[:120]).predict(X),
    )


def test_heat_maps():
    X = np.random.default_rng(0).random((20, 4, 4), dtype=np.float32)
    density = skood.PixelCNN(n_filters=4, n_resnet=1, n_levels=4, max_steps=2, random_state=0)
    detector = InlierFit(skood.LogLikelihood(density)).fit(X, np.repeat([0, -1], 10))
    assert detector.score_pixels(X).shape == (20, 4, 4)


def test_only_what_the_estimator_has():
    wrapped = InlierFit(IsolationForest())
    assert hasattr(wrapped, "score_samples")
    for name in ("transform", "predict_proba", "score", "score_pixels", "classes_", "offset_"):
        assert not hasattr(wrapped, name)
    assert not hasattr(InlierFit(StandardScaler()), "predict")
    assert not hasattr(InlierFit(StandardScaler()), "fit_predict")
    with pytest.raises(NotFittedError):
        wrapped.predict([[0.0]])


@pytest.mark.parametrize(
    "estimator", [IsolationForest(), LogisticRegression(), StandardScaler(), skood.ODIN()]
)
def test_tags(estimator):
    wrapped = InlierFit(estimator)
    assert get_tags(wrapped) == get_tags(estimator)
    assert is_outlier_detector(wrapped) == is_outlier_detector(estimator)


def test_classes_of_a_detector_are_the_labels_it_was_fitted_to(problem):
    X, y = problem
    assert InlierFit(skood.KNN(n_neighbors=3)).fit(X, y).classes_.tolist() == [0, 1, 2]
    assert InlierFit(skood.KNN(n_neighbors=3)).fit(
        X, np.where(y == 1, -1, y)
    ).classes_.tolist() == [0, 2]
    unlabelled = InlierFit(skood.KNN(n_neighbors=3)).fit(X)
    with pytest.raises(AttributeError, match="KNN has no classes_, and was fitted without y"):
        unlabelled.classes_  # noqa: B018
    frozen = InlierFit(FrozenEstimator(LogisticRegression().fit(X[:80], y[:80]))).fit(X, y)
    assert frozen.classes_.tolist() == [0, 1]


def test_labels_that_are_strings(records, problem):
    X, y = problem
    names = np.array(["ant", "bee", "cat", "-1"])[y]
    InlierFit(records).fit(X, names)
    assert set(records.fits[0][1]) == {"ant", "bee", "cat"}


def test_without_outliers_nothing_is_copied(records, problem):
    X, y = problem
    InlierFit(records).fit(X)
    InlierFit(records).fit(X[:120], np.abs(y[:120]))
    assert records.fits[0][0] is X
    assert records.fits[0][1] is None
    assert np.shares_memory(records.fits[1][0], X)


@pytest.mark.parametrize("convert", [np.asarray, np.ndarray.tolist, series, torch.from_numpy])
def test_parameters_of_fit_are_cut_to_the_same_rows(records, problem, convert):
    X, y = problem
    weight = np.arange(150.0)
    InlierFit(records).fit(X, y, sample_weight=convert(weight))
    np.testing.assert_array_equal(records.fits[0][2], weight[:120])
    assert type(records.fits[0][2]) is type(convert(weight))


def test_other_parameters_of_fit_pass_as_they_are(records, problem):
    X, y = problem
    for other in ("x" * 150, 3, np.float64(3), {}, [1, 2]):
        records.fits.clear()
        InlierFit(records).fit(X, y, sample_weight=other)
        assert records.fits[0][2] is other
    records.fits.clear()
    pipeline = make_pipeline(StandardScaler(), records)
    InlierFit(pipeline).fit(X, y, records__sample_weight=np.arange(150))
    np.testing.assert_array_equal(records.fits[0][2], np.arange(120))


@pytest.mark.filterwarnings("ignore:The scoring:UserWarning")
def test_sample_weight_in_a_search(records, problem):
    X, y = problem
    search = GridSearchCV(
        InlierFit(records),
        {"estimator__scale": [1.0]},
        scoring={"a": get_ood_scorer("auroc"), "b": get_ood_scorer("fpr95")},
        refit="a",
        cv=OODSplit(3, random_state=0),
    )
    search.fit(X, y, sample_weight=X[:, 0])
    assert len(records.fits) == 4
    for rows, _, weight in records.fits:
        np.testing.assert_array_equal(weight, rows[:, 0])


@pytest.mark.parametrize(
    "scoring", [get_ood_scorer("auroc"), {"a": get_ood_scorer("auroc")}], ids=["one", "dictionary"]
)
def test_metadata_routing(records, problem, scoring):
    """Through a search and a Pipeline to the detector, while groups find their splitter."""
    X, y = problem
    groups = np.where(y == -1, np.array(["a", "b", "c"])[np.arange(150) % 3], "")
    with config_context(enable_metadata_routing=True):
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, records.set_fit_request(sample_weight=True))
        search = GridSearchCV(
            InlierFit(pipeline),
            {"estimator__records__scale": [1.0]},
            scoring=scoring,
            refit="a",
            cv=OODSplit(3, random_state=0),
        )
        search.fit(X, y, groups=groups, sample_weight=np.arange(150.0))
        expected = [train for train, _ in search.cv.split(X, y, groups)] + [np.arange(120)]
        for (_, _, weight), rows in zip(records.fits, expected, strict=True):
            np.testing.assert_array_equal(weight, rows)
        search.set_params(cv=LeaveClassesOut(), estimator=InlierFit(skood.KNN()))
        search.set_params(param_grid={"estimator__n_neighbors": [3]}, error_score="raise").fit(X, y)


def test_around_a_single_step(problem):
    X, y = problem
    steps = StandardScaler(), skood.KNN(n_neighbors=3)
    around_all = InlierFit(make_pipeline(*steps)).fit(X, y)
    around_one = make_pipeline(InlierFit(steps[0]), steps[1]).fit(X, y)
    np.testing.assert_array_equal(around_one.score_samples(X), around_all.score_samples(X))
    assert around_all.offset_ == around_one[-1].offset_


def test_clone_nesting_and_pickle(problem):
    X, y = problem
    wrapped = InlierFit(make_pipeline(StandardScaler(), skood.KNN(n_neighbors=3)))
    wrapped.set_params(estimator__knn__n_neighbors=5)
    assert clone(wrapped).get_params()["estimator__knn__n_neighbors"] == 5
    fitted = wrapped.fit(X, y)
    assert not hasattr(clone(fitted), "estimator_")
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.score_samples(X), fitted.score_samples(X))
    assert restored.classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([-1] * 4, "all 4 labels in y are -1.*no rows remain"),
        ([0, 0, -1], "y has 3 labels, but X has 4 items"),
    ],
)
def test_errors(y, message):
    with pytest.raises(ValueError, match=message):
        InlierFit(IsolationForest()).fit(np.zeros((4, 2)), y)


def test_error_for_what_is_no_estimator():
    with pytest.raises(ValueError, match="'estimator' parameter of InlierFit must be"):
        InlierFit(3).fit([[0.0]])
