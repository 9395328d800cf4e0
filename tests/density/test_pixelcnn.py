"""PixelCNN as an estimator: training, scores, samples."""

import pickle
import random
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from sklearn.base import clone

from skood.density import PixelCNN

VARIANTS = {
    "plain": {},
    "weight norm": {"weight_norm": True},
    "dropout": {"dropout": 0.3},
    "hierarchies": {"n_hierarchies": 2},
    "mixture": {"n_components": 3},
    "conditional": {"conditional": True},
    "grey origin": {"pixel_origin": "grey"},
    "everything": {
        "weight_norm": True,
        "dropout": 0.3,
        "n_hierarchies": 2,
        "n_components": 2,
        "conditional": True,
        "mutation_rate": 0.2,
        "reg_weight": 0.1,
    },
}
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())


def labels_for(variant, n):
    return np.array(["cat", "dog", "eel"])[np.arange(n) % 3] if "conditional" in variant else None


def every_image(shape, n_levels):
    return np.array(list(product(range(n_levels), repeat=int(np.prod(shape))))).reshape(-1, *shape)


@pytest.fixture(scope="module")
def of_digits(digits):
    """PixelCNN trained on 1500 digits for some seconds."""
    return PixelCNN(
        n_filters=8,
        n_resnet=1,
        n_components=2,
        n_levels=17,
        value_range=(0, 16),
        max_steps=300,
        batch_size=16,
        learning_rate=1e-2,
        compile=False,
        random_state=0,
    ).fit(digits[:1500])


def test_learns_how_pixels_depend_on_each_other(digits, of_digits):
    train, test = digits[:1500].astype(int), digits[1500:].astype(int)
    counts = 1 + (train[..., None] == np.arange(17)).sum(0)
    histograms = counts / counts.sum(2, keepdims=True)
    row, column = np.indices((8, 8))
    bits_of_independent_pixels = -np.log2(histograms[row, column, test]).mean()
    assert of_digits.bits_per_dim(digits[1500:]).mean() < bits_of_independent_pixels - 0.3


def test_learns_what_is_in_distribution(digits, of_digits):
    transposed = of_digits.score_samples(digits[1500:].transpose(0, 2, 1)).mean()
    assert of_digits.score_samples(digits[1500:]).mean() > transposed + 15
    assert of_digits.score(digits[1500:]) == of_digits.score_samples(digits[1500:]).mean()


def test_bits_per_dim(tiny):
    X = np.random.default_rng(0).integers(256, size=(12, 3, 4, 5), dtype=np.uint8)
    density = tiny().fit(X)
    nats = density.score_samples(X)
    np.testing.assert_allclose(density.bits_per_dim(X), -nats / np.log(2) / (3 * 4 * 5), rtol=1e-12)


@every_variant
@pytest.mark.parametrize("n_channels", [1, 3])
def test_training_moves_every_parameter(tiny, variant, n_channels):
    X = np.random.default_rng(0).integers(17, size=(24, n_channels, 5, 6))
    y = labels_for(variant, len(X))
    settings = {"n_levels": 17, "value_range": (0, 16), **variant}
    trained = tiny(**settings).fit(X, y).module_.state_dict()
    untrained = tiny(**settings, learning_rate=1e-12).fit(X, y).module_.state_dict()
    for name, parameter in trained.items():
        assert (parameter - untrained[name]).abs().max() > 1e-3, name


@every_variant
def test_pixels_sum_to_the_score(tiny, variant, images):
    density = tiny(**variant).fit(images, labels_for(variant, len(images)))
    pixels = density.score_pixels(images)
    scores = density.score_samples(images)
    assert pixels.shape == images.shape
    assert pixels.dtype == scores.dtype == np.float64
    np.testing.assert_allclose(pixels.sum((1, 2)), scores, rtol=1e-12)


@pytest.mark.parametrize("variant", [{}, VARIANTS["everything"]], ids=["plain", "everything"])
@pytest.mark.parametrize("n_channels", [1, 3])
def test_score_belongs_to_the_image(tiny, variant, n_channels):
    """Bitwise the same in any order of full batches; to 1e-6 in others and with other threads."""
    X = np.random.default_rng(0).integers(256, size=(64, n_channels, 5, 4), dtype=np.uint8)
    density = tiny(n_filters=8, **variant).fit(X, labels_for(variant, len(X)))
    scores, pixels = density.score_samples(X), density.score_pixels(X)
    order = np.random.default_rng(1).permutation(len(X))
    np.testing.assert_array_equal(density.score_samples(X[order]), scores[order])
    for size in (9, 33):
        parts = [X[i : i + size] for i in range(0, len(X), size)]
        together = np.concatenate([*map(density.score_samples, parts)])
        np.testing.assert_allclose(together, scores, rtol=1e-6)
    for i in (0, 31, 39):
        np.testing.assert_allclose(density.score_pixels(X[i : i + 1])[0], pixels[i], rtol=1e-5)
    n_threads = torch.get_num_threads()
    try:
        for n in (2, 3):
            torch.set_num_threads(n)
            np.testing.assert_allclose(density.score_samples(X), scores, rtol=1e-6)
    finally:
        torch.set_num_threads(n_threads)


SMALL = [
    ({}, (1, 2, 2)),
    ({"n_hierarchies": 2, "n_components": 2}, (1, 2, 2)),
    ({"conditional": True}, (1, 2, 2)),
    ({}, (3, 1, 2)),
    ({"conditional": True, "weight_norm": True, "n_components": 2}, (3, 1, 2)),
    ({"pixel_origin": "grey"}, (1, 2, 2)),
    ({"pixel_origin": "black", "n_components": 2}, (3, 1, 2)),
]
small_model = pytest.mark.parametrize(("variant", "shape"), SMALL)


def fit_small(tiny, variant, shape):
    """Model of images with three levels, trained on a law that favours some of them."""
    X = np.random.default_rng(0).binomial(2, 0.3, size=(60, *shape))
    y = labels_for(variant, len(X))
    return tiny(n_levels=3, value_range=(0, 2), max_steps=20, **variant).fit(X, y)


@small_model
def test_probabilities_of_all_images_sum_to_one(tiny, variant, shape):
    density = fit_small(tiny, variant, shape)
    log_prob = density.score_samples(every_image(shape, 3))
    assert np.exp(log_prob).sum() == pytest.approx(1, abs=1e-5)


@small_model
def test_statistics(tiny, variant, shape):
    """On average over samples of the model, the entropies are -log p(x)."""
    density = fit_small(tiny, variant, shape)
    X = every_image(shape, 3)
    assert density.statistics_names == ("log_prob", "entropy")
    log_p, entropy = density.score_statistics(X).T
    np.testing.assert_allclose(log_p, density.score_samples(X), atol=1e-5)
    if not density.conditional:
        assert np.exp(log_p) @ (log_p + entropy) == pytest.approx(0, abs=1e-4)
        return
    given = density.class_log_prob(X)
    joint = given + density.class_log_prior_
    # p(y, x) has that mean for each class.
    assert np.exp(log_p) @ entropy == pytest.approx(-(np.exp(joint) * given).sum(), abs=1e-4)
    np.testing.assert_allclose(
        density.score_statistics(X[:3]), np.stack((log_p, entropy), 1)[:3], rtol=1e-6, atol=1e-6
    )


@small_model
def test_pixel_scores_are_conditional_log_probabilities(tiny, variant, shape):
    """Given those before it, the probabilities of a pixel's values sum to one."""
    density = fit_small(tiny, variant, shape)
    X = every_image(shape, 3)
    scores = density.score_pixels(X).reshape(len(X), -1)
    pixels = X.reshape(len(X), shape[0], -1)
    for i in range(scores.shape[1]):
        _, past = np.unique(pixels[:, :, :i].reshape(len(X), -1), axis=0, return_inverse=True)
        n_futures = 3 ** pixels[0, :, i + 1 :].size
        totals = np.bincount(past.ravel(), np.exp(scores[:, i])) / n_futures
        np.testing.assert_allclose(totals, 1, atol=1e-5)


@small_model
def test_sample_follows_the_scores(tiny, variant, shape):
    density = fit_small(tiny, variant, shape)
    n = 20_000
    X = every_image(shape, 3)
    expected = n * np.exp(density.score_samples(X))
    drawn = density.sample(n, random_state=0).reshape(n, -1)
    places = 3 ** np.arange(drawn.shape[1])[::-1]
    counts = np.bincount(drawn @ places, minlength=len(X))
    often = expected >= 5
    assert abs(counts[~often].sum() - expected[~often].sum()) <= 5 * np.sqrt(
        expected[~often].sum() + 1
    )
    statistic = ((counts - expected)[often] ** 2 / expected[often]).sum()
    n_free = often.sum() - 1
    assert statistic < n_free + 5 * np.sqrt(2 * n_free)


def test_sample_looks_like_what_was_learned(tiny):
    """A checkerboard that starts black or white, one in four white."""
    board = np.indices((4, 4)).sum(0) % 2
    X = np.stack([board] * 45 + [1 - board] * 15)
    density = tiny(n_filters=8, n_levels=2, value_range=(0, 1), max_steps=150, batch_size=20).fit(X)
    drawn = density.sample(200, random_state=0)[:, 0]
    black_first = (drawn == board).all((1, 2))
    white_first = (drawn == 1 - board).all((1, 2))
    assert (black_first | white_first).mean() > 0.9
    assert 0.1 < white_first.mean() < 0.4
    assert density.score_samples(board[None])[0] == pytest.approx(np.log(0.75), abs=0.3)
    assert density.score_samples(np.zeros((1, 4, 4), dtype=int))[0] < -10


@pytest.mark.parametrize(
    ("settings", "X"),
    [
        ({}, np.full((8, 4, 3), 9, dtype=np.uint8)),
        ({}, np.full((8, 3, 4, 2), 9, dtype=np.uint8)),
        ({"n_levels": 5}, np.full((8, 4, 3), 9, dtype=np.uint8)),
        ({}, np.full((8, 4, 3), 0.3, dtype=np.float32)),
        ({"n_levels": 5}, np.full((8, 4, 3), 0.3)),
        ({"value_range": (-10, 20), "n_levels": 31}, np.full((8, 4, 3), -3, dtype=np.int16)),
        ({"value_range": "minmax", "n_levels": 4}, np.arange(96.0).reshape(8, 4, 3)),
        ({"image_shape": (3, 2, 2)}, np.full((8, 12), 0.3)),
        ({"image_shape": "row"}, np.full((8, 12), 9, dtype=np.uint8)),
    ],
)
def test_sample_is_of_the_kind_of_the_data(tiny, settings, X):
    density = tiny(**settings).fit(X)
    drawn = density.sample(40, random_state=0)
    assert drawn.dtype == X.dtype
    assert drawn.shape == (40, *density.input_shape_)
    assert density.input_shape_ == (
        (12,) if X.ndim == 2 else (1, 4, 3) if X.ndim == 3 else (3, 4, 2)
    )
    low, high = density.value_range_
    levels = (drawn.astype(float) - low) / (high - low) * (density.n_levels - 1)
    assert levels.min() >= -1e-5
    assert levels.max() <= density.n_levels - 1 + 1e-5
    assert len(np.unique(levels.round())) > 2
    slack = 0.5 * (density.n_levels - 1) / (high - low) if X.dtype.kind in "iu" else 1e-4
    assert abs(levels - levels.round()).max() <= slack
    assert np.isfinite(density.score_samples(drawn)).all()


def test_sample_is_decided_by_random_state(tiny, images):
    density = tiny().fit(images)
    drawn = density.sample(3, random_state=0)
    np.testing.assert_array_equal(density.sample(3, random_state=0), drawn)
    assert (density.sample(3, random_state=1) != drawn).any()
    assert (density.sample(3) != density.sample(3)).any()
    assert density.sample().shape == (1, 1, 5, 4)


def test_conditional_model_tells_classes_apart(tiny):
    rng = np.random.default_rng(0)
    y = np.array(["bright", "dark"])[(rng.random(80) < 0.7).astype(int)]
    X = rng.integers(8, size=(80, 4, 4)) + 8 * (y == "bright")[:, None, None]
    density = tiny(
        conditional=True, n_levels=16, value_range=(0, 15), max_steps=60, n_filters=6
    ).fit(X, y)
    assert density.classes_.tolist() == ["bright", "dark"]
    frequencies = np.array([(y == "bright").mean(), (y == "dark").mean()])
    np.testing.assert_allclose(np.exp(density.class_log_prior_), frequencies)
    by_class = density.class_log_prob(X)
    assert by_class.shape == (80, 2)
    assert (density.classes_[by_class.argmax(1)] == y).all()
    np.testing.assert_allclose(
        density.score_samples(X), logsumexp(by_class + np.log(frequencies), axis=1), rtol=1e-10
    )
    # Samples draw the classes as they occur; they differ most in their brightness.
    is_bright = density.sample(300, random_state=0).mean((1, 2, 3)) > 7.5
    assert is_bright.mean() == pytest.approx(frequencies[0], abs=0.15)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y to be passed to fit, but the target y is None"),
        (np.zeros(23), "y has 23 labels for 24 items; expected one for each"),
        (np.linspace(0, 1, 24), "Unknown label type: continuous"),
        (np.zeros((24, 2)), r"y should be a 1d array, got an array of shape \(24, 2\)"),
    ],
)
def test_conditional_model_wants_labels(tiny, images, y, message):
    with pytest.raises(ValueError, match=message):
        tiny(conditional=True).fit(images, y)


def test_unconditional_model_ignores_labels(tiny, images):
    plain = tiny().fit(images)
    labelled = tiny().fit(images, ["any", np.nan])
    np.testing.assert_array_equal(labelled.score_samples(images), plain.score_samples(images))
    assert not hasattr(plain, "class_log_prob")
    assert plain.__sklearn_tags__().target_tags.required is False
    assert tiny(conditional=True).__sklearn_tags__().target_tags.required is True


@every_variant
def test_pickle_and_clone(tiny, variant, images):
    y = labels_for(variant, len(images))
    density = tiny(**variant).fit(images, y)
    restored = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(restored.score_samples(images), density.score_samples(images))
    np.testing.assert_array_equal(
        restored.sample(2, random_state=0), density.sample(2, random_state=0)
    )
    again = clone(density)
    assert not hasattr(again, "module_")
    assert again.get_params() == density.get_params()
    np.testing.assert_array_equal(
        again.fit(images, y).score_samples(images), density.score_samples(images)
    )


@every_variant
def test_global_random_state_is_neither_changed_nor_read(tiny, variant, images):
    def states():
        _, keys, position, *_ = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (keys.tobytes(), position), torch.get_rng_state().tolist()

    results = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = states()
        density = tiny(**variant).fit(images, labels_for(variant, len(images)))
        assert states() == before
        results.append([density.score_samples(images), density.sample(2, random_state=0)])
        assert states() == before
        density.sample(2)
        assert states() == before
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


def test_random_state(tiny, images):
    def scores(random_state):
        return tiny(random_state=random_state).fit(images).score_samples(images)

    np.testing.assert_array_equal(scores(3), scores(3))
    assert (scores(3) != scores(4)).any()
    assert (scores(None) != scores(None)).any()
    shared = np.random.RandomState(0)
    assert (scores(shared) != scores(shared)).any()


def test_half_precision_trains_much_the_same(digits):
    settings = {"n_filters": 6, "n_resnet": 1, "n_levels": 17, "value_range": (0, 16)}
    training = {"max_steps": 40, "compile": False, "random_state": 0, "learning_rate": 1e-2}

    def fit(precision):
        return PixelCNN(**settings, **training, precision=precision).fit(digits[:300])

    half, single = fit("bf16"), fit("fp32")
    assert {p.dtype for p in half.module_.parameters()} == {torch.float32}
    assert half.history_ != single.history_
    assert half.score(digits[300:]) == pytest.approx(single.score(digits[300:]), rel=0.1)


@pytest.mark.parametrize(
    ("pixel_origin", "n_channels", "expected"),
    [("auto", 1, "black"), ("auto", 3, "grey"), ("grey", 1, "grey"), ("black", 3, "black")],
)
def test_origin_of_the_pixels(tiny, pixel_origin, n_channels, expected):
    X = np.random.default_rng(0).integers(256, size=(8, n_channels, 4, 3), dtype=np.uint8)
    density = tiny(pixel_origin=pixel_origin).fit(X)
    assert density.pixel_origin_ == expected
    named = tiny(pixel_origin=expected).fit(X)
    np.testing.assert_array_equal(density.score_samples(X), named.score_samples(X))


def test_a_model_without_an_origin_reads_pixels_from_grey(tiny, images):
    """Files of earlier versions, in which grey was the only origin."""
    density = tiny(pixel_origin="grey").fit(images)
    expected = density.score_samples(images)
    earlier = pickle.loads(pickle.dumps(density))
    del earlier.pixel_origin_
    earlier.pixel_origin = "auto"
    np.testing.assert_array_equal(earlier.score_samples(images), expected)
