"""Once-for-all adversarial training and slimming (OAT paper, section 3.3)."""

from oat_bench.cards import NetworkCard
from oat_bench.classifier import ModelInfo
from oat_bench.methods.oat import OAT
from oat_bench.networks import ConditionalNetwork

#: the paper's; a width of .25, it says, is too small for a robust accuracy worth the name
WIDTHS = [1.0, 0.75, 0.5]


class OATS(OAT):
    """One network conditioned on lambda that can be run at several widths (OATS).

    Each width has dual batch norms of its own; convolutions, FiLM and the classification head are
    shared. SOLAR's variant has a head for each width: ``heads = "per-width"`` in the card.
    """

    slims = True

    def __init__(self, info: ModelInfo, network: ConditionalNetwork) -> None:
        if len(info.widths) < 2:
            raise ValueError(f"widths are {info.widths}; expected several, such as {WIDTHS}")
        super().__init__(info, network)

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the network with the paper's widths where the card has only one."""
        return card if len(card.widths) > 1 else card.model_copy(update={"widths": WIDTHS})
