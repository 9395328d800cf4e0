"""Every call ends in a result, or in an error that names the argument."""

import numpy as np
import pytest
from campaign import PARTS, SUBJECTS, Case, Data, case_of, unclear
from hypothesis import HealthCheck, given, settings, strategies as st

import skood


@st.composite
def cases(draw):
    parts = {}
    for name, (choices, usual) in PARTS.items():
        # Three quarters of the parts are what most users would give.
        options = draw(st.sampled_from([usual, usual, usual, choices]))
        parts[name] = draw(st.sampled_from(options))
    return case_of(draw(st.integers(0, len(SUBJECTS) - 1)), draw(st.integers(0, 99)), **parts)


# The same cases every time: benchmarks/campaign.py looks for new ones.
@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(cases())
def test_every_call_ends_in_a_result_or_a_clear_error(case):
    verdict, text = case.run()
    assert verdict != "anything else", f"{text}\n{case}"


@pytest.mark.parametrize("subject", range(len(SUBJECTS)))
def test_every_estimator_has_a_result(subject):
    """Else nothing but errors would be tried of it."""
    if isinstance(SUBJECTS[subject](), (skood.Airbench, skood.VGG)):
        pytest.skip("needs larger images, which are slow")
    outcomes = [
        Case(subject, Data(shape), labels, "nothing", 0).run()
        for shape in ("rows", "images")
        for labels in ("ints", "known outliers")
    ]
    assert "result" in [verdict for verdict, _ in outcomes], outcomes


def raised_by(function, *args):
    with pytest.raises(Exception) as raised:
        function(*args)
    return raised.value


def test_what_counts_as_a_clear_error():
    detector = skood.GMM()
    assert unclear(detector, raised_by(detector.fit, None)) is None
    assert unclear(detector, raised_by(detector.fit, np.zeros((9, 2)), np.zeros(3))) is None
    assert unclear(detector, raised_by(skood.GMM(contamination=2).fit, np.zeros((9, 2)))) is None
    assert "concatenate" in unclear(detector, raised_by(np.concatenate, []))
    assert "LinAlgError" in unclear(detector, raised_by(np.linalg.inv, np.zeros((2, 2))))
