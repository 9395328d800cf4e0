"""Log-probabilities of texts, compared with a loop over tokens in numpy."""

import itertools
import pickle
import types
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

import skood
from skood import CausalLanguageModel, LikelihoodRatio, LogLikelihood, Typicality
from skood.density import _causal_network
from skood.density._token_sequences import windows

# Token 0 begins a text, and token 1 ends it.
N_TOKENS = 9
LETTERS = "?.abcdefg"
BOS, EOS = 0, 1


class Network(nn.Module):
    """Predicts a token from the mean of the vectors of the tokens before it and the last one."""

    def __init__(self, seed=0, n_tokens=N_TOKENS, impossible=None):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.vectors, self.first, self.last = (
            nn.Parameter(torch.tensor(rng.normal(size=(n_tokens, n_tokens)), dtype=torch.float32))
            for _ in range(3)
        )
        self.impossible = impossible

    def forward(self, input_ids, attention_mask=None):
        self.n_values = max(getattr(self, "n_values", 0), input_ids.numel())
        x = self.vectors[input_ids]
        n = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        logits = (x.cumsum(1) / n) @ self.first + x @ self.last
        if self.impossible is not None:
            logits[..., self.impossible] = -torch.inf
        return logits


def tokenizer(texts):
    return [[LETTERS.index(letter) for letter in text] for text in texts]


class Tokenizer:
    """As one of transformers, with left padding."""

    bos_token_id, eos_token_id = BOS, EOS

    def __init__(self, letters=LETTERS):
        self.letters = letters

    def get_vocab(self):
        return {letter: i for i, letter in enumerate(self.letters)}

    def convert_ids_to_tokens(self, ids):
        return [self.letters[i] for i in ids]

    def __call__(self, texts):
        length = max(map(len, texts))
        rows = [[self.letters.index(letter) for letter in text] for text in texts]
        return {
            "input_ids": [[0] * (length - len(row)) + row for row in rows],
            "attention_mask": [[0] * (length - len(row)) + [1] * len(row) for row in rows],
        }


def model(module=None, tokenizer=None, **settings):
    return CausalLanguageModel(
        Network() if module is None else module, tokenizer, **{"bos_token_id": BOS, **settings}
    )


def log_probabilities(network, ids):
    """Return log p of each token but the first, by a loop over tokens in float64."""
    vectors, first, last = (
        p.detach().double().numpy() for p in (network.vectors, network.first, network.last)
    )
    found = []
    for t in range(1, len(ids)):
        logits = vectors[ids[:t]].mean(0) @ first + vectors[ids[t - 1]] @ last
        if network.impossible is not None:
            logits[network.impossible] = -np.inf
        found.append(logits[ids[t]] - np.log(np.exp(logits).sum()))
    return np.array(found)


@pytest.fixture
def ids():
    rng = np.random.default_rng(0)
    return [rng.integers(2, N_TOKENS, n).tolist() for n in rng.integers(1, 40, 30)]


@pytest.fixture
def texts(ids):
    return ["".join(LETTERS[i] for i in row) for row in ids]


def padded(ids, side):
    length = max(map(len, ids))
    rows, masks = np.full((len(ids), length), 5), np.zeros((len(ids), length), int)
    for row, mask, own in zip(rows, masks, ids, strict=True):
        where = slice(len(own)) if side == "right" else slice(length - len(own), None)
        row[where], mask[where] = own, 1
    return {"input_ids": rows, "attention_mask": masks}


class TestValues:
    def test_sums_of_a_loop_over_tokens(self, ids):
        density = model().fit(ids)
        expected = [log_probabilities(density.module, [BOS, *row]) for row in ids]
        scores, positions = density.score_samples(ids), density.score_positions(ids)
        assert scores.dtype == np.float64
        np.testing.assert_allclose(scores, [v.sum() for v in expected], rtol=1e-6)
        for found, values in zip(positions, expected, strict=True):
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose([v.sum() for v in positions], scores, rtol=1e-12)
        assert density.score(ids) == pytest.approx(scores.mean())
        assert density.vocabulary_size_ == N_TOKENS

    def test_probabilities_sum_to_1(self):
        """Over all texts of a length, of tokens that can follow."""
        X = list(itertools.product(range(1, 5), repeat=3))
        network = Network(n_tokens=5, impossible=BOS)
        scores = model(network).score_samples(X)
        assert np.exp(scores).sum() == pytest.approx(1, rel=1e-6)
        # A text ends, or goes on with another token.
        ended = model(network, eos_token_id=1).score_samples([[2, 3]])
        going = model(network).score_samples([[2, 3, k] for k in (2, 3, 4)])
        whole = model(network).score_samples([[2, 3]])
        assert np.exp([*ended, *going]).sum() == pytest.approx(np.exp(whole[0]), rel=1e-6)
        assert np.isneginf(model(network).score_samples([[2, BOS, 2]])).all()

    def test_conventions(self, ids):
        network = Network()
        for row in ids[:5]:
            ended = model(network, eos_token_id=EOS)
            expected = log_probabilities(network, [BOS, *row, EOS])
            for given in (row, [*row, EOS], [BOS, *row], [BOS, *row, EOS]):
                np.testing.assert_allclose(ended.score_positions([given])[0], expected, atol=1e-5)
            first = model(network, bos_token_id=None).score_positions([[2, *row]])[0]
            assert first[0] == 0
            np.testing.assert_allclose(first[1:], log_probabilities(network, [2, *row]), atol=1e-5)
            mean = model(network, normalize="length")
            values = log_probabilities(network, [BOS, *row])
            np.testing.assert_allclose(mean.score_samples([row]), values.mean(), rtol=1e-5)
            np.testing.assert_allclose(
                mean.score_positions([row])[0].sum(), values.mean(), rtol=1e-5
            )

    def test_ids_of_special_tokens(self, ids, texts):
        expected = model().score_samples(ids)
        auto = CausalLanguageModel(Network(), Tokenizer())
        np.testing.assert_array_equal(auto.score_samples(texts), expected)
        network = Network()
        network.config = types.SimpleNamespace(bos_token_id=BOS, eos_token_id=[EOS, 7])
        np.testing.assert_array_equal(CausalLanguageModel(network).score_samples(ids), expected)
        ended = CausalLanguageModel(network, eos_token_id="auto").score_samples(ids)
        np.testing.assert_array_equal(ended, model(eos_token_id=EOS).score_samples(ids))
        with pytest.raises(ValueError, match=r"config of Network states bos_token_id; give"):
            CausalLanguageModel(Network()).fit(ids)

    @pytest.mark.parametrize("kind", ["right", "left", "arrays", "texts", "array", "tokenizer"])
    def test_forms_of_X(self, ids, texts, kind):
        expected = model().score_samples(ids)
        density = model(tokenizer=tokenizer)
        if kind in ("right", "left"):
            X = padded(ids, kind)
        elif kind == "arrays":
            X = [np.array(row, dtype=np.int16) for row in ids]
        elif kind == "tokenizer":
            density, X = model(tokenizer=Tokenizer()), texts
        else:
            X = np.array(texts) if kind == "array" else texts
        np.testing.assert_array_equal(density.fit(X).score_samples(X), expected)
        detector = LogLikelihood(density).fit(X)
        np.testing.assert_array_equal(detector.score_samples(X), expected)

    def test_rows_of_ids(self):
        X = np.random.default_rng(0).integers(2, N_TOKENS, (10, 6))
        density = model().fit(X)
        expected = density.score_samples(X.tolist())
        for rows in (X, torch.tensor(X), X.astype(np.uint8)):
            np.testing.assert_array_equal(density.score_samples(rows), expected)
        np.testing.assert_allclose(density.score_samples(X[:2, :3]).shape, (2,))

    def test_frames(self, texts):
        pandas = pytest.importorskip("pandas")
        density = model(tokenizer=tokenizer)
        expected = density.score_samples(texts)
        for X in (pandas.Series(texts), pandas.DataFrame({"text": texts})):
            np.testing.assert_array_equal(LogLikelihood(density).fit(X).score_samples(X), expected)
        with pytest.raises(ValueError, match=r"the columns \['a', 'b'\]; expected texts"):
            density.fit(pandas.DataFrame({"a": texts, "b": texts}))

    def test_half_precision(self, ids):
        """Logits are rounded to bfloat16, and nothing after them is."""
        network = Network().bfloat16()
        found = model(network).score_positions(ids)
        for row, values in zip(ids, found, strict=True):
            with torch.no_grad():
                logits = network(torch.tensor([[BOS, *row[:-1]]]))[0].double()
            expected = logits.log_softmax(1).numpy()[np.arange(len(row)), row]
            # A product of another shape may be rounded to the next number of bfloat16.
            np.testing.assert_allclose(values, expected, atol=0.1)
            np.testing.assert_allclose(np.mean(values - expected), 0, atol=0.02)
        exact = model(Network().double()).score_samples(ids)
        own = [log_probabilities(Network(), [BOS, *row]).sum() for row in ids]
        np.testing.assert_allclose(exact, own, rtol=1e-13)

    def test_names_of_tokens(self, texts):
        named = model(tokenizer=Tokenizer(), eos_token_id=EOS).tokens(texts)
        assert named[0] == [*texts[0], "."]
        assert model(tokenizer=tokenizer).tokens(["ab", "c"]) == [["2", "3"], ["4"]]
        assert model(bos_token_id=None).tokens([[2, 3]]) == [["2", "3"]]


class TestBatches:
    def test_scores_do_not_depend_on_the_batch(self, ids):
        expected = model().score_samples(ids)
        for batch_size in (1, 3, 1000):
            found = model(batch_size=batch_size).score_samples(ids)
            np.testing.assert_allclose(found, expected, rtol=1e-6)
        density = model()
        alone = np.concatenate([density.score_samples([row]) for row in ids])
        np.testing.assert_allclose(alone, expected, rtol=1e-6)
        order = np.random.default_rng(1).permutation(len(ids))
        np.testing.assert_allclose(
            density.score_samples([ids[i] for i in order]), expected[order], rtol=1e-6
        )
        same = density.score_samples([ids[3]] * 40)
        assert len(set(same)) == 1

    def test_memory_is_bounded(self, ids, monkeypatch):
        expected = model().score_samples(ids)
        monkeypatch.setattr(_causal_network, "_CHUNK", 2 * N_TOKENS)
        monkeypatch.setattr(_causal_network, "_BYTES", {"cpu": 4 * N_TOKENS * 80})
        network = Network()
        found = model(network).score_samples(ids)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert 40 < network.n_values <= 80

    def test_blocks_of_texts(self, ids, monkeypatch):
        expected = model().score_samples(ids)
        monkeypatch.setattr("skood.density._causal_language_model._BLOCK", 7)
        np.testing.assert_allclose(model().score_samples(ids), expected, rtol=1e-6)
        with pytest.raises(ValueError, match="item 20 of X has no tokens"):
            model().score_samples([*ids[:20], [], *ids])

    def test_a_batch_is_halved_if_memory_runs_out(self, ids):
        class Large(Network):
            def forward(self, input_ids, attention_mask=None):
                if len(input_ids) > 16:
                    raise RuntimeError("out of memory")
                return super().forward(input_ids, attention_mask)

        with pytest.warns(UserWarning, match=r"too little free memory for .*, so this batch"):
            found = model(Large()).score_samples(ids)
        np.testing.assert_allclose(found, model().score_samples(ids), rtol=1e-6)

    def test_threads(self, ids):
        density = model(Network().train())
        expected = density.score_samples(ids)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(density.score_samples, [ids] * 8):
                np.testing.assert_array_equal(found, expected)
        assert density.module.training

    def test_mode_is_restored(self, ids):
        network = Network().train()
        seen = []
        network.register_forward_pre_hook(lambda part, _: seen.append(part.training))
        model(network).score_samples(ids)
        assert network.training
        assert seen and not any(seen)


class TestLongTexts:
    def test_error(self, ids):
        with pytest.raises(ValueError, match=r"item 1 of X has 22 tokens, but Network reads at"):
            model(max_length=21).score_samples([[2], [3] * 21])
        model(max_length=22).score_samples([[2], [3] * 21])

    def test_truncation(self):
        text = np.random.default_rng(0).integers(2, N_TOKENS, 30).tolist()
        density = model(max_length=12, long_texts="truncate", eos_token_id=EOS)
        found = density.score_positions([text, text[:3]])
        expected = log_probabilities(density.module, [BOS, *text[:11]])
        np.testing.assert_allclose(found[0], expected, atol=1e-5)
        assert len(density.tokens([text])[0]) == 11
        expected = log_probabilities(density.module, [BOS, *text[:3], EOS])
        np.testing.assert_allclose(found[1], expected, atol=1e-5)

    @pytest.mark.parametrize(("max_length", "stride"), [(10, 4), (10, 9), (10, 1), (7, None)])
    @pytest.mark.parametrize("bos_token_id", [BOS, None])
    def test_windows(self, max_length, stride, bos_token_id):
        """The loop over windows that perplexities are measured with."""
        density = model(
            max_length=max_length, stride=stride, long_texts="window", bos_token_id=bos_token_id
        )
        rng = np.random.default_rng(0)
        X = [rng.integers(2, N_TOKENS, n).tolist() for n in (3, 9, 10, 11, 25, 38)]
        step = max_length // 2 if stride is None else stride
        for text, found in zip(X, density.score_positions(X), strict=True):
            row = text if bos_token_id is None else [bos_token_id, *text]
            expected, scored = [], 0
            for begin in range(0, len(row), step):
                end = min(begin + max_length, len(row))
                n_new = end - scored
                values = log_probabilities(density.module, row[begin:end])
                expected += list(values[len(values) - min(n_new, len(values)) :])
                scored = end
                if end == len(row):
                    break
            found = found[1:] if bos_token_id is None else found
            np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_each_token_is_scored_once(self):
        for n, longest, stride in itertools.product(range(2, 30), (2, 3, 8), (1, 2, 7)):
            if stride < longest:
                tokens = [
                    t
                    for begin, end, scored in windows(n, longest, stride)
                    for t in range(scored, end)
                    if scored > begin and end - begin <= longest
                ]
                assert tokens == list(range(1, n))

    def test_context_of_the_network(self):
        network = Network()
        network.config = types.SimpleNamespace(max_position_embeddings=8)
        with pytest.raises(ValueError, match="reads at most 8"):
            model(network).score_samples([[3] * 8])
        model(network, max_length=None).score_samples([[3] * 8])
        with pytest.raises(ValueError, match=r"stride=8 leaves a window of max_length=8"):
            model(network, long_texts="window", stride=8).score_samples([[3] * 8])


class TestRefusals:
    @pytest.mark.parametrize(
        ("forward", "message"),
        [
            (lambda x: torch.flip(torch.flip(x, [1]).cumsum(1), [1]), "depend on later tokens"),
            (lambda x: x + x.mean(0), "depend on the other sequences of a batch"),
            (lambda x: x.sum(1), r"logits of shape \(1, 9\) for 1 sequence"),
            (lambda x: {"last_hidden_state": x}, r"\['last_hidden_state'\]; expected logits"),
        ],
    )
    def test_networks_of_other_kinds(self, ids, forward, message):
        class Other(Network):
            def forward(self, input_ids, attention_mask=None):
                return forward(super().forward(input_ids))

        for use in (lambda d: d.fit(ids), lambda d: d.score_samples(ids)):
            with pytest.raises(ValueError, match=message):
                use(model(Other()))

    def test_other_modules(self, ids):
        with pytest.raises(ValueError, match="Linear does not take token ids"):
            model(nn.Linear(3, 2)).fit(ids)
        network = Network()
        network.config = types.SimpleNamespace(is_encoder_decoder=True)
        with pytest.raises(ValueError, match="Network is an encoder-decoder"):
            model(network).fit(ids)

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            ([[2], []], "item 1 of X has no tokens"),
            ([[2], [9]], "item 1 of X has the token id 9, but Network knows the ids 0 to 8"),
            ([[2], [-1]], "has the token id -1"),
            ([[2.0, 3.0]], "whole numbers"),
            ([2, 3], "item 0 of X is 2; expected a text"),
            (np.zeros((2, 3, 3), int), "item 0 of X is"),
            ([[2], "a"], "item 0 of X is .*; expected a text"),
            (["a", None], "item 1 of X is None; expected a text"),
            (["a", ""], "text 1 of X is empty"),
            ([[0]], "item 0 of X has the single token 0"),
            ({"ids": [[2]]}, r"the fields \['ids'\]; expected 'input_ids'"),
            ({"input_ids": [[2]], "pixel_values": [[2]]}, r"fields \['pixel_values'\], which"),
            ({"input_ids": [[2]], "token_type_ids": [[1]]}, r"fields \['token_type_ids'\], which"),
            ({"input_ids": [[2, 3, 4]], "attention_mask": [[1, 0, 1]]}, "zeros between its tok"),
            ({"input_ids": [[2, 3]], "attention_mask": [[0, 0]]}, "item 0 of X has no tokens"),
            ("abc", "X is 'abc'"),
        ],
    )
    def test_X(self, X, message):
        with pytest.raises(ValueError, match=message):
            model(tokenizer=tokenizer).fit(X)
        with pytest.raises(ValueError, match=message):
            model(tokenizer=tokenizer).score_samples(X)

    def test_texts_without_a_tokenizer(self, texts):
        with pytest.raises(ValueError, match=r"X holds texts .*, but tokenizer=None"):
            model().fit(texts)
        with pytest.raises(ValueError, match="returned 1 lists of ids for 30 texts"):
            model(tokenizer=lambda _: [[2]]).fit(texts)

    def test_parameters(self, ids):
        for name, value in {
            "bos_token_id": -1, "eos_token_id": "x", "normalize": "tokens", "long_texts": "cut",
            "max_length": 1, "stride": 0, "batch_size": 0, "tokenizer": 3,
        }.items():  # fmt: skip
            for use in (lambda d: d.fit(ids), lambda d: d.score_samples(ids)):
                with pytest.raises(ValueError, match=f"The '{name}' parameter"):
                    use(model().set_params(**{name: value}))

    def test_nan(self, ids):
        class Overflowing(Network):
            def forward(self, input_ids, attention_mask=None):
                logits = super().forward(input_ids)
                return torch.where((input_ids == 5)[..., None], torch.nan, logits)

        with pytest.raises(ValueError, match="NaN as the log-probability of a token of item 1"):
            model(Overflowing(), bos_token_id=2).score_samples([[3, 4], [3, 5, 4]])


class TestDetectors:
    def test_ratio(self, ids):
        detector = LikelihoodRatio(model(), model(Network(1))).fit(ids)
        expected = model().score_samples(ids) - model(Network(1)).score_samples(ids)
        np.testing.assert_allclose(detector.score_samples(ids), expected, rtol=1e-9)
        # Nothing is trained, so that no rows are held out.
        assert np.mean(detector.predict(ids) == -1) == pytest.approx(2 / 30)
        positions = detector.score_positions(ids)
        assert list(map(len, positions)) == list(map(len, ids))
        np.testing.assert_allclose([v.sum() for v in positions], expected, rtol=1e-9)
        # Sequences of any length, one of them or of one length, after `fit`.
        np.testing.assert_allclose(detector.score_samples([ids[2]]), expected[2:3], rtol=1e-6)
        assert detector.score_samples(np.full((2, 50), 3)).shape == (2,)

    def test_explanations(self, ids, texts):
        density = model(tokenizer=Tokenizer())
        for detector in (LogLikelihood(density), LikelihoodRatio(density, clone(density))):
            found = detector.fit(texts).explain(texts)
            np.testing.assert_allclose(found.scores, detector.score_samples(texts), rtol=1e-9)
            for values, own in zip(
                found.contributions, detector.score_positions(texts), strict=True
            ):
                np.testing.assert_array_equal(values, own)
            assert found.tokens[3] == list(texts[3])
        found = LogLikelihood(density).fit(texts).explain(texts)
        assert len(found[3]) == 1 and len(found[2:5]) == 3
        name, value = found.largest(3, 1)[0]
        worst = int(np.argmin(found.contributions[3]))
        assert (name, value) == (
            f"position {worst}, {texts[3][worst]!r}", found.contributions[3][worst],
        )  # fmt: skip
        assert len(found.largest(0, 1000)) == len(texts[0])
        assert "30 items" in repr(found)
        assert LogLikelihood(model()).fit(ids).explain(ids).tokens[0] == list(map(str, ids[0]))

    def test_only_densities_with_positions(self, ids):
        class Length(skood.base.BaseDetector):
            def _fit(self, inliers, y, outliers, seed):
                return None

            def _score_samples(self, data):
                return np.zeros(len(data))

        detector = LikelihoodRatio(model(), Length()).fit(np.full((5, 3), 2))
        assert not hasattr(detector, "score_positions")
        assert not hasattr(detector, "explain")

    def test_positions_of_different_tokens(self):
        class Other(CausalLanguageModel):
            def score_positions(self, X):
                return [np.zeros(1) for _ in range(len(X))]

        detector = LikelihoodRatio(model(), Other(Network(), bos_token_id=BOS))
        detector.fit([[2, 3], [4, 5, 6]])
        with pytest.raises(ValueError, match="scores 2 positions of item 0 of X, and the back"):
            detector.score_positions([[2, 3]])

    def test_frozen_and_typicality(self, ids):
        frozen = skood.LogLikelihood(skood.base.FrozenEstimator(model())).fit(ids)
        np.testing.assert_array_equal(frozen.score_samples(ids), model().score_samples(ids))
        detector = Typicality(model(), random_state=0).fit(ids)
        expected = -np.abs(model().score_samples(ids) + detector.entropy_)
        np.testing.assert_allclose(detector.score_samples(ids), expected, rtol=1e-9)

    def test_around_detectors(self, texts):
        density = model(tokenizer=tokenizer)
        detector = LikelihoodRatio(density, model(Network(1), tokenizer))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* was trained before")
            conformal = skood.ConformalDetector(detector, alpha=0.3).fit(texts)
        assert conformal.predict(["ab", "gfedcba"]).shape == (2,)
        y = np.repeat([0, -1], 15)
        inlier_fit = skood.InlierFit(detector).fit(texts, y)
        np.testing.assert_allclose(
            inlier_fit.score_samples(texts), detector.fit(texts).score_samples(texts), rtol=1e-9
        )
        search = GridSearchCV(
            skood.LogLikelihood(density),
            {"density__normalize": [None, "length"]},
            scoring=skood.get_ood_scorer("auroc"),
            cv=skood.OODSplit(2),
        )
        search.fit(texts, np.tile([0, -1], 15))
        assert np.isfinite(search.cv_results_["mean_test_score"]).all()

    def test_memory_stores_nothing(self, ids, tmp_path):
        LogLikelihood(model(), memory=str(tmp_path)).fit(ids)
        assert not list(tmp_path.rglob("*.pkl"))

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            (model(bos_token_id=None), "bos_token_id=0 and None"),
            (model(eos_token_id=1), "eos_token_id=None and 1"),
            (model(normalize="length"), "normalize=None and 'length'"),
            (model(long_texts="truncate"), "long_texts='error' and 'truncate'"),
            (model(Network(n_tokens=10)), "9 and 10 tokens"),
        ],
    )
    def test_backgrounds_of_other_tokens(self, ids, other, message):
        with pytest.raises(ValueError, match=message):
            LikelihoodRatio(model(), other).fit(ids)
        with pytest.raises(ValueError, match=message):
            LikelihoodRatio(skood.base.FrozenEstimator(model()), [model(), other]).fit(ids)

    def test_backgrounds_of_other_tokenizers(self, texts):
        other = Tokenizer("?.abcdegf")
        first, second = model(tokenizer=Tokenizer()), model(tokenizer=other)
        with pytest.raises(ValueError, match=r"token 'f' has the ids 7 and 8; a likelihood"):
            LikelihoodRatio(first, second).fit(texts)
        LikelihoodRatio(first, model(tokenizer=Tokenizer())).fit(texts)
        changed = model(tokenizer=lambda X: [row[::-1] for row in tokenizer(X)])
        with pytest.raises(ValueError, match=r"make the ids .* and .* of item 0 of X"):
            LikelihoodRatio(model(tokenizer=tokenizer), changed).fit(texts)
        longer = {"long_texts": "window", "max_length": 8}
        with pytest.raises(ValueError, match="stride=4 and 3"):
            LikelihoodRatio(model(**longer), model(**longer, stride=3)).fit([[2], [3]])

    def test_backgrounds_that_cannot_be_made(self, ids):
        with pytest.raises(ValueError, match=r"is not trained by fit.*background="):
            LikelihoodRatio(model()).fit(ids)
        with pytest.raises(ValueError, match=r"X is not all numbers.*mark known outliers"):
            LikelihoodRatio(model(), [model(), model(Network(1))]).fit(ids)
        y = np.repeat([0, -1], 15)
        detector = LikelihoodRatio(model(), [model(), model(Network(1))]).fit(ids, y)
        assert detector.selection_[0]["auroc"] == 0.5


class TestCopies:
    def test_clone_pickle_and_hash(self, ids):
        density = model(tokenizer=tokenizer).fit(ids)
        assert clone(density).module is density.module
        assert density.get_params()["module"] is density.module
        copy = pickle.loads(pickle.dumps(density))
        np.testing.assert_array_equal(copy.score_samples(ids), density.score_samples(ids))
        assert joblib.hash(copy) == joblib.hash(density)
        with torch.no_grad():
            copy.module.first[0, 0] += 1
        assert joblib.hash(copy) != joblib.hash(density)
        assert repr(density).startswith("CausalLanguageModel(")

    def test_files(self, ids, tmp_path):
        detector = LikelihoodRatio(model(), model(Network(1))).fit(ids)
        with pytest.raises(ValueError, match=r'weights alone with skood.save.*modules="weights"'):
            skood.save(detector, tmp_path / "file")
        skood.save(detector, tmp_path / "file", modules="weights")
        loaded = skood.load(
            tmp_path / "file", modules={"Network": Network(2), "Network-2": Network(3)}
        )
        np.testing.assert_array_equal(loaded.score_samples(ids), detector.score_samples(ids))
        assert loaded.offset_ == detector.offset_
