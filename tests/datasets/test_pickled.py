"""Pickles, read as the pickle module reads them where they are data, and refused elsewhere."""

import pickle
import pickletools
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench.datasets import pickled

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.binary()
scalars |= st.text(st.characters(exclude_categories=["Cs"]))
data = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.text(max_size=3) | st.binary(max_size=3), inner, max_size=4),
    ),
    max_leaves=20,
)


@settings(deadline=None, max_examples=120)
@given(value=data, protocol=st.integers(3, 4))
def test_data_is_read_as_pickle_reads_it(value, protocol):
    content = pickle.dumps(value, protocol)
    assert pickled.read(content) == pickle.loads(content) == value


@settings(deadline=None, max_examples=100)
@given(value=data, protocol=st.integers(0, 2))
def test_old_protocols_are_read_but_for_bytes(value, protocol):
    content = pickle.dumps(value, protocol)
    asks = any(op.name == "GLOBAL" for op, _, _ in pickletools.genops(content))
    if asks:  # Python 3 writes bytes as a call
        with pytest.raises(ValueError, match=r"it asks for (_codecs\.encode|__builtin__\.bytes)"):
            pickled.read(content)
    else:
        assert pickled.read(content) == value


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3), (2, 1, 3)])
def test_arrays_of_bytes_are_read(protocol, shape):
    values = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    got = pickled.read(pickle.dumps([values, values], protocol))
    for array in got:
        assert np.array_equal(array.pixels(), values)
    with pytest.raises(ValueError, match="not of bytes"):
        pickled.read(pickle.dumps(values.astype("f4"), protocol)).pixels()


def test_values_that_are_shared_are_one_object():
    shared = [1]
    one, other = pickled.read(pickle.dumps([shared, shared], 2))
    assert one is other


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in the memo for which pickle makes room
        b"(" * 100_000 + b".",
        b"]" + b"]a" * 5 + b".",
        b"(lp0\n" + b"(lp1\n" * 50_000 + b"a" * 50_000 + b".",
        b"}" + b")\x85" * 1 + b"\x85" * 50_000 + b"Ns.",  # a key nested without end
    ],
)
def test_pickles_that_harm_the_pickle_module_are_read_or_refused(content):
    with suppress(ValueError, IndexError):
        pickled.read(content)
