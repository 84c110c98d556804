"""Where outcomes are kept: by path or address, in files that are whole or not there."""

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from test_outcomes import assert_holds, rows

from oat_bench.attacks.cell import CellInfo
from oat_bench.errors import UserError
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.results.places import Place


@pytest.fixture(params=["path", "file", "memory", "dir"])
def address(request, tmp_path):
    kinds = {"path": "{}", "file": "file://{}", "memory": "memory:/{}", "dir": "dir::file://{}"}
    return kinds[request.param].format(tmp_path / "a store/outcomes")


def test_a_store_at_any_address_holds_what_was_appended(address):
    store = OutcomeStore(address)
    assert store.read("cell").empty
    store.append("cell", rows([5, 3, 8]))
    store.append("cell", rows([4]))
    # another process, which listed the folder before
    OutcomeStore(address).append("cell", rows([9]))
    assert_holds(store, "cell", [3, 4, 5, 8, 9])
    assert_holds(OutcomeStore(address), "cell", [3, 4, 5, 8, 9])
    assert list(store.cells()) == []
    info = CellInfo(
        dataset="digits", data="1", method="oat", architecture="wrn-10-1", model="2", lam=0.5,
        width=1, attack="fgsm", engine="oat_bench", norm="Linf", eps=0.1, seed=0, card="3",
        gradients="float32",
    )  # fmt: skip
    store.describe("cell", lambda: info)
    store.describe("cell", lambda: pytest.fail("it is there"))
    assert list(store.cells()) == [("cell", info)]


def test_a_path_and_its_file_address_are_one_store(tmp_path):
    OutcomeStore(tmp_path).append("cell", rows([1, 2]))
    assert_holds(OutcomeStore(f"file://{tmp_path}"), "cell", [1, 2])
    place = Place(tmp_path / "colons::are not chained")
    place.write("cell/file", b"1")
    assert (tmp_path / "colons::are not chained" / "cell" / "file").read_bytes() == b"1"


def test_a_damaged_file_is_named_by_its_address():
    store = OutcomeStore("memory://damaged")
    store.place.write("cell/1.parquet", b"PAR1")
    with pytest.raises(UserError, match=r"^memory://damaged/cell/1\.parquet: damaged outcomes"):
        store.read("cell")


class Slow(MemoryFileSystem):
    """A file system that shows half of a file while it is written, as sftp does, and no object."""

    protocol = "slow"
    store, pseudo_dirs = {}, [""]
    seen = []

    def pipe_file(self, path, value, **kwargs):
        super().pipe_file(path, value[: len(value) // 2])
        self.seen.append(OutcomeStore("slow://here").read("cell"))
        super().pipe_file(path, value)


def test_where_an_upload_shows_in_halves_files_are_renamed_into_place():
    fsspec.register_implementation("slow", Slow, clobber=True)
    store = OutcomeStore("slow://here")
    store.append("cell", rows([1, 2]))
    assert [len(before) for before in Slow.seen] == [0]
    assert_holds(store, "cell", [1, 2])
    assert [path for path in Slow.store if path.endswith(".tmp")] == []


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file.* with --store"):
        Place(tmp_path / "file").checked()
    with pytest.raises(UserError, match="--store nowhere://x: Protocol not known"):
        Place("nowhere://x")

    def refuse(*_args, **_kwargs):
        raise RuntimeError("403 Forbidden")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    message = "cannot write to memory://closed (403 Forbidden); choose another place with --store"
    with pytest.raises(UserError) as error:
        Place("memory://closed").checked()
    assert str(error.value) == message
