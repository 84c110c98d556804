"""Classifiers that are drawn anew for each query: random at inference."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from oat_bench.randomness import uniform

_COIN = 3  #: the stream of the seed by which an example meets its draw; attacks take those below


class Drawn(NamedTuple):
    """Classifiers, images to logits, and the chance of each, [k]."""

    networks: Sequence[nn.Module]
    chances: Tensor

    def answer(self, x: Tensor, ids: Tensor, seed: int) -> Tensor:
        """Return logits of examples, each by one of the classifiers: its id and the seed say which.

        A coin is the same at every operating point, clean as attacked, whatever the batch.
        """
        return self.toss(x, uniform(ids.cpu(), (), seed, stream=_COIN))

    def toss(self, x: Tensor, coins: Tensor) -> Tensor:
        """Return logits of images, each by the classifier on which its coin, in [0, 1), falls."""
        if len(self.networks) == 1:
            return self.networks[0](x)  # type: ignore[no-any-return]
        edges = self.chances.cpu().double().cumsum(0)[:-1]
        place = torch.searchsorted(edges, coins.double(), right=True).to(x.device)
        groups = [(place == number).nonzero()[:, 0] for number in range(len(self.networks))]
        met = [(net, own) for net, own in zip(self.networks, groups, strict=True) if len(own)]
        logits = torch.cat([network(x[own]) for network, own in met or [(self.networks[0], place)]])
        return torch.empty_like(logits).index_copy(0, torch.cat(groups), logits)


class RandomNetwork(nn.Module):
    """A classifier that is drawn anew for each query.

    Called, it draws by torch's generator: attacks of other libraries average over calls. What must
    be repeatable takes `draws` by a seed.
    """

    @abstractmethod
    def draws(self, count: int, seed: int) -> Drawn:
        """Return all that it may be, or ``count`` draws by a seed, all alike likely.

        Each is a plain classifier in eval mode.
        """

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, C, H, W] to logits [n, num_classes], drawn for this call."""
        return self.draws(1, int(torch.randint(2**62, ()))).toss(x, torch.rand(len(x)))


DRAWS = 16  #: that an evaluation looks at, where there are not only a few


def steady(network: nn.Module, seed: int = 0) -> nn.Module:
    """Return what answers alike each time: the network, or the mean of a random one's draws."""
    return (
        Expectation(*network.draws(DRAWS, seed)) if isinstance(network, RandomNetwork) else network
    )


class Expectation(nn.Module):
    """The mean of draws' probabilities, as logits: deterministic, to be looked at."""

    chances: Tensor

    def __init__(self, networks: Sequence[nn.Module], chances: Tensor) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.register_buffer("chances", chances)

    def forward(self, x: Tensor) -> Tensor:
        """Map images to log probabilities [n, num_classes]."""
        logs = torch.stack([network(x).log_softmax(1) for network in self.networks])
        return torch.logsumexp(logs + self.chances.log().to(logs)[:, None, None], dim=0)
