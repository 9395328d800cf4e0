"""LatentSpaceDisplay: positions, colours and names of points."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.decomposition import PCA, KernelPCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch.utils.data import TensorDataset

from skood import MSP, VAE, ConvNet, share_forward_pass
from skood.inspection import LatentSpaceDisplay

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from_estimator = LatentSpaceDisplay.from_estimator
from_latents = LatentSpaceDisplay.from_latents


@pytest.fixture(autouse=True)
def closed_figures():
    """Close the figures of each test."""
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def latents():
    """Latents of three classes, whose labels can be read off them, and their labels."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    Z = rng.normal(size=(120, 5)) * [1, 2, 0.5, 0.1, 3]
    Z[:, 0] += 20 * y
    return Z, y


@pytest.fixture(scope="module")
def outliers():
    return np.random.default_rng(1).normal(30, 5, size=(40, 5))


@pytest.fixture(scope="module")
def network():
    """A network on images of 8 x 8, and the images."""
    X = np.random.default_rng(0).integers(256, size=(60, 8, 8), dtype=np.uint8)
    y = np.arange(60) % 2
    return ConvNet((4, 6), max_steps=2, precision="fp32", random_state=0).fit(X, y), X, y


def by_hand(Z, others):
    """First two principal directions of Z, from the eigenvectors of its covariance."""
    mean = Z.mean(0)
    values, vectors = np.linalg.eigh(np.cov(Z.T))
    directions = vectors[:, [-1, -2]]
    return (Z - mean) @ directions, (others - mean) @ directions, values[::-1] / values.sum()


def up_to_signs(coordinates, expected):
    return coordinates * np.sign((coordinates * expected).sum(0))


def names(display):
    return [text.get_text() for text in display.legend_.get_texts()]


def axis_names(display):
    return [display.ax_.get_xlabel(), display.ax_.get_ylabel()]


def colour_of_point(display, point):
    offsets = np.asarray(display.scatter_.get_offsets())
    return display.scatter_.get_facecolors()[np.abs(offsets - point).sum(1).argmin()]


def test_pca_of_id_points_is_applied_to_all(latents, outliers):
    Z, y = latents
    display = from_latents(Z, y, latents_ood=outliers)
    inside, outside, parts = by_hand(Z, outliers)
    np.testing.assert_allclose(up_to_signs(display.coordinates, inside), inside, atol=1e-9)
    np.testing.assert_allclose(
        display.ood_coordinates["OOD"] * np.sign((display.coordinates * inside).sum(0)),
        outside,
        atol=1e-9,
    )
    np.testing.assert_array_equal(display.labels, y)
    assert axis_names(display) == [
        f"principal component {i} ({100 * part:.0f} % of variance)"
        for i, part in [(1, parts[0]), (2, parts[1])]
    ]
    assert isinstance(display.reduction, PCA)
    assert display.ax_.get_aspect() == 1
    # More points can be put into the same plane.
    np.testing.assert_allclose(display.reduction.transform(Z), display.coordinates)


def test_points_are_drawn_where_their_coordinates_are(latents, outliers):
    """Points have the colour of their class in the legend."""
    Z, y = latents
    display = from_latents(Z, np.array(["cat", "dog", "eel"])[y], latents_ood=outliers)
    drawn = np.asarray(display.scatter_.get_offsets())
    for part in (0, 1):
        np.testing.assert_array_equal(
            np.sort(drawn[:, part]), np.sort(display.coordinates[:, part])
        )
    assert (drawn[:100] != display.coordinates[:100]).any(), "one class would lie over the others"
    np.testing.assert_array_equal(
        display.ood_scatters_["OOD"].get_offsets(), display.ood_coordinates["OOD"]
    )
    assert names(display) == ["cat", "dog", "eel", "OOD"]
    colours = [to_rgba(handle.get_color()) for handle in display.legend_.legend_handles[:3]]
    assert len(set(colours)) == 3
    for row in range(12):
        colour = colour_of_point(display, display.coordinates[row])
        np.testing.assert_allclose(colour[:3], colours[y[row]][:3])
    np.testing.assert_allclose(display.ood_scatters_["OOD"].get_facecolors()[0, :3], 0)


def test_estimator_gives_the_latents(network):
    fitted, X, y = network
    features = fitted.transform(X).astype(np.float64)
    display = from_estimator(fitted, X, y, X_ood=X[:7])
    expected, _, _ = by_hand(features, features)
    np.testing.assert_allclose(up_to_signs(display.coordinates, expected), expected, atol=1e-4)
    np.testing.assert_allclose(display.ood_coordinates["OOD"], display.coordinates[:7], atol=1e-5)
    again = from_latents(features, y, latents_ood=features[:7])
    np.testing.assert_allclose(again.coordinates, display.coordinates, atol=1e-5)


@pytest.mark.parametrize(
    "form",
    [
        share_forward_pass,
        lambda X: torch.from_numpy(X),
        lambda X: TensorDataset(torch.from_numpy(X)),
        lambda X: X[..., None],
        lambda X: list(X),
    ],
    ids=["shared", "tensor", "dataset", "channels last", "list"],
)
def test_forms_of_the_same_images(network, form):
    fitted, X, y = network
    options = {"max_points": 20, "random_state": 3}
    plain = from_estimator(fitted, X, y, X_ood=X[:30], **options)
    display = from_estimator(FrozenEstimator(fitted), form(X), y, X_ood=form(X[:30]), **options)
    np.testing.assert_allclose(display.coordinates, plain.coordinates, atol=1e-4)
    np.testing.assert_array_equal(display.labels, plain.labels)
    np.testing.assert_allclose(
        display.ood_coordinates["OOD"], plain.ood_coordinates["OOD"], atol=1e-4
    )


def test_data_frames_reach_the_estimator_as_they_are(latents):
    Z, y = latents
    frame = pd.DataFrame(Z, columns=list("abcde"), index=np.arange(120) + 1000)
    # Raises for input without names of columns.
    scaler = StandardScaler().fit(frame)
    display = from_estimator(scaler, frame, pd.Series(y, index=frame.index), max_points=30)
    assert display.coordinates.shape == (30, 2)
    assert from_latents(frame, y).coordinates.shape == (120, 2)


def test_vae_of_two_latents_is_drawn_as_it_is():
    X = np.random.default_rng(0).random((40, 8, 8))
    vae = VAE(2, n_filters=(4,), hidden_features=(8,), likelihood="bernoulli", max_steps=3)
    vae.fit(X)
    display = from_estimator(vae, X)
    np.testing.assert_allclose(display.coordinates, vae.transform(X), rtol=1e-6)
    assert display.labels is None
    assert display.reduction is None
    assert display.legend_ is None
    assert axis_names(display) == ["latent 1", "latent 2"]
    assert names(from_estimator(vae, X, X_ood=X[:3], method="tsne")) == ["ID", "OOD"]


def test_subset_keeps_labels_with_their_points(latents, outliers):
    Z, y = latents

    def draw(random_state, max_points=50):
        return from_latents(
            Z[:, :2],
            y,
            latents_ood={"near": outliers[:, :2], "few": outliers[:9, :2]},
            max_points=max_points,
            random_state=random_state,
        )

    display = draw(0, max_points=30)
    assert display.coordinates.shape == (30, 2)
    assert [len(part) for part in display.ood_coordinates.values()] == [30, 9]
    rows = [int(np.flatnonzero((Z[:, :2] == point).all(1))[0]) for point in display.coordinates]
    assert len(set(rows)) == 30
    np.testing.assert_array_equal(display.labels, y[rows])
    assert set(display.labels) == {0, 1, 2}
    np.testing.assert_array_equal(display.ood_coordinates["few"], outliers[:9, :2])
    np.testing.assert_array_equal(draw(3).coordinates, draw(3).coordinates)
    assert (draw(3).coordinates != draw(4).coordinates).any()
    assert (draw(None).coordinates != draw(None).coordinates).any()
    # Two sets of one size, and ID points, are not cut in the same way.
    same = {"a": Z[:, :2], "b": Z[:, :2]}
    cut = from_latents(Z[:, :2], latents_ood=same, max_points=30, random_state=0)
    parts = [cut.coordinates, *cut.ood_coordinates.values()]
    assert len({part.tobytes() for part in parts}) == 3
    np.testing.assert_array_equal(draw(0, max_points=None).coordinates, Z[:, :2])


def test_only_the_subset_is_transformed(latents):
    Z, y = latents
    seen = []

    def note(rows):
        seen.append(len(rows))
        return rows

    from_estimator(FunctionTransformer(note), Z, y, X_ood=Z, max_points=10)
    assert seen == [10, 10]


def test_sets_by_name(latents, outliers):
    Z, y = latents
    sets = {name: outliers + i for i, name in enumerate("abcdefg")}
    display = from_latents(Z, y, latents_ood=sets)
    assert list(display.ood_coordinates) == list("abcdefg")
    assert names(display) == ["0", "1", "2", *(f"OOD: {name}" for name in "abcdefg")]
    for name, points in sets.items():
        np.testing.assert_allclose(
            display.ood_coordinates[name], display.reduction.transform(points), atol=1e-9
        )
        assert display.ood_scatters_[name].get_label() == f"OOD: {name}"
    markers = {
        scatter.get_paths()[0].vertices.tobytes() for scatter in display.ood_scatters_.values()
    }
    assert len(markers) == 6
    assert from_latents(Z, y, latents_ood={}).ood_coordinates == {}


@pytest.mark.parametrize("label", [-1, "-1"])
def test_rows_marked_in_y_are_ood(latents, outliers, label):
    Z, y = latents
    X = np.concatenate([outliers[:5], Z, outliers[5:]])
    kind = type(label)
    marked = np.array([label] * 5 + [kind(value) for value in y] + [label] * 35)
    display = from_latents(X, marked)
    plain = from_latents(Z, y, latents_ood=outliers)
    np.testing.assert_allclose(display.coordinates, plain.coordinates, atol=1e-9)
    np.testing.assert_allclose(
        display.ood_coordinates["OOD"], plain.ood_coordinates["OOD"], atol=1e-9
    )
    assert display.labels.astype(int).tolist() == y.tolist()
    assert names(display) == ["0", "1", "2", "OOD"]
    # Data without a name form one set, also together with named sets.
    both = from_latents(X, marked, latents_ood=outliers[:3])
    np.testing.assert_allclose(
        both.ood_coordinates["OOD"],
        np.concatenate([plain.ood_coordinates["OOD"], plain.ood_coordinates["OOD"][:3]]),
        atol=1e-9,
    )
    named = from_latents(X, marked, latents_ood={"far": outliers[:3]})
    assert {name: len(part) for name, part in named.ood_coordinates.items()} == {
        "OOD": 40,
        "far": 3,
    }


def test_tsne_embeds_all_points_together(latents, outliers):
    Z, y = latents
    display = from_latents(Z, y, latents_ood=outliers, method="tsne", random_state=0)
    tsne = display.reduction
    assert (tsne.init, tsne.perplexity) == ("pca", 30)
    np.testing.assert_array_equal(
        np.concatenate([display.coordinates, display.ood_coordinates["OOD"]]), tsne.embedding_
    )
    reference = TSNE(perplexity=30, init="pca", random_state=tsne.random_state)
    np.testing.assert_array_equal(
        reference.fit_transform(np.concatenate([Z, outliers])), tsne.embedding_
    )
    assert axis_names(display) == ["t-SNE 1", "t-SNE 2"]
    assert len(display.ax_.get_xticks()) == 0


@pytest.mark.parametrize(("n_points", "perplexity"), [(3, 2 / 3), (31, 10)])
def test_perplexity_is_bounded_by_the_number_of_points(latents, n_points, perplexity):
    Z, _ = latents
    inside = n_points - n_points // 3
    display = from_latents(Z[:inside], latents_ood=Z[inside:n_points], method="tsne")
    assert display.reduction.perplexity == pytest.approx(perplexity)
    assert np.isfinite(display.coordinates).all()


class Folded(BaseEstimator):
    """Takes labels without requiring them, as UMAP does, and has no transform."""

    def fit_transform(self, X, y=None):
        assert y is None
        self.n_rows_ = len(X)
        return abs(X[:, :2])


class Foldable(Folded):
    def fit(self, X, y=None):
        self.fit_transform(X, y)
        return self

    def transform(self, X):
        return abs(X[:, :2])


def test_other_transformers(latents, outliers):
    Z, y = latents

    def draw(method):
        return from_latents(Z, y, latents_ood=outliers, method=method, random_state=0)

    given = KernelPCA(n_components=2, kernel="cosine")
    display = draw(given)
    reference = KernelPCA(n_components=2, kernel="cosine").fit(Z)
    np.testing.assert_allclose(display.coordinates, reference.transform(Z), atol=1e-9)
    np.testing.assert_allclose(
        display.ood_coordinates["OOD"], reference.transform(outliers), atol=1e-9
    )
    assert axis_names(display) == ["KernelPCA 1", "KernelPCA 2"]
    assert not hasattr(given, "eigenvalues_")

    # Labels go to those that require them.
    discriminant = LinearDiscriminantAnalysis(n_components=2)
    for method in (discriminant, make_pipeline(StandardScaler(), discriminant)):
        display = draw(method)
        expected = clone(method).fit(Z, y).transform(Z)
        np.testing.assert_allclose(display.coordinates, expected, atol=1e-9)
        assert axis_names(display)[1] == "LinearDiscriminantAnalysis 2"

    for method, n_learned_from in [(Folded(), 160), (Foldable(), 120)]:
        display = draw(method)
        np.testing.assert_array_equal(display.coordinates, abs(Z[:, :2]))
        np.testing.assert_array_equal(display.ood_coordinates["OOD"], abs(outliers[:, :2]))
        assert display.reduction.n_rows_ == n_learned_from

    pipeline = make_pipeline(StandardScaler(), PCA(2))
    display = draw(pipeline)
    np.testing.assert_allclose(display.coordinates, pipeline.fit_transform(Z), atol=1e-9)
    assert axis_names(display)[0].startswith("principal component 1 (")

    # A frozen one keeps the plane of other data.
    display = draw(FrozenEstimator(PCA(2).fit(outliers)))
    np.testing.assert_allclose(display.coordinates, PCA(2).fit(outliers).transform(Z), atol=1e-9)
    assert axis_names(display)[0].startswith("principal component 1 (")


def test_random_state_of_a_transformer(latents):
    Z, _ = latents
    assert from_latents(Z, method=PCA(2, random_state=7)).reduction.random_state == 7
    seeds = [
        from_latents(Z, method=PCA(2), random_state=seed).reduction.random_state
        for seed in (0, 0, 1)
    ]
    assert seeds[0] == seeds[1] != seeds[2]


def test_given_axes_and_drawing_again(latents, outliers):
    Z, y = latents
    _, axes = plt.subplots(1, 2)
    display = from_latents(Z, y, latents_ood=outliers, ax=axes[1], title="latents")
    assert display.ax_ is axes[1]
    assert display.figure_ is axes[1].figure
    assert display.scatter_ in axes[1].collections
    assert axes[1].get_title() == "latents"
    assert len(axes[0].collections) == 0
    assert len(plt.get_fignums()) == 1
    first = display.scatter_
    assert display.plot(ax=axes[0], legend=False) is display
    assert display.ax_ is axes[0]
    assert display.legend_ is axes[0].get_legend() is None
    assert axes[0].get_title() == ""
    np.testing.assert_array_equal(display.scatter_.get_offsets(), first.get_offsets())
    assert [len(ax.collections) for ax in axes] == [2, 2]
    own = display.plot()
    assert len(plt.get_fignums()) == 2
    own.figure_.canvas.draw()


@pytest.mark.parametrize("shared", [False, True])
def test_scales_are_equal(latents, shared):
    Z, y = latents
    figure, axes = plt.subplots(1, 2, sharex=shared, sharey=shared, layout="constrained")
    for ax, part in zip(axes, (Z, Z * 3), strict=True):
        from_latents(part, y, ax=ax)
    figure.canvas.draw()
    for ax in axes:
        (right, top), (left, bottom) = ax.transData.transform([(1, 1), (0, 0)])
        # matplotlib itself is content with half a percent.
        assert right - left == pytest.approx(top - bottom, rel=0.005)


def test_legend_stands_beside_the_points(latents, outliers):
    display = from_latents(*latents, latents_ood=outliers)
    display.figure_.canvas.draw()
    legend, axes = display.legend_.get_window_extent(), display.ax_.get_window_extent()
    assert legend.x0 >= axes.x1
    assert legend.x1 <= display.figure_.bbox.x1
    assert legend.y0 >= 0


@pytest.mark.parametrize(("n_classes", "n_named"), [(10, 10), (20, 20), (40, 0)])
def test_many_classes(latents, outliers, n_classes, n_named):
    Z, _ = latents
    y = np.arange(120) % n_classes
    display = from_latents(Z, y, latents_ood={"far": outliers})
    display.figure_.canvas.draw()
    assert names(display) == [*map(str, range(n_named)), "OOD: far"]
    assert display.legend_.get_window_extent().x1 <= display.figure_.bbox.x1
    colours = {tuple(colour) for colour in display.scatter_.get_facecolors()}
    assert len(colours) == n_classes


def test_style(latents, outliers):
    display = from_latents(
        *latents,
        latents_ood={"a": outliers, "b": outliers, "c": outliers},
        scatter_kwargs={"s": 3, "alpha": 0.25},
        ood_scatter_kwargs={"color": "red", "s": 7},
    )
    assert display.scatter_.get_sizes().tolist() == [3]
    assert display.scatter_.get_alpha() == 0.25
    for scatter in display.ood_scatters_.values():
        assert scatter.get_sizes().tolist() == [7]
        np.testing.assert_allclose(scatter.get_edgecolors()[0, :3], [1, 0, 0])
    # An outline hides nothing.
    assert len(display.ood_scatters_["c"].get_facecolors()) == 0
    with plt.rc_context({"text.color": "white"}):
        display.plot(ood_scatter_kwargs={"marker": "o"})
    np.testing.assert_allclose(display.ood_scatters_["a"].get_edgecolors()[0, :3], 1)


def test_display_of_given_coordinates(latents):
    Z, y = latents
    display = LatentSpaceDisplay(Z[:, :2], labels=y, ood_coordinates={"far": Z[:3, :2]}).plot()
    assert axis_names(display) == ["latent 1", "latent 2"]
    assert names(display) == ["0", "1", "2", "OOD: far"]
    assert LatentSpaceDisplay(Z[:, :2]).plot().legend_ is None


def test_latents_as_tensors(latents):
    Z, y = latents
    tensor = torch.tensor(Z, dtype=torch.float32, requires_grad=True)
    display = from_latents(tensor, torch.from_numpy(y), latents_ood=tensor.bfloat16())
    np.testing.assert_allclose(display.coordinates, from_latents(Z, y).coordinates, atol=1e-3)


def test_what_is_refused_of_latents(latents, outliers):
    Z, y = latents
    for bad, message in [
        (Z.reshape(60, 2, 5), r"latents has shape \(60, 2, 5\); expected \(n_samples, n_latent\)"),
        (Z[0], r"latents has shape \(5,\); expected \(n_samples, n_latent\)"),
        (Z[:, :1], r"latents has shape \(120, 1\); expected at least two dimensions"),
        (Z[:, :0], r"latents has shape \(120, 0\); expected at least two dimensions"),
        (Z[:0], r"Found array with 0 sample\(s\)"),
        (np.where(np.arange(5) == 1, np.nan, Z), "latents holds NaN or infinity in 120 of 120"),
        (np.ones((9, 5)), "the latents of all 9 points are the same"),
        (Z[:1], "the latents of all 1 points are the same"),
    ]:
        with pytest.raises(ValueError, match=message):
            from_latents(bad)
    spoilt = outliers.copy()
    spoilt[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"latents_ood\['far'\] holds NaN or infinity in 1 of 40"):
        from_latents(Z, latents_ood={"far": spoilt})
    with pytest.raises(ValueError, match=r"latents_ood\['OOD'\] has 4 columns, and latents has 5"):
        from_latents(Z, latents_ood=outliers[:, :4])
    for labels in (y[:-1], np.append(y, 0)):
        message = f"y has {len(labels)} labels, but latents has 120 items"
        with pytest.raises(ValueError, match=message):
            from_latents(Z, labels)
    with pytest.raises(ValueError, match="y holds nan at 1 of 120 rows"):
        from_latents(Z, np.where(np.arange(120) == 5, np.nan, y))
    with pytest.raises(ValueError, match="none of the 120 items of latents is in-distribution"):
        from_latents(Z, np.full(120, -1))
    with pytest.raises(ValueError, match="max_points=1; expected at least 2, or None"):
        from_latents(Z, max_points=1)
    assert plt.get_fignums() == []


def test_what_is_refused_of_a_method(latents):
    Z, y = latents
    for method in ("umap", PCA, None, 3):
        for part in (Z, Z[:, :2]):
            with pytest.raises(TypeError, match="expected 'pca', 'tsne' or a transformer of"):
                from_latents(part, y, method=method)
    with pytest.raises(
        ValueError, match=r"PCA\(n_components=3\) returns an array of shape \(120, 3\)"
    ):
        from_latents(Z, y, method=PCA(n_components=3))
    assert plt.get_fignums() == []


def test_what_is_refused_of_an_estimator(latents, network):
    Z, y = latents
    fitted, X, X_classes = network
    with pytest.raises(TypeError, match="MSP has no transform, which returns the latents"):
        from_estimator(MSP(FrozenEstimator(fitted)).fit(X), X)
    with pytest.raises(NotFittedError, match="This VAE instance is not fitted yet"):
        from_estimator(VAE(), X)
    with pytest.raises(ValueError, match="y has 59 labels, but X has 60 items"):
        from_estimator(fitted, X, X_classes[:-1])
    message = r"the output of FunctionTransformer.transform has shape \(120, 5, 1\)"
    with pytest.raises(ValueError, match=message):
        from_estimator(FunctionTransformer(lambda rows: rows[:, :, None]), Z, y)
    message = "the output of FunctionTransformer.transform holds NaN or infinity in 120 of 120"
    with pytest.raises(ValueError, match=message):
        from_estimator(FunctionTransformer(lambda rows: rows * np.nan), Z, y)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        from_estimator(StandardScaler().fit(Z), Z, y, colour="red")
    assert plt.get_fignums() == []
