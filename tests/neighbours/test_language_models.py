"""Causal language models of transformers, compared with their own losses, one text at a time."""

import pickle

import numpy as np
import pytest
import torch

import skood
from skood import CausalLanguageModel, CosinePrototypes, LikelihoodRatio, LogLikelihood
from skood.embeddings import LayerAverage, from_huggingface

hf = pytest.importorskip("transformers")

N_TOKENS = 50
BOS, EOS = N_TOKENS - 2, N_TOKENS - 1
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
COMMON = {"vocab_size": N_TOKENS, "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": 0}
WIDE = {**SIZES, **COMMON, "intermediate_size": 32, "max_position_embeddings": 32}

NETWORKS = {
    # Positions have vectors of their own.
    "GPT2": {**COMMON, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32},
    "OPT": {**SIZES, **COMMON, "ffn_dim": 32, "max_position_embeddings": 32,
            "word_embed_proj_dim": 16},
    # Positions are relative.
    "Llama": {**WIDE, "num_key_value_heads": 1},
    "GPTNeoX": WIDE,
    "Gemma2": {**WIDE, "num_key_value_heads": 1, "head_dim": 8, "sliding_window": 4},
    # No attention.
    "Mamba": {**COMMON, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
}  # fmt: skip


def network(name, seed=0, **settings):
    kind = "LMHeadModel" if name == "GPT2" else "ForCausalLM"

    def make():
        torch.manual_seed(seed)
        config = getattr(hf, f"{name}Config")(**{**NETWORKS[name], **settings})
        return getattr(hf, f"{name}{kind}")(config).eval()

    return make


@pytest.fixture
def ids(tokens):
    """Token ids of unlike lengths, with BOS at the beginning and EOS at the end."""
    X = tokens()
    lengths = X["attention_mask"].sum(1)
    return [row[:n].tolist() for row, n in zip(X["input_ids"], lengths, strict=True)]


def loss(module, row):
    """Return the module's own loss of one text, which is conditioned on its first token."""
    x = torch.tensor([row])
    with torch.no_grad():
        return float(module(input_ids=x, labels=x).loss.double())


@pytest.mark.parametrize("name", NETWORKS)
def test_own_losses(build, ids, tokens, name):
    module = build(network(name))
    density = CausalLanguageModel(module).fit(ids)
    # The mean over all tokens but the first.
    expected = np.array([-loss(module, row) * (len(row) - 1) for row in ids])
    scores = density.score_samples(ids)
    assert np.ptp(scores) > 1
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    for side in ("left", "right"):
        X = tokens(length=20, side=side)
        np.testing.assert_allclose(density.score_samples(X), expected, rtol=1e-5)
        encoding = hf.BatchEncoding(X, tensor_type="pt")
        np.testing.assert_allclose(density.score_samples(encoding), expected, rtol=1e-5)
    # BOS is put in front.
    without = density.score_samples([row[1:] for row in ids])
    np.testing.assert_allclose(without, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_token_by_token(build, ids, name):
    module = build(network(name))
    density = CausalLanguageModel(module)
    for row, found in zip(ids[:5], density.score_positions(ids[:5]), strict=True):
        for t, value in enumerate(found, 1):
            with torch.no_grad():
                logits = module(torch.tensor([row[:t]])).logits[0, -1].double()
            assert value == pytest.approx(float(logits.log_softmax(0)[row[t]]), abs=1e-4)


def test_windows_of_perplexities(build):
    """The loop of transformers' page on the perplexity of models of fixed length."""
    module = build(network("GPT2"))
    row = np.random.default_rng(0).integers(1, N_TOKENS - 2, 101).tolist()
    x, previous, total = torch.tensor([[BOS, *row]]), 0, 0.0
    for begin in range(0, x.shape[1], 12):
        end = min(begin + 32, x.shape[1])
        labels = x[:, begin:end].clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            own = module(x[:, begin:end], labels=labels).loss
        # The first token of a window has no logits.
        total -= float(own) * int((labels[:, 1:] != -100).sum())
        previous = end
        if end == x.shape[1]:
            break
    density = CausalLanguageModel(module, long_texts="window", stride=12)
    np.testing.assert_allclose(density.score_samples([row]), total, rtol=1e-5)
    with pytest.raises(ValueError, match=r"item 0 of X has 102 tokens, but GPT2LMHeadModel reads"):
        CausalLanguageModel(module).score_samples([row])


def test_criteria_of_the_released_code(build, ids):
    """The loss of the finetuned model relative to that of the base, per token and for a text."""
    finetuned, base = build(network("Llama")), build(network("Llama", seed=1))
    with torch.no_grad():
        base.lm_head.weight.mul_(0.5)
    per_token = np.array([loss(base, row) - loss(finetuned, row) for row in ids])
    of_text = per_token * [len(row) - 1 for row in ids]
    for normalize, expected in (("length", per_token), (None, of_text)):
        models = [CausalLanguageModel(m, normalize=normalize) for m in (finetuned, base)]
        scores = LikelihoodRatio(*models).fit(ids).score_samples(ids)
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision(build, ids, dtype):
    module = build(network("GPT2")).to(dtype)
    density = CausalLanguageModel(module).fit(ids)
    exact = CausalLanguageModel(build(network("GPT2"))).score_samples(ids)
    tolerance = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float64: 1e-5}[dtype]
    np.testing.assert_allclose(density.score_samples(ids), exact, rtol=tolerance)


class TestTokenizer:
    TEXTS = ("a b c", "b", "c a b a a", "a unknown b")

    @pytest.fixture(params=["right", "left"])
    def tokenizer(self, request):
        tokenizers = pytest.importorskip("tokenizers")
        words = {"[UNK]": 0, "a": 1, "b": 2, "c": 3, "[BOS]": BOS, "[EOS]": EOS}
        model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
        model.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        return hf.PreTrainedTokenizerFast(
            tokenizer_object=model, bos_token="[BOS]", eos_token="[EOS]", unk_token="[UNK]",
            pad_token="[EOS]", padding_side=request.param,
        )  # fmt: skip

    def test_texts(self, build, tokenizer):
        module, texts = build(network("GPT2")), list(self.TEXTS)
        density = CausalLanguageModel(module, tokenizer, eos_token_id="auto").fit(texts)
        rows = [[BOS, *tokenizer(text)["input_ids"], EOS] for text in texts]
        expected = [-loss(module, row) * (len(row) - 1) for row in rows]
        np.testing.assert_allclose(density.score_samples(texts), expected, rtol=1e-5)
        padded = tokenizer(texts, padding=True)
        np.testing.assert_allclose(density.score_samples(padded), expected, rtol=1e-5)
        assert density.tokens(texts)[3] == ["a", "[UNK]", "b", "[EOS]"]
        explanation = LogLikelihood(density).fit(texts).explain(texts[3:])
        assert explanation.tokens == density.tokens(texts[3:])
        unpadded = tokenizer(texts)
        with pytest.raises(ValueError, match=r"'input_ids' .*padding=True"):
            density.score_samples(unpadded)
        np.testing.assert_allclose(
            density.score_samples(unpadded["input_ids"]), expected, rtol=1e-5
        )

    def test_two_tokenizers(self, build, tokenizer):
        module, texts = build(network("GPT2")), list(self.TEXTS)
        more = pickled(tokenizer)
        LikelihoodRatio(
            CausalLanguageModel(module, tokenizer), CausalLanguageModel(module, more)
        ).fit(texts)
        more.add_tokens("d")
        with pytest.raises(ValueError, match="token 'd' has the ids None and 50"):
            LikelihoodRatio(
                CausalLanguageModel(module, tokenizer), CausalLanguageModel(module, more)
            ).fit(texts)

    def test_pickle(self, build, tokenizer):
        texts = list(self.TEXTS)
        density = CausalLanguageModel(build(network("GPT2")), tokenizer).fit(texts)
        np.testing.assert_array_equal(
            pickled(density).score_samples(texts), density.score_samples(texts)
        )

    @pytest.mark.parametrize("name", ["GPT2", "Bert"])
    @pytest.mark.parametrize("layers", [None, (0, -1), (1,)])
    def test_average_of_layers(self, build, tokenizer, name, layers):
        settings = NETWORKS["GPT2"] if name == "GPT2" else WIDE
        network = build(
            lambda: getattr(hf, f"{name}Model")(getattr(hf, f"{name}Config")(**settings))
        )
        # Padding in front changes the positions of tokens, which the extractor refuses.
        tokenizer.padding_side = "right"
        extractor = from_huggingface(
            LayerAverage(network, layers), processor=tokenizer, pooling="mean"
        )
        texts = list(self.TEXTS)
        found = extractor.fit(texts).transform(texts)
        for text, row in zip(texts, found, strict=True):
            x = torch.tensor([tokenizer(text)["input_ids"]])
            with torch.no_grad():
                states = network(x, output_hidden_states=True).hidden_states
            chosen = states[1:] if layers is None else [states[k] for k in layers]
            expected = torch.stack(list(chosen)).mean(0).mean(1)[0].numpy()
            np.testing.assert_allclose(row, expected, atol=1e-5)
        detector = CosinePrototypes(extractor).fit(texts)
        assert np.isfinite(detector.score_samples(texts)).all()

    def test_layers_that_do_not_exist(self, build, tokenizer):
        network = build(lambda: hf.GPT2Model(hf.GPT2Config(**NETWORKS["GPT2"])))
        extractor = from_huggingface(LayerAverage(network, [3]), processor=tokenizer)
        with pytest.raises(
            ValueError, match=r"layers has 3, but GPT2Model returns 3 hidden_states"
        ):
            extractor.fit(list(self.TEXTS))
        with pytest.raises(ValueError, match="layers is empty"):
            LayerAverage(network, [])


def pickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hf.BertForMaskedLM(hf.BertConfig(**WIDE)), "depend on later tokens"),
        (lambda: hf.BertLMHeadModel(hf.BertConfig(**WIDE)), "depend on later tokens"),
        (lambda: hf.GPT2Model(hf.GPT2Config(**NETWORKS["GPT2"])), "'last_hidden_state'"),
        (
            lambda: hf.GPT2ForSequenceClassification(hf.GPT2Config(**NETWORKS["GPT2"])),
            r"logits of shape \(1, 2\)",
        ),
        (
            lambda: hf.T5ForConditionalGeneration(
                hf.T5Config(vocab_size=N_TOKENS, d_model=16, d_kv=8, d_ff=16, num_layers=1,
                            num_heads=2)
            ),
            "encoder-decoder",
        ),
    ],
)  # fmt: skip
def test_other_models_are_refused(build, ids, make, message):
    with pytest.raises(ValueError, match=message):
        CausalLanguageModel(build(make), bos_token_id=BOS).fit(ids)


def test_decoder_of_bert(build, ids):
    config = hf.BertConfig(**WIDE, is_decoder=True)
    module = build(lambda: hf.BertLMHeadModel(config))
    scores = CausalLanguageModel(module).fit(ids).score_samples(ids)
    expected = [-loss(module, row) * (len(row) - 1) for row in ids]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_files(build, ids, tmp_path):
    """Tied weights are stored, and are tied again."""
    detector = LogLikelihood(CausalLanguageModel(build(network("GPT2")))).fit(ids)
    skood.save(detector, tmp_path / "file", modules="weights")
    other = {"GPT2LMHeadModel": build(network("GPT2", seed=3))}
    loaded = skood.load(tmp_path / "file", modules=other)
    np.testing.assert_array_equal(loaded.score_samples(ids), detector.score_samples(ids))
