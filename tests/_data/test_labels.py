"""Valid labels, and the errors for others."""

import re

import numpy as np
import pandas
import pytest
import torch
from sklearn.exceptions import DataConversionWarning

from skood._data.labels import check_labels, encode_labels, is_outlier
from skood._data.outliers import other_convention


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        ([3, 1], np.array([3, 1])),
        (["b", "a"], np.array(["b", "a"])),
        (np.array(["b", "a"], dtype=object), np.array(["b", "a"], dtype=object)),
        ((True, False), np.array([True, False])),
        ([1.0, -1.0], np.array([1.0, -1.0])),
        (np.array([1, 2], dtype=object), np.array([1, 2])),
        (np.array([1, 2], dtype=np.uint8), np.array([1, 2], dtype=np.uint8)),
        (torch.tensor([1.0, 2.0], requires_grad=True), np.array([1, 2], dtype=np.float32)),
        (torch.tensor([1, 2], dtype=torch.bfloat16), np.array([1, 2], dtype=np.float32)),
        ([torch.tensor(1), torch.tensor(2)], np.array([1, 2])),
        (pandas.Series([1, 2], dtype="Int64"), np.array([1, 2])),
        (pandas.Series(["b", "a"], dtype="category"), np.array(["b", "a"], dtype=object)),
        (["a", -1], np.array(["a", "-1"])),
        (np.array(["a", -1], dtype=object), np.array(["a", "-1"], dtype=object)),
    ],
)
def test_labels_that_are_taken(y, expected):
    labels = check_labels(y, 2)
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == expected.dtype


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([0, 1, 2], "y has 3 labels, but X has 2 items; expected one label for each"),
        (["a", 1], "y mixes strings, such as 'a', with numbers, such as 1; expected class labels"),
        (np.array([2.0, "a"], dtype=object), "y mixes strings, such as 'a', with numbers, such"),
        ([None, 1], "y holds None (NoneType) at row 0; expected class labels that are all strings"),
        (["a", None], "y holds None (NoneType) at row 1"),
        (["a", np.nan], "y holds nan (float) at row 1"),
        ([pandas.NA, 1], "y holds <NA> (NAType) at row 0"),
        (pandas.Series(["a", None], dtype="string"), "y holds <NA> (NAType) at row 1"),
        (pandas.Series([1, None], dtype="Int64"), "y holds nan"),
        ([pandas.NaT, 1], "y holds NaT (NaTType) at row 0"),
        ([pandas.Timestamp(0)] * 2, "(Timestamp) at row 0"),
        (np.zeros(2, dtype="M8[D]"), "y has dtype datetime64[D]; expected class labels"),
        (np.zeros(2, dtype=bytes), "y has dtype |S1; expected class labels"),
        ([np.nan, 1], "y holds nan at 1 of 2 rows"),
        ([np.inf, 1], "y holds inf at 1 of 2 rows"),
        ([0.5, 1], "y holds 0.5, which is no class (Unknown label type: continuous)"),
        ([[1], [1, 2]], "y cannot be read as one label a row"),
        (np.zeros((2, 2)), "y should be a 1d array, got an array of shape (2, 2)"),
        (3, "y should be a 1d array, got an array of shape ()"),
    ],
)
def test_labels_that_are_refused(y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_labels(y, 2)


def test_a_column_warns_unless_told_otherwise(recwarn):
    column = np.array([[1], [2]])
    assert check_labels(column, warn=False).tolist() == [1, 2]
    assert not recwarn
    with pytest.warns(DataConversionWarning):
        check_labels(column)


def test_errors_name_the_arguments():
    with pytest.raises(ValueError, match="y_val has 1 labels, but X_val has 2 items"):
        check_labels([1], 2, name="y_val", items="X_val")
    with pytest.raises(ValueError, match="y has 1 labels for 2 items; expected one for each"):
        check_labels([1], 2, items=None)


def test_class_indices_are_positions_in_any_order():
    classes = np.array(["dog", "ant", "cat"])
    indices = encode_labels(np.array(["cat", "dog", "cat", "ant"]), classes)
    assert indices.tolist() == [2, 0, 2, 1]
    assert indices.dtype == np.int64
    assert encode_labels(np.array([1.0, 0.0]), np.array([0, 1])).tolist() == [1, 0]


def test_unknown_labels():
    with pytest.raises(ValueError, match=r"^y has the labels \[7\]; expected some of \[0 1\]$"):
        encode_labels(np.array([0, 7]), [0, 1])
    # A string is another label than the number it spells.
    with pytest.raises(ValueError, match=r"^y_val has the labels \['0'\], which y lacks$"):
        encode_labels(np.array(["0"]), [0, 1], name="y_val", known=", which y lacks")


def test_outliers():
    assert is_outlier(np.array([1, -1, 0])).tolist() == [False, True, False]
    assert is_outlier(check_labels(["a", -1, "-1"])).tolist() == [False, True, True]
    assert not is_outlier(np.array([True, False])).any()


@pytest.mark.parametrize(
    ("y", "found"),
    [
        ([0] * 95 + [1] * 5, "If 1 marks"),
        ([0.0] * 81 + [1.0] * 19, "If 1.0 marks"),
        (np.array([0] * 95 + [1] * 5, dtype=np.uint8), "If 1 marks"),
        ([False] * 60 + [True] * 40, "If one of the two marks"),
        ([False] * 40 + [True] * 60, "If one of the two marks"),
        (["normal"] * 50 + ["anomaly"] * 50, "If 'anomaly' marks"),
        (np.array(["a", "b", "Outlier"], dtype=object), "If 'Outlier' marks"),
        # Known outliers are marked by -1 already.
        ([0] * 90 + [1] * 5 + [-1] * 5, None),
        (["normal"] * 9 + ["anomaly", "-1"], None),
        # The inliers of scikit-learn.
        ([1] * 100, None),
        ([1] * 90 + [-1] * 10, None),
        ([0] * 100, None),
        # Classes.
        ([0] * 80 + [1] * 20, None),
        ([0] * 5 + [1] * 95, None),
        ([0] * 90 + [1] * 5 + [2] * 5, None),
        ([1] * 95 + [2] * 5, None),
        ([False] * 50 + [True] * 50, None),
        (["normal"] * 95 + ["fraud"] * 5, None),
    ],
)
def test_anomalies_by_another_label_than_minus_one(y, found):
    message = other_convention(check_labels(y))
    if found is None:
        assert message is None
        return
    assert found in message
    assert "np.where(is_ood, -1, y)" in message


def test_largest_fraction_of_anomalies():
    y = np.repeat([0, 1], [55, 45])
    assert other_convention(y) is None
    assert "If 1 marks" in other_convention(y, largest=0.5)
    assert other_convention(np.repeat([0, 1], [50, 50]), largest=0.5) is None
