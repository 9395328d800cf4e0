"""
===========================================
One sample, one batch, one stream of images
===========================================

How to notice that new data are no longer like the training data. There are three answers, each with
an error rate: a p-value for one image, a test of a batch with the fraction of unknown images in it,
and a monitor of a stream that hardly ever raises a false alarm, however long the stream is.

Digits 0 to 7 of scikit-learn's handwritten digits are in-distribution; 8 and 9 are unknown.
"""

# %%
# A calibrated detector
# ---------------------
# A small network learns the known digits. The calibration digits are new to it.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

from skood import KNN, MLP, ConformalDetector, DriftMonitor

X, y = load_digits(return_X_y=True)
known, unknown = X[y < 8], X[y >= 8]
train, rest, y_train, _ = train_test_split(known, y[y < 8], train_size=0.4, random_state=0)
calibration, new = train_test_split(rest, train_size=0.5, random_state=0)
detector = ConformalDetector(KNN(MLP(random_state=0)), alpha=0.05)
detector.fit(train, y_train, X_calibration=calibration)
print(f"{len(train)} training digits, {detector.n_calibration_} calibration digits")

# %%
# One image
# ---------
# A p-value of 0.02 means that about 2 % of known digits look at least as strange. Digits with a
# p-value of at most ``alpha`` are rejected.
print("p-values of known digits:  ", detector.p_values(new[:6]).round(3))
print("p-values of unknown digits:", detector.p_values(unknown[:6]).round(3))
for name, digits in (("known", new), ("unknown", unknown)):
    rejected = 100 * np.mean(detector.predict(digits) == -1)
    print(f"{rejected:.1f} % of {name} digits are rejected")

# %%
# One batch
# ---------
# ``drift_test`` compares a batch with the calibration digits. The p-value is exact for any size of
# the batch. The interval counts unknown digits that look unknown: ``low`` is certain at the stated
# confidence; ``high`` is too small if unknown digits look as ordinary as the ordinary half of the
# known ones.
rng = np.random.default_rng(0)
size = 120
fractions = [0.0, 0.05, 0.1, 0.2, 0.4]
results = []
for fraction in fractions:
    n_unknown = round(fraction * size)
    batch = np.concatenate(
        [rng.permutation(new)[: size - n_unknown], rng.permutation(unknown)[:n_unknown]]
    )
    results.append(detector.drift_test(batch))
    print(f"{100 * fraction:3.0f} % unknown: {results[-1]}")

# %%
# One stream
# ----------
# The monitor tests after every image, and the probability that it ever raises a false alarm is at
# most ``alpha``. Here every third image is unknown from image 150 on.
monitor = DriftMonitor(FrozenEstimator(detector), alpha=0.01)
order = rng.permutation(len(new))
for image in new[order[:150]]:
    monitor.partial_fit(image[None])
for position, image in enumerate(new[order[150:300]]):
    monitor.partial_fit((image if position % 3 else unknown[position])[None])
print(
    f"alarm at image {monitor.alarm_row_}; estimated start of the change: image {monitor.change_row_}"
)

# %%
# Left: the true fraction of unknown digits is within the interval. Right: the evidence of the
# monitor stays around or below 0 before the change, and then grows until it crosses the threshold.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
lows = [result.ood_fraction - result.low for result in results]
highs = [result.high - result.ood_fraction for result in results]
estimates = [result.ood_fraction for result in results]
left.errorbar(fractions, estimates, [lows, highs], fmt="o", capsize=4)
left.plot(fractions, fractions, color="black", linestyle="dashed", label="true fraction")
left.set(xlabel="fraction of unknown digits in the batch", ylabel="estimated fraction")
left.legend()
right.plot(monitor.log_e_values_)
right.axhline(-np.log(monitor.alpha), color="C2", linestyle="dotted", label="alarm")
right.axvline(150, color="black", linestyle="dashed", label="change")
right.set(xlabel="image", ylabel="evidence (log e-value, nats)")
right.legend()
plt.show()
