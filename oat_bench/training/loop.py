"""The training loop of every method: order, schedule, validation, selection.

Everything random is a function of (seed, epoch, step, example): a killed run goes on unchanged.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from oat_bench.acceleration import choose_compile, choose_precision, give_back_freed_memory
from oat_bench.cards import Threat
from oat_bench.datasets import Split
from oat_bench.errors import UserError
from oat_bench.files import atomic_write
from oat_bench.progress import Bar, bar, note
from oat_bench.randomness import generator
from oat_bench.run_folder import LOG, STATE
from oat_bench.training import augmentation
from oat_bench.training.card import TrainingCard
from oat_bench.training.memory import LEAST, Cost, Statistics, fixed_cost, limits, per_image
from oat_bench.training.objectives import Budget
from oat_bench.training.pgd import evaluating, pgd
from oat_bench.training.ranks import Ranks
from oat_bench.training.sampling import attack_steps, passes
from oat_bench.training.state import Progress, State
from oat_bench.training.step import Batch, Setting, TrainingStep

SAVE_EVERY = 120.0  #: in a long epoch the state is written this often, in seconds
_ORDER = 1  # the stream of the seed that orders an epoch


class Trainer:
    """One training run; `train` leaves the selected weights in the step's network, in eval mode.

    A state of another identity is refused; without a folder nothing is kept. Without an optimizer
    it is SGD by the card. A step that does not fit into ``room`` bytes is split, see `limits`; the
    ``ranks`` share it.
    """

    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None  #: stepped after each epoch
    cost: Cost = Cost(0, 0.0, 0.0)  #: what it takes, where it was given ``room``

    def __init__(
        self,
        step: TrainingStep,
        card: TrainingCard,
        threat: Threat,
        train: Split,
        validation: Split,
        *,
        seed: int = 0,
        identity: str = "",
        folder: Path | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        room: int | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008
    ) -> None:
        if len(train) < 2:
            raise UserError(f"{len(train)} training images; expected at least 2")
        network = step.network
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step, self.card, self.threat = step, card, threat
        self.data, self.validation, self.seed = train, validation, seed
        self.identity, self.folder, self.ranks = identity, folder, ranks
        self.rate = 0.0  #: images of all ranks a second, in the steps of the last epoch
        self.device = train.labels.device
        self.scheduled = optimizer is None
        if optimizer is None:
            how = card.model_dump(include={"lr", "momentum", "weight_decay", "nesterov"})
            optimizer = torch.optim.SGD(network.parameters(), **how)
        self.state = State(network, optimizer)
        if card.ema_decay:
            average = get_ema_multi_avg_fn(card.ema_decay)  # type: ignore[no-untyped-call]
            self.state.average = AveragedModel(network, multi_avg_fn=average, use_buffers=True)
        shape = train.images.shape[1:]
        operations = step.operations(torch.zeros(1, *shape).to(self.device))
        operations *= passes(card) * len(train) * card.epochs
        precision = choose_precision(card.precision, self.device, shape.numel())
        compiled = choose_compile(card.compile, self.device, operations)
        # batch norm needs more than one image, so a last batch of one joins no step
        self.steps_per_epoch = max(1, math.ceil((len(train) - 1) / card.batch_size))
        setting = Setting(card, threat, seed, self.device, precision, compiled)
        whole = min(card.batch_size, len(train))
        self.limit, self._validated = whole, card.batch_size
        if room is not None:
            step.ready(replace(setting, card=_attacked(card), compiled=False))
            self.cost = cost = self._cost(whole)
            self.limit, self._validated = ranks.least(*limits(cost, room, card, whole))
        step.ready(setting)

    @property
    def computation(self) -> str:
        """Precision and compilation, in words."""
        setting = self.step.setting
        return f"{setting.precision}, {'compiled' if setting.compiled else 'not compiled'}"

    @property
    def progress(self) -> Progress:
        """Where the run stands."""
        return self.state.progress

    @property
    def evaluated(self) -> nn.Module:
        """The network whose accuracies are measured: the moving average if there is one."""
        average = self.state.average
        return average.module if isinstance(average, AveragedModel) else self.step.network

    def train(self, *, show: bool = True) -> Progress:
        """Train to the last epoch, from where the folder's state stands, with a progress bar."""
        steps, epochs = self.steps_per_epoch, self.card.epochs
        if self.folder is not None:
            path = self.folder / STATE
            self.state.read(path, self.identity, steps_per_epoch=steps, epochs=epochs)
            self.ranks.agree(self._number(), self.folder)
        self._settle_split()
        with bar("training", epochs * steps, done=self._number(), show=show) as line:
            while self.progress.epoch < epochs:
                self._epoch(line)
        self.step.network.load_state_dict(self.state.best or self.evaluated.state_dict())
        self.step.network.eval()
        return self.progress

    def _settle_split(self) -> None:
        """Split steps by what fits; a run that goes on does so with the split it began with."""
        progress, whole, card = self.progress, min(self.card.batch_size, len(self.data)), self.card
        fresh, limit = self._number() == 0, self.ranks.at_once(card, self.limit, whole)
        if fresh and limit < whole:
            progress.micro_batch = math.ceil(whole / math.ceil(whole / limit))
        at_once = progress.micro_batch or whole
        if at_once > max(limit, self.limit) and card.memory:
            raise UserError(
                f"{self.folder}: training began with {at_once} images at once, of which "
                f"training.memory = {card.memory} holds {limit}; give it more, or choose another "
                "folder with --out"
            )
        self.ranks.check(card, whole, math.ceil(whole / at_once))
        if progress.micro_batch:
            why = f"to fit into {card.memory or 'what is free'}"
            if card.batch_norm == "per-rank":
                why = "each rank over its own"
            note(f"batch norm over {at_once} of a step's {whole} images, {why}")

    def _cost(self, whole: int) -> Cost:
        """Try a small part of a step, and of a validation, and leave no trace."""
        network, parts = self.step.network, max(1, whole // LEAST)
        place, index = slice(0, None, parts), next(self._batches(0, 0))
        weights = sum(parameter.nbytes for parameter in network.parameters())

        def step() -> None:
            batch = self.batch(index, place)
            for loss in self.step.losses(replace(batch, budget=replace(batch.budget, steps=1))):
                loss.backward()  # type: ignore[no-untyped-call]

        def validation() -> None:
            budget = replace(self._budget(), steps=1)
            self._right(self.data, index[place].to(self.device), *self.step.points()[-1], budget)

        n = len(range(len(index))[place])
        statistics = Statistics(network)
        beside = weights if self.step.setting.precision == "float32" else weights * 3 // 2
        with torch.random.fork_rng():
            network.train()
            each = per_image(step, n, beside, self.device)
        statistics.take(0)
        network.zero_grad(set_to_none=True)
        validated = per_image(validation, n, 0, self.device)
        give_back_freed_memory()
        return Cost(fixed_cost(weights, self.card), each, validated)

    def _epoch(self, line: Bar) -> None:
        progress, started = self.progress, time.monotonic()
        speed = f", {self.rate:,.0f} images/s" if self.rate else ""
        latest = f"{_latest(progress.history)}{speed}"
        line.note(f"epoch {progress.epoch + 1}/{self.card.epochs}{latest}")
        saved, before, begun = started, progress.seconds, progress.step
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
        lr, loss = self.state.optimizer.param_groups[0]["lr"], float(total) / self.steps_per_epoch
        images = min(len(self.data), progress.step * self.card.batch_size)
        images -= begun * self.card.batch_size
        self.rate = images / max(time.monotonic() - started, 1e-9)
        progress.epoch, progress.step, progress.loss = progress.epoch + 1, 0, 0.0
        row: dict[str, float] = {"epoch": progress.epoch, "lr": lr, "loss": loss}
        last = progress.epoch == self.card.epochs
        if len(self.validation) and (last or progress.epoch % self.card.validate_every == 0):
            scores = self._validate()
            row |= scores
            self._select(scores)
        progress.seconds = before + time.monotonic() - started
        progress.history.append(row | {"seconds": round(progress.seconds, 1)})
        self._save()
        if self.scheduler is not None:
            self.scheduler.step()

    def _batches(self, epoch: int, done: int) -> Iterator[Tensor]:
        order = torch.randperm(len(self.data), generator=generator(self.seed, _ORDER, epoch))
        yield from torch.split(order, self.card.batch_size)[done : self.steps_per_epoch]

    def batch(
        self, step_index: Tensor, place: slice = slice(None), part: slice | None = None
    ) -> Batch:
        """Return the batch of the step that the run stands at, or a part, or a rank's of that."""
        number, card = self._number(), self.card
        step_index = step_index.to(self.device, non_blocking=True)
        index = step_index[place]
        epoch = self.progress.epoch
        x = augmentation.inputs(self.data, index, card, seed=self.seed, epoch=epoch)
        x = x.contiguous(memory_format=torch.channels_last)
        warmup = card.eps_warmup_epochs * self.steps_per_epoch
        share = min(1.0, (number + 1) / warmup) if warmup else 1.0
        start = generator(self.seed, number).initial_seed()
        budget = self._budget(share, number / (card.epochs * self.steps_per_epoch))
        labels, part = self.data.labels[index], place if part is None else part
        return Batch(x, labels, index, step_index, place, number, start, budget, part)

    def _budget(self, share: float = 1.0, done: float = 1.0) -> Budget:
        """Return what an attack may do at a share of eps, a share of the training being done."""
        threat, whole, size = self.threat, self.card.attack_steps, self.threat.step_size
        if (steps := attack_steps(self.card, done)) < whole:
            # fewer steps go as far, but a single one not far beyond eps (arXiv:2001.03994)
            size = max(size, min(size * whole / steps, 1.25 * threat.eps))
        return Budget(threat.norm, share * threat.eps, share * size, steps)

    def _number(self) -> int:
        return self.progress.epoch * self.steps_per_epoch + self.progress.step

    def _step(self, index: Tensor) -> Tensor:
        self._schedule(self._number())
        self.step.network.train()
        self.state.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        parts = math.ceil(len(index) / (self.progress.micro_batch or len(index)))
        ranks, network = self.ranks, self.step.network
        statistics = Statistics(network) if parts > 1 or ranks.size > 1 else None
        together = ranks.together(self.card, len(index), parts)
        with ranks.synchronised(together):
            for place, part in ranks.pieces(parts, together):
                batch = self.batch(index, place, part)
                share = len(batch.ids) / len(index)
                for loss in self.step.losses(batch):
                    (share * loss).backward()  # type: ignore[no-untyped-call]
                    total += share * loss.detach()
                if statistics is not None:
                    statistics.take(share)
        if statistics is not None:
            ranks.add_gradients(network, total, *statistics.change)
            statistics.settle()
        self.state.optimizer.step()
        if isinstance(self.state.average, AveragedModel):
            self.state.average.update_parameters(self.step.network)
        return total

    def _schedule(self, step: int) -> None:
        """Linear warm-up, then a cosine to zero."""
        if not self.scheduled:
            return
        warmup = self.card.lr_warmup_epochs * self.steps_per_epoch
        total = self.card.epochs * self.steps_per_epoch
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            done = (step - warmup) / max(1, total - warmup)
            linear = self.card.lr_schedule == "linear"
            factor = 1 - done if linear else 0.5 * (1 + math.cos(math.pi * done))
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.card.lr * factor

    def _validate(self) -> dict[str, float]:
        """Measure SA and RA in percent at each trained point, under the training attack."""
        data, row = self.validation, dict[str, float]()
        # no more at a time than a step: it is float32, and must not need the memory of two steps
        everything = torch.arange(len(data), device=self.device)
        batches = torch.split(everything, min(self.card.batch_size, self._validated))
        points, right = self.step.points(), dict[tuple[float, float], Tensor]()
        for point in points:
            right[point] = torch.zeros(2, dtype=torch.long, device=self.device)
            for ids in batches[self.ranks.number :: self.ranks.size]:
                right[point] += self._right(data, ids, *point, self._budget())
        self.ranks.add_up([*right.values()])
        for lam, width in points:
            sa, ra = (100 * right[lam, width].double() / len(data)).tolist()
            row |= {self._column("SA", lam, width): sa, self._column("RA", lam, width): ra}
        return row

    def _right(self, data: Split, ids: Tensor, lam: float, width: float, budget: Budget) -> Tensor:
        """Count the images that are right at a point, clean and attacked, [2]."""
        x, y, network = data.inputs(ids), data.labels[ids], self.evaluated
        with evaluating(network), torch.no_grad():
            model = self.step.classifier(network, lam, width, len(x))
            x_adv = pgd(model, x, y, example_ids=ids, seed=self.seed, **vars(budget))
            return torch.stack([(model(z).argmax(1) == y).sum() for z in (x, x_adv)])

    def _select(self, scores: dict[str, float]) -> None:
        """Keep the weights of the best epoch by the mean of (1 - lam) SA + lam RA over points."""
        if self.card.selection != "best":
            return
        score, points = 0.0, self.step.points()
        for lam, width in points:
            sa, ra = (scores[self._column(name, lam, width)] for name in ("SA", "RA"))
            score += (1 - lam) * sa + lam * ra
        score /= len(points)
        if score >= self.progress.best:  # ties go to the later epoch
            self.progress.best, self.progress.best_epoch = score, self.progress.epoch
            self.state.best = {k: v.clone() for k, v in self.evaluated.state_dict().items()}

    @property
    def _several_widths(self) -> bool:
        return len({width for _, width in self.step.points()}) > 1

    def _column(self, name: str, lam: float, width: float) -> str:
        """Name a column of the log; the width is said where there are several."""
        return f"{name}@{lam:g}" + (f" x{width:g}" if self._several_widths else "")

    @property
    def selection(self) -> str:
        """The rule by which the weights were chosen, and the epoch that it chose."""
        weights = " of the moving average" if self.state.average is not None else ""
        widths = " over all widths" if self._several_widths else ""
        if self.state.best:
            return (
                f"best{weights}: highest mean of (1 - lambda) SA + lambda RA on the validation "
                f"slice{widths}, epoch {self.progress.best_epoch}"
            )
        return f"last{weights}: epoch {self.progress.epoch}"

    def _save(self) -> None:
        if self.folder is None or not self.ranks.first:
            return
        self.state.write(self.folder / STATE, self.identity)
        if self.progress.step == 0:
            log = pd.DataFrame(self.progress.history).to_csv(index=False, float_format="%.6g")
            atomic_write(self.folder / LOG, log)


def _attacked(card: TrainingCard) -> TrainingCard:
    """Return a recipe that attacks in every step: with a lambda each, some may be at 0 alone."""
    above = [lam for lam in card.lambdas if lam > 0]
    if card.sampling == "per-image" or not above:
        return card
    return card.model_copy(update={"lambdas": above, "standard_share": None})


def _latest(history: Sequence[Mapping[str, float]]) -> str:
    """Say what the last validation found, from the first lambda to the last at the widest."""
    validated = [row for row in history if any(name.startswith("SA@") for name in row)]
    if not validated:
        return f", loss {history[-1]['loss']:.3f}" if history else ""
    row, said = validated[-1], []
    width = next(name for name in row if name.startswith("SA@")).partition(" ")[2]
    for what in ("SA", "RA"):
        names = [n for n in row if n.startswith(f"{what}@") and n.partition(" ")[2] == width]
        ends = dict.fromkeys(f"{row[name]:.0f}" for name in (names[0], names[-1]))
        said.append(f"{what} {' to '.join(ends)}")
    return f", {', '.join(said)}, loss {history[-1]['loss']:.3f}"
