"""Each corruption against its definition, and the evaluation against plain predictions."""

import colorsys
import itertools
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, poisson

from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation import corruptions
from oat_bench.evaluation.corruptions import CORRUPTIONS, corrupt
from oat_bench.evaluation.subject import Subject

IDS = torch.arange(64)
SEVERITIES = (1, 2, 3, 4, 5)


def flat(value, channels=1):
    return np.full((len(IDS), channels, 24, 24), value)


def pixels(images):
    """What float images become in 8 bits, as the authors round them."""
    return np.floor(255 * np.clip(images, 0, 1) + 1e-6)


@pytest.mark.parametrize(("severity", "std"), list(enumerate((0.04, 0.06, 0.08, 0.09, 0.10), 1)))
def test_gaussian_noise_has_its_mean_and_deviation(severity, std):
    noise = (corrupt(flat(0.5, 3), "gaussian_noise", severity, IDS) + 0.5) / 255 - 0.5
    assert abs(noise.mean()) < 4 * std / noise.size**0.5
    assert noise.std() == pytest.approx(std, rel=0.01)
    # neighbours, channels and examples have nothing to do with each other
    for other in (np.roll(noise, 1, axis) for axis in range(3)):
        assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.015


@pytest.mark.parametrize(("severity", "photons"), list(enumerate((500, 250, 100, 75, 50), 1)))
def test_shot_noise_is_a_poisson_count(severity, photons):
    x = flat(0.2)
    x[:, :, ::2] = 0.0
    found = corrupt(x, "shot_noise", severity, IDS)
    assert not found[:, :, ::2].any()
    drawn = found[:, :, 1::2].ravel()
    counts = np.arange(3 * photons)
    expected = np.bincount(
        pixels(counts / photons).astype(int), poisson.pmf(counts, 0.2 * photons), 256
    )
    likely = expected * drawn.size > 5
    frequencies = np.bincount(drawn, minlength=256)
    seen = [*frequencies[likely], frequencies[~likely].sum()]
    chances = [*expected[likely], expected[~likely].sum()]
    assert chisquare(seen, np.array(chances) / sum(chances) * drawn.size).pvalue > 1e-3


@pytest.mark.parametrize(("severity", "share"), list(enumerate((0.01, 0.02, 0.03, 0.05, 0.07), 1)))
def test_impulse_noise_hits_its_share_with_black_and_white_alike(severity, share):
    found = corrupt(flat(0.4, 3), "impulse_noise", severity, IDS)
    assert set(np.unique(found)) == {0, 102, 255}
    sd = (share / 2 / found.size) ** 0.5
    for value in (0, 255):
        assert abs((found == value).mean() - share / 2) < 4 * sd


@pytest.mark.parametrize(("severity", "std"), list(enumerate((0.4, 0.6, 0.7, 0.8, 1.0), 1)))
def test_gaussian_blur_spreads_a_point_by_its_kernel(severity, std):
    x = np.zeros((1, 1, 15, 15))
    x[..., 7, 7] = 1
    kernel = np.exp(-((np.arange(15) - 7) ** 2) / (2 * std**2))
    kernel /= kernel.sum()
    found = corrupt(x, "gaussian_blur", severity, IDS[:1]).astype(int)
    # where the kernel is cut off the rest is scaled up, by less than a level
    assert np.abs(found - pixels(np.outer(kernel, kernel))).max() <= 1
    assert (corrupt(flat(0.6), "gaussian_blur", severity, IDS) == 153).all()


@pytest.mark.parametrize(("severity", "more"), list(enumerate((0.05, 0.1, 0.15, 0.2, 0.3), 1)))
def test_brightness_raises_the_value_of_hsv(severity, more):
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 10, 10)) / 255
    x[..., 0, 0] = 0
    expected = np.zeros_like(x)
    for i, j in itertools.product(range(10), range(10)):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[0, :, i, j])
        expected[0, :, i, j] = colorsys.hsv_to_rgb(hue, saturation, min(value + more, 1))
    found = corrupt(x, "brightness", severity, IDS[:1])
    assert np.array_equal(found, pixels(expected))
    grey = x[:, :1]
    assert np.array_equal(corrupt(grey, "brightness", severity, IDS[:1]), pixels(grey + more))


@pytest.mark.parametrize(("severity", "factor"), list(enumerate((0.75, 0.5, 0.4, 0.3, 0.15), 1)))
def test_contrast_shrinks_towards_the_mean_of_each_channel(severity, factor):
    x = np.zeros((1, 3, 4, 4))
    x[0, :, :, 2:] = np.array([1.0, 0.8, 0.4])[:, None, None]
    found = corrupt(x, "contrast", severity, IDS[:1])
    for channel, top in enumerate((1.0, 0.8, 0.4)):
        assert (found[0, channel, :, :2] == pixels(top / 2 * (1 - factor))).all()
        assert (found[0, channel, :, 2:] == pixels(top / 2 * (1 + factor))).all()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_averages_boxes(severity):
    x = np.array([[0, 255], [51, 102]])[None, None] / 255  # one pixel is left of it
    # Pillow rounds the rows' means before it takes the columns'
    assert set(np.unique(corrupt(x, "pixelate", severity, IDS[:1]))) <= {102, 103}
    assert (corrupt(flat(0.4, 3), "pixelate", severity, IDS) == 102).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_leaves_less_of_an_image_the_lower_its_quality(channels):
    x = np.random.default_rng(0).integers(0, 256, (4, channels, 32, 32)) / 255
    found = [corrupt(x, "jpeg_compression", s, IDS[:4]) for s in SEVERITIES]
    lost = [float(np.abs(each / 255 - x).mean()) for each in found]
    assert lost == sorted(lost)
    assert 0 < lost[0] < lost[-1]
    plain = corrupt(flat(0.4, channels), "jpeg_compression", 5, IDS)
    assert len(np.unique(plain)) == 1
    # the mean of a block is stored in steps of 20 / 8 levels
    assert abs(int(plain.flat[0]) - 102) <= 1.25


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_an_example_is_corrupted_alike_in_every_batch(name, channels):
    x = np.random.default_rng(0).integers(0, 17, (9, channels, 8, 6)) / 16
    ids = torch.arange(100, 109)
    whole = corrupt(x, name, 4, ids)
    assert whole.shape == x.shape
    assert whole.dtype == np.uint8
    order = [8, 0, 3]
    assert np.array_equal(corrupt(x[order], name, 4, ids[order]), whole[order])
    assert np.array_equal(corrupt(x[5:6], name, 4, ids[5:6]), whole[5:6])
    if name.endswith("noise"):
        assert not np.array_equal(corrupt(x, name, 4, ids + 1), whole)


def test_accuracies_are_those_of_plain_predictions_and_fall_with_severity(trained, digits):
    examples = torch.arange(0, 800, 2)
    points = [OperatingPoint(0.2), OperatingPoint(1.0)]
    source = partial(corruptions.computed, digits.test)
    subject = Subject(trained, digits.test, "", examples)
    found, digest = corruptions.evaluate(
        subject, points, source, list(CORRUPTIONS), SEVERITIES, show=False
    )
    labels = digits.test.labels[examples]
    for outcomes, point in zip(found, points, strict=True):
        assert outcomes.point == point
        assert outcomes.right.shape == (len(CORRUPTIONS), 5, len(examples))
        with torch.no_grad():
            network = trained.at(point.lam)
            clean = network(digits.test.inputs(examples)).argmax(1) == labels
            x = corrupt(digits.test.inputs(examples).double().numpy(), "contrast", 3, examples)
            contrast = network(torch.from_numpy(x) / 255).argmax(1) == labels
        assert np.array_equal(outcomes.clean, clean.numpy())
        place = list(CORRUPTIONS).index("contrast")
        assert np.array_equal(outcomes.right[place, 2], contrast.numpy())
        by_severity = outcomes.right.mean(axis=(0, 2))
        assert (np.diff(by_severity) <= 0.005).all(), by_severity  # two of 400 images
        assert by_severity[0] > by_severity[4] + 0.02, by_severity
        mean = outcomes.mean()
        assert mean.value == pytest.approx(100 * outcomes.right.mean())
        # the bootstrap of a mean is close to the normal interval of as many images
        half = 196 * outcomes.right.mean(axis=(0, 1)).std() / len(examples) ** 0.5
        assert mean.high - mean.low == pytest.approx(2 * half, rel=0.15)
    assert len(digest) == 64
