"""Networks whose every number matters: nothing left at the identity, realistic statistics."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from oat_bench.networks import ConditionalNetwork, PlainNorm, build_backbone

torch.set_num_threads(1)


def make_network(
    architecture: str = "wrn-10-1",
    *,
    num_classes: int = 4,
    in_channels: int = 1,
    trained: tuple[float, ...] = (0.0, 0.1, 0.5, 1.0),
    size: int = 8,
    seed: int = 0,
    **options: object,
) -> ConditionalNetwork:
    """Build a network in eval mode, every parameter drawn, statistics taken from passes of data."""
    network = ConditionalNetwork(
        architecture,
        num_classes=num_classes,
        in_channels=in_channels,
        trained_lambdas=list(trained),
        seed=seed,
        **{"encoding_dim": 8, **options},
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
            network(images, lam)
        for norm in norms:
            norm.momentum = 0.1
    return network.eval()


def make_plain(architecture: str, num_classes: int, in_channels: int, dropout: float = 0.0):
    """Build a backbone that has no condition."""
    return build_backbone(
        architecture, num_classes, in_channels, lambda channels, film: PlainNorm(channels), dropout
    )


@pytest.fixture(scope="session")
def perturbed() -> Callable[..., ConditionalNetwork]:
    return make_network


@pytest.fixture(scope="session")
def plain() -> Callable[..., nn.Module]:
    return make_plain
