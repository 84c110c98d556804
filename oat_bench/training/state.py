"""Where a training run stands, and the file that a killed one goes on from."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from oat_bench.errors import UserError, one_line
from oat_bench.files import atomic_write
from oat_bench.tensors import pack, unpack


@dataclass
class Progress:
    """Where a training run stands."""

    epoch: int = 0  #: epochs finished
    step: int = 0  #: steps finished in the current epoch
    loss: float = 0.0  #: sum over these steps
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)  #: the rows of ``log.csv``
    best: float = -1.0  #: the highest validation score so far, for ``selection = "best"``
    best_epoch: int = 0  #: counted from 1
    micro_batch: int = 0  #: images of a step that pass at once, at most; 0: all


@dataclass
class State:
    """All that decides how a run goes on; ``best`` are the weights of the best epoch so far."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    average: nn.Module | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)

    def write(self, path: Path, identity: str) -> None:
        """Write the state, whole or not at all, under the name of its run."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for number, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{k}": v for k, v in slots.items() if isinstance(v, Tensor)
            }
        header = {"identity": identity, "progress": json.dumps(vars(self.progress))}
        atomic_write(path, pack(tensors, header))

    def read(self, path: Path, identity: str, *, steps_per_epoch: int, epochs: int) -> None:
        """Go on from a file, if there is one; refuse one that is damaged, or of another run."""
        if not path.exists():
            return
        tensors, header = unpack(path)
        if header.get("identity") != identity:
            raise UserError(
                f"{path} belongs to a run with another card, data set, seed or --from; choose "
                "another folder with --out, or remove this one to start over"
            )
        try:
            progress = TypeAdapter(Progress).validate_json(header.get("progress", ""))
            done = progress.epoch * steps_per_epoch + progress.step
            # what is saved after the last step of an epoch has not closed it yet
            inside = progress.epoch >= 0 and 0 <= progress.step <= steps_per_epoch
            if not inside or done > steps_per_epoch * epochs:
                raise ValueError(f"epoch {progress.epoch}, step {progress.step}: not of this run")
            self._take(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: damaged, or not the state of a training run ({one_line(error)}); remove "
                "it to start over"
            ) from error
        self.progress = progress

    def _take(self, tensors: dict[str, Tensor]) -> None:
        parameters: list[Any] = [p for g in self.optimizer.param_groups for p in g["params"]]
        parts = _by_first({name: v.to(parameters[0].device) for name, v in tensors.items()})
        self.network.load_state_dict(parts["network"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        self.best = parts.get("best", {})
        expected = {name: value.shape for name, value in self.network.state_dict().items()}
        if self.best and expected != {k: v.shape for k, v in self.best.items()}:
            raise ValueError("the best weights do not fit the network")
        slots = {int(n): slot for n, slot in _by_first(parts.get("optimizer", {})).items()}
        for number, slot in slots.items():
            if not 0 <= number < len(parameters):
                raise ValueError(f"the optimiser has no parameter {number}")
            shape = parameters[number].shape
            if any(value.dim() and value.shape != shape for value in slot.values()):
                raise ValueError(f"{number} of the optimiser does not fit its parameter")
        state: dict[str, Any] = self.optimizer.state_dict()
        self.optimizer.load_state_dict(state | {"state": slots})


def epochs_done(path: Path, identity: str) -> int:
    """Return how many epochs a file that `State.write` left has; 0 where it is of another run."""
    header = unpack(path)[1]
    known = header.get("identity") == identity
    return int(json.loads(header["progress"])["epoch"]) if known else 0


def _by_first(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = value
    return groups
