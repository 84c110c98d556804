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
    """Where a training run stands.

    Attributes:
        epoch: epochs finished.
        step: steps finished in the current epoch.
        loss: sum of the losses of these steps.
        seconds: time spent so far.
        history: one row an epoch, the columns of ``log.csv``.
        best: the highest validation score so far, for ``selection = "best"``.
        best_epoch: the epoch that had it, counted from 1.
    """

    epoch: int = 0
    step: int = 0
    loss: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = 0


@dataclass
class State:
    """All that decides how a run goes on.

    Attributes:
        network: being trained.
        optimizer: over its parameters.
        average: its moving average, if there is one.
        best: weights of the best epoch so far; empty if none was chosen.
        progress: where it stands.
    """

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
        """Go on from a file, if there is one.

        Raises:
            UserError: if it is damaged, or of another run.
        """
        if not path.exists():
            return
        tensors, header = unpack(path)
        if header.get("identity") != identity:
            raise UserError(
                f"{path} belongs to a run with another card, data set or seed; choose another "
                "folder with --out, or remove this one to start over"
            )
        try:
            progress = TypeAdapter(Progress).validate_json(header.get("progress", ""))
            done = progress.epoch * steps_per_epoch + progress.step
            # what is saved after the last step of an epoch has not closed it yet
            if not 0 <= progress.step <= steps_per_epoch or done > steps_per_epoch * epochs:
                raise ValueError(
                    f"epoch {progress.epoch} and step {progress.step} are not of this run"
                )
            if progress.epoch < 0:
                raise ValueError(f"epoch {progress.epoch} is negative")
            self._take(tensors)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: damaged, or not the state of a training run ({one_line(error)}); remove "
                "it to start over"
            ) from error
        self.progress = progress

    def _take(self, tensors: dict[str, Tensor]) -> None:
        parameters: list[Any] = [p for g in self.optimizer.param_groups for p in g["params"]]
        device = parameters[0].device
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            parts.setdefault(part, {})[key] = value.to(device)
        self.network.load_state_dict(parts["network"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        self.best = parts.get("best", {})
        expected = {name: value.shape for name, value in self.network.state_dict().items()}
        if self.best and expected != {k: v.shape for k, v in self.best.items()}:
            raise ValueError("the best weights do not fit the network")
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in parts.get("optimizer", {}).items():
            number, _, key = name.partition(".")
            if not 0 <= int(number) < len(parameters):
                raise ValueError(f"the optimiser has no parameter {number}")
            if value.dim() and value.shape != parameters[int(number)].shape:
                raise ValueError(f"{name} of the optimiser does not fit its parameter")
            slots.setdefault(int(number), {})[key] = value
        state: dict[str, Any] = self.optimizer.state_dict()
        self.optimizer.load_state_dict(state | {"state": slots})
