"""SequenceDensity, against sums and counts computed by hand."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer

import skood
from skood import SequenceDensity
from skood.density._base import ModelObjective
from skood.density._neural_density import DensityObjective, _kernels

SETTINGS = {"hidden_features": 6, "n_layers": 2, "batch_size": 16, "random_state": 0}
WORDS = ["ACGT", "CGTAC", "GT", "TACGTAC", "A"] * 12
NETWORKS = ["convolution", "lstm"]


def tiny(network="convolution", **kwargs):
    return SequenceDensity(network, **{**SETTINGS, "max_steps": 30, **kwargs})


@pytest.fixture(scope="module", params=NETWORKS)
def density(request):
    return tiny(request.param).fit(WORDS)


def test_score_is_the_sum_of_log_softmax_at_each_position(density):
    symbols = density.symbols_.tolist()
    for word in ("ACGT", "T", "GGGGGGGGGG"):
        codes = [symbols.index(letter) for letter in word]
        expected = []
        for t in range(len(word)):
            # Only the symbols before t, and a placeholder that must not matter.
            seen = torch.tensor([[*codes[:t], 0]])
            with torch.no_grad():
                logits = density.module_(seen)[0, t].double()
            expected.append((logits[codes[t]] - logits.exp().sum().log()).item())
        (positions,) = density.score_positions([word])
        np.testing.assert_allclose(positions, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(density.score_samples([word]), sum(expected), rtol=1e-5)


def test_probabilities_of_all_sequences_of_a_length_sum_to_one(density):
    words = ["".join(letters) for letters in itertools.product("ACGT", repeat=3)]
    np.testing.assert_allclose(np.exp(density.score_samples(words)).sum(), 1, rtol=1e-6)


def test_positions(density):
    words = ["ACGT", "C", "TACGTACGG"]
    positions = density.score_positions(words)
    assert [p.shape for p in positions] == [(4,), (1,), (9,)]
    assert all(p.dtype == np.float64 for p in positions)
    np.testing.assert_allclose(
        [p.sum() for p in positions], density.score_samples(words), rtol=1e-9
    )
    # The first three positions do not depend on the fourth symbol.
    (changed,) = density.score_positions(["ACGA"])
    np.testing.assert_allclose(changed[:3], positions[0][:3], rtol=1e-6)
    assert changed[3] != positions[0][3]


def test_scores_do_not_depend_on_the_batch(density):
    words = ["ACGT", "CGTA", "GGGG"] * 40
    scores = density.score_samples(words)
    np.testing.assert_array_equal(scores[:3], scores[-3:])
    # Together with longer sequences, in other orders, and alone.
    others = ["ACGT" * 30, *words[:50]]
    np.testing.assert_allclose(density.score_samples(others)[1:], scores[:50], rtol=1e-6)
    np.testing.assert_allclose(density.score_samples(words[:1]), scores[:1], rtol=1e-6)
    order = np.random.default_rng(0).permutation(len(others))
    np.testing.assert_allclose(
        density.score_samples([others[i] for i in order]),
        density.score_samples(others)[order],
        rtol=1e-6,
    )


def test_bits_and_statistics(density):
    words = ["ACGT", "CG"]
    scores = density.score_samples(words)
    np.testing.assert_allclose(density.bits_per_dim(words), -scores / math.log(2) / [4, 2])
    statistics = density.score_statistics(words)
    np.testing.assert_allclose(statistics[:, 0], scores, rtol=1e-6)
    with torch.no_grad():
        probs = density.module_(torch.tensor([[1, 2]]))[0].double().softmax(-1)
    np.testing.assert_allclose(statistics[1, 1], -(probs * probs.log()).sum().item(), rtol=1e-5)


def test_samples_are_as_frequent_as_their_probability(density):
    drawn = density.sample(20_000, random_state=0)
    by_length = {}
    for word in drawn:
        by_length.setdefault(len(word), []).append(word)
    assert set(by_length) == {1, 2, 4, 5, 7}
    assert len(by_length[2]) == pytest.approx(4000, abs=200)
    words = ["".join(letters) for letters in itertools.product("ACGT", repeat=2)]
    probs = np.exp(density.score_samples(words))
    frequencies = np.array([by_length[2].count(word) for word in words]) / len(by_length[2])
    error = np.sqrt(probs * (1 - probs) / len(by_length[2]))
    assert np.all(np.abs(frequencies - probs) < 4.5 * error)
    assert density.sample(3, random_state=1) == density.sample(3, random_state=1)


def test_samples_have_the_form_of_the_data():
    rows = np.random.default_rng(0).integers(5, 8, (20, 6))
    drawn = tiny(max_steps=2).fit(rows).sample(4, random_state=0)
    assert drawn.shape == (4, 6)
    assert set(np.unique(drawn)) <= {5, 6, 7}
    letters = np.array(list("xyz"))[rows - 5]
    assert tiny(max_steps=2).fit(letters).sample(2, random_state=0).dtype == "<U1"
    lists = tiny(max_steps=2).fit([[1, 2], [3]] * 5).sample(4, random_state=0)
    assert all(len(row) in (1, 2) and row.dtype == np.int64 for row in lists)


def mutate(x, n_symbols, **settings):
    density = tiny(max_steps=1, symbols=range(n_symbols), **settings)
    density.fit(np.arange(2 * n_symbols).reshape(2, -1) % n_symbols)
    return density._mutate(x, None, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("rate", "n_symbols"), [(0.1, 4), (0.5, 3), (1.0, 2)])
def test_mutations(rate, n_symbols):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, n_symbols, (300, 400)))
    x[:, 390:] = -1
    mutated = mutate(x, n_symbols, mutation_rate=rate)
    assert (mutated[:, 390:] == -1).all()
    before, after = x[:, :390].numpy().ravel(), mutated[:, :390].numpy().ravel()
    # A mutation never keeps the symbol, so that the rate is the rate of changes.
    error = math.sqrt(rate * (1 - rate) / len(before)) + 1e-12
    assert abs((before != after).mean() - rate) < 4.5 * error
    for symbol in range(n_symbols):
        changed = after[(before == symbol) & (after != symbol)]
        counts = np.bincount(changed, minlength=n_symbols)
        assert counts[symbol] == 0
        others = np.delete(counts, symbol)
        assert np.all(np.abs(others - others.mean()) < 5 * np.sqrt(others.mean()))


def test_mutations_of_unknown_symbols_are_known_ones():
    x = torch.full((200, 100), 3)
    mutated = mutate(x, 3, mutation_rate=1.0, handle_unknown="class").numpy()
    counts = np.bincount(mutated.ravel(), minlength=4)
    assert counts[3] == 0
    assert np.all(np.abs(counts[:3] - 20_000 / 3) < 400)


def test_mutations_are_inputs_and_targets_and_new_in_every_batch():
    rows = np.zeros((8, 50), int)
    density = tiny(mutation_rate=0.5, max_steps=1, symbols=range(3)).fit(rows)
    data = density._open(rows, reset=False)
    objective = DensityObjective(density.module_, density, data, None, torch.device("cpu"))
    items = objective.read(np.arange(8))
    first, second = (
        objective.prepare(items, torch.Generator().manual_seed(seed))[0] for seed in (0, 1)
    )
    assert 0.4 < (first > 0).float().mean() < 0.6
    assert not torch.equal(first, second)
    with torch.no_grad():
        expected = -density._log_prob(density.module_, first).sum(1)
        torch.testing.assert_close(objective.loss(first), expected)
    # Validation sequences are not mutated.
    assert (objective.prepare(items, None)[0] == 0).all()


@pytest.mark.parametrize("network", NETWORKS)
def test_penalty(network):
    density = tiny(network, reg_weight=0.5, embedding_size=3, max_steps=1).fit(WORDS)
    module = density.module_
    named = dict(module.named_parameters())
    kernels = [name for name in named if not name.endswith("bias")]
    assert len(_kernels(module)) == len(kernels)
    data = density._open(WORDS, reset=False)
    objective = DensityObjective(module.requires_grad_(), density, data, None, torch.device("cpu"))
    penalty = objective.penalty()
    expected = 0.5 * sum(named[name].square().sum() for name in kernels)
    torch.testing.assert_close(penalty, expected)
    module.zero_grad()
    penalty.backward()
    for name, parameter in named.items():
        if name in kernels:
            torch.testing.assert_close(parameter.grad, parameter.detach())
        else:
            assert parameter.grad is None


@pytest.mark.parametrize("network", NETWORKS)
def test_training_moves_every_parameter(network):
    density = tiny(network, embedding_size=3, max_steps=3)
    trained = clone(density).fit(WORDS).module_.state_dict()
    start = clone(density).set_params(learning_rate=1e-30).fit(WORDS).module_.state_dict()
    for name, value in trained.items():
        assert not torch.equal(value, start[name]), name


@pytest.mark.parametrize(
    "change",
    [
        {"network": "lstm"},
        {"hidden_features": 7},
        {"n_layers": 3},
        {"kernel_size": 3},
        {"embedding_size": 3},
        {"symbols": "ACGTN"},
        {"handle_unknown": "class"},
        {"dropout": 0.5},
        {"mutation_rate": 0.3},
        {"reg_weight": 10.0},
    ],
    ids=str,
)
def test_every_parameter_has_an_effect(change):
    scores = tiny(max_steps=5).fit(WORDS).score_samples(WORDS[:5])
    changed = tiny(max_steps=5).set_params(**change).fit(WORDS).score_samples(WORDS[:5])
    assert np.abs(scores - changed).max() > 1e-4


def test_learns_an_order():
    """A sequence that repeats is more probable than its symbols in another order."""
    words = ["ACGTACGTACGT", "CGTACGTACGTA", "GTACGTACGT"] * 20
    density = tiny(hidden_features=12, max_steps=200, learning_rate=0.01).fit(words)
    regular, shuffled = density.score_samples(["ACGTACGT", "AGCTTCAG"])
    # The first symbol is uncertain.
    assert -2 < regular < 0
    assert shuffled < regular - 10


def test_alphabet():
    assert tiny(max_steps=1).fit(WORDS).symbols_.tolist() == ["A", "C", "G", "T"]
    given = tiny(max_steps=1, symbols="TGCAN").fit(WORDS)
    assert given.symbols_.tolist() == list("TGCAN")
    assert given._open(["CAT"], reset=False).take(np.array([0])).tolist() == [[2, 3, 0]]
    assert given.dtype_ == np.dtype("<U1")
    numbers = tiny(max_steps=1).fit([[7, -2], [7, 100, 7]])
    assert numbers.symbols_.tolist() == [-2, 7, 100]
    np.testing.assert_array_equal(numbers.lengths_, [2, 3])
    np.testing.assert_array_equal(numbers.length_counts_, [1, 1])
    codons = tiny(max_steps=1).fit([["ATG", "TAA"], ["ATG"]])
    assert codons.symbols_.tolist() == ["ATG", "TAA"]


def test_unknown_symbols_raise():
    density = tiny(max_steps=1).fit(WORDS)
    with pytest.raises(ValueError, match="row 1 of X has the symbol 'N' at position 2, which is"):
        density.score_samples(["ACGT", "ACNT"])
    with pytest.raises(ValueError, match="row 0 of X has the symbol 'a' at position 0"):
        density.score_positions(["acgt"])
    with pytest.raises(ValueError, match="row 0 of X has the symbol 'G' at position 1"):
        tiny(symbols="AC").fit(["AG", "C"])
    numbers = tiny(max_steps=1).fit([[1, 2], [2]])
    with pytest.raises(ValueError, match="row 1 of X has the symbol 5 at position 0"):
        numbers.score_samples([[1], [5]])
    with pytest.raises(ValueError, match="symbols of X are strings, but the alphabet"):
        numbers.score_samples(["12"])


def test_unknown_symbols_as_a_class():
    density = tiny(symbols="ACG", handle_unknown="class").fit(WORDS)
    scores = density.score_samples(["AT", "AN", "AC"])
    # T is outside of the alphabet, as N is.
    assert scores[0] == scores[1] != scores[2]
    assert all("T" not in word for word in density.sample(50, random_state=0))
    total = np.exp(density.score_samples(["A", "C", "G", "N"])).sum()
    assert total == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ("ACGT", "X is one string"),
        (["ACGT"], "minimum of 2"),
        (["ACGT", ""], "row 1 of X is empty"),
        (np.random.default_rng(0).normal(size=(5, 3)), "not a whole number"),
        (np.zeros((4, 5, 5)), "expected sequences of symbols"),
    ],
)
def test_bad_input(X, message):
    with pytest.raises(ValueError, match=message):
        tiny().fit(X)


@pytest.mark.parametrize("symbols", ["AAC", [], [[1, 2], [3, 4]], [0.5, 1.0]])
def test_bad_alphabets(symbols):
    with pytest.raises(ValueError, match="symbols="):
        tiny(symbols=symbols).fit(WORDS)


def test_mutations_need_two_symbols():
    with pytest.raises(ValueError, match="alphabet of at least 2 symbols"):
        tiny(mutation_rate=0.1).fit(["AA", "AAA"])
    assert tiny(max_steps=1).fit(["AA", "AAA"]).score_samples(["A"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_copies_and_files(network, tmp_path):
    density = tiny(network, max_steps=3).fit(WORDS)
    scores = density.score_samples(WORDS[:7])
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(density)).score_samples(WORDS[:7]), scores
    )
    skood.save(density, tmp_path / "density.skood")
    loaded = skood.load(tmp_path / "density.skood")
    np.testing.assert_array_equal(loaded.score_samples(WORDS[:7]), scores)
    assert loaded.sample(3, random_state=0) == density.sample(3, random_state=0)
    np.testing.assert_array_equal(clone(density).fit(WORDS).score_samples(WORDS[:7]), scores)


def test_checkpoints(tmp_path):
    density = tiny(max_steps=10, checkpoint_dir=tmp_path)
    scores = clone(density).fit(WORDS).score_samples(WORDS[:5])
    assert len(list(tmp_path.iterdir())) == 1
    np.testing.assert_array_equal(clone(density).fit(WORDS).score_samples(WORDS[:5]), scores)
    np.testing.assert_array_equal(tiny(max_steps=10).fit(WORDS).score_samples(WORDS[:5]), scores)


def test_in_scikit_learn():
    search = GridSearchCV(tiny(max_steps=2, symbols="ACGT"), {"hidden_features": [2, 4]}, cv=2)
    assert search.fit(np.array(WORDS)).best_params_["hidden_features"] in (2, 4)
    rows = np.random.default_rng(0).normal(size=(40, 6))
    bins = KBinsDiscretizer(4, encode="ordinal", strategy="uniform")
    pipeline = make_pipeline(bins, tiny(max_steps=2, symbols=range(4))).fit(rows)
    assert pipeline.score_samples(rows).shape == (40,)


def test_has_no_number_of_features():
    density = tiny(max_steps=1).fit(np.zeros((4, 5), int))
    assert density.input_shape_ == ()
    assert not hasattr(density, "n_features_in_")
    assert density.score_samples(np.zeros((2, 9), int)).shape == (2,)


def test_the_objective_is_that_of_densities():
    assert issubclass(SequenceDensity._objective, ModelObjective)
