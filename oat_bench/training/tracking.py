"""Where the rows of ``log.csv`` go besides, epoch by epoch: TensorBoard, Weights & Biases."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

from oat_bench.errors import UserError, one_line
from oat_bench.files import sha256

KINDS = ("tensorboard", "wandb")  #: each is a package and an extra of its name
TENSORBOARD = "tensorboard"  #: the folder of events in a run's folder

Row = Mapping[str, float]
Track = Callable[[str, Row], None]
"""Takes the name of a network, empty where there is one, and a row of its log; after a restart
all rows from the first on.
"""


def check(kinds: Sequence[str]) -> None:
    """Refuse a kind whose package is not there."""
    for kind in kinds:
        if find_spec(kind) is None:
            raise UserError(
                f"--log {kind} needs the package {kind}; install it with "
                f"pip install 'oat-bench[{kind}]'"
            )


@contextmanager
def tracked(kinds: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> Iterator[Track]:
    """Track a training in a folder; ``settings`` are shown beside it, and tell it from others."""
    check(kinds)
    opened, rows = {"tensorboard": _tensorboard, "wandb": _wandb}, count(1)
    with ExitStack() as stack:
        logs = [stack.enter_context(opened[kind](folder, settings)) for kind in kinds]

        def track(network: str, row: Row) -> None:
            # SA@0.4 of a network is NETWORK/SA/0.4, which both draw beside its like
            names = {name: f"{network}/{name}".lstrip("/").replace("@", "/") for name in row}
            values, number = {names[name]: value for name, value in row.items()}, next(rows)
            for log in logs:
                log(values, int(row["epoch"]), number)

        yield track


_Log = Callable[[Row, int, int], None]  # values, epoch, which row it is


@contextmanager
def _tensorboard(folder: Path, _settings: Mapping[str, Any]) -> Iterator[_Log]:
    from torch.utils.tensorboard import SummaryWriter

    # rows that an earlier process told are told again, and dropped there
    with SummaryWriter(str(folder / TENSORBOARD), purge_step=1) as writer:

        def log(values: Row, epoch: int, _number: int) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, epoch)
            writer.flush()

        yield log


@contextmanager
def _wandb(folder: Path, settings: Mapping[str, Any]) -> Iterator[_Log]:
    import wandb

    identity = sha256(folder.name, repr(settings))[:16]
    about = {"project": "oat-bench", "name": folder.name, "config": dict(settings)}
    try:
        run = wandb.init(dir=str(folder), id=identity, resume="allow", **about)
    except wandb.Error as error:
        raise UserError(
            f"--log wandb: {one_line(error)}; log in with wandb login, or set WANDB_MODE=offline"
        ) from error
    with run:
        # a row that an earlier process told has its number, and is left out there
        yield lambda values, _epoch, number: run.log(dict(values), step=number)
