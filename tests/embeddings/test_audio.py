"""Features of waveforms: pooling without padding, and the sampling rate."""

import numpy as np
import pytest
import torch
from torch import nn

import skood
from skood.embeddings import AudioExtractor

RATE = 100


class Processor:
    """Pads waveforms with zeros, as a feature extractor of transformers."""

    sampling_rate = RATE
    return_attention_mask = True

    def __call__(self, waves, sampling_rate, padding=False, return_tensors=None, **_):
        assert sampling_rate == RATE
        assert padding is True
        length = max(map(len, waves))
        mask = np.array([[1] * len(w) + [0] * (length - len(w)) for w in waves])
        values = np.array([np.append(w, np.zeros(length - len(w))) for w in waves], np.float32)
        return {"input_values": values, "attention_mask": mask}


class Frames(nn.Module):
    """A frame of every five samples, and none of a rest."""

    reads_mask = False

    def _get_feature_vector_attention_mask(self, n_frames, mask):
        return torch.arange(n_frames)[None] < (mask.sum(1) // 5)[:, None]

    def forward(self, input_values, attention_mask=None):
        n = input_values.shape[1] // 5
        return {"last_hidden_state": input_values[:, : 5 * n].unflatten(1, (n, 5))}


class Output(dict):
    __getattr__ = dict.__getitem__


class Network(Frames):
    def forward(self, input_values, attention_mask=None):
        return Output(super().forward(input_values, attention_mask))


@pytest.fixture
def extractor():
    return AudioExtractor(Network(), Processor(), RATE)


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(0)
    return [rng.normal(size=n) for n in rng.integers(10, 60, 40)]


def frames(wave):
    return wave[: len(wave) // 5 * 5].reshape(-1, 5)


@pytest.mark.parametrize(
    ("pooling", "want"),
    [
        ("mean", lambda rows: rows.mean(0)),
        ("max", lambda rows: rows.max(0)),
        ("cls", lambda rows: rows[0]),
        ("last", lambda rows: rows[-1]),
    ],
)
def test_pooling_without_padding(extractor, waves, pooling, want):
    features = extractor.set_params(pooling=pooling).fit(waves).transform(waves)
    np.testing.assert_allclose(features, [want(frames(w)) for w in waves], rtol=1e-5, atol=1e-6)


def test_every_form_of_x(extractor, waves):
    want = extractor.transform(waves)
    for X in (
        [torch.from_numpy(wave) for wave in waves],
        [wave[None] for wave in waves],
        [{"array": wave, "sampling_rate": RATE} for wave in waves],
    ):
        np.testing.assert_allclose(extractor.transform(X), want, rtol=1e-6)
    detector = skood.KNN(extractor, n_neighbors=2)
    assert np.isfinite(detector.fit(waves).score_samples(waves)).all()
    rows = np.stack([wave[:10] for wave in waves])
    np.testing.assert_allclose(
        extractor.transform(rows), extractor.transform(list(rows)), rtol=1e-6
    )
    assert np.isfinite(detector.fit(rows).score_samples(rows)).all()


def test_a_network_that_reads_padding(waves):
    class Normalised(Network):
        def forward(self, input_values, attention_mask=None):
            return super().forward(input_values / input_values.abs().mean(1, keepdim=True))

    extractor = AudioExtractor(Normalised(), Processor(), RATE)
    with pytest.raises(ValueError, match=r"depend on padding.*batch_size=1"):
        extractor.fit(waves)
    assert extractor.set_params(batch_size=1).fit(waves).transform(waves).shape == (40, 5)


def test_the_mask_is_an_input_only_where_the_network_takes_it(waves):
    seen = []

    class Noting(Network):
        def forward(self, input_values, attention_mask=None):
            seen.append(attention_mask)
            return super().forward(input_values)

    processor = Processor()
    AudioExtractor(Noting(), processor, RATE).transform(waves)
    assert seen[0] is not None
    seen.clear()
    processor.return_attention_mask = False
    AudioExtractor(Noting(), processor, RATE).transform(waves)
    assert seen[0] is None


def test_unknown_frames(waves):
    class Odd(nn.Module):
        def forward(self, input_values, attention_mask):
            return Output(last_hidden_state=input_values[:, :7, None])

    with pytest.raises(ValueError, match=r"makes 7 tokens of .* inputs.*batch_size=1"):
        AudioExtractor(Odd(), Processor(), RATE).transform(waves)


def test_long_waveforms(extractor, waves):
    extractor.processor.n_samples = 50
    with pytest.raises(ValueError, match=r"has 5\d samples.*at most 50.*0.5 seconds.*truncation"):
        extractor.transform(waves)
    features = extractor.set_params(truncation=True).transform(waves)
    want = [frames(wave[:50]).mean(0) for wave in waves]
    np.testing.assert_allclose(features, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ([np.ones(9), np.ones(9, np.int16)], r"X\[1\] has dtype int16.*32768"),
        ([np.ones((2, 9))], r"X\[0\] has shape \(2, 9\).*one channel"),
        ([np.ones(0)], r"X\[0\] has shape \(0,\)"),
        ([np.full(9, np.nan)], r"X\[0\] contains NaN"),
        (["sound.wav"], r"X\[0\] is of type str.*scipy.io.wavfile"),
        ([{"array": np.ones(9), "sampling_rate": 8}], r"X\[0\] has 8 samples in a second.*100"),
        ({"input_values": np.ones((2, 9))}, "a dict of fields"),
    ],
)
def test_bad_items(extractor, X, said):
    with pytest.raises(ValueError, match=said):
        extractor.transform(X)


def test_another_sampling_rate(waves):
    said = (
        r"sampling_rate=44100, but the network was trained on 100.*resample_poly\(x, 100, 44100\)"
    )
    with pytest.raises(ValueError, match=said):
        AudioExtractor(Network(), Processor(), 44_100).transform(waves)
