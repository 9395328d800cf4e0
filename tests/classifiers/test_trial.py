"""Any network, tried on the first items: what it takes, and in which form."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

import skood
from skood.classifiers import PretrainedClassifier

RNG = np.random.default_rng(0)


def made(*layers):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*(layer() for layer in layers)).eval()


def proba(module, x):
    with torch.no_grad():
        return softmax(module(x).double().numpy(), axis=1)


def conv(n):
    kind, pool = {
        1: (nn.Conv1d, nn.AdaptiveAvgPool1d),
        2: (nn.Conv2d, nn.AdaptiveAvgPool2d),
        3: (nn.Conv3d, nn.AdaptiveAvgPool3d),
    }[n]
    ends = nn.ReLU, lambda: pool(1), nn.Flatten, lambda: nn.Linear(6, 3)
    return made(lambda: kind(2, 6, 3), *ends)


class Recurrent(nn.Module):
    def __init__(self, *, batch_first):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.head = nn.LSTM(5, 6, batch_first=batch_first), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


ITEMS = {
    "signals": (conv(1), RNG.normal(size=(20, 2, 30))),
    "images": (conv(2), RNG.normal(size=(20, 2, 9, 8))),
    "volumes": (conv(3), RNG.normal(size=(20, 2, 5, 6, 7))),
    "sequences": (Recurrent(batch_first=True).eval(), RNG.normal(size=(20, 7, 5))),
    "rows": (made(lambda: nn.Linear(4, 3)), RNG.normal(size=(20, 4))),
    "five axes": (
        made(nn.Flatten, lambda: nn.Linear(32, 3)),
        RNG.normal(size=(20, 2, 2, 2, 2, 2)),
    ),
    "token ids": (
        made(lambda: nn.Embedding(50, 4), nn.Flatten, lambda: nn.Linear(24, 3)),
        RNG.integers(0, 50, (20, 6)),
    ),
    "bags of token ids": (
        made(lambda: nn.EmbeddingBag(50, 4), lambda: nn.Linear(4, 3)),
        RNG.integers(0, 50, (20, 6)),
    ),
}


@pytest.mark.parametrize("name", ITEMS)
def test_items_reach_the_module_in_their_shape(name):
    module, X = ITEMS[name]
    X = X.astype(np.float32) if X.dtype.kind == "f" else X
    detector = skood.MSP(module).fit(X)
    np.testing.assert_allclose(
        detector.classifier_.predict_proba(X), proba(module, torch.from_numpy(X)), atol=1e-6
    )
    for data in (torch.from_numpy(X), torch.utils.data.TensorDataset(torch.from_numpy(X))):
        np.testing.assert_allclose(
            detector.score_samples(data), detector.score_samples(X), rtol=1e-6
        )
    for other in (skood.KNN(module, n_neighbors=3), skood.ViM(module)):
        scores = other.fit(X).score_samples(X)
        assert np.isfinite(scores).all()
        # One item costs one, and its score is the same.
        np.testing.assert_allclose(other.score_samples(X[4:5]), scores[4:5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, np.uint8, np.int64])
def test_whole_numbers_stay_whole_for_an_embedding(dtype):
    module, ids = ITEMS["token ids"]
    expected = proba(module, torch.from_numpy(ids))
    given = skood.MSP(module).fit(ids.astype(dtype)).classifier_.predict_proba(ids.astype(dtype))
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_whole_numbers_become_floats_for_other_layers():
    module, _ = ITEMS["rows"]
    rows = RNG.integers(-9, 9, (20, 4))
    expected = proba(module, torch.from_numpy(rows).float())
    np.testing.assert_allclose(PretrainedClassifier(module).predict_proba(rows), expected, 1e-5)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (ITEMS["token ids"][1].astype(float), r"whole numbers from 0 to 49: give them as integers"),
        (ITEMS["token ids"][1] + 40, r"Embedding|index out of range"),
    ],
)
def test_ids_that_the_module_does_not_take(X, message):
    with pytest.raises(ValueError, match=message):
        skood.MSP(ITEMS["token ids"][0]).fit(X)


@pytest.mark.parametrize("detector", [skood.ODIN, skood.IODIN, skood.AdaSCALE])
def test_whole_numbers_have_no_gradient(detector):
    module, ids = ITEMS["token ids"]
    with pytest.raises(
        ValueError, match="needs a gradient by the input, but X holds whole numbers"
    ):
        detector(module).fit(ids)


def test_gradients_reach_neurons_behind_token_ids():
    module, ids = ITEMS["token ids"]
    assert np.isfinite(skood.NAC(module).fit(ids).score_samples(ids)).all()


GREY = RNG.random((20, 8, 8)).astype(np.float32)
CONVOLUTION = nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)


@pytest.mark.parametrize(
    ("module", "as_given"),
    [
        (nn.Sequential(*CONVOLUTION), False),
        (nn.Sequential(nn.Unflatten(1, (1, 8)), *CONVOLUTION), True),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), True),
    ],
)
def test_grey_images_with_or_without_a_channel(module, as_given):
    x = torch.from_numpy(GREY)
    detector = skood.MSP(module).fit(GREY)
    assert detector.classifier_.reading_.as_given is as_given
    np.testing.assert_allclose(
        detector.classifier_.predict_proba(GREY),
        proba(module.eval(), x if as_given else x[:, None]),
        atol=1e-6,
    )


def test_a_batch_that_is_not_the_first_axis():
    X = ITEMS["sequences"][1].astype(np.float32)
    module = Recurrent(batch_first=False)
    with pytest.raises(ValueError, match=r"puts out different values for the same items|batch of"):
        skood.MSP(module).fit(X)


class TestHalfPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_outputs(self, dtype):
        module = conv(2).to(dtype)
        X = ITEMS["images"][1].astype(np.float32)
        expected = proba(module, torch.from_numpy(X).to(dtype))
        classifier = skood.MSP(module).fit(X).classifier_
        np.testing.assert_allclose(classifier.predict_proba(X), expected, atol=1e-2)
        assert classifier.transform(X).dtype == np.float32

    def test_arrays(self):
        rows = RNG.normal(size=(60, 5)).astype(np.float16)
        for detector in (skood.KNN(n_neighbors=3), skood.Mahalanobis(), skood.GMM(), skood.NECO()):
            np.testing.assert_array_equal(
                detector.fit(rows).score_samples(rows),
                detector.fit(rows.astype(np.float32)).score_samples(rows.astype(np.float32)),
            )

    def test_large_features(self):
        """The square of 300 is beyond float16."""
        rows = (300 * RNG.normal(size=(60, 5))).astype(np.float16)
        assert np.isfinite(skood.KNN(n_neighbors=3).fit(rows).score_samples(rows)).all()

    def test_perturbations_behind_a_temperature(self):
        class Divided(nn.Sequential):
            def forward(self, x):
                return super().forward(x) / 0.3

        module = Divided(*dense()).bfloat16()
        for detector in (skood.ODIN(module), skood.NAC(module), skood.AdaSCALE(module)):
            assert np.isfinite(detector.fit(ROWS).score_samples(ROWS)).all()

    @pytest.mark.filterwarnings("ignore:X has pixels:UserWarning")
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_perturbations_are_made_in_float32(self, dtype):
        """A step of .0014 is below the resolution of half precision."""
        module = conv(2).to(dtype)
        X = ITEMS["images"][1].astype(np.float32)
        exact = skood.ODIN(conv(2).to(dtype).float()).fit(X).score_samples(X)
        np.testing.assert_array_equal(skood.ODIN(module).fit(X).score_samples(X), exact)
        assert next(module.parameters()).dtype == dtype


ROWS = RNG.normal(size=(40, 8)).astype(np.float32)


def dense():
    return made(lambda: nn.Linear(8, 16), nn.ReLU, lambda: nn.Linear(16, 3))


CONVERTED = {
    "scripted": lambda: torch.jit.script(dense()),
    "traced": lambda: torch.jit.trace(dense(), torch.zeros(2, 8)),
    "frozen": lambda: torch.jit.freeze(torch.jit.script(dense())),
    "exported": lambda: torch.export.export(
        dense(), (torch.zeros(4, 8),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    ),
}


@pytest.fixture(scope="module", params=CONVERTED)
def converted(request):
    return CONVERTED[request.param]()


class TestConverted:
    def test_logits(self, converted):
        for name in ("MSP", "MaxLogit", "Energy", "Entropy", "GEN", "KLMatching", "ODIN"):
            detector = getattr(skood, name)
            expected = detector(dense()).fit(ROWS).score_samples(ROWS)
            scores = detector(converted).fit(ROWS).score_samples(ROWS)
            np.testing.assert_allclose(scores, expected, rtol=1e-5)

    def test_features(self, converted):
        """Its layers cannot be seen, so that it may be an encoder or a classifier."""
        for detector in (skood.KNN, skood.ViM, skood.NNGuide):
            message = "since the layers of a scripted or exported network are hidden"
            with pytest.raises(ValueError, match=message):
                detector(converted).fit(ROWS)
        extractor = skood.FeatureExtractor(converted)
        scores = skood.KNN(extractor, n_neighbors=3).fit(ROWS).score_samples(ROWS)
        assert np.isfinite(scores).all()

    @pytest.mark.parametrize("name", ["Gram", "LayerMahalanobis", "RankFeat"])
    def test_layers(self, converted, name):
        with pytest.raises(ValueError, match=r"no inner layer|no module"):
            getattr(skood, name)(converted).fit(ROWS)

    def test_pickle(self, converted):
        detector = skood.MSP(converted).fit(ROWS)
        restored = pickle.loads(pickle.dumps(detector))
        np.testing.assert_array_equal(restored.score_samples(ROWS), detector.score_samples(ROWS))
        assert joblib.hash(detector) == joblib.hash(detector)


class TestExportedForOneBatchSize:
    def test_is_given_this_size(self):
        program = torch.export.export(dense(), (torch.zeros(4, 8),))
        with pytest.raises(ValueError, match=r"one batch size, .*batch_size="):
            skood.MSP(program).fit(ROWS)
        expected = skood.MSP(dense()).fit(ROWS).score_samples(ROWS)
        detector = skood.MSP(PretrainedClassifier(program, batch_size=4)).fit(ROWS)
        for n in (40, 1, 6):
            np.testing.assert_allclose(detector.score_samples(ROWS[:n]), expected[:n], rtol=1e-6)

    def test_its_module_does_not_pickle(self):
        program = torch.export.export(dense(), (torch.zeros(4, 8),))
        with pytest.raises(pickle.PicklingError, match="use the ExportedProgram itself"):
            pickle.dumps(PretrainedClassifier(program.module()))


class TestQuantised:
    """Dynamic quantisation takes its scale from the whole batch: items are run one by one."""

    @pytest.fixture
    def module(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return self.quantised()

    def quantised(self):
        return torch.ao.quantization.quantize_dynamic(dense(), {nn.Linear})

    def test_scores_belong_to_the_row(self, module):
        for detector in (skood.MSP(module), skood.KNN(module, n_neighbors=3)):
            scores = detector.fit(ROWS).score_samples(ROWS)
            alone = [detector.score_samples(ROWS[i : i + 1])[0] for i in range(5)]
            np.testing.assert_array_equal(scores[:5], alone)

    def test_features_without_weights(self, module):
        """The head is seen, but its weights are packed."""
        assert skood.KNN(module, n_neighbors=3).fit(ROWS).features_.reading_.n_features == 16
        with pytest.raises(ValueError, match="'2' is not a linear map of its input"):
            skood.ViM(module).fit(ROWS)

    @pytest.mark.parametrize("detector", [skood.ODIN, skood.NAC])
    def test_gradients(self, module, detector):
        with pytest.raises(ValueError, match="passes no gradient back from its logits"):
            detector(module).fit(ROWS)


def test_batch_size():
    module, sizes = dense(), []
    module.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    detector = skood.MSP(PretrainedClassifier(module, batch_size=16)).fit(ROWS)
    sizes.clear()
    detector.score_samples(ROWS)
    assert sizes == [16, 16, 16] or sizes == [16, 16, 8]
    assert max(sizes) == 16
