"""Bad input and damaged files: one line and exit code 2."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import call, untimed
from fuzzing import COUNTS, damaged, fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as to_bytes

import oat_bench
from oat_bench import run
from oat_bench.benchmark import benchmark_card
from oat_bench.errors import UserError

# --- bad input: one line, exit code 2, before anything costly


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--dataset", "digit"], "unknown data set 'digit'; did you mean digits"),
        (["run", "--dataset", ""], "unknown data set ''"),
        (["run", "--dataset", "imagenet"], "'imagenet'; known: cifar10, cifar100, digits, fash"),
        (["run", "--dataset", "cifar10-small"], "unknown data set 'cifar10-small'; did you mean"),
        (["run", "--dataset", "image-folder"], "is named by its path, such as --dataset ./my-imag"),
        (["run", "--dataset", "./nowhere"], "no folder of images at nowhere; expected train/ and"),
        (["train", "--dataset", "."], "class folders found: none; expected at least two"),
        (["run", "--dataset", "cifar10", "--benchmark", "svhn"], "is of data set 'svhn', not 'cif"),
        (["train", "--dataset", "digist"], "did you mean digits"),
        (["train", "--epochs", "few"], "(see oat-bench train --help)"),
        (["leaderboard", "table", "--sort", "luck"], "(see oat-bench leaderboard table --help)"),
        (["run", "--benchmark", "digitz"], "unknown benchmark 'digitz'; did you mean digits"),
        (["run", "--benchmark", ""], "unknown benchmark ''"),
        (["run", "--benchmark", "no.toml"], "no benchmark card at no.toml"),
        (["run", "--benchmark", "."], "unknown benchmark '.'"),
        (["run", "--benchmark", "./"], "no benchmark card at ."),
        (["run", "--benchmark", "x" * 5000 + ".toml"], "no benchmark card at"),
        (["run", "--attacks", "pgd-8"], "unknown attack 'pgd-8'; did you mean pgd-7"),
        (["run", "--attacks", "fgsm,autoatack"], "did you mean autoattack"),
        (["run", "--attacks", "ALL"], "unknown attack 'ALL'"),
        (["run", "--attacks", ""], "no attack is named"),
        (["run", "--attacks", " , "], "no attack is named"),
        (["run", "--attacks", "no/such.toml"], "no attack card at no/such.toml"),
        (["run", "--attacks", "/dev/null"], "no attack card at /dev/null"),
        (["run", "--lambda", "1.5"], "lambda 1.5 is outside [0, 1]"),
        (["run", "--lambda", "0,-0.1"], "lambda -0.1 is outside [0, 1]"),
        (["run", "--lambda", "nan"], "lambda nan is outside [0, 1]"),
        (["run", "--lambda", "inf"], "lambda inf is outside [0, 1]"),
        (["run", "--lambda", "half"], "'half' is not a number"),
        (["run", "--lambda", ""], "'' is not a number"),
        (["run", "--lambda", "0,,1"], "'' is not a number"),
        (["run", "--lambda", "0;1"], "'0;1' is not a number"),
        (["run", "--n-examples", "0"], "'0'; expected such as 1000 or 1000,autoattack=200"),
        (["run", "--n-examples", "-3"], "'-3'; expected such as 1000"),
        (["run", "--n-examples", "many"], "'many'; expected such as 1000"),
        (["run", "--n-examples", "9,=3"], "'=3'; expected such as 1000"),
        (["run", "--n-examples", "9,fgsm=0"], "'fgsm=0'; expected such as 1000"),
        (["run", "--n-examples", "9,fgms=3"], "unknown attack with fewer examples 'fgms'; did you"),
        (["run", "--n-examples", "2.5"], "'2.5'; expected such as 1000"),
        (["run", "--precision", "0"], "is not in the range"),
        (["run", "--precision", "nan"], "'nan' is not a number"),
        (["run", "--precision", "1", "--attacks", "fgsm"], "no attack to run to a precision"),
        (["run", "--precision", "1", "--attacks", "autoattack"], "add one, such as pgd-20"),
        (
            ["run", "--precision", "1", "--n-examples", "500,autoattack=9"],
            "no attack to run to a precision",
        ),
        (
            ["run", "--n-examples", "1001"],
            "1001 examples asked for; the test set of fashion-12x12 ",
        ),
        (["run", "--n-examples", "9" * 30], "examples asked for"),
        (["run", "--seed", "-1"], "-1 is not in the range"),
        (["run", "--seed", "9" * 30], "is not in the range"),
        (["run", "--seed", "x"], "'x' is not a valid integer"),
        (["run", "--device", "tpu"], "'auto', 'cpu', 'cuda'"),
        (["run", "--out", "/dev/null"], "cannot write to /dev/null"),
        (["run", "--out", "/dev/null/below"], "cannot write to /dev/null/below"),
        (["run", "--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["run", "--out", "x" * 300], "cannot write to"),
        (["run", "--model", "missing"], "no checkpoint at missing"),
        (["run", "--model", ""], "no checkpoint at"),
        (["run", "--model", "."], "no checkpoint at checkpoint.safetensors"),
        (["run", "--model", "x" * 5000], "no checkpoint at"),
        (["evaluate"], "expected one model: oat-bench evaluate MODEL"),
        (["evaluate", "--model", "missing"], "no checkpoint at missing"),
        (["evaluate", "--model", "no\nsuch"], "no checkpoint at no such"),
        (["run", "extra"], "unexpected extra argument"),
        (["run", "--lamda", "1"], "No such option"),
        (["ruin"], "No such command 'ruin'"),
        (["--frobnicate"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(refused, arguments, words):
    assert words in refused(*arguments)
    assert not Path("runs").exists() or not any(Path("runs").rglob("*.*"))


def test_a_command_line_that_fails_in_its_own_process(finished, tmp_path):
    path = finished / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, out, err = call("evaluate", "--model", path, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"oat-bench: {path}: damaged")
    assert err.count("\n") == 1


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.one_of(st.text(max_size=12), st.lists(st.floats()).map(lambda v: ",".join(map(str, v))))
)
def test_any_lambda_is_refused_in_one_line_or_lies_in_the_unit_interval(invoke, monkeypatch, text):
    taken = []
    monkeypatch.setattr(
        "oat_bench.cli.run._evaluate", lambda _, **options: taken.append(options["lambdas"])
    )
    code, out, err = invoke("run", f"--lambda={text}")
    assert out == ""
    if code == 0:
        (lambdas,) = taken
        assert lambdas == sorted(set(lambdas))
        assert all(0 <= lam <= 1 for lam in lambdas)
        assert err == ""
    else:
        assert code == 2
        assert taken == []
        assert err.count("\n") == 1


def test_cuda_without_cuda(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device is available" in refused("run", "--device", "cuda")
    assert "use --device cpu" in refused("evaluate", "--model", ".", "--device", "cuda")


def test_data_set_and_benchmark_that_contradict(refused, card):
    card.write_text(card.read_text().replace('"digits"', '"other"'))
    err = refused("run", "--benchmark", card, "--dataset", "digits")
    assert "is of data set 'other', not 'digits'" in err
    assert "unknown data set 'other'" in refused("run", "--benchmark", card)


@pytest.fixture
def shapes(tmp_path):
    """A folder of 8x8 images of two classes, light ones and dark ones: 40 to train, 10 to test."""
    numbers = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for name, base in (("dark", 20), ("light", 180)):
            folder = tmp_path / "shapes" / part / name
            folder.mkdir(parents=True)
            for place in range(count):
                pixels = base + numbers.integers(0, 60, (8, 8))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{place}.png")
    return tmp_path / "shapes"


def test_a_folder_of_images_with_the_card_of_another_data_set(invoke, card, shapes):
    command = ["--dataset", "./shapes", "--benchmark", card]
    code, out, err = invoke("run", *command, "--attacks", "pgd-7")
    assert code == 0, err
    assert out.startswith("**shapes, wrn-10-1, OAT, Linf eps 0.2**")
    assert "trained in" in err
    rows = [line.split("|")[1:4] for line in out.splitlines() if line.startswith("|  ")]
    assert {row[1].strip() for row in rows[1:]} == {"10"}  # the card asks for 50
    folder = Path("runs/shapes-brief-seed0")
    assert oat_bench.load(folder).info.classes == ["dark", "light"]
    splits = json.loads((folder / "splits.json").read_text())
    assert [splits["splits"][name]["n"] for name in ("train", "validation", "test")] == [36, 4, 10]
    # again by its checkpoint, which does not say where the images lie
    err = invoke("evaluate", "--model", folder)[2]
    assert "is of data set 'shapes'; name its folder with --dataset" in err
    code, again, err = invoke("evaluate", "--model", folder, *command, "--attacks", "pgd-7")
    assert code == 0, err
    assert untimed(again) == untimed(out)
    code, _, err = invoke("run", *command, "--attacks", "pgd-7", "--n-examples", "11")
    said, err = err.splitlines()
    assert (code, err) == (2, "oat-bench: 11 examples asked for; the test set of shapes has 10")
    assert said == (
        "shapes: train 36 (from train/), validation 4 (a tenth of train/), test 10 (from test/); "
        "2 classes: dark 18/2/5, light 18/2/5"
    )


def test_a_folder_of_images_without_a_card_takes_the_general_one(invoke, shapes, monkeypatch):
    taken = []
    monkeypatch.setattr(run, "train", lambda card, data, *_, **__: taken.append((card, data)))
    assert invoke("train", "--dataset", shapes)[0] == 0
    ((card, data),) = taken
    assert card.name == data.name == "shapes"
    general = benchmark_card("image-folder")
    assert (card.network, card.training) == (general.network, general.training)
    assert Path("runs/shapes-seed0").is_dir()


def test_a_broken_image_is_skipped_only_if_asked(invoke, refused, shapes, monkeypatch):
    broken = shapes / "train" / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    assert f"{broken}: not a readable image (" in refused("run", "--dataset", shapes)
    taken = []
    monkeypatch.setattr(run, "train", lambda _card, data, *_, **__: taken.append(data))
    code, _, err = invoke("train", "--dataset", shapes, "--skip-broken")
    assert code == 0
    assert f"1 of 50 images skipped, the first is {broken}" in err
    assert len(taken[0].train) + len(taken[0].validation) == 39


def test_the_folder_of_data_sets(refused, tmp_path):
    folder = tmp_path / "mine" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").touch()
    for command in ("run", "train"):
        err = refused(command, "--dataset", "cifar10", "--data-dir", "mine")
        assert "mine/cifar-10-batches-py lacks data_batch_1, data_batch_2" in err
    (tmp_path / "data").symlink_to("mine")  # where they are looked for without the option
    assert "data/cifar-10-batches-py lacks" in refused("run", "--benchmark", "cifar10-small")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs = 4", "epochs = 0", "training.epochs: input should be greater than or equal to 1"),
        ("epochs = 4", "epoch = 4", "'training.epoch'; did you mean epochs"),
        ("epochs = 4", "epochs = 'four'", "training.epochs"),
        ("epochs = 4", "", "'training.epochs' is missing"),
        ("lr = 0.1", "lr = 'fast'", "training.lr"),
        ("lr = 0.1", "lr = nan", "training.lr: input should be a finite number"),
        ("eps = 0.2", "eps = '8/0'", "threat.eps"),
        ("eps = 0.2", "eps = -1", "threat.eps"),
        ("eps = 0.2", "norm = 'L1'", "threat.norm: input should be 'Linf' or 'L2'"),
        ("[threat]", "[threat", "not valid TOML"),
        ('"wrn-10-1"', '"wrn-11-1"', "expected resnet-18, resnet-34 or wrn-DEPTH-WIDEN"),
        ('"wrn-10-1"', '"resnet-18"\ndropout = 0.3', "resnet-18 has no dropout"),
        ("encoding_dim = 8", "encoding_dim = 2", "expected at least 3"),
        ("lr = 0.1", "lr = 0.1\nnesterov = true\nmomentum = 0", "nesterov"),
        ("lambdas = [0, 0.5, 1]", "lambdas = [0, 1.5]", "training.lambdas.1"),
        ("lambdas = [0, 0.2, 1]", "lambdas = []", "evaluation.lambdas"),
        ('attacks = "fgsm,pgd-7"', 'attacks = "fgsm,pgd-77"', "did you mean pgd-7"),
        ("n_examples = 50", "n_examples = 5000", "5000 examples asked for"),
        ("n_examples = 50", "n_examples = 0", "evaluation.n_examples"),
        ('dataset = "digits"', 'dataset = "digits"\nname = "../up"', "name"),
        ('dataset = "digits"', 'dataset = "digits"\nmethod = "pgdat"', "did you mean pgd-at"),
    ],
)
def test_a_wrong_benchmark_card(refused, card, old, new, words):
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new, 1))
    err = refused("run", "--benchmark", card, "--out", "results")
    assert words in err
    named = (f"oat-bench: {card}: ", "oat-bench: benchmark 'brief' ")
    assert err.startswith(named) or "attack" in words + err or "examples" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class = 'PGD'", "'engine' is missing"),
        ("engine = 'foolbox'\nclass = 'PGD'", "unknown engine 'foolbox'; known: art, "),
        ("engine = 'art'\nclas = 'PGD'", "clas"),
        ("engine = 'art'\nclass = 'Deepfol'", "did you mean DeepFool"),
        ("engine = 'torchattacks'\nclass = 'PGD'\n[parameters]\nstep = 3", "did you mean steps"),
        ("engine = 'oat_bench'\nclass = 'FGSM'\n[parameters]\neps = '$epsilon'", "$epsilon"),
        ("engine = 'oat_bench'\nclass = 'FGSM'\n[parameters]\neps = 'wide'", "eps is 'wide'"),
        ("engine = 'art'\nclass = 'DPatch'", "EstimatorError"),
        ("name = 'worst'\nengine = 'oat_bench'\nclass = 'FGSM'\nparameters = {eps = 1}", "worst"),
        ("name = 'a/b'\nengine = 'oat_bench'\nclass = 'FGSM'\nparameters = {eps = 1}", "a/b"),
        ("\x00", "not valid TOML"),
    ],
)
def test_a_wrong_attack_card(refused, card, tmp_path, text, words):
    attack = tmp_path / "mine.toml"
    attack.write_text(text)
    err = refused("run", "--benchmark", card, "--attacks", attack, "--out", "results")
    assert words in err
    assert "mine" in err


def test_an_attack_for_another_norm(refused, card):
    card.write_text(card.read_text().replace("eps = 0.2", "eps = 1.0\nnorm = 'L2'"))
    err = refused("run", "--benchmark", card)
    assert "attack 'fgsm' is for Linf, the benchmark's threat model is L2" in err


# --- checkpoints that are not


@pytest.mark.parametrize("content", [b"", b"\x80\x04}", b"\x00" * 100, os.fsencode("x" * 999)])
def test_a_damaged_checkpoint(refused, card, tmp_path, content):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "checkpoint.safetensors"
    path.write_bytes(content)
    for model in (path, path.parent):
        assert str(path) in refused("evaluate", "--model", model)


@COUNTS
def test_any_damaged_checkpoint_is_one_line_and_exit_code_2(invoke, finished, monkeypatch, count):
    path = finished / "checkpoint.safetensors"
    content = path.read_bytes()
    refused = []

    def stop(*_args, **_kwargs):
        raise UserError("it is whole after all")

    monkeypatch.setattr("oat_bench.datasets.load", stop)

    def check(damage):
        path.write_bytes(damage)
        code, out, err = invoke("evaluate", "--model", path)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        refused.append(str(path) in err)

    fuzz(check, damaged(content), count)
    assert sum(refused) > len(refused) / 2
    path.write_bytes(content)
    assert "it is whole after all" in invoke("evaluate", "--model", path)[2]


def test_a_truncated_checkpoint(refused, finished):
    path = finished / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in refused("evaluate", "--model", finished)


def test_a_damaged_checkpoint_in_the_folder_of_a_run(invoke, finished, card):
    (finished / "checkpoint.safetensors").write_bytes(b"junk")
    code, out, err = invoke("run", "--benchmark", card, "--out", finished)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "checkpoint.safetensors: damaged" in err


@pytest.mark.parametrize("content", [b"", b"junk", to_bytes({"weight": torch.zeros(1)})])
def test_a_damaged_training_state(invoke, finished, card, content):
    (finished / "checkpoint.safetensors").unlink()
    (finished / "training.safetensors").write_bytes(content)
    code, out, err = invoke("train", "--benchmark", card, "--out", finished)
    assert (code, out) == (2, "")
    (note, error) = err.splitlines()
    assert note.startswith("training wrn-10-1")
    assert "training.safetensors" in error


def test_a_folder_of_another_run(invoke, finished, card):
    code, out, err = invoke("run", "--benchmark", card, "--out", finished, "--seed", 1)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "with another seed or from another model; choose another folder with --out" in err


def test_a_checkpoint_of_another_data_set(refused, build_classifier, tmp_path):
    classifier = build_classifier(dataset="other", input_shape=(3, 16, 16), num_classes=4)
    oat_bench.save(classifier, tmp_path / "other.safetensors")
    err = refused("evaluate", "--model", "other.safetensors", "--dataset", "digits")
    assert "the checkpoint of 'other' has 4 classes: 0, 1, 2, 3; 'digits' has 10 classes" in err
    assert "'other'" in refused("evaluate", "--model", "other.safetensors")


def test_damaged_outcomes(invoke, finished, card):
    arguments = ["run", "--benchmark", card, "--out", finished, "--n-examples", 5]
    assert invoke(*arguments)[0] == 0
    victim = next((finished / "outcomes").rglob("*.parquet"))
    victim.write_bytes(b"PAR1")
    code, out, err = invoke(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[1:] == [
        f"oat-bench: {victim}: damaged outcomes; remove the file, and its examples are "
        "evaluated again"
    ]
    victim.unlink()
    assert invoke(*arguments)[0] == 0
