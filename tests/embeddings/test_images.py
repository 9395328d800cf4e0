"""Features of images: equal to those of the bare network, for every form of X."""

import pickle
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

import skood
from skood._torch.batching import has_aligned_rows
from skood.embeddings import ImageExtractor
from skood.model_selection import OODSplit, get_ood_scorer


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.fixture
def extractor(encoder, processor):
    return ImageExtractor(encoder, processor)


@pytest.fixture(scope="session")
def expected(encoder, processor, images, alone):
    return alone(encoder, processor, images)


def close(got, want, atol=1e-6):
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=atol * np.abs(want).max())


def forms(images, folder):
    arrays = [np.array(image) for image in images]
    objects = np.empty(len(images), object)
    objects[:] = images
    order = np.argsort([str(path) for path in folder])
    root = folder[0].parents[1]
    return {
        "images": images,
        "tuple": tuple(images),
        "objects": objects,
        "arrays": arrays,
        "channels first": [np.moveaxis(array, 2, 0) for array in arrays],
        "tensors": [torch.from_numpy(array).permute(2, 0, 1) for array in arrays],
        "paths": folder,
        "names": [str(path) for path in folder],
        "Series": pd.Series([str(path) for path in folder], index=np.arange(len(images))[::-1]),
        "frame": pd.DataFrame({"path": [str(path) for path in folder]}),
        "Dataset": Items(images),
        "pairs": Items([(image, 0) for image in images]),
        "dicts": Items([{"image": image, "label": 1} for image in images]),
        "DataLoader": DataLoader(Items(images), batch_size=7),
        "folder": Subset(ImageFolder(root), np.argsort(order)),
        "transformed folder": Subset(ImageFolder(root, v2.PILToTensor()), np.argsort(order)),
    }


@pytest.mark.parametrize(
    "form",
    [
        *("images", "tuple", "objects", "arrays", "channels first", "tensors", "paths", "names"),
        *("Series", "frame", "Dataset", "pairs", "dicts", "DataLoader", "folder"),
        "transformed folder",
    ],
)
def test_every_form_of_x(extractor, expected, images, folder, form):
    X = forms(images, folder)[form]
    close(extractor.transform(X), expected)
    # Detectors read X first.
    detector = skood.KNN(extractor, n_neighbors=3)
    scores = skood.KNN(n_neighbors=3, normalize=True).fit(expected).score_samples(expected)
    np.testing.assert_allclose(detector.fit(X).score_samples(X), scores, rtol=1e-4, atol=1e-6)


def test_images_of_one_size_as_an_array(extractor, encoder, processor, alone):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 30, 24, 3), dtype=np.uint8)
    want = alone(encoder, processor, [Image.fromarray(p) for p in pixels])
    close(extractor.transform(pixels), want)
    close(extractor.transform(pixels.transpose(0, 3, 1, 2)), want)
    close(extractor.transform(torch.from_numpy(pixels)), want)
    close(extractor.transform(skood.share_forward_pass(pixels)), want)
    grey = pixels[..., 0]
    want = alone(encoder, processor, [Image.fromarray(p) for p in grey])
    close(extractor.transform(grey), want)


def test_modes_become_those_of_the_network(extractor, encoder, processor, alone, images):
    first = images[0]
    others = [first.convert(mode) for mode in ("L", "P", "RGBA", "CMYK", "1", "LA")]
    close(extractor.transform(others), alone(encoder, processor, others))


def test_features_depend_on_the_item_alone(extractor, images):
    whole = extractor.transform(images)
    # The same bits in batches of one shape.
    turned = extractor.set_params(batch_size=8).transform(images[::-1])[::-1]
    np.testing.assert_array_equal(turned, extractor.transform(images))
    for batch_size in (1, 3, 64):
        other = extractor.set_params(batch_size=batch_size).transform(images)
        close(other, whole)


@pytest.mark.parametrize("n_features", [8, 16])
def test_the_same_bits_at_any_position(images, processor, n_features):
    """Rows of 16 values need no padding to be aligned."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, n_features, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        network = nn.Sequential(*layers, nn.Linear(n_features, 33), nn.ReLU(), nn.Linear(33, 5))
    assert has_aligned_rows(network[:4]) == (n_features == 16)
    assert not has_aligned_rows(network)
    for module in (network, network[:4]):
        extractor = ImageExtractor(module, processor, batch_size=8)
        whole = extractor.transform(images)
        for shift in (1, 3, 6):
            rolled = extractor.transform(images[shift:] + images[:shift])
            np.testing.assert_array_equal(np.roll(rolled, shift, 0), whole)


def test_a_network_that_reads_its_batch(processor, images):
    class Centred(nn.Module):
        def forward(self, x):
            x = x.flatten(1)
            return x[:, :4] - x[:, :4].mean(0)

    extractor = ImageExtractor(Centred(), processor)
    for call in (extractor.fit, extractor.transform):
        with pytest.raises(ValueError, match=r"differ from .* of the item alone.*batch_size=1"):
            call(images)
    close(extractor.set_params(batch_size=1).transform(images[:3]) + 1, np.ones((3, 4)))


class Padding:
    """Image processor that pads all images to the largest of a batch."""

    def to_dict(self):
        return {}

    def __call__(self, images, return_tensors):
        height, width = (max(image.size[k] for image in images) for k in (1, 0))
        pixels = torch.zeros(len(images), 3, height, width)
        for i, image in enumerate(images):
            x = v2.functional.pil_to_tensor(image) / 255
            pixels[i, :, : x.shape[1], : x.shape[2]] = x
        return {"x": pixels}


class Named(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)


def test_a_processor_that_pads(encoder, images):
    extractor = ImageExtractor(Named(encoder), Padding())
    with pytest.raises(ValueError, match=r"Padding makes other 'x' of an image.*batch_size=1"):
        extractor.fit(images)
    features = extractor.set_params(batch_size=1).fit(images).transform(images[:3])
    close(extractor.transform(images[:1]), features[:1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtype(extractor, expected, images, dtype):
    features = extractor.set_params(dtype=dtype).transform(images)
    assert features.dtype == dtype
    close(features.astype(np.float64), expected, 1e-3 if dtype == "float16" else 1e-6)


def test_too_large_for_half_precision(encoder, processor, images):
    with torch.no_grad():
        large = nn.Sequential(encoder, nn.Linear(5, 2))
        large[1].weight.fill_(1e6)
    with pytest.raises(ValueError, match=r"magnitude .*float16.*dtype='float32'"):
        ImageExtractor(large, processor, dtype="float16").transform(images)
    assert np.isfinite(ImageExtractor(large, processor).transform(images)).all()
    large[1].weight.data[:] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        ImageExtractor(large, processor).transform(images[:1])


def test_normalize(extractor, expected, images):
    features = extractor.set_params(normalize=True).transform(images)
    close(features, expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_half_precision_of_the_network(encoder, processor, images, expected):
    half = pickle.loads(pickle.dumps(ImageExtractor(encoder, processor))).module.bfloat16()
    features = ImageExtractor(half, processor).transform(images)
    assert features.dtype == np.float32
    close(features, expected, 0.1)


class Tokens(nn.Module):
    """Makes a token of each row of pixels, as a tensor or with its own vector."""

    def forward(self, x):
        return x.mean(1)


class Maps(nn.Module):
    def forward(self, x):
        return x


def test_pooling_of_maps_and_tokens(processor, images):
    with torch.no_grad():
        x = torch.stack([processor(image) for image in images]).numpy()
    maps = ImageExtractor(Maps(), processor)
    close(maps.set_params(pooling="mean").transform(images), x.mean((2, 3)))
    close(maps.set_params(pooling="max").transform(images), x.max((2, 3)))
    close(
        maps.set_params(pooling=lambda maps, mask: maps[:, :, 0, 0]).transform(images),
        x[:, :, 0, 0],
    )
    tokens = ImageExtractor(Tokens(), processor)
    close(tokens.set_params(pooling="cls").transform(images), x.mean(1)[:, 0])
    close(tokens.set_params(pooling="last").transform(images), x.mean(1)[:, -1])
    function = tokens.set_params(pooling=lambda tokens, mask: (tokens * mask[:, :, None]).sum(1))
    close(function.transform(images), x.mean(1).sum(1))
    for extractor, pooling, said in [
        (maps, None, r"shape \(32, 3, 16, 16\).*Pool tokens or maps"),
        (maps, "cls", r"maps of shape.*'mean', 'max' or a function"),
        (tokens, None, "one vector for each item"),
        (tokens, "mean", r"unknown which are its patches.*lambda tokens"),
        (tokens, lambda tokens, mask: tokens, "the function pooling= returns shape"),
        (ImageExtractor(nn.Flatten(), processor), "mean", "give pooling=None"),
    ]:
        with pytest.raises(ValueError, match=said):
            extractor.set_params(pooling=pooling).transform(images)


def test_patches_alone_are_averaged(processor, images):
    """Tokens before the patches, whose number the configuration tells, are left out."""

    class Vit(Tokens):
        config = type("Config", (), {"patch_size": 4})()

        def forward(self, x):
            patches = nn.functional.avg_pool2d(x, 4).flatten(2).mT
            before = 7 * torch.ones_like(patches[:, :2])
            return torch.cat([before, patches], 1)

    want = np.stack([processor(image).numpy().mean((1, 2)) for image in images])
    close(ImageExtractor(Vit(), processor, pooling="mean").transform(images), want)


def test_in_estimators_of_scikit_learn(extractor, expected, images):
    piped = make_pipeline(extractor, skood.KNN(n_neighbors=3)).fit(images)
    alone = skood.KNN(n_neighbors=3).fit(expected)
    np.testing.assert_allclose(
        piped.score_samples(images[:5]), alone.score_samples(expected[:5]), rtol=1e-4, atol=1e-6
    )
    calibrated = skood.ConformalDetector(clone(piped), alpha=0.2, random_state=0)
    with pytest.warns(UserWarning, match="ImageExtractor.* was trained before"):
        calibrated.fit(images)
    assert set(calibrated.predict(images)) <= {-1, 1}
    y = np.r_[np.zeros(30, int), -np.ones(10, int)]
    search = GridSearchCV(
        piped,
        {"knn__n_neighbors": [1, 2], "imageextractor__normalize": [False, True]},
        scoring=get_ood_scorer("auroc"),
        cv=OODSplit(2),
        refit=False,
    ).fit(images, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    names = extractor.fit(images).get_feature_names_out()
    assert list(names) == [f"imageextractor{i}" for i in range(5)]
    frame = clone(extractor).set_output(transform="pandas").fit_transform(images)
    close(frame.to_numpy(), expected)


@pytest.mark.filterwarnings("ignore:.*was trained before")
def test_one_item_of_a_detector(extractor, images):
    """It has a shape of its own, which a list of images of unequal sizes has not."""
    for detector in (
        skood.KNN(extractor, n_neighbors=3),
        make_pipeline(extractor, skood.KNN(n_neighbors=3)),
        skood.TunedThreshold(skood.KNN(extractor, n_neighbors=3)),
    ):
        y = np.where(np.arange(len(images)) < 35, 0, -1)
        scores = detector.fit(images, y).score_samples(images)
        for i in range(3):
            alone = detector.score_samples(images[i : i + 1])
            np.testing.assert_allclose(alone, scores[i : i + 1], rtol=1e-4, atol=1e-6)


def test_features_of_a_detector_are_normalised_as_those_of_a_network(extractor, images):
    assert skood.KNN(extractor, n_neighbors=3).fit(images).normalizes_
    assert not make_pipeline(extractor, skood.KNN(n_neighbors=3)).fit(images)[-1].normalizes_


def test_detectors_share_a_pass(extractor, images):
    runs = []
    extractor.module.register_forward_hook(lambda *_: runs.append(1))
    shared = skood.share_forward_pass(images)
    first = extractor.transform(shared)
    n_runs = len(runs)
    np.testing.assert_array_equal(extractor.transform(shared), first)
    rows = np.array([4, 2])
    np.testing.assert_array_equal(extractor.transform(shared.subset(rows)), first[rows])
    assert len(runs) == n_runs
    extractor.set_params(normalize=True).transform(shared)
    assert len(runs) > n_runs
    extractor.module._forward_hooks.clear()


def test_clone_pickle_and_hash(extractor, images, expected):
    assert clone(extractor).module is extractor.module
    loaded = pickle.loads(pickle.dumps(extractor.fit(images)))
    np.testing.assert_array_equal(loaded.transform(images), extractor.transform(images))
    assert joblib.hash(loaded) == joblib.hash(extractor)
    other = clone(extractor).fit(images)
    assert joblib.hash(other) == joblib.hash(extractor)
    assert joblib.hash(other.set_params(normalize=True)) != joblib.hash(extractor)
    resized = v2.Compose([v2.Resize(21), *extractor.processor.transforms[1:]])
    assert joblib.hash(clone(extractor).set_params(processor=resized)) != joblib.hash(extractor)


def test_modes_of_the_network_are_restored(extractor, images, expected):
    extractor.module.train()
    close(extractor.transform(images), expected)
    assert all(part.training for part in extractor.module.modules())
    extractor.module.eval()


def test_workers_make_the_same_features(extractor, images):
    whole = extractor.transform(images)
    np.testing.assert_array_equal(extractor.set_params(n_workers=2).transform(images), whole)


def test_saving_is_refused_with_a_remedy(extractor, images, tmp_path):
    said = r"ImageExtractor, which skood.save does not store.*save this detector"
    for given in (
        extractor,
        skood.KNN(extractor, n_neighbors=3).fit(images),
        make_pipeline(extractor, skood.KNN(n_neighbors=3)).fit(images),
    ):
        with pytest.raises(Exception, match=said):
            skood.save(given, tmp_path / "file")


BAD = {
    "no items": ([], "found 0 items"),
    "one path": ("image.png", r"one item of type str.*ImageFolder"),
    "one image": (Image.new("RGB", (9, 9)), r"one item of type Image.*\[X\]"),
    "a generator": ((i for i in "ab"), "whose items have no index"),
    "a number": ([3], r"X\[0\] is of type int"),
    "a text": (["a photo of a cat"], r"no such file.*text tower"),
    "floats": (np.zeros((2, 8, 8, 3)), r"dtype float64.*uint8"),
    "signed": (np.zeros((2, 8, 8, 3), np.int64), r"dtype int64.*uint8"),
    "deep": ([Image.new("I;16", (9, 9))], r"mode I;16.*more than 8 bits"),
    "rows": (np.zeros((2, 8), np.uint8), r"X\[0\] has shape \(8,\), which is no image"),
    "no pixels": ([np.zeros((0, 4, 3), np.uint8)], "which is no image"),
    "many channels": ([np.zeros((8, 9, 7), np.uint8)], "without channels"),
    "ambiguous": ([np.zeros((3, 9, 3), np.uint8)], "may be the first or the last axis"),
    "fields": ({"input_ids": np.ones((2, 3), int)}, "a dict of fields, but this extractor"),
    "two columns": (pd.DataFrame({"a": ["x"], "b": ["y"]}), "2 columns"),
    "two fields": (Items([{"a": 1, "b": 2}]), r"fields \['a', 'b'\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_items(extractor, name):
    X, said = BAD[name]
    for call in (extractor.transform, extractor.fit):
        with pytest.raises(ValueError, match=said):
            call(X)


def test_a_later_bad_item_is_named(extractor, images, tmp_path):
    broken = tmp_path / "broken.png"
    images[0].save(broken)
    broken.write_bytes(broken.read_bytes()[:100])
    for item, said in [
        (broken, r"X\[37\], .*broken.png, cannot be read"),
        (tmp_path / "none.png", r"X\[37\] is .*no such file"),
        (tmp_path, r"X\[37\].*cannot be read"),
    ]:
        with pytest.raises(ValueError, match=said):
            extractor.transform([*images[:37], item])


def test_unequal_sizes_without_a_resize(encoder, images):
    convert = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    with pytest.raises(ValueError, match=r"X\[1\] has shape.*one size.*Resize"):
        ImageExtractor(encoder, convert).transform(images)


def test_a_network_for_other_images(processor, images):
    said = r"images of \(3, 16, 16\).*signals|images of 4 channel.*ended in RuntimeError"
    with pytest.raises(ValueError, match=said):
        ImageExtractor(nn.Conv2d(4, 2, 3), processor).transform(images)


def test_a_failing_processor(encoder, images):
    def fails(image):
        raise RuntimeError("no")

    with pytest.raises(ValueError, match=r"preprocessing of X\[0\] failed, RuntimeError: no"):
        ImageExtractor(encoder, fails).transform(images)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"pooling": "median"}, "pooling"),
        ({"dtype": "int8"}, "dtype"),
        ({"batch_size": 0}, "batch_size"),
        ({"n_workers": -1}, "n_workers"),
        ({"processor": None}, "processor"),
        ({"module": None}, "module"),
    ],
)
def test_bad_parameters(extractor, images, settings, said):
    with pytest.raises(ValueError, match=f"The '{said}' parameter"):
        extractor.set_params(**settings).fit(images)


def test_data_loaders_that_change_items(extractor, images):
    loader = DataLoader(Items(images), collate_fn=lambda items: items)
    with pytest.raises(ValueError, match=r"collate_fn of its own.*X.dataset"):
        extractor.transform(loader)


def test_global_generators_are_left_alone(extractor, images):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    extractor.fit(images).transform(images)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_warnings(extractor, images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        skood.KNN(extractor, n_neighbors=3).fit(images).predict(images)


def test_labels_of_a_folder_are_read_without_its_images(folder, monkeypatch):
    data = ImageFolder(folder[0].parents[1])
    loaded = []
    monkeypatch.setattr(ImageFolder, "__getitem__", lambda *args: loaded.append(args))
    labels = skood._data.streams._Reader.labels
    reader = type("Reader", (), {"dataset": data})()
    np.testing.assert_array_equal(labels(reader, np.array([0, 39, 3])), [0, 1, 0])
    assert loaded == []
