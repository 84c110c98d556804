"""MATLAB's files, against SciPy's reader and writer and against MATLAB's own."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from oat_bench.datasets.matlab import read_arrays
from oat_bench.errors import UserError

#: files that MATLAB itself wrote, on several machines, as SciPy's tests have them
MATLABS = sorted((Path(scipy.io.matlab.__file__).parent / "tests" / "data").glob("test*.mat"))


@pytest.mark.skipif(not MATLABS, reason="SciPy is installed without its tests")
def test_what_matlab_wrote_is_read_as_scipy_reads_it():
    read, refused = 0, []
    for path in MATLABS:
        try:
            theirs = scipy.io.loadmat(path)
        except (ValueError, TypeError, NotImplementedError):
            continue
        for name, value in theirs.items():
            if name.startswith("__"):
                continue
            if value.dtype.kind not in "iuf" or path.read_bytes()[124:128] == bytes(4):
                continue
            try:
                (ours,) = read_arrays(path, [name]).values()
            except ValueError as error:
                refused.append(f"{path.name}: {error}")
                continue
            assert ours.dtype == value.dtype.newbyteorder("=")
            np.testing.assert_array_equal(ours, value)
            read += 1
    assert read > 20, refused
    assert all("version 5" in told or "sparse" in told for told in refused)


dtypes = st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.dictionaries(
        st.from_regex(r"[A-Za-z]\w{0,9}", fullmatch=True).filter(str.isascii),
        dtypes.flatmap(
            lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=2, max_side=4))
        ),
        min_size=1,
        max_size=3,
    ),
    compressed=st.booleans(),
)
def test_what_scipy_writes_is_read(tmp_path, values, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, values, do_compression=compressed)
    got = read_arrays(path, values)
    assert got.keys() == values.keys()
    for name, value in values.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_array_equal(got[name], value)
    (alone,) = read_arrays(path, list(values)[-1:]).values()
    np.testing.assert_array_equal(alone, list(values.values())[-1])
    assert read_arrays(path, ["another_name"]) == {}


@pytest.mark.parametrize("value", [{"a": 1}, "text", 1j * np.ones(2), np.array([[{}]])])
def test_what_is_no_array_of_real_numbers_is_refused(tmp_path, value):
    scipy.io.savemat(tmp_path / "a.mat", {"x": value, "y": np.ones(2)})
    with pytest.raises(ValueError, match="no array of real numbers"):
        read_arrays(tmp_path / "a.mat", ["x"])
    assert read_arrays(tmp_path / "a.mat", ["y"])["y"].tolist() == [[1, 1]]


def write_element(path, kind, body):
    path.write_bytes(bytes(124) + struct.pack("<HH", 0x0100, 0x4D49) + body)
    return path


def test_an_array_that_unfolds_to_more_than_it_may_is_refused_before(tmp_path):
    unfolding = zlib.compressobj()
    size = 1 << 29
    bomb = unfolding.compress(struct.pack("<II", 14, size))
    bomb += b"".join(unfolding.compress(bytes(1 << 20)) for _ in range(size >> 20))
    bomb += unfolding.flush()
    path = write_element(tmp_path / "a.mat", 15, struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(UserError, match=f"would unfold to {size}; expected at most 250 times"):
        read_arrays(path, ["x"])


@pytest.mark.parametrize("claimed", [7, 9, 1 << 20])
def test_a_compressed_element_of_another_size_than_it_says_is_refused(tmp_path, claimed):
    packed = zlib.compress(struct.pack("<II", 14, claimed) + bytes(8))
    path = write_element(tmp_path / "a.mat", 15, struct.pack("<II", 15, len(packed)) + packed)
    with pytest.raises(ValueError, match="not of the size that it says"):
        read_arrays(path, ["x"])
