"""Trains and stores the networks of the mini-benchmark: ``python -m mini_benchmark.make_networks``.

Run it in the folder ``tests``. Networks are trained again only if a task changes; the figures of
its detectors then change too: ``SKOOD_BM_STORE=1 pytest --bm`` stores them.
"""

import torch
from mini_benchmark.tasks import NETWORKS, TASKS

import skood


def main() -> None:
    torch.set_num_threads(1)
    NETWORKS.mkdir(exist_ok=True)
    for task in TASKS:
        path = NETWORKS / f"{task.network}.skood"
        if not path.exists():
            data = task.data()
            skood.save(task.estimator.fit(data.X, data.y), path)
            print(f"{path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
