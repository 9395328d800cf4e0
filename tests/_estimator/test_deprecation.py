"""Old names and defaults: they work, warn, and are removed in time."""

import ast
import inspect
import pickle
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skood
from skood._estimator.deprecation import OldName, changing_default, keeps_old_names, old_members
from skood.base import BaseDetector, estimator, parameter
from skood.functional import energy
from skood.model_selection import get_ood_scorer
from skood.testing import check_detector

NEXT = "{}.{}".format(*(int(part) + 99 for part in skood.__version__.split(".")[:2]))


@estimator
class Distance(BaseDetector):
    """Negative distance to the mean, in units of a scale."""

    scale: float = parameter(float, default=1.0)
    power: float = parameter(float, str, default="warn", kw_only=True)

    width = OldName("scale", removed_in=NEXT)
    n_jobs = OldName(None, removed_in=NEXT, advice="Threads are those of numpy.")
    center_ = OldName("mean_", removed_in=NEXT)

    def _fit(self, inliers, y, outliers, seed):
        self.mean_ = inliers.rows().mean(axis=0)
        self.power_ = changing_default(self.power, "power", now=2.0, later=1.0, changed_in=NEXT)

    def _score_samples(self, data):
        return -(np.linalg.norm(data.rows() - self.mean_, axis=1) ** self.power_) / self.scale


@estimator
class Further(Distance):
    """Adds a parameter, and has an ``__init__`` of its own."""

    offset: float = parameter(float, default=0.0)


RENAMED = r"width of \w+ is now called scale; width will be removed in skood " + NEXT


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(60, 2))


@pytest.mark.parametrize("cls", [Distance, Further])
class TestParameters:
    def test_the_old_name_sets_the_new_one(self, cls):
        with pytest.warns(FutureWarning, match=RENAMED) as caught:
            detector = cls(width=3.0, power=1.0)
        assert detector.scale == 3.0
        # The warning points at the line of the user.
        assert [warning.filename for warning in caught] == [__file__]
        assert "width" not in detector.get_params()
        assert "width" not in inspect.signature(cls).parameters

    def test_the_new_name_does_not_warn(self, cls, X):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            detector = cls(3.0, power=1.0).fit(X)
            for copy in (clone(detector), pickle.loads(pickle.dumps(detector))):
                assert copy.set_params(scale=2.0).scale == 2.0
            assert repr(detector) == f"{cls.__name__}(power=1.0, scale=3.0)"

    def test_set_params(self, cls):
        pipeline = make_pipeline(StandardScaler(), cls())
        name = cls.__name__.lower()
        with pytest.warns(FutureWarning, match=RENAMED):
            pipeline.set_params(**{f"{name}__width": 5.0})
        assert pipeline.get_params()[f"{name}__scale"] == 5.0

    def test_clones_and_searches(self, cls, X):
        y = np.where(np.arange(60) % 4, 0, -1)
        with pytest.warns(FutureWarning, match=RENAMED):
            detector = cls(width=2.0, power=1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            assert clone(detector).scale == 2.0
        search = GridSearchCV(detector, {"width": [1.0, 4.0]}, scoring=get_ood_scorer("auroc"))
        with pytest.warns(FutureWarning, match=RENAMED):
            search.fit(X, y)
        assert search.best_estimator_.scale in (1.0, 4.0)

    def test_both_names(self, cls):
        for call in (cls, cls().set_params):
            with (
                pytest.warns(FutureWarning, match=RENAMED),
                pytest.raises(TypeError, match=r"got width and its new name scale"),
            ):
                call(width=1.0, scale=1.0)

    def test_as_an_attribute(self, cls):
        detector = cls(4.0)
        with pytest.warns(FutureWarning, match=RENAMED):
            assert detector.width == 4.0
        with pytest.warns(FutureWarning, match=RENAMED):
            detector.width = 5.0
        assert detector.scale == 5.0

    def test_a_removed_parameter(self, cls):
        with pytest.warns(FutureWarning, match="n_jobs of .* has no effect any more; .* numpy"):
            detector = cls(n_jobs=3)
        assert "n_jobs" not in detector.get_params()
        assert not hasattr(detector, "n_jobs")

    def test_unknown_names_are_errors(self, cls):
        with pytest.raises(TypeError, match="unexpected keyword argument 'wide'"):
            cls(wide=1)
        with pytest.raises(ValueError, match="Invalid parameter 'wide'"):
            cls().set_params(wide=1)


def test_an_estimator_inside():
    @estimator
    class Outer(Distance):
        """Holds a detector."""

        detector: object = parameter(default=None, kw_only=True)
        inner = OldName("detector", removed_in=NEXT)

    with pytest.warns(FutureWarning, match="inner of Outer is now called detector"):
        outer = Outer(detector=Distance()).set_params(inner__scale=7.0)
    assert outer.detector.scale == 7.0


def test_attributes(X):
    detector = Distance(power=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not hasattr(detector, "center_")
        detector.fit(X)
        assert "center_" not in vars(detector)
    with pytest.warns(FutureWarning, match="center_ of Distance is now called mean_"):
        np.testing.assert_array_equal(detector.center_, detector.mean_)


def test_defaults(X):
    with pytest.warns(
        FutureWarning, match=r"power will change from 2.0 to 1.0 .* Write power=2.0 to keep it"
    ):
        detector = Distance().fit(X)
    assert (detector.power, detector.power_) == ("warn", 2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        given = Distance(power=2.0).fit(X)
    np.testing.assert_array_equal(given.score_samples(X), detector.score_samples(X))


def test_parameters_of_functions():
    @keeps_old_names(t=OldName("temperature", removed_in=NEXT))
    def scaled(logits, temperature=1.0):
        return energy(logits, temperature)

    logits = np.array([[1.0, 2.0]])
    with pytest.warns(FutureWarning, match="t of scaled is now called temperature") as caught:
        found = scaled(logits, t=2.0)
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found, scaled(logits, 2.0))
    assert list(inspect.signature(scaled).parameters) == ["logits", "temperature"]


def test_classes_and_functions(monkeypatch):
    module = types.ModuleType("former")
    module.Distance = Distance
    module.__getattr__ = old_members("former", Length=OldName("Distance", removed_in=NEXT))
    monkeypatch.setitem(sys.modules, "former", module)
    with pytest.warns(FutureWarning, match="Length of former is now called Distance"):
        from former import Length
    assert Length is Distance
    assert not hasattr(module, "Width")


def test_the_contract_holds_with_old_names():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        check_detector(Distance(power=1.0))


def test_estimators_without_old_names_are_left_alone():
    assert skood.Energy.set_params is BaseEstimator.set_params


def expired(source, version):
    """Return the lines that name a version in which something should have been removed."""
    now = tuple(map(int, version.split(".")[:2]))
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.keyword) and node.arg in ("removed_in", "changed_in"):
            # The version has to be written out, as "0.4".
            planned = tuple(map(int, ast.literal_eval(node.value).split(".")))
            assert len(planned) == 2
            if planned <= now:
                lines.append(node.value.lineno)
    return lines


@pytest.mark.parametrize(
    ("version", "expected"),
    [("0.3.9", []), ("0.4.0", [1]), ("0.4.0.dev0", [1]), ("0.10.0", [1, 2]), ("1.0.0", [1, 2])],
)
def test_what_is_due_is_found(version, expected):
    source = 'a = OldName("b", removed_in="0.4")\nchanging_default(c, "c", changed_in="0.10")\n'
    assert expired(source, version) == expected


def test_nothing_is_due():
    """What a version promised to remove or to change is not in the package any more."""
    folder = Path(skood.__file__).parent
    due = {
        str(path.relative_to(folder)): lines
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder) != Path("_estimator/deprecation.py")
        and (lines := expired(path.read_text(), skood.__version__))
    }
    assert due == {}, "remove the old names of these lines, and change their defaults"
