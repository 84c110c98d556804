"""Data sets: the digits against scikit-learn's arrays, nested orders, and arrays of callers."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from oat_bench import datasets
from oat_bench.datasets import Split, check_arrays, nested_order
from oat_bench.errors import UserError


def splits(dataset) -> list[Split]:
    return [dataset.train, dataset.validation, dataset.test]


def rows(images: torch.Tensor | np.ndarray, labels: torch.Tensor | np.ndarray) -> list[tuple]:
    """Return each example, pixels and label, as one tuple."""
    pixels = np.asarray(images, dtype=np.int64).reshape(len(labels), -1)
    return [(*image, int(label)) for image, label in zip(pixels.tolist(), labels, strict=True)]


def test_digits_sizes_types_and_shapes(digits):
    assert [len(split) for split in splits(digits)] == [897, 100, 800]
    assert digits.input_shape == (1, 8, 8)
    assert digits.classes == tuple("0123456789")
    assert digits.name == "digits"
    for split in splits(digits):
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.images.shape == (len(split), 1, 8, 8)


def test_digits_splits_part_scikit_learns_arrays(digits):
    """Every image once, with its label; no image is in two splits."""
    bunch = load_digits()
    theirs = rows(bunch.images, bunch.target)
    ours = [row for split in splits(digits) for row in rows(split.images, split.labels)]
    assert len(set(theirs)) == len(theirs) == 1797
    assert len(ours) == 1797
    assert set(ours) == set(theirs)


def test_digits_splits_are_stratified(digits):
    counts = np.bincount(load_digits().target)
    for split in splits(digits):
        found = np.bincount(split.labels, minlength=10)
        # a split lies between two prefixes of a nested order, each less than 1.05 off
        assert np.abs(found - len(split) * counts / 1797).max() < 2.1


def test_digits_inputs_are_scikit_learns_sixteenths(digits):
    bunch = load_digits()
    expected = {
        row: image / 16
        for row, image in zip(rows(bunch.images, bunch.target), bunch.images, strict=True)
    }
    inputs = digits.test.inputs()
    assert inputs.dtype == torch.float32
    assert inputs.shape == (800, 1, 8, 8)
    assert float(inputs.min()) == 0
    assert float(inputs.max()) == 1
    for row, image in zip(rows(digits.test.images, digits.test.labels), inputs, strict=True):
        assert np.array_equal(image[0].numpy(), expected[row])


def test_digits_are_the_same_every_time(digits):
    again = datasets.load("digits")
    assert again.fingerprint() == digits.fingerprint()
    assert torch.equal(again.test.images, digits.test.images)


def test_the_fingerprint_sees_every_pixel_label_and_split(digits):
    def with_test(images: torch.Tensor, labels: torch.Tensor, name: str = "digits"):
        test = Split(images, labels, 16)
        return datasets.Dataset(name, digits.classes, digits.train, digits.validation, test)

    images, labels = digits.test.images, digits.test.labels
    assert with_test(images, labels).fingerprint() == digits.fingerprint()
    pixel, label = images.clone(), labels.clone()
    pixel[-1, 0, 7, 7] += 1
    label[-1] = (label[-1] + 1) % 10
    swapped = datasets.Dataset(
        "digits", digits.classes, digits.train, digits.test, digits.validation
    )
    others = {
        with_test(pixel, labels).fingerprint(),
        with_test(images, label).fingerprint(),
        with_test(images, labels, "other").fingerprint(),
        swapped.fingerprint(),
    }
    assert len(others | {digits.fingerprint()}) == 5


def test_a_split_gives_what_is_asked_of_it():
    split = Split(torch.arange(6, dtype=torch.uint8).reshape(6, 1, 1, 1), torch.arange(6), levels=5)
    index = torch.tensor([4, 0, 4])
    torch.testing.assert_close(split.inputs().flatten(), torch.arange(6) / 5)
    torch.testing.assert_close(split.inputs(index).flatten(), torch.tensor([0.8, 0, 0.8]))
    torch.testing.assert_close(split.inputs(slice(1, 3)).flatten(), torch.tensor([0.2, 0.4]))
    taken = split.take(index)
    assert taken.labels.tolist() == [4, 0, 4]
    assert taken.levels == 5
    assert torch.equal(taken.inputs(), split.inputs(index))
    assert len(split.to("cpu")) == 6
    assert split.to("cpu").levels == 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown data set 'digit'; did you mean digits?"),
        ("Digits ", "unknown data set 'Digits '; did you mean digits?"),
        ("imagenet", "unknown data set 'imagenet'; known: "),
        ("", "unknown data set ''; known: "),
    ],
)
def test_an_unknown_data_set_is_answered_with_those_that_exist(name, message):
    with pytest.raises(UserError) as caught:
        datasets.load(name)
    assert str(caught.value).startswith(message)
    assert "digits" in str(caught.value)


@given(places=st.lists(st.integers(0, 60), max_size=40))
def test_the_description_says_where_each_image_comes_from(places):
    split = Split(torch.zeros(len(places), 1, 1, 1, dtype=torch.uint8), torch.zeros(len(places)))
    origin = {"train": ("all", torch.tensor(places, dtype=torch.long))}
    data = datasets.Dataset("x", ("a", "b"), split, split, split, origin)
    described = json.loads(data.describe_splits())
    assert described["sha256"] == data.fingerprint()
    train, test = described["splits"]["train"], described["splits"]["test"]
    assert (train["part"], test["part"]) == ("all", "test")
    for found, expected in ((train, places), (test, list(range(len(places))))):
        assert found["n"] == len(expected)
        runs = [run.partition("-") for run in found["index"].split(",") if run]
        read = [p for first, _, last in runs for p in range(int(first), int(last or first) + 1)]
        assert read == expected
    assert test["index"] in ("", "0", f"0-{len(places) - 1}")


# --- nested orders ---

label_lists = st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 7, 9]), min_size=1, max_size=60)


@given(labels=label_lists, seed=st.integers(0, 2**32))
def test_a_nested_order_is_a_permutation_whose_prefixes_are_stratified(labels, seed):
    order = nested_order(torch.tensor(labels), seed)
    n = len(labels)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(n))
    ordered = np.array(labels)[order.numpy()]
    classes, members = np.unique(labels, return_counts=True)
    counts = np.stack([np.cumsum(ordered == label) for label in classes])
    shares = np.arange(1, n + 1) * (members / n)[:, None]
    # an example is late or early by half a place of its class, the prefix by half of one each
    bound = 0.5 + len(classes) / 2 * (members / n)[:, None]
    assert (np.abs(counts - shares) <= bound + 1e-9).all()


@given(per_class=st.integers(1, 8), classes=st.integers(1, 6), seed=st.integers(0, 100))
def test_with_classes_of_one_size_each_round_has_one_of_each(per_class, classes, seed):
    labels = torch.arange(classes).repeat(per_class)
    rounds = labels[nested_order(labels, seed)].reshape(per_class, classes)
    assert torch.equal(rounds.sort(dim=1).values, torch.arange(classes).expand(per_class, -1))


def test_a_nested_order_is_decided_by_its_seed_and_random_within_classes():
    labels = torch.arange(10).repeat(30)
    orders = [nested_order(labels, seed) for seed in (0, 0, 1, 2)]
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    # the members of one class, and the classes of one round, come in an order of their own
    members = [order[labels[order] == 3].tolist() for order in orders[1:]]
    rounds = [labels[order][:10].tolist() for order in orders[1:]]
    for found in (members, rounds):
        assert len({tuple(sequence) for sequence in found}) == 3
        assert not any(sequence == sorted(sequence) for sequence in found)


def test_the_labels_type_does_not_matter():
    labels = torch.tensor([0, 1, 2, 0, 1, 0] * 5)
    for kind in (torch.uint8, torch.int16, torch.int32):
        assert torch.equal(nested_order(labels.to(kind)), nested_order(labels))


# --- arrays of callers ---


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape or (4, 1, 3, 3))


LABELS = np.array([0, 1, 2, 1])


@pytest.mark.parametrize("kind", ["numpy", "torch", "list"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_good_arrays_are_taken_as_they_are(kind, dtype):
    x, y = images().astype(dtype), LABELS
    if kind == "torch":
        x, y = torch.tensor(x), torch.tensor(y)
    elif kind == "list":
        x, y = x.tolist(), y.tolist()
    out, labels = check_arrays(x, y, 3)
    assert out.dtype == torch.float32
    assert labels.dtype == torch.int64
    np.testing.assert_array_equal(out.numpy(), np.asarray(x, dtype=np.float32))
    assert labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_labels_of_any_integer_type(dtype):
    assert check_arrays(images(), LABELS.astype(dtype), 3)[1].tolist() == LABELS.tolist()


def spoiled(value: float) -> np.ndarray:
    x = images()
    x[2, 0, 1, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (spoiled(np.nan), LABELS, "images: NaN or infinite values"),
        (spoiled(np.inf), LABELS, "images: NaN or infinite values"),
        (spoiled(-np.inf), LABELS, "images: NaN or infinite values"),
        (spoiled(1e300), LABELS, "images: NaN or infinite values"),  # in float32
        (spoiled(1.5), LABELS, "to 1.5; expected numbers in [0, 1] (divide 8-bit images by 255"),
        (spoiled(-0.25), LABELS, "images: values range from -0.25 to "),
        (images() * 255, LABELS, "divide 8-bit images by 255"),
        (np.full((4, 1, 3, 3), 255, np.uint8), LABELS, "floating-point type; 8-bit images become"),
        (np.ones((4, 1, 3, 3), np.uint8), LABELS, "images: of type uint8; expected numbers in [0"),
        (np.ones((4, 1, 3, 3), bool), LABELS, "images: of type bool"),
        (images() + 0j, LABELS, "images: of type complex128"),
        (images(), np.array([0, 1, 3, 1]), "label 3 is out of range; the"),
        (images(), np.array([0, 1, 3, 1]), "classes are 0 to 2"),
        (images(), np.array([0, -1, 2, 1]), "label -1 is out of range"),
        (images(), LABELS.astype(float), "labels are of type torch.float64; expected integers"),
        (images(), LABELS.astype(bool), "labels are of type torch.bool; expected integers"),
        (images(), LABELS[:3], "images of shape (4, 1, 3, 3) with labels of shape (3,)"),
        (images(), LABELS[:, None], "with labels of shape (4, 1); expected [n, C, H, W] with [n]"),
        (images(), np.eye(3)[LABELS], "with labels of shape (4, 3)"),
        (images(), np.int64(1), "with labels of shape ()"),
        (images(4, 3, 3), LABELS, "images of shape (4, 3, 3)"),
        (images(4, 9), LABELS, "images of shape (4, 9)"),
        (images(0, 1, 3, 3), LABELS[:0], "expected [n, C, H, W] with [n], n >= 1"),
    ],
)
def test_bad_arrays_are_refused_in_one_line(x, y, message):
    with pytest.raises(UserError) as caught:
        check_arrays(x, y, 3)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_ends_of_the_range_are_allowed():
    x = images()
    x[0, 0, 0, 0], x[0, 0, 0, 1] = 0.0, 1.0
    assert check_arrays(x, LABELS, 3)[0].aminmax() == (0.0, 1.0)
    check_arrays(np.nextafter(x.astype(np.float32), np.float32(2)), LABELS, 3)  # rounding


@pytest.mark.parametrize(("n", "k"), [(1000, 900), (700, 256), (300, 1), (20, 0), (600, 600)])
def test_a_split_packed_is_the_same_in_the_same_memory(n, k):
    images = torch.randint(256, (n, 1, 3, 2), dtype=torch.uint8)
    split = Split(images, torch.arange(n), levels=16)
    places = torch.randperm(n)[:k].sort().values
    expected = split.take(places)
    packed = replace(split, images=images.clone()).packed(places)
    assert torch.equal(packed.images, expected.images)
    assert torch.equal(packed.labels, expected.labels)
    assert packed.levels == 16
    memory = images.untyped_storage().data_ptr()
    assert split.packed(places).images.untyped_storage().data_ptr() == memory


@pytest.mark.parametrize("name", ["Digits", "DIGITS", "dig-its"])
def test_a_data_set_is_known_however_it_is_spelled(name):
    assert datasets.load(name).fingerprint() == datasets.load("digits").fingerprint()
