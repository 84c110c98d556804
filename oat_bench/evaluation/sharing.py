"""Who computes an evaluation: this process, or it and others that write to the same store.

The unit is a block of examples of one job, an attack at an operating point. As its outcomes depend
on nothing else, any process may compute it, in any order; what the store holds is not computed
again.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from oat_bench.errors import Finished

if TYPE_CHECKING:
    from oat_bench.evaluation.subject import Subject


@dataclass(frozen=True)
class Job:
    """Examples that an evaluation computes outcomes of, and how."""

    name: str
    examples: Tensor
    passes: float  # forward passes of the whole network that one example takes, about
    compute: "Callable[[Subject], Any]"  # into the subject's store, of the subject's examples
    whole: bool = False  # one process computes all of it, as what comes next depends on outcomes


@dataclass(frozen=True)
class Unit:
    """The part of a job, by its place in the list of jobs, that one process computes."""

    job: int
    examples: Tensor
    cost: float


class Executor(Protocol):
    """Decides who computes what."""

    def run(self, subject: "Subject", jobs: Sequence[Job], units: list[Unit]) -> list[Unit]:
        """Return the units that this process goes on with: computes, or finds in the store."""

    def finish(self) -> None:
        """Go on to the report, or end here."""


def shared(subject: "Subject", jobs: Sequence[Job]) -> list[Tensor]:
    """Return the examples of each job that this process goes on with: all, but in a shard."""
    if subject.executor is None:
        return [job.examples for job in jobs]
    units = []
    for number, job in enumerate(jobs):
        blocks = [job.examples] if job.whole else subject.blocks.split(job.examples)
        units += [Unit(number, ids, job.passes * len(ids)) for ids in blocks]
    kept = subject.executor.run(subject, jobs, units)
    none = torch.empty(0, dtype=torch.int64)
    mine = [torch.cat([none, *(u.examples for u in kept if u.job == n)]) for n in range(len(jobs))]
    return [job.examples[torch.isin(job.examples, m)] for job, m in zip(jobs, mine, strict=True)]


def part(subject: "Subject", job: Job, examples: Tensor) -> dict[str, Any]:
    """Return what of a subject is replaced for a job to compute some of its examples."""
    fewer = subject.fewer if job.whole else {}
    known = {"examples": examples, "fewer": fewer, "compile_it": subject.compile_it}
    return known | {"executor": None}


def finish(subject: "Subject") -> None:
    """Go on to the report, if all outcomes are there; a shard, which has none, ends here."""
    if subject.executor is not None:
        subject.executor.finish()


class Shard:
    """One of several processes that share an evaluation out, each by itself: ``--shard 2/5``."""

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count
        self._mine = self._all = 0

    def run(self, _subject: "Subject", jobs: Sequence[Job], units: list[Unit]) -> list[Unit]:
        """Return this shard's units: costly ones first, each goes to who has the least to do."""
        # where each list of jobs is shared out by itself, the same shard is not always the first
        first = zlib.crc32("\n".join(job.name for job in jobs).encode()) % self.count
        load = [0.0] * self.count
        mine = []
        for place in sorted(range(len(units)), key=lambda k: (-units[k].cost, k)):
            least = min(range(self.count), key=lambda k: (load[k], (k - first) % self.count))
            load[least] += units[place].cost
            if least == self.number - 1:
                mine.append(place)
        self._mine, self._all = self._mine + len(mine), self._all + len(units)
        return [units[place] for place in sorted(mine)]

    def finish(self) -> None:
        """End: the report takes the outcomes of all shards."""
        raise Finished(
            f"shard {self.number}/{self.count}: its {self._mine} of {self._all} blocks are in the "
            "store; once all shards are done, the same command without --shard writes the report"
        )
