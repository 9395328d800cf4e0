"""How classifiers are trained: what they learn, normalise, augment and validate on."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from skood.classifiers import MLP, ConvNet, _architecture, _base


def states():
    _, keys, position, *_ = np.random.get_state()  # noqa: NPY002
    return keys.tobytes(), position, torch.get_rng_state().tolist()


def test_learns_digits(labelled_digits):
    X, y = labelled_digits
    network = ConvNet(
        (8, 16), max_epochs=8, batch_size=32, value_range=(0, 16), compile=False, random_state=0
    )
    # Logistic regression has 0.978.
    assert network.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.975
    loss = network.history_["loss"]
    assert len(loss) == 8
    assert loss[-1] < 0.2 * loss[0]


def test_learns_what_no_linear_model_can():
    rng = np.random.default_rng(0)
    X = rng.uniform(-1, 1, size=(600, 2)) * [1, 1000] + [0, 5000]
    y = np.where((X[:, 0] > 0) == (X[:, 1] > 5000), "same", "other")
    network = MLP((16, 16), max_epochs=30, batch_size=32, compile=False, random_state=0)
    assert network.fit(X[:400], y[:400]).score(X[400:], y[400:]) > 0.93


class TestNormalisation:
    def test_rows(self, tiny):
        X = np.random.default_rng(0).normal([0, 5, 1e7], [1, 1e-3, 2], size=(90, 3))
        network = tiny(MLP).fit(X, np.arange(90) % 2)
        np.testing.assert_allclose(network.mean_, X.mean(0), rtol=1e-12)
        np.testing.assert_allclose(network.std_, X.std(0), rtol=1e-6)

    @pytest.mark.parametrize("dtype", [np.uint8, np.float64])
    def test_channels(self, tiny, images, labels, dtype):
        X = images if dtype == np.uint8 else images / 255
        network = tiny().fit(X, labels)
        assert network.mean_.shape == network.std_.shape == (3, 1, 1)
        np.testing.assert_allclose(network.mean_[:, 0, 0], images.mean((0, 2, 3)) / 255)
        np.testing.assert_allclose(network.std_[:, 0, 0], images.std((0, 2, 3)) / 255)

    def test_more_than_one_chunk(self, tiny):
        X = np.random.default_rng(0).normal(3, 2, size=(5000, 2))
        network = tiny(MLP).fit(X, np.arange(5000) % 2)
        np.testing.assert_allclose(network.mean_, X.mean(0))
        np.testing.assert_allclose(network.std_, X.std(0))

    def test_network_sees_the_mean_0_and_standard_deviation_1(self, tiny, images, labels):
        network = tiny().fit(images, labels).network()
        x = network.tensor(images)
        torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3))

    def test_is_learned_in_training_only(self, tiny):
        """Data of another mean and scale are not brought to those of the training data."""
        X = np.random.default_rng(0).normal(size=(40, 3))
        network = tiny(MLP).fit(X, np.arange(40) % 2)
        mean, std = network.mean_.copy(), network.std_.copy()
        seen = network.network().tensor(7 + 3 * X)
        np.testing.assert_allclose(seen, (7 + 3 * X - X.mean(0)) / X.std(0), rtol=1e-5, atol=1e-5)
        assert not np.allclose(network.decision_function(7 + 3 * X), network.decision_function(X))
        np.testing.assert_array_equal(network.mean_, mean)
        np.testing.assert_array_equal(network.std_, std)

    def test_constant_feature(self, tiny):
        X = np.random.default_rng(0).normal(size=(40, 3))
        X[:, 1] = 0.1
        network = tiny(MLP).fit(X, np.arange(40) % 2)
        assert network.std_[1] == 1
        assert network.network().tensor(X)[:, 1].abs().max() < 1e-6
        assert np.isfinite(network.decision_function(X)).all()

    @pytest.mark.parametrize("value", [0, 77, 255])
    def test_constant_channel(self, tiny, images, labels, value):
        images[:, 1] = value
        network = tiny().fit(images, labels)
        assert network.std_[1] == 1
        np.testing.assert_allclose(network.mean_[1], value / 255)
        assert np.isfinite(network.decision_function(images)).all()

    def test_validation_data_are_no_part_of_it(self, tiny, images, labels):
        network = tiny().fit(images, labels, images // 4, labels)
        np.testing.assert_allclose(network.mean_[:, 0, 0], images.mean((0, 2, 3)) / 255)


class TestAugmentation:
    @pytest.mark.parametrize(
        ("augmentation", "n_channels", "kind"),
        [
            ("auto", 3, ("flip", "crop")),
            ("auto", 1, ()),
            ("auto", 2, ()),
            (None, 3, ()),
            ("crop", 1, ("crop",)),
            ("flip", 3, ("flip",)),
            ("crop_flip", 1, ("flip", "crop")),
            (["rotate", "crop"], 1, ("crop", "rotate")),
        ],
    )
    def test_of_training_batches_alone(
        self, tiny, monkeypatch, labels, augmentation, n_channels, kind
    ):
        kinds = []

        def spy(x, kind, generator, epoch, augment=_architecture.augment):
            kinds.append(kind)
            return augment(x, kind, generator, epoch)

        monkeypatch.setattr(_architecture, "augment", spy)
        X = np.random.default_rng(0).random((24, n_channels, 6, 5))
        network = tiny(augmentation=augmentation, validation_fraction=0.2).fit(X, labels)
        assert kinds == [kind] * 3
        network.decision_function(X)
        tiny(augmentation=augmentation).fit(X, labels, X, labels)
        assert kinds == [kind] * 6

    def test_changes_what_is_learned_and_only_that(self, tiny, images, labels):
        def logits(augmentation):
            network = tiny(augmentation=augmentation).fit(images, labels)
            first = network.decision_function(images)
            np.testing.assert_array_equal(network.decision_function(images), first)
            return first

        np.testing.assert_array_equal(logits("auto"), logits("crop_flip"))
        assert not np.allclose(logits("auto"), logits(None))

    def test_rows_have_none(self, tiny, monkeypatch):
        monkeypatch.setattr(_architecture, "augment", None)
        tiny(MLP, augmentation="crop_flip").fit(np.eye(12), np.arange(12) % 2)


class TestValidation:
    def test_best_epoch_is_kept(self, tiny):
        """Validation labels are the opposite, so that training only makes them worse."""
        X = np.random.default_rng(0).normal(size=(64, 2))
        y = X[:, 0] > 0
        settings = {"max_steps": None, "max_epochs": 6, "learning_rate": 0.3}
        network = tiny(MLP, **settings).fit(X, y, X[:20], ~y[:20])
        losses = network.history_["validation_loss"]
        assert len(losses) == len(network.history_["loss"]) == 6
        assert np.argmin(losses) == 0
        log_proba = np.log(network.predict_proba(X[:20]))
        loss = -log_proba[np.arange(20), (~y[:20]).astype(int)].mean()
        assert loss == pytest.approx(losses[0], rel=1e-5)
        steps = {**settings, "max_epochs": 1, "lr_schedule": "constant"}
        first = tiny(MLP, **steps).fit(X, y)
        whole = tiny(MLP, **{**settings, "lr_schedule": "constant"}).fit(X, y, X[:20], ~y[:20])
        np.testing.assert_array_equal(whole.decision_function(X), first.decision_function(X))

    def test_patience(self, tiny):
        X = np.random.default_rng(0).normal(size=(64, 2))
        y = X[:, 0] > 0
        network = tiny(MLP, max_steps=None, max_epochs=50, patience=2).fit(X, y, X, ~y)
        assert len(network.history_["loss"]) == 3

    def test_all_rows_are_trained_on(self, tiny, images, labels):
        """With X_val nothing else is held out, and watching changes no step."""
        plain = tiny(max_steps=None, max_epochs=1).fit(images, labels)
        for fraction in (0.0, 0.5):
            watched = tiny(max_steps=None, max_epochs=1, validation_fraction=fraction)
            watched.fit(images, labels, images[:5], labels[:5])
            assert watched.history_["loss"] == plain.history_["loss"]
            np.testing.assert_array_equal(
                watched.decision_function(images), plain.decision_function(images)
            )

    def test_validation_fraction(self, tiny, images, labels):
        network = tiny(max_steps=None, max_epochs=2, validation_fraction=0.4).fit(images, labels)
        assert len(network.history_["validation_loss"]) == 2
        assert "validation_loss" not in tiny().fit(images, labels).history_

    def test_flat_images_and_another_dtype(self, tiny, images, labels):
        settings = {"image_shape": (3, 6, 5), "value_range": (0, 255)}
        rows = images.reshape(24, -1)
        network = tiny(**settings).fit(rows, labels, rows, labels)
        other = tiny(**settings).fit(rows, labels, rows.astype(float), labels)
        assert other.history_ == network.history_

    def test_labels_are_matched_by_value(self, tiny, images):
        y = np.array(["cat", "dog", "eel"])[np.arange(24) % 3]
        both = tiny().fit(images, y, images, y).history_["validation_loss"]
        dogs = y == "dog"
        network = tiny().fit(images, y, images[dogs], y[dogs])
        log_proba = np.log(network.predict_proba(images[dogs]))[:, 1]
        assert network.history_["validation_loss"][-1] == pytest.approx(-log_proba.mean(), rel=1e-5)
        assert network.history_["validation_loss"] != both

    @pytest.mark.parametrize(
        ("X_val", "y_val", "message"),
        [
            (slice(9), None, "X_val and y_val go together"),
            (None, slice(9), "X_val and y_val go together"),
            (slice(9), slice(8), "y_val has 8 labels, but X_val has 9 items"),
        ],
    )
    def test_one_without_the_other(self, tiny, images, labels, X_val, y_val, message):
        X_val = None if X_val is None else images[X_val]
        y_val = None if y_val is None else labels[y_val]
        with pytest.raises(ValueError, match=message):
            tiny().fit(images, labels, X_val, y_val)

    def test_errors(self, tiny, images, labels):
        with pytest.raises(ValueError, match=r"y_val has the labels \[7\], which y does not have"):
            tiny().fit(images, labels, images[:2], [1, 7])
        with pytest.raises(ValueError, match=r"items of shape \(3, 5, 5\), but ConvNet was fitted"):
            tiny().fit(images, labels, images[:2, :, :5], [1, 0])
        with pytest.raises(ValueError, match="X has pixels of dtype float64, but ConvNet was"):
            tiny().fit(images, labels, images[:2] / 255, [1, 0])

    def test_range_is_checked_before_training(self, tiny, images, labels, monkeypatch):
        monkeypatch.setattr(_base, "train", None)
        brighter = np.where(images == images.max(), 510.0, images)
        with pytest.raises(ValueError, match="to 510, but pixels from 0 to 255 are expected"):
            tiny(value_range=(0, 255)).fit(images, labels, brighter, labels)


def test_label_smoothing(tiny, images, labels):
    """It changes the loss of the training and leaves that of the validation as it is."""
    settings = {"learning_rate": 1e-12, "max_steps": 1, "batch_size": 24, "augmentation": None}
    plain = tiny(**settings).fit(images, labels, images, labels)
    smooth = tiny(**settings, label_smoothing=0.3).fit(images, labels, images, labels)
    assert smooth.history_["validation_loss"] == plain.history_["validation_loss"]
    with torch.no_grad():
        logits = smooth.module_.train()(smooth.network().tensor(images))
    target = 0.7 * torch.eye(3)[torch.as_tensor(labels)] + 0.3 / 3
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    assert smooth.history_["loss"] == pytest.approx([expected.item()], rel=1e-5)
    assert smooth.history_["loss"] != plain.history_["loss"]


@pytest.mark.parametrize("name", ["momentum", "weight_decay", "learning_rate", "clip_norm"])
def test_optimiser_reads_its_parameters(tiny, images, labels, name):
    value = {"momentum": 0.0, "weight_decay": 0.1, "learning_rate": 0.01, "clip_norm": 0.01}[name]
    plain = tiny(weight_decay=0.0).fit(images, labels).decision_function(images)
    changed = tiny(**{"weight_decay": 0.0, name: value}).fit(images, labels)
    assert not np.allclose(changed.decision_function(images), plain)


def test_lr_schedule(tiny, images, labels):
    results = [
        tiny(lr_schedule=schedule).fit(images, labels).decision_function(images)
        for schedule in ("cosine", "step", "constant")
    ]
    assert all(not np.allclose(a, b) for a, b in pairwise(results))


def test_random_state(tiny, images, labels):
    def logits(random_state):
        return tiny(random_state=random_state).fit(images, labels).decision_function(images)

    np.testing.assert_array_equal(logits(3), logits(3))
    assert (logits(3) != logits(4)).any()
    assert (logits(None) != logits(None)).any()
    shared = np.random.RandomState(0)
    assert (logits(shared) != logits(shared)).any()


def test_global_random_state_is_neither_changed_nor_read(tiny, images, labels):
    results = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = states()
        network = tiny(dropout=0.3).fit(images, labels)
        results.append(network.predict_proba(images))
        assert states() == before
    np.testing.assert_array_equal(*results)


def test_streamed_data_are_learned_like_those_in_memory(tiny, images, labels):
    expected = tiny().fit(images, labels).decision_function(images)
    dataset = TensorDataset(torch.from_numpy(images), torch.from_numpy(labels))
    network = tiny().fit(dataset, labels, dataset, labels)
    np.testing.assert_array_equal(network.decision_function(dataset), expected)
    np.testing.assert_array_equal(network.decision_function(images), expected)


def test_interrupted_training_resumes(tiny, images, labels, tmp_path, monkeypatch):
    settings = {"max_steps": None, "max_epochs": 3, "checkpoint_dir": tmp_path}
    expected = tiny(max_steps=None, max_epochs=3).fit(images, labels)
    calls = []

    def interrupt(x, kind, generator, epoch, augment=_architecture.augment):
        calls.append(kind)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return augment(x, kind, generator, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(_architecture, "augment", interrupt)
        with pytest.warns(UserWarning, match="ConvNet was interrupted after 4 of 9 steps"):
            tiny(**settings).fit(images, labels)
    resumed = tiny(**settings).fit(images, labels)
    assert resumed.history_ == expected.history_
    np.testing.assert_array_equal(
        resumed.decision_function(images), expected.decision_function(images)
    )
    tiny(**settings).fit(images, (labels + 1) % 3)
    tiny(**settings).fit(images, labels, images[:9], labels[:9])
    tiny(**settings).fit(images, labels, images[9:18], labels[:9])
    assert len(list(tmp_path.iterdir())) == 4


def test_half_precision_trains_much_the_same(labelled_digits):
    X, y = labelled_digits

    def fit(precision):
        network = ConvNet(
            (8,), max_epochs=2, batch_size=32, value_range=(0, 16), random_state=0, compile=False
        )
        return network.set_params(precision=precision).fit(X[:500], y[:500])

    half, single = fit("bf16"), fit("fp32")
    assert {p.dtype for p in half.module_.parameters()} == {torch.float32}
    assert half.history_ != single.history_
    assert half.score(X, y) == pytest.approx(single.score(X, y), abs=0.1)
