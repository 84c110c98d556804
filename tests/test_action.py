"""The GitHub Action and its page: every input and option exists, and the shell passes them on."""

import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from oat_bench.cli.check import check

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "regression-check.md").read_text()


@pytest.fixture(scope="module")
def action():
    return yaml.safe_load((ROOT / "action.yml").read_text())


def options():
    return {name for parameter in check.params for name in parameter.opts}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_it_is_a_composite_action(action):
    assert action["runs"]["using"] == "composite"
    assert {"name", "description", "inputs", "runs"} <= action.keys()
    for step in action["runs"]["steps"]:
        assert ("run" in step) != ("uses" in step)
        assert "run" not in step or step["shell"] == "bash"
    required = {name for name, given in action["inputs"].items() if given.get("required")}
    assert required == {"model", "baseline"}
    assert all(given["description"] for given in action["inputs"].values())
    assert all(
        isinstance(given["default"], str)
        for name, given in action["inputs"].items()
        if name not in required
    )


def test_every_input_is_used_and_every_used_one_exists(action):
    text = (ROOT / "action.yml").read_text()
    used = set(re.findall(r"\$\{\{ *inputs\.([\w-]+) *\}\}", text))
    assert used == action["inputs"].keys()
    # no input is pasted into a command
    assert not any("${{" in step.get("run", "") for step in action["runs"]["steps"])


def test_every_option_exists_and_defaults_agree(action):
    command = action["runs"]["steps"][-1]["run"]
    used = set(re.findall(r"--[a-z][a-z-]*", command))
    assert used <= options()
    assert used >= {"--baseline", "--max-drop", "--confidence", "--dataset", "--data-dir"}
    defaults = {parameter.name: parameter.default for parameter in check.params}
    for name in ("max-drop", "confidence"):
        assert float(action["inputs"][name]["default"]) == defaults[name.replace("-", "_")]
    assert action["inputs"]["data-dir"]["default"] == str(defaults["data_dir"])


def test_it_installs_this_checkout_by_its_constraints(action):
    install = action["runs"]["steps"][1]["run"]
    assert '-c "$GITHUB_ACTION_PATH/constraints.txt" "$GITHUB_ACTION_PATH"' in install
    assert (ROOT / "constraints.txt").is_file()


@pytest.mark.parametrize(
    ("dataset", "strict"), [("", "true"), ("", "false"), ("my images; $(touch hacked)", "")]
)
def test_the_shell_passes_inputs_on_as_they_are(action, tmp_path, dataset, strict):
    command = tmp_path / "oat-bench"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    step = action["runs"]["steps"][-1]
    hostile = {"model": "-m `id`", "baseline": "b $(id).json", "dataset": dataset}
    hostile["strict"] = strict
    given = {
        variable: hostile.get(name, action["inputs"][name].get("default", ""))
        for variable, expression in step["env"].items()
        for name in re.findall(r"inputs\.([\w-]+)", expression)
    }
    environment = os.environ | given | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = ["check", "--format", "github", "--baseline=b $(id).json", "--max-drop=1.0"]
    expected += ["--confidence=0.95", "--data-dir=data"]
    expected += [f"--dataset={dataset}"] if dataset else []
    expected += ["--strict"] if strict == "true" else []
    assert done.stdout.splitlines() == [*expected, "--", "-m `id`"]
    assert not (tmp_path / "hacked").exists()


def test_the_documented_workflow_uses_inputs_that_exist(action):
    (text,) = blocks("yaml")
    workflow = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    ours = job["steps"][-1]
    assert ours["uses"].split("@")[0].endswith("/oat-bench")
    assert ours["with"].keys() <= action["inputs"].keys()
    assert {"model", "baseline"} <= ours["with"].keys()
    # the table of inputs is the action's
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| .* \| *([^|]*?) *\|$", PAGE, re.MULTILINE))
    assert rows.keys() == action["inputs"].keys()
    for name, default in rows.items():
        written = action["inputs"][name].get("default", "")
        assert default == written or (written == "" and default in ("", "all"))


def test_the_documented_commands_exist():
    commands = re.findall(r"oat-bench check ([^\n`>]*)", PAGE)
    assert commands
    for command in commands:
        assert set(re.findall(r"--[a-z][a-z-]*", command)) <= options()


def test_the_projects_own_tests_check_the_shipped_model():
    makefile = (ROOT / "Makefile").read_text()
    assert "$(MAKE) docs check" in makefile.split("\ntest:")[1].split("\n\n")[0]
    recipe = makefile.split("\ncheck:")[1].split("\n\n")[0]
    assert set(re.findall(r"--[a-z][a-z-]*", recipe)) <= options()
    name = re.search(r"^PUBLISHED = (.*)$", makefile, re.MULTILINE)[1]
    for ending in (".json", ".parquet", ".safetensors"):
        assert (ROOT / f"{name}{ending}").is_file()
