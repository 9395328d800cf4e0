"""NegLabel and CSP: choice of negative labels, groups and scores."""

import math
import pickle

import numpy as np
import pytest
from scipy.special import expit
from words import Letters, cosine

import skood
from skood import CSP, MCM, NegLabel, functional as F

_rng = np.random.default_rng(0)
TEXTS = _rng.normal(size=(5, 4))
CANDIDATES = _rng.normal(size=(40, 4))
IMAGES = _rng.normal(size=(60, 4)) + TEXTS[np.arange(60) % 5]
WORDS = ["apple", "stone", "river", "cloud", "cat", "metal", "forest", "lamp", "glass", "Dog"]


def chosen_by_a_loop(candidates, texts, n_negatives, percentile):
    """Return the rows of the farthest candidates: the percentile of the negative cosines."""
    distances = []
    for candidate in candidates:
        negative = sorted(-cosine(candidate, text) for text in texts)
        # Linear interpolation at the rank of the complementary percentile.
        rank = (100 - percentile) / 100 * (len(negative) - 1)
        low = math.floor(rank)
        high = min(low + 1, len(negative) - 1)
        distances.append(negative[low] + (rank - low) * (negative[high] - negative[low]))
    return np.argsort(-np.array(distances), kind="stable")[:n_negatives]


def published(image, texts, groups, temperature):
    """Score of the paper in plain Python."""
    inside = sum(math.exp(cosine(image, text) / temperature) for text in texts)
    scores = []
    for group in groups:
        outside = sum(math.exp(cosine(image, word) / temperature) for word in group)
        scores.append(inside / (inside + outside))
    return sum(scores) / len(scores)


def rows_of(names):
    return np.array([int(name.removeprefix("candidates[").rstrip("]")) for name in names])


@pytest.mark.parametrize("percentile", [0, 30.0, 95.0, 100])
@pytest.mark.parametrize(("n_negatives", "count"), [(7, 7), (0.15, 6), (1.0, 40), (40, 40)])
def test_negatives_are_the_farthest_candidates(n_negatives, count, percentile):
    detector = NegLabel(
        TEXTS, CANDIDATES, n_negatives=n_negatives, percentile=percentile, n_groups=1
    ).fit(IMAGES)
    expected = chosen_by_a_loop(CANDIDATES, TEXTS, count, percentile)
    assert set(rows_of(detector.negatives_)) == set(expected)
    vectors = F.unit_length(CANDIDATES[rows_of(detector.negatives_)])
    np.testing.assert_allclose(detector.negative_embeddings_, vectors, rtol=1e-12)


@pytest.mark.parametrize(("n_groups", "temperature"), [(1, 1.0), (1, 0.05), (3, 0.05), (7, 0.2)])
def test_formula(n_groups, temperature):
    detector = NegLabel(
        TEXTS,
        CANDIDATES,
        n_negatives=23,
        n_groups=n_groups,
        temperature=temperature,
        random_state=0,
    ).fit(IMAGES)
    rows = rows_of(detector.negatives_)
    # The remainder of the division into groups is not used.
    assert len(set(rows)) == 23 // n_groups * n_groups
    groups = CANDIDATES[rows].reshape(n_groups, -1, 4)
    expected = [published(image, TEXTS, groups, temperature) for image in IMAGES]
    np.testing.assert_allclose(expit(detector.score_samples(IMAGES)), expected, rtol=1e-10)
    cosines, negative = (F.cosine_similarities(IMAGES, v) for v in (TEXTS, CANDIDATES[rows]))
    np.testing.assert_allclose(
        F.neglabel(cosines, negative, temperature, n_groups), expected, rtol=1e-10
    )
    proba = np.exp(cosines / temperature)
    np.testing.assert_allclose(
        detector.predict_proba(IMAGES), proba / proba.sum(1, keepdims=True), rtol=1e-10
    )


def test_values_by_hand():
    # Sums of 1 + e and of e^-1 at T = .1.
    odds = F.neglabel_log_odds(np.array([[0.0, 0.1]]), np.array([[-0.1]]), 0.1)
    np.testing.assert_allclose(odds, [math.log((1 + math.e) * math.e)], rtol=1e-14)
    # Groups with the shares 1/2 and 1/(1 + e), whose mean has the odds below; a column is left.
    score = F.neglabel(np.array([[0.0]]), np.array([[0.0, 0.1, 0.9]]), 0.1, 2)
    np.testing.assert_allclose(score, [(1 / 2 + 1 / (1 + math.e)) / 2], rtol=1e-14)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_scores_do_not_saturate(n_groups):
    """The published score is 1, or 0, for several images, which the log-odds tell apart."""
    cosines = np.array([[0.9], [0.8], [0.1], [0.0]])
    negative = np.array([[0.1, 0.1]] * 2 + [[0.9, 0.9]] * 2)
    published = F.neglabel(cosines, negative, 0.001, n_groups)
    np.testing.assert_array_equal(published[:2], 1)
    assert published[2] < 1e-300
    odds = F.neglabel_log_odds(cosines, negative, 0.001, n_groups)
    assert (np.diff(odds) < -50).all()
    expected = np.array([800, 700, -800, -900]) - (math.log(2) if n_groups == 1 else 0)
    np.testing.assert_allclose(odds, expected, rtol=1e-12)


def test_every_parameter_has_an_effect():
    base = {"n_negatives": 12, "n_groups": 2, "percentile": 95.0, "random_state": 0}
    first = NegLabel(TEXTS, CANDIDATES, **base).fit(IMAGES).score_samples(IMAGES)
    for changed in (
        {"n_negatives": 20},
        {"n_groups": 3},
        {"percentile": 10.0},
        {"temperature": 0.02},
        {"max_similarity": 0.3, "n_negatives": 0.2},
        {"random_state": 1},
        {"adjectives": CANDIDATES[::-1]},
    ):
        other = NegLabel(TEXTS, CANDIDATES, **{**base, **changed}).fit(IMAGES)
        assert not np.allclose(other.score_samples(IMAGES), first), changed
    again = NegLabel(TEXTS, CANDIDATES, **base).fit(IMAGES)
    np.testing.assert_array_equal(again.score_samples(IMAGES), first)


def test_words():
    """Equal words count once, and the class names are no negative labels."""
    tower = Letters(4)
    words = [*WORDS, "stone", " river "]
    detector = NegLabel(["cat", "dog"], words, text_features=tower, n_negatives=1.0, n_groups=1)
    detector.fit(IMAGES)
    assert set(detector.negatives_) == set(WORDS) - {"cat", "Dog"}
    order = detector.negatives_.tolist()
    made = F.unit_length(tower.transform([f"a photo of a {word}" for word in order]))
    np.testing.assert_allclose(detector.negative_embeddings_, made, rtol=1e-12)
    # 8 different words are left.
    half = NegLabel(["cat", "dog"], words, text_features=tower, n_negatives=0.5, n_groups=1)
    assert len(half.fit(IMAGES).negatives_) == 4


def test_adjectives_have_their_own_template_and_share():
    tower = Letters(4)
    detector = NegLabel(
        ["cat", "dog"],
        WORDS,
        adjectives=["red", "tiny", "loud", "broken"],
        text_features=tower,
        n_negatives=0.5,
        n_groups=1,
    ).fit(IMAGES)
    of_adjectives = {"red", "tiny", "loud", "broken"} & set(detector.negatives_)
    assert (len(detector.negatives_), len(of_adjectives)) == (6, 2)
    for name, vector in zip(detector.negatives_, detector.negative_embeddings_, strict=True):
        prompt = f"This is a {name} photo" if name in of_adjectives else f"a photo of a {name}"
        np.testing.assert_allclose(vector, F.unit_length(tower.transform([prompt]))[0])


def test_candidates_from_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS), encoding="utf-8")
    settings = {"text_features": Letters(4), "n_groups": 1, "n_negatives": 5, "random_state": 0}
    first, second = (NegLabel(["cat", "dog"], given, **settings) for given in (path, WORDS))
    np.testing.assert_array_equal(
        first.fit(IMAGES).score_samples(IMAGES), second.fit(IMAGES).score_samples(IMAGES)
    )


def test_vectors_of_the_classes_are_no_negatives():
    candidates = np.concatenate([2 * TEXTS, CANDIDATES])
    detector = NegLabel(TEXTS, candidates, n_negatives=1.0, n_groups=1).fit(IMAGES)
    assert set(rows_of(detector.negatives_)) == set(range(5, 45))
    near = NegLabel(TEXTS, candidates, n_negatives=1.0, n_groups=1, max_similarity=0.5).fit(IMAGES)
    largest = F.cosine_similarities(candidates, TEXTS).max(1)
    assert set(rows_of(near.negatives_)) == set(np.flatnonzero(largest <= 0.5))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_negatives": 41}, r"n_negatives=41 asks for 41 of 40 candidates, of which 40"),
        ({"n_negatives": 0.001}, "asks for 0 of 40"),
        (
            {"max_similarity": -0.99},
            "of which 0 .*above max_similarity=-0.99",
        ),
        ({"n_groups": 7}, "6 negative labels for n_groups=7"),
        ({"n_negatives": 0}, "n_negatives"),
        ({"n_negatives": 1.5}, "n_negatives"),
        ({"temperature": 0.0}, "temperature"),
        ({"percentile": 101}, "percentile"),
        ({"n_groups": 0}, "n_groups"),
        ({"candidates": CANDIDATES[:, :3]}, "candidates have 3 values, but .* class_texts 4"),
        ({"candidates": CANDIDATES * 0}, "vector 0 of candidates is 0"),
        ({"adjectives": CANDIDATES * np.nan}, "vector 0 of adjectives has NaN"),
        ({"candidates": ["a", "b"]}, "candidates holds words, such as 'a', and text_features is"),
        ({"candidates": None}, "candidates is a NoneType"),
        ({"class_texts": TEXTS[:, :3], "candidates": TEXTS[:, :3], "n_groups": 1}, "candidates"),
    ],
    ids=str,
)
def test_bad_input(parameters, message):
    given = {"class_texts": TEXTS, "candidates": CANDIDATES, "n_groups": 2, **parameters}
    with pytest.raises(ValueError, match=message):
        NegLabel(**given).fit(IMAGES)


def test_only_class_names_among_the_candidates():
    detector = NegLabel(["cat", "dog"], ["Cat", "dog"], text_features=Letters(4), n_groups=1)
    with pytest.raises(ValueError, match="candidates has no words apart from the class names"):
        detector.fit(IMAGES)


def test_one_class():
    """A softmax over one class says nothing, but with negative labels it does."""
    detector = NegLabel(TEXTS[:1], CANDIDATES, n_groups=1).fit(IMAGES)
    assert len(np.unique(detector.score_samples(IMAGES))) == 60
    np.testing.assert_array_equal(detector.predict_proba(IMAGES), 1)


def test_negatives_help_where_images_are_near_them():
    """Images near words that are no classes have lower scores; MCM sees no difference."""
    texts, word = np.eye(3)[:2], np.eye(3)[2:]
    inside = np.array([[1.0, 1.0, 0.0]])
    outside = np.array([[0.5, 0.5, 1.0]])
    detector = NegLabel(texts, word, n_negatives=1, n_groups=1).fit(np.eye(3))
    assert detector.score_samples(inside)[0] > 0 > detector.score_samples(outside)[0]
    mcm = MCM(texts).fit(np.eye(3)[:2])
    np.testing.assert_allclose(mcm.score_samples(inside), mcm.score_samples(outside), atol=1e-15)


def test_texts_alone():
    settings = {"n_groups": 2, "random_state": 0}
    detector = NegLabel(TEXTS, CANDIDATES, **settings).fit_texts()
    expected = NegLabel(TEXTS, CANDIDATES, **settings).fit(IMAGES)
    np.testing.assert_array_equal(
        detector.score_outputs(features=IMAGES), expected.score_samples(IMAGES)
    )
    np.testing.assert_array_equal(detector.negatives_, expected.negatives_)


def test_scores_do_not_depend_on_the_batch():
    detector = NegLabel(TEXTS, CANDIDATES, n_groups=3, n_negatives=30).fit(IMAGES)
    scores = detector.score_samples(IMAGES)
    np.testing.assert_array_equal(detector.score_samples(IMAGES[::-1]), scores[::-1])
    alone = np.concatenate([detector.score_samples(row[None]) for row in IMAGES])
    np.testing.assert_allclose(alone, scores, rtol=1e-9)


def test_pickles_and_files(tmp_path):
    detector = NegLabel(TEXTS, CANDIDATES, n_groups=3).fit(IMAGES)
    path = tmp_path / "neglabel.skood"
    skood.save(detector, path)
    for other in (pickle.loads(pickle.dumps(detector)), skood.load(path)):
        np.testing.assert_array_equal(other.score_samples(IMAGES), detector.score_samples(IMAGES))
        np.testing.assert_array_equal(other.negatives_, detector.negatives_)


NICE = "a close-up photo of the", "a photo with the", "a good photo with the", "a photo of the"
OF_NOUNS = [
    *(f"{start} nice {{}}." for start in NICE),
    "{}",
    "the {}",
    "the good {}",
    "the nice {}",
]
OF_PHRASES = ["{}", "a nice photo of {}", "a good photo of {}", "a close-up photo of {}"]
CONJUGATED = {"text_features": Letters(4), "n_negatives": 0.5, "n_groups": 1, "random_state": 0}


def test_conjugated_semantic_pool():
    adjectives = ["red", "tiny", "loud", "broken", "red"]
    detector = CSP(["cat", "dog"], WORDS, adjectives=adjectives, **CONJUGATED).fit(IMAGES)
    nouns = set(detector.negatives_) & set(WORDS)
    phrases = set(detector.negatives_) - nouns
    # Half of 8 nouns and of 4 phrases, if all are dissimilar enough.
    assert len(nouns) <= 4
    assert len(phrases) <= 2
    words = "environment space object scene place item area view thing pattern structure"
    words = {*words.split(), "landscape", "vista", "creature"}
    for phrase in phrases:
        adjective, superclass = phrase.split()
        assert adjective in adjectives
        assert superclass in words
    tower = Letters(4)
    for name, vector in zip(detector.negatives_, detector.negative_embeddings_, strict=True):
        templates = OF_NOUNS if name in nouns else OF_PHRASES
        made = tower.transform([template.format(name) for template in templates])
        mean = np.mean([row for row in made], axis=0)
        np.testing.assert_allclose(vector, mean / np.sqrt((mean**2).sum()), rtol=1e-10)
        assert max(cosine(vector, text) for text in detector.text_embeddings_) <= 0.95
    made = tower.transform([template.format("dog") for template in OF_NOUNS])
    np.testing.assert_allclose(detector.text_embeddings_[1], F.unit_length(made.mean(0)[None])[0])


def test_superclasses():
    adjectives = [f"{letter}{letter}" for letter in "abcdefghijklmnopqrst"]
    settings = {**CONJUGATED, "n_negatives": 1.0, "max_similarity": None}
    detector = CSP(["cat", "dog"], WORDS, adjectives=adjectives, **settings).fit(IMAGES)
    phrases = [name for name in detector.negatives_ if name not in WORDS]
    assert sorted(phrase.split()[0] for phrase in phrases) == adjectives
    assert len({phrase.split()[1] for phrase in phrases}) > 5
    own = CSP(
        ["cat", "dog"], WORDS, adjectives=adjectives, superclasses=["{} car"], **settings
    ).fit(IMAGES)
    assert {f"{adjective} car" for adjective in adjectives} <= set(own.negatives_)
    with pytest.raises(ValueError, match="superclasses is"):
        CSP(["cat", "dog"], WORDS, adjectives=adjectives, superclasses=["car"], **settings).fit(
            IMAGES
        )
    with pytest.raises(ValueError, match="adjectives is None"):
        CSP(["cat", "dog"], WORDS, **settings).fit(IMAGES)
