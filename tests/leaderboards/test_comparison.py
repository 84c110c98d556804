"""Comparing runs, against the outcomes that the numbers come from."""

import io

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.reports import comparison as reports
from oat_bench.results import comparison, records
from oat_bench.results.entries import make_entry
from oat_bench.results.outcomes import write_parquet
from oat_bench.results.points import summarize
from oat_bench.statistics import frontier, phases
from oat_bench.statistics.accuracy import WORST, Estimate
from oat_bench.statistics.phases import Design

ATTACKS = ["fgsm", "pgd-7"]
PLAIN = Design(ATTACKS)


def make_outcomes(seed, lambdas=(0.0, 0.15, 1.0), n=60, widths=(1.0,), lift=0.0):
    """Draw outcomes; ``lift`` makes a model better under attack."""
    draw = np.random.default_rng(seed)
    frames = []
    for width in widths:
        for lam in lambdas:
            clean = np.where(draw.random(n) < 0.95 - 0.1 * lam, 1, 2)
            for power in (0.5, 0.6):
                safe = draw.random(n) < lam**0.3 * (1 - power + lift)
                columns = {
                    "lam": lam,
                    "width": width,
                    "attack": ATTACKS[int(power > 0.5)],
                    "example": np.arange(n),
                    "label": 1,
                    "clean_prediction": clean,
                    "attacked_prediction": np.where(safe, clean, 3),
                }
                frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture
def write_run(build_classifier, tmp_path):
    def write_run(name, outcomes, *, with_outcomes=True, method="oat", design=PLAIN, **changes):
        info = build_classifier().info.model_copy(update={"method": method})
        attacks = [
            prepare(attack_card(attack), Threat(), n_classes=10, seed=0) for attack in ATTACKS
        ]
        entry = make_entry(
            info,
            summarize(outcomes, design, info.trained_at),
            attacks,
            model_fingerprint="",
            command="",
            eps=8 / 255,
            norm="Linf",
            design=design,
            frontiers=frontier.summarize(outcomes, design),
        ).model_copy(update=changes)
        folder = tmp_path / name
        folder.mkdir()
        (folder / "entry.json").write_text(entry.model_dump_json(by_alias=True))
        if with_outcomes:
            write_parquet(folder / "outcomes.parquet", outcomes)
        return folder

    return write_run


def right(outcomes, lam, attack=None):
    """Return who is right, clean or under an attack, in the order of the examples."""
    rows = outcomes[(outcomes["lam"] == lam) & (outcomes["width"] == 1.0)]
    clean = (rows["clean_prediction"] == rows["label"]).to_numpy()
    robust = clean & (rows["attacked_prediction"] == rows["label"]).to_numpy()
    of = {name: (rows["attack"] == name).to_numpy() for name in ATTACKS}
    if attack == WORST:
        return robust[of["fgsm"]] & robust[of["pgd-7"]]
    return clean[of["fgsm"]] if attack is None else robust[of[attack]]


@pytest.mark.parametrize("attack", ["fgsm", "pgd-7", WORST])
def test_every_difference_is_that_of_the_outcomes(write_run, attack):
    ours, theirs = make_outcomes(0, lift=0.2), make_outcomes(1)
    found = records.read_all([write_run("a", theirs), write_run("b", ours, method="pgd-at")])
    result = comparison.compare(found, attack=attack)
    assert result.reference == "OAT"
    assert result.shared == 60
    assert [(row.method, row.point.lam) for row in result.rows] == [
        (method, lam) for method in ("OAT", "PGD-AT") for lam in (0.0, 0.15, 1.0)
    ]
    assert all(row.clean_difference is None for row in result.rows[:3])
    for row in result.rows[3:]:
        for difference, name in ((row.clean_difference, None), (row.robust_difference, attack)):
            a, b = right(ours, row.point.lam, name), right(theirs, row.point.lam, name)
            assert difference.value == pytest.approx(100 * (a.mean() - b.mean()), abs=1e-4)
            only, other = int((a & ~b).sum()), int((b & ~a).sum())
            p = binomtest(only, only + other).pvalue if only + other else 1.0
            assert difference.p_value == pytest.approx(p)


def test_an_attack_that_saw_fewer_examples_changes_ra_alone(write_run):
    draws = [make_outcomes(seed, n=200) for seed in (0, 1)]
    fewer = [o[(o["attack"] == "fgsm") | (o["example"] < 40)] for o in draws]
    found = records.read_all([write_run(name, o) for name, o in zip("ab", fewer, strict=True)])
    result = comparison.compare(found, attack="pgd-7")
    volumes = []
    for total, outcomes in zip(result.totals, draws, strict=True):
        points = [
            (100 * right(outcomes, lam).mean(), 100 * right(outcomes, lam, "pgd-7")[:40].mean())
            for lam in (0.0, 0.15, 1.0)
        ]
        volumes.append(frontier.hypervolume(points))
        volume = total.hypervolume
        assert volume.value == pytest.approx(volumes[-1], abs=1e-4)
        assert volume.low <= volume.value <= volume.high
    assert result.totals[1].difference.value == pytest.approx(volumes[1] - volumes[0], abs=1e-4)
    assert (result.shared, result.attacked) == (200, 40)
    for row in result.rows[3:]:
        clean, robust = row.clean_difference, row.robust_difference
        assert (clean.n, robust.n) == (200, 40)
        ours, theirs = (right(o, row.point.lam) for o in reversed(draws))
        assert clean.value == pytest.approx(100 * (ours.mean() - theirs.mean()))
        ours, theirs = (right(o, row.point.lam, "pgd-7")[:40] for o in reversed(draws))
        assert robust.value == pytest.approx(100 * (ours.mean() - theirs.mean()))
    assert "(up to 200; for RA 40)" in reports.page(result).markdown()
    assert {row["n of RA"] for row in reports.page(result).tables[0].rows} == {"40"}


def of_survivors(outcomes, m):
    """Keep of pgd-7 the first m that fgsm left standing at each lambda."""
    fgsm = outcomes[outcomes["attack"] == "fgsm"]
    stands = fgsm[fgsm["attacked_prediction"] == fgsm["label"]].groupby("lam").head(m)
    keys = set(zip(stands["lam"], stands["example"], strict=True))
    kept = [key in keys for key in zip(outcomes["lam"], outcomes["example"], strict=True)]
    return outcomes[(outcomes["attack"] == "fgsm") | np.array(kept)]


def test_models_of_samples_are_compared_by_estimates(write_run):
    design = Design(ATTACKS, {"pgd-7": ["fgsm"]})
    few = [of_survivors(make_outcomes(seed, n=300, lift=0.3 * (1 - seed)), 40) for seed in (0, 1)]
    whole = make_outcomes(2, n=300)
    runs = [write_run(f"{k}", o, seed=k, design=design) for k, o in enumerate(few)]
    runs.append(write_run("whole", whole, seed=2))
    result = comparison.compare(records.read_all(runs), attack="pgd-7")
    reference, second, third = (result.rows[k : k + 3] for k in (0, 3, 6))
    for rows, others in ((second, few[1]), (third, whole)):
        for row, first in zip(rows, reference, strict=True):
            lam = row.point.lam
            ours = frontier.rightness(others, "pgd-7", design if rows is second else Design())
            theirs = frontier.rightness(few[0], "pgd-7", design)
            place = ours.lams.index(lam)
            found = row.robust_difference
            assert found.value == pytest.approx(row.robust.value - first.robust.value, abs=2e-4)
            assert found == phases.paired(ours.at(place), theirs.at(place))
            sampled = {one.robust.sampled for one in (row, first)} - {None}
            assert found.exact == (not sampled)
            assert row.clean_difference.exact
    assert (result.totals[1].difference.low) < result.totals[1].difference.value
    page = reports.page(result)
    assert {row["test"] for row in page.tables[0].rows} == {"", "two-phase"}
    assert {row["m"].split(" of ")[0] for row in page.tables[0].rows[:3]} <= {"", "40"}
    assert "Test two-phase: not all of both models' survivors were attacked" in page.markdown()
    frame = pd.read_csv(io.StringIO(reports.csv(result)))
    assert frame["sampled"].max() == 40
    # under an attack of one phase alone nothing of it is said
    plain = reports.page(comparison.compare(records.read_all(runs), attack="fgsm"))
    assert not {"m", "test"} & set(plain.tables[0].columns)
    assert "two-phase" not in plain.markdown()


def test_the_frontiers_are_compared_too(write_run):
    ours, theirs = make_outcomes(0, lift=0.4), make_outcomes(1)
    found = records.read_all([write_run("a", ours, method="pgd-at"), write_run("b", theirs)])
    result = comparison.compare(found, attack="pgd-7", reference=1)
    assert result.reference == "OAT"
    better, base = result.totals
    assert (better.method, base.method) == ("PGD-AT", "OAT")
    assert base.difference is base.distance is None
    points = {
        name: [
            (100 * right(o, lam).mean(), 100 * right(o, lam, "pgd-7").mean())
            for lam in (0.0, 0.15, 1.0)
        ]
        for name, o in (("ours", ours), ("theirs", theirs))
    }
    volumes = {name: frontier.hypervolume(p) for name, p in points.items()}
    # the entry rounds
    assert better.hypervolume.value == pytest.approx(volumes["ours"], abs=2e-4)
    assert better.difference.value == pytest.approx(volumes["ours"] - volumes["theirs"])
    assert better.difference.low < better.difference.value < better.difference.high
    assert better.hypervolume.low < better.hypervolume.value < better.hypervolume.high
    expected = frontier.distance(points["ours"], points["theirs"])
    assert better.distance.epsilon == pytest.approx(expected.epsilon, abs=0.02)
    assert better.hole.lam == 0.15


def test_only_common_examples_and_lambda_are_paired(write_run):
    few = make_outcomes(0, lambdas=(0.0, 1.0), n=40)
    found = records.read_all([write_run("a", make_outcomes(1)), write_run("b", few, seed=1)])
    result = comparison.compare(found)
    assert result.shared == 40
    first = make_outcomes(1)
    at_one = result.rows[-1]
    assert at_one.point.lam == 1.0
    a, b = right(few, 1.0, WORST), right(first, 1.0, WORST)[:40]
    assert at_one.robust_difference.value == pytest.approx(100 * (a.mean() - b.mean()), abs=1e-4)
    turned = comparison.compare(found, reference=1)
    assert [row.clean_difference is None for row in turned.rows] == [
        False,
        True,  # the reference has no 0.15
        False,
        True,
        True,
    ]


def test_without_outcomes_differences_are_those_of_the_entries(write_run):
    found = records.read_all(
        [
            write_run("a", make_outcomes(1), with_outcomes=False),
            write_run("b", make_outcomes(0), method="pgd-at"),
        ]
    )
    result = comparison.compare(found)
    assert result.shared == 0
    for row, other in zip(result.rows[3:], result.rows[:3], strict=True):
        assert row.robust_difference == row.robust.value - other.robust.value
    assert isinstance(result.totals[0].hypervolume, float)
    assert isinstance(result.totals[1].hypervolume, Estimate)
    assert isinstance(result.totals[1].difference, float)
    text = reports.page(result).markdown()
    assert "McNemar" not in text
    assert "p 0" not in text


def test_widths_are_compared_with_their_own(write_run):
    wide = make_outcomes(0, widths=(0.5, 1.0))
    found = records.read_all(
        [write_run("a", wide, method="oats"), write_run("b", make_outcomes(1), method="oat")]
    )
    result = comparison.compare(found)
    assert [total.method for total in result.totals] == ["OATS, width 1", "OATS, width 0.5", "OAT"]
    assert [total.difference is None for total in result.totals] == [True, True, False]
    against_narrow = comparison.compare(found, reference=1)
    assert [total.difference is None for total in against_narrow.totals] == [False, True, True]


def test_different_images_are_not_paired(write_run):
    other = make_outcomes(1).assign(label=2)
    found = records.read_all([write_run("a", make_outcomes(0)), write_run("b", other, seed=1)])
    with pytest.raises(UserError, match="OAT seed 1 and OAT seed 0 give the same example two"):
        comparison.compare(found)


def test_the_text_says_what_the_numbers_say(write_run):
    found = records.read_all(
        [write_run("a", make_outcomes(1)), write_run("b", make_outcomes(0, lift=0.4), seed=1)]
    )
    result = comparison.compare(found, attack="pgd-7")
    text = reports.page(result).markdown()
    lines = [line for line in text.splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0] == ["method", "lambda", "n", "SA", "RA", "SA difference", "RA difference"]
    assert [row[1] for row in cells[2:8]] == ["0", "0.15 *", "1"] * 2
    for row, shown in zip(result.rows, cells[2:8], strict=True):
        assert shown[0] == row.method
        assert shown[4].split()[0] == f"{row.robust.value:.1f}"
        if row.robust_difference is not None:
            assert shown[6].split()[0] == f"{row.robust_difference.value:+.1f}"
            assert "(p " in shown[6]
    assert cells[8][:3] == ["method", "hypervolume", "difference"]
    assert "Differences are to OAT seed 0" in text
    frame = pd.read_csv(io.StringIO(reports.csv(result)))
    assert frame["RA"].to_list() == [row.robust.value for row in result.rows]
    assert frame["RA p"].isna().to_list() == [True] * 3 + [False] * 3
    assert frame["RA difference"].to_list()[3:] == [
        row.robust_difference.value for row in result.rows[3:]
    ]


@pytest.mark.parametrize(
    ("reference", "expected", "words"),
    [
        (None, {0.15: 0.0, 1.0: 0.15}, "Differences are to the lambda before, in points."),
        (0.15, {0.0: 0.15, 1.0: 0.15}, "Differences are to lambda 0.15, in points."),
    ],
)
def test_the_lambda_of_a_run_alone_are_compared(write_run, reference, expected, words):
    outcomes = make_outcomes(0, n=200)
    found = records.read_all([write_run("a", outcomes)])
    result = comparison.compare(found, reference_lam=reference)
    assert result.attack == WORST
    compared = {row.point.lam: row for row in result.rows if row.reference_lam is not None}
    assert {lam: row.reference_lam for lam, row in compared.items()} == expected
    p_values, corrected = [], []
    for lam, row in compared.items():
        for difference, name in ((row.clean_difference, None), (row.robust_difference, WORST)):
            a, b = right(outcomes, lam, name), right(outcomes, expected[lam], name)
            only, other = int((a & ~b).sum()), int((b & ~a).sum())
            assert difference.value == pytest.approx(100 * (a.mean() - b.mean()), abs=1e-4)
            assert difference.low < difference.value < difference.high
            p_values.append(binomtest(only, only + other).pvalue if only + other else 1.0)
            corrected.append(difference.p_value)
    # Holm, by hand: of m tests the least p times m, the next times m - 1, never falling
    assert result.tests == len(p_values) == 4
    largest = 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (4 - rank) * p_values[place]))
        assert corrected[place] == pytest.approx(largest)
    assert min(corrected) < 0.05
    text = reports.page(result).markdown()
    assert f"{words} On the same examples (200): 95% intervals" in text
    assert "corrected by Holm for all 4 tests" in text
    points, totals = reports.page(result).tables
    assert "to lambda" in points.columns
    assert not {"epsilon", "difference"} & set(totals.columns)
    frame = pd.read_csv(io.StringIO(reports.csv(result)))
    assert frame["RA p"].dropna().to_list() == pytest.approx(corrected[1::2])
    assert frame.set_index("lambda")["to lambda"].dropna().to_dict() == expected


def test_the_lambda_of_every_width_are_compared_with_its_own(write_run):
    outcomes = make_outcomes(0, widths=(0.5, 1.0))
    result = comparison.compare(records.read_all([write_run("a", outcomes, method="oats")]))
    assert [(row.point.width, row.reference_lam) for row in result.rows] == [
        (width, lam) for width in (1.0, 0.5) for lam in (None, 0.0, 0.15)
    ]
    assert result.tests == 8
    narrow = outcomes[outcomes["width"] == 0.5].assign(width=1.0)
    a, b = right(narrow, 1.0, WORST), right(narrow, 0.15, WORST)
    assert result.rows[-1].robust_difference.value == pytest.approx(
        100 * (a.mean() - b.mean()), abs=1e-4
    )


def test_a_run_alone_without_outcomes_or_of_one_lambda(write_run):
    alone = write_run("a", make_outcomes(0), with_outcomes=False)
    result = comparison.compare(records.read_all([alone]))
    assert result.tests == 0
    row = result.rows[1]
    assert row.robust_difference == row.robust.value - result.rows[0].robust.value
    assert "McNemar" not in reports.page(result).markdown()
    one = write_run("b", make_outcomes(0, lambdas=(1.0,)))
    result = comparison.compare(records.read_all([one]))
    assert reports.page(result).tables[0].columns == ["method", "lambda", "n", "SA", "RA"]
    assert "Differences" not in reports.page(result).markdown()


def test_a_reference_lambda_is_of_a_run_alone_that_has_it(write_run):
    first, second = (write_run(name, make_outcomes(0), seed=k) for k, name in enumerate("ab"))
    with pytest.raises(UserError, match=r"the run has no lambda 0\.4; it has 0, 0\.15, 1"):
        comparison.compare(records.read_all([first]), reference_lam=0.4)
    with pytest.raises(UserError, match="--reference-lambda is for one run alone"):
        comparison.compare(records.read_all([first, second]), reference_lam=0.15)


def test_records_know_their_threat(write_run):
    record = records.read(write_run("a", make_outcomes(0)) / "entry.json")
    assert record.eps == 8 / 255
    assert record.worst_over() == ATTACKS
    assert len(record.outcomes()) == 60 * 6
    wide = record.entry.attacks[0].model_copy(update={"eps": 16 / 255})
    entry = record.entry.model_copy(update={"attacks": [wide, record.entry.attacks[1]]})
    assert records.Record(record.path, entry).worst_over() == ["pgd-7"]


def test_what_is_no_run_is_refused(tmp_path, write_run):
    run = write_run("a", make_outcomes(0))
    for path, words in (
        (tmp_path / "none", "no entry at"),
        (tmp_path, "no entry at"),
        ("x" * 5000, "no entry at"),
    ):
        with pytest.raises(UserError, match=words):
            records.read(path)
    text = (run / "entry.json").read_text()
    for broken in ("", "[]", text[:-20], text.replace('"8/255"', '"much"', 1), "\x00"):
        (run / "entry.json").write_text(broken)
        with pytest.raises(UserError, match="not an entry of oat-bench") as refusal:
            records.read(run)
        assert "\n" not in str(refusal.value)
    (run / "entry.json").write_text(
        text.replace('"operating_points":[', '"operating_points":[],"x":[')
    )
    with pytest.raises(UserError, match="not an entry"):
        records.read(run)


def test_an_entry_of_nothing_is_refused(tmp_path, write_run):
    run = write_run("a", make_outcomes(0), operating_points=[])
    with pytest.raises(UserError, match="the entry has no operating points"):
        records.read(run)
