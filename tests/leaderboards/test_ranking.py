"""Ranks, against numbers that can be worked out by hand."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oat_bench.errors import UserError
from oat_bench.reports import ranking as reports
from oat_bench.results import ranking, reliability
from oat_bench.results.ranking import Rule
from oat_bench.statistics.accuracy import WORST, Accuracy

#: from (90, 20) to (80, 50)
TWO = {0.1: (90, 20), 1.0: (80, 50)}


def order(board):
    return [(row.rank, row.label) for row in board.rows]


def report(record, verdict, model="f" * 64):
    text = json.dumps({"verdict": verdict, "model_fingerprint": model, "later": 1})
    record.entry_path.with_suffix(".integrity.json").write_text(text)


# --- values


@pytest.mark.parametrize("with_outcomes", [False, True])
@pytest.mark.parametrize("with_frontiers", [False, True])
def test_the_hypervolume_is_the_area_below_the_frontier(publish, with_outcomes, with_frontiers):
    record = publish("a", TWO, with_outcomes=with_outcomes, with_frontiers=with_frontiers)
    (row,) = ranking.rank([record]).rows
    # 90 wide and 20 high, then 80 wide and 30 high
    assert row.hypervolume.value == pytest.approx(18 + 24)
    assert 0 < row.hypervolume.low < row.hypervolume.value < row.hypervolume.high < 100


def test_without_outcomes_the_interval_is_from_the_ends_of_all_intervals(publish):
    record = publish("a", {0.5: (90, 50)})
    (row,) = ranking.rank([record]).rows
    (point,) = record.entry.operating_points
    clean, robust = point.clean_acc_interval, point.robust_acc["pgd-20"]
    assert row.hypervolume.low == pytest.approx(clean.low * robust.low / 100, abs=1e-4)
    assert row.hypervolume.high == pytest.approx(clean.high * robust.high / 100, abs=1e-4)


@pytest.mark.parametrize("with_outcomes", [False, True])
@pytest.mark.parametrize(
    ("sa", "ra", "lams"),
    [
        (85, 35, (0.1, 1.0)),  # half way
        (90, 20, (0.1,)),
        (80, 50, (1.0,)),
        (10, 50, (1.0,)),
    ],
)
def test_robustness_at_an_sa_is_on_the_line_between_two_points(
    publish, with_outcomes, sa, ra, lams
):
    record = publish("a", TWO, with_outcomes=with_outcomes)
    (row,) = ranking.rank([record], rule=Rule("ra-at-sa", min_sa=sa)).rows
    assert row.robust.value == pytest.approx(ra)
    assert row.robust.low <= ra <= row.robust.high
    assert (row.lams, row.rank, row.remark) == (lams, 1, "")


def test_who_does_not_reach_the_sa_has_no_place(publish):
    good, bad = publish("good", {1.0: (95, 10)}), publish("bad", {1.0: (90, 90)})
    board = ranking.rank([bad, good], rule=Rule("ra-at-sa", min_sa=94))
    assert order(board) == [(1, "good"), (None, "bad")]
    assert board.rows[1].remark == "SA 94 is not reached"
    assert board.rows[1].robust is None


def test_n_is_that_of_the_attack(publish):
    many = publish("a", {1.0: (90, {"fgsm": 50, "pgd-20": 40})})
    point = many.entry.operating_points[0]
    few = point.robust_acc["pgd-20"].model_copy(update={"n": 20})
    point.robust_acc["pgd-20"] = few
    rows = [ranking.rank([many], attack=name).rows[0] for name in ("fgsm", "pgd-20")]
    assert [row.n for row in rows] == [100, 20]


# --- ties


def test_overlapping_intervals_share_a_rank_where_there_are_no_outcomes(publish):
    a, b = publish("a", {1.0: (200, 110)}, n=200), publish("b", {1.0: (200, 95)}, n=200)
    c = publish("c", {1.0: (200, 40)}, n=200)
    assert order(ranking.rank([c, b, a])) == [(1, "a"), (1, "b"), (3, "c")]


@pytest.mark.parametrize("sort", ["hypervolume", "ra-at-sa"])
def test_outcomes_of_the_same_examples_tell_apart_what_intervals_do_not(publish, sort):
    a = publish("a", {1.0: (200, 110)}, n=200, with_outcomes=True)
    b = publish("b", {1.0: (200, 95)}, n=200, with_outcomes=True)
    # b breaks on 15 examples of 200 that a survives, and never the other way
    assert order(ranking.rank([b, a], rule=Rule(sort))) == [(1, "a"), (2, "b")]


def test_models_of_other_images_have_no_rank(publish):
    same = [
        publish(name, {1.0: (200, 110)}, n=200, data_fingerprint=known)
        for name, known in (("a", "1" * 64), ("b", "1" * 64), ("old", ""))
    ]
    other = publish("c", {1.0: (200, 150)}, n=200, data_fingerprint="2" * 64)
    board = ranking.rank([other, *same])
    assert order(board) == [(1, "a"), (1, "b"), (1, "old"), (None, "c")]
    assert board.rows[3].remark == "of other images than the ranked ones"


def test_models_of_fewer_examples_have_no_rank(publish):
    many = [publish(name, {1.0: (180, 100)}, n=200) for name in "ab"]
    few = publish("few", {1.0: (95, 90)}, n=100)
    board = ranking.rank([few, *many])
    assert order(board) == [(1, "a"), (1, "b"), (None, "few")]
    assert board.rows[2].remark == "of 100 examples, the ranked ones of 200"
    # of as many on either side those of more examples are ranked
    assert order(ranking.rank([few, many[0]])) == [(1, "a"), (None, "few")]
    # an estimate for all examples is of all
    (point,) = many[1].entry.operating_points
    point.robust_acc["pgd-20"] = Accuracy.two_phase(200, 150, 40, 30)
    board = ranking.rank([few, *many], attack="pgd-20")
    assert [(row.label, row.sampled) for row in board.rows if row.rank] == [("b", 40), ("a", None)]
    rows = reports.page(board).tables[0].rows
    assert [row["m"] for row in rows] == ["40", "", ""]
    assert "m: RA is a two-phase estimate" in reports.page(board).markdown()


def test_equal_models_tie(publish):
    a = publish("a", TWO, with_outcomes=True)
    b = publish("b", TWO, with_outcomes=True)
    assert [row.rank for row in ranking.rank([a, b]).rows] == [1, 1]


def test_a_group_is_of_those_that_tie_with_its_first():
    near = lambda best, other: best - other <= 1  # noqa: E731
    assert ranking.group_ranks([10, 9, 8, 7, 3], near) == [1, 1, 3, 3, 5]
    assert ranking.group_ranks([], near) == []


@given(st.lists(st.integers(0, 20)), st.integers(0, 5))
def test_ranks_never_fall_and_a_new_one_is_its_place(values, gap):
    ordered = sorted(values, reverse=True)
    ranks = ranking.group_ranks(ordered, lambda best, other: best - other <= gap)
    assert ranks == sorted(ranks)
    for place, (value, rank) in enumerate(zip(ordered, ranks, strict=True), 1):
        assert ordered[rank - 1] - value <= gap
        assert rank <= place
        if rank > 1:
            assert ordered[ranks[rank - 2] - 1] - ordered[rank - 1] > gap


# --- cost


def test_the_cheapest_that_meets_both_is_first_and_equal_costs_tie(publish, cost):
    cheap = publish("cheap", {1.0: (80, 60)}, costs={1.0: cost(5)})
    weak = publish("weak", {1.0: (95, 10)}, costs={1.0: cost(6)})
    wide = publish("wide", {1.0: (95, 50)}, costs={1.0: cost(20), 0.5: cost(7)})
    other = publish("other", {1.0: (92, 40)}, costs={1.0: cost(7)})
    unknown = publish("unknown", {1.0: (95, 50)})
    board = ranking.rank([unknown, cheap, weak, wide, other], rule=Rule("cost", 90, 30))
    assert set(order(board)[:2]) == {(1, "wide, width 0.5"), (1, "other")}
    assert order(board)[2] == (3, "wide, width 1")
    remarks = {row.label: row.remark for row in board.rows if row.rank is None}
    assert remarks == {
        "cheap": "SA 90 is not reached",
        "weak": "SA 90 with RA 30 is not reached",
        "unknown": "its cost was not measured",
    }


def test_each_point_must_meet_both(publish, cost):
    """No point is both accurate and robust enough, though the frontier reaches either."""
    record = publish("a", {0.0: (99, 0), 1.0: (70, 60)}, costs={1.0: cost(1)})
    (row,) = ranking.rank([record], rule=Rule("cost", 90, 50)).rows
    assert row.rank is None


@pytest.mark.parametrize(("resource", "first"), [("parameters", "b"), ("flops", "a")])
def test_which_cost(publish, cost, resource, first):
    a = publish("a", {1.0: (95, 50)}, costs={1.0: cost(1, parameters=9)})
    b = publish("b", {1.0: (95, 50)}, costs={1.0: cost(2, parameters=3)})
    assert ranking.rank([a, b], rule=Rule("cost", resource=resource)).rows[0].label == first


@pytest.mark.parametrize(
    ("reached", "fits"), [([94], 90), ([90], 90), ([94, 81, 77], 80), ([94, 81], 80)]
)
def test_a_required_sa_fits_what_most_reach(publish, reached, fits):
    found = [publish(f"m{sa}", {0.0: (sa, 5), 1.0: (60, 50)}) for sa in reached]
    assert ranking.fitting_sa(found) == fits


def test_latency_compares_on_one_machine(publish, cost):
    ours = [
        publish(name, {1.0: (95, 50)}, costs={1.0: cost(1, latency=t)})
        for name, t in (("a", 2.0), ("b", 1.0))
    ]
    fast = publish("c", {1.0: (95, 50)}, costs={1.0: cost(1, latency=0.1, machine="GPU")})
    board = ranking.rank([*ours, fast], rule=Rule("cost", resource="latency"))
    assert order(board) == [(1, "b"), (2, "a"), (None, "c")]
    assert board.rows[2].remark == "timed on another machine: GPU"


# --- whose RA


def test_the_worst_case_compares_where_the_attacks_are_the_same(publish):
    both = {"fgsm": 60, "pgd-20": 50}
    a, b = publish("a", {1.0: (90, both)}), publish("b", {1.0: (90, both)})
    one = publish("one", {1.0: (90, {"fgsm": 80})})
    board = ranking.rank([one, a, b])
    assert (board.attack, board.rows[0].rank) == (WORST, 1)
    assert order(board)[2] == (None, "one")
    assert board.rows[2].remark == "the worst case is of other attacks"
    # under one attack all compare
    assert ranking.rank([one, a, b], attack="fgsm").rows[0].label == "one"
    assert ranking.rank([one, a, b], attack="pgd-20").rows[2].remark == "pgd-20 was not run"


def test_what_most_have_is_chosen(publish):
    a = publish("a", {1.0: (90, {"fgsm": 60, "pgd-20": 50})})
    b = publish("b", {1.0: (90, {"fgsm": 60, "pgd-7": 50})})
    assert ranking.rank([a, b]).attack == "fgsm"
    c = publish("c", {1.0: (90, {"fgsm": 60, "pgd-20": 50, "pgd-7": 55})})
    assert ranking.rank([a, b, c]).attack == "pgd-20"


def test_an_attack_of_another_card_is_another(publish):
    same = [publish(name, {1.0: (90, 50)}) for name in "ab"]
    changed = same[0].entry.attacks[0].model_copy(update={"card": "e" * 64})
    other = publish("c", {1.0: (90, 80)}, attacks=[changed])
    board = ranking.rank([other, *same], attack="pgd-20")
    assert [row.rank for row in board.rows] == [1, 1, None]
    assert board.rows[2].remark == "its pgd-20 is another"


def test_an_attack_that_nobody_ran_is_refused(publish):
    with pytest.raises(UserError, match=r"unknown attack .*'pgd-21'.*did you mean pgd-20"):
        ranking.rank([publish("a", TWO)], attack="pgd-21")


def test_a_board_for_each_data_set_and_threat(publish):
    found = [
        publish("a", TWO),
        publish("b", TWO, eps="0.125"),
        publish("c", TWO, eps="2/8"),
        publish("d", TWO, dataset="svhn"),
    ]
    boards = [ranking.rank(group) for group in ranking.groups(found)]
    assert [[row.label for row in board.rows] for board in boards] == [["b"], ["a", "c"], ["d"]]


def test_labels_tell_apart_what_has_one_name(publish, cost):
    a = publish("a", TWO, folder="x")
    b = publish("a", TWO, folder="x", costs={0.5: cost(1)})
    b.entry_path.rename(b.entry_path.with_name("b.json"))
    from oat_bench.results import records

    publish("a", TWO, folder="x")
    b = records.read(b.entry_path.with_name("b.json"))
    assert {row.label for row in ranking.rank([a, b]).rows} == {"a (a)", "a (b), width 0.5"}


# --- what cannot be trusted


def test_the_unreliable_are_last_with_the_reason(publish):
    best = {1.0: (99, 90)}
    stated = publish("stated", best, unreliable=True)
    failed = publish("failed", best)
    random = publish("random", best, randomized=True)
    report(failed, "fail")
    poor = publish("poor", {1.0: (50, 1)})
    warned = publish("warned", {1.0: (99, 70)})
    report(warned, "warn")
    board = ranking.rank([stated, failed, random, poor, warned])
    assert order(board)[:2] == [(1, "warned"), (2, "poor")]
    assert {(row.label, row.rank, row.doubts) for row in board.rows[2:]} == {
        ("stated", 3, ("its entry says so",)),
        ("failed", 3, ("attack integrity failed",)),
        ("random", 3, ("random, and not attacked on the expectation",)),
    }
    verdicts = {row.label: row.verdict for row in board.rows}
    assert (verdicts["failed"], verdicts["warned"], verdicts["poor"]) == ("fail", "warn", None)


def test_pgd_as_an_estimate_does_not_count_against_autoattack(publish):
    """A report that fails for it alone doubts RA under PGD, and not the worst case."""
    record = publish("a", {1.0: (99, {"pgd-20": 80, "autoattack": 40})})
    path = record.entry_path.with_suffix(".integrity.json")

    def doubts(*failed, key="operating_points"):
        checks = [{"name": name, "verdict": "fail"} for name in failed]
        stated = {"verdict": "fail", "model_fingerprint": record.entry.model_fingerprint}
        path.write_text(json.dumps(stated | {key: [{"checks": checks}]}))
        names = ("pgd-20", "autoattack", WORST)
        return [len(reliability.doubts(record, name)) for name in names]

    assert doubts("estimate") == [1, 0, 0]
    assert doubts("estimate", "loss") == [1, 1, 1]
    assert doubts() == [1, 1, 1]
    assert doubts("estimate", "dial", key="dials") == [1, 1, 1]
    # it is marked all the same
    doubts("estimate")
    assert [row.verdict for row in ranking.rank([record], attack=WORST).rows] == ["fail"]


def test_the_report_of_another_model_says_nothing(publish):
    record = publish("a", TWO)
    report(record, "fail", model="e" * 64)
    assert ranking.rank([record]).rows[0].doubts == ()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "[" * 100_000, "\udcff", '{"verdict": "fail"}'),
        '{"verdict": ["fail"], "model_fingerprint": "x"}',
        '{"verdict": "odd", "model_fingerprint": "x"}',
    ],
)
def test_a_report_that_cannot_be_read_says_nothing(publish, text):
    record = publish("a", TWO)
    path = record.entry_path.with_suffix(".integrity.json")
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert reliability.integrity_of(record) is None
    assert reliability.doubts(record, WORST) == []


@pytest.mark.parametrize(
    ("class_", "parameters", "enough"),
    [
        ("PGD", {}, False),
        ("EOTPGD", {}, True),
        ("EOTPGD", {"eot_iter": 1}, False),
        ("APGD", {"eot_iter": 20}, True),
        ("AutoAttack", {"version": "rand"}, True),
        ("AutoAttack", {"version": "standard"}, False),
    ],
)
def test_a_random_model_needs_the_attack_on_the_expectation(publish, class_, parameters, enough):
    plain = publish("a", TWO).entry.attacks[0]
    attack = plain.model_copy(update={"class_": class_, "parameters": parameters})
    record = publish("a", TWO, randomized=True, attacks=[attack])
    for name in ("pgd-20", WORST):
        assert (reliability.doubts(record, name) == []) is enough
