"""OODGen: what its classifier is trained on, and what becomes of it."""

import pickle
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from torch import nn

import skood
from skood import MLP, VAE, OODGen, OODSplit, ShallowConvNet, get_ood_scorer
from skood._torch.training import hold_out
from skood.classifiers import NeuralClassifier, _base as classifiers_base
from skood.training_time._boundary_draws import BoundaryDraws


@pytest.fixture(scope="module")
def images():
    digits = load_digits()
    return digits.images / 16, digits.target


def tiny(**kwargs):
    vae = VAE(1, conditional=True, hidden_features=(8,), max_epochs=3)
    network = MLP((8,), max_epochs=3, batch_size=16, validation_fraction=0.2)
    return OODGen(**{"classifier": network, "vae": vae, "random_state": 0, **kwargs})


@pytest.fixture(scope="module")
def trained(images):
    """OODGen of 8 x 8 images, trained well enough for its parts to be told apart."""
    X, y = images
    vae = VAE(
        6,
        likelihood="bernoulli",
        conditional=True,
        sample_latents=False,
        max_epochs=30,
        learning_rate=3e-3,
    )
    network = ShallowConvNet(
        (16, 32),
        hidden_features=64,
        max_epochs=60,
        batch_size=64,
        optimizer="adam",
        learning_rate=3e-3,
        validation_fraction=0.2,
    )
    detector = OODGen(network, vae, reject_weight=0.5, random_state=0)
    return detector.fit(X[::2], y[::2])


def test_reject_class_learns(trained, images):
    """Recall on samples that were generated of held-out images, and of new ones."""
    X, y = images
    history = trained.history_
    assert history["validation_loss"][-1] < history["validation_loss"][0] / 4
    best = np.argmin(history["validation_loss"])
    assert history["validation_accuracy"][best] > 0.9
    # The nearest tenth of them is within a distance of 0.9 and can hardly be told apart.
    assert history["validation_off_manifold_recall"][best] > 0.6
    assert history["validation_on_manifold_recall"][best] > 0.75
    X, y = X[1::2], y[1::2]
    off = trained.sampler_.sample_off_manifold(X, y, random_state=1)
    on = trained.sampler_.sample_on_manifold(y=y, random_state=1)
    assert np.mean(trained.predict_class(off) == -1) > 0.6
    assert np.mean(trained.predict_class(on) == -1) > 0.75
    assert np.mean(trained.predict_class(X) == y) > 0.85
    assert np.mean(trained.predict(1 - X) == -1) > 0.95


def test_scores_are_the_published_ones(trained, images):
    X, _ = images
    proba = trained.classifier_.predict_proba(X)
    assert proba.shape == (len(X), 11)
    np.testing.assert_allclose(proba.sum(1), 1)
    known = proba[:, :-1] / proba[:, :-1].sum(1, keepdims=True)
    np.testing.assert_allclose(trained.predict_proba(X), known, atol=1e-12)
    np.testing.assert_allclose(trained.score_samples(X), 1 - proba[:, -1], atol=1e-12)
    by_max = clone(trained).set_params(score_type="max")
    vars(by_max).update({k: v for k, v in vars(trained).items() if k.endswith("_")})
    np.testing.assert_allclose(by_max.score_samples(X), proba[:, :-1].max(1), atol=1e-12)
    labels = np.where(trained.predict(X) == 1, trained.classes_[known.argmax(1)], -1)
    np.testing.assert_array_equal(trained.predict_class(X), labels)


def test_threshold_is_read_from_held_out_rows(iris):
    X, y = iris
    detector = tiny(contamination=0.2).fit(X, y)
    inliers = detector.predict(X) == 1
    assert 0.6 < inliers.mean() < 1
    _, held_out = hold_out(150, 0.2, int(np.random.RandomState(0).randint(2**31 - 1)), y)
    assert len(held_out) == 30
    # At rank .2 (30 + 1) = 6.2, so that a fifth of new rows is rejected on average.
    low, high = np.sort(detector.score_samples(X[held_out]))[5:7]
    np.testing.assert_allclose(detector.offset_, low + 0.2 * (high - low), rtol=1e-6)
    everything = tiny(classifier=MLP((8,), max_epochs=3), contamination=0.2).fit(X, y)
    np.testing.assert_allclose(
        everything.offset_, np.percentile(everything.score_samples(X), 20), rtol=1e-6
    )
    assert list(everything.history_) == ["loss"]


class Recorder(NeuralClassifier):
    """A linear classifier that notes every batch it trains on."""

    batches: list = []

    def _build(self, item_shape, n_classes):
        class Noting(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(item_shape[0], n_classes)

            def forward(self, x):
                if self.training:
                    Recorder.batches.append(x.detach().clone())
                return self.linear(x)

        return Noting()


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_batches(iris, monkeypatch, weight):
    """Type 1 is moved from rows of the batch, type 2 is new every time, the rest reconstructed."""
    X, y = iris
    monkeypatch.setattr(Recorder, "batches", [])
    off_manifold = []
    original = BoundaryDraws.off_manifold_in_units_of_x

    def noted(self, source, class_indices, seed):
        off_manifold.append((original(self, source, class_indices, seed), class_indices))
        return off_manifold[-1][0]

    monkeypatch.setattr(BoundaryDraws, "off_manifold_in_units_of_x", noted)
    # In bfloat16 there would be batches to prove it.
    settings = {"compile": False, "precision": "fp32"}
    network = Recorder(max_epochs=5, batch_size=50, learning_rate=1e-3, **settings)
    detector = tiny(classifier=network, off_manifold_interval=2, reconstruction_weight=weight).fit(
        X, y
    )
    reconstructions = detector.sampler_.vae_.reconstruct(X, y)
    mean, std = detector.classifier_.mean_, detector.classifier_.std_
    assert len(Recorder.batches) == 15
    # None is held out; then for epochs 0, 2 and 4.
    assert [len(moved) for moved, _ in off_manifold] == [0, 150, 150, 150]
    assert not np.allclose(off_manifold[1][0], off_manifold[2][0])
    last = []
    for number, batch in enumerate(Recorder.batches):
        rows = batch.numpy() * std + mean
        real, off, on, reconstructed = rows[:50], rows[50:75], rows[75:100], rows[100:]
        assert len(on) == 25
        assert len(reconstructed) == (25 if weight else 0)
        moved = off_manifold[1 + number // 3 // 2][0]
        nearest = np.abs(X[None] - real[:, None]).sum(2)
        assert nearest.min(1).max() < 1e-4
        distance = np.abs(moved[None] - off[:, None]).sum(2)
        assert distance.min(1).max() < 1e-4
        # Row by row the ones of the first half of the batch.
        own = [np.flatnonzero(np.abs(moved - sample).sum(1) < 1e-4)[0] for sample in off]
        np.testing.assert_allclose(X[own], real[:25], atol=1e-5)
        # And row by row those of the other half.
        apart = np.abs(X[None] - real[25:, None]).sum(2).argmin(1)
        np.testing.assert_allclose(
            reconstructed, reconstructions[apart][: len(reconstructed)], atol=1e-4
        )
        last.append(on)
    assert not np.allclose(last[0], last[3])


def test_type_2_is_of_the_classes_of_the_batch(iris, monkeypatch):
    X, y = iris
    drawn = []
    original = BoundaryDraws.on_manifold_in_units_of_x

    def noted(self, class_indices, generator):
        drawn.append(class_indices.numpy())
        return original(self, class_indices, generator)

    monkeypatch.setattr(BoundaryDraws, "on_manifold_in_units_of_x", noted)
    network = MLP((8,), max_epochs=2, batch_size=50)
    tiny(classifier=network).fit(X, y)
    counts = [np.bincount(indices, minlength=3) for indices in drawn]
    assert all(count.sum() == 25 for count in counts)
    # Of half the rows of an epoch, which are a third of each class.
    assert np.all(np.abs(np.sum(counts[:3], axis=0) - 25) < 12)


@pytest.mark.parametrize(
    ("reject_weight", "reconstruction_weight"), [(0.1, 1.0), (2.0, 0.5), (2.0, 0.0)]
)
def test_loss_is_the_weighted_cross_entropy(
    iris, monkeypatch, reject_weight, reconstruction_weight
):
    """Weight 1 for real rows, and those that are given for the others, over the whole batch."""
    X, y = iris
    seen = {}
    original = classifiers_base.train

    def noted(objective, *args, **kwargs):
        objective.start_epoch(0, resumed=False)
        generator = torch.Generator().manual_seed(0)
        x, class_index, kind = objective.prepare(objective.read(np.arange(40, 60)), generator)
        with torch.no_grad():
            logits = objective.network(x)
            seen["loss"] = objective.loss(x, class_index, kind)
        seen["expected"] = F.cross_entropy(logits, class_index, reduction="none")
        seen["expected"][20:40] *= reject_weight
        seen["expected"][40:] *= reconstruction_weight
        seen["class_index"], seen["kind"] = class_index, kind
        return original(objective, *args, **kwargs)

    monkeypatch.setattr(classifiers_base, "train", noted)
    network = MLP((8,), max_epochs=1)
    tiny(
        classifier=network,
        reject_weight=reject_weight,
        reconstruction_weight=reconstruction_weight,
    ).fit(X, y)
    torch.testing.assert_close(seen["loss"], seen["expected"])
    # Ten rows of each of two classes; reconstructions are of the last ten.
    kinds, classes = [0] * 20 + [1] * 10 + [2] * 10, [0] * 10 + [1] * 10 + [3] * 20
    if reconstruction_weight:
        kinds, classes = kinds + [3] * 10, classes + [1] * 10
    assert seen["class_index"].tolist() == classes
    assert seen["kind"].tolist() == kinds


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_reconstructions_are_rejected_unless_trained_on(images, trained, weight):
    """By a VAE whose latents say little: what it decodes looks unlike any real item."""
    X, y = images
    vae = VAE(6, likelihood="bernoulli", conditional=True, max_epochs=20, learning_rate=3e-3)
    detector = clone(trained).set_params(
        vae=vae, classifier__max_epochs=30, reject_weight=1.0, reconstruction_weight=weight
    )
    detector.fit(X[::2], y[::2])
    reconstructed = detector.sampler_.vae_.reconstruct(X[1::2], y[1::2])
    accepted = np.mean(detector.predict_class(reconstructed) == y[1::2])
    assert accepted > 0.95 if weight else accepted < 0.05


@pytest.mark.parametrize(
    "labels",
    [np.array(["setosa", "versicolor", "virginica"]), np.array([5, 7, 90]), np.array([0.0, 1, 2])],
    ids=["str", "int", "float"],
)
def test_labels_of_any_kind(iris, labels):
    X, y = iris
    plain, named = tiny().fit(X, y), tiny().fit(X, labels[y])
    np.testing.assert_array_equal(named.classes_, labels)
    np.testing.assert_allclose(named.score_samples(X), plain.score_samples(X))
    predicted = plain.predict_class(X)
    rejected = predicted == -1
    np.testing.assert_array_equal(named.predict_class(X)[~rejected], labels[predicted[~rejected]])
    assert set(named.predict_class(X)[rejected].astype(str)) <= {"-1", "-1.0"}


def test_vae_without_classes(iris):
    X, y = iris
    detector = tiny(vae=VAE(1, hidden_features=(8,), max_epochs=3)).fit(X, y)
    assert len(detector.sampler_.radius_) == 3
    assert np.isfinite(detector.score_samples(X)).all()


def test_frozen_vae_and_defaults(iris, images):
    X, y = iris
    vae = VAE(2, conditional=True, max_epochs=3, random_state=1).fit(X, y)
    detector = tiny(vae=FrozenEstimator(vae)).fit(X, y)
    assert detector.sampler_.vae_ is vae
    defaults = OODGen(random_state=0).fit(X[::2], y[::2])
    assert isinstance(defaults.classifier_, MLP)
    assert "validation_accuracy" in defaults.history_
    network = OODGen()._default_architecture(skood.share_forward_pass(images[0]))
    assert isinstance(network, ShallowConvNet)


def test_flat_images_in_rows(images):
    X, y = images
    X, y = X[:300], y[:300]
    shape = {"image_shape": (1, 8, 8)}
    vae = VAE(2, likelihood="bernoulli", conditional=True, n_filters=(4,), max_epochs=2)
    network = ShallowConvNet((4, 4), hidden_features=8, max_epochs=2)
    scores = [
        OODGen(
            clone(network).set_params(image_shape=given),
            clone(vae).set_params(image_shape=given),
            random_state=0,
        )
        .fit(data, y)
        .score_samples(data)
        for data, given in [(X, None), (X.reshape(300, -1), shape["image_shape"])]
    ]
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)


def test_uint8_images_like_floats(images):
    X, y = images
    whole = (X[:300] * 15).astype(np.uint8)
    vae = VAE(2, likelihood="bernoulli", conditional=True, n_filters=(4,), max_epochs=2)
    detector = OODGen(ShallowConvNet((4, 4), hidden_features=8, max_epochs=2), vae, random_state=0)
    ours = clone(detector).fit(whole, y[:300]).score_samples(whole)
    floats = (whole / 255).astype(np.float32)
    np.testing.assert_allclose(
        ours, clone(detector).fit(floats, y[:300]).score_samples(floats), atol=1e-4
    )


def search(iris, detector, grid):
    X, y = iris
    noise = np.random.default_rng(0).normal(size=(30, 4))
    return GridSearchCV(
        detector, grid, scoring=get_ood_scorer("auroc"), cv=OODSplit(3), refit=False
    ).fit(np.r_[X, X[::5] + noise], np.r_[y, np.full(30, -1)])


@pytest.mark.parametrize(
    ("grid", "n_classifiers"),
    [({"score_type": ["reject", "max"]}, 3), ({"reject_weight": [0.05, 2.0]}, 6)],
)
def test_a_grid_trains_the_vae_of_each_fold_once(iris, tmp_path, monkeypatch, grid, n_classifiers):
    trained = []
    for model, method in [(VAE, "fit"), (MLP, "fit_objective")]:
        original = getattr(model, method)

        def counted(self, *args, _original=original, **kwargs):
            trained.append(type(self))
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(model, method, counted)
    found = search(iris, tiny(memory=str(tmp_path)), grid)
    assert trained.count(VAE) == 3
    assert trained.count(MLP) == n_classifiers
    areas = found.cv_results_["mean_test_score"]
    assert areas[0] != areas[1]


def press_ctrl_c(monkeypatch, cls, *steps):
    """Press Ctrl-C in these steps of an optimizer, counted from 1."""
    original, n_steps = cls.step, []

    def step(self, *args, **kwargs):
        n_steps.append(1)
        if len(n_steps) in steps:
            signal.raise_signal(signal.SIGINT)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(cls, "step", step)


def test_ctrl_c_in_the_vae_and_the_same_fit_again(iris, tmp_path):
    """The classifier of the half-trained VAE is not taken for that of the trained VAE."""
    X, y = iris
    network = MLP((8,), max_epochs=6, batch_size=32, checkpoint_dir=tmp_path, random_state=0)
    detector = tiny(classifier=network)
    expected = tiny(classifier=clone(network).set_params(checkpoint_dir=None)).fit(X, y)
    with pytest.MonkeyPatch.context() as patched:
        press_ctrl_c(patched, torch.optim.Adam, 2)
        message = "VAE was interrupted after 2 of 3 steps; the model keeps what it had learned. "
        with pytest.warns(UserWarning, match=message + "Next: training of MLP; a second") as caught:
            cut_short = clone(detector).fit(X, y)
    assert len(caught) == 1
    assert (cut_short.score_samples(X) != expected.score_samples(X)).any()
    again = clone(detector).fit(X, y)
    np.testing.assert_array_equal(again.score_samples(X), expected.score_samples(X))
    assert len(list(tmp_path.iterdir())) == 2


def test_second_ctrl_c_ends_the_fit_and_keeps_the_vae(iris, tmp_path):
    X, y = iris
    detector = tiny(memory=str(tmp_path))
    expected = clone(detector).set_params(memory=None).fit(X, y)
    with pytest.MonkeyPatch.context() as patched:
        press_ctrl_c(patched, torch.optim.Adam, 2)
        press_ctrl_c(patched, torch.optim.SGD, 3)
        with pytest.warns(UserWarning) as caught, pytest.raises(KeyboardInterrupt):
            detector.fit(X, y)
    said = [str(warning.message) for warning in caught]
    assert [text.split()[0] for text in said] == ["VAE", "MLP", "OODGen.fit"]
    assert said[1].endswith("and this second Ctrl-C ends the fit")
    assert said[2].endswith("it keeps what was trained: sampler_, classifier_")
    assert detector.sampler_.vae_.transform(X, y).shape == (150, 1)
    assert detector.classifier_.predict(X).shape == (150,)
    with pytest.raises(NotFittedError, match="has no threshold"):
        detector.predict(X)
    np.testing.assert_array_equal(detector.fit(X, y).score_samples(X), expected.score_samples(X))


def test_pickle_and_cross_validation(iris):
    X, y = iris
    detector = tiny().fit(X, y)
    restored = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(restored.score_samples(X), detector.score_samples(X))
    np.testing.assert_array_equal(restored.predict_class(X), detector.predict_class(X))
    decisions = cross_val_predict(tiny(), X, y, method="predict", cv=StratifiedKFold(2))
    assert decisions.shape == (150,)


@pytest.mark.parametrize(
    ("params", "y", "message"),
    [
        ({}, None, "requires y to be passed"),
        ({}, np.zeros(150), "y has one class"),
        ({}, np.r_[np.full(149, 3), 4], "class 4 has 1 sample"),
        ({"vae": VAE(4, conditional=True)}, "iris", "n_latent=4: no direction leaves"),
        ({"reject_weight": 0.0}, "iris", "The 'reject_weight' parameter"),
        ({"reconstruction_weight": -1.0}, "iris", "The 'reconstruction_weight' parameter"),
        ({"score_type": "sum"}, "iris", "The 'score_type' parameter"),
        ({"radius": (2, 1)}, "iris", r"radius=\(2, 1\); expected"),
        ({"classifier": nn.Linear(4, 3)}, "iris", "The 'classifier' parameter"),
    ],
)
def test_errors(iris, params, y, message):
    X, labels = iris
    with pytest.raises(ValueError, match=message):
        tiny(**params).fit(X, labels if isinstance(y, str) else y)


def test_networks_for_images_refuse_rows(iris):
    X, y = iris
    with pytest.raises(ValueError, match="ShallowConvNet takes images"):
        tiny(classifier=ShallowConvNet()).fit(X, y)


def test_same_architecture_as_without_generation(images):
    """One output more, and nothing else."""
    X, y = images
    plain = ShallowConvNet((4, 4), hidden_features=8, max_steps=1).fit(X, y)
    vae = VAE(1, likelihood="bernoulli", conditional=True, n_filters=(4,), max_steps=1)
    detector = OODGen(ShallowConvNet((4, 4), hidden_features=8, max_steps=1), vae).fit(X, y)
    shapes = [
        [tuple(p.shape) for p in m.parameters()]
        for m in (plain.module_, detector.classifier_.module_)
    ]
    assert shapes[0][:-2] == shapes[1][:-2]
    assert shapes[0][-2:] == [(10, 8), (10,)]
    assert shapes[1][-2:] == [(11, 8), (11,)]
