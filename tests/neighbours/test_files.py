"""Files of detectors on networks of timm, torchvision and transformers, without their source."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import skood

# Loads a file where the libraries of networks cannot be imported.
LOADS_ALONE = """
import sys
for name in ("timm", "torchvision", "transformers"):
    sys.modules[name] = None
import numpy as np
import torch
import skood
torch.set_num_threads(1)
np.save(sys.argv[3], skood.load(sys.argv[1]).score_samples(dict(np.load(sys.argv[2]))))
"""


def timm_network(name, **settings):
    def make():
        return pytest.importorskip("timm").create_model(name, num_classes=5, **settings)

    return make


def torchvision_network(name, **settings):
    def make():
        models = pytest.importorskip("torchvision").models
        return models.get_model(name, weights=None, num_classes=5, **settings)

    return make


def of_transformers(kind, **settings):
    def make():
        hf = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = getattr(hf, f"{kind.split('For')[0]}Config")
        return getattr(hf, kind)(config(**sizes, intermediate_size=32, num_labels=5, **settings))

    return make


TEXT = {"vocab_size": 50, "pad_token_id": 0}
OF_IMAGES = {
    "ResNet-18": torchvision_network("resnet18"),
    "ViT of timm": timm_network(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=2
    ),
    "ConvNeXt of timm": timm_network("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)),
    "ViT of transformers": of_transformers(
        "ViTForImageClassification", image_size=32, patch_size=8
    ),
}
OF_TOKENS = {
    "BERT": of_transformers("BertForSequenceClassification", **TEXT),
    "Llama": of_transformers("LlamaForSequenceClassification", **TEXT),
}


def check(detector, X, path):
    loaded = skood.load(path)
    for n in (1, 2, 20):
        some = {name: X[name][:n] for name in X} if isinstance(X, dict) else X[:n]
        np.testing.assert_array_equal(loaded.score_samples(some), detector.score_samples(some))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_images(name, build, images, tmp_path):
    module, X = build(OF_IMAGES[name]), images()
    # Reads logits, features and the weights of the last layer.
    detector = skood.ReAct(module).fit(X)
    skood.save(detector, tmp_path / "file")
    check(detector, X, tmp_path / "file")


@pytest.mark.parametrize("name", OF_TOKENS)
def test_tokens_of_any_length(name, build, tokens, tmp_path):
    module, X = build(OF_TOKENS[name]), tokens(20)
    detector = skood.Energy(module).fit(X)
    skood.save(detector, tmp_path / "file")
    check(detector, X, tmp_path / "file")
    check(detector, tokens(20, length=17), tmp_path / "file")


def test_without_the_source(build, tokens, tmp_path):
    X = tokens(20)
    detector = skood.Energy(build(OF_TOKENS["BERT"])).fit(X)
    paths = [str(tmp_path / part) for part in ("file", "data.npz", "scores.npy")]
    skood.save(detector, paths[0])
    np.savez(paths[1], **X)
    subprocess.run([sys.executable, "-c", LOADS_ALONE, *paths], check=True, timeout=300)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        expected = detector.score_samples(X)
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_array_equal(np.load(paths[2]), expected)
