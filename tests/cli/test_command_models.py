"""Published models on the command line: listed, and taken wherever a model is."""

import json
from pathlib import Path

import pytest

import oat_bench

SHIPPED = Path(__file__).parents[2] / "leaderboards"


def test_the_list_says_what_the_entries_say_in_80_columns(invoke):
    code, out, _ = invoke("list", "models")
    assert code == 0
    head, _, *lines = out.splitlines()
    assert head.split() == ["model", "method", "lambda", "SA", "RA", "size"]
    assert max(map(len, out.splitlines())) <= 80
    files = sorted(SHIPPED.glob("*/*/*.safetensors"))
    listed = {line.split()[0]: line for line in lines}
    places = [file.relative_to(SHIPPED).with_suffix("").as_posix() for file in files]
    names = [place.replace("/Linf/", "/") for place in places]
    assert set(listed) == set(names)
    for name, file in zip(names, files, strict=True):
        entry = json.loads(file.with_suffix(".json").read_text())
        points = {p["lam"]: p for p in entry["operating_points"] if p["width"] == 1}
        low, high = points[0], points[1]
        line = listed[name]
        assert entry["method"] in line.split()
        for one in (
            f"{low['clean_acc']:.1f}, {high['clean_acc']:.1f}",
            f"{low['worst_case_acc']['value']:.1f}, {high['worst_case_acc']['value']:.1f}",
            f"{file.stat().st_size / 1e6:.1f} MB",
        ):
            assert one in line


@pytest.mark.parametrize("place", [["evaluate"], ["evaluate", "--model"], ["run", "--model"]])
def test_a_published_model_is_attacked_by_its_name(invoke, place):
    few = ["--attacks", "fgsm", "--n-examples", 20, "--lambda", 1]
    code, out, err = invoke(*place, "digits/oat-wrn-10-1", *few)
    assert code == 0, err
    assert "**digits, wrn-10-1, OAT" in out
    own = oat_bench.load(SHIPPED / "digits/Linf/oat-wrn-10-1.safetensors").fingerprint()
    entry = json.loads(Path(f"runs/digits-{own[:8]}/entry.json").read_text())
    assert entry["model_fingerprint"] == own
    assert "digits/oat-wrn-10-1" in entry["command"]


def test_what_is_a_checkpoint_by_name_is_exported_too(invoke):
    file = ["--lambda", 0.4, "--to", "safetensors", "--out", "net.safetensors"]
    code, _, err = invoke("export", "digits/oat-wrn-10-1", *file)
    assert code == 0, err
    assert oat_bench.load("net.safetensors").info.dataset == "digits"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["evaluate", "digits/oat-wrn-10-2"], "did you mean digits/oat-wrn-10-1"),
        (["transfer", "oat-wrn-16-2"], "did you mean "),
        (["calibrate", "lap:net", "--min-sa", "50%"], "unknown place of models 'lap'"),
        (["evaluate", "svhn-part/oat-wrn-16-2"], "name its folder with --dataset"),
    ],
)
def test_a_wrong_name_gets_one_line(invoke, command, message):
    code, out, err = invoke(*command)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
