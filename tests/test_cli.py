"""The command line as a user meets it: what it prints, where, and how it fails."""

import errno
import fcntl
import io
import json
import os
import pty
import re
import resource
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import torch
from fuzzing import COUNTS, damaged, fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as to_bytes

import oat_bench
from oat_bench import cards, cli, run
from oat_bench.classifier import load, save
from oat_bench.errors import UserError
from oat_bench.evaluation import examination
from oat_bench.leaderboards import integrity
from oat_bench.leaderboards.entries import Entry
from oat_bench.methods import METHODS

FILES = {
    "report.md",
    "entry.json",
    "table.md",
    "table.csv",
    "table.tex",
    "outcomes.parquet",
    "figures",
}
FIGURES = ["frontier", "attacks", "lambda", "unseen", "bn-statistics", "saliency"]
COMMANDS = [
    "run",
    "train",
    "evaluate",
    "calibrate",
    "check",
    "export",
    "list",
    "compare",
    "figure",
    "integrity",
    "leaderboard",
    "results",
    "transfer",
]
LEADERBOARD = ["add", "build", "export", "schema", "table", "validate"]
#: all that have a help page
PAGES = [
    [],
    *[[name] for name in COMMANDS],
    *[["figure", kind] for kind in FIGURES],
    *[["leaderboard", name] for name in LEADERBOARD],
]
OAT_BENCH = [sys.executable, "-m", "oat_bench"]
#: a checkout is found by `python -m` from any folder, one thread is enough for tests
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": ""}


def start(*arguments, cwd, **options):
    return subprocess.Popen(
        [*OAT_BENCH, *map(str, arguments)],
        cwd=cwd,
        env=ENVIRONMENT,
        text=True,
        **({"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options),
    )


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def call(*arguments, cwd, **options):
    return finish(start(*arguments, cwd=cwd, **options))


@pytest.fixture
def refused(invoke, monkeypatch):
    """Run what must fail before anything is trained or evaluated; return the one line."""

    def forbidden(*_args, **_kwargs):
        raise AssertionError("it went on")

    monkeypatch.setattr(run, "train", forbidden)
    monkeypatch.setattr(run, "evaluate", forbidden)

    def refused(*arguments):
        code, out, err = invoke(*arguments)
        assert code == 2
        assert out == ""
        assert err.startswith("oat-bench: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    return refused


@pytest.fixture
def card(tmp_path, brief_toml):
    path = tmp_path / "brief.toml"
    path.write_text(brief_toml)
    return path


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def untimed(table):
    """Leave out the latency, which is timed anew in another folder."""
    return re.sub(r"[\d.]+ ms an image", "", table)


# --- help


@pytest.mark.parametrize("command", PAGES)
def test_every_help_has_an_example_that_parses(invoke, command, monkeypatch):
    code, out, err = invoke(*command, "--help")
    assert (code, err) == (0, "")
    (example,) = re.findall(r"Example:\n +oat-bench (.+)\n", out)
    assert invoke(*command, "-h") == (0, out, "")
    assert max(map(len, out.splitlines())) <= 100
    # the example is a command that exists, with options that exist
    monkeypatch.setattr("oat_bench.cli.run._evaluate", lambda **options: None)
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


@pytest.mark.parametrize("command", [[], *[[name] for name in COMMANDS]])
def test_help_imports_nothing_heavy(command, tmp_path):
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "oat_bench", *command, "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    imported = {line.split("|")[-1].strip() for line in process.stderr.splitlines()}
    assert "oat_bench.cli" in imported
    heavy = "torch numpy pandas matplotlib scipy sklearn art torchattacks pydantic rich pyarrow"
    assert imported.isdisjoint(heavy.split())


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


# --- list


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("attacks", cards.names("attacks")),
        ("benchmarks", cards.names("benchmarks")),
        ("datasets", ["digits", "svhn", "cifar10", "stl10", "image-folder"]),
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
            attack = cards.attack(line.split()[0])
            assert attack.description in line
            assert (" yes " in line) == attack.default


def test_list_something_else_is_refused(refused):
    assert "'attacks', 'benchmarks', 'datasets', 'methods'" in refused("list", "attack")
    assert "Missing argument" in refused("list")


# --- the whole line


def test_a_run_trains_attacks_writes_and_prints(tmp_path, card):
    tiny = card.read_text().replace("epochs = 4", "epochs = 1")
    card.write_text(tiny)
    code, out, err = call("run", "--benchmark", card, "--out", "results", cwd=tmp_path)
    assert code == 0
    results = tmp_path / "results"
    assert {path.name for path in results.iterdir()} == FILES | {
        "checkpoint.safetensors",
        "training.safetensors",
        "log.csv",
        "splits.json",
        "outcomes",
    }
    # results on stdout, everything else on stderr, no colours in a pipe
    assert out == (results / "table.md").read_text()
    assert "0.2 *" in out
    assert out.count(" * ") == 2  # in the row, and in the note below the table
    assert "\x1b" not in out + err
    notes = err.splitlines()
    assert len(notes) == 2
    assert notes[0].startswith(
        "training wrn-10-1 on digits by OAT: 897 images, 1 epoch, lambda 0, 0.5, 1, on cpu"
    )
    assert re.fullmatch(r"trained in \d+ s; weights: last: epoch 1", notes[1])
    entry = Entry.model_validate_json((results / "entry.json").read_text())
    assert entry.command == f"oat-bench run --benchmark {card} --out results"
    table = pd.read_csv(results / "table.csv")
    assert table["lambda"].to_list() == [0.0, 0.2, 1.0]
    assert table["n"].to_list() == [50] * 3

    # once more: nothing is computed, the same is printed
    before = files(results / "outcomes") | {
        name: (results / name).stat().st_mtime_ns
        for name in ("checkpoint.safetensors", "log.csv", "training.safetensors")
    }
    again, out_again, err_again = call("run", "--benchmark", card, "--out", "results", cwd=tmp_path)
    assert (again, out_again) == (0, out)
    assert err_again == "results/checkpoint.safetensors: trained already\n"
    after = files(results / "outcomes") | {
        name: (results / name).stat().st_mtime_ns
        for name in ("checkpoint.safetensors", "log.csv", "training.safetensors")
    }
    assert after == before


def test_train_then_evaluate_its_file_and_its_folder(invoke, card, tmp_path):
    card.write_text(card.read_text().replace("epochs = 4", "epochs = 1"))
    code, out, err = invoke("train", "--benchmark", card, "--seed", 5)
    assert (code, out) == (0, "")
    folder = Path("runs") / "brief-seed5"
    assert err.splitlines()[-1] == f"checkpoint and log in {folder}"
    assert {path.name for path in folder.iterdir()} == {
        "checkpoint.safetensors",
        "training.safetensors",
        "log.csv",
        "splits.json",
    }
    options = ["--attacks", "fgsm", "--lambda", "0.3,0,0.3", "--n-examples", 20]
    tables = []
    for model in (folder, folder / "checkpoint.safetensors", folder.absolute()):
        code, out, err = invoke("evaluate", "--model", model, *options)
        assert (code, err) == (0, "")
        tables.append(out)
    assert tables[0] == tables[1] == tables[2]
    rows = [line.split("|") for line in tables[0].splitlines() if line[:1] == "|"]
    assert [row[1].strip() for row in rows] == [
        "lambda",
        "---------:"[: len(rows[1][1])],
        "0",
        "0.3 *",
    ]
    assert [row[2].strip() for row in rows[2:]] == ["20", "20"]
    # results of a checkpoint lie under its fingerprint
    (results,) = set(Path("runs").iterdir()) - {folder}
    fingerprint = oat_bench.load(folder).fingerprint()
    assert results.name == f"digits-{fingerprint[:8]}"
    assert {path.name for path in results.iterdir()} == FILES | {"outcomes"}
    # `run --model` is the same
    code, out, err = invoke("run", "--model", folder, *options)
    assert (code, out, err) == (0, tables[0], "")


def test_options_win_over_the_card(invoke, card, finished):
    common = ["--benchmark", card, "--out", finished]
    code, out, _ = invoke(
        "run", *common, "--attacks", "pgd-7,fgsm", "--lambda", "1,0.25", "--n-examples", 7
    )
    assert code == 0
    header, _, *rows = [line for line in out.splitlines() if line[:1] == "|"]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        *["lambda", "n", "SA", "fgsm", "pgd-7", "worst"]
    ]
    assert [row.split("|")[1].strip() for row in rows] == ["0.25 *", "1"]
    assert [row.split("|")[2].strip() for row in rows] == ["7", "7"]


def test_the_seed_is_part_of_an_evaluation(invoke, card, finished):
    arguments = ["evaluate", "--model", finished, "--benchmark", card, "--lambda", 1]
    arguments += ["--attacks", "pgd-7", "--n-examples", 5, "--out", "results"]
    for seed, cells in [(0, 1), (0, 1), (1, 2)]:
        code, _, _ = invoke(*arguments, "--seed", seed)
        assert code == 0
        assert len(list(Path("results/outcomes").iterdir())) == cells


def test_an_attack_card_beside_the_user(invoke, card, finished, tmp_path):
    attack = tmp_path / "my-bim.toml"
    attack.write_text(
        "engine = 'torchattacks'\nclass = 'BIM'\n"
        "[parameters]\neps = '$eps'\nalpha = '$step_size'\nsteps = 5\n"
    )
    code, out, err = invoke(
        *["run", "--benchmark", card, "--out", finished, "--lambda", 1, "--n-examples", 20],
        *["--attacks", f"fgsm,{attack}"],
    )
    assert code == 0
    assert err == f"{finished}/checkpoint.safetensors: trained already\n"
    assert "my-bim" in out
    table = pd.read_csv(finished / "table.csv")
    assert table["my-bim"][0] <= table["fgsm"][0] < table["SA"][0]


def test_names_that_look_like_markup_are_shown_as_they_are(invoke, card, trained_folder, tmp_path):
    folder = tmp_path / "[red]a[" / "b] :smile: [" / "c]"
    shutil.copytree(trained_folder, folder)
    code, _, err = invoke("run", "--benchmark", card, "--out", folder, "--n-examples", 2)
    assert code == 0
    assert err == f"{folder}/checkpoint.safetensors: trained already\n"


def test_names_that_are_not_utf_8(invoke, card, finished, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    odd = folder / "card.toml"
    odd.write_text(card.read_text())
    arguments = ["run", "--benchmark", odd, "--n-examples", 2, "--lambda", 0]
    code, _, _ = invoke(*arguments, "--out", finished)
    assert code == 0
    command = json.loads((finished / "entry.json").read_text())["command"]
    assert command.startswith("oat-bench run --benchmark")
    code, out, err = call(*arguments, "--out", folder, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert "its name is not UTF-8" in err
    assert err.count("\n") == 1


# --- a terminal


def in_terminal(*arguments, cwd, columns):
    """Run in a pseudo-terminal: exit code, what it showed."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execvpe(sys.executable, [*OAT_BENCH, *map(str, arguments)], ENVIRONMENT)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    shown = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), shown.decode()


@pytest.mark.parametrize("columns", [80, pytest.param(120, marks=pytest.mark.slow)])
def test_a_terminal_gets_a_bar_and_a_table_that_fits(card, finished, tmp_path, columns):
    arguments = ["run", "--benchmark", card, "--out", finished, "--n-examples", 20]
    code, shown = in_terminal(*arguments, cwd=tmp_path, columns=columns)
    assert code == 0
    assert "\x1b[" in shown
    assert "evaluating" in shown
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= max(columns, len(f"{finished}/checkpoint.safetensors") + 20)
    table = [line for line in lines if line.split()[:1] == ["0.2"]]
    assert len(table) == 1
    assert table[0].split()[:3] == ["0.2", "*", "20"]
    header = next(line for line in lines if line.startswith("lambda"))
    assert header.split() == ["lambda", "n", "SA", "fgsm", "pgd-7", "worst"]
    assert lines[-2].endswith(str(finished)) or lines[-1].endswith(str(finished))


# --- bad input: one line, exit code 2, before anything costly


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--dataset", "digit"], "unknown data set 'digit'; did you mean digits"),
        (["run", "--dataset", ""], "unknown data set ''"),
        (["run", "--dataset", "imagenet"], "'imagenet'; known: cifar10, digits, stl10, svhn"),
        (["run", "--dataset", "cifar10-small"], "unknown data set 'cifar10-small'; did you mean"),
        (["run", "--dataset", "image-folder"], "is named by its path, such as --dataset ./my-imag"),
        (["run", "--dataset", "./nowhere"], "no folder of images at nowhere; expected train/ and"),
        (["train", "--dataset", "."], "class folders found: none; expected at least two"),
        (["run", "--dataset", "cifar10", "--benchmark", "svhn"], "is of data set 'svhn', not 'cif"),
        (["train", "--dataset", "digist"], "did you mean digits"),
        (["run", "--benchmark", "digitz"], "unknown benchmark 'digitz'; did you mean digits"),
        (["run", "--benchmark", ""], "unknown benchmark ''"),
        (["run", "--benchmark", "no.toml"], "no benchmark card at no.toml"),
        (["run", "--benchmark", "."], "unknown benchmark '.'"),
        (["run", "--benchmark", "./"], "no benchmark card at ."),
        (["run", "--benchmark", "x" * 5000 + ".toml"], "no benchmark card at"),
        (["run", "--attacks", "pgd-8"], "unknown attack 'pgd-8'; did you mean pgd-7"),
        (["run", "--attacks", "fgsm,autoatack"], "did you mean autoattack"),
        (["run", "--attacks", "ALL"], "unknown attack 'ALL'"),
        (["run", "--attacks", ""], "no attack is named"),
        (["run", "--attacks", " , "], "no attack is named"),
        (["run", "--attacks", "no/such.toml"], "no attack card at no/such.toml"),
        (["run", "--attacks", "/dev/null"], "no attack card at /dev/null"),
        (["run", "--lambda", "1.5"], "lambda 1.5 is outside [0, 1]"),
        (["run", "--lambda", "0,-0.1"], "lambda -0.1 is outside [0, 1]"),
        (["run", "--lambda", "nan"], "lambda nan is outside [0, 1]"),
        (["run", "--lambda", "inf"], "lambda inf is outside [0, 1]"),
        (["run", "--lambda", "half"], "'half' is not a number"),
        (["run", "--lambda", ""], "'' is not a number"),
        (["run", "--lambda", "0,,1"], "'' is not a number"),
        (["run", "--lambda", "0;1"], "'0;1' is not a number"),
        (["run", "--n-examples", "0"], "'0'; expected such as 1000 or 1000,autoattack=200"),
        (["run", "--n-examples", "-3"], "'-3'; expected such as 1000"),
        (["run", "--n-examples", "many"], "'many'; expected such as 1000"),
        (["run", "--n-examples", "9,=3"], "'=3'; expected such as 1000"),
        (["run", "--n-examples", "9,fgsm=0"], "'fgsm=0'; expected such as 1000"),
        (["run", "--n-examples", "9,fgms=3"], "unknown attack with fewer examples 'fgms'; did you"),
        (["run", "--n-examples", "2.5"], "'2.5'; expected such as 1000"),
        (["run", "--n-examples", "801"], "801 examples asked for; the test set of digits has 800"),
        (["run", "--n-examples", "9" * 30], "examples asked for"),
        (["run", "--seed", "-1"], "-1 is not in the range"),
        (["run", "--seed", "9" * 30], "is not in the range"),
        (["run", "--seed", "x"], "'x' is not a valid integer"),
        (["run", "--device", "tpu"], "'auto', 'cpu', 'cuda'"),
        (["run", "--out", "/dev/null"], "cannot write to /dev/null"),
        (["run", "--out", "/dev/null/below"], "cannot write to /dev/null/below"),
        (["run", "--out", "/proc/nowhere"], "cannot write to /proc/nowhere"),
        (["run", "--out", "x" * 300], "cannot write to"),
        (["run", "--model", "missing"], "no checkpoint at missing"),
        (["run", "--model", ""], "no checkpoint at"),
        (["run", "--model", "."], "no checkpoint at checkpoint.safetensors"),
        (["run", "--model", "x" * 5000], "no checkpoint at"),
        (["evaluate"], "expected one model: oat-bench evaluate MODEL"),
        (["evaluate", "--model", "missing"], "no checkpoint at missing"),
        (["run", "extra"], "unexpected extra argument"),
        (["run", "--lamda", "1"], "No such option"),
        (["ruin"], "No such command 'ruin'"),
        (["--frobnicate"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(refused, arguments, words):
    assert words in refused(*arguments)
    assert not Path("runs").exists() or not any(Path("runs").rglob("*.*"))


def test_a_command_line_that_fails_in_its_own_process(tmp_path):
    for arguments, words in [
        (["run", "--dataset", "digit"], "did you mean digits"),
        (["evaluate", "--model", "no\nsuch"], "no checkpoint at no such"),
    ]:
        code, out, err = call(*arguments, cwd=tmp_path)
        assert (code, out) == (2, "")
        assert err.startswith("oat-bench: ")
        assert err.count("\n") == 1
        assert words in err


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    text=st.one_of(st.text(max_size=12), st.lists(st.floats()).map(lambda v: ",".join(map(str, v))))
)
def test_any_lambda_is_refused_in_one_line_or_lies_in_the_unit_interval(invoke, monkeypatch, text):
    taken = []
    monkeypatch.setattr(
        "oat_bench.cli.run._evaluate", lambda **options: taken.append(options["lambdas"])
    )
    code, out, err = invoke("run", f"--lambda={text}")
    assert out == ""
    if code == 0:
        (lambdas,) = taken
        assert lambdas == sorted(set(lambdas))
        assert all(0 <= lam <= 1 for lam in lambdas)
        assert err == ""
    else:
        assert code == 2
        assert taken == []
        assert err.count("\n") == 1


def test_cuda_without_cuda(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no CUDA device is available" in refused("run", "--device", "cuda")
    assert "use --device cpu" in refused("evaluate", "--model", ".", "--device", "cuda")


def test_data_set_and_benchmark_that_contradict(refused, card):
    card.write_text(card.read_text().replace('"digits"', '"other"'))
    err = refused("run", "--benchmark", card, "--dataset", "digits")
    assert "is of data set 'other', not 'digits'" in err
    assert "unknown data set 'other'" in refused("run", "--benchmark", card)


@pytest.fixture
def shapes(tmp_path):
    """A folder of 8x8 images of two classes, light ones and dark ones: 40 to train, 10 to test."""
    numbers = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 5)):
        for name, base in (("dark", 20), ("light", 180)):
            folder = tmp_path / "shapes" / part / name
            folder.mkdir(parents=True)
            for place in range(count):
                pixels = base + numbers.integers(0, 60, (8, 8))
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{place}.png")
    return tmp_path / "shapes"


def test_a_folder_of_images_with_the_card_of_another_data_set(invoke, card, shapes):
    command = ["--dataset", "./shapes", "--benchmark", card]
    code, out, err = invoke("run", *command, "--attacks", "pgd-7")
    assert code == 0, err
    assert out.startswith("**shapes, wrn-10-1, OAT, Linf eps 0.2**")
    assert "trained in" in err
    rows = [line.split("|")[1:4] for line in out.splitlines() if line.startswith("|  ")]
    assert {row[1].strip() for row in rows[1:]} == {"10"}  # the card asks for 50
    folder = Path("runs/shapes-brief-seed0")
    assert oat_bench.load(folder).info.classes == ["dark", "light"]
    splits = json.loads((folder / "splits.json").read_text())
    assert [splits["splits"][name]["n"] for name in ("train", "validation", "test")] == [36, 4, 10]
    # again by its checkpoint, which does not say where the images lie
    err = invoke("evaluate", "--model", folder)[2]
    assert "is of data set 'shapes'; name its folder with --dataset" in err
    code, again, err = invoke("evaluate", "--model", folder, *command, "--attacks", "pgd-7")
    assert code == 0, err
    assert untimed(again) == untimed(out)
    code, _, err = invoke("run", *command, "--attacks", "pgd-7", "--n-examples", "11")
    assert (code, err) == (
        2,
        "oat-bench: 11 examples asked for; the test set of shapes has 10\n",
    )


def test_a_folder_of_images_without_a_card_takes_the_general_one(invoke, shapes, monkeypatch):
    taken = []
    monkeypatch.setattr(run, "train", lambda card, data, *_, **__: taken.append((card, data)))
    assert invoke("train", "--dataset", shapes)[0] == 0
    ((card, data),) = taken
    assert card.name == data.name == "shapes"
    general = cards.benchmark("image-folder")
    assert (card.network, card.training) == (general.network, general.training)
    assert Path("runs/shapes-seed0").is_dir()


def test_a_broken_image_is_skipped_only_if_asked(invoke, refused, shapes, monkeypatch):
    broken = shapes / "train" / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:50])
    assert f"{broken}: not a readable image (" in refused("run", "--dataset", shapes)
    taken = []
    monkeypatch.setattr(run, "train", lambda _card, data, *_, **__: taken.append(data))
    code, _, err = invoke("train", "--dataset", shapes, "--skip-broken")
    assert code == 0
    assert f"1 of 50 images skipped, the first is {broken}" in err
    assert len(taken[0].train) + len(taken[0].validation) == 39


def test_the_folder_of_data_sets(refused, tmp_path):
    folder = tmp_path / "mine" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "test_batch").touch()
    for command in ("run", "train"):
        err = refused(command, "--dataset", "cifar10", "--data-dir", "mine")
        assert "mine/cifar-10-batches-py lacks data_batch_1, data_batch_2" in err
    (tmp_path / "data").symlink_to("mine")  # where they are looked for without the option
    assert "data/cifar-10-batches-py lacks" in refused("run", "--benchmark", "cifar10-small")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs = 4", "epochs = 0", "training.epochs: input should be greater than or equal to 1"),
        ("epochs = 4", "epoch = 4", "'training.epoch'; did you mean epochs"),
        ("epochs = 4", "epochs = 'four'", "training.epochs"),
        ("epochs = 4", "", "'training.epochs' is missing"),
        ("lr = 0.1", "lr = 'fast'", "training.lr"),
        ("lr = 0.1", "lr = nan", "training.lr: expected a finite number"),
        ("eps = 0.2", "eps = '8/0'", "threat.eps"),
        ("eps = 0.2", "eps = -1", "threat.eps"),
        ("eps = 0.2", "norm = 'L1'", "threat.norm: input should be 'Linf' or 'L2'"),
        ("[threat]", "[threat", "not valid TOML"),
        ('"wrn-10-1"', '"wrn-11-1"', "expected resnet-18, resnet-34 or wrn-DEPTH-WIDEN"),
        ('"wrn-10-1"', '"resnet-18"\ndropout = 0.3', "resnet-18 has no dropout"),
        ("encoding_dim = 8", "encoding_dim = 2", "expected at least 3"),
        ("lr = 0.1", "lr = 0.1\nnesterov = true\nmomentum = 0", "nesterov"),
        ("lambdas = [0, 0.5, 1]", "lambdas = [0, 1.5]", "training.lambdas.1"),
        ("lambdas = [0, 0.2, 1]", "lambdas = []", "evaluation.lambdas"),
        ('attacks = "fgsm,pgd-7"', 'attacks = "fgsm,pgd-77"', "did you mean pgd-7"),
        ("n_examples = 50", "n_examples = 5000", "5000 examples asked for"),
        ("n_examples = 50", "n_examples = 0", "evaluation.n_examples"),
        ('dataset = "digits"', 'dataset = "digits"\nname = "../up"', "name"),
        ('dataset = "digits"', 'dataset = "digits"\nmethod = "pgdat"', "did you mean pgd-at"),
    ],
)
def test_a_wrong_benchmark_card(refused, card, old, new, words):
    text = card.read_text()
    assert old in text
    card.write_text(text.replace(old, new, 1))
    err = refused("run", "--benchmark", card, "--out", "results")
    assert words in err
    assert err.startswith(f"oat-bench: {card}: ") or "attack" in words + err or "examples" in err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class = 'PGD'", "'engine' is missing"),
        ("engine = 'foolbox'\nclass = 'PGD'", "'oat_bench', 'torchattacks' or 'art'"),
        ("engine = 'art'\nclas = 'PGD'", "clas"),
        ("engine = 'art'\nclass = 'Deepfol'", "did you mean DeepFool"),
        ("engine = 'torchattacks'\nclass = 'PGD'\n[parameters]\nstep = 3", "did you mean steps"),
        ("engine = 'oat_bench'\nclass = 'FGSM'\n[parameters]\neps = '$epsilon'", "$epsilon"),
        ("engine = 'oat_bench'\nclass = 'FGSM'\n[parameters]\neps = 'wide'", "eps is 'wide'"),
        ("engine = 'art'\nclass = 'DPatch'", "EstimatorError"),
        ("name = 'worst'\nengine = 'oat_bench'\nclass = 'FGSM'\nparameters = {eps = 1}", "worst"),
        ("name = 'a/b'\nengine = 'oat_bench'\nclass = 'FGSM'\nparameters = {eps = 1}", "a/b"),
        ("\x00", "not valid TOML"),
    ],
)
def test_a_wrong_attack_card(refused, card, tmp_path, text, words):
    attack = tmp_path / "mine.toml"
    attack.write_text(text)
    err = refused("run", "--benchmark", card, "--attacks", attack, "--out", "results")
    assert words in err
    assert "mine" in err


def test_an_attack_for_another_norm(refused, card):
    card.write_text(card.read_text().replace("eps = 0.2", "eps = 1.0\nnorm = 'L2'"))
    err = refused("run", "--benchmark", card)
    assert "attack 'fgsm' is for Linf, the benchmark's threat model is L2" in err


# --- checkpoints that are not


@pytest.mark.parametrize("content", [b"", b"\x80\x04}", b"\x00" * 100, os.fsencode("x" * 999)])
def test_a_damaged_checkpoint(refused, card, tmp_path, content):
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "checkpoint.safetensors"
    path.write_bytes(content)
    for model in (path, path.parent):
        assert str(path) in refused("evaluate", "--model", model)


@COUNTS
def test_any_damaged_checkpoint_is_one_line_and_exit_code_2(invoke, finished, monkeypatch, count):
    path = finished / "checkpoint.safetensors"
    content = path.read_bytes()
    refused = []

    def stop(*_args, **_kwargs):
        raise UserError("it is whole after all")

    monkeypatch.setattr("oat_bench.datasets.load", stop)

    def check(damage):
        path.write_bytes(damage)
        code, out, err = invoke("evaluate", "--model", path)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        refused.append(str(path) in err)

    fuzz(check, damaged(content), count)
    assert sum(refused) > len(refused) / 2
    path.write_bytes(content)
    assert "it is whole after all" in invoke("evaluate", "--model", path)[2]


def test_a_damaged_checkpoint_in_its_own_process(finished, tmp_path):
    path = finished / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    code, out, err = call("evaluate", "--model", path, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith(f"oat-bench: {path}: damaged")
    assert err.count("\n") == 1


def test_a_truncated_checkpoint(refused, finished):
    path = finished / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "damaged" in refused("evaluate", "--model", finished)


def test_a_damaged_checkpoint_in_the_folder_of_a_run(invoke, finished, card):
    (finished / "checkpoint.safetensors").write_bytes(b"junk")
    code, out, err = invoke("run", "--benchmark", card, "--out", finished)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "checkpoint.safetensors: damaged" in err


@pytest.mark.parametrize("content", [b"", b"junk", to_bytes({"weight": torch.zeros(1)})])
def test_a_damaged_training_state(invoke, finished, card, content):
    (finished / "checkpoint.safetensors").unlink()
    (finished / "training.safetensors").write_bytes(content)
    code, out, err = invoke("train", "--benchmark", card, "--out", finished)
    assert (code, out) == (2, "")
    (note, error) = err.splitlines()
    assert note.startswith("training wrn-10-1")
    assert "training.safetensors" in error


def test_a_folder_of_another_run(invoke, finished, card):
    code, out, err = invoke("run", "--benchmark", card, "--out", finished, "--seed", 1)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "another seed; choose another folder with --out" in err


def test_a_checkpoint_of_another_data_set(refused, build_classifier, tmp_path):
    classifier = build_classifier(dataset="other", input_shape=(3, 16, 16), num_classes=4)
    oat_bench.save(classifier, tmp_path / "other.safetensors")
    err = refused("evaluate", "--model", "other.safetensors", "--dataset", "digits")
    assert "'other' (images (3, 16, 16)" in err
    assert "'digits' (images (1, 8, 8)" in err
    assert "'other'" in refused("evaluate", "--model", "other.safetensors")


def test_damaged_outcomes(invoke, finished, card):
    arguments = ["run", "--benchmark", card, "--out", finished, "--n-examples", 5]
    assert invoke(*arguments)[0] == 0
    victim = next((finished / "outcomes").rglob("*.parquet"))
    victim.write_bytes(b"PAR1")
    code, out, err = invoke(*arguments)
    assert (code, out) == (2, "")
    assert err.splitlines()[1:] == [
        f"oat-bench: {victim}: damaged outcomes; remove the file, and its examples are "
        "evaluated again"
    ]
    victim.unlink()
    assert invoke(*arguments)[0] == 0


# --- trouble in mid-run


def test_an_attack_that_fails_at_work_is_one_line(invoke, finished, card, tmp_path):
    attack = tmp_path / "tifgsm.toml"
    attack.write_text("engine = 'torchattacks'\nclass = 'TIFGSM'\n")
    code, out, err = invoke(
        *["run", "--benchmark", card, "--out", finished, "--n-examples", 5],
        *["--attacks", f"fgsm,{attack}", "--lambda", 0],
    )
    assert (code, out) == (2, "")
    assert "'tifgsm': torchattacks class TIFGSM fails: " in err.splitlines()[1]
    assert len(err.splitlines()) == 2
    # what was finished is kept
    assert [path.name.split("-lambda")[0] for path in (finished / "outcomes").iterdir()] == ["fgsm"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "some/file"), "some/file"),
        (OSError(errno.EIO, "Input/output error", "some/file"), "some/file: Input/output error"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory"),
    ],
)
def test_trouble_with_the_machine_is_one_line(invoke, finished, card, monkeypatch, error, words):
    def fail(*_args, **_kwargs):
        raise error

    monkeypatch.setattr(run, "evaluate", fail)
    code, out, err = invoke("run", "--benchmark", card, "--out", finished)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("oat-bench: ")
    assert words in lines[1]


def test_a_bug_is_not_hidden(invoke, finished, card, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(run, "evaluate", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        invoke("run", "--benchmark", card, "--out", finished)


def limited(kilobytes):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024,) * 2)

    return limit


@pytest.mark.slow
def test_a_disk_that_fills_in_training(card, tmp_path):
    arguments = ["train", "--benchmark", card, "--out", "out"]
    code, out, err = call(*arguments, cwd=tmp_path, preexec_fn=limited(500))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2
    assert err.splitlines()[1].startswith("oat-bench: the disk is full")
    assert list((tmp_path / "out").iterdir()) == []
    code, out, err = call(*arguments, cwd=tmp_path)
    assert (code, out) == (0, "")
    assert (tmp_path / "out" / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_a_disk_that_fills_in_an_evaluation(card, finished, tmp_path):
    import matplotlib.font_manager  # noqa: F401 - its cache is written once, here

    arguments = ["run", "--benchmark", card, "--out", finished]
    code, out, err = call(*arguments, cwd=tmp_path, preexec_fn=limited(20))
    assert (code, out) == (2, "")
    assert err.splitlines()[1:] == [
        "oat-bench: the disk is full (File too large); make room, the same command goes on"
    ]
    kept = files(finished / "outcomes")
    assert len({path.parent for path in kept}) == 6  # all cells: only a figure was too large
    assert not [path for path in finished.rglob("*") if path.suffix == ".tmp"]
    code, out, _ = call(*arguments, cwd=tmp_path)
    assert code == 0
    assert out == (finished / "table.md").read_text()
    assert files(finished / "outcomes") == kept


def test_a_full_disk_behind_stdout(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with Path("/dev/full").open("w") as full:
        process = start("list", "attacks", cwd=tmp_path, stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.startswith("oat-bench: the disk is full")
    assert err.count("\n") == 1


def test_a_reader_that_leaves(tmp_path):
    read, write = os.pipe()
    os.close(read)
    for arguments in (["list", "attacks"], ["--help"], ["list", "datasets"]):
        process = start(*arguments, cwd=tmp_path, stdout=write)
        _, err = process.communicate(timeout=60)
        assert err == ""
    os.close(write)


def interrupt(process, ready):
    """Send SIGINT as soon as something is ready; return exit code, stdout, stderr."""
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    return finish(process)


STOPPED = "oat-bench: stopped; what was finished is kept, the same command goes on from there"


@pytest.mark.slow
def test_ctrl_c_in_training(card, digits, tmp_path):
    card.write_text(card.read_text().replace("epochs = 4", "epochs = 60"))
    arguments = ["train", "--benchmark", card, "--out", "out"]
    out = tmp_path / "out"
    code, printed, err = interrupt(
        start(*arguments, cwd=tmp_path), lambda: (out / "log.csv").exists()
    )
    assert (code, printed) == (130, "")
    assert err.splitlines()[1:] == [STOPPED]
    assert {path.name for path in out.iterdir()} == {"training.safetensors", "log.csv"}
    done = len(pd.read_csv(out / "log.csv"))
    assert 1 <= done < 60
    rows = (out / "log.csv").read_text().splitlines()
    code, printed, err = call(*arguments, cwd=tmp_path)
    assert (code, printed) == (0, "")
    # it went on from there, to the weights of an unbroken run
    assert (out / "log.csv").read_text().splitlines()[: len(rows)] == rows
    assert pd.read_csv(out / "log.csv")["epoch"].to_list() == list(range(1, 61))
    whole = tmp_path / "whole"
    run.train(cards.benchmark(str(card)), digits, whole, seed=0, device=torch.device("cpu"))
    assert oat_bench.load(whole).fingerprint() == oat_bench.load(out).fingerprint()


@pytest.mark.slow
def test_ctrl_c_in_an_evaluation(card, finished, tmp_path):
    card.write_text(card.read_text() + "batch_size = 5\n")
    arguments = ["run", "--benchmark", card, "--attacks", "pgd-20", "--n-examples", 800]
    outcomes = finished / "outcomes"
    process = start(*arguments, "--out", finished, cwd=tmp_path)
    code, printed, err = interrupt(process, lambda: len(list(outcomes.rglob("*.parquet"))) > 2)
    assert (code, printed) == (130, "")
    assert err.splitlines()[1:] == [STOPPED]
    kept = files(outcomes)
    assert len(kept) >= 3
    assert not [path for path in finished.rglob("*") if path.suffix == ".tmp"]
    code, printed, err = call(*arguments, "--out", finished, cwd=tmp_path)
    assert code == 0
    assert len(err.splitlines()) == 1
    after = files(outcomes)
    assert len(after) > len(kept)
    assert {path: after[path] for path in kept} == kept
    # the same numbers as without an interruption
    code, unbroken, _ = call(
        *["evaluate", "--model", finished, *arguments[1:], "--out", "unbroken"], cwd=tmp_path
    )
    assert code == 0
    assert untimed(unbroken) == untimed(printed)
    whole = files(tmp_path / "unbroken" / "outcomes")
    names = [{path.parent.name + path.name for path in found} for found in (after, whole)]
    assert names[0] == names[1]


def test_ctrl_c_is_one_line(invoke, finished, card, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    for name in ("evaluate", "prepare_attacks"):
        with monkeypatch.context() as patch:
            patch.setattr(run, name, stop)
            code, out, err = invoke("run", "--benchmark", card, "--out", finished)
        assert (code, out) == (130, "")
        assert err.splitlines()[-1] == STOPPED
        assert "\n\n" not in err


def test_ctrl_c_that_a_loading_library_turns_into_another_error(invoke, card, monkeypatch):
    def load(*_args, **_kwargs):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    monkeypatch.setattr(run, "prepare_attacks", load)
    code, out, err = invoke("run", "--benchmark", card)
    assert (code, out, err) == (130, "", STOPPED + "\n")


def test_the_table_of_a_pipe_can_be_parsed(invoke, finished, card):
    code, out, _ = invoke("run", "--benchmark", card, "--out", finished)
    assert code == 0
    frame = pd.read_csv(io.StringIO((finished / "table.csv").read_text()))
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line[:1] == "|"][2:]
    for row, expected in zip(rows, frame.to_dict("records"), strict=True):
        assert float(row[2].split()[0]) == pytest.approx(expected["SA"], abs=0.051)


# --- compare and figure


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory, brief_toml, trained_folder):
    """Two evaluations of one model, the second of fewer lambda and with another seed."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "brief.toml").write_text(brief_toml)
    shutil.copytree(trained_folder, folder / "one")
    common = ["--benchmark", "brief.toml", "--out"]
    assert call("run", *common, "one", cwd=folder)[0] == 0
    options = ["--model", "one", "--lambda", "0,1", "--seed", 3]
    assert call("evaluate", *options, *common, "two", cwd=folder)[0] == 0
    return folder


def test_compare_prints_tables_and_writes_them_with_a_figure(invoke, two_runs, tmp_path):
    one, two = two_runs / "one", two_runs / "two"
    code, out, err = invoke("compare", one, two, "--attack", "pgd-7", "--out", "there")
    assert (code, err) == (0, "")
    assert out == (tmp_path / "there" / "compare.md").read_text()
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        "compare.md",
        "compare.csv",
        "frontier.svg",
        "frontier.png",
    }
    assert out.startswith("**digits, Linf eps 0.2: pgd-7**\n")
    frame = pd.read_csv(tmp_path / "there" / "compare.csv")
    assert frame["lambda"].to_list() == [0.0, 0.2, 1.0, 0.0, 1.0]
    # the second is the same model: equal on clean images, tested in pairs
    assert frame["SA difference"].dropna().to_list() == [0.0, 0.0]
    assert frame["SA p"].dropna().to_list() == [1.0, 1.0]
    assert frame["RA p"].notna().sum() == 2
    code, turned, _ = invoke("compare", one, two, "--attack", "pgd-7", "--reference", two)
    assert code == 0
    assert "Differences are to OAT no. 2" in turned
    assert (tmp_path / "runs" / "compare" / "compare.md").read_text() == turned


def test_compare_sums_up_runs_that_differ_in_the_seed_alone(invoke, two_runs, tmp_path):
    text = (two_runs / "one" / "entry.json").read_text()
    for seed in (0, 1, 2):
        (tmp_path / f"{seed}.json").write_text(text.replace('"seed": 0', f'"seed": {seed}', 1))
    code, out, _ = invoke("compare", "0.json", "1.json", "2.json", "--out", "there")
    assert code == 0
    assert "| method   |   lambda |   seeds |" in out
    frame = pd.read_csv(tmp_path / "there" / "seeds.csv")
    assert frame["seeds"].to_list() == [3, 3, 3]
    assert frame["RA std"].to_list() == [0, 0, 0]
    code, out, _ = invoke("compare", "0.json", "--out", "there")
    assert code == 0
    assert "seeds |" not in out
    assert not (tmp_path / "there" / "seeds.csv").exists()


def test_an_entry_alone_can_be_compared(invoke, two_runs, tmp_path):
    shutil.copy(two_runs / "two" / "entry.json", tmp_path / "two.json")
    code, out, _ = invoke("compare", two_runs / "one", "two.json", "--attack", "fgsm")
    assert code == 0
    assert "McNemar" not in out
    assert "+0.0" in out
    code, out, _ = invoke("compare", "two.json")
    assert code == 0
    assert "Differences are to the lambda before, in points." in out
    assert "McNemar" not in out


def test_the_lambda_of_one_run_are_compared(invoke, two_runs):
    one = two_runs / "one"
    code, out, err = invoke("compare", one, "--reference-lambda", "0.2", "--out", "there")
    assert (code, err) == (0, "")
    assert "Differences are to lambda 0.2, in points. On the same examples (50): " in out
    assert "corrected by Holm for all 4 tests" in out
    frame = pd.read_csv("there/compare.csv")
    assert frame["to lambda"].dropna().to_list() == [0.2, 0.2]
    assert frame["RA p"].notna().to_list() == [True, False, True]
    for arguments, words in (
        ([one, "--reference-lambda", "0.7"], "the run has no lambda 0.7; it has 0, 0.2, 1"),
        ([one, "--reference-lambda", "nan"], "'nan' is not a number"),
        ([one, two_runs / "two", "--reference-lambda", "0"], "is for one run alone"),
    ):
        code, out, err = invoke("compare", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert words in err


def test_compare_fits_a_terminal_or_runs_over_it(two_runs, tmp_path):
    arguments = ["compare", two_runs / "one", two_runs / "two", "--out", tmp_path / "there"]
    code, shown = in_terminal(*arguments, cwd=tmp_path, columns=60)
    assert code == 0
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    rows = [line.split() for line in lines if line.startswith("OAT no. 2")]
    assert len(rows) == 3  # two lambda, one frontier
    assert rows[0][3:5] == ["0", "50"]


@pytest.mark.parametrize("kind", FIGURES)
def test_every_figure_can_be_drawn_alone(invoke, two_runs, tmp_path, kind):
    code, out, err = invoke("figure", kind, two_runs / "one", "--out", "a.png")
    assert (code, out, err) == (0, "a.png\n", "")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = invoke("figure", kind, two_runs / "one")
    assert (code, out) == (0, f"{kind}.svg\n{kind}.png\n")
    # what the report holds is what the command draws
    report = two_runs / "one" / "figures" / f"{kind}.svg"
    if kind != "saliency":  # its columns are then those trained
        assert (tmp_path / f"{kind}.svg").read_bytes() == report.read_bytes()


def test_figures_have_their_options(invoke, two_runs, tmp_path):
    one, two = two_runs / "one", two_runs / "two"
    for arguments in (
        ["frontier", one, two, "--attack", "fgsm"],
        ["lambda", one, two, "--attack", "pgd-7"],
        ["saliency", one, "--lambda", "0,0.3,1"],
        ["bn-statistics", one, "--layer", "stage2.blocks.0.norm1"],
    ):
        code, out, err = invoke("figure", *arguments, "--out", "b.svg")
        assert (code, out, err) == (0, "b.svg\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare"], "Missing argument 'RUN...'"),
        (["compare", "nowhere"], "no entry at nowhere; expected a run's folder"),
        (["compare", "ONE", "--reference", "TWO"], "is none of the runs"),
        (["compare", "ONE", "other.json"], "of cifar10, Linf eps 0.2; only runs of one data set"),
        (["compare", "ONE", "eps.json"], "of digits, Linf eps 8/255; only runs of one"),
        (["compare", "broken.json"], "broken.json: not an entry of oat-bench: "),
        (["compare", "extra.json"], "extra.json: not an entry of oat-bench: unknown key 'extra'"),
        (["compare", "ONE", "--attack", "pgd-8"], "'pgd-8' was not run on every model; did you"),
        (["figure", "unseen", "TWO"], "no lambda was evaluated that was not trained"),
        (["figure", "frontier", "ONE", "--out", "a.gif"], "a.gif: unknown format '.gif'"),
        (["figure", "bn-statistics", "ONE", "--layer", "norn"], "no norm layer 'norn'; did you"),
        (["figure", "bn-statistics", "TWO"], "no checkpoint at"),
        (["figure", "saliency", "ONE", "--lambda", "2"], "lambda 2 is outside [0, 1]"),
    ],
)
def test_bad_input_of_compare_and_figure_is_one_line(refused, two_runs, tmp_path, arguments, words):
    places = {"ONE": two_runs / "one", "TWO": two_runs / "two"}
    values = json.loads((two_runs / "one" / "entry.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(values | {"dataset": "cifar10"}))
    (tmp_path / "eps.json").write_text(json.dumps(values | {"eps": "8/255"}))
    (tmp_path / "extra.json").write_text(json.dumps(values | {"extra": 1}))
    (tmp_path / "broken.json").write_text("{")
    assert words in refused(*[places.get(argument, argument) for argument in arguments])


def test_damaged_outcomes_are_named_by_compare(refused, two_runs, tmp_path):
    shutil.copytree(two_runs / "one", tmp_path / "one", ignore=shutil.ignore_patterns("outcomes"))
    (tmp_path / "one" / "outcomes.parquet").write_bytes(b"PAR1 but no more")
    assert "outcomes.parquet: damaged outcomes" in refused("compare", tmp_path / "one")


# --- results


def test_results_are_listed_filtered_and_exported(invoke, two_runs, tmp_path):
    code, out, err = invoke("results", two_runs)
    assert (code, err) == (0, "")
    entry = Entry.model_validate_json((two_runs / "one" / "entry.json").read_bytes())
    robust = {(p.lam, a): v for p in entry.operating_points for a, v in p.robust_acc.items()}
    listed = [row for row in out.splitlines() if row.rstrip().endswith("one |")]
    assert len(listed) == len(robust)
    code, out, _ = invoke("results", two_runs / "one", "--attack", "fgsm", "--lambda", "1")
    (row,) = out.splitlines()[2:]
    interval = robust[(1.0, "fgsm")]
    assert f" {interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}] " in row
    assert invoke("results", two_runs / "one", "--out", "all.csv") == (0, "", "")
    frame = pd.read_csv(tmp_path / "all.csv")
    found = {(row.lam, row.attack): round(row.ra, 2) for row in frame.itertuples()}
    assert found == {key: interval.value for key, interval in robust.items()}
    assert invoke("results", two_runs / "one", "--examples", "--out", "all.parquet")[0] == 0
    assert len(pd.read_parquet(tmp_path / "all.parquet")) == frame["n"].sum()


def test_results_refuse_what_they_cannot_do(refused, two_runs):
    assert "expected a file that ends in .csv or .parquet" in refused("results", "--out", "a.xls")
    assert "name one with --out" in refused("results", two_runs, "--examples")
    assert "no folder runs" in refused("results")
    assert "unknown attack in these results 'pgd'" in refused("results", two_runs, "--attack=pgd")


def test_no_results_are_said_to_be_none(invoke, tmp_path):
    (tmp_path / "runs").mkdir()
    assert invoke("results") == (
        0,
        "",
        "nothing was evaluated there, or nothing of what was asked\n",
    )


# --- integrity

#: a minute less than by default
BRIEFLY = ["--attacks", "fgsm,pgd-7,pgd-20", "--lambda", "1", "--n-examples", "40,square=20"]


def test_integrity_prints_a_verdict_and_writes_it(invoke, finished):
    code, out, err = invoke("integrity", finished, *BRIEFLY)
    assert (code, err) == (0, "")
    assert out == (finished / "integrity.md").read_text()
    assert "\x1b" not in out
    assert out.startswith("**digits, wrn-10-1, OAT, Linf eps 0.2: attack integrity: ")
    rows = [line.split("|")[1:-1] for line in out.splitlines() if line[:1] == "|"]
    assert [cell.strip() for cell in rows[0]] == ["check", "verdict", "evidence"]
    report = integrity.read(finished / "integrity.json")
    (point,) = report.operating_points
    assert (point.lam, point.width, report.n, report.fewer_examples) == (1, 1, 40, {"square": 20})
    printed = [[cell.strip() for cell in row] for row in rows[2:]]
    assert printed == [[check.name, check.verdict, check.evidence] for check in point.checks]
    assert len(printed) == 10
    assert report.verdict == point.verdict != "fail"
    assert report.model_fingerprint == oat_bench.load(finished).fingerprint()
    assert report.command == shlex.join(["oat-bench", "integrity", str(finished), *BRIEFLY])

    # once more: nothing is computed, the same is printed
    before = files(finished / "outcomes")
    assert invoke("integrity", finished, *BRIEFLY) == (0, out, "")
    assert files(finished / "outcomes") == before


def test_integrity_fails_a_model_whose_softmax_is_saturated(invoke, finished, tmp_path):
    """The honest model's weights, its logits a million times as large."""
    honest = oat_bench.load(finished)
    state = honest.state_dict()
    for name in ("backbone.linear.weight", "backbone.linear.bias"):
        state[name] = 1e6 * state[name]
    oat_bench.save(type(honest).from_state(honest.info, state), tmp_path / "masked.safetensors")
    code, out, err = invoke("integrity", "masked.safetensors", *BRIEFLY)
    assert (code, err) == (1, "")
    assert "attack integrity: fail" in out
    rows = [[cell.strip() for cell in line.split("|")] for line in out.splitlines()]
    failed = {row[1] for row in rows if row[2:3] == ["fail"]}
    assert {"eps sweep", "loss", "zero gradients"} <= failed
    # results of a checkpoint lie under its fingerprint
    (folder,) = Path("runs").iterdir()
    assert integrity.read(folder / "integrity.json").verdict == "fail"


def test_integrity_in_a_terminal(finished, tmp_path):
    arguments = ["integrity", finished, *BRIEFLY]
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
        (["RUN", "--n-examples", "9,pgd=3"], "unknown attack with fewer examples 'pgd'; did you"),
        (["RUN", "--dataset", "mnist"], "unknown data set 'mnist'"),
    ],
)
def test_bad_input_of_integrity_is_one_line(refused, finished, monkeypatch, arguments, words):
    def forbidden(*_args, **_kwargs):
        raise AssertionError("it went on")

    monkeypatch.setattr(examination, "evaluate", forbidden)
    places = {"RUN": finished}
    assert words in refused("integrity", *[places.get(word, word) for word in arguments])
    assert not list(finished.glob("integrity.*"))


# --- transfer


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
    assert table["expected RA"]["expectation"] == round(100 * right.mean(), 2)
    # nothing is attacked twice, and a threat model of its own is listed as such
    assert invoke("transfer", finished, *options)[1] == out
    code, listed, _ = invoke("results", finished)
    assert code == 0
    assert listed.count(" expectation over lambda 0, 0.2, 1 ") == 3
    assert listed.count(" lambda 0.2 ") >= 3


def test_transfer_between_lambda_that_were_chosen(invoke, finished):
    options = ["--attack", "pgd-7", "--n-examples", "10", "--crafted", "0.5", "--lambda", "0,1"]
    code, out, err = invoke("transfer", finished, *options, "--no-random-lambda", "--out", "there")
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if line.startswith("### ")] == [
        "### Lambda is unknown to the attacker: attacked at one lambda, classified at another",
        "### Lambda is public, and the attacker may attack at any lambda: the worst for each image",
    ]
    assert "Masked gradients were not looked for" in out
    assert not list(Path("there").glob("random-lambda.*"))
    code, out, err = invoke("transfer", finished, *options, "--draw", "1=3,0", "--out", "there")
    assert (code, err) == (0, "")
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


# --- check


@pytest.fixture(scope="module")
def baseline(two_runs, tmp_path_factory):
    """A published entry with its outcomes beside it."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copy(two_runs / "one" / "entry.json", folder / "model.json")
    shutil.copy(two_runs / "one" / "outcomes.parquet", folder / "model.parquet")
    return folder / "model.json"


def fragile(folder, into):
    """Another checkpoint, trained to be right on clean images alone."""
    classifier = load(folder)
    with torch.no_grad():
        for weight in classifier.network.parameters():
            weight *= 0.97
            weight += (
                0.35
                * weight.std()
                * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
            )
    save(classifier, into)


def test_check_passes_the_same_model_and_fails_a_damaged_one(invoke, finished, baseline, tmp_path):
    code, out, err = invoke("check", finished, "--baseline", baseline)
    assert (code, err) == (0, "")
    assert "\nok: in 16 accuracies no drop of more than 1 point is supported" in out
    fragile(finished, tmp_path / "fragile.safetensors")
    code, out, _ = invoke("check", "fragile.safetensors", "--baseline", baseline)
    assert code == 1
    assert "\nworse: " in out
    # its outcomes are stored: nothing is attacked again
    options = ["check", "fragile.safetensors", "--baseline", baseline, "--format"]
    assert invoke(*options, "json")[0] == 1
    content = json.loads(invoke(*options, "json")[1])
    assert content["verdict"] == "worse"
    assert invoke(*options, "junit")[1].startswith("<?xml")
    assert invoke(*options, "github")[1].startswith("::error title=oat-bench check%3A worse::")


def test_github_gets_its_summary(invoke, finished, baseline, tmp_path, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, out, _ = invoke("check", finished, "--baseline", baseline, "--format", "github")
    assert code == 0
    assert out.startswith("::notice title=oat-bench check%3A ok::")
    assert "\nok: in 16 accuracies" in (tmp_path / "summary.md").read_text()


def test_a_better_model_passes_and_becomes_the_baseline(invoke, finished, baseline, tmp_path):
    fragile(finished, tmp_path / "old.safetensors")
    for end in ("json", "parquet"):
        shutil.copy(baseline.with_suffix(f".{end}"), tmp_path / f"base.{end}")
    # the damaged model becomes the baseline only where its drop is tolerated
    options = ["--baseline", "base.json", "--update-baseline"]
    assert invoke("check", "old.safetensors", *options)[0] == 1
    assert Entry.model_validate_json((tmp_path / "base.json").read_bytes()).method == "oat"
    assert (tmp_path / "base.json").read_bytes() == baseline.read_bytes()
    code, out, _ = invoke("check", "old.safetensors", *options, "--max-drop", "99")
    assert code == 0
    assert "\nbaseline updated: base.json, base.parquet\n" in out
    entry = Entry.model_validate_json((tmp_path / "base.json").read_bytes())
    assert entry.model_fingerprint == load(tmp_path / "old.safetensors").fingerprint()
    # against it the first model is better
    code, out, _ = invoke("check", finished, "--baseline", "base.json")
    assert code == 0
    assert "\nto make it the baseline: oat-bench check --update-baseline " in out
    assert invoke("check", finished, *options)[0] == 0
    entry = Entry.model_validate_json((tmp_path / "base.json").read_bytes())
    first = Entry.model_validate_json(baseline.read_bytes())
    assert [p.robust_acc for p in entry.operating_points] == [
        p.robust_acc for p in first.operating_points
    ]


def test_check_refuses_what_does_not_compare(refused, finished, baseline, tmp_path):
    shutil.copy(baseline, tmp_path / "alone.json")
    for options, words in (
        (["--baseline", "none"], "no entry at none"),
        (["--baseline", "alone.json"], "has no outcomes beside it"),
        (["--baseline", baseline, "--attacks", "pgd"], "unknown attack of the baseline 'pgd'"),
        (["--baseline", baseline, "--lambda", "0.7"], "lambda 0.7 is not of the baseline"),
        (["--baseline", baseline, "--max-drop", "200"], "--max-drop"),
        (["--baseline", baseline, "--max-drop", "nan"], "--max-drop"),
        (["--baseline", baseline, "--update-baseline", "--lambda", "1"], "leave out --attacks"),
    ):
        assert words in refused("check", finished, *options)


# --- leaderboard


def test_a_run_is_published_checked_ranked_and_exported(invoke, two_runs):
    evaluated = two_runs / "one"
    code, out, err = invoke("leaderboard", "add", evaluated, "--authors", "A. Author")
    place = Path("leaderboards/digits/Linf/oat-wrn-10-1.json")
    assert (code, err) == (0, "")
    assert out.splitlines() == [str(place), str(place.with_suffix(".parquet"))]
    assert Entry.model_validate_json(place.read_text()).authors == "A. Author"
    assert Entry.model_validate_json(place.read_text()).attack_seed == 0
    assert invoke("leaderboard", "validate") == (0, "1 entry, 0 errors, 0 warnings\n", "")
    # a table of all, and of the entry alone
    code, out, err = invoke("leaderboard", "table")
    assert (code, err) == (0, "")
    assert out.startswith("**digits, Linf eps 0.2: worst-case RA, by hypervolume**\n\n|   rank |")
    assert invoke("leaderboard", "table", "digits") == (0, out, "")
    code, table, _ = invoke("leaderboard", "table", place)
    assert table == (evaluated / "table.md").read_text()
    assert invoke("leaderboard", "table", evaluated)[1] == table
    assert invoke("leaderboard", "table", place, "--format", "latex")[1] == (
        (evaluated / "table.tex").read_text()
    )
    for name, begins in (("t.md", "**digits"), ("t.csv", "dataset,"), ("t.tex", "% needs")):
        assert invoke("leaderboard", "table", "--out", f"sub/{name}") == (0, "", "")
        assert Path("sub", name).read_text().startswith(begins)
    # AutoAttack was not run
    code, _, err = invoke("leaderboard", "export", place, "--lambda", "1")
    assert (code, err.count("\n")) == (2, 1)
    assert "AutoAttack was not run at lambda 1" in err


def test_a_published_point_is_exported(invoke, tmp_path):
    entry = Path(__file__).parents[1] / "leaderboards" / "digits" / "Linf" / "oat-wrn-10-1.json"
    code, out, err = invoke("leaderboard", "export", entry, "--lambda", "0.4")
    assert code == 0
    assert err == "RobustBench has no leaderboard of digits; it has cifar10, cifar100, imagenet\n"
    point = next(
        p for p in Entry.model_validate_json(entry.read_text()).operating_points if p.lam == 0.4
    )
    assert json.loads(out)["autoattack_acc"] == f"{point.autoattack_acc:.2f}"
    invoke("leaderboard", "export", entry, "--lambda", "0.4", "--out", "model.json")
    assert (tmp_path / "model.json").read_text() == out


def test_the_schema_is_printed(invoke):
    code, out, err = invoke("leaderboard", "schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["$id"].startswith("urn:oat-bench:entry:")


def test_problems_are_a_line_each_and_exit_with_1(invoke, tmp_path):
    shipped = Path(__file__).parents[1] / "leaderboards" / "digits" / "Linf" / "oat-wrn-10-1.json"
    folder = tmp_path / "leaderboards" / "digits" / "Linf"
    folder.mkdir(parents=True)
    values = json.loads(shipped.read_text())
    (folder / "a.json").write_text(json.dumps(values | {"command": "echo\n\x1b[31m"}))
    (folder / "b.json").write_text("{")
    (folder / "c.json").write_text(json.dumps(values | {"name": "another"}))
    code, out, err = invoke("leaderboard", "validate")
    assert (code, err) == (1, "")
    first, second, last = out.splitlines()
    assert first.startswith("leaderboards/digits/Linf/a.json: error: command is")
    assert second.startswith("leaderboards/digits/Linf/b.json: error: not an entry of oat-bench")
    assert last == "3 entries, 2 errors, 0 warnings"
    assert invoke("leaderboard", "validate", folder / "c.json")[0] == 0
    # a table leaves out what cannot be read, and says so
    code, out, err = invoke("leaderboard", "table")
    assert code == 0
    assert err.startswith("left out: leaderboards/digits/Linf/b.json: not an entry")
    assert "another" in out


def test_leaderboards_refuse_in_one_line(refused, tmp_path):
    shipped = Path(__file__).parents[1] / "leaderboards"
    entry = shipped / "digits" / "Linf" / "oat-wrn-10-1.json"
    (tmp_path / "empty").mkdir()
    table = ("leaderboard", "table", "--from", shipped)
    for arguments, words in (
        (("leaderboard", "add", "none"), "no entry at none"),
        (("leaderboard", "validate"), "no entry at leaderboards"),
        (("leaderboard", "validate", "empty"), "no entries in empty"),
        (("leaderboard", "table"), "no folder leaderboards"),
        ((*table, "digit"), "unknown data set in these leaderboards 'digit'; did you mean digits"),
        ((*table, "--attack", "pgd-21"), "did you mean pgd-20"),
        ((*table, "--min-sa", "101"), "--min-sa"),
        ((*table, "--out", "x.txt"), "expected a file that ends in .md, .csv or .tex"),
        ((*table, "--out", "x.md", "--format", "terminal"), "--format terminal is for a terminal"),
        ((*table, "--robustbench", "empty"), "no model_info of RobustBench"),
        (("leaderboard", "export", entry, "--lambda", "0.35"), "the entry has no lambda 0.35"),
        (("leaderboard", "export", entry, "--lambda", "2"), "--lambda"),
        (("leaderboard", "export", entry), "--lambda"),
    ):
        assert words in refused(*arguments)


def test_a_leaderboard_is_drawn_in_a_terminal(tmp_path):
    shipped = Path(__file__).parents[1] / "leaderboards"
    arguments = ("leaderboard", "table", "digits", "--from", shipped)
    code, out = in_terminal(*arguments, cwd=tmp_path, columns=140)
    assert code == 0
    assert "digits, Linf eps 0.375: worst-case RA, by hypervolume" in out
    assert "\u2500" in out
    assert "|" not in out
