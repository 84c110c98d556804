"""`--from`: what is trained, and where the model that it started from is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from commands import run_here
from PIL import Image

from oat_bench import calibration, datasets, load, run, save
from oat_bench.benchmark import benchmark_card
from oat_bench.classifier import Ancestor, foreign_ancestors
from oat_bench.errors import UserError
from oat_bench.leaderboards import site
from oat_bench.results import comparison, records, validation
from oat_bench.results.entries import Entry
from oat_bench.results.models import labels


def folder_of(root, digits, classes=(0, 1, 2), n=400):
    """Write digits of some classes as a folder of images."""
    for place in range(n):
        label = int(digits.test.labels[place])
        if label in classes:
            path = root / str(label) / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(digits.test.images[place, 0].numpy()).save(path)
    return root


@pytest.fixture
def hasty(card):
    card.write_text(card.read_text().replace("epochs = 4", "epochs = 1"))
    return card


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, trained_folder, brief_toml, digits):
    """A model of ten digits, fine-tuned on three in a larger ball: the place, what was printed."""
    place = tmp_path_factory.mktemp("tuned")
    folder_of(place / "three", digits)
    card = brief_toml.replace("epochs = 4", "epochs = 1").replace("eps = 0.2", "eps = 0.25")
    (place / "brief.toml").write_text(card)
    command = ["--from", trained_folder, "--dataset", "./three", "--benchmark", "brief.toml"]
    few = ["--n-examples", 20, "--attacks", "fgsm", "--seed", 4]
    return place, run_here("run", *command, *few, cwd=place)


def only_run(place):
    (folder,) = (place / "runs").iterdir()
    return folder


def test_the_ancestor_is_named_wherever_the_model_is_shown(tuned, invoke, trained, tmp_path):
    (place, out), fingerprint = tuned, trained.fingerprint()
    folder, three = only_run(place), place / "three"
    assert folder.name == f"three-brief-from-{fingerprint[:8]}-seed4"
    about = "OAT wrn-10-1 on digits, Linf eps 0.2, 4 epochs, seed 0"
    # the checkpoint
    model = load(folder)
    assert [one.fingerprint for one in model.info.ancestors] == [fingerprint]
    assert model.info.ancestors[0].data_fingerprint == trained.info.data_fingerprint
    assert (model.info.threat.eps, model.info.seed, model.info.epochs) == (0.25, 4, 1)
    # table, report and entry
    said = f"Training started from the weights of {about}; some of these test images may have been"
    for text in (out, *((folder / name).read_text() for name in ("table.md", "report.md"))):
        assert said in text
    entry = Entry.read(folder / "entry.json")
    assert entry.ancestors == model.info.ancestors
    assert entry.additional_data
    assert entry.eps == "0.25"
    # whoever looks at it later is told that test images may not be new to it
    transfer = ["--attack", "fgsm", "--n-examples", 5, "--out", "transfer"]
    code, _, err = invoke("transfer", folder, "--dataset", three, *transfer)
    assert (code, err.splitlines()[-2]) == (
        0,
        f"{three}: {folder} started from {about}, which may have been trained on some of these "
        "test images",
    )
    # and the leaderboard
    report = {"verdict": "pass", "model_fingerprint": entry.model_fingerprint}
    (folder / "integrity.json").write_text(json.dumps(report))
    added = invoke("leaderboard", "add", folder, "--to", "boards", "--with-checkpoint")
    assert added[0] == 0, added
    place = Path("boards/three/Linf/oat-wrn-10-1.json")
    assert validation.validate(place)[1] == []
    code, out, _ = invoke("leaderboard", "table", "--from", "boards", "--format", "csv")
    assert (code, f"started from the weights of {about}" in out) == (0, True)
    assert said in invoke("leaderboard", "table", place)[1]
    site.build(Path("boards"), tmp_path / "site", with_examples=False)
    (page,) = (tmp_path / "site").glob("*/oat-wrn-10-1*.html")
    assert said.removeprefix("Training ") in page.read_text()
    assert fingerprint in page.read_text()
    values = json.loads(place.read_text()) | {"ancestors": []}
    place.write_text(json.dumps(values))
    (problem,) = validation.validate(place)[1]
    assert problem.text.startswith("ancestors is '[]'; oat-wrn-10-1.safetensors is of")


def test_the_same_command_goes_on_and_one_without_it_is_refused(tuned, invoke, trained_folder):
    place, out = tuned
    command = ["--dataset", place / "three", "--benchmark", place / "brief.toml", "--seed", 4]
    command += ["--out", only_run(place)]
    few = ["--n-examples", 20, "--attacks", "fgsm"]
    code, again, err = invoke("run", "--from", trained_folder, *command, *few)
    assert (code, again) == (0, out)
    assert err.splitlines()[-2] == f"{only_run(place)}/checkpoint.safetensors: trained already"
    code, _, err = invoke("train", *command)
    assert (code, "from another model; choose another folder" in err) == (2, True)


def test_what_came_before_an_ancestor_is_remembered(tuned, trained, tmp_path, hasty, digits):
    """Fine-tuned, and fine-tuned back on data that is the first model's own."""
    middle, card = load(only_run(tuned[0])), benchmark_card(str(hasty))
    back = run.train(
        card.starting_from(middle),
        digits,
        tmp_path / "back",
        seed=0,
        device=middle.network.encoding.codes.device,
        start=middle,
    )
    first, second = back.info.ancestors
    assert (first.fingerprint, second.fingerprint) == (middle.fingerprint(), trained.fingerprint())
    assert (first.dataset, first.epochs, second.dataset) == ("three", 1, "digits")
    # the folder's images may be test images of the digits, and are; its own are in their splits
    assert foreign_ancestors(back.info, digits) == [first]


def test_more_epochs_on_the_same_images_are_no_other_data(finished, hasty, digits, invoke):
    few = ["--n-examples", 20, "--attacks", "fgsm", "--lambda", "0,1"]
    code, out, err = invoke("run", "--from", finished, "--benchmark", hasty, "--out", "more", *few)
    assert code == 0
    about = "at Linf eps 0.2, from OAT wrn-10-1 on digits, Linf eps 0.2, 4 epochs, seed 0"
    assert err.splitlines()[0].endswith(about)
    (said,) = [line for line in out.splitlines() if line.startswith("Training started from")]
    assert said.endswith("4 epochs, seed 0.")
    entry = Entry.read(Path("more/entry.json"))
    assert not entry.additional_data
    assert foreign_ancestors(load("more").info, digits) == []
    code, _, err = invoke("evaluate", "more", "--benchmark", hasty, *few)
    assert (code, err.count("\n")) == (0, 1)
    # robust where the model was: it did not start from fresh weights
    x, y = digits.test.inputs(), digits.test.labels
    assert (load("more").at(1.0)(x).argmax(1) == y).float().mean() > 0.85


def test_without_a_card_it_is_that_of_the_models_data_set(finished, invoke, monkeypatch):
    seen = []

    def watch(card, data, out, **options):
        seen.append((card, data.name, out, options["start"].fingerprint()))

    monkeypatch.setattr(run, "train", watch)
    fingerprint = load(finished).fingerprint()
    knobs = ["--epochs", "3", "--eps", "0.1", "--set", "training.lr=0.02"]
    for more in ([], knobs):
        code, _, err = invoke("train", "--from", finished, *more)
        assert code == 0, err
    (card, name, out, start), (short, *_) = seen
    assert (name, start) == ("digits", fingerprint)
    assert out == Path("runs") / f"digits-from-{fingerprint[:8]}-seed0"
    shipped = benchmark_card("digits")
    assert card.training == shipped.training.model_copy(update={"lambdas": [0.0, 0.5, 1.0]})
    assert card.network == load(finished).info.network
    assert card.threat == shipped.threat
    assert (short.training.epochs, short.training.lr, short.threat.eps) == (3, 0.02, 0.1)
    assert short.network == card.network
    assert err.splitlines()[0].startswith("lambda values stay 0, 0.5, 1, the weights")


def test_a_folder_is_resized_as_for_the_model(tuned, invoke, trained, monkeypatch, tmp_path):
    trained.info = trained.info.model_copy(update={"image_size": 6})
    save(trained, tmp_path / "six.safetensors")
    seen = []
    monkeypatch.setattr(run, "train", lambda card, data, out, **_: seen.append(data.input_shape))
    command = ["train", "--from", "six.safetensors", "--dataset", tuned[0] / "three"]
    for more in ([], ["--image-size", 4]):
        code, _, err = invoke(*command, *more)
        assert code == 0, err
    assert seen == [(1, 6, 6), (1, 4, 4)]


MINE = """
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--from", "nowhere"], "no checkpoint at nowhere"),
        (["run", "--from", "out", "--model", "out"], "--from is for training"),
        (["train", "--from", "out", "--widths", "1,0.5"], "--widths: out has 1, which stay"),
        (["train", "--from", "out", "--method", "fixed"], "method 'fixed'"),
        (["train", "--from", "out", "--set", "network.film=none"], "--set network.film: method"),
        (["train", "--from", "out", "--dataset", "nodata"], "unknown data set 'nodata'"),
        (
            ["train", "--from", "./mine.py:build", "--dataset", "digits"],
            "--from: a model of method 'fixed' is not trained by oat-bench",
        ),
        (["train", "--from", "net.pt2"], "no exported file"),
    ],
)
def test_what_no_training_can_start_from(arguments, message, refused, finished):
    Path("mine.py").write_text(MINE)
    assert message in refused(*arguments)


# --- what other commands make of it


@pytest.fixture
def ancestor(trained):
    return trained.lineage()[0]


def test_images_that_an_ancestor_saw_are_not_held_out(ancestor, trained, digits, tmp_path):
    root = folder_of(tmp_path / "mine", digits, classes=range(10), n=100)
    mine = datasets.load(str(root))
    seen = ancestor.model_copy(
        update={"dataset": mine.name, "data_fingerprint": mine.fingerprint()}
    )
    info = trained.info.model_copy(update={"ancestors": [seen]})
    with pytest.raises(UserError, match="what the model's ancestor was trained on, OAT wrn-10-1"):
        calibration.held_out(info, str(root))
    assert calibration.held_out(trained.info, str(root)).name == "the folder mine"
    # its own data: the ancestor's may overlap, which the report says
    held = calibration.held_out(info, "digits", "test")
    assert held.name.startswith("the test split (some of which OAT wrn-10-1 on mine")
    plain = calibration.held_out(trained.info, "digits", "test")
    assert (plain.name, plain.fingerprint) == ("the test split", held.fingerprint)
    same = trained.info.model_copy(update={"ancestors": [ancestor]})
    assert calibration.held_out(same, "digits", "test").name == "the test split"


def test_seeds_of_one_start_are_a_family_and_others_are_not(two_runs, ancestor):
    plain = records.read(two_runs / "one").entry
    began = [plain.model_copy(update={"seed": s, "ancestors": [ancestor]}) for s in (0, 1)]
    # an ancestor of another seed is of the same family, one of more epochs is not
    began[1] = began[1].model_copy(
        update={"ancestors": [ancestor.model_copy(update={"seed": 1, "fingerprint": "0" * 64})]}
    )
    assert comparison.over_seeds([plain, began[1]], "fgsm") == []
    rows = comparison.over_seeds([plain, *began], "fgsm")
    assert {row.clean.n for row in rows} == {2}
    longer = ancestor.model_copy(update={"epochs": 9})
    other = began[1].model_copy(update={"ancestors": [longer]})
    assert comparison.over_seeds([began[0], other], "fgsm") == []
    assert labels([plain, began[0]]) == ["OAT", "OAT fine-tuned"]


def test_a_description_without_an_ancestor_is_as_before(trained, digits):
    assert "ancestors" not in trained.info.model_dump(mode="json")
    assert foreign_ancestors(trained.info, digits) == []
    # of one whose data are not known nothing is known
    unknown = trained.lineage()[0].model_copy(update={"data_fingerprint": ""})
    info = trained.info.model_copy(update={"ancestors": [unknown]})
    assert foreign_ancestors(info, digits) == [unknown]
    assert foreign_ancestors(info, replace(digits, name="other")) == [unknown]


def test_a_hostile_name_of_an_ancestor_is_plain_text(ancestor, hostile):
    strange = Ancestor.model_validate(ancestor.model_dump() | {"dataset": hostile})
    assert not set("<>`\x1b\n") & set(str(strange))
