"""ImageFlow as an estimator: likelihood in nats, samples, training."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.special import logit
from scipy.stats import norm
from sklearn.base import clone
from torch.utils.data import TensorDataset

from skood._torch.seeding import draw_seed
from skood._torch.training import hold_out

ALPHA = 0.05


def test_score_is_made_of_its_parts(of_digits, digits):
    """Middle of the bin, logit, network, normal latents and the bin's volume, in float64."""
    X = digits[600:620]
    p = ALPHA + (1 - 2 * ALPHA) * (X + 0.5) / 17
    log_det = np.log((1 - 2 * ALPHA) / (p * (1 - p))).sum((1, 2))
    network = copy.deepcopy(of_digits.module_).double()
    logits = torch.from_numpy(logit(p))[:, None]
    Z = network(logits)[0].detach().numpy()
    jacobians = [torch.func.jacrev(lambda x: network(x[None])[0][0])(x) for x in logits]
    log_det += [torch.linalg.slogdet(J.reshape(64, 64)).logabsdet.item() for J in jacobians]
    expected = norm.logpdf(Z).sum(1) + log_det - 64 * np.log(17)
    np.testing.assert_allclose(of_digits.score_samples(X), expected, atol=1e-3)
    np.testing.assert_allclose(of_digits.encode(X), Z, atol=1e-4)


@pytest.mark.parametrize("coupling", ["spline", "affine"])
def test_untrained_flow_is_a_logit_normal_distribution(tiny_image_flow, coupling):
    """ActNorm standardises the logits; an affine coupling starts by a constant scale."""
    X = np.random.default_rng(0).uniform(20, 180, size=(500, 2, 1, 1))
    flow = tiny_image_flow(
        n_transforms=(1,),
        coupling=coupling,
        bound=9.0,
        n_levels=None,
        value_range=(0, 200),
        max_steps=1,
        batch_size=500,
        learning_rate=1e-12,
    ).fit(X)
    p = ALPHA + (1 - 2 * ALPHA) * X[:, :, 0, 0] / 200
    log_slope = np.log((1 - 2 * ALPHA) / (p * (1 - p)) / 200)
    scale = np.array([1.0, 1 / (1 + np.exp(-2)) + 1e-3 if coupling == "affine" else 1.0])
    std = logit(p).std(0) / scale
    expected = (norm.logpdf(logit(p), logit(p).mean(0), std) + log_slope).sum(1)
    np.testing.assert_allclose(flow.score_samples(X), expected, atol=1e-4)


@pytest.fixture(scope="module")
def pairs():
    """Images of two pixels, away from black and white, (800, 1, 1, 2)."""
    rng = np.random.default_rng(0)
    first = rng.normal(0.5, 0.07, size=800)
    second = 0.5 + 4 * (first - 0.5) ** 2 + rng.normal(0, 0.03, size=800)
    return np.stack((first, second), -1)[:, None, None].clip(0, 1)


def square(n):
    """n x n images of two pixels, in the middles of squares."""
    places = (np.arange(n) + 0.5) / n
    return np.stack(np.meshgrid(places, places), -1).reshape(-1, 1, 1, 2)


def test_density_integrates_to_one(tiny_image_flow, pairs):
    flow = tiny_image_flow(n_transforms=(4,), n_levels=None, max_steps=60).fit(pairs)
    mass = np.exp(flow.score_samples(square(80))).sum() / 80**2
    assert mass == pytest.approx(1, abs=0.01)
    # In other units the density is another, and its integral the same.
    wide = tiny_image_flow(n_transforms=(4,), n_levels=None, max_steps=60, value_range=(0, 64))
    wide_scores = wide.fit(64 * pairs).score_samples(64 * pairs)
    np.testing.assert_allclose(wide_scores, flow.score_samples(pairs) - 2 * np.log(64), atol=1e-3)


def test_probabilities_of_levels_sum_to_one(tiny_image_flow, pairs):
    """The middle of a bin times its volume is close to the integral over it."""
    X = np.round(pairs * 63).astype(int)
    flow = tiny_image_flow(n_transforms=(4,), n_levels=64, value_range=(0, 63), max_steps=60)
    scores = flow.fit(X).score_samples(square(64) * 64 - 0.5)
    assert np.exp(scores).sum() == pytest.approx(1, abs=0.02)


def test_bits_per_dim(of_digits, digits):
    X = digits[500:700]
    bits = of_digits.bits_per_dim(X)
    np.testing.assert_allclose(bits, -of_digits.score_samples(X) / np.log(2) / 64)
    # Of 17 levels, uniform pixels take log2(17) = 4.1 bits.
    assert 1 < bits.mean() < 3.4
    assert of_digits.score(X) == pytest.approx(of_digits.score_samples(X).mean())


def test_scores_are_the_same_in_any_batch_and_call(of_digits, digits):
    """Nothing is drawn: each value is taken in the middle of its bin."""
    X = digits[600:670]
    scores = of_digits.score_samples(X)
    assert (scores.dtype, scores.shape) == (np.float64, (70,))
    np.testing.assert_array_equal(of_digits.score_samples(X), scores)
    order = np.random.default_rng(0).permutation(70)
    whole, order_of_whole = X[:64], np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(
        of_digits.score_samples(whole[order_of_whole]),
        of_digits.score_samples(whole)[order_of_whole],
    )
    # The order of sums depends on the size of a batch, and the last one is smaller.
    np.testing.assert_allclose(of_digits.score_samples(X[order]), scores[order], rtol=2e-6)
    parts = [of_digits.score_samples(X[i : i + 9]) for i in range(0, 70, 9)]
    np.testing.assert_allclose(np.concatenate(parts), scores, rtol=2e-6)


def test_learns(of_digits, digits, tiny_image_flow):
    untrained = tiny_image_flow(n_levels=17, value_range=(0, 16), max_steps=1).fit(digits[:500])
    assert of_digits.score(digits[600:]) > untrained.score(digits[600:]) + 10
    noise = np.random.default_rng(0).integers(17, size=(200, 8, 8))
    assert of_digits.score_samples(noise).max() < of_digits.score_samples(digits[600:]).min()


def test_samples(of_digits, digits):
    drawn = of_digits.sample(300, random_state=0)
    assert (drawn.shape, drawn.dtype) == ((300, 1, 8, 8), np.float64)
    assert set(np.unique(drawn)) <= set(range(17))
    np.testing.assert_array_equal(of_digits.sample(300, random_state=0), drawn)
    assert (of_digits.sample(3, random_state=1) != of_digits.sample(3, random_state=2)).any()
    assert (of_digits.sample(3) != of_digits.sample(3)).any()
    assert np.corrcoef(drawn.mean((0, 1)).ravel(), digits.mean(0).ravel())[0, 1] > 0.85
    assert abs(drawn.mean() - digits.mean()) < 1
    # A sample is as likely as the data, up to what levels round.
    gap = of_digits.score(drawn) - of_digits.score(digits[600:])
    assert abs(gap) < 15


@pytest.mark.parametrize(
    ("shape", "settings", "dtype", "range_"),
    [
        ((9, 4, 4), {}, np.uint8, (0, 255)),
        ((9, 4, 4, 3), {}, np.float32, (0, 1)),
        ((9, 12), {"image_shape": (3, 2, 2)}, np.float64, (0, 1)),
        ((9, 5), {"image_shape": "row", "value_range": "minmax"}, np.float64, None),
        ((9, 4, 4), {"n_levels": None, "value_range": (-1, 1)}, np.float64, (-1, 1)),
        ((9, 4, 4), {"n_levels": 4, "value_range": (0, 3)}, np.int64, (0, 3)),
    ],
    ids=["uint8", "channels last", "flat", "row", "continuous", "integers"],
)
def test_samples_are_like_the_data(tiny_image_flow, shape, settings, dtype, range_):
    rng = np.random.default_rng(0)
    low, high = range_ or (-3, 5)
    X = low + (high - low) * rng.random(shape)
    X = X.round().astype(dtype) if np.dtype(dtype).kind in "iu" else X.astype(dtype)
    flow = tiny_image_flow(**settings).fit(X)
    drawn = flow.sample(400, random_state=0)
    assert drawn.dtype == dtype
    assert drawn.shape == (400, *flow.input_shape_)
    low, high = range_ or (X.min(), X.max())
    assert drawn.min() >= low
    assert drawn.max() <= high
    assert drawn.std() > 0.1 * (high - low)
    assert flow.encode(X).shape == (9, flow.n_latent)
    assert np.isfinite(flow.score_samples(drawn)).all()


def test_forms_of_the_same_images(tiny_image_flow, images):
    of_images = tiny_image_flow().fit(images)
    scores = of_images.score_samples(images)
    for X in (
        images[:, None],
        images[..., None],
        images / 255,
        torch.from_numpy(images),
        TensorDataset(torch.from_numpy(images)[:, None], torch.arange(len(images))),
    ):
        np.testing.assert_array_equal(tiny_image_flow().fit(X).score_samples(X), scores)
    flat = images.reshape(len(images), -1)
    flow = tiny_image_flow(image_shape=(1, 5, 4)).fit(flat)
    np.testing.assert_array_equal(flow.score_samples(flat), scores)
    assert flow.decode(flow.encode(flat)).shape == flat.shape
    np.testing.assert_array_equal(flow.jacobian(flat[:3]), of_images.jacobian(images[:3]))


def test_later_images_are_clipped_to_the_range_of_training(tiny_image_flow):
    X = np.random.default_rng(0).normal(size=(40, 4, 4))
    flow = tiny_image_flow(value_range="minmax", n_levels=8).fit(X)
    clipped = np.clip(3 * X, X.min(), X.max())
    np.testing.assert_array_equal(flow.score_samples(3 * X), flow.score_samples(clipped))
    # Latents reach a little further, up to a limit.
    Z = flow.encode(1.01 * X)
    assert (Z != flow.encode(np.clip(1.01 * X, X.min(), X.max()))).any()
    far = np.where(X > 0, 100.0, -100.0)
    np.testing.assert_array_equal(flow.encode(far), flow.encode(10 * far))
    beyond = 0.2 * np.ptp(X)
    decoded = flow.decode(flow.encode(far))
    assert decoded.min() > X.min() - beyond
    assert decoded.max() < X.max() + beyond


def test_mutations_are_levels(tiny_image_flow):
    flow = tiny_image_flow(mutation_rate=0.25, n_levels=5).fit(np.zeros((9, 4, 4)))
    x = torch.full((2000, 1, 4, 4), 0.3)
    generator = torch.Generator().manual_seed(0)
    mutated = flow._mutate(x, None, generator)
    assert (mutated != x).float().mean() == pytest.approx(0.25, abs=0.01)
    levels, counts = mutated[mutated != x].unique(return_counts=True)
    assert levels.tolist() == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(counts / counts.sum(), 0.2, atol=0.02)


def test_best_epoch_on_validation_data_is_kept(tiny_image_flow, digits):
    settings = {"n_levels": 17, "value_range": (0, 16), "n_transforms": (2,)}
    flow = tiny_image_flow(
        **settings,
        validation_fraction=0.4,
        learning_rate=0.1,
        lr_schedule="constant",
        max_steps=40,
        random_state=3,
    ).fit(digits[:100])
    losses = flow.history_["validation_loss"]
    best = int(np.argmin(losses))
    assert best < len(losses) - 1
    _, held_out = hold_out(100, 0.4, draw_seed(3))
    # The validation loss has no noise: it is the mean score.
    assert -flow.score(digits[held_out]) == pytest.approx(losses[best], abs=1e-3)


@pytest.mark.parametrize(("kind", "coupling"), [("constant", "affine"), ("binary", "spline")])
def test_long_training_on_images_without_a_density(tiny_image_flow, kind, coupling):
    """Continuous values that do not vary, or are of two kinds, have an infinite density."""
    X = np.full((256, 2, 2), 0.3)
    if kind == "binary":
        X = np.random.default_rng(0).integers(2, size=X.shape).astype(float)
    settings = {"n_transforms": (2,), "n_filters": 4, "n_blocks": 0, "coupling": coupling}
    flow = tiny_image_flow(
        **settings, n_levels=None, max_steps=1000, max_epochs=1000, batch_size=16
    ).fit(X)
    assert len(flow.history_["loss"]) == 63
    assert np.isfinite(flow.history_["loss"]).all()
    # Four values, each with a density far above the density of uniform pixels.
    assert flow.score(X) > 4
    new = np.random.default_rng(1).random((20, 2, 2))
    for values in (flow.score_samples(new), flow.sample(20, random_state=0), flow.encode(X)):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("n_levels", [None, 256])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_constant_images(tiny_image_flow, value, n_levels):
    X = np.full((40, 8, 8), value)
    flow = tiny_image_flow(n_transforms=(6, 4), n_levels=n_levels, max_steps=3).fit(X)
    scores = flow.score_samples(np.concatenate([X, np.random.default_rng(0).random((40, 8, 8))]))
    assert np.isfinite(scores).all()
    assert scores[:40].min() > scores[40:].max()
    assert len(np.unique(scores[:40])) == 1


def test_training_uses_noise_and_dropout_but_scoring_does_not(tiny_image_flow, images):
    flow = tiny_image_flow(dropout=0.5).fit(images)
    x = flow._tensor(images[:4, None], torch.device("cpu"))
    flow.module_.train()
    spread = [flow._forward(flow.module_, x)[0] for _ in range(2)]
    assert (spread[0] != spread[1]).any()
    # Noise stays within a bin.
    noisy = flow._spread(x, noisy=True) * 256 - x * 255
    assert ((noisy >= -1e-4) & (noisy <= 1 + 1e-4)).all()
    np.testing.assert_allclose((flow._spread(x, noisy=False) * 256 - x * 255), 0.5, atol=1e-4)
    scores = flow.score_samples(images)
    np.testing.assert_array_equal(flow.score_samples(images), scores)


def test_pickle_clone_and_random_state(tiny_image_flow, images):
    before = torch.get_rng_state()
    flow = tiny_image_flow(mutation_rate=0.2, dropout=0.1).fit(images)
    scores = flow.score_samples(images)
    restored = pickle.loads(pickle.dumps(flow))
    np.testing.assert_array_equal(restored.score_samples(images), scores)
    np.testing.assert_array_equal(restored.jacobian(images[:2]), flow.jacobian(images[:2]))
    np.testing.assert_array_equal(restored.sample(4, 0), flow.sample(4, 0))
    np.testing.assert_array_equal(clone(flow).fit(images).score_samples(images), scores)
    assert torch.equal(torch.get_rng_state(), before)
    other = clone(flow).set_params(random_state=1).fit(images).score_samples(images)
    assert (other != scores).all()


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        ({}, np.full((9, 4, 4), np.nan), "contains NaN"),
        ({}, np.full((9, 4, 4), 7.0), "value_range"),
        ({}, np.zeros((9, 4)), "give image_shape=(C, H, W)"),
        ({}, np.zeros((9, 1, 1)), "X has 1 feature(s), and ImageFlow splits an image in two"),
        ({"n_transforms": ()}, np.zeros((9, 4, 4)), "n_transforms=(); expected at least one"),
        ({"n_transforms": (2, 0)}, np.zeros((9, 4, 4)), "n_transforms=(2, 0); expected at least"),
        ({"n_bins": 1}, np.zeros((9, 4, 4)), "'n_bins' parameter of ImageFlow must be an int"),
    ],
)
def test_what_fit_refuses(tiny_image_flow, settings, X, message):
    with pytest.raises(ValueError) as raised:
        tiny_image_flow(**settings).fit(X)
    assert message in str(raised.value)


def test_what_scoring_refuses(tiny_image_flow, images):
    flow = tiny_image_flow().fit(images)
    for method in (flow.score_samples, flow.encode, flow.jacobian):
        with pytest.raises(ValueError, match="contains NaN"):
            method(np.full((2, 5, 4), np.nan))
        with pytest.raises(ValueError, match="convert X, or state one range for both"):
            method(images / 255)


def test_published_architecture(tiny_image_flow, digits):
    """Filters by scale, alternating channels and a last 1x1 convolution, also in a pickle."""
    settings = {"n_filters": (3, 7), "mask": "alternating", "last_convolution": True}
    flow = tiny_image_flow(**settings, n_levels=17, value_range=(0, 16), max_steps=3)
    Z = flow.fit(digits[:100]).encode(digits[:20])
    np.testing.assert_allclose(flow.decode(Z)[:, 0], digits[:20], atol=1e-2)
    restored = pickle.loads(pickle.dumps(flow))
    np.testing.assert_array_equal(restored.score_samples(digits), flow.score_samples(digits))
    other = clone(flow).set_params(mask="half").fit(digits[:100])
    assert (other.score_samples(digits) != flow.score_samples(digits)).all()


@pytest.mark.parametrize("n_filters", [(3,), (3, 3, 3), (3, 0)])
def test_filters_do_not_fit_the_scales(tiny_image_flow, images, n_filters):
    flow = tiny_image_flow(n_transforms=(2, 2), n_filters=n_filters)
    with pytest.raises(ValueError, match="one for each of the 2 scales of n_transforms"):
        flow.fit(images)
