import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attunement.tuning import PartitionPool

weights = st.lists(st.floats(-20, 20), min_size=1, max_size=20)


@given(weights, weights)
@settings(deadline=None)
def test_two_additions_are_one(first, second):
    both, apart = PartitionPool.empty(1), PartitionPool.empty(1)
    zeros = torch.zeros(len(first) + len(second), dtype=torch.long)
    everything = torch.tensor(first + second, dtype=torch.float64)
    both.add(zeros, everything)
    apart.add(zeros[: len(first)], everything[: len(first)])
    apart.add(zeros[len(first) :], everything[len(first) :])
    expected = math.log(everything.exp().mean())
    assert abs(float(both.log_partition()[0]) - expected) < 1e-9
    assert abs(float(apart.log_partition()[0]) - expected) < 1e-9


def test_contexts_are_kept_apart():
    pool = PartitionPool.empty(3)
    pool.add(torch.tensor([0, 2, 2]), torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64).log())
    known = pool.log_partition()
    torch.testing.assert_close(known[::2].exp(), torch.tensor([1.0, 3.0], dtype=torch.float64))
    assert known[1].isnan()


def test_nothing_accepted_is_minus_infinity():
    pool = PartitionPool.empty(1)
    pool.add(torch.zeros(4, dtype=torch.long), torch.full((4,), -math.inf, dtype=torch.float64))
    assert pool.log_partition().tolist() == [-math.inf]


def test_a_batch_speaks_only_for_contexts_never_drawn_from():
    pool = PartitionPool.empty(2)
    pool.add(torch.tensor([0]), torch.tensor([0.0], dtype=torch.float64))
    context = torch.tensor([0, 1, 1])
    log_weights = torch.tensor([5.0, 1.0, 3.0], dtype=torch.float64).log()
    found, in_batch = pool.log_partition_of(context, log_weights)
    torch.testing.assert_close(found.exp(), torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64))
    assert in_batch == 1
    assert pool.counts.tolist() == [1.0, 0.0]
