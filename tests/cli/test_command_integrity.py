"""`oat-bench integrity` as a user meets it."""

import json
import re
import shlex
from pathlib import Path

import pytest
from commands import files, in_terminal

import oat_bench
from oat_bench.evaluation import examination
from oat_bench.results.integrity import Integrity

#: a minute less than by default
BRIEFLY = ["--attacks", "fgsm,pgd-7,pgd-20", "--lambda", "1", "--n-examples", "40,square=20"]


def test_integrity_prints_a_verdict_and_writes_it(invoke, finished):
    code, out, err = invoke("integrity", finished, *BRIEFLY)
    assert (code, err) == (0, f"report and outcomes in {finished}\n")
    assert out == (finished / "integrity.md").read_text()
    assert "\x1b" not in out
    assert out.startswith("**digits, wrn-10-1, OAT, Linf eps 0.2: attack integrity: ")
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line[:1] == "|"]
    assert [cell.strip() for cell in rows[0]] == ["check", "verdict", "evidence"]
    report = Integrity.model_validate_json((finished / "integrity.json").read_text())
    (point,) = report.operating_points
    assert (point.lam, point.width, report.n, report.fewer_examples) == (1, 1, 40, {"square": 20})
    printed = [
        [cell.strip() for cell in row] for row in rows if row[0].strip("-: ") not in ("", "check")
    ]
    (dial,) = report.dials
    checks = [*point.checks, *dial.checks]
    assert printed == [[check.name, check.verdict, check.evidence] for check in checks]
    assert len(printed) == 12
    assert report.verdict == point.verdict != "fail"
    # the whole dial, whatever lambda is examined
    assert (dial.width, dial.n, dial.verdict) == (1, 40, "pass")
    assert {0, 0.005, 0.25, 0.5, 1} < set(dial.checks[0].numbers["lambda"])
    assert "\nall lambda values, n 40: pass\n" in out
    assert report.model_fingerprint == oat_bench.load(finished).fingerprint()
    assert report.command == shlex.join(["oat-bench", "integrity", str(finished), *BRIEFLY])

    # once more: nothing is computed, the same is printed
    before = files(finished / "outcomes")
    assert invoke("integrity", finished, *BRIEFLY) == (0, out, err)
    assert files(finished / "outcomes") == before


def test_integrity_fails_a_model_whose_softmax_is_saturated(invoke, finished, tmp_path):
    """The honest model's weights, its logits a million times as large."""
    honest = oat_bench.load(finished)
    state = honest.state_dict()
    for name in ("backbone.linear.weight", "backbone.linear.bias"):
        state[name] = 1e6 * state[name]
    oat_bench.save(type(honest).from_state(honest.info, state), tmp_path / "masked.safetensors")
    code, out, err = invoke("integrity", "masked.safetensors", *BRIEFLY)
    assert (code, err.count("\n")) == (1, 1)
    assert "attack integrity: fail" in out
    rows = [[cell.strip() for cell in line.split("|")] for line in out.splitlines()]
    failed = {row[1] for row in rows if row[2:3] == ["fail"]}
    assert {"eps sweep", "loss", "zero gradients"} <= failed
    # results of a checkpoint lie under its fingerprint
    (folder,) = Path("runs").iterdir()
    assert json.loads((folder / "integrity.json").read_text())["verdict"] == "fail"


@pytest.mark.parametrize("command", ["integrity", "transfer"])
def test_an_exported_file_is_a_model_like_any_other(invoke, finished, command):
    """Of one lambda: that is the one."""
    where = ["--lambda", "0.5", "--out", "fixed.onnx"]
    assert invoke("export", finished, *where)[0] == 0
    few = {"integrity": BRIEFLY[:2], "transfer": ["--attack", "fgsm"]}[command]
    arguments = [command, "fixed.onnx", *few, "--n-examples", "10", "--out", "results"]
    code, out, err = invoke(*arguments)
    assert (code, err.endswith(" in results\n")) == (0, True)
    assert re.search(r"^lambda 0\.5: |^\| +0\.5 \|", out, re.MULTILINE)
    code, out, err = invoke(*arguments, "--lambda", "1")
    assert (code, out) == (2, "")
    assert "lambda 1 asked for; fixed.onnx is the network at lambda 0.5 alone" in err


def test_integrity_in_a_terminal(finished, tmp_path):
    arguments = ["integrity", finished, "--attacks", "fgsm", "--lambda", "1", "--n-examples", "10"]
    code, shown = in_terminal(*arguments, cwd=tmp_path, columns=80)
    assert code == 0
    assert "\x1b[32mpass" in shown
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= max(80, len(f"report and outcomes in {finished}"))
    assert "examining" in shown
    names = [line.split("  ")[0] for line in lines]
    assert "eps sweep" in names


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing argument 'MODEL'"),
        (["nowhere"], "no checkpoint at nowhere"),
        (["RUN", "--attacks", "pgd-8"], "unknown attack in a known order 'pgd-8'; did you mean"),
        (["RUN", "--lambda", "2"], "lambda 2 is outside [0, 1]"),
        (["RUN", "--widths", "0.5"], "width 0.5 asked for; the network has 1"),
        (["RUN", "--n-examples", "900"], "900 examples asked for; the test set has 800"),
        (["RUN", "--n-examples", "9,dial=900"], "900 examples asked for; the test set has 800"),
        (["RUN", "--n-examples", "9,pgd=3"], "unknown attack with fewer examples 'pgd'; did you"),
        (["RUN", "--dataset", "mnist"], "unknown data set 'mnist'"),
    ],
)
def test_bad_input_of_integrity_is_one_line(refused, finished, monkeypatch, arguments, words):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("it went on")

    monkeypatch.setattr(examination, "outcomes", forbidden)
    places = {"RUN": finished}
    assert words in refused("integrity", *[places.get(word, word) for word in arguments])
    assert not list(finished.glob("integrity.*"))
