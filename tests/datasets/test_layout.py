"""Folders of splits and folders of classes: which is which, and what is said of it."""

import os
import subprocess
import sys
import unicodedata

import pytest
import torch
from folders import fill, pixels, refusal, write

from oat_bench.datasets import image_folder, layout

CLASSES = ("ape", "cat")


def splits(root, **counts):
    """Two classes in each of the folders, which are called as given."""
    return fill(root, {f"{part}/{name}": n for part, n in counts.items() for name in CLASSES})


def read(root):
    data = image_folder(root)
    return data.classes, [len(split) for split in (data.train, data.validation, data.test)]


# --- splits by their names


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAINING", "Testing"),
        ("seg_train", "seg_test"),
        ("train_set", "testset"),
        ("pets-train", "pets-test"),
        ("train2017", "test2017"),
        ("TrainImages", "TestImages"),
    ],
)
def test_splits_go_by_many_names(tmp_path, train, test):
    splits(tmp_path / "pets", **{train: 10, test: 4})
    plain = splits(tmp_path / "plain" / "pets", train=10, test=4)
    assert image_folder(tmp_path / "pets").fingerprint() == image_folder(plain).fingerprint()


@pytest.mark.parametrize("name", ["val", "Valid", "validation", "dev", "seg_val", "val_images"])
def test_a_validation_split_is_used_for_validation(tmp_path, name, capfd):
    splits(tmp_path, train=10, test=4, **{name: 3})
    data = image_folder(tmp_path)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [20, 6, 8]
    assert f"validation 6 (from {name}/)" in capfd.readouterr().err
    given = sorted(p for c in CLASSES for p in (tmp_path / name / c).iterdir())
    first = torch.from_numpy(pixels(4000, 6, 5, 3).transpose(2, 0, 1))
    assert len(given) == 6
    assert torch.equal(data.validation.images[0], first)


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("training", "validation")])
def test_without_a_test_split_that_of_validation_is_it_and_this_is_said(
    tmp_path, train, val, capfd
):
    splits(tmp_path, **{train: 10, val: 4})
    assert read(tmp_path) == (CLASSES, [18, 2, 8])
    assert f"{val}/ is the test split, as there is no other" in capfd.readouterr().err
    data = image_folder(tmp_path)
    assert data.origin["test"][0] == val
    assert data.origin["validation"][0] == train


def test_what_is_wrapped_twice_and_what_has_no_labels(tmp_path, capfd):
    splits(tmp_path / "intel", **{"seg_train/seg_train": 10, "seg_test/seg_test": 4})
    fill(tmp_path / "intel", {"seg_pred/seg_pred": 5})
    assert read(tmp_path) == (CLASSES, [18, 2, 8])
    err = capfd.readouterr().err
    assert "train 18 (from intel/seg_train/seg_train/)" in err
    assert "intel/seg_pred/ is left out" in err


def test_a_class_may_be_called_like_a_split(tmp_path):
    fill(tmp_path / "a", {"bus": 10, "plane": 10, "train": 10})
    assert image_folder(tmp_path / "a").classes == ("bus", "plane", "train")
    fill(tmp_path / "b", {"bus": 10, "train/steam": 5, "train/electric": 5})
    assert image_folder(tmp_path / "b").classes == ("bus", "train")
    fill(tmp_path / "c", {f"{part}/{c}": 9 for part in ("train", "test") for c in ("bus", "train")})
    assert image_folder(tmp_path / "c").classes == ("bus", "train")
    fill(tmp_path / "d", {"bullet_train": 10, "freight_train": 10})
    assert image_folder(tmp_path / "d").classes == ("bullet_train", "freight_train")


def test_of_several_folders_for_a_split_the_plain_name_counts(tmp_path, capfd):
    splits(tmp_path, train=10, test=4, train_masks=3)
    assert read(tmp_path) == (CLASSES, [18, 2, 8])
    assert "train_masks/ is left out" in capfd.readouterr().err
    splits(tmp_path, training=1)
    assert "train/ and training/ both look like the train split; keep one" in refusal(tmp_path)


# --- what is not guessed


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "Val"), ("seg_train", "seg_test")])
def test_splits_without_classes_are_refused(tmp_path, names):
    fill(tmp_path, dict.fromkeys(names, 10))
    message = refusal(tmp_path)
    assert all(f"{name}/" in message for name in names)
    assert "look like splits, but hold no class folders; put the images into a folder" in message


def test_a_test_split_without_classes_is_refused(tmp_path):
    fill(tmp_path, {"train/cat": 5, "train/ape": 5, "test": 3})
    message = refusal(tmp_path)
    assert "holds of train/ and test/ only train/ (test/ has no class folders)" in message
    assert f"or name {tmp_path}/train to hold a fifth of it out" in message
    assert read(tmp_path / "train")[1] == [8, 0, 2]
    splits(tmp_path, val=2)
    assert read(tmp_path)[1] == [9, 1, 4]


def test_folders_that_hold_one_set_of_names_are_refused(tmp_path):
    splits(tmp_path / "a", first=5, second=5)
    message = refusal(tmp_path / "a")
    assert "each of first/, second/ holds the folders ape/, cat/, as splits do" in message
    assert "call splits train/ and test/, or put the images of a class straight into" in message
    fill(tmp_path / "b", {"train/x/cat": 5, "train/x/ape": 5, "train/y/cat": 5, "train/y/ape": 5})
    fill(tmp_path / "b", {"test/x": 5, "test/y": 5})
    assert "train: each of x/, y/ holds the folders ape/, cat/" in refusal(tmp_path / "b")
    # one folder in each, as in Tiny ImageNet, says nothing
    fill(tmp_path / "c", {"n01443537/images": 5, "n01629819/images": 5})
    assert image_folder(tmp_path / "c").classes == ("n01443537", "n01629819")


def test_splits_inside_classes_are_refused(tmp_path):
    fill(tmp_path, {"ape/train": 5, "ape/test": 5, "cat/train": 5})
    assert "ape holds test/, train/; put the splits outermost, train/ape/" in refusal(tmp_path)


# --- what computers leave about


def test_hidden_and_system_folders_are_skipped_at_any_depth(tmp_path):
    root = splits(tmp_path / "pets", train=10, test=4)
    before = image_folder(root)
    for name in ("__MACOSX", "@eaDir", ".git", ".ipynb_checkpoints", "$RECYCLE.BIN", "#recycle"):
        for place in ("", "train", "train/cat", "test/ape"):
            write(root / place / name / "x.png", pixels(1, 9, 9, 3))
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "._000.png"):
        for place in (".", "train", "test/cat"):
            (root / place / name).write_bytes(b"\0")
    after = image_folder(root)
    assert after.classes == before.classes
    assert after.fingerprint() == before.fingerprint()


def test_what_is_passed_over_is_said(tmp_path, capfd):
    root = splits(tmp_path / "pets", train=10, test=4)
    (root / "docs").mkdir()
    for name in ("train/cat/a.heic", "train/ape/b.HEIC", "test/cat/notes.txt"):
        (root / name).write_bytes(b"x")
    write(root / "train" / "loose.png", pixels(0, 9, 9, 3))
    image_folder(root)
    (line,) = capfd.readouterr().err.splitlines()
    assert line == (
        f"{root}: train 18 (from train/), validation 2 (a tenth of train/), test 8 (from test/); "
        "2 classes: ape 9/1/4, cat 9/1/4; docs/ is left out (no class folders); "
        "1 image straight in train/ left out; 2 .heic and 1 .txt files left out"
    )


def test_the_line_of_a_folder_without_splits(tmp_path, capfd):
    root = fill(tmp_path / "many", {f"{number:03}": 10 for number in range(30)}, shape=(1, 1))
    image_folder(root)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{root}: train 216, validation 24 (a tenth of the rest), test 60 (a fi")
    assert "30 classes: 000 " in line
    assert line.endswith(", ...")
    assert "029" not in line
    for path in root.glob("000/*"):
        path.rename(path.with_suffix(".heic"))
    assert "000: no image found; expected files that end in" in refusal(root)
    assert refusal(root).endswith("it holds 10 .heic files")


# --- names


def test_a_name_is_what_utf_8_makes_of_it_whatever_the_locale(monkeypatch):
    assert layout.spelt("caf\u00e9") == "caf\u00e9"
    assert layout.spelt("cafe\u0301") == "caf\u00e9"  # as a Mac stores it
    assert layout.spelt("a\udcffb") == "a\\xffb"  # not UTF-8
    # as the locale C reads and writes names
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii", "surrogateescape"))
    assert layout.spelt("caf\udcc3\udca9") == "caf\u00e9"


def test_a_class_in_two_splits_may_be_spelt_in_two_ways(tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        name = unicodedata.normalize(form, "caf\u00e9")
        fill(tmp_path, {f"{part}/{name}": 5, f"{part}/tea": 5})
    assert image_folder(tmp_path).classes == ("caf\u00e9", "tea")
    fill(tmp_path, {"train/" + unicodedata.normalize("NFD", "caf\u00e9"): 5})
    assert "two folders are called 'caf\u00e9'; rename one of them" in refusal(tmp_path)


@pytest.mark.slow
def test_a_folder_is_the_same_in_every_locale(tmp_path):
    root = fill(tmp_path / "caf\u00e9", {"th\u00e9": 5, "z": 5, "\u732b": 5})
    for path in root.glob("*/000.png"):
        path.rename(path.with_name("\u00e9.png"))
    data = image_folder(root)
    program = (
        "import sys; from oat_bench.datasets import image_folder\n"
        "data = image_folder(sys.argv[1])\n"
        "print(ascii((data.name, data.classes, data.fingerprint())))"
    )
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", program, str(root)]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, check=True)
    assert done.stdout.decode().strip() == ascii((data.name, data.classes, data.fingerprint()))
