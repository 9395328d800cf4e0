"""AUROC of several detectors, and its bootstrap, against independent computations."""

import numpy as np
import pytest

from skood._recommendation._ranking import Comparison, areas, resampled_areas, set_areas, summary
from skood.metrics import auroc


def comparison(rng, criterion="synthetic", name="noise", group=0, n_in=40, n_out=25):
    return Comparison(
        criterion,
        name,
        group,
        {"a": rng.normal(size=n_in), "b": rng.integers(3, size=n_in).astype(float)},
        {"a": rng.normal(-1, size=n_out), "b": rng.integers(2, size=n_out).astype(float)},
    )


def reference(inliers, outliers):
    truth = np.repeat([1, -1], [len(inliers), len(outliers)])
    return auroc(truth, np.concatenate([inliers, outliers]))


def test_areas_equal_the_metric_with_ties():
    one = comparison(np.random.default_rng(0))
    expected = [[reference(one.inliers[name], one.outliers[name])] for name in ("a", "b")]
    np.testing.assert_allclose(areas([one], ["a", "b"]), expected, atol=1e-7)


def test_infinite_scores_are_compared():
    largest = np.finfo(float).max / 2
    one = Comparison("c", "s", 0, {"a": np.array([largest])}, {"a": np.array([-largest, largest])})
    assert areas([one], ["a"]) == 0.75


def test_resamples_have_the_standard_error_of_an_auroc():
    rng = np.random.default_rng(1)
    n_in, n_out = 200, 100
    one = Comparison("c", "s", 0, {"a": rng.normal(1, 1, n_in)}, {"a": rng.normal(0, 1, n_out)})
    area = areas([one], ["a"])[0, 0]
    # The variance of the placements, DeLong et al. 1988.
    wins = (one.inliers["a"][:, None] > one.outliers["a"]).astype(float)
    expected = np.sqrt(wins.mean(1).var() / n_in + wins.mean(0).var() / n_out)
    drawn = resampled_areas([one], ["a"], 2000, seed=0)[:, 0, 0]
    assert drawn.mean() == pytest.approx(area, abs=4 * expected / np.sqrt(2000))
    assert drawn.std() == pytest.approx(expected, rel=0.1)


def test_detectors_and_sets_of_one_group_share_the_resamples():
    scores = {name: np.array([0.0, 1.0, 2.0, 3.0]) for name in ("a", "b")}
    far = {name: np.array([1.5]) for name in ("a", "b")}
    pair = [Comparison("c", set_name, 0, scores, far) for set_name in ("one", "two")]
    drawn = resampled_areas(pair, ["a", "b"], 50, seed=0)
    assert np.ptp(drawn[:, 0, 0]) > 0
    # With a single outlier, all of the variation is in the ID rows.
    assert (drawn == drawn[:, :1, :1]).all()
    apart = [pair[0], Comparison("c", "two", 1, scores, far)]
    drawn = resampled_areas(apart, ["a"], 50, seed=0)
    assert (drawn[:, 0, 0] != drawn[:, 0, 1]).any()


def test_an_auroc_is_the_mean_over_criteria_of_means_over_sets():
    rng = np.random.default_rng(2)
    three = [
        comparison(rng, "classes", "without 1", 1),
        comparison(rng, "synthetic", "noise"),
        comparison(rng, "synthetic", "blur"),
    ]
    rows = summary(three, ["a", "b"], n_resamples=100, confidence=0.9, seed=0)
    assert [row["rank"] for row in rows] == [1, 2]
    assert rows[0]["auroc"] >= rows[1]["auroc"]
    for row in rows:
        name = row["detector"]
        each = [reference(c.inliers[name], c.outliers[name]) for c in three]
        assert row["classes"] == pytest.approx(each[0])
        assert row["synthetic"] == pytest.approx(np.mean(each[1:]))
        assert row["auroc"] == pytest.approx((each[0] + np.mean(each[1:])) / 2)
        for key in ("auroc", "classes", "synthetic"):
            assert row[f"{key}_low"] < row[key] < row[f"{key}_high"]
    assert sum(row["first"] for row in rows) == pytest.approx(1)
    table = set_areas(three, ["a", "b"])
    assert [row["set"] for row in table if row["detector"] == "a"] == ["without 1", "noise", "blur"]


def test_equal_detectors_keep_their_order_and_are_first_equally_often():
    scores = {name: np.arange(5.0) for name in ("a", "b")}
    same = [Comparison("c", "s", 0, scores, {name: np.array([-1.0, 2.5]) for name in scores})]
    rows = summary(same, ["a", "b"], n_resamples=20, confidence=0.95, seed=0)
    assert [(row["detector"], row["first"]) for row in rows] == [("a", 0.5), ("b", 0.5)]
