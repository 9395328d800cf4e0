"""DeepSVDD and DeepSAD: what they minimise, from which center, and what becomes of it."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import Dataset

import skood
from skood import MLP, ConvNet, DeepSAD, DeepSVDD
from skood._torch.training import hold_out
from skood.classifiers import NeuralClassifier
from skood.classifiers._network_classifier import last_linear
from skood.training_time import Task
from skood.training_time._sad import _DeepSADObjective

N_LATENT = 4
WEIGHTS = np.random.default_rng(5).normal(size=(6, 3)).astype(np.float32)
HEAD = np.random.default_rng(6).normal(size=(N_LATENT, 6)).astype(np.float32) / 4


class Known(NeuralClassifier):
    """A network whose initial weights are known, with biases that would show in its outputs."""

    batches: list = []

    def _build(self, item_shape, n_classes):
        class Noting(nn.Sequential):
            def forward(self, x):
                if self.training:
                    Known.batches.append(x.clone())
                return super().forward(x)

        hidden, head = nn.Linear(3, 6), nn.Linear(6, n_classes)
        normalisation = nn.BatchNorm1d(6, momentum=0.0)
        with torch.no_grad():
            hidden.weight.copy_(torch.from_numpy(WEIGHTS))
            head.weight.copy_(torch.from_numpy(HEAD))
            for bias in (hidden.bias, head.bias, normalisation.bias):
                bias.fill_(3.0)
        # Running statistics other than those of any batch.
        normalisation.running_mean.fill_(0.5)
        normalisation.running_var.fill_(4.0)
        layers = [hidden, normalisation] if self.momentum == 0 else [hidden]
        return Noting(*layers, nn.ReLU(), head)


def still(**kwargs):
    """A network that keeps its weights."""
    settings = {"learning_rate": 1e-12, "weight_decay": 0.0, "precision": "fp32"}
    return Known(**{"batch_size": 1000, "max_epochs": 2, **settings, **kwargs})


def moving(**kwargs):
    settings = {"optimizer": "adam", "learning_rate": 1e-2, "precision": "fp32"}
    return MLP(
        **{"hidden_features": (16,), "max_epochs": 8, "batch_size": 16, **settings, **kwargs}
    )


def phi(X, reference, normalised=False):
    """Output of the known network, without biases, for rows standardised as `reference` is."""
    hidden = (X - reference.mean(0)) / reference.std(0) @ WEIGHTS.T
    if normalised:
        hidden = (hidden - 0.5) / np.sqrt(4 + 1e-5)
    return np.maximum(hidden, 0) @ HEAD.T


def held_out(fraction):
    """Rows that a fit to 60 rows with random_state=0 holds out."""
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    return hold_out(60, fraction, seed, np.zeros(60, int))[1]


def pushed(center):
    return np.where(np.abs(center) < 0.1, np.where(center < 0, -0.1, 0.1), center)


def auroc(detector, inliers, outliers):
    scores = detector.score_samples(np.concatenate([inliers, outliers]))
    return roc_auc_score(np.arange(len(scores)) < len(inliers), scores)


@pytest.fixture
def X():
    return np.random.default_rng(0).gamma(2.0, size=(60, 3)) * [1, 5, 0.1]


@pytest.fixture(scope="module")
def images():
    """Two halves of each digit, by digit."""
    digits = load_digits()
    each = [digits.images[digits.target == k] / 16 for k in range(10)]
    return [(of_digit[::2], of_digit[1::2]) for of_digit in each]


@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "batch-normalised"])
def test_center_is_the_mean_of_the_untrained_outputs(X, normalised):
    """In evaluation mode, of the rows trained on, with coordinates pushed away from 0."""
    network = still(momentum=0.0 if normalised else 0.9)
    detector = DeepSVDD(network, N_LATENT, random_state=0).fit(X)
    mean = phi(X, X, normalised).mean(0)
    assert detector.center_.dtype == np.float64
    assert (np.abs(mean) < 0.1).any()
    assert (mean < 0).any()
    np.testing.assert_allclose(detector.center_, pushed(mean), rtol=1e-5)


def test_center_is_that_of_the_rows_trained_on(X):
    detector = DeepSVDD(still(validation_fraction=0.5), N_LATENT, random_state=0).fit(X)
    # Batches are in random order, and the network reads them standardised.
    read = torch.cat(Known.batches[-1:]).double().numpy()
    assert len(read) == 30
    mean = (np.maximum(read @ WEIGHTS.T, 0) @ HEAD.T).mean(0)
    np.testing.assert_allclose(detector.center_, pushed(mean), rtol=1e-5)


def test_losses_by_hand(X):
    def fit(network, **kwargs):
        return DeepSVDD(network, N_LATENT, random_state=0, **kwargs).fit(X)

    outputs = phi(X, X)
    distance2 = np.square(outputs - pushed(outputs.mean(0))).sum(1)
    one_class = fit(still())
    np.testing.assert_allclose(one_class.history_["loss"], distance2.mean(), rtol=1e-5)
    np.testing.assert_allclose(one_class.score_samples(X), -distance2, rtol=1e-4)
    assert not hasattr(one_class, "radius_")

    # R moves after the first step, so that its loss is that of R = 0.
    soft = fit(still(), objective="soft-boundary", nu=0.2, n_warm_up_epochs=0)
    radius = np.quantile(np.sqrt(distance2), 0.8)
    assert soft.radius_ == pytest.approx(radius, rel=1e-5)
    outside = np.maximum(distance2 - radius**2, 0)
    expected = [distance2.mean() / 0.2, radius**2 + outside.mean() / 0.2]
    np.testing.assert_allclose(soft.history_["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(soft.score_samples(X), radius**2 - distance2, rtol=1e-3, atol=1e-6)

    message = "radius is 0 after training.* n_warm_up_epochs=2 of 2 epochs. Give the backbone more"
    with pytest.warns(UserWarning, match=message) as caught:
        warming_up = fit(still(), objective="soft-boundary", nu=0.2, n_warm_up_epochs=2)
    assert len(caught) == 1
    assert warming_up.radius_ == 0.0
    np.testing.assert_allclose(warming_up.history_["loss"], distance2.mean() / 0.2, rtol=1e-5)


def test_validation_does_not_move_the_radius(X):
    settings = {"objective": "soft-boundary", "n_warm_up_epochs": 0, "random_state": 0}
    detector = DeepSVDD(still(validation_fraction=0.5), N_LATENT, **settings).fit(X)
    read = Known.batches[-1].double().numpy()
    distance2 = np.square(np.maximum(read @ WEIGHTS.T, 0) @ HEAD.T - detector.center_).sum(1)
    assert detector.radius_ == pytest.approx(np.quantile(np.sqrt(distance2), 0.9), rel=1e-5)


@pytest.mark.parametrize("labels", [np.int64, str, object])
def test_loss_of_known_outliers_by_hand(X, labels):
    outliers = X[:7] + 1
    y = np.r_[np.arange(60) % 3, np.full(7, -1)].astype(str if labels is object else labels)
    detector = DeepSAD(still(), N_LATENT, eta=0.3, random_state=0)
    detector.fit(np.concatenate([X, outliers]), y.astype(labels))
    outputs = phi(np.concatenate([X, outliers]), X)
    center = pushed(outputs.mean(0))
    np.testing.assert_allclose(detector.center_, center, rtol=1e-5)
    distance2 = np.square(outputs - center).sum(1)
    loss = (distance2[:60].sum() + 0.3 * (1 / (distance2[60:] + 1e-6)).sum()) / 67
    np.testing.assert_allclose(detector.history_["loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(detector.score_samples(X), -distance2[:60], rtol=1e-4)


@pytest.mark.parametrize("normal", [1, "fine"])
@pytest.mark.parametrize("n_outliers", [7, 0])
def test_loss_of_rows_known_to_be_normal_by_hand(X, normal, n_outliers):
    """Equation 7: eta weighs both kinds of labelled rows, and the exponent is the label."""
    rows = np.concatenate([X, X[:n_outliers] + 1])
    sign = np.r_[np.repeat([0, 1], [45, 15]), np.full(n_outliers, -1)]
    y = sign if normal == 1 else np.array(["b", "fine", "-1"])[sign]
    detector = DeepSAD(still(), N_LATENT, eta=0.3, normal_label=normal, random_state=0)
    detector.fit(rows, y)
    outputs = phi(rows, X)
    center = pushed(outputs.mean(0))
    np.testing.assert_allclose(detector.center_, center, rtol=1e-5)
    distance2 = np.square(outputs - center).sum(1)
    losses = [d if s == 0 else 0.3 * (d + 1e-6) ** s for d, s in zip(distance2, sign, strict=True)]
    np.testing.assert_allclose(detector.history_["loss"], np.mean(losses), rtol=1e-5)
    assert not hasattr(detector, "classes_")


def test_all_rows_known_to_be_normal(X):
    def loss(eta, y):
        detector = DeepSAD(still(), N_LATENT, eta=eta, normal_label=1, random_state=0)
        return detector.fit(X, y).history_["loss"][0]

    assert loss(3.0, np.ones(60, int)) == pytest.approx(3 * loss(1.0, np.ones(60, int)), rel=1e-5)
    half = np.repeat([0, 1], 30)
    assert loss(1.0, np.ones(60, int)) < loss(3.0, half) < loss(3.0, np.ones(60, int))


def test_rows_known_to_be_normal_pull_the_more(X):
    y = np.repeat([0, 1], 30)
    # One class of labels is closer to the center, the more its rows weigh.
    settings = {"normal_label": 1, "random_state": 0}
    light, heavy = (
        DeepSAD(moving(), N_LATENT, eta=eta, **settings).fit(X, y).score_samples(X)
        for eta in (0.01, 100.0)
    )
    assert light[:30].mean() - light[30:].mean() > heavy[:30].mean() - heavy[30:].mean()


def test_held_out_rows_know_which_are_normal(X):
    """The same fraction of labelled and of unlabelled rows is held out, and their loss compares."""
    y = np.repeat([0, 1], [40, 20])
    backbone = moving(max_epochs=4, validation_fraction=0.25)
    detector = DeepSAD(backbone, N_LATENT, eta=3.0, normal_label=1, random_state=0).fit(X, y)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    rows = hold_out(60, 0.25, seed, y)[1]
    assert (y[rows] == 1).sum() == 5
    distance2 = -detector.score_samples(X[rows])
    loss = np.where(y[rows] == 1, 3 * (distance2 + 1e-6), distance2).mean()
    assert min(detector.history_["validation_loss"]) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "normal_label=1 is given, but y is None"),
        (np.zeros(60, int), "normal_label=1 is given, but no such label is in y"),
        (np.repeat([0, -1], 30), "normal_label=1 is given, but no such label is in y"),
        (np.array(["1", "anomaly"] * 30), "If 'anomaly' marks anomalies"),
    ],
)
def test_errors_of_labels_of_normal_rows(X, y, message):
    with pytest.raises(ValueError, match=message):
        DeepSAD(still(), N_LATENT, normal_label=1).fit(X, y)


def test_few_rows_known_to_be_normal_are_no_anomalies(X):
    y = np.repeat([0, 1], [57, 3])
    with pytest.raises(ValueError, match="If 1 marks anomalies"):
        DeepSAD(still(), N_LATENT).fit(X, y)
    DeepSAD(still(), N_LATENT, normal_label=1).fit(X, y)


def test_inverse_distance_is_finite_at_the_center(X):
    """A dead network maps everything to 0, and its gradient must not be NaN either."""
    network = nn.Linear(3, N_LATENT)
    nn.init.zeros_(network.weight)
    backbone = moving(hidden_features=(4,))
    backbone.fit(X, np.arange(60) % 2)
    data, no_rows = backbone._open(X, reset=False), np.arange(0)
    task = Task(network, backbone, data, np.zeros(60, int), no_rows, no_rows, data, data, 0)
    objective = _DeepSADObjective(task, DeepSAD(eta=2.0))
    network.center.zero_()
    loss = objective.loss(torch.zeros(2, 3), torch.tensor([0, 2]))
    np.testing.assert_allclose(loss.detach(), [0, 2e6])
    loss.sum().backward()
    assert torch.isfinite(network.weight.grad).all()


@pytest.mark.parametrize(
    "backbone",
    [
        MLP((8,)),
        ConvNet((4, 8)),
        skood.ShallowConvNet((4, 4), hidden_features=8, dropout=(0, 0)),
        skood.DenseNet(10, 4),
        skood.WideResNet(10, 1),
    ],
    ids=lambda backbone: type(backbone).__name__,
)
@pytest.mark.parametrize("objective", ["one-class", "soft-boundary"])
def test_no_bias_remains_and_every_parameter_moves(images, backbone, objective):
    def weights(learning_rate):
        network = clone(backbone).set_params(
            optimizer="adam", max_steps=2, batch_size=16, learning_rate=learning_rate
        )
        settings = {"objective": objective, "n_warm_up_epochs": 0, "random_state": 0}
        module = DeepSVDD(network, 8, **settings).fit(images[0][0][:32]).backbone_.module_
        return module, dict(module.named_parameters())

    (module, trained), (_, untrained) = weights(1e-2), weights(1e-12)
    assert not [name for name in trained if "bias" in name]
    layers = [layer for layer in module.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len(trained) == len(layers)
    assert last_linear(module).out_features == 8
    for name, parameter in trained.items():
        assert not torch.allclose(parameter, untrained[name], atol=1e-4), name


def test_network_cannot_ignore_its_input(X):
    """The mean of the data is mapped to 0, whatever was learned: there is no bias."""
    detector = DeepSVDD(moving(), N_LATENT, random_state=0).fit(X)
    np.testing.assert_allclose(detector.transform(X.mean(0, keepdims=True)), 0, atol=1e-6)
    assert np.abs(detector.center_).min() >= 0.1 - 1e-8


@pytest.mark.parametrize("objective", ["one-class", "soft-boundary"])
def test_scores_are_distances(X, objective):
    settings = {"n_warm_up_epochs": 2, "random_state": 0}
    backbone = moving(validation_fraction=0.2)
    detector = DeepSVDD(backbone, N_LATENT, objective, **settings).fit(X)
    latents = detector.transform(X)
    assert latents.shape == (60, N_LATENT)
    scores = -np.square(latents - detector.center_).sum(1)
    if objective == "soft-boundary":
        scores += detector.radius_**2
    np.testing.assert_allclose(detector.score_samples(X), scores, rtol=1e-12, atol=1e-12)
    one_by_one = [detector.transform(x[None])[0] for x in X]
    np.testing.assert_array_equal(one_by_one, latents)
    np.testing.assert_array_equal(detector.fit_transform(X), latents)
    threshold = np.quantile(scores[held_out(0.2)], 0.05, method="weibull")
    assert detector.offset_ == pytest.approx(threshold)
    assert list(detector.history_) == ["loss", "validation_loss"]


@pytest.mark.parametrize("objective", ["one-class", "soft-boundary"])
def test_a_digit_is_told_from_the_others(images, objective):
    settings = {"max_epochs": 40, "batch_size": 32, "precision": "fp32"}
    backbone = ConvNet((16, 32), optimizer="adam", learning_rate=3e-3, **settings)
    detector = DeepSVDD(backbone, objective=objective, random_state=0).fit(images[0][0])
    loss = detector.history_["loss"]
    assert loss[-1] < loss[0] / 100
    others = np.concatenate([held_out for _, held_out in images[1:]])
    assert auroc(detector, images[0][1], others) > 0.98
    # It has not collapsed: the outputs of what it was trained on vary.
    assert detector.transform(images[0][0]).std(0).mean() > 1e-3


def test_known_outliers_teach_what_is_anomalous(images):
    """Eight images of nines, which look like normal threes without them."""
    normal, anomalous = images[3], images[9]
    X = np.concatenate([normal[0], anomalous[0][:8]])
    y = np.r_[np.zeros(len(normal[0]), int), np.full(8, -1)]
    backbone = moving(hidden_features=(64,), max_epochs=30, batch_size=32, learning_rate=3e-3)

    def mean_auroc(cls):
        fitted = [cls(backbone, random_state=seed).fit(X, y) for seed in range(3)]
        return np.mean([auroc(detector, normal[1], anomalous[1]) for detector in fitted])

    assert mean_auroc(DeepSVDD) < 0.95
    assert mean_auroc(DeepSAD) > 0.98


def test_without_outliers_it_is_deep_svdd(X):
    alone = DeepSVDD(moving(), N_LATENT, random_state=0).fit(X)
    for y in (None, np.arange(60) % 3, np.full(60, "a")):
        other = DeepSAD(moving(), N_LATENT, eta=5.0, random_state=0).fit(X, y)
        np.testing.assert_array_equal(other.score_samples(X), alone.score_samples(X))
        assert other.history_ == alone.history_


def test_outliers_of_no_weight_change_nothing(X):
    """Copies of the data do not move the center, and halve the mean loss of a batch of all."""
    backbone = moving(optimizer="sgd", momentum=0.0, lr_schedule="constant", batch_size=1000)
    alone = DeepSVDD(backbone.set_params(learning_rate=0.1), N_LATENT, random_state=0).fit(X)
    twice, y = np.concatenate([X, X]), np.r_[np.zeros(60), np.full(60, -1)]
    backbone = clone(backbone).set_params(learning_rate=0.2, weight_decay=2.5e-4)
    weightless = DeepSAD(backbone, N_LATENT, eta=1e-12, random_state=0).fit(twice, y)
    np.testing.assert_allclose(weightless.score_samples(X), alone.score_samples(X), rtol=1e-3)
    assert weightless.history_["loss"][-1] < weightless.history_["loss"][0] / 1.5
    weighty = DeepSAD(backbone, N_LATENT, eta=0.01, random_state=0).fit(twice, y)
    assert (weighty.score_samples(X) < alone.score_samples(X)).all()


def test_every_epoch_has_every_outlier(X):
    outlier = X[:1] + 1000
    y = np.r_[np.zeros(60), -1]
    network = still(batch_size=16, max_epochs=6)
    Known.batches.clear()
    DeepSAD(network, N_LATENT, random_state=0).fit(np.concatenate([X, outlier]), y)
    assert [len(batch) for batch in Known.batches] == [16] * 24
    of_epochs = torch.cat(Known.batches).reshape(6, 64, 3)
    for rows in of_epochs:
        assert (rows[:, 2] > 1000).any()
        assert len(rows.unique(dim=0)) == 61
    assert not torch.equal(of_epochs[0], of_epochs[1])


def test_outliers_beside_rows_held_out(X):
    """They are all trained on, and since no loss of theirs is known, the last epoch is kept."""
    mixed, y = np.concatenate([X, X + 0.1]), np.r_[np.zeros(60), np.full(60, -1)]
    backbone = moving(max_epochs=4, validation_fraction=0.25)
    detector = DeepSAD(backbone, N_LATENT, eta=10.0, random_state=0).fit(mixed, y)
    scores = detector.score_samples(X[held_out(0.25)])
    assert detector.offset_ == pytest.approx(np.quantile(scores, 0.05, method="weibull"))
    losses = detector.history_["validation_loss"]
    assert losses[-1] > min(losses)
    assert losses[-1] == pytest.approx(-scores.mean(), rel=1e-5)


def test_a_cached_fit_has_all_it_learned(X, tmp_path, monkeypatch):
    detector = DeepSVDD(moving(), N_LATENT, "soft-boundary", 0.1, 2, random_state=0)
    detector.set_params(memory=str(tmp_path))
    first = clone(detector).fit(X)
    monkeypatch.setattr(MLP, "fit_objective", None)
    again = clone(detector).set_params(contamination=0.2).fit(X)
    assert again.radius_ == first.radius_
    np.testing.assert_array_equal(again.center_, first.center_)
    np.testing.assert_array_equal(again.score_samples(X), first.score_samples(X))
    assert again.offset_ > first.offset_


class Streamed(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return torch.from_numpy(self.images[index])


@pytest.mark.parametrize("cls", [DeepSVDD, DeepSAD])
def test_streamed_images(images, cls):
    X = np.concatenate([images[0][0][:40], images[1][0][:5]])[:, None].astype(np.float32)
    y = ["a"] * 40 + ["-1"] * 5
    backbone = ConvNet((4, 8), max_epochs=2, batch_size=16, precision="fp32")
    detector = cls(backbone, N_LATENT, random_state=0)
    in_memory, streamed = clone(detector).fit(X, y), clone(detector).fit(Streamed(X), y)
    np.testing.assert_array_equal(streamed.center_, in_memory.center_)
    np.testing.assert_array_equal(streamed.score_samples(Streamed(X)), in_memory.score_samples(X))


def test_flat_images(images):
    """Known outliers are reshaped as the classifier reshapes the data."""
    X = np.concatenate([images[0][0][:40], images[1][0][:5]])
    y = np.r_[np.zeros(40), np.full(5, -1)]
    backbone = ConvNet((4, 8), max_epochs=2, value_range=(0, 1), precision="fp32")
    whole = DeepSAD(backbone, N_LATENT, random_state=0).fit(X, y)
    backbone = clone(backbone).set_params(image_shape=(1, 8, 8))
    flat = DeepSAD(backbone, N_LATENT, random_state=0).fit(X.reshape(45, 64), y)
    np.testing.assert_array_equal(flat.score_samples(X.reshape(45, 64)), whole.score_samples(X))


def test_weights_to_start_from(images):
    """Those of a trained classifier without its biases, and a last layer of its own."""
    X = np.concatenate([train[:20] for train, _ in images])
    classifier = ConvNet((4, 8), max_epochs=3).fit(X, np.repeat(np.arange(10), 20))
    backbone = ConvNet((4, 8), weights_init=FrozenEstimator(classifier), learning_rate=1e-12)
    detector = DeepSVDD(backbone.set_params(max_epochs=1), 10, random_state=0).fit(images[0][0])
    started = dict(detector.backbone_.module_.named_parameters())
    for name, weight in list(started.items())[:-1]:
        np.testing.assert_allclose(weight.detach(), classifier.module_.get_parameter(name).detach())
    assert not torch.allclose(
        list(started.values())[-1], last_linear(classifier.module_).weight, atol=1e-3
    )
    assert last_linear(classifier.module_).bias is not None
    # Torch warns, once in a process, of an array that it cannot write to.
    assert detector.backbone_.mean_.flags.writeable


def test_defaults(images):
    rows = DeepSVDD(random_state=0).fit(np.random.default_rng(0).normal(size=(40, 3)))
    assert isinstance(rows.backbone_, MLP)
    assert rows.center_.shape == (32,)
    assert isinstance(
        DeepSVDD()._default_architecture(skood.share_forward_pass(images[0][0])), ConvNet
    )


@pytest.mark.parametrize(
    ("detector", "message"),
    [
        (DeepSVDD(nu=0.0), "The 'nu' parameter"),
        (DeepSVDD(nu=1.1), "The 'nu' parameter"),
        (DeepSVDD(n_latent=1), "The 'n_latent' parameter"),
        (DeepSVDD(objective="hard"), "The 'objective' parameter"),
        (DeepSVDD(n_warm_up_epochs=-1), "The 'n_warm_up_epochs' parameter"),
        (DeepSVDD(nn.Linear(3, 2)), "The 'backbone' parameter"),
        (DeepSAD(eta=0.0), "The 'eta' parameter"),
        (DeepSAD(eta=-1.0), "The 'eta' parameter"),
        (DeepSAD(normal_label=0.5), "The 'normal_label' parameter"),
        (DeepSVDD(n_pretraining_epochs=-1), "The 'n_pretraining_epochs' parameter"),
        (DeepSVDD(pretraining_weight_decay=-1.0), "The 'pretraining_weight_decay' parameter"),
        (DeepSVDD(pretraining_lr_schedule="fast"), "The 'pretraining_lr_schedule' parameter"),
    ],
)
def test_errors(X, detector, message):
    with pytest.raises(ValueError, match=message):
        detector.fit(X)


def test_error_for_outliers_outside_of_the_range(images):
    X = np.concatenate([images[0][0], images[1][0] * 255])
    y = np.r_[np.zeros(len(images[0][0])), np.full(len(images[1][0]), -1)]
    with pytest.raises(ValueError, match="values from 0 to 255"):
        DeepSAD(ConvNet((4, 8), max_epochs=1)).fit(X, y)
