"""Checkpoints: exact when whole, refused in one line when not, and never executed."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load as read_tensors
from safetensors.torch import save as to_bytes

import oat_bench
from oat_bench.classifier import ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.errors import UserError
from oat_bench.files import sha256


@pytest.fixture(scope="module")
def classifier(build_classifier):
    return build_classifier()


@pytest.fixture(scope="module")
def whole(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "checkpoint.safetensors"
    oat_bench.save(classifier, path)
    return path.read_bytes()


@pytest.fixture
def images():
    return torch.rand((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))


def refusal(path):
    """Load what cannot be loaded; return the one line that says so."""
    with pytest.raises(UserError) as error:
        oat_bench.load(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert len(message) < 500
    return message


def describe(content):
    """Take a checkpoint apart: the description, and the tensors."""
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    return json.loads(header["__metadata__"]["oat_bench"])["info"], read_tensors(content)


def forge(description, tensors):
    """Put a checkpoint together as a malicious author would: its checksum is right."""
    tensors = {name: tensors[name].contiguous() for name in sorted(tensors)}
    parts = []
    for name, value in tensors.items():
        parts += [name, bytes(value.view(-1).view(torch.uint8).numpy())]
    checksum = sha256(json.dumps(description, sort_keys=True), *parts)
    header = json.dumps({"sha256": checksum, "info": description})
    return to_bytes(tensors, {"oat_bench": header})


# --- whole checkpoints


@pytest.mark.parametrize("lam", [0.0, 0.05, 0.1, 0.37, 1.0])
def test_a_loaded_classifier_computes_the_same_bits(classifier, tmp_path, images, lam):
    oat_bench.save(classifier, tmp_path / "c.safetensors")
    loaded = oat_bench.load(tmp_path / "c.safetensors")
    assert torch.equal(loaded.at(lam)(images), classifier.at(lam)(images))
    assert loaded.info == classifier.info
    assert loaded.fingerprint() == classifier.fingerprint()
    for name, value in classifier.state_dict().items():
        other = loaded.state_dict()[name]
        assert torch.equal(value, other)
        assert value.dtype == other.dtype


def test_saving_a_loaded_classifier_writes_the_same_file(whole, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(whole)
    oat_bench.save(oat_bench.load(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == whole


def test_a_folder_stands_for_the_checkpoint_in_it(classifier, tmp_path):
    oat_bench.save(classifier, tmp_path / "checkpoint.safetensors")
    for path in (tmp_path, str(tmp_path), str(tmp_path) + "/"):
        assert oat_bench.load(path).fingerprint() == classifier.fingerprint()


def test_a_loaded_classifier_can_be_trained_and_does_not_hold_the_file(whole, tmp_path, images):
    path = tmp_path / "c.safetensors"
    path.write_bytes(whole)
    loaded = oat_bench.load(path)
    before = loaded.at(0.5)(images)
    path.write_bytes(b"\x00" * len(whole))
    assert torch.equal(loaded.at(0.5)(images), before)
    parameters = list(loaded.network.parameters())
    assert all(p.requires_grad and p.is_leaf for p in parameters)
    loaded.network.train()
    loss = loaded.network(images, 0.5).square().sum()
    loss.backward()
    torch.optim.SGD(parameters, lr=0.1).step()
    loaded.network.eval()
    assert not torch.equal(loaded.at(0.5)(images), before)


def test_what_at_returns_shares_nothing_with_the_classifier(build_classifier, images):
    classifier = build_classifier()
    plain = classifier.at(0.5)
    before = plain(images)
    with torch.no_grad():
        for parameter in classifier.network.parameters():
            parameter.add_(1.0)
    assert torch.equal(plain(images), before)
    assert not plain.training
    assert plain(images).shape == (4, 10)


def test_the_weights_and_the_description_decide_the_fingerprint(build_classifier):
    one, same, other = build_classifier(), build_classifier(), build_classifier(seed=1)
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    with torch.no_grad():
        next(iter(same.network.parameters())).view(-1)[0] += 1e-6
    assert one.fingerprint() != same.fingerprint()
    described = build_classifier()
    described.info = described.info.model_copy(update={"epochs": 2})
    assert one.fingerprint() != described.fingerprint()


def test_another_image_shape_and_other_classes(build_classifier, tmp_path):
    classifier = build_classifier(dataset="other", input_shape=(3, 12, 12), num_classes=4)
    oat_bench.save(classifier, tmp_path / "c.safetensors")
    loaded = oat_bench.load(tmp_path / "c.safetensors")
    assert loaded.info.dataset == "other"
    assert loaded.info.num_classes == 4
    assert loaded.at(0.2)(torch.rand(2, 3, 12, 12)).shape == (2, 4)


# --- operating points


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan"), float("inf"), -float("inf")])
def test_lambda_outside_its_range_is_refused(classifier, lam):
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\]"):
        classifier.at(lam)
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\]"):
        OperatingPoint(lam)


@pytest.mark.parametrize("width", [0.0, -1.0, 1.5, float("nan")])
def test_a_width_outside_its_range_is_refused(classifier, width):
    with pytest.raises(ValueError, match=r"expected a number in \(0, 1\]"):
        classifier.at(0.5, width)


def test_oat_has_one_width(classifier):
    with pytest.raises(ValueError, match="only width 1"):
        classifier.at(0.5, 0.75)


# --- what is no checkpoint


def test_a_missing_file_says_what_was_expected(tmp_path):
    for path in (tmp_path / "no.safetensors", tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(UserError, match=r"no checkpoint at .*\.safetensors file or a run's"):
            oat_bench.load(path)
    with pytest.raises(UserError, match="no checkpoint"):
        oat_bench.load("x" * 5000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"\x00" * 8,
        b"\x00" * 4096,
        b"\xff" * 4096,
        b"{}",
        bytes(range(256)) * 16,
        struct.pack("<Q", 2) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100_000_001) + b"{}",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"<!DOCTYPE html><html></html>",
    ],
)
def test_files_of_something_else_are_refused(tmp_path, content):
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    refusal(path)


def test_a_checkpoint_cut_anywhere_is_refused(whole, tmp_path):
    path = tmp_path / "c.safetensors"
    for end in [*range(64), *range(64, len(whole), 1999), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refusal(path)


def test_a_checkpoint_with_something_appended_is_refused(whole, tmp_path):
    path = tmp_path / "c.safetensors"
    path.write_bytes(whole + b"\x00")
    refusal(path)


class Bomb:
    """Unpickling this leaves a file behind."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_is_refused_and_not_unpickled(classifier, tmp_path):
    mark = tmp_path / "unpickled"
    path = tmp_path / "checkpoint.safetensors"
    for old in (True, False):
        torch.save(
            {"state": classifier.state_dict(), "bomb": Bomb(mark)},
            path,
            _use_new_zipfile_serialization=not old,
        )
        assert zipfile.is_zipfile(path) != old
        refusal(path)
    path.write_bytes(pickle.dumps(Bomb(mark)))
    refusal(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes()).close()
    assert mark.exists()  # the bomb is a real one


def test_a_safetensors_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    for metadata in (None, {"format": "pt"}, {"oat_bench": "{}"}, {"oat_bench": "not json"}):
        path.write_bytes(to_bytes({"weight": torch.zeros(3)}, metadata))
        assert "not a checkpoint of oat-bench" in refusal(path)


def test_a_changed_description_or_weight_fails_the_checksum(whole, tmp_path):
    path = tmp_path / "c.safetensors"
    for change in ((b"digits", b"digitz"), (b'\\"epochs\\": 1', b'\\"epochs\\": 2')):
        assert change[0] in whole
        path.write_bytes(whole.replace(*change, 1))
        assert "checksum" in refusal(path)
    for place in (len(whole) - 1, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert "checksum" in refusal(path)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bits_are_refused_or_harmless(classifier, whole, tmp_path, data):
    (header,) = struct.unpack("<Q", whole[:8])
    end = data.draw(st.sampled_from([8, 8 + header, len(whole)]))
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, end - 1))
        damaged[place] = data.draw(st.one_of(st.integers(0, 255), st.sampled_from(b'"{}[],:09IF')))
    path = tmp_path / "c.safetensors"
    path.write_bytes(damaged)
    try:
        loaded = oat_bench.load(path)
    except UserError as error:
        message = str(error)
        loaded = None
    if loaded is None:
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
    else:  # such as white space in the header
        assert isinstance(loaded, TunableClassifier)
        assert loaded.fingerprint() == classifier.fingerprint()


# --- what a header may claim, with a checksum that is right


def forged_refusal(tmp_path, description, tensors):
    path = tmp_path / "c.safetensors"
    path.write_bytes(forge(description, tensors))
    return refusal(path)


def test_the_forgery_is_a_checkpoint_when_nothing_is_changed(whole, classifier, tmp_path):
    description, tensors = describe(whole)
    path = tmp_path / "c.safetensors"
    path.write_bytes(forge(description, tensors))
    assert oat_bench.load(path).fingerprint() == classifier.fingerprint()


def test_tensors_that_do_not_fit_are_refused(whole, tmp_path):
    description, tensors = describe(whole)
    name = "backbone.linear.weight"
    weight = tensors[name]
    missing = {k: v for k, v in tensors.items() if k != name}
    assert name in forged_refusal(tmp_path, description, missing)
    assert "extra" in forged_refusal(tmp_path, description, tensors | {"extra": weight.clone()})
    assert name in forged_refusal(tmp_path, description, tensors | {name: weight[:-1]})
    assert name in forged_refusal(tmp_path, description, tensors | {name: weight.T})
    assert name in forged_refusal(tmp_path, description, tensors | {name: weight.reshape(-1)})
    assert "too few weights" in forged_refusal(tmp_path, description, {})
    for dtype in (torch.float64, torch.float16, torch.int64, torch.bool):
        changed = tensors | {name: weight.to(dtype)}
        assert name in forged_refusal(tmp_path, description, changed)
    moved = tensors | {"encoding.trained": tensors["encoding.trained"] + 0.01}
    assert "lambda" in forged_refusal(tmp_path, description, moved)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "oats"},
        {"method": "__class__"},
        {"format_version": 2},
        {"format_version": "one"},
        {"classes": ["only"]},
        {"classes": [str(i) for i in range(11)]},
        {"classes": [str(i) for i in range(100_001)]},
        {"input_shape": [3, 8, 8]},
        {"input_shape": [0, 8, 8]},
        {"input_shape": [1, 8]},
        {"input_shape": [4096, 65536, 65536]},
        {"input_shape": [10**9, 8, 8]},
        {"trained_lambdas": []},
        {"trained_lambdas": [0, 2]},
        {"trained_lambdas": [0, 1]},
        {"trained_lambdas": [0, 0.2, 0.5, 1]},
        {"seed": 10**30},
        {"seed": -(10**30)},
        {"seed": "zero"},
        {"epochs": "many"},
        {"surprise": 1},
        {"dataset": None},
        {"threat": {"norm": "L7"}},
    ],
)
def test_descriptions_that_do_not_fit_are_refused(whole, tmp_path, change):
    description, tensors = describe(whole)
    forged_refusal(tmp_path, description | change, tensors)


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "wrn-16-1"},
        {"architecture": "wrn-10-2"},
        {"architecture": "resnet-18"},
        {"architecture": "wrn-11-1"},
        {"architecture": "os.system"},
        {"encoding": "dct", "encoding_dim": 9},
        {"encoding_dim": 0},
        {"encoding_dim": 2},
        {"encoding_dim": 10**9},
        {"norm": "single"},
        {"film": "published"},
        {"dropout": 1.5},
    ],
)
def test_networks_that_do_not_fit_are_refused(whole, tmp_path, change):
    description, tensors = describe(whole)
    network = description["network"] | change
    forged_refusal(tmp_path, description | {"network": network}, tensors)


@pytest.mark.parametrize("description", [None, [], {}, 3, "text", "{}"])
def test_a_description_that_is_no_description_is_refused(whole, tmp_path, description):
    _, tensors = describe(whole)
    forged_refusal(tmp_path, description, tensors)


@pytest.mark.parametrize(
    "text",
    [
        *["", "null", "[]", "{}", "3", '"info"', '{"info": {}}', '{"info": null, "sha256": 1}'],
        *["{" * 100_000, '{"info":' * 10_000, "[" * 10_000, "\u0000"],
    ],
)
def test_a_header_that_is_no_header_is_refused(whole, tmp_path, text):
    _, tensors = describe(whole)
    path = tmp_path / "c.safetensors"
    path.write_bytes(to_bytes(tensors, {"oat_bench": text}))
    assert "not a checkpoint of oat-bench" in refusal(path)


LOAD = """
import resource, sys, time
import torch
import oat_bench
from oat_bench.errors import UserError
torch.set_num_threads(1)
import oat_bench.methods
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.monotonic()
try:
    oat_bench.load(sys.argv[1])
    print("loaded")
except UserError as error:
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(grown, time.monotonic() - started, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "shape"),
    [
        ({"architecture": "wrn-988-99"}, [1, 8, 8]),
        ({"architecture": "wrn-10-99"}, [4096, 65536, 65536]),
        ({"architecture": "wrn-9998-999"}, [1, 8, 8]),
        ({"architecture": "resnet-34", "encoding_dim": 1024}, [1, 8, 8]),
    ],
)
def test_a_header_cannot_make_the_loader_build_what_the_file_does_not_hold(
    whole, tmp_path, change, shape
):
    description, tensors = describe(whole)
    description["network"] |= change
    description["input_shape"] = shape
    path = tmp_path / "c.safetensors"
    path.write_bytes(forge(description, tensors))
    process = subprocess.run(
        [sys.executable, "-c", LOAD, path], capture_output=True, text=True, timeout=120, check=True
    )
    grown, seconds, message = process.stdout.split(" ", 2)
    assert int(grown) < 300_000, process.stdout  # KiB
    assert float(seconds) < 60
    assert str(path) in message


def test_info_is_frozen_and_complete(classifier):
    with pytest.raises(ValueError, match="frozen"):
        classifier.info.epochs = 3
    text = classifier.info.model_dump_json()
    assert ModelInfo.model_validate_json(text) == classifier.info


def test_a_save_that_fails_keeps_the_old_checkpoint(build_classifier, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    oat_bench.save(build_classifier(), path)
    before = path.read_bytes()

    def fail(*_args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            oat_bench.save(build_classifier(seed=1), path)
    assert path.read_bytes() == before
    assert list(Path(tmp_path).iterdir()) == [path]
