"""Extractors of networks of transformers, beside the library's own pipelines, item by item."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.pipeline import make_pipeline

import skood
from skood.embeddings import (
    AudioExtractor,
    ImageExtractor,
    TextExtractor,
    clip_pair,
    from_huggingface,
)

hf = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 32}
IMAGE = {"image_size": 32, "patch_size": 8}
WORDS = "[PAD] [UNK] [BOS] [EOS] a cat dog sat on the mat ran far away and came back home".split()
N = len(WORDS)
TOKENS = {"vocab_size": N, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
LAYERS = {"num_layers": 2, "num_heads": 2, "d_model": 16, "d_kv": 8, "d_ff": 32}
SOUND = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 5,
}
TEXTS = [
    "a cat sat on the mat",
    "dog",
    "the dog ran far away and came back home",
    "a cat and a dog",
    "home",
    "the cat ran",
    "a dog sat on the cat",
] * 5


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    sizes = rng.integers(30, 70, (11, 2))
    return [Image.fromarray(rng.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in sizes]


@pytest.fixture(scope="module")
def waves():
    rng = np.random.default_rng(0)
    return [rng.normal(size=n).astype(np.float32) for n in rng.integers(400, 2000, 11)]


def tokenizer(**settings):
    model = tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[BOS]", "eos_token": "[EOS]"}
    settings = {**names, "model_input_names": ["input_ids", "attention_mask"], **settings}
    return hf.PreTrainedTokenizerFast(tokenizer_object=made, **settings)


def network(kind, config, **settings):
    return lambda: getattr(hf, kind)(getattr(hf, f"{config}Config")(**settings))


def close(got, want, tolerance=3e-6):
    assert got.shape == want.shape
    assert np.ptp(want, axis=0).max() > 1e-2 * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


POOL = {
    "cls": lambda out: out.last_hidden_state[:, 0],
    "last": lambda out: out.last_hidden_state[:, -1],
    "max": lambda out: out.last_hidden_state.amax(1),
    "mean": lambda out: out.last_hidden_state.mean(1),
    None: lambda out: out.pooler_output,
}


def item_by_item(module, inputs, pool):
    with torch.no_grad():
        return torch.cat([pool(module(**x)) for x in inputs]).numpy()


GPT = network("GPT2Model", "GPT2", n_embd=16, n_layer=2, n_head=2, n_positions=32, **TOKENS)
OF_TEXT = {
    "BERT": network("BertModel", "Bert", max_position_embeddings=32, **TOKENS, **SIZES),
    "RoBERTa": network("RobertaModel", "Roberta", max_position_embeddings=32, **TOKENS, **SIZES),
    "DistilBERT": network("DistilBertModel", "DistilBert", dim=16, n_layers=2, n_heads=2, **TOKENS),
    "GPT-2": GPT,
    "Llama": network("LlamaModel", "Llama", max_position_embeddings=32, **TOKENS, **SIZES),
    "T5": network("T5Model", "T5", decoder_start_token_id=0, **LAYERS, **TOKENS),
}

CAUSAL = ("GPT-2", "Llama")


class TestTexts:
    @pytest.mark.parametrize("pooling", ["cls", "last", "max", "mean"])
    @pytest.mark.parametrize("name", OF_TEXT)
    def test_item_by_item(self, build, name, pooling):
        module, read = build(OF_TEXT[name]), tokenizer(model_max_length=32)
        bare = module.get_encoder() if name == "T5" else module
        inputs = [read([text], return_tensors="pt") for text in TEXTS]
        want = item_by_item(bare, inputs, POOL[pooling])
        extractor = from_huggingface(module, processor=read, pooling=pooling)
        assert isinstance(extractor, TextExtractor)
        if pooling == "cls" and name in CAUSAL:
            np.testing.assert_allclose(extractor.transform(TEXTS), want, atol=1e-6)
            with pytest.raises(ValueError, match=r"same first token.*'last' or 'mean'"):
                extractor.fit(TEXTS)
            return
        close(extractor.fit(TEXTS).transform(TEXTS), want)
        rotated = extractor.set_params(batch_size=4).transform(TEXTS[::-1])[::-1]
        close(rotated, want)

    def test_the_default_is_the_mean(self, build):
        module, read = build(OF_TEXT["BERT"]), tokenizer()
        default = from_huggingface(module, processor=read).transform(TEXTS)
        stated = from_huggingface(module, processor=read, pooling="mean").transform(TEXTS)
        np.testing.assert_array_equal(default, stated)

    @pytest.mark.parametrize("name", ["BERT", "GPT-2", "Llama"])
    def test_padding_on_the_left(self, build, name):
        """Where a network counts positions from the left edge, padding there is an error."""
        module = build(OF_TEXT[name])
        read = tokenizer(padding_side="left")
        extractor = from_huggingface(module, processor=read, pooling="last")
        if name != "Llama":
            with pytest.raises(ValueError, match="depend on padding"):
                extractor.fit(TEXTS)
            return
        # Rotary positions are relative.
        inputs = [read([text], return_tensors="pt") for text in TEXTS]
        want = item_by_item(module, inputs, POOL["last"])
        close(extractor.fit(TEXTS).transform(TEXTS), want, 3e-5)

    @pytest.mark.parametrize(
        ("name", "longest"), [("BERT", 32), ("RoBERTa", 31), ("GPT-2", 32), ("Llama", 32)]
    )
    def test_the_longest_text_of_a_network(self, build, name, longest):
        """RoBERTa's positions begin after that of padding, here 0."""
        extractor = from_huggingface(build(OF_TEXT[name]), processor=tokenizer())
        fits = ["cat " * (longest - 2)]
        assert np.isfinite(extractor.transform(fits)).all()
        too_long = ["cat " * (longest - 1)]
        said = rf"X\[0\] has {longest + 1} tokens, but at most {longest}.*truncation=True"
        with pytest.raises(ValueError, match=said):
            extractor.transform(too_long)
        cut = extractor.set_params(truncation=True).transform(too_long)
        np.testing.assert_array_equal(cut, extractor.transform(fits))

    def test_a_network_without_a_limit(self, build):
        extractor = from_huggingface(build(OF_TEXT["T5"]), processor=tokenizer())
        assert np.isfinite(extractor.transform(["cat " * 100])).all()

    def test_without_a_pad_token(self, build):
        read = tokenizer(pad_token=None)
        extractor = from_huggingface(build(GPT), processor=read)
        with pytest.raises(ValueError, match=r"tokenizer\.pad_token = tokenizer"):
            extractor.transform(TEXTS)
        want = from_huggingface(build(GPT), processor=tokenizer()).transform(TEXTS)
        read.pad_token = read.eos_token
        close(extractor.transform(TEXTS), want)

    def test_tokens_of_the_tokenizer(self, build):
        read = tokenizer()
        extractor = from_huggingface(build(OF_TEXT["BERT"]), processor=read)
        want = extractor.transform(TEXTS)
        for kind in ("np", "pt"):
            close(extractor.transform(read(TEXTS, padding=True, return_tensors=kind)), want)
        detector = skood.KNN(extractor, n_neighbors=2).fit(TEXTS)
        assert np.isfinite(detector.score_samples(TEXTS[:1])).all()

    def test_a_tokenizer_of_another_network(self, build):
        small = network("BertModel", "Bert", vocab_size=7, max_position_embeddings=32, **SIZES)
        with pytest.raises(ValueError, match=r"X\[0\] has the token id .*0 to 6.*another network"):
            from_huggingface(build(small), processor=tokenizer()).transform(TEXTS)

    def test_a_head_is_left_out(self, build):
        head = build(
            network("BertForMaskedLM", "Bert", max_position_embeddings=32, **TOKENS, **SIZES)
        )
        extractor = from_huggingface(head, processor=tokenizer())
        want = from_huggingface(head.bert, processor=tokenizer()).transform(TEXTS)
        np.testing.assert_array_equal(extractor.transform(TEXTS), want)

    def test_hash_and_pickle(self, build):
        module = build(OF_TEXT["BERT"])
        extractor = from_huggingface(module, processor=tokenizer())
        before = joblib.hash(extractor)
        extractor.set_params(truncation=True).transform(TEXTS)
        extractor.set_params(truncation=False)
        loaded = pickle.loads(pickle.dumps(extractor))
        np.testing.assert_array_equal(loaded.transform(TEXTS), extractor.transform(TEXTS))
        assert joblib.hash(extractor) == joblib.hash(loaded) == before
        other = from_huggingface(module, processor=tokenizer(model_max_length=20))
        assert joblib.hash(other) != before

    def test_threads_share_a_tokenizer(self, build):
        module, read = build(OF_TEXT["BERT"]), tokenizer()
        made = [
            from_huggingface(module, processor=read, truncation=True, max_length=n, batch_size=2)
            for n in (3, 4, 5, 6)
        ]
        want = [extractor.transform(TEXTS) for extractor in made]
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda extractor: extractor.transform(TEXTS), made * 3)
            for got, expected in zip(found, want * 3, strict=True):
                np.testing.assert_array_equal(got, expected)

    def test_no_warnings_of_the_tokenizer(self, build, capfd):
        extractor = from_huggingface(build(OF_TEXT["BERT"]), processor=tokenizer())
        piped = make_pipeline(extractor, skood.KNN(n_neighbors=2, verbose=False))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            piped.fit(TEXTS).predict(TEXTS)
        assert capfd.readouterr().err == ""


OF_IMAGES = {
    "ViT": (network("ViTModel", "ViT", **IMAGE, **SIZES), 1),
    "DeiT": (network("DeiTModel", "DeiT", **IMAGE, **SIZES), 2),
    "DINOv2": (network("Dinov2Model", "Dinov2", **IMAGE, **SIZES), 1),
    "registers": (
        network("Dinov2WithRegistersModel", "Dinov2WithRegisters", **IMAGE, **SIZES),
        5,
    ),
}


class TestImages:
    def processor(self):
        return hf.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3])

    @pytest.mark.parametrize("pooling", ["cls", "mean", None])
    @pytest.mark.parametrize("name", OF_IMAGES)
    def test_item_by_item(self, build, pictures, name, pooling):
        make, n_before = OF_IMAGES[name]
        module, read = build(make), self.processor()
        inputs = [read(picture, return_tensors="pt") for picture in pictures]
        pool = POOL[pooling]
        if pooling == "mean":
            # Of patches alone.
            def pool(out):
                return out.last_hidden_state[:, n_before:].mean(1)

        want = item_by_item(module, inputs, pool)
        extractor = from_huggingface(module, processor=read, pooling=pooling)
        assert isinstance(extractor, ImageExtractor)
        close(extractor.fit(pictures).transform(pictures), want)
        loaded = pickle.loads(pickle.dumps(extractor))
        assert joblib.hash(loaded) == joblib.hash(extractor)
        np.testing.assert_array_equal(loaded.transform(pictures), extractor.transform(pictures))

    def test_maps(self, build, pictures):
        sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
        module, read = build(network("ConvNextModel", "ConvNext", **sizes)), self.processor()
        inputs = [read(picture, return_tensors="pt") for picture in pictures]
        for pooling, pool in [
            (None, lambda out: out.pooler_output),
            ("mean", lambda out: out.last_hidden_state.mean((2, 3))),
            ("max", lambda out: out.last_hidden_state.amax((2, 3))),
        ]:
            want = item_by_item(module, inputs, pool)
            made = from_huggingface(module, processor=read, pooling=pooling)
            close(made.transform(pictures), want)

    def test_patches_of_unknown_number(self, build, pictures):
        sizes = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
        swin = build(network("SwinModel", "Swin", image_size=32, patch_size=4, **sizes))
        extractor = from_huggingface(swin, processor=self.processor(), pooling="mean")
        with pytest.raises(ValueError, match=r"unknown which are its patches"):
            extractor.transform(pictures)

    def test_a_processor_that_does_not_resize(self, build, pictures):
        module = build(OF_IMAGES["ViT"][0])
        read = hf.ViTImageProcessor(do_resize=False)
        said = r"(?s)images X\[0\] to X\[7\], of the sizes .*do_resize"
        with pytest.raises(ValueError, match=said):
            from_huggingface(module, processor=read).fit(pictures)


class TestSound:
    def read(self, **settings):
        return hf.Wav2Vec2FeatureExtractor(**settings)

    def test_item_by_item(self, build, waves):
        settings = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
        module = build(network("Wav2Vec2Model", "Wav2Vec2", **SOUND, **SIZES, **settings))
        read = self.read(return_attention_mask=True)
        inputs = [read(wave, sampling_rate=16_000, return_tensors="pt") for wave in waves]
        want = item_by_item(module, inputs, POOL["mean"])
        extractor = from_huggingface(module, processor=read, sampling_rate=16_000)
        assert isinstance(extractor, AudioExtractor)
        close(extractor.fit(waves).transform(waves), want)
        loaded = pickle.loads(pickle.dumps(extractor))
        assert joblib.hash(loaded) == joblib.hash(extractor)
        np.testing.assert_array_equal(loaded.transform(waves), extractor.transform(waves))

    def test_a_network_that_was_trained_without_masks(self, build, waves):
        """Its first normalisation reads padding, so that waveforms have to be run alone."""
        settings = {"feat_extract_norm": "group"}
        module = build(network("Wav2Vec2Model", "Wav2Vec2", **SOUND, **SIZES, **settings))
        extractor = from_huggingface(module, processor=self.read(), sampling_rate=16_000)
        with pytest.raises(ValueError, match=r"depend on padding.*batch_size=1"):
            extractor.fit(waves)
        read = self.read()
        inputs = [read(wave, sampling_rate=16_000, return_tensors="pt") for wave in waves]
        want = item_by_item(module, inputs, POOL["mean"])
        close(extractor.set_params(batch_size=1).fit(waves).transform(waves), want)

    def test_whisper(self, build, waves):
        sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 16}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        settings = {"max_source_positions": 100, "num_mel_bins": 80, **TOKENS}
        module = build(network("WhisperModel", "Whisper", **sizes, **heads, **settings))
        read = hf.WhisperFeatureExtractor(chunk_length=2)
        inputs = [read(wave, sampling_rate=16_000, return_tensors="pt") for wave in waves]
        masks = [
            read(wave, sampling_rate=16_000, return_attention_mask=True)["attention_mask"][0]
            for wave in waves
        ]
        with torch.no_grad():
            hidden = [module.get_encoder()(**x).last_hidden_state[0].numpy() for x in inputs]
        want = np.stack(
            [h[np.asarray(m)[::2] > 0].mean(0) for h, m in zip(hidden, masks, strict=True)]
        )
        extractor = from_huggingface(module, processor=read, sampling_rate=16_000)
        close(extractor.fit(waves).transform(waves), want)
        with pytest.raises(ValueError, match=r"40000 samples.*at most 32000 \(2 seconds\)"):
            extractor.transform([np.ones(40_000, np.float32)])

    def test_a_spectrogram(self, build, waves):
        sizes = {"max_length": 64, "num_mel_bins": 32, "patch_size": 16}
        module = build(network("ASTModel", "AST", **sizes, **SIZES))
        read = hf.ASTFeatureExtractor(max_length=64, num_mel_bins=32)
        inputs = [read(wave, sampling_rate=16_000, return_tensors="pt") for wave in waves]
        want = item_by_item(module, inputs, lambda out: out.pooler_output)
        extractor = from_huggingface(module, processor=read, sampling_rate=16_000, pooling=None)
        close(extractor.fit(waves).transform(waves), want)
        with pytest.raises(ValueError, match=r"20000 samples.*at most 10240"):
            extractor.transform([np.ones(20_000, np.float32)])

    def test_the_sampling_rate_has_to_be_stated(self, build, waves):
        settings = {"feat_extract_norm": "layer"}
        module = build(network("Wav2Vec2Model", "Wav2Vec2", **SOUND, **SIZES, **settings))
        with pytest.raises(ValueError, match=r"give sampling_rate=.*expects 16000"):
            from_huggingface(module, processor=self.read())
        extractor = from_huggingface(module, processor=self.read(), sampling_rate=8_000)
        with pytest.raises(ValueError, match=r"trained on 16000.*resample_poly"):
            extractor.transform(waves)


def clip():
    text = {**SIZES, **TOKENS, "max_position_embeddings": 16}
    config = hf.CLIPConfig(text_config=text, vision_config={**SIZES, **IMAGE}, projection_dim=12)
    return hf.CLIPModel(config)


def siglip():
    text = {**SIZES, **TOKENS, "max_position_embeddings": 16}
    return hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config={**SIZES, **IMAGE}))


class Both:
    """Stands for a processor of images and texts."""

    def __init__(self, **settings):
        self.image_processor = hf.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        self.tokenizer = tokenizer(model_max_length=16, **settings)


def vector(features):
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    return features / features.norm(dim=-1, keepdim=True)


class TestPairs:
    @pytest.mark.parametrize("make", [clip, siglip])
    def test_item_by_item(self, build, pictures, make):
        model = build(make)
        names = ["input_ids"] if make is siglip else ["input_ids", "attention_mask"]
        both = Both(model_input_names=names)
        images, texts = clip_pair(model, processor=both)
        padded = {"padding": "max_length"} if make is siglip else {}
        with torch.no_grad():
            want_images = torch.cat(
                [
                    vector(model.get_image_features(**both.image_processor(p, return_tensors="pt")))
                    for p in pictures
                ]
            ).numpy()
            want_texts = torch.cat(
                [
                    vector(
                        model.get_text_features(
                            **both.tokenizer([t], return_tensors="pt", **padded)
                        )
                    )
                    for t in TEXTS
                ]
            ).numpy()
        close(images.fit(pictures).transform(pictures), want_images)
        close(texts.fit(TEXTS).transform(TEXTS), want_texts)
        np.testing.assert_allclose(np.linalg.norm(texts.transform(TEXTS), axis=1), 1, rtol=1e-5)
        for extractor, X in ((images, pictures), (texts, TEXTS)):
            loaded = pickle.loads(pickle.dumps(extractor))
            assert joblib.hash(loaded) == joblib.hash(extractor)
            np.testing.assert_array_equal(loaded.transform(X), extractor.transform(X))

    def test_a_tower_has_no_weights_of_the_other(self, build):
        model = build(clip)
        images, texts = clip_pair(model, processor=Both())
        sizes = [sum(p.numel() for p in e.module.parameters()) for e in (images, texts)]
        assert (
            sum(sizes) + model.logit_scale.numel() <= sum(p.numel() for p in model.parameters()) + 2
        )
        # The model itself is unchanged, and shares its weights.
        assert model.text_model is texts.module.network.text_model
        assert hasattr(model, "vision_model")

    def test_one_tower(self, build, pictures):
        model = build(clip)
        images, _ = clip_pair(model, processor=Both())
        tower = from_huggingface(model, kind="image", processor=Both())
        np.testing.assert_array_equal(tower.transform(pictures), images.transform(pictures))
        with pytest.raises(ValueError, match=r"reads image and text; give kind='image'.*clip_pair"):
            from_huggingface(model, processor=Both())
        with pytest.raises(ValueError, match="no image tower and text tower"):
            clip_pair(build(OF_TEXT["BERT"]), processor=tokenizer())

    def test_the_wrong_tower_is_named(self, build, pictures):
        images, texts = clip_pair(build(clip), processor=Both())
        with pytest.raises(
            ValueError, match=r"the text tower of CLIPModel reads texts.*image tower"
        ):
            texts.transform(pictures)
        with pytest.raises(
            ValueError, match=r"the image tower of CLIPModel reads images.*text tower"
        ):
            images.transform(TEXTS)
        assert images.space == texts.space

    def test_long_texts(self, build):
        _, texts = clip_pair(build(clip), processor=Both())
        with pytest.raises(ValueError, match=r"22 tokens, but at most 16"):
            texts.transform(["cat " * 20])

    def test_classes_named_in_words(self, build, pictures):
        images, texts = clip_pair(build(clip), processor=Both())
        words = ["a cat", "a dog"]
        detector = skood.MCM(words, features=images, text_features=texts, template="{}")
        of_vectors = skood.MCM(texts.transform(words)).fit(images.transform(pictures))
        np.testing.assert_allclose(
            detector.fit(pictures).score_samples(pictures),
            of_vectors.score_samples(images.transform(pictures)),
            rtol=1e-4,
            atol=1e-6,
        )


class TestFolders:
    """Names are passed on; here they are folders of weights."""

    def test_texts(self, build, tmp_path):
        module, read = build(OF_TEXT["BERT"]), tokenizer(model_max_length=32)
        module.save_pretrained(tmp_path)
        read.save_pretrained(tmp_path)
        want = from_huggingface(module, processor=read).transform(TEXTS)
        for name in (tmp_path, str(tmp_path)):
            extractor = from_huggingface(name, settings={"local_files_only": True})
            close(extractor.transform(TEXTS), want)

    def test_images(self, build, pictures, tmp_path):
        module = build(OF_IMAGES["ViT"][0])
        read = hf.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.1, 0.2, 0.3])
        module.save_pretrained(tmp_path)
        read.save_pretrained(tmp_path)
        want = from_huggingface(module, processor=read).transform(pictures)
        close(from_huggingface(tmp_path).transform(pictures), want)

    def test_sound(self, build, waves, tmp_path):
        settings = {"feat_extract_norm": "layer"}
        module = build(network("Wav2Vec2Model", "Wav2Vec2", **SOUND, **SIZES, **settings))
        read = hf.Wav2Vec2FeatureExtractor(return_attention_mask=True)
        module.save_pretrained(tmp_path)
        read.save_pretrained(tmp_path)
        want = from_huggingface(module, processor=read, sampling_rate=16_000).transform(waves)
        close(from_huggingface(tmp_path, sampling_rate=16_000).transform(waves), want)

    def test_pairs(self, build, pictures, tmp_path):
        model, both = build(clip), Both()
        model.save_pretrained(tmp_path)
        both.image_processor.save_pretrained(tmp_path)
        both.tokenizer.save_pretrained(tmp_path)
        images, texts = clip_pair(tmp_path)
        want = [
            e.transform(x)
            for e, x in zip(clip_pair(model, processor=both), (pictures, TEXTS), strict=True)
        ]
        close(images.transform(pictures), want[0])
        close(texts.transform(TEXTS), want[1])

    def test_weights_that_would_be_random(self, build, pictures, tmp_path):
        """A classifier of images has no pooler, and AutoModel would draw one."""
        head = build(network("ViTForImageClassification", "ViT", **IMAGE, **SIZES))
        head.save_pretrained(tmp_path)
        hf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"pooler.*would be random.*pooling='cls'"):
            from_huggingface(tmp_path)
        extractor = from_huggingface(tmp_path, pooling="cls")
        want = from_huggingface(head, processor=extractor.processor, pooling="cls").transform(
            pictures
        )
        close(extractor.transform(pictures), want)

    def test_weights_that_are_missing(self, build, tmp_path):
        build(OF_TEXT["BERT"]).save_pretrained(tmp_path)
        tokenizer().save_pretrained(tmp_path)
        (path,) = tmp_path.glob("*.safetensors")
        weights = load_file(path)
        del weights["encoder.layer.1.output.dense.weight"]
        save_file(weights, path, {"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks 1 weights of BertModel.*output\.dense"):
            from_huggingface(tmp_path)


def test_what_a_network_that_is_given_needs(build):
    module = build(OF_TEXT["BERT"])
    with pytest.raises(ValueError, match=r"give processor=, its tokenizer.*AutoTokenizer"):
        from_huggingface(module)
    with pytest.raises(ValueError, match="arguments of from_pretrained"):
        from_huggingface(module, processor=tokenizer(), settings={"revision": "main"})
    with pytest.raises(ValueError, match="expected kind='image', 'text' or 'audio'"):
        from_huggingface(module, kind="video")


def test_missing_packages(monkeypatch):
    import sys

    from skood.embeddings import from_timm

    for name, call in (("timm", from_timm), ("transformers", from_huggingface)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ImportError, match=f"needs {name}: pip install {name}"):
            call("name")
