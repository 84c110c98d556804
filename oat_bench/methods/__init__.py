"""Methods: one file for each kind of tunable classifier."""

from oat_bench.methods.oat import OAT, OATSingleBN
from oat_bench.methods.oats import OATS, OATSSingleBN
from oat_bench.methods.pgd_at import PGDAT
from oat_bench.methods.pgd_ats import PGDATS
from oat_bench.methods.trainable import TrainableClassifier

#: by the name that cards and checkpoints have for them
METHODS: dict[str, type[TrainableClassifier]] = {
    "oat": OAT,
    "oat-single-bn": OATSingleBN,
    "oats": OATS,
    "oats-single-bn": OATSSingleBN,
    "pgd-at": PGDAT,
    "pgd-ats": PGDATS,
}

__all__ = [
    "METHODS",
    "OAT",
    "OATS",
    "PGDAT",
    "PGDATS",
    "OATSSingleBN",
    "OATSingleBN",
    "TrainableClassifier",
]
