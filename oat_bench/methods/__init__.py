"""Methods: one file for each kind of tunable classifier."""

from oat_bench.methods.oat import OAT, OATSingleBN
from oat_bench.methods.pgd_at import PGDAT
from oat_bench.methods.trainable import TrainableClassifier

#: by the name that cards and checkpoints have for them
METHODS: dict[str, type[TrainableClassifier]] = {
    "oat": OAT,
    "oat-single-bn": OATSingleBN,
    "pgd-at": PGDAT,
}

__all__ = ["METHODS", "OAT", "PGDAT", "OATSingleBN", "TrainableClassifier"]
