"""The GitHub Action says what the command line understands."""

import re
from pathlib import Path

import yaml

from oat_bench.cli.check import check

ACTION = Path(__file__).parents[1] / "action.yml"


def test_every_input_is_used_and_every_option_exists():
    action = yaml.safe_load(ACTION.read_text())
    text = ACTION.read_text()
    used = set(re.findall(r"\$\{\{ inputs\.([a-z-]+) \}\}", text))
    assert used == set(action["inputs"])
    script = action["runs"]["steps"][-1]
    options = set(re.findall(r"--[a-z-]+", script["run"]))
    assert options == {
        "--max-drop",
        "--confidence",
        "--data-dir",
        "--attacks",
        "--dataset",
        "--baseline",
        "--format",
    }
    assert options <= {name for parameter in check.params for name in parameter.opts}
    # what a user writes reaches the script through variables alone
    assert "inputs." not in script["run"]
    assert set(re.findall(r"\$([A-Z_]+)", script["run"])) == set(script["env"])
    for step in action["runs"]["steps"]:
        assert ("shell" in step) != ("uses" in step)


def test_defaults_are_those_of_the_command_line():
    inputs = yaml.safe_load(ACTION.read_text())["inputs"]
    defaults = {parameter.name: parameter.default for parameter in check.params}
    assert float(inputs["max-drop"]["default"]) == defaults["max_drop"]
    assert float(inputs["confidence"]["default"]) == defaults["confidence"]
    assert inputs["data-dir"]["default"] == str(defaults["data_dir"])
