"""Sampling lambda for a batch (OAT paper, Algorithm 1: "Sample a minibatch of lambda")."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from oat_bench.randomness import uniform
from oat_bench.training.card import TrainingCard

Some = slice | Tensor  #: places in a batch


@dataclass(frozen=True)
class Sample:
    """The lambda of a batch's images, which are sorted: those of lambda = 0 come first."""

    values: Tensor  #: lambda, shape [k]; not all need occur
    index: Tensor  #: which of the k values each image has, shape [n]
    n_standard: int  #: how many images, from the first, have lambda = 0

    @property
    def lam(self) -> Tensor:
        """Each image's lambda, shape [n]."""
        return self.values[self.index]

    @property
    def attacked(self) -> "Sample":
        """The images of lambda > 0 alone."""
        return self.above(slice(self.n_standard, None))

    def above(self, some: Some) -> "Sample":
        """Return some of the images of lambda > 0."""
        return replace(self, index=self.index[some], n_standard=0)

    def at(self, place: slice) -> "Sample":
        """Return the images at places, in their order."""
        n_standard = len(range(self.n_standard)[place])
        return replace(self, index=self.index[place], n_standard=n_standard)

    def then(self, other: "Sample") -> "Sample":
        """Let images of lambda > 0, with the same values, follow."""
        return replace(self, index=torch.cat([self.index, other.index]))


@dataclass(frozen=True)
class Losses:
    """Which images of a batch are trained on clean, which attacked, and what each loss weighs."""

    clean: Some  #: includes all of lambda = 0
    attacked: Some  #: of lambda > 0
    clean_weight: Tensor  #: of L_c of each clean image
    attacked_weight: Tensor  #: of L_a of each attacked image


def both_losses(sample: Sample) -> Losses:
    """Give every image (1 - lam) L_c + lam L_a (OAT paper, Eq. 3)."""
    lam, attacked = sample.lam, slice(sample.n_standard, None)
    return Losses(slice(None), attacked, 1 - lam, lam[attacked])


def one_loss(
    sample: Sample, draws: Tensor, *, keep_clean: bool = False, share: slice = slice(None)
) -> Losses:
    """Give each image L_a with probability lam, else L_c: on average (1 - lam) L_c + lam L_a.

    Systematic sampling over the images in the order of lambda, those of one value in a random
    order: of each value as many are attacked as their lambda add up to, to within one. ``draws``
    are n + 1 numbers in [0, 1), of the images and of where the sampling starts. ``keep_clean``:
    attacked images are passed clean as well, for an L_a that looks at both. Places in what is
    returned are those in the ``share`` of the images that is asked for.
    """
    shuffled = draws[:-1].argsort()
    order = shuffled[sample.lam[shuffled].argsort(stable=True)]
    lam = sample.lam[order].double()
    ends = lam.cumsum(0) + draws[-1]
    # nothing is left to rounding at lambda = 1
    hit = (ends.floor() > (ends - lam).floor()) | (lam == 1)
    chosen = torch.zeros_like(hit).scatter(0, order, hit)[share]
    attacked, kept = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
    clean: Some = slice(None) if keep_clean else kept
    return Losses(clean, attacked, (~chosen)[clean].float(), torch.ones_like(attacked).float())


def describe_lambdas(card: TrainingCard) -> str:
    """Say in words what lambda is drawn from."""
    of = "batches" if card.sampling == "per-batch" else "images"
    zero = f"0 ({standard_share(card):.2g} of the {of})"
    if card.lambda_sampling == "uniform":
        return f"lambda {zero} and uniform on (0, 1]"
    values = [f"{lam:g}" for lam in card.lambdas]
    if card.standard_share is not None:
        values[0] = zero
    return f"lambda {', '.join(values)}"


def standard_share(card: TrainingCard) -> float:
    """Return the share of lambda = 0: the card's, else that of one value among its list's."""
    if card.lambdas[0] != 0:
        return 0.0
    return 1 / len(card.lambdas) if card.standard_share is None else card.standard_share


def count_standard(card: TrainingCard, n: int) -> int:
    """Return how many images of a step of n have lambda = 0, where each image draws its own."""
    # not ceil(6.000000001), where the product is 6
    return min(n, math.ceil(n * standard_share(card) - 1e-9))


def attack_steps(card: TrainingCard, done: float) -> int:
    """Return the steps of the attack when a share of the training is done."""
    first, last = card.attack_steps_start or card.attack_steps, card.attack_steps
    return min(last, first + int(done * (last + 1 - first)))


def passes(card: TrainingCard) -> float:
    """Return what an epoch costs an image, by cross-entropy, in passes; the mean over training.

    A forward pass counts 1, the gradient of an image 1, that of image and weights 2.
    """
    above = [lam for lam in card.lambdas if lam > 0]
    attacked = 1 - standard_share(card)
    trained = 3 + 3 * attacked
    if card.loss_sampling == "one":
        mean = 0.5 if card.lambda_sampling == "uniform" else sum(above) / max(1, len(above))
        trained, attacked = 3.0, attacked * mean
    # each number of steps from the first to the last has the same share of the training
    steps = (attack_steps(card, 0.0) + card.attack_steps) / 2
    return trained + 2 * steps * attacked


def sample_lambda(card: TrainingCard, ids: Tensor, seed: int, stream: int) -> Sample:
    """Draw lambda for each image of a batch, or once for all of it (``card.sampling``).

    lambda = 0 has a share of its own, from which alone BN_c learns; the rest is uniform on the
    list's other values, or on (0, 1] (``card.lambda_sampling``). Per image it has that share of
    each batch, rounded up (as in the authors' code), so that all have the same shapes. The ids,
    shape [n] in random order, own the draws, and say the device; the stream separates steps.
    """
    n, share, continuous = len(ids), standard_share(card), card.lambda_sampling == "uniform"
    where = ids.device
    if card.sampling == "per-batch":
        place, draw = uniform(torch.zeros(1), (2,), seed, stream)[0].tolist()
        one = torch.zeros(n, dtype=torch.long, device=where)
        if place < share:
            return Sample(torch.zeros(1, device=where), one, n)
        if continuous:
            return Sample(torch.tensor([1 - draw], device=where), one, 0)
        others = [lam for lam in card.lambdas if lam > 0]
        chosen = int((place - share) / (1 - share) * len(others))
        return Sample(torch.tensor([others[min(chosen, len(others) - 1)]], device=where), one, 0)
    n_standard = count_standard(card, n)
    draws = uniform(ids[n_standard:], (), seed, stream)
    first = torch.zeros(n_standard, dtype=torch.long, device=where)
    if continuous:
        values = torch.cat([torch.zeros(1, device=where), 1 - draws])  # draws lie in [0, 1)
        return Sample(
            values, torch.cat([first, torch.arange(1, len(values), device=where)]), n_standard
        )
    values = torch.tensor(card.lambdas, device=where)
    zeros = int(card.lambdas[0] == 0)
    above = zeros + (draws * (len(values) - zeros)).long()
    return Sample(values, torch.cat([first, above]), n_standard)
