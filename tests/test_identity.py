"""Which images a model and an entry are of: told by the images, whatever their folder is called."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from oat_bench import datasets, run
from oat_bench.benchmark import benchmark_card
from oat_bench.checkpoint import load, save
from oat_bench.classifier import check_compatible, check_fits, trained_on
from oat_bench.errors import UserError
from oat_bench.leaderboards import publishing
from oat_bench.regression import baseline as baselines
from oat_bench.results import records


def write_shapes(root, size=(8, 8), count=20):
    """Grey images of two classes, light and dark, in train/ and test/."""
    numbers = np.random.default_rng(0)
    for part, n in (("train", count), ("test", 5)):
        for name, base in (("dark", 20), ("light", 180)):
            folder = root / part / name
            folder.mkdir(parents=True)
            for place in range(n):
                pixels = base + numbers.integers(0, 60, size)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{place}.png")
    return root


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def brief_card(tmp_path_factory, brief_toml):
    path = tmp_path_factory.mktemp("cards") / "brief.toml"
    text = brief_toml.replace("epochs = 4", "epochs = 1").replace('"fgsm,pgd-7"', '"fgsm"')
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def model(shapes, brief_card, tmp_path_factory):
    """The folder of a training run on the shapes; not to be written to."""
    out = tmp_path_factory.mktemp("trained")
    card = benchmark_card(str(brief_card))
    run.train(card, datasets.load(str(shapes)), out, seed=0, device=torch.device("cpu"))
    return out


def test_a_checkpoint_knows_its_images(model, shapes, tmp_path):
    info = load(model).info
    data = datasets.load(str(shapes))
    assert info.data_fingerprint == data.fingerprint()
    assert trained_on(info, data)
    assert check_fits(info, data).name == "shapes"
    # a copy by another name is the same images, by the name that the checkpoint knows
    copy = shutil.copytree(shapes, tmp_path / "eine Kopie")
    fitting = check_fits(info, datasets.load(str(copy)))
    assert (fitting.name, fitting.fingerprint()) == ("shapes", data.fingerprint())
    # other images are taken by their own name
    (copy / "test" / "dark" / "0.png").unlink()
    other = datasets.load(str(copy))
    assert trained_on(info, other) is False
    assert check_fits(info, other).name == "eine-Kopie"


def test_an_older_checkpoint_knows_only_classes_and_size(model, shapes, tmp_path):
    info = load(model).info.model_copy(update={"data_fingerprint": "", "dataset": "my shapes"})
    data = datasets.load(str(shapes))
    assert trained_on(info, data) is None
    assert check_fits(info, data).name == "my-shapes"
    assert "data_fingerprint" not in info.model_dump()
    assert "image_size" not in info.model_dump()


def test_what_does_not_fit_says_what_and_how_to_mend_it(model, shapes, digits, tmp_path):
    info, data = load(model).info, datasets.load(str(shapes))
    with pytest.raises(UserError) as caught:
        check_fits(info, digits)
    assert str(caught.value) == (
        "the checkpoint of 'shapes' has 2 classes: dark, light; 'digits' has 10 classes: 0, 1, 2, "
        "3, ...; expected the same classes in the same order"
    )
    large = datasets.load(str(write_shapes(tmp_path / "large", (12, 10))))
    with pytest.raises(UserError, match=r"\(1, 8, 8\), those of 'large' are \(1, 12, 10\); resize"):
        check_fits(info, large)
    with pytest.raises(UserError, match="with --image-size 8"):
        check_fits(info, large)
    published = info.model_copy(update={"dataset": "svhn"})
    with pytest.raises(UserError, match="of data set 'svhn', not 'shapes'; evaluate it with --dat"):
        check_fits(published, data)
    check_compatible(published, data)


def test_class_names_are_one_however_their_accents_are_written(model, shapes):
    info, data = load(model).info, datasets.load(str(shapes))
    old = info.model_copy(update={"classes": ["cafe\u0301", "light"]})
    new = datasets.Dataset("shapes", ("caf\u00e9", "light"), data.train, data.validation, data.test)
    check_fits(old, new)


def test_training_goes_on_in_a_folder_that_was_renamed(model, shapes, brief_card, tmp_path, capfd):
    copy = shutil.copytree(shapes, tmp_path / "renamed")
    card, out = benchmark_card(str(brief_card)), shutil.copytree(model, tmp_path / "out")
    device = torch.device("cpu")
    run.train(card, datasets.load(str(copy)), out, seed=0, device=device)
    assert "trained already" in capfd.readouterr().err
    # killed before its end
    (out / "checkpoint.safetensors").unlink()
    again = run.train(card, datasets.load(str(copy)), out, seed=0, device=device)
    assert again.info.dataset == "renamed"
    assert again.info.benchmark_card == load(model).info.benchmark_card
    # finished when names still counted
    data = datasets.load(str(shapes))
    again.info = load(model).info.model_copy(
        update={
            "benchmark_card": run.training_identity(card, data, 0, named=True),
            "data_fingerprint": "",
        }
    )
    save(again, out / "checkpoint.safetensors")
    run.train(card, datasets.load(str(copy)), out, seed=0, device=device)
    with pytest.raises(UserError, match="on other data"):
        run.train(card, datasets.load(str(shapes), image_size=6), out, seed=0, device=device)


def test_a_copy_is_evaluated_checked_and_published_like_the_original(
    invoke, model, shapes, brief_card, tmp_path
):
    copy = shutil.copytree(shapes, tmp_path / "\u0444\u043e\u0442\u043e")
    entries = []
    for folder, out in ((shapes, "one"), (copy, "two")):
        command = ["--dataset", folder, "--benchmark", brief_card, "--out", out]
        code, _, err = invoke("evaluate", model, *command)
        assert code == 0, err
        assert len(err.splitlines()) == 2  # the images of the folder; where results are
        entries.append(json.loads((tmp_path / out / "entry.json").read_text()))
    for key in ("dataset", "data_fingerprint", "model_fingerprint", "operating_points"):
        ours, theirs = (untimed(entry[key]) for entry in entries)
        assert ours == theirs
    code, _, err = invoke("check", model, "--baseline", "one", "--dataset", copy)
    assert code == 0, err
    examined(Path("two"))
    publishing.add(records.read("two"), tmp_path / "boards", changes={})
    assert (tmp_path / "boards" / "shapes" / "Linf").is_dir()
    # one that was trained on the copy is of the same images
    base = baselines.read("one")
    base.check_data(datasets.load(str(copy)))
    base.check_model(load(model).info.model_copy(update={"dataset": "other"}))
    # and of other images this is said
    (copy / "test" / "dark" / "0.png").unlink()
    command = ["--dataset", copy, "--benchmark", brief_card, "--out", "three"]
    code, _, err = invoke("evaluate", model, *command)
    assert code == 0, err
    assert "it may have been trained on some of these test images" in err
    assert json.loads(Path("three/entry.json").read_text())["dataset"] == "images"


def untimed(value):
    """Values without what is measured by a clock."""
    if not isinstance(value, list):
        return value
    points = [{k: v for k, v in point.items() if k != "cost"} for point in value]
    for point in points:
        for cost in point["attack_costs"]:
            del cost["seconds"]
    return points


def examined(folder):
    """Put the report of integrity into a run's folder that an entry needs."""
    entry = json.loads((folder / "entry.json").read_text())
    report = {"verdict": "pass", "model_fingerprint": entry["model_fingerprint"]}
    (folder / "integrity.json").write_text(json.dumps(report))


def test_a_run_of_a_folder_by_any_name_can_be_published(invoke, brief_card, tmp_path):
    write_shapes(tmp_path / "meine Bilder \u00fc")
    command = ["run", "--dataset", "meine Bilder \u00fc", "--benchmark", brief_card]
    code, out, err = invoke(*command)
    assert code == 0, err
    assert out.startswith("**meine-Bilder-u, wrn-10-1")
    folder = "runs/meine-Bilder-u-brief-seed0"
    examined(Path(folder))
    code, out, err = invoke("leaderboard", "add", folder, "--to", "boards", "--with-checkpoint")
    assert code == 0, err
    assert Path("boards/meine-Bilder-u/Linf/oat-wrn-10-1.safetensors").is_file()
    code, _, err = invoke("leaderboard", "validate", "boards")
    assert code == 0, err


def test_a_name_of_ones_own(invoke, brief_card, shapes):
    command = ["train", "--dataset", shapes, "--benchmark", brief_card]
    code, _, err = invoke(*command, "--dataset-name", "a b")
    assert code == 2
    assert "--dataset-name 'a b': expected up to 64" in err
    code, _, err = invoke(*command, "--dataset-name", "forms")
    assert code == 0, err
    assert load("runs/forms-brief-seed0").info.dataset == "forms"
    code, _, err = invoke("run", "--model", "x", "--dataset-name", "y")
    assert code == 2
    assert "--dataset-name is for training; a checkpoint" in err


def test_a_model_of_resized_images_is_evaluated_on_images_of_any_size(invoke, brief_card, tmp_path):
    root = write_shapes(tmp_path / "sizes", (12, 10))
    Image.new("L", (30, 20)).save(root / "test" / "dark" / "0.png")
    command = ["--dataset", "sizes", "--benchmark", brief_card]
    code, _, err = invoke("train", *command)
    assert code == 2
    assert "30x20 pixels, where 49 of 50 are 10x12; resize and crop all with --image-size" in err
    code, _, err = invoke("train", *command, "--image-size", "8")
    assert code == 0, err
    model = Path("runs/sizes-brief-seed0")
    info = load(model).info
    assert (info.image_size, info.input_shape) == (8, (1, 8, 8))
    for option in ([], ["--image-size", "8"]):
        code, _, err = invoke("evaluate", model, *command, *option, "--n-examples", 5)
        assert code == 0, err
    code, _, err = invoke("evaluate", model, *command, "--image-size", "6", "--n-examples", 5)
    assert code == 2
    assert err.splitlines()[-1].endswith("are (1, 6, 6); resize and crop them with --image-size 8")
    # a card may say it; cards that do not are what they were
    card = benchmark_card(str(brief_card))
    assert "image_size" not in card.model_dump()
    text = Path(brief_card).read_text()
    Path("sized.toml").write_text(f"image_size = 8\n{text}")
    sized = benchmark_card("sized.toml")
    assert sized.fingerprint() != card.fingerprint()
    code, _, err = invoke("evaluate", model, "--dataset", "sizes", "--benchmark", "sized.toml")
    assert code == 0, err
    Path("sized.toml").write_text(f"image_size = 0\n{text}")
    with pytest.raises(UserError, match=r"image_size: input should be greater than or equal to 1"):
        benchmark_card("sized.toml")
