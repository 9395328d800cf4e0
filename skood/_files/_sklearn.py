"""Encoding of scikit-learn's estimators.

An estimator is stored as its public name, the parameters and the fitted attributes, in the codecs
of plain values and arrays. `load` makes classes of the list `KNOWN` alone, whose methods compute
in numpy and scipy, or whose compiled parts are checked (here and in `_sklearn_parts.py`): an index
beyond an array would crash the process. Other classes of scikit-learn load only if the caller
trusts them.

skops, which does the same with zip files, has no part in this: it does not trust decision trees
without a list of types from the caller either, and names private modules of scikit-learn in files.

A file states the version of scikit-learn that wrote it. A parameter that the reading version does
not have is left out if it had its default value, and is an error otherwise.
"""

from __future__ import annotations

import importlib
import inspect
from functools import cache
from typing import Any

import numpy as np
import sklearn
from sklearn.base import BaseEstimator

from skood._files._codec import Codec, DamagedFile, Reader, Writer, check_attribute, field
from skood.likelihood._density_of_states import _OneClassSVM

__all__ = ["CODECS", "KNOWN"]

# Estimators that a file may name, by their public modules.
KNOWN = {
    "compose": ("ColumnTransformer",),
    "covariance": (
        "EllipticEnvelope",
        "EmpiricalCovariance",
        "LedoitWolf",
        "MinCovDet",
        "OAS",
        "ShrunkCovariance",
    ),
    "decomposition": ("FactorAnalysis", "FastICA", "IncrementalPCA", "PCA", "TruncatedSVD"),
    "discriminant_analysis": ("LinearDiscriminantAnalysis", "QuadraticDiscriminantAnalysis"),
    "ensemble": (
        "ExtraTreesClassifier",
        "IsolationForest",
        "RandomForestClassifier",
        "RandomForestRegressor",
        "VotingClassifier",
    ),
    "feature_extraction.text": (
        "CountVectorizer",
        "HashingVectorizer",
        "TfidfTransformer",
        "TfidfVectorizer",
    ),
    "feature_selection": ("SelectKBest", "VarianceThreshold"),
    "impute": ("MissingIndicator", "SimpleImputer"),
    "kernel_approximation": ("Nystroem", "RBFSampler"),
    "linear_model": (
        "LinearRegression",
        "LogisticRegression",
        "Ridge",
        "SGDClassifier",
        "SGDOneClassSVM",
    ),
    "mixture": ("BayesianGaussianMixture", "GaussianMixture"),
    "naive_bayes": ("BernoulliNB", "ComplementNB", "GaussianNB", "MultinomialNB"),
    "neighbors": (
        "KernelDensity",
        "KNeighborsClassifier",
        "LocalOutlierFactor",
        "NearestCentroid",
        "NearestNeighbors",
    ),
    "neural_network": ("MLPClassifier",),
    "pipeline": ("FeatureUnion", "Pipeline"),
    "preprocessing": (
        "Binarizer",
        "FunctionTransformer",
        "KBinsDiscretizer",
        "LabelBinarizer",
        "LabelEncoder",
        "MaxAbsScaler",
        "MinMaxScaler",
        "Normalizer",
        "OneHotEncoder",
        "OrdinalEncoder",
        "PolynomialFeatures",
        "PowerTransformer",
        "QuantileTransformer",
        "RobustScaler",
        "StandardScaler",
    ),
    "random_projection": ("GaussianRandomProjection", "SparseRandomProjection"),
    "svm": ("LinearSVC", "OneClassSVM", "SVC"),
    "tree": (
        "DecisionTreeClassifier",
        "DecisionTreeRegressor",
        "ExtraTreeClassifier",
        "ExtraTreeRegressor",
    ),
}
# Of the estimators that a density of states fits.
_OWN = {"skood.OneClassSVM": _OneClassSVM}
# Attributes that only training reads.
_DROPPED = {"_loss_function_", "_no_improvement_count", "_optimizer"}
# Values of a parameter that stand for its absence, in the versions that deprecate it.
_DEPRECATED = ("deprecated", "warn")


@cache
def _class_named(name: str) -> Any:
    """Return a known class by its name in files; None for another name."""
    if name in _OWN:
        return _OWN[name]
    module, _, own = name.removeprefix("sklearn.").rpartition(".")
    if not name.startswith("sklearn.") or own not in KNOWN.get(module, ()):
        return None
    return getattr(importlib.import_module(f"sklearn.{module}"), own)


@cache
def _name_of(cls: type) -> str | None:
    """Return the name of a known class in files; None for another class."""
    if cls in _OWN.values():
        return next(name for name, own in _OWN.items() if own is cls)
    for module, names in KNOWN.items():
        name = f"sklearn.{module}.{cls.__name__}"
        # Private modules are below the public one.
        if cls.__name__ in names and f"{cls.__module__}.".startswith(f"sklearn.{module}."):
            return name if _class_named(name) is cls else None
    return None


def _accepts(value: Any) -> bool:
    return (
        isinstance(value, BaseEstimator)
        and not isinstance(value, type)
        and (type(value).__module__.startswith("sklearn.") or type(value) in _OWN.values())
    )


def _encode(estimator: Any, writer: Writer) -> dict[str, Any]:
    cls: Any = type(estimator)
    name = _name_of(cls)
    node: dict[str, Any] = {"class": name, "version": sklearn.__version__}
    if name is None:
        name = f"{cls.__module__}.{cls.__qualname__}"
        node |= {"class": name, "needs": name}
    params = estimator.get_params(deep=False)
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
    plain = (bool, int, float, str, tuple, type(None))
    is_default = {
        key: key in defaults and (value is defaults[key] or _same(value, defaults[key]))
        for key, value in params.items()
    }
    if params.get("memory") is not None:
        writer.note(f"{cls.__name__}(memory=...) is None after loading")
        params["memory"] = None
    node["params"] = {
        key: writer.node(value, key)
        for key, value in params.items()
        # A default function or class would need the caller's trust.
        if not is_default[key] or isinstance(value, plain)
    }
    node["defaults"] = [key for key in params if is_default[key]]
    attributes = {
        key: value
        for key, value in vars(estimator).items()
        if key not in params and key not in _DROPPED
    }
    for key in attributes:
        if not _may_set(cls, key):
            writer.refuse(f"has the attribute {key!r}, which skood.save does not store")
    node["attributes"] = {key: writer.node(value, key) for key, value in attributes.items()}
    return node


def _same(value: Any, default: Any) -> bool:
    if type(value) is not type(default) or not isinstance(value, (bool, int, float, str, tuple)):
        return False
    # NaN is the default of SimpleImputer, for example.
    return bool(value == default or value != value)


def _may_set(cls: type, name: str) -> bool:
    try:
        check_attribute(cls, name)
    except DamagedFile:
        return False
    return True


def _decode(node: dict[str, Any], reader: Reader) -> Any:
    name = field(node, "class", str)
    version = field(node, "version", str)
    cls = reader.trusted(name) if "needs" in node else _class_named(name)
    if not isinstance(cls, type) or not issubclass(cls, BaseEstimator):
        raise DamagedFile(f"{name[:80]!r} is no estimator of scikit-learn that it can hold")
    params = {key: reader.value(value) for key, value in field(node, "params", dict).items()}
    if params.get("memory") is not None:
        # Results in that folder are unpickled.
        raise DamagedFile(f"the parameter memory of {name} is not None")
    params = _translated(cls, params, field(node, "defaults", list), version)
    made = cls(**params)
    nodes = field(node, "attributes", dict)
    if not params.keys().isdisjoint(nodes):
        raise DamagedFile(f"a parameter of {name} is an attribute, too")
    for key, value in nodes.items():
        check_attribute(cls, key)
        setattr(made, key, reader.value(value))
    _add_new_attributes(made, params)
    _check(made)
    return made


def _add_new_attributes(made: Any, params: dict[str, Any]) -> None:
    """Set the attributes that later versions of scikit-learn read, and earlier ones do not have."""
    if hasattr(made, "_n_support") and not hasattr(made, "_effective_probability"):
        made._effective_probability = params.get("probability") is True
    if hasattr(made, "_fit_dtype") and not hasattr(made, "_fill_dtype"):
        made._fill_dtype = made._fit_dtype


def _translated(
    cls: type, params: dict[str, Any], defaults: list[Any], version: str
) -> dict[str, Any]:
    """Return parameters that the installed version has; raise if one that was set is missing."""
    own = inspect.signature(cls).parameters
    kept = {}
    for key, value in params.items():
        if key not in own:
            if key in defaults:
                continue
            raise ValueError(
                f"{cls.__name__}({key}={value!r}) of scikit-learn {version} has no such parameter "
                f"in {sklearn.__version__}; install the version that wrote the file"
            )
        changed = (value, own[key].default)
        if key in defaults and any(type(v) is str and v in _DEPRECATED for v in changed):
            continue
        kept[key] = value
    return kept


def _check(made: Any) -> None:
    """Raise if compiled code would read beyond the arrays of an estimator."""
    n_features = getattr(made, "n_features_in_", None)
    tree = getattr(made, "tree_", None)
    if tree is not None and type(tree).__name__ == "Tree" and tree.n_features != n_features:
        raise DamagedFile("a decision tree reads other columns than its estimator")
    if hasattr(made, "estimators_") and isinstance(made.estimators_, list):
        columns = getattr(made, "estimators_features_", None)
        for k, part in enumerate(made.estimators_):
            if hasattr(part, "tree_"):
                expected = n_features if columns is None else len(columns[k])
                if part.tree_.n_features != expected:
                    raise DamagedFile("a decision tree reads other columns than its forest")
    if hasattr(made, "_n_support"):
        _check_support_vectors(made)


def _check_support_vectors(svm: Any) -> None:
    vectors, counts = svm.support_vectors_, svm._n_support
    n_classes = len(counts)
    n_pairs = n_classes * (n_classes - 1) // 2
    one_class = not hasattr(svm, "classes_")
    arrays = {
        "support_vectors_": ((len(svm.support_), svm.n_features_in_), np.float64),
        "support_": ((len(svm.support_),), np.int32),
        "_n_support": ((n_classes,), np.int32),
        "_dual_coef_": ((n_classes - 1, len(svm.support_)), np.float64),
        "_intercept_": ((n_pairs,), np.float64),
        "_probA": ((len(svm._probA) and n_pairs,), np.float64),
        "_probB": ((len(svm._probB) and n_pairs,), np.float64),
    }
    fits = all(
        isinstance(value := getattr(svm, name), np.ndarray)
        and value.shape == shape
        and value.dtype == dtype
        and value.flags.c_contiguous
        for name, (shape, dtype) in arrays.items()
    )
    n_vectors = counts[0] if one_class else counts.sum()
    if (
        not fits
        or svm._sparse
        or callable(svm.kernel)
        or svm.kernel == "precomputed"
        or (counts < 0).any()
        or n_vectors != len(vectors)
        or n_classes != (2 if one_class else len(svm.classes_))
    ):
        raise DamagedFile("the support vectors do not fit their coefficients")


CODECS = [Codec("sklearn", _accepts, _encode, _decode)]
