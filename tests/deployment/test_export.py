"""Exported files: what their runtimes compute, what is kept, and what is refused."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import oat_bench
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.classifier import OperatingPoint
from oat_bench.deployment import FORMATS, as_onnx, as_pt2, load
from oat_bench.deployment.description import KEY, check_alike, describe, restored, written
from oat_bench.deployment.exported import Exported
from oat_bench.errors import UserError
from oat_bench.evaluation import grid
from oat_bench.evaluation.subject import Subject
from oat_bench.methods.oat import OAT, OATS
from oat_bench.methods.pgd_at import PGDAT

LAMBDAS = torch.tensor([0.0, 0.07, 0.1, 0.3, 0.5, 0.75, 1.0])


def images(n, shape=(1, 8, 8)):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(n))


def onnx_run(path, *inputs):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    arrays = [part.numpy() for part in inputs]
    return torch.from_numpy(session.run(None, dict(zip(names, arrays, strict=True)))[0])


def pt2_run(path, *inputs):
    return torch.export.load(path).module()(*inputs)


RUN = {"onnx": onnx_run, "pt2": pt2_run}


@pytest.fixture(scope="session")
def small(build_classifier):
    return build_classifier()


@pytest.fixture(scope="session")
def slim(small, perturbed):
    """Two widths, FiLM interpolated."""
    network = small.info.network.model_copy(update={"widths": [1.0, 0.5], "interpolation": "film"})
    changes = {"network": network, "method": "oats", "interpolation": "film"}
    return OATS(
        small.info.model_copy(update=changes),
        perturbed(num_classes=10, widths=(1.0, 0.5), interpolation="film"),
    )


@pytest.fixture(scope="session")
def files(small, slim, tmp_path_factory):
    """One file of each format, and the dynamic ones; not to be written to."""
    folder = tmp_path_factory.mktemp("exported")
    for kind in FORMATS:
        oat_bench.export(small, folder / f"static.{kind}", lam=0.3)
    for kind in RUN:
        oat_bench.export(slim, folder / f"dynamic.{kind}", lam=None, width=0.5)
    return folder


@pytest.mark.parametrize("kind", RUN)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_runtimes_compute_the_network_on_batches_of_any_size(small, files, kind, n):
    x = images(n)
    logits = RUN[kind](files / f"static.{kind}", x)
    torch.testing.assert_close(logits, small.at(0.3)(x), rtol=1e-4, atol=1e-5)


def test_safetensors_hold_the_weights_of_the_plain_network(small, files):
    plain = small.at(0.3).state_dict()
    stored = load_file(files / "static.safetensors")
    assert stored.keys() == plain.keys()
    assert all(torch.equal(stored[name], plain[name]) for name in plain)


@pytest.mark.parametrize("kind", RUN)
def test_a_dynamic_file_takes_one_lambda_an_image_or_one_for_all(slim, files, kind):
    path, x = files / f"dynamic.{kind}", images(len(LAMBDAS))
    own = [slim.at(float(lam), 0.5)(x[i : i + 1]) for i, lam in enumerate(LAMBDAS)]
    mixed = RUN[kind](path, x, LAMBDAS)
    torch.testing.assert_close(mixed, torch.cat(own), rtol=1e-4, atol=1e-5)
    one = RUN[kind](path, x, LAMBDAS[3:4])
    torch.testing.assert_close(one, slim.at(0.3, 0.5)(x), rtol=1e-4, atol=1e-5)
    alone = RUN[kind](path, x[:1], LAMBDAS[:1])
    torch.testing.assert_close(alone, own[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", RUN)
@pytest.mark.parametrize(("n", "k"), [(5, 2), (5, 4), (5, 6), (2, 3), (3, 2), (1, 2)])
def test_no_runtime_takes_another_number_of_lambda(files, kind, n, k):
    with pytest.raises(Exception, match="index"):
        RUN[kind](files / f"dynamic.{kind}", images(n), torch.full((k,), 0.5))


@pytest.mark.parametrize("rule", ["linear-codes", "spherical-codes", "film"])
@pytest.mark.parametrize("film", ["identity-start", "published", "none"])
@pytest.mark.parametrize("widths", [(1.0,), (1.0, 0.5), (0.5,)])
def test_the_network_that_takes_lambda_is_the_classifier(small, perturbed, rule, film, widths):
    network = perturbed(num_classes=10, widths=widths, film=film, interpolation=rule)
    classifier, width = OAT(small.info, network), widths[-1]
    traced = classifier.with_lambda_input(width)
    x = images(len(LAMBDAS))
    own = [classifier.at(float(lam), width)(x[i : i + 1]) for i, lam in enumerate(LAMBDAS)]
    torch.testing.assert_close(traced(x, LAMBDAS), torch.cat(own), rtol=1e-4, atol=1e-5)
    for place, lam in enumerate(LAMBDAS):
        plain = traced.at(float(lam))(x[place : place + 1])
        torch.testing.assert_close(plain, own[place], rtol=1e-4, atol=1e-5)
    ends = traced(x[:2], torch.tensor([-3.0, 7.0]))
    torch.testing.assert_close(ends, traced(x[:2], torch.tensor([0.0, 1.0])))


def test_a_file_of_another_trained_range_ends_where_it_does(small, perturbed):
    info = small.info.model_copy(update={"trained_lambdas": [0.1, 0.5]})
    classifier = OAT(info, perturbed(num_classes=10, trained=(0.1, 0.5)))
    traced, x = classifier.with_lambda_input(), images(2)
    expected = traced(x, torch.tensor([0.1, 0.5]))
    assert torch.equal(traced(x, torch.tensor([0.0, 1.0])), expected)
    exported = Exported(Path("a.onnx"), describe(classifier, None, 1.0), traced, None, "")
    for lam, nearest in ((0.0, "0.1"), (1.0, "0.5")):
        for door in (exported.at, exported.deployed):
            with pytest.raises(UserError, match=f"the nearest is {nearest}"):
                door(lam)


@pytest.mark.parametrize(("lam", "read"), [(None, 0), (0.05, 0), (0.0, 1), (0.1, 1), (0.3, 1)])
def test_a_file_from_before_the_rule_between_0_and_the_first_trained_lambda(small, lam, read):
    newer = describe(small, lam, 1.0)
    older = newer.model_copy(update={"model": small.info})
    state = (small.with_lambda_input() if lam is None else small.at(lam)).state_dict()
    assert restored(written(newer, state), state)[0] == newer
    if read:
        assert restored(written(older, state), state)[0] == older
        return
    with pytest.raises(ValueError, match=r"between lambda 0 and 0.1 it follows an older rule; exp"):
        restored(written(older, state), state)


def test_the_narrow_network_is_narrow(slim, files):
    graph = onnx.load(files / "dynamic.onnx").graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert shapes["backbone.conv1.weight"] == (8, 1, 3, 3)
    assert max(shape[0] for name, shape in shapes.items() if "conv" in name and shape) == 32


@pytest.mark.parametrize("name", ["static.onnx", "static.pt2", "static.safetensors"])
def test_a_file_says_what_it_is(small, files, name):
    about = load(files / name).description
    assert (about.lam, about.width) == (0.3, 1)
    assert about.source == small.fingerprint()
    assert about.model == small.info.with_bridge()
    assert about.model.bridge == "folded-affine"
    assert about.versions["torch"] == torch.__version__.partition("+")[0]


@pytest.mark.parametrize("name", ["static.onnx", "dynamic.onnx", "static.pt2", "dynamic.pt2"])
def test_no_file_names_a_folder_of_the_machine(files, name):
    content = (files / name).read_bytes()
    assert str(Path(oat_bench.__file__).parent).encode() not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("name", ["static.onnx", "static.pt2", "static.safetensors"])
def test_a_file_of_one_lambda_has_no_other(small, files, name):
    exported, x = load(files / name), images(4)
    torch.testing.assert_close(exported.at(0.3)(x), small.at(0.3)(x), rtol=1e-4, atol=1e-5)
    assert exported.choose_lambdas(None) == [0.3]
    for ask in (exported.at, exported.deployed):
        with pytest.raises(UserError, match=r"lambda 0\.4 asked for; .* at lambda 0\.3 alone"):
            ask(0.4)
        with pytest.raises(UserError, match=r"width 0\.5 asked for"):
            ask(0.3, 0.5)


def test_dedicated_networks_are_exported_at_their_own_lambda(small, tmp_path):
    network = PGDAT.network_card(small.info.network)
    changes = {"method": "pgd-at", "interpolation": "none", "network": network}
    family = PGDAT.build(small.info.model_copy(update=changes))
    # of fresh networks many weights are equal, which an optimizer would merge
    for path in (tmp_path / "a.onnx", tmp_path / "a.safetensors"):
        oat_bench.export(family, path, lam=0.5)
        x = images(3)
        logits = load(path).at(0.5)(x)
        torch.testing.assert_close(logits, family.at(0.5)(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"lambda 0\.3 was not trained"):
        oat_bench.export(family, tmp_path / "b.onnx", lam=0.3)
    with pytest.raises(UserError, match="pgd-at: there is no one network"):
        oat_bench.export(family, tmp_path / "b.onnx", lam=None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "a.safetensors"]


def test_a_file_that_computes_something_else_is_not_kept(small, tmp_path, monkeypatch):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"older")
    true = as_pt2.to_bytes
    monkeypatch.setattr(as_pt2, "to_bytes", lambda _, about: true(small.at(0.5), about))
    with pytest.raises(UserError, match=r"net\.pt2 was not kept: .* differ by"):
        oat_bench.export(small, path, lam=0.3)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net.txt", {"lam": 0.3}, "expected a name that ends in .onnx, .pt2 or .safetensors"),
        ("net.pt2", {"lam": 0.3, "to": "onnx"}, "expected a name that ends in .onnx"),
        ("net.onnx", {"lam": 0.3, "width": 0.5}, "width 0.5 asked for; the network has 1"),
        ("net.safetensors", {"lam": None}, "no graph that lambda could be an input of"),
    ],
)
def test_what_cannot_be_exported_is_said(small, tmp_path, name, options, message):
    with pytest.raises(UserError, match=message):
        oat_bench.export(small, tmp_path / name, **options)


def test_images_to_compare_on_are_checked_first(small, tmp_path):
    path = tmp_path / "x.safetensors"
    for drawn, words in (
        ((images(2) * 255).byte(), "images: of type uint8"),
        (images(2) * 255, "images: values range from"),
        (images(2, (1, 9, 9)), r"images: of shape \(2, 1, 9, 9\)"),
    ):
        with pytest.raises(UserError, match=words):
            oat_bench.export(small, path, lam=0.5, images=drawn)
    assert not path.exists()
    assert oat_bench.export(small, path, lam=0.5, images=images(2).double()).n_images == 2
    assert oat_bench.export(small, path, lam=0.5, images=images(0)).n_images == 32


def test_a_missing_library_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"needs onnxscript.*pip install 'oat-bench\[export\]'"):
        oat_bench.export(small, tmp_path / "net.onnx", lam=0.3)


def test_differences_are_measured_in_logits():
    logits = torch.tensor([[0.0, 200.0]])
    assert check_alike(logits + 0.01, logits) == pytest.approx(0.01, rel=1e-2)
    for other in (logits + 0.03, logits * torch.nan, logits[:, :1]):
        with pytest.raises(UserError, match="are not those of the network"):
            check_alike(other, logits)


# -- evaluation


def outcomes(classifier, lam, digits, store=None):
    attack = prepare(attack_card("pgd-7"), classifier.info.threat, n_classes=10, seed=0)
    subject = Subject(classifier, digits.test, "d", torch.arange(40))
    return grid.evaluate(subject, [OperatingPoint(lam)], [attack], show=False)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_exported_file_is_as_robust_as_its_checkpoint(trained, digits, tmp_path, kind):
    path = tmp_path / f"net.{kind}"
    oat_bench.export(trained, path, lam=0.5)
    found = outcomes(load(path), 0.5, digits)
    expected = outcomes(trained, 0.5, digits)
    columns = ["clean_prediction", "attacked_prediction"]
    # rounding may turn a prediction at the boundary
    assert (found[columns] != expected[columns]).to_numpy().sum() <= 1
    assert (expected["attacked_prediction"] != expected["clean_prediction"]).any()


def test_predictions_are_the_files_and_must_be_those_of_what_is_attacked(
    trained, digits, tmp_path, monkeypatch
):
    path = tmp_path / "net.onnx"
    oat_bench.export(trained, path, lam=0.5)
    exported, calls = load(path), []
    true = as_onnx.Graph.forward

    def counted(self, x, lam=None):
        calls.append(len(x))
        return true(self, x, lam)

    monkeypatch.setattr(as_onnx.Graph, "forward", counted)
    found = outcomes(exported, 0.5, digits)
    right = int((found["clean_prediction"] == found["label"]).sum())
    assert sum(calls) == 40 + right  # each clean image, and each that was attacked
    # a graph that is honest about clean images alone is found out at the first attacked one
    clean = {image.numpy().tobytes() for image in digits.test.inputs(slice(0, 40))}

    def masked(self, x, lam=None):
        logits = true(self, x, lam)
        own = torch.tensor([image.contiguous().numpy().tobytes() in clean for image in x])
        return torch.where(own[:, None], logits, logits.roll(1, dims=1))

    monkeypatch.setattr(as_onnx.Graph, "forward", masked)
    with pytest.raises(UserError, match="are not those of the network that it describes"):
        outcomes(exported, 0.5, digits)


# -- files from strangers


def refused(path):
    with pytest.raises(UserError) as stop:
        load(path)
    assert "\n" not in str(stop.value)
    return str(stop.value)


def changed_onnx(files, tmp_path, change):
    model = onnx.load(files / "static.onnx")
    change(model)
    path = tmp_path / "changed.onnx"
    path.write_bytes(model.SerializeToString())
    return refused(path)


def test_a_foreign_graph_has_no_description(files, tmp_path):
    def strip(model):
        del model.metadata_props[:]

    assert "an ONNX file without its description" in changed_onnx(files, tmp_path, strip)


def test_a_graph_may_not_ask_for_other_files(files, tmp_path):
    (tmp_path / "weights").write_bytes(bytes(1 << 16))

    def outside(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", "weights"

    assert "data outside of the file" in changed_onnx(files, tmp_path, outside)

    def constant(model):
        node = model.graph.node.add(op_type="Constant", output=["hidden"])
        tensor = onnx.numpy_helper.from_array(np.zeros(1, np.float32))
        node.attribute.append(onnx.helper.make_attribute("value", tensor))
        entry = node.attribute[0].t.external_data.add()
        entry.key, entry.value = "location", "weights"

    assert "data outside of the file" in changed_onnx(files, tmp_path, constant)


def test_a_graph_holds_operators_of_the_standard_alone(files, tmp_path):
    def control(model):
        node = model.graph.node.add(op_type="Loop")
        body = onnx.helper.make_graph([], "body", [], [])
        node.attribute.append(onnx.helper.make_attribute("body", body))

    def custom(model):
        model.graph.node.add(op_type="Run", domain="com.example")

    assert "the operator Loop" in changed_onnx(files, tmp_path, control)
    assert "the operator com.example" in changed_onnx(files, tmp_path, custom)


def test_a_graph_must_compute_what_it_describes(files, tmp_path):
    def another(model):
        node = next(node for node in model.graph.node if node.op_type == "Relu")
        node.op_type = "Abs"

    assert "are not those of the network" in changed_onnx(files, tmp_path, another)

    def weights(model):
        tensor = model.graph.initializer[0]
        array = onnx.numpy_helper.to_array(tensor).copy() + 1
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    assert "the checksum does not match" in changed_onnx(files, tmp_path, weights)


class Evil:
    """Its unpickling leaves a trace."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_program_that_would_run_code_is_not_read(files, tmp_path):
    trace = tmp_path / "ran"
    target = io.BytesIO()
    torch.save(Evil(trace), target)
    with zipfile.ZipFile(files / "static.pt2") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = "archive/data/weights/model_weights_config.json"
    values = json.loads(members[config])
    entry = values["config"]["conv1.weight"]
    entry["use_pickle"], entry["path_name"] = True, "evil"
    members[config] = json.dumps(values).encode()
    members["archive/data/weights/evil"] = target.getvalue()
    path = tmp_path / "evil.pt2"

    def write(members):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    write(members)
    with pytest.raises(Exception):  # noqa: B017, PT011  (whatever comes after what it ran)
        torch.export.load(path)
    assert trace.exists(), "torch.export.load has become safe: read pt2 with it"
    trace.unlink()
    refused(path)
    # with every tensor in its place only one member more tells it apart
    entry["use_pickle"], entry["path_name"] = False, "weight_0"
    members[config] = json.dumps(values).encode()
    write(members)
    assert "its program is not the one" in refused(path)
    assert not trace.exists()


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_end_in_one_line(files, tmp_path, monkeypatch, kind, data):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("a file was unpickled")

    monkeypatch.setattr(pickle, "loads", forbidden)
    content = bytearray((files / f"static.{kind}").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / f"damaged.{kind}"
    path.write_bytes(content)
    said = ""
    try:
        load(path)  # a bit of what no reader reads, such as the date of a member
    except UserError as error:
        said = str(error)
    assert "\n" not in said


def test_a_checkpoint_is_no_exported_file(trained_folder):
    assert "its header has no description" in refused(trained_folder / "checkpoint.safetensors")


def test_there_must_be_a_file(tmp_path):
    assert "no exported file at" in refused(tmp_path / "none.onnx")
    assert KEY == "oat_bench_export"  # as the files that are out there say
