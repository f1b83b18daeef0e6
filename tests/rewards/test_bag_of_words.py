import numpy as np
import pytest
from scipy.optimize import minimize

from counterpoint.data.comparisons import write_comparisons
from counterpoint.rewards.bag_of_words import BagOfWordsReward, learn_bag_of_words
from counterpoint.rewards.bradley_terry import accuracy, margins
from counterpoint.rewards.rules import parse_rule
from counterpoint.testing import LetterReward
from counterpoint.types import Comparison, CounterpointError

PAIRS = [
    Comparison("p", "thank you friend", "go away", "kind"),
    Comparison("p", "you are not bad", "you are bad", "kind"),
    Comparison("q", "thank you", "bad friend", "kind"),
    Comparison("q", "not bad friend", "bad bad", "kind"),
]


def test_scores_by_hand() -> None:
    reward = BagOfWordsReward("kind", ["bad", "not bad", "you"], np.array([-2.0, 5.0, 0.5]))
    # "bad" twice, "not bad" once, "you" once: -4 + 5 + 0.5
    np.testing.assert_allclose(reward(["p", "p"], ["You bad: not bad!", "fine"]), [[1.5], [0.0]])
    assert reward([], []).shape == (0, 1)
    with pytest.raises(ValueError, match="2 prompts but 1 responses"):
        reward(["p", "p"], ["a"])


def test_it_minimises_the_penalised_bradley_terry_loss() -> None:
    reward = learn_bag_of_words(PAIRS, "kind", shrink=0.7, least=1)
    units = [BagOfWordsReward("kind", [name], np.ones(1)) for name in reward.features]
    difference_PF = np.stack([margins(unit, PAIRS) for unit in units], axis=1)

    def loss(params_F: np.ndarray) -> float:
        return float(np.log1p(np.exp(-difference_PF @ params_F)).sum() + 0.7 / 2 * params_F @ params_F)

    np.testing.assert_allclose(reward.params_F, minimize(loss, np.zeros(len(units))).x, atol=1e-3)
    assert {"not bad", "thank you", "bad"} <= set(reward.features)


def test_the_order_of_a_pair_does_not_matter() -> None:
    turned = [Comparison(c.prompt, c.rejected, c.chosen, c.dimension) for c in PAIRS]
    a, b = (learn_bag_of_words(rows, "kind", least=1) for rows in (PAIRS, turned))
    np.testing.assert_allclose(a.params_F, -b.params_F, atol=1e-5)


def test_words_tell_where_length_and_letters_do_not() -> None:
    rng = np.random.default_rng(0)
    fill = ["north", "south", "east", "west"]
    rows = [
        Comparison(f"{i}", " ".join([*rng.choice(fill, 3), "glad"]), " ".join([*rng.choice(fill, 3), "grim"]), "kind")
        for i in range(60)
    ]
    assert accuracy(learn_bag_of_words(rows[:40], "kind"), rows[40:]).mean() == 1.0
    assert accuracy(LetterReward("e", "kind"), rows[40:]).mean() < 0.8


def test_round_trip(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("bag") / "kind"
    reward = learn_bag_of_words(PAIRS, "kind", least=1)
    reward.save(folder)
    loaded = BagOfWordsReward.load(folder)
    assert (loaded.dimension, loaded.features) == (reward.dimension, reward.features)
    np.testing.assert_array_equal(loaded.params_F, reward.params_F)
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".safetensors"]

    pairs = folder.parent / "pairs.jsonl"
    write_comparisons(pairs, [*PAIRS * 2, Comparison("p", "long text", "x", "other")])
    name, read = parse_rule(f"kind=bag-of-words:{folder}")
    _, learned = parse_rule(f"kind=-bag-of-words:{pairs}")
    assert name == "kind"
    np.testing.assert_allclose(read(["p"], ["thank you"]), reward(["p"], ["thank you"]))
    again = learn_bag_of_words(PAIRS * 2, "kind")
    np.testing.assert_allclose(learned(["p"], ["thank you"]), -again(["p"], ["thank you"]))


def test_mistakes_are_named(tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(CounterpointError, match="in 4 comparisons no word stands in 9 responses; give more of them"):
        learn_bag_of_words(PAIRS, "kind", least=9)
    with pytest.raises(CounterpointError, match="no comparison is on the dimension 'rude'; dimensions found: kind"):
        learn_bag_of_words(PAIRS, "rude")
    with pytest.raises(CounterpointError, match=r"nothing\.jsonl"):
        parse_rule("kind=bag-of-words:nothing.jsonl")
    with pytest.raises(CounterpointError, match=r"bag_of_words\.json: there is no such file"):
        BagOfWordsReward.load(tmp_path_factory.mktemp("empty"))
