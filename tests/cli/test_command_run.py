"""`oat-bench run`, `train` and `evaluate`: what they print, where, and in a terminal."""

import json
import os
import re
import shutil
from pathlib import Path

import pandas as pd
from commands import call, files, in_terminal, untimed

import oat_bench
from oat_bench.attacks import in_house
from oat_bench.results.entries import Entry

FILES = {
    "report.md",
    "entry.json",
    "table.md",
    "table.csv",
    "table.tex",
    "outcomes.parquet",
    "figures",
}


# --- the whole line


def test_a_run_trains_attacks_writes_and_prints(invoke, tmp_path, card):
    tiny = card.read_text().replace("epochs = 4", "epochs = 1")
    card.write_text(tiny)
    code, out, err = call("run", "--benchmark", card, "--out", "results", cwd=tmp_path)
    assert code == 0
    results = tmp_path / "results"
    assert {path.name for path in results.iterdir()} == FILES | {
        "card.toml",
        "checkpoint.safetensors",
        "training.safetensors",
        "log.csv",
        "splits.json",
        "outcomes",
    }
    # results on stdout, everything else on stderr, no colours in a pipe
    table, flags = (results / "table.md").read_text(), out.splitlines()[-1]
    assert out == f"{table}\n{flags}\n"
    assert flags == "no flags"
    assert "\n## Flags\n\nNone was raised.\n" in (results / "report.md").read_text()
    assert "0.2 *" in out
    assert out.count(" * ") == 2  # in the row, and in the note below the table
    assert "\x1b" not in out + err
    notes = err.splitlines()
    assert (len(notes), notes[-1]) == (3, "table, entry, outcomes and figures in results")
    assert notes[0].startswith(
        "training wrn-10-1 on digits by OAT: 897 images, 1 epoch, lambda 0, 0.5, 1, on cpu"
    )
    speed = r"\d+ s, [\d,]+ images a second"
    assert re.fullmatch(rf"trained in {speed}; weights: last: epoch 1", notes[1])
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
    said = f"results/checkpoint.safetensors: trained already\n{notes[-1]}\n"
    assert invoke("run", "--benchmark", card, "--out", "results") == (0, out, said)
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
        "card.toml",
        "checkpoint.safetensors",
        "training.safetensors",
        "log.csv",
        "splits.json",
    }
    options = ["--attacks", "fgsm", "--lambda", "0.3,0,0.3", "--n-examples", 20]
    tables = []
    for model in (folder, (folder / "checkpoint.safetensors").absolute()):
        code, out, err = invoke("evaluate", "--model", model, *options)
        assert code == 0
        tables.append((out, err))
    assert tables[0] == tables[1]
    table, err = tables[0]
    rows = [line.split("|") for line in table.splitlines() if line[:1] == "|"]
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
    assert err == f"table, entry, outcomes and figures in {results}\n"
    assert {path.name for path in results.iterdir()} == FILES | {"outcomes"}
    # `run --model` is the same
    assert invoke("run", "--model", folder, *options) == (0, *tables[0])


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
    for seed, cells in [(0, 1), (1, 2)]:
        code, _, _ = invoke(*arguments, "--seed", seed)
        assert code == 0
        assert len(list(Path("results/outcomes").glob("pgd-7-lambda*"))) == cells


def test_the_batch_size_changes_what_is_attacked_at_a_time_and_no_outcome(
    invoke, card, finished, monkeypatch
):
    sizes, run = [], in_house.run
    monkeypatch.setattr(in_house, "run", lambda *xs: sizes.append(len(xs[2])) or run(*xs))
    common = ["--attacks", "pgd-7", "--lambda", 1, "--n-examples", 20]
    tables = []
    for command in (
        ["evaluate", finished, "--benchmark", card, "--out", "a", *common],
        ["run", "--model", finished, "--benchmark", card, "--out", "b", "--batch-size", 7, *common],
    ):
        code, out, _ = invoke(*command)
        assert code == 0
        tables.append(untimed(out))
    assert tables[0] == tables[1]
    # after each evaluation a flag's longer attack on few of what stood
    whole, _, *parts, _ = sizes
    assert whole > 7
    assert parts == [7, 7, whole - 14]
    sizes.clear()
    transfer = ["transfer", finished, "--attack", "pgd-7", "--lambda", "0,1", "--n-examples", 20]
    code, _, _ = invoke(*transfer, "--no-random-lambda", "--batch-size", 6, "--out", "c")
    assert code == 0
    assert max(sizes) == 6


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
    assert err.splitlines() == [
        f"{finished}/checkpoint.safetensors: trained already",
        f"table, entry, outcomes and figures in {finished}",
    ]
    assert "my-bim" in out
    table = pd.read_csv(finished / "table.csv")
    assert table["my-bim"][0] <= table["fgsm"][0] < table["SA"][0]


def test_names_that_look_like_markup_are_shown_as_they_are(invoke, card, trained_folder, tmp_path):
    folder = tmp_path / "[red]a[" / "b] :smile: [" / "c]"
    shutil.copytree(trained_folder, folder)
    code, _, err = invoke("run", "--benchmark", card, "--out", folder, "--n-examples", 2)
    assert code == 0
    assert err.splitlines() == [
        f"{folder}/checkpoint.safetensors: trained already",
        f"table, entry, outcomes and figures in {folder}",
    ]


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


def test_flags_follow_the_table(invoke, finished, tmp_path):
    """The model's weights, its logits so large that cross-entropy has no gradient."""
    honest = oat_bench.load(finished)
    state = honest.state_dict()
    for name in ("backbone.linear.weight", "backbone.linear.bias"):
        state[name] = 1e6 * state[name]
    oat_bench.save(type(honest).from_state(honest.info, state), tmp_path / "masked.safetensors")
    arguments = ["evaluate", "masked.safetensors", "--attacks", "pgd-7,square", "--lambda", "1"]
    arguments += ["--n-examples", "20", "--out", "results"]
    code, out, err = invoke(*arguments)
    said = "table, entry, outcomes and figures in results\n"
    assert (code, err) == (0, said)
    entry = Entry.model_validate_json(Path("results/entry.json").read_text())
    names = {flag.name for flag in entry.flags}
    assert names >= {"estimate", "gradient-free", "zero gradients"}
    assert not entry.randomized
    table = Path("results/table.md").read_text()
    assert out == table + "\n" + "".join(f"flag: {flag.text}\n" for flag in entry.flags)
    assert "pgd-7 overestimates robustness at lambda" in out
    page = Path("results/report.md").read_text()
    assert page.count("\n* ", page.index("## Flags"), page.index("## Figures")) == len(names)
    # once more: nothing is computed
    before = files(Path("results/outcomes"))
    assert invoke(*arguments) == (0, out, said)
    assert files(Path("results/outcomes")) == before
    code, shown = in_terminal(*arguments, cwd=tmp_path, columns=80)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert max(map(len, re.split(r"[\r\n]+", plain))) <= 80
    assert "flag: pgd-7 overestimates robustness" in plain


# --- a terminal


def test_a_terminal_gets_a_bar_and_a_table_that_fits(card, finished, tmp_path):
    arguments = ["run", "--benchmark", card, "--out", finished, "--n-examples", 20]
    code, shown = in_terminal(*arguments, cwd=tmp_path, columns=80)
    assert code == 0
    assert "\x1b[" in shown
    assert "evaluating" in shown
    lines = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line) for line in re.split(r"[\r\n]+", shown)]
    assert max(map(len, lines)) <= max(80, len(f"{finished}/checkpoint.safetensors") + 20)
    table = [line for line in lines if line.split()[:1] == ["0.2"]]
    assert len(table) == 1
    assert table[0].split()[:3] == ["0.2", "*", "20"]
    header = next(line for line in lines if line.startswith("lambda"))
    assert header.split() == ["lambda", "n", "SA", "fgsm", "pgd-7", "worst"]
    assert lines[-2].endswith(str(finished)) or lines[-1].endswith(str(finished))


# --- two phases


def test_a_costly_attack_runs_on_a_sample_of_what_stands(invoke, trained_folder, tmp_path):
    parts = "".join(
        f'[[parts]]\nname = "{loss}"\nclass = "APGD"\n'
        f'parameters = {{norm = "$norm", eps = "$eps", steps = 3, loss = "{loss}", seed = 0}}\n'
        for loss in ("ce", "dlr")
    )
    (tmp_path / "costly.toml").write_text(f'engine = "torchattacks"\n{parts}')
    common = ["evaluate", "--model", trained_folder, "--lambda", "0,1"]
    common += ["--attacks", f"{tmp_path / 'costly.toml'},fgsm,pgd-7"]

    def entry(out, *options):
        code, printed, _ = invoke(*common, *options, "--out", tmp_path / out)
        assert code == 0
        return Entry.read(tmp_path / out / "entry.json"), printed

    few, printed = entry("few", "--n-examples", "90,costly=4")
    after = {attack.name: attack.after for attack in few.attacks}
    assert after == {"fgsm": None, "pgd-7": None, "costly": ["fgsm", "pgd-7"]}
    rows = pd.read_parquet(tmp_path / "few" / "outcomes.parquet")
    table = pd.read_csv(tmp_path / "few" / "table.csv").set_index("lambda")
    for point in few.operating_points:
        found = point.robust_acc["costly"]
        assert (point.n, found.sampled) == (90, 4)
        assert found.left > 4
        assert ((rows["lam"] == point.lam) & (rows["attack"] == "costly")).sum() == 4
        assert f"(4 of {found.left})" in printed
        assert table.loc[point.lam, "costly left"] == found.left
    assert "left standing" in printed
    # all that stand: the attack on all
    whole, _ = entry("few", "--n-examples", "90,costly=89")
    plain, _ = entry("plain", "--n-examples", "90")
    for ours, theirs in zip(whole.operating_points, plain.operating_points, strict=True):
        assert ours.worst_case_acc == theirs.worst_case_acc == ours.robust_acc["costly"]
    rough, _ = entry("rough", "--n-examples", "90", "--precision", "49")
    assert {attack.name: attack.after for attack in rough.attacks} == after


def test_where_nothing_stands_a_costly_attack_ends_in_a_table(invoke, tmp_path):
    ball = 'norm = "$norm", eps = "$eps"'
    (tmp_path / "costly.toml").write_text(
        'engine = "torchattacks"\n'
        f'[[parts]]\nname = "ce"\nclass = "APGD"\nparameters = {{{ball}, steps = 3, seed = 0}}\n'
        f'[[parts]]\nname = "square"\nclass = "Square"\nparameters = {{{ball}, n_queries = 5}}\n'
    )
    # the published network at lambda 0 keeps none of these under PGD-7
    command = ["evaluate", "digits/oat-wrn-10-1", "--lambda", "0", "--n-examples", "60,costly=4"]
    command += ["--attacks", f"pgd-7,{tmp_path / 'costly.toml'}", "--out", tmp_path / "out"]
    code, printed, _ = invoke(*command)
    assert code == 0
    (point,) = Entry.read(tmp_path / "out" / "entry.json").operating_points
    assert (point.n, point.robust_acc["pgd-7"].value, point.robust_acc["costly"].value) == (
        60,
        0,
        0,
    )
    assert printed.splitlines()[-1] == "no flags"
