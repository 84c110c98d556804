"""Folders of images: what is read from them, and what is said of bad ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from folders import fill, pixels, refusal, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import functional

from oat_bench import datasets
from oat_bench.cards import publishable
from oat_bench.datasets import image_folder, layout
from oat_bench.errors import UserError


@pytest.fixture
def parted(tmp_path):
    """train/ and test/ with three classes."""
    sizes = {"train": 10, "test": 4}
    counts = {f"{part}/{name}": n for part, n in sizes.items() for name in ("cat", "ape", "dog")}
    return fill(tmp_path / "pets", counts)


@pytest.fixture
def unparted(tmp_path):
    """A folder for each of two classes."""
    return fill(tmp_path / "pets", {"cat": 25, "ape": 50})


def theirs(root):
    """A folder as torchvision reads it: images [n, H, W, 3] and labels."""
    folder = ImageFolder(root)
    return np.stack([np.asarray(image) for image, _ in folder]), np.array(folder.targets)


def test_train_and_test_are_read_as_torchvision_reads_them(parted):
    data = datasets.load(str(parted))
    assert data.name == "pets"
    assert data.classes == ("ape", "cat", "dog") == tuple(ImageFolder(parted / "train").classes)
    assert data.input_shape == (3, 6, 5)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [27, 3, 12]
    for part in ("train", "test"):
        images, labels = theirs(parted / part)
        for name in ("train", "validation") if part == "train" else ("test",):
            split = getattr(data, name)
            where, index = data.origin.get(name, ("test", torch.arange(12)))
            assert where == part
            assert split.images.dtype == torch.uint8
            assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), images[index])
            assert np.array_equal(split.labels.numpy(), labels[index])
    assert torch.bincount(data.validation.labels).tolist() == [1, 1, 1]


def test_one_folder_of_classes_is_split_by_class_always_the_same(unparted):
    data = image_folder(unparted)
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    counts = {k: torch.bincount(v.labels).tolist() for k, v in splits.items()}
    assert counts == {"train": [36, 18], "validation": [4, 2], "test": [10, 5]}
    images, labels = theirs(unparted)
    seen = []
    for name, split in splits.items():
        part, index = data.origin[name]
        assert part == "all"
        assert np.array_equal(split.images.permute(0, 2, 3, 1).numpy(), images[index])
        assert np.array_equal(split.labels.numpy(), labels[index])
        seen += index.tolist()
    assert sorted(seen) == list(range(75))
    assert image_folder(unparted).fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    ("modes", "channels"),
    [
        (["L"], 1),
        (["1"], 1),
        (["LA", "L"], 1),
        (["RGB"], 3),
        (["RGBA", "RGB"], 3),
        (["P"], 3),
        (["L", "RGB"], 3),
    ],
)
def test_grey_stays_grey_and_colour_makes_all_colour(tmp_path, modes, channels):
    paths = []
    for place in range(12):
        colours, mode = pixels(place, 4, 4, 3), modes[place % len(modes)]
        paths.append(write(tmp_path / "x" / f"{place % 2}" / f"{place:02}.png", colours, mode))
    data = image_folder(tmp_path / "x")
    assert data.input_shape == (channels, 4, 4)
    ordered = sorted(paths)
    mode = "RGB" if channels == 3 else "L"
    for split, name in ((data.train, "train"), (data.test, "test")):
        for image, place in zip(split.images, data.origin[name][1], strict=True):
            expected = np.asarray(Image.open(ordered[place]).convert(mode))
            assert np.array_equal(image.permute(1, 2, 0).squeeze(2).numpy(), expected)


def test_a_palette_with_transparency_loses_it_without_a_warning(tmp_path, recwarn):
    for place in range(10):
        image = Image.fromarray(pixels(place, 4, 4, 3)).quantize(8)
        folder = tmp_path / "x" / f"{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{place}.png", transparency=bytes([0, 128, 255]))
    assert image_folder(tmp_path / "x").input_shape == (3, 4, 4)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".bmp", ".ppm", ".tif", ".webp", ".PNG"])
def test_formats(tmp_path, suffix):
    fill(tmp_path, {"a": 5, "b": 5}, suffix=suffix)
    images = theirs(tmp_path)[0]
    data = image_folder(tmp_path)
    _, index = data.origin["train"]
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), images[index])


def test_other_files_and_hidden_ones_are_passed_over(parted):
    before = image_folder(parted).fingerprint()
    for name in ("README.txt", "train/list.csv", "train/cat/notes.md", "test/dog/.hidden.png"):
        (parted / name).write_text("no image")
    (parted / "train" / ".cache").mkdir()
    (parted / "extra").mkdir()
    assert image_folder(parted).fingerprint() == before


def test_images_lie_at_any_depth(tmp_path):
    fill(tmp_path, {"a/deep/er": 5, "a": 2, "b": 5})
    data = image_folder(tmp_path)
    assert data.classes == ("a", "b")
    assert sum(map(len, (data.train, data.validation, data.test))) == 12


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_a_folder_is_never_taken_for_a_published_data_set(tmp_path, monkeypatch, name):
    fill(tmp_path / name, {"a": 5, "b": 5})
    assert image_folder(tmp_path / name).name == f"{name}-folder"
    monkeypatch.chdir(tmp_path)
    assert datasets.load(f"./{name}").name == f"{name}-folder"
    assert not datasets.is_folder(name)


def test_what_counts_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert [n for n in ("here", "./there", "there", "digits", "") if datasets.is_folder(n)] == [
        "here",
        "./there",
    ]


# --- bad folders


def test_a_folder_that_is_not_there_or_empty(tmp_path):
    assert f"no folder of images at {tmp_path}/no" in refusal(tmp_path / "no")
    (tmp_path / "file").touch()
    assert "no folder of images at" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "class folders found: none; expected at least two" in refusal(tmp_path / "empty")
    fill(tmp_path / "one", {"cat": 9})
    assert "class folders found: cat; expected at least two" in refusal(tmp_path / "one")
    fill(tmp_path / "few", {"cat": 1, "dog": 1})
    assert "2 images are too few to split; expected at least 5" in refusal(tmp_path / "few")
    (tmp_path / "few" / "emu").mkdir()
    assert f"{tmp_path}/few/emu: no image found; expected files that end in" in refusal(
        tmp_path / "few"
    )


def test_a_folder_that_cannot_be_read(parted, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert f"{parted}: cannot be read (Permission denied)" in refusal(parted)


def test_only_one_of_train_and_test(tmp_path):
    fill(tmp_path / "a", {"train/x": 5, "train/y": 5})
    assert "holds of train/ and test/ only train/" in refusal(tmp_path / "a")
    fill(tmp_path / "b", {"test/x": 5, "test/y": 5})
    assert "holds of train/ and test/ only test/" in refusal(tmp_path / "b")


def test_classes_that_are_in_one_part_only(parted):
    fill(parted, {"test/emu": 1})
    assert "class 'emu' is in test/ and not in train/" in refusal(parted)
    fill(parted, {"train/emu": 1, "train/yak": 1})
    assert "class 'yak' is in train/ and not in test/" in refusal(parted)


def test_images_of_another_size_are_named_resized_or_left_out(parted, capfd):
    other = write(parted / "train" / "cat" / "004.png", pixels(0, 5, 6, 3))
    write(parted / "test" / "cat" / "001.png", pixels(0, 7, 7, 3))
    message = refusal(parted)
    assert message.startswith(f"{other}: 6x5 pixels, where 40 of 42 are 5x6; resize and crop all")
    assert "with --image-size, such as --image-size 64, or leave out those" in message
    data = image_folder(parted, skip_broken=True)
    assert data.input_shape == (3, 6, 5)
    assert len(data.train) + len(data.validation) == 29
    assert len(data.test) == 11
    err = capfd.readouterr().err
    assert f"2 of 42 images skipped, the first is {other}: 6x5 pixels, where 40 of 42" in err
    assert len(image_folder(parted, image_size=4).test) == 12


def test_sizes_that_differ_all_over_are_not_skipped(tmp_path):
    for place in range(10):
        write(tmp_path / "x" / f"{place % 2}" / f"{place}.png", pixels(place, 5 + place // 2, 7))
    message = refusal(tmp_path / "x", skip_broken=True)
    assert "images of 5 sizes, 7x5 the most frequent with 2 of 10; too many to leave" in message
    assert "--image-size 64" in message
    assert refusal(tmp_path / "x").endswith("such as --image-size 64")


def test_sixteen_bits_are_refused_or_left_out(parted, capfd):
    path = write(parted / "train" / "cat" / "004.png", pixels(0, 6, 5).astype(np.uint16) * 200)
    message = refusal(parted)
    assert message.startswith(f"{path}: pixels of type I;16; expected 8-bit grey levels")
    assert message.endswith("convert it, or leave such images out with --skip-broken")
    data = image_folder(parted, skip_broken=True)
    assert len(data.train) + len(data.validation) == 29
    assert f"1 of 42 images skipped, the first is {path}: pixels of" in capfd.readouterr().err


# --- as people have them


def test_a_gif_is_read_whatever_it_is_called_its_first_frame(tmp_path):
    frames = [Image.fromarray(pixels(seed, 6, 5)) for seed in range(3)]
    for place in range(10):
        path = write(tmp_path / "x" / f"{place % 2}" / f"{place}.png", pixels(place, 6, 5))
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    path.rename(path.with_suffix(".gif"))
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])
    data = image_folder(tmp_path / "x")
    images = torch.cat([data.train.images, data.validation.images, data.test.images])
    same = (images[:, 0] == torch.from_numpy(pixels(0, 6, 5))).flatten(1).all(1)
    assert len(images) == 11
    assert int(same.sum()) == 3  # that of place 0, and the GIF twice


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>not found</html>", "it is text; expected PNG, JPEG"),
        (b"8BPS" + bytes(99), "it is of format PSD; expected PNG, JPEG"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "it is of format HDF5;"),
        (b"\x89PNG\r\n\x1a\n" + bytes(9), "it is a damaged PNG"),
        (bytes(99), "it is of unknown format; expected PNG, JPEG"),
    ],
)
def test_what_is_no_image_is_said(parted, content, kind):
    path = parted / "train" / "ape" / "003.png"
    path.write_bytes(content)
    assert refusal(parted).startswith(f"{path}: not a readable image ({kind}")


def turned(array, orientation):
    """What a camera stores that is to be seen as ``array``: EXIF's rows and columns, by hand."""
    stored = {
        1: array,
        2: array[:, ::-1],
        3: array[::-1, ::-1],
        4: array[::-1],
        5: array.transpose(1, 0, 2),
        6: array.transpose(1, 0, 2)[::-1],
        7: array.transpose(1, 0, 2)[::-1, ::-1],
        8: array.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    return np.ascontiguousarray(stored)


@pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg"])
def test_images_are_read_upright(tmp_path, ending):
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    upright = np.repeat(np.repeat(pixels(0, 3, 2, 3), 8, 0), 8, 1)
    for place in range(16):
        path = tmp_path / "x" / f"{place % 2}" / f"{place:02}.{ending}"
        exif = Image.Exif()
        exif[0x0112] = 1 + place // 2
        write(path, turned(upright, 1 + place // 2), exif=exif, **options.get(ending, {}))
    data = image_folder(tmp_path / "x")
    assert data.input_shape == (3, 24, 16)
    images = torch.cat([data.train.images, data.validation.images, data.test.images])
    wrong = images.int() - torch.from_numpy(upright).permute(2, 0, 1).int()
    assert len(images) == 16
    assert int(wrong.abs().max()) <= (12 if ending == "jpg" else 0)


def test_damaged_exif_leaves_the_image_as_it_is(parted):
    whole = image_folder(parted).fingerprint()
    path = parted / "train" / "cat" / "004.png"
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        Image.open(path).save(path, exif=exif)
        assert image_folder(parted).fingerprint() == whole


@pytest.mark.parametrize("size", [(40, 100), (100, 57), (64, 64), (16, 16), (33, 20)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_resizing_is_that_of_torchvision(tmp_path, size, mode):
    # smooth, so that half a pixel matters little
    rows, columns = np.mgrid[: size[1], : size[0]]
    smooth = np.stack([2 * rows + columns, 2 * columns, 200 - rows], 2).clip(0, 255)
    for place in range(5):
        for name in ("a", "b"):
            write(tmp_path / "x" / name / f"{place}.png", smooth.astype(np.uint8), mode)
    data = image_folder(tmp_path / "x", image_size=32)
    assert data.image_size == 32
    assert data.input_shape == (1 if mode == "L" else 3, 32, 32)
    original = Image.open(tmp_path / "x" / "a" / "0.png").convert("L" if mode == "L" else "RGB")
    theirs = functional.center_crop(functional.resize(original, 32), 32)
    wrong = data.test.images[0].int() - functional.pil_to_tensor(theirs).int()
    assert float(wrong.abs().float().mean()) < 1.5
    if size[0] == size[1]:
        assert int(wrong.abs().max()) == 0


def test_the_size_is_said_with_the_splits(parted):
    plain, resized = image_folder(parted), image_folder(parted, image_size=4)
    assert json.loads(resized.describe_splits())["image_size"] == 4
    assert "image_size" not in json.loads(plain.describe_splits())
    assert plain.fingerprint() != resized.fingerprint()


def test_every_ending_that_torchvision_takes_is_taken():
    assert {*IMG_EXTENSIONS} < {*layout.ENDINGS}


# --- names


def test_a_name_can_be_published_and_another_one_given(tmp_path):
    plain = fill(tmp_path / "a", {"x": 5, "y": 5})
    for folder, name in [
        ("my pets", "my-pets"),
        ("fa\u00e7ades", "facades"),
        ("\u732b", "images"),
        ("all", "all-images"),
        ("cifar100", "cifar100-folder"),
    ]:
        shutil.copytree(plain, tmp_path / folder)
        data = image_folder(tmp_path / folder)
        assert data.name == name == publishable(name)
        # the name is all that tells a copy from what it is of
        assert data.called("a").fingerprint() == image_folder(plain).fingerprint()
    assert datasets.load(str(plain), label="mine").name == "mine"
    for label in ("my pets", "cifar10", "all", "../x", ""):
        with pytest.raises(UserError, match=r"--dataset-name .*: expected up to 64 letters"):
            datasets.load(str(plain), label=label)
    for option in ({"label": "mine"}, {"image_size": 8}):
        with pytest.raises(UserError, match="is for folders of images; 'digits' is a published"):
            datasets.load("digits", **option)


# --- broken images


BROKEN = {
    "empty": lambda content: b"",
    "text": lambda content: b"this is no image",
    "cut": lambda content: content[: len(content) // 2],
    "head": lambda content: content[:30],
    "damaged": lambda content: content[:50] + bytes(b ^ 255 for b in content[50:]),
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_image_is_named_and_left_out_only_if_asked(parted, damage, capfd):
    whole = image_folder(parted)
    broken = parted / "train" / "cat" / "004.png"
    broken.write_bytes(BROKEN[damage](broken.read_bytes()))
    message = refusal(parted)
    assert message.startswith(f"{broken}: not a readable image (")
    assert "leave such images out with --skip-broken" in message
    capfd.readouterr()
    data = image_folder(parted, skip_broken=True)
    note = capfd.readouterr().err
    assert note.startswith(f"{parted}: 1 of 42 images skipped, the first is {broken}: not a")
    assert len(note.splitlines()) == 2  # what was skipped, what was found
    assert len(data.train) + len(data.validation) == 29
    assert torch.equal(data.test.images, whole.test.images)
    kept = torch.cat([data.train.images, data.validation.images]).flatten(1).tolist()
    before = torch.cat([whole.train.images, whole.validation.images]).flatten(1).tolist()
    assert len([image for image in before if image not in kept]) == 1
    assert all(image in before for image in kept)


@pytest.mark.parametrize("layout", ["parted", "unparted"])
def test_no_image_is_held_twice(layout, request):
    data = image_folder(request.getfixturevalue(layout))
    pieces = {s.images.untyped_storage() for s in data.splits.values()}
    held = sum({piece.data_ptr(): piece.nbytes() for piece in pieces}.values())
    images = sum(split.images.nbytes for split in data.splits.values())
    # what was taken out of the rest leaves a gap there
    gap = len(data.validation) + (len(data.test) if layout == "unparted" else 0)
    assert held == images + gap * data.test.images[0].nbytes


def test_nothing_but_broken_images(parted):
    for path in parted.glob("test/*/*.png"):
        path.write_bytes(b"")
    assert "not one image of 12 is readable" in refusal(parted, skip_broken=True)
    for path in parted.glob("train/*/*.png"):
        path.write_bytes(b"")
    assert "not one image of 30 is readable" in refusal(parted, skip_broken=True)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    cut=st.floats(0, 1),
    suffix=st.sampled_from([".png", ".jpg", ".tif", ".webp", ".bmp"]),
)
def test_any_damage_is_one_line_or_an_image(tmp_path, edits, cut, suffix):
    root = tmp_path / "spoilt"
    for name in ("a", "b"):
        for place in range(3):
            path = write(root / name / f"{place}{suffix}", pixels(place, 6, 5, 3))
    content = bytearray(path.read_bytes())
    for place, value in edits:
        content[int(place * len(content))] = value
    path.write_bytes(content[: int(cut * len(content))])
    try:
        data = image_folder(root)
    except UserError:
        assert str(path) in refusal(root)
    else:
        assert sum(map(len, (data.train, data.validation, data.test))) == 6
    for other in root.rglob("*.*"):
        other.unlink()
