"""Synthetic outliers of frames with categories, texts, dates and missing values."""

import numpy as np
import pandas as pd
import pytest

from skood.datasets import synthetic_outliers

N = 3000
KINDS = ["mixup", "mutation", "noise", "permutation"]


@pytest.fixture(scope="module")
def frame():
    """Rows whose number and name tell which row they are."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "number": np.arange(N, dtype=np.float64),
            "whole": rng.integers(-5, 6, size=N),
            "name": [f"row {k}" for k in range(N)],
            "rare": pd.Categorical(np.where(np.arange(N) < 30, "rare", "common")),
            "day": pd.date_range("2020-01-01", periods=N),
            "missing": np.where(np.arange(N) % 3 == 0, np.nan, np.arange(N) / N),
            "flag": np.arange(N) % 2 == 0,
        },
        index=np.arange(N)[::-1],
    )


def rows_of(names):
    return np.array([int(name.removeprefix("row ")) for name in names])


@pytest.mark.parametrize("kind", [*KINDS, "all", ["noise", "noise"]])
def test_frame_of_the_same_columns(frame, kind):
    before = frame.copy()
    made = synthetic_outliers(frame, kind, n_samples=500, random_state=0)
    assert isinstance(made, pd.DataFrame) and made.shape == (500, 7)
    pd.testing.assert_series_equal(made.dtypes, frame.dtypes)
    pd.testing.assert_frame_equal(frame, before)
    again = synthetic_outliers(frame, kind, n_samples=500, random_state=0)
    pd.testing.assert_frame_equal(made, again)
    for name in ("number", "whole", "missing"):
        assert made[name].min() >= frame[name].min() and made[name].max() <= frame[name].max()
    for name in ("name", "rare", "day", "flag"):
        assert set(made[name]) <= set(frame[name])


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_mixup(frame, strength):
    made = synthetic_outliers(frame, "mixup", random_state=0, strength=strength)
    weight, own = strength / 2, np.arange(N)
    others = np.rint((made["number"] - (1 - weight) * own) / weight).astype(int).to_numpy()
    assert (others != own).all()
    np.testing.assert_allclose(made["number"], (1 - weight) * own + weight * others)
    whole = frame["whole"].to_numpy()
    np.testing.assert_array_equal(
        made["whole"], np.rint((1 - weight) * whole + weight * whole[others])
    )
    missing = frame["missing"].to_numpy()
    np.testing.assert_allclose(
        made["missing"], (1 - weight) * missing + weight * missing[others], rtol=1e-12
    )
    names, days = rows_of(made["name"]), (made["day"] - frame["day"].iloc[0]).dt.days.to_numpy()
    for rows in (names, days):
        assert ((rows == own) | (rows == others)).all()
        assert abs(np.mean(rows == others) - weight) < 0.04
    # Each column decides for itself.
    assert abs(np.mean((names == others) & (days == others)) - weight**2) < 0.04


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_mutation(frame, strength):
    made = synthetic_outliers(frame, "mutation", random_state=0, strength=strength)
    names = rows_of(made["name"])
    changed = names != np.arange(N)
    assert abs(changed.mean() - strength / 2) < 0.04
    number_changed = made["number"].to_numpy() != np.arange(N)
    assert abs(np.mean(changed & number_changed) - strength**2 / 4) < 0.04
    assert abs(made["missing"].isna().mean() - 1 / 3) < 0.04


def test_noise(frame):
    made = synthetic_outliers(frame, "noise", random_state=0)
    # Every value of a column is as probable as the others, however rare it is.
    assert abs(np.mean(made["rare"] == "rare") - 0.5) < 0.04
    assert np.corrcoef(made["number"], np.arange(N))[0, 1] < 0.1
    assert (made["missing"].isna() == frame["missing"].isna().to_numpy()).all()
    weak = synthetic_outliers(frame, "noise", random_state=0, strength=0.2)
    assert abs(np.mean(rows_of(weak["name"]) != np.arange(N)) - 0.2) < 0.03
    moved = (weak["number"] - 0.8 * np.arange(N)) / 0.2
    assert moved.between(0, N - 1).all() and abs(moved.mean() / N - 0.5) < 0.03


def test_permutation(frame):
    made = synthetic_outliers(frame, "permutation", random_state=0)
    for name in frame.columns:
        assert sorted(map(repr, made[name])) == sorted(map(repr, frame[name]))
    assert np.mean(rows_of(made["name"]) == np.arange(N)) < 0.01
    assert np.mean(rows_of(made["name"]) == made["number"]) < 0.01
    half = synthetic_outliers(frame, "permutation", random_state=0, strength=3 / 7)
    assert sum(not half[name].equals(frame[name].set_axis(half.index)) for name in frame) == 3


def test_missing_names():
    frame = pd.DataFrame({"x": np.arange(400.0), "kind": np.array(["a", None, np.nan, "b"] * 100)})
    made = synthetic_outliers(frame, random_state=0)
    assert set(made["kind"].dropna()) == {"a", "b"}


def test_numbers_with_missing_values():
    rows = np.random.default_rng(0).normal(size=(50, 3))
    rows[::5, 1] = np.nan
    made = synthetic_outliers(pd.DataFrame(rows, columns=list("abc")), random_state=0)
    assert list(made.columns) == list("abc") and not made[["a", "c"]].isna().any(axis=None)


def test_polars(frame):
    polars = pytest.importorskip("polars")
    columns = ["number", "whole", "name", "flag"]
    given = polars.DataFrame({name: frame[name].to_numpy() for name in columns})
    given = given.with_columns(polars.col("name").cast(polars.String))
    made = synthetic_outliers(given, random_state=0)
    assert isinstance(made, polars.DataFrame) and made.schema == given.schema
    expected = synthetic_outliers(frame[columns], random_state=0)
    for name in columns:
        assert made[name].to_list() == expected[name].to_list()


def test_images_kinds(frame):
    with pytest.raises(ValueError, match="blur can only be made from images, but X has rows of 7"):
        synthetic_outliers(frame, "blur")


def test_a_single_row(frame):
    with pytest.raises(ValueError, match="combine different items, but X has 1"):
        synthetic_outliers(frame[:1])


def test_columns_of_one_name():
    frame = pd.DataFrame([["a", "b"], ["c", "d"]], columns=["x", "x"])
    with pytest.raises(ValueError, match="several columns named x; rename them"):
        synthetic_outliers(frame)
