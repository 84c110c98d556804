"""The code of the pages on models, methods and attacks of one's own works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from pages import check_command

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.benchmark import benchmark_card

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["own-model.md", "add-a-method.md", "add-an-attack.md", "rivals.md"]
#: lines of a page that is read at one go, code included
SCREENS = 75


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short(page):
    assert len((DOCS / page).read_text().splitlines()) <= SCREENS


def test_a_model_of_ones_own_from_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(blocks("own-model.md", "py")[0], {})
    assert "**digits, Sequential, Linf eps" in capsys.readouterr().out
    assert (tmp_path / "report" / "report.md").is_file()


def test_a_model_of_ones_own_on_the_command_line(invoke):
    """Each command of the page, and each that the page says takes such a model too."""
    source = blocks("own-model.md", "py")[1]
    Path("mine.py").write_text(source)
    space: dict[str, object] = {}
    exec(source, space)
    torch.save(space["build"]().state_dict(), "weights.pt")
    commands = [line for block in blocks("own-model.md", "sh") for line in block.splitlines()]
    assert len(commands) == 2
    few = ["--attacks", "fgsm,pgd-7", "--n-examples", "30"]
    for line in commands:
        words = shlex.split(line)[1:]
        code, out, err = invoke(*words, *few)
        assert code == 0, err
        assert "**digits, mine.build, Linf eps" in out
    model, data = "./mine.py:build=weights.pt", ["--dataset", "digits"]
    code, _, err = invoke("evaluate", model, *data, *few, "--out", "runs/mine")
    assert code == 0, err
    accuracy = ["--min-sa", "1%", "--attack", "pgd-7", "--n-examples", "60", "--split", "test"]
    for command in (
        ("check", model, *data, "--baseline", "runs/mine"),
        ("calibrate", model, *data, *accuracy),
        ("transfer", model, *data, "--attack", "pgd-7", "--n-examples", "20"),
        ("integrity", model, *data, "--attacks", "fgsm,pgd-7", "--n-examples", "20"),
        ("compare", "runs/mine", "runs/mine"),
    ):
        code, out, err = invoke(*command)
        assert code in (0, 1), f"{command}: {err}"
        assert out, command
    code, _, err = invoke("integrity", model, *data, *few, "--out", "runs/mine")
    assert code in (0, 1), err
    about = ["--authors", "A. Stranger", "--venue", "none", "--link", "https://example.org"]
    code, _, err = invoke("leaderboard", "add", "runs/mine", "--to", "boards", *about)
    assert code == 0, err
    assert list(Path("boards/digits/Linf").glob("*.json"))
    code, _, err = invoke("evaluate", model, "--attacks", "fgsm")
    assert (code, "--dataset" in err) == (2, True)


def test_rivals_that_need_no_training(invoke, tmp_path):
    (tmp_path / "leaderboards").symlink_to(DOCS.parent / "leaderboards")
    Path("mine.toml").write_text(blocks("rivals.md", "toml")[0])
    words = shlex.split(blocks("rivals.md", "sh")[0])[1:]
    few = ["--attacks", "fgsm", "--n-examples", "20"]
    code, out, err = invoke(*words, *few, "--lambda", "0,0.99", "--out", "runs/mine")
    assert code == 0, err
    assert "wrn-10-1, MIXEDNUTS" in out
    exec(blocks("rivals.md", "py")[0], {})
    code, _, err = invoke("evaluate", "line.safetensors", *few)
    assert code == 0, err
    code, _, err = invoke("evaluate", "line.safetensors", *few, "--lambda", "0.4")
    assert code == 2
    assert "weight-interpolation: lambda 0.4 asked for" in err


def test_an_attack_card_of_ones_own(tmp_path, trained):
    path = tmp_path / "jitter.toml"
    path.write_text(blocks("add-an-attack.md", "toml")[0])
    attack = prepare(attack_card(str(path)), trained.info.threat, n_classes=10, seed=0)
    assert attack.parameters["alpha"] == trained.info.threat.eps / 4


def test_the_commands_on_knobs_are_commands_and_name_that_folder():
    lines = [
        shlex.split(line, comments=True)[1:] for line in blocks("knobs.md", "sh")[0].splitlines()
    ]
    assert len(lines) == 6
    for words in lines:
        check_command(words)
    card = benchmark_card("digits").with_changes({"threat.eps": 1 / 16, "training.epochs": 6})
    assert f"`runs/{card.name}-seed0`" in (DOCS / "knobs.md").read_text()
