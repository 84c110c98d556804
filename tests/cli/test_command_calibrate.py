"""`oat-bench calibrate` as a user meets it."""

import pytest

from oat_bench import calibration
from oat_bench.cli.values import AMOUNT, SHARE
from oat_bench.errors import UserError
from oat_bench.reports.calibration import sentence

BRIEFLY = ["--split", "test", "--n-examples", "120", "--attack", "pgd-7"]


def test_it_prints_what_it_writes_and_computes_nothing_twice(invoke, finished, monkeypatch):
    arguments = ["calibrate", finished, "--min-sa", "80%", *BRIEFLY]
    code, out, err = invoke(*arguments)
    assert (code, err) == (0, f"report, picture and outcomes in {finished}\n")
    assert out == (finished / "calibration.md").read_text()
    assert out.startswith(
        "**digits, wrn-10-1, OAT: the highest RA under pgd-7 whose SA is at least 80%, Linf eps 0.2"
    )
    found = calibration.Calibration.read(finished / "calibration.json")
    assert (found.goal, found.value, found.confidence) == ("min-sa", 0.8, 0.95)
    assert found.command == f"oat-bench calibrate {finished} --min-sa 80% {' '.join(BRIEFLY)}"
    assert sentence(found) in out
    assert f"model = classifier.at(lam={found.choice.lam!r})  # RA under pgd-7: " in out
    assert "Warning: pgd-7 alone overestimates RA" in out
    assert f"{100 * found.spent.passes / found.grid.passes:.0f}% of the passes" in out
    assert {path.name for path in finished.glob("calibration.*")} == {
        f"calibration.{end}" for end in ("json", "md", "png", "svg")
    }
    before = {path: path.stat().st_mtime_ns for path in finished.glob("outcomes/*/*.parquet")}
    assert before
    assert invoke(*arguments) == (0, out, err)
    after = {path: path.stat().st_mtime_ns for path in finished.glob("outcomes/*/*.parquet")}
    assert after == before


def test_what_cannot_be_guaranteed_has_exit_code_1(invoke, finished):
    code, out, err = invoke("calibrate", finished, "--min-ra", "95%", *BRIEFLY)
    assert (code, err) == (1, f"report, picture and outcomes in {finished}\n")
    assert "No operating point can be guaranteed, with confidence 95%, to have an RA" in out
    assert calibration.Calibration.read(finished / "calibration.json").choice is None


def test_a_weight_and_limits(invoke, finished):
    options = ["--sa-weight", "0.5", "--max-flops", "1G", "--max-latency", "1e6"]
    code, out, _ = invoke("calibrate", finished, *options, *BRIEFLY)
    assert code == 0
    assert "Run it at lambda " in out
    assert "0.5 SA + 0.5 RA is" in out
    (cost,) = calibration.Calibration.read(finished / "calibration.json").costs
    assert cost.fits
    assert f"{cost.flops:.3g} FLOPs" in out


@pytest.mark.parametrize(("budget", "label"), [("1e9", "autoattack"), ("0", "apgd")])
def test_the_attack_is_the_strongest_that_there_is_time_for(
    invoke, finished, monkeypatch, budget, label
):
    taken = []

    def stopping(_model, _data, attack, *_args, **_options):
        taken.append(attack.label)
        raise UserError("stopped")

    monkeypatch.setattr(calibration, "calibrate", stopping)
    code, out, err = invoke(
        "calibrate", finished, "--min-sa", "80%", *BRIEFLY[:4], "--budget", budget
    )
    assert (code, out, taken) == (2, "", [label])
    note, stopped = err.splitlines()
    assert stopped == "oat-bench: stopped"
    assert note.startswith(f"RA is under {label}")
    assert ("--attack autoattack forces it" in note) == (label == "apgd")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "got none; expected one of --min-sa, --min-ra and --sa-weight"),
        (["--min-sa", "0.9", "--min-ra", "0.3"], "got --min-sa and --min-ra; expected one"),
        (["--min-sa", "95"], "'95' may be a share or percent; write 0.95 or 95%"),
        (["--min-sa", "much"], "expected such as 0.95 or 95%"),
        (["--min-sa", "1"], "1 is out of range"),
        (["--min-ra", "0%"], "0% is out of range"),
        (["--min-ra", "nan"], "nan is out of range"),
        (["--sa-weight", "150%"], "150% is out of range; expected a share from 0 to 1"),
        (["--min-sa", "0.9", "--confidence", "1"], "1 is out of range"),
        (["--min-sa", "0.9", "--max-flops", "few"], "such as 1e6 or 1.5M"),
        (["--min-sa", "0.9", "--max-flops", "10"], "no width keeps to --max-flops"),
        (["--min-sa", "0.9", "--widths", "0.5"], "width 0.5 asked for; the network has 1"),
        (["--min-sa", "0.9", "--n-examples", "101"], "the validation split has 100"),
        (["--min-sa", "99%"], "100 held-out images are too few: 75 of them test the bar"),
        (["--min-sa", "0.9", "--dataset", "svhn"], "trained on 'digits', not on 'svhn'"),
        (["--min-sa", "0.9", "--dataset", "nothing"], "unknown data set 'nothing'"),
        (["--min-sa", "0.9", "--attack", "pdg-7"], "did you mean pgd-7"),
        (["--min-sa", "0.9", "--budget", "nan"], "'nan' is not a number"),
    ],
)
def test_bad_input_is_one_line(invoke, finished, monkeypatch, arguments, words):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("it went on")

    monkeypatch.setattr(calibration, "calibrate", forbidden)
    code, out, err = invoke("calibrate", finished, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("oat-bench: ")
    assert err.count("\n") == 1
    assert words in err
    assert not list(finished.glob("calibration.*"))


@pytest.mark.parametrize("written", ["0.8", "80%", " 80% ", "8e-1"])
def test_a_fraction_is_the_same_as_percent(written):
    assert SHARE.convert(written, None, None) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("written", "number"), [("1e6", 1e6), ("1.5M", 1.5e6), ("387 k", 387e3), ("2G", 2e9)]
)
def test_amounts(written, number):
    assert AMOUNT.convert(written, None, None) == pytest.approx(number)
