"""Files from strangers: nothing in them runs, and whatever they hold ends in one clear line."""

import ast
import pickle
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oat_bench
from oat_bench import cards
from oat_bench.classifier import load
from oat_bench.errors import UserError
from oat_bench.evaluation import results
from oat_bench.evaluation.outcomes import COLUMNS, CellInfo, OutcomeStore
from oat_bench.leaderboards import records
from oat_bench.regression import read_baseline

SOURCES = sorted(Path(oat_bench.__file__).parent.rglob("*.py"))
#: calls that can run what a file holds
FORBIDDEN = {
    ("pickle", "load"),
    ("pickle", "loads"),
    ("pickle", "Unpickler"),
    ("torch", "load"),
    ("joblib", "load"),
    ("yaml", "load"),
    ("marshal", "loads"),
    ("os", "system"),
}
MANY = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
THOUSANDS = settings(
    max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_call_of_the_package_can_run_a_file(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name):
                assert called.id not in ("eval", "exec", "compile", "__import__")
            if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
                assert (called.value.id, called.attr) not in FORBIDDEN
            assert not any(k.arg == "allow_pickle" for k in node.keywords)


@pytest.fixture
def files(reported_folder, tmp_path, monkeypatch):
    """The true bytes of every kind of file, how each is read; unpickling anything raises."""

    def forbidden(*_args, **_kwargs):
        raise AssertionError("a file was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (torch, "load")):
        monkeypatch.setattr(module, name, forbidden)
    info = {"dataset": "d", "data": "d", "method": "m", "architecture": "a", "model": "m"}
    info |= {"lam": 0.5, "width": 1, "attack": "a", "part": 1, "parts": 1, "engine": "e"}
    info |= {"norm": "Linf", "eps": 0.1, "seed": 0, "card": "c", "gradients": "float32"}
    store = OutcomeStore(tmp_path / "outcomes")
    store.describe("cell", CellInfo(**info))
    store.append("cell", pd.DataFrame([(0, 1, 1, 1)], columns=COLUMNS))
    cell = tmp_path / "outcomes" / "cell"
    (parquet,) = cell.glob("*.parquet")
    entry = tmp_path / "entry.json"
    entry.write_bytes((reported_folder / "entry.json").read_bytes())
    outcomes = tmp_path / "outcomes.parquet"
    outcomes.write_bytes((reported_folder / "outcomes.parquet").read_bytes())
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes((reported_folder / "checkpoint.safetensors").read_bytes())
    attack, benchmark = tmp_path / "attack.toml", tmp_path / "benchmark.toml"
    attack.write_bytes((cards.folder("attacks") / "pgd-20.toml").read_bytes())
    benchmark.write_bytes((cards.folder("benchmarks") / "digits.toml").read_bytes())
    readers = {
        "entry": (entry, lambda: records.read(entry)),
        "outcomes": (outcomes, lambda: read_baseline(tmp_path)),
        "checkpoint": (checkpoint, lambda: load(checkpoint)),
        "cell": (cell / "cell.json", lambda: results.outcomes([tmp_path / "outcomes"])),
        "rows": (parquet, lambda: store.read("cell")),
        "attack": (attack, lambda: cards.attack(str(attack))),
        "benchmark": (benchmark, lambda: cards.benchmark(str(benchmark))),
    }
    for path, read in readers.values():
        assert path.read_bytes()
        read()
    return readers


KINDS = ["entry", "outcomes", "checkpoint", "cell", "rows", "attack", "benchmark"]


def tried(path, read, content):
    """Read other content in the place of the true one: one clear line, or a valid object."""
    whole = path.read_bytes()
    path.write_bytes(content)
    said = ""
    try:
        read()
    except UserError as error:
        said = str(error)
    finally:
        path.write_bytes(whole)
    assert "\n" not in said


def mutated(data, whole):
    """Damage true bytes: cut, flip, splice, or set a run of bytes."""
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        kind = data.draw(st.sampled_from(["cut", "flip", "splice", "set"]))
        if kind == "cut":
            del content[place:]
        elif kind == "flip" and content:
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "splice":
            start = data.draw(st.integers(0, max(len(whole) - 1, 0)))
            content[place:place] = whole[start : start + data.draw(st.integers(1, 64))]
        else:
            content[place : place + 8] = data.draw(st.binary(min_size=8, max_size=8))
    return bytes(content)


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(content=st.binary(max_size=300))
def test_random_bytes_end_in_one_line(files, kind, content):
    tried(*files[kind], content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@THOUSANDS
@given(data=st.data())
def test_damaged_files_end_in_one_line(files, kind, data):
    path, read = files[kind]
    tried(path, read, mutated(data, path.read_bytes()))


@pytest.mark.parametrize("kind", ["entry", "cell"])
@MANY
@given(
    content=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
        max_leaves=9,
    ),
    data=st.data(),
)
def test_json_of_another_form_ends_in_one_line(files, kind, content, data):
    import json

    path, read = files[kind]
    true = json.loads(path.read_text())
    key = data.draw(st.sampled_from(sorted(true)))
    for changed in (content, true | {key: content}, true | {"other": content}):
        tried(path, read, json.dumps(changed).encode(errors="surrogatepass"))


def test_a_header_may_not_describe_more_than_the_file_holds(tmp_path):
    import json
    import struct

    size = 1 << 50
    header = {"w": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}
    text = json.dumps(header).encode()
    path = tmp_path / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(UserError, match="damaged or not a safetensors file"):
        load(path)


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "a/b", "..", "a\\b", "con\0"])
def test_names_cannot_leave_their_folder(tmp_path, name):
    path = tmp_path / "card.toml"
    shown = name.replace("\\", "\\\\").replace("\0", "\\u0000")
    true = (cards.folder("attacks") / "fgsm.toml").read_text()
    path.write_text(f'name = "{shown}"\n' + true)
    with pytest.raises(UserError, match="name: expected up to 64 letters"):
        cards.attack(str(path))


def test_what_is_no_card_is_not_shown(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("root:hunter2:0:0")
    path = tmp_path / "card.toml"
    path.write_text(f'extends = "{secret}"\n')
    with pytest.raises(UserError) as refused:
        cards.benchmark(str(path))
    assert "hunter2" not in str(refused.value)
