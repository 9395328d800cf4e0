"""Speed of generating samples off the manifold, compared with a loop of backward passes.

    python benchmarks/speed_oodgen.py                # writes benchmarks/results/speed_oodgen.json

The VAE is the published one for MNIST (28 x 28 pixels, 8 latents), with initial weights: the time
does not depend on the weights. Images per second of

- ``BoundarySampler.sample_off_manifold``: encoder, forward-mode Jacobian, QR, projection;
- its lower bound: bare passes of the decoder, one per latent and one more;
- batched backward: one backward pass for each of 784 pixels, 32 images at a time;
- the loop of the released code: image by image, one backward pass per pixel. Our QR replaces its
  symbolic null space, which takes longer than the gradients, so that the comparison favours it.

Every round runs all variants in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from _machine import machine
from torch import Tensor

from skood import VAE, BoundarySampler
from skood._torch.batching import scoring_batch_size
from skood._torch.jacobian import forward_jacobian
from skood.training_time._directions import normal_vectors

RESULTS = Path(__file__).parent / "results" / "speed_oodgen.json"


def backward_jacobian(decode: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Run one backward pass per value of an item, for all items of the batch at once."""
    z = z.clone().requires_grad_()
    output = decode(z).flatten(1).sum(0)
    rows = [torch.autograd.grad(value, z, retain_graph=True)[0] for value in output]
    return torch.stack(rows, 1)


def seconds(function: Callable[[], object]) -> float:
    start = perf_counter()
    function()
    return perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=2048, help="images for the sampler")
    parser.add_argument("--n-batched", type=int, default=32)
    parser.add_argument("--n-loop", type=int, default=2)
    args = parser.parse_args()

    rng = np.random.default_rng(0)
    X = rng.random((args.n, 28, 28), dtype=np.float32)
    y = np.arange(args.n) % 10
    vae = VAE(8, likelihood="bernoulli", conditional=True, max_steps=1, random_state=0)
    sampler = BoundarySampler(vae, random_state=0).fit(X, y)
    vae = sampler.vae_
    model = vae.generator()
    device = model.device
    z = torch.as_tensor(vae.transform(X, y), dtype=torch.float32, device=device)
    classes = torch.as_tensor(y, device=device)
    noise = torch.randn(args.n, 784, device=device)
    size = scoring_batch_size(device, (1, 28, 28))

    def decoder(rows: slice) -> Callable[[Tensor], Tensor]:
        return lambda z: model.decode(z, classes[rows])

    def floor() -> None:
        with torch.no_grad():
            for start in range(0, args.n, size):
                rows = slice(start, start + size)
                for _ in range(z.shape[1] + 1):
                    decoder(rows)(z[rows])

    def backward(n: int, at_once: int) -> None:
        for start in range(0, n, at_once):
            rows = slice(start, start + at_once)
            normal_vectors(backward_jacobian(decoder(rows), z[rows]), noise[rows])

    ours, theirs = (
        jacobian(decoder(slice(4)), z[:4]) for jacobian in (forward_jacobian, backward_jacobian)
    )
    candidates = {
        "sampler": (args.n, lambda: sampler.sample_off_manifold(X, y, random_state=0)),
        "floor": (args.n, floor),
        "batched backward": (args.n_batched, lambda: backward(args.n_batched, args.n_batched)),
        "loop": (args.n_loop, lambda: backward(args.n_loop, 1)),
    }
    rounds = [
        {name: n / seconds(function) for name, (n, function) in candidates.items()}
        for _ in range(args.rounds)
    ]
    rates = {name: [r[name] for r in rounds] for name in candidates}
    report = {
        "machine": machine(),
        "date": date.today().isoformat(),
        "images per second": rates,
        "median": {name: median(values) for name, values in rates.items()},
        "sampler over loop": median(r["sampler"] / r["loop"] for r in rounds),
        "sampler over batched backward": median(
            r["sampler"] / r["batched backward"] for r in rounds
        ),
        "time over floor": median(r["floor"] / r["sampler"] for r in rounds),
        "minutes for 60 000 images": 1000 / median(rates["sampler"]),
        "largest difference of the Jacobians": float((ours - theirs).abs().max()),
    }
    print(json.dumps(report, indent=2))
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
