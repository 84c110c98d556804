"""SOLAR: a classification head for each width (Tareen et al., WACV 2026, arXiv:2509.16833)."""

from oat_bench.methods.oat import OATS
from oat_bench.networks.card import NetworkCard


class SOLAR(OATS):
    """OATS with a classification head of its own for each width.

    Trained as OATS is: the mean over widths is minimised, of which the authors' code takes the sum.
    """

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        return super().network_card(card).model_copy(update={"heads": "per-width"})
