"""The partition that attacks of other libraries see."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oat_bench.datasets.splits import nested_order
from oat_bench.evaluation.subject import Blocks


def labels(n, classes=3):
    return torch.arange(n) % classes


def test_blocks_begin_at_128_256_and_every_256():
    data = labels(1000)
    order, blocks = nested_order(data), Blocks(data)
    begins = [0, 128, 256, 512, 768, 1000]
    expected = [order[a:b].tolist() for a, b in pairwise(begins)]
    assert [block.tolist() for block in blocks.split(order)] == expected
    for block in expected:
        assert blocks.whole(torch.tensor(block[-1:])).tolist() == block


@given(n=st.integers(1, 700), data=st.data())
def test_whole_blocks_hold_what_was_asked_for_and_are_stable(n, data):
    blocks = Blocks(labels(n))
    asked = torch.tensor(sorted(data.draw(st.sets(st.integers(0, n - 1), min_size=1))))
    whole = blocks.whole(asked)
    assert set(asked.tolist()) <= set(whole.tolist())
    assert torch.equal(blocks.whole(whole), whole)
    parts = blocks.split(whole)
    assert sorted(i for part in parts for i in part.tolist()) == sorted(whole.tolist())
    for part in parts:
        assert torch.equal(blocks.whole(part[:1]), part)


@pytest.mark.parametrize("n", [100, 500, 1000, 10_000])
def test_the_first_n_cost_little_more_than_n(n):
    data = labels(20_000)
    extra = len(Blocks(data).whole(nested_order(data)[:n])) - n
    assert 0 <= extra < 0.3 * n


def test_nothing_asked_for_is_no_block():
    none = torch.empty(0, dtype=torch.int64)
    blocks = Blocks(labels(10))
    assert len(blocks.whole(none)) == len(blocks.split(none)) == 0
