"""VMDLS: what it is trained on, and what its scores are made of."""

import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from torch.utils.data import Dataset

from skood import (
    MLP,
    VGG,
    VMDLS,
    Autoencoder,
    ConvNet,
    DenseNet,
    MNISTConvNet,
    OODSplit,
    ResNet,
    ShallowConvNet,
    WideResNet,
    get_ood_scorer,
)
from skood._data.checked_data import CheckedData
from skood._torch.training import hold_out
from skood.metrics import auroc
from skood.training_time import Task, _metric_learning
from skood.training_time._class_gaussians import ClassGaussians
from skood.training_time._layer_features import layer_features
from skood.training_time._metric_learning import MetricLearningObjective
from skood.training_time._metric_losses import class_divergence

SETTINGS = {"optimizer": "adam", "learning_rate": 1e-3, "precision": "fp32"}


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def images():
    digits = load_digits()
    return digits.images / 16, digits.target


def tiny(**kwargs):
    backbone = MLP((16, 8), max_epochs=3, validation_fraction=0.2, **SETTINGS)
    settings = {"n_latent": 3, "n_classes_per_batch": 3, "n_samples_per_batch": 4}
    ours = {k: kwargs.pop(k) for k in list(kwargs) if "__" not in k}
    detector = VMDLS(**{"backbone": backbone, "random_state": 0, **settings, **ours})
    return detector.set_params(**kwargs)


@pytest.fixture(scope="module")
def trained(images):
    """Trained on the digits 0 to 7, well enough to tell them from 8 and 9."""
    X, y = images
    settings = {**SETTINGS, "learning_rate": 3e-3}
    backbone = ConvNet((16, 32), max_epochs=25, validation_fraction=0.2, **settings)
    known = y < 8
    detector = VMDLS(backbone, n_latent=8, margin=8.0, random_state=0)
    return detector.fit(X[known][::2], y[known][::2])


def test_it_learns_classes_and_rejects_others(trained, images):
    X, y = images
    known = y < 8
    new, labels = X[known][1::2], y[known][1::2]
    proba = trained.predict_proba(new)
    np.testing.assert_allclose(proba.sum(1), 1)
    assert (trained.classes_[proba.argmax(1)] == labels).mean() > 0.97
    truth = np.r_[labels, np.full((~known).sum(), -1)]
    everything = np.r_[new, X[~known]]
    scores = trained.score_samples(everything)
    assert auroc(truth, scores) > 0.95
    noise = np.random.default_rng(0).random((50, 8, 8))
    # Which of them lie at the threshold depends on the processor.
    assert (trained.predict(noise) == -1).mean() >= 0.9
    truth = np.repeat([1, -1], [len(new), len(noise)])
    assert auroc(truth, np.append(trained.score_samples(new), trained.score_samples(noise))) > 0.98
    predicted = trained.predict_class(everything)
    rejected = trained.predict(everything) == -1
    assert (predicted[rejected] == -1).all()
    likeliest = trained.predict_proba(everything).argmax(1)
    np.testing.assert_array_equal(predicted[~rejected], trained.classes_[likeliest][~rejected])


def test_latent_space_has_the_asked_margin(trained, images):
    """Classes are compact, and apart by about the margin that training ended with."""
    X, y = images
    known = y < 8
    latents, labels = trained.transform(X[known][1::2]), y[known][1::2]
    assert latents.shape == (known.sum() // 2, 8) and latents.dtype == np.float64
    means = np.stack([latents[labels == k].mean(0) for k in range(8)])
    within = np.mean([np.linalg.norm(z - means[k]) for z, k in zip(latents, labels, strict=True)])
    apart = np.linalg.norm(means[:, None] - means, axis=2)[np.triu_indices(8, 1)]
    assert apart.min() > 4 * within
    assert apart.min() > 0.6 * trained.margin
    assert trained.history_["validation_accuracy"][-1] > 0.9


@pytest.mark.parametrize("features", ["penultimate", "latent"])
def test_score_is_the_likelihood_of_one_layer(trained, images, features):
    X, y = images
    known = y < 8
    X, y = X[known][::2], y[known][::2]
    detector = clone(trained).set_params(
        features=features, backbone=clone(trained.backbone).set_params(max_epochs=2)
    )
    detector.fit(X, y)
    assert detector.layers_ == ()
    read = detector.transform(X)
    if features == "penultimate":
        read = detector.backbone_.transform(X)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    training, held_out = hold_out(len(X), 0.2, seed, y)
    gaussians = ClassGaussians.of(read[training], y[training])
    log_likelihood = gaussians.log_likelihood(read)
    bound = log_likelihood[held_out].max() + 1
    expected = np.minimum(log_likelihood.max(1) - bound, -1)
    np.testing.assert_allclose(detector.score_samples(X), expected, rtol=1e-4, atol=1e-2)
    np.testing.assert_array_equal(detector.predict_proba(X).argmax(1), log_likelihood.argmax(1))


def test_latents_add_nothing_to_the_features_that_they_are_mapped_from(trained, images):
    """They are a linear map of the penultimate features, which the ranking does not notice."""
    X, y = images
    known = y < 8
    network = trained.backbone_.network()
    training = CheckedData.of(X[known][::2][:, None])

    def scores(n_outputs):
        def features(data):
            parts = layer_features(network, trained.layers_, data, n_outputs)
            return np.concatenate([part for _, part in parts])

        gaussians = ClassGaussians.of(features(training), y[known][::2])
        return gaussians.log_likelihood(features(CheckedData.of(X[:, None]))).max(1)

    with_latents, without = scores(8), scores(0)
    assert spearmanr(with_latents, without).statistic > 0.999
    truth = np.where(known, 1, -1)
    assert auroc(truth, with_latents) == pytest.approx(auroc(truth, without), abs=1e-3)


def test_score_is_the_likelihood_of_all_layers(trained, images):
    """Recomputed by hooks on the network, in float64."""
    X, y = images
    known = y < 8
    X, y = X[known][::2], y[known][::2]
    network = trained.backbone_.network()
    modules = dict(network.module.named_modules())
    assert trained.layers_ == ("5",)
    seen = {}
    modules["5"].register_forward_hook(lambda m, args, output: seen.update(layer=output))
    network.last_layer.register_forward_hook(
        lambda m, args, output: seen.update(penultimate=args[0])
    )
    with torch.no_grad():
        heads = network.module(network.tensor(X[:, None]))
    for layer in modules.values():
        layer._forward_hooks.clear()
    parts = seen["layer"].mean((2, 3)), seen["penultimate"], heads[:, :8]
    features = torch.cat(parts, 1).numpy()
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    training, held_out = hold_out(len(X), 0.2, seed, y)
    gaussians = ClassGaussians.of(features[training], y[training])
    log_likelihood = gaussians.log_likelihood(features)
    bound = log_likelihood[held_out].max() + 1
    assert trained.log_likelihood_bound_ == pytest.approx(bound, rel=1e-3)
    expected = np.minimum(log_likelihood.max(1) - bound, -1)
    np.testing.assert_allclose(trained.score_samples(X), expected, rtol=1e-2, atol=0.5)
    assert trained.score_samples(X[held_out]).max() == pytest.approx(-1)
    threshold = np.quantile(trained.score_samples(X[held_out]), 0.05, method="weibull")
    assert trained.offset_ == pytest.approx(threshold)


def test_scores_do_not_depend_on_other_rows(trained, images):
    X, _ = images
    together = trained.score_samples(X[:64])
    np.testing.assert_array_equal(trained.score_samples(X[63::-1])[::-1], together)
    np.testing.assert_allclose(trained.score_samples(X[7:8]), together[7:8], rtol=1e-5)


def test_reconstruction_weight(images):
    """The weight is the error of the first layer, relative to the largest of calibration rows."""
    X, y = images
    X, y = X[:300], y[:300]
    backbone = ConvNet((8, 8), max_epochs=2, validation_fraction=0.2, **SETTINGS)
    pca = PCA(12, random_state=0)
    detector = VMDLS(backbone, n_latent=3, reconstruction=pca, random_state=0).fit(X, y)
    plain = VMDLS(backbone, n_latent=3, random_state=0).fit(X, y)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    training, held_out = hold_out(300, 0.2, seed, y)
    fitted = clone(pca).fit(X[training].reshape(-1, 64))
    np.testing.assert_allclose(detector.reconstruction_.components_, fitted.components_)
    decoded = fitted.inverse_transform(fitted.transform(X.reshape(300, 64))).clip(0, 1)
    network = plain.backbone_.network()
    first = dict(network.module.named_modules())[detector.first_layer_]
    assert detector.first_layer_ == "5"

    def means(images):
        seen = []
        hook = first.register_forward_hook(lambda m, args, output: seen.append(output))
        with torch.no_grad():
            network.module(network.tensor(images.reshape(-1, 1, 8, 8)))
        hook.remove()
        return seen[0].mean((2, 3)).numpy()

    errors = np.square(means(X) - means(decoded)).mean(1)
    assert detector.reconstruction_error_ == pytest.approx(errors[held_out].max(), rel=1e-3)
    ratio = detector.score_samples(X) / plain.score_samples(X)
    np.testing.assert_allclose(ratio, errors / errors[held_out].max(), rtol=1e-2, atol=1e-5)
    # A reconstruction that is perfect gives the score of a perfect row, and no error.
    perfect = VMDLS(backbone, n_latent=3, reconstruction=PCA(64), random_state=0).fit(X, y)
    assert np.isfinite(perfect.score_samples(X)).all()


def test_reconstructions_have_the_kind_of_the_images(images):
    """Images of 0..255 give the scores of the same images in [0, 1], but for rounding."""
    X, y = images
    X, y = (255 * X[:200]).round().astype(np.uint8), y[:200]
    backbone = ConvNet((8, 8), max_epochs=2, validation_fraction=0.2, **SETTINGS)
    autoencoder = Autoencoder(8, n_filters=(8, 8), max_epochs=2, precision="fp32")
    scores = [
        VMDLS(backbone, n_latent=3, reconstruction=autoencoder, random_state=0)
        .fit(pixels, y)
        .score_samples(pixels)
        for pixels in (X, (X / 255).astype(np.float32))
    ]
    np.testing.assert_allclose(scores[0], scores[1], rtol=0.2)


def test_a_trained_autoencoder_and_rows(iris):
    X, y = iris
    autoencoder = FrozenEstimator(PCA(2).fit(X))
    detector = tiny(reconstruction=autoencoder).fit(X, y)
    assert detector.reconstruction_ is autoencoder
    assert detector.first_layer_ == "2"
    # The second hidden layer is the penultimate one.
    assert detector.layers_ == ("2",)
    assert detector.gaussians_.means.shape == (3, 16 + 8 + 3)


def test_margin_and_divergence_begin_and_grow(iris):
    X, y = iris
    epochs = []

    class Noting(MetricLearningObjective):
        def start_epoch(self, epoch, *, resumed):
            super().start_epoch(epoch, resumed=resumed)
            epochs.append((self.margin.item(), self.kl_weight.item()))

    detector = tiny(
        backbone=MLP((8,), max_epochs=6, **SETTINGS),
        margin=3.0,
        margin_start_epoch=2,
        kl_start_epoch=1,
        kl_weight=0.3,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skood.training_time._metric_learning.MetricLearningObjective", Noting)
        detector.fit(X, y)
    margins, weights = zip(*epochs, strict=True)
    assert margins == pytest.approx([0.15, 0.15, 1.15, 2.15, 3.0, 3.0])
    assert weights == pytest.approx([0, 0.3, 0.3, 0.3, 0.3, 0.3])
    history = detector.history_
    assert list(history) == ["loss", "metric", "kl"]
    assert history["kl"][0] == 0 != history["kl"][1]
    np.testing.assert_allclose(history["loss"], np.add(history["metric"], history["kl"]), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Ten steps an epoch: 500 of them are 50 epochs.
        ({"max_epochs": 300}, 50),
        ({"max_epochs": 30}, 10),
        ({"max_epochs": 300, "max_steps": 95}, 3),
        ({"max_epochs": 2}, 0),
        # Five epochs, or all, train the heads alone.
        ({"max_epochs": 300, "n_head_epochs": 5}, 55),
        ({"max_epochs": 35, "n_head_epochs": 5}, 15),
        ({"max_epochs": 30, "n_head_epochs": 30}, 10),
    ],
)
def test_margin_and_divergence_wait_for_the_classes_to_come_apart(iris, settings, expected):
    X, y = iris
    network, data = torch.nn.Linear(4, 6), CheckedData.of(X)
    none_held_out = np.arange(0)
    n_head_epochs = settings.get("n_head_epochs", 0)
    mlp = MLP(**{k: v for k, v in settings.items() if k != "n_head_epochs"})
    task = Task(network, mlp, data, y, np.arange(3), none_held_out, data, None, 0)
    detector = tiny(n_samples_per_batch=5, n_head_epochs=n_head_epochs)
    objective = MetricLearningObjective(task, detector)
    assert objective.margin_start == objective.kl_start == expected


def objective_of(iris, **kwargs):
    """Return an objective and a batch of all rows."""
    X, y = iris
    made = []

    class Kept(MetricLearningObjective):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skood.training_time._metric_learning.MetricLearningObjective", Kept)
        tiny(**{"backbone": MLP((8,), max_epochs=1, **SETTINGS), **kwargs}).fit(X, y)
    objective = made[0].train()
    return objective, objective.prepare(objective.read(np.arange(150)), torch.Generator())


def test_class_means_are_those_of_the_epoch_before(iris):
    objective, batch = objective_of(iris)
    objective.start_epoch(0, resumed=False)
    draws = []
    original = class_divergence

    def noted(z, *args):
        draws.append(z.detach().double())
        return original(z, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_metric_learning, "class_divergence", noted)
        before = objective.class_means.clone()
        for _ in range(2):
            objective.loss(*batch)
        torch.testing.assert_close(objective.class_means, before)
        # An epoch that is resumed goes on with its sums.
        objective.start_epoch(0, resumed=True)
        torch.testing.assert_close(objective.class_means, before)
    objective.start_epoch(1, resumed=False)
    labels = batch[1]
    expected = [torch.cat([z[labels == k] for z in draws]).mean(0) for k in range(3)]
    torch.testing.assert_close(
        objective.class_means.double(), torch.stack(expected), rtol=1e-5, atol=1e-6
    )
    assert not torch.equal(draws[0], draws[1])
    assert objective.class_sums.abs().sum() == objective.class_counts.sum() == 0
    assert not objective.class_means.requires_grad


def test_validation_uses_the_mean_of_the_latents(iris):
    objective, batch = objective_of(iris)
    objective.eval()
    with torch.no_grad():
        one, other = objective.loss(*batch), objective.loss(*batch)
        counts = objective.class_counts.clone()
        objective.metrics(*batch)
    assert one == other
    torch.testing.assert_close(objective.class_counts, counts)


def test_normalised_embeddings(iris):
    objective, batch = objective_of(iris, normalize_embeddings=True)
    objective.eval()
    objective.start_epoch(40, resumed=True)
    with torch.no_grad():
        loss = objective.loss(*batch)["metric"].item()
    # Distances are at most 2, and the margin is 32.
    assert 30 < loss < 32 + 2.1


@pytest.fixture(scope="module")
def fine_tuned(images):
    """Fine-tuned for two epochs of the heads and two of all weights.

    The detector, the trained network, the network's state before every epoch and after the last
    one, and the learning rates of every step.
    """
    X, y = images[0][:240, :5, :5], images[1][:240]
    source = ConvNet((3, 4), max_epochs=1, random_state=0, precision="fp32").fit(X, y)
    backbone = ConvNet(
        (3, 4),
        max_epochs=4,
        learning_rate=0.001,
        lr_schedule="constant",
        weights_init=FrozenEstimator(source),
        precision="fp32",
    )
    states, rates = [], []
    step = torch.optim.SGD.step

    class Noting(MetricLearningObjective):
        def start_epoch(self, epoch, *, resumed):
            super().start_epoch(epoch, resumed=resumed)
            states.append({k: v.clone() for k, v in self.network.state_dict().items()})

    def noted(self, *args, **kwargs):
        rates.append([group["lr"] for group in self.param_groups])
        return step(self, *args, **kwargs)

    detector = tiny(backbone=backbone, n_head_epochs=2, head_learning_rate=0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_metric_learning, "MetricLearningObjective", Noting)
        patch.setattr(torch.optim.SGD, "step", noted)
        detector.fit(X, y)
    states.append(detector.backbone_.module_.state_dict())
    return detector, source, states, rates


def test_fine_tuning_has_two_phases(fine_tuned):
    """The heads alone are trained first, then every weight."""
    detector, source, states, _ = fine_tuned
    parameters = dict(detector.backbone_.module_.named_parameters())
    *body, weight, bias = parameters
    assert weight.rpartition(".")[0] == bias.rpartition(".")[0] and parameters[weight].shape[0] == 6
    trained = source.module_.state_dict()
    for (before, after), thawed in zip(pairwise(states), [False, False, True, True], strict=True):
        for name in body:
            assert torch.equal(before[name], after[name]) != thawed, name
            assert thawed or torch.equal(after[name], trained[name]), name
        for name in (weight, bias):
            assert (before[name] != after[name]).any(), name
    for name, value in source.module_.named_parameters():
        assert torch.equal(value, trained[name]), name


def test_statistics_of_batch_normalisation_follow_the_data_in_both_phases(fine_tuned):
    """As in the authors' code, which leaves the network in training mode."""
    _, _, states, _ = fine_tuned
    statistics = [name for name in states[0] if "running" in name]
    assert statistics
    for before, after in pairwise(states):
        assert all((before[name] != after[name]).any() for name in statistics)


def test_each_phase_has_its_learning_rate(fine_tuned):
    *_, rates = fine_tuned
    n_steps = 240 // 12
    assert len(rates) == 4 * n_steps
    heads = [of_heads for _, of_heads in rates]
    np.testing.assert_allclose(heads, np.repeat([0.01, 0.001], 2 * n_steps))
    assert {of_body for of_body, _ in rates} == {0.001}


@pytest.mark.parametrize("step", [3, 20, 40, 41, 70])
def test_resumed_fine_tuning_ends_the_same(fine_tuned, images, resumed, tmp_path, step):
    """Interrupted in each phase, and between them."""
    detector, *_ = fine_tuned
    X, y = images[0][:240, :5, :5], images[1][:240]
    again = clone(detector).set_params(backbone__random_state=0)
    expected = clone(again).fit(X, y)
    found = resumed(again, X, y, step, tmp_path)
    assert found.history_ == expected.history_
    for name, value in expected.backbone_.module_.state_dict().items():
        assert torch.equal(found.backbone_.module_.state_dict()[name], value), name


def test_a_latent_space_that_collapsed_is_a_warning(images):
    """If the margin grows at once, all latents end in one point, and scores alone do not tell."""
    X, y = images[0][:400], images[1][:400]
    settings = {**SETTINGS, "validation_fraction": 0.2, "max_epochs": 4}
    detector = tiny(backbone=MNISTConvNet(4, hidden_features=8, **settings), n_latent=8)
    detector.set_params(margin_step=8.0, margin_start_epoch=0, kl_start_epoch=0)
    with pytest.warns(UserWarning, match=r"did not separate the classes: .* 10\.0 % by chance"):
        detector.fit(X, y)
    assert detector.history_["validation_metric"][-1] > 0.9 * (0.15 + 4 * 8)
    detector.set_params(backbone__max_epochs=2).fit(X, y)


def test_layers_that_the_architecture_fixes_stay_fixed(iris):
    X, y = iris
    network = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.Linear(5, 5), torch.nn.Linear(5, 6)
    )
    network[0].requires_grad_(False)
    data = CheckedData.of(X)
    task = Task(network, MLP(), data, y, np.arange(3), np.arange(0), data, None, 0)
    objective = MetricLearningObjective(task, tiny(n_head_epochs=1))
    for epoch, expected in enumerate([[False, False, True], [False, True, True]]):
        objective.start_epoch(epoch, resumed=False)
        for layer, trained in zip(network, expected, strict=True):
            assert all(p.requires_grad == trained for p in layer.parameters())


def test_phases_that_cannot_be_are_errors(iris):
    X, y = iris
    with pytest.raises(ValueError, match=r"n_head_epochs=2 trains the heads on .*weights_init"):
        tiny(n_head_epochs=2).fit(X, y)
    source = FrozenEstimator(MLP((16, 8), max_epochs=1, random_state=0).fit(X, y))
    with pytest.raises(
        ValueError, match=r"head_learning_rate=0.01 is the rate of .* head_lr_scale"
    ):
        tiny(backbone__weights_init=source, head_learning_rate=0.01).fit(X, y)
    with pytest.raises(ValueError, match="'head_learning_rate' parameter"):
        tiny(head_learning_rate=0.0).fit(X, y)


def test_heads_have_a_rate_of_their_own(iris):
    objective, _ = objective_of(iris, head_lr_scale=10.0)
    body, heads = objective.parameter_groups()
    assert "lr_scale" not in body and heads["lr_scale"] == 10.0
    assert [p.shape for p in heads["params"]] == [(6, 8), (6,)]
    assert len(body["params"]) + len(heads["params"]) == len(list(objective.parameters()))


def test_a_search_over_scoring_parameters_trains_once(iris, tmp_path, monkeypatch):
    X, y = iris
    trained = []
    original = MLP.fit_objective

    def counted(self, *args, **kwargs):
        trained.append(1)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(MLP, "fit_objective", counted)
    data = np.r_[X, X[::5] + 3 * np.random.default_rng(0).normal(size=(30, 4))]
    grid = {"shrinkage": [0.0, 0.1, "oas"], "layers": [None, "0"], "reconstruction": [None, PCA(2)]}
    search = GridSearchCV(
        tiny(memory=str(tmp_path)),
        grid,
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(2),
        refit=False,
    ).fit(data, np.r_[y, np.full(30, -1)])
    assert len(trained) == 2
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_strings_datasets_and_pickles(images):
    X, y = images
    names = np.array(["zero", "one", "two"])
    rows = np.flatnonzero(y < 3)[:90]
    labels = names[y[rows]]
    backbone = ConvNet((4, 4), max_epochs=2, validation_fraction=0.2, **SETTINGS)
    detector = tiny(backbone=backbone).fit(X[rows], labels)
    assert set(detector.predict_class(X[rows])) <= {*names, "-1"}
    noise = np.random.default_rng(0).random((3, 8, 8))
    assert set(detector.predict_class(noise)) <= {*names, "-1"}

    class Streamed(Dataset):
        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            return torch.from_numpy(X[rows[index]])

    streamed = tiny(backbone=backbone).fit(Streamed(), labels)
    np.testing.assert_allclose(streamed.score_samples(X[rows]), detector.score_samples(X[rows]))
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_array_equal(again.score_samples(X[:9]), detector.score_samples(X[:9]))
    assert list(detector.get_feature_names_out()) == ["vmdls0", "vmdls1", "vmdls2"]


def test_without_held_out_rows_all_calibrate(iris):
    X, y = iris
    detector = tiny(backbone=MLP((8,), max_epochs=2, **SETTINGS)).fit(X, y)
    assert detector.score_samples(X).max() == -1
    assert (detector.predict(X) == 1).mean() == pytest.approx(0.95, abs=0.01)


def test_errors(iris):
    X, y = iris
    with pytest.raises(ValueError, match="VMDLS requires y to be passed"):
        tiny().fit(X)
    single = np.r_[y[:-1], 7]
    with pytest.raises(ValueError, match=r"1 training row\(s\) of the class 7.*at least 2"):
        tiny().fit(X, single)
    with pytest.raises(ValueError, match=r"y has 1 training row\(s\)"):
        tiny(backbone=MLP((8,), max_epochs=1, validation_fraction=0.9)).fit(X[::10], y[::10])
    with pytest.raises(ValueError, match="patience=3 is given to the backbone"):
        tiny(backbone=MLP((8,), patience=3, validation_fraction=0.2)).fit(X, y)
    with pytest.raises(ValueError, match="'reconstruction' parameter"):
        tiny(reconstruction=MLP()).fit(X, y)
    with pytest.raises(ValueError, match=r"names .*'nothing'"):
        tiny(layers=("nothing",)).fit(X, y)
    with pytest.raises(AttributeError, match="classes_"):
        tiny().fit(X, y).backbone_.predict(X)


@pytest.mark.parametrize(
    ("backbone", "n_features"),
    [
        # Means of the last layer at each resolution, unless they are the penultimate features, and
        # these.
        (ConvNet((4, 6, 8)), 4 + 6 + 8),
        (ConvNet((4, 6), n_convolutions=(2, 1), hidden_features=5), 4 + 6 + 6 + 5),
        (ShallowConvNet((4, 6), hidden_features=5, dropout=(0, 0)), 4 + 6 + 6 + 5),
        (DenseNet(depth=10, growth_rate=4), 6 + 5 + 9 + 9),
        (WideResNet(10, 1), 16 + 32 + 64),
        (ResNet(18), 64 + 128 + 256 + 512),
        (VGG(11), 64 + 128 + 256 + 512 + 512),
        (MLP((6, 5)), 6 + 5),
        (MNISTConvNet(4, hidden_features=5), 3 * 4 + 5),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_backbone(backbone, n_features):
    X = np.random.default_rng(0).random((24, 16, 16))
    y = np.arange(24) % 2
    detector = tiny(backbone=clone(backbone).set_params(max_steps=1, precision="fp32"))
    detector.fit(X, y)
    assert detector.gaussians_.means.shape == (2, n_features + 3)
    assert np.isfinite(detector.score_samples(X)).all()
    assert "softmax" not in repr(detector.backbone_.module_).lower()
