"""VAE as an estimator: loss, training, scores, in pipelines and detectors."""

import pickle
import random

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_models import make_vae
from torch import distributions, nn

from skood import LikelihoodRatio, LogLikelihood
from skood.density import VAE


class TestLoss:
    def data(self, form):
        X = np.random.default_rng(0).random((24, 6) if form == "rows" else (24, 3, 5, 4))
        return X, np.arange(24) % 3

    def elbo(self, vae, x, one_hot, noise):
        """That of one draw of z for each item, by torch's distributions."""
        mean, log_variance = vae.module_.encode(x, one_hot)
        q = distributions.Normal(mean, (log_variance / 2).exp())
        location = vae.module_.decode(q.loc + q.scale * noise, one_hot).sigmoid()
        if vae.likelihood == "bernoulli":
            terms = -nn.functional.binary_cross_entropy(location, x, reduction="none")
        else:
            terms = distributions.Normal(location, vae.module_.scale()).log_prob(x)
        kl = distributions.kl_divergence(q, distributions.Normal(0.0, 1.0)).sum(1)
        return terms.flatten(1).sum(1) - kl

    @pytest.mark.parametrize("form", ["rows", "images"])
    @pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
    @pytest.mark.parametrize("conditional", [False, True])
    def test_is_the_negative_elbo_of_one_draw(self, form, likelihood, conditional):
        X, y = self.data(form)
        vae = make_vae(likelihood=likelihood, conditional=conditional, value_range=(0, 1))
        vae.fit(X, y)
        x = torch.as_tensor(X, dtype=torch.float32)
        condition, one_hot = (torch.as_tensor(y), torch.eye(3)[y]) if conditional else (None, None)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            found = vae._log_prob(vae.module_.train(), x, condition)
            torch.manual_seed(7)
            noise = torch.randn(24, 2)
        expected = self.elbo(vae, x, one_hot, noise)
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
        assert found.std() > 1e-3

    @pytest.mark.parametrize("form", ["rows", "images"])
    @pytest.mark.parametrize("conditional", [False, True])
    @pytest.mark.parametrize("sample_latents", [False, True])
    def test_history_starts_at_that_of_the_untrained_model(self, form, conditional, sample_latents):
        X, y = self.data(form)
        vae = make_vae(
            likelihood="bernoulli",
            value_range=(0, 1),
            conditional=conditional,
            sample_latents=sample_latents,
            learning_rate=1e-12,
            max_steps=1,
            batch_size=24,
            validation_fraction=0,
            random_state=1,
        ).fit(X, y)
        x, one_hot = torch.as_tensor(X, dtype=torch.float32), torch.eye(3)[y]
        at_mean = -self.elbo(vae, x, one_hot if conditional else None, 0).mean().item()
        assert list(vae.history_) == ["loss"]
        # The untrained decoder hardly depends on z, but it does.
        same = pytest.approx(at_mean, rel=1e-6)
        assert (vae.history_["loss"] == [same]) == (not sample_latents)
        assert vae.history_["loss"] == [pytest.approx(at_mean, rel=1e-2)]

    def test_validation_loss_is_the_elbo_of_what_was_held_out(self):
        X = np.repeat(self.data("images")[0][:1], 20, axis=0)
        vae = make_vae(validation_fraction=0.5, bound="elbo", n_importance_samples=10).fit(X)
        assert len(vae.history_["validation_loss"]) == 3
        best = min(vae.history_["validation_loss"])
        assert best == pytest.approx(-vae.score(X), rel=1e-6)

    @pytest.mark.parametrize("form", ["rows", "images"])
    def test_sample_latents_false_trains_on_the_mean(self, form):
        X, _ = self.data(form)
        drawn, mean = (make_vae(sample_latents=s, value_range=(0, 1)).fit(X) for s in (True, False))
        x = torch.as_tensor(X, dtype=torch.float32)
        losses = {}
        for vae in (drawn, mean):
            module = vae.module_.train()
            with torch.random.fork_rng():
                losses[vae] = [vae._log_prob(module, x, None).detach() for _ in range(2)]
        # The decoder's hidden units may all be at rest for a few.
        assert (losses[drawn][0] != losses[drawn][1]).float().mean() > 0.8
        assert torch.equal(*losses[mean])
        with torch.no_grad():
            z, log_variance = mean.module_.encode(x, None)
            log_likelihood = mean._log_likelihood(mean.module_, x, mean.module_.decode(z, None))
        divergence = 0.5 * (z.square() + log_variance.exp() - 1 - log_variance).sum(1)
        torch.testing.assert_close(losses[mean][0], log_likelihood - divergence, rtol=1e-5, atol=0)
        # A score is a bound all the same, from draws.
        few = mean.set_params(n_importance_samples=1).score_samples(X)
        many = mean.set_params(n_importance_samples=64).score_samples(X)
        assert (many != few).mean() > 0.8

    def test_reg_weight_adds_the_squared_kernels_once_a_step(self):
        for form in ("rows", "images"):
            X, y = self.data(form)
            plain, penalised = (
                make_vae(
                    reg_weight=w, learning_rate=1e-12, max_steps=1, conditional=True,
                    value_range=(0, 1), likelihood="gaussian",
                ).fit(X, y)
                for w in (0.0, 2.5)
            )  # fmt: skip
            kernels = {k: v for k, v in penalised.module_.state_dict().items() if "weight" in k}
            # Two layers each way for rows; for images one in the decoder, and three convolutions.
            assert len(kernels) == (4 if form == "rows" else 6)
            squares = sum(float(v.double().square().sum()) for v in kernels.values())
            added = penalised.history_["loss"][0] - plain.history_["loss"][0]
            assert added == pytest.approx(2.5 * squares, rel=1e-4)


VARIANTS = {
    "rows": ((30, 6), {}),
    "rows of levels": ((30, 6), {"likelihood": "logistic", "value_range": (0, 1)}),
    "grey": ((30, 8, 6), {"likelihood": "bernoulli", "n_filters": (3, 4)}),
    "colour": ((30, 3, 7, 5), {"n_filters": (3, 4)}),
    "conditional": ((30, 3, 7, 5), {"conditional": True, "likelihood": "gaussian"}),
    "no convolutions": ((30, 4, 3), {"n_filters": (), "hidden_features": (8,)}),
    "no hidden layers": ((30, 4, 3), {"hidden_features": ()}),
    "conditional rows": ((30, 6), {"conditional": True, "hidden_features": (7, 5)}),
}


every_variant = pytest.mark.parametrize("variant", VARIANTS)


def data_of(variant):
    shape, settings = VARIANTS[variant]
    return np.random.default_rng(0).random(shape), np.arange(30) % 3, settings


@every_variant
def test_training_moves_every_parameter(variant):
    X, y, settings = data_of(variant)
    settings = {**settings, "max_steps": 12, "validation_fraction": 0, "learning_rate": 1e-2}
    trained = make_vae(**settings).fit(X, y).module_
    untrained = make_vae(**{**settings, "learning_rate": 1e-12}).fit(X, y).module_
    before = dict(untrained.named_parameters())
    assert ("raw_scale" in before) == (settings.get("likelihood") != "bernoulli")
    for name, parameter in trained.named_parameters():
        assert (parameter - before[name]).abs().max() > 1e-3, name


@every_variant
def test_loss_falls(variant):
    X, y, settings = data_of(variant)
    # Every other item is the first one, which a model can learn.
    X[::2] = X[0]
    vae = make_vae(**settings, max_steps=None, max_epochs=40, validation_fraction=0).fit(X, y)
    losses = np.array(vae.history_["loss"])
    assert losses[-5:].mean() < losses[:5].mean() - 0.5


@every_variant
@pytest.mark.parametrize("bound", ["importance", "elbo"])
def test_score_belongs_to_the_item(variant, bound):
    """The same in any batch and order, and every time."""
    X, y, settings = data_of(variant)
    X = np.concatenate([X, X[::-1] ** 2])
    vae = make_vae(**settings, bound=bound, n_importance_samples=8).fit(X, np.tile(y, 2))
    scores, latents = vae.score_samples(X), vae.transform(X)
    assert scores.dtype == np.float64
    assert scores.shape == (60,)
    assert vae.score(X) == scores.mean()
    np.testing.assert_array_equal(vae.score_samples(X), scores)
    order = np.random.default_rng(1).permutation(60)
    # For a few odd widths MKL adds up in an order that depends on the place in the batch.
    close = {"rtol": 1e-6, "atol": 1e-6}
    np.testing.assert_allclose(vae.score_samples(X[order]), scores[order], **close)
    np.testing.assert_allclose(vae.transform(X[order]), latents[order], **close)
    parts = [vae.score_samples(X[i : i + 33]) for i in range(0, 60, 33)]
    np.testing.assert_allclose(np.concatenate(parts), scores, **close)
    labels = np.tile(y, 2)
    labelled = vae.transform(X, labels)
    for i in (0, 31, 59):
        only = np.s_[i : i + 1]
        np.testing.assert_allclose(vae.score_samples(X[only]), scores[only], **close)
        np.testing.assert_allclose(vae.transform(X[only], labels[only]), labelled[only], **close)


@pytest.mark.parametrize("shape", [(64, 5), (64, 10, 9)])
@pytest.mark.parametrize("conditional", [False, True])
def test_default_widths_score_bitwise_the_same_in_any_order(shape, conditional):
    X = np.random.default_rng(0).random(shape)
    y = np.arange(64) % 3
    vae = VAE(conditional=conditional, max_steps=1, n_importance_samples=4, random_state=0)
    scores, latents = vae.fit(X, y).score_samples(X), vae.transform(X)
    order = np.random.default_rng(1).permutation(64)
    np.testing.assert_array_equal(vae.score_samples(X[order]), scores[order])
    np.testing.assert_array_equal(vae.transform(X[order]), latents[order])
    np.testing.assert_allclose(vae.score_samples(X[50:]), scores[50:], rtol=1e-6)


def test_samples_are_decided_by_random_state():
    for variant in VARIANTS:
        X, y, settings = data_of(variant)
        vae = make_vae(**settings).fit(X, y)
        drawn = vae.sample(3, random_state=0)
        assert drawn.shape == (3, *vae.input_shape_)
        np.testing.assert_array_equal(vae.sample(3, random_state=0), drawn)
        assert (vae.sample(3, random_state=1) != drawn).any()
        assert (vae.sample(3) != vae.sample(3)).any()
        assert vae.sample().shape == (1, *vae.input_shape_)


def test_many_samples_are_drawn_in_parts_that_differ():
    drawn = make_vae().fit(np.random.default_rng(0).random((20, 3))).sample(2500, random_state=0)
    assert drawn.shape == (2500, 3)
    assert len(np.unique(drawn, axis=0)) == 2500


def test_reg_weight_shrinks_the_kernels():
    X, _, settings = data_of("colour")
    settings = {**settings, "max_steps": 60, "validation_fraction": 0}

    def squares(reg_weight):
        module = make_vae(**settings, reg_weight=reg_weight).fit(X).module_
        return sum(v.square().sum() for k, v in module.state_dict().items() if "weight" in k)

    assert squares(0) > 5 * squares(10)


@pytest.mark.parametrize("variant", ["rows", "conditional"])
@pytest.mark.parametrize("step", [0, 4])
def test_interrupted_training_resumes_to_the_same_weights(monkeypatch, tmp_path, variant, step):
    X, y, settings = data_of(variant)
    settings = {**settings, "mutation_rate": 0.3, "max_steps": 9, "batch_size": 9}
    expected = make_vae(**settings).fit(X, y)
    vae = make_vae(**settings, checkpoint_dir=tmp_path)
    original, calls = VAE._mutate, iter(range(100))

    def interrupt(self, *args):
        if next(calls) == step:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(VAE, "_mutate", interrupt)
        with pytest.warns(
            UserWarning, match=rf"VAE \(mutation 0.3\) was interrupted after {step} of"
        ):
            vae.fit(X, y)
    assert np.isfinite(vae.score_samples(X)).all()
    vae.fit(X, y)
    for name, weights in expected.module_.state_dict().items():
        assert torch.equal(vae.module_.state_dict()[name], weights), name
    assert vae.history_ == expected.history_


def test_training_stops_where_the_validation_loss_no_longer_falls():
    X = np.random.default_rng(0).normal(size=(60, 4))
    settings = {
        "max_steps": None,
        "max_epochs": 60,
        "learning_rate": 0.05,
        "hidden_features": (32,),
    }
    losses = make_vae(**settings, patience=3).fit(X).history_["validation_loss"]
    assert len(losses) - 1 - np.argmin(losses) == 3
    assert len(losses) < 60
    to_the_end = make_vae(**settings, patience=None).fit(X).history_["validation_loss"]
    assert to_the_end[: len(losses)] == losses
    assert len(to_the_end) == 60


def test_half_precision_trains_much_the_same(digits):
    settings = {"likelihood": "bernoulli", "max_steps": 40, "value_range": (0, 16)}
    half, single = (make_vae(**settings, precision=p).fit(digits[:300]) for p in ("bf16", "fp32"))
    assert {p.dtype for p in half.module_.parameters()} == {torch.float32}
    assert half.history_ != single.history_
    assert half.score(digits[300:600]) == pytest.approx(single.score(digits[300:600]), rel=0.05)


@every_variant
def test_pickle_clone_and_random_state(variant):
    def states():
        _, keys, position, *_ = np.random.get_state()  # noqa: NPY002
        return random.getstate(), (keys.tobytes(), position), torch.get_rng_state().tolist()

    X, y, settings = data_of(variant)
    # Points that no other test has made are drawn here.
    settings = {**settings, "n_importance_samples": 11, "mutation_rate": 0.1}
    before = states()
    vae = make_vae(**settings).fit(X, y)
    scores, latents = vae.score_samples(X), vae.transform(X, y)
    drawn = vae.sample(5, random_state=0)
    assert states() == before
    restored = pickle.loads(pickle.dumps(vae))
    np.testing.assert_array_equal(restored.score_samples(X), scores)
    np.testing.assert_array_equal(restored.transform(X, y), latents)
    np.testing.assert_array_equal(restored.sample(5, random_state=0), drawn)
    again = clone(vae)
    assert not hasattr(again, "module_")
    with torch.random.fork_rng():
        torch.manual_seed(99)
        np.testing.assert_array_equal(again.fit(X, y).score_samples(X), scores)
    other = clone(vae).set_params(random_state=1).fit(X, y).score_samples(X)
    assert (other != scores).all()


class TestAmongOthers:
    """Steps of scikit-learn and detectors that a VAE goes into."""

    def data(self):
        """Two groups of rows on a plane in five dimensions, shape (240, 5), and the groups."""
        rng = np.random.default_rng(0)
        y = np.arange(240) % 2
        Z = rng.normal(size=(240, 2)) + 3 * y[:, None]
        return Z @ rng.normal(size=(2, 5)) * 10 + rng.normal(size=(240, 5)) + 100, y

    def make(self, **kwargs):
        settings = {"max_steps": None, "max_epochs": 25, "hidden_features": ()}
        return make_vae(**{**settings, **kwargs})

    def test_pipeline(self):
        X, y = self.data()
        pipeline = make_pipeline(StandardScaler(), self.make(), LogisticRegression()).fit(X, y)
        assert pipeline.score(X, y) > 0.9
        latents = pipeline[:-1].transform(X)
        assert latents.shape == (240, 2)
        assert pipeline[:-1].get_feature_names_out().tolist() == ["vae0", "vae1"]
        # The way back leads through both steps to the units of X.
        decoded = pipeline[:-1].inverse_transform(latents)
        assert ((decoded - X) ** 2).mean() < 0.1 * X.var(0).mean()

    def test_data_frames(self):
        X, _ = self.data()
        frame = pandas.DataFrame(X, columns=list("abcde"), index=np.arange(240) + 1000)
        vae = self.make(max_epochs=1).set_output(transform="pandas").fit(frame)
        assert vae.feature_names_in_.tolist() == list("abcde")
        latents = vae.transform(frame)
        assert latents.columns.tolist() == ["vae0", "vae1"]
        assert (latents.index == frame.index).all()
        plain = self.make(max_epochs=1).fit_transform(X)
        np.testing.assert_array_equal(latents.to_numpy(), plain)
        with pytest.raises(ValueError, match="feature names should match"):
            vae.score_samples(frame.rename(columns={"a": "z"}))

    def test_search_finds_the_number_of_latents(self):
        X, _ = self.data()
        grid = {"n_latent": [1, 2]}
        search = GridSearchCV(self.make(max_epochs=60, learning_rate=0.03), grid, cv=2).fit(X)
        assert search.best_params_ == {"n_latent": 2}
        one, two = search.cv_results_["mean_test_score"]
        assert two > one + 0.5
        assert search.score(X) == search.best_estimator_.score_samples(X).mean()

    @pytest.mark.parametrize("form", ["rows", "images"])
    @pytest.mark.parametrize("conditional", [False, True])
    def test_detectors(self, form, conditional):
        X, y = (
            self.data() if form == "rows" else (np.random.default_rng(0).random((40, 5, 4)), None)
        )
        y = np.arange(len(X)) % 2
        vae = self.make(max_epochs=2, conditional=conditional, random_state=3)
        alone = clone(vae).fit(X, y)
        detector = LogLikelihood(vae).fit(X, y)
        np.testing.assert_array_equal(detector.score_samples(X), alone.score_samples(X))
        assert (detector.predict(X) == 1).mean() == pytest.approx(0.95, abs=0.01)
        ratio = LikelihoodRatio(vae, mutation_rate=0.2, reg_weight=3.0).fit(X, y)
        background = clone(vae).set_params(mutation_rate=0.2, reg_weight=3.0)
        background.set_params(batch_size=2 * vae.batch_size).fit(X, y)
        expected = alone.score_samples(X) - background.score_samples(X)
        np.testing.assert_array_equal(ratio.score_samples(X), expected)
        assert np.ptp(expected) > 0.1
