"""PGD adversarial training at fixed lambda (Madry et al., arXiv:1706.06083; OAT paper, Eq. 1)."""

from functools import partial
from typing import Self

from torch import Tensor, nn

from oat_bench.classifier import SAME_LAMBDA, ModelInfo, OperatingPoint, TunableClassifier
from oat_bench.methods.trainable import Family, Member, build_network, load_network, slimmable
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.conditional import ConditionalNetwork
from oat_bench.networks.specialize import specialize, unfold
from oat_bench.progress import note
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep


class PGDAT(Family):
    """A family of dedicated networks, one for each lambda, trained apart (PGD-AT).

    Each is an ordinary network, no FiLM, one batch norm, by (1 - lam) CE(clean) + lam CE(attacked);
    lambda = 0 is not attacked. Above 0, at 1 too, batch norm sees clean and attacked images, as in
    OAT and the authors' code. All start from the same weights: lambda alone tells them apart.
    """

    continuous = False
    one_build = True

    def __init__(self, info: ModelInfo, networks: dict[float, ConditionalNetwork]) -> None:
        self.info = info
        self.networks = {lam: network.eval() for lam, network in networks.items()}
        self.parts = {_name(lam): network for lam, network in networks.items()}

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the ordinary network of the same architecture; of PGD-ATS slimmable."""
        card = slimmable(card) if cls.slims else card
        kept = card.model_dump(include={"architecture", "dropout", "widths", "heads"})
        return NetworkCard(**kept, encoding="scalar", norm="single", film="none")

    @classmethod
    def check_card(cls, network: NetworkCard, training: TrainingCard) -> None:
        if training.objective.loss == "trades" and 1 in training.lambdas:
            raise ValueError(
                'lambda = 1 has no labels with training.objective "trades"; take 1 out of '
                "training.lambdas"
            )

    @classmethod
    def build(cls, info: ModelInfo) -> Self:
        """Build the classifier with fresh weights, drawn by ``info.seed``: the same for each."""
        return cls(info, {lam: build_network(info, [lam]) for lam in info.trained_lambdas})

    @classmethod
    def from_state(cls, info: ModelInfo, state: dict[str, Tensor]) -> Self:
        left, networks = dict(state), {}
        for lam in info.trained_lambdas:
            prefix = f"{_name(lam)}."
            own = {name: left.pop(name) for name in state if name.startswith(prefix)}
            # before anything is built: a header may name any number of lambda
            if not own:
                raise ValueError(f"there are no weights of lambda {lam:g}")
            own = {name.removeprefix(prefix): value for name, value in own.items()}
            networks[lam] = load_network(partial(build_network, info, [lam]), info, own)
        if left:
            raise ValueError(f"weights of no lambda of the description: {min(left)}")
        return cls(info, networks)

    def weights_of(self, model: TunableClassifier) -> dict[str, Tensor]:
        """Return for each network those of the model's own, or of the nearest lambda's."""
        if not isinstance(model, PGDAT):
            return super().weights_of(model)
        found: dict[str, Tensor] = {}
        for lam, network in self.networks.items():
            near = min(model.networks, key=lambda known: abs(known - lam))
            if abs(near - lam) > SAME_LAMBDA:
                note(f"the network of lambda {lam:g} starts from that of lambda {near:g}")
            # lambda itself is in a buffer, which has no part in what the network computes
            own = network.encoding.state_dict(prefix="encoding.")
            state = model.networks[near].state_dict() | own
            found |= {f"{_name(lam)}.{name}": value for name, value in state.items()}
        return found

    def members(self) -> list[Member]:
        return [Member(_name(lam), ConditionalStep(n), [lam]) for lam, n in self.networks.items()]

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        point = OperatingPoint(lam, width)
        trained = self.check_lambda(point.lam, self.info.trained_lambdas)
        return specialize(self.networks[trained], trained, point.width)

    def unfolded(self, lam: float, width: float = 1.0) -> nn.Module:
        trained = self.check_lambda(lam, self.info.trained_lambdas)
        return unfold(self.networks[trained], trained, width)


class PGDATS(PGDAT):
    """A family of slimmable networks, one for each lambda, trained apart (PGD-ATS)."""

    slims = True


def _name(lam: float) -> str:
    return f"lambda-{lam!r}"
