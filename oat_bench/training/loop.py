"""The training loop of every method (OAT paper, Algorithms 1 and 2), attack first.

Everything random is a function of (seed, epoch, step, example), so that a run that was killed and
started again ends with the same weights as an unbroken one.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oat_bench.acceleration import (
    Precision,
    autocast,
    choose_compile,
    choose_precision,
    compiled,
    operations_per_image,
)
from oat_bench.cards import Threat, TrainingCard
from oat_bench.classifier import pack, unpack
from oat_bench.datasets import Split
from oat_bench.errors import UserError, one_line
from oat_bench.files import atomic_write
from oat_bench.networks import ConditionalNetwork
from oat_bench.networks.conditioning import Condition, Folded
from oat_bench.progress import Bar, bar
from oat_bench.randomness import generator
from oat_bench.training import augmentation
from oat_bench.training.objectives import Budget, make_objective
from oat_bench.training.pgd import evaluating, pgd
from oat_bench.training.sampling import Sample, sample_lambda

#: in a long epoch the state is written this often, in seconds
SAVE_EVERY = 120.0
# streams that keep the uses of one seed apart
_ORDER, _LAMBDA = 1, 2


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


class Trainer:
    """One training run of a conditional network.

    Args:
        network: trained in place; `train` leaves the selected weights in it, in eval mode.
        card: the recipe.
        threat: eps, norm and step size of the attack.
        train: training images, on the network's device.
        validation: the slice that SA and RA are measured on after an epoch; may be empty.
        seed: of order, lambda and random starts.
        identity: names the run; a state of another identity is refused.
        folder: where ``training.safetensors`` and ``log.csv`` go; None keeps nothing.
        optimizer: over the network's parameters; SGD by the card if None.
    """

    def __init__(
        self,
        network: ConditionalNetwork,
        card: TrainingCard,
        threat: Threat,
        train: Split,
        validation: Split,
        *,
        seed: int = 0,
        identity: str = "",
        folder: Path | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        if len(train) < 2:
            raise UserError(f"{len(train)} training images; expected at least 2")
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        network.train_on(card.lambda_sampling)
        self.network, self.card, self.threat = network, card, threat
        self.data, self.validation, self.seed = train, validation, seed
        self.identity, self.folder = identity, folder
        self.scheduled = optimizer is None
        self.optimizer = optimizer or torch.optim.SGD(
            network.parameters(),
            lr=card.lr,
            momentum=card.momentum,
            weight_decay=card.weight_decay,
            nesterov=card.nesterov,
        )
        self.average = (
            AveragedModel(
                network,
                multi_avg_fn=get_ema_multi_avg_fn(card.ema_decay),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )
            if card.ema_decay
            else None
        )
        self.best_state: dict[str, Tensor] = {}
        self.progress = Progress()
        self.device = train.labels.device
        self.objective = make_objective(card.objective, threat)
        shape = train.images.shape[1:]
        self.precision = choose_precision(card.precision, self.device, shape.numel())
        # forward and backward for each step of the attack, thrice two passes for the training step
        passes = 2 * card.attack_steps + 6
        image = torch.zeros(1, *shape).to(self.device)
        operations = sum(
            operations_per_image(network.eval(), image, card.lambdas[0], w) for w in network.widths
        )
        self.compiled = choose_compile(
            card.compile, self.device, operations * passes * len(train) * card.epochs
        )
        self._twins = {
            width: frozen_logits(network.subnetwork(width), self.precision, self.compiled)
            for width in network.widths
        }
        # batch norm needs more than one image, so a last batch of one joins no step
        self.steps_per_epoch = max(1, math.ceil((len(train) - 1) / card.batch_size))

    @property
    def computation(self) -> str:
        """Precision and compilation, in words."""
        return f"{self.precision}, {'compiled' if self.compiled else 'not compiled'}"

    @property
    def evaluated(self) -> ConditionalNetwork:
        """The network whose accuracies are measured: the moving average if there is one."""
        if self.average is None:
            return self.network
        averaged = self.average.module
        assert isinstance(averaged, ConditionalNetwork)
        return averaged

    def train(self, *, show: bool = True) -> Progress:
        """Train to the last epoch, from where the folder's state stands.

        Args:
            show: whether to draw a progress bar.

        Returns:
            The progress, with the history.

        Raises:
            UserError: if the folder holds the state of another run.
        """
        self._restore()
        done = self.progress.epoch * self.steps_per_epoch + self.progress.step
        total = self.card.epochs * self.steps_per_epoch
        with bar("training", total, done=done, show=show) as line:
            while self.progress.epoch < self.card.epochs:
                self._epoch(line)
        state = self.best_state or self.evaluated.state_dict()
        self.network.load_state_dict(state)
        self.network.eval()
        return self.progress

    def _epoch(self, line: Bar) -> None:
        progress, started = self.progress, time.monotonic()
        saved, before = started, progress.seconds
        total = torch.tensor(progress.loss, dtype=torch.float64, device=self.device)
        for index in self._batches(progress.epoch, progress.step):
            total += self._step(index)
            progress.step += 1
            line.advance()
            now = time.monotonic()
            if now - saved > SAVE_EVERY:
                progress.loss, progress.seconds = float(total), before + now - started
                self._save()
                saved = now
        row: dict[str, float] = {
            "epoch": progress.epoch + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": float(total) / self.steps_per_epoch,
        }
        progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
        last = progress.epoch == self.card.epochs
        if len(self.validation) and (last or progress.epoch % self.card.validate_every == 0):
            scores = self._validate()
            row |= scores
            line.note(_describe(row))
            self._select(scores)
        progress.seconds = before + time.monotonic() - started
        progress.history.append(row | {"seconds": round(progress.seconds, 1)})
        self._save()

    def _batches(self, epoch: int, done: int) -> Iterator[Tensor]:
        """Yield the example indices of an epoch's remaining steps."""
        order = torch.randperm(len(self.data), generator=generator(self.seed, _ORDER, epoch))
        batches = torch.split(order, self.card.batch_size)[: self.steps_per_epoch]
        yield from batches[done:]

    def _step(self, index: Tensor) -> Tensor:
        """Take one optimiser step on a batch; return its loss.

        Of several widths, each in turn attacks its own sub-network and adds its gradients, so that
        memory stays that of one; what is minimised is the mean of their losses (Algorithm 2).
        """
        step = self.progress.epoch * self.steps_per_epoch + self.progress.step
        self._schedule(step)
        sample = sample_lambda(self.card, index, self.seed, _LAMBDA + 2 * step).to(self.device)
        index = index.to(self.device, non_blocking=True)
        x = augmentation.inputs(
            self.data, index, self.card, seed=self.seed, epoch=self.progress.epoch
        ).contiguous(memory_format=torch.channels_last)
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for width in self.network.widths:
            loss = self._loss(x, index, sample, step, width) / len(self.network.widths)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return total

    def _loss(self, x: Tensor, index: Tensor, sample: Sample, step: int, width: float) -> Tensor:
        """Attack a batch on a width's sub-network and return its loss there.

        The loss of an image is (1 - lam) L_c + lam L_a (Eq. 3), L_c the cross-entropy of the clean
        image. The images of lambda = 0 come first, and are not attacked. One pass carries the
        clean images and the attacked ones, so that BN_c sees clean images at lam = 0 and BN_a sees
        both kinds at lam > 0; in the published order a pass each, the attack between them.
        """
        attacked = slice(sample.n_standard, None)
        y = self.data.labels[index]
        target = (x[attacked], y[attacked], sample.attacked, index[attacked], step, width)
        if self.card.order == "published":
            clean = self._logits(x, sample, width)
            x_adv, counts = self._attack(*target)
            logits_adv = self._logits(x_adv, sample.attacked, width)
        else:
            x_adv, counts = self._attack(*target)
            logits = self._logits(torch.cat([x, x_adv]), sample.then(sample.attacked), width)
            clean, logits_adv = logits[: len(x)], logits[len(x) :]
        l_c = F.cross_entropy(clean, y, reduction="none")
        l_a = counts * self.objective.loss(clean[attacked], logits_adv, y[attacked])
        lam = sample.lam
        return (((1 - lam) * l_c).sum() + (lam[attacked] * l_a).sum()) / len(x)

    def _condition(self, sample: Sample, width: float | None = None) -> Condition:
        return self.network.condition_of(sample.values, sample.index, sample.n_standard, width)

    def _logits(self, x: Tensor, sample: Sample, width: float) -> Tensor:
        """Run the network in train mode on images sorted by lambda."""
        with autocast(self.device, self.precision):
            logits: Tensor = self.network.backbone(x, self._condition(sample, width))
        return logits.float()

    def _attack(
        self,
        x: Tensor,
        y: Tensor,
        sample: Sample,
        index: Tensor,
        step: int,
        width: float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attack each image at its own lambda, batch norm in eval mode; see `Objective.attack`.

        Every norm layer is folded to one affine per channel, once for the whole attack.

        Args:
            x: images of shape [n, C, H, W].
            y: labels of shape [n].
            sample: their lambda.
            index: their places in the training set.
            step: counts from the start of training.
            width: whose sub-network is attacked; the widest if None.
        """
        if len(x) == 0:
            return x, torch.ones_like(y, dtype=torch.bool)
        warmup = self.card.eps_warmup_epochs * self.steps_per_epoch
        share = min(1.0, (step + 1) / warmup) if warmup else 1.0
        with torch.no_grad():
            folded = self.network.fold(self._condition(sample, width))
        budget = Budget(
            self.threat.norm,
            eps=share * self.threat.eps,
            step_size=share * self.threat.step_size,
            steps=self.card.attack_steps,
        )
        return self.objective.attack(
            lambda images: self._frozen_logits(images, folded),
            x,
            y,
            budget,
            example_ids=index,
            seed=generator(self.seed, step).initial_seed(),
        )

    def _frozen_logits(self, x: Tensor, folded: Folded) -> Tensor:
        return self._twins[folded.width](x, folded)

    def _schedule(self, step: int) -> None:
        """Linear warm-up, then a cosine to zero."""
        if not self.scheduled:
            return
        warmup = self.card.lr_warmup_epochs * self.steps_per_epoch
        total = self.card.epochs * self.steps_per_epoch
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.card.lr * factor

    def _validate(self) -> dict[str, float]:
        """Measure SA and RA in percent at each trained point, under the training attack."""
        network, data = self.evaluated, self.validation
        row: dict[str, float] = {}
        # no more at a time than a step: it is float32, and must not need the memory of two steps
        ids_in_order = torch.arange(len(data), device=self.device)
        batches = torch.split(ids_in_order, self.card.batch_size)
        with evaluating(network), torch.no_grad():
            for lam, width in self._points():
                right = torch.zeros(2, dtype=torch.long, device=self.device)
                for ids in batches:
                    x, y = data.inputs(ids), data.labels[ids]
                    model = network.conditioned(lam, len(x), x.device, width)
                    x_adv = pgd(
                        model,
                        x,
                        y,
                        norm=self.threat.norm,
                        eps=self.threat.eps,
                        step_size=self.threat.step_size,
                        steps=self.card.attack_steps,
                        example_ids=ids,
                        seed=self.seed,
                    )
                    right += torch.stack([(model(z).argmax(1) == y).sum() for z in (x, x_adv)])
                sa, ra = (100 * right.double() / len(data)).tolist()
                row |= {self._column("SA", lam, width): sa, self._column("RA", lam, width): ra}
        return row

    def _select(self, scores: dict[str, float]) -> None:
        """Keep the weights of the best epoch by the mean of (1 - lam) SA + lam RA.

        The mean is over lambda and, where there are several, over widths.
        """
        if self.card.selection != "best":
            return
        terms = [
            (1 - lam) * scores[self._column("SA", lam, width)]
            + lam * scores[self._column("RA", lam, width)]
            for lam, width in self._points()
        ]
        score = sum(terms) / len(terms)
        if score >= self.progress.best:  # ties go to the later epoch
            self.progress.best, self.progress.best_epoch = score, self.progress.epoch
            self.best_state = {k: v.clone() for k, v in self.evaluated.state_dict().items()}

    def _points(self) -> list[tuple[float, float]]:
        """Every trained lambda at every width."""
        return [(lam, width) for width in self.network.widths for lam in self.card.lambdas]

    def _column(self, name: str, lam: float, width: float) -> str:
        """Name a column of the log; the width is said where there are several."""
        return f"{name}@{lam:g}" + (f" x{width:g}" if len(self.network.widths) > 1 else "")

    @property
    def selection(self) -> str:
        """The rule by which the weights were chosen, and the epoch that it chose."""
        weights = " of the moving average" if self.average is not None else ""
        widths = " over all widths" if len(self.network.widths) > 1 else ""
        if self.best_state:
            return (
                f"best{weights}: highest mean of (1 - lambda) SA + lambda RA on the validation "
                f"slice{widths}, epoch {self.progress.best_epoch}"
            )
        return f"last{weights}: epoch {self.progress.epoch}"

    def _save(self) -> None:
        if self.folder is None:
            return
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        if self.average is not None:
            tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best_state.items()}
        for number, slots in self.optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{k}": v for k, v in slots.items() if isinstance(v, Tensor)
            }
        header = {"identity": self.identity, "progress": json.dumps(vars(self.progress))}
        atomic_write(self.folder / "training.safetensors", pack(tensors, header))
        if self.progress.step == 0:
            log = pd.DataFrame(self.progress.history).to_csv(index=False, float_format="%.6g")
            atomic_write(self.folder / "log.csv", log)

    def _restore(self) -> None:
        path = self.folder / "training.safetensors" if self.folder else None
        if path is None or not path.exists():
            return
        tensors, header = unpack(path)
        if header.get("identity") != self.identity:
            raise UserError(
                f"{path} belongs to a run with another card, data set or seed; choose another "
                "folder with --out, or remove this one to start over"
            )
        try:
            self._take(tensors, header.get("progress", ""))
        except (KeyError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{path}: damaged, or not the state of a training run ({one_line(error)}); remove "
                "it to start over"
            ) from error

    def _take(self, tensors: dict[str, Tensor], progress: str) -> None:
        """Continue from a state.

        Raises:
            KeyError, ValueError, RuntimeError: if it does not fit.
        """
        read = TypeAdapter(Progress).validate_json(progress)
        done = read.epoch * self.steps_per_epoch + read.step
        total = self.card.epochs * self.steps_per_epoch
        # what is saved after the last step of an epoch has not closed it yet
        if not (0 <= read.step <= self.steps_per_epoch and 0 <= done <= total):
            raise ValueError(f"epoch {read.epoch} and step {read.step} are not of this run")
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            part, _, key = name.partition(".")
            parts.setdefault(part, {})[key] = value.to(self.device)
        self.network.load_state_dict(parts["network"])
        if self.average is not None:
            self.average.load_state_dict(parts["average"])
        self.best_state = parts.get("best", {})
        expected = {name: value.shape for name, value in self.evaluated.state_dict().items()}
        if self.best_state and expected != {k: v.shape for k, v in self.best_state.items()}:
            raise ValueError("the best weights do not fit the network")
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        slots: dict[int, dict[str, Tensor]] = {}
        for name, value in parts.get("optimizer", {}).items():
            number, _, key = name.partition(".")
            if value.dim() and value.shape != parameters[_place(number, parameters)].shape:
                raise ValueError(f"{name} of the optimiser does not fit its parameter")
            slots.setdefault(int(number), {})[key] = value
        state: dict[str, Any] = self.optimizer.state_dict()
        self.optimizer.load_state_dict(state | {"state": slots})
        self.progress = read


def _place(number: str, parameters: list[Any]) -> int:
    place = int(number)
    if not 0 <= place < len(parameters):
        raise ValueError(f"the optimiser has no parameter {place}")
    return place


def frozen_logits(
    backbone: nn.Module, precision: Precision, compile_it: bool
) -> Callable[[Tensor, Folded], Tensor]:
    """Return a backbone as an attack sees it: the same weights, no gradients for them, eval mode.

    Args:
        backbone: of one width; its parameters are shared, so that each optimiser step shows.
        precision: of the convolutions.
        compile_it: whether to compile.
    """
    twin = copy.deepcopy(backbone).eval().requires_grad_(False)
    for mine, theirs in zip(twin.parameters(), backbone.parameters(), strict=True):
        mine.data = theirs.data  # one storage
    device = next(twin.parameters()).device

    def logits(x: Tensor, folded: Folded) -> Tensor:
        with autocast(device, precision):
            result: Tensor = twin(x, folded)
        return result.float()

    return compiled(logits) if compile_it else logits


def _describe(row: dict[str, float]) -> str:
    lambdas = [name[3:] for name in row if name.startswith("SA@")]
    shown = dict.fromkeys((lambdas[0], lambdas[-1]))
    cells = [f"lambda {v}: SA {row[f'SA@{v}']:.0f} RA {row[f'RA@{v}']:.0f}" for v in shown]
    return ", ".join([f"loss {row['loss']:.3f}", *cells])
