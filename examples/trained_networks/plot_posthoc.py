"""
================================
One classifier, twenty detectors
================================

How much the choice of a detector matters for one trained classifier. Post-hoc detectors read its
logits, penultimate features or last layer, and all of them can share one forward pass over the
data.

Here a small :class:`~skood.classifiers.ConvNet` learns scikit-learn's handwritten digits 0 to 7.
Two sets are out-of-distribution:

- the digits 8 and 9, excluded from training: near, since they are digits as well;
- patches of scikit-learn's photograph of a flower: far.
"""

# %%
# The classifier
# --------------
# Report the accuracy with the figures below: a network that has not learned its classes detects
# nothing.
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits, load_sample_image
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split

import skood
from skood import ConvNet, share_forward_pass
from skood.metrics import auroc, fpr_at_tpr

digits = load_digits()
known = digits.target <= 7
X_train, X_test, y_train, y_test = train_test_split(
    digits.images[known], digits.target[known], test_size=0.4, random_state=0
)
unseen = digits.images[~known]

photograph = load_sample_image("flower.jpg").mean(axis=2)
rng = np.random.default_rng(0)
corners = rng.integers(0, np.array(photograph.shape) - 8, size=(400, 2))
patches = np.array([photograph[i : i + 8, j : j + 8] for i, j in corners]) / 16

network = ConvNet((16, 32), max_epochs=30, value_range=(0, 16), random_state=0)
network.fit(X_train, y_train)
print(f"accuracy on test digits 0 to 7: {100 * network.score(X_test, y_test):.1f} %")

# %%
# The detectors
# -------------
# The network is frozen: no detector trains it again. :func:`~skood.share_forward_pass` wraps each
# set, so that the network runs over it once for all detectors. Some detectors need labels; all of
# them get labels here.
detectors = {
    "MSP": skood.MSP(),
    "MaxLogit": skood.MaxLogit(),
    "Energy": skood.Energy(),
    "GEN": skood.GEN(),
    "KLMatching": skood.KLMatching(),
    "ODIN": skood.ODIN(),
    "ReAct": skood.ReAct(),
    "DICE": skood.DICE(),
    "ASH": skood.ASH(),
    "SCALE": skood.SCALE(),
    "GradNorm": skood.GradNorm(),
    "SHE": skood.SHE(),
    "FDBD": skood.FDBD(),
    "NCI": skood.NCI(),
    "NNGuide": skood.NNGuide(),
    "ViM": skood.ViM(),
    "Mahalanobis": skood.Mahalanobis(),
    "RelativeMahalanobis": skood.RelativeMahalanobis(),
    "KNN": skood.KNN(n_neighbors=10),
    "NECO": skood.NECO(),
}
frozen = FrozenEstimator(network)
training = share_forward_pass(X_train)
sets = {"digits 8 and 9": share_forward_pass(unseen), "flower patches": share_forward_pass(patches)}
inliers = share_forward_pass(X_test)

areas = {}
print(f"\n{'':20}" + "".join(f"{name:>30}" for name in sets) + f"{'accepted':>12}")
print(f"{'':20}" + f"{'AUROC':>22}{'FPR95':>8}" * len(sets) + f"{'test digits':>12}")
for name, detector in detectors.items():
    model = "features" if hasattr(detector, "features") else "classifier"
    detector = clone(detector).set_params(**{model: frozen}).fit(training, y_train)
    inside = detector.score_samples(inliers)
    areas[name], cells = [], []
    for outliers in sets.values():
        outside = detector.score_samples(outliers)
        y = np.repeat([1, -1], [len(inside), len(outside)])
        scores = np.concatenate([inside, outside])
        areas[name].append(auroc(y, scores))
        cells.append(f"{areas[name][-1]:22.3f}{100 * fpr_at_tpr(y, scores):6.1f} %")
    accepted = (detector.predict(inliers) == 1).mean()
    print(f"{name:20}" + "".join(cells) + f"{100 * accepted:10.1f} %")

# %%
# No detector is the best on both sets. On unseen digits, most detectors on logits are among the
# best; on the patches, detectors that measure distances between features are. Some detectors are
# worse than chance (AUROC 0.5, dotted line) on the patches: the network is more confident on them
# than on digits. The thresholds accept 95 % of the training digits and fewer test digits, because
# the network is more confident on its training data; fit the detectors to held-out digits for
# better thresholds.
figure, axis = plt.subplots(figsize=(7, 6), layout="constrained")
positions = np.arange(len(areas))
for offset, (label, values) in enumerate(zip(sets, np.array(list(areas.values())).T, strict=True)):
    axis.barh(positions + 0.4 * offset, values, height=0.4, label=label)
axis.set(yticks=positions + 0.2, yticklabels=areas, xlabel="AUROC", xlim=(0, 1))
axis.axvline(0.5, color="black", linestyle="dotted")
axis.invert_yaxis()
figure.legend(loc="outside upper center", ncols=2)
plt.show()
