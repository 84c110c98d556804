"""What stores hold, listed."""

import pandas as pd
import pytest

from oat_bench.attacks.cell import CellInfo
from oat_bench.errors import UserError
from oat_bench.results import listing as results
from oat_bench.results.outcomes import COLUMNS, OutcomeStore
from oat_bench.statistics.accuracy import Accuracy

INFO = {
    "dataset": "digits",
    "data": "d0",
    "method": "oat",
    "architecture": "wrn-10-1",
    "model": "abc123",
    "lam": 0.5,
    "width": 1.0,
    "attack": "pgd-7",
    "part": 1,
    "parts": 1,
    "engine": "oat_bench",
    "norm": "Linf",
    "eps": 0.3,
    "seed": 0,
    "card": "c0",
    "gradients": "float32",
}


def fill(folder, name, rows, **changes):
    store = OutcomeStore(folder)
    store.describe(name, lambda: CellInfo(**INFO | changes))
    store.append(name, pd.DataFrame(rows, columns=COLUMNS))


@pytest.fixture
def runs(tmp_path):
    # of four examples one is wrong already and one is broken
    rows = [(0, 1, 1, 1), (1, 2, 2, 0), (2, 3, 0, 0), (3, 1, 1, 1)]
    fill(tmp_path / "runs" / "a" / "outcomes", "one", rows)
    fill(tmp_path / "runs" / "a" / "outcomes", "two", rows[:2], lam=1.0, attack="fgsm")
    fill(tmp_path / "runs" / "deep" / "b" / "outcomes", "one", rows, model="def456", seed=1)
    return tmp_path / "runs"


def test_every_cell_of_every_store_is_counted(runs):
    table = results.summarize(results.outcomes(results.stores([runs])))
    found = {
        (row.store.split("runs/")[1], row.lam, row.attack): (row.n, row.sa, row.ra)
        for row in table.itertuples()
    }
    assert found == {
        ("a/outcomes", 0.5, "pgd-7"): (4, 75.0, 50.0),
        ("a/outcomes", 1.0, "fgsm"): (2, 100.0, 50.0),
        ("deep/b/outcomes", 0.5, "pgd-7"): (4, 75.0, 50.0),
    }
    assert (table["ra_low"] < table["ra"]).all()


def test_a_runs_folder_is_named_as_well_as_what_holds_it(runs):
    assert results.stores([runs / "a"]) == [runs / "a" / "outcomes"]
    assert results.stores([runs / "a", runs]) == results.stores([runs])


def test_of_an_attack_in_parts_only_what_is_settled_counts(tmp_path):
    # part 1 breaks example 0 and leaves 1, 2, 3; part 2 has only seen 1 and 2, and breaks 2
    fill(tmp_path / "o", "p1", [(i, 1, 1, int(i > 0)) for i in range(4)], part=1, parts=2)
    fill(tmp_path / "o", "p2", [(1, 1, 1, 1), (2, 1, 1, 0)], part=2, parts=2)
    frame = results.outcomes([tmp_path / "o"])
    assert sorted(frame["example"]) == [0, 1, 2]
    (row,) = results.summarize(frame).itertuples()
    assert (row.n, row.sa, round(row.ra, 2)) == (3, 100.0, 33.33)


def test_filters_keep_what_they_name(runs):
    frame = results.outcomes(results.stores([runs]))
    assert set(results.only(frame, "attack", "fgsm")["lam"]) == {1.0}
    assert set(results.only(frame, "model", "def", prefix=True)["seed"]) == {1}
    assert len(results.only(frame, "attack", "fgsm, pgd-7")) == len(frame)
    with pytest.raises(UserError, match=r"unknown attack in these results 'pgd-8'; did you mean"):
        results.only(frame, "attack", "pgd-8")


def test_folders_that_are_not_there_are_refused_and_empty_ones_are_empty(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*; name a run's folder"):
        results.stores([tmp_path / "none"])
    assert results.summarize(results.outcomes(results.stores([tmp_path]))).empty


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"lam": 7}', "\0\xff", "[" * 100_000])
def test_a_damaged_description_is_named(runs, content):
    path = runs / "a" / "outcomes" / "one" / "cell.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"cell\.json: not the description of a cell") as refused:
        results.outcomes([runs / "a" / "outcomes"])
    assert "\n" not in str(refused.value)


def test_a_description_too_large_is_not_read(runs):
    (runs / "a" / "outcomes" / "one" / "cell.json").write_text(" " * (2 << 20))
    with pytest.raises(UserError, match="too large"):
        results.outcomes([runs / "a" / "outcomes"])


def test_an_attack_on_survivors_is_listed_with_all_examples_and_its_sample(tmp_path):
    # of ten one is wrong and four are broken; of the five that stand three are attacked, one breaks
    stands = [5, 6, 7, 8, 9]
    rows = [(i, 1, 1 if i else 0, 1 if i in stands else 0) for i in range(10)]
    fill(tmp_path / "o", "cheap", rows)
    costly = [(5, 1, 1, 1), (6, 1, 1, 0), (7, 1, 1, 1)]
    fill(tmp_path / "o", "costly", costly, attack="autoattack", card="c1")
    # the same on the first three alone is of these, as one had fallen
    fill(tmp_path / "o", "few", rows[:3], attack="fgsm", card="c2")
    table = results.summarize(results.outcomes([tmp_path / "o"])).set_index("attack")
    found, expected = table.loc["autoattack"], Accuracy.two_phase(10, 5, 3, 2)
    assert (found["n"], found["left"], found["sampled"], found["sa"]) == (10, 5, 3, 90.0)
    assert (found["ra"], found["ra_low"]) == (expected.value, expected.low)
    assert (table.loc["fgsm", "n"], table.loc["fgsm", "ra"]) == (3, 0.0)
    shown = results.shown(table.reset_index()).set_index("attack")
    assert shown["m"].to_dict() == {"autoattack": "3 of 5", "fgsm": "", "pgd-7": ""}
    # a first n of the same attack, seen before, makes the sample no other
    OutcomeStore(tmp_path / "o").sampled("costly", ["pgd-7"])
    before = pd.DataFrame([(0, 1, 0, 0), (1, 1, 1, 0), (8, 1, 1, 1)], columns=COLUMNS)
    OutcomeStore(tmp_path / "o").append("costly", before)
    table = results.summarize(results.outcomes([tmp_path / "o"])).set_index("attack")
    found, expected = table.loc["autoattack"], Accuracy.two_phase(10, 5, 4, 3)
    assert (found["n"], found["left"], found["sampled"], found["sa"]) == (10, 5, 4, 90.0)
    assert (found["ra"], found["ra_high"]) == (expected.value, expected.high)
    # with a sample after another attack, which broke 7, it is 5, 6, 8 of what both leave
    OutcomeStore(tmp_path / "o").sampled("costly", ["fgsm"])
    fgsm = [(i, 1, 1, int(i != 7)) for i in stands]
    OutcomeStore(tmp_path / "o").append("few", pd.DataFrame(fgsm, columns=COLUMNS))
    table = results.summarize(results.outcomes([tmp_path / "o"])).set_index("attack")
    found, expected = table.loc["autoattack"], Accuracy.two_phase(8, 4, 3, 2)
    assert (found["n"], found["left"], found["sampled"]) == (8, 4, 3)
    assert (found["ra"], found["ra_high"]) == (expected.value, expected.high)
