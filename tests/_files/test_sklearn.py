"""Estimators of scikit-learn in files."""

import json

import numpy as np
import pytest
import sklearn
from _files import sklearn_examples
from _files.families import LABELS, ROWS
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.random_projection import SparseRandomProjection
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import skood
from skood._files._api import _BY_TAG, _CODECS
from skood._files._codec import DamagedFile, Reader, Writer


def encoded(estimator):
    """Return the tree and the arrays of an estimator, after a trip through JSON."""
    writer = Writer(_CODECS, type(estimator).__name__)
    return json.loads(json.dumps(writer.node(estimator))), writer.arrays


def decoded(tree, arrays):
    return Reader(_BY_TAG, dict(arrays)).value(tree)


def loaded(estimator, path, **kwargs):
    skood.save(estimator, path)
    return skood.load(path, **kwargs)


@pytest.mark.parametrize("name", sklearn_examples.names())
def test_results_after_loading_have_the_same_bits(name, tmp_path):
    estimator, X = sklearn_examples.fitted(name)
    again = loaded(estimator, tmp_path / "file")
    assert type(again) is type(estimator)
    assert repr(again) == repr(estimator)
    before, after = (sklearn_examples.results(each, X) for each in (estimator, again))
    assert before
    for method, values in before.items():
        np.testing.assert_array_equal(after[method], values, err_msg=method)


def test_no_private_module_is_named(tmp_path):
    skood.save(make_pipeline(StandardScaler(), IsolationForest()).fit(ROWS), tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    assert b"sklearn.ensemble.IsolationForest" in content
    for name in (b"._iforest", b"numpy.core", b"numpy._core", b"sklearn.tree._"):
        assert name not in content


def test_an_unfitted_and_a_frozen_estimator(tmp_path):
    assert repr(loaded(KernelDensity(bandwidth=2.0), tmp_path / "a")) == (
        "KernelDensity(bandwidth=2.0)"
    )
    frozen = FrozenEstimator(KernelDensity().fit(ROWS))
    again = loaded(frozen, tmp_path / "b")
    np.testing.assert_array_equal(again.score_samples(ROWS), frozen.score_samples(ROWS))


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "chebyshev"])
def test_trees_of_neighbours(algorithm, metric, tmp_path):
    weights = np.linspace(1, 2, len(ROWS))
    density = KernelDensity(algorithm=algorithm, metric=metric, kernel="exponential")
    density.fit(ROWS, sample_weight=weights)
    again = loaded(density, tmp_path / "a")
    np.testing.assert_array_equal(again.score_samples(ROWS), density.score_samples(ROWS))
    model = NearestNeighbors(algorithm=algorithm, metric="minkowski", p=3).fit(ROWS)
    for mine, theirs in zip(
        loaded(model, tmp_path / "b").kneighbors(ROWS), model.kneighbors(ROWS), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_metric_with_values_is_refused(tmp_path):
    model = NearestNeighbors(
        algorithm="ball_tree", metric="seuclidean", metric_params={"V": np.ones(4)}
    ).fit(ROWS)
    with pytest.raises(ValueError, match=r"NearestNeighbors\._tree has the metric SEuclidean"):
        skood.save(model, tmp_path / "file")


def test_functions_need_trust(tmp_path):
    model = FunctionTransformer(np.log1p).fit(np.abs(ROWS))
    skood.save(model, tmp_path / "file")
    with pytest.raises(ValueError, match=r"numpy\.log1p"):
        skood.load(tmp_path / "file")
    again = skood.load(tmp_path / "file", trusted=[np.log1p])
    np.testing.assert_array_equal(again.transform(np.abs(ROWS)), np.log1p(np.abs(ROWS)))


def test_other_classes_need_trust(tmp_path):
    model = KMeans(2, random_state=0, n_init=1).fit(ROWS)
    skood.save(model, tmp_path / "file")
    with pytest.raises(ValueError, match="KMeans"):
        skood.load(tmp_path / "file")
    again = skood.load(tmp_path / "file", trusted=[KMeans])
    np.testing.assert_array_equal(again.predict(ROWS), model.predict(ROWS))


def test_state_that_is_not_plain_is_refused(tmp_path):
    estimator = HistGradientBoostingClassifier(max_iter=2)
    with pytest.raises(ValueError, match=r"which skood\.save does not store"):
        skood.save(estimator.fit(ROWS, LABELS), tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_folder_of_results_is_left_out(tmp_path):
    model = make_pipeline(StandardScaler(), KernelDensity(), memory=str(tmp_path / "cache"))
    again = loaded(model.fit(ROWS), tmp_path / "file")
    assert again.memory is None
    tree, arrays = encoded(model)
    tree["params"]["memory"] = "/tmp"
    with pytest.raises(DamagedFile, match="the parameter memory"):
        decoded(tree, arrays)


def test_a_parameter_that_this_version_lacks():
    tree, arrays = encoded(StandardScaler().fit(ROWS))
    tree["version"] = "9.0"
    tree["params"]["new"] = 1
    tree["defaults"].append("new")
    assert repr(decoded(tree, arrays)) == "StandardScaler()"
    tree["defaults"].remove("new")
    with pytest.raises(ValueError, match=rf"new=1.*9\.0.*{sklearn.__version__}.*install"):
        decoded(tree, arrays)


def test_a_deprecated_default_becomes_the_default_of_this_version():
    tree, arrays = encoded(StandardScaler().fit(ROWS))
    tree["params"]["with_std"] = "deprecated"
    tree["defaults"].append("with_std")
    assert decoded(tree, arrays).with_std is True


@pytest.mark.parametrize(
    "name",
    ["sklearn.datasets.fetch_openml", "sklearn.cluster.KMeans", "os.system", "sklearn.svm.x", "x"],
)
def test_other_names_are_not_imported(name):
    tree, arrays = encoded(StandardScaler())
    tree["class"] = name
    with pytest.raises(DamagedFile, match="no estimator of scikit-learn"):
        decoded(tree, arrays)


def test_attributes_do_not_replace_methods():
    tree, arrays = encoded(StandardScaler())
    tree["attributes"]["transform"] = 3
    with pytest.raises(DamagedFile, match="'transform' is not an attribute"):
        decoded(tree, arrays)


def spoiled_tree(**columns):
    """Return the encoding of a decision tree whose nodes are changed."""
    model = DecisionTreeClassifier(random_state=0).fit(ROWS, LABELS)
    tree, arrays = encoded(model)
    nodes = model.tree_.__getstate__()["nodes"].copy()
    for name, value in columns.items():
        nodes[name][0] = value
    made, more = encoded(make_pipeline(FunctionTransformer(kw_args={"nodes": nodes})))
    stored = made["params"]["steps"]["items"][0]["items"][1]["params"]["kw_args"]["items"][0][1]
    tree["attributes"]["tree_"]["nodes"] = stored
    return tree, {**arrays, **more}


@pytest.mark.parametrize(
    "columns",
    [
        {"left_child": 10**6},
        {"left_child": 0},
        {"left_child": -5},
        {"right_child": 1},
        {"feature": 4},
        {"feature": -1},
        {"left_child": -1},
    ],
)
def test_nodes_that_are_no_tree(columns):
    with pytest.raises(DamagedFile, match="no tree"):
        decoded(*spoiled_tree(**columns))


def test_an_unchanged_tree_is_accepted():
    assert decoded(*spoiled_tree()).predict(ROWS).tolist() == LABELS.tolist()


def test_a_tree_of_other_columns():
    tree, arrays = encoded(DecisionTreeClassifier(random_state=0).fit(ROWS, LABELS))
    tree["attributes"]["n_features_in_"] = 2
    with pytest.raises(DamagedFile, match="reads other columns than its estimator"):
        decoded(tree, arrays)
    tree, arrays = encoded(IsolationForest(n_estimators=2, random_state=0).fit(ROWS))
    tree["attributes"]["n_features_in_"] = 2
    del tree["attributes"]["estimators_features_"]
    with pytest.raises(DamagedFile, match="reads other columns than its forest"):
        decoded(tree, arrays)


@pytest.mark.parametrize(
    ("part", "position", "value"),
    [("indptr", 3, -(2**31)), ("indptr", -1, 99), ("indptr", 0, 1), ("indices", 0, 4)],
)
def test_indices_of_a_sparse_matrix(part, position, value):
    model = SparseRandomProjection(3, density=0.5, random_state=0).fit(ROWS)
    getattr(model.components_, part)[position] = value
    tree, arrays = encoded(model)
    with pytest.raises(DamagedFile, match="sparse matrix"):
        decoded(tree, arrays)


@pytest.mark.parametrize("name", ["n_features_in_", "shape_fit_", "kernel"])
def test_support_vectors_that_do_not_fit(name):
    tree, arrays = encoded(SVC().fit(ROWS, LABELS))
    spoiled = {"n_features_in_": 9, "shape_fit_": None, "kernel": "precomputed"}[name]
    tree["params" if name == "kernel" else "attributes"][name] = spoiled
    if name == "shape_fit_":
        tree["attributes"]["dual_coef_"], tree["attributes"]["_dual_coef_"] = (
            tree["attributes"]["_dual_coef_"],
            tree["attributes"]["support_vectors_"],
        )
    with pytest.raises(DamagedFile):
        decoded(tree, arrays)
