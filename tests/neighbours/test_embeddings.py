"""Extractors of networks of timm and torchvision, beside the libraries' own pipelines."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

import skood
from skood.embeddings import from_timm, from_torchvision

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
SIGLIP = "vit_base_patch16_siglip_224"


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    sizes = rng.integers(30, 70, (11, 2))
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]


def one_by_one(network, processor, pictures):
    with torch.no_grad():
        return torch.cat([network(processor(p)[None]) for p in pictures]).numpy()


def close(got, want):
    assert got.shape == want.shape
    # Items differ, so that the comparison means something.
    assert np.ptp(want, axis=0).max() > 1e-3 * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * np.abs(want).max())


class TestTimm:
    timm = pytest.importorskip("timm")

    def bare(self, network, pictures, **args):
        from timm.data import create_transform, resolve_data_config

        processor = create_transform(**resolve_data_config(args, model=network))
        return one_by_one(network.eval(), processor, pictures)

    def make(self, name, **settings):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.timm.create_model(name, **settings).eval()

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_nfnet"])
    def test_with_and_without_a_head(self, stir, pictures, name):
        whole = stir(self.make(name, num_classes=5))
        features = from_timm(whole).fit(pictures).transform(pictures)
        whole_again = pickle.loads(pickle.dumps(from_timm(whole)))
        headless = whole
        with torch.no_grad():
            logits = self.bare(headless, pictures)
        close(whole.get_classifier()(torch.from_numpy(features)).detach().numpy(), logits)
        np.testing.assert_array_equal(whole_again.transform(pictures), features)
        headless.reset_classifier(0)
        close(features, self.bare(headless, pictures))
        close(from_timm(headless).transform(pictures), features)

    @pytest.mark.parametrize("pooling", [None, "cls", "mean", "max"])
    def test_a_folder_of_weights(self, stir, pictures, tmp_path, pooling):
        from timm.models import save_for_hf

        network = stir(self.make("vit_tiny_patch16_224", num_classes=5, **VIT))
        config = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "crop_pct": 0.8}
        network.pretrained_cfg = {**network.pretrained_cfg, **config, "input_size": (3, 32, 32)}
        save_for_hf(network, tmp_path, model_args=VIT)
        name = f"local-dir:{tmp_path}"
        extractor = from_timm(name, pooling=pooling, device="cpu")
        global_pool = {"cls": "token", "mean": "avg"}.get(pooling, pooling)
        settings = {} if pooling is None else {"global_pool": global_pool}
        again = self.timm.create_model(name, pretrained=True, num_classes=0, **settings)
        features = extractor.transform(pictures)
        close(features, self.bare(again, pictures))
        if pooling in (None, "cls"):
            network.reset_classifier(0)
            close(features, self.bare(network, pictures))

    def test_settings(self, pictures):
        settings = {"in_chans": 1}
        with pytest.raises(ValueError, match=r"in_chans=1; give processor=.*mode='L'"):
            from_timm("test_resnet", pretrained=False, settings=settings)
        processor = v2.Compose([v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32)])
        grey = from_timm(
            "test_resnet", pretrained=False, settings=settings, processor=processor, mode="L"
        )
        assert grey.transform(pictures).shape[0] == len(pictures)
        vit = from_timm("test_vit", pretrained=False, settings={"img_size": 48}, dtype="float16")
        assert vit.transform(pictures).dtype == np.float16
        close(
            vit.set_params(dtype="float32").transform(pictures),
            self.bare(vit.module, pictures, img_size=48),
        )
        network = self.make("test_vit", num_classes=0)
        for settings in ({"pooling": "mean"}, {"settings": {"img_size": 48}}):
            with pytest.raises(ValueError, match=r"a network was given; pass it .*create_model"):
                from_timm(network, **settings)

    def test_hash(self):
        first, second = (from_timm(self.make("test_vit", num_classes=0)) for _ in range(2))
        assert joblib.hash(first) == joblib.hash(second)
        assert joblib.hash(pickle.loads(pickle.dumps(first))) == joblib.hash(first)

    def test_in_a_detector(self, pictures):
        extractor = from_timm(self.make("test_vit", num_classes=0))
        detector = skood.KNN(extractor, n_neighbors=3).fit(pictures)
        alone = detector.score_samples(pictures[3:4])
        whole = detector.score_samples(pictures)
        np.testing.assert_allclose(alone, whole[3:4], rtol=1e-3)


class TestTorchvision:
    models = pytest.importorskip("torchvision").models

    def test_a_network_by_name(self, pictures):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            extractor = from_torchvision("resnet18", weights=None, device="cpu")
        network = extractor.module.network
        processor = self.models.ResNet18_Weights.DEFAULT.transforms()
        logits = one_by_one(network, processor, pictures[:3])
        features = extractor.fit(pictures).transform(pictures[:3])
        close(network.fc(torch.from_numpy(features)).detach().numpy(), logits)
        with torch.random.fork_rng(devices=[]):
            network.fc = torch.nn.Identity()
        close(features, one_by_one(network, processor, pictures[:3]))

    @pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "vit"])
    def test_networks_that_are_given(self, stir, pictures, name):
        if name == "vit":
            network = self.models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=5)
        else:
            network = self.models.get_model(name, num_classes=5)
        network = stir(network)
        weights = self.models.ResNet50_Weights.IMAGENET1K_V2
        processor = weights.transforms(crop_size=32, resize_size=40)
        extractor = from_torchvision(network, processor=processor)
        features = extractor.fit(pictures).transform(pictures)
        head = network.get_submodule(extractor.module.head)
        close(
            head(torch.from_numpy(features)).detach().numpy(),
            one_by_one(network, processor, pictures),
        )
        loaded = pickle.loads(pickle.dumps(extractor))
        np.testing.assert_array_equal(loaded.transform(pictures), features)
        assert joblib.hash(loaded) == joblib.hash(extractor)

    def test_weights_choose_the_preprocessing(self, stir):
        network = stir(self.models.resnet18(num_classes=5))
        weights = self.models.ResNet18_Weights.IMAGENET1K_V1
        assert repr(from_torchvision(network, weights).processor) == repr(weights.transforms())
        for unknown in ("DEFAULT", None):
            with pytest.raises(ValueError, match=r"preprocessing .* is unknown; give weights="):
                from_torchvision(network, unknown)

    def test_networks_without_a_linear_head(self, pictures):
        processor = self.models.ResNet18_Weights.DEFAULT.transforms(crop_size=64, resize_size=64)
        with pytest.raises(ValueError, match=r"no linear layer.*FeatureExtractor"):
            from_torchvision(self.models.squeezenet1_1(num_classes=5), processor=processor)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4), torch.nn.ReLU())
        with pytest.raises(ValueError, match=r"not return the output of its last linear layer"):
            from_torchvision(network, processor=processor).transform(pictures)
