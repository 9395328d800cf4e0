"""Fitted estimators of scikit-learn, one of each class that a file may name."""

import importlib

import numpy as np
from _files.families import LABELS, ROWS
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skood._files import _sklearn

TEXTS = np.array(["a red fish", "a blue fish", "the old red house"] * 20)
# Two columns of categories, with a missing value, and one of numbers.
TABLE = np.array(
    [[word, "x" if k % 2 else None, k / 7] for k, word in enumerate(["red", "blue"] * 30)], object
)
_POSITIVE = np.abs(ROWS)
_WITH_GAPS = np.where(np.arange(60)[:, None] % 9 == 0, np.nan, ROWS)
# Parameters that make an example quick, and the data where they are not ROWS.
_PARAMS = {
    "BayesianGaussianMixture": {"n_components": 2},
    "CountVectorizer": {"ngram_range": (1, 2)},
    "ExtraTreesClassifier": {"n_estimators": 3, "max_leaf_nodes": 5},
    "FactorAnalysis": {"n_components": 2},
    "FastICA": {"n_components": 2},
    "FeatureUnion": {"transformer_list": [("scale", StandardScaler()), ("keep", "passthrough")]},
    "GaussianMixture": {"n_components": 2},
    "GaussianRandomProjection": {"n_components": 2},
    "HashingVectorizer": {"n_features": 16},
    "IsolationForest": {"n_estimators": 3, "max_features": 0.75},
    "KBinsDiscretizer": {"n_bins": 3, "subsample": None},
    "LocalOutlierFactor": {"novelty": True, "n_neighbors": 3},
    "MLPClassifier": {"hidden_layer_sizes": (3,), "max_iter": 1000, "tol": 0.1},
    "Nystroem": {"n_components": 4},
    "OneHotEncoder": {"handle_unknown": "infrequent_if_exist", "dtype": np.float32},
    "OrdinalEncoder": {"encoded_missing_value": -2},
    "PCA": {"whiten": True},
    "QuadraticDiscriminantAnalysis": {"reg_param": 0.1},
    "QuantileTransformer": {"n_quantiles": 10},
    "RBFSampler": {"n_components": 4},
    "RandomForestClassifier": {"n_estimators": 3},
    "RandomForestRegressor": {"n_estimators": 3},
    "SelectKBest": {"k": 2},
    "SimpleImputer": {"add_indicator": True},
    "SparseRandomProjection": {"n_components": 3, "density": 0.5},
    "TruncatedSVD": {"n_components": 2},
    "VotingClassifier": {"estimators": [("linear", LogisticRegression())]},
}
_DATA = {
    "CountVectorizer": TEXTS,
    "HashingVectorizer": TEXTS,
    "TfidfVectorizer": TEXTS,
    "TfidfTransformer": _POSITIVE,
    "ComplementNB": _POSITIVE,
    "MultinomialNB": _POSITIVE,
    "ColumnTransformer": TABLE,
    "OneHotEncoder": TABLE[:, :2],
    "OrdinalEncoder": TABLE[:, :2],
    "Pipeline": TABLE,
    "MissingIndicator": _WITH_GAPS,
    "SimpleImputer": _WITH_GAPS,
    "LabelBinarizer": np.array(["a", "b", "c"])[LABELS],
    "LabelEncoder": np.array(["a", "b", "c"])[LABELS],
}


def _columns():
    return ColumnTransformer(
        [
            ("words", OneHotEncoder(handle_unknown="ignore"), [0]),
            ("texts", TfidfVectorizer(), 0),
            ("dropped", "drop", [1]),
        ],
        remainder="passthrough",
        sparse_threshold=0,
    )


def names():
    """Return the names of all known classes of scikit-learn."""
    return [f"{module}.{name}" for module, own in _sklearn.KNOWN.items() for name in own]


def data(name):
    """Return the data of an example."""
    return _DATA.get(name.rpartition(".")[2], ROWS)


def fitted(name):
    """Return a fitted estimator of a class, and the data that it was fitted on."""
    module, _, own = name.rpartition(".")
    cls = getattr(importlib.import_module(f"sklearn.{module}"), own)
    if own == "ColumnTransformer":
        estimator = _columns()
    elif own == "Pipeline":
        estimator = Pipeline([("columns", _columns()), ("linear", LogisticRegression())])
    else:
        estimator = cls(**_PARAMS.get(own, {}))
    if "random_state" in estimator.get_params():
        estimator.set_params(random_state=0)
    X = data(name)
    if own in ("LabelBinarizer", "LabelEncoder"):
        return estimator.fit(X), X
    return estimator.fit(X, LABELS), X


def results(estimator, X):
    """Return everything that an estimator computes of some rows, by method."""
    made = {}
    for method in (
        "score_samples",
        "decision_function",
        "predict_proba",
        "predict",
        "transform",
        "kneighbors",
        "mahalanobis",
    ):
        if hasattr(estimator, method):
            value = getattr(estimator, method)(X[::5])
            value = value[0] if isinstance(value, tuple) else value
            made[method] = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
    return made
