"""True files with one foreign value each: read and used, or refused in one line."""

import io
import json
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fuzzing import foreign, read_or_refusal
from test_classifier import describe, forge

import oat_bench
from oat_bench import calibration, cards, datasets, run
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.cell import CellInfo
from oat_bench.attacks.engines import prepare
from oat_bench.attacks.selection import select_attacks
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint, check_fits, check_lambdas
from oat_bench.cli.context import Context
from oat_bench.deployment import FORMATS
from oat_bench.deployment.description import KEY
from oat_bench.errors import UserError
from oat_bench.registry import METHODS
from oat_bench.regression import baseline
from oat_bench.reports import comparison as comparisons
from oat_bench.reports import per_lambda
from oat_bench.results import comparison, entries, records
from oat_bench.results import listing as results
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.statistics import frontier
from oat_bench.tensors import checksum, pack, unpack

ENTRY = (
    Path(oat_bench.__file__).parents[1] / "leaderboards" / "digits" / "Linf" / "oat-wrn-10-1.json"
)

EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.exhaustive)])


def check_each(tree, write, use, *, every, stride=1):
    """Use each changed copy; what is refused is refused in one line that steers no terminal."""
    refused = 0
    cases = list(foreign(tree, every=every))[::stride]
    for name, changed in cases:
        write(changed)
        try:
            _, message = read_or_refusal(use)
        except Exception as error:
            raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
        assert message.isprintable(), name
        refused += bool(message)
    assert refused >= 0.2 * len(cases)


# --- models


def use_model(path, digits):
    """Do what `evaluate` and `check` do with a model before they attack it."""
    context = Context(str(path), device="cpu")
    trained = context.trained
    info = trained.info
    assert datasets.DATASETS.get(context.dataset_name) is not None
    folder = context.default_out()
    assert folder.parts[0] == "runs"
    assert len(folder.parts) == 2
    check_fits(info, digits)
    point = context.points(None, None)[0]
    run.choose_points(benchmark_card("digits"), info.method, info.trained_lambdas, info.widths)
    prepare(attack_card("pgd-20"), info.threat, n_classes=info.num_classes, seed=0)
    logits = trained.at(point.lam, point.width)(digits.test.inputs(slice(2)))
    assert logits.shape == (2, len(info.classes))
    entries.make_entry(
        info, [], [], model_fingerprint="", command="", eps=info.threat.eps, norm=info.threat.norm
    )
    return trained


@EVERY
def test_checkpoints(tmp_path, build_classifier, digits, every):
    path = tmp_path / "c.safetensors"
    oat_bench.save(build_classifier(), path)
    description, tensors = describe(path.read_bytes())
    check_each(
        description,
        lambda changed: path.write_bytes(forge(changed, tensors)),
        lambda: use_model(path, digits),
        every=every,
    )


def described(text, state, changed):
    """Describe weights anew, as whoever wants to be believed: the checksum is right."""
    assert json.loads(text)["sha256"] == checksum(json.loads(text)["description"], state)
    return json.dumps({"description": changed, "sha256": checksum(changed, state)})


def safetensors_with(content, path):
    path.write_bytes(content)
    mapped, header = unpack(path)
    text, state = header[KEY], {name: value.clone() for name, value in mapped.items()}
    return text, lambda changed: pack(state, {KEY: described(text, state, changed)})


def onnx_with(content, path):
    import onnx

    message = onnx.load_model_from_string(content)
    (entry,) = (entry for entry in message.metadata_props if entry.key == KEY)
    text, names = entry.value, oat_bench.deployment.load(path).state_dict()
    tensors = {tensor.name: tensor for tensor in message.graph.initializer}
    state = {
        name: torch.from_numpy(onnx.numpy_helper.to_array(tensors[name]).copy()) for name in names
    }

    def write(changed):
        entry.value = described(text, state, changed)
        return message.SerializeToString()

    return text, write


def pt2_with(content, path):
    state = oat_bench.deployment.load(path).state_dict()
    member = f"archive/extra/{KEY}.json"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    text = members[member].decode()

    def write(changed):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
            for name, value in (members | {member: described(text, state, changed)}).items():
                archive.writestr(name, value)
        return target.getvalue()

    return text, write


OPENED = {"safetensors": safetensors_with, "onnx": onnx_with, "pt2": pt2_with}


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, tmp_path_factory, build_classifier):
    """A file, what it says of itself, and what writes it with another description."""
    path = tmp_path_factory.mktemp(request.param) / f"x.{request.param}"
    oat_bench.export(build_classifier(), path, lam=0.5)
    text, write = OPENED[request.param](path.read_bytes(), path)
    return path, json.loads(text)["description"], lambda changed: path.write_bytes(write(changed))


def test_the_forgery_is_the_file_when_nothing_is_changed(exported, digits):
    path, description, write = exported
    write(description)
    assert use_model(path, digits).description.lam == 0.5


@pytest.mark.parametrize("command", ["evaluate", "check"])
def test_an_exported_file_of_a_method_that_is_not_there_ends_in_one_line(
    exported, command, invoke, reported_folder
):
    path, description, write = exported
    write(description | {"model": description["model"] | {"method": "mystery"}})
    options = ["--baseline", reported_folder] if command == "check" else []
    code, out, err = invoke(command, path, *options)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "unknown method 'mystery'; known: " in err
    assert "oat-single-bn, oats" in err


@EVERY
def test_exported_files(exported, digits, every):
    path, description, write = exported
    stride = 1 if every or path.suffix != ".pt2" else 8  # each may take a second
    check_each(description, write, lambda: use_model(path, digits), every=every, stride=stride)


# --- results


@EVERY
def test_entries(tmp_path, every, monkeypatch):
    monkeypatch.setattr(frontier, "RESAMPLES", 3)
    path = tmp_path / "x.json"
    tree = json.loads(ENTRY.read_text())
    for many in ("operating_points", "attacks", "frontiers"):
        tree[many] = tree[many][:1]

    def use():
        record = records.read(path)
        result = comparison.compare([record, record])
        assert comparisons.page(result).markdown()
        shown = record.entry.operating_points
        assert per_lambda.page(shown, [0.0], "title", [], record.entry.frontiers or ()).latex()
        for recorded in record.entry.attacks:
            points = [OperatingPoint(0.0)]
            baseline.Baseline(record, [recorded], points, pd.DataFrame()).prepare(10)

    check_each(tree, lambda changed: path.write_text(json.dumps(changed)), use, every=every)


@EVERY
def test_descriptions_of_cells(tmp_path, every):
    info = {"dataset": "d", "data": "d", "method": "m", "architecture": "a", "model": "m"}
    info |= {"lam": 0.5, "width": 1, "attack": "a", "part": 1, "parts": 1, "engine": "e"}
    info |= {"norm": "Linf", "eps": 0.1, "seed": 0, "card": "c", "gradients": "float32"}
    store = OutcomeStore(tmp_path)
    store.describe("cell", lambda: CellInfo(**info))
    rows = pd.DataFrame(np.tile(np.arange(5)[:, None], 4), columns=results.COLUMNS)
    store.append("cell", rows)
    path = tmp_path / "cell" / "cell.json"

    def use():
        table = results.summarize(results.outcomes([tmp_path]))
        return results.shown(table).to_markdown()

    tree = json.loads(path.read_text())
    check_each(tree, lambda changed: path.write_text(json.dumps(changed)), use, every=every)


@EVERY
def test_calibration_reports(tmp_path, trained, digits, every):
    held = calibration.held_out(trained.info, "digits", "test")
    found = calibration.calibrate(
        trained,
        held.data,
        prepare(attack_card("fgsm"), trained.info.threat, n_classes=10, seed=0),
        calibration.Goal("min-sa", 0.5),
        data_fingerprint=held.fingerprint,
        examples=datasets.nested_order(digits.test.labels)[:60],
        held_out=held.name,
        show=False,
    )
    tree = found.model_dump(mode="json")
    tree["points"] = tree["points"][:2]
    path = tmp_path / "calibration.json"
    check_each(
        tree,
        lambda changed: path.write_text(json.dumps(changed)),
        lambda: calibration.Calibration.read(path),
        every=every,
    )


# --- cards


def toml_value(value):
    """Write a value; TOML writes what is no table as JSON does."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{k} = {toml_value(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value)


def as_toml(tree):
    """Write a card: tables of values."""
    top = {key: value for key, value in tree.items() if not isinstance(value, dict) or not value}
    lines = [f"{key} = {toml_value(value)}" for key, value in top.items()]
    for name, table in tree.items():
        if isinstance(table, dict) and table:
            lines += [f"[{name}]", *(f"{k} = {toml_value(v)}" for k, v in table.items())]
    return "\n".join(lines)


def use_attack(path):
    return prepare(cards.read(path, AttackCard), Threat(), n_classes=10, seed=0)


def use_benchmark(path):
    card = cards.read(path, BenchmarkCard)
    datasets.check_known(card.dataset)
    select_attacks(card.evaluation.attacks)
    return run.choose_points(card, card.method, card.training.lambdas, card.network.widths)


@EVERY
@pytest.mark.parametrize(
    ("kind", "name", "use"),
    [
        ("attacks", "pgd-20", use_attack),
        ("attacks", "autoattack", use_attack),
        ("benchmarks", "digits", use_benchmark),
    ],
)
def test_cards(tmp_path, kind, name, use, every):
    path = tmp_path / "card.toml"
    tree = tomllib.loads((cards.folder(kind) / f"{name}.toml").read_text())
    path.write_text(as_toml(tree))
    assert use(path)
    check_each(
        tree, lambda changed: path.write_text(as_toml(changed)), lambda: use(path), every=every
    )


def test_a_foreign_method_is_refused_wherever_one_is_asked_for():
    for call in (
        lambda: METHODS["mystery"],
        lambda: check_lambdas("mystery", [0.0], []),
    ):
        with pytest.raises(UserError, match="unknown method 'mystery'"):
            call()
