"""What a command is said to take, against what it takes."""

import re
import shutil
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

import pytest
import torch

from oat_bench import planning, progress, run
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.benchmark import benchmark_card
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Split, nested_order, sizes
from oat_bench.datasets import load as load_data
from oat_bench.evaluation import grid, stages
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.evaluation.survivors import Sample

POINTS = [OperatingPoint(0.0), OperatingPoint(1.0)]


@pytest.fixture
def subject(build_classifier, digits):
    model, x = build_classifier(), digits.test
    right = model.at(0.0)(x.inputs()).argmax(1)  # by definition
    data = Split(x.images[:300], right[:300], x.levels)
    fewer = {"apgd-ce": 100}
    order = nested_order(data.labels)
    return Subject(model, data, "data", order, fewer, compile_it=False)


def ready(name, **changes):
    card = attack_card(name)
    card = card.model_copy(update={"parameters": card.parameters | changes})
    return prepare(card, Threat(eps=1e-6, step_size=1e-7), n_classes=10, seed=0)


def test_where_all_stands_an_evaluation_makes_the_passes_of_its_plan(subject):
    attacks = [ready("fgsm"), ready("mi-fgsm"), ready("pgd-7"), ready("apgd-t", steps=3)]
    attacks.append(ready("apgd-ce", steps=4, eot_iter=2))
    plan = planning.Plan(torch.device("cpu"))
    work = stages.of(subject, POINTS[:1], attacks)
    planning.add_attacks(plan, subject, work)
    with progress.passes("", {}) as line:
        evaluate(subject, POINTS[:1], attacks, show=False)
    names = [step.name for step in plan.steps]
    assert names == [
        "fgsm + mi-fgsm",
        "pgd-7",
        "apgd-t",
        "apgd-ce",
    ]  # images of both are made at once
    said = sum(step.passes for step in plan.steps)
    # clean images pass once; each of the attacks classifies what it made
    assert line.done == said + len(subject.data)
    # 128 images of a block for the 100 that torchattacks' class is wanted of
    assert [step.images for step in plan.steps if step.name == "apgd-ce"] == [128]
    operations = planning.Meter(subject).operations(POINTS[0])
    assert plan.steps[0].operations == plan.steps[0].passes * operations
    assert sum(seconds for seconds, _ in plan.units) == pytest.approx(plan.seconds)


@pytest.mark.parametrize(
    ("sample", "images", "usual"),
    [(Sample(["fgsm"], 50), 50, 50), (Sample(["fgsm"], precision=6.0), 300, 96)],
    ids=["a number", "a precision"],
)
def test_an_attack_on_survivors_is_planned_by_its_sample(
    subject, sample, images, usual, monkeypatch
):
    """It ends with nothing left, whatever size a sample grew to."""
    subject = replace(subject, fewer={}, samples={"pgd-20": sample})
    attacks = [ready("fgsm"), ready("pgd-20")]
    first, second = stages.of(subject, POINTS[:1], attacks)
    assert (first.images, second.images) == (300, images)
    assert second.usual * second.images == pytest.approx(usual)
    plan = planning.Plan(torch.device("cpu"), rate=1e9)
    planning.add_attacks(plan, subject, [first, second])
    (note,) = plan.notes.values()
    assert f"at each point on at most {images} of the images" in note
    assert note.endswith(f"usually {usual}")

    lines = []

    @contextmanager
    def watch(*args, **kwargs):
        with progress.passes(*args, **kwargs) as line:
            lines.append(line)
            yield line

    monkeypatch.setattr(grid, "passes_bar", watch)
    found = grid.evaluate(subject, POINTS, attacks)
    # at the other point some are wrong
    (sampled, _) = (found.groupby("lam")["attack"].apply(lambda a: (a == "pgd-20").sum())).tolist()
    assert sampled == images if sample.examples else 64 <= sampled < 300
    assert (lines[0].left, lines[0].share) == (0, 1)


def test_the_time_at_a_given_rate_is_that_of_the_operations(subject):
    plan = planning.Plan(torch.device("cpu"), rate=1e9)
    planning.add_attacks(plan, subject, stages.of(subject, POINTS, [ready("pgd-20")]))
    operations = sum(step.operations for step in plan.steps)
    assert plan.most == pytest.approx(operations / 1e9)
    alone = plan.shared(1, tflops=1e-3)
    assert alone == pytest.approx(planning.START_UP + stages.RIGHT * operations / 1e9)
    # blocks of 128, 128 and 44 images at two points
    halves = plan.shared(2, tflops=1e-3) - planning.START_UP
    assert halves == pytest.approx((alone - planning.START_UP) / 2, rel=1e-6)
    most = plan.shared(100, tflops=1e-3) - planning.START_UP
    assert most == pytest.approx((alone - planning.START_UP) * 128 / 600)


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_is_within_the_known_bound_of_the_best(seed):
    """The longest first: at most 4/3 - 1/(3 m) of the best (Graham, 1969)."""
    draw = torch.Generator().manual_seed(seed)
    units, workers = torch.rand(7, generator=draw).tolist(), 3
    best = min(
        max(sum(u for u, w in zip(units, where, strict=True) if w == k) for k in range(workers))
        for where in product(range(workers), repeat=len(units))
    )
    found = planning.makespan(units, workers)
    assert best <= found + 1e-12 <= (4 / 3 - 1 / 9) * best + 1e-9
    assert planning.makespan(units, 1) == pytest.approx(sum(units))


def test_a_training_is_planned_by_its_card(brief, digits):
    plan = planning.Plan(torch.device("cpu"))
    planning.add_training(plan, brief, digits, run.fresh(brief, digits, seed=0), 0)
    training, validation = plan.steps
    assert training.images == 897 * 4
    # a clean pass and its update 3; of two thirds an attack of 2 steps and another 3
    assert training.passes == pytest.approx(897 * 4 * (3 + 7 * 2 / 3))
    assert validation.images == 100 * 3 * 4
    assert validation.passes == 100 * 3 * 4 * 2 * 3
    assert 0 < training.seconds < 300
    assert plan.memory["training"] > 100e6


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_a_stand_in_has_the_sizes_of_the_data_set(name, tmp_path):
    data = sizes.stand_in(name, tmp_path)
    assert len(data.train) + len(data.validation) == {"cifar10": 50_000, "svhn": 73_257}[name]
    assert len(data.test) == {"cifar10": 10_000, "svhn": 26_032}[name]
    assert data.input_shape == (3, 32, 32)
    assert data.test.images.untyped_storage().nbytes() == 1
    assert sizes.stand_in("digits", tmp_path).fingerprint() == load_data("digits").fingerprint()


# --- the command


def test_a_plan_needs_no_data_and_writes_nothing(invoke, tmp_path):
    code, out, err = invoke(
        *("plan", "--workers", 8, "--tflops", 20, "run", "--dataset", "cifar10"),
        *("--benchmark", "cifar10-small", "--attacks", "all", "--n-examples", 500),
        *("--set", "network.architecture=wrn-10-1"),
    )
    assert (code, err) == (0, "")
    assert "On 8 workers, each that reaches 20 TFLOP/s: about " in out
    assert out.count("autoattack: ") == 4
    assert "| training " in out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_counts_what_is_left(invoke, trained_folder, card_path, tmp_path):
    shutil.copytree(trained_folder, tmp_path / "out")
    arguments = ["run", "--benchmark", card_path, "--out", "out", "--attacks"]
    code, out, err = invoke("plan", *arguments, "fgsm,pgd-7")
    assert (code, err) == (0, "")
    assert "| training " not in out
    assert "out/checkpoint.safetensors: trained already." in out
    assert re.search(r"^\| fgsm +\| +150 \|", out, re.MULTILINE)
    code, *_ = invoke(*arguments, "fgsm", "--n-examples", 20)
    assert code == 0
    before = sorted((tmp_path / "out").rglob("*"))
    code, out, _ = invoke("plan", *arguments, "fgsm,pgd-7")
    images = re.findall(r"^\| (\S+) +\| +(\d+) \|", out, re.MULTILINE)
    assert images == [("fgsm", "90"), ("pgd-7", "150")]
    code, out, _ = invoke("plan", *arguments, "fgsm", "--n-examples", 20)
    assert "Nothing is left to compute" in out
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_of_a_training_that_was_stopped_its_other_epochs_are_planned(
    invoke, brief_toml, digits, tmp_path
):
    (tmp_path / "two.toml").write_text(brief_toml.replace("epochs = 4", "epochs = 2"))
    card = benchmark_card(str(tmp_path / "two.toml"))

    def stop(_network, _row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.train(card, digits, tmp_path / "out", seed=0, device=torch.device("cpu"), track=stop)
    for folder, images in (("other", "1.79 k"), ("out", "897")):
        code, out, _ = invoke("plan", "train", "--benchmark", "./two.toml", "--out", folder)
        assert code == 0
        assert re.search(rf"^\| training +\| +{images} \|", out, re.MULTILINE)


@pytest.mark.parametrize("command", ["evaluate", "integrity", "transfer", "corruptions"])
def test_what_looks_at_a_model_is_planned(invoke, trained_folder, command):
    before = sorted(trained_folder.iterdir())
    code, out, err = invoke("plan", command, trained_folder)
    assert (code, err) == (0, "")
    assert out.startswith(f"**oat-bench plan {command}")
    assert sorted(trained_folder.iterdir()) == before


def test_calibration_check_and_training_are_planned(invoke, reported_folder, card_path):
    for arguments in (
        ("calibrate", reported_folder, "--min-sa", "60%", "--attack", "pgd-7", "--split", "test"),
        ("check", reported_folder, "--baseline", reported_folder),
        ("train", "--benchmark", card_path),
    ):
        code, out, err = invoke("plan", *arguments)
        assert (code, err) == (0, "")
        assert "About " in out


@pytest.fixture
def card_path(tmp_path_factory, brief_toml):
    path = tmp_path_factory.mktemp("card") / "brief.toml"
    path.write_text(brief_toml)
    return path


def test_what_computes_nothing_is_not_planned(invoke):
    code, _, err = invoke("plan", "list", "attacks")
    assert code == 2
    assert "unknown command that computes 'list'; known: calibrate, check" in err


@pytest.mark.parametrize(("long", "said"), [(1e-3, True), (1e9, False)])
def test_a_long_run_says_so_first_and_goes_on(invoke, monkeypatch, capsys, card_path, long, said):
    class GoesOnError(Exception):
        pass

    def train(*_, **__):
        raise GoesOnError

    monkeypatch.setattr("oat_bench.cli.run._LONG", long)
    monkeypatch.setattr(run, "train", train)
    with pytest.raises(GoesOnError):
        invoke("run", "--benchmark", card_path)
    err = capsys.readouterr().err
    assert err.count("\n") == said
    assert ("this takes about " in err) == said
    assert (f"in detail: oat-bench plan run --benchmark {card_path}\n" in err) == said
