"""Faster ways to compute the same: what they may change, and what not."""

import platform
import subprocess
import sys

import pytest
import torch

from oat_bench import acceleration
from oat_bench.acceleration import Accelerated, choose_compile, choose_precision, compiled
from oat_bench.attacks import in_house
from oat_bench.attacks.card import AttackCard, attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.networks.specialize import specialize

CPU = torch.device("cpu")
THREAT = Threat(eps=0.1, step_size=0.03)


@pytest.fixture(params=["wrn-10-1", "resnet-18"])
def network(request, perturbed):
    return perturbed(request.param, num_classes=10, in_channels=3, size=16)


def images(n=24):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def test_accelerated_is_the_plain_network(network):
    x = images()
    torch.testing.assert_close(
        Accelerated(specialize(network, 0.3))(x), specialize(network, 0.3)(x), rtol=1e-4, atol=1e-5
    )


def test_gradients_come_in_the_layout_of_the_images(network):
    x = images().requires_grad_()
    fast, slow = Accelerated(specialize(network, 0.3)), specialize(network, 0.3)
    (gradient,) = torch.autograd.grad(fast(x).logsumexp(1).sum(), x)
    (expected,) = torch.autograd.grad(slow(x).logsumexp(1).sum(), x)
    assert gradient.is_contiguous()
    # a ReLU that rounding turns over moves a few elements
    assert (gradient - expected).norm() < 0.01 * expected.norm()
    assert x.grad is None
    assert not x._backward_hooks


@pytest.mark.parametrize(("kind", "inside"), [("cuda", "ieee"), ("cpu", None)])
def test_convolutions_of_a_gpu_are_full_float32_for_as_long_as_asked(kind, inside):
    # test_gpu.py shows on a GPU what this changes
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    with acceleration.full_float32(torch.device(kind)):
        assert conv.fp32_precision == (inside or before)
    assert conv.fp32_precision == before


def test_full_float32_ends_where_an_error_ends_it():
    before = torch.backends.cudnn.conv.fp32_precision
    with pytest.raises(KeyError), acceleration.full_float32(torch.device("cuda")):
        raise KeyError
    assert torch.backends.cudnn.conv.fp32_precision == before


@pytest.mark.parametrize("name", ["fgsm", "mi-fgsm", "pgd-7", "pgd-20"])
def test_every_example_has_the_outcome_of_the_slow_path(network, name):
    x, ids = images(), torch.arange(24)
    attack = prepare(attack_card(name), THREAT, n_classes=10, seed=0)
    slow, fast = specialize(network, 0.3), Accelerated(specialize(network, 0.3))
    y = slow(x).argmax(1)
    with torch.no_grad():
        outcomes = [slow(attack(model, x, y, ids)).argmax(1) for model in (slow, fast)]
    assert torch.equal(*outcomes)
    assert (outcomes[0] != y).any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autoattack", "square", "apgd-t"])
def test_robust_accuracy_of_the_slow_path_under_attacks_that_draw_by_batch(perturbed, name):
    network = perturbed("wrn-10-1", num_classes=10, in_channels=3, size=16)
    x, ids = images(40), torch.arange(40)
    attack = prepare(attack_card(name), Threat(eps=0.03, step_size=0.01), n_classes=10, seed=0)
    slow, fast = specialize(network, 0.3), Accelerated(specialize(network, 0.3))
    y = slow(x).argmax(1)
    with torch.no_grad():
        right = [
            (slow(attack(model, x, y, ids)).argmax(1) == y).sum().item() for model in (slow, fast)
        ]
    assert abs(right[0] - right[1]) <= 1
    assert right[0] < 40


def test_rough_is_the_network_in_bfloat16_with_logits_in_float32(network):
    x = images()
    plain = specialize(network, 0.3)
    rough = Accelerated(plain, precision="bf16")
    logits = rough(x)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits.bfloat16().float(), logits)  # the head is not rounded
    assert not torch.equal(logits, plain(x))
    torch.testing.assert_close(logits, plain(x), rtol=0.1, atol=0.1)


def test_a_batch_larger_than_the_caches_is_the_same_batch(network):
    x = torch.rand(150, 3, 16, 16, generator=torch.Generator().manual_seed(4)).requires_grad_()
    fast, slow = Accelerated(specialize(network, 0.3)), specialize(network, 0.3)
    torch.testing.assert_close(fast(x), slow(x), rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(fast(x).logsumexp(1).sum(), x)
    (expected,) = torch.autograd.grad(slow(x).logsumexp(1).sum(), x)
    assert (gradient - expected).norm() < 0.01 * expected.norm()


class Rounded(torch.nn.Module):
    """Two logits that differ by the first pixel less .7; bfloat16 rounds the pixel."""

    def forward(self, x):
        first = x[:, 0, 0, 0]
        if torch.is_autocast_enabled("cpu"):
            first = first.bfloat16().float()
        return torch.stack([torch.zeros_like(first), first - 0.7], dim=1)


class Family(TunableClassifier):
    """The same classifier at every lambda."""

    def at(self, lam, width=1.0):
        return Rounded().eval()

    def state_dict(self):
        return {}

    from_state = to = None

    def fingerprint(self):
        return "rounded"


def test_what_only_rounding_breaks_is_attacked_again(monkeypatch):
    seen = []

    def step_until_broken(model, x, y):
        """Lower the first pixel by .0005 until the model that is attacked gets it wrong."""
        seen.append(len(x))
        for _ in range(20):
            x = torch.where((model(x).argmax(1) == y)[:, None, None, None], x - 0.0005, x)
        return x

    monkeypatch.setitem(in_house.CLASSES, "Step", step_until_broken)
    card = AttackCard.model_validate({"name": "s", "engine": "oat_bench", "class": "Step"})
    attack = prepare(card, Threat(eps=0.1), n_classes=2, seed=0)
    # from 180 / 255 = .7059 down: bfloat16 is below .7 from .7012 on, which float32 is not
    data = Split(torch.full((4, 1, 8, 8), 180, dtype=torch.uint8), torch.ones(4).long())
    subject = Subject(Family(), data, "", gradients="bf16")
    frame = evaluate(subject, [OperatingPoint(0.5)], [attack], show=False)
    assert seen == [4, 4]
    assert (frame["attacked_prediction"] == 0).all()


def test_an_evaluation_with_rough_gradients_is_one_of_its_own(trained, digits):
    attack = prepare(attack_card("pgd-7"), trained.info.threat, n_classes=10, seed=0)
    results = [
        evaluate(
            Subject(trained, digits.test, "digits", torch.arange(100), gradients=gradients),
            [OperatingPoint(1.0)],
            [attack],
            show=False,
        )
        for gradients in ("float32", "bf16")
    ]
    fine, rough = results
    assert fine["clean_prediction"].equals(rough["clean_prediction"])
    robust = [(r["attacked_prediction"] == r["label"]).mean() for r in results]
    assert robust[0] == pytest.approx(robust[1], abs=0.05)


def test_auto_takes_bfloat16_where_the_processor_has_it(monkeypatch):
    for has in (True, False):
        monkeypatch.setattr(acceleration, "_multiplies_bf16", lambda _, has=has: has)
        assert choose_precision("auto", CPU, 3 * 32 * 32) == ("bf16" if has else "float32")
        assert choose_precision("auto", CPU, 64) == "float32"
        assert choose_precision("float32", CPU, 3 * 32 * 32) == "float32"
        assert choose_precision("bf16", CPU, 64) == "bf16"


def test_compiling_is_for_long_work_unless_asked():
    assert not choose_compile(None, CPU, 1e12)
    assert choose_compile(None, CPU, 1e16)
    assert choose_compile(True, CPU, 1)
    assert not choose_compile(False, CPU, 1e20)


KEPT = """
import os
from oat_bench.acceleration import keep_freed_memory
import torch
if {keep}: assert keep_freed_memory()
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
before = resident()
tensor = torch.ones(64 * 2**20)
del tensor
print(resident() - before)
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="keep_freed_memory is about glibc's malloc"
)
def test_memory_that_is_freed_stays_with_the_process_if_asked():
    grown = {}
    for keep in (True, False):
        code = KEPT.format(keep=keep)
        grown[keep] = float(subprocess.check_output([sys.executable, "-W", "ignore", "-c", code]))
    assert grown[True] > 200  # MiB of 256
    assert grown[False] < 50


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(acceleration.ctypes, "CDLL", lambda _: object())
    assert not acceleration.keep_freed_memory()


def test_operations_are_two_for_each_multiplication_of_a_convolution():
    conv = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
    counted = acceleration.operations_per_image(conv, torch.zeros(1, 3, 10, 10))
    assert counted == 2 * 10 * 10 * 8 * 3 * 3 * 3


@pytest.mark.slow
def test_compiled_is_the_same_for_every_batch_size(perturbed):
    network = perturbed("wrn-10-1", num_classes=10, in_channels=3, size=16)
    fast = Accelerated(specialize(network, 0.3), compile_it=True)
    slow = specialize(network, 0.3)
    for n in (24, 7, 1):
        torch.testing.assert_close(fast(images(n)), slow(images(n)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_logits_and_gradients_of_an_image_are_the_same_bits_in_any_batch(plain, precision):
    network = Accelerated(plain("wrn-10-1", 10, 3).eval(), precision=precision)
    draw = torch.Generator().manual_seed(0)
    images = torch.rand((80, 3, 16, 16), generator=draw)

    def both(x):
        x = x.clone().requires_grad_()
        logits = network(x)
        (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum(), x)
        return logits.detach(), gradient

    whole = both(images)
    for batch in (*(slice(2, 2 + n) for n in range(1, 18)), slice(0, 65), slice(79, 80)):
        for ours, theirs in zip(both(images[batch]), whole, strict=True):
            assert torch.equal(ours, theirs[batch])


@pytest.mark.slow
def test_more_than_eight_programs_are_compiled():
    from torch._dynamo.utils import counters

    fast = compiled(lambda x, name: x + len(name))
    counters.clear()
    for n in range(12):  # a name is no number: each is a program of its own
        assert fast(torch.zeros(2), "a" * n).tolist() == [n, n]
    assert counters["stats"]["unique_graphs"] == 12
