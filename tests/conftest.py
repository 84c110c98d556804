"""Networks whose every number matters: nothing left at the identity, realistic statistics."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from reporting import evaluate_and_report
from torch import nn

from oat_bench import cli, datasets, run
from oat_bench.benchmark import BenchmarkCard, benchmark_card
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.datasets import Dataset
from oat_bench.methods.oat import OAT
from oat_bench.networks.backbones import Layers, build_backbone
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork

torch.set_num_threads(1)

# The same verdict twice for the same code; `make explore` draws new examples.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=1000, deadline=None)
settings.load_profile("repeatable")


def make_network(
    architecture: str = "wrn-10-1",
    *,
    num_classes: int = 4,
    in_channels: int = 1,
    trained: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0),
    size: int = 8,
    seed: int = 0,
    lambda_sampling: str = "list",
    **options: object,
) -> ConditionalNetwork:
    """Build a network in eval mode, every parameter drawn, statistics taken from passes of data."""
    card = NetworkCard(**{"architecture": architecture, "encoding_dim": 8, **options})
    network = ConditionalNetwork(
        card, num_classes, in_channels, list(trained), lambda_sampling, seed
    )
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".bn_" in name and name.endswith("weight"):
                parameter.uniform_(0.6, 1.4, generator=draw)
            elif ".bn_" in name:
                parameter.normal_(0, 0.2, generator=draw)
            elif ".film." in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw))
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        network.train()
        for shift, lam in ((0.0, 0.0), (0.3, 0.5)):
            images = 0.7 * torch.rand((8, in_channels, size, size), generator=draw) + shift
            for width in network.widths:
                network(images, lam, width)
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()


class PlainNorm(nn.BatchNorm2d):
    """Batch norm of a network that has no condition."""

    def forward(self, h: torch.Tensor, condition: None = None) -> torch.Tensor:
        return super().forward(h)


def make_plain(
    architecture: str, num_classes: int, in_channels: int, dropout: float = 0.0, width: float = 1.0
):
    """Build a backbone that has no condition."""
    layers = Layers(lambda channels, _: PlainNorm(channels), dropout=dropout)
    return build_backbone(architecture, num_classes, in_channels, layers, width)


@pytest.fixture(scope="session")
def perturbed() -> Callable[..., ConditionalNetwork]:
    return make_network


@pytest.fixture(scope="session")
def plain() -> Callable[..., nn.Module]:
    return make_plain


def make_classifier(
    *,
    dataset: str = "digits",
    input_shape: tuple[int, int, int] = (1, 8, 8),
    num_classes: int = 10,
    seed: int = 0,
) -> OAT:
    """Build a small OAT classifier around `make_network`'s network."""
    trained = [0.0, 0.1, 0.5, 1.0]
    info = ModelInfo(
        method="oat",
        dataset=dataset,
        classes=[str(label) for label in range(num_classes)],
        input_shape=input_shape,
        network=NetworkCard(architecture="wrn-10-1", encoding_dim=8),
        trained_lambdas=trained,
        interpolation="linear-codes",
        threat=Threat(eps=0.2, step_size=0.05),
        seed=seed,
        epochs=1,
        selection="last: epoch 1",
    )
    network = make_network(
        num_classes=num_classes,
        in_channels=input_shape[0],
        size=input_shape[1],
        trained=tuple(trained),
        seed=seed,
    )
    return OAT(info, network)


@pytest.fixture(scope="session")
def build_classifier() -> Callable[..., OAT]:
    return make_classifier


#: a benchmark of seconds whose classifier is right and robust more often than not
BRIEF = """
dataset = "digits"
[network]
architecture = "wrn-10-1"
encoding_dim = 8
[threat]
eps = 0.2
step_size = 0.05
[training]
epochs = 4
batch_size = 64
lr = 0.1
attack_steps = 2
lambdas = [0, 0.5, 1]
[evaluation]
lambdas = [0, 0.2, 1]
attacks = "fgsm,pgd-7"
n_examples = 50
"""


@pytest.fixture(scope="session")
def brief_toml() -> str:
    return BRIEF


@pytest.fixture(scope="session")
def brief(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkCard:
    path = tmp_path_factory.mktemp("cards") / "brief.toml"
    path.write_text(BRIEF)
    return benchmark_card(str(path))


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return datasets.load("digits")


@pytest.fixture(scope="session")
def trained_folder(
    brief: BenchmarkCard, digits: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a training run that is finished; not to be written to."""
    folder = tmp_path_factory.mktemp("trained")
    run.train(brief, digits, folder, seed=0, device=torch.device("cpu"))
    return folder


@pytest.fixture
def trained(trained_folder: Path) -> TunableClassifier:
    return load(trained_folder)


#: text that would do harm if any page took it for more than text
HOSTILE = (
    "<b>bold</b></script><script>pwned=1</script><img src=x onerror=pwned=1>\"'`{{7*7}}&lt;b&gt;"
    "evil <!-- " + "very-long-name" * 7
)
#: and more of it, which names may not hold
HOSTILE_TEXT = f"\u202e{HOSTILE}\u2028\x1b[31m" + "very-long-name" * 20


def write_leaderboards(folder: Path) -> Path:
    """Write leaderboards of four entries: with checkpoint, with widths, hostile, unreliable."""
    shipped = Path(__file__).parents[1] / "leaderboards" / "digits" / "Linf"
    place = folder / "digits" / "Linf"
    place.mkdir(parents=True)
    for file in shipped.glob("oat*"):
        shutil.copy(file, place)
    # its copies come without its report of integrity
    entry = json.loads((shipped / "oat-wrn-10-1.json").read_text()) | {"integrity": None}
    cost = {"attacks": ["fgsm", "mi-fgsm"], "n": 100, "forward": 1250, "backward": 1000}
    cost |= {"seconds": 300.5, "machine": "a machine"}

    def costed(**changes: str) -> dict[str, object]:
        costs = {"attack_costs": [cost | changes]}
        return {"operating_points": [point | costs for point in entry["operating_points"]]}

    strange = costed(machine=HOSTILE_TEXT) | {
        "name": HOSTILE,
        "authors": HOSTILE_TEXT,
        "venue": HOSTILE_TEXT,
        "link": "javascript:pwned=1",
        "architecture": HOSTILE,
        "method": HOSTILE,
        "footnote": HOSTILE_TEXT,
        "flags": [
            {"name": HOSTILE_TEXT, "attack": HOSTILE_TEXT, "text": HOSTILE_TEXT}
            | {"points": [{"lam": 1.0, "width": 1.0}]}
        ],
        "command": HOSTILE_TEXT,
        "selection": HOSTILE_TEXT,
        "versions": {HOSTILE_TEXT: HOSTILE_TEXT},
        "frontiers": None,
    }
    (place / "z<b>&'\u202e.json").write_text(json.dumps(entry | strange))
    unreliable = {"name": "Masked", "method": "masked", "unreliable": True} | costed()
    (place / "masked.json").write_text(json.dumps(entry | unreliable))
    (folder / "other").mkdir()
    other = entry | {"dataset": HOSTILE, "name": "Other", "eps": "8/255", "frontiers": None}
    (folder / "other" / "other.json").write_text(json.dumps(other))
    return folder


@pytest.fixture(scope="session")
def hostile() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def leaderboards_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Entries of digits; not to be written to."""
    return write_leaderboards(tmp_path_factory.mktemp("leaderboards"))


@pytest.fixture(scope="session")
def site_folder(leaderboards_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of `leaderboards_folder`; not to be written to."""
    from oat_bench.leaderboards import site

    out = tmp_path_factory.mktemp("site")
    site.build(leaderboards_folder, out)
    return out


@pytest.fixture(scope="session")
def reported_folder(brief, digits, trained_folder, tmp_path_factory) -> Path:
    """The folder of a run with a report on all test images; not to be written to."""
    folder = tmp_path_factory.mktemp("baseline") / "run"
    shutil.copytree(trained_folder, folder)
    changes = {"attacks": "pgd-7", "n_examples": 800}
    evaluation = brief.evaluation.model_copy(update=changes)
    card = brief.model_copy(update={"evaluation": evaluation})
    attacks = run.prepare_attacks(card, 10, 0)
    device = torch.device("cpu")
    evaluate_and_report(
        load(folder), card, digits, attacks, folder, command="oat-bench run", device=device
    )
    return folder


@pytest.fixture
def invoke(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)

    def leave(code):
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)

    def invoke(*arguments):
        monkeypatch.setattr(sys, "argv", ["oat-bench", *map(str, arguments)])
        capsys.readouterr()
        handler = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(SystemExit) as stop:
                cli.main()
        finally:
            signal.signal(signal.SIGINT, handler)
        return stop.value.code or 0, *capsys.readouterr()

    return invoke


@pytest.fixture
def finished(tmp_path: Path, trained_folder: Path) -> Path:
    """A folder in which training is finished."""
    shutil.copytree(trained_folder, tmp_path / "out")
    return tmp_path / "out"
