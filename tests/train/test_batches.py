from collections import Counter

from counterpoint.train.batches import WINDOW, batch_order


def test_every_example_is_seen_equally_often_give_or_take_one() -> None:
    order = batch_order([3, 9, 4, 1, 5, 7, 2], batch=4, steps=40, seed=0)
    counts = Counter(order)
    assert len(order) == 160
    assert sorted(set(counts.values())) == [22, 23]


def test_the_order_depends_on_the_seed_alone() -> None:
    lengths = list(range(100))
    assert batch_order(lengths, 8, 20, seed=1) == batch_order(lengths, 8, 20, seed=1)
    assert batch_order(lengths, 8, 20, seed=1) != batch_order(lengths, 8, 20, seed=2)


def test_batches_hold_like_lengths_in_mixed_order() -> None:
    lengths = [i % 37 for i in range(WINDOW * 4)]
    order = batch_order(lengths, 4, WINDOW, seed=0)
    spans = [sorted(lengths[i] for i in order[s : s + 4]) for s in range(0, len(order), 4)]
    ascending = sorted(spans)
    assert [length for span in ascending for length in span] == sorted(lengths)
    assert spans != ascending


def test_fewer_examples_than_a_batch_still_fill_it() -> None:
    assert sorted(batch_order([5, 6], batch=4, steps=1, seed=0)) == [0, 0, 1, 1]
