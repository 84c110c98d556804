"""Lines whose direction turns with lambda: what is attacked elsewhere has a closed form."""

from collections import Counter
from types import SimpleNamespace

import torch
from torch import nn

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split

EPS = 0.05
LAMBDAS = [0.0, 0.5, 1.0]


class Line(nn.Module):
    def __init__(self, w, flat=False, seen=None):
        super().__init__()
        self.w, self.flat, self.seen = w, flat, Counter() if seen is None else seen

    def forward(self, x):
        self.seen["images"] += len(x)
        score = (x - 0.5).flatten(1) @ self.w
        if self.flat:  # the sign alone: no gradient
            score = torch.sign(score.detach()) + 0.0 * score
        return torch.stack([-score, score], dim=1) / 2


class Turning(TunableClassifier):
    """The family; some of its members give no gradient."""

    def __init__(self, flat=(), turn=2.0):
        self.flat, self.turn = flat, turn
        self.info = SimpleNamespace(dataset="dots", method="lines", architecture="line")
        self.built, self.seen = 0, Counter()

    def weights(self, lam):
        return torch.cos(torch.arange(9.0) + self.turn * lam)

    def at(self, lam, width=1.0):
        OperatingPoint(lam, width)
        self.built += 1
        return Line(self.weights(lam), lam in self.flat, self.seen).eval()

    def state_dict(self):
        return {}

    @classmethod
    def from_state(cls, info, state):
        raise NotImplementedError

    def to(self, device):
        return self

    def fingerprint(self):
        return f"turning {self.flat} {self.turn}"


def make_data(n=80):
    draw = torch.Generator().manual_seed(0)
    # far enough from 0 and 1 that the box never binds
    images = torch.randint(90, 166, (n, 1, 3, 3), generator=draw).to(torch.uint8)
    return Split(images, torch.randint(0, 2, (n,), generator=draw))


def ready(name="fgsm", seed=0, **changes):
    card = attack_card(name)
    card = card.model_copy(update={"parameters": card.parameters | changes})
    return prepare(card, Threat(eps=EPS, step_size=EPS), n_classes=2, seed=seed)
