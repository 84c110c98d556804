"""MixedNUTS: two classifiers mixed, the robust one's logits transformed (arXiv:2402.02263)."""

from itertools import product
from typing import Annotated, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from oat_bench.cards import Fraction, Positive
from oat_bench.classifier import OperatingPoint
from oat_bench.datasets import Dataset, nested_order
from oat_bench.errors import UserError
from oat_bench.methods.mixing import log_mixture
from oat_bench.methods.parts import Ends, TwoEnds
from oat_bench.progress import note
from oat_bench.training.pgd import pgd

#: of logits the layer norm sees the largest, as in the authors' code
_TOP = 250
#: values of s, p and c that the fit tries, the authors' for CIFAR-10
_GRID = (np.geomspace(0.05, 5, 8), np.linspace(1, 4, 8), np.linspace(-1.1, 0, 8))
_STEPS, _BATCH = 20, 250

#: where gradients are asked for: the standard one's share at least, as the transformed one is close
#: to certain, and what the robust one's normalised logits are multiplied by
_LEAST, _SHARP = 0.05, 3.0
_AHEAD = 1e-3  #: by which the predicted logit leads where gradients are asked for


class NutsOptions(Ends):
    """The ends, and the three numbers or how they are fitted."""

    s: Positive | None = Field(default=None, description="scale; fitted if absent")
    p: Annotated[Fraction, Field(ge=1)] | None = Field(default=None, description="power; likewise")
    c: Fraction | None = Field(default=None, description="added before the GELU; likewise")
    beta: Annotated[Fraction, Field(gt=0, lt=1)] = Field(
        default=0.985, description="share of the robust one's robust accuracy that the fit keeps"
    )
    images: Annotated[int, Field(ge=1)] = Field(
        default=1000, description="of the validation split, for the fit; all if it has fewer"
    )

    @model_validator(mode="after")
    def _all_three_or_none(self) -> Self:
        if len({number is None for number in (self.s, self.p, self.c)}) > 1:
            raise ValueError("some of s, p and c are given; expected all three, or none to fit")
        return self


def transformed(logits: Tensor, s: Tensor, p: Tensor, c: Tensor) -> Tensor:
    """Return s sign(g) abs(g)^p with g = GELU(layer norm(logits) + c), logits [n, num_classes]."""
    g = F.gelu(normalized(logits) + c)
    return s * g.sign() * g.abs() ** p


def normalized(logits: Tensor) -> Tensor:
    """Bring the mean of each row of logits to 0 and its variance to 1."""
    top = logits if logits.shape[1] <= _TOP else logits.topk(_TOP, dim=1).values
    variance, mean = torch.var_mean(top, dim=1, keepdim=True)
    return (logits - mean) / (variance + 1e-8).sqrt()


class NonlinearMixture(nn.Module):
    """log((1 - share) onehot(standard(x)) + share softmax(transformed(robust(x)))).

    A prediction of the standard classifier counts as certain, one of the robust classifier the more
    the surer it is; at share 0 it is log softmax(standard(x)). Neither has a gradient to speak of,
    and attacks that follow it get nowhere. So where a gradient with respect to the images is asked
    for, the logits are those of a mixture that goes past the transformation, as in the authors'
    adaptive attack: of softmax(standard(x)) and softmax(3 layer norm(robust(x))), which attacks get
    further with than with their softmax(robust(x)). What this module predicts is put ahead there,
    so that it predicts the same with gradients and without.
    """

    share: Tensor
    s: Tensor
    p: Tensor
    c: Tensor

    def __init__(
        self, standard: nn.Module, robust: nn.Module, share: float, s: float, p: float, c: float
    ) -> None:
        super().__init__()
        self.standard, self.robust = standard, robust
        for name, value in {"share": share, "s": s, "p": p, "c": c}.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, C, H, W] to log probabilities [n, num_classes], which are logits."""
        share, raw = self.share, self.robust(x)
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        standard = self.standard(x).log_softmax(1)
        sure = transformed(raw, self.s, self.p, self.c).log_softmax(1)
        certain = F.one_hot(standard.argmax(1), standard.shape[1]).to(standard.dtype).log()
        certain = torch.where(share == 0, standard, certain)
        mixed = log_mixture([certain, sure], torch.stack([1 - share, share]))
        if not (x.requires_grad and torch.is_grad_enabled()):
            return mixed
        share = torch.where(share == 1, share, share.clamp_max(1 - _LEAST))
        robust = (_SHARP * normalized(raw)).log_softmax(1)
        smooth = log_mixture([standard, robust], torch.stack([1 - share, share]))
        return _led(smooth, mixed.argmax(1, keepdim=True))


def _led(logits: Tensor, first: Tensor) -> Tensor:
    """Raise the logit ``first`` [n, 1] of each row above the others, if it is not; no gradient."""
    known = logits.detach()
    rival = known.scatter(1, first, -torch.inf).amax(1, keepdim=True)
    behind = rival - known.gather(1, first)
    return logits.scatter_add(1, first, torch.where(behind < 0, 0, behind + _AHEAD))


class MixedNUTS(TwoEnds):
    """Two classifiers mixed, the robust one's logits transformed; lambda is its share.

    Up to lambda = 0.5 the standard classifier decides alone; above, the robust one does wherever
    its transformed probability is that of the standard one's class plus (1 - lambda) / lambda.
    """

    passes = 2
    Options = NutsOptions

    def at(self, lam: float, width: float = 1.0) -> nn.Module:
        """Return the mixture in which the robust classifier has the share ``lam``."""
        point, options = OperatingPoint(lam, width), NutsOptions.model_validate(self.info.options)
        if options.s is None or options.p is None or options.c is None:
            raise UserError(f"{self.info.method}: s, p and c are not fitted; call fit(data)")
        numbers = options.s, options.p, options.c
        mixture = NonlinearMixture(*self.both(point.width), point.lam, *numbers)
        return mixture.to(self.device).eval()

    def fit(self, data: Dataset) -> str:
        """Fit s, p and c on validation images, unless the options give all three (algorithm 1).

        Of the robust classifier: those that let it be least sure of clean images that it gets
        wrong, while it is surer of a share ``beta`` of the attacked images that it gets right.
        """
        options = NutsOptions.model_validate(self.info.options)
        if None not in (options.s, options.p, options.c):
            return "none: not trained; s, p and c as given"
        if not len(held_out := data.validation):
            raise UserError(
                f"{self.info.method}: {data.name} has no validation images; give s, p and c in "
                "[method]"
            )
        split = held_out.take(nested_order(held_out.labels)[: options.images]).to(self.device)
        part, lam = self.ends[1]
        robust, y = part.at(lam, self.info.widths[0]), split.labels
        clean, attacked = [], []
        for ids in torch.split(torch.arange(len(split), device=self.device), _BATCH):
            x, threat = split.inputs(ids), self.info.threat
            x_adv = pgd(
                lambda x: _SHARP * normalized(robust(x)),  # so that no gradient vanishes
                x,
                y[ids],
                eps=threat.eps,
                step_size=threat.step_size,
                norm=threat.norm,
                steps=_STEPS,
                example_ids=ids,
                seed=self.info.seed,
            )
            with torch.no_grad():
                clean.append(robust(x))
                attacked.append(robust(x_adv))
        at_rest, moved = torch.cat(clean), torch.cat(attacked)
        wrong, right = at_rest[at_rest.argmax(1) != y], moved[moved.argmax(1) == y]
        if not (len(wrong) and len(right)):
            raise UserError(
                f"{self.info.method}: of {len(split)} validation images the robust model gets "
                f"{len(wrong)} wrong when clean, {len(right)} right under PGD-{_STEPS}; expected "
                "some of both; give s, p and c in [method]"
            )
        (s, p, c), cutoff = fitted(right.double(), wrong.double(), options.beta)
        found = {"s": s, "p": p, "c": c}
        self.info = self.info.model_copy(update={"options": self.info.options | found})
        how = (
            f"s {s:.3g}, p {p:.3g}, c {c:.3g} fitted on {len(split)} validation images; lambda "
            f"{1 / (1 + cutoff):.6g} keeps {100 * options.beta:g}% of the robust accuracy"
        )
        note(f"{self.info.method}: {how}")
        return f"none: not trained; {how}"


def fitted(right: Tensor, wrong: Tensor, beta: float) -> tuple[tuple[float, float, float], float]:
    """Choose s, p and c for logits of attacked images that are right, and of clean ones, wrong.

    Returns:
        The three, and the margin that a share ``beta`` of ``right`` [n, num_classes] reaches. It is
        reached by the fewest of ``wrong``; of equals the largest margin is the most stable.
    """
    best: tuple[float, float] | None = None
    rows, before = torch.cat([right, wrong]), torch.cat([right, wrong]).argmax(1)
    chosen = (0.0, 0.0, 0.0)
    for s, p, c in product(*_GRID):
        numbers = (rows.new_tensor(number) for number in (s, p, c))
        top = transformed(rows, *numbers).softmax(1).topk(2, dim=1)
        if not torch.equal(top.indices[:, 0], before):  # a GELU may put the order upside down
            continue
        margins = top.values[:, 0] - top.values[:, 1]
        cutoff = float(margins[: len(right)].quantile(1 - beta))
        unsafe = float((margins[len(right) :] >= cutoff).double().mean())
        if best is None or (unsafe, -cutoff) < best:
            best, chosen = (unsafe, -cutoff), (float(s), float(p), float(c))
    assert best is not None  # at c = 0 the largest logit, which is positive, stays the largest
    return chosen, -best[1]
