"""An evaluation by the workers of a Ray cluster: ``--ray``.

Each worker writes what it computes to the store, batch by batch: a worker that is lost loses no
more than a batch, and the driver, which reads the store at the end, is in nobody's way.
"""

import os
import platform
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from oat_bench.acceleration import keep_freed_memory
from oat_bench.classifier import TunableClassifier, check_fits
from oat_bench.datasets import Dataset
from oat_bench.errors import UserError, one_line
from oat_bench.evaluation.sharing import Job, Unit
from oat_bench.evaluation.subject import Subject
from oat_bench.progress import note, stages
from oat_bench.results.entries import versions
from oat_bench.results.outcomes import OutcomeStore
from oat_bench.results.places import Place
from oat_bench.wrapping import OWN

_RETRIES = 3  # of a block whose worker is lost
_REACHED_IN = 10.0  # seconds, or there is no cluster
_AHEAD = 4  # blocks a worker that are handed out at a time


@dataclass(frozen=True)
class _Common:
    """What all workers need but the classifier; the rest of a subject is left out."""

    subject: dict[str, Any]
    store: OutcomeStore
    mark: str  # a file of the store
    load: Callable[[], Dataset]
    device: str
    threads: int
    fingerprints: tuple[str, str, str]
    versions: dict[str, str]
    path: list[str]  # where Python looks for a model's code


def _reach(address: str | None) -> None:
    """Raise an OSError if nobody listens at HOST:PORT, which Ray itself tries for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_REACHED_IN).close()


class Cluster:
    """A Ray cluster that is running, or is started on this machine, as an `Executor`."""

    def __init__(
        self,
        address: str | None,
        load: Callable[[], Dataset],
        *,
        cpus: int = 1,
        gpus: float = 0.0,
    ) -> None:
        """Connect, or raise a `UserError`.

        Args:
            address: of a running cluster, as `ray.init` takes it; None: RAY_ADDRESS, or here.
            load: loads the data set on a worker, by paths that hold there.
            cpus: cores, and threads, of a worker.
            gpus: of a worker, or the share of one; 0: workers compute on CPUs.
        """
        try:
            import ray
        except ImportError as error:
            raise UserError("--ray needs Ray; pip install 'oat-bench[ray]'") from error
        # what Ray would say or send of itself
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            _reach(address)
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"no Ray cluster at {address or 'this machine'} ({one_line(error)}); expected "
                "HOST:PORT, or no address to start one here"
            ) from error
        self._ray, self._load, self._cpus, self._gpus = ray, load, cpus, gpus
        self._shared: list[Any] = []
        self._mark: tuple[Place, str] | None = None
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": _RETRIES, "max_calls": 0}
        self._task = ray.remote(**options)(_work)
        if self.workers == 0:
            self.close()
            raise UserError(
                f"no node of the Ray cluster has {cpus} CPUs and {gpus:g} GPUs for a worker; lower "
                "--cpus-per-worker or --gpus-per-worker"
            )

    @property
    def workers(self) -> int:
        """How many units the cluster computes at a time."""
        asked = [(kind, n) for kind, n in (("CPU", self._cpus), ("GPU", self._gpus)) if n]
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(min(int(node.get(kind, 0) / n) for kind, n in asked) for node in nodes)

    def close(self) -> None:
        """Leave the cluster, whose workers stop; end it if it was started here."""
        self._ray.shutdown()
        if self._mark is not None:
            place, mark = self._mark
            place.remove(mark)

    def wait(self) -> None:
        """Refuse a store that does not show what workers wrote."""
        raise UserError("the store lacks outcomes of workers; expected a --store that all reach")

    def finish(self) -> None:
        """Go on to the report."""

    def run(self, subject: Subject, units: list[Unit], passes: float) -> bool:
        """Have all units computed, costly ones first."""
        if not units:
            return True
        started, spent, done, whole = time.monotonic(), 0.0, 0, sum(unit.cost for unit in units)
        queue = sorted(units, key=lambda unit: unit.cost)
        pending: dict[Any, Unit] = {}
        shared = self._share(subject)
        with stages("evaluating", {}) as line:
            line.begin("", whole, "")
            while queue or pending:
                workers = self.workers
                while queue and len(pending) < _AHEAD * max(1, workers):
                    unit = queue.pop()
                    own = unit.job.of(subject, unit.examples, passes)
                    pending[self._task.remote(shared, unit.job.compute, own)] = unit
                (ready, *_), _ = self._ray.wait(list(pending))
                unit = pending.pop(ready)
                spent, done = spent + self._result(ready, unit.job), done + 1
                line.advance(unit.cost)
                hours = f"{spent / 3600:.2f} worker hours"
                line.note(f"{done} of {len(units)} blocks, {workers} workers, {hours}")
        seconds = time.monotonic() - started
        words = f"{workers} workers of Ray" if workers > 1 else "a worker of Ray"
        note(f"{done} blocks by {words}: {spent:.0f} worker seconds in {seconds:.0f} s")
        return True

    def _share(self, subject: Subject) -> list[Any]:
        # put into the object store once; a task gets references, which a worker follows once
        if not self._shared:
            classifier, store = subject.classifier, subject.store.place
            if store is None:
                raise ValueError("the store is in memory; expected one that workers can write to")
            place = store.absolute()
            self._mark = place, place.mark()
            same = ("data_fingerprint", "batch_size", "gradients", "seed")
            common = _Common(
                {name: getattr(subject, name) for name in same},
                OutcomeStore(place.address),
                self._mark[1],
                self._load,
                "cuda" if self._gpus else "cpu",
                self._cpus,
                subject.fingerprints,
                versions(),
                [path for path in sys.path if path],
            )
            for name, module in list(sys.modules.items()):
                if name.startswith(OWN):  # a user's code that no worker could import by that name
                    self._ray.cloudpickle.register_pickle_by_value(module)
            try:
                sent = self._ray.put(classifier.to("cpu"))
            except (TypeError, ValueError, AttributeError) as error:
                raise UserError(
                    f"{classifier.info.architecture} cannot be sent to workers "
                    f"({one_line(error)}); share the work out with --shard instead"
                ) from error
            classifier.to(subject.data.labels.device)
            self._shared = [self._ray.put(common), sent]
        return self._shared

    def _result(self, task: Any, job: Job) -> float:
        from ray import exceptions

        try:
            return float(self._ray.get(task))
        except exceptions.RayTaskError as error:
            raise error.cause from error
        except exceptions.RayError as error:
            raise UserError(
                f"{job.name}: its worker was lost {_RETRIES + 1} times ({one_line(error)}); what "
                "was finished is kept, the same command goes on"
            ) from error


_ready: dict[str, Subject] = {}  # of a worker, by what is shared


def _work(shared: list[Any], compute: Callable[[Subject], Any], own: dict[str, Any]) -> float:
    """Compute a unit into the store; return the seconds that it took."""
    started, key = time.monotonic(), shared[1].hex()
    if key not in _ready:
        _ready[key] = _prepare(shared)
    compute(replace(_ready[key], **own))
    return time.monotonic() - started


def _prepare(shared: list[Any]) -> Subject:
    import ray

    common: _Common = ray.get(shared[0])
    here = f"a worker on {platform.node()}"
    if versions() != common.versions:
        raise UserError(f"{here} has {versions()}; expected {common.versions}, as in this process")
    place = common.store.place
    if place is None or not place.exists(common.mark):
        address = None if place is None else place.address
        raise UserError(f"{here} does not see the store {address}; give a --store that all reach")
    sys.path.extend(path for path in common.path if path not in sys.path)
    keep_freed_memory()
    torch.set_num_threads(common.threads)
    classifier: TunableClassifier = ray.get(shared[1])
    data = check_fits(classifier.info, common.load())
    seen = classifier.fingerprint(), data.fingerprint()
    for what, ours, expected in zip(("model", "data"), seen, common.fingerprints, strict=False):
        if ours != expected:
            raise UserError(f"{here} has another {what}: {ours[:8]}, expected {expected[:8]}")
    device = torch.device(common.device)
    images = data.test.to(device)
    return Subject(classifier.to(device), images, store=common.store, **common.subject)
