"""A file with a correct checksum and hostile content gives one error, and runs nothing."""

import hashlib
import json
import struct
import time
import tracemalloc

import numpy as np
import pytest

import skood
from skood._files import _container


@pytest.fixture(scope="module")
def tree_and_arrays(tmp_path_factory):
    X = np.random.default_rng(0).normal(size=(60, 3))
    detector = skood.KNN(skood.MLP((4,), max_steps=2), n_neighbors=3).fit(X, (X[:, 0] > 0) * 1)
    path = tmp_path_factory.mktemp("files") / "knn.skood"
    skood.save(detector, path)
    contents = _container.read(path)
    return contents.metadata, contents.arrays


@pytest.fixture
def forge(tree_and_arrays, tmp_path):
    """Write a changed tree with a correct checksum."""
    metadata, arrays = tree_and_arrays

    def write(change=None, tree=None, card=metadata["card"]):
        if tree is None:
            tree = json.loads(metadata["tree"])
            change(tree)
        path = tmp_path / "forged.skood"
        text = tree if isinstance(tree, str) else json.dumps(tree)
        with path.open("wb") as file:
            _container.write(file, {"card": card, "tree": text}, arrays)
        return path

    return write


def assert_refused(path, message="cannot be loaded"):
    start = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        skood.load(path)
    assert str(path) in str(caught.value)
    assert time.process_time() - start < 5


def peak_memory(path):
    """Return the most memory that loading takes, without imports."""
    assert_refused(path)
    tracemalloc.start()
    try:
        skood.load(path)
    except ValueError:
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_checksum_can_be_forged(forge):
    """So that the following tests get beyond it."""

    def change(tree):
        tree["params"]["n_neighbors"] = 2

    assert skood.load(forge(change)).n_neighbors == 2


@pytest.mark.parametrize(
    "name",
    [
        "__class__",
        "__dict__",
        "__init__",
        "__sklearn_tags__",
        "score_samples",
        "_score_samples",
        "_validate_params",
        "_parameter_constraints",
        "n_neighbors",
        "not a name",
        "a.b",
        "",
    ],
)
def test_attributes_that_a_class_owns(forge, name):
    def change(tree):
        tree["attributes"][name] = 3

    assert_refused(forge(change), "is not an attribute|is an attribute, too")


@pytest.mark.parametrize("value", [-1, 0, 1.5, "3", None, [], {"is": "tuple", "items": []}])
def test_parameters_are_validated(forge, value):
    def change(tree):
        tree["params"]["n_neighbors"] = value

    assert_refused(forge(change))


def test_unknown_parameters(forge):
    def change(tree):
        tree["params"]["further"] = 1

    assert_refused(forge(change), "further")


@pytest.mark.parametrize(
    "name",
    ["subprocess.Popen", "os.system", "KNN2", "BaseDetector", "save", "evaluate", "base", ""],
)
def test_unknown_classes(forge, name):
    def change(tree):
        tree["class"] = name

    assert_refused(forge(change), "is no estimator that it can hold")


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "builtins.eval", "skood.load"])
@pytest.mark.parametrize("tag", ["function", "object", "estimator", "part"])
def test_functions_and_classes_of_others(forge, tag, name):
    node = {"is": tag, "name": name, "class": name, "params": {}, "attributes": {}}

    def known(tree):
        tree["attributes"]["further_"] = node

    def needed(tree):
        tree["attributes"]["further_"] = {**node, "needs": name}

    def otherwise_needed(tree):
        tree["attributes"]["further_"] = {**node, "needs": ["a"]}

    assert_refused(forge(known), "is no|needs")
    assert_refused(
        forge(needed), rf"needs {name}, which is not part of skood.*trusted=\['{name}'\]"
    )
    assert_refused(forge(otherwise_needed), "is absent or wrong")


def test_trust_in_one_name_is_not_trust_in_another(forge):
    def change(tree):
        node = {"is": "function", "name": "os.system", "needs": "math.floor"}
        tree["attributes"]["further_"] = node

    with pytest.raises(ValueError, match=r"needs 'os\.system' without declaring it"):
        skood.load(forge(change), trusted=["math.floor"])


def test_folders_are_not_chosen_by_a_file(forge):
    def change(tree):
        tree["params"]["memory"] = "/tmp/planted"

    assert_refused(forge(change), "memory is not None")

    def change_inner(tree):
        tree["params"]["features"]["params"]["checkpoint_dir"] = "/tmp/planted"

    assert_refused(forge(change_inner), "checkpoint_dir is not None")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_features_in_", "3"),
        ("input_shape_", 3),
        ("offset_", "low"),
        ("_given_as", 1),
    ],
)
def test_types_of_attributes(forge, name, value):
    def change(tree):
        tree["attributes"][name] = value

    assert_refused(forge(change), "in the place of")


def test_a_card_is_no_program_for_a_terminal(forge, tree_and_arrays):
    card = json.loads(tree_and_arrays[0]["card"])
    card["class_name"] = "KNN\nneeds: nothing\x1b]0;title\x07"
    shown = str(skood.inspect_file(forge(lambda tree: None, card=json.dumps(card))))
    assert shown.startswith("class: KNN\n  needs: nothing\\x1b]0;title\\x07\n")


@pytest.mark.parametrize(
    "card", ["{}", "[]", "null", "x", '{"class_name":"KNN"}', '{"versions":3}', "[" * 100_000]
)
def test_hostile_cards(forge, card):
    path = forge(lambda tree: None, card=card)
    with pytest.raises(ValueError, match="cannot be loaded"):
        skood.inspect_file(path)


def test_hostile_types_in_a_card(forge, tree_and_arrays):
    card = json.loads(tree_and_arrays[0]["card"])
    for name in card:
        if name != "is_fitted":
            path = forge(lambda tree: None, card=json.dumps({**card, name: 3.5}))
            try:
                assert "3.5" in str(skood.inspect_file(path))
            except ValueError as error:
                assert str(path) in str(error)


def laughs(depth):
    node = {"is": "list", "items": [1] * 10, "id": 0}
    for k in range(depth):
        same = {"is": "same", "as": k}
        node = {"is": "list", "items": [node, *[same] * 9], "id": k + 1}
    return node


def nested(depth):
    return '{"is":"list","items":[' * depth + "]}" * depth


HOSTILE = {
    "tag": {"is": "pickle", "items": []},
    "tag-type": {"is": ["list"], "items": []},
    "no-tag": {"items": []},
    "array": [1, 2],
    "no-items": {"is": "list"},
    "items-type": {"is": "list", "items": {"a": 1}},
    "loop": {"is": "list", "items": [{"is": "same", "as": 0}], "id": 0},
    "reference": {"is": "same", "as": 7},
    "reference-type": {"is": "same", "as": "7"},
    "number-twice": {"is": "tuple", "items": [{"is": "list", "items": [], "id": 0}] * 2},
    "laughs": laughs(30),
    "key-twice": {"is": "dict", "items": [["a", 1], ["a", 2]]},
    "key-list": {"is": "dict", "items": [[{"is": "list", "items": []}, 1]]},
    "pairs": {"is": "dict", "items": [["a", 1, 2]]},
    "unknown-array": {"is": "ndarray", "dtype": "<f8", "array": "nothing"},
    "array-name": {"is": "ndarray", "dtype": "<f8", "array": ["means_"]},
    "array-twice": {
        "is": "tuple",
        "items": [{"is": "ndarray", "dtype": "<f8", "array": "_origin"}] * 2,
    },
    "dtype": {"is": "ndarray", "dtype": "O", "array": "_origin"},
    "dtype-size": {"is": "ndarray", "dtype": "|S0", "shape": [2**50], "array": "_origin"},
    "objects": {"is": "ndarray", "dtype": "object", "shape": [2**40], "items": []},
    "objects-empty": {"is": "ndarray", "dtype": "object", "shape": [0, 2**70], "items": []},
    "objects-negative": {"is": "ndarray", "dtype": "object", "shape": [-1, -2], "items": [1, 2]},
    "structured": {
        "is": "ndarray",
        "dtype": {"names": ["a"], "formats": ["O"], "offsets": [0], "itemsize": 8},
        "array": "_origin",
        "shape": [1],
    },
    "structured-huge": {
        "is": "scalar",
        "dtype": {"names": ["a"], "formats": ["<f8"], "offsets": [2**40], "itemsize": 2**41},
        "hex": "",
    },
    "scalar-huge": {"is": "scalar", "dtype": "|S2000000000", "hex": ""},
    "axes": {"is": "ndarray", "dtype": "<f8", "array": "_origin", "axes": [0, 0]},
    "strides": {"is": "tensor", "array": "_origin", "shape": [2, 2], "strides": [1000, 1]},
    "strides-negative": {"is": "tensor", "array": "_origin", "shape": [1], "strides": [-5]},
    "integer": {"is": "int", "hex": "zz"},
    "float": {"is": "float", "hex": "00"},
    "finite-float": {"is": "float", "hex": "0000000000000000"},
    "range": {"is": "range", "parts": [0, 1, 0]},
    "generator": {"is": "generator", "generator": "system", "state": 1},
    "random-state": {"is": "random_state", "state": {"is": "dict", "items": []}},
    "torch-generator": {"is": "torch.generator", "array": "_origin"},
    "torch-dtype": {"is": "torch.dtype", "name": "nn"},
    "device": {"is": "torch.device", "name": "nowhere"},
    "part": {"is": "part", "class": "Reading", "attributes": {"head": 1, "further": 2}},
    "part-type": {"is": "part", "class": "Reading", "attributes": {"as_given": "yes"}},
    "network": {
        "is": "estimator",
        "class": "Mahalanobis",
        "params": {},
        "attributes": {},
        "network": {"is": "dict", "items": []},
    },
}


@pytest.mark.parametrize("node", HOSTILE.values(), ids=HOSTILE)
def test_hostile_values(forge, node):
    def change(tree):
        del tree["attributes"]["_origin"]
        tree["attributes"]["further_"] = node

    assert_refused(forge(change))


@pytest.mark.parametrize("tag", ["dict", "set", "frozenset"])
def test_keys_of_one_hash(forge, tag):
    def change(tree):
        items = [{"is": "int", "hex": hex(k * (2**61 - 1))} for k in range(30_000)]
        items = [[item, 1] for item in items] if tag == "dict" else items
        tree["attributes"]["further_"] = {"is": tag, "items": items}

    assert_refused(forge(change), "have the same hash")


def test_hostile_trees(forge):
    for tree in (
        *(nested(depth) for depth in (250, 2_000, 100_000)),
        "[" * 100_000,
        '{"is":"list","is":"tuple","items":[]}',
        '{"is":"int","hex":NaN}',
        "9" * 100_000,
        "1e999",
        "",
        "null",
        "3",
        '{"is":"list","items":[]}',
    ):
        assert_refused(forge(tree=tree))


def test_an_array_that_nothing_uses(forge):
    def change(tree):
        del tree["attributes"]["_origin"]

    assert_refused(forge(change), "an array that nothing uses: '_origin'")


@pytest.mark.parametrize("hidden", [[10**9], [10**5] * 3, [3] * 100_000, [-1], ["4"]])
def test_a_network_is_not_larger_than_its_file(forge, hidden):
    def change(tree):
        model = tree["attributes"]["features_"]
        model["params"]["hidden_features"] = {"is": "tuple", "items": hidden}

    path = forge(change)
    assert peak_memory(path) < 100 * path.stat().st_size + 10_000_000


def test_memory_of_hostile_json(forge, tmp_path):
    path = forge(tree='{"is":"list","items":[' + "[]," * 300_000 + "[]]}")
    assert peak_memory(path) < 60 * path.stat().st_size


def test_no_stated_size_is_believed(tmp_path):
    entries = {
        str(k): {"dtype": "F64", "shape": [2**30], "data_offsets": [k * 2**33, (k + 1) * 2**33]}
        for k in range(10)
    }
    whole = {"skood_format": "1", "sha256": "0" * 64, "card": "{}", "tree": "null"}
    text = json.dumps({"__metadata__": whole, **entries}, separators=(",", ":")).encode()
    path = tmp_path / "file"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    assert_refused(path, "truncated")
    assert peak_memory(path) < 1_000_000


def test_the_checksum_covers_the_whole_file(tree_and_arrays, tmp_path):
    """Computed here by its description."""
    metadata, arrays = tree_and_arrays
    path = tmp_path / "file"
    with path.open("wb") as file:
        _container.write(file, {"card": metadata["card"], "tree": metadata["tree"]}, arrays)
    content = path.read_bytes()
    stated = skood.inspect_file(path).sha256
    assert content.count(stated.encode()) == 1
    zeroed = content.replace(stated.encode(), b"0" * 64)
    assert hashlib.sha256(zeroed).hexdigest() == stated
