"""Entropy and mutual information of subnetworks and of ensembles."""

import itertools
import pickle

import joblib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import get_tags
from torch import nn
from torchvision.ops import StochasticDepth

import skood
from skood import DeepEnsemble, MCDropout
from skood._torch.seeding import Stream, draw_seed, numpy_rng
from skood.functional import mutual_information, predictive_entropy
from skood.functional._logits import mean_log_proba
from skood.metrics import auroc

SCORE_TYPES = ["entropy", "mutual_information"]
STATISTICS = mean_log_proba, predictive_entropy, mutual_information


def scores_of(proba):
    """Both scores, by the definition, of probabilities of shape (n, n_predictions, n_classes)."""
    total = entropy(proba.mean(1), axis=1)
    return {"entropy": -total, "mutual_information": entropy(proba, axis=2).mean(1) - total}


def drawn(module, seed=0):
    """The module in float64, with larger weights than usual."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        parameter.data.normal_(0, 1, generator=generator)
    return module


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(40, 4))


def test_the_formulas():
    proba = np.random.default_rng(0).dirichlet(np.ones(5), size=(30, 4))
    mean, total, information = (statistic(np.log(proba)) for statistic in STATISTICS)
    np.testing.assert_allclose(np.exp(mean), proba.mean(1))
    np.testing.assert_allclose(total, entropy(proba.mean(1), axis=1))
    divergence = entropy(proba, proba.mean(1, keepdims=True), axis=2)
    np.testing.assert_allclose(information, divergence.mean(1), rtol=1e-10)


def test_saturated_predictions():
    """Two that are sure of different classes, two that are sure of one, and two that are even."""
    logits = np.array([[[1e4, 0], [0, 1e4]], [[1e4, 0], [1e4, 0]], [[0, 0], [0, 0]]])
    for values in (logits, np.where(logits > 0, 1e300, 0)):
        _, total, information = (statistic(log_softmax(values, axis=2)) for statistic in STATISTICS)
        np.testing.assert_allclose(total, [np.log(2), 0, np.log(2)], atol=1e-15)
        np.testing.assert_allclose(information, [np.log(2), 0, 0], atol=1e-15)
        assert (information >= 0).all()


def test_information_is_never_negative():
    same = np.repeat(log_softmax(np.random.default_rng(0).normal(size=(999, 1, 7)), axis=2), 3, 1)
    assert (mutual_information(same) >= 0).all()
    np.testing.assert_allclose(mutual_information(same), 0, atol=1e-14)


class Functional(nn.Module):
    """Dropout as functions, in place and not, and twice on one layer's output."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = F.dropout(x, 0.4, training=self.training, inplace=True)
        x = F.relu(F.dropout(self.first(x), 0.3, self.training))
        return self.head(F.relu(self.second(x)))


def by_hand(module, X, random_state, n_samples):
    """Probabilities of the subnetworks of `Functional`, shape (n, n_samples, n_classes)."""
    weights = [parameter.detach().numpy() for parameter in module.parameters()]
    seed = draw_seed(random_state)
    proba = []
    for s in range(n_samples):
        on_input, on_layer = (
            (numpy_rng(seed, Stream.DROPOUT_MASKS, s, k).random(d) >= p) / (1 - p)
            for k, (d, p) in enumerate([(4, 0.4), (5, 0.3)])
        )
        h = np.maximum(((X * on_input) @ weights[0].T + weights[1]) * on_layer, 0)
        h = np.maximum(h @ weights[2].T + weights[3], 0)
        proba.append(softmax(h @ weights[4].T + weights[5], axis=1))
    return np.stack(proba, 1)


@pytest.mark.parametrize("score_type", SCORE_TYPES)
@pytest.mark.parametrize("n_samples", [2, 9])
def test_dropout_against_masks_drawn_by_hand(score_type, n_samples, X):
    module = drawn(Functional())
    detector = MCDropout(module, n_samples, score_type, random_state=3).fit(X)
    proba = by_hand(module, X, 3, n_samples)
    np.testing.assert_allclose(detector.score_samples(X), scores_of(proba)[score_type], rtol=1e-9)
    np.testing.assert_allclose(detector.predict_proba(X), proba.mean(1), rtol=1e-9)
    accepted = detector.predict(X) == 1
    labels = np.where(accepted, proba.mean(1).argmax(1), -1)
    np.testing.assert_array_equal(detector.predict_class(X), labels)


def linear(p):
    return nn.Sequential(nn.Dropout(p), nn.Linear(4, 3))


def test_dropout_converges_to_the_sum_over_all_masks(X):
    """Of a linear network, within five standard errors of the mean over the samples."""
    p, n_samples = 0.3, 500
    module = drawn(linear(p))
    weight, bias = (parameter.detach().numpy() for parameter in module.parameters())
    masks = np.array(list(itertools.product([0, 1], repeat=4)))
    probability = np.prod(np.where(masks, 1 - p, p), axis=1)
    proba = softmax((X[:, None] * masks / (1 - p)) @ weight.T + bias, axis=2)
    mean = probability @ proba

    def check(found, values):
        """Compare a mean over the samples with that over the masks, of values (n, 16, ...)."""
        expected = np.moveaxis(values, 1, -1) @ probability
        variance = np.moveaxis(values**2, 1, -1) @ probability - expected**2
        assert (np.abs(found - expected) < 5 * np.sqrt(variance / n_samples)).all()

    entropy_, information = (
        MCDropout(module, n_samples, score_type, random_state=0).fit(X)
        for score_type in SCORE_TYPES
    )
    check(entropy_.predict_proba(X), proba)
    total = -entropy_.score_samples(X)
    check(total + information.score_samples(X), entropy(proba, axis=2))
    # To first order, the entropy of a mean is the mean of this.
    first_order = -(np.log(mean)[:, None] * proba).sum(2)
    np.testing.assert_allclose(first_order @ probability, entropy(mean, axis=1))
    check(total, first_order)


class Counting(nn.Module):
    """Dropout on the penultimate features, before them, or both; counts passes."""

    def __init__(self, inner=0.0, outer=0.5):
        super().__init__()
        self.body, self.inner = nn.Linear(4, 6), nn.Dropout(inner)
        self.head = nn.Sequential(nn.Dropout(outer, inplace=True), nn.Linear(6, 3))
        self.n_passes = 0

    def forward(self, x):
        self.n_passes += 1
        return self.head(torch.relu(self.inner(self.body(x))))


@pytest.mark.parametrize(("rates", "n_passes"), [((0, 0.5), 1), ((0.5, 0.5), 8), ((0.5, 0), 8)])
def test_dropout_of_features_alone_needs_one_pass(rates, n_passes, X):
    module = drawn(Counting(*rates))
    detector = MCDropout(module, n_samples=8, random_state=0).fit(X)
    module.n_passes = 0
    scores = detector.score_samples(X)
    assert module.n_passes == n_passes
    shared = skood.share_forward_pass(X)
    skood.MSP(module).fit(shared)
    module.n_passes = 0
    np.testing.assert_array_equal(detector.score_samples(shared), scores)
    assert module.n_passes == (0 if n_passes == 1 else n_passes)
    detector._feature_dropout = None
    np.testing.assert_allclose(detector.score_samples(X), scores, rtol=1e-9)


@pytest.mark.parametrize("drop", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout])
def test_dropout_of_images_belongs_to_the_row(drop):
    images = np.random.default_rng(0).uniform(size=(35, 1, 6, 6)).astype(np.float32)
    layers = nn.Conv2d(1, 7, 3), nn.BatchNorm2d(7), drop(0.4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    module = nn.Sequential(*layers, nn.Flatten(), nn.Linear(7, 3))
    drawn(module).float().train()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    detector = MCDropout(module, 5, "mutual_information", random_state=0).fit(images)
    scores = detector.score_samples(images)
    assert (scores < 0).all()
    order = np.random.default_rng(1).permutation(32)
    np.testing.assert_array_equal(detector.score_samples(images[order]), scores[order])
    alone = np.concatenate([detector.score_samples(images[i : i + 1]) for i in range(35)])
    np.testing.assert_allclose(alone, scores, rtol=1e-4, atol=1e-7)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(part.training for part in module.modules())


def test_dropout_functions_of_a_densenet(digits):
    y = np.arange(60) % 3
    settings = {"max_epochs": 1, "batch_size": 20, "value_range": (0, 16), "random_state": 0}
    network = skood.DenseNet(10, 4, dropout=0.5, **settings).fit(digits[:60], y)
    detector = MCDropout(FrozenEstimator(network), 3, "mutual_information").fit(digits[:60])
    assert (detector.score_samples(digits[:5]) < 0).all()
    with pytest.raises(ValueError, match="DenseNet applies none"):
        MCDropout(skood.DenseNet(10, 4, **settings)).fit(digits[:60], y)


class Attention(nn.Module):
    def __init__(self, *, batch_first):
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.3, batch_first=batch_first)
        self.head = nn.Linear(8, 3)
        self.batch_axis = 0 if batch_first else 1

    def forward(self, x):
        tokens = self.embed(x[..., None])
        tokens = tokens if self.batch_axis == 0 else tokens.transpose(0, 1)
        return self.head(self.layer(tokens).mean(1 - self.batch_axis))


def test_the_batch_must_be_the_first_axis(X):
    module = Attention(batch_first=True)
    detector = MCDropout(module, 3, "mutual_information", random_state=0).fit(X)
    scores = detector.score_samples(X)
    assert (scores < 0).all()
    np.testing.assert_allclose(detector.score_samples(X[::-1])[::-1], scores, rtol=1e-4)
    message = r"shape \(4, 2, 8\) for a batch of 2, and of shape \(4, 3, 8\) for a batch of 3"
    with pytest.raises(ValueError, match=message):
        MCDropout(Attention(batch_first=False)).fit(X)


@pytest.mark.parametrize(
    "layer", [nn.Dropout(0.0), nn.Identity(), StochasticDepth(0.5, "row")], ids=repr
)
def test_a_network_without_dropout(layer, X):
    module = nn.Sequential(nn.Linear(4, 5), layer, nn.Linear(5, 3))
    with pytest.raises(ValueError, match=r"ConvNet\(dropout=0.2\).* or use DeepEnsemble"):
        MCDropout(module).fit(X)


def test_what_dropout_cannot_use(X):
    y = (X[:, 0] > 0).astype(int)
    with pytest.raises(TypeError, match="LogisticRegression does not have"):
        MCDropout(LogisticRegression()).fit(X, y)
    with pytest.raises(ValueError, match=r"n_samples=1; give at least 2"):
        MCDropout(linear(0.5), 1, "mutual_information").fit(X)


@pytest.mark.parametrize("score_type", SCORE_TYPES)
@pytest.mark.parametrize("scale", [0.0, 1e-310, 1e-160, 1e5, 1e30, 1e140, 1e200, 1e305])
def test_any_finite_data_give_scores_or_an_error_that_helps(scale, score_type, X):
    modules = [drawn(linear(0.5)), drawn(Functional()), drawn(nn.Linear(4, 3))]
    detectors = [MCDropout(module, 3, score_type) for module in modules[:2]]
    for detector in [*detectors, DeepEnsemble(modules, score_type=score_type)]:
        detector.fit(X)
        try:
            scores = detector.score_samples(X * scale)
        except ValueError as error:
            assert "rescale X" in str(error)
            assert scale > 1e100
        else:
            assert np.isfinite(scores).all()
            assert (scores <= 1e-15).all()


def test_default_classifiers_have_dropout(X, digits):
    for data in (X, digits[:40] / 16):
        y = np.arange(len(data)) % 2
        detector = MCDropout(n_samples=3, score_type="mutual_information", random_state=0)
        assert (detector.fit(data, y).score_samples(data) < 0).any()


def test_a_module_a_frozen_classifier_and_random_state(trained):
    _, X, y = trained
    network = skood.MLP((8,), dropout=0.4, max_epochs=5, random_state=0).fit(X, y)
    frozen = MCDropout(FrozenEstimator(network), random_state=0).fit(X)
    assert frozen.classifier_ is network
    scores = frozen.score_samples(X)
    own = MCDropout(clone(network), random_state=0).fit(X, y)
    np.testing.assert_allclose(own.score_samples(X), scores, rtol=1e-5)
    normalised = (X - network.mean_) / network.std_
    bare = MCDropout(network.module_, random_state=0).fit(normalised)
    np.testing.assert_allclose(bare.score_samples(normalised), scores, rtol=1e-3, atol=1e-6)
    other = MCDropout(FrozenEstimator(network), random_state=1).fit(X)
    assert not np.allclose(other.score_samples(X), scores)


def test_labels_of_mean_predictions(trained):
    _, X, y = trained
    names = np.array(["ant", "bee", "cow"])[y]
    dropout = MCDropout(skood.MLP((16,), dropout=0.2, max_epochs=20), random_state=0)
    ensemble = DeepEnsemble(skood.MLP((16,), max_epochs=20), n_members=2, random_state=0)
    for detector in (dropout, ensemble):
        detector.fit(X, names)
        assert detector.classes_.tolist() == ["ant", "bee", "cow"]
        accepted = detector.predict(X) == 1
        assert np.mean(detector.predict_class(X)[accepted] == names[accepted]) > 0.95
        assert set(detector.predict_class(X)[~accepted]) == {"-1"}
        np.testing.assert_allclose(detector.predict_proba(X).sum(1), 1)


@pytest.mark.parametrize("score_type", SCORE_TYPES)
@pytest.mark.parametrize("name", ["MCDropout", "DeepEnsemble"])
def test_rows_between_the_classes_score_lower(score_type, name, trained):
    _, X, y = trained
    settings = {"max_epochs": 20, "batch_size": 16, "precision": "fp32"}
    classifier = skood.MLP((16, 16), dropout=0.2, **settings)
    detector = getattr(skood, name)(classifier, 3, score_type, random_state=0).fit(X, y)
    between = np.random.default_rng(1).normal(0, 0.5, size=(60, 5)) + X.mean(0)
    scores = detector.score_samples(np.concatenate([X, between]))
    assert auroc(np.r_[y, -np.ones(60)], scores) > 0.75


class CountsFits(skood.MLP):
    fits = 0

    def fit(self, X, y, **kwargs):
        CountsFits.fits += 1
        return super().fit(X, y, **kwargs)


@pytest.mark.parametrize("score_type", SCORE_TYPES)
def test_ensemble_against_its_members(score_type, trained):
    _, X, y = trained
    members = [skood.MLP((8,), max_epochs=5), DecisionTreeClassifier(max_depth=2)]
    for classifier in (*members, make_pipeline(StandardScaler(), members[1]), members):
        ensemble = DeepEnsemble(classifier, 2, score_type, random_state=0).fit(X, y)
        proba = np.stack([member.predict_proba(X) for member in ensemble.estimators_], 1)
        expected = scores_of(proba)[score_type]
        np.testing.assert_allclose(ensemble.score_samples(X), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(ensemble.predict_proba(X), proba.mean(1), atol=1e-12)
        labels = np.where(ensemble.predict(X) == 1, proba.mean(1).argmax(1), -1)
        np.testing.assert_array_equal(ensemble.predict_class(X), labels)


def test_one_member_is_the_entropy_of_its_prediction(trained):
    network, X, _ = trained
    alone = DeepEnsemble([FrozenEstimator(network)]).fit(X)
    entropy_ = skood.Entropy(FrozenEstimator(network)).fit(X)
    np.testing.assert_allclose(alone.score_samples(X), entropy_.score_samples(X), atol=1e-12)
    assert alone.estimators_ == [network]


@pytest.mark.parametrize("own_seed", [None, 0])
def test_members_have_seeds_of_their_own(own_seed, trained):
    _, X, y = trained
    classifier = skood.MLP((8,), max_epochs=2, random_state=own_seed)
    proba = {}
    for n_members, random_state in [(None, 0), (2, 0), (2, 1)]:
        ensemble = DeepEnsemble(classifier, n_members, random_state=random_state).fit(X, y)
        proba[n_members, random_state] = [m.predict_proba(X) for m in ensemble.estimators_]
    assert len(proba[None, 0]) == 5
    for one, other in itertools.combinations(proba[None, 0] + proba[2, 1], 2):
        assert not np.allclose(one, other)
    np.testing.assert_array_equal(proba[2, 0], proba[None, 0][:2])
    inner = make_pipeline(StandardScaler(), DecisionTreeClassifier(max_features=1, random_state=0))
    first, second = DeepEnsemble(inner, 2, random_state=0).fit(X, y).estimators_
    assert first[-1].random_state != second[-1].random_state


def test_memory_keeps_each_member(trained, tmp_path):
    _, X, y = trained
    CountsFits.fits = 0
    classifier = CountsFits((8,), max_epochs=2)
    kept = {"memory": str(tmp_path), "random_state": 0}
    small = DeepEnsemble(classifier, 2, **kept).fit(X, y)
    assert CountsFits.fits == 2
    large = DeepEnsemble(classifier, 4, **kept).fit(X, y)
    assert CountsFits.fits == 4
    for one, other in zip(small.estimators_, large.estimators_, strict=False):
        np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    DeepEnsemble([CountsFits((8,), max_epochs=2)] * 2, memory=str(tmp_path)).fit(X, y)
    assert CountsFits.fits == 6


@pytest.mark.parametrize("name", ["MCDropout", "DeepEnsemble"])
def test_a_search_over_the_score_trains_once_for_a_fold(name, trained, tmp_path):
    _, X, y = trained
    CountsFits.fits = 0
    classifier = CountsFits((8,), dropout=0.2, max_epochs=2)
    detector = getattr(skood, name)(classifier, memory=str(tmp_path), random_state=0)
    number = "n_samples" if name == "MCDropout" else "n_members"
    search = GridSearchCV(
        detector,
        {"score_type": SCORE_TYPES, number: [2, 3]},
        scoring=skood.get_ood_scorer("auroc"),
        cv=skood.OODSplit(2, random_state=0),
        refit=False,
    )
    outliers = np.random.default_rng(1).normal(size=(30, 5)) + 2
    search.fit(np.concatenate([X, outliers]), np.r_[y, -np.ones(30, dtype=int)])
    assert CountsFits.fits == (2 if name == "MCDropout" else 2 * 3)
    assert len({tuple(search.cv_results_["mean_test_score"])}) == 1
    assert len(set(search.cv_results_["mean_test_score"])) == 4


def test_modules_in_a_list_are_held_and_not_copied(X, monkeypatch):
    modules = [drawn(nn.Linear(4, 3), seed) for seed in range(3)]
    given = [modules[0], FrozenEstimator(modules[1]), skood.PretrainedClassifier(modules[2])]
    ensemble = DeepEnsemble(given)
    assert given[0] is modules[0]
    assert not get_tags(ensemble).target_tags.required
    for copy in (ensemble, clone(ensemble), clone(DeepEnsemble()).set_params(classifier=given)):
        assert [member.module for member in copy.classifier] == modules
    assert joblib.hash(clone(ensemble)) == joblib.hash(ensemble)
    scores = ensemble.fit(X).score_samples(X)
    proba = softmax([X @ m.weight.detach().numpy().T + m.bias.detach().numpy() for m in modules], 2)
    np.testing.assert_allclose(scores, scores_of(proba.swapaxes(0, 1))["entropy"], rtol=1e-9)
    restored = pickle.loads(pickle.dumps(ensemble))
    np.testing.assert_array_equal(restored.score_samples(X), scores)
    grid = {"n_members": [2, 3], "score_type": SCORE_TYPES}
    monkeypatch.setattr(skood.MLP, "fit", lambda *args, **kwargs: pytest.fail("trained"))
    search = GridSearchCV(
        ensemble, grid, scoring=lambda detector, X, y=None: detector.score_samples(X).mean(), cv=2
    ).fit(X)
    assert len(set(search.cv_results_["mean_test_score"])) == 4


def test_members_share_passes(X):
    modules = [drawn(Counting(), seed) for seed in range(2)]
    ensemble = DeepEnsemble(modules).fit(X)
    # Each is tried twice.
    assert [module.n_passes for module in modules] == [3, 3]
    shared = skood.share_forward_pass(X)
    ensemble.score_samples(shared)
    ensemble.predict_proba(shared)
    skood.Energy(modules[0]).fit(shared)
    assert [module.n_passes for module in modules] == [6, 4]


def test_a_list_of_trained_and_untrained_members(trained):
    network, X, y = trained
    members = [FrozenEstimator(network), skood.MLP((8,), max_epochs=2), LogisticRegression()]
    ensemble = DeepEnsemble(members, random_state=0)
    assert get_tags(ensemble).target_tags.required
    with pytest.raises(ValueError, match="DeepEnsemble requires y to be passed"):
        ensemble.fit(X)
    ensemble.fit(X, y)
    assert ensemble.estimators_[0] is network
    assert not hasattr(members[1], "module_")
    assert clone(ensemble).classifier[0] is members[0]


def fitted_regression():
    return LogisticRegression().fit(np.eye(5), [0, 0, 1, 1, 2])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classifier": skood.PretrainedClassifier(nn.Linear(5, 3))}, "already trained"),
        ({"classifier": FrozenEstimator(fitted_regression())}, "already trained"),
        ({"classifier": []}, "a list of 0 members"),
        ({"classifier": [nn.Linear(5, 3)], "n_members": 2}, "a list of 1 members, and n_members=2"),
        ({"classifier": [nn.Linear(5, 3), "mlp"]}, "a list with 'mlp'"),
        ({"classifier": GaussianNB()}, "GaussianNB has no random_state"),
        ({"classifier": [nn.Linear(5, 3), nn.Linear(5, 2)]}, r"\[0, 1, 2\], member 2 \[0, 1\]"),
        ({"n_members": 1, "score_type": "mutual_information"}, "n_members=1; give at least 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_errors_of_the_ensemble(params, message, trained):
    _, X, y = trained
    with pytest.raises(ValueError, match=message):
        DeepEnsemble(**params).fit(X, y)


def test_classes_in_another_order_are_other_classes(X):
    named = [
        skood.PretrainedClassifier(nn.Linear(4, 2), classes=classes)
        for classes in (["ant", "bee"], ["bee", "ant"])
    ]
    with pytest.raises(ValueError, match=r"member 1 \['ant', 'bee'\], member 2 \['bee', 'ant'\]"):
        DeepEnsemble(named).fit(X)
