"""`--save-images`, and `--attacks file:PATH`."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from oat_bench import run
from oat_bench.attacks.saved import Images, read, write
from oat_bench.checkpoint import load
from oat_bench.evaluation import grid

#: as they are before the fixture `refused` forbids them
TRAIN, EVALUATE = run.train, grid.evaluate


def test_a_run_keeps_images_and_another_model_is_attacked_with_them(
    invoke, card, trained_folder, tmp_path
):
    shutil.copytree(trained_folder, tmp_path / "one")
    common = ["run", "--out", "one", "--benchmark", card, "--lambda", "0,1", "--save-images"]
    for attack, n, kind in (("fgsm", 6, "safetensors"), ("pgd-7", 12, "png")):
        code, out, err = invoke(*common, kind, "--attacks", attack, "--n-examples", n)
        assert code == 0
        assert err.splitlines()[0] == "one/checkpoint.safetensors: trained already"
        assert err.splitlines()[-1] == "table, entry, outcomes and figures in one"
    files = sorted(Path("one/images").glob("*.safetensors"))
    assert len(files) == 4
    sizes = {path.name.split("-lambda")[0]: len(read(path).example) for path in files}
    assert sizes == {"fgsm": 6, "pgd-7": 12}
    content = read(files[-1])
    pictures = sorted(files[-1].with_suffix("").glob("*.png"))
    assert len(pictures) == 12
    first = content.example[0].item()
    assert pictures[0].name == f"{first:05d}-label{content.label[0].item()}.png"
    pixels = torch.from_numpy(np.array(Image.open(pictures[0])))
    assert (pixels / 255 - content.images[0, 0]).abs().max() <= 0.5 / 255 + 1e-6

    tiny = card.read_text().replace("epochs = 4", "epochs = 1")
    card.write_text(tiny)
    assert invoke("train", "--benchmark", card, "--seed", 3, "--out", "two")[0] == 0
    model = load("one").fingerprint()[:8]
    names = [f"{attack}-from-{model}-lambda{lam}" for attack in ("fgsm", "pgd-7") for lam in (0, 1)]
    code, out, err = invoke(
        *["evaluate", "two", "--benchmark", card, "--attacks", "file:one,fgsm", "--lambda", 1],
        *["--n-examples", 20, "--out", "three"],
    )
    assert (code, err) == (0, "table, entry, outcomes and figures in three\n")
    for name in names:
        assert f" {name} (n {6 if name.startswith('fgsm') else 12}) " in out
        assert f"{name}: images that were attacked on that model" in out
    entry = json.loads(Path("three/entry.json").read_text())
    assert {attack["name"] for attack in entry["attacks"]} == {"fgsm", *names}
    assert invoke("leaderboard", "validate", "three")[0] == 0
    code, out, err = invoke("results", "three", "--attack", names[0])
    assert code == 0


def test_what_does_not_fit_is_refused_before_training(invoke, refused, card, finished, monkeypatch):
    common = ["run", "--benchmark", card, "--lambda", 1, "--attacks"]
    with monkeypatch.context() as context:
        context.setattr(run, "train", TRAIN)
        context.setattr(grid, "evaluate", EVALUATE)
        options = ["--n-examples", 8, "--out", finished, "--save-images"]
        assert invoke(*common, "fgsm", *options)[0] == 0
    common.append(f"file:{finished}")
    (path,) = Path(finished, "images").glob("*.safetensors")
    content = read(path)
    write(path, Images(content.header, content.example, (content.label + 1) % 10, content.images))
    assert "labels or shape are not those of 'digits'" in refused(*common)
    assert "no attacked images at" in refused("run", "--attacks", "file:nowhere")
    assert "'safetensors', 'png'" in refused("run", "--save-images", "jpg")
