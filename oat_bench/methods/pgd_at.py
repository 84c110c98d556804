"""PGD adversarial training at fixed lambda (Madry et al., arXiv:1706.06083; OAT paper, Eq. 1)."""

from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from oat_bench.cards import NetworkCard
from oat_bench.classifier import ModelInfo, OperatingPoint
from oat_bench.methods.trainable import Member, TrainableClassifier, build_network, load_network
from oat_bench.networks import ConditionalNetwork, specialize


class PGDAT(TrainableClassifier):
    """A family of dedicated networks, one for each lambda, trained apart (PGD-AT).

    Each is an ordinary network: no FiLM, one batch norm. Its loss is (1 - lam) CE(clean) + lam
    CE(attacked); lambda = 0 is standard training, without an attack. Above 0 its batch norm sees
    the clean and the attacked images of a batch, at lambda = 1 too, as in OAT and in the authors'
    code; there the clean ones do not enter the loss. All start from the same weights, so that
    lambda alone tells them apart. Of a card's network the architecture and the dropout count.

    Attributes:
        info: what the checkpoint says.
        networks: the networks by lambda, ascending, in eval mode.
    """

    continuous = False

    def __init__(self, info: ModelInfo, networks: dict[float, ConditionalNetwork]) -> None:
        self.info = info
        self.networks = {lam: network.eval() for lam, network in networks.items()}

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the ordinary network of the same architecture."""
        return NetworkCard(
            architecture=card.architecture,
            dropout=card.dropout,
            encoding="scalar",
            norm="single",
            film="none",
            widths=card.widths,
        )

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Build the classifier with fresh weights, drawn by ``info.seed``: the same for each."""
        return cls(info, {lam: build_network(info, [lam]) for lam in info.trained_lambdas})

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        """Build the classifier with stored weights."""
        left, networks = dict(state), {}
        for lam in info.trained_lambdas:
            prefix = f"{_name(lam)}."
            own = {name: left.pop(name) for name in state if name.startswith(prefix)}
            # before anything is built: a header may name any number of lambda
            if not own:
                raise ValueError(f"there are no weights of lambda {lam:g}")
            own = {name.removeprefix(prefix): value for name, value in own.items()}
            networks[lam] = load_network(partial(build_network, info, [lam]), own)
        if left:
            raise ValueError(f"weights of no lambda of the description: {min(left)}")
        return cls(info, networks)

    def members(self) -> list[Member]:
        """Return the networks, each trained at its own lambda."""
        return [Member(_name(lam), network, [lam]) for lam, network in self.networks.items()]

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the network trained at lam, its batch norm folded.

        Raises:
            UserError: if ``lam`` was not trained; the message says which were.
            ValueError: if ``lam`` or ``width`` is out of range.
        """
        point = OperatingPoint(lam, width)
        trained = self.check_lambda(point.lam, self.info.trained_lambdas)
        return specialize(self.networks[trained], trained, point.width)

    def state_dict(self) -> dict[str, Tensor]:
        """Return every network's parameters and buffers, under the name of its lambda."""
        return {
            f"{_name(lam)}.{name}": value
            for lam, network in self.networks.items()
            for name, value in network.state_dict().items()
        }

    def to(self, device: torch.device | str) -> Self:
        """Move the networks to a device."""
        for network in self.networks.values():
            network.to(device)
        return self


def _name(lam: float) -> str:
    return f"lambda-{lam!r}"
