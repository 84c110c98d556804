"""The idx format, as its page describes it, and files that are not it."""

import gzip

import numpy as np
import pytest
from formats import idx_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench.datasets import idx
from oat_bench.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def refusal(path, dimensions=3):
    with pytest.raises(UserError) as caught:
        idx.read(path, dimensions)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    return message


def written(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("array", [IMAGES, np.arange(7, dtype=np.uint8)], ids=["images", "labels"])
def test_what_is_written_is_read_plain_and_compressed(tmp_path, array):
    content = idx_bytes(array)
    for stored in (content, gzip.compress(content)):
        read = idx.read(written(tmp_path, stored), array.ndim)
        assert read.dtype == np.uint8
        assert np.array_equal(read, array)


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True), compressed=st.booleans())
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, share, compressed):
    whole = idx_bytes(IMAGES)
    whole = gzip.compress(whole) if compressed else whole
    refusal(written(tmp_path_factory.getbasetemp(), whole[: int(share * len(whole))]))


def test_files_that_are_something_else(tmp_path):
    content = idx_bytes(IMAGES)
    for other in (b"<html>404 not found</html>", b"\0\0\x0d" + content[3:], content[1:]):
        assert "not an idx file of bytes in 3 dimension(s)" in refusal(written(tmp_path, other))
    assert "in 1 dimension(s)" in refusal(written(tmp_path, content), 1)
    longer = written(tmp_path, content + b"\0")
    assert "damaged; says 60 bytes of shape (5, 4, 3), holds 61" in refusal(longer)
    flipped = bytearray(gzip.compress(content))
    flipped[-6] ^= 1  # of the checksum
    assert "damaged (CRC check failed" in refusal(written(tmp_path, flipped))


def test_sizes_are_bounded(tmp_path, monkeypatch):
    lie = b"\0\0\x08\x03" + b"\xff" * 12  # 2^96 bytes, said to follow
    assert "damaged; says 79228162" in refusal(written(tmp_path, lie))
    monkeypatch.setattr(idx, "_MAX_BYTES", 10_000)
    bomb = gzip.compress(idx_bytes(np.zeros((1000, 10, 10), np.uint8)))
    assert len(bomb) < 10_000
    assert "too large for an idx file (unfolds to over" in refusal(written(tmp_path, bomb))
