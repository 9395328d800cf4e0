"""MCM, and what all detectors on class names share."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from words import Letters, cosine

import skood
from skood import (
    MCM,
    ConformalDetector,
    FeatureExtractor,
    PretrainedClassifier,
    functional as F,
)
from skood.model_selection import OODSplit, get_ood_scorer

TEXTS = np.array([[3.0, 4.0, 0.0], [0.0, 2.0, 0.0], [1.0, 0.0, 1.0]])
_rng = np.random.default_rng(0)
IMAGES = _rng.normal(size=(60, 3)) + 2.0 * TEXTS[np.arange(60) % 3]


class Trained(Letters):
    """Has something that `clone` does not keep."""

    def fit(self, X, y=None):
        self.scale_ = 2.0
        return self

    def transform(self, X):
        if not hasattr(self, "scale_"):
            raise NotFittedError("not fitted")
        return self.scale_ * super().transform(X)


def published(image, texts, temperature):
    """MCM in plain Python."""
    exponentials = [math.exp(cosine(image, text) / temperature) for text in texts]
    return max(exponentials) / sum(exponentials)


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_formula(temperature):
    scores = MCM(TEXTS, temperature=temperature).fit(IMAGES).score_samples(IMAGES)
    expected = [published(image, TEXTS, temperature) for image in IMAGES]
    np.testing.assert_allclose(expit(scores), expected, rtol=1e-12)
    cosines = F.cosine_similarities(IMAGES, TEXTS)
    np.testing.assert_allclose(F.mcm(cosines, temperature), expected, rtol=1e-12)


def test_values_by_hand():
    # Cosines .6 and .8: the softmax at T = .1 has the odds e^2.
    scores = F.mcm_log_odds(np.array([[0.6, 0.8]]), 0.1)
    np.testing.assert_allclose(scores, [2.0], rtol=1e-14)
    detector = MCM(np.eye(2), temperature=0.1).fit(np.eye(2))
    np.testing.assert_allclose(detector.score_samples([[3.0, 4.0]]), [2.0], rtol=1e-14)
    np.testing.assert_allclose(
        detector.predict_proba([[3.0, 4.0]]), [[1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))]]
    )


def test_scores_do_not_saturate():
    """The published probability is 1 for both, which the log-odds tell apart."""
    cosines = np.array([[0.9, 0.1, 0.0], [0.95, 0.1, 0.0], [0.9, 0.899, 0.1]])
    assert F.mcm(cosines, 0.001)[0] == F.mcm(cosines, 0.001)[1] == 1
    scores = F.mcm_log_odds(cosines, 0.001)
    assert scores[1] > scores[0] > scores[2]
    np.testing.assert_allclose(scores, [800, 850, 1], rtol=1e-12)


def test_lengths_do_not_matter():
    scores = MCM(TEXTS).fit(IMAGES).score_samples(IMAGES)
    scaled = MCM(TEXTS * [[1e-8], [1e8], [7.0]]).fit(IMAGES)
    np.testing.assert_allclose(scaled.score_samples(1e5 * IMAGES), scores, rtol=1e-10)


def test_classes():
    detector = MCM(TEXTS, classes=["cat", "dog", "owl"]).fit(IMAGES)
    np.testing.assert_array_equal(detector.classes_, ["cat", "dog", "owl"])
    proba = detector.predict_proba(IMAGES)
    np.testing.assert_allclose(proba.sum(1), 1)
    nearest = np.argmax([[cosine(x, t) for t in TEXTS] for x in IMAGES], axis=1)
    np.testing.assert_array_equal(proba.argmax(1), nearest)
    predicted, accepted = detector.predict_class(IMAGES), detector.predict(IMAGES) == 1
    np.testing.assert_array_equal(predicted[accepted], detector.classes_[nearest[accepted]])
    assert set(predicted[~accepted]) == {"-1"}
    assert (~accepted).sum() == 3
    np.testing.assert_array_equal(MCM(TEXTS).fit(IMAGES).classes_, [0, 1, 2])
    # Labels in y may be those of the classes, and -1.
    scores = detector.score_samples(IMAGES)
    y = np.where(scores < np.median(scores), "-1", "cat")
    other = MCM(TEXTS, classes=["cat", "dog", "owl"]).fit(IMAGES, y)
    assert other.offset_ > detector.offset_


def test_names_are_filled_into_templates():
    names = ["cat", "dog", "night owl"]
    detector = MCM(names, text_features=Letters()).fit(IMAGES)
    vectors = Letters().transform([f"a photo of a {name}" for name in names])
    np.testing.assert_array_equal(detector.classes_, names)
    expected = F.unit_length(vectors)
    np.testing.assert_allclose(detector.text_embeddings_, expected, rtol=1e-12)
    several = MCM(names, text_features=Letters(), template=["{}", "the {} of {}"]).fit(IMAGES)
    # The mean of the prompts' vectors, which is then scaled.
    made = Letters().transform([t for n in names for t in (n, f"the {n} of {n}")])
    mean = made.reshape(3, 2, 3).mean(1)
    np.testing.assert_allclose(several.text_embeddings_, F.unit_length(mean), rtol=1e-12)
    with pytest.raises(ValueError, match=r"template is 'a photo'; expected a text with \{\}"):
        MCM(names, text_features=Letters(), template="a photo").fit(IMAGES)
    with pytest.raises(ValueError, match="template is"):
        MCM(names, text_features=Letters(), template=[]).fit(IMAGES)


def test_braces_in_a_name_stay():
    tower = Letters()
    detector = MCM(["{0}", "set {a}"], text_features=tower, template="{}").fit(IMAGES)
    expected = F.unit_length(tower.transform(["{0}", "set {a}"]))
    np.testing.assert_allclose(detector.text_embeddings_, expected)


def test_a_trained_tower_is_never_trained_again():
    tower = Trained().fit(["a"])
    frozen = MCM(["cat", "dog"], text_features=FrozenEstimator(tower))
    assert clone(frozen).fit(IMAGES).offset_ == frozen.fit(IMAGES).offset_
    bare = MCM(["cat", "dog"], text_features=tower)
    assert bare.fit(IMAGES).offset_ == frozen.offset_
    for lost in (clone(bare), MCM(["cat", "dog"], text_features=Trained())):
        with pytest.raises(ValueError, match=r"Trained\(...\) is not trained, (?s:.*)FrozenEst"):
            lost.fit(IMAGES)
    with pytest.raises(NotFittedError, match="text_features=FrozenEstimator"):
        MCM(["a", "b"], text_features=FrozenEstimator(PCA())).fit(IMAGES)


@pytest.mark.parametrize(
    "made",
    [
        lambda texts: np.zeros((len(texts), 2, 2)),
        lambda texts: np.ones((len(texts) + 1, 3)),
        lambda texts: np.array(texts),
    ],
)
def test_a_text_tower_that_is_none(made):
    tower = FunctionTransformer(made)
    with pytest.raises(ValueError, match=r"FunctionTransformer.* returned shape .* for 2 texts"):
        MCM(["cat", "dog"], text_features=tower).fit(IMAGES)


def test_towers_that_return_tensors_and_sparse_matrices():
    from scipy.sparse import csr_array

    expected = MCM(["cat", "dog"], text_features=Letters()).fit(IMAGES).score_samples(IMAGES)
    for convert in (lambda a: torch.tensor(a, requires_grad=True), csr_array):
        tower = FunctionTransformer(lambda texts, to=convert: to(Letters().transform(texts)))
        detector = MCM(["cat", "dog"], text_features=tower).fit(IMAGES)
        np.testing.assert_array_equal(detector.score_samples(IMAGES), expected)
    half = torch.tensor(TEXTS).bfloat16()
    expected = MCM(half.float()).fit(IMAGES).score_samples(IMAGES)
    np.testing.assert_array_equal(MCM(half).fit(IMAGES).score_samples(IMAGES), expected)


def test_towers_of_two_pairs():
    class Named(FunctionTransformer):
        space = None

    images, texts = Named(), Named(Letters().transform)
    towers = {"features": images, "text_features": FrozenEstimator(texts)}
    for images.space, texts.space in ((None, "small"), ("small", "small")):
        MCM(["cat", "dog"], **towers).fit(IMAGES)
    images.space = "large"
    with pytest.raises(ValueError, match=r"image tower of large, but .* the text tower of small"):
        MCM(["cat", "dog"], **towers).fit(IMAGES)


def test_names_from_a_file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat\n\n dog \nnight owl\n", encoding="utf-8")
    for given in (path, str(path)):
        detector = MCM(given, text_features=Letters()).fit(IMAGES)
        np.testing.assert_array_equal(detector.classes_, ["cat", "dog", "night owl"])
    (tmp_path / "empty").write_text("\n \n")
    with pytest.raises(ValueError, match="has no words"):
        MCM(tmp_path / "empty", text_features=Letters()).fit(IMAGES)
    with pytest.raises(
        ValueError, match=r"class_texts='cat' is no file of words .*expected a list"
    ):
        MCM("cat", text_features=Letters()).fit(IMAGES)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (iter(["cat", "dog"]), "can be read only once"),
        ({"cat", "dog"}, "has no order"),
        ({"cat": [1.0, 0, 0]}, "class_texts is a dict"),
        (["cat", ""], "empty text at position 1"),
        (["cat", 3], r"shape \(2,\)"),
        ([], r"shape \(0,\)"),
        (np.zeros((0, 3)), r"shape \(0, 3\)"),
        (TEXTS[0], r"shape \(3,\)"),
        ([[1.0, 2.0], [3.0]], "class_texts is a list"),
        (["cat", "dog", "cat"], "class_texts has 'cat' more than once"),
        (["cat", "dog", " cat "], "class_texts has 'cat' more than once"),
        (["cat"], "class_texts has one class"),
        ([[1.0, 0, 1], [0, 0, 0]], "vector 1 of class_texts is 0"),
        ([[1.0, 0, 1], [0, 0, np.nan]], "vector 1 of class_texts has NaN"),
        ([[1.0, 0, 1], [0, 0, np.inf]], "vector 1 of class_texts has NaN or infinite"),
        (TEXTS[:, :2], "image vectors have 3 values, but the vectors of class_texts 2"),
        (None, "class_texts is a NoneType"),
    ],
    ids=range(17),
)
def test_bad_texts(texts, message):
    detector = MCM(texts, text_features=Letters())
    with pytest.raises(ValueError, match=message):
        detector.fit(IMAGES)


def test_other_bad_input():
    with pytest.raises(ValueError, match="'cat', and text_features is None; give text_features="):
        MCM(["cat", "dog"]).fit(IMAGES)
    for temperature in (0, -1.0):
        with pytest.raises(ValueError, match="temperature"):
            MCM(TEXTS, temperature=temperature).fit(IMAGES)
    detector = MCM(TEXTS).fit(IMAGES)
    with pytest.raises(ValueError, match="a vector of the images is 0, so it has no direction"):
        detector.score_samples(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="NaN"):
        detector.score_samples([[np.nan, 1.0, 1.0]])
    with pytest.raises(ValueError, match="features"):
        detector.score_samples(np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"y has the labels \[0, 1\], but the classes are \['cat'"):
        MCM(["cat", "dog"], text_features=Letters()).fit(IMAGES, np.arange(60) % 2)
    for classes, message in [
        ([1, 2], "classes has 2 labels, but class_texts has 3"),
        ([1, 1, 2], "classes has 1 more than once"),
        ([1, 2, -1], "classes holds -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            MCM(TEXTS, classes=classes).fit(IMAGES)


def test_texts_alone():
    """There is no threshold without images."""
    detector = MCM(TEXTS, temperature=0.1).fit_texts()
    expected = MCM(TEXTS, temperature=0.1).fit(IMAGES)
    np.testing.assert_array_equal(
        detector.score_outputs(features=IMAGES), expected.score_samples(IMAGES)
    )
    with pytest.raises(NotFittedError, match="has no threshold"):
        _ = detector.offset_
    for method in ("score_samples", "predict", "predict_proba", "predict_class"):
        with pytest.raises(NotFittedError, match=r"fitted by fit_texts.*score_outputs"):
            getattr(detector, method)(IMAGES)
    with pytest.raises(ValueError, match="features have 2 columns, but MCM was fitted on 3"):
        detector.score_outputs(features=IMAGES[:, :2])
    with pytest.raises(NotFittedError):
        MCM(TEXTS).score_outputs(features=IMAGES)
    # A later fit sets the threshold, and fit_texts forgets it.
    assert detector.fit(IMAGES).offset_ == expected.offset_
    with pytest.raises(NotFittedError):
        _ = detector.fit_texts().offset_
    saved = MCM(TEXTS, temperature=0.1).fit_outputs(features=IMAGES)
    assert saved.offset_ == expected.offset_


def test_an_image_tower():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    images = _rng.random((40, 1, 4, 4), np.float32)
    with torch.no_grad():
        vectors = module(torch.tensor(images)).numpy()
    expected = MCM(TEXTS).fit(vectors).score_samples(vectors)
    for tower in (FeatureExtractor(module), FrozenEstimator(FeatureExtractor(module).fit(images))):
        detector = MCM(TEXTS, features=tower).fit(images)
        np.testing.assert_allclose(detector.score_samples(images), expected, rtol=1e-5)
        assert detector.predict_class(images).shape == (40,)


def test_a_bare_module_is_no_classifier():
    """Its last layer makes the vectors; as a classifier's, it would be left out."""
    layers = torch.nn.Linear(3, 3), torch.nn.ReLU(), torch.nn.Linear(3, 3)
    module = torch.nn.Sequential(*layers)
    X = IMAGES.astype(np.float32)
    for given in (module, PretrainedClassifier(module), FrozenEstimator(module)):
        with pytest.raises(ValueError, match=r"give FeatureExtractor\(Sequential\(...\)\)"):
            MCM(TEXTS, features=given).fit(X)
    named = MCM(TEXTS, features=PretrainedClassifier(module, features_from="0")).fit(X)
    with torch.no_grad():
        vectors = layers[0](torch.tensor(X)).numpy()
    np.testing.assert_allclose(
        named.score_samples(X), MCM(TEXTS).fit(vectors).score_samples(vectors), rtol=1e-4
    )


def test_scores_do_not_depend_on_the_batch():
    detector = MCM(TEXTS, temperature=0.01).fit(IMAGES)
    scores = detector.score_samples(IMAGES)
    np.testing.assert_array_equal(detector.score_samples(IMAGES[::-1]), scores[::-1])
    alone = np.concatenate([detector.score_samples(row[None]) for row in IMAGES])
    np.testing.assert_allclose(alone, scores, rtol=1e-9)
    half = detector.score_samples(IMAGES.astype(np.float16))
    np.testing.assert_allclose(half, scores, rtol=0.02, atol=0.3)


class Counting(Letters):
    calls = []

    def transform(self, X):
        self.calls.append(X)
        return super().transform(X)


def test_memory_keeps_vectors_of_texts(tmp_path):
    for memory, expected in [(None, 2), (str(tmp_path), 1)]:
        Counting.calls.clear()
        for temperature in (0.1, 1.0):
            detector = MCM(["a", "b"], text_features=Counting(), temperature=temperature)
            detector.set_params(memory=memory).fit(IMAGES)
        assert len(Counting.calls) == expected
    MCM(["a", "c"], text_features=Counting(), memory=str(tmp_path)).fit(IMAGES)
    assert len(Counting.calls) == 2


def test_pickles_files_and_searches(tmp_path):
    detector = MCM(TEXTS, classes=["cat", "dog", "owl"]).fit(IMAGES)
    expected = detector.score_samples(IMAGES)
    path = tmp_path / "mcm.skood"
    skood.save(detector, path)
    for other in (pickle.loads(pickle.dumps(detector)), skood.load(path)):
        np.testing.assert_array_equal(other.score_samples(IMAGES), expected)
        np.testing.assert_array_equal(other.classes_, detector.classes_)
        np.testing.assert_array_equal(other.predict_class(IMAGES), detector.predict_class(IMAGES))
    texts = MCM(TEXTS).fit_texts()
    skood.save(texts, path)
    np.testing.assert_array_equal(
        skood.load(path).score_outputs(features=IMAGES), texts.score_outputs(features=IMAGES)
    )
    conformal = ConformalDetector(FrozenEstimator(detector), alpha=0.1).fit(IMAGES)
    assert conformal.predict(IMAGES).mean() > 0.5
    far = -IMAGES[:20]
    X, y = np.concatenate([IMAGES, far]), np.repeat([0, 1, 2, -1], 20)
    search = GridSearchCV(
        make_pipeline(FunctionTransformer(), MCM(TEXTS)),
        {"mcm__temperature": [0.1, 1.0]},
        cv=OODSplit(2),
        scoring=get_ood_scorer("auroc"),
    )
    search.fit(X, y)
    assert len(set(search.cv_results_["mean_test_score"])) == 2
