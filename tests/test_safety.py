"""Files from strangers: nothing in them runs, they stay small and in their folder."""

import ast
import io
import json
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzzing import COUNTS, changed_tree, damaged, fuzz, read_or_refusal
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as to_bytes
from test_classifier import describe, forge

import oat_bench
from oat_bench import cards, datasets
from oat_bench.attacks import saved
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.cell import CellInfo
from oat_bench.attacks.engines import prepare
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.cards import Threat
from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.cli.context import Context
from oat_bench.datasets import image_folder
from oat_bench.deployment import load as load_exported
from oat_bench.errors import UserError
from oat_bench.registry import METHODS
from oat_bench.reports import comparison as reports
from oat_bench.results import comparison, published, records
from oat_bench.results import listing as results
from oat_bench.results.outcomes import OutcomeStore, write_parquet
from oat_bench.statistics import frontier
from oat_bench.tensors import unpack
from oat_bench.training.loop import Trainer

PACKAGE = Path(oat_bench.__file__).parent
ENTRY = PACKAGE.parent / "leaderboards" / "digits" / "Linf" / "oat-wrn-10-1.json"


@pytest.fixture(scope="module", autouse=True)
def few_resamples():
    """Comparing goes the whole way, but soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frontier, "RESAMPLES", 3)
        yield


# --- no pickle is unpickled, nothing is evaluated


#: what runs what a file says; of torch.load and NumPy's load the safe forms are not needed either
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "pickle.Unpickler"),
    *(
        "torch.load",
        "torch.jit.load",
        "torch.package.PackageImporter",
        "yaml.load",
        "yaml.full_load",
    ),
    *("yaml.unsafe_load", "np.load", "numpy.load", "joblib.load", "pd.read_pickle"),
    *("pandas.read_pickle", "marshal.loads", "marshal.load", "shelve.open", "runpy.run_path"),
    *("os.system", "subprocess.run", "subprocess.Popen"),
}
#: modules that are for nothing else
UNSAFE = {
    "pickle",
    "_pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
}


def dangers(source):
    """List the calls and imports in a module that could run what a file says."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FORBIDDEN:
            yield f"line {node.lineno}: {ast.unparse(node.func)}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from (f"line {node.lineno}: {name}" for name in names if name in UNSAFE)
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield f"line {node.lineno}: allow_pickle"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_in_the_package_could_run_what_a_file_says(path):
    found = [danger.partition(": ")[2] for danger in dangers(path.read_text())]
    # for an unpickler that looks no name up, which tests/datasets/test_cifar.py attacks
    assert found == (["pickle"] if path.name == "cifar.py" else [])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "x = eval('1')",
        "np.load(path)",
        "f(allow_pickle=True)",
    ],
)
def test_that_guard_sees(source):
    assert list(dangers(source))
    assert not list(dangers("network.eval()\nre.compile('a')"))


# --- one true file of each kind, and what reads it


def image_bytes(ending, seed=0, **options):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, ending, **options)
    return buffer.getvalue()


def outcomes():
    """Outcomes of two attacks at the operating points of the published entry."""
    rows = [
        (lam, 1.0, attack, example, example % 10, example % 10, (example + k) % 10)
        for lam in (0.0, 0.1, 0.2, 0.3, 0.4, 1.0)
        for k, attack in enumerate(["fgsm", "autoattack"])
        for example in range(12)
    ]
    names = ["lam", "width", "attack", "example", "label"]
    return pd.DataFrame(rows, columns=[*names, "clean_prediction", "attacked_prediction"])


def parquet_bytes(frame):
    buffer = io.BytesIO()
    frame.to_parquet(buffer, index=False, write_page_checksum=True)
    return buffer.getvalue()


def restore(trainer):
    card, place = trainer.card, trainer.folder / "training.safetensors"
    steps = trainer.steps_per_epoch
    trainer.state.read(place, trainer.identity, steps_per_epoch=steps, epochs=card.epochs)


@pytest.fixture(scope="module")
def state(digits):
    """A trainer that has trained an epoch of two, and its state on disk."""

    def make(folder):
        card = benchmark_card("digits")
        info = ModelInfo(
            method="oat",
            dataset="digits",
            classes=list(digits.classes),
            input_shape=digits.input_shape,
            network=card.network.model_copy(update={"architecture": "wrn-10-1"}),
            trained_lambdas=[0, 1],
            interpolation="linear-codes",
            threat=Threat(),
            seed=0,
            epochs=1,
            selection="",
        )
        recipe = {"epochs": 1, "batch_size": 8, "lambdas": [0, 1], "attack_steps": 1}
        (member,) = METHODS["oat"].build(info).members()
        return Trainer(
            member.step,
            card.training.model_copy(update=recipe),
            Threat(),
            digits.train.take(slice(0, 16)),
            digits.validation.take(slice(0, 4)),
            identity="the run",
            folder=folder,
        )

    return make


@pytest.fixture(scope="module")
def parsers(tmp_path_factory, build_classifier, state):
    """By name: the path of a file, its true content, and what reads it."""
    root = tmp_path_factory.mktemp("true")
    found = {}

    def add(name, content, read, filename="file"):
        path = root / name / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        found[name] = (path, content, lambda: read(path))

    checkpoint = root / "c.safetensors"
    oat_bench.save(build_classifier(), checkpoint)
    add("checkpoint", checkpoint.read_bytes(), oat_bench.load)

    for kind in ("onnx", "pt2", "safetensors"):
        exported = root / f"exported.{kind}"
        oat_bench.export(build_classifier(), exported, lam=0.5)
        add(f"exported-{kind}", exported.read_bytes(), load_exported, exported.name)

    trainer = state(root / "state")
    trainer.train(show=False)
    content = (root / "state" / "training.safetensors").read_bytes()
    add("state", content, lambda path: restore(trainer) or "restored", "training.safetensors")

    add("entry", ENTRY.read_bytes(), read_and_compare)
    store = OutcomeStore(root / "store")
    add("store", parquet_bytes(outcomes()), lambda _: store.read("cell"), "cell/part.parquet")
    info = {"dataset": "d", "data": "d", "method": "m", "architecture": "a", "model": "m"}
    info |= {"lam": 0.5, "width": 1, "attack": "a", "part": 1, "parts": 1, "engine": "e"}
    info |= {"norm": "Linf", "eps": 0.1, "seed": 0, "card": "c", "gradients": "float32"}
    description = OutcomeStore(root / "description")
    description.describe("cell", lambda: CellInfo(**info))
    images = saved.Images(
        CellInfo(**info), torch.arange(2), torch.arange(2), torch.rand(2, 1, 2, 2)
    )
    saved.write(root / "images.safetensors", images)
    add("attacked", (root / "images.safetensors").read_bytes(), saved.cards_of)
    content = (root / "description" / "cell" / "cell.json").read_bytes()
    add(
        "description", content, lambda _: results.outcomes([root / "description"]), "cell/cell.json"
    )
    add("outcomes", ENTRY.read_bytes(), None, "entry.json")
    add(
        "outcomes",
        parquet_bytes(outcomes()),
        lambda p: read_and_compare(p.parent),
        "outcomes.parquet",
    )

    for name, kind in (
        ("autoattack", AttackCard),
        ("pgd-20", AttackCard),
        ("cifar10", BenchmarkCard),
    ):
        shipped = cards.folder("attacks" if kind is AttackCard else "benchmarks") / f"{name}.toml"
        add(name, shipped.read_bytes(), lambda path, kind=kind: cards.read(path, kind))
    table = cards.folder("benchmarks") / "published" / "oat-paper.csv"
    add("published", table.read_bytes(), published.read)

    for ending, options in (
        ("png", {}),
        ("jpeg", {}),
        ("tiff", {}),
        ("tiff", {"compression": "tiff_lzw"}),
        ("webp", {}),
        ("bmp", {}),
        ("ppm", {}),
    ):
        name = "-".join([ending, *options.values()])
        for place in range(5):
            add(
                f"images/{name}/{place % 2}",
                image_bytes(ending, place, **options),
                None,
                f"{place}.png",
            )
        last = f"images/{name}/1"
        path, content, _ = found.pop(last)
        folder = root / "images" / name
        found[name] = (path, content, lambda folder=folder: image_folder(folder))
    return {
        name: parser for name, parser in found.items() if parser[2] is not None and "/" not in name
    }


def read_and_compare(path):
    """Read an entry and do with it what `compare` does."""
    record = records.read(path)
    result = comparison.compare([record, record])
    assert reports.page(result).markdown()
    assert reports.csv(result)
    return record


KINDS = [
    *("exported-onnx", "exported-pt2", "exported-safetensors"),
    *(
        "checkpoint",
        "state",
        "entry",
        "store",
        "description",
        "outcomes",
        "attacked",
        "autoattack",
        "pgd-20",
        "cifar10",
    ),
    *(
        "published",
        "png",
        "jpeg",
    ),
    *("tiff", "tiff-tiff_lzw", "webp", "bmp", "ppm"),
]


@pytest.fixture
def parser(request, parsers):
    """One of them; its file is true again afterwards."""
    path, content, read = parsers[request.param]
    yield request.param, path, content, read
    path.write_bytes(content)


def test_every_true_file_is_read_while_nothing_can_be_unpickled(
    parsers, monkeypatch, trained_folder
):
    assert sorted(parsers) == sorted(KINDS)

    def refuse(*_args, **_kwargs):
        raise AssertionError("something is unpickled")

    for module, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
    ):
        monkeypatch.setattr(module, name, refuse)
    for name, (_, _, read) in parsers.items():
        if name == "exported-pt2":
            continue  # torch unpickles, but only what was written here: see tests/deployment
        result, message = read_or_refusal(read)
        assert message == ""
        assert result is not None, name
    assert isinstance(oat_bench.load(trained_folder), TunableClassifier)
    assert len(datasets.load("digits").test) == 800


#: kinds that one parser reads share its inputs; what is only counted in bytes needs fewer
SHARES = dict.fromkeys(["png", "jpeg", "tiff", "tiff-tiff_lzw", "webp", "bmp", "ppm"], 4)
SHARES |= dict.fromkeys(["autoattack", "pgd-20", "cifar10"], 3)
SHARES |= dict.fromkeys(["exported-onnx", "exported-pt2", "exported-safetensors"], 3)
SHARES |= dict.fromkeys(["store", "outcomes", "attacked", "state"], 2)


@COUNTS
@pytest.mark.parametrize("parser", KINDS, indirect=True)
def test_a_damaged_file_is_read_or_refused_in_one_line(parser, count):
    name, path, content, read = parser
    count = max(150, count // SHARES.get(name, 1))
    refused = []

    def check(damage):
        path.write_bytes(damage)
        _, message = read_or_refusal(read)
        refused.append(bool(message))

    fuzz(check, damaged(content), count)
    assert sum(refused) > len(refused) / 20


# --- structure: what is well-formed and means nothing


@COUNTS
def test_an_entry_with_changes_is_compared_or_refused(tmp_path, count):
    path = tmp_path / "entry.json"
    tree = json.loads(ENTRY.read_bytes())
    tree["operating_points"] = tree["operating_points"][:3]

    def check(changed):
        path.write_text(json.dumps(changed))
        read_or_refusal(lambda: read_and_compare(path))

    fuzz(check, changed_tree(tree), count)


@COUNTS
def test_a_description_with_changes_is_a_checkpoint_or_refused(tmp_path, build_classifier, count):
    path = tmp_path / "c.safetensors"
    oat_bench.save(build_classifier(), path)
    description, tensors = describe(path.read_bytes())

    def check(changed):
        path.write_bytes(forge(changed, tensors))
        read_or_refusal(lambda: oat_bench.load(path))

    fuzz(check, changed_tree(description), count)


@COUNTS
def test_training_progress_with_changes_is_taken_or_refused(tmp_path, state, count):
    trainer = state(tmp_path)
    trainer.train(show=False)
    path = tmp_path / "training.safetensors"
    tensors, header = unpack(path)
    progress = json.loads(header["progress"])

    def check(changed):
        path.write_bytes(to_bytes(tensors, header | {"progress": json.dumps(changed)}))
        read_or_refusal(lambda: restore(trainer))

    fuzz(check, changed_tree(progress), max(150, count // 2))


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors | {"optimizer.0.momentum_buffer": torch.zeros(3)},
        lambda tensors: tensors | {"optimizer.x.momentum_buffer": torch.zeros(3)},
        lambda tensors: tensors | {"optimizer.999999999.momentum_buffer": torch.zeros(3)},
        lambda tensors: tensors | {"best.surprise": torch.zeros(3)},
        lambda tensors: {k: v for k, v in tensors.items() if not k.startswith("network.")},
        lambda tensors: {k: v.reshape(-1) for k, v in tensors.items()},
    ],
)
def test_training_tensors_that_do_not_fit_are_refused(tmp_path, state, change):
    trainer = state(tmp_path)
    trainer.train(show=False)
    path = tmp_path / "training.safetensors"
    tensors, header = unpack(path)
    path.write_bytes(to_bytes(change(tensors), header))
    _, message = read_or_refusal(lambda: restore(trainer))
    assert f"{path}: damaged, or not the state of a training run" in message


columns = st.sampled_from(["lam", "width", "attack", "example", "label", "clean_prediction"])
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(max_size=4),
    st.none(),
    st.sampled_from(["fgsm", "x" * 500, 0, 1, math.nan, math.inf, 0.1, "autoattack"]),
)


@COUNTS
def test_outcomes_with_changes_are_compared_or_refused(tmp_path, count):
    (tmp_path / "entry.json").write_bytes(ENTRY.read_bytes())
    frame = outcomes()

    def check(case):
        name, value, where, rows, dropped = case
        changed = frame.copy()
        if where is None:
            changed[name] = value
        else:
            changed[name] = changed[name].astype(object)
            changed.loc[where, name] = value
        changed = changed.iloc[: rows or None].drop(columns=dropped)
        try:
            write_parquet(tmp_path / "outcomes.parquet", changed)
        except (pa.ArrowException, UnicodeEncodeError, OverflowError):
            return  # of two types at once: nobody can write it
        read_or_refusal(lambda: read_and_compare(tmp_path))

    where = st.none() | st.lists(st.integers(0, len(frame) - 1), min_size=1, max_size=3)
    dropped = st.just([]) | st.lists(columns, max_size=1)
    cases = st.tuples(columns, values, where, st.integers(0, len(frame)), dropped)
    fuzz(check, cases, max(150, count // 2))


# --- size: small files that say that they are large


def refusal(read):
    """Return how a reader refuses, soon and within bounds."""
    result, message = read_or_refusal(read)
    assert message, result
    return message


def test_files_that_say_that_they_are_endless_are_not_read(parsers, tmp_path):
    for name, (path, content, read) in parsers.items():
        if path.parents[2].name == "images":
            continue  # read from the front, as far as they make sense
        with path.open("r+b") as file:
            file.truncate(1 << 42)  # sparse: 4 TiB that take no room
        try:
            assert refusal(read), name
        finally:
            path.write_bytes(content)


def test_a_safetensors_header_of_many_tensors_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    for count in (200_000, 2_000_000):
        header = ("{" + ",".join(f'"{i}":{empty}' for i in range(count)) + "}").encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        message = refusal(lambda: oat_bench.load(path))
        assert "more than 65536 tensors" in message or "a header of" in message


def test_a_safetensors_tensor_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    for shape, end in (([1 << 40], 1 << 42), ([1 << 62, 1 << 62], 4), ([1 << 20, 1 << 20], 4)):
        header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}})
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(4))
        assert "damaged or not a safetensors file" in refusal(lambda: oat_bench.load(path))


@pytest.mark.parametrize("architecture", ["wrn-160-1", "wrn-988-99"])
def test_a_network_deeper_than_its_weights_is_not_built(tmp_path, build_classifier, architecture):
    path = tmp_path / "c.safetensors"
    oat_bench.save(build_classifier(), path)
    description, tensors = describe(path.read_bytes())
    description["network"]["architecture"] = architecture
    path.write_bytes(forge(description, tensors))
    assert f"too few weights for {architecture}" in refusal(lambda: oat_bench.load(path))


def test_many_lambda_or_classes_that_are_not_in_the_weights_are_refused(tmp_path, build_classifier):
    path = tmp_path / "c.safetensors"
    oat_bench.save(build_classifier(), path)
    description, tensors = describe(path.read_bytes())
    lambdas = {"trained_lambdas": [i / 100_000 for i in range(100_000)]}
    for change in (lambdas, {"classes": [str(i) for i in range(100_000)]}):
        for method in ("oat", "pgd-at"):
            path.write_bytes(forge(description | change | {"method": method}, tensors))
            refusal(lambda: oat_bench.load(path))
    scalar = {"network": description["network"] | {"encoding": "scalar"}}
    path.write_bytes(forge(description | lambdas | scalar, tensors))
    refusal(lambda: oat_bench.load(path))


def spoil_entry(tmp_path, text):
    path = tmp_path / "entry.json"
    path.write_text(text)
    return refusal(lambda: records.read(path))


def test_deep_and_wide_json_is_refused(tmp_path):
    text = ENTRY.read_text()
    for deep in ("[" * 1_000_000, '{"a":' * 100_000, "[" * 400 + "]" * 400):
        assert "not an entry of oat-bench" in spoil_entry(tmp_path, deep)
        inside = text.replace('"parameters": {', f'"parameters": {{"deep": {deep},', 1)
        assert "not an entry of oat-bench" in spoil_entry(tmp_path, inside)
    many = ",".join(f'"k{i}": 1' for i in range(200_000))
    assert "unknown key" in spoil_entry(tmp_path, text.replace("{", "{" + many + ",", 1))
    wide = text.replace("{", '{"x": "' + "x" * (1 << 23) + '",', 1)
    assert "too large for an entry" in spoil_entry(tmp_path, wide)


def test_an_entry_whose_words_would_steer_a_terminal_is_refused(tmp_path):
    tree = json.loads(ENTRY.read_text())
    for key in ("dataset", "method", "architecture", "name"):
        for text in ("a\nb", "\x1b[2J", "\u202e", "x" * 5000):
            message = spoil_entry(tmp_path, json.dumps(tree | {key: text}))
            assert f"{key} is " in message
            assert message.isprintable()
    twice = tree | {"operating_points": tree["operating_points"][:1] * 2}
    assert "an operating point twice" in spoil_entry(tmp_path, json.dumps(twice))


@pytest.mark.parametrize(
    "text",
    [
        ("a." * 30_000 + "a = 1"),
        ("x = {" + "a." * 30_000 + "a = 1}"),
        ("[" + "a." * 30_000 + "a]"),
        ("'a'." * 15_000 + "a = 1"),
        ("x = " + "[" * 30_000),
        ("x = " + "{a=" * 20_000),
        ("x = " + "9" * 60_000),
        ("x = " + "9" * 60_000 + ".5"),
        ("[a]\n" * 10_000),
        ("x = '''" + "\n" * 60_000),
        "\n".join(f"k{i} = {{a.b.c = {i}}}" for i in range(3000)),
    ],
)
def test_toml_that_takes_long_is_refused_soon(tmp_path, text):
    path = tmp_path / "card.toml"
    path.write_text(text)
    for kind in (AttackCard, BenchmarkCard):
        refusal(lambda kind=kind: cards.read(path, kind))


def test_a_table_of_published_numbers_is_small(tmp_path):
    path = tmp_path / "a.csv"
    text = (cards.folder("benchmarks") / "published" / "oat-paper.csv").read_text()
    path.write_text(text + text.splitlines()[-1][:-1] * 100_000)
    refusal(lambda: published.read(path))
    path.write_text('"a\nb"' * 1000)
    assert "columns are " in refusal(lambda: published.read(path))


@pytest.fixture
def cell(tmp_path):
    """A file of a cell, and its store."""
    path = tmp_path / "cell" / "part.parquet"
    path.parent.mkdir()
    return path, OutcomeStore(tmp_path)


def test_parquet_bombs_are_refused(cell, tmp_path):
    path, store = cell
    rows = pa.table(
        {name: np.zeros(20_000_000, np.int64) for name in outcomes() if name != "attack"}
    )
    for compression in ("snappy", "zstd"):
        pq.write_table(rows, path, compression=compression)
        assert path.stat().st_size < 1 << 20
        assert "damaged outcomes" in refusal(lambda: store.read("cell"))
    # one long word in every row
    long = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * (1 << 20)])
    frame = {name: pa.array(np.zeros(100_000, np.int64)) for name in outcomes()}
    frame |= {name: pa.array(np.zeros(100_000)) for name in ("lam", "width")}
    (tmp_path / "entry.json").write_bytes(ENTRY.read_bytes())
    pq.write_table(pa.table(frame | {"attack": long}), tmp_path / "outcomes.parquet")
    assert (tmp_path / "outcomes.parquet").stat().st_size < 1 << 21
    assert "damaged outcomes" in refusal(records.read(tmp_path).outcomes)


def test_parquet_of_many_columns_and_groups_is_refused(cell):
    path, store = cell
    pq.write_table(pa.table({f"c{i}": [1] for i in range(20_000)}), path)
    assert "damaged outcomes" in refusal(lambda: store.read("cell"))
    table = pa.table({name: np.zeros(5000, np.int64) for name in store.read("none")})
    pq.write_table(table, path, row_group_size=1)
    assert "damaged outcomes" in refusal(lambda: store.read("cell"))


def test_images_that_unfold_to_gigabytes_are_refused(tmp_path):
    for side, words in ((9000, "would unfold to"), (10_000, "not a readable image")):
        root, content = tmp_path / str(side), io.BytesIO()
        Image.new("L", (side, side)).save(content, "PNG")
        for name in ("a", "b"):
            (root / name).mkdir(parents=True)
            for place in range(3):
                (root / name / f"{place}.png").write_bytes(content.getvalue())
        assert words in refusal(lambda root=root: image_folder(root))


def test_an_image_that_another_program_would_have_to_run_is_refused(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)  # fails if it is reached
    for name in ("a", "b"):
        for place in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("L", (4, 4)).save(tmp_path / name / f"{place}.png")
    Image.new("L", (4, 4)).save(tmp_path / "a" / "0.png", "EPS")
    assert "a/0.png: not a readable image (it is of format EPS; expected PNG, JPEG" in refusal(
        lambda: image_folder(tmp_path)
    )


# --- folders: nothing leads out of them


def test_names_that_go_into_paths_hold_no_path():
    shipped = attack_card("pgd-20").model_dump(by_alias=True)
    for name in ("../x", "/etc/x", "a/b", "..", ".", "", "a\x00b", "a\nb", "C:\\x", "~"):
        with pytest.raises(ValueError, match="expected up to 64 letters"):
            AttackCard.model_validate(shipped | {"name": name})
        with pytest.raises(ValueError, match="expected up to 64 letters"):
            BenchmarkCard.model_validate(benchmark_card("digits").model_dump() | {"name": name})


def test_an_attack_card_cannot_have_art_write_somewhere(tmp_path):
    values = {"eps": "$eps", "summary_writer": str(tmp_path / "log")}
    card = AttackCard.model_validate(
        {"name": "a", "engine": "art", "class": "FastGradientMethod", "parameters": values}
    )
    with pytest.raises(UserError, match="takes no parameter 'summary_writer'"):
        prepare(card, Threat(), n_classes=10, seed=0)
    assert list(tmp_path.iterdir()) == []


def of(trained, dataset=None):
    """What a command knows of a model that it loaded."""
    context = Context("model", dataset)
    context.trained = trained
    return context


def test_a_checkpoint_does_not_choose_a_folder_to_read(build_classifier, tmp_path):
    trained = build_classifier(dataset=str(tmp_path))
    with pytest.raises(UserError, match="name its folder with --dataset"):
        assert of(trained).dataset_name
    assert of(trained, "mine").dataset_name == "mine"
    assert of(build_classifier()).dataset_name == "digits"
    trained.info = trained.info.model_copy(update={"dataset": "../../elsewhere"})
    assert of(trained).default_out().parent == Path("runs")


@pytest.mark.parametrize("name", ["/etc/x", "../../x", "..", "x/", "/", ""])
def test_a_checkpoint_does_not_choose_a_folder_to_write(build_classifier, name):
    assert of(build_classifier(dataset=name)).default_out().parent == Path("runs")


@pytest.mark.parametrize("place", ["a", "a/0.png", "train"])
def test_links_out_of_an_image_folder_are_refused(tmp_path, place):
    def fill(folder):
        for name in ("a", "b"):
            (folder / name).mkdir(parents=True)
            for number in range(3):
                Image.new("L", (4, 4)).save(folder / name / f"{number}.png")

    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    fill(elsewhere)
    if place == "train":
        fill(root / "test")
        (root / "train").symlink_to(elsewhere)
    else:
        fill(root)
        link = root / place
        if link.is_dir():
            link.rename(tmp_path / "old")
        else:
            link.unlink()
        link.symlink_to(elsewhere / place)
    assert f"{root / place} is a link that leads out of {root}" in refusal(
        lambda: image_folder(root)
    )
    # the folder itself may be a link, and links may lead about in it
    (tmp_path / "linked").symlink_to(elsewhere)
    (elsewhere / "a" / "again.png").symlink_to(elsewhere / "a" / "0.png")
    data = image_folder(tmp_path / "linked")
    assert sum(map(len, (data.train, data.validation, data.test))) == 7
