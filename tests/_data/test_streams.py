"""Data that are read item by item: dicts, Datasets, DataLoaders, and the labels that they bring."""

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import skood
from skood._data.validation import check_data

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
Y = np.arange(30) % 3
LENGTHS = RNG.integers(2, 7, 30)
IDS = RNG.integers(1, 50, (30, 6))
MASK = (np.arange(6) < LENGTHS[:, None]).astype(int)
IDS[MASK == 0] = 0


class Items(Dataset):
    def __init__(self, items):
        self.items = list(items)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Hub:
    """The interface of Hugging Face's Dataset, which is no torch Dataset."""

    column_names = ("input_ids", "attention_mask", "label")

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Text(nn.Module):
    """Classifies the mean of the tokens that are not masked."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embed, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.float()[:, :, None]
        return {"logits": self.head((self.embed(input_ids) * mask).sum(1) / mask.sum(1))}


def ragged(i, label=True):
    item = {"input_ids": IDS[i, : LENGTHS[i]].tolist(), "attention_mask": [1] * LENGTHS[i]}
    return {**item, "label": int(Y[i])} if label else item


def padded(items):
    longest = max(len(item["input_ids"]) for item in items)

    def pad(values):
        return [row + [0] * (longest - len(row)) for row in values]

    batch = {
        name: torch.tensor(pad([item[name] for item in items]))
        for name in ("input_ids", "attention_mask")
    }
    if "label" in items[0]:
        batch["labels"] = torch.tensor([item["label"] for item in items])
    return batch


FIELDS = {"input_ids": IDS, "attention_mask": MASK}
OF_FIELDS = {
    "dict of arrays": FIELDS,
    "dict of tensors": {name: torch.from_numpy(values) for name, values in FIELDS.items()},
    "dict of lists": {name: values.tolist() for name, values in FIELDS.items()},
    "Dataset": Items({n: v[i] for n, v in FIELDS.items()} for i in range(30)),
    "Dataset with labels": Items(
        {**{n: v[i].tolist() for n, v in FIELDS.items()}, "labels": int(Y[i])} for i in range(30)
    ),
    "hub": Hub([{n: v[i].tolist() for n, v in FIELDS.items()} for i in range(30)]),
    "loader": DataLoader(Items(ragged(i) for i in range(30)), 8, collate_fn=padded),
    "shuffled loader": DataLoader(
        Items(ragged(i, label=False) for i in range(30)), 7, shuffle=True, collate_fn=padded
    ),
}


@pytest.fixture(scope="module")
def expected():
    module = Text()
    with torch.no_grad():
        logits = module(*map(torch.from_numpy, (IDS, MASK)))["logits"]
    return torch.softmax(logits.double(), 1).amax(1).numpy()


@pytest.mark.parametrize("name", OF_FIELDS)
def test_items_of_fields(name, expected):
    detector = skood.MSP(Text()).fit(OF_FIELDS[name])
    np.testing.assert_allclose(detector.score_samples(OF_FIELDS[name]), expected, rtol=1e-5)
    np.testing.assert_allclose(detector.score_samples(FIELDS), expected, rtol=1e-5)
    # Another set is padded to another length.
    shorter = {field: values[3:5, : LENGTHS[3:5].max()] for field, values in FIELDS.items()}
    np.testing.assert_allclose(detector.score_samples(shorter), expected[3:5], rtol=1e-5)


@pytest.mark.parametrize("name", ["Dataset with labels", "loader"])
def test_labels_of_fields(name):
    shared = skood.share_forward_pass(OF_FIELDS[name])
    np.testing.assert_array_equal(shared.labels, Y)
    np.testing.assert_array_equal(shared.subset(np.array([7, 2])).labels, Y[[7, 2]])
    scores = skood.SHE(Text()).fit(OF_FIELDS[name]).score_samples(FIELDS)
    np.testing.assert_allclose(scores, skood.SHE(Text()).fit(FIELDS, Y).score_samples(FIELDS), 1e-5)


def test_content_of_fields():
    shared = skood.share_forward_pass(FIELDS)
    reordered = dict(reversed(FIELDS.items()))
    assert shared.content() == skood.share_forward_pass(reordered).content()
    changed = {**FIELDS, "attention_mask": 1 - MASK}
    assert shared.content() != skood.share_forward_pass(changed).content()
    part = shared.subset(np.array([4, 9])).take(np.array([1, 0]))
    np.testing.assert_array_equal(part["input_ids"], IDS[[9, 4]])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**FIELDS, "text": ["a"] * 30}, "the field 'text' of X has dtype <U1; expected numbers"),
        ({**FIELDS, "more": IDS[:5]}, r"fields have \{'input_ids': 30.*'more': 5\} items"),
        ({**FIELDS, "one": 3}, r"'one': None\} items"),
        ({"x": np.array([[np.nan]] * 3)}, "the field 'x' of X contains NaN"),
        ({"x": np.zeros((1, 4))}, r"Found dict with 1 sample\(s\) while a minimum of 2"),
        (
            {**FIELDS, "extra": IDS},
            "X has the fields .*'extra'.*which the network Text does not take",
        ),
        ({"input_ids": IDS}, "X has the fields .*missing 1 required positional argument"),
    ],
)
def test_fields_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        skood.MSP(Text()).fit(fields)


@pytest.mark.parametrize("other", [{"input_ids": IDS}, {"ids": IDS, "attention_mask": MASK}, IDS])
def test_other_fields_than_in_fit(other):
    detector = skood.MSP(Text()).fit(FIELDS)
    with pytest.raises(ValueError, match=r"MSP was fitted on|MSP is expecting"):
        detector.score_samples(other)


@pytest.mark.parametrize(
    "model",
    [
        skood.MSP(skood.MLP()),
        skood.KNN(),
        skood.LogLikelihood(),
        skood.MLP(),
        skood.VAE(),
        skood.DeepSVDD(),
        skood.Typicality(),
        skood.InputComplexity(),
    ],
)
@pytest.mark.parametrize("X", [FIELDS, np.zeros((30, 2, 3, 4, 5))], ids=["fields", "volumes"])
def test_models_that_take_rows_and_images_say_so(model, X):
    message = (
        r"X has (fields 'input_ids'|shape \(30, 2, 3, 4, 5\)).*expected rows \(n, d\) or images"
    )
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)


class Linear(nn.Sequential):
    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


PAIRS = TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))


class TestLoader:
    @pytest.mark.parametrize(
        "settings",
        [
            {"batch_size": 8},
            {"batch_size": 8, "shuffle": True},
            {"batch_size": 7, "drop_last": True},
            {"batch_size": None},
        ],
        ids=str,
    )
    def test_is_read_in_the_order_of_its_dataset(self, settings):
        loader = DataLoader(PAIRS, **settings)
        detector = skood.MSP(Linear()).fit(loader)
        scores = skood.MSP(Linear()).fit(X).score_samples(X)
        np.testing.assert_array_equal(detector.score_samples(loader), scores)

    @pytest.mark.parametrize(
        "sampler", [SubsetRandomSampler(range(9)), WeightedRandomSampler([1.0] * 30, 30)]
    )
    def test_that_leaves_items_out(self, sampler):
        with pytest.raises(
            ValueError, match=r"may leave items out or repeat them.*give X\.dataset"
        ):
            skood.MSP(Linear()).fit(DataLoader(PAIRS, sampler=sampler))

    def test_of_a_stream(self):
        class Endless(IterableDataset):
            def __iter__(self):
                yield X[0]

        with pytest.raises(ValueError, match="X is a Endless, an IterableDataset"):
            skood.MSP(Linear()).fit(DataLoader(Endless()))

    @pytest.mark.parametrize(
        ("collate", "message"),
        [
            (
                lambda items: items[0][0],
                r"returns shape \(4,\) for 1 items; expected one row for each",
            ),
            (lambda items: {}["x"], "collate_fn of the DataLoader X failed .* KeyError: 'x'"),
            (
                lambda items: ["a"] * len(items),
                "is of type str and dtype <U1; expected a numeric array",
            ),
        ],
    )
    def test_with_a_collation_that_fails(self, collate, message):
        with pytest.raises(ValueError, match=message):
            skood.MSP(Linear()).fit(DataLoader(PAIRS, collate_fn=collate))

    def test_with_a_collation_of_other_shapes(self):
        def as_long_as_the_batch(items):
            return torch.zeros(len(items), len(items))

        loader = DataLoader(PAIRS, collate_fn=as_long_as_the_batch)
        with pytest.raises(ValueError, match=r"items of shape \(30,\) and \(1,\); pad them"):
            skood.KNN().fit(loader)

    def test_with_a_collation_of_pairs(self):
        loader = DataLoader(PAIRS, collate_fn=lambda items: torch.utils.data.default_collate(items))
        shared = skood.share_forward_pass(loader)
        np.testing.assert_array_equal(shared.take(np.array([4, 2])), X[[4, 2]])
        np.testing.assert_array_equal(shared.labels, Y)


class TestLabelsOfPairs:
    def test_train_a_classifier(self):
        settings = {"max_epochs": 2, "random_state": 0}
        expected = skood.MLP(**settings).fit(X, Y).decision_function(X)
        np.testing.assert_array_equal(
            skood.MLP(**settings).fit(PAIRS).decision_function(X), expected
        )
        detector = skood.MaxLogit(skood.MLP(**settings)).fit(PAIRS)
        np.testing.assert_array_equal(detector.classifier_.decision_function(X), expected)

    def test_reach_detectors_that_need_them(self):
        for detector in (skood.SHE(Linear()), skood.TemperatureScaling(Linear(), random_state=0)):
            scores = detector.fit(X, Y).score_samples(X)
            np.testing.assert_array_equal(detector.fit(PAIRS).score_samples(X), scores)

    def test_reach_calibrated_detectors(self):
        inner = skood.LogitNorm(skood.MLP((8,), max_epochs=30, learning_rate=0.005))
        detector = skood.TunedThreshold(inner, random_state=0)
        known = np.where(np.arange(30) < 6, -1, Y)
        pairs = TensorDataset(torch.from_numpy(X), torch.from_numpy(known))
        np.testing.assert_array_equal(
            detector.fit(pairs).score_samples(X), detector.fit(X, known).score_samples(X)
        )

    def test_are_not_asked_of_others(self):
        """A detector that needs no labels reads none, and what y says goes before."""
        pairs = Items((row, {"no": "label"}) for row in X)
        assert skood.KNN(n_neighbors=3).fit(pairs).score_samples(X).shape == (30,)
        with pytest.raises(ValueError, match="second part is no label, but of type dict; give"):
            skood.SHE(Linear()).fit(pairs)
        other = skood.SHE(Linear()).fit(pairs, Y)
        np.testing.assert_array_equal(
            other.score_samples(X), skood.SHE(Linear()).fit(PAIRS).score_samples(X)
        )

    def test_are_missing(self):
        for data in (TensorDataset(torch.from_numpy(X)), Items(X)):
            with pytest.raises(ValueError, match="requires y to be passed"):
                skood.SHE(Linear()).fit(data)


class Lazy:
    columns, dtypes = ("a",), ("f",)

    def collect(self):
        return X


class Image:
    def getbands(self):
        return ("R", "G", "B")


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (["a.png", "b.png"], "X contains strings or paths, such as 'a.png'.*ImageFolder"),
        (np.array(["a.png"]), "X contains strings or paths.*extractor of skood.embeddings"),
        (
            "a.png",
            r"X is 'a.png'; load it, and give an array.*ImageFolder.*\[text\]",
        ),
        ((row for row in X), r"X is a generator, whose items can be read only once.*np\.stack"),
        (map(np.asarray, X), "X is a map, whose items can be read only once"),
        (Lazy(), r"X is a Lazy, which has not been computed; give X\.collect\(\)"),
        (Image(), r"X is a single PIL image; give a batch, np\.asarray\(X\)\[None\]"),
        ([{"a": 1}], "X is a list of dicts; give one dict of arrays"),
    ],
    ids=["paths", "array of paths", "path", "generator", "map", "lazy frame", "image", "dicts"],
)
def test_what_is_no_data_yet(X, message):
    with pytest.raises(ValueError, match=message):
        check_data(BaseEstimator(), X, reset=True)


@pytest.mark.parametrize("shape", [(3, 9, 8), (1, 9, 8)])
def test_one_image_without_a_batch_axis(shape):
    images = RNG.random((12, *shape)).astype(np.float32)
    module = nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    detector = skood.MSP(nn.Sequential(module, nn.Linear(4, 3))).fit(images)
    if shape[0] == 1:
        assert detector.score_samples(images[0]).shape == (1,)
        return
    for one in (images[0], images[0].transpose(1, 2, 0), torch.from_numpy(images[0])):
        with pytest.raises(ValueError, match=r"if X is one item, give X\[None\]"):
            detector.score_samples(one)
    with pytest.raises(ValueError, match=r"if X is one item, give X\[None\]"):
        detector.classifier.predict(images[0])
