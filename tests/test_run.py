"""A benchmark from card to report, against its own outcomes."""

import errno
import io
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch
from reporting import evaluate_and_report
from sklearn.datasets import load_digits

from oat_bench import acceleration, cards, run
from oat_bench.checkpoint import load
from oat_bench.classifier import TunableClassifier
from oat_bench.datasets import Dataset, Split
from oat_bench.errors import UserError
from oat_bench.evaluation import cost
from oat_bench.results import records, reliability
from oat_bench.results.entries import Entry
from oat_bench.results.outcomes import OutcomeStore

CPU = torch.device("cpu")
FILES = {"report.md", "entry.json", "table.md", "table.csv", "table.tex", "outcomes.parquet"}
KINDS = ["frontier", "attacks", "lambda", "unseen", "bn-statistics", "saliency"]
FIGURES = {f"figures/{kind}.{ending}" for kind in KINDS for ending in ("svg", "png")}


def with_evaluation(card, **changes):
    return card.model_copy(update={"evaluation": card.evaluation.model_copy(update=changes)})


def with_training(card, **changes):
    return card.model_copy(update={"training": card.training.model_copy(update=changes)})


def evaluate(classifier, card, digits, out, seed=0, **options):
    attacks = run.prepare_attacks(card, 10, seed)
    options |= {"command": "the command", "device": CPU}
    return evaluate_and_report(classifier, card, digits, attacks, out, **options)


@pytest.fixture(scope="module", autouse=True)
def clock():
    """Every pass takes a millisecond, so that reports of the same outcomes are the same files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "latencies", lambda models, image: [(1.0, 0.5, 2.0)] * len(models))
        patch.setattr(acceleration, "perf_counter", lambda: 0.0)
        yield


@pytest.fixture(scope="module")
def reported(brief, digits, trained_folder, tmp_path_factory):
    """A report of a model that is right and robust on some images, and the card behind it."""
    card = with_evaluation(brief, lambdas=[0.0, 0.2, 1.0], attacks="fgsm,pgd-7,pgd-20")
    out = tmp_path_factory.mktemp("report")
    return card, evaluate(load(trained_folder), card, digits, out), out


@pytest.fixture
def computed(monkeypatch):
    """Count the outcomes that are computed, by attack."""
    seen = Counter()
    original = OutcomeStore.append

    def watch(self, cell, rows):
        seen[cell.split("-lambda")[0]] += len(rows)
        original(self, cell, rows)

    monkeypatch.setattr(OutcomeStore, "append", watch)
    return seen


# --- training


def test_training_writes_checkpoint_and_log(trained_folder, brief):
    assert {path.name for path in trained_folder.iterdir()} == {
        "card.toml",
        "checkpoint.safetensors",
        "log.csv",
        "splits.json",
        "training.safetensors",
    }
    log = pd.read_csv(trained_folder / "log.csv")
    assert log["epoch"].to_list() == list(range(1, brief.training.epochs + 1))
    assert log["SA@1"].iloc[-1] > 80
    info = load(trained_folder).info
    assert info.dataset == "digits"
    assert info.trained_lambdas == brief.training.lambdas
    assert info.network == brief.network
    assert info.threat == brief.threat
    assert info.selection == f"last: epoch {brief.training.epochs}"


def test_the_splits_are_written_beside_the_checkpoint(trained_folder, digits):
    written = json.loads((trained_folder / "splits.json").read_text())
    assert written["dataset"] == "digits"
    assert written["sha256"] == digits.fingerprint()
    assert written["splits"].keys() == {"train", "validation", "test"}
    theirs = load_digits()
    for name, split in written["splits"].items():
        ours = getattr(digits, name)
        assert split["part"] == "all"
        places = [
            place
            for run_ in split["index"].split(",")
            for first, _, last in [run_.partition("-")]
            for place in range(int(first), int(last or first) + 1)
        ]
        assert split["n"] == len(places) == len(ours)
        assert np.array_equal(theirs.images[places], ours.images[:, 0].numpy())
        assert np.array_equal(theirs.target[places], ours.labels.numpy())


def test_a_part_of_the_validation_split_is_stratified(brief, digits, tmp_path, monkeypatch):
    given = []

    class Watched(run.Trainer):
        def __init__(self, *arguments, **options):
            given.append(arguments[4])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(run, "Trainer", Watched)
    for number in (20, 1000, None):
        card = with_training(brief, epochs=1, validation_examples=number)
        run.train(card, digits, tmp_path / str(number), seed=0, device=torch.device("cpu"))
    part, everything, whole = given
    assert torch.bincount(part.labels).tolist() == [2] * 10
    assert len(everything) == len(whole) == len(digits.validation)
    assert torch.equal(whole.images, digits.validation.images)


def test_a_finished_run_is_loaded_not_trained_again(brief, digits, trained_folder, monkeypatch):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("trained again")

    monkeypatch.setattr(run, "Trainer", forbidden)
    before = {path.name: path.read_bytes() for path in trained_folder.iterdir()}
    again = run.train(brief, digits, trained_folder, seed=0, device=CPU)
    assert again.fingerprint() == load(trained_folder).fingerprint()
    assert {path.name: path.read_bytes() for path in trained_folder.iterdir()} == before


def test_a_folder_of_another_run_is_refused(brief, digits, trained_folder, tmp_path):
    shutil.copytree(trained_folder, tmp_path / "finished")
    shutil.copytree(trained_folder, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "checkpoint.safetensors").unlink()
    others = [
        (brief, 1),
        (with_training(brief, lr=0.2), 0),
        (brief.model_copy(update={"threat": cards.Threat(eps=0.3)}), 0),
        (
            brief.model_copy(update={"network": brief.network.model_copy(update={"film": "none"})}),
            0,
        ),
    ]
    for card, seed in others:
        for folder in ("finished", "unfinished"):
            with pytest.raises(UserError, match=r"another card.*--out"):
                run.train(card, digits, tmp_path / folder, seed=seed, device=CPU)


def test_auto_is_a_stem_for_large_images_and_models_without_one_are_still_found(
    brief, tmp_path, capfd
):
    images = torch.randint(256, (12, 1, 96, 100), dtype=torch.uint8)
    split = Split(images, torch.arange(12) % 2)
    data = Dataset("mine", ("a", "b"), split, split.take(slice(0, 2)), split.take(slice(0, 4)))
    card = with_training(brief, epochs=1, attack_steps=1)

    def train(architecture, folder):
        network = card.network.model_copy(update={"architecture": architecture})
        changed = card.model_copy(update={"network": network})
        return run.train(changed, data, tmp_path / folder, seed=0, device=CPU)

    trained = train("wrn-10-1-auto", "new")
    assert trained.info.architecture == "wrn-10-1-stride2"
    said = "images of 96x100: wrn-10-1-stride2 in the place of wrn-10-1"
    assert said in capfd.readouterr().err.splitlines()
    plain = train("wrn-10-1", "old")
    assert plain.info.architecture == "wrn-10-1"
    for before, folder in ((trained, "new"), (plain, "old")):
        assert train("wrn-10-1-auto", folder).fingerprint() == before.fingerprint()
    with pytest.raises(UserError, match="another card"):
        train("wrn-10-1-stem7", "new")


def test_words_and_evaluation_are_no_part_of_the_training_identity(brief, digits):
    identity = run.training_identity(brief, digits, 0)
    renamed = brief.model_copy(update={"name": "other", "description": "words"})
    assert run.training_identity(renamed, digits, 0) == identity
    more = with_evaluation(brief, attacks="all", n_examples=3)
    assert run.training_identity(more, digits, 0) == identity
    assert run.training_identity(brief, digits, 1) != identity


def test_the_same_seed_writes_the_same_checkpoint(brief, digits, tmp_path):
    card = with_training(brief, epochs=1, attack_steps=1)
    for name in ("one", "two"):
        run.train(card, digits, tmp_path / name, seed=3, device=CPU)
    one, two = (
        (tmp_path / name / "checkpoint.safetensors").read_bytes() for name in ("one", "two")
    )
    assert one == two


def test_a_disk_that_fills_in_training_keeps_what_was_finished(
    brief, digits, tmp_path, monkeypatch
):
    card = with_training(brief, epochs=3, attack_steps=1)
    run.train(card, digits, tmp_path / "unbroken", seed=0, device=CPU)
    fsync, count = os.fsync, []

    def fill(descriptor):
        count.append(1)
        if len(count) > 3:  # state and log of the first epoch, state of the second
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(OSError, match="No space"):
            run.train(card, digits, tmp_path / "broken", seed=0, device=CPU)
    left = {path.name for path in (tmp_path / "broken").iterdir()}
    assert left == {"card.toml", "training.safetensors", "log.csv"}
    resumed = run.train(card, digits, tmp_path / "broken", seed=0, device=CPU)
    assert resumed.fingerprint() == load(tmp_path / "unbroken").fingerprint()


# --- the report


def test_the_report_is_in_its_folder(reported):
    _, report, out = reported
    assert {path.name for path in out.iterdir()} == FILES | {"outcomes", "figures"}
    assert {f"figures/{path.name}" for path in (out / "figures").iterdir()} == FIGURES
    assert report.page.title == "digits, wrn-10-1, OAT, Linf eps 0.2"


def test_outcomes_parquet_is_the_predictions_of_the_model(reported, digits, trained):
    card, _, out = reported
    frame = pd.read_parquet(out / "outcomes.parquet")
    assert len(frame) == 3 * 3 * 50
    assert not frame.duplicated(["lam", "width", "attack", "example"]).any()
    assert sorted(set(frame["attack"])) == ["fgsm", "pgd-20", "pgd-7"]
    fgsm = run.prepare_attacks(with_evaluation(card, attacks="fgsm"), 10, 0)[0]
    for lam in (0.0, 0.2, 1.0):
        rows = frame[(frame["lam"] == lam) & (frame["attack"] == "fgsm")]
        ids = torch.tensor(rows["example"].to_list())
        x, y = digits.test.inputs(ids), digits.test.labels[ids]
        model = trained.at(lam)
        assert rows["label"].to_list() == y.tolist()
        clean = model(x).argmax(1)
        assert rows["clean_prediction"].to_list() == clean.tolist()
        attacked = model(fgsm(model, x, y, ids)).argmax(1)
        attacked[clean != y] = clean[clean != y]
        assert rows["attacked_prediction"].to_list() == attacked.tolist()


def test_entry_agrees_with_the_outcomes(reported, trained):
    card, _, out = reported
    frame = pd.read_parquet(out / "outcomes.parquet")
    entry = Entry.model_validate_json((out / "entry.json").read_text())
    assert entry.model_fingerprint == trained.fingerprint()
    assert entry.command == "the command"
    assert entry.eps == "0.2"
    assert [f.attack for f in entry.frontiers] == ["fgsm", "pgd-7", "pgd-20", "worst"]
    assert entry.threat_model == "Linf"
    assert [attack.name for attack in entry.attacks] == ["fgsm", "pgd-7", "pgd-20"]
    assert [point.lam for point in entry.operating_points] == card.evaluation.lambdas
    assert [point.trained for point in entry.operating_points] == [True, False, True]
    for point in entry.operating_points:
        rows = frame[frame["lam"] == point.lam].assign(
            robust=lambda r: (
                (r["clean_prediction"] == r["label"]) & (r["attacked_prediction"] == r["label"])
            )
        )
        once = rows[rows["attack"] == "fgsm"]
        assert point.n == 50
        assert point.clean_acc == pytest.approx(
            100 * (once["clean_prediction"] == once["label"]).mean(), abs=0.005
        )
        for name, interval in point.robust_acc.items():
            robust = rows[rows["attack"] == name]["robust"]
            assert interval.value == pytest.approx(100 * robust.mean(), abs=0.005)
        worst = rows.groupby("example")["robust"].all().mean()
        assert point.worst_case_acc.value == pytest.approx(100 * worst, abs=0.005)
        assert point.autoattack_acc is None
    # the model is neither perfect nor broken: the numbers above can tell columns apart
    values = {i.value for p in entry.operating_points for i in p.robust_acc.values()}
    assert len(values) > 3


def test_the_tables_agree_with_the_entry(reported):
    _, _, out = reported
    entry = Entry.model_validate_json((out / "entry.json").read_text())
    table = pd.read_csv(out / "table.csv")
    lines = [line for line in (out / "table.md").read_text().splitlines() if line[:1] == "|"]
    markdown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert markdown[0] == ["lambda", "n", "SA", "fgsm", "pgd-7", "pgd-20", "worst"]
    assert [row[0] for row in markdown[2:]] == ["0", "0.2 *", "1"]
    for point, row, cells in zip(
        entry.operating_points, table.to_dict("records"), markdown[2:], strict=True
    ):
        accuracies = {
            "SA": point.clean_acc_interval,
            **point.robust_acc,
            "worst": point.worst_case_acc,
        }
        assert row["lambda"] == point.lam
        assert row["trained"] == point.trained
        assert row["n"] == point.n == int(cells[1])
        for (name, interval), cell in zip(accuracies.items(), cells[2:], strict=True):
            ends = (interval.value, interval.low, interval.high)
            columns = (name, f"{name} low", f"{name} high")
            assert [f"{row[column]:.2f}" for column in columns] == [f"{end:.2f}" for end in ends]
            assert re.findall(r"[\d.]+", cell) == [f"{end:.1f}" for end in ends]


def test_the_figure_is_readable(reported):
    _, _, out = reported
    for name in FIGURES:
        if name.endswith("svg"):
            ET.parse(out / name)
        assert (out / name).stat().st_size > 5000


def test_the_report_page_shows_what_there_is(reported):
    _, report, out = reported
    page = (out / "report.md").read_text()
    assert page.startswith("# OAT wrn-10-1 on digits\n\n**digits, wrn-10-1, OAT, Linf eps 0.2**\n")
    assert (out / "table.md").read_text().rstrip("\n") in page
    shown = re.findall(r"!\[[\w-]+\]\((.*?)\)", page)
    assert shown == [f"figures/{kind}.png" for kind in KINDS]
    assert "```sh\nthe command\n```" in page
    assert report.entry.frontiers[-1].attack == "worst"


def test_figures_that_do_not_apply_are_left_out(brief, digits, trained, tmp_path):
    """Nothing unseen; and a classifier of which only `at` is known, as of any other method."""

    class Other(TunableClassifier):
        def __init__(self, inner):
            self.info = inner.info
            self.at, self.state_dict = inner.at, inner.state_dict

        def at(self, lam, width=1.0):
            raise NotImplementedError

        def state_dict(self):
            raise NotImplementedError

        @classmethod
        def from_state(cls, info, state):
            raise NotImplementedError

        def to(self, device):
            return self

    card = with_evaluation(brief, lambdas=[0.0, 0.2, 1.0], attacks="fgsm", n_examples=20)
    evaluate(trained, card, digits, tmp_path)
    assert (tmp_path / "figures" / "unseen.png").exists()
    card = with_evaluation(card, lambdas=[0.0, 1.0])
    evaluate(Other(trained), card, digits, tmp_path, only=True)
    left = {"frontier", "attacks", "lambda", "saliency"}
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == left
    page = (tmp_path / "report.md").read_text()
    assert set(re.findall(r"figures/([\w-]+)\.png", page)) == left


def test_a_random_classifier_is_measured_to_be_one(brief, digits, trained, tmp_path):
    """It follows into the entry, and there its RA counts only under an attack on expectation."""

    class Random(type(trained)):
        def at(self, lam, width=1.0):
            network = super().at(lam, width)
            return torch.nn.Sequential(network, Noise()).eval()

    class Noise(torch.nn.Module):
        def forward(self, logits):
            return logits + 0.1 * torch.randn_like(logits)

    random = Random.from_state(trained.info, trained.state_dict())
    card = with_evaluation(brief, lambdas=[1.0], attacks="fgsm,pgd-7", n_examples=20)
    report = evaluate(random, card, digits, tmp_path)
    record = records.read(tmp_path)
    assert record.entry.randomized
    assert "repeat" in {flag.name for flag in report.entry.flags}
    assert "outputs are random at lambda 1" in (tmp_path / "report.md").read_text()
    assert reliability.doubts(record, "worst") == ["random, and not attacked on the expectation"]
    evaluate(trained, card, digits, tmp_path / "honest")
    honest = records.read(tmp_path / "honest")
    assert not honest.entry.randomized
    assert reliability.doubts(honest, "worst") == []


def test_stronger_attacks_leave_less(reported):
    _, report, _ = reported
    for result in report.points:
        values = [result.robust[name].value for name in ("fgsm", "pgd-7", "pgd-20", "worst")]
        assert result.clean_acc >= values[0] >= values[1] - 4
        assert values[1] >= values[2] - 4
        assert values[3] <= min(values)
        assert result.clean_acc > 80


# --- nothing twice


def test_a_second_report_computes_nothing_and_is_the_same(
    reported, digits, trained, tmp_path, computed
):
    card, _, out = reported
    shutil.copytree(out / "outcomes", tmp_path / "outcomes")
    evaluate(trained, card, digits, tmp_path)
    assert computed == {}
    for name in FILES | FIGURES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


def test_costs_are_those_of_the_plain_networks_and_timed_once(
    reported, digits, trained, tmp_path, monkeypatch
):
    card, _, out = reported
    points = Entry.model_validate_json((out / "entry.json").read_text()).operating_points
    for point in points:
        parameters = sum(p.numel() for p in trained.at(point.lam).parameters())
        assert (point.cost.parameters, point.cost.latency_ms) == (parameters, 1)
        assert point.cost.machine == cost.machine(CPU)
    line = "77.5 k parameters, 1.53 M FLOPs and 1 ms an image (quartiles 0.5-2) ("
    assert line in (out / "table.md").read_text()
    table = pd.read_csv(out / "table.csv")
    assert table["FLOPs"].tolist() == [point.cost.flops for point in points]
    shutil.copytree(out, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(cost, "latencies", lambda models, image: [(2.0, 1, 3)] * len(models))
    evaluate(trained, card, digits, tmp_path)
    assert (tmp_path / "entry.json").read_bytes() == (out / "entry.json").read_bytes()
    # on another machine, or of other weights, they are timed anew
    monkeypatch.setattr(cost, "machine", lambda device: "another")
    report = evaluate(trained, card, digits, tmp_path)
    assert {result.cost.latency_ms for result in report.points} == {2}


def test_more_examples_compute_only_what_is_missing(reported, digits, trained, tmp_path, computed):
    card, _, out = reported
    shutil.copytree(out / "outcomes", tmp_path / "outcomes")
    more = with_evaluation(card, n_examples=58, attacks="fgsm", lambdas=[0.0, 1.0])
    evaluate(trained, more, digits, tmp_path)
    assert computed == {"fgsm": 8 + 8}
    # the examples are nested: those of fewer are among those of more
    few = set(pd.read_parquet(out / "outcomes.parquet")["example"])
    many = set(pd.read_parquet(tmp_path / "outcomes.parquet")["example"])
    assert few < many
    assert len(many) == 58


def test_other_seeds_and_weights_are_computed_anew(reported, digits, trained, tmp_path, computed):
    card, _, out = reported
    shutil.copytree(out / "outcomes", tmp_path / "outcomes")
    one = with_evaluation(card, attacks="pgd-7", lambdas=[1.0])
    evaluate(trained, one, digits, tmp_path, seed=1)
    assert computed["pgd-7"] == 50
    with torch.no_grad():
        trained.network.backbone.linear.bias.add_(0.01)
    evaluate(trained, one, digits, tmp_path, seed=1)
    assert computed["pgd-7"] == 100
    before = dict(computed)
    evaluate(trained, one, digits, tmp_path, seed=1)
    assert computed == before


def test_a_damaged_outcome_is_named_and_can_be_removed(
    reported, digits, trained, tmp_path, computed
):
    card, _, out = reported
    shutil.copytree(out / "outcomes", tmp_path / "outcomes")
    victim = next((tmp_path / "outcomes").glob("pgd-20-lambda1-*/*.parquet"))
    lost = len(pd.read_parquet(victim))
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(UserError, match=re.escape(str(victim))):
        evaluate(trained, card, digits, tmp_path)
    victim.unlink()
    evaluate(trained, card, digits, tmp_path)
    assert computed == {"pgd-20": lost}
    for name in FILES | FIGURES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes(), name


@pytest.mark.parametrize("writes", [0, 1, 3, 5, 7, 12])
def test_a_disk_that_fills_in_the_report_leaves_whole_files(
    reported, digits, trained, tmp_path, monkeypatch, writes
):
    card = with_evaluation(reported[0], lambdas=[0.0, 1.0], attacks="fgsm")
    evaluate(trained, card, digits, tmp_path / "expected")
    fsync, count = os.fsync, []

    def fill(descriptor):
        if len(count) >= writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        count.append(1)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        with pytest.raises(OSError, match="No space"):
            evaluate(trained, card, digits, tmp_path / "out")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) == writes  # of two cells, four files and the figures
    for path in files:
        assert path.suffix != ".tmp"
        twin = tmp_path / "expected" / path.relative_to(tmp_path / "out")
        assert path.read_bytes() == twin.read_bytes()
    evaluate(trained, card, digits, tmp_path / "out")
    for name in FILES | FIGURES - {"figures/unseen.svg", "figures/unseen.png"}:
        expected = (tmp_path / "expected" / name).read_bytes()
        assert (tmp_path / "out" / name).read_bytes() == expected, name


# --- the worst case and other threat models


def test_an_attack_with_a_wider_ball_is_not_in_the_worst_case(brief, digits, trained, tmp_path):
    wide = tmp_path / "wide.toml"
    wide.write_text("engine='oat_bench'\nclass='FGSM'\neps = 0.9\n[parameters]\neps='$eps'\n")
    narrow = tmp_path / "narrow.toml"
    narrow.write_text("engine='oat_bench'\nclass='FGSM'\neps = 0.1\n[parameters]\neps='$eps'\n")
    card = with_evaluation(brief, lambdas=[1.0], attacks=f"fgsm,{wide},{narrow}")
    report = evaluate(trained, card, digits, tmp_path / "out")
    (result,) = report.points
    assert result.robust["wide"].value < result.robust["fgsm"].value
    assert result.robust["worst"].value >= result.robust["wide"].value
    assert result.robust["worst"].value == min(
        result.robust["fgsm"].value, result.robust["narrow"].value
    )
    entry = json.loads((tmp_path / "out" / "entry.json").read_text())
    assert {a["name"]: a["eps"] for a in entry["attacks"]} == {
        "fgsm": 0.2,
        "wide": 0.9,
        "narrow": 0.1,
    }


def test_a_card_of_any_library_runs_in_a_benchmark(brief, digits, trained, tmp_path):
    bim, art = tmp_path / "bim.toml", tmp_path / "art-pgd.toml"
    bim.write_text(
        "engine='torchattacks'\nclass='BIM'\n[parameters]\neps='$eps'\nalpha='$step_size'\n"
    )
    art.write_text(
        "engine='art'\nclass='ProjectedGradientDescent'\n[parameters]\nnorm=inf\neps='$eps'\n"
        "eps_step='$step_size'\nmax_iter=10\n"
    )
    card = with_evaluation(brief, lambdas=[1.0], attacks=f"{bim},{art}", n_examples=20)
    report = evaluate(trained, card, digits, tmp_path / "out")
    table = pd.read_csv(io.StringIO((tmp_path / "out" / "table.csv").read_text()))
    for name in ("bim", "art-pgd"):
        assert table[name][0] == report.points[0].robust[name].value < table["SA"][0]


# --- what is refused


def test_too_many_examples_are_refused(brief, digits, trained, tmp_path):
    with pytest.raises(UserError, match=r"801 examples .* digits has 800"):
        evaluate(trained, with_evaluation(brief, n_examples=801), digits, tmp_path)
    assert len(run.choose_examples(digits, None)) == 800


def test_a_checkpoint_of_another_data_set_is_refused(brief, digits, build_classifier, tmp_path):
    for options, words in [
        ({"dataset": "other", "input_shape": (3, 8, 8)}, r"'other' takes images \(3, 8, 8\)"),
        ({"dataset": "other"}, "'other'"),
        ({"input_shape": (3, 8, 8)}, "3, 8, 8"),
        ({"num_classes": 4}, "4 classes"),
    ]:
        with pytest.raises(UserError, match=words):
            evaluate(build_classifier(**options), brief, digits, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_devices():
    assert run.choose_device("cpu") == CPU
    assert run.choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_cuda_without_cuda_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        run.choose_device("cuda")
