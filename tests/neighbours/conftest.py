"""Tiny networks and items, and comparisons of a network with what is read from it."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

import skood
from skood import FeatureExtractor, PretrainedClassifier

# Covariances of more features take seconds.
_WIDE = 128


def _rows(X, rows):
    return {name: X[name][rows] for name in X} if hasattr(X, "keys") else X[rows]


def _close(got, want, tolerance):
    """Compare with the largest value, so that zeros need not be exact."""
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(1e-3, np.abs(want).max()))


@pytest.fixture(scope="session")
def stir():
    """Draw all weights of a network anew, so that its output depends on every layer and item."""

    def stirred(module, seed=0):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                if parameter.ndim > 1:
                    fan_in = parameter.numel() / len(parameter)
                    parameter.copy_(noise * (2 / fan_in) ** 0.5)
                else:
                    parameter.add_(0.1 * noise)
                    parameter.clamp_(min=-0.5)
                    # Layer scales begin at 1e-6.
                    parameter[parameter.abs() < 1e-4] = 1.0
            for name, buffer in module.named_buffers():
                if name.endswith("running_mean"):
                    buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        return module.eval()

    return stirred


@pytest.fixture(scope="session")
def build(stir):
    """Make a network by a function, without a change of torch's global generator."""

    def built(make):
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # What libraries say of their own defaults.
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            return stir(make())

    return built


@pytest.fixture(scope="session")
def images():
    """Make images of unlike brightness and grain, shape (n, 3, size, size), float32."""

    def make(size=32, n=20):
        rng = np.random.default_rng(0)
        grain = rng.normal(size=(n, 3, size, size)) * rng.uniform(0.1, 2, (n, 1, 1, 1))
        return (grain + rng.normal(size=(n, 3, 1, 1))).astype(np.float32)

    return make


@pytest.fixture(scope="session")
def tokens():
    """Make token ids as a tokenizer pads them: 0 is padding, and every item has its length."""

    def make(n=30, length=12, n_tokens=50, pad=0, side="right"):
        rng = np.random.default_rng(0)
        ids = np.full((n, length), pad)
        mask = np.zeros((n, length), dtype=np.int64)
        for i in range(n):
            # At most 12, so that the same items come at any padded length.
            n_real = int(rng.integers(3, 13))
            where = slice(n_real) if side == "right" else slice(length - n_real, None)
            # The two last tokens mark the beginning and the end.
            ids[i, where] = [n_tokens - 2, *rng.integers(1, n_tokens - 2, n_real - 2), n_tokens - 1]
            mask[i, where] = 1
        return {"input_ids": ids, "attention_mask": mask}

    return make


@pytest.fixture(scope="session")
def run():
    """Return what a network puts out by itself, through a function of it and of X, in float64."""

    def ran(module, X, function):
        module.eval()
        with torch.no_grad():
            if hasattr(X, "keys"):
                x = {name: torch.as_tensor(values) for name, values in X.items()}
            else:
                x = torch.as_tensor(X)
            found = function(module, x)
        return found.double().flatten(1).numpy()

    return ran


@pytest.fixture(scope="session")
def check_classifier():
    """Compare probabilities, features, weights and scores with the network's own."""

    def check(module, X, logits, features, tolerance=1e-5):
        if logits.shape[1] == 1:
            logits = np.hstack([0 * logits, logits])
        # The comparison says something only where items differ.
        assert np.ptp(logits, axis=0).max() > 0.01 * np.abs(logits).max()
        msp = skood.MSP(module).fit(X)
        proba = softmax(logits, axis=1)
        np.testing.assert_allclose(
            msp.classifier_.predict_proba(X), proba, rtol=0, atol=max(1e-5, tolerance)
        )
        np.testing.assert_allclose(
            msp.score_samples(X), proba.max(1), rtol=0, atol=max(1e-5, tolerance)
        )
        decision = msp.classifier_.decision_function(X)
        if decision.ndim == 1:
            logits = logits[:, 1:] - logits[:, :1]
            decision = decision[:, None]
        _close(decision, logits, tolerance)

        knn = skood.KNN(module, n_neighbors=5).fit(X)
        assert isinstance(knn.features_, PretrainedClassifier)
        _close(knn.features_.transform(X), features, tolerance)
        weight, bias = msp.classifier_.network().head
        made = features @ weight.T + bias
        if made.shape[1] == 2 and logits.shape[1] == 1:
            made = made[:, 1:] - made[:, :1]
        _close(made, logits, 10 * tolerance)

        detectors = [msp, knn, skood.ReAct(module).fit(X)]
        if features.shape[1] <= _WIDE:
            detectors.append(skood.ViM(module, n_components=4).fit(X))
        for detector in detectors:
            scores = detector.score_samples(X)
            assert np.isfinite(scores).all()
            alone = detector.score_samples(_rows(X, slice(3, 4)))
            atol = 10 * tolerance * np.abs(scores).max()
            np.testing.assert_allclose(alone, scores[3:4], rtol=0, atol=atol)

    return check


@pytest.fixture(scope="session")
def check_encoder():
    """Compare features, in a detector, alone and in a Pipeline, with the network's own."""

    def check(module, X, embedding, tolerance=1e-5, output=None):
        assert np.ptp(embedding, axis=0).max() > 0.01 * np.abs(embedding).max()
        extractor = FeatureExtractor(module, output)
        features = extractor.fit(X).transform(X)
        _close(features, embedding, tolerance)
        names = [f"featureextractor{i}" for i in range(embedding.shape[1])]
        assert list(extractor.get_feature_names_out()) == names
        frame = FeatureExtractor(module, output).set_output(transform="pandas").fit_transform(X)
        assert list(frame.columns) == names
        np.testing.assert_array_equal(frame.to_numpy(), features)

        # "auto" normalises features of a network, but not rows that a step before made of them.
        detectors = [skood.KNN(n_neighbors=5, normalize=True)]
        if embedding.shape[1] <= _WIDE:
            detectors += [skood.Mahalanobis(normalize=True), skood.GMM()]
        for on_rows in detectors:
            piped = make_pipeline(FeatureExtractor(module, output), on_rows).fit(X)
            detector = clone(on_rows).set_params(features=module if output is None else extractor)
            with warnings.catch_warnings():
                # Whether the output is a feature or logits, nobody can tell from a bare module.
                warnings.filterwarnings("ignore", "no layer of .* is taken for the feature")
                detector.fit(X)
            _close(detector.features_.transform(X), embedding, tolerance)
            scores = detector.score_samples(X)
            assert np.isfinite(scores).all()
            np.testing.assert_allclose(piped.score_samples(X), scores, rtol=1e-6)
            if tolerance <= 1e-5:
                alone = detector.score_samples(_rows(X, slice(3, 4)))
                atol = 1e-4 * np.abs(scores).max()
                np.testing.assert_allclose(alone, scores[3:4], rtol=0, atol=atol)

    return check


@pytest.fixture(scope="session")
def translations():
    """Return a table of docs/user_guide/migrating.rst: (theirs, ours, what is equal) per line."""
    page = (Path(__file__).parents[2] / "docs" / "user_guide" / "migrating.rst").read_text()

    def of(title):
        table = page.partition(f".. list-table:: {title}")[2].partition("\n\n\n")[0]
        table = re.split(r"\n\n(?=\S)", table)[0]
        rows = re.findall(r"\* - ``(.+)``\n     - ``(.+)``\n     - (equal|same ranks)", table)
        # The first line has the names of the columns.
        assert len(rows) == table.count("* - ") - 1 > 0
        return rows

    return of


@pytest.fixture(scope="session")
def check_translation():
    """Compare our scores with theirs, where outliers are higher."""

    def check(theirs, ours, relation):
        theirs, ours = -np.asarray(theirs, dtype=np.float64), np.asarray(ours)
        assert np.ptp(ours) > 0
        if relation == "equal":
            _close(theirs, ours, 1e-4)
        else:
            # Rows whose scores differ by rounding may change places.
            assert spearmanr(theirs, ours).statistic > 1 - 1e-4
            assert np.abs(theirs - ours).max() > 1e-3 * np.abs(ours).max()

    return check


@pytest.fixture(scope="session")
def evaluated():
    """Make the object of an expression whose names are attributes of modules, the first first."""

    class Names(dict):
        def __init__(self, modules):
            self.modules = modules

        def __missing__(self, name):
            for module in self.modules:
                if hasattr(module, name):
                    return getattr(module, name)
            raise KeyError(name)

    return lambda expression, *modules: eval(expression, {}, Names(modules))
