"""Time and peak memory of extractors, relative to the bare library.

The bare loop preprocesses batches of the same size with the same functions, runs the network and
stores the features. Both take turns in one process, and the first round of each is not counted. The
time is that of the processor, of all threads of the process, which other processes disturb less
than the time of a clock; the ratio of both is stored.
Peak memory is the largest resident set of a process of its own for each, minus the resident set
before the first batch, for two numbers of items: what does not grow is independent of n::

    OMP_NUM_THREADS=1 python benchmarks/speed_embeddings.py
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _machine import machine
from _timing import summary
from PIL import Image

from skood.embeddings import from_huggingface, from_timm, from_torchvision

RESULTS = Path(__file__).parent / "results" / "speed_embeddings.json"
WORDS = (
    "the cat and dog sat on a mat while birds sang above green hills near old town walls".split()
)
SEED = 0


def images(folder, n):
    """Write JPEG files of some 300 x 400 pixels once; return their paths."""
    rng = np.random.default_rng(SEED)
    paths = []
    for i in range(min(n, 256)):
        path = folder / f"{i:04}.jpg"
        if not path.exists():
            grain = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(grain).resize((400, 300)).save(path, quality=90)
        paths.append(path)
    return [paths[i % len(paths)] for i in range(n)]


def texts(n):
    rng = np.random.default_rng(SEED)
    return [" ".join(rng.choice(WORDS, rng.integers(20, 60))) for _ in range(n)]


def bert():
    import tokenizers
    import transformers as hf

    vocabulary = {w: i for i, w in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    read = hf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", model_max_length=512
    )
    config = hf.BertConfig(
        vocab_size=len(vocabulary), hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536,
    )  # fmt: skip
    return from_huggingface(hf.BertModel(config).eval(), processor=read, batch_size=32)


def vit_of_transformers():
    import transformers as hf

    config = hf.ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768
    )
    module = hf.ViTModel(config).eval()
    return from_huggingface(module, processor=hf.ViTImageProcessor(), pooling="cls", batch_size=4)


def of_timm(name):
    return lambda: from_timm(name, pretrained=False, device="cpu", batch_size=4)


CASES = {
    "ResNet-18, torchvision": lambda: from_torchvision(
        "resnet18", weights=None, device="cpu", batch_size=4
    ),
    "ViT-Tiny/16, timm": of_timm("vit_tiny_patch16_224"),
    "MobileNetV3-Small 0.5, timm": of_timm("mobilenetv3_small_050"),
    "ViT-Tiny/16, transformers": vit_of_transformers,
    "MiniLM-sized BERT, transformers": bert,
}


def bare(extractor, items, store):
    """Pass each batch through the library's own functions, and store its features."""
    module, size = extractor.module, extractor.batch_size
    network = getattr(module, "network", module)
    head = getattr(module, "head", None)
    if isinstance(head, str):
        # As a user would: the last layer is replaced.
        setattr(network, head, torch.nn.Identity())
    for start in range(0, len(items), size):
        batch = items[start : start + size]
        with torch.inference_mode():
            if hasattr(extractor, "tokenizer"):
                x = extractor.tokenizer(
                    batch, padding=True, return_token_type_ids=False, return_tensors="pt"
                )
                hidden = network(**x).last_hidden_state
                mask = x["attention_mask"][:, :, None]
                features = (hidden * mask).sum(1) / mask.sum(1)
            else:
                opened = [Image.open(path).convert("RGB") for path in batch]
                if hasattr(extractor.processor, "to_dict"):
                    x = extractor.processor(images=opened, return_tensors="pt")
                    features = network(**x).last_hidden_state[:, 0]
                else:
                    features = network(torch.stack([extractor.processor(i) for i in opened]))
        store[start : start + size] = features.numpy()


def ours(extractor, items, store):
    store[:] = extractor.transform(items)


def resident(kind):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) / 1e3
    raise OSError("the system does not state the memory")


def items_of(case, folder, n):
    return texts(n) if "BERT" in case else images(folder, n)


def peak(case, way, folder, n):
    """Print the growth of the resident set of this process, in MB, and of the result."""
    torch.manual_seed(SEED)
    extractor = CASES[case]()
    items = items_of(case, folder, n)
    few = items[: 2 * extractor.batch_size]
    width = extractor.fit(few).n_features_out_
    if way == "bare":
        bare(extractor, few, np.empty((len(few), width), np.float32))
    before = resident("VmRSS")
    if way == "write":
        # The pages of the file are not mapped before they are read.
        extractor.set_params(dtype="float16").write(items, folder / "features.npy")
    else:
        store = np.empty((n, width), np.float32)
        (bare if way == "bare" else ours)(extractor, items, store)
    print(resident("VmHWM") - before)


def measure(case, folder, n, n_rounds):
    torch.manual_seed(SEED)
    extractor = CASES[case]()
    items = items_of(case, folder, n)
    width = extractor.fit(items[:8]).n_features_out_
    # The bare loop may replace a layer: it gets a network of its own.
    torch.manual_seed(SEED)
    other = CASES[case]()
    stores = {name: np.empty((n, width), np.float32) for name in ("bare", "skood")}
    rounds = []
    for k in range(n_rounds + 1):
        measured = {}
        order = [("bare", bare, other), ("skood", ours, extractor)]
        for name, function, made in order if k % 2 else order[::-1]:
            clock, start = time.perf_counter(), time.process_time()
            function(made, items, stores[name])
            measured[name] = (time.process_time() - start) / n * 1e3
            measured[f"{name}, clock"] = (time.perf_counter() - clock) / n * 1e3
        if k:
            ratio = measured["skood"] / measured["bare"]
            of_clock = measured["skood, clock"] / measured["bare, clock"]
            rounds.append({**measured, "ratio": ratio, "ratio, clock": of_clock})
    size = np.abs(stores["bare"]).max()
    difference = float(np.abs(stores["bare"] - stores["skood"]).max() / size)
    return {"ms per item": summary(rounds), "largest difference": difference}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    parser.add_argument("--peak-cases", nargs="*", default=list(CASES))
    parser.add_argument("--peak", nargs=3, help="for the processes that this one starts")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.peak:
        case, way, folder = options.peak
        peak(case, way, Path(folder), options.items)
        return
    stored = {
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "seed": SEED,
        "items": options.items,
        "rounds": options.rounds,
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        for case in options.cases:
            found = measure(case, Path(folder), options.items, options.rounds)
            found["peak MB"] = {}
            for way in ("bare", "skood", "write") if case in options.peak_cases else ():
                for n in (options.items, 4 * options.items):
                    arguments = ["--peak", case, way, folder, "--items", str(n)]
                    run = subprocess.run(
                        [sys.executable, __file__, *arguments],
                        check=True,
                        capture_output=True,
                        text=True,
                        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
                    )
                    found["peak MB"][f"{way}, {n} items"] = float(run.stdout.split()[-1])
            stored["cases"][case] = found
            print(case, json.dumps(found, indent=1), flush=True)
            options.output.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
