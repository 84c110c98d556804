"""`--eps`, `--norm`, `--epochs`, `--batch-size`, `--set`, and `oat-bench show card`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import oat_bench
from oat_bench import calibration, cards
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.cards import Threat
from oat_bench.errors import UserError
from oat_bench.results.entries import Entry

FEW = ["--n-examples", "10", "--lambda", "1", "--attacks", "fgsm"]


@pytest.fixture
def resolved(monkeypatch):
    """Stop a command where its card is resolved; return the cards."""
    found = []

    def stop(card, *_, **__):
        found.append(card)
        raise UserError("stopped")

    monkeypatch.setattr("oat_bench.run.train", stop)
    return found


@pytest.fixture
def evaluated(monkeypatch):
    """Stop an evaluation before anything is attacked; return its card and its folder."""
    found = []

    def stop(_model, card, *_, out, **__):
        found.append((card, out))
        raise UserError("stopped")

    monkeypatch.setattr("oat_bench.result.measured", stop)
    return found


# --- training and evaluation


def test_a_run_trains_and_attacks_by_what_was_changed(invoke, card):
    knobs = ["--eps", "4/255", "--epochs", 1, "--set", "training.lr=1/20"]
    command = ["run", "--benchmark", card, *knobs, *FEW]
    code, out, err = invoke(*command)
    assert code == 0, err
    folder = Path("runs/brief-eps-4-255-epochs-1-lr-0.05-seed0")
    info = oat_bench.load(folder).info
    assert info.threat == Threat(eps="4/255", step_size="1/255")
    assert info.epochs == 1
    entry = Entry.read(folder / "entry.json")
    assert (entry.eps, entry.attacks[0].eps) == ("4/255", 4 / 255)
    assert "Linf eps 4/255" in out
    # what it was made by is beside it, and makes the same
    written = benchmark_card(str(folder / "card.toml"))
    assert (written.training.lr, written.evaluation.n_examples) == (0.05, 10)
    again = ["run", "--benchmark", folder / "card.toml"]
    code, same, err = invoke(*again)
    assert (code, same) == (0, out)
    assert err.startswith(f"{folder}/checkpoint.safetensors: trained already\n")
    assert [path.name for path in Path("runs").iterdir()] == [folder.name]
    code, out, _ = invoke("show", "card", folder)
    assert (code, out) == (0, (folder / "card.toml").read_text())


def test_an_evaluation_attacks_by_the_threat_model_of_the_model(invoke, card, finished, evaluated):
    """Or by that of a card that is named; options come after either."""
    half = ["--eps", "0.1"]
    for options, threat, name in (
        ([], (0.2, 0.05), "digits"),
        (half, (0.1, 0.025), "digits-eps-0.1"),
        ([*half, "--set", "threat.step_size=0.1"], (0.1, 0.1), "digits-eps-0.1-step_size-0.1"),
        (["--benchmark", "digits"], (3 / 16, 3 / 64), "digits"),
        (["--benchmark", "digits", *half], (0.1, 0.025), "digits-eps-0.1"),
        (["--benchmark", card, "--eps", "1/5"], (0.2, 0.05), "brief"),
    ):
        code, _, err = invoke("evaluate", finished, *options, *FEW)
        assert (code, err) == (2, "oat-bench: stopped\n")
        found, folder = evaluated.pop()
        assert found.threat == Threat(eps=threat[0], step_size=threat[1])
        assert folder.name == f"{name}-{oat_bench.load(finished).fingerprint()[:8]}"


def test_lambda_values_by_key_are_those_of_a_model_of_ones_own_too(invoke, evaluated):
    Path("mine.py").write_text(
        "from torch import nn\n"
        "class Dial:\n"
        "    def at(self, lam):\n"
        "        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()\n"
        "build = Dial\n"
    )
    for options, expected in (
        ([], [0, 0.1, 0.2, 0.3, 0.4, 1]),
        (["--set", "evaluation.lambdas=0,1"], [0, 1]),
        (["--set", "evaluation.lambdas=0,1", "--lambda", "0.4"], [0.4]),
    ):
        few = ["--attacks", "fgsm", "--n-examples", 10, *options]
        code, _, err = invoke("evaluate", "./mine.py:build", "--dataset", "digits", *few)
        assert (code, err) == (2, "oat-bench: stopped\n")
        assert evaluated.pop()[0].evaluation.lambdas == expected


def test_another_recipe_is_not_resumed_and_leaves_the_card_alone(invoke, card, finished):
    before = (finished / "card.toml").read_bytes()
    code, out, err = invoke("train", "--benchmark", card, "--epochs", 5, "--out", finished)
    assert (code, out) == (2, "")
    assert "was trained by another card" in err
    (finished / "checkpoint.safetensors").unlink()  # a run that was killed
    code, out, err = invoke("train", "--benchmark", card, "--epochs", 5, "--out", finished)
    assert (code, out) == (2, "")
    assert "belongs to a run with another card" in err
    assert (finished / "card.toml").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "section", "expected"),
    [
        # one name, one meaning a command: of training where nothing is attacked
        (["train", "--batch-size", 32], "training", {"batch_size": 32}),
        (["run", "--batch-size", 32], "training", {"batch_size": 64}),
        (["run", "--batch-size", 32], "evaluation", {"batch_size": 32}),
        (["run", "--set", "training.batch_size=32"], "training", {"batch_size": 32}),
        (["run", "--epochs", 2], "training", {"epochs": 2}),
        # options of their own come after --set, a later --set after an earlier one
        (["run", "--set", "training.epochs=3", "--epochs", 2], "training", {"epochs": 2}),
        (["run", "--epochs", 2, "--set", "training.epochs=3"], "training", {"epochs": 2}),
        (["run", "--set", "training.epochs=3", "--set", "training.epochs=2"], "training", None),
        (["run", "--set", "evaluation.n_examples=9"], "evaluation", {"n_examples": 9}),
        (
            ["run", "--set", "evaluation.n_examples=9", "--n-examples", 8],
            "evaluation",
            {"n_examples": 8},
        ),
        (["run", "--set", "evaluation.attacks=fgsm"], "evaluation", {"attacks": "fgsm"}),
        (["run", "--eps", "8/255"], "threat", {"eps": 8 / 255, "step_size": 2 / 255}),
        (["run", "--eps", " 8 / 255 "], "threat", {"eps": 8 / 255}),
        (["run", "--eps", "0.03"], "threat", {"eps": 0.03}),
        (["run", "--eps", "0"], "threat", {"eps": 0, "step_size": 0}),
        (["train", "--eps", "0.5", "--norm", "L2"], "threat", {"eps": 0.5, "norm": "L2"}),
        (["run", "--set", "threat.eps=1", "--eps", "0.1"], "threat", {"eps": 0.1}),
        (["train", "--method", "pgd-at", "--set", "network.dropout=0.1"], "network", None),
        (["train", "--widths", "0.5", "--set", "network.heads=shared"], "network", None),
    ],
)
def test_what_comes_after_what(invoke, card, resolved, arguments, section, expected):
    if expected is None:
        expected = {"training": {"epochs": 2}, "network": {}}[section]
    code, _, err = invoke(*arguments, "--benchmark", card)
    assert (code, err) == (2, "oat-bench: stopped\n")
    values = getattr(resolved[0], section)
    assert {key: getattr(values, key) for key in expected} == pytest.approx(expected)


def test_method_and_widths_go_with_values_by_key(invoke, card, resolved):
    arguments = ["--method", "pgd-ats", "--widths", "1,0.5", "--set", "network.heads=per-width"]
    # the widths come last: one head for each of one width is refused before
    code, _, err = invoke("train", "--benchmark", card, *arguments)
    assert code == 2
    assert 'heads = "per-width" needs several widths' in err
    arguments = ["--method", "pgd-ats", "--widths", "1,0.5", "--set", "training.lambdas=0,1"]
    code, _, err = invoke("train", "--benchmark", card, *arguments)
    assert (code, err) == (2, "oat-bench: stopped\n")
    (found,) = resolved
    assert found.name == "brief-pgd-ats-lambdas-0-1-widths-1-0.5"
    assert (found.training.lambdas, found.network.widths) == ([0, 1], [1, 0.5])


def test_all_is_the_suite_of_the_norm_that_an_option_names(invoke, card, monkeypatch):
    found = []

    def stop(_model, _card, _data, attacks, **_options):
        found.extend(attacks)
        raise UserError("attacking")

    monkeypatch.setattr("oat_bench.result.measured", stop)
    options = ["--norm", "L2", "--eps", 1, "--epochs", 1, "--attacks", "all,-autoattack"]
    code, _, err = invoke("run", "--benchmark", card, *options)
    assert code == 2
    assert "left out" not in err
    assert [attack.label for attack in found] == ["fgm", "mi-fgm", "pgd-7", "pgd-20"]
    code, _, err = invoke("run", "--benchmark", card, *options[:-1], "all,-autoatack")
    assert (code, "did you mean autoattack" in err, len(err.splitlines())) == (2, True, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--eps", "8/0"], "'8/0'; expected a number or a fraction, such as 0.03 or 8/255"),
        (["run", "--eps", "-1"], "'-1'; expected a number"),
        (["run", "--eps", "nan"], "'nan'; expected a number"),
        (["run", "--eps", "inf"], "'inf'; expected a number"),
        (["run", "--eps", "1/2/3"], "'1/2/3'; expected a number"),
        (["run", "--eps", ""], "''; expected a number"),
        (["run", "--eps", "8"], "did you mean --eps 8/255?"),
        (["run", "--norm", "L2"], "such as --eps 0.5"),
        (["run", "--norm", "L1"], "'Linf', 'L2'"),
        (["run", "--epochs", "0"], "0 is not in the range"),
        (["train", "--batch-size", "1"], "1 is not in the range"),
        (
            ["run", "--set", "training.lr"],
            "'training.lr'; expected KEY=VALUE, such as training.lr=",
        ),
        (["run", "--set", "=3"], "'=3'; expected KEY=VALUE"),
        (["run", "--set", "training.lrr=3"], "did you mean training.lr"),
        (["train", "--set", "lr=3"], "unknown key 'lr'; did you mean training.lr?"),
        (["train", "--set", "training.lr=fast"], "training.lr: expected a number or a fraction"),
        (["train", "--set", "method.path=x"], "unknown key 'path'"),
        (["train", "--dataset", "digits", "--set", "network.widths=1,0.5"], "has several widths"),
        (
            ["evaluate", "MODEL", "--set", "training.lr=3"],
            "--set training.lr: the model is trained",
        ),
        (["run", "--model", "MODEL", "--epochs", "3"], "--set training.epochs: the model is train"),
        (["evaluate", "MODEL", "--set", "thread.eps=3"], "expected a key of threat or evaluation"),
        (["evaluate", "MODEL", "--set", "threat.epz=3"], "did you mean threat.eps"),
        (["evaluate", "MODEL", "--norm", "L2"], "eps 0.2 is for Linf; give one for L2 too"),
        (["evaluate", "MODEL", "--epochs", "3"], "No such option"),
        (
            ["calibrate", "MODEL", "--min-sa", "80%", "--set", "evaluation.attacks=fgsm"],
            "expected a key of threat, such as threat.step_size",
        ),
        (["calibrate", "MODEL", "--min-sa", "80%", "--eps", "9"], "did you mean --eps 9/255?"),
        (["show", "card", "digitz"], "unknown card 'digitz'; did you mean digits"),
        (["show", "card", "./no.toml"], "no benchmark card at no.toml"),
        (["show", "card", "digits", "--set", "x=1"], "unknown key 'x'"),
        (
            ["show", "card", "pgd-20", "--set", "step=1"],
            "unknown key 'step'; did you mean step_siz",
        ),
        (["show", "card"], "Missing argument"),
    ],
)
def test_bad_input_is_one_line(refused, finished, arguments, words):
    given = [str(finished) if argument == "MODEL" else argument for argument in arguments]
    assert words in refused(*given)


# --- calibration


@pytest.mark.parametrize("attack", [["--attack", "pgd-7"], ["--budget", 0]])
@pytest.mark.parametrize(
    ("options", "threat", "batch_size"),
    [
        ([], Threat(eps=0.2, step_size=0.05), None),
        (["--eps", "4/255", "--batch-size", 7], Threat(eps="4/255", step_size="1/255"), 7),
        (["--eps", "1", "--norm", "L2"], Threat(norm="L2", eps=1, step_size=0.25), None),
        (["--set", "threat.step_size=0.1"], Threat(eps=0.2, step_size=0.1), None),
    ],
)
def test_a_calibration_attacks_by_the_threat_model_that_is_asked_for(
    invoke, finished, monkeypatch, attack, options, threat, batch_size
):
    taken = []

    def stopping(_model, _data, attack, *_args, **options):
        taken.append((attack.threat, options["batch_size"]))
        raise UserError("stopped")

    monkeypatch.setattr(calibration, "calibrate", stopping)
    command = ["calibrate", finished, "--min-sa", "50%", "--split", "test", "--n-examples", 60]
    code, out, err = invoke(*command, *attack, *options)
    assert (code, out, err.splitlines()[-1]) == (2, "", "oat-bench: stopped")
    assert taken == [(threat, batch_size)]


# --- show card


@pytest.mark.parametrize("name", ["digits", "cifar10-oats", "pgd-20", "autoattack"])
def test_a_card_that_is_shown_is_a_card(invoke, name):
    code, out, err = invoke("show", "card", name)
    assert (code, err) == (0, "")
    Path("mine.toml").write_text(out)
    assert invoke("show", "card", "./mine.toml") == (0, out, "")
    kind = AttackCard if name in cards.names("attacks") else BenchmarkCard
    assert cards.find("./mine.toml", kind) == cards.find(name, kind)


def test_a_card_is_shown_with_what_was_changed(invoke):
    options = ["--eps", "4/255", "--norm", "L2", "--set", "training.objective.loss=mma"]
    code, out, _ = invoke("show", "card", "cifar10", *options)
    Path("mine.toml").write_text(out)
    assert code == 0
    found = benchmark_card("./mine.toml")
    assert found.threat == Threat(norm="L2", eps="4/255", step_size="1/255")
    assert found.training.objective.loss == "mma"
    code, out, _ = invoke("show", "card", "pgd-20", "--set", "parameters.steps=40")
    Path("mine.toml").write_text(out)
    steps = {"steps": 40}
    assert attack_card("./mine.toml").parameters == attack_card("pgd-20").parameters | steps


def test_showing_a_card_imports_no_torch(tmp_path):
    program = """
import json, sys
from oat_bench.cli import cli
for name in ("digits", "pgd-20"):
    cli.main(["show", "card", name, "--set", "description=x"], standalone_mode=False)
print(json.dumps(list(sys.modules)))
"""
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    imported = set(json.loads(process.stdout.splitlines()[-1]))
    assert "oat_bench.benchmark" in imported
    assert imported.isdisjoint({"torch", "pandas", "torchattacks", "art", "matplotlib"})
