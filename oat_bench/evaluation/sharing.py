"""Who computes an evaluation: this process, or others beside it that write to the same store.

The unit is a block of examples of one job, such as an attack at an operating point. As its outcomes
depend on nothing else, any process may compute it, in any order; what the store holds is not
computed again.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from oat_bench.errors import Finished
from oat_bench.progress import passes as passes_bar

if TYPE_CHECKING:
    from oat_bench.evaluation.subject import Subject


@dataclass(frozen=True)
class Job:
    """Examples that outcomes are computed of, and how."""

    name: str
    examples: Tensor
    passes: float  # of one example, about
    compute: "Callable[[Subject], Any]"  # into the subject's store, of the subject's examples
    size: float = 1.0  # of the network, in operations of the widest
    whole: bool = False  # one process computes all of it, as what comes next depends on outcomes

    def of(self, subject: "Subject", examples: Tensor, passes: float) -> dict[str, Any]:
        """Return what of a subject to replace to compute some of the examples."""
        known: dict[str, Any] = {"examples": examples, "passes": passes, "executor": None}
        return known if self.whole else known | {"fewer": {}, "samples": {}}


@dataclass(frozen=True)
class Unit:
    """The part of a job that one process computes."""

    job: Job
    examples: Tensor

    @property
    def cost(self) -> float:
        """About, in passes of the widest network."""
        return self.job.passes * self.job.size * len(self.examples)


class Executor(Protocol):
    """Decides who computes what."""

    def run(self, subject: "Subject", units: list[Unit], passes: float) -> bool:
        """Have units computed into the store; say whether all are there when it returns."""

    def wait(self) -> None:
        """Take note that more can be shared out once others have computed theirs."""

    def finish(self) -> None:
        """Go on to the report, or end here."""


def spread(subject: "Subject", jobs: Iterable[Job], passes: float) -> bool:
    """Have jobs computed by the subject's executor; say whether the store holds all outcomes now.

    Without an executor it does, as they are computed where they lack. ``passes`` of the whole
    decide on compiling, for each process alike.
    """
    if subject.executor is None:
        return True
    units = [
        Unit(job, ids)
        for job in jobs
        for ids in ([job.examples] if job.whole else subject.blocks.split(job.examples))
    ]
    return subject.executor.run(subject, units, passes)


def finish(subject: "Subject") -> None:
    """Go on to the report; a shard, which has none, ends here."""
    if subject.executor is not None:
        subject.executor.finish()


class Shard:
    """One of several processes, each by itself, that share an evaluation out: ``--shard 2/5``."""

    def __init__(self, number: int, count: int, command: str = "the same command") -> None:
        self.number, self.count, self._command = number, count, command
        self._mine = self._all = 0
        self._waits = False

    def share(self, units: Sequence[Unit]) -> list[Unit]:
        """Return this shard's: costly ones first, each goes to the shard with the least to do."""
        # the first is another for other jobs, so that no shard is always ahead
        first = zlib.crc32("\n".join(unit.job.name for unit in units).encode()) % self.count
        load, mine = [0.0] * self.count, []
        for place in sorted(range(len(units)), key=lambda k: (-units[k].cost, k)):
            least = min(range(self.count), key=lambda k: (load[k], (k - first) % self.count))
            load[least] += units[place].cost
            if least == self.number - 1:
                mine.append(place)
        return [units[place] for place in sorted(mine)]

    def run(self, subject: "Subject", units: list[Unit], passes: float) -> bool:
        """Compute this shard's units, those of one job together."""
        mine = self.share(units)
        self._mine, self._all = self._mine + len(mine), self._all + len(units)
        expected = {"": sum(unit.job.passes * len(unit.examples) for unit in mine)}
        with passes_bar(f"shard {self.number}/{self.count}", expected) as line:
            for job in {id(unit.job): unit.job for unit in mine}.values():
                own = torch.cat([unit.examples for unit in mine if unit.job is job])
                line.begin("", job.passes * len(own), job.name, job.passes)
                wanted = job.examples[torch.isin(job.examples, own)]
                job.compute(replace(subject, **job.of(subject, wanted, passes)))
        return False

    def wait(self) -> None:
        """Take note that other shards lack what comes next depends on."""
        self._waits = True

    def finish(self) -> None:
        """End: the report takes the outcomes of all shards."""
        last = "the same command without --shard writes the report"
        if self._waits:
            last = f"run this array again, for the attacks on survivors: {self._command}"
        raise Finished(
            f"shard {self.number}/{self.count}: its {self._mine} of {self._all} blocks are in the "
            f"store; once all shards are done, {last}"
        )
