"""Crops and flips against torchvision's, and what decides them."""

import pytest
import torch
import torchvision.transforms.functional as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from oat_bench.datasets import Split
from oat_bench.training import augmentation
from oat_bench.training.augmentation import crop_and_flip, draw
from oat_bench.training.card import TrainingCard


def make_split(n=40, channels=3, height=7, width=5, levels=255):
    numbers = torch.Generator().manual_seed(0)
    images = torch.randint(
        1, levels + 1, (n, channels, height, width), dtype=torch.uint8, generator=numbers
    )
    return Split(images, torch.zeros(n, dtype=torch.long), levels)


def card(augment, padding=4):
    return TrainingCard(epochs=1, lr=0.1, augmentation=augment, crop_padding=padding)


def theirs(image, row, column, flip, padding):
    """One image by torchvision: pad, crop, flip."""
    height, width = image.shape[1:]
    cropped = reference.crop(reference.pad(image, [padding]), int(row), int(column), height, width)
    return reference.hflip(cropped) if flip else cropped


@settings(max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    padding=st.integers(0, 6),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    data=st.data(),
)
def test_any_crop_and_flip_is_torchvisions(shape, padding, dtype, data):
    images = make_split(5, *shape).images.to(dtype)
    offsets = st.lists(st.integers(0, 2 * padding), min_size=5, max_size=5)
    rows, columns = (torch.tensor(data.draw(offsets)) for _ in range(2))
    flip = torch.tensor(data.draw(st.lists(st.booleans(), min_size=5, max_size=5)))
    ours = crop_and_flip(images, rows, columns, flip, padding)
    assert ours.dtype == dtype
    for number, image in enumerate(images):
        expected = theirs(image, rows[number], columns[number], flip[number], padding)
        assert torch.equal(ours[number], expected)


@pytest.mark.parametrize("levels", [255, 16])
def test_the_card_decides_and_each_example_has_its_own_crop(levels):
    split = make_split(levels=levels)
    index = torch.tensor([3, 30, 7, 11])
    rows, columns, flip = draw(index, 4, seed=5, epoch=2)
    for name, flips in (("crop-flip", flip), ("crop", torch.zeros(4))):
        ours = augmentation.inputs(split, index, card(name), seed=5, epoch=2)
        assert ours.dtype == torch.float32
        for place, example in enumerate(index):
            image = split.images[example]
            expected = theirs(image, rows[place], columns[place], flips[place], 4)
            torch.testing.assert_close(ours[place], expected.float() / levels)
    plain = augmentation.inputs(split, index, card("none"), seed=5, epoch=2)
    assert torch.equal(plain, split.inputs(index))


def test_offsets_and_flips_are_uniform_and_independent():
    n, padding = 40_000, 2
    rows, columns, flip = draw(torch.arange(n), padding, seed=0, epoch=0)
    assert flip.dtype == torch.bool
    joint = torch.bincount((rows * 5 + columns) * 2 + flip, minlength=50)
    assert len(joint) == 50
    # 50 cells of 800, standard deviation 28
    assert (joint - n / 50).abs().max() < 5 * 28


def test_a_draw_belongs_to_seed_epoch_and_example():
    index = torch.arange(100)
    whole = torch.stack(draw(index, 4, seed=1, epoch=3))
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.stack(draw(order, 4, seed=1, epoch=3)), whole[:, order])
    assert torch.equal(torch.stack(draw(index[17:18], 4, seed=1, epoch=3)), whole[:, 17:18])
    for other in (draw(index, 4, seed=2, epoch=3), draw(index, 4, seed=1, epoch=4)):
        same = (torch.stack(other) == whole).float().mean(dim=1)
        # of 9 offsets and of 2 flips
        torch.testing.assert_close(same, torch.tensor([1 / 9, 1 / 9, 1 / 2]), atol=0.2, rtol=0)


def test_no_padding_and_no_flip_change_nothing():
    split = make_split()
    index = torch.arange(40)
    unchanged = augmentation.inputs(split, index, card("crop", 0), seed=0, epoch=0)
    assert torch.equal(unchanged, split.inputs())
    flipped = augmentation.inputs(split, index, card("crop-flip", 0), seed=0, epoch=0)
    mirrored = split.inputs().flip(3)
    as_they_were = (flipped == split.inputs()).flatten(1).all(1)
    assert torch.equal(as_they_were, ~(flipped == mirrored).flatten(1).all(1))
    assert 8 < as_they_were.sum() < 32
