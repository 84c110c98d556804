"""Once-for-all adversarial training and slimming (OAT paper, section 3.3)."""

from oat_bench.cards import NetworkCard
from oat_bench.classifier import ModelInfo
from oat_bench.methods.oat import OAT
from oat_bench.networks import ConditionalNetwork

#: the paper's; a width of .25, it says, is too small for a robust accuracy worth the name
WIDTHS = [1.0, 0.75, 0.5]


def slimmable(card: NetworkCard) -> NetworkCard:
    """Return a benchmark's network, with the paper's widths where it has only one."""
    return card if len(card.widths) > 1 else card.model_copy(update={"widths": WIDTHS})


class OATS(OAT):
    """One network conditioned on lambda, run at several widths, with dual batch norm (OATS).

    Each width has batch norms of its own; convolutions, FiLM and the classification head are
    shared. SOLAR's variant has a head for each width: ``heads = "per-width"`` in the card.
    """

    slims = True

    def __init__(self, info: ModelInfo, network: ConditionalNetwork) -> None:
        if len(info.widths) < 2:
            raise ValueError(f"widths are {info.widths}; expected several, such as {WIDTHS}")
        super().__init__(info, network)

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the network, slimmable."""
        return slimmable(card)


class OATSSingleBN(OATS):
    """OATS with one batch norm for each width, the ablation of the paper's figure 9."""

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the network, slimmable, with one batch norm for each width."""
        return slimmable(card).model_copy(update={"norm": "single"})
