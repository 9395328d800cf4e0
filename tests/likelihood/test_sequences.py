"""Detectors on sequences of symbols."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

import skood
from skood import LikelihoodRatio, LogLikelihood, SequenceDensity
from skood._data.symbols import read_symbols
from skood._data.validation import share_as_it_came
from skood.datasets import make_genomes
from skood.likelihood._sequences import default_sequence_density, sequence_outliers
from skood.model_selection import get_ood_scorer

WORDS = ["ACGTACGTAC", "CGTACGT", "GTACGTACGTACG", "TACGTACG"] * 30
OTHERS = ["AACCGGTTAA", "GGGGGGG", "TCAGCATCAT"]


def tiny(**kwargs):
    settings = {"hidden_features": 8, "n_layers": 2, "max_steps": 60, "learning_rate": 0.01}
    return SequenceDensity(**{**settings, **kwargs})


@pytest.fixture(scope="module")
def detector():
    return LikelihoodRatio(tiny(), random_state=0).fit(WORDS)


def test_a_ratio_of_sequences(detector):
    scores = detector.score_samples(WORDS[:4] + OTHERS)
    assert scores[:4].min() > scores[4:].max()
    assert (detector.predict(OTHERS) == -1).all()
    expected = detector.density_.score_samples(OTHERS) - detector.background_.score_samples(OTHERS)
    np.testing.assert_allclose(detector.score_samples(OTHERS), expected, rtol=1e-6)
    positions = detector.score_positions(OTHERS)
    assert [len(p) for p in positions] == list(map(len, OTHERS))
    np.testing.assert_allclose([p.sum() for p in positions], expected, rtol=1e-6)
    assert detector.background_.mutation_rate == 0.1
    assert detector.background_.reg_weight == 10.0


@pytest.mark.parametrize("form", ["list", "array", "series", "integers", "unequal", "shared"])
def test_forms(detector, form):
    codes = [["ACGT".index(letter) for letter in word] for word in WORDS]
    if form == "integers":
        X, new = np.array([row[:7] for row in codes]), np.array([row[:7] for row in codes[:5]])
    else:
        forms = {
            "list": (WORDS, OTHERS),
            "array": (np.array(WORDS), np.array(OTHERS)),
            "series": (pd.Series(WORDS), pd.Series(OTHERS)),
            "unequal": (codes, [[0, 1], [2, 3, 3, 3]]),
            "shared": (share_as_it_came(WORDS), share_as_it_came(OTHERS)),
        }
        X, new = forms[form]
    fitted = LikelihoodRatio(tiny(), random_state=0).fit(X)
    assert fitted.score_samples(new).shape == (len(new),)
    if form in ("list", "array", "series", "shared"):
        np.testing.assert_array_equal(fitted.score_samples(new), detector.score_samples(OTHERS))
    # One sequence, of another length.
    assert np.isfinite(
        fitted.score_samples(["A"] if fitted.density_.dtype_.kind == "U" else [[0]])
    ).all()


@pytest.mark.parametrize(
    "method",
    [skood.LogLikelihood, skood.LikelihoodRatio, skood.Typicality, skood.WAIC],
)
def test_strings_have_a_default_density(monkeypatch, method):
    monkeypatch.setattr("skood.likelihood._sequences.SequenceDensity", tiny_of_alphabet)
    fitted = method(random_state=0).fit(WORDS)
    density = fitted.densities_[0] if method is skood.WAIC else fitted.density_
    assert isinstance(density, SequenceDensity)
    assert density.symbols == "ACGT"
    assert np.isfinite(fitted.score_samples(OTHERS)).all()
    for X in (np.zeros((3, 4)), np.zeros((3, 8, 8))):
        with pytest.raises(ValueError, match="X has items of shape"):
            fitted.score_samples(X)
    assert isinstance(clone(method()), method)


def tiny_of_alphabet(symbols):
    return tiny(symbols=symbols, max_steps=3)


def test_statistics_of_sequences():
    fitted = skood.DensityOfStates(tiny(max_steps=3), random_state=0).fit(WORDS)
    assert fitted.score_samples(OTHERS).shape == (3,)


def test_the_default_knows_the_symbols_of_all_rows():
    """A rare symbol may be in the rows that are held out for the threshold."""
    whole = share_as_it_came(["ACCA", "GA", "ACN"])
    assert default_sequence_density(whole.subset([0, 1]), "LikelihoodRatio").symbols == "ACGN"


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (["images/0.png", "images/1.png"], r"such as '\.'"),
        (["a text", "of words"], "such as ' '"),
        (["".join(map(chr, range(48, 58))) * 2, "".join(map(chr, range(97, 123)))], "36 of them"),
    ],
)
def test_paths_and_texts_have_no_default_density(X, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodRatio().fit(X)


def test_rows_are_never_sequences_by_themselves():
    rows = np.random.default_rng(0).integers(0, 4, (40, 5))
    density = skood.NeuralSplineFlow(1, 4, (4,), max_epochs=1)
    assert isinstance(LogLikelihood()._default_density(share_as_it_came(rows)), type(density))
    with pytest.raises(ValueError, match=r"strings"):
        LogLikelihood().fit(np.array([["red", "old"], ["blue", "new"]] * 5))
    with pytest.raises(ValueError, match="NaN"):
        LogLikelihood().fit(np.full((10, 3), np.nan))


def test_a_detector_that_needs_a_flow_takes_no_strings():
    for method in (skood.LocalIntrinsicDimension, skood.InputComplexity, skood.ScoreNorm):
        with pytest.raises(ValueError, match="strings"):
            method().fit(WORDS)


def test_outliers_of_sequences():
    words = ["ACGTACGTACGTACG", "ACGTAC", "GT", "TTA"] * 25
    rng = np.random.default_rng(0)
    made = read_symbols(sequence_outliers(share_as_it_came(words), rng))
    assert made.is_text
    sequences = np.split(made.flat, made.starts[1:])
    n_halves = np.zeros(2)
    for number, (word, sequence) in enumerate(zip(words, sequences, strict=True)):
        assert len(sequence) == len(word)
        if number % 2 == 0:
            assert sorted(sequence) == sorted(word)
        else:
            half = -(-len(word) // 2)
            first = "".join(sequence[:half]) == word[0] * half
            last = "".join(sequence[len(word) // 2 :]) == word[0] * (len(word) - len(word) // 2)
            assert first or last
            kept = sequence[half:] if first else sequence[: len(word) // 2]
            assert "".join(kept) in word
            n_halves += [first, last]
    assert n_halves.min() > 10
    assert np.mean(["".join(s) != w for s, w in zip(sequences[::4], words[::4], strict=True)]) > 0.9
    # The words themselves are unchanged.
    assert words[0] == "ACGTACGTACGTACG"
    rows = np.tile(np.arange(6), (4, 1))
    made = read_symbols(sequence_outliers(share_as_it_came(rows), rng))
    assert sorted(made.flat[:6]) == list(range(6))


def test_choice_of_a_background():
    fitted = LikelihoodRatio(tiny(), reg_weight=[0.0, 1.0], random_state=0).fit(WORDS)
    assert [choice["reg_weight"] for choice in fitted.selection_] == [0, 1]
    assert all(0 <= choice["auroc"] <= 1 for choice in fitted.selection_)
    # Known outliers take the place of the ones that are made.
    y = np.where(np.arange(len(WORDS) + 3) < len(WORDS), 0, -1)
    alike = WORDS[:3]
    known = LikelihoodRatio(tiny(), reg_weight=[0.0, 1.0], random_state=0).fit(WORDS + alike, y)
    assert known.selection_[0]["auroc"] < 0.7 < fitted.selection_[0]["auroc"]


def test_trained_densities_and_searches(detector):
    frozen = FrozenEstimator(detector.density_)
    fitted = LogLikelihood(frozen).fit(WORDS)
    np.testing.assert_allclose(
        fitted.score_samples(OTHERS), detector.density_.score_samples(OTHERS), rtol=1e-6
    )
    X, y = np.array(WORDS + OTHERS * 4), np.r_[np.zeros(len(WORDS), int), -np.ones(12, int)]
    search = GridSearchCV(
        LikelihoodRatio(tiny(max_steps=5, symbols="ACGT"), random_state=0),
        {"reg_weight": [0.0, 10.0]},
        scoring=get_ood_scorer("auroc"),
        cv=skood.OODSplit(2),
    )
    assert search.fit(X, y).best_params_["reg_weight"] in (0, 10)


def test_a_symbol_that_training_lacked_is_named_by_its_row(detector):
    with pytest.raises(ValueError, match="row 2 of X has the symbol 'N' at position 1"):
        detector.score_samples(["AC", "GT", "ANA"])


@pytest.mark.parametrize("detector", [LogLikelihood(tiny()), LogLikelihood()])
def test_one_sequence_is_too_few(detector):
    with pytest.raises(ValueError, match="minimum of 2"):
        detector.fit(["ACGT"])


def test_a_ratio_finds_other_classes():
    X, y = make_genomes(900, 2, length=60, orders=[2], strength=1.0, random_state=0)
    density = tiny(hidden_features=16, n_layers=3, max_steps=150)
    fitted = LikelihoodRatio(density, reg_weight=0.1, random_state=0).fit(X[y == 0])
    found = fitted.score_samples(X)
    assert skood.metrics.auroc(np.where(y == 0, 1, -1), found) > 0.9
