"""The store of outcomes: nothing lost, nothing twice, nothing half."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oat_bench.errors import UserError
from oat_bench.files import atomic_write, make_folder, sha256
from oat_bench.results.outcomes import COLUMNS, OutcomeStore, write_parquet


def rows(examples, shift=0):
    ids = np.asarray(list(examples), dtype="int64")
    return pd.DataFrame(
        {
            "example": ids,
            "label": ids % 10,
            "clean_prediction": (ids + shift) % 10,
            "attacked_prediction": (ids * 7 + shift) % 10,
        }
    )


def assert_holds(store, cell, examples):
    got = store.read(cell).sort_values("example", ignore_index=True)
    pd.testing.assert_frame_equal(got, rows(sorted(set(examples))))


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    return OutcomeStore(tmp_path / "outcomes" if request.param == "folder" else None)


def test_what_is_appended_is_read(store):
    assert store.read("cell").empty
    assert list(store.read("cell")) == COLUMNS
    store.append("cell", rows([5, 3, 8]))
    store.append("cell", rows([4]))
    store.append("other", rows([1]))
    assert_holds(store, "cell", [3, 4, 5, 8])
    assert_holds(store, "other", [1])


def test_an_example_is_read_once_however_often_it_was_written(store):
    store.append("cell", rows([0, 1, 2]))
    store.append("cell", rows([0, 1, 2]))
    store.append("cell", rows([1, 2, 3]))
    assert_holds(store, "cell", range(4))


def test_batches_of_one_length_with_the_same_ends_are_two_batches(store):
    store.append("cell", rows([0, 1, 5]))
    store.append("cell", rows([0, 2, 5]))
    assert_holds(store, "cell", [0, 1, 2, 5])


@given(batches=st.lists(st.lists(st.integers(0, 30), min_size=1, unique=True), max_size=6))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_batches_in_any_order_neither_lose_nor_double_rows(tmp_path_factory, batches):
    folder = tmp_path_factory.mktemp("outcomes")
    for batch in batches:
        OutcomeStore(folder).append("cell", rows(batch))
    store = OutcomeStore(folder)
    assert_holds(store, "cell", [example for batch in batches for example in batch])


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_outcomes import rows
from oat_bench.results.outcomes import OutcomeStore
from pathlib import Path
store = OutcomeStore(Path({folder!r}))
step = int(sys.argv[1])
for start in range(0, 120, step):
    known = set(store.read("cell")["example"])
    batch = [i for i in range(start, min(start + step, 120)) if i not in known]
    if batch:
        store.append("cell", rows(batch))
    assert not store.read("cell")["example"].duplicated().any()
"""


def test_processes_that_write_one_cell_neither_lose_nor_double_rows(tmp_path):
    script = WRITER.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    writers = [
        subprocess.Popen([sys.executable, "-c", script, str(step)], stderr=subprocess.PIPE)
        for step in (10, 10, 7)
    ]
    for writer in writers:
        _, err = writer.communicate(timeout=120)
        assert writer.returncode == 0, err.decode()
    assert_holds(OutcomeStore(tmp_path), "cell", range(120))
    assert {path.suffix for path in (tmp_path / "cell").iterdir()} == {".parquet"}


# --- damage


@pytest.fixture
def whole(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append("cell", rows(range(40)))
    (path,) = (tmp_path / "cell").iterdir()
    return store, path, path.read_bytes()


def read_damaged(store, path, content):
    """Read a cell after its file was overwritten: the rows, or None if it was refused."""
    path.write_bytes(content)
    try:
        return store.read("cell")
    except UserError as error:
        message = str(error)
    assert message == (
        f"{path}: damaged outcomes; remove the file, and its examples are evaluated again"
    )
    return None


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1PAR1", b"\x00" * 1000, b"example,label\n1,2\n", b"\xff" * 64]
)
def test_what_is_no_parquet_is_refused(whole, content):
    store, path, _ = whole
    assert read_damaged(store, path, content) is None


def test_a_file_cut_anywhere_is_refused(whole):
    store, path, content = whole
    for end in range(0, len(content), 37):
        assert read_damaged(store, path, content[:end]) is None


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bits_are_refused_or_harmless(whole, data):
    store, path, content = whole
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    got = read_damaged(store, path, bytes(damaged))
    if got is not None:
        pd.testing.assert_frame_equal(got, rows(range(40)))


FLIPPER = """
import sys
from pathlib import Path
from oat_bench.errors import UserError
from oat_bench.results.outcomes import OutcomeStore
folder, stride = Path(sys.argv[1]), int(sys.argv[2])
(path,) = folder.glob("*/*.parquet")
content = path.read_bytes()
store = OutcomeStore(folder)
footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
for bit in range(8 * footer, 8 * len(content), stride):
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    path.write_bytes(damaged)
    try:
        store.read("cell")
    except UserError:
        pass
print("alive")
"""


@pytest.mark.parametrize("stride", [29, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_no_bit_of_a_footer_kills_the_process(whole, tmp_path, stride):
    done = subprocess.run(
        [sys.executable, "-c", FLIPPER, str(tmp_path), str(stride)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_every_byte_of_the_data_is_guarded(whole):
    store, path, content = whole
    refused = 0
    for place in range(0, len(content), 11):
        damaged = bytearray(content)
        damaged[place] ^= 0xFF
        refused += read_damaged(store, path, bytes(damaged)) is None
    assert refused > len(range(0, len(content), 11)) / 2


@pytest.mark.parametrize(
    "frame",
    [
        rows(range(3)).drop(columns="label"),
        rows(range(3)).assign(label="seven"),
        rows(range(3)).assign(attacked_prediction=[1, None, 3]),
        pd.DataFrame(),
    ],
)
def test_a_parquet_file_of_something_else_is_refused(whole, frame):
    store, path, _ = whole
    frame.to_parquet(path)
    with pytest.raises(UserError, match="damaged outcomes"):
        store.read("cell")


def test_after_the_damaged_file_is_removed_its_examples_are_missing(whole):
    store, path, content = whole
    store.append("cell", rows([40, 41]))
    path.write_bytes(content[:-1])
    with pytest.raises(UserError, match="damaged"):
        store.read("cell")
    path.unlink()
    assert_holds(store, "cell", [40, 41])


def test_a_damaged_cell_does_not_harm_another(whole):
    store, path, _ = whole
    store.append("other", rows([1]))
    path.write_bytes(b"")
    assert_holds(store, "other", [1])


# --- writing, whole or not at all


def fail(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("function", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("failure", [fail, None])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, function, failure
):
    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    path = tmp_path / "file.json"
    atomic_write(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(function, failure or interrupt)
        with pytest.raises(OSError if failure else KeyboardInterrupt):
            atomic_write(path, "new" * 1000)
        with pytest.raises(OSError if failure else KeyboardInterrupt):
            atomic_write(tmp_path / "fresh" / "file.json", "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) in ([path, tmp_path / "fresh"], [tmp_path / "fresh", path])
    assert list((tmp_path / "fresh").iterdir()) == []
    atomic_write(path, "new")
    assert path.read_text() == "new"


def test_a_disk_that_fills_in_an_append_loses_nothing(tmp_path, monkeypatch):
    store = OutcomeStore(tmp_path)
    store.append("cell", rows(range(10)))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space left"):
            store.append("cell", rows(range(10, 20)))
    assert_holds(store, "cell", range(10))
    store.append("cell", rows(range(10, 20)))
    assert_holds(store, "cell", range(20))
    assert len(list((tmp_path / "cell").iterdir())) == 2


def test_left_over_temporary_files_are_ignored(tmp_path):
    store = OutcomeStore(tmp_path)
    store.append("cell", rows([1]))
    (path,) = (tmp_path / "cell").iterdir()
    (tmp_path / "cell" / f".{path.name}.0123abcd.tmp").write_bytes(b"half")
    assert_holds(store, "cell", [1])


def test_atomic_write_makes_folders_and_takes_text_and_bytes(tmp_path):
    atomic_write(tmp_path / "a" / "b" / "text", "gr\u00fc\u00df")
    atomic_write(tmp_path / "a" / "b" / "bytes", b"\x00\xff")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "gr\u00fc\u00df".encode()
    assert (tmp_path / "a" / "b" / "bytes").read_bytes() == b"\x00\xff"
    assert len(list((tmp_path / "a" / "b").iterdir())) == 2


def test_write_parquet_is_read_by_pandas(tmp_path):
    write_parquet(tmp_path / "t.parquet", rows(range(5)))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), rows(range(5)))


def test_make_folder_refuses_what_cannot_be_one(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below", tmp_path / ("x" * 300), Path("/dev/null/below")):
        with pytest.raises(UserError, match=r"cannot write to .*--out"):
            make_folder(path)

    def forbid(*_args, **_kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", forbid)
    with pytest.raises(UserError, match="Permission denied"):
        make_folder(tmp_path / "new")


def test_make_folder_leaves_no_trace_of_its_probe(tmp_path):
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    make_folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_hashes_of_different_lists_differ(one, other):
    assert (sha256(*one) == sha256(*other)) == (one == other)
