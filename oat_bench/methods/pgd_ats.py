"""PGD adversarial training and slimming, the baseline of the OAT paper's section 4.3."""

from oat_bench.cards import NetworkCard
from oat_bench.methods.oats import slimmable
from oat_bench.methods.pgd_at import PGDAT


class PGDATS(PGDAT):
    """A family of slimmable networks, one for each lambda, trained apart (PGD-ATS).

    Each is trained as in `PGDAT`, at every width in a step, with a batch norm for each width.
    """

    slims = True

    @classmethod
    def network_card(cls, card: NetworkCard) -> NetworkCard:
        """Return the ordinary network of the same architecture, slimmable."""
        wide = slimmable(card)
        changes = {"widths": wide.widths, "heads": wide.heads}
        return super().network_card(card).model_copy(update=changes)
