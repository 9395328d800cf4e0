"""
===================================
Genomes, and where they are unusual
===================================

How to find the part of a sequence that is unusual. A :class:`~skood.density.SequenceDensity`
predicts each base of a genome from the bases before it. Here it learns one class of synthetic
genomes. A test sequence is drawn from that class, but its middle is replaced by bases of another
class: the contribution of each position to the score shows where.
"""

# %%
# The data
# --------
# Classes of :func:`~skood.datasets.make_genomes` are Markov chains: the two bases before determine
# how probable the next one is, and each class has its own table.
import matplotlib.pyplot as plt
import numpy as np

from skood import LikelihoodRatio, SequenceDensity, evaluate
from skood.datasets import make_genomes

X, y = make_genomes(900, 2, length=120, orders=[2], strength=0.8, random_state=3)
train, test, other = X[y == 0][:300], X[y == 0][300:], X[y == 1]
print(train[0])

# %%
# The detector
# ------------
# The density and the background model are the same network; the background is trained with
# mutations and a penalty on its weights.
density = SequenceDensity(hidden_features=16, n_layers=3, max_steps=150, learning_rate=0.01)
detector = LikelihoodRatio(density, reg_weight=0.1, random_state=0).fit(train)
print(f"{detector.density_.bits_per_dim(test).mean():.2f} bits per base (2 for random bases)\n")
print(evaluate({"ratio": detector}, test, {"other class": other}))

# %%
# Where a sequence is unusual
# ---------------------------
# The scores of single positions are noisy; their mean over 15 positions shows the part of the other
# class.
start, stop = 45, 75
chimeras = [a[:start] + b[start:stop] + a[stop:] for a, b in zip(test, other, strict=False)]
width = np.ones(15) / 15
figure, axis = plt.subplots(figsize=(9, 3.5), layout="constrained")
for sequences, name in ((test, "in-distribution"), (chimeras, "with a part of another class")):
    smooth = [np.convolve(p, width, "same") for p in detector.score_positions(sequences)]
    mean = np.mean(smooth, axis=0)
    axis.plot(mean, label=f"{name}, mean of {len(smooth)} sequences")
axis.plot(smooth[0], lw=0.8, color="grey", label="one sequence with a part of another class")
axis.axvspan(start, stop, color="0.9", label="the part")
axis.set(xlabel="position in the sequence", ylabel="likelihood ratio, nats per base")
axis.legend(fontsize="small")
plt.show()
