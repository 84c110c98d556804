"""Checks of attacks: closed forms, models made to mask their gradients, honest ones."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from scipy.stats import binom
from torch import nn

from oat_bench import progress
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split, nested_order
from oat_bench.errors import UserError
from oat_bench.evaluation import examination, integrity, probes
from oat_bench.evaluation.integrity import MISSED, NEGLIGIBLE
from oat_bench.evaluation.subject import Subject
from oat_bench.results.checks import LADDER, worst
from oat_bench.results.outcomes import OutcomeStore

EPS = 0.05
THREAT = Threat(eps=EPS, step_size=EPS / 4)
POINT = OperatingPoint(1.0)
#: AutoAttack is left out where nothing depends on it
PGD = ("fgsm", "pgd-7", "pgd-20", "pgd-50-10")
NAMES = [
    *["order", "estimate", "eps sweep", "steps", "noise", "gradient-free"],
    *["loss", "zero gradients", "batch", "repeat", "logits"],
]


class Family(TunableClassifier):
    """One module, whatever lambda."""

    def __init__(self, module, name="family"):
        self.module, self.name = module.eval(), name
        self.info = SimpleNamespace(dataset="dots", method="family", architecture="module")

    def at(self, lam, width=1.0):
        OperatingPoint(lam, width)
        return self.module

    def state_dict(self):
        return {}

    @classmethod
    def from_state(cls, info, state):
        raise NotImplementedError

    def to(self, device):
        return self

    def fingerprint(self):
        return self.name


class Linear(nn.Module):
    """Logits that are linear in the image."""

    def __init__(self, weight, bias=None):
        super().__init__()
        self.weight = weight
        self.bias = torch.zeros(len(weight)) if bias is None else bias

    def forward(self, x):
        return (x - 0.5).flatten(1) @ self.weight.T + self.bias


def linear_problem(n=120, classes=5, size=4, seed=0, away=0.0):
    """A linear model, and images that it has right, all but a few."""
    draw = torch.Generator().manual_seed(seed)
    model = Linear(torch.randn((classes, size * size), generator=draw))
    images = torch.randint(90, 166, (20 * n, 1, size, size), generator=draw).to(torch.uint8)
    rows = model(images.float() / 255)
    two = rows.topk(2).values
    kept = torch.where(two[:, 0] - two[:, 1] > away)[0][:n]
    labels = rows.argmax(1)[kept]
    labels[:3] = (labels[:3] + 1) % classes
    assert len(kept) == n
    return model, Split(images[kept], labels)


def subject_of(module, data, store=None, examples=None, **options):
    return Subject(
        Family(module), data, "data", examples, store=store or OutcomeStore(None), **options
    )


def examine(module, data, *, classes=5, ladder=PGD, threat=THREAT, seed=0, **options):
    """Return the checks by name."""
    suite = examination.make_suite(threat, n_classes=classes, seed=seed, ladder=ladder)
    checks = examination.examine(subject_of(module, data, **options), POINT, suite)
    return {check.name: check for check in checks}


def verdicts(checks, verdict):
    return {name for name, check in checks.items() if check.verdict == verdict}


def series(*broken, n=100):
    """Whether each of n examples stands: all but those given."""
    stands = pd.Series(True, index=range(n))
    stands[list(broken)] = False
    return stands


# --- statistics


@pytest.mark.parametrize(("ours", "theirs"), [(0, 0), (5, 0), (0, 5), (7, 3), (3, 7)])
def test_attacks_are_compared_on_what_only_one_of_them_broke(ours, theirs):
    both = range(20, 40)
    first = series(*range(ours), *both)
    second = series(*range(10, 10 + theirs), *both)
    p = binom.sf(ours - 1, ours + theirs, 0.5)
    assert integrity.breaks_more(first, second) == (ours, theirs, pytest.approx(p))


def test_attacks_are_compared_on_the_examples_that_both_saw():
    first, second = series(*range(50)), series()[60:]
    assert integrity.breaks_more(first, second) == (0, 0, 1.0)
    assert integrity.breaks_more(first[:10], second)[2] == 1.0


def test_the_fewest_examples_that_a_test_can_see():
    fewest = integrity.fewest(10)
    for count, found in ((fewest, True), (fewest - 1, False)):
        # of ten pairs one is out of order, and in the others the stronger breaks all the more
        ladder = {"a": series(*range(count)), "b": series()}
        ladder |= {name: series(*range(99)) for name in "cde"}
        assert bool(integrity.inversions(ladder)) == found


def test_the_worst_verdict():
    assert worst(["pass", "warn", "pass"]) == "warn"
    assert worst(["warn", "fail"]) == "fail"
    assert worst(["pass"]) == "pass"


# --- outcomes, made up


def test_order():
    clean = series(99)
    ladder = {"weak": series(*range(30), 99), "strong": series(*range(40), 99)}
    check = integrity.order(clean, ladder, "no fgsm")
    assert check.verdict == "pass"
    assert check.evidence == "clean 99.0%, weak 69.0%, strong 59.0%; no fgsm"
    swapped = integrity.order(clean, dict(reversed(ladder.items())))
    assert swapped.verdict == "fail"
    assert "strong breaks more than weak (10 examples that the other does not" in swapped.evidence
    # a few examples are chance
    ladder["strong"] = series(*range(6, 30), 99)
    assert integrity.order(clean, ladder).verdict == "pass"


def test_order_is_of_the_examples_in_common():
    ladder = {"weak": series(*range(90)), "strong": series(*range(5))[:5]}
    check = integrity.order(series(), ladder)
    assert check.verdict == "pass"
    assert "strong 0.0% (n 5)" in check.evidence


@pytest.mark.parametrize(
    ("stands", "words"),
    [
        ({0.0: series(99), 0.1: series(*range(50), 99), 0.2: series(*range(100))}, None),
        ({0.0: series(99), 0.2: series(*range(99))}, None),  # one of 100 is negligible
        ({0.0: series(98), 0.2: series(*range(100))}, "2 predictions change at eps 0"),
        ({0.0: series(99), 0.2: series(*range(92))}, "RA does not vanish"),
        (
            {0.0: series(99), 0.1: series(*range(60), 99), 0.2: series(*range(40), 99)}
            | {0.4: series(*range(100))},
            "eps 0.1 breaks more than eps 0.2",
        ),
    ],
)
def test_sweep(stands, words):
    check = integrity.sweep(series(99), stands)
    assert check.verdict == ("pass" if words is None else "fail")
    assert words is None or words in check.evidence
    assert check.numbers["eps"] == list(stands)


def test_steps_doubled():
    once = series(*range(50))
    assert integrity.steps("pgd", once, once).verdict == "pass"
    assert integrity.steps("pgd", once, series(*range(53))).verdict == "pass"
    check = integrity.steps("pgd", once, series(*range(70)))
    assert check.verdict == "warn"
    assert "falls by 20.0 points" in check.evidence
    assert "use more steps" in check.evidence


def test_noise_may_not_break_more_than_gradients():
    few, many = series(*range(5)), series(*range(5, 40))
    assert integrity.noise("pgd", few, many).verdict == "pass"
    check = integrity.noise("pgd", many, few)
    assert check.verdict == "fail"
    assert "noise alone breaks 35, pgd alone 5; the gradients are masked" in check.evidence


@pytest.mark.parametrize(
    ("free", "gradient", "verdict"),
    [
        (range(20), range(40), "pass"),
        (range(1, 40), range(39), "pass"),
        (range(4, 40), range(36), "warn"),  # four others, and four missed
        (range(15, 55), range(40), "fail"),  # as many, but fifteen others
        (range(10), [], "fail"),  # more
    ],
)
def test_an_attack_without_gradients(free, gradient, verdict):
    check = integrity.gradient_free("Square", "9 queries", series(*free), series(*gradient))
    assert check.verdict == verdict
    ours, theirs = set(free) - set(gradient), set(gradient) - set(free)
    assert check.evidence.startswith(
        f"of 100 examples Square alone breaks {len(ours)}, gradients alone {len(theirs)} (Square: 9"
    )
    assert ("masked" in check.evidence) == (verdict == "fail")


def test_more_than_gradients_is_masking_however_small_the_share():
    n = 2000
    check = integrity.gradient_free("Square", "9 queries", series(*range(10), n=n), series(n=n))
    assert MISSED * n > 10
    assert check.verdict == "fail"


# --- the network, made up


def test_loss():
    up = torch.linspace(0, 1, 6)[:, None].repeat(1, 50)
    check = probes.loss(up)
    assert check.verdict == "pass"
    assert check.numbers["mean"] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert (check.numbers["raised"], check.numbers["drops"]) == (50, 0)
    zigzag = up.clone()
    zigzag[2] = 0
    assert probes.loss(zigzag).numbers["drops"] == 1
    assert probes.loss(torch.zeros(6, 50)).verdict == "fail"
    assert probes.loss(up.flip(0)).verdict == "fail"
    assert probes.loss(up * torch.nan).verdict == "fail"
    some = torch.cat([up[:, :43], torch.zeros(6, 7)], dim=1)
    assert probes.loss(some).verdict == "warn"
    assert probes.loss(torch.cat([up[:, :25], torch.zeros(6, 25)], dim=1)).verdict == "fail"
    assert probes.loss(torch.zeros(6, 0)).evidence == "no example is right"


def test_zero_gradients():
    fine = torch.ones(100)
    assert probes.zero_gradients(fine, fine).verdict == "pass"
    assert probes.zero_gradients(fine * 1e-30, fine).verdict == "pass"
    one = torch.cat([fine[:99], torch.zeros(1)])
    check = probes.zero_gradients(one, fine)
    assert check.verdict == "warn"
    assert "the softmax is saturated" in check.evidence
    denormal = fine * 1e-40
    assert denormal[0] > 0
    assert probes.zero_gradients(denormal, fine).verdict == "fail"
    flat = probes.zero_gradients(fine * 0, fine * 0)
    assert flat.verdict == "fail"
    assert "the network is flat there" in flat.evidence
    assert probes.zero_gradients(fine * torch.nan, fine).verdict == "fail"
    assert probes.zero_gradients(fine[:0], fine[:0]).verdict == "warn"


def test_logits_are_compared_in_their_own_units():
    rows = torch.tensor([[3.0, -2.0], [1.0, 2.0]])
    for scale in (1e-3, 1.0, 1e5):
        assert probes.batch(scale * rows, scale * (rows + 1e-5)).verdict == "pass"
        assert probes.batch(scale * rows, scale * (rows + 1e-3)).verdict == "fail"
        assert probes.repeat(scale * rows, scale * (rows + 1e-3)).verdict == "fail"
    close = torch.tensor([[1.0, 1.0 + 1e-6]])
    changed = probes.repeat(close, close.flip(1))
    assert changed.verdict == "fail"
    assert changed.numbers["changed"] == 1
    assert "a random defence: AutoAttack refuses these" in changed.evidence
    assert probes.batch(rows * torch.nan, rows).verdict == "fail"
    assert probes.batch(rows * 0, rows * 0).verdict == "pass"


def test_probabilities_are_not_logits():
    rows = torch.randn((20, 4), generator=torch.Generator().manual_seed(0))
    assert probes.logits(rows).verdict == "pass"
    assert probes.logits(rows.softmax(1)).verdict == "warn"
    assert probes.logits(rows.sigmoid()).verdict == "pass"
    assert probes.logits(rows / 0).verdict == "fail"


def test_the_margin_is_the_largest_other_logit_less_the_labels():
    logits = torch.tensor([[1.0, 4.0, 2.0], [5.0, 0.0, -1.0]])
    assert probes.margin(logits, torch.tensor([1, 2])).item() == (2 - 4) + (5 + 1)


# --- closed forms


def test_a_line_in_closed_form():
    """Of two classes everything is known: which are broken at every eps, how the loss rises."""
    draw = torch.Generator().manual_seed(1)
    w = torch.linspace(-2, 2, 9)
    model = Linear(torch.stack([-w, w]) / 2)
    images = torch.randint(90, 166, (80, 1, 3, 3), generator=draw).to(torch.uint8)
    score = ((images / 255 - 0.5).flatten(1) @ w).double()
    data = Split(images, (score > 0).long())
    checks = examine(model, data, classes=2, ladder=LADDER)
    assert verdicts(checks, "pass") == set(NAMES)
    swept = checks["eps sweep"].numbers
    inside = [eps for eps in swept["eps"] if eps <= 0.3]  # the box does not bind
    assert len(inside) >= 5
    for eps, ra in zip(swept["eps"], swept["ra"], strict=True):
        if eps in inside:
            reach = eps * float(w.abs().sum())
            assert ra == pytest.approx(100 * float((score.abs() > reach).double().mean()))
    assert swept["ra"][-1] <= 100 * NEGLIGIBLE
    # the loss at the corner of the ball, where PGD ends
    reach = EPS * w.abs().sum()
    expected = torch.log1p(torch.exp(-(score.abs() - reach))).mean()
    mean = checks["loss"].numbers["mean"]
    assert mean[-1] == pytest.approx(float(expected), rel=1e-4)
    assert mean[0] < mean[-1]
    assert checks["loss"].numbers["drops"] == 0
    # APGD-T's loss needs more classes
    assert "autoattack is apgd-ce+fab-t+square" in checks["order"].evidence


def test_gradients_of_a_linear_model_in_closed_form():
    model, data = linear_problem()
    x, y = data.inputs(), data.labels
    other = model(x).scatter(1, y[:, None], -math.inf).argmax(1)
    expected = (model.weight[other] - model.weight[y]).abs().amax(1)
    assert torch.allclose(probes.gradient_sizes(model, x, y, probes.margin), expected)


def test_an_honest_linear_model_passes_with_autoattack():
    model, data = linear_problem(n=40)
    store = OutcomeStore(None)
    checks = examine(model, data, ladder=LADDER, store=store)
    assert verdicts(checks, "pass") == set(NAMES)
    assert list(checks) == NAMES
    listed = list(checks["order"].numbers)
    assert listed == ["clean", *(name for name in LADDER if name != "fgm"), "inversions"]
    assert "and 5000 after AutoAttack's other parts" in checks["gradient-free"].evidence


def test_l2():
    model, data = linear_problem(n=60, size=8)
    threat = Threat(norm="L2", eps=0.2, step_size=0.05)
    checks = examine(model, data, threat=threat)
    assert verdicts(checks, "pass") == set(NAMES)
    assert checks["eps sweep"].numbers["eps"][-1] <= 8  # the diagonal of 64 pixels
    assert "no fgsm, which is for Linf" in checks["order"].evidence
    suite = examination.make_suite(threat, n_classes=5, seed=0)
    assert [attack.label for attack in suite.ladder] == [n for n in LADDER if n != "fgsm"]
    assert suite.remark == ""


# --- models made to mask their gradients


class Masked(nn.Module):
    """A network behind something that spoils its gradients."""

    def __init__(self, network, before=None, after=None):
        super().__init__()
        self.network = network
        self.before, self.after = before or nn.Identity(), after or nn.Identity()

    def forward(self, x):
        return self.after(self.network(self.before(x)))


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class RandomGradient(torch.autograd.Function):
    """The identity, whose gradient is noise."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.randn_like(gradient)


@pytest.fixture(scope="module")
def problem():
    return linear_problem(away=0.5)


def masked(problem, **how):
    model, data = problem
    return Masked(model, **{k: Apply(f) for k, f in how.items()}), data


def test_the_same_model_without_a_mask(problem):
    model, data = problem
    assert verdicts(examine(model, data), "pass") == set(NAMES)


def test_a_saturated_softmax_is_caught(problem):
    module, data = masked(problem, after=lambda rows: rows * 1e4)
    checks = examine(module, data)
    assert {"eps sweep", "gradient-free", "loss", "zero gradients"} <= verdicts(checks, "fail")
    assert "the softmax is saturated" in checks["zero gradients"].evidence
    assert checks["zero gradients"].numbers["zero_margin_too"] == 0
    assert {"batch", "repeat", "logits"} <= verdicts(checks, "pass")


def test_autoattack_does_not_hide_a_saturated_softmax(problem):
    model, data = problem
    few = Split(data.images[:30], data.labels[:30])
    module = Masked(model, after=Apply(lambda rows: rows * 1e4))
    checks = examine(module, few, ladder=LADDER)
    # its margin loss has gradients: Square finds nothing new, but PGD has none
    assert checks["gradient-free"].verdict == "pass"
    assert {"eps sweep", "loss", "zero gradients"} <= verdicts(checks, "fail")


def test_a_quantised_input_is_caught(problem):
    module, data = masked(problem, before=lambda x: torch.round(x * 32) / 32)
    checks = examine(module, data)
    assert {"eps sweep", "gradient-free", "loss", "zero gradients"} <= verdicts(checks, "fail")
    assert "the network is flat there" in checks["zero gradients"].evidence


def test_gradients_that_are_noise_are_caught(problem):
    module, data = masked(problem, before=RandomGradient.apply)
    checks = examine(module, data)
    assert {"gradient-free", "loss"} <= verdicts(checks, "fail")
    assert checks["zero gradients"].verdict == "pass"


def test_shattered_gradients_are_caught(problem):
    """A ripple too small to change predictions, and steep enough to hide the slope."""
    module, data = masked(problem, before=lambda x: x + 0.002 * torch.sin(3000 * x))
    checks = examine(module, data)
    assert "gradient-free" in verdicts(checks, "fail")
    assert checks["zero gradients"].verdict == checks["repeat"].verdict == "pass"


def test_a_random_layer_is_caught(problem):
    module, data = masked(problem, before=lambda x: x + 0.05 * torch.randn_like(x))
    checks = examine(module, data)
    assert "repeat" in verdicts(checks, "fail")
    assert "a random defence: AutoAttack refuses these" in checks["repeat"].evidence


def test_a_network_that_looks_at_the_whole_batch_is_caught(problem):
    module, data = masked(problem, after=lambda rows: rows - rows.mean(0))
    checks = examine(module, data)
    assert "batch" in verdicts(checks, "fail")
    assert checks["repeat"].verdict == "pass"


def test_probabilities_are_named(problem):
    module, data = masked(problem, after=lambda rows: rows.softmax(1))
    assert examine(module, data)["logits"].verdict == "warn"


def test_a_trap_for_iterated_attacks_is_caught(problem):
    """Flat off the 8-bit grid: one step from the image has a slope, PGD's start has none."""

    def trap(x):
        on_grid = ((x * 255 - torch.round(x * 255)).abs() < 1e-3).flatten(1).all(1)
        return torch.where(on_grid[:, None, None, None], x, x.detach())

    module, data = masked(problem, before=trap)
    checks = examine(module, data)
    assert {"order", "eps sweep"} <= verdicts(checks, "fail")
    assert "fgsm breaks more than pgd-20" in checks["order"].evidence
    assert checks["zero gradients"].verdict == "pass"  # at the images themselves


def test_a_model_that_is_never_right(problem):
    model, data = problem
    wrong = Split(data.images, (model(data.inputs()).argmax(1) + 1) % 5)
    checks = examine(model, wrong)
    assert verdicts(checks, "warn") == {"loss", "zero gradients"}
    assert not verdicts(checks, "fail")


# --- a trained network


def digits_subject(trained, digits, n=60, seed=None, **options):
    order = nested_order(digits.test.labels)
    if seed is not None:
        order = torch.randperm(len(order), generator=torch.Generator().manual_seed(seed))
    return Subject(trained, digits.test, "digits", order[:n], **options)


@pytest.mark.slow
def test_an_honest_network_is_not_failed(trained, digits):
    suite = examination.make_suite(trained.info.threat, n_classes=10, seed=0)
    subject = digits_subject(trained, digits, fewer={"autoattack": 20})
    checks = examination.examine(subject, POINT, suite)
    assert [check for check in checks if check.verdict == "fail"] == []


@pytest.mark.slow
def test_an_honest_network_is_not_failed_by_any_of_20_seeds(trained, digits, monkeypatch):
    monkeypatch.setattr(examination, "QUERIES", 300)
    found = []
    for seed in range(20):
        suite = examination.make_suite(
            trained.info.threat, n_classes=10, seed=seed, ladder=("fgsm", "pgd-7", "pgd-20")
        )
        subject = digits_subject(trained, digits, seed=seed)
        lam = (0.0, 0.5, 1.0)[seed % 3]
        found += examination.examine(subject, OperatingPoint(lam), suite)
    assert [check for check in found if check.verdict == "fail"] == []


@pytest.mark.slow
def test_an_honest_linear_model_is_not_failed_by_any_of_20_seeds():
    for seed in range(20):
        model, data = linear_problem(n=80, seed=seed)
        assert verdicts(examine(model, data, seed=seed), "fail") == set()


def test_a_trained_network_behind_a_quantiser_is_caught(trained, digits):
    module = Masked(trained.at(1.0), before=Apply(lambda x: torch.round(x * 16) / 16))
    order = nested_order(digits.test.labels)[:30]
    checks = examine(
        module,
        digits.test,
        classes=10,
        threat=trained.info.threat,
        ladder=("fgsm", "pgd-7", "pgd-20"),
        examples=order,
    )
    assert {"eps sweep", "loss", "zero gradients"} <= verdicts(checks, "fail")


# --- running


def test_a_second_examination_computes_nothing(monkeypatch, tmp_path):
    model, data = linear_problem(n=40)
    store = OutcomeStore(tmp_path)
    first = examine(model, data, ladder=LADDER, store=store)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert len(kept) > 10

    def forbidden(*_args, **_kwargs):
        raise AssertionError("it attacked again")

    monkeypatch.setattr("oat_bench.attacks.engines.Attack.__call__", forbidden)
    assert examine(model, data, ladder=LADDER, store=store) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == kept


def test_attacks_that_get_fewer_examples_get_the_first():
    model, data = linear_problem(n=50)
    checks = examine(model, data, fewer={"pgd-50-10": 20, "square": 10})
    assert "pgd-50-10" in checks["order"].evidence
    assert "(n 20)" in checks["order"].evidence
    assert checks["gradient-free"].numbers["n"] == 10
    assert checks["loss"].numbers["n"] == 47  # three are wrong without an attack


def test_the_verdicts_do_not_depend_on_the_batch():
    model, data = linear_problem(n=40)
    whole = examine(model, data, batch_size=40)
    parts = examine(model, data, batch_size=7)
    for name in ("order", "eps sweep", "steps", "noise", "zero gradients"):
        assert parts[name] == whole[name]


def test_progress_expects_what_an_examination_takes():
    model, data = linear_problem(n=30)
    suite = examination.make_suite(THREAT, n_classes=5, seed=0, ladder=PGD)
    subject = subject_of(model, data)
    with progress.passes("examining", examination.passes(subject, suite, 1, 0)) as line:
        expected = line.left
        examination.examine(subject, POINT, suite, line)
    assert 0.1 * expected < line.done < 1.2 * expected  # most images break early
    assert line.share > 0.9


def test_a_cost_is_said_before(problem):
    model, data = problem
    suite = examination.make_suite(THREAT, n_classes=5, seed=0, ladder=PGD)
    half = subject_of(model, data, examples=torch.arange(len(data) // 2))
    for subject in (half, subject_of(model, data)):
        assert 0 < examination.seconds(subject, [POINT], suite) < 600


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ladder": ("fgsm", "pgd-8")}, "unknown attack in a known order 'pgd-8'; did you mean"),
        ({"ladder": ()}, "no attack is named; choose of fgsm, fgm, pgd-7"),
        ({"threat": Threat(eps=0)}, "the threat model has eps 0"),
    ],
)
def test_what_cannot_be_examined_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        examination.make_suite(
            **{"threat": THREAT, "n_classes": 10, "seed": 0, **changes},
        )


# --- noise as an attack


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_noise_stays_in_the_ball_and_belongs_to_the_example(norm):
    model, data = linear_problem()
    threat = Threat(norm=norm, eps=0.2, step_size=0.1)
    attack = prepare(attack_card("noise"), threat, n_classes=5, seed=3)
    x, y, ids = data.inputs(), data.labels, torch.arange(len(data))
    x_adv = attack(model, x, y, ids)
    size = (x_adv - x).flatten(1).norm(dim=1, p=math.inf if norm == "Linf" else 2)
    assert 0.1 < size.max() <= 0.2 + 1e-6
    assert len(torch.unique(x_adv - x)) > len(data)
    parts = [attack(model, x[part], y[part], part) for part in torch.split(ids, 7)]
    assert torch.equal(torch.cat(parts), x_adv)


def test_more_draws_only_ever_break_more():
    model, data = linear_problem()
    card, broken = attack_card("noise"), []
    for draws in (1, 10, 100):
        changed = card.model_copy(update={"parameters": card.parameters | {"draws": draws}})
        attack = prepare(changed, THREAT, n_classes=5, seed=0)
        x_adv = attack(model, data.inputs(), data.labels, torch.arange(len(data)))
        broken.append(set(torch.where(model(x_adv).argmax(1) != data.labels)[0].tolist()))
    assert broken[0] < broken[1] < broken[2]
