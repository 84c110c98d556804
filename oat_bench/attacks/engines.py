"""From an attack card to attacked images."""

import random
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from importlib.metadata import version
from inspect import Parameter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oat_bench.attacks.card import AttackCard
from oat_bench.cards import Threat
from oat_bench.errors import UserError, nearest, one_line, unknown
from oat_bench.files import sha256
from oat_bench.randomness import uniform
from oat_bench.registry import ENGINES
from oat_bench.training.pgd import evaluating

#: what the label of a targeted attack ends in
_TARGETED = "-targeted"
#: the stream of the seed that draws targets; random starts take the first two
_TARGETS = 2
#: an attacked image may leave the ball by rounding, no more
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Run:
    """One attack class of a library, with the values of its parameters.

    Attributes:
        name: of the part; of a card that has no parts the card's.
        class_: in the library.
        parameters: the card's, every reference replaced.
    """

    name: str
    class_: str
    parameters: dict[str, Any]

    @property
    def passes(self) -> float:
        """Forward and backward passes that it makes of an image that survives, about."""
        given = self.parameters
        if self.class_ == "Images":  # they are there already
            return 1.0
        counts = [given.get(key) for key in ("steps", "max_iter", "n_queries", "draws")]
        known = [float(count) for count in counts if isinstance(count, int | float)]
        restarts = given.get("restarts", given.get("n_restarts", 1))
        # APGD-T aims at each of the other classes; FAB where it is told to
        aimed = self.class_ == "APGDT" or given.get("multi_targeted", False)
        targets = given.get("n_classes", 10) - 1 if aimed else 1
        backward = 1 if "n_queries" in given or "draws" in given else 2
        return float(backward * targets * restarts * max(known, default=100.0))


@dataclass(frozen=True)
class Attack:
    """A card made ready for one evaluation.

    Attributes:
        card: the card.
        threat: what bounds its perturbations.
        n_classes: of the model.
        seed: of the random numbers.
        label: what tables call it: the card's name; where some of its parts do not apply to so few
            classes, the names of those that run, such as ``apgd-ce+fab-t+square``; of a targeted
            attack it ends in ``-targeted``.
        chain: what runs in turn, each on what the last left standing.
        part: which of them this is, the last of the chain; None: all.
    """

    card: AttackCard
    threat: Threat
    n_classes: int
    seed: int
    label: str
    chain: tuple[Run, ...]
    part: int | None = None

    @property
    def name(self) -> str:
        """The label, and the part's number, from 1."""
        return self.label if self.part is None else f"{self.label}.{self.part + 1}"

    @property
    def class_(self) -> str:
        """The class of the part, or of an attack that has no parts."""
        return self.chain[-1].class_

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the part, or of an attack that has no parts."""
        return self.chain[-1].parameters

    def parts(self) -> list["Attack"]:
        """Return the attacks that this one runs in turn."""
        if len(self.chain) == 1 or self.part is not None:
            return [self]
        chain = self.chain
        return [replace(self, chain=chain[: part + 1], part=part) for part in range(len(chain))]

    @property
    def passes(self) -> float:
        """Forward and backward passes that it makes of an image that survives, about."""
        return sum(run.passes for run in (self.chain if self.part is None else self.chain[-1:]))

    @property
    def per_example(self) -> bool:
        """Whether random numbers belong to examples; else they belong to the batch."""
        return bool(getattr(self._engine, "PER_EXAMPLE", False))

    @property
    def targeted(self) -> bool:
        """Whether only an image that is taken for its target counts as broken."""
        return self.card.targeted is not None

    def aim(self, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
        """Return what the attack is told of its images.

        Args:
            model: plain: images to logits.
            x: clean images of shape [n, C, H, W] in [0, 1].
            y: labels of shape [n].
            example_ids: shape [n]; they own the targets that are drawn.

        Returns:
            The labels; of a targeted attack the targets, which are no labels. Shape [n].
        """
        if self.card.targeted is None:
            return y
        if self.card.targeted == "least-likely":
            with torch.no_grad(), evaluating(model):
                logits: Tensor = model(x)
            return logits.scatter(1, y[:, None], torch.inf).argmin(1)
        steps = torch.ones_like(y)
        if self.card.targeted == "random":
            drawn = uniform(example_ids, (), self.seed, stream=_TARGETS).double()
            steps += (drawn * (self.n_classes - 1)).long()
        return (y + steps) % self.n_classes

    def stands(self, prediction: Tensor, aim: Tensor) -> Tensor:
        """Say which images an attack has not broken: bool, shape [n].

        Args:
            prediction: classes of the attacked images, shape [n].
            aim: from `aim`.
        """
        return (prediction == aim) != self.targeted

    @property
    def _engine(self) -> Any:
        """What runs the card: ``check(attack)`` and ``run(attack, model, x, y, example_ids)``.

        Besides, ``DISTRIBUTION``, whose version goes into results, and ``PER_EXAMPLE``, true where
        random numbers belong to examples.
        """
        return ENGINES[self.card.engine]

    def fingerprint(self) -> str:
        """Hash of all that decides the attacked images of a given model and example."""
        library = f"{self.card.engine} {version(self._engine.DISTRIBUTION)}"
        bound = self.threat.model_dump_json(exclude={"step_size"})
        # what it draws for: one more word than the fingerprints of releases that drew for batches
        drawn = [] if self.per_example else ["blocks from 128"]
        part = [] if self.part is None else [str(self.part)]
        aimed = [self.card.targeted] if self.card.targeted else []
        # what a part is given depends on those before it
        before = [word for run in self.chain[:-1] for word in (run.class_, _listed(run.parameters))]
        return sha256(
            self.class_,
            str(self.card.version),
            library,
            _listed(self.parameters),
            bound,
            str(self.seed),
            *drawn,
            *part,
            *before,
            *aimed,
        )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
        """Attack images.

        Args:
            model: plain, in eval mode: images to logits.
            x: images of shape [n, C, H, W] in [0, 1].
            y: labels of shape [n]; of a targeted attack its targets, from `aim`.
            example_ids: shape [n]; they own the random numbers of in-house attacks. Other libraries
                draw for the batch: their generators are seeded by the first id.

        Returns:
            The attacked image where the attack kept to the threat model, else x: an attack that
            left the ball (DeepFool, Carlini and Wagner, ... minimise the norm) has not broken it.

        Raises:
            UserError: if another library fails, on a parameter's value for one.
        """
        first, *others = self.parts()
        x_adv = first._run(model, x, y, example_ids)
        for part in others:
            with torch.no_grad(), evaluating(model):
                standing = (model(x_adv).argmax(1) == y).nonzero()[:, 0]
            if len(standing) == 0:
                break
            given = (part_of[standing] for part_of in (x, y, example_ids))
            x_adv[standing] = part._run(model, *given)
        return x_adv

    def _run(self, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
        seed = self.seed + int(example_ids[0])
        # what a library prints is no result: stdout is for those
        with evaluating(model), _own_randomness(seed), redirect_stdout(sys.stderr):
            try:
                x_adv: Tensor = self._engine.run(self, model, x, y, example_ids).to(x.dtype)
            except Exception as error:
                if self.per_example or isinstance(error, OSError):
                    raise
                raise failed(self, error) from error
        return torch.where(self.allowed(x_adv, x)[:, None, None, None], x_adv, x)

    def allowed(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Say which attacked images keep to the threat model: bool, shape [n]."""
        delta = (x_adv - x).flatten(1)
        order = float("inf") if self.threat.norm == "Linf" else 2
        size = torch.linalg.vector_norm(delta, order, dim=1)
        low, high = x_adv.flatten(1).amin(1), x_adv.flatten(1).amax(1)
        # false for NaN too
        allowed: Tensor = (
            (size <= self.threat.eps * (1 + TOLERANCE) + TOLERANCE)
            & (low >= -TOLERANCE)
            & (high <= 1 + TOLERANCE)
        )
        return allowed


class _SeededState(np.random.RandomState):
    """A generator that takes its seed from numpy's global one where it is given none."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(np.random.randint(2**32, dtype=np.uint64) if seed is None else seed)


@contextmanager
def _own_randomness(seed: int) -> Iterator[None]:
    """Seed every global generator, and put each back into its own state after."""
    python, numpy, kind = random.getstate(), np.random.get_state(), np.random.RandomState
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        # ART's HopSkipJump and BoundaryAttack make generators without a seed
        setattr(np.random, "RandomState", _SeededState)  # noqa: B010
        try:
            yield
        finally:
            setattr(np.random, "RandomState", kind)  # noqa: B010
            random.setstate(python)
            np.random.set_state(numpy)


def prepare(
    card: AttackCard,
    threat: Threat,
    *,
    n_classes: int,
    seed: int,
    recorded: Mapping[str, dict[str, Any]] | None = None,
) -> Attack:
    """Make a card ready under a benchmark's threat model.

    Args:
        card: the card.
        threat: the benchmark's.
        n_classes: of the model.
        seed: of the random numbers.
        recorded: parameters of an earlier evaluation, by part, in place of what the card's come to;
            the seed alone is today's.

    Raises:
        UserError: if the card is for another norm or for more classes, or its class or a parameter
            does not exist, or the class refuses a parameter's value.
    """
    if card.norm is not None and card.norm != threat.norm:
        raise UserError(
            f"attack {card.name!r} is for {card.norm}, the benchmark's threat model is "
            f"{threat.norm}; leave it out with --attacks"
        )
    if not -(2**63) <= seed < 2**64:  # an entry may record any
        raise UserError(f"seed {one_line(seed)} of an attack; expected at most 64 bits")
    parts = [part for part in card.chain() if part.min_classes <= n_classes]
    if not parts:
        fewest = min(part.min_classes for part in card.chain())
        raise UserError(
            f"attack {card.name!r} needs {fewest} classes or more, the model has {n_classes}; "
            "leave it out with --attacks"
        )
    bound, runs = card.threat(threat), []
    for part in parts:
        parameters = part.resolve(bound, n_classes=n_classes, seed=seed)
        earlier = (recorded or {}).get(part.name, {})
        parameters |= {k: v for k, v in earlier.items() if part.parameters.get(k) != "$seed"}
        runs.append(Run(part.name, part.class_, parameters))
    whole = len(parts) == len(card.chain())
    label = card.name if whole else "+".join(part.name for part in parts)
    if card.targeted is not None:
        label = f"{card.name.removesuffix(_TARGETED)[: 64 - len(_TARGETED)]}{_TARGETED}"
    attack = Attack(card, bound, n_classes, seed, label, tuple(runs))
    with _own_randomness(seed), redirect_stdout(sys.stderr):
        for one in attack.parts():
            one._engine.check(one)
    return attack


def check_class(attack: Attack, classes: Iterable[str]) -> None:
    """Refuse a class that the attack's engine does not have.

    Raises:
        UserError: naming card and class, with the nearest ones.
    """
    card = attack.card
    if attack.class_ not in classes:
        kind = f"class in attack card {card.name!r} (engine {card.engine})"
        raise unknown(kind, attack.class_, classes)


def check_parameters(attack: Attack, parameters: Iterable[Parameter]) -> None:
    """Refuse parameters that the attack's class does not take, and missing ones.

    Args:
        attack: whose card gives values.
        parameters: those of the class that a card may give.

    Raises:
        UserError: naming card and parameter.
    """
    where, known = _where(attack), {p.name: p for p in parameters}
    for key in attack.parameters:
        if key not in known:
            raise UserError(f"{where} takes no parameter {key!r}; {nearest(key, known)}")
    for key, parameter in known.items():
        if parameter.default is Parameter.empty and key not in attack.parameters:
            raise UserError(f"{where} needs parameter {key!r}; add it under [parameters]")


def check_targeted(attack: Attack, able: bool) -> None:
    """Refuse a card that is targeted, of a class that is not, or that says so twice.

    Raises:
        UserError: naming card and class.
    """
    if not attack.targeted:
        return
    if not able:
        raise UserError(f"{_where(attack)} cannot aim at a class; leave out targeted")
    for key in ("targeted", "multi_targeted"):
        if key in attack.parameters:
            raise UserError(f"{_where(attack)}: the card is targeted; leave out parameter {key!r}")


def failed(attack: Attack, reason: Exception | str) -> UserError:
    """Say in one line what an attack's class would not do."""
    if isinstance(reason, Exception):
        reason = f"{type(reason).__name__}: {reason}"
    return UserError(f"{_where(attack)} fails: {' '.join(reason.split())[:200]}")


def _where(attack: Attack) -> str:
    return f"attack card {attack.card.name!r}: {attack.card.engine} class {attack.class_}"


def _listed(parameters: dict[str, Any]) -> str:
    return repr(sorted(parameters.items()))


class StandIn(nn.Module):
    """The smallest classifier, for a class to be made with before there is a model."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(1, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [n, C, H, W] to logits [n, n_classes]."""
        logits: Tensor = self.linear(x.flatten(1).mean(1, keepdim=True))
        return logits
