"""What no CPU test reaches, on a CUDA GPU: `make gpu`. Without one these fail; they do not skip."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import oat_bench
from oat_bench import datasets
from oat_bench.acceleration import Accelerated
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Split
from oat_bench.estimator import OATClassifier
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.specialize import specialize
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.loop import Trainer
from oat_bench.training.memory import room

pytestmark = pytest.mark.gpu
CPU, GPU = torch.device("cpu"), torch.device("cuda")
MODEL = "leaderboards/fashion-12x12/Linf/oat-wrn-10-1.safetensors"
THREAT = Threat(eps="8/255", step_size="2/255")


@pytest.fixture(scope="module")
def data():
    return datasets.load("fashion-12x12")


@pytest.fixture
def network(perturbed) -> torch.nn.Module:
    """Return a plain network whose every number matters."""
    return specialize(perturbed("wrn-16-1", num_classes=10, in_channels=3, size=32), 0.3)


def images(n: int = 64, size: int = 32) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(3))


def far(found: Tensor, truth: Tensor) -> float:
    """The relative error, by norms."""
    return float((found.double().cpu() - truth).norm() / truth.norm())


def test_what_predicts_is_float32_and_not_tf32(network):
    x = images()
    truth = copy.deepcopy(network).double()(x.double()).detach()
    before = torch.backends.cudnn.conv.fp32_precision
    on_gpu = Accelerated(network.to(GPU), precision="bf16")
    assert far(on_gpu.exact(x.to(GPU)), truth) < 2e-6
    # the default, which a verdict must not rest on, is seen to be worse
    with torch.no_grad():
        assert far(network(x.to(GPU)), truth) > 5e-5
    assert torch.backends.cudnn.conv.fp32_precision == before


def test_bf16_is_near_float32(network):
    x = images().to(GPU)
    fast = Accelerated(network.to(GPU), precision="bf16")
    exact = fast.exact(x).double().cpu()
    with torch.no_grad():
        assert 1e-4 < far(fast(x), exact) < 3e-2


def test_a_compiled_network_is_the_same(network):
    x = images().to(GPU)
    slow, fast = (Accelerated(network.to(GPU), compile_it=yes) for yes in (False, True))
    gradients = []
    for one in (slow, fast):
        image = x.clone().requires_grad_()
        gradients.append(torch.autograd.grad(one(image).logsumexp(1).sum(), image)[0])
    with torch.no_grad():
        torch.testing.assert_close(slow(x), fast(x), rtol=1e-3, atol=1e-3)
    # a ReLU that rounding turns over moves a few elements
    assert far(gradients[1], gradients[0].double().cpu()) < 2e-2


def outcomes(data, device: torch.device, gradients: str, attacks: list[str], n: int) -> np.ndarray:
    """Attack images at lambda 0.1 and 1; say which survive, [attack, lambda, image]."""
    model = load(MODEL)
    threat = model.info.threat
    prepared = [prepare(attack_card(name), threat, n_classes=10, seed=0) for name in attacks]
    ids = datasets.nested_order(data.test.labels)[:n]
    subject = Subject(
        model.to(device), data.test.to(device), data.fingerprint(), ids, gradients=gradients
    )
    points = [OperatingPoint(0.1), OperatingPoint(1.0)]
    frame = evaluate(subject, points, prepared, show=False)
    right = (frame["attacked_prediction"] == frame["label"]).to_numpy()
    return right.reshape(len(points), len(attacks), n).swapaxes(0, 1)


@pytest.mark.parametrize("gradients", ["float32", "bf16"])
def test_images_that_survive_on_a_cpu_survive_here(data, gradients):
    attacks = ["fgsm", "pgd-20"]
    here, there = (outcomes(data, d, gradients, attacks, 500) for d in (GPU, CPU))
    assert (here != there).mean() < 0.01
    assert abs(here.mean() - there.mean()) < 0.005


def test_autoattack_breaks_what_it_breaks_on_a_cpu(data):
    here, there = (outcomes(data, d, "bf16", ["autoattack"], 48) for d in (GPU, CPU))
    # float32 verdicts; searches part where rounding does, and few images are on the edge
    assert (here != there).sum() <= 3


def trainer(device: torch.device, folder=None, *, size: int = 16, **card: object) -> Trainer:
    """A small network on few images; the same on each device."""
    network = ConditionalNetwork(
        NetworkCard(architecture="wrn-10-1"), 10, 3, trained_lambdas=[0, 0.1, 1], seed=0
    )
    torch.manual_seed(0)
    for parameter in network.parameters():
        parameter.data.add_(0.01 * torch.randn(parameter.shape))
    pixels = (255 * images(96, size)).to(torch.uint8).to(device)
    labels = (torch.arange(96) % 10).to(device)
    split = Split(pixels, labels)
    card = TrainingCard(
        **{"epochs": 1, "lr": 0.05, "batch_size": 32, "lambdas": [0, 0.1, 1]} | card
    )
    rows = split.take(torch.arange(0, device=device))
    how = {"room": room(card, device)} if card.memory else {}
    return Trainer(
        ConditionalStep(network.to(device)), card, THREAT, split, rows, folder=folder, **how
    )


@pytest.mark.parametrize("loss", ["one", "both"])
def test_training_is_that_of_a_cpu(loss):
    found = []
    for device in (CPU, GPU):
        run = trainer(device, precision="float32", loss_sampling=loss)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            run.train(show=False)
        found.append((run.progress.history[-1]["loss"], run.step.network.state_dict()))
    (loss_there, there), (loss_here, here) = found
    assert loss_here == pytest.approx(loss_there, rel=1e-3)
    for name, values in there.items():
        torch.testing.assert_close(here[name].cpu(), values, rtol=0.05, atol=2e-3)


def test_a_run_goes_on_where_it_stopped(tmp_path):
    whole = trainer(GPU, tmp_path / "whole", epochs=2).train(show=False)
    first = trainer(GPU, tmp_path / "parts", epochs=2)

    class StoppedError(Exception):
        pass

    def stop(row) -> None:
        raise StoppedError

    first.track = stop
    with pytest.raises(StoppedError):
        first.train(show=False)
    rest = trainer(GPU, tmp_path / "parts", epochs=2).train(show=False)
    assert [row["epoch"] for row in rest.history] == [1, 2]
    # sums on a GPU are not in one order
    assert rest.history[-1]["loss"] == pytest.approx(whole.history[-1]["loss"], rel=0.02)


def test_a_step_stays_within_its_memory():
    run = trainer(GPU, size=128, memory="2GiB", batch_size=96)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run.train(show=False)
    assert run.progress.micro_batch
    peak = torch.cuda.max_memory_allocated()
    # a bound that is kept by a wide margin wastes what was given
    assert 0.2 * 2**30 < peak < 2 * 2**30


def test_the_estimator_predicts_there(data):
    x = data.test.inputs(torch.arange(64)).numpy()
    lam = np.linspace(0, 1, 64, dtype=np.float32)
    here, there = (
        OATClassifier(load(MODEL).to(device)).predict(x, lam=lam) for device in (GPU, CPU)
    )
    np.testing.assert_allclose(here, there, rtol=1e-2, atol=1e-2)


def test_the_command_runs_there(tmp_path):
    words = "run --dataset digits --epochs 1 --attacks fgsm,pgd-7 --lambda 0,1 --n-examples 50"
    command = [sys.executable, "-m", "oat_bench", *words.split(), "--device", "cuda"]
    found = subprocess.run(
        [*command, "--out", str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "on cuda" in found.stderr
    assert (tmp_path / "run" / "table.csv").is_file()
    assert oat_bench.load(tmp_path / "run").info.epochs == 1
