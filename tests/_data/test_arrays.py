"""Feature vectors in the forms in which they are stored, and what is said of those refused."""

import re

import numpy as np
import pandas
import pytest
import torch

from skood import KNN, Mahalanobis, ViM
from skood.functional import unit_length

ROWS = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
VECTORS = pandas.Series(list(ROWS), index=np.arange(30) + 7)
PRINTED = pandas.DataFrame({"embedding": [str(row.tolist()) for row in ROWS]})


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([*ROWS[:3], ROWS[3, :2]], "item 0 has 4 values and item 3 has 2"),
        ([[1.0, 2.0], None], "item 1 is None, but item 0 is a vector of 2 values"),
        (VECTORS, "the items are vectors of 4 values: give np.stack(list(X))"),
        (VECTORS.to_numpy(), "the items are vectors of 4 values: give np.stack(list(X))"),
        (
            pandas.DataFrame({"id": range(30), "embedding": list(ROWS)}),
            "give np.stack(list(X['embedding'])) in place of the frame",
        ),
        (PRINTED, "np.stack([json.loads(text) for text in X['embedding']])"),
        (
            pandas.DataFrame({"embedding": [str(np.zeros(2048))] * 3}),
            "whose middle numpy replaced by '...'",
        ),
        (np.array([[1, "a"]], dtype=object), "expected numeric rows or images of equal shapes"),
    ],
    ids=["unequal", "none", "series", "objects", "frame", "printed", "cut", "texts"],
)
@pytest.mark.parametrize("detector", [Mahalanobis(), KNN(n_neighbors=2)])
def test_what_is_said_of_vectors_in_another_form(detector, X, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        detector.fit(X)
    assert len(str(raised.value)) < 500
    with pytest.raises(ValueError, match=re.escape(message)):
        detector.fit(ROWS).score_samples(X)


@pytest.mark.parametrize("X", [np.stack(list(VECTORS)), list(ROWS), list(torch.tensor(ROWS))])
def test_remedies_give_the_scores_of_the_array(X):
    expected = Mahalanobis().fit(ROWS).score_samples(ROWS)
    assert np.array_equal(Mahalanobis().fit(X).score_samples(X), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("value", "name"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
def test_rows_that_are_not_finite_are_named(value, name, dtype):
    X = ROWS.astype(dtype)
    X[7, 3] = value
    message = f"Input X contains {name} in row 7; leave these rows out"
    with pytest.raises(ValueError, match=re.escape(message)):
        Mahalanobis().fit(X)
    X[19] = value
    message = f"Input X contains {name} in 2 rows, first in row 7; leave"
    for fitted in (Mahalanobis(), KNN(n_neighbors=2)):
        with pytest.raises(ValueError, match=re.escape(message)):
            fitted.fit(ROWS).score_samples(pandas.DataFrame(X).to_numpy())


def test_rows_of_a_frame_are_counted_and_not_labelled():
    frame = pandas.DataFrame(ROWS, index=np.arange(30) + 100).add_prefix("x")
    frame.iloc[5, 1] = np.nan
    with pytest.raises(ValueError, match="contains NaN in row 5;"):
        Mahalanobis().fit(frame)


HEAD = np.eye(3, 4), np.zeros(3)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([*ROWS[:3], ROWS[3, :2]], "item 0 has 4 values and item 3 has 2"),
        (VECTORS, "features is a sequence of objects: the items are vectors of 4 values"),
        (np.where(np.arange(30)[:, None] == 8, np.nan, ROWS), "infinite, the first in row 8"),
    ],
    ids=["unequal", "series", "nan"],
)
def test_what_is_said_of_saved_features(features, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ViM(n_components=2).fit_outputs(features=features, head=HEAD)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float16])
def test_length_is_1_where_squares_overflow_the_dtype(dtype):
    vectors = np.array([[100, 120, 7], [0, 0, 0], [3, 4, 0]]).astype(dtype) * dtype(1)
    scaled = unit_length(vectors if dtype != np.float16 else vectors * dtype(50))
    expected = np.array([[100, 120, 7], [0, 0, 0], [3, 4, 0]], dtype=float)
    expected /= np.array([[np.sqrt(100**2 + 120**2 + 49)], [1], [5]])
    assert scaled.dtype in (np.float32, np.float64)
    np.testing.assert_allclose(scaled, expected, rtol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("detector", [Mahalanobis(), KNN(n_neighbors=2)])
def test_quantised_vectors_score_like_floats(detector, normalize):
    detector.set_params(normalize=normalize)
    quantised = np.clip(np.rint(ROWS * 50), -127, 127).astype(np.int8)
    scores = detector.fit(quantised).score_samples(quantised)
    floats = quantised.astype(np.float64)
    expected = detector.fit(floats).score_samples(floats)
    np.testing.assert_allclose(scores, expected, rtol=1e-6)
