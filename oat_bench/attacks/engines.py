"""From an attack card to attacked images."""

import random
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from inspect import Parameter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from oat_bench.attacks.card import AttackCard, AttackPart
from oat_bench.attacks.passes import Passes, count
from oat_bench.cards import Threat
from oat_bench.errors import UserError, nearest, one_line, unknown
from oat_bench.files import sha256
from oat_bench.networks.drawn import RandomNetwork
from oat_bench.randomness import uniform
from oat_bench.registry import ENGINES
from oat_bench.training.pgd import evaluating

_TARGETED = "-targeted"  #: what the label of a targeted attack ends in
_TARGETS = 2  #: the stream of the seed that draws targets; random starts take the first two
TOLERANCE = 1e-5  #: an attacked image may leave the ball by rounding, no more


@dataclass(frozen=True)
class Attack:
    """A card made ready for one evaluation."""

    card: AttackCard
    threat: Threat
    n_classes: int
    seed: int
    label: str  #: in tables: the card's name, or those of the parts that apply to so few classes
    chain: tuple[AttackPart, ...]  #: run in turn, each on what the last left standing
    part: int | None = None  #: which of a card's parts this is, the last of the chain; None: all

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
    def passes(self) -> Passes:
        """Passes that it makes of an image that survives, before the result is classified."""
        return self.passes_on(None)

    def passes_on(self, model: nn.Module | None) -> Passes:
        """Return `passes`, on a random model through the networks that a step draws."""
        found = Passes()
        for run in self._own:
            drawn, by = None, self._engine_of([run])
            if isinstance(model, RandomNetwork):
                drawn = len(model.draws(run.parameters.get("eot_iter", 10), 0).networks)
            found += count(by, run.class_, run.parameters, self.n_classes, drawn)
        return found

    @property
    def _own(self) -> tuple[AttackPart, ...]:
        return self.chain if self.part is None else self.chain[-1:]

    @cached_property
    def engine(self) -> str:
        """The engine that computes: the card's, or one with the same outcomes in its place."""
        return self._engine_of(self._own)

    def _engine_of(self, runs: Sequence[AttackPart]) -> str:
        instead = getattr(ENGINES[self.card.engine], "instead", lambda _part, targeted: None)
        found = {instead(run, targeted=self.targeted) for run in runs}
        return found.pop() or self.card.engine if len(found) == 1 else self.card.engine

    @property
    def per_example(self) -> bool:
        """Whether random numbers belong to examples; else they belong to the batch."""
        return bool(getattr(self._engine, "PER_EXAMPLE", False))

    @property
    def targeted(self) -> bool:
        """Whether only an image that is taken for its target counts as broken."""
        return self.card.targeted is not None

    @property
    def start(self) -> Hashable | None:
        """What attacks that `together` may run in fewer passes have in common; None: none may."""
        find = getattr(self._engine, "start", None)
        start = None if find is None or len(self.chain) > 1 else find(self)
        return None if start is None else (self.card.engine, self.card.targeted, self.seed, start)

    def aim(self, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
        """Return what the attack is told of clean images, [n]: their labels, or other classes."""
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
        """Say which images an attack has not broken by what is predicted of them: bool [n]."""
        return (prediction == aim) != self.targeted

    @property
    def _engine(self) -> Any:
        """What runs it; ``docs/add-an-attack.md`` says what it has."""
        return ENGINES[self.engine]

    def fingerprint(self) -> str:
        """Hash of all that decides the attacked images of a given model and example."""
        library = f"{self.engine} {version(self._engine.DISTRIBUTION)}"
        bound = self.threat.model_dump_json(exclude={"step_size"})
        # what it draws for: one more word than the fingerprints of releases that drew for batches
        drawn = [] if self.per_example else ["blocks from 128"]
        part = [] if self.part is None else [str(self.part)]
        aimed = [self.card.targeted] if self.card.targeted else []
        # what a part is given depends on those before it
        *earlier, last = [(run.class_, repr(sorted(run.parameters.items()))) for run in self.chain]
        before = [word for words in earlier for word in words]
        # a part of its library sees what others left than it did after its library's own
        by = (
            [self._engine_of([run]) for run in self.chain[:-1]]
            if self.engine == self.card.engine
            else []
        )
        before += [f"after {engine}" for engine in by if engine != self.card.engine]
        own = (last[0], str(self.card.version), library, last[1])
        # what earlier releases ran otherwise
        known = getattr(self._engine, "REVISED_L2", ())
        l2 = [run.class_ for run in self.chain if run.parameters.get("norm") == "L2"]
        revised = [f"{name} of L2, revised" for name in l2 if name in known]
        return sha256(*own, bound, str(self.seed), *drawn, *part, *before, *aimed, *revised)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor) -> Tensor:
        """Attack images [n, C, H, W] in [0, 1]; y is what `aim` returns.

        The ids own the random numbers of in-house attacks; the first seeds those of libraries that
        draw for the batch. x stands for what left the ball (DeepFool, ... minimise the norm).
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
        with evaluating(model), _library(self, self.seed + int(example_ids[0])):
            return self._kept(self._engine.run(self, model, x, y, example_ids), x)

    def _kept(self, x_adv: Tensor, x: Tensor) -> Tensor:
        x_adv = x_adv.to(x.dtype)
        return torch.where(self.allowed(x_adv, x)[:, None, None, None], x_adv, x)

    def allowed(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Say which attacked images keep to the threat model: bool, shape [n]."""
        order = float("inf") if self.threat.norm == "Linf" else 2
        size = torch.linalg.vector_norm((x_adv - x).flatten(1), order, dim=1)
        low, high = x_adv.flatten(1).aminmax(dim=1)
        # false for NaN too
        in_ball: Tensor = size <= self.threat.eps * (1 + TOLERANCE) + TOLERANCE
        return in_ball & (low >= -TOLERANCE) & (high <= 1 + TOLERANCE)


def together(
    attacks: Sequence[Attack], model: nn.Module, x: Tensor, y: Tensor, example_ids: Tensor
) -> list[Tensor]:
    """Attack images by attacks of one `Attack.start`, each as it would alone; y as of `Attack`."""
    first, *others = attacks
    if not others:
        return [first(model, x, y, example_ids)]
    with evaluating(model), _library(first, first.seed + int(example_ids[0])):
        found = first._engine.together(attacks, model, x, y, example_ids)
    return [attack._kept(x_adv, x) for attack, x_adv in zip(attacks, found, strict=True)]


def chains(attacks: Sequence[Attack]) -> list[list[int]]:
    """Group attacks, by their places, that one call of `together` runs."""
    groups: dict[Hashable, list[int]] = {}
    for place, attack in enumerate(attacks):
        groups.setdefault(place if attack.start is None else attack.start, []).append(place)
    return list(groups.values())


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
    """Make a card ready; parameters ``recorded`` by part, all but seeds, replace the card's."""
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
        runs.append(part.model_copy(update={"parameters": parameters}))
    label = card.name if parts == card.chain() else "+".join(part.name for part in parts)
    if card.targeted is not None:
        label = f"{card.name.removesuffix(_TARGETED)[: 64 - len(_TARGETED)]}{_TARGETED}"
    attack = Attack(card, bound, n_classes, seed, label, tuple(runs))
    for one in attack.parts():
        with _library(one, seed):
            one._engine.check(one)
    return attack


@contextmanager
def _library(attack: Attack, seed: int) -> Iterator[None]:
    """Run a library's code: seeded, what it prints on stderr, what it raises in one line."""
    with _own_randomness(seed), redirect_stdout(sys.stderr):
        try:
            yield
        except (UserError, OSError):
            raise
        except Exception as error:
            if attack.per_example:
                raise
            raise failed(attack, f"{type(error).__name__}: {error}") from error


def check_class(attack: Attack, classes: Iterable[str]) -> None:
    """Refuse a class that the attack's engine does not have, with the nearest ones."""
    if attack.class_ not in classes:
        kind = f"class in attack card {attack.card.name!r} (engine {attack.card.engine})"
        raise unknown(kind, attack.class_, classes)


def check_parameters(attack: Attack, parameters: Iterable[Parameter]) -> None:
    """Refuse parameters that are not among those a card may give, and missing ones."""
    where, known = _where(attack), {p.name: p for p in parameters}
    for key in attack.parameters:
        if key not in known:
            raise UserError(f"{where} takes no parameter {key!r}; {nearest(key, known)}")
    for key, parameter in known.items():
        if parameter.default is Parameter.empty and key not in attack.parameters:
            raise UserError(f"{where} needs parameter {key!r}; add it under [parameters]")


def check_targeted(attack: Attack, able: bool) -> None:
    """Refuse a card that is targeted, of a class that is not, or that says so twice."""
    if not attack.targeted:
        return
    if not able:
        raise UserError(f"{_where(attack)} cannot aim at a class; leave out targeted")
    for key in ("targeted", "multi_targeted"):
        if key in attack.parameters:
            raise UserError(f"{_where(attack)}: the card is targeted; leave out parameter {key!r}")


def failed(attack: Attack, reason: str) -> UserError:
    """Say in one line what an attack's class would not do."""
    return UserError(f"{_where(attack)} fails: {' '.join(reason.split())[:200]}")


def _where(attack: Attack) -> str:
    return f"attack card {attack.card.name!r}: {attack.card.engine} class {attack.class_}"


def stand_in(n_classes: int) -> nn.Module:
    """Make the smallest classifier, for a class to be made with before there is a model."""
    return nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(1, n_classes))
