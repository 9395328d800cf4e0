"""What `recommend` compares, chooses, calibrates and refuses."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn
from torch.utils.data import Dataset

import skood
from skood import GMM, KNN, MSP, ODIN, Energy, Mahalanobis, posthoc, recommend
from skood._data.validation import share_as_it_came
from skood._recommendation._candidates import situation_of
from skood._recommendation._criteria import KINDS, KINDS_OF_IMAGES
from skood.datasets._synthetic import _FOR_ALL, _KINDS

QUICK = {"n_resamples": 20, "random_state": 0, "verbose": 0}


def clusters(n=300, n_classes=3, d=4, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return rng.normal(size=(n, d)) + 6 * np.eye(n_classes, d)[y], y


@pytest.fixture(scope="module")
def rows():
    return clusters()


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = rng.random((120, 1, 8, 8), dtype=np.float32) * 0.5
    X[np.arange(120), 0, y] += 0.5
    return X, y


def network(n_classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3)
    ).eval()


def names(found):
    return [row["detector"] for row in found.rows if row["excluded"] is None]


def reason(found, name):
    return {row["detector"]: row["excluded"] for row in found.rows}[name]


def test_the_kinds_are_all_kinds_of_synthetic_outliers():
    assert set(KINDS) == set(_FOR_ALL)
    assert set(KINDS_OF_IMAGES) == set(_KINDS)


def test_a_table_with_labels(rows):
    X, y = rows
    found = recommend(None, pd.DataFrame(X, columns=list("abcd")), y, **QUICK)
    assert found.choice_ == "GMM" == next(r["detector"] for r in found.rows if r["chosen"])
    assert {"KNN", "RelativeMahalanobis", "Mahalanobis", "IsolationForest"} <= set(names(found))
    assert found.criteria["classes"] == found.criteria["synthetic"] == "used"
    sets = {row["set"] for row in found.by_set}
    assert sets == {"without 0", "without 1", "without 2", *KINDS}
    assert "reads logits" in reason(found, "MSP")
    # The columns of the data frame are checked.
    new = pd.DataFrame(X[:3], columns=list("abcd"))
    assert (found.detector_.predict(new) == 1).all()
    with pytest.raises(ValueError, match="feature names"):
        found.detector_.predict(new.rename(columns={"a": "z"}))


def test_a_table_without_labels(rows):
    found = recommend(None, rows[0], **QUICK)
    assert found.choice_ == "LocalOutlierFactor"
    assert found.criteria["classes"] == "needs class labels; give y"
    assert "give y" in reason(found, "RelativeMahalanobis")
    assert {row["criterion"] for row in found.by_set} == {"synthetic"}


def test_parts_are_disjoint_and_calibration_rows_serve_nothing_else(rows):
    X, y = rows
    seen = []

    class Recorder(BaseEstimator):
        def fit(self, X, y=None):
            seen.append(("fit", X.copy()))
            return self

        def score_samples(self, X):
            seen.append(("score", X.copy()))
            return -np.square(X).sum(1)

    found = recommend(None, X, y, candidates={"a": Recorder()}, **QUICK)
    assert found.n_rows == {"training": 180, "ranking": 60, "calibration": 60}
    before = {row.tobytes() for _, part in seen[:-1] for row in part}
    calibration = {row.tobytes() for row in seen[-1][1]}
    assert len(calibration) == 60
    assert not calibration & before
    scores = np.sort(-np.square(seen[-1][1]).sum(1))
    np.testing.assert_allclose(found.detector_.calibration_scores_[0], scores)
    fitted = {row.tobytes() for kind, part in seen if kind == "fit" for row in part}
    assert len(fitted) == 180


def test_a_class_left_out_is_in_no_fit(rows):
    X, y = rows
    fits = []

    class Recorder(BaseEstimator):
        def fit(self, X, y=None):
            fits.append(set(np.unique(y)))
            return self

        def score_samples(self, X):
            return -np.square(X).sum(1)

    recommend(None, X, y, candidates=[Recorder()], criteria=["classes"], **QUICK)
    assert fits == [{0, 1, 2}, {1, 2}, {0, 2}, {0, 1}]


def test_scores_of_a_trained_network_come_from_one_pass(images):
    X, y = images
    seen = []
    module = network()
    module[0].register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    recommend(module, X, y, X_held_out=X[:80] + 0.01, candidates=[MSP()], **QUICK)
    alone = sum(seen)
    seen.clear()
    found = recommend(module, X, y, X_held_out=X[:80] + 0.01, **QUICK)
    assert len(names(found)) > 15
    # Detectors also look at a few items to find out how the network is read.
    assert sum(seen) - alone <= 120
    assert {"synthetic": "used"}.items() <= found.criteria.items()
    assert "trained already" in found.criteria["classes"]
    assert "candidates=" in reason(found, "ODIN")
    assert {row["set"] for row in found.by_set} == set(KINDS_OF_IMAGES)
    assert found.detector_.predict(X[:2]).shape == (2,)
    assert all(row["ms_per_item"] > 0 for row in found.rows if row["excluded"] is None)


def test_a_trained_model_needs_rows_that_it_has_not_seen(images):
    with pytest.warns(UserWarning, match="X_held_out"):
        recommend(network(), *images, candidates=[MSP()], **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recommend(network(), *images, X_held_out=images[0][:60] + 0.01, candidates=[MSP()], **QUICK)


def test_an_untrained_classifier_is_trained_without_classes(rows):
    fits = []

    class Recorded(LogisticRegression):
        def fit(self, X, y):
            fits.append(set(np.unique(y).tolist()))
            return super().fit(X, y)

    found = recommend(Recorded(), *rows, candidates=[MSP(), Energy()], **QUICK)
    assert fits == [{0, 1, 2}, {1, 2}, {0, 2}, {0, 1}]
    assert found.criteria["classes"] == "used"


def test_probabilities_alone(rows):
    X, y = rows
    found = recommend(RandomForestClassifier(5), X, y, criteria=["synthetic"], **QUICK)
    assert found.choice_ == "MSP"
    assert "only probabilities" in reason(found, "Energy")
    assert {"GEN", "Entropy", "KNN", "Mahalanobis"} <= set(names(found))
    assert found.detector_.predict_class(X[:2]).shape == (2,)
    logits = recommend(LogisticRegression(), X, y, criteria=["synthetic"], **QUICK)
    assert "Energy" in names(logits)


def test_columns_that_are_no_numbers(rows):
    X, y = rows
    frame = pd.DataFrame({"a": np.where(X[:, 0] > 3, "high", "low"), "b": y.astype(str)})
    encoder = OneHotEncoder(handle_unknown="ignore")
    model = FrozenEstimator(make_pipeline(encoder, LogisticRegression()).fit(frame, y))
    found = recommend(model, frame, y, X_held_out=frame, **QUICK)
    assert found.criteria["synthetic"] == "used"
    assert "MSP" in names(found)
    others = pd.DataFrame({"a": ["low"] * 40, "b": ["7"] * 40})
    found = recommend(model, frame, y, X_held_out=frame, outliers=others, **QUICK)
    assert found.criteria["outliers"] == "used"
    assert "MSP" in names(found)


@pytest.fixture(scope="module")
def table():
    """A frame with a category on which the numbers depend, a missing number, and its encoder."""
    X, y = clusters()
    frame = pd.DataFrame(X[:, :3], columns=list("abc"))
    frame["kind"] = np.array(["red", "green", "blue"])[y]
    frame.loc[5, "a"] = np.nan
    encoder = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["a", "b", "c"]),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["kind"]),
    )
    return frame, encoder, y


@pytest.mark.parametrize("fitted", [False, True])
def test_an_encoder_of_a_table(table, rows, fitted):
    frame, encoder, y = table
    model = FrozenEstimator(clone(encoder).fit(frame)) if fitted else encoder
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = recommend(model, frame, y, **QUICK)
    # The same detectors and the same choice as for rows of numbers.
    on_rows = recommend(None, *rows, **QUICK)
    assert sorted(names(found)) == sorted(names(on_rows))
    assert found.choice_ == on_rows.choice_ == "GMM"
    assert found.criteria["classes"] == found.criteria["synthetic"] == "used"
    assert {row["set"] for row in found.by_set if row["criterion"] == "synthetic"} == set(KINDS)
    odd = frame[:30].assign(kind="green", b=frame["b"][:30] + 40)
    assert (found.detector_.predict(odd) == -1).all()
    assert np.mean(found.detector_.predict(frame) == 1) > 0.85


def test_a_network_behind_an_encoder_makes_features(table):
    frame, encoder, y = table
    extractor = skood.FeatureExtractor(nn.Linear(6, 4))
    data = share_as_it_came(frame)
    assert situation_of(make_pipeline(encoder, extractor), data, y).kind == "features"
    assert situation_of(make_pipeline(encoder), data, y).kind == "table"


def test_an_encoder_without_labels_and_own_candidates(table):
    frame, encoder, _ = table
    assert recommend(encoder, frame, **QUICK).choice_ == "LocalOutlierFactor"
    found = recommend(encoder, frame, candidates=[KNN(), IsolationForest()], **QUICK)
    assert sorted(names(found)) == ["IsolationForest", "KNN"]


def test_an_encoder_that_refuses_categories(table):
    frame, encoder, y = table
    strict = clone(encoder).set_params(onehotencoder__handle_unknown="error")
    with pytest.raises(ValueError, match=r"KNN, .*IsolationForest.*: Found unknown categories"):
        recommend(strict, frame, y, **QUICK)


def test_a_table_without_its_encoder(table):
    frame, _, _ = table
    with pytest.raises(ValueError, match=r"column 'kind'.*the encoder is the model"):
        recommend(None, frame, **QUICK)


def test_real_outliers_rank_and_others_measure(rows):
    X, y = rows
    outliers = np.random.default_rng(1).normal([0, 0, 0, 6], size=(60, 4))
    seen = []

    class Recorder(BaseEstimator):
        def fit(self, X, y=None):
            return self

        def score_samples(self, X):
            seen.append(X.copy())
            return -X[:, 3]

    others = {"up": Recorder(), "KNN": KNN(n_neighbors=5), "const": Constant()}
    found = recommend(None, X, y, outliers=outliers, candidates=others, **QUICK)
    assert found.choice_ == names(found)[0]
    assert reason(found, "const") == "gives all 60 ranking rows the same score"
    assert found.criteria["synthetic"] == "not needed with real outliers"
    assert found.outliers_auroc_["low"] <= found.outliers_auroc_["auroc"]
    known = {row.tobytes() for row in outliers}
    used = [{row.tobytes() for row in part} & known for part in seen]
    used = [part for part in used if part]
    assert len(used[0]) == 30
    if len(used) > 1:
        assert not used[0] & used[1]
    # Outliers are also given as rows with y == -1.
    mixed = np.concatenate([X, outliers])
    labelled = np.append(y, np.full(60, -1))
    again = recommend(None, mixed, labelled, candidates=others, **QUICK)
    assert again.criteria["outliers"] == "used"
    assert again.n_rows == found.n_rows
    with pytest.raises(ValueError, match="in one way"):
        recommend(None, mixed, labelled, outliers=outliers, **QUICK)


class Constant(BaseEstimator):
    def fit(self, X, y=None):
        return self

    def score_samples(self, X):
        return np.zeros(len(X))


def test_choices(rows):
    X, y = rows
    given = {"GMM": GMM(), "Mahalanobis": Mahalanobis(), "KNN": KNN(n_neighbors=5)}
    by_name = recommend(None, X, y, candidates=given, choice="GMM", **QUICK)
    assert by_name.choice_ == "GMM"
    measured = recommend(None, X, y, candidates=given, choice="measured", **QUICK)
    assert measured.choice_ == names(measured)[0]
    fixed = recommend(None, X, y, candidates=given, outliers=X + 9, choice="fixed", **QUICK)
    assert fixed.choice_ == "GMM"
    on_embeddings = recommend(None, X, y, candidates=given, embeddings=True, **QUICK)
    assert on_embeddings.choice_ == "KNN"
    without = recommend(None, X, y, candidates=[Mahalanobis(), KNN(n_neighbors=5)], **QUICK)
    assert "was not compared" in without.reason_
    with pytest.raises(ValueError, match="choice='flat' was not compared: gives all 60"):
        recommend(None, X, y, candidates={**given, "flat": Constant()}, choice="flat", **QUICK)
    with pytest.raises(ValueError, match="choice='best'"):
        recommend(None, X, y, candidates=given, choice="best", **QUICK)


def test_given_candidates_get_the_model(images):
    found = recommend(
        network(),
        *images,
        X_held_out=images[0][:60] + 0.01,
        candidates=[ODIN(), KNN(n_neighbors=3), KNN(n_neighbors=5)],
        **QUICK,
    )
    assert set(names(found)) == {"ODIN", "KNN", "KNN 2"}
    assert "KNN" in names(found)


def test_a_dataset_of_images_and_a_module_without_a_head(images):
    class Pairs(Dataset):
        def __len__(self):
            return 120

        def __getitem__(self, i):
            return torch.from_numpy(images[0][i]), int(images[1][i])

    trunk = network()[:5]
    found = recommend(skood.FeatureExtractor(trunk), Pairs(), X_held_out=images[0], **QUICK)
    assert found.choice_ == names(found)[0]
    assert found.reason_ == "first in the order on synthetic outliers"
    assert "RelativeMahalanobis" in names(found)
    assert "no classifier" in reason(found, "MSP")
    with pytest.warns(UserWarning, match="is taken for the feature"):
        bare = recommend(trunk, Pairs(), X_held_out=images[0], **QUICK)
    assert names(bare) == names(found)
    # With as many outputs as classes, the outputs of an unknown last layer are logits.
    logits = nn.Sequential(*network(), nn.Tanh())
    assert "MSP" in names(recommend(logits, Pairs(), X_held_out=images[0], **QUICK))


def test_a_transformer_makes_features(rows):
    X, y = rows
    found = recommend(PCA(3), X, y, candidates=[KNN(n_neighbors=5)], **QUICK)
    assert found.criteria["classes"] == "used"
    assert found.detector_.predict(X[:2]).shape == (2,)


def test_embeddings_are_scaled_to_length_one(rows):
    X, y = rows
    found = recommend(None, X, y, embeddings=True, choice="KNN", **QUICK)
    far = found.detector_.score_samples(X[:5])
    np.testing.assert_allclose(found.detector_.score_samples(3 * X[:5]), far, atol=1e-6)


def test_the_same_seed_gives_the_same_result(rows):
    given = {"KNN": KNN(n_neighbors=5), "forest": IsolationForest(n_estimators=5)}
    first, second = (recommend(None, *rows, candidates=given, **QUICK) for _ in range(2))
    assert names(first) == names(second)
    assert first.by_set == second.by_set
    assert (first.detector_.calibration_scores_[0] == second.detector_.calibration_scores_[0]).all()


def test_the_false_alarm_rate_of_the_chosen_detector():
    # Mean over 40 calibration sets of 60 rows; P(p <= alpha) = floor(61 alpha) / 61 = 6 / 61.
    rates = []
    for seed in range(40):
        X, _ = clusters(1300, d=2, n_classes=2, seed=seed)
        found = recommend(
            None,
            X[:300],
            candidates=[KNN(n_neighbors=5), Mahalanobis()],
            choice="measured",
            alpha=0.1,
            n_resamples=1,
            random_state=seed,
            verbose=0,
        )
        rates.append(np.mean(found.detector_.predict(X[300:]) == -1))
    # The rate of a set is Beta(6, 55), and 1 000 rows measure it.
    expected = 6 / 61
    deviation = np.sqrt(expected * (1 - expected) * (1 / 62 + 1 / 1000) / 40)
    assert abs(np.mean(rates) - expected) < 4 * deviation


def test_representations(rows):
    found = recommend(None, *rows, **QUICK)
    text = repr(found)
    assert text.startswith("Recommendation: GMM\nrank  detector")
    assert "chosen" in text and "not compared: " in text and "180 training" in text
    html = found._repr_html_()
    assert html.count("<tr") == 1 + len(names(found))
    assert html.count("<b>") == 1 + html.count("<th ")
    frame = found.to_frame()
    assert len(frame) == len(found.rows)
    assert frame["excluded"].isna().sum() == len(names(found))
    listed = {row["detector"] for row in found.rows}
    assert {name for name in posthoc.__all__ if hasattr(getattr(posthoc, name), "fit")} - {
        "ClassifierDetector",
        "ConceptDetector",
        "FeatureDetector",
        "NetworkDetector",
        "OutputsDetector",
    } <= listed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.zeros((99, 4))}, "alpha=0.05 needs 20 for each. Give at least 100 rows"),
        ({"X": np.zeros((100, 4)), "alpha": 0.01}, "needs 99 for each. Give at least 495"),
        ({"outliers": np.zeros((39, 4))}, "39 outliers are too few"),
        ({"outliers": np.zeros((50, 5))}, "same shape"),
        ({"X_held_out": np.zeros((50, 5))}, "same shape"),
        ({"X": np.zeros((100, 8, 8))}, "model is None; expected rows"),
        ({"X": {"ids": np.zeros((100, 8))}, "y": None}, "model is None; expected rows"),
        ({"X": ["a text"] * 100, "y": None}, "model is None; expected rows"),
        ({"X": np.full((100, 4), np.nan)}, "NaN"),
        ({"criteria": ["classes"], "y": None}, "needs class labels; give y"),
        ({"criteria": "classes"}, "expected a list of some of"),
        ({"criteria": ["outliers"]}, "none are given"),
        ({"candidates": []}, "candidates is empty"),
        ({"alpha": 5}, "alpha=5"),
        ({"max_rows": 3}, "max_rows=3"),
        ({"n_resamples": 0}, "n_resamples=0"),
        ({"model": LogisticRegression(), "y": None}, "give class labels"),
    ],
)
def test_clear_errors(rows, change, message):
    given = {"model": None, "X": rows[0], "y": rows[1], **QUICK, **change}
    if len(given["X"]) != 300 and given["y"] is not None:
        given["y"] = given["y"][: len(given["X"])]
    with pytest.raises(ValueError, match=message):
        recommend(given.pop("model"), given.pop("X"), given.pop("y"), **given)


def test_errors_of_models(rows):
    with pytest.raises(TypeError, match="expected a torch module"):
        recommend(object(), *rows, **QUICK)
    with pytest.raises(TypeError, match="lacks fit or score_samples"):
        recommend(None, *rows, candidates={"a": 3}, **QUICK)
    with pytest.raises(NotFittedError, match="not fitted"):
        recommend(FrozenEstimator(LogisticRegression()), *rows, **QUICK)
    forest = FrozenEstimator(RandomForestClassifier(3).fit(*rows))
    with pytest.raises(ValueError, match="no detector fits the model and X"):
        recommend(None, *rows, candidates=[Energy(forest)], **QUICK)


def test_rows_that_look_like_probabilities(rows):
    proba = np.random.default_rng(0).dirichlet(np.ones(3), size=200)
    with pytest.warns(UserWarning, match="as class probabilities do"):
        recommend(None, proba, candidates=[KNN(n_neighbors=5)], **QUICK)
