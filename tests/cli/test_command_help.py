"""Help pages, lists, and what comes before any command."""

import re
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from commands import FIGURES, call

import oat_bench
from oat_bench import cards, cli, datasets, run
from oat_bench.attacks.card import attack_card
from oat_bench.registry import METHODS

COMMANDS = [
    "run",
    "train",
    "evaluate",
    "calibrate",
    "check",
    "export",
    "list",
    "compare",
    "corruptions",
    "figure",
    "integrity",
    "leaderboard",
    "results",
    "show",
    "transfer",
]
LEADERBOARD = ["add", "build", "export", "schema", "table", "validate"]
#: all that have a help page
PAGES = [
    [],
    *[[name] for name in COMMANDS],
    *[["figure", kind] for kind in (*FIGURES, "widths", "cost")],
    *[["leaderboard", name] for name in LEADERBOARD],
    ["show", "card"],
]


# --- help


@pytest.mark.parametrize("command", PAGES)
def test_every_help_has_an_example_that_parses(invoke, command, monkeypatch):
    code, out, err = invoke(*command, "--help")
    assert (code, err) == (0, "")
    (example,) = re.findall(r"Example:\n +oat-bench (.+)\n", out)
    assert invoke(*command, "-h") == (0, out, "")
    assert max(map(len, out.splitlines())) <= 100
    # the example is a command that exists, with options that exist
    monkeypatch.setattr("oat_bench.cli.run._evaluate", lambda *_, **__: None)
    monkeypatch.setattr(run, "train", lambda *args, **kwargs: None)
    for called in (command, example.split()):
        found = cli.cli
        for name in called:
            found = found.commands.get(name, found) if isinstance(found, click.Group) else found
        if not isinstance(found, click.Group) and found.name not in ("run", "evaluate", "train"):
            monkeypatch.setattr(found, "callback", lambda **options: None)
    code, _, _ = invoke(*example.split())
    assert code == 0


def test_without_arguments_the_help_is_shown(invoke):
    assert invoke() == invoke("--help")
    assert "list" in invoke()[1]


def test_version(invoke):
    code, out, err = invoke("--version")
    assert (code, err) == (0, "")
    assert oat_bench.__version__ in out


def imported_by(program, tmp_path):
    """Return the modules that a program has imported at its end."""
    program += "\nimport sys; print(*sys.modules, sep='\\n')"
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    return set(process.stdout.splitlines())


def test_no_help_imports_anything_heavy(tmp_path):
    program = f"""
from oat_bench.cli import cli
for page in {PAGES}:
    cli.main([*page, "--help"], standalone_mode=False)
"""
    imported = imported_by(program, tmp_path)
    assert "oat_bench.cli.leaderboard" in imported
    heavy = "torch numpy pandas matplotlib scipy sklearn art torchattacks pydantic rich pyarrow"
    assert imported.isdisjoint(heavy.split())


def test_reading_a_card_imports_no_torch(tmp_path):
    program = """
from oat_bench import cards
from oat_bench.attacks.card import attack_card
from oat_bench.benchmark import benchmark_card
attack_card("pgd-20")
for name in cards.names("benchmarks"):
    benchmark_card(name)
"""
    imported = imported_by(program, tmp_path)
    assert "oat_bench.benchmark" in imported
    assert imported.isdisjoint({"torch", "torchattacks", "art", "matplotlib"})


def test_help_comes_within_a_second(tmp_path):
    seconds = []
    for _ in range(5):
        started = time.monotonic()
        call("--help", cwd=tmp_path)
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 1.0


def test_the_console_script_and_the_module_are_one(tmp_path):
    script = Path(sys.executable).with_name("oat-bench")
    process = subprocess.run([script, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")
    code, out, err = call("--help", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.replace("python -m oat_bench", "oat-bench") == process.stdout


def test_bars_of_other_libraries_are_silent_without_a_terminal(tmp_path):
    program = (
        "import sys; from oat_bench import cli\n"
        "sys.argv = ['oat-bench', '--version']\n"
        "try: cli.main()\n"
        "except SystemExit: from tqdm import tqdm; list(tqdm(range(9)))"
    )
    command = [sys.executable, "-c", program]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (process.returncode, process.stderr) == (0, "")


# --- list


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("attacks", cards.names("attacks")),
        ("benchmarks", cards.names("benchmarks")),
        ("datasets", [*datasets.DATASETS]),
        ("methods", list(METHODS)),
    ],
)
def test_list(invoke, kind, names):
    code, out, err = invoke("list", kind)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    lines = out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == names  # one line each, however long
    if kind == "attacks":
        for line in lines:
            attack = attack_card(line.split()[0])
            assert attack.description in line
            assert (" yes " in line) == attack.default


def test_list_something_else_is_refused(refused):
    assert "'attacks', 'benchmarks', 'datasets', 'methods'" in refused("list", "attack")
    assert "Missing argument" in refused("list")
