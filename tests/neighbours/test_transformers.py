"""Networks of transformers: images, text and sound, as classifiers and as encoders."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import skood
from skood import FeatureExtractor, PretrainedClassifier

hf = pytest.importorskip("transformers")

N_TOKENS = 50
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
WIDE = {**SIZES, "intermediate_size": 32}
IMAGE = {"image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}
SOUND = {
    "conv_dim": (8, 8),
    "conv_kernel": (10, 4),
    "conv_stride": (5, 4),
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "classifier_proj_size": 12,
    "vocab_size": N_TOKENS,
}


def config(name, **settings):
    return getattr(hf, f"{name}Config")(**settings)


def network(kind, name, **settings):
    """Return a function that makes a network with random weights."""
    return lambda: getattr(hf, kind)(config(name, **settings))


def swin(kind, **settings):
    sizes = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
    return network(kind, "Swin", image_size=32, patch_size=4, **sizes, **settings)


def text(kind, name, **settings):
    """Return a function that makes a network for tokens, of which 0 is padding."""
    return network(kind, name, vocab_size=N_TOKENS, pad_token_id=0, **settings)


FIVE = {"num_labels": 5}
CLIP_TEXT = {**WIDE, "vocab_size": N_TOKENS, "projection_dim": 12, "max_position_embeddings": 32}
CLIP_TEXT |= {"eos_token_id": N_TOKENS - 1, "bos_token_id": N_TOKENS - 2, "pad_token_id": 0}

# A network that puts out logits, and the penultimate features by its own parts.
OF_IMAGES = {
    "ViT": (
        network("ViTForImageClassification", "ViT", **WIDE, **IMAGE, **FIVE),
        lambda net, x: net.vit(x).last_hidden_state[:, 0],
    ),
    "DINOv2": (
        network("Dinov2ForImageClassification", "Dinov2", **SIZES, **IMAGE, **FIVE),
        lambda net, x: torch.cat(
            [
                (tokens := net.dinov2(x).last_hidden_state)[:, 0],
                tokens[:, 1:].mean(1),
            ],
            1,
        ),
    ),
    "ConvNeXt": (
        network("ConvNextForImageClassification", "ConvNext", **STAGES, **FIVE),
        lambda net, x: net.convnext(x).pooler_output,
    ),
    "Swin": (
        swin("SwinForImageClassification", **FIVE),
        lambda net, x: net.swin(x).pooler_output,
    ),
    "ResNet": (
        network("ResNetForImageClassification", "ResNet", embedding_size=8, hidden_sizes=[8, 16],
                depths=[1, 1], layer_type="basic", **FIVE),
        lambda net, x: net.resnet(x).pooler_output,
    ),
    "CLIP": (
        network("CLIPForImageClassification", "CLIP", vision_config={**WIDE, **IMAGE}, **FIVE),
        lambda net, x: net.vision_model(x).last_hidden_state[:, 1:].mean(1),
    ),
    "video": (
        network("VideoMAEForVideoClassification", "VideoMAE", num_frames=4, **WIDE, **IMAGE,
                **FIVE),
        lambda net, x: net.fc_norm(net.videomae(x).last_hidden_state.mean(1)),
    ),
}  # fmt: skip

ENCODERS_OF_IMAGES = {
    "ViT": (network("ViTModel", "ViT", **WIDE, **IMAGE), "pooler_output"),
    "DINOv2": (network("Dinov2Model", "Dinov2", **SIZES, **IMAGE), "pooler_output"),
    "ConvNeXt": (network("ConvNextModel", "ConvNext", **STAGES), "pooler_output"),
    "Swin": (swin("SwinModel"), "pooler_output"),
    "CLIP": (network("CLIPVisionModel", "CLIPVision", **WIDE, **IMAGE), "pooler_output"),
    "CLIP with projection": (
        network("CLIPVisionModelWithProjection", "CLIPVision", projection_dim=12, **WIDE, **IMAGE),
        "image_embeds",
    ),
    "SigLIP": (network("SiglipVisionModel", "SiglipVision", **WIDE, **IMAGE), "pooler_output"),
}


def last_token(net, x):
    """Return the hidden state of the last token that is no padding."""
    states = net.transformer(**x) if hasattr(net, "transformer") else net.model(**x)
    last = (x["attention_mask"] * torch.arange(x["attention_mask"].shape[1])).argmax(1)
    return states.last_hidden_state[torch.arange(len(last)), last]


OF_TEXT = {
    "BERT": (
        text("BertForSequenceClassification", "Bert", **WIDE, **FIVE),
        lambda net, x: net.bert(**x).pooler_output,
    ),
    "BERT, one logit": (
        text("BertForSequenceClassification", "Bert", **WIDE, num_labels=1),
        lambda net, x: net.bert(**x).pooler_output,
    ),
    "RoBERTa": (
        text("RobertaForSequenceClassification", "Roberta", **WIDE, **FIVE),
        lambda net, x: torch.tanh(
            net.classifier.dense(net.roberta(**x).last_hidden_state[:, 0])
        ),
    ),
    "DistilBERT": (
        text("DistilBertForSequenceClassification", "DistilBert", dim=16, hidden_dim=32,
             n_layers=2, n_heads=2, **FIVE),
        lambda net, x: torch.relu(
            net.pre_classifier(net.distilbert(**x).last_hidden_state[:, 0])
        ),
    ),
    "GPT-2": (
        text("GPT2ForSequenceClassification", "GPT2", n_embd=16, n_layer=2, n_head=2,
             n_positions=32, **FIVE),
        last_token,
    ),
    "Llama": (
        text("LlamaForSequenceClassification", "Llama", **WIDE, num_key_value_heads=2, **FIVE),
        last_token,
    ),
}  # fmt: skip

ENCODERS_OF_TEXT = {
    "BERT": (text("BertModel", "Bert", **WIDE), "pooler_output"),
    "CLIP": (network("CLIPTextModel", "CLIPText", **CLIP_TEXT), "pooler_output"),
    "CLIP with projection": (
        network("CLIPTextModelWithProjection", "CLIPText", **CLIP_TEXT),
        "text_embeds",
    ),
}


def sound_features(net, x):
    """Return the mean, over the frames of an item, of the projected hidden states."""
    x = x if hasattr(x, "keys") else {"input_values": x}
    base = net.base_model
    frames = net.projector(base(**x).last_hidden_state)
    if "attention_mask" not in x:
        return frames.mean(1)
    mask = base._get_feature_vector_attention_mask(frames.shape[1], x["attention_mask"])
    return (frames * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


OF_SOUND = {
    "wav2vec2": network("Wav2Vec2ForSequenceClassification", "Wav2Vec2", **WIDE, **SOUND, **FIVE),
    "HuBERT": network("HubertForSequenceClassification", "Hubert", **WIDE, **SOUND, **FIVE),
}


@pytest.fixture
def sounds():
    """Waves of unlike loudness and pitch, shape (n, 200), float32."""
    rng = np.random.default_rng(0)
    time = np.arange(200) / 200
    waves = np.sin(2 * np.pi * rng.uniform(1, 30, (30, 1)) * time) * rng.uniform(0.5, 2, (30, 1))
    return (waves + 0.3 * rng.normal(size=waves.shape)).astype(np.float32)


@pytest.fixture
def padded_sounds(sounds):
    lengths = np.random.default_rng(1).integers(80, 200, len(sounds))
    mask = (np.arange(200) < lengths[:, None]).astype(np.int64)
    return {"input_values": sounds * mask.astype(np.float32), "attention_mask": mask}


def logits_of(net, x):
    return (net(**x) if hasattr(x, "keys") else net(x)).logits


def embedding_of(field):
    return lambda net, x: getattr(net(**x) if hasattr(x, "keys") else net(x), field)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_classifier_of_images(build, images, run, check_classifier, name):
    make, features = OF_IMAGES[name]
    module, X = build(make), images()
    if name == "video":
        X = np.stack([X, X[::-1], 0.5 * X, X], axis=1)
    check_classifier(module, X, run(module, X, logits_of), run(module, X, features))


@pytest.mark.parametrize("name", ENCODERS_OF_IMAGES)
def test_encoder_of_images(build, images, run, check_encoder, name):
    make, field = ENCODERS_OF_IMAGES[name]
    module, X = build(make), images()
    check_encoder(module, X, run(module, X, embedding_of(field)))


@pytest.mark.parametrize("name", OF_TEXT)
def test_classifier_of_text(build, tokens, run, check_classifier, name):
    make, features = OF_TEXT[name]
    module, X = build(make), tokens()
    check_classifier(module, X, run(module, X, logits_of), run(module, X, features))


@pytest.mark.parametrize("name", ENCODERS_OF_TEXT)
def test_encoder_of_text(build, tokens, run, check_encoder, name):
    make, field = ENCODERS_OF_TEXT[name]
    module, X = build(make), tokens()
    check_encoder(module, X, run(module, X, embedding_of(field)))


@pytest.mark.parametrize("kind", ["rows", "padded"])
@pytest.mark.parametrize("name", OF_SOUND)
def test_classifier_of_sound(build, sounds, padded_sounds, run, check_classifier, name, kind):
    module = build(OF_SOUND[name])
    X = sounds if kind == "rows" else padded_sounds
    check_classifier(module, X, run(module, X, logits_of), run(module, X, sound_features))


def test_encoder_of_sound(build, padded_sounds, run, check_encoder):
    module = build(network("Wav2Vec2Model", "Wav2Vec2", **WIDE, **SOUND))
    for detector in (skood.KNN(module), skood.Mahalanobis(module), skood.MSP(module)):
        with pytest.raises(
            ValueError, match=r"Wav2Vec2Model returns .*'last_hidden_state'.*output="
        ):
            detector.fit(padded_sounds)

    def first_frame(out):
        return out.last_hidden_state[:, 0]

    own = run(module, padded_sounds, lambda net, x: first_frame(net(**x)))
    check_encoder(module, padded_sounds, own, output=first_frame)


def test_hidden_states_as_features(build, images, run):
    make = network("ViTForImageClassification", "ViT", **WIDE, **IMAGE, **FIVE,
                   output_hidden_states=True)  # fmt: skip
    module, X = build(make), images()

    def first_token(out):
        return out.hidden_states[-2][:, 0]

    classifier = PretrainedClassifier(module, features_from=first_token)
    own = run(module, X, lambda net, x: first_token(net(x)))
    np.testing.assert_allclose(classifier.transform(X), own, atol=1e-5 * np.abs(own).max())
    np.testing.assert_allclose(
        classifier.decision_function(X), run(module, X, logits_of), atol=1e-5, rtol=1e-5
    )
    assert np.isfinite(skood.KNN(classifier, n_neighbors=5).fit(X).score_samples(X)).all()
    with pytest.raises(ValueError, match="its input is not what features_from= names"):
        skood.ViM(classifier).fit(X)
    for tokens in (lambda out: out.hidden_states[-1], "vit.layernorm"):
        with pytest.raises(ValueError, match=r"17, 16\).*choose or pool"):
            skood.KNN(PretrainedClassifier(module, features_from=tokens)).fit(X)


def test_features_named_by_their_layer(build, tokens, run):
    module, X = build(OF_TEXT["BERT"][0]), tokens()
    classifier = PretrainedClassifier(module, features_from="bert.pooler.activation")
    own = run(module, X, OF_TEXT["BERT"][1])
    np.testing.assert_allclose(classifier.transform(X), own, atol=1e-5)
    assert np.isfinite(skood.ViM(classifier, n_components=4).fit(X).score_samples(X)).all()
    with pytest.raises(ValueError, match=r"'bert.nothing' is not a layer of Bert.*its layers are"):
        PretrainedClassifier(module, features_from="bert.nothing").transform(X)


class TestInput:
    """Every way in which tokens come gives the same scores."""

    @pytest.fixture
    def module(self, build):
        return build(OF_TEXT["BERT"][0])

    @pytest.fixture
    def expected(self, module, tokens):
        return skood.MSP(module).fit(tokens()).score_samples(tokens())

    @pytest.mark.parametrize("kind", ["pt", "np", None])
    def test_what_tokenizers_and_processors_return(self, module, tokens, expected, kind):
        X = tokens()
        fields = {name: values.tolist() for name, values in X.items()}
        for made in (hf.BatchEncoding(fields, tensor_type=kind), hf.BatchFeature(fields, kind)):
            detector = skood.MSP(module).fit(made)
            np.testing.assert_allclose(detector.score_samples(made), expected, atol=1e-6)

    def test_pixels_of_a_processor(self, build, images):
        module, X = build(OF_IMAGES["ViT"][0]), images()
        expected = skood.KNN(module, n_neighbors=5).fit(X).score_samples(X)
        made = hf.BatchFeature({"pixel_values": X}, tensor_type="pt")
        detector = skood.KNN(module, n_neighbors=5).fit(made)
        np.testing.assert_allclose(detector.score_samples(made), expected, atol=1e-5)

    def test_pixels_as_an_image_processor_makes_them(self, build, run):
        module = build(OF_IMAGES["ViT"][0])
        processor = hf.ViTImageProcessor(size={"height": 32, "width": 32})
        pixels = np.random.default_rng(0).integers(256, size=(12, 40, 40, 3), dtype=np.uint8)
        made = processor(list(pixels), return_tensors="pt")
        expected = run(module, made["pixel_values"], lambda net, x: logits_of(net, x).softmax(1))
        scores = skood.MSP(module).fit(made).score_samples(made)
        np.testing.assert_allclose(scores, expected.max(1), atol=1e-5)

    def test_more_padding(self, module, tokens, expected):
        detector = skood.MSP(module).fit(tokens())
        longer = tokens(length=20)
        np.testing.assert_allclose(detector.score_samples(longer), expected, atol=1e-5)
        one = {
            name: values[3:4, : longer["attention_mask"][3].sum()]
            for name, values in longer.items()
        }
        np.testing.assert_allclose(detector.score_samples(one), expected[3:4], atol=1e-5)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("name", ["GPT-2", "Llama"])
    def test_more_padding_of_decoders(self, build, tokens, run, name, side):
        module = build(OF_TEXT[name][0])
        X, longer = tokens(side=side), tokens(length=20, side=side)
        own = run(module, X, lambda net, x: logits_of(net, x).softmax(1)).max(1)
        own_longer = run(module, longer, lambda net, x: logits_of(net, x).softmax(1)).max(1)
        detector = skood.MSP(module).fit(X)
        np.testing.assert_allclose(detector.score_samples(X), own, atol=1e-5)
        np.testing.assert_allclose(detector.score_samples(longer), own_longer, atol=1e-5)
        if side == "right":
            np.testing.assert_allclose(own_longer, own, atol=1e-5)
        knn = skood.KNN(module, n_neighbors=5).fit(X)
        features = run(module, longer, last_token)
        np.testing.assert_allclose(
            knn.features_.transform(longer), features, atol=1e-5 * np.abs(features).max()
        )

    def test_ids_alone(self, module, tokens, run):
        ids = tokens()["input_ids"]
        expected = run(module, ids, lambda net, x: logits_of(net, x).softmax(1)).max(1)
        for X in (ids, torch.tensor(ids), ids.astype(np.int32)):
            scores = skood.MSP(module).fit(X).score_samples(X)
            np.testing.assert_allclose(scores, expected, atol=1e-5)

    def test_dataset_and_loader(self, module, tokens, expected):
        X = tokens()

        class Texts(Dataset):
            def __init__(self, cut, labels=True):
                self.cut, self.labels = cut, labels

            def __len__(self):
                return len(X["input_ids"])

            def __getitem__(self, index):
                stop = X["attention_mask"][index].sum() if self.cut else None
                item = {name: torch.tensor(values[index, :stop]) for name, values in X.items()}
                return {**item, "labels": index % 5} if self.labels else item

        def pad(items):
            return {
                name: torch.nn.utils.rnn.pad_sequence([item[name] for item in items], True)
                for name in X
            }

        for stream in (
            Texts(cut=False),
            DataLoader(Texts(cut=False), batch_size=7),
            DataLoader(Texts(cut=True, labels=False), batch_size=7, collate_fn=pad),
        ):
            detector = skood.MSP(module).fit(stream)
            np.testing.assert_allclose(detector.score_samples(stream), expected, atol=1e-5)
            np.testing.assert_allclose(detector.score_samples(X), expected, atol=1e-5)
        with pytest.raises(ValueError, match=r"item \d+ .*collate_fn that pads"):
            skood.MSP(module).fit(Texts(cut=True))

    def test_collator_of_the_library(self, module, tokens, expected):
        X = tokens()
        items = [
            {name: values[i].tolist() for name, values in X.items()} | {"labels": i % 5}
            for i in range(len(X["input_ids"]))
        ]
        loader = DataLoader(items, batch_size=7, collate_fn=hf.default_data_collator)
        detector = skood.MSP(module).fit(loader)
        np.testing.assert_allclose(detector.score_samples(loader), expected, atol=1e-5)

    def test_other_fields(self, module, tokens):
        X = tokens()
        detector = skood.MSP(module).fit(X)
        other = {"input_ids": X["input_ids"]}
        with pytest.raises(ValueError, match=r"input_ids.*attention_mask"):
            detector.score_samples(other)
        with pytest.raises(ValueError, match=r"the fields .*'tokens'.* does not take"):
            skood.MSP(module).fit({"tokens": X["input_ids"]})
        with pytest.raises(ValueError, match=r"field 'text' .*leave the field out"):
            skood.MSP(module).fit({**X, "text": ["a"] * len(X["input_ids"])})
        short = {**X, "attention_mask": X["attention_mask"][:4]}
        with pytest.raises(ValueError, match=r"'attention_mask': 4.*first axes are equal"):
            skood.MSP(module).fit(short)

    def test_labels_among_the_fields(self, module, tokens, expected):
        """They are left out, as those of a Dataset are."""
        X = tokens()
        labelled = {**X, "labels": np.arange(len(X["input_ids"])) % 5}
        detector = skood.MSP(module).fit(labelled)
        np.testing.assert_allclose(detector.score_samples(labelled), expected, atol=1e-6)
        np.testing.assert_allclose(detector.score_samples(X), expected, atol=1e-6)

    def test_lists_of_unlike_lengths(self, module):
        X = {"input_ids": [[1, 2, 3], [4, 5]], "attention_mask": [[1, 1, 1], [1, 1]]}
        with pytest.raises(ValueError, match=r"field 'input_ids' of X.*padding=True"):
            skood.MSP(module).fit(X)

    def test_ids_beyond_the_vocabulary(self, module, tokens):
        X = tokens()
        X["input_ids"] = X["input_ids"] + 40
        with pytest.raises(ValueError, match="IndexError"):
            skood.MSP(module).fit(X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(build, images, tokens, run, check_classifier, check_encoder, dtype):
    module, X = build(OF_IMAGES["ViT"][0]).to(dtype), images()
    logits = run(module, X, lambda net, x: logits_of(net, x.to(dtype)))
    features = run(module, X, lambda net, x: OF_IMAGES["ViT"][1](net, x.to(dtype)))
    tolerance = {torch.bfloat16: 5e-2, torch.float16: 1e-2}[dtype]
    check_classifier(module, X, logits, features, tolerance)
    module, X = build(ENCODERS_OF_TEXT["BERT"][0]).to(dtype), tokens()
    check_encoder(module, X, run(module, X, embedding_of("pooler_output")), tolerance)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            text("BertForTokenClassification", "Bert", **WIDE, **FIVE),
            r"shape \(\d+, 12, 5\).*expected logits of shape \(batch, n_classes\).*output=",
        ),
        (
            text("BertForMaskedLM", "Bert", **WIDE),
            r"shape \(\d+, 12, 50\).*expected logits of shape \(batch, n_classes\).*output=",
        ),
        (
            text("BertForQuestionAnswering", "Bert", **WIDE),
            r"returns .*'start_logits', 'end_logits'; expected .*'logits'.*output=",
        ),
        (
            text("BertModel", "Bert", **WIDE),
            r"returns .*'last_hidden_state', 'pooler_output'; expected .*'logits'.*output=",
        ),
    ],
    ids=["tokens", "vocabulary", "two outputs", "encoder"],
)
def test_no_logits_of_an_item(build, tokens, make, said):
    module, X = build(make), tokens()
    for detector in (skood.MSP, skood.ViM):
        with pytest.raises(ValueError, match=said):
            detector(module).fit(X)


def test_segmentation(build, images, run):
    sizes = {"num_encoder_blocks": 2, "depths": [1, 1], "hidden_sizes": [8, 8]}
    sizes |= {"sr_ratios": [2, 1], "num_attention_heads": [2, 2], "decoder_hidden_size": 8}
    sizes |= {"patch_sizes": [7, 3], "strides": [4, 2], "mlp_ratios": [2, 2]}
    module = build(network("SegformerForSemanticSegmentation", "Segformer", **sizes, **FIVE))
    X = images()
    for detector in (skood.MSP, skood.ViM, skood.KNN):
        with pytest.raises(ValueError, match=r"8 x 8 pixels.*segmentation.*output="):
            detector(module).fit(X)
    classifier = PretrainedClassifier(module, output=lambda out: out.logits.mean((2, 3)))
    logits = run(module, X, lambda net, x: net(x).logits.mean((2, 3)))
    for detector in (skood.MSP(classifier), skood.ViM(classifier, n_components=3)):
        fitted = detector.fit(X)
        np.testing.assert_allclose(
            fitted.classifier_.decision_function(X), logits, atol=1e-5 * np.abs(logits).max()
        )
        assert np.isfinite(fitted.score_samples(X)).all()


def test_heads_whose_mean_are_the_logits(build, images, run):
    module = build(
        network("DeiTForImageClassificationWithTeacher", "DeiT", **WIDE, **IMAGE, **FIVE)
    )
    X = images()
    fitted = skood.Energy(module).fit(X)
    logits = run(module, X, logits_of)
    np.testing.assert_allclose(
        fitted.classifier_.decision_function(X), logits, atol=1e-5 * np.abs(logits).max()
    )
    for detector in (skood.ViM, skood.KNN):
        with pytest.raises(
            ValueError, match=r"candidates: 'cls_classifier' Linear\(16 -> 5\).*differs"
        ):
            detector(module).fit(X)
    one = PretrainedClassifier(module, output="cls_logits")
    assert np.isfinite(skood.ViM(one, n_components=4).fit(X).score_samples(X)).all()


def test_images_and_texts_together(build, images, tokens, run, check_encoder):
    """CLIP compares all images with all texts of a batch, but each has an embedding of its own."""
    module = build(
        lambda: hf.CLIPModel(
            config(
                "CLIP",
                text_config=CLIP_TEXT,
                vision_config={**WIDE, **IMAGE, "projection_dim": 12},
                projection_dim=12,
            )
        )
    )
    X = {**tokens(n=20), "pixel_values": images()}
    for field in ("text_embeds", "image_embeds"):
        own = run(module, X, lambda net, x, field=field: getattr(net(**x), field))
        check_encoder(module, X, own, output=field)
    with pytest.raises(ValueError, match=r"'image_embeds'.*output="):
        skood.MSP(module).fit(X)


def test_choices(build, tokens, run):
    """One logit for each of several texts."""
    module, X = build(text("BertForMultipleChoice", "Bert", **WIDE)), tokens()
    X = {name: values.reshape(10, 3, -1) for name, values in X.items()}
    logits = run(module, X, logits_of)
    fitted = skood.MSP(module).fit(X)
    np.testing.assert_allclose(
        fitted.classifier_.decision_function(X), logits, atol=1e-5 * np.abs(logits).max()
    )
    with pytest.raises(ValueError, match=r"candidates: .*'classifier' Linear\(16 -> 1\)"):
        skood.ViM(module).fit(X)


@pytest.mark.parametrize("name", ["ViT", "BERT"])
def test_stored_and_cached(build, images, tokens, tmp_path, name):
    make = {**OF_IMAGES, **OF_TEXT}[name][0]
    module, X = build(make), images() if name == "ViT" else tokens()
    assert joblib.hash(PretrainedClassifier(module)) == joblib.hash(
        PretrainedClassifier(build(make))
    )
    detector = skood.ViM(module, n_components=4, memory=str(tmp_path)).fit(X)
    scores = detector.score_samples(X)
    again = pickle.loads(pickle.dumps(detector))
    np.testing.assert_allclose(again.score_samples(X), scores, rtol=1e-6)
    fresh = skood.ViM(build(make), n_components=4, memory=str(tmp_path)).fit(X)
    np.testing.assert_allclose(fresh.score_samples(X), scores, rtol=1e-6)


class Tuple(torch.nn.Module):
    """A network that returns a tuple, which begins with the logits."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x, output_hidden_states=True, return_dict=False)


def test_outputs_as_tuples(build, images, run, check_classifier):
    make, features = OF_IMAGES["ViT"]
    module, X = build(lambda: Tuple(make())), images()
    logits = run(module, X, lambda net, x: net(x)[0])
    own = run(module, X, lambda net, x: features(net.network, x))
    check_classifier(module, X, logits, own)


def test_logits_of_another_name(build, run):
    sizes = {"d_model": 16, "ffn_dim": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    sizes |= {"num_input_channels": 2, "context_length": 32, "use_cls_token": True}
    sizes |= {"patch_length": 8, "patch_stride": 8, "num_targets": 3}
    module = build(network("PatchTSTForClassification", "PatchTST", **sizes))
    X = np.random.default_rng(0).normal(size=(30, 32, 2)).astype(np.float32)
    with pytest.raises(ValueError, match=r"'prediction_logits'; expected .*'logits'.*output="):
        skood.MSP(module).fit(X)
    classifier = PretrainedClassifier(module, output="prediction_logits")
    logits = run(module, X, lambda net, x: net(x).prediction_logits)
    np.testing.assert_allclose(
        classifier.decision_function(X), logits, atol=1e-5 * np.abs(logits).max()
    )
    assert np.isfinite(skood.ViM(classifier, n_components=3).fit(X).score_samples(X)).all()


def test_several_labels_for_an_item(build, tokens, run):
    module, X = build(OF_TEXT["BERT"][0]), tokens()
    classifier = PretrainedClassifier(module, multilabel=True)
    proba = run(module, X, lambda net, x: logits_of(net, x).sigmoid())
    np.testing.assert_allclose(classifier.predict_proba(X), proba, atol=1e-5)
    scores = skood.MSP(classifier).fit(X).score_samples(X)
    np.testing.assert_allclose(scores, proba.max(1), atol=1e-5)


@pytest.mark.parametrize("parameter", ["output", "features_from"])
def test_a_function_that_fails(build, tokens, parameter):
    """The hidden states are asked for, but the network was not told to return them."""
    module = build(OF_TEXT["BERT"][0])
    classifier = PretrainedClassifier(
        module, **{parameter: lambda out: out.hidden_states[-1][:, 0]}
    )
    with pytest.raises(ValueError, match=rf"{parameter}= failed on .*'logits': TypeError"):
        skood.KNN(classifier).fit(tokens())


def test_features_of_an_encoder_are_named_by_output(build, tokens, run):
    module, X = build(ENCODERS_OF_TEXT["BERT"][0]), tokens()

    def mean_of_tokens(out):
        return out.last_hidden_state.mean(1)

    own = run(module, X, lambda net, x: mean_of_tokens(net(**x)))
    features = FeatureExtractor(module, mean_of_tokens).fit(X).transform(X)
    np.testing.assert_allclose(features, own, atol=1e-5)
    with pytest.raises(ValueError, match=r"12, 16\).*one feature vector.*last_hidden_state"):
        FeatureExtractor(module, "last_hidden_state").fit(X)
    with pytest.raises(ValueError, match=r"output='nothing' is not among .*'pooler_output'"):
        FeatureExtractor(module, "nothing").fit(X)
