"""A frame with categories and missing values; texts, as words and through networks."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skood import KNN, ConformalDetector, Energy, evaluate
from skood.embeddings import from_huggingface


def orders(n, seed):
    """Return a frame with a category, a count and missing values in every column."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "amount": rng.lognormal(3, 0.5, size=n),
            "items": pd.array(rng.poisson(3, size=n), dtype="Int64"),
            "country": pd.Categorical(rng.choice(["AT", "DE", "FR"], size=n)),
        }
    )
    for column in frame:
        frame.loc[rng.random(n) < 0.05, column] = None
    return frame


def test_frame_with_categories_and_missing_values(most_false_alarms):
    # The stranger has:
    train, test = orders(2000, 0), orders(1000, 1)
    strange = test[:200].assign(amount=900.0)
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["amount", "items"]),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), ["country"]),
    )

    # With skood:
    detector = ConformalDetector(make_pipeline(columns, KNN()), alpha=0.05, random_state=0)
    detector = detector.fit(train)
    p_values = detector.p_values(strange)

    # It is true that:
    assert (p_values <= 0.05).all()
    assert detector.n_calibration_ == 600
    assert (detector.predict(test) == -1).sum() <= most_false_alarms(1000, 600, 0.05)
    # A missing value is imputed, whatever its column.
    assert np.isfinite(detector.score_samples(test)).all()
    table = evaluate(
        {"KNN": make_pipeline(columns, KNN())}, test, {"costly": strange}, X_train=train
    )
    assert table[0]["auroc"] > 0.99
    assert table[0]["id_accepted"] > 0.9 and table[0]["ood_accepted"] == 0


def sentences(n, seed, who, does, what):
    rng = np.random.default_rng(seed)
    parts = [who, does, ["the", "a"], ["small", "red", "good", "old"], what]
    return [" ".join(["the", *(rng.choice(words) for words in parts)]) for _ in range(n)]


def in_the_kitchen(n, seed):
    return sentences(
        n,
        seed,
        ["cook", "guest", "waiter"],
        ["washes", "peels", "cuts"],
        ["onion", "apple", "leek"],
    )


def in_the_harbour(n, seed):
    """Return sentences that share only articles and adjectives with the kitchen."""
    return sentences(n, seed, ["sailor", "captain"], ["paints", "steers"], ["ship", "boat"])


def test_texts_as_words(most_false_alarms):
    # The stranger has:
    train, test = in_the_kitchen(800, 0), in_the_kitchen(300, 1)
    strange = in_the_harbour(100, 2)
    words = HashingVectorizer(n_features=1024)

    # With skood:
    detector = ConformalDetector(KNN(words, n_neighbors=5), alpha=0.05, random_state=0)
    detector = detector.fit(train)
    p_values = detector.p_values(strange)

    # It is true that:
    assert (p_values <= 0.05).all()
    assert (detector.predict(test) == -1).sum() <= most_false_alarms(300, 240, 0.05)


@pytest.fixture(scope="module")
def hf():
    return pytest.importorskip("transformers")


SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def make_tokenizer(hf, texts):
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[PAD]", "[UNK]", *sorted(set(" ".join(texts).split()))]
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )


def test_texts_through_an_encoder_of_hugging_face(hf, most_false_alarms):
    # The stranger has:
    train, held_out, test = (in_the_kitchen(n, seed) for seed, n in enumerate([300, 200, 200]))
    strange = ["ship boat ship ship boat captain", "boat ship"] * 10
    tokenizer = make_tokenizer(hf, train + in_the_harbour(100, 3))
    torch.manual_seed(0)
    encoder = hf.BertModel(hf.BertConfig(vocab_size=len(tokenizer), **SIZES))

    # With skood:
    features = from_huggingface(encoder, processor=tokenizer, pooling="mean", device="cpu")
    detector = ConformalDetector(KNN(features)).fit(train, X_calibration=held_out)
    p_values = detector.p_values(strange)

    # It is true that:
    assert (p_values == 1 / 201).all()
    assert (detector.predict(test) == -1).sum() <= most_false_alarms(200, 200, 0.05)
    # The vectors are means over the tokens of a text alone, without padding.
    with torch.no_grad():
        alone = encoder.eval()(**tokenizer(strange[1], return_tensors="pt")).last_hidden_state
    assert np.allclose(features.transform(strange)[1], alone[0].mean(0), atol=1e-5)


def test_image_classifier_of_hugging_face(hf):
    # The stranger has:
    torch.manual_seed(0)
    config = hf.ViTConfig(image_size=32, patch_size=8, num_labels=3, **SIZES)
    network = hf.ViTForImageClassification(config)
    processor = hf.ViTImageProcessor(size={"height": 32, "width": 32})
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(100, 48, 48, 3), dtype=np.uint8)
    train, new = processor(list(images[:80]), return_tensors="pt"), processor(list(images[80:]))

    # With skood:
    detector = Energy(network).fit(train)
    scores = detector.score_samples(new)

    # It is true that:
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(np.stack(new["pixel_values"]))).logits
    assert np.allclose(scores, logits.logsumexp(1), rtol=1e-5)
    # Of the rows that the threshold was set on, 5 % are rejected.
    assert (detector.predict(train) == -1).sum() == 4


def test_text_classifier_of_hugging_face(hf):
    # The stranger has:
    train, new = in_the_kitchen(200, 0), in_the_harbour(20, 1)
    tokenizer = make_tokenizer(hf, train + new)
    torch.manual_seed(0)
    config = hf.BertConfig(vocab_size=len(tokenizer), num_labels=2, **SIZES)
    network = hf.BertForSequenceClassification(config)
    tokens, new_tokens = (
        tokenizer(texts, padding=True, return_tensors="pt") for texts in (train, new)
    )

    # With skood:
    detector = Energy(network).fit(tokens)
    scores = detector.score_samples(new_tokens)

    # It is true that:
    with torch.no_grad():
        logits = network.eval()(**new_tokens).logits
    assert np.allclose(scores, logits.logsumexp(1), rtol=1e-5)
    assert (detector.predict(tokens) == -1).sum() <= 10
