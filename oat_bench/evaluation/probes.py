"""Checks of a network's logits, gradients and loss; AutoAttack (arXiv:2003.01690) warns of most."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from scipy.stats import binomtest
from torch import Tensor, nn

from oat_bench.attacks.engines import Attack
from oat_bench.evaluation.integrity import LEVEL, NEGLIGIBLE, above, checked
from oat_bench.evaluation.subject import AtPoint
from oat_bench.results.checks import Check, Verdict
from oat_bench.training.pgd import Loss, cross_entropy, pgd

RAISED = 0.9  # the share of examples whose loss PGD is expected to raise, at least
ROUNDING = 1e-4  # what float32 rounding may change logits by, in units of the largest
_NOTHING = "no example is right"  # the evidence of what has no image to look at
_ALONE = 64  # images that are passed one by one


def probe(at: AtPoint, examples: Tensor, attack: Attack) -> list[Check]:
    """Run the checks of a network on some examples, by id; PGD raises the loss."""
    zero, again, rows = outputs(at, examples)
    losses = []
    for index in torch.split(examples.to(at.device), at.batch_size):
        ids = index[at.right(index)]
        x, y = at.data.inputs(ids), at.data.labels[ids]
        losses.append(_losses_along(at.steady, x, y, ids, attack))
    images = at.data.inputs(examples[:_ALONE].to(at.device))
    with torch.no_grad():
        alone = torch.cat([at.steady(image[None]) for image in images])
        together = at.steady(images)
    return [loss(torch.cat(losses, dim=1)), zero, batch(alone, together), again, rows]


def outputs(at: AtPoint, examples: Tensor) -> tuple[Check, Check, Check]:
    """Run the checks that take a few passes: zero gradients, repeat, logits."""
    cross_entropies, margins, rows, again = [], [], [], []
    for index in torch.split(examples.to(at.device), at.batch_size):
        x, y = at.data.inputs(index), at.data.labels[index]
        with torch.no_grad():
            rows.append(at.answers(x, index))
            again.append(at.answers(x, index, at.subject.seed + 1))
        right = rows[-1].argmax(1) == y
        cross_entropies.append(gradient_sizes(at.steady, x[right], y[right], cross_entropy))
        margins.append(gradient_sizes(at.steady, x[right], y[right], margin))
    zero = zero_gradients(torch.cat(cross_entropies), torch.cat(margins))
    first, second = torch.cat(rows), torch.cat(again)
    return zero, repeat(first, second, random=at.drawn is not None), logits(first)


def loss(losses: Tensor) -> Check:
    """PGD raises the loss: cross-entropy before the first step and after each, [steps + 1, n]."""
    n = losses.shape[1]
    if n == 0:
        return checked("loss", "warn", _NOTHING, n=0)
    mean = [float(value) for value in losses.mean(1)]
    raised = int((losses[-1] > losses[0]).sum())
    drops = sum(later < earlier for earlier, later in pairwise(mean))
    p = float(binomtest(raised, n, RAISED, alternative="less").pvalue)
    verdict: Verdict = "pass" if raised >= RAISED * n else "warn"
    if p <= LEVEL or not mean[-1] > mean[0]:  # NaN does not rise either
        verdict = "fail"
    evidence = (
        f"mean cross-entropy from {mean[0]:.3g} to {mean[-1]:.3g} in {len(mean) - 1} steps, "
        f"{drops} of them down; it rises for {raised} of {n} examples"
    )
    return checked("loss", verdict, evidence, mean=mean, raised=raised, n=n, drops=drops, p_value=p)


def zero_gradients(cross_entropy: Tensor, margin: Tensor) -> Check:
    """The loss has a gradient; given is the largest entry of each example's, shape [n]."""
    n = len(cross_entropy)
    if n == 0:
        return checked("zero gradients", "warn", _NOTHING, n=0)
    tiny = torch.finfo(torch.float32).tiny  # below the smallest normal number is none
    none, flat = (~(sizes >= tiny) for sizes in (cross_entropy, margin))  # NaN is none
    zero, both = int(none.sum()), int((none & flat).sum())
    p = above(NEGLIGIBLE, zero, n)
    evidence = f"cross-entropy has none at {zero} of {n} right examples"
    if zero:
        why = "the network is flat there" if 2 * both > zero else "the softmax is saturated"
        evidence += f", the margin has none at {both} of these: {why}"
    verdict: Verdict = "fail" if p <= LEVEL else "warn" if zero else "pass"
    numbers = {"zero": zero, "zero_margin_too": both, "n": n, "p_value": p}
    return checked("zero gradients", verdict, evidence, **numbers)


def batch(alone: Tensor, together: Tensor) -> Check:
    """An image gets the same logits, shape [n, num_classes], alone as in a batch."""
    return _compared("batch", alone, together, f"{len(alone)} images alone and in a batch", "", "")


def repeat(first: Tensor, second: Tensor, *, random: bool = False) -> Check:
    """Two passes of the same batch agree, [n, num_classes]; of a declared random model need not."""
    if random:
        changed = int((first.argmax(1) != second.argmax(1)).sum())
        evidence = f"random, as it says: another draw changes {changed} of {len(first)} predictions"
        return checked("repeat", True, evidence, changed=changed, n=len(first))
    remark = "; a random defence: AutoAttack refuses these, attack the expectation over its draws"
    return _compared("repeat", first, second, "two passes", f" of {len(first)}", remark)


def logits(rows: Tensor) -> Check:
    """What comes out, shape [n, num_classes], are finite logits, not probabilities."""
    low, high = float(rows.min()), float(rows.max())
    finite = bool(rows.isfinite().all())
    sums = float((rows.sum(1) - 1).abs().max())
    probabilities = low >= -1e-5 and high <= 1 + 1e-5 and sums <= 1e-5
    evidence = f"from {low:.3g} to {high:.3g}" + "; not all are finite" * (not finite)
    if probabilities:
        evidence += "; each row sums to 1: probabilities, which flatten what attacks climb"
    verdict: Verdict = "fail" if not finite else "warn" if probabilities else "pass"
    return checked("logits", verdict, evidence, low=low, high=high, row_sum_from_1=sums)


def _compared(name: str, first: Tensor, second: Tensor, of: str, among: str, remark: str) -> Check:
    scale = float(first.abs().max()) or 1.0
    difference = float((first - second).abs().max()) / scale
    changed = int((first.argmax(1) != second.argmax(1)).sum())
    same = difference <= ROUNDING and not changed
    evidence = (
        f"logits of {of} differ by {difference:.1g} of the largest; {changed}{among} predictions "
        f"change{'' if same else remark}"
    )
    return checked(name, same, evidence, difference=difference, changed=changed, n=len(first))


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The largest other logit less that of the label, summed over the examples."""
    labelled = F.one_hot(y, logits.shape[1]).bool()
    others = logits.masked_fill(labelled, -torch.inf).amax(1)
    return (others - logits[labelled]).sum()


def gradient_sizes(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> Tensor:
    """Return the largest entry of each image's gradient, shape [n]."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(model(x), y), x)
    return gradient.abs().flatten(1).amax(1)


def _losses_along(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor, attack: Attack) -> Tensor:
    recorded: list[Tensor] = []

    def recording(logits: Tensor, y: Tensor) -> Tensor:
        recorded.append(F.cross_entropy(logits.detach(), y, reduction="none"))
        return cross_entropy(logits, y)

    given = {key: value for key, value in attack.parameters.items() if key != "eot_iter"}
    x_adv = pgd(model, x, y, **given, example_ids=ids, seed=attack.seed, loss=recording)
    with torch.enable_grad():  # as PGD saw it: without gradients logits may be others
        recording(model(x_adv.requires_grad_()), y)
    return torch.stack(recorded)
