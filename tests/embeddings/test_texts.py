"""Features of texts: pooling without padding, and texts that cannot be read whole."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from torch import nn

import skood
from skood.embeddings import TextExtractor

WORDS = ["<pad>", "<start>", "<end>", *"abcdefgh"]


class Tokenizer:
    """Words of one letter, with a token before and one after them, as a tokenizer's interface."""

    model_input_names = ("input_ids", "attention_mask")
    model_max_length = 12
    padding_side = "right"
    pad_token_id = 0

    def __call__(self, texts, truncation=False, max_length=None, **_):
        ids = [[1, *(WORDS.index(word) for word in text.split()), 2] for text in texts]
        if truncation:
            ids = [[*row[: max_length - 1], 2] if len(row) > max_length else row for row in ids]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}

    def pad(self, fields, padding, max_length, **_):
        ids = fields["input_ids"]
        length = max_length if padding == "max_length" else max(map(len, ids))
        rows = {"input_ids": [], "attention_mask": []}
        for row, mask in zip(ids, fields["attention_mask"], strict=True):
            extra = [0] * (length - len(row))
            for name, values in (("input_ids", row), ("attention_mask", mask)):
                pads = [values, extra] if self.padding_side == "right" else [extra, values]
                rows[name].append([*pads[0], *pads[1]])
        return {name: np.array(values) for name, values in rows.items()}


class Network(nn.Module):
    """A vector of each token, which depends on the tokens before it."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 4)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask):
        x = self.embedding(input_ids) * attention_mask[:, :, None]
        hidden = x.cumsum(1).masked_fill(attention_mask[:, :, None] == 0, torch.nan)
        return {"last_hidden_state": hidden, "pooler_output": hidden.nan_to_num().sum(1)}


class Output(dict):
    __getattr__ = dict.__getitem__


class Attentive(Network):
    def forward(self, input_ids, attention_mask):
        return Output(super().forward(input_ids, attention_mask))


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Attentive()


@pytest.fixture
def extractor(network):
    return TextExtractor(network, Tokenizer())


TEXTS = ["a b c", "h", "a b c d e f g", "c c", "d e f g h a b c", "b"] * 7


@pytest.fixture(scope="module")
def hidden(network):
    """Vectors of the tokens of each text, by a loop over its letters."""
    vectors = network.embedding.weight.detach().double().numpy()
    found = []
    for text in TEXTS:
        total, rows = np.zeros(4), []
        for word in ["<start>", *text.split(), "<end>"]:
            total = total + vectors[WORDS.index(word)]
            rows.append(total)
        found.append(np.array(rows))
    return found


POOLED = {
    "cls": lambda rows: rows[0],
    "mean": lambda rows: rows.mean(0),
    "last": lambda rows: rows[-1],
    "max": lambda rows: rows.max(0),
    None: lambda rows: rows.sum(0),
}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pooling", POOLED)
def test_pooling_without_padding(extractor, hidden, pooling, side):
    want = np.array([POOLED[pooling](rows) for rows in hidden])
    extractor.tokenizer.padding_side = side
    features = extractor.set_params(pooling=pooling).transform(TEXTS)
    np.testing.assert_allclose(features, want, rtol=1e-5, atol=1e-6)
    if pooling != "cls":
        assert extractor.fit(TEXTS).n_features_out_ == 4


def test_the_first_token_of_a_causal_network(extractor):
    extractor.set_params(pooling="cls")
    with pytest.raises(ValueError, match=r"same first token for 6 different items.*'last'"):
        extractor.fit(TEXTS)
    # One text again and again has one vector.
    assert extractor.fit(["a b"] * 3).n_features_out_ == 4


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_function_gets_tokens_and_mask(extractor, hidden, side):
    extractor.tokenizer.padding_side = side

    def largest(tokens, mask):
        assert mask.dtype == torch.bool
        return tokens.masked_fill(~mask[:, :, None], -torch.inf).amax(1)

    want = np.array([rows.max(0) for rows in hidden])
    features = extractor.set_params(pooling=largest).transform(TEXTS)
    np.testing.assert_allclose(features, want, rtol=1e-5, atol=1e-6)


def test_every_form_of_x(extractor):
    want = extractor.transform(TEXTS)
    tokens = Tokenizer().pad({**Tokenizer()(TEXTS)}, "longest", None)
    ragged = [
        {"input_ids": ids, "attention_mask": mask}
        for ids, mask in zip(*Tokenizer()(TEXTS).values(), strict=True)
    ]
    series = pd.Series(TEXTS, index=np.arange(len(TEXTS))[::-1])
    for X in (
        *(tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, object), series),
        *(series.to_frame("text"), tokens, ragged),
        {name: torch.from_numpy(values) for name, values in tokens.items()},
        skood.share_forward_pass(tokens),
    ):
        np.testing.assert_allclose(extractor.transform(X), want, rtol=1e-5, atol=1e-6)
        if not isinstance(X, list):
            skood.KNN(extractor, n_neighbors=2).fit(X).score_samples(X)


def test_features_depend_on_the_text_alone(extractor):
    whole = extractor.transform(TEXTS)
    for batch_size in (1, 3, 100):
        other = extractor.set_params(batch_size=batch_size).transform(TEXTS)
        np.testing.assert_allclose(other, whole, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(extractor.transform(TEXTS[::-1])[::-1], whole, rtol=1e-5, atol=1e-6)


def test_a_network_that_reads_padding(network):
    class Unmasked(Attentive):
        def forward(self, input_ids, attention_mask):
            vectors = self.embedding(input_ids)
            mean = vectors.mean(1, keepdim=True).expand_as(vectors)
            return Output(last_hidden_state=mean)

    reads = Unmasked()
    reads.load_state_dict(network.state_dict())
    extractor = TextExtractor(reads, Tokenizer())
    for call in (extractor.fit, extractor.transform):
        with pytest.raises(ValueError, match=r"depend on padding.*padding_side.*batch_size=1"):
            call(TEXTS)
    # Texts of one length need no padding.
    assert extractor.transform(["a b", "c d"]).shape == (2, 4)
    one_by_one = extractor.set_params(batch_size=1).fit(TEXTS).transform(TEXTS)
    assert one_by_one.shape == (len(TEXTS), 4)


def test_absolute_positions_on_the_other_side(network):
    """A network may be right with padding on one side alone."""

    class Positions(Attentive):
        def forward(self, input_ids, attention_mask):
            steps = torch.arange(input_ids.shape[1])[None, :, None]
            return Output(last_hidden_state=self.embedding(input_ids) * (1 + steps))

    tokenizer = Tokenizer()
    extractor = TextExtractor(Positions(), tokenizer)
    extractor.fit(TEXTS)
    tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match="depend on padding"):
        extractor.fit(TEXTS)


def test_long_texts(extractor):
    long = "a " * 11
    with pytest.raises(ValueError, match=r"X\[3\] has 13 tokens, but at most 12.*truncation=True"):
        extractor.transform([*TEXTS[:3], long])
    cut = extractor.set_params(truncation=True).transform([*TEXTS[:3], long])
    np.testing.assert_array_equal(cut[3:], extractor.transform(["a " * 10]))
    extractor.set_params(truncation=False, max_length=5)
    with pytest.raises(ValueError, match=r"X\[0\] has 6 tokens, but at most 5"):
        extractor.transform(["a a a a", "a"])
    assert extractor.set_params(max_length=20).transform([long]).shape == (1, 4)
    extractor.tokenizer.model_max_length = int(1e30)
    extractor.set_params(max_length=None, truncation=True)
    with pytest.raises(ValueError, match=r"truncation=True.*max_length="):
        extractor.transform([long])
    tokens = Tokenizer().pad({**Tokenizer()([long, "a"])}, "longest", None)
    with pytest.raises(ValueError, match=r"X\[0\] has 13 tokens"):
        extractor.set_params(truncation=False, max_length=12).transform(tokens)


def test_padding_to_the_largest_length(network):
    lengths = []

    class Noting(Attentive):
        def forward(self, input_ids, attention_mask):
            lengths.append(input_ids.shape[1])
            return super().forward(input_ids, attention_mask)

    extractor = TextExtractor(Noting(), Tokenizer(), padding="max_length").fit(TEXTS)
    lengths.clear()
    extractor.transform(["a", "b"])
    assert lengths == [12]


@pytest.mark.parametrize(
    ("X", "said"),
    [
        ([], "found 0 items"),
        ("a text", r"one item of type str.*\[X\]"),
        (["a", ""], r"X\[1\] is an empty text"),
        (["a", " \n"], r"X\[1\] is an empty text"),
        (["a", None], r"X\[1\] is missing.*leave it out"),
        (["a", float("nan")], r"X\[1\] is missing"),
        (["a", 3], r"X\[1\] is of type int"),
        ([["a"], ["b"]], r"X\[0\] is of type list"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"X\[0\] is of type ndarray.*image tower"),
        ({"input_ids": np.full((2, 3), 99)}, r"X\[0\] has the token id 99.*0 to 10"),
        ({"input_ids": np.full((2, 3), -1)}, r"X\[0\] has the token id -1"),
        ({"input_ids": np.array([[1, 2, 0]])}, r"pad token 0, but no attention_mask"),
        ({"input_ids": np.ones((2, 3))}, "whole numbers input_ids"),
        ({"pixels": np.ones((2, 3), int)}, r"fields \['pixels'\]"),
        (
            {"input_ids": np.array([[1, 2], [0, 0]]), "attention_mask": [[1, 1], [0, 0]]},
            r"X\[1\] has no tokens",
        ),
    ],
)
def test_bad_items(extractor, X, said):
    for call in (extractor.fit, extractor.transform):
        with pytest.raises(ValueError, match=said):
            call(X)


def test_fields_without_a_mask_are_whole_texts(extractor, network):
    class Optional(Attentive):
        def forward(self, input_ids, attention_mask=None):
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            return super().forward(input_ids, mask)

    module = Optional()
    module.load_state_dict(network.state_dict())
    ids = np.array([[1, 3, 4, 2], [1, 5, 6, 2]])
    features = TextExtractor(module, Tokenizer()).transform({"input_ids": ids})
    np.testing.assert_allclose(features, extractor.transform(["a b", "c d"]), rtol=1e-6)


def test_a_tokenizer_without_pad_token(extractor):
    extractor.tokenizer.pad_token_id = None
    with pytest.raises(ValueError, match=r"no pad token.*tokenizer.pad_token = .*batch_size=1"):
        extractor.transform(TEXTS)
    want = TextExtractor(extractor.module, Tokenizer()).transform(TEXTS)
    features = extractor.set_params(batch_size=1).transform(TEXTS)
    np.testing.assert_allclose(features, want, rtol=1e-5, atol=1e-6)


def test_networks_without_the_mask(network):
    """Whether the mask is an input of the network is for the tokenizer to say."""

    class Bare(Attentive):
        def forward(self, input_ids):
            return Output(last_hidden_state=self.embedding(input_ids))

    tokenizer = Tokenizer()
    tokenizer.model_input_names = ("input_ids",)
    bare = Bare()
    features = TextExtractor(bare, tokenizer).fit(TEXTS).transform(TEXTS)
    vectors = bare.embedding.weight.detach().numpy()
    want = [vectors[ids].mean(0) for ids in Tokenizer()(TEXTS)["input_ids"]]
    np.testing.assert_allclose(features, want, rtol=1e-5, atol=1e-6)


def test_in_estimators(extractor):
    piped = make_pipeline(extractor, skood.KNN(n_neighbors=2)).fit(TEXTS)
    inside = skood.KNN(extractor, n_neighbors=2, normalize=False).fit(TEXTS)
    # More texts than a third-party model gets in a call.
    many = TEXTS * 6
    np.testing.assert_allclose(
        piped.score_samples(many), inside.score_samples(many), rtol=1e-5, atol=1e-5
    )
    assert list(extractor.fit(TEXTS).get_feature_names_out())[:1] == ["textextractor0"]


def test_clone_pickle_and_hash(extractor):
    loaded = pickle.loads(pickle.dumps(extractor.fit(TEXTS)))
    np.testing.assert_array_equal(loaded.transform(TEXTS), extractor.transform(TEXTS))
    assert joblib.hash(loaded) == joblib.hash(extractor)
    assert clone(extractor).tokenizer is extractor.tokenizer
    other = clone(extractor).fit(TEXTS).set_params(truncation=True)
    assert joblib.hash(other) != joblib.hash(extractor)
