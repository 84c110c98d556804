"""`oat-bench transfer` as a user meets it."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from commands import in_terminal


def test_transfer_prints_what_it_writes(invoke, finished, tmp_path):
    options = ["--attack", "pgd-7", "--lambda", "0,0.2,1", "--n-examples", "40"]
    code, out, err = invoke("transfer", finished, *options)
    assert code == 0, err
    assert out == (finished / "transfer.md").read_text()
    headings = [line for line in out.splitlines() if line.startswith("### ")]
    assert len(headings) == 4
    frame = pd.read_parquet(finished / "transfer.parquet")
    assert len(frame) == 3 * 3 * 40
    report = json.loads((finished / "transfer.json").read_text())
    right = (frame["clean_prediction"] == frame["label"]) & (
        frame["attacked_prediction"] == frame["label"]
    )
    for cell in report["cells"]:
        rows = (frame["crafted"] == cell["crafted"]) & (frame["lam"] == cell["lam"])
        assert cell["ra"]["value"] == round(100 * right[rows].mean(), 2)
    assert {path.name for path in finished.glob("transfer.*")} == {
        *(f"transfer.{end}" for end in ("md", "csv", "json", "parquet", "png", "svg"))
    }
    drawn = pd.read_parquet(finished / "random-lambda.parquet")
    assert len(drawn) == 3 * 40
    right = (drawn["clean_prediction"] == drawn["label"]) & (
        drawn["attacked_prediction"] == drawn["label"]
    )
    table = pd.read_csv(finished / "random-lambda.csv", index_col="attacked")
    assert table["expected RA"]["expectation"] == pytest.approx(100 * right.mean(), abs=1e-4)
    # nothing is attacked twice, and a threat model of its own is listed as such
    assert invoke("transfer", finished, *options)[1] == out
    code, listed, _ = invoke("results", finished)
    assert code == 0
    assert listed.count(" expectation over lambda 0, 0.2, 1 ") == 3
    assert listed.count(" lambda 0.2 ") >= 3


def test_transfer_between_lambda_that_were_chosen(invoke, finished):
    options = ["--attack", "pgd-7", "--n-examples", "10", "--crafted", "0.5", "--lambda", "0,1"]
    code, out, err = invoke("transfer", finished, *options, "--no-random-lambda", "--out", "there")
    assert (code, err) == (0, "tables, outcomes and figure in there\n")
    assert [line for line in out.splitlines() if line.startswith("### ")] == [
        "### Lambda is unknown to the attacker: attacked at one lambda, classified at another",
        "### Lambda is public, and the attacker may attack at any lambda: the worst for each image",
    ]
    assert "Masked gradients were not looked for" in out
    assert not list(Path("there").glob("random-lambda.*"))
    code, out, err = invoke("transfer", finished, *options, "--draw", "1=3,0", "--out", "there")
    assert (code, err.count("\n")) == (0, 2)
    assert err.startswith(
        "there/transfer.json: replaced; the earlier one was of oat-bench transfer "
    )
    assert "Lambda is drawn from 0, 1, with chances 0.25, 0.75." in out
    assert len(list(Path("there").glob("random-lambda.*"))) == 2


def test_transfer_in_a_terminal(finished, tmp_path):
    options = ["--attack", "pgd-7", "--n-examples", "10", "--lambda", "0,1", "--device", "cpu"]
    code, shown = in_terminal("transfer", finished, *options, cwd=tmp_path, columns=100)
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= max(100, len(str(finished)) + 40)
    assert sum(line.startswith("Lambda is ") for line in lines) >= 4
    assert "attacking the expectation" in shown


def test_transfer_refuses_what_it_cannot_do(invoke, finished, tmp_path):
    for options, words in (
        (["--crafted", "2"], "lambda 2 is outside [0, 1]"),
        (["--draw", "0=x"], "'0=x'; expected such as 0,0.4,1 or 0=1,0.4=2,1=1"),
        (["--draw", "0,1=0"], "'1=0'; expected each lambda once, with a weight above 0"),
        (["--draw", "0,0"], "'0'; expected each lambda once, with a weight above 0"),
        (["--draw", "0,nan"], "lambda nan is outside [0, 1]"),
        (["--draw", "0,0.3"], "--draw has lambda 0.3; expected some of --lambda: 0, 0.5, 1"),
        (["--draw", "0,1", "--no-random-lambda"], "--draw is for the attack that --no-random"),
        (["--draw", "0,1", "--attack", "fgsm"], "cannot attack the expectation over lambda"),
        (["--attack", "pgd"], "unknown attack 'pgd'"),
        (["--n-examples", "5000"], "5000 examples asked for; the test set has 800"),
        (["--width", "0.5"], "width 0.5 asked for; the network has 1"),
        (["--attack", "fgsm", "--random-lambda"], "cannot attack the expectation over lambda"),
    ):
        code, out, err = invoke("transfer", finished, *options)
        assert (code, out) == (2, "")
        assert words in err
        assert err.count("\n") == 1
