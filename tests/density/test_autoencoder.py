"""Autoencoder: loss against PCA and by hand, training, inputs and outputs."""

import pickle
import random

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
from tiny_models import make_autoencoder

from skood._torch.seeding import draw_seed
from skood._torch.training import hold_out
from skood.density import Autoencoder

METHODS = "transform", "reconstruct"


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
        """PCA has the least error of all linear maps through two dimensions."""
        X = plane()
        unit = StandardScaler().fit_transform(X)
        pca = PCA(2).fit(unit)
        expected = pca.inverse_transform(pca.transform(unit))
        least = ((expected - unit) ** 2).mean()
        linear = make_autoencoder(
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
        # Without the second dimension, the error equals the error of PCA.
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
        autoencoder = make_autoencoder(**{**settings, **untrained}, validation_fraction=0).fit(X)
        assert list(autoencoder.history_) == ["loss"]
        expected = errors(autoencoder, X).mean()
        assert autoencoder.history_["loss"] == [pytest.approx(expected, rel=1e-5)]

    @pytest.mark.parametrize("variant", ["rows", "colour"])
    def test_validation_loss_is_the_error_of_what_was_held_out(self, variant):
        X, settings = data_of(variant)
        autoencoder = make_autoencoder(**settings, max_steps=12, validation_fraction=0.5).fit(X)
        assert len(autoencoder.history_["validation_loss"]) == 12
        _, held_out = hold_out(30, 0.5, draw_seed(0))
        best = min(autoencoder.history_["validation_loss"])
        assert errors(autoencoder, X)[held_out].mean() == pytest.approx(best, rel=1e-5)


@every_variant
def test_training_moves_every_parameter(variant):
    X, settings = data_of(variant)
    settings = {**settings, "max_steps": 12, "validation_fraction": 0}
    trained = make_autoencoder(**settings).fit(X).module_
    untrained = make_autoencoder(**settings).set_params(learning_rate=1e-12).fit(X).module_
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
    losses = make_autoencoder(**{**settings, **wide, **long}).fit(X).history_["loss"]
    assert losses[-1] < 0.1 * losses[0]


def test_what_is_unlike_the_training_data_is_reconstructed_worse():
    X = plane(400)
    autoencoder = make_autoencoder(max_steps=200, hidden_features=(16,), batch_size=50).fit(X[:300])
    shuffled = np.random.default_rng(1).permuted(X[300:], axis=0)
    assert np.median(errors(autoencoder, shuffled)) > 5 * np.median(errors(autoencoder, X[300:]))


@every_variant
@pytest.mark.parametrize("method", METHODS)
def test_result_belongs_to_the_item(variant, method):
    """The same in any batch and order, and every time."""
    X, settings = data_of(variant)
    X = np.concatenate([X, X[::-1] ** 2])
    call = getattr(make_autoencoder(**settings).fit(X), method)
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
    expected = make_autoencoder(**settings).fit(X)
    autoencoder = make_autoencoder(**settings, checkpoint_dir=tmp_path)
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


def test_half_precision_trains_much_the_same():
    X = plane()
    settings = {"max_steps": 60, "hidden_features": (16,)}
    half, single = (make_autoencoder(**settings, precision=p).fit(X) for p in ("bf16", "fp32"))
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
    autoencoder = make_autoencoder(**settings).fit(X)
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
        quick = make_autoencoder(hidden_features=(), max_steps=None, max_epochs=30)
        pipeline = make_pipeline(StandardScaler(), quick, LogisticRegression()).fit(X, y)
        assert pipeline.score(X, y) > 0.8
        latents = pipeline[:-1].transform(X)
        assert pipeline[:-1].get_feature_names_out().tolist() == ["autoencoder0", "autoencoder1"]
        # The way back leads through both steps to the units of X.
        decoded = pipeline[:-1].inverse_transform(latents)
        assert ((decoded - X) ** 2 / X.var(0)).mean() < 0.3

    def test_data_frames(self):
        frame = pandas.DataFrame(plane(40), columns=list("abcdef"), index=np.arange(40) + 1000)
        autoencoder = make_autoencoder().set_output(transform="pandas").fit(frame)
        latents = autoencoder.transform(frame)
        assert latents.columns.tolist() == ["autoencoder0", "autoencoder1"]
        assert (latents.index == frame.index).all()
        plain = make_autoencoder().fit_transform(frame.to_numpy())
        np.testing.assert_array_equal(latents.to_numpy(), plain)
        with pytest.raises(ValueError, match="feature names should match"):
            autoencoder.reconstruct(frame.rename(columns={"a": "z"}))

    def test_frozen(self, images):
        frozen = clone(FrozenEstimator(make_autoencoder().fit(images)))
        assert frozen.reconstruct(images).shape == (24, 1, 5, 4)

    def test_is_no_density(self):
        assert not isinstance(Autoencoder(), DensityMixin)
        assert {"mutation_rate", "reg_weight"}.isdisjoint(Autoencoder().get_params())
        for method in ("score_samples", "score", "sample", "predict"):
            assert not hasattr(Autoencoder, method), method

    def test_labels_are_ignored(self, images):
        plain, labelled = (
            make_autoencoder().fit(images),
            make_autoencoder().fit(images, ["any", np.nan]),
        )
        np.testing.assert_array_equal(labelled.transform(images), plain.transform(images))
        assert plain.__sklearn_tags__().target_tags.required is False
