import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skood import LikelihoodRatio, LogLikelihood, PixelCNN
from skood._data.checked_data import CheckedData
from skood.density import _base
from skood.likelihood._likelihood_ratio import _mutated
from skood.metrics import auroc


def digit_density(**kwargs):
    settings = {"n_filters": 4, "n_resnet": 1, "n_levels": 17, "value_range": (0, 16)}
    return PixelCNN(**{**settings, "max_steps": 5, "random_state": 0, **kwargs})


@pytest.fixture(scope="module")
def digits():
    return load_digits().images


@pytest.fixture
def trained(monkeypatch):
    """Names of the models that are trained, in order."""
    names = []
    train = _base.train

    def counting(*args, **kwargs):
        names.append(kwargs["description"])
        return train(*args, **kwargs)

    monkeypatch.setattr(_base, "train", counting)
    return names


def test_score_is_the_difference_of_the_two_models(digits):
    settings = {"mutation_rate": 0.2, "reg_weight": 3.0, "background_steps": None}
    settings |= {"background_batch_size": None, "threshold_fraction": 0.0}
    detector = LikelihoodRatio(digit_density(), **settings).fit(digits)
    foreground = digit_density().fit(digits)
    background = digit_density(mutation_rate=0.2, reg_weight=3.0).fit(digits)
    X = digits[:40]
    np.testing.assert_array_equal(
        detector.score_samples(X), foreground.score_samples(X) - background.score_samples(X)
    )
    np.testing.assert_array_equal(
        detector.score_pixels(X), foreground.score_pixels(X) - background.score_pixels(X)
    )
    np.testing.assert_allclose(
        detector.score_pixels(X).sum((1, 2)), detector.score_samples(X), rtol=1e-6
    )
    assert detector.selection_ == [{"mutation_rate": 0.2, "reg_weight": 3.0}]


@pytest.mark.parametrize(
    ("background_steps", "max_steps", "expected"),
    [(0.3, 5, 2), (3, 5, 3), (7, None, 7), (0.3, None, None), (None, 5, 5)],
)
def test_length_of_the_background_training(digits, background_steps, max_steps, expected):
    density = digit_density(max_steps=max_steps, max_epochs=1)
    detector = LikelihoodRatio(density, background_steps=background_steps).fit(digits[:8])
    assert detector.background_.max_steps == expected
    assert detector.density_.max_steps == max_steps


@pytest.mark.parametrize(
    ("background_batch_size", "expected"), [(2.0, 14), (0.5, 4), (5, 5), (None, 7)]
)
def test_batches_of_the_background_training(digits, background_batch_size, expected):
    density = digit_density(batch_size=7, max_steps=2)
    detector = LikelihoodRatio(density, background_batch_size=background_batch_size)
    detector.fit(digits[:20])
    assert detector.background_.batch_size == expected
    assert detector.density_.batch_size == 7


def test_background_without_batches_or_steps():
    X = np.random.default_rng(0).normal(size=(60, 2))
    detector = LikelihoodRatio(
        KernelDensity(), background_steps=3, background_batch_size=5, threshold_fraction=0.0
    )
    scores = detector.fit(X).score_samples(X)
    assert np.isfinite(scores).all()
    assert detector.background_.get_params() == KernelDensity().get_params()


def test_both_settings_change_the_background_and_only_it(digits):
    base = LikelihoodRatio(digit_density(max_steps=20), mutation_rate=0.1, reg_weight=1.0)
    first = clone(base).fit(digits)
    for change in ({"mutation_rate": 0.5}, {"reg_weight": 50.0}):
        other = clone(base).set_params(**change).fit(digits)
        X = digits[:10]
        np.testing.assert_array_equal(
            other.density_.score_samples(X), first.density_.score_samples(X)
        )
        assert not np.allclose(
            other.background_.score_samples(X), first.background_.score_samples(X)
        )


def test_two_forward_passes_in_all(digits):
    detector = LikelihoodRatio(digit_density()).fit(digits)
    calls = []
    for model in (detector.density_, detector.background_):
        model.module_.register_forward_hook(lambda *_: calls.append(1))
    detector.score_samples(digits[:32])
    assert len(calls) == 2


def test_it_repairs_the_paradox(digits):
    """Ones are simpler than other digits: likelier than most, though never seen."""
    is_one = load_digits().target == 1
    inside, ones = digits[~is_one], digits[is_one]
    density = digit_density(n_filters=16, max_steps=400, max_epochs=100)
    density_only = LogLikelihood(density).fit(inside[:1200])
    ratio = LikelihoodRatio(density).fit(inside[:1200])
    X, y = (
        np.concatenate([inside[1200:], ones]),
        np.repeat([1, -1], [len(inside) - 1200, len(ones)]),
    )
    assert auroc(y, density_only.score_samples(X)) < 0.5
    assert auroc(y, ratio.score_samples(X)) > 0.75


def test_explicit_background_is_fitted_as_it_stands():
    X = np.random.default_rng(0).normal(size=(100, 2))
    detector = LikelihoodRatio(KernelDensity(bandwidth=0.1), KernelDensity(bandwidth=2.0)).fit(X)
    expected = [KernelDensity(bandwidth=h).fit(X).score_samples(X) for h in (0.1, 2.0)]
    np.testing.assert_allclose(detector.score_samples(X), expected[0] - expected[1])


def test_impossible_rows_score_minus_infinity():
    X = np.random.default_rng(0).normal(size=(100, 2))
    tophat = KernelDensity(kernel="tophat")
    detector = LikelihoodRatio(tophat, tophat).fit(X)
    np.testing.assert_array_equal(detector.score_samples([[1e3, 1e3]]), [-np.inf])
    np.testing.assert_array_equal(detector.predict([[1e3, 1e3]]), [-1])


def test_frozen_models_are_not_trained(digits, trained):
    foreground = digit_density().fit(digits)
    background = digit_density(mutation_rate=0.3).fit(digits)
    assert len(trained) == 2
    LikelihoodRatio(FrozenEstimator(foreground), FrozenEstimator(background)).fit(digits[:50])
    assert len(trained) == 2
    ratio = LikelihoodRatio(FrozenEstimator(foreground)).fit(digits)
    assert trained[2:] == ["PixelCNN (mutation 0.1)"]
    assert ratio.density_.estimator is foreground


def test_grid_keeps_the_background_with_the_highest_auroc(digits, trained):
    is_one = load_digits().target == 1
    y = np.where(is_one, -1, load_digits().target)
    detector = LikelihoodRatio(
        digit_density(max_steps=60), mutation_rate=[0.1, 0.4], reg_weight=[0.0, 10.0]
    ).fit(digits, y)
    assert len(trained) == 5
    aurocs = [setting["auroc"] for setting in detector.selection_]
    assert len(set(aurocs)) > 1
    best = detector.selection_[int(np.argmax(aurocs))]
    assert detector.background_.mutation_rate == best["mutation_rate"]
    assert detector.background_.reg_weight == best["reg_weight"]
    assert {(s["mutation_rate"], s["reg_weight"]) for s in detector.selection_} == {
        (rate, weight) for rate in (0.1, 0.4) for weight in (0.0, 10.0)
    }


def test_validation_rows_are_held_out_of_training():
    """The best of two kernel widths on held-out data is not the one that memorises."""
    X = np.random.default_rng(0).normal(size=(200, 2))
    sizes = []

    class Counting(KernelDensity):
        def fit(self, X, y=None):
            sizes.append(len(X))
            return super().fit(X)

    LikelihoodRatio(
        Counting(), [Counting(bandwidth=3.0), Counting(bandwidth=9.0)], validation_fraction=0.25
    ).fit(X)
    assert sizes == [150, 150, 150]


def test_known_outliers_decide_between_backgrounds():
    """Outliers near or far from the data favour different backgrounds."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 2))
    candidates = [KernelDensity(bandwidth=0.3), KernelDensity(bandwidth=30.0)]
    foreground = GaussianMixture(1, random_state=0)
    outliers = rng.normal(size=(100, 2)) * 5
    chosen = LikelihoodRatio(foreground, candidates, random_state=0).fit(
        np.concatenate([X, outliers]), np.repeat([0, -1], [300, 100])
    )
    aurocs = [setting["auroc"] for setting in chosen.selection_]
    assert chosen.background_.bandwidth == candidates[int(np.argmax(aurocs))].bandwidth == 30.0
    assert max(aurocs) > min(aurocs) + 0.1


def test_grid_search_over_mutation_rate_trains_each_density_once(digits, trained, tmp_path):
    y = np.where(load_digits().target == 1, -1, 1)
    search = GridSearchCV(
        LikelihoodRatio(digit_density(random_state=None), memory=str(tmp_path), random_state=0),
        {"mutation_rate": [0.1, 0.2, 0.3]},
        scoring=lambda detector, X, y: auroc(y, detector.score_samples(X)),
        cv=2,
        refit=False,
    ).fit(digits, y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert trained.count("PixelCNN") == 2
    assert len(trained) == 2 + 2 * 3


def test_log_likelihood_and_ratio_share_a_cached_density(digits, trained, tmp_path):
    options = {"memory": str(tmp_path), "random_state": 0}
    LogLikelihood(digit_density(random_state=None), **options).fit(digits)
    LikelihoodRatio(digit_density(random_state=None), **options).fit(digits)
    assert trained == ["PixelCNN", "PixelCNN (mutation 0.1)"]


def test_pipeline_with_flat_rows(digits):
    flat = digits.reshape(len(digits), -1)
    density = digit_density(image_shape=(1, 8, 8), value_range=(0, 1))
    pipeline = make_pipeline(MinMaxScaler(clip=True), LikelihoodRatio(density)).fit(flat)
    assert pipeline.score_samples(flat[:5]).shape == (5,)
    assert pipeline[-1].score_pixels(MinMaxScaler().fit_transform(flat)[:5]).shape == (5, 8, 8)
    assert set(pipeline.predict(flat)) == {-1, 1}


def test_mutated_rows():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(5000, 3)) * [1, 10, 100] + [0, 50, -500]
    mutated = _mutated(CheckedData.of(rows), 0.3, rng).rows()
    changed = mutated != rows
    # A donor is the row itself once in 5000 times.
    assert changed.mean() == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / rows.size))
    for column in range(3):
        assert np.isin(mutated[:, column], rows[:, column]).all()
    together = changed[:, 0] & changed[:, 1]
    assert together.mean() == pytest.approx(0.09, abs=5 * np.sqrt(0.09 * 0.91 / 5000))
    np.testing.assert_array_equal(_mutated(CheckedData.of(rows), 0.0, rng).rows(), rows)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mutation_rate": [0.1, 1.5]}, r"mutation_rate=\[0.1, 1.5\] must lie in \[0, 1\]"),
        ({"mutation_rate": -0.1}, "'mutation_rate' parameter"),
        ({"background": []}, "empty list"),
        ({"background_batch_size": 0}, "'background_batch_size' parameter"),
        ({"background_batch_size": -2.0}, "'background_batch_size' parameter"),
        ({"contamination": 0.6}, "'contamination' parameter"),
    ],
)
def test_errors_of_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        LikelihoodRatio(KernelDensity(), **params).fit(np.zeros((10, 2)))


def test_too_few_rows_to_choose_a_background():
    with pytest.raises(ValueError, match="2 in-distribution items are too few"):
        LikelihoodRatio(KernelDensity(), mutation_rate=[0.1, 0.2]).fit([[0.0], [1.0]])
