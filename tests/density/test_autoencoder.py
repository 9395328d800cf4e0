"""Autoencoder: its loss against PCA and by hand, its training, and what it takes and gives."""

import pickle
import random
import re

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import DensityMixin, clone
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import Dataset, TensorDataset

from skood._torch.seeding import draw_seed
from skood._torch.training import hold_out
from skood.density import Autoencoder

METHODS = "transform", "reconstruct"


def make(**kwargs):
    settings = {
        "n_latent": 2,
        "n_filters": (3,),
        "hidden_features": (6,),
        "max_steps": 3,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "random_state": 0,
    }
    return Autoencoder(**{**settings, **kwargs})


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


VARIANTS = {
    "rows": ((30, 6), {}),
    "rows of a range": ((30, 6), {"value_range": (0, 1)}),
    "linear": ((30, 6), {"hidden_features": ()}),
    "grey": ((30, 9, 6), {"n_filters": (3, 4)}),
    "colour": ((30, 3, 7, 5), {"n_filters": (3, 4), "hidden_features": (7, 5)}),
    "no hidden layers": ((30, 4, 3), {"hidden_features": ()}),
    "no convolutions": ((30, 4, 3), {"n_filters": (), "hidden_features": (8,)}),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def data_of(variant):
    shape, settings = VARIANTS[variant]
    return np.random.default_rng(0).random(shape), settings


def plane(n=200):
    """Rows near a plane in six dimensions, in units that differ."""
    rng = np.random.default_rng(0)
    near = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(n, 6))
    return near * [1, 10, 100, 0.1, 1, 5] + [0, 50, -300, 1, 2, 3]


def errors(autoencoder, X):
    """Mean squared error of each item, in the units of the loss."""
    difference = (autoencoder.reconstruct(X).reshape(X.shape) - X).reshape(len(X), -1)
    unit = X.std(0) if autoencoder.value_range_ is None else np.ptp(autoencoder.value_range_)
    return ((difference / unit) ** 2).mean(1)


class TestLoss:
    def test_linear_autoencoder_is_pca(self):
        """The least error of a linear map through two dimensions is that of PCA."""
        X = plane()
        unit = StandardScaler().fit_transform(X)
        pca = PCA(2).fit(unit)
        expected = pca.inverse_transform(pca.transform(unit))
        least = ((expected - unit) ** 2).mean()
        linear = make(
            hidden_features=(),
            max_steps=None,
            max_epochs=300,
            batch_size=200,
            validation_fraction=0,
            learning_rate=0.03,
            betas=(0.9, 0.9),
        ).fit(X)
        assert errors(linear, X).mean() == pytest.approx(least, rel=1e-3)
        assert linear.history_["loss"][-1] == pytest.approx(least, rel=1e-3)
        found = (linear.reconstruct(X) - X.mean(0)) / X.std(0)
        np.testing.assert_allclose(found, expected, atol=0.01)
        # Without the second dimension it costs what PCA says.
        one = clone(linear).set_params(n_latent=1).fit(X)
        expected = 1 - PCA(1).fit(unit).explained_variance_ratio_.sum()
        assert errors(one, X).mean() == pytest.approx(expected, rel=1e-3)

    @every_variant
    @pytest.mark.parametrize("scale", [1, 255])
    def test_history_starts_at_the_error_of_the_untrained_network(self, variant, scale):
        X, settings = data_of(variant)
        X = X if scale == 1 else (scale * X).astype(np.uint8)
        if scale == 255 and "value_range" in settings:
            settings = {"value_range": (0, 255)}
        untrained = {"learning_rate": 1e-12, "max_steps": 1, "batch_size": 30}
        autoencoder = make(**{**settings, **untrained}, validation_fraction=0).fit(X)
        assert list(autoencoder.history_) == ["loss"]
        expected = errors(autoencoder, X).mean()
        assert autoencoder.history_["loss"] == [pytest.approx(expected, rel=1e-5)]

    @pytest.mark.parametrize("variant", ["rows", "colour"])
    def test_validation_loss_is_the_error_of_what_was_held_out(self, variant):
        X, settings = data_of(variant)
        autoencoder = make(**settings, max_steps=12, validation_fraction=0.5).fit(X)
        assert len(autoencoder.history_["validation_loss"]) == 12
        _, held_out = hold_out(30, 0.5, draw_seed(0))
        best = min(autoencoder.history_["validation_loss"])
        assert errors(autoencoder, X)[held_out].mean() == pytest.approx(best, rel=1e-5)


@every_variant
def test_training_moves_every_parameter(variant):
    X, settings = data_of(variant)
    settings = {**settings, "max_steps": 12, "validation_fraction": 0}
    trained = make(**settings).fit(X).module_
    untrained = make(**settings).set_params(learning_rate=1e-12).fit(X).module_
    before = dict(untrained.named_parameters())
    assert len(before) == len(dict(trained.named_parameters())) > 3
    for name, parameter in trained.named_parameters():
        assert (parameter - before[name]).abs().max() > 1e-3, name


@pytest.mark.parametrize("variant", ["rows", "rows of a range", "linear", "grey", "colour"])
def test_few_items_are_learned_by_heart(variant):
    """Three points lie on a plane, which a linear map finds as well."""
    X, settings = data_of(variant)
    X = np.tile(X[:3], (10, *[1] * (X.ndim - 1)))
    wide = {"n_filters": (8, 8), "hidden_features": (32,) if variant != "linear" else ()}
    long = {"max_steps": None, "max_epochs": 150, "batch_size": 30, "validation_fraction": 0}
    losses = make(**{**settings, **wide, **long}).fit(X).history_["loss"]
    assert losses[-1] < 0.1 * losses[0]


def test_what_is_unlike_the_training_data_is_reconstructed_worse():
    X = plane(400)
    autoencoder = make(max_steps=200, hidden_features=(16,), batch_size=50).fit(X[:300])
    shuffled = np.random.default_rng(1).permuted(X[300:], axis=0)
    assert np.median(errors(autoencoder, shuffled)) > 5 * np.median(errors(autoencoder, X[300:]))


@every_variant
@pytest.mark.parametrize("method", METHODS)
def test_result_belongs_to_the_item(variant, method):
    """The same in any batch and order, and every time."""
    X, settings = data_of(variant)
    X = np.concatenate([X, X[::-1] ** 2])
    call = getattr(make(**settings).fit(X), method)
    expected = call(X)
    assert expected.dtype == np.float64
    np.testing.assert_array_equal(call(X), expected)
    # For a few odd widths MKL adds up in an order that depends on the place in the batch.
    close = {"rtol": 1e-6, "atol": 1e-6}
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(call(X[order]), expected[order], **close)
    for part in (np.s_[:33], np.s_[33:], np.s_[7:8]):
        np.testing.assert_allclose(call(X[part]), expected[part], **close)


@pytest.mark.parametrize("shape", [(64, 5), (64, 10, 9)])
def test_default_widths_are_bitwise_the_same_in_any_order(shape):
    X = np.random.default_rng(0).random(shape)
    autoencoder = Autoencoder(max_steps=1, random_state=0).fit(X)
    latents = autoencoder.transform(X)
    order = np.random.default_rng(1).permutation(64)
    for call, items in ((autoencoder.transform, X), (autoencoder.inverse_transform, latents)):
        expected = call(items)
        np.testing.assert_array_equal(call(items[order]), expected[order])
        atol = 1e-6 * np.abs(expected).max()
        np.testing.assert_allclose(call(items[50:]), expected[50:], rtol=0, atol=atol)


@pytest.mark.parametrize("variant", ["rows", "colour"])
@pytest.mark.parametrize("step", [0, 4])
def test_interrupted_training_resumes_to_the_same_weights(monkeypatch, tmp_path, variant, step):
    X, settings = data_of(variant)
    settings = {**settings, "max_steps": 9, "batch_size": 9}
    expected = make(**settings).fit(X)
    autoencoder = make(**settings, checkpoint_dir=tmp_path)
    original, calls = Autoencoder._tensor, iter(range(100))

    def interrupt(self, *args):
        if next(calls) == step:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Autoencoder, "_tensor", interrupt)
        with pytest.warns(UserWarning, match="Autoencoder was interrupted after . of 9 steps"):
            autoencoder.fit(X)
    assert np.isfinite(autoencoder.reconstruct(X)).all()
    assert len(autoencoder.history_["loss"]) < len(expected.history_["loss"])
    autoencoder.fit(X)
    for name, weights in expected.module_.state_dict().items():
        assert torch.equal(autoencoder.module_.state_dict()[name], weights), name
    assert autoencoder.history_ == expected.history_
    assert len(list(tmp_path.iterdir())) == 1
    autoencoder.set_params(learning_rate=1e-3).fit(X)
    assert len(list(tmp_path.iterdir())) == 2


FORMS = {
    "float64": ({}, lambda x: x / 255),
    "float32": ({}, lambda x: (x / 255).astype(np.float32)),
    "int64": ({"value_range": (0, 255)}, lambda x: x.astype(np.int64)),
    "another range": ({"value_range": (-1, 1)}, lambda x: x / 127.5 - 1),
    "minmax": ({"value_range": "minmax"}, lambda x: x * 7.0 - 3),
    "(n, 1, H, W)": ({}, lambda x: x[:, None]),
    "(n, H, W, 1)": ({}, lambda x: x[..., None]),
    "fortran order": ({}, np.asfortranarray),
    "tensor": ({}, torch.from_numpy),
    "dataset": ({}, Items),
    "TensorDataset": ({}, lambda x: TensorDataset(torch.from_numpy(x), torch.arange(len(x)))),
    "flat rows": ({"image_shape": (1, 5, 4)}, lambda x: x.reshape(len(x), -1)),
    "flat dataset": ({"image_shape": [1, 5, 4]}, lambda x: Items(x.reshape(len(x), -1))),
}


@pytest.mark.parametrize("form", FORMS)
def test_images_in_every_form(images, form):
    """The same latents, and the same reconstructions in the units of X."""
    images[0, 0, :2] = 0, 255
    settings, transform = FORMS[form]
    X = transform(images)
    plain, same = make().fit(images), make(**settings).fit(X)
    assert plain.value_range_ == (0, 255)
    low, high = same.value_range_
    close = {"rtol": 1e-5, "atol": 1e-5}
    np.testing.assert_allclose(same.transform(X), plain.transform(images), **close)
    made = same.reconstruct(X)
    assert made.shape == (24, *same.input_shape_)
    assert same.input_shape_ == ((20,) if "flat" in form else (1, 5, 4))
    np.testing.assert_allclose(
        ((made - low) / (high - low)).reshape(24, 1, 5, 4), plain.reconstruct(images) / 255, **close
    )
    np.testing.assert_allclose(same.history_["loss"], plain.history_["loss"], rtol=1e-4)


def test_rows_in_every_form():
    X = np.random.default_rng(0).integers(9, size=(24, 3))
    expected = make().fit(X.astype(float)).reconstruct(X)
    for other in (X.astype(np.uint8), X.tolist(), torch.from_numpy(X), Items(X.astype(float))):
        np.testing.assert_array_equal(make().fit(other).reconstruct(other), expected)


@pytest.mark.parametrize("shape", [(28, 28), (7, 9), (1, 8), (3, 7, 5), (2, 2, 2), (6, 5, 3)])
@pytest.mark.parametrize("n_filters", [(), (6, 7), (6, 7, 8, 9)])
def test_shapes_of_images(shape, n_filters):
    """Odd sizes, more halvings than there are pixels, and channels in either place."""
    X = np.random.default_rng(0).random((12, *shape))
    autoencoder = make(n_filters=n_filters, hidden_features=(64,)).fit(X)
    channels_last = len(shape) == 3 and shape[2] == 3
    item = (shape[2], *shape[:2]) if channels_last else shape if len(shape) == 3 else (1, *shape)
    latents, made = autoencoder.transform(X), autoencoder.reconstruct(X)
    assert latents.shape == (12, 2)
    assert made.shape == (12, *item)
    np.testing.assert_array_equal(autoencoder.inverse_transform(latents), made)
    # What comes out goes in again.
    assert autoencoder.reconstruct(made).shape == made.shape
    # Every pixel and channel is read, and made of the latents.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand((64, *item), generator=generator, requires_grad=True)
    autoencoder.module_.encode(x).square().sum().backward()
    assert (x.grad != 0).any(0).all()
    decoded = autoencoder.module_.decode(3 * torch.randn((64, 2), generator=generator))
    assert (decoded.std(0) > 0).all()


@pytest.mark.parametrize(
    ("X", "settings"),
    [
        (np.random.default_rng(0).integers(256, size=(24, 5, 4), dtype=np.uint8), {}),
        (np.random.default_rng(0).random((24, 5, 4)), {}),
        (np.random.default_rng(0).normal(size=(24, 5, 4)), {"value_range": "minmax"}),
        (np.random.default_rng(0).uniform(-3, 5, size=(24, 6)), {"value_range": (-3, 5)}),
        (np.random.default_rng(0).normal(size=(24, 6)), {"value_range": "minmax"}),
    ],
    ids=["bytes", "floats", "minmax", "rows", "minmax rows"],
)
def test_reconstructions_lie_in_the_range(X, settings):
    autoencoder = make(max_steps=30, hidden_features=(16,), **settings).fit(X)
    low, high = autoencoder.value_range_
    expected = {np.dtype(np.uint8): (0, 255), np.dtype(float): (0, 1)}[X.dtype]
    if settings:
        expected = settings["value_range"]
    assert (low, high) == (expected if expected != "minmax" else (X.min(), X.max()))
    far = autoencoder.inverse_transform(1e3 * np.random.default_rng(0).normal(size=(100, 2)))
    for made in (autoencoder.reconstruct(X), far):
        assert made.min() >= low
        assert made.max() <= high
    # Both ends of it can be reached.
    assert far.min() < low + 0.01 * (high - low)
    assert far.max() > high - 0.01 * (high - low)
    if settings.get("value_range") == "minmax":
        beyond = autoencoder.reconstruct(10 * X)
        assert low <= beyond.min() < beyond.max() <= high
        assert (autoencoder.transform(10 * X) != autoencoder.transform(X)).any(1).all()


def test_standardised_rows_have_no_range():
    X = np.random.default_rng(0).normal(size=(40, 3))
    autoencoder = make(max_steps=20).fit(X)
    assert autoencoder.value_range_ is None
    np.testing.assert_allclose(autoencoder.mean_, X.mean(0))
    np.testing.assert_allclose(autoencoder.scale_, X.std(0))
    assert np.ptp(autoencoder.inverse_transform([[-1e4, 0], [1e4, 0]])) > 100


@pytest.mark.parametrize(
    "X", [np.full((20, 5, 4), 0.3), np.zeros((20, 5, 4), np.uint8), np.full((20, 3), 1e6)]
)
def test_constant_data(X):
    autoencoder = make(max_steps=100, learning_rate=0.05).fit(X)
    assert np.isfinite(autoencoder.transform(X)).all()
    unit = 255 if X.dtype == np.uint8 else 1
    np.testing.assert_allclose(
        autoencoder.reconstruct(X).reshape(X.shape) / unit, X / unit, atol=0.05
    )


def test_input_is_never_modified():
    original = np.random.default_rng(0).random((12, 1, 4, 4)).astype(np.float32)
    for X in (original.copy(), torch.from_numpy(original.copy())):
        make().fit(X).reconstruct(X)
        np.testing.assert_array_equal(np.asarray(X), original)


def test_half_precision_trains_much_the_same():
    X = plane()
    settings = {"max_steps": 60, "hidden_features": (16,)}
    half, single = (make(**settings, precision=p).fit(X) for p in ("bf16", "fp32"))
    assert {p.dtype for p in half.module_.parameters()} == {torch.float32}
    assert half.history_ != single.history_
    assert errors(half, X).mean() == pytest.approx(errors(single, X).mean(), rel=0.1)


@every_variant
def test_pickle_clone_and_random_state(variant):
    def states():
        _, keys, position, *_ = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (keys.tobytes(), position), torch.get_rng_state().tolist()

    X, settings = data_of(variant)
    before = states()
    autoencoder = make(**settings).fit(X)
    fitted = set(vars(autoencoder))
    latents, made = autoencoder.transform(X), autoencoder.reconstruct(X)
    assert states() == before
    assert set(vars(autoencoder)) == fitted
    restored = pickle.loads(pickle.dumps(autoencoder))
    np.testing.assert_array_equal(restored.transform(X), latents)
    np.testing.assert_array_equal(restored.inverse_transform(latents), made)
    again = clone(autoencoder)
    assert not hasattr(again, "module_")
    with torch.random.fork_rng():
        torch.manual_seed(99)
        np.testing.assert_array_equal(again.fit(X).transform(X), latents)
    other = clone(autoencoder).set_params(random_state=1).fit(X)
    assert (other.transform(X) != latents).any(1).all()
    assert (clone(other).set_params(random_state=None).fit(X).transform(X) != latents).any()


class TestAmongOthers:
    def test_pipeline(self):
        X = plane()
        y = (X[:, 0] > 0).astype(int)
        quick = make(hidden_features=(), max_steps=None, max_epochs=30)
        pipeline = make_pipeline(StandardScaler(), quick, LogisticRegression()).fit(X, y)
        assert pipeline.score(X, y) > 0.8
        latents = pipeline[:-1].transform(X)
        assert pipeline[:-1].get_feature_names_out().tolist() == ["autoencoder0", "autoencoder1"]
        # The way back leads through both steps to the units of X.
        decoded = pipeline[:-1].inverse_transform(latents)
        assert ((decoded - X) ** 2 / X.var(0)).mean() < 0.3

    def test_data_frames(self):
        frame = pandas.DataFrame(plane(40), columns=list("abcdef"), index=np.arange(40) + 1000)
        autoencoder = make().set_output(transform="pandas").fit(frame)
        latents = autoencoder.transform(frame)
        assert latents.columns.tolist() == ["autoencoder0", "autoencoder1"]
        assert (latents.index == frame.index).all()
        plain = make().fit_transform(frame.to_numpy())
        np.testing.assert_array_equal(latents.to_numpy(), plain)
        with pytest.raises(ValueError, match="feature names should match"):
            autoencoder.reconstruct(frame.rename(columns={"a": "z"}))

    def test_frozen(self, images):
        frozen = clone(FrozenEstimator(make().fit(images)))
        assert frozen.reconstruct(images).shape == (24, 1, 5, 4)

    def test_is_no_density(self):
        assert not isinstance(Autoencoder(), DensityMixin)
        assert {"mutation_rate", "reg_weight"}.isdisjoint(Autoencoder().get_params())
        for method in ("score_samples", "score", "sample", "predict"):
            assert not hasattr(Autoencoder, method), method

    def test_labels_are_ignored(self, images):
        plain, labelled = make().fit(images), make().fit(images, ["any", np.nan])
        np.testing.assert_array_equal(labelled.transform(images), plain.transform(images))
        assert plain.__sklearn_tags__().target_tags.required is False


@pytest.mark.parametrize(
    ("settings", "X", "message"),
    [
        ({}, np.full((9, 3, 4), 2.5), "X has values from 2.5 to 2.5, but pixels from 0 to 1"),
        ({"value_range": (0, 16)}, np.full((9, 3), 17), "X has values from 17 to 17, but pixels"),
        ({}, np.zeros((9, 3, 4), dtype=np.int64), "pixels of dtype int64 have no range of their"),
        ({"value_range": (1, 1)}, np.zeros((9, 3, 4)), "value_range=(1, 1) must be (low, high)"),
        (
            {"image_shape": (1, 3, 5)},
            np.zeros((9, 12)),
            "items of shape (12,) hold 12 values, which do not fill the shape (1, 3, 5)",
        ),
        ({}, np.zeros((1, 3)), "Found array with 1 sample(s)"),
        ({}, np.full((9, 3), np.nan), "Input X contains NaN"),
        ({}, np.zeros((9, 2, 3, 4, 5)), "X has shape (9, 2, 3, 4, 5); expected rows (n, d) or"),
        ({"n_latent": 0}, np.zeros((9, 3)), "The 'n_latent' parameter of Autoencoder must be an"),
        ({"n_filters": 3}, np.zeros((9, 3)), "The 'n_filters' parameter of Autoencoder must be"),
        ({"value_range": 3}, np.zeros((9, 3)), "The 'value_range' parameter of Autoencoder must"),
        ({"optimizer": "sgd"}, np.zeros((9, 3)), "The 'optimizer' parameter of Autoencoder must"),
    ],
)
def test_what_fit_refuses(settings, X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make(**settings).fit(X)


def test_unknown_parameter_is_refused():
    with pytest.raises(TypeError, match="mutation_rate"):
        Autoencoder(mutation_rate=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("X", "message"),
    [
        (
            np.zeros((2, 4, 5), dtype=np.uint8),
            "X has items of shape (1, 4, 5), but Autoencoder was fitted on items of shape (1, 5, 4)"
            " (images are counted as (C, H, W))",
        ),
        (
            np.zeros((2, 5, 4)),
            "X has pixels of dtype float64, but Autoencoder was fitted on pixels from 0 to 255",
        ),
        (np.zeros((0, 5, 4), dtype=np.uint8), "Found array with 0 sample(s)"),
        (np.full((2, 5, 4), np.nan), "Input contains NaN"),
    ],
)
def test_what_reading_refuses(images, method, X, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(make().fit(images), method)(X)


def test_range_of_a_stream_is_checked_on_the_way():
    X = np.full((60, 3, 3), 0.5)
    autoencoder = make().fit(X)
    X[50] = 2
    message = "X has values from 0.5 to 2, but pixels from 0 to 1 are expected for float64 images"
    for form in (X, Items(X)):
        with pytest.raises(ValueError, match=re.escape(message)):
            make(max_epochs=1, batch_size=60).fit(form)
        for method in METHODS:
            with pytest.raises(ValueError, match=re.escape(message)):
                getattr(autoencoder, method)(form)


def test_values_beyond_what_can_be_computed():
    X = np.random.default_rng(0).normal(size=(20, 3))
    autoencoder = make().fit(X)
    far = X.copy()
    far[[3, 5]] *= 1e300
    for method in METHODS:
        with pytest.raises(ValueError, match="NaN or inf for 2 of the 20 items of X, whose values"):
            getattr(autoencoder, method)(far)
    with pytest.raises(ValueError, match="NaN or inf for 1 of the 2 items of Z, whose values"):
        autoencoder.inverse_transform([[0, 1], [1e300, 0]])


def test_what_decoding_refuses(images):
    autoencoder = make().fit(images)
    for Z, message in [
        (np.zeros((3, 5)), "Z has 5 columns; expected n_latent=2"),
        (np.full((3, 2), np.nan), "Input Z contains NaN"),
        (np.zeros(2), "Expected 2D array, got 1D array instead"),
    ]:
        with pytest.raises(ValueError, match=message):
            autoencoder.inverse_transform(Z)


def test_unfitted_autoencoder_says_so(images):
    for method in (*METHODS, "inverse_transform"):
        with pytest.raises(ValueError, match="This Autoencoder instance is not fitted yet"):
            getattr(Autoencoder(), method)(images)
