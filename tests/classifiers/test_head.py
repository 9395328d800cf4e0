"""What a network says: its logits are its output, and its head is proved in value."""

import re
import warnings
import weakref
from collections import namedtuple
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit, softmax
from torch import nn
from torch.nn.utils import parametrizations

import skood
from skood.classifiers import PretrainedClassifier
from skood.classifiers._head import find_head

X = np.random.default_rng(0).normal(size=(80, 8)).astype(np.float32)
IMAGES = np.random.default_rng(1).random((40, 3, 9, 9)).astype(np.float32)

Named = namedtuple("Named", ["logits", "aux_logits"])


class Net(nn.Module):
    """Returns what a function makes of itself, its features and the outputs of its head."""

    def __init__(self, how, n_outputs=3):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        self.head = nn.Linear(16, n_outputs)
        self.aux, self.middle = nn.Linear(16, n_outputs), nn.Linear(16, 16)
        self.weight = nn.Parameter(torch.randn(n_outputs, 16))
        self.how = how

    def forward(self, x):
        h = self.body(x)
        return self.how(self, h, self.head(h))


def made_by(module, x=X):
    with torch.no_grad():
        return module.eval()(torch.from_numpy(x))


def features(module):
    with torch.no_grad():
        return module.body(torch.from_numpy(X)).numpy()


def check_logits(classifier, logits):
    """Its probabilities are those of the logits."""
    expected = softmax(logits.double().numpy(), axis=1)
    detector = skood.MSP(classifier).fit(X)
    np.testing.assert_allclose(detector.classifier_.predict_proba(X), expected, atol=1e-6)
    np.testing.assert_allclose(detector.score_samples(X), expected.max(1), atol=1e-6)


def check_head(classifier, expected, x=X):
    """Its features are as expected, and W and b make the logits of them."""
    fitted = PretrainedClassifier(**classifier.get_params(deep=False)).fit(x)
    np.testing.assert_allclose(fitted.transform(x), expected, atol=1e-6)
    weight, bias = fitted.network().head
    outputs = fitted.network().outputs(skood.share_forward_pass(x))
    np.testing.assert_allclose(expected @ weight.T + bias, outputs.logits, atol=1e-5)
    for detector in (skood.ViM(fitted), skood.KNN(fitted, n_neighbors=3)):
        assert np.isfinite(detector.fit(x).score_samples(x)).all()


HEADS = {
    "tensor": (lambda net, h, z: z, lambda out: out),
    "dict": (lambda net, h, z: {"features": h, "logits": z}, lambda out: out["logits"]),
    "object": (lambda net, h, z: SimpleNamespace(logits=z, h=h), lambda out: out.logits),
    "named tuple": (lambda net, h, z: Named(z, net.aux(h)), lambda out: out.logits),
    "tuple": (lambda net, h, z: (z, net.aux(h)), lambda out: out[0]),
    "list": (lambda net, h, z: [z, h], lambda out: out[0]),
    "tuple of object": (lambda net, h, z: ({"logits": z}, h), lambda out: out[0]["logits"]),
    "temperature": (lambda net, h, z: z / 0.2, lambda out: out),
    "in place": (lambda net, h, z: z.div_(0.2), lambda out: out),
    "negative": (lambda net, h, z: -z, lambda out: out),
    "gate": (lambda net, h, z: z + 0 * net.aux(h), lambda out: out),
    "keyword": (lambda net, h, z: net.head(input=h), lambda out: out),
    "after its own input": (lambda net, h, z: net.head(h), lambda out: out),
    "pixels": (lambda net, h, z: z[:, :, None, None], lambda out: out.flatten(1)),
}


@pytest.mark.parametrize("name", HEADS)
def test_heads(name):
    how, pick = HEADS[name]
    module = Net(how)
    check_logits(module, pick(made_by(module)))
    check_head(PretrainedClassifier(module), features(module))


@pytest.mark.parametrize(
    ("output", "how"),
    [
        ("scores", lambda net, h, z: {"scores": z, "logits": net.aux(h)}),
        ("z", lambda net, h, z: SimpleNamespace(z=z, logits=net.aux(h))),
        (1, lambda net, h, z: (net.aux(h), z)),
        (-1, lambda net, h, z: [h, z]),
        (lambda out: out["inner"]["z"], lambda net, h, z: {"inner": {"z": z}}),
        (lambda out: out[:, :3], lambda net, h, z: torch.cat([z, h], 1)),
    ],
)
def test_output_says_otherwise(output, how):
    module = Net(how)
    with torch.no_grad():
        z = module.head(module.body(torch.from_numpy(X)))
    check_logits(PretrainedClassifier(module, output=output), z)
    check_head(PretrainedClassifier(module, output=output), features(module))


class TestFinalProbabilities:
    @pytest.mark.parametrize("scale", [1.0, 4.0])
    @pytest.mark.parametrize("link", [torch.softmax, torch.log_softmax])
    def test_of_classes(self, link, scale):
        module = Net(lambda net, h, z: link(scale * z, 1))
        with torch.no_grad():
            z = scale * module.head(module.body(torch.from_numpy(X)))
        check_logits(module, z)
        check_head(PretrainedClassifier(module), features(module))
        # Logits that were known up to a constant would have no energy.
        np.testing.assert_allclose(
            skood.Energy(module).fit(X).score_samples(X), torch.logsumexp(z, 1), atol=1e-4
        )

    def test_of_classes_without_a_head(self):
        """Their logarithms are logits, whose energy is 0."""
        module = Net(lambda net, h, z: torch.softmax(h @ net.weight.T, 1))
        proba = made_by(module).numpy()
        np.testing.assert_allclose(
            skood.MSP(module).fit(X).score_samples(X), proba.max(1), rtol=1e-5
        )
        with pytest.raises(
            ValueError, match=r"Energy reads logits, but .* gives only probabilities"
        ):
            skood.Energy(module).fit(X)
        with pytest.raises(ValueError, match="no layer of Net was found to make its logits"):
            skood.KNN(module).fit(X)

    def test_of_several_labels(self):
        module = Net(lambda net, h, z: torch.sigmoid(z))
        for detector in (skood.MSP(module), skood.Energy(module), skood.ViM(module)):
            with pytest.raises(ValueError, match=r"3 values from 0 to 1 .* multilabel=True"):
                detector.fit(X)
        assert skood.KNN(module, n_neighbors=3).fit(X).features_.reading_.n_features == 16

    def test_values_from_0_to_1_that_are_logits(self):
        module = Net(lambda net, h, z: torch.sigmoid(h @ net.weight.T))
        classifier = PretrainedClassifier(module, output=lambda out: out)
        check_logits(classifier, made_by(module))

    def test_rectified_logits_are_no_probabilities(self):
        module = Net(lambda net, h, z: 0.01 * F.relu(z))
        check_logits(module, made_by(module))


class TestOneLogit:
    @pytest.mark.parametrize(
        "how",
        [
            lambda net, h, z: z,
            lambda net, h, z: z[:, 0],
            lambda net, h, z: z / 0.1,
            lambda net, h, z: torch.sigmoid(z),
            lambda net, h, z: torch.sigmoid(z)[:, 0],
            lambda net, h, z: {"logits": torch.sigmoid(-z / 0.3)},
        ],
    )
    def test_is_that_of_the_second_of_two_classes(self, how):
        module = Net(how, n_outputs=1)
        out = made_by(module)
        out = (out["logits"] if isinstance(out, dict) else out).numpy().ravel()
        p = out if out.min() >= 0 and out.max() <= 1 else expit(out)
        detector = skood.MSP(module).fit(X)
        np.testing.assert_allclose(detector.score_samples(X), np.maximum(p, 1 - p), atol=1e-6)
        classifier = detector.classifier_
        assert classifier.classes_.tolist() == [0, 1]
        np.testing.assert_allclose(classifier.predict_proba(X), np.stack([1 - p, p], 1), atol=1e-6)
        np.testing.assert_array_equal(classifier.predict(X), (p > 0.5).astype(int))
        check_head(PretrainedClassifier(module), features(module))

    def test_without_a_head(self):
        module = Net(lambda net, h, z: h.sum(1))
        z = made_by(module).double().numpy()
        np.testing.assert_allclose(
            skood.Energy(module).fit(X).score_samples(X), np.logaddexp(0, z), rtol=1e-6
        )
        module = Net(lambda net, h, z: torch.sigmoid(h.sum(1)))
        with pytest.raises(ValueError, match=r"one value from 0 to 1 .* output=torch\.logit"):
            skood.MSP(module).fit(X)
        z = torch.logit(made_by(module)).double().numpy()
        classifier = PretrainedClassifier(module, output=torch.logit)
        np.testing.assert_allclose(
            skood.MSP(classifier).fit(X).score_samples(X), expit(abs(z)), rtol=1e-5
        )


NO_HEAD = {
    "low-rank adapter": lambda net, h, z: z + 0.1 * net.aux(h),
    "another bias": lambda net, h, z: z * 1 + torch.arange(3.0),
    "clipped": lambda net, h, z: z.clamp(-0.1, 0.1),
    "cosine": lambda net, h, z: F.normalize(h) @ F.normalize(net.weight).T * 10,
    "functional": lambda net, h, z: h @ net.weight.T,
    "two heads": lambda net, h, z: (z + net.aux(h)) / 2,
    "two views": lambda net, h, z: (net.head(net.middle(h)) + z) / 2,
    "chosen by the item": lambda net, h, z: torch.where(h[:, :1] > 0, z, net.aux(h)),
}


class TestNoHead:
    @pytest.mark.parametrize("name", NO_HEAD)
    def test_detectors_on_logits_work(self, name):
        module = Net(NO_HEAD[name])
        logits = made_by(module)
        check_logits(module, logits)
        for name in ("MaxLogit", "Energy", "Entropy", "GEN", "KLMatching", "ODIN"):
            detector = getattr(skood, name)(module).fit(X)
            assert np.isfinite(detector.score_samples(X)).all()

    @pytest.mark.parametrize("name", NO_HEAD)
    def test_weights_are_refused_with_the_candidates(self, name):
        message = (
            r"ViM reads the weights of the last layer, but no layer of Net was found to make its "
            r"logits. The candidates: .*'head' Linear\(16 -> 3\): .*Use a detector on logits"
        )
        with pytest.raises(ValueError, match=message):
            skood.ViM(Net(NO_HEAD[name])).fit(X)

    @pytest.mark.parametrize("name", sorted(set(NO_HEAD) - {"another bias", "clipped"}))
    def test_features_are_refused_with_the_candidates(self, name):
        for detector in (skood.KNN, skood.NNGuide):
            with pytest.raises(ValueError, match=r"penultimate features.*'head'.*features_from="):
                detector(Net(NO_HEAD[name])).fit(X)

    @pytest.mark.parametrize("features_from", ["body", "body.1", "callable"])
    def test_features_are_named(self, features_from):
        module = Net(lambda net, h, z: {"logits": z + 0.1 * net.aux(h), "h": h})
        if features_from == "callable":
            features_from = lambda out: out["h"]  # noqa: E731
        classifier = PretrainedClassifier(module, features_from=features_from)
        expected = features(module)
        np.testing.assert_allclose(classifier.transform(X), expected, atol=1e-6)
        for detector in (skood.KNN, skood.NNGuide):
            named = detector(classifier, n_neighbors=3).fit(X)
            assert np.isfinite(named.score_samples(X)).all()
        np.testing.assert_array_equal(
            skood.KNN(classifier, n_neighbors=3).fit(X).score_samples(X),
            skood.KNN(n_neighbors=3, normalize=True)
            .fit(classifier.transform(X))
            .score_samples(expected),
        )
        with pytest.raises(ValueError, match="ViM reads the weights"):
            skood.ViM(classifier).fit(X)

    def test_the_reasons(self):
        module = Net(lambda net, h, z: z + 0.1 * net.middle(h)[:, :3])
        with pytest.raises(ValueError, match="candidates") as raised:
            skood.ReAct(module).fit(X)
        text = str(raised.value)
        assert re.search(r"'head' Linear\(16 -> 3\): its output differs .* by up to 0\.\d+", text)
        assert "'aux' Linear(16 -> 3): does not run in the forward pass" in text
        assert "'middle' Linear(16 -> 16): puts out shape (7, 16), the network (7, 3)" in text


def test_input_of_the_head_that_is_changed_afterwards():
    """What is read after the pass is not what the head has read."""
    module = Net(lambda net, h, z: (lambda q: (net.head(q), q.zero_())[0])(h.clone()))
    check_logits(module, made_by(module))
    for detector in (skood.ViM, skood.KNN):
        with pytest.raises(ValueError, match=r"'head'.*: its input is changed in place afterwards"):
            detector(module).fit(X)


def test_features_named_before_a_head():
    """W and b belong to features only if they are the head's input."""
    module = Net(lambda net, h, z: net.head(net.middle(h)))
    check_head(
        PretrainedClassifier(module, features_from="middle"),
        module.middle(torch.from_numpy(features(module))).detach().numpy(),
    )
    classifier = PretrainedClassifier(module, features_from="body")
    np.testing.assert_allclose(classifier.transform(X), features(module), atol=1e-6)
    with pytest.raises(ValueError, match=r"'head'.*its input is not what features_from= names"):
        skood.ViM(classifier).fit(X)


@pytest.mark.parametrize(
    ("features_from", "message"),
    [
        ("neck", r"features_from='neck' is not a layer of Net; its layers are .*body\.0"),
        (lambda out: out.mean(), r"features_from= gives \(\) for a batch of 7"),
        (lambda out: None, r"features_from= gives .*NoneType.* for a batch of 7"),
        (lambda out: out[:, None], r"gives shape \(7, 1, 3\), a vector for each of 1 tokens"),
        ("aux", "the layer features_from='aux' runs 0 times in a pass"),
    ],
)
def test_features_that_are_none(features_from, message):
    classifier = PretrainedClassifier(Net(lambda net, h, z: z), features_from=features_from)
    with pytest.raises(ValueError, match=message):
        classifier.fit(X)


class Cosine(nn.Module):
    """A head of its own kind, which has a weight and is no linear map."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 16))

    def forward(self, h):
        return F.normalize(h) @ F.normalize(self.weight).T * 5


class TestKindsOfHeads:
    @pytest.mark.parametrize(
        "head",
        [
            nn.Linear(16, 3, bias=False),
            parametrizations.weight_norm(nn.Linear(16, 3)),
            parametrizations.spectral_norm(nn.Linear(16, 3)),
            nn.Sequential(nn.Unflatten(1, (16, 1, 1)), nn.Conv2d(16, 3, 1), nn.Flatten()),
            nn.Sequential(nn.Unflatten(1, (16, 1)), nn.Conv1d(16, 3, 1), nn.Flatten()),
        ],
        ids=lambda head: type(head).__name__,
    )
    def test_linear_ones(self, head):
        module = Net(lambda net, h, z: net.head(h))
        module.head = head
        check_logits(module, made_by(module))
        check_head(PretrainedClassifier(module), features(module))

    def test_one_that_is_no_linear_map(self):
        """Its input are the features, but there is no W."""
        module = Net(lambda net, h, z: z)
        module.head = Cosine()
        check_logits(module, made_by(module))
        np.testing.assert_allclose(
            PretrainedClassifier(module).transform(X), features(module), atol=1e-6
        )
        assert np.isfinite(skood.KNN(module, n_neighbors=3).fit(X).score_samples(X)).all()
        with pytest.raises(ValueError, match="candidates: 'head' is not a linear map of its input"):
            skood.ViM(module).fit(X)

    @pytest.mark.parametrize("pool", ["before", "after"])
    def test_convolution_of_one_pixel(self, pool):
        maps, head = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.Conv2d(8, 4, 1)
        ends = [nn.AdaptiveAvgPool2d(1), head] if pool == "before" else [head]
        ends += [nn.AdaptiveAvgPool2d(1)] if pool == "after" else []
        module = nn.Sequential(maps, *ends, nn.Flatten())
        expected = made_by(maps, IMAGES).mean((2, 3)).numpy()
        check_head(PretrainedClassifier(module), expected, IMAGES)
        proba = softmax(made_by(module, IMAGES).double().numpy(), axis=1)
        np.testing.assert_allclose(
            skood.MSP(module).fit(IMAGES).score_samples(IMAGES), proba.max(1), atol=1e-6
        )

    def test_convolution_before_a_nonlinearity(self):
        """Pooled after a rectifier, as in SqueezeNet, it is no linear head."""
        layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.ReLU()
        module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        classifier = PretrainedClassifier(module, output=lambda out: out, features_from="1")
        proba = softmax(made_by(module, IMAGES).double().numpy(), axis=1)
        np.testing.assert_allclose(
            skood.MSP(classifier).fit(IMAGES).score_samples(IMAGES), proba.max(1), atol=1e-6
        )
        expected = made_by(module[:2], IMAGES).mean((2, 3))
        np.testing.assert_allclose(classifier.transform(IMAGES), expected, atol=1e-6)

    @pytest.mark.parametrize("reduce", ["mean", "first", "last of each"])
    def test_tokens(self, reduce):
        """A head on all tokens, which are averaged, or of which one is taken."""
        tokens = np.random.default_rng(0).normal(size=(30, 5, 8)).astype(np.float32)

        class Tokens(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.body, self.head = nn.Sequential(nn.Linear(8, 16), nn.Tanh()), nn.Linear(16, 3)

            def chosen(self, values, x):
                if reduce == "mean":
                    return values.mean(1)
                last = (x[:, 0, 0].abs() * 2).long().clamp(max=4) if reduce != "first" else 0
                return values[torch.arange(len(x)), last]

            def forward(self, x):
                return self.chosen(self.head(self.body(x)), x)

        module, x = Tokens(), torch.from_numpy(tokens)
        with torch.no_grad():
            expected = module.chosen(module.body(x), x).numpy()
        check_head(PretrainedClassifier(module), expected, tokens)

    def test_a_layer_that_runs_twice(self):
        """Its last output is that of the network."""
        shared = nn.Linear(8, 8)
        module = nn.Sequential(shared, nn.ReLU(), shared)
        check_logits(module, made_by(module))
        check_head(PretrainedClassifier(module), made_by(module[:2]).numpy())


def test_outputs_of_other_layers_are_not_kept():
    """Those of a large network would fill the memory of a device."""
    # The output of the first layer is the input of the second.
    module = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    hidden = []
    module[0].register_forward_hook(lambda _, args, out: hidden.append(weakref.ref(out)))

    def run():
        out = module(torch.from_numpy(X))
        assert hidden[0]() is None
        return out

    with torch.no_grad():
        assert find_head(module, 3, run, lambda: None).head.name == "3"


def test_head_of_the_first_items_alone():
    """What follows it acts on items of another kind."""
    module = Net(lambda net, h, z: torch.where(h[:, :1] > 5, net.aux(h), z))
    detector = skood.KNN(module, n_neighbors=3).fit(0.1 * X)
    with pytest.raises(ValueError, match="'head' of Net makes the output of the first items of X"):
        detector.score_samples(100 * X)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda net, h, z: {"out": z}, r"Net returns a dict with 'out'; expected .*output='out'"),
        (
            lambda net, h, z: None,
            "Net returns a NoneType; expected a tensor, or one named 'logits'",
        ),
        (
            lambda net, h, z: z.argmax(1),
            r"puts out torch.int64 .*expected logits, which are floats",
        ),
        (lambda net, h, z: z.mean(), r"puts out shape \(\) for a batch of 8; expected logits"),
        (lambda net, h, z: z[:, None], r"puts out shape \(8, 1, 3\) for a batch of 8"),
        (lambda net, h, z: z.T, r"puts out shape \(3, 8\) for a batch of 8"),
        (
            lambda net, h, z: z[:, :, None, None].expand(-1, -1, 5, 4),
            r"shape \(8, 3, 5, 4\), logits .* for each of 5 x 4 pixels, as a segmentation network",
        ),
        (lambda net, h, z: F.dropout(z, 0.5), "different values for the same items in another"),
        (lambda net, h, z: z - z.mean(0), "different values for the same items in another"),
        (lambda net, h, z: z / 0, r"logits that are NaN or inf for 8 of the first 8 items"),
    ],
)
def test_outputs_that_are_refused(how, message):
    for detector in (skood.MSP, skood.ViM):
        with pytest.raises(ValueError, match=message):
            detector(Net(how)).fit(X)


@pytest.mark.parametrize("output", ["scores", 5])
def test_an_output_that_is_missing(output):
    module = Net(lambda net, h, z: {"logits": z, "h": h})
    with pytest.raises(ValueError, match=r"output=.* is not among what Net returns, a dict with"):
        skood.MSP(PretrainedClassifier(module, output=output)).fit(X)


def test_normalisation_by_the_batch():
    module = nn.Sequential(nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="batch normalisation without running statistics"):
        skood.MSP(module).fit(X)


def test_compiled_modules_are_read_as_they_were():
    module = Net(lambda net, h, z: z)
    compiled = torch.compile(module)
    np.testing.assert_array_equal(
        skood.ViM(compiled).fit(X).score_samples(X), skood.ViM(module).fit(X).score_samples(X)
    )


class TestEncoders:
    """A module whose output is the feature, given as it is."""

    @pytest.mark.parametrize(
        "encoder",
        [
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1)),
        ],
    )
    def test_of_images(self, encoder):
        expected = made_by(encoder, IMAGES).flatten(1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            detector = skood.KNN(encoder, n_neighbors=3).fit(IMAGES)
        np.testing.assert_allclose(detector.features_.transform(IMAGES), expected, atol=1e-6)
        for other in (skood.Mahalanobis, skood.GMM, skood.RelativeMahalanobis):
            assert np.isfinite(other(encoder).fit(IMAGES).score_samples(IMAGES)).all()

    @pytest.mark.parametrize("end", [nn.ReLU(), nn.Tanh(), nn.LayerNorm(4)])
    def test_that_ends_in_a_linear_layer_and_something(self, end):
        """It may be a classifier whose output is changed, so that a warning tells."""
        encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), end)
        with pytest.warns(UserWarning, match=r"output itself, 4 values .*FeatureExtractor\(module"):
            detector = skood.KNN(encoder, n_neighbors=3).fit(X)
        np.testing.assert_allclose(detector.features_.transform(X), made_by(encoder), atol=1e-6)

    def test_that_names_its_embedding(self):
        """An output object without logits belongs to an encoder."""
        module = Net(lambda net, h, z: SimpleNamespace(pooler_output=h, image_embeds=z))
        detector = skood.KNN(module, n_neighbors=3).fit(X)
        np.testing.assert_allclose(
            detector.features_.transform(X), made_by(module).image_embeds, atol=1e-6
        )

    def test_a_classifier_stays_one(self):
        """Settings say that the module was meant as a classifier."""
        encoder = nn.Sequential(nn.Linear(8, 16), nn.ReLU())
        with pytest.raises(ValueError, match="KNN reads penultimate features"):
            skood.KNN(PretrainedClassifier(encoder, classes=range(16))).fit(X)
