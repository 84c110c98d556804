"""Work shared out over processes on the command line, by the examples of docs/scale.md."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs" / "scale.md"
FEW = ["--attacks", "fgsm,pgd-7", "--lambda", "0,1", "--n-examples", "150"]
RUN = "runs/digits-seed0"


def example(language, words):
    """Return the one example that holds some words."""
    found = re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (one,) = (text for text in found if words in text)
    return one


@pytest.fixture
def recorded(tmp_path):
    """Run a script with an oat-bench that only writes down what it is asked: [[word, ...], ...]."""

    def recorded(script, shell="bash", **environment):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        program, log = folder / "oat-bench", folder / "log"
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {shlex.quote(str(log))}\n')
        program.chmod(0o755)
        log.unlink(missing_ok=True)
        known = os.environ | environment | {"PATH": f"{folder}:{os.environ['PATH']}"}
        subprocess.run([shell, "-eu", "-c", script], env=known, check=True, timeout=60)
        return [shlex.split(line) for line in log.read_text().splitlines()]

    return recorded


@pytest.fixture
def run(trained_folder, tmp_path):
    shutil.copytree(trained_folder, tmp_path / RUN)
    return tmp_path / RUN


@pytest.fixture
def alone(invoke, run):
    code, table, err = invoke("evaluate", RUN, *FEW, "--out", "alone")
    assert code == 0, err
    return table, Path("alone/outcomes.parquet").read_bytes()


def shares(commands):
    """Return the numbers of shards, all of one count, and the count."""
    found = [words[words.index("--shard") + 1].split("/") for words in commands]
    (count,) = {int(count) for _, count in found}
    return sorted(int(number) for number, _ in found), count


def test_the_shell_loop_is_one_process(recorded, invoke, alone, monkeypatch):
    commands = recorded(example("sh", "for i in"))
    assert shares(commands[:-1]) == ([1, 2, 3, 4], 4)
    for words in commands[:-1]:
        code, out, err = invoke(*words, *FEW, "--out", "shared")
        assert (code, out) == (0, "")
        shard = words[words.index("--shard") + 1]
        assert re.fullmatch(rf"shard {shard}: its [1-3] of 8 blocks are in the store; .*\n", err)
        assert not Path("shared/report.md").exists()
    with monkeypatch.context() as patch:
        patch.setattr("oat_bench.evaluation.subject.AtPoint.craft", None)
        patch.setattr("oat_bench.evaluation.flags.SHARE", 0)  # no second attack on what stood
        code, table, err = invoke(*commands[-1], *FEW, "--out", "shared")
    assert code == 0, err
    assert Path("shared/outcomes.parquet").read_bytes() == alone[1]
    tables = [re.findall(r"^\|.*", text, re.MULTILINE) for text in (table, alone[0])]
    assert tables[0] == tables[1] != []


def test_the_array_of_slurm(recorded, invoke, alone):
    body, submit = example("sh", "#SBATCH"), example("sh", "--wrap")
    first, last = map(int, re.search(r"--array=(\d+)-(\d+)", body).groups())
    task = {"SLURM_CPUS_PER_TASK": "4", "SLURM_ARRAY_TASK_COUNT": str(last - first + 1)}
    commands = []
    for number in range(first, last + 1):
        commands += recorded(body, SLURM_ARRAY_TASK_ID=str(number), **task)
    assert shares(commands) == (list(range(1, 51)), 50)
    for number in ("2", "1"):  # an array of two
        of_two = task | {"SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_ID": number}
        (words,) = recorded(body, **of_two)
        words = [words[0], RUN, *words[2:], *FEW, "--out", "shared", "--store", "memory://slurm"]
        code, _, err = invoke(*words)
        assert code == 0, err
    report = shlex.split(re.search(r'--wrap "oat-bench (.*)"', submit)[1])
    assert report == commands[0][:-2]
    words = [report[0], RUN, *report[2:], *FEW, "--out", "shared", "--store", "memory://slurm"]
    code, _, err = invoke(*words)
    assert code == 0, err
    assert Path("shared/outcomes.parquet").read_bytes() == alone[1]
    assert not Path("shared/outcomes").exists()


def test_an_array_with_attacks_on_survivors_is_run_twice(invoke, run):
    few = ["--attacks", "fgsm,pgd-20", "--lambda", "0,1", "--n-examples", "150,pgd-20=20"]
    code, _, err = invoke("evaluate", RUN, *few, "--out", "alone")
    assert code == 0, err
    for last in (
        "run this array again, for the attacks on survivors: oat-bench ",
        "without --shard",
    ):
        for shard in ("1/2", "2/2"):
            code, out, err = invoke("evaluate", RUN, *few, "--out", "shared", "--shard", shard)
            assert (code, out) == (0, "")
            # the last finds what both did
            assert (last if shard == "1/2" else "without --shard") in err
            assert err.count("\n") == 1
    code, _, err = invoke("evaluate", RUN, *few, "--out", "shared")
    assert code == 0, err
    alone, shared = (Path(folder, "outcomes.parquet") for folder in ("alone", "shared"))
    assert shared.read_bytes() == alone.read_bytes()
    submit = example("sh", "first=")
    assert [*re.findall(r"afterok:\"\$(\w+)\" shards.sbatch", submit)] == ["first"]


def test_the_job_of_kubernetes(recorded):
    job = yaml.safe_load(example("yaml", "kind: Job"))["spec"]
    pod = job["template"]["spec"]["containers"][0]
    shell, flag = pod["command"]
    assert (job["completionMode"], flag, job["parallelism"]) == ("Indexed", "-c", 50)
    commands = []
    for index in range(job["completions"]):
        commands += recorded(pod["args"][0], shell, JOB_COMPLETION_INDEX=str(index))
    assert shares(commands) == (list(range(1, 51)), 50)
    assert "s3://bucket/outcomes" in commands[0]


def test_a_check_in_shards(invoke, run, reported_folder):
    small = ["check", RUN, "--baseline", reported_folder, "--lambda", "0,1", "--out", "checked"]
    for shard in ("2/2", "1/2"):
        code, out, err = invoke(*small, "--shard", shard)
        assert (code, out) == (0, ""), err
        assert err.startswith(f"shard {shard}: ")
    code, out, err = invoke(*small)
    assert code == 0, err
    assert "pgd-7" in out


def test_a_transfer_in_shards(invoke, run):
    small = ["transfer", RUN, "--attack", "fgsm", "--lambda", "0,1", "--n-examples", "150"]
    tables = []
    for out, shards in (("one", []), ("two", [["--shard", "1/2"], ["--shard", "2/2"]])):
        for shard in shards:
            code, stdout, err = invoke(*small, "--out", out, *shard)
            assert (code, stdout) == (0, ""), err
        code, _, err = invoke(*small, "--out", out)
        assert code == 0, err
        tables.append(Path(out, "transfer.parquet").read_bytes())
    assert tables[0] == tables[1]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--shard", "0/3"], "'0/3'; expected such as 2/5, of 1/5 to 5/5"),
        (["--shard", "4/3"], "'4/3'; expected such as 2/5"),
        (["--shard", "1/2", "--ray"], "--shard and --ray each share the work out; give one"),
        (["--gpus-per-worker", "0.5"], "--cpus-per-worker and --gpus-per-worker are for --ray"),
        (["--shard", "1/2", "--save-images"], "--save-images is for one process; leave out"),
        (["--store", "nowhere://x"], "--store nowhere://x: Protocol not known: nowhere"),
    ],
)
def test_bad_input(refused, run, words, complaint):
    assert complaint in refused("evaluate", RUN, *FEW, *words)


def test_a_shard_trains_nothing(refused):
    err = refused("run", "--dataset", "digits", "--shard", "1/2", "--out", "new")
    assert "no checkpoint in new, and a shard trains none; run `train` first" in err


def test_without_ray_there_is_one_line(refused, run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    err = refused("evaluate", RUN, *FEW, "--ray")
    assert err == "oat-bench: --ray needs Ray; pip install 'oat-bench[ray]'\n"
