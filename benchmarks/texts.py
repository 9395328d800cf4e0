"""Likelihood ratio of a finetuned language model and its base, on docstrings.

    python benchmarks/texts.py
    python benchmarks/texts.py --timing      # scoring relative to bare forward passes

A language model of GPT-2's architecture (64 features, 2 layers, words and punctuation as tokens)
is trained on docstrings of four installed packages: the base. It is finetuned on those of
scikit-learn: the finetuned model. In-distribution texts are other docstrings of scikit-learn, and
OOD texts are other docstrings of the other packages. Texts begin at the first line and end after 8
to 60 tokens, so that their lengths differ; no text of a test is in a training set. Scores are
log p of the finetuned model and the ratio, each for a text and per token (minus the logarithm of
the perplexity). A model of this size says nothing about large ones: it shows whether the ratio
removes what log p measures besides the in-distribution, such as the length of a text.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
from collections import Counter
from datetime import date
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import torch
from _docstrings import docstrings
from _machine import machine
from scipy.stats import spearmanr
from transformers import GPT2Config, GPT2LMHeadModel

from skood import CausalLanguageModel, LikelihoodRatio, LogLikelihood
from skood.metrics import auroc

RESULTS = Path(__file__).parent / "results"
ID_PACKAGE, OOD_PACKAGES = "sklearn", ("scipy", "numpy", "pandas")
BOS, UNKNOWN = 0, 1
N_TOKENS, N_POSITIONS = 3000, 64
FEWEST, MOST = 8, 60
N_TEST = 300
BATCH_SIZE, N_STEPS, N_FINETUNING_STEPS = 32, 400, 150


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


class Tokenizer:
    """Numbers of the most frequent words and punctuation marks."""

    def __init__(self, texts: list[list[str]]) -> None:
        counts = Counter(word for text in texts for word in text)
        common = [word for word, _ in counts.most_common(N_TOKENS - 2)]
        self.numbers = {word: number for number, word in enumerate(common, 2)}

    def __call__(self, texts: list[list[str]]) -> list[list[int]]:
        return [[self.numbers.get(word, UNKNOWN) for word in text] for text in texts]


def text_sets(seed: int) -> tuple[dict[str, list[list[int]]], dict[str, list[list[int]]]]:
    """Return token ids of the training texts and of the test texts of each package."""
    rng = np.random.default_rng(seed)
    training, test, taken = {}, {}, set()
    for package in (ID_PACKAGE, *OOD_PACKAGES):
        # Packages share some docstrings.
        texts = [words(text) for text in docstrings(package, 20)]
        cut = {tuple(text[: rng.integers(FEWEST, MOST + 1)]) for text in texts} - taken
        taken |= cut
        order = rng.permutation(len(cut))
        kept = [list(text) for text in np.array(sorted(cut), dtype=object)[order]]
        test[package], training[package] = kept[:N_TEST], kept[N_TEST:]
    tokenizer = Tokenizer([text for texts in training.values() for text in texts])
    return (
        {package: tokenizer(texts) for package, texts in training.items()},
        {package: tokenizer(texts) for package, texts in test.items()},
    )


def train(module: GPT2LMHeadModel, texts: list[list[int]], n_steps: int, rate: float) -> float:
    """Train on batches of texts with BOS before them; return the mean loss of the last steps."""
    rng = np.random.default_rng(n_steps)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=n_steps)
    losses = []
    module.train()
    for _ in range(n_steps):
        chosen = [texts[i] for i in rng.choice(len(texts), BATCH_SIZE)]
        ids = torch.zeros(BATCH_SIZE, 1 + max(map(len, chosen)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(chosen):
            ids[row, 1 : 1 + len(text)] = torch.tensor(text)
            mask[row, : 1 + len(text)] = 1
        labels = ids.masked_fill(mask == 0, -100)
        loss = module(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss))
    module.eval()
    return float(np.mean(losses[-20:]))


def new_module(seed: int, n_features: int = 64, n_layers: int = 2) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=N_TOKENS, n_positions=N_POSITIONS, n_embd=n_features, n_layer=n_layers, n_head=4,
        bos_token_id=BOS, eos_token_id=BOS,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def measured(scores: dict[str, np.ndarray], lengths: dict[str, np.ndarray]) -> dict[str, float]:
    """Return the AUROC of each OOD package, and the rank correlation with the length of a text."""
    inliers = scores[ID_PACKAGE]
    found = {}
    for package in OOD_PACKAGES:
        labels = np.repeat([1, -1], [len(inliers), len(scores[package])])
        found[package] = auroc(labels, np.concatenate([inliers, scores[package]]))
    every, n = (np.concatenate([part[k] for k in scores]) for part in (scores, lengths))
    return {**found, "correlation with length": float(spearmanr(every, n).statistic)}


def compare(seed: int) -> dict:
    training, test = text_sets(seed)
    start = perf_counter()
    base = new_module(seed)
    losses = [train(base, [text for texts in training.values() for text in texts], N_STEPS, 4e-3)]
    finetuned = copy.deepcopy(base)
    losses.append(train(finetuned, training[ID_PACKAGE], N_FINETUNING_STEPS, 1e-3))
    lengths = {package: np.array(list(map(len, texts))) for package, texts in test.items()}
    scores = {}
    for name, normalize in (("of a text", None), ("per token", "length")):
        models = [CausalLanguageModel(m, normalize=normalize) for m in (finetuned, base)]
        for method, detector in {
            "log p": LogLikelihood(models[0]),
            "log p of the base": LogLikelihood(models[1]),
            "ratio": LikelihoodRatio(*models),
        }.items():
            detector.fit(training[ID_PACKAGE][:200])
            scores[f"{method} {name}"] = {
                package: detector.score_samples(texts) for package, texts in test.items()
            }
    perplexity = {
        f"{name}, {package}": float(np.exp(-np.average(scores[key][package], weights=n)))
        for name, key in (
            ("finetuned", "log p per token"), ("base", "log p of the base per token"),
        )
        for package, n in lengths.items()
    }  # fmt: skip
    return {
        "results": {name: measured(found, lengths) for name, found in scores.items()},
        "length alone": measured(lengths, lengths),
        "perplexity": perplexity,
        "losses": losses,
        "training texts": {package: len(texts) for package, texts in training.items()},
        "seconds": perf_counter() - start,
    }


def timing(seed: int, n_features: int, n_layers: int, n_rounds: int = 5) -> dict[str, float]:
    """Processor seconds of 128 texts of one length: forward passes, with the loss, with scores."""
    module = new_module(seed, n_features, n_layers).eval()
    rng = np.random.default_rng(seed)
    texts = [rng.integers(2, N_TOKENS, MOST).tolist() for _ in range(128)]
    density = CausalLanguageModel(module).fit(texts)
    ids = torch.tensor([[BOS, *text] for text in texts])

    def forward_passes(labels: bool) -> None:
        with torch.inference_mode():
            # The batches of `density`.
            for part in ids.split(33):
                given = {"labels": part} if labels else {}
                x = part if labels else part[:, :-1]
                module(input_ids=x, attention_mask=torch.ones_like(x), use_cache=False, **given)

    seconds: dict[str, list[float]] = {}
    for _ in range(n_rounds):
        for name, function in {
            "forward passes": lambda: forward_passes(False),
            "forward passes with the loss": lambda: forward_passes(True),
            "score_samples": lambda: density.score_samples(texts),
        }.items():
            start = process_time()
            function()
            seconds.setdefault(name, []).append(process_time() - start)
    found = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        **found,
        **{
            f"score_samples / {name}": float(np.median(np.divide(seconds["score_samples"], values)))
            for name, values in seconds.items()
            if name != "score_samples"
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timing", action="store_true")
    arguments = parser.parse_args()
    path = RESULTS / ("texts-timing.json" if arguments.timing else "texts.json")
    if arguments.timing:
        sizes = (64, 2), (384, 6)
        found = {f"{d} features, {n} layers": timing(arguments.seed, d, n) for d, n in sizes}
    else:
        found = compare(arguments.seed)
    about = {"seed": arguments.seed, "date": date.today().isoformat(), "machine": machine()}
    path.write_text(json.dumps({**about, **found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
