"""Intervals, tests, groups, shifted sets, seeds and forms of the table."""

import pickle

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skood
from skood import ExternalDetector, evaluate
from skood.evaluation import Evaluation, Table
from skood.inspection import EvaluationDisplay
from skood.metrics import (
    auroc,
    bootstrap_test,
    ccr_at_fpr,
    delong_test,
    fpr_at_tpr,
    open_set_f1,
    oscr,
)


class Column(BaseEstimator):
    """A score that is a column of X; sign of another column as the class."""

    def __init__(self, column=0, classifies=False, offset=0.0):
        self.column = column
        self.classifies = classifies
        self.offset = offset

    def fit(self, X, y=None):
        self.offset_ = self.offset
        if self.classifies:
            self.classes_ = np.array([0, 1])
        return self

    def score_samples(self, X):
        return np.asarray(X, dtype=float)[:, self.column]

    def __sklearn_is_fitted__(self):
        return hasattr(self, "offset_")


class Classifying(Column):
    def predict_proba(self, X):
        second = (np.asarray(X)[:, -1] > 0).astype(float)
        return np.stack([1 - second, second], axis=1)


@pytest.fixture(scope="module")
def sets():
    rng = np.random.default_rng(0)

    def rows(n, mean):
        common = rng.normal(size=n) + mean
        columns = [common + scale * rng.normal(size=n) for scale in (0.5, 0.6, 8.0)]
        return np.stack([*columns, rng.normal(size=n)], axis=1)

    return {
        "id": rows(60, 1.5),
        "near": rows(40, 0.5),
        "far": rows(30, -1.0),
        "blurred": rows(25, 0.8),
    }


@pytest.fixture(scope="module")
def ood(sets):
    return {name: sets[name] for name in ("near", "far")}


@pytest.fixture(scope="module")
def detectors(sets):
    found = {f"column {i}": Column(i).fit(sets["id"]) for i in range(3)}
    return found


@pytest.fixture(scope="module")
def labelled(sets):
    rng = np.random.default_rng(1)
    return {
        name: np.where(rng.random(len(X)) < 0.8, X[:, -1] > 0, X[:, -1] <= 0).astype(int)
        for name, X in sets.items()
    }


def truth(inside, outside):
    return np.repeat([1, -1], [len(inside), len(outside)])


def test_intervals_share_resamples(detectors, sets, ood):
    twice = {"a": detectors["column 0"], "b": detectors["column 0"], "c": detectors["column 1"]}
    metrics = ["auroc", "fpr95"]
    table = evaluate(
        twice, sets["id"], ood, metrics=metrics, confidence=0.9, n_resamples=50, random_state=0
    )
    assert {k: v for k, v in table[0].items() if k not in ("detector", "seconds")} == {
        k: v for k, v in table[2].items() if k not in ("detector", "seconds")
    }
    for row in table:
        for metric in metrics:
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
    assert table.confidence == 0.9
    # Against metrics of drawn rows.
    rng = np.random.default_rng(0)
    values = []
    for _ in range(50):
        rows = [rng.integers(n, size=n) for n in (60, 40, 30)]
        inside, outside = sets["id"][rows[0], 0], sets["near"][rows[1], 0]
        values.append(auroc(truth(inside, outside), np.append(inside, outside)))
    expected = np.quantile(values, [0.05, 0.95])
    assert [table[0]["auroc_low"], table[0]["auroc_high"]] == pytest.approx(expected.tolist())
    assert "0." in str(table) and "[" in str(table)
    assert "auroc_low" not in str(table)


def test_metrics_of_open_set_classification(sets, ood, labelled):
    metrics = ["auroc", "oscr", "ccr", "f1"]
    found = {
        "classes": Classifying(0, classifies=True, offset=0.7).fit(sets["id"]),
        "none": Column(0).fit(sets["id"]),
    }
    table = evaluate(found, sets["id"], ood, labelled["id"], metrics=metrics)
    inside, outside = sets["id"], sets["far"]
    y_true = np.append(labelled["id"], np.full(30, -1))
    y_score = np.append(inside[:, 0], outside[:, 0])
    y_pred = np.append(inside[:, -1] > 0, outside[:, -1] > 0).astype(int)
    row = table[1]
    assert row["oscr"] == pytest.approx(oscr(y_true, y_pred, y_score))
    assert row["ccr"] == pytest.approx(ccr_at_fpr(y_true, y_pred, y_score))
    decided = np.where(y_score >= 0.7, y_pred, -1)
    assert row["f1"] == pytest.approx(open_set_f1(y_true, decided))
    assert row["id_accuracy"] == np.mean(y_pred[:60] == labelled["id"])
    assert "oscr" not in table[3] and "f1" not in table[3] and "auroc" in table[3]
    with pytest.raises(ValueError, match="no detector 'none' with 'oscr'"):
        table.compare("classes", "none", "oscr")
    with pytest.raises(ValueError, match="expected the labels of X_id as y_id"):
        evaluate(found, sets["id"], ood, metrics=metrics)
    with pytest.raises(ValueError, match="no detector has the metric 'oscr'"):
        evaluate({"none": found["none"]}, sets["id"], ood, labelled["id"], metrics=metrics)
    with pytest.raises(ValueError, match="y_id has dtype <U"):
        evaluate(found, sets["id"], ood, labelled["id"].astype(str))


def test_string_labels(sets, ood, labelled):
    names = np.array(["cat", "dog"])
    X, y = sets["id"], names[labelled["id"]]
    detector = skood.MSP(FrozenEstimator(LogisticRegression().fit(X, y))).fit(X, y)
    row, _ = evaluate([detector], X, ood, y, metrics=["f1", "oscr"])
    decided = [detector.predict_class(rows) for rows in (X, ood["near"])]
    expected = open_set_f1(np.append(y, np.full(40, "-1")), np.concatenate(decided))
    assert row["f1"] == pytest.approx(expected)


def test_groups(detectors, sets, ood):
    table = evaluate(
        detectors,
        sets["id"],
        ood,
        groups={"all": ["near", "far"], "only": ["far"]},
        confidence=0.95,
        n_resamples=40,
        random_state=0,
    )
    near, far, every, only = table[:4]
    assert every["ood_set"] == "all"
    assert every["auroc"] == pytest.approx((near["auroc"] + far["auroc"]) / 2)
    assert every["ood_accepted"] == pytest.approx((near["ood_accepted"] + far["ood_accepted"]) / 2)
    assert (every["n_ood"], every["n_sets"], only["n_sets"]) == (70, 2, 1)
    for key in ("auroc", "fpr95", "auroc_low", "auroc_high"):
        assert only[key] == pytest.approx(far[key])
    # An interval of the mean is narrower than the mean of the intervals, but not the narrowest.
    width = [row["auroc_high"] - row["auroc_low"] for row in (near, far, every)]
    assert width[2] < max(width)
    assert EvaluationDisplay.from_table(table).ood_sets == ["near", "far", "all", "only"]
    tests = {row["ood_set"]: row for row in table.compare("column 0", "column 2")}
    assert tests["only"]["p_value"] == pytest.approx(tests["far"]["p_value"])
    assert tests["all"]["difference"] == pytest.approx(
        (tests["near"]["difference"] + tests["far"]["difference"]) / 2
    )


def test_shifted_sets_count_as_in_distribution(sets, ood, labelled):
    detector = Classifying(0, classifies=True, offset=0.7).fit(sets["id"])
    table = evaluate(
        {"one": detector},
        sets["id"],
        ood,
        labelled["id"],
        metrics=["auroc", "fpr95", "oscr", "f1"],
        shifted_id={"blurred": sets["blurred"]},
        y_shifted={"blurred": labelled["blurred"]},
        confidence=0.9,
        n_resamples=20,
        random_state=0,
    )
    inside = np.concatenate([sets["id"], sets["blurred"]])
    outside = sets["near"]
    y_score = np.append(inside[:, 0], outside[:, 0])
    row = table[0]
    assert row["auroc_full_spectrum"] == auroc(truth(inside, outside), y_score)
    assert row["fpr95_full_spectrum"] == fpr_at_tpr(truth(inside, outside), y_score)
    assert row["auroc"] == auroc(
        truth(sets["id"], outside), np.append(sets["id"][:, 0], outside[:, 0])
    )
    assert row["blurred_accepted"] == np.mean(sets["blurred"][:, 0] >= 0.7)
    predicted = (np.append(inside[:, -1], outside[:, -1]) > 0).astype(int)
    y_true = np.concatenate([labelled["id"], labelled["blurred"], np.full(40, -1)])
    assert row["blurred_accuracy"] == np.mean(predicted[60:85] == labelled["blurred"])
    assert row["oscr_full_spectrum"] == pytest.approx(oscr(y_true, predicted, y_score))
    decided = np.where(y_score >= 0.7, predicted, -1)
    assert row["f1_full_spectrum"] == pytest.approx(open_set_f1(y_true, decided))
    low, high = row["auroc_full_spectrum_low"], row["auroc_full_spectrum_high"]
    assert low < row["auroc_full_spectrum"] < high
    assert list(table.shifted_scores["one"]) == ["blurred"]
    # Without the labels of the shifted set, its classes are not measured.
    row, _ = evaluate(
        {"one": detector},
        sets["id"],
        ood,
        labelled["id"],
        metrics=["auroc", "oscr"],
        shifted_id={"blurred": sets["blurred"]},
    )
    assert "oscr_full_spectrum" not in row and "blurred_accuracy" not in row
    assert {"oscr", "auroc_full_spectrum"} <= set(row)


def test_full_spectrum_is_tested_with_all_id_rows(detectors, sets, ood):
    table = evaluate(
        detectors, sets["id"], ood, shifted_id={"blurred": sets["blurred"]}, random_state=0
    )
    inside = np.concatenate([sets["id"], sets["blurred"]])
    scores = [np.append(inside[:, k], ood["near"][:, k]) for k in (0, 1)]
    expected = delong_test(truth(inside, ood["near"]), *scores)
    found = table.compare("column 0", "column 1", "auroc_full_spectrum")[0]
    assert found["p_value"] == pytest.approx(expected.p_value)


def test_comparisons(detectors, sets, ood):
    table = evaluate(detectors, sets["id"], ood, n_resamples=60, random_state=3)
    scores = [np.append(sets["id"][:, k], ood["near"][:, k]) for k in (0, 1)]
    y_true = truth(sets["id"], ood["near"])
    row = table.compare("column 0", "column 1")[0]
    expected = delong_test(y_true, *scores)
    found = [row[k] for k in ("difference", "difference_low", "difference_high", "p_value")]
    assert found == pytest.approx(list(expected))
    # One set alone, so that the resamples are the same.
    alone = evaluate(detectors, sets["id"], {"near": ood["near"]}, n_resamples=60, random_state=3)
    row = alone.compare("column 0", "column 1", "fpr95")[0]
    expected = bootstrap_test(fpr_at_tpr, y_true, *scores, n_resamples=60, random_state=3)
    found = [row[k] for k in ("difference", "difference_low", "difference_high", "p_value")]
    assert found == pytest.approx(list(expected))
    pairs = table.compare()
    assert len(pairs) == 6
    near = [row for row in pairs if row["ood_set"] == "near"]
    smallest = min(near, key=lambda row: row["p_value"])
    assert smallest["p_adjusted"] == pytest.approx(min(1, 3 * smallest["p_value"]))
    assert [row["other"] for row in table.compare("column 1")[:2]] == ["column 0", "column 2"]
    assert "p_adjusted" in str(pairs)


def test_best_is_bold_only_if_supported(detectors, sets, ood):
    table = evaluate(detectors, sets["id"], ood, confidence=0.95, n_resamples=200, random_state=0)
    best = {row["ood_set"]: row for row in table.best()}
    # Columns 0 and 1 differ by noise.
    assert best["near"]["detector"] in ("column 0", "column 1")
    assert not best["near"]["supported"]
    assert r"\textbf" not in table.to_latex()
    few = {name: detectors[name] for name in ("column 0", "column 2")}
    clear = evaluate(few, sets["id"], ood, confidence=0.95, n_resamples=200, random_state=0)
    (row, _) = clear.best()
    assert row["supported"]
    assert row["p_value"] == clear.compare()[0]["p_value"]
    first, *_ = (line for line in clear.to_latex().splitlines() if line.startswith("column 0"))
    assert first.startswith(rf"column 0 & \textbf{{{row['auroc']:.3f} [")
    assert clear._repr_html_().count("<b>") >= 2
    falling = clear.best("fpr95")[0]
    assert falling["fpr95"] == min(row["fpr95"] for row in clear if row["ood_set"] == "near")
    # Without a level there are no bold figures.
    plain = evaluate(few, sets["id"], ood)
    assert "<b>" not in plain._repr_html_()
    assert plain.best()[0]["supported"]


def test_one_detector_is_never_best(detectors, sets, ood):
    table = evaluate({"one": detectors["column 0"]}, sets["id"], ood, confidence=0.9, n_resamples=9)
    assert not table.best()[0]["supported"]
    with pytest.raises(ValueError, match="expected two different ones"):
        table.compare()


def test_wide_and_latex(detectors, sets, ood):
    table = evaluate(detectors, sets["id"], {"a_b & c": ood["near"], "far": ood["far"]})
    wide = table.wide("fpr95")
    assert [list(row) for row in wide] == [["detector", "a_b & c", "far"]] * 3
    assert wide[1]["far"] == table[3]["fpr95"]
    lines = table.to_latex("fpr95", digits=2).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r"detector & a\_b \& c & far \\"
    assert lines[4].startswith(f"column 0 & {table[0]['fpr95']:.2f} & ")
    assert lines[-1] == r"\end{tabular}"
    assert "&amp;" in table._repr_html_()
    with pytest.raises(ValueError, match="no row of the table has metric='oscr'"):
        table.wide("oscr")


def test_scores_are_kept(detectors, sets, ood):
    table = evaluate(detectors, sets["id"], ood)
    assert list(table.scores["column 1"]) == ["id", "near", "far"]
    np.testing.assert_array_equal(table.scores["column 1"]["far"], ood["far"][:, 1])
    again = pickle.loads(pickle.dumps(table))
    assert again == table
    assert again.compare()[0] == table.compare()[0]
    # No data are kept.
    assert len(pickle.dumps(table)) < 40 * sum(map(len, sets.values())) * 3 * 4


def test_seeds(sets, ood):
    forest = make_pipeline(StandardScaler(), IsolationForest(n_estimators=3))
    found = {"forest": forest, "fixed": Column(0)}
    table = evaluate(
        found,
        sets["id"],
        ood,
        X_train=sets["id"],
        seeds=[0, 1, 2],
        confidence=0.9,
        n_resamples=20,
        random_state=0,
    )
    single = [
        make_pipeline(StandardScaler(), IsolationForest(n_estimators=3, random_state=seed))
        .fit(sets["id"])
        .score_samples(ood["near"])
        for seed in range(3)
    ]
    np.testing.assert_allclose(table.scores["forest"]["near"], single)
    assert forest[-1].random_state is None
    values = [
        auroc(truth(i, o), np.append(i, o))
        for i, o in zip(table.scores["forest"]["id"], single, strict=True)
    ]
    row = table[0]
    assert row["auroc"] == pytest.approx(np.mean(values))
    assert row["auroc_std"] == pytest.approx(np.std(values, ddof=1))
    assert row["n_seeds"] == 3
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert table[2]["auroc_std"] == 0
    assert "±" in str(table) and r"$\pm$" in table.to_latex()
    assert len(table.compare()) == 2
    with pytest.raises(ValueError, match="seeds were given without X_train"):
        evaluate(found, sets["id"], ood, seeds=[0])
    with pytest.raises(ValueError, match=r"such as range\(3\)"):
        evaluate(found, sets["id"], ood, X_train=sets["id"], seeds=3)
    with pytest.raises(ValueError, match="each of them once"):
        evaluate(found, sets["id"], ood, X_train=sets["id"], seeds=[1, 1])


def test_seeds_reach_models_inside(sets, ood):
    detector = skood.MSP(skood.MLP((4,), max_epochs=1))
    y = (sets["id"][:, 0] > 0).astype(int)
    kwargs = {"X_train": sets["id"], "y_train": y}
    scores = [
        evaluate({"a": detector}, sets["id"], ood, seeds=[seed], **kwargs).scores["a"]["near"]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(scores[0], scores[1])
    assert np.any(scores[0] != scores[2])


def test_other_libraries_and_own_metrics(sets, ood):
    named = {
        "ours": skood.KNN(n_neighbors=3, normalize=False),
        "theirs": ExternalDetector(IsolationForest(n_estimators=5, random_state=0)),
    }
    table = evaluate(
        named,
        sets["id"],
        ood,
        X_train=sets["id"],
        metrics={"mine": lambda y, s: float(s[y == 1].mean())},
        confidence=0.9,
        n_resamples=10,
        random_state=0,
    )
    assert table[0]["mine_low"] <= table[0]["mine_high"]
    assert len(table.compare(metric="mine")) == 2
    assert "<b>" not in table._repr_html_()
    with pytest.raises(ValueError, match="'mine' is a function"):
        table.best("mine")


def test_names_stand_for_one_thing(detectors, sets, ood):
    for kwargs, found in [
        ({"groups": {"near": ["far"]}}, "'near'"),
        ({"groups": {"id": ["far"]}}, "'id'"),
        ({"shifted_id": {"ood": sets["blurred"]}}, "'ood_accepted'"),
    ]:
        with pytest.raises(ValueError, match=rf"\[{found}.*name two things"):
            evaluate(detectors, sets["id"], ood, **kwargs)
    with pytest.raises(ValueError, match=r"groups\['all'\] is \['nearer'\]"):
        evaluate(detectors, sets["id"], ood, groups={"all": ["nearer"]})
    with pytest.raises(ValueError, match=r"groups\['all'\] is"):
        evaluate(detectors, sets["id"], ood, groups={"all": "near"})
    with pytest.raises(ValueError, match="y_shifted has labels of"):
        evaluate(detectors, sets["id"], ood, y_shifted={"blurred": [0]})
    with pytest.raises(ValueError, match=r"y_shifted\['blurred'\]"):
        evaluate(
            detectors,
            sets["id"],
            ood,
            shifted_id={"blurred": sets["blurred"]},
            y_shifted={"blurred": [0]},
        )
    with pytest.raises(ValueError, match="confidence is 95"):
        evaluate(detectors, sets["id"], ood, confidence=95)
    with pytest.raises(ValueError, match="metrics='auroc'"):
        evaluate(detectors, sets["id"], ood, metrics="auroc")


def test_cells():
    table = Table(
        [{"a": "x^2 ~ y", "p_value": 0.0004, "n": 3}, {"a": None, "p_value": float("nan")}]
    )
    lines = [line.split()[-2:] for line in str(table).splitlines()[1:]]
    assert lines == [["<0.001", "3"], ["nan"]]
    assert r"x\textasciicircum{}2 \textasciitilde{} y & $<$0.001 & 3 \\" in table.to_latex()
    assert "&lt;0.001" in table._repr_html_()


def test_a_table_without_scores_cannot_be_tested():
    rows = [{"detector": "a", "ood_set": "x", "auroc": 0.5}]
    table = Evaluation(rows)
    assert table.wide() == [{"detector": "a", "x": 0.5}]
    assert "<td" in table._repr_html_()
    with pytest.raises(ValueError, match="this table has no scores"):
        table.compare()
    assert str(Evaluation()) == "" == str(Table())


def test_the_best_is_rarely_wrong():
    """Of five equal detectors, one is supported as the best in at most 5 % of the tables."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(60):
        common = rng.normal(size=160) + np.repeat([1, 0], 80)
        X = common[:, None] + rng.normal(size=(160, 5))
        found = {str(k): Column(k).fit(X) for k in range(5)}
        table = evaluate(found, X[:80], {"ood": X[80:]}, metrics=["auroc"], verbose=0)
        wrong += table.best()[0]["supported"]
    # 8 or more of 60 have a probability of 0.01 at a level of 5 %.
    assert wrong < 8
