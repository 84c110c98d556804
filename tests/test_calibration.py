"""Calibration: exact bounds, a guarantee that holds in simulations, few attacks, nothing twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binom, binomtest

from oat_bench import calibration, figures
from oat_bench.attacks import in_house
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.calibration import Goal, guarantee, inputs, model, procedure, search
from oat_bench.calibration.guarantee import Count
from oat_bench.classifier import OperatingPoint
from oat_bench.errors import UserError
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.registry import METHODS
from oat_bench.reports import calibration as reports
from oat_bench.results.outcomes import OutcomeStore

counts = st.integers(1, 400).flatmap(lambda n: st.builds(Count.of, st.integers(0, n), st.just(n)))
shares = st.floats(0.01, 0.99)

# --- exact bounds


@given(counts, shares, st.floats(0.5, 0.999))
def test_bounds_are_those_of_scipy(count, bar, confidence):
    test = binomtest(count.right, count.n, bar, alternative="greater")
    assert guarantee.p_value(count, bar) == pytest.approx(test.pvalue, rel=1e-9, abs=1e-300)
    low = test.proportion_ci(confidence, method="exact").low
    assert guarantee.lower_bound(count.right, count.n, confidence) == pytest.approx(low, abs=1e-9)
    both = binomtest(count.right, count.n).proportion_ci(confidence, method="exact")
    found = guarantee.interval(count, confidence)
    assert (found.low, found.high) == pytest.approx((100 * both.low, 100 * both.high), abs=1e-4)
    several = binomtest(count.right, count.n).proportion_ci(1 - (1 - confidence) / 4)
    found = guarantee.interval(count, confidence, 4)
    expected = (100 * several.low, 100 * several.high)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-4)


@given(st.integers(1, 500), shares, st.floats(0.5, 0.999))
@example(1, 0.5000000000000001, 0.5)  # rounding decides
@example(1, 0.5, 0.5000000000000001)
def test_needed_is_the_least_that_passes(n, bar, confidence):
    least = guarantee.needed(n, bar, confidence)
    passing = [k for k in range(n + 1) if guarantee.p_value(Count.of(k, n), bar) <= 1 - confidence]
    assert least == (passing[0] if passing else None)
    assert (least is not None) == (n >= guarantee.fewest(bar, confidence))


def test_a_sequence_ends_at_the_first_that_fails():
    seen = []

    def count(name):
        seen.append(name)
        return {"a": Count.of(100, 100), "b": Count.of(90, 100), "c": Count.of(100, 100)}[name]

    tests = guarantee.fixed_sequence("abc", count, 0.9, 0.95)
    assert [(test.place, test.holds) for test in tests] == [(1, True), (2, False)]
    assert seen == ["a", "b"]


# --- synthetic populations


class Population:
    """Draws of images whose rightness has a known chance at every operating point.

    An image has numbers of its own, and at each point, for a share of the images, others: points
    are correlated as those of one network are.
    """

    def __init__(self, sa, ra, n, seed, own=0.1):
        self.sa, self.ra, self.n, self.seed, self.own = sa, ra, n, seed, own
        self.shared = np.random.default_rng(seed).random((2, n))
        self.attacked, self.known = 0, {}

    def right(self, point):
        if point not in self.known:
            key = [self.seed, round(1e4 * point.lam), round(100 * point.width)]
            draw = np.random.default_rng(key)
            numbers = np.where(
                draw.random(self.n) < self.own, draw.random((2, self.n)), self.shared
            )
            clean = numbers[0] < self.sa(point)
            self.known[point] = clean, clean & (numbers[1] < self.ra(point) / self.sa(point))
        return self.known[point]

    def clean(self, point, examples):
        return self.right(point)[0][examples]

    def robust(self, point, examples):
        self.attacked += len(examples)
        return self.right(point)[1][examples]


def falling(point):
    return 0.99 - 0.06 * point.lam


def with_a_gap(point):
    """As of models with two batch norms: worse between 0 and the first trained lambda."""
    return 0.9 + 0.8 * point.lam if 0 < point.lam < 0.1 else falling(point)


def just_below(point):
    return 0.9499 - 1e-3 * point.lam


def robust(point):
    return min(falling(point), 0.05 + 0.45 * point.lam**0.5)


LAMBDAS = search.starting_lambdas([0.0, 0.1, 0.4, 1.0], continuous=True)


def under_a_weaker_attack(point):
    return min(falling(point), robust(point) + 0.25)


def run(
    population,
    goal,
    widths=(1.0,),
    continuous=True,
    lambdas=LAMBDAS,
    confidence=0.95,
    tester=None,
):
    return procedure.run(
        population,
        goal,
        lambdas,
        widths,
        np.arange(population.n),
        confidence=confidence,
        continuous=continuous,
        tester=tester or population,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sa", "searched", "goal", "least_chosen"),
    [
        (with_a_gap, robust, Goal("min-sa", 0.95), 900),
        (just_below, robust, Goal("min-sa", 0.95), 0),
        (falling, robust, Goal("min-ra", 0.3), 900),
        (falling, robust, Goal("min-ra", 0.501), 0),  # out of reach, by little
        (falling, under_a_weaker_attack, Goal("min-ra", 0.501), 0),
    ],
    ids=["gap", "just below", "ra", "ra just below", "ra just below, weaker search"],
)
def test_the_bar_is_broken_in_at_most_one_of_twenty_draws(sa, searched, goal, least_chosen):
    broken = chosen = outside = 0
    draws = 1000
    for seed in range(draws):
        tester = Population(sa, robust, 300, seed)
        choice = run(Population(sa, searched, 300, seed), goal, tester=tester).choice
        if choice is None:
            continue
        point = OperatingPoint(choice.lam, choice.width)
        own, other = (sa, robust) if goal.kind == "min-sa" else (robust, sa)
        chosen += 1
        broken += own(point) < goal.value
        estimate = choice.ra if goal.kind == "min-sa" else choice.sa
        outside += not estimate.low <= 100 * other(point) <= estimate.high
    assert chosen >= least_chosen
    # three standard errors of 1,000 draws above 5%
    most = draws * 0.05 + 3 * np.sqrt(draws * 0.05 * 0.95)
    assert broken <= most
    assert outside <= most


def test_without_a_sequence_the_bar_is_broken_far_more_often():
    """What the simulation above would see of a search whose winner is taken as it is."""
    broken, draws = 0, 200
    for seed in range(draws):
        population = Population(just_below, robust, 300, seed, own=1.0)
        tests = [
            guarantee.p_value(
                Count.of(int(population.right(OperatingPoint(lam))[0].sum()), 300), 0.95
            )
            for lam in np.linspace(0, 1, 21)
        ]
        broken += min(tests) <= 0.05
    assert broken > 0.2 * draws


def test_the_search_finds_what_is_best_and_attacks_little():
    population = Population(with_a_gap, robust, 8000, 0)
    outcome = run(population, Goal("min-sa", 0.95))
    lam = outcome.choice.lam
    # SA is 95% at lambda 2/3
    assert 0.45 < lam < 0.667
    assert outcome.choice.ra.low < 100 * robust(OperatingPoint(lam)) < outcome.choice.ra.high
    assert population.attacked < 0.25 * 21 * 8000


def test_a_narrow_width_that_is_as_good_is_taken():
    outcome = run(Population(falling, robust, 2000, 0, own=0.0), Goal("min-sa", 0.9), (1.0, 0.5))
    assert (outcome.choice.lam, outcome.choice.width) == (1.0, 0.5)


def test_a_weight_chooses_without_a_test():
    population = Population(falling, robust, 4000, 0)
    outcome = run(population, Goal("sa-weight", 0.5))
    assert outcome.tested == []
    assert outcome.choice.lam > 0.8
    point = OperatingPoint(outcome.choice.lam)
    truth = 0.5 * falling(point) + 0.5 * robust(point)
    weighted = outcome.choice.weighted
    assert weighted.low < 100 * truth < weighted.high
    assert run(Population(falling, robust, 4000, 0), Goal("sa-weight", 1.0)).choice.lam < 0.1


def test_a_failing_test_of_ra_stops_attacking():
    population = Population(falling, robust, 4000, 0)
    outcome = run(population, Goal("min-ra", 0.6))
    assert outcome.choice is None
    (test,) = outcome.tested
    assert outcome.sequence[0].point == OperatingPoint(1.0)
    assert not test.holds
    assert test.counted.n < outcome.n_test


def test_what_the_search_attacked_more_weakly_is_in_no_test():
    weaker = Population(falling, under_a_weaker_attack, 4000, 0)
    tester = Population(falling, robust, 4000, 0)
    outcome = run(weaker, Goal("min-ra", 0.3), tester=tester)
    unseen = np.arange(1000, 4000)
    assert len(outcome.tested) > 1
    for test, one in zip(outcome.tested, outcome.sequence, strict=False):
        right = tester.right(one.point)[1][unseen[: test.counted.n]]
        assert test.counted == Count.of(int(right.sum()), len(right))
    right = tester.right(OperatingPoint(outcome.choice.lam))[1][unseen]
    assert outcome.choice.ra.value == round(100 * right.mean(), 4)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12),
    st.sampled_from([Goal("min-sa", 0.5), Goal("min-ra", 0.5), Goal("sa-weight", 0.5)]),
)
def test_a_sequence_is_in_order_and_ends_near_the_best(accuracies, goal):
    found = []
    for place, (sa, ra) in enumerate(accuracies):
        clean = np.arange(40) < sa
        point = OperatingPoint(place / 12, 1.0)
        found.append(search.Candidate(point, clean, clean & (np.arange(40) < ra)))
    planned = search.sequence(found, goal, 0.5)
    assert search.best(found, goal, 0.5) in planned
    assert 1 <= len(planned) <= 2 + search.SAFER + search.BOLDER
    lams = [one.point.lam for one in planned]
    assert lams == sorted(set(lams), reverse=goal.kind == "min-ra")
    if goal.barred:
        assert planned[0] is (found[0] if goal.kind == "min-sa" else found[-1])


def test_lambda_to_begin_with():
    assert LAMBDAS == [0.0, 0.1, 0.25, 0.4, 0.6, 0.8, 1.0]
    assert search.starting_lambdas([1.0, 0.2], continuous=False) == [0.2, 1.0]
    # what lies outside of the trained range has no network
    assert search.starting_lambdas([0.1, 0.4], continuous=True) == [0.1, 0.25, 0.4]


@pytest.mark.parametrize(("kind", "value"), [("min-sa", 0), ("min-ra", 1), ("sa-weight", 1.1)])
def test_a_goal_out_of_range_is_refused(kind, value):
    with pytest.raises(ValueError, match=kind):
        Goal(kind, value)


def test_too_few_images_are_refused_with_how_many_it_takes():
    with pytest.raises(UserError, match=r"takes 59, all of them right; take (\d+) images") as error:
        procedure.split(70, Goal("min-sa", 0.95), 0.95)
    enough = int(str(error.value).split("; take ")[1].split()[0])
    assert procedure.split(enough, Goal("min-sa", 0.95), 0.95)[1] == 59
    with pytest.raises(UserError):
        procedure.split(enough - 1, Goal("min-sa", 0.95), 0.95)


# --- a trained model


@pytest.fixture
def held(trained):
    return calibration.held_out(trained.info, "digits", "test")


def ready(info, name="pgd-7"):
    return prepare(attack_card(name), info.threat, n_classes=info.num_classes, seed=0)


def calibrated(model, held, goal=Goal("min-sa", 0.8), n=120, **options):  # noqa: B008
    from oat_bench.datasets import nested_order

    return calibration.calibrate(
        model,
        held.data,
        ready(model.info),
        goal,
        data_fingerprint=held.fingerprint,
        examples=nested_order(held.data.labels)[:n],
        held_out=held.name,
        show=False,
        **options,
    )


def test_a_model_is_calibrated_and_what_was_attacked_is_not_attacked_again(
    trained, held, tmp_path, monkeypatch
):
    store = OutcomeStore(tmp_path / "outcomes")
    found = calibrated(trained, held, store=store)
    assert found.n_search + found.n_test == 120
    # the choice is what the ordinary grid says of the examples of the tests
    point = OperatingPoint(found.choice.lam, found.choice.width)
    from oat_bench.datasets import nested_order

    ids = nested_order(held.data.labels)[found.n_search : 120]
    subject = Subject(trained, held.data, "x", ids)
    rows = evaluate(subject, [point], [ready(trained.info)], show=False)
    clean = rows["clean_prediction"] == rows["label"]
    attacked = clean & (rows["attacked_prediction"] == rows["label"])
    assert found.choice.sa.value == pytest.approx(100 * clean.mean(), abs=0.01)
    assert found.choice.ra.value == pytest.approx(100 * attacked.mean(), abs=0.01)
    assert found.spent.passes < found.grid.passes

    def forbidden(*_args):
        raise AssertionError("attacked again")

    monkeypatch.setattr(in_house, "run", forbidden)
    assert calibrated(trained, held, store=store) == found


def test_a_run_that_is_stopped_goes_on(trained, held, tmp_path, monkeypatch):
    whole = calibrated(trained, held, Goal("min-ra", 0.2))
    store, original, calls = OutcomeStore(tmp_path / "outcomes"), in_house.run, []

    def stopping(*args):
        calls.append(len(args[3]))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(in_house, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        calibrated(trained, held, Goal("min-ra", 0.2), store=store)
    assert calibrated(trained, held, Goal("min-ra", 0.2), store=store) == whole
    kept, all_calls = sum(calls[:4]), sum(calls) - calls[4]
    assert kept > 0
    assert all_calls == whole.spent.attacked


def test_dedicated_networks_are_looked_at_where_they_are(trained, held):
    info = trained.info.model_copy(
        update={
            "method": "pgd-at",
            "interpolation": "none",
            "network": METHODS["pgd-at"].network_card(trained.info.network),
        }
    )
    family = METHODS["pgd-at"].build(info)
    found = calibrated(family, held, Goal("sa-weight", 0.5), n=40)
    assert [point.lam for point in found.points] == info.trained_lambdas
    assert found.grid_points == len(info.trained_lambdas)


def test_nothing_that_qualifies_shows_the_nearest(trained, held):
    found = calibrated(trained, held, Goal("min-ra", 0.95), n=200)
    assert found.choice is None
    assert found.nearest.lam == 1
    words = reports.sentence(found)
    assert words.startswith(
        "No operating point can be guaranteed, with confidence 95%, to have an RA under pgd-7 of "
        "at least 95%: the nearest, lambda 1, has "
    )
    assert reports.snippet(found) == ""
    assert figures.calibration(found).axes


def test_a_report_is_read_back_and_damage_is_one_line(trained, held, tmp_path):
    found = calibrated(trained, held)
    path = tmp_path / "calibration.json"
    path.write_text(found.model_dump_json())
    assert calibration.Calibration.read(path) == found
    path.write_text(json.dumps(json.loads(path.read_text()) | {"confidence": 2}))
    with pytest.raises(UserError, match="confidence"):
        calibration.Calibration.read(path)
    with pytest.raises(UserError, match="cannot be read"):
        calibration.Calibration.read(tmp_path / "none.json")


def test_the_snippet_makes_the_chosen_classifier(trained, held):
    found = calibrated(trained, held)
    made = {"classifier": trained}
    exec(reports.snippet(found), made)
    x = held.data.inputs(slice(0, 50))
    expected = trained.at(found.choice.lam, found.choice.width)(x)
    assert torch.equal(made["model"](x), expected)


def test_the_figure_shows_bar_and_choice(trained, held):
    found = calibrated(trained, held)
    (axes,) = figures.calibration(found).axes
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        "search, pgd-7",
        "bar: SA 80%",
        f"choice, pgd-7, {found.n_test} other images",
    ]
    bar = next(line for line in axes.lines if line.get_label() == "bar: SA 80%")
    assert set(bar.get_xdata()) == {80.0}


def test_widths_are_those_that_are_affordable(build_classifier):
    from oat_bench.methods.oat import OAT

    model = build_classifier()
    data = calibration.held_out(model.info, "digits", "test").data
    (cost,) = calibration.affordable(model, data, [1.0], max_flops=1e12, max_latency=1e6)
    assert isinstance(model, OAT)
    assert cost.fits
    assert cost.flops > 1000
    for limit in ({"max_flops": cost.flops - 1}, {"max_latency": 1e-9}):
        with pytest.raises(UserError, match="no width keeps to"):
            calibration.affordable(model, data, [1.0], **limit)
    (cost,) = calibration.affordable(model, data, [1.0], max_flops=cost.flops)
    assert cost.fits


# --- the attack


def test_the_search_takes_the_first_parts_of_autoattack(trained):
    whole, parts = ready(trained.info, "autoattack"), ready(trained.info, "apgd")
    assert parts.chain == whole.chain[:2]
    assert [run.name for run in parts.chain] == ["apgd-ce", "apgd-t"]
    assert inputs.cheaper(whole) == parts
    for other in (parts, ready(trained.info, "pgd-20")):
        assert inputs.cheaper(other) is other


@pytest.mark.parametrize("goal", [Goal("min-sa", 0.9), Goal("min-ra", 0.3)], ids=["sa", "ra"])
def test_autoattack_is_the_default_where_it_fits(trained, held, monkeypatch, goal):
    # a millisecond a pass; 90% of the images are right, 40% stand
    monkeypatch.setattr(inputs, "_time", lambda *_args: (1e-3, 0.9, 0.4))
    ids = torch.arange(400)

    def chosen(budget):
        options = {"confidence": 0.95, "widths": [1.0], "seed": 0, "budget": budget}
        attack, line = calibration.strongest(trained, held.data, goal, ids, **options)
        return attack.label, line

    # lambda 0, .25, .5, .75, 1 and four pairs on 100 images; a test of 300, of RA up to seven
    # Auto-PGD: 100 gradients a walk, FAB: 100 for each of 9 targets; see tests/attacks
    auto_pgd, both = 0.9 * 202 + 0.4 * 1811, 0.4 * (2728 + 5002)
    tests = 7 if goal.kind == "min-ra" else 1
    whole = 1e-3 * (13 * 100 * auto_pgd + tests * 300 * (auto_pgd + both))
    parts = 1e-3 * (13 * 100 * auto_pgd + tests * 300 * auto_pgd)
    label, line = chosen(1.001 * whole)
    assert label == "autoattack"
    assert line.startswith(f"RA is under autoattack: it takes up to {np.ceil(whole / 60):.0f} min,")
    label, line = chosen(0.999 * whole)
    assert label == "apgd"
    assert f"AutoAttack's gradient parts, up to {np.ceil(parts / 60):.0f} min: autoattack" in line
    assert line.endswith("--attack autoattack forces it")


def test_what_is_timed_is_one_batch_under_pgd(trained, held):
    from oat_bench.datasets import nested_order

    ids, attack = nested_order(held.data.labels), ready(trained.info, "pgd-20")
    subject, point = Subject(trained, held.data, "x", ids, batch_size=64), OperatingPoint(1.0)
    each, right, standing = inputs._time(subject.at(point), attack)
    rows = evaluate(replace(subject, examples=ids[:64]), [point], [attack], show=False)
    clean = rows["clean_prediction"] == rows["label"]
    stands = clean & (rows["attacked_prediction"] == rows["label"])
    assert (right, standing) == (clean.mean(), stands.mean())
    assert 1e-7 < each < 1e-2


def test_a_weak_attack_is_warned_of(trained, held):
    found = calibrated(trained, held)
    assert found.attack == found.search_attack == "pgd-7"
    assert "Warning: pgd-7 alone overestimates RA" in reports.page(found).markdown()
    strong = found.model_copy(update={"attack": "autoattack", "search_attack": "apgd"})
    for name in ("autoattack", "apgd"):
        assert inputs.caution(ready(trained.info, name)) == ""
    assert reports.page(strong).tables[0].columns[1:3] == ["SA", "RA (apgd)"]
    assert "and RA under autoattack is " in reports.sentence(strong)
    assert "# RA under autoattack: " in reports.snippet(strong)
    assert "The search attacks with apgd alone, the tests" in reports.page(strong).markdown()


def test_a_report_from_before_there_were_two_attacks_is_read(trained, held, tmp_path):
    found = calibrated(trained, held)
    old = json.loads(found.model_dump_json(exclude={"search_attack", "caution"}))
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(old))
    assert calibration.Calibration.read(path).searched_under == "pgd-7"


@pytest.mark.slow
def test_what_is_promised_of_the_digits_holds_on_other_images(monkeypatch):
    """And what PGD-20 promises of them does not."""
    from oat_bench import load
    from oat_bench.datasets import nested_order

    # one point is enough, and 128 images of either kind: whole blocks
    monkeypatch.setattr(model, "starting_lambdas", lambda *_args, **_options: [1.0])
    monkeypatch.setattr(search, "REFINEMENTS", 0)
    published = load("leaderboards/digits/Linf/oat-wrn-10-1.safetensors")
    info = published.info
    data = calibration.held_out(info, "digits", "test").data
    order, options = nested_order(data.labels), {"data_fingerprint": "x", "show": False}
    store, autoattack = OutcomeStore(None), ready(info, "autoattack")

    def promised(name, bar):
        attack, goal = ready(info, name), Goal("min-ra", bar)
        examples = {"examples": order[:128], "store": store}
        found = calibration.calibrate(published, data, attack, goal, **examples, **options)
        assert f"RA under {name} is at least {100 * bar:g}%" in reports.sentence(found)
        return OperatingPoint(found.choice.lam)

    def right(point):
        subject = Subject(published, data, "x", order[128:256], store=store)
        rows = evaluate(subject, [point], [autoattack], show=False)
        return int(
            (
                (rows["clean_prediction"] == rows["label"])
                & (rows["attacked_prediction"] == rows["label"])
            ).sum()
        )

    assert binom.cdf(right(promised("autoattack", 0.05)), 128, 0.05) > 0.01
    assert binom.cdf(right(promised("pgd-20", 0.3)), 128, 0.3) < 0.001


# --- held-out images


def test_splits_are_apart_in_images_and_in_the_store(trained, digits):
    validation = calibration.held_out(trained.info, "digits")
    test = calibration.held_out(trained.info, "digits", "test")
    assert torch.equal(validation.data.images, digits.validation.images)
    assert torch.equal(test.data.images, digits.test.images)
    # those of `oat-bench run` are reused
    assert test.fingerprint == digits.fingerprint()
    assert validation.fingerprint != test.fingerprint


def folder_of(root, digits, n=60, classes=range(10)):
    for label in classes:
        (root / str(label)).mkdir(parents=True)
    for place in range(n):
        label = int(digits.test.labels[place])
        if label in classes:
            pixels = digits.test.images[place, 0].numpy()
            Image.fromarray(pixels).save(root / str(label) / f"{place}.png")
    return root


def test_a_folder_of_other_images_is_taken_whole(trained, digits, tmp_path):
    root = folder_of(tmp_path / "mine", digits)
    held = calibration.held_out(trained.info, str(root))
    assert len(held.data) == 60
    assert held.name == "the folder mine"
    assert sorted(held.data.labels.tolist()) == sorted(digits.test.labels[:60].tolist())


def test_other_classes_and_other_data_sets_are_refused(trained, digits, tmp_path):
    root = folder_of(tmp_path / "few", digits, classes=range(3))
    with pytest.raises(
        UserError, match=r"'digits' has 10 classes: 0, 1, 2, 3, \.\.\.; 'few' has 3 classes"
    ):
        calibration.held_out(trained.info, str(root))


def test_a_folder_that_was_trained_on_gives_its_split(trained, digits, tmp_path):
    root = folder_of(tmp_path / "mine", digits, n=100)
    # older checkpoints know the name only
    info = trained.info.model_copy(update={"dataset": "mine", "data_fingerprint": ""})
    held = calibration.held_out(info, str(root), "test")
    assert len(held.data) == 20
    assert len(calibration.held_out(info, str(root)).data) == 8
    # others know the images, whatever the folder is called
    known = info.model_copy(update={"data_fingerprint": held.fingerprint})
    renamed = root.rename(tmp_path / "renamed")
    again = calibration.held_out(known, str(renamed), "test")
    assert (again.name, again.fingerprint) == (held.name, held.fingerprint)
    assert len(calibration.held_out(info, str(renamed)).data) == 100
    next(renamed.glob("0/*")).unlink()
    assert calibration.held_out(known, str(renamed)).name == "the folder renamed"
    renamed.rename(root)
    with pytest.raises(
        UserError, match="has the name of the model's data set, but not quite its images"
    ):
        calibration.held_out(known, str(root))
