"""Rivals that need no training: weights, folded layers or transformed logits between two ends."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import erf, logsumexp, softmax
from torch import nn
from torch.optim.swa_utils import update_bn

import oat_bench
from oat_bench import datasets
from oat_bench.errors import UserError
from oat_bench.methods.affine import AffineInterpolation
from oat_bench.methods.mixednuts import MixedNUTS, NonlinearMixture, fitted
from oat_bench.methods.mixing import log_mixture
from oat_bench.methods.weights import WeightInterpolation
from oat_bench.networks.conditioning import Folded
from oat_bench.networks.specialize import fold_batch_norms, specialize, unfold
from oat_bench.training.pgd import pgd

PUBLISHED = Path(__file__).parents[2] / "leaderboards/fashion-12x12/Linf/oat-wrn-10-1.safetensors"
NUMBERS = {"s": 5.0, "p": 4.0, "c": -0.5}


def described(part, method, lambdas, **options):
    """Return the description of a method, at lambda values, made of a part."""
    changes = {"method": method, "trained_lambdas": lambdas, "options": options}
    return part.info.model_copy(update=changes)


@pytest.fixture(scope="module")
def fashion():
    return datasets.load("fashion-12x12")


@pytest.fixture
def one():
    return oat_bench.load(PUBLISHED)


# --- batch norm in layers of its own


@pytest.mark.parametrize(
    ("options", "lam", "width"),
    [
        ({}, 0.0, None),
        ({}, 0.3, None),
        ({"norm": "single"}, 0.0, None),
        ({"film": "published"}, 0.5, None),
        ({"widths": [1.0, 0.5]}, 0.5, 0.5),
        ({"architecture": "resnet-18"}, 1.0, None),
    ],
)
def test_batch_norm_in_layers_of_its_own_computes_what_is_folded(perturbed, options, lam, width):
    network = perturbed(**options)
    x = torch.rand(3, 1, 8, 8)
    apart, plain = unfold(network, lam, width), specialize(network, lam, width)
    torch.testing.assert_close(apart(x), plain(x), rtol=1e-4, atol=1e-4)
    again = fold_batch_norms(apart)
    assert [type(m) for m in again.modules()] == [type(m) for m in plain.modules()]
    torch.testing.assert_close(again(x), plain(x), rtol=1e-4, atol=1e-4)


def test_there_is_none_between_two_batch_norms(perturbed):
    with pytest.raises(UserError, match=r"lambda 0\.05 lies between two batch norms"):
        unfold(perturbed(), 0.05)


# --- weights


class Convolutional(nn.Module):
    """A network of somebody's own, with batch norm and dropout."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(1, 4, 3)
            self.norm = nn.BatchNorm2d(4)
            self.drop = nn.Dropout(0.5)
            self.head = nn.Linear(4 * 36, 10)
            nn.init.uniform_(self.norm.weight, 0.5, 2)
            nn.init.normal_(self.norm.running_mean)

    def forward(self, x):
        return self.head(self.drop(F.relu(self.norm(self.conv(x)))).flatten(1))


def test_weights_between_two_networks_with_the_statistics_of_training_images(digits):
    ends = [Convolutional(seed).eval() for seed in (1, 2)]
    parts = dict(
        zip(
            ("standard", "robust"),
            (oat_bench.wrap(end, dataset=digits) for end in ends),
            strict=True,
        )
    )
    info = described(parts["standard"], "weight-interpolation", [0.0, 0.3, 1.0])
    line = {"standard_lambda": 1.0, "images": 750}
    line |= {role: part.info.model_dump(mode="json") for role, part in parts.items()}
    info = info.model_copy(update={"options": line})
    mixed = WeightInterpolation.of(info, parts)
    assert "batch norm estimated on 750 images at lambda 0.3" in mixed.fit(digits)
    expected = Convolutional(3)
    lines = zip(ends[0].state_dict().items(), ends[1].state_dict().values(), strict=True)
    expected.load_state_dict({k: 0.7 * a + 0.3 * b for (k, a), b in lines})
    expected.drop.p = 0.0  # torch's function leaves dropout on
    order = datasets.nested_order(digits.train.labels)[:750]
    update_bn([digits.train.inputs(order[i : i + 250]) for i in range(0, 750, 250)], expected)
    x = digits.test.inputs(slice(0, 9))
    torch.testing.assert_close(mixed.at(0.3)(x), expected.eval()(x), rtol=1e-4, atol=1e-5)
    for lam, end in ((0.0, ends[0]), (1.0, ends[1])):
        assert torch.equal(mixed.at(lam)(x), end(x))


def test_weights_of_two_operating_points_saved_and_read_back(one, fashion, tmp_path):
    info = described(one, "weight-interpolation", [0.0, 0.4, 1.0], images=500)
    mixed = WeightInterpolation.of(info, {"standard": one})
    with pytest.raises(UserError, match=r"batch norm was not estimated at lambda 0\.4"):
        mixed.at(0.4)
    mixed.fit(fashion)
    x, y = fashion.test.inputs(slice(0, 300)), fashion.test.labels[:300]
    for lam in (0.0, 1.0):
        assert torch.equal(mixed.at(lam)(x), one.at(lam)(x))
    # independent of the folding and of `estimate`
    low, high = one.unfolded(0.0), one.unfolded(1.0)
    lines = zip(low.state_dict().items(), high.state_dict().values(), strict=True)
    low.load_state_dict({k: torch.lerp(a.double(), b.double(), 0.4) for (k, a), b in lines})
    order = datasets.nested_order(fashion.train.labels)[:500]
    update_bn([fashion.train.inputs(part) for part in order.chunk(2)], low)
    expected = low.eval()(x)
    torch.testing.assert_close(mixed.at(0.4)(x), expected, rtol=1e-3, atol=1e-3)
    without = WeightInterpolation._between(mixed, 0.4, 1.0).eval()(x)
    assert (without.argmax(1) == y).sum() < (expected.argmax(1) == y).sum()
    oat_bench.save(mixed, tmp_path / "mixed.safetensors")
    again = oat_bench.load(tmp_path / "mixed.safetensors")
    assert again.fingerprint() == mixed.fingerprint()
    for lam in (0.0, 0.4, 1.0):
        torch.testing.assert_close(again.at(lam)(x), mixed.at(lam)(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(UserError, match=r"lambda 0\.5 asked for; .* the nearest is 0\.4"):
        again.at(0.5)


def test_networks_of_two_builds_and_folded_ones_have_no_weights_between(one, digits, fashion):
    other = oat_bench.wrap(Convolutional(1).eval(), dataset=digits)
    wider = oat_bench.wrap(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval(), dataset=digits)
    info = described(other, "weight-interpolation", [0.0, 0.5], standard_lambda=1.0)
    with pytest.raises(UserError, match="the two networks differ in their layers"):
        WeightInterpolation.of(info, {"standard": other, "robust": wider}).fit(digits)
    nuts = MixedNUTS.of(described(one, "mixednuts", [0.0, 1.0], **NUMBERS), {"standard": one})
    info = described(one, "weight-interpolation", [0.0, 0.5])
    with pytest.raises(UserError, match="a model of method 'mixednuts' keeps no batch norm"):
        WeightInterpolation.of(info, {"standard": nuts}).fit(fashion)


# --- folded layers


def test_folded_layers_between_zero_and_the_first_are_the_networks_own_bridge(build_classifier):
    one = build_classifier()
    info = described(one, "affine-interpolation", [0.0, 1.0], knots=[0, 0.1], reach=0.1)
    line = AffineInterpolation.of(info, {"network": one})
    x = torch.rand(4, 1, 8, 8)
    for share in (0.25, 0.7):
        torch.testing.assert_close(line.at(share)(x), one.at(0.1 * share)(x), rtol=1e-4, atol=1e-4)
    for share, own in ((0.0, 0.0), (1.0, 0.1)):
        assert torch.equal(line.at(share)(x), one.at(own)(x))


def test_folded_layers_go_on_beyond_the_last_knot_along_its_line(build_classifier, tmp_path):
    """A(.1) + (l - .1) / .9 (A(1) - A(.1)) at l up to 1.9, by a pass of the network itself."""
    one = build_classifier()
    options = {"knots": [0.1, 1], "reach": 1.9}
    info = described(one, "affine-interpolation", [0.0, 0.5, 1.0], **options)
    line = AffineInterpolation.of(info, {"network": one})
    oat_bench.save(line, tmp_path / "line.safetensors")
    again = oat_bench.load(tmp_path / "line.safetensors")
    x = torch.rand(4, 1, 8, 8)
    assert torch.equal(again.at(0.0)(x), one.at(0.1)(x))
    assert torch.equal(again.at(0.5)(x), one.at(1.0)(x))
    ends = [one.network.folded(lam, 4, torch.device("cpu"))[1].affines for lam in (0.1, 1.0)]
    affines = tuple(
        (a + 2 * (c - a), b + 2 * (d - b)) for (a, b), (c, d) in zip(*ends, strict=True)
    )
    with torch.no_grad():
        expected = one.network.backbone(x, Folded(affines))
    torch.testing.assert_close(again.at(1.0)(x), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(again.at(1.0)(x), one.at(1.0)(x), atol=1e-2)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"knots": [0.2, 1], "reach": 0.2}, "reach is 0.2; expected more than the first"),
        ({"knots": [0.5]}, "at least 2 items"),
        ({"reach": 5}, "less than or equal to 4"),
    ],
)
def test_folded_layers_refuse_a_dial_that_there_is_not(build_classifier, options, told):
    one = build_classifier()
    info = described(one, "affine-interpolation", [0.0, 1.0], **options)
    with pytest.raises(ValueError, match=told):
        AffineInterpolation.of(info, {"network": one})


def test_folded_layers_are_those_of_one_network(build_classifier):
    one = build_classifier()
    nuts = MixedNUTS.of(described(one, "mixednuts", [0.0, 1.0], **NUMBERS), {"standard": one})
    info = described(one, "affine-interpolation", [0.0, 1.0])
    with pytest.raises(UserError, match="method 'mixednuts' is not one network"):
        AffineInterpolation.of(info, {"network": nuts})


# --- MixedNUTS


def mixed_by_hand(standard, robust, share, s, p, c):
    """The paper's formula in numpy, float64: log probabilities."""
    standard, robust = (logits.double().numpy() for logits in (standard, robust))
    z = (robust - robust.mean(1, keepdims=True)) / robust.std(1, ddof=1, keepdims=True) + c
    g = z * (1 + erf(z / np.sqrt(2))) / 2
    sure = s * np.sign(g) * np.abs(g) ** p
    sure = sure - logsumexp(sure, axis=1, keepdims=True)
    if share == 0:
        return standard - logsumexp(standard, axis=1, keepdims=True)
    certain = np.eye(standard.shape[1])[standard.argmax(1)]
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log((1 - share) * certain), np.log(share) + sure)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999, 1.0])
def test_mixednuts_is_the_papers_formula_and_gradients_change_no_prediction(one, fashion, share):
    x = fashion.test.inputs(slice(0, 200))
    ends = one.at(0.0), one.at(1.0)
    expected = mixed_by_hand(*(end(x) for end in ends), share, *NUMBERS.values())
    mixture = NonlinearMixture(*ends, share, *NUMBERS.values())
    found = mixture(x)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-2)
    led = mixture(x.clone().requires_grad_())
    assert torch.equal(led.argmax(1), found.argmax(1))
    if share in (0, 1):
        assert torch.equal(found.argmax(1), ends[int(share)](x).argmax(1))


def test_the_gradient_that_attacks_follow_is_that_of_the_logits_they_see(one, fashion):
    mixture = NonlinearMixture(one.at(0.0), one.at(1.0), 0.9, **NUMBERS).double()
    x, y = fashion.test.inputs(slice(0, 1)).double(), fashion.test.labels[:1]

    def loss(images):
        return F.cross_entropy(mixture(images.requires_grad_()), y)

    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    step = 1e-6
    for place in (10, 57, 74):
        nudge = torch.zeros(144, dtype=torch.double)
        nudge[place] = step
        nudge = nudge.view_as(x)
        slope = (loss(x + nudge) - loss(x - nudge)) / (2 * step)
        assert gradient.flatten()[place].item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-8)


def test_attacks_get_further_than_by_the_formula_and_by_the_authors_logits(one, fashion):
    share, s, p, c = 0.99, *NUMBERS.values()
    mixture = NonlinearMixture(one.at(0.0), one.at(1.0), share, s, p, c)
    x, y = fashion.test.inputs(slice(0, 200)), fashion.test.labels[:200]
    ends = one.at(0.0), one.at(1.0)

    def transformed(raw):
        z = (raw - raw.mean(1, keepdim=True)) / raw.std(1, keepdim=True) + c
        return s * F.gelu(z).sign() * F.gelu(z).abs() ** p

    def formula(images):
        standard, raw = (end(images) for end in ends)
        certain = F.one_hot(standard.argmax(1), 10).float().log()
        logs = [certain, transformed(raw).log_softmax(1)]
        return log_mixture(logs, torch.tensor([1 - share, share]))

    def authors(images):
        standard, raw = (end(images) for end in ends)
        logs = [values.log_softmax(1) for values in (standard, raw, transformed(raw))]
        return log_mixture(logs, torch.tensor([0.05, 0.95 * 0.9, 0.95 * 0.1]))

    threat = one.info.threat
    budget = {"eps": threat.eps, "step_size": threat.step_size, "steps": 20}
    stand = {
        name: int((mixture(pgd(model, x, y, **budget)).argmax(1) == y).sum())
        for name, model in {"formula": formula, "authors": authors, "module": mixture}.items()
    }
    assert stand["module"] < min(stand["authors"], stand["formula"]), stand
    assert torch.equal(formula(x).argmax(1), mixture(x).argmax(1))


def test_the_three_numbers_are_the_best_of_the_authors_grid():
    """By numpy: the fewest wrong images reach the margin that a share beta of the right do."""
    draw = torch.Generator().manual_seed(0)
    right, wrong = (torch.randn(60, 6, generator=draw, dtype=torch.double) for _ in range(2))
    right[:, 0] += 4  # surer
    beta, objectives = 0.95, {}
    for s, p, c in product(np.geomspace(0.05, 5, 8), np.linspace(1, 4, 8), np.linspace(-1.1, 0, 8)):
        margins, kept = [], True
        for logits in (right, wrong):
            mixed = mixed_by_hand(logits, logits, 1.0, s, p, c)
            kept = kept and bool((mixed.argmax(1) == logits.argmax(1).numpy()).all())
            top = np.sort(softmax(mixed, axis=1), axis=1)
            margins.append(top[:, -1] - top[:, -2])
        if kept:
            cutoff = np.percentile(margins[0], 100 * (1 - beta))
            objectives[s, p, c] = (np.mean(margins[1] >= cutoff), -cutoff)
    numbers, cutoff = fitted(right, wrong, beta)
    assert numbers == pytest.approx(min(objectives, key=lambda n: objectives[n]))
    assert cutoff == pytest.approx(-min(objectives.values())[1], rel=1e-6)
    assert len({share for share, _ in objectives.values()}) > 1


def test_the_fit_is_in_the_checkpoint_and_the_same_again(one, fashion, tmp_path):
    info = described(one, "mixednuts", [0.0, 0.9, 1.0], images=100)
    first, second = (MixedNUTS.of(info, {"standard": one}) for _ in range(2))
    with pytest.raises(UserError, match="s, p and c are not fitted"):
        first.at(0.5)
    said = first.fit(fashion)
    assert "fitted on 100 validation images" in said
    assert second.fit(fashion) == said
    oat_bench.save(first, tmp_path / "nuts.safetensors")
    again = oat_bench.load(tmp_path / "nuts.safetensors")
    assert again.fingerprint() == first.fingerprint() == second.fingerprint()
    assert again.info.options["s"] > 0
    x = fashion.test.inputs(slice(0, 20))
    torch.testing.assert_close(again.at(0.9)(x), first.at(0.9)(x), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_fitted_is_told(one, fashion):
    with pytest.raises(ValueError, match="some of s, p and c are given"):
        MixedNUTS.of(described(one, "mixednuts", [0.0, 1.0], s=1.0), {"standard": one})
    few = replace(fashion, validation=fashion.validation.take(slice(0, 0)))
    nuts = MixedNUTS.of(described(one, "mixednuts", [0.0, 1.0]), {"standard": one})
    with pytest.raises(UserError, match="fashion-12x12 has no validation images; give s, p and"):
        nuts.fit(few)
    right = one.at(1.0)(fashion.validation.inputs()).argmax(1) == fashion.validation.labels
    easy = replace(few, validation=fashion.validation.take(right.nonzero()[:, 0]))
    with pytest.raises(UserError, match=r"the robust model gets 0 wrong when clean, \d+ right"):
        nuts.fit(easy)


def test_combine_is_the_card_from_python(one, fashion):
    lambdas, options = [1, 0.9, 0], {"images": 100, "beta": 0.9}
    made = oat_bench.combine("mixednuts", {"standard": one}, fashion, lambdas=lambdas, **options)
    info = described(one, "mixednuts", [0.0, 0.9, 1.0], **options)
    by_hand = MixedNUTS.of(info, {"standard": one})
    said = by_hand.fit(fashion)
    assert made.info.selection == said
    assert made.info.trained_lambdas == [0, 0.9, 1]
    assert made.info.options == by_hand.info.options
    with pytest.raises(UserError, match="method 'oat' makes nothing of other classifiers"):
        oat_bench.combine("oat", {"standard": one}, fashion, lambdas=[0, 1])


# --- from a card to an entry


CARD = """
extends = "fashion-12x12"
[method]
name = "{name}"
{role} = "{path}"
{options}
[training]
lambdas = [0, 0.5, 1]
[evaluation]
lambdas = [0, 0.5, 1]
attacks = "fgsm,pgd-7"
n_examples = 60
fewer_examples = {{}}
"""


@pytest.mark.parametrize(
    ("name", "role", "options"),
    [
        ("weight-interpolation", "standard", "images = 500"),
        ("affine-interpolation", "network", "reach = 1.5"),
        ("mixednuts", "standard", "images = 100"),
    ],
)
def test_a_card_makes_evaluates_and_exports_a_rival(name, role, options, invoke):
    card = CARD.format(name=name, role=role, path=PUBLISHED, options=options)
    Path("rival.toml").write_text(card)
    code, out, err = invoke("run", "--benchmark", "rival.toml", "--out", "runs/rival")
    assert code == 0, err
    assert name.upper() in out
    entry = json.loads(Path("runs/rival/entry.json").read_text())
    assert entry["selection"].startswith("none: not trained")
    assert entry["number_forward_passes"] == (2 if name == "mixednuts" else 1)
    clean = [point["clean_acc"] for point in entry["operating_points"]]
    attacked = [point["robust_acc"]["pgd-7"]["value"] for point in entry["operating_points"]]
    assert clean[0] > clean[2] > 40
    assert attacked[2] > attacked[0]
    # the same card again finds it made
    code, _, err = invoke("train", "--benchmark", "rival.toml", "--out", "runs/rival")
    assert code == 0
    assert "trained already" in err
    code, _, err = invoke("export", "runs/rival", "--lambda", "0.5", "--out", "rival.onnx")
    assert code == 0, err
    code, _, err = invoke("export", "runs/rival", "--dynamic", "--out", "dial.onnx")
    assert code == 2
    assert "there is no one network that takes lambda as an input" in err
