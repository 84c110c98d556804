"""A second phase: who is sampled, that it costs no more, and that its numbers are those of all."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_grid import OTHERS, THREAT, Lines, make_data, other, ready, run

from oat_bench import benchmark
from oat_bench.attacks import in_house
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.attacks.selection import select_attacks
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets.splits import nested_order
from oat_bench.errors import Finished, UserError
from oat_bench.evaluation import survivors
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.sharing import Shard
from oat_bench.evaluation.subject import Subject
from oat_bench.evaluation.survivors import Sample
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.results.points import summarize
from oat_bench.statistics.accuracy import WORST, Accuracy, robust_right
from oat_bench.statistics.phases import Design

CHEAP = ["fgsm", "pgd-7"]
DESIGN = Design([*CHEAP, "costly"], {"costly": CHEAP})


@pytest.fixture(scope="module")
def data():
    return make_data(1500)


@pytest.fixture
def order(data):
    return nested_order(data.labels)


@pytest.fixture
def lines():
    return Lines(torch.linspace(-2, 2, 9), name="survivors")


@pytest.fixture
def costly(monkeypatch):
    """An attack that breaks what 3 divides, and the ids of what it attacked; "stop" fails then."""
    seen = []

    def attack(model, x, y, *, example_ids):
        if seen and seen[-1] == "stop":
            raise KeyboardInterrupt
        seen.extend(example_ids.tolist())
        wrong_side = torch.where(y == 1, -1.0, 1.0)[:, None] * model.plain.w.sign()
        broken = (example_ids % 3 == 0)[:, None, None, None]
        return torch.where(broken, 0.5 + wrong_side.view_as(x) / 2, x)

    monkeypatch.setitem(in_house.CLASSES, "Costly", attack)
    card = AttackCard.model_validate({"name": "costly", "engine": "oat_bench", "class": "Costly"})
    return prepare(card, Threat(eps=1.0), n_classes=2, seed=0), seen


def sampled(lines, data, order, attack, lambdas=(0.4, 0.5), **how):
    attacks = [attack, *map(ready, CHEAP)]
    samples = {"costly": Sample(CHEAP, **how.pop("sample", {"examples": 25}))}
    return run(lines, data, attacks, lambdas, examples=order, samples=samples, **how)


def standing(frame, lam, order):
    """The survivors of the first phase, in the order of the examples."""
    rows = frame[(frame["lam"] == lam) & frame["attack"].isin(CHEAP)]
    stands = robust_right(rows).groupby(rows["example"]).all()
    return [i for i in order.tolist() if stands[i]]


def attacked(frame, lam):
    return frame.loc[(frame["lam"] == lam) & (frame["attack"] == "costly"), "example"].to_list()


# --- who is sampled


def test_the_first_of_what_stands_are_attacked_and_no_others(lines, data, order, costly):
    attack, seen = costly
    frame = sampled(lines, data, order, attack)
    whole = run(lines, data, [attack, *map(ready, CHEAP)], (0.4, 0.5), examples=order)
    for lam in (0.4, 0.5):
        left = standing(whole, lam, order)
        assert 50 < len(left) < 500
        assert attacked(frame, lam) == left[:25]
    assert seen[:50] == [i for lam in (0.4, 0.5) for i in attacked(frame, lam)]
    # each row is that of the attack on all, and columns keep their order
    kept = whole.merge(frame[["lam", "attack", "example"]])
    pd.testing.assert_frame_equal(frame, kept[list(frame)])
    assert list(dict.fromkeys(frame["attack"])) == ["costly", *CHEAP]
    # what stands at both lambda values is sampled at both but for the last few
    shared = set(attacked(frame, 0.4)) & set(attacked(frame, 0.5))
    assert len(shared) >= 15


def test_samples_are_nested_and_a_run_that_stopped_goes_on_with_its_own(
    lines, data, order, costly, tmp_path
):
    attack, seen = costly
    known = {"store": OutcomeStore(tmp_path)}
    few = sampled(lines, data, order, attack, sample={"examples": 10}, **known)
    once = len(seen)
    seen.append("stop")
    with pytest.raises(KeyboardInterrupt):
        sampled(lines, data, order, attack, **known)
    seen.pop()
    more = sampled(lines, data, order, attack, **known)
    for lam in (0.4, 0.5):
        assert attacked(more, lam)[:10] == attacked(few, lam)
    assert len(seen) == once + 2 * 15  # none is attacked twice
    pd.testing.assert_frame_equal(more, sampled(lines, data, order, attack))


def test_a_sample_of_all_that_stands_is_the_attack_on_all(lines, data, order, costly):
    attack, _ = costly
    whole = run(lines, data, [attack, *map(ready, CHEAP)], (0.0, 0.5), examples=order)
    (_, plain) = summarize(whole, Design(DESIGN.worst_over))
    frame = sampled(lines, data, order, attack, (0.0, 0.5), sample={"examples": 1500})
    low, point = summarize(frame, DESIGN)
    assert point.robust[WORST] == plain.robust[WORST] == point.robust["costly"]
    assert point.clean_acc == plain.clean_acc
    assert (frame["attack"] == "costly").sum() == len(standing(whole, 0.5, order)) + len(
        standing(whole, 0.0, order)
    )
    assert list(low.robust) == list(point.robust)


def test_where_nothing_stands_nothing_is_attacked(lines, data, order, costly):
    attack, seen = costly
    whole = run(lines, data, [*map(ready, CHEAP)], (0.5,), examples=order)
    left = standing(whole, 0.5, order)
    fallen = order[~torch.isin(order, torch.tensor(left))]
    frame = sampled(lines, data, fallen, attack, (0.5,))
    (point,) = summarize(frame, DESIGN)
    assert point.clean_acc > 10
    assert point.robust["costly"] == point.robust[WORST] == Accuracy.counted(0, len(fallen))
    assert seen == attacked(frame, 0.5) == []


def test_without_a_first_phase_what_is_right_is_sampled(lines, data, order, costly):
    attack, _ = costly
    samples = {"costly": Sample(examples=30)}
    frame = run(lines, data, [ready(), attack], (0.5,), examples=order, samples=samples)
    cheap = frame[frame["attack"] == "fgsm"]
    right = cheap.loc[cheap["clean_prediction"] == cheap["label"], "example"].to_list()
    assert attacked(frame, 0.5) == right[:30]
    (point,) = summarize(frame, Design(["fgsm"], {"costly": []}))
    share = np.mean([i % 3 > 0 for i in right[:30]])
    assert point.robust["costly"].value == pytest.approx(point.clean_acc * share, abs=1e-3)


@pytest.mark.parametrize("engine", list(OTHERS))
def test_outcomes_of_other_libraries_are_those_of_whole_blocks(trained, digits, engine):
    attack, order = other(engine), nested_order(digits.test.labels)[:200]
    threat = Threat(eps=0.15, step_size=0.05)
    cheap = prepare(attack_card("fgsm"), threat, n_classes=10, seed=0)

    def outcomes(**how):
        subject = Subject(trained, digits.test, "", order, **how)
        return evaluate(subject, [OperatingPoint(0.7)], [cheap, attack], show=False)

    whole, frame = outcomes(), outcomes(samples={"other": Sample(["fgsm"], 40)})
    assert (frame["attack"] == "other").sum() == 40
    kept = whole.merge(frame[["attack", "example"]])
    pd.testing.assert_frame_equal(frame, kept[list(frame)])


def test_every_survivor_is_as_likely_and_the_estimate_is_right_in_the_mean():
    """Over orders, where classes differ in how many stand and in how many fall in the end."""
    draw, n, m, orders = np.random.default_rng(0), 600, 60, 400
    labels = draw.choice(4, n, p=[0.4, 0.3, 0.2, 0.1])
    stands = draw.random(n) < np.array([0.2, 0.4, 0.6, 0.9])[labels]
    ends = stands & (draw.random(n) < np.array([0.9, 0.7, 0.5, 0.3])[labels])
    times, values = np.zeros(n), []
    for seed in range(orders):
        nested = nested_order(torch.tensor(labels), seed).numpy()
        sample = nested[stands[nested]][:m]
        times[sample] += 1
        values.append(stands.mean() * ends[sample].mean())
    share = m / stands.sum()
    deviation = (times[stands] - orders * share) / np.sqrt(orders * share * (1 - share))
    assert np.abs(deviation).max() < 4.5
    assert 0.75 < deviation.std() < 1.2
    assert np.mean(values) == pytest.approx(ends.mean(), abs=4 * np.std(values) / orders**0.5)


# --- which attacks


def plan(names, n=1000, threat=THREAT, **evaluation):
    card = benchmark.benchmark_card("digits").model_copy(update={"threat": threat})
    measures = card.evaluation.model_copy(update=evaluation)
    card = card.model_copy(update={"evaluation": measures})
    attacks = [prepare(one, threat, n_classes=10, seed=0) for one in select_attacks(names)]
    survivors.check(card, attacks)
    return survivors.samples(card, attacks, n)


def test_the_first_phase_is_of_all_attacks_within_the_threat_model_on_all_examples(tmp_path):
    pgd = 'engine = "oat_bench"\nclass = "PGD"\n'
    steps = '[parameters]\neps = "$eps"\nstep_size = "$step_size"\nsteps = 3\n'
    wide, aimed = tmp_path / "wide.toml", tmp_path / "aimed.toml"
    wide.write_text(f"{pgd}eps = 0.9\n{steps}")
    aimed.write_text(f'{pgd}targeted = "random"\n{steps}')
    few = {"autoattack": 64, "pgd-50-10": 200, "wide": 50}
    found = plan(f"autoattack,pgd-50-10,{wide},{aimed},fgsm,pgd-20", fewer_examples=few)
    assert found == {
        "autoattack": Sample(["fgsm", "pgd-20"], 64),
        "pgd-50-10": Sample(["fgsm", "pgd-20"], 200),
        "wide": Sample((), 50),
    }
    # as many as all are all, and nobody samples survivors of nobody
    assert plan("fgsm,autoattack", fewer_examples={"autoattack": 1000}) == {}
    assert plan("autoattack", fewer_examples={"autoattack": 64}) == {}


def test_a_precision_is_for_attacks_in_parts_without_a_number():
    assert plan("fgsm,pgd-50-10,autoattack", precision=1.5) == {
        "autoattack": Sample(["fgsm", "pgd-50-10"], None, 1.5)
    }
    both = plan("fgsm,pgd-50-10,autoattack", precision=2.0, fewer_examples={"pgd-50-10": 9})
    assert both == {
        "autoattack": Sample(["fgsm"], None, 2.0),
        "pgd-50-10": Sample(["fgsm"], 9),
    }
    for names, how, said in (
        ("fgsm,pgd-20", {}, "in [[parts]], such as autoattack"),
        ("fgsm,autoattack", {"fewer_examples": {"autoattack": 9}}, "that get no number"),
        ("autoattack", {}, "add one, such as pgd-20"),
    ):
        with pytest.raises(UserError) as refused:
            plan(names, precision=1.5, **how)
        assert said in str(refused.value)
    for wrong in ({"precision": float("nan")}, {"fewer_examples": {"autoattack": 0}}):
        with pytest.raises(UserError, match="expected"):
            plan("fgsm,autoattack", **wrong)


# --- to a precision


def half(found):
    return (found.high - found.low) / 2


def test_a_sample_grows_until_the_interval_is_as_narrow_as_asked(costly):
    attack, seen = costly
    lines, data = Lines(torch.linspace(-2, 2, 9), name="many"), make_data(3000, seed=1)
    order, sizes = nested_order(data.labels), []
    for precision in (1.2, 0.9, 0.1):
        how = {"sample": {"precision": precision}, "batch_size": 3000}
        frame = sampled(lines, data, order, attack, (0.5,), **how)
        left = standing(frame, 0.5, order)
        assert attacked(frame, 0.5) == left[: len(attacked(frame, 0.5))] == seen
        (point,) = summarize(frame, DESIGN)
        assert half(point.robust["costly"]) <= precision or len(seen) == len(left)
        sizes.append(len(seen))
        seen.clear()
    assert 64 <= sizes[0] < sizes[1] < sizes[2] == len(left)


def grown(draw, n, p, q, precision):
    """Run one evaluation in which examples are drawn anew; return its accuracy, and m."""
    left, sample = int(draw.binomial(n, p)), Sample(precision=precision)
    ends, size = draw.random(left) < q, 0
    while (more := sample.size(n, left, size, int(ends[:size].sum()))) > size:
        size = more
    return Accuracy.two_phase(n, left, size, int(ends[:size].sum())), size


@pytest.mark.parametrize(
    ("n", "p", "q", "precision", "runs"),
    [
        (2000, 0.35, 0.9, 2.5, 120),
        *(
            pytest.param(n, p, q, precision, 400, marks=pytest.mark.slow)
            for n, precision in ((10_000, 1.5), (2000, 2.5))
            for p in (0.1, 0.35, 0.6)
            for q in (0.5, 0.8, 0.95, 0.99)
        ),
    ],
)
def test_the_interval_covers_where_the_sample_grew(n, p, q, precision, runs):
    draw = np.random.default_rng(0)
    found = [grown(draw, n, p, q, precision)[0] for _ in range(runs)]
    assert max(map(half, found)) <= precision
    covered = np.mean([one.low <= 100 * p * q <= one.high for one in found])
    assert covered > 0.95 - 0.015 - 3 * np.sqrt(0.95 * 0.05 / runs)


# --- shared out


SAMPLES = {
    "a number": Sample(CHEAP, 25),
    "a precision": Sample(CHEAP, precision=4.0),
    "of what is right": Sample((), 40),
}


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=list(SAMPLES))
@pytest.mark.parametrize("count", [1, 2, 3])
def test_shards_in_any_order_are_one_process(
    lines, data, order, costly, sample, count, tmp_path, monkeypatch
):
    """An array is run twice: attacks on survivors wait until all shards did the others."""
    attack, seen = costly
    attacks, points = [attack, *map(ready, CHEAP)], [OperatingPoint(lam) for lam in (0.4, 0.5)]
    how = {"examples": order, "compile_it": False, "samples": {"costly": sample}}
    subject = Subject(lines, data, "dots", **how)
    alone = evaluate(subject, points, attacks, show=False)
    once = sorted(seen)
    seen.clear()
    subject = Subject(lines, data, "dots", **how, store=OutcomeStore(tmp_path))
    numbers = 1 + torch.randperm(count, generator=torch.Generator().manual_seed(count))

    def shards(again):
        for place, number in enumerate(numbers.tolist(), 1):
            shard = Shard(number, count, "oat-bench run --shard")
            assert evaluate(replace(subject, executor=shard), points, attacks, show=False).empty
            # the last finds all that the others did
            waits = sample.after and not again and place < count
            last = "run this array again.*: oat-bench run --shard$" if waits else "without --shard"
            with pytest.raises(Finished, match=last):
                shard.finish()

    shards(again=False)
    if count > 1 and sample.after:
        assert len(seen) < len(once)
    shards(again=True)
    assert sorted(seen) == once  # none is attacked twice
    monkeypatch.setattr("oat_bench.evaluation.subject.AtPoint.craft", None)
    frame = evaluate(subject, points, attacks, show=False)
    pd.testing.assert_frame_equal(frame, alone)


def test_what_runs_on_blocks_is_shared_out_in_blocks(lines, data, order, tmp_path):
    attacks, points = [ready("fgsm"), other("torchattacks")], [OperatingPoint(0.5)]
    how = {
        "examples": order[:600],
        "compile_it": False,
        "samples": {"other": Sample(["fgsm"], 30)},
    }
    alone = evaluate(Subject(lines, data, "dots", **how), points, attacks, show=False)
    assert (alone["attack"] == "other").sum() == 30
    subject = Subject(lines, data, "dots", **how, store=OutcomeStore(tmp_path))
    for number in (1, 2, 1):
        sharing = replace(subject, executor=Shard(number, 2))
        evaluate(sharing, points, attacks, show=False)
    pd.testing.assert_frame_equal(evaluate(subject, points, attacks, show=False), alone)
