"""Pre-training by an autoencoder: its loss, its decoder, and what the network keeps of it."""

import signal

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.frozen import FrozenEstimator
from torch import nn

import skood
from skood import MLP, ConvNet, DeepSAD, DeepSVDD, LeNet
from skood.base import estimator, parameter
from skood.classifiers import NeuralClassifier, multi_step
from skood.training_time import _pretraining
from skood.training_time._decoder import MirroredDecoder
from skood.training_time._pretraining import AutoencoderObjective

SETTINGS = {"optimizer": "adam", "learning_rate": 3e-3, "batch_size": 16, "precision": "fp32"}
ROWS = load_iris().data[:60]
IMAGES = (load_digits().images / 16)[load_digits().target == 0][:48].astype(np.float32)


def mlp(**kwargs):
    return MLP((6,), **{**SETTINGS, "max_epochs": 3, **kwargs})


def convnet(**kwargs):
    return ConvNet((4, 6), **{**SETTINGS, "max_epochs": 3, **kwargs})


@pytest.fixture
def objectives(monkeypatch):
    """The objectives of all autoencoders, in the order of training."""
    made = []

    class Noted(AutoencoderObjective):
        def __init__(self, task):
            super().__init__(task)
            made.append(self)

    monkeypatch.setattr(_pretraining, "AutoencoderObjective", Noted)
    return made


@pytest.mark.parametrize("backbone", [mlp(), convnet()], ids=["rows", "images"])
def test_loss_by_hand(objectives, backbone):
    """Mean squared error of pixels in [0, 1], or of standardised features."""
    X = IMAGES if isinstance(backbone, ConvNet) else ROWS
    backbone.set_params(learning_rate=1e-12, weight_decay=0.0, batch_size=1000, max_epochs=1)
    detector = DeepSVDD(backbone, 4, n_pretraining_epochs=1, random_state=0).fit(X)
    objective = objectives[0].train()
    if isinstance(backbone, ConvNet):
        x = (X[:, None] - X.mean()) / X.std()
        z = objective.network(torch.tensor(x, dtype=torch.float32))
        reconstructed = objective.decoder(z).sigmoid().detach().numpy()
        expected = np.square(reconstructed - X[:, None]).mean()
    else:
        x = (X - X.mean(0)) / X.std(0)
        z = objective.network(torch.tensor(x, dtype=torch.float32))
        expected = np.square(objective.decoder(z).detach().numpy() - x).mean()
    np.testing.assert_allclose(detector.pretraining_history_["loss"], expected, rtol=1e-5)


@pytest.mark.parametrize("cls", [DeepSVDD, DeepSAD])
def test_one_class_training_starts_from_the_encoder(objectives, cls):
    """From all its weights, the last layer included, and the statistics of batch normalisation."""
    settings = {"pretraining_lr_schedule": "constant", "random_state": 0}
    # A learning rate of 0 keeps the weights.
    backbone = convnet(lr_schedule=((0, 0), (1, 0)), max_epochs=1)
    detector = cls(backbone, 4, n_pretraining_epochs=5, **settings).fit(IMAGES)
    untrained = cls(backbone, 4, **settings).fit(IMAGES)
    assert untrained.pretraining_history_ == {}
    (autoencoder,) = objectives
    encoder = dict(autoencoder.network.named_parameters())
    network, before = (
        dict(each.backbone_.module_.named_parameters()) for each in (detector, untrained)
    )
    assert list(network) == list(encoder)
    for name, weight in encoder.items():
        torch.testing.assert_close(network[name], weight, rtol=0, atol=0)
        assert not torch.allclose(weight, before[name], atol=1e-3), name
    # Three batches of one-class training follow those of the autoencoder.
    counts = [
        module.state_dict()["1.num_batches_tracked"]
        for module in (autoencoder.network, detector.backbone_.module_)
    ]
    assert counts == [15, 18]


def test_center_is_the_mean_output_of_the_encoder(objectives):
    detector = DeepSVDD(mlp(max_epochs=1), 4, n_pretraining_epochs=20, random_state=0).fit(ROWS)
    x = (ROWS - ROWS.mean(0)) / ROWS.std(0)
    mean = objectives[0].network(torch.tensor(x, dtype=torch.float32)).mean(0).detach().numpy()
    far = np.abs(mean) >= 0.1
    assert far.any()
    np.testing.assert_allclose(detector.center_[far], mean[far], rtol=1e-4)


def name_of(value):
    return str(value) if isinstance(value, int) else type(value).__name__


BACKBONES = [
    mlp(),
    convnet(),
    MLP((8, 4), **SETTINGS),
    LeNet((4, 2), **SETTINGS),
    LeNet((4, 2), hidden_features=32, **SETTINGS),
    ConvNet((4, 4), hidden_features=8, **SETTINGS),
    skood.ShallowConvNet((4, 4), hidden_features=8, dropout=(0, 0), **SETTINGS),
    skood.DenseNet(10, 4, **SETTINGS),
    skood.WideResNet(10, 1, **SETTINGS),
]


@pytest.mark.parametrize(
    "backbone", BACKBONES, ids=lambda b: f"{type(b).__name__}-{b.get_params()}"
)
@pytest.mark.parametrize("n_latent", [5, 16])
def test_reconstruction_improves_and_every_parameter_moves(objectives, backbone, n_latent):
    backbone = clone(backbone).set_params(max_epochs=1, learning_rate=1e-2, lr_schedule="constant")

    def weights(n_epochs, **params):
        given = clone(backbone).set_params(**params)
        detector = DeepSVDD(given, n_latent, n_pretraining_epochs=n_epochs, random_state=0)
        detector.fit(IMAGES)
        return detector, {k: v.detach().clone() for k, v in objectives[-1].named_parameters()}

    detector, trained = weights(8)
    _, before = weights(1, learning_rate=1e-12, weight_decay=0.0)
    losses = detector.pretraining_history_["loss"]
    assert losses[-1] < losses[0]
    assert {name.split(".")[0] for name in trained} == {"network", "decoder"}
    assert not [name for name in trained if "bias" in name]
    for name, weight in trained.items():
        assert not torch.allclose(weight, before[name], atol=1e-5), name
    shape = objectives[0].decoder(torch.zeros(3, n_latent)).shape
    assert shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("backbone", "n_latent", "item_shape", "expected"),
    [
        (MLP((7, 6)), 3, (5,), [(6, 3), (7, 6), (5, 7)]),
        # Two convolutions a stage, global pooling: a map of 7 x 7, then 14 x 14 and 28 x 28.
        (
            ConvNet((8, 16, 32)),
            3,
            (1, 28, 28),
            [(32 * 49, 3), (16, 32, 3, 3), (8, 16, 3, 3), (1, 8, 3, 3)],
        ),
        # The authors' decoders of MNIST, Fashion-MNIST and CIFAR-10.
        (LeNet((8, 4)), 32, (1, 28, 28), [(4, 2, 5, 5), (8, 4, 5, 5), (1, 8, 5, 5)]),
        (
            LeNet((16, 32), hidden_features=128),
            64,
            (1, 28, 28),
            [(128, 64), (32, 8, 5, 5), (16, 32, 5, 5), (1, 16, 5, 5)],
        ),
        (
            LeNet((32, 64, 128)),
            128,
            (3, 32, 32),
            [(128, 8, 5, 5), (64, 128, 5, 5), (32, 64, 5, 5), (3, 32, 5, 5)],
        ),
    ],
)
def test_layers_of_the_decoder(backbone, n_latent, item_shape, expected):
    network = backbone._build(item_shape, n_latent)
    build = getattr(backbone, "_build_decoder", lambda *shape: None)
    decoder = build(item_shape, n_latent) or MirroredDecoder(network, item_shape, "a network")
    assert [tuple(weight.shape) for weight in decoder.parameters()] == expected
    assert decoder(torch.zeros(2, n_latent)).shape == (2, *item_shape)


def test_known_outliers_are_learned_too(objectives):
    X = np.concatenate([ROWS, ROWS[:3] + 50])
    y = np.r_[np.zeros(60, int), [-1, -1, -1]]
    settings = {"n_pretraining_epochs": 2, "random_state": 0}
    DeepSAD(mlp(), 4, **settings).fit(X, y)
    DeepSVDD(mlp(), 4, **settings).fit(X, y)
    assert [len(objective.data) for objective in objectives] == [63, 60]
    rng = np.random.default_rng(0)
    batches = objectives[0].epoch_batches(np.arange(60), 16, rng)
    assert set(np.concatenate(batches)) == set(range(63))


def test_rows_held_out_are_the_same(objectives):
    backbone = mlp(validation_fraction=0.2)
    detector = DeepSVDD(backbone, 4, n_pretraining_epochs=3, random_state=0).fit(ROWS)
    assert list(detector.pretraining_history_) == ["loss", "validation_loss"]
    mean = detector.backbone_.mean_
    np.testing.assert_array_equal(objectives[0].classifier.mean_, mean)
    assert not np.allclose(mean, ROWS.mean(0), rtol=1e-6)


def test_own_settings(objectives):
    given = multi_step([1], 2)
    detector = DeepSVDD(
        mlp(max_steps=20),
        4,
        n_pretraining_epochs=10,
        pretraining_weight_decay=0.5,
        pretraining_lr_schedule=given,
        random_state=0,
    ).fit(ROWS)
    trained = objectives[0].classifier
    assert (trained.max_epochs, trained.weight_decay, trained.lr_schedule) == (10, 0.5, given)
    # 60 rows are 3 batches of 16.
    assert len(detector.pretraining_history_["loss"]) == 7
    assert (detector.backbone_.weight_decay, detector.backbone_.lr_schedule) == (5e-4, "cosine")
    strong, weak = objectives[0].network[-1].weight.norm(), None
    clone(detector).set_params(pretraining_weight_decay=0.0).fit(ROWS)
    weak = objectives[1].network[-1].weight.norm()
    assert strong < weak


def test_weights_to_start_from(objectives):
    classifier = mlp(max_epochs=3).fit(ROWS, np.arange(60) % 2)
    backbone = mlp(weights_init=FrozenEstimator(classifier), learning_rate=1e-12)
    DeepSVDD(backbone, 4, n_pretraining_epochs=1, random_state=0).fit(ROWS)
    np.testing.assert_allclose(
        objectives[0].network[1].weight.detach(), classifier.module_[1].weight.detach(), atol=1e-6
    )


def test_the_same_seed_gives_the_same_detector():
    detector = DeepSVDD(convnet(), 4, n_pretraining_epochs=2, random_state=0)
    first, again = clone(detector).fit(IMAGES), clone(detector).fit(IMAGES)
    np.testing.assert_array_equal(first.score_samples(IMAGES), again.score_samples(IMAGES))
    assert first.pretraining_history_ == again.pretraining_history_
    other = clone(detector).set_params(random_state=1).fit(IMAGES)
    assert other.pretraining_history_ != first.pretraining_history_


def test_a_search_trains_one_autoencoder(objectives, tmp_path):
    settings = {"n_pretraining_epochs": 2, "memory": str(tmp_path), "random_state": 0}
    plain = DeepSVDD(mlp(), 4, **{**settings, "memory": None}).fit(ROWS)
    for nu in (0.1, 0.2):
        DeepSVDD(mlp(), 4, "soft-boundary", nu, 1, **settings).fit(ROWS)
    cached = DeepSVDD(mlp(), 4, **settings).fit(ROWS)
    assert len(objectives) == 2
    np.testing.assert_array_equal(cached.score_samples(ROWS), plain.score_samples(ROWS))
    assert cached.pretraining_history_ == plain.pretraining_history_
    # Another autoencoder is another network.
    longer = DeepSVDD(mlp(), 4, **{**settings, "n_pretraining_epochs": 3}).fit(ROWS)
    assert not np.array_equal(longer.score_samples(ROWS), plain.score_samples(ROWS))


@pytest.mark.parametrize("step", [2, 5, 7, 10])
def test_resumed_training_ends_the_same(step, tmp_path, monkeypatch):
    """Interrupted in the pre-training, of 6 steps, or in the one-class training."""
    whole = DeepSVDD(mlp(random_state=0), 4, n_pretraining_epochs=2, random_state=0).fit(ROWS)
    detector = clone(whole).set_params(backbone__checkpoint_dir=str(tmp_path))
    original, steps = torch.optim.Adam.step, []

    def interrupted(self, *args, **kwargs):
        original(self, *args, **kwargs)
        steps.append(1)
        if len(steps) == step:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched, pytest.warns(UserWarning, match="interrupted"):
        patched.setattr(torch.optim.Adam, "step", interrupted)
        clone(detector).fit(ROWS)
    again = clone(detector).fit(ROWS)
    np.testing.assert_array_equal(again.score_samples(ROWS), whole.score_samples(ROWS))
    assert again.pretraining_history_["loss"] == pytest.approx(whole.pretraining_history_["loss"])


@pytest.mark.parametrize("objective", ["one-class", "soft-boundary"])
def test_scores_are_distances(objective):
    settings = {"n_warm_up_epochs": 1, "n_pretraining_epochs": 3, "random_state": 0}
    detector = DeepSVDD(convnet(), 4, objective, **settings).fit(IMAGES)
    scores = -np.square(detector.transform(IMAGES) - detector.center_).sum(1)
    scores += detector.radius_**2 if objective == "soft-boundary" else 0
    np.testing.assert_allclose(detector.score_samples(IMAGES), scores, rtol=1e-12, atol=1e-12)
    one_by_one = [detector.score_samples(image[None])[0] for image in IMAGES[:5]]
    np.testing.assert_allclose(one_by_one, scores[:5], rtol=1e-4)


def test_saved_detectors_keep_the_history(tmp_path):
    detector = DeepSVDD(LeNet((4, 2), **SETTINGS), 16, n_pretraining_epochs=2, random_state=0)
    detector.set_params(backbone__max_epochs=1).fit(IMAGES)
    skood.save(detector, tmp_path / "detector")
    loaded = skood.load(tmp_path / "detector")
    np.testing.assert_array_equal(loaded.score_samples(IMAGES), detector.score_samples(IMAGES))
    assert loaded.pretraining_history_ == detector.pretraining_history_


@estimator
class Scaled(NeuralClassifier):
    """A network with weights that no decoder mirrors."""

    own_decoder: bool = parameter("boolean", default=False)

    def _build(self, item_shape, n_classes):
        class Scale(nn.Module):
            def __init__(self):
                super().__init__()
                self.factor = nn.Parameter(torch.ones(4))

            def forward(self, x):
                return x * self.factor

        return nn.Sequential(Scale(), nn.Linear(4, n_classes))

    def _build_decoder(self, item_shape, n_latent):
        return nn.Linear(n_latent, 4) if self.own_decoder else None


class Tokens(NeuralClassifier):
    def _build(self, item_shape, n_classes):
        return nn.Sequential(
            nn.Unflatten(1, (2, 2)), nn.Linear(2, 3), nn.Flatten(), nn.Linear(6, n_classes)
        )


def test_networks_without_a_decoder():
    settings = {"n_pretraining_epochs": 1, "random_state": 0}
    with pytest.raises(ValueError, match="Scaled has a layer Scale, so that no decoder can"):
        DeepSVDD(Scaled(max_epochs=1), 4, **settings).fit(ROWS)
    with pytest.raises(ValueError, match="Tokens has a linear layer with outputs of shape"):
        DeepSVDD(Tokens(max_epochs=1), 4, **settings).fit(ROWS)
    DeepSVDD(Tokens(max_epochs=1), 4, random_state=0).fit(ROWS)
    DeepSVDD(Scaled(own_decoder=True, max_epochs=1), 4, **settings).fit(ROWS)


def test_the_global_random_state_is_untouched():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    DeepSVDD(mlp(), 4, n_pretraining_epochs=1, random_state=0).fit(ROWS)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
