"""Training of an estimator's model, as ART calls it."""

from inspect import signature
from typing import Any, Self

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from art.estimators.estimator import NeuralNetworkMixin
from art.utils import check_and_transform_label_format
from torch import Tensor, nn

from oat_bench.cards import Threat
from oat_bench.classifier import TunableClassifier
from oat_bench.datasets import Split, check_arrays
from oat_bench.estimator.follower import Follower
from oat_bench.images import check_count
from oat_bench.methods.trainable import TrainableClassifier
from oat_bench.training.card import TrainingCard
from oat_bench.training.loop import Trainer
from oat_bench.training.memory import room
from oat_bench.training.step import TrainingStep


class Fitting(PyTorchClassifier):
    """Trains by the training step of the model's own method."""

    training: TrainingCard
    threat: Threat
    _follower: Follower
    _fixed: bool

    @property
    def tunable(self) -> TunableClassifier:
        """The tunable classifier; estimators from `at` have the same one."""
        return self._follower.tunable

    def _sharing(self, *, fixed: bool, **changes: Any) -> Self:
        other = type(self)(**(self.get_params() | changes))
        other._fixed = fixed
        return other

    def fit(
        self,
        x: np.ndarray,
        y: np.ndarray,
        batch_size: int = 128,
        nb_epochs: int = 10,
        training_mode: bool = True,
        drop_last: bool = False,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        verbose: bool = False,
        **kwargs: Any,
    ) -> None:
        """Train the whole family, in place, whatever the point (OAT paper, Algorithms 1 and 2).

        `torch.manual_seed` fixes order, lambda and random starts. What the model says of itself
        (epochs, threat, how its weights were selected) is brought up to date.

        Args:
            x: images of shape [n, C, H, W], of any floating type, in [0, 1] after preprocessing.
            y: labels, as integers [n] or [n, 1], or one-hot [n, nb_classes].
            batch_size: clean images in a step, >= 2.
            nb_epochs: passes over x, >= 1.
            training_mode: only True.
            drop_last: leave out the last batch of an epoch if it is not full.
            scheduler: of the estimator's optimizer; stepped after each epoch.
            verbose: whether to draw a progress bar.
            kwargs: none are known.

        Raises:
            ValueError: if OAT cannot train with an argument, an image, a label, loss or recipe.
        """
        if kwargs:
            raise ValueError(f"fit has no argument {', '.join(sorted(kwargs))}")
        if not training_mode:
            raise ValueError("training_mode=False is not supported: OAT trains its batch norms")
        if not _is_plain_cross_entropy(self._loss):
            raise ValueError("OAT trains by plain cross-entropy; leave out loss, or train by hand")
        model, step = self._trainable()
        network, optimizer = step.network, self._optimizer
        if optimizer is not None:
            theirs = {id(one) for group in optimizer.param_groups for one in group["params"]}
            if theirs.isdisjoint(map(id, network.parameters())):
                raise ValueError("the optimizer has none of the parameters of the model's network")
        if scheduler is not None and (optimizer is None or scheduler.optimizer is not optimizer):
            raise ValueError("the scheduler is not one of the estimator's optimizer")
        images, labels = self._examples(x, y)
        if drop_last and len(labels) < batch_size:
            raise ValueError(f"drop_last leaves no batch of {batch_size} of {len(labels)} images")
        card, seed = self._card(nb_epochs, batch_size), _draw_seed()
        train, none = (Split(images[:n], labels[:n], levels=1) for n in (len(labels), 0))
        bound = room(card, train.labels.device, train) if card.memory else None
        how: dict[str, Any] = {"seed": seed, "optimizer": optimizer, "room": bound}
        trainer = Trainer(step, card, self.threat, train, none, **how)
        trainer.scheduler = scheduler
        if drop_last:
            trainer.steps_per_epoch = len(labels) // batch_size
        before = model.info.epochs
        try:
            trainer.train(show=verbose)
        finally:
            network.eval()
            self._describe(before + trainer.progress.epoch, trainer.selection)
            parts = {"micro_batch": trainer.progress.micro_batch or None}
            self.tunable.info = self.tunable.info.model_copy(update=parts)

    def fit_generator(
        self, generator: Any, nb_epochs: int = 20, verbose: bool = False, **kwargs: Any
    ) -> None:
        """Train on an `art.data_generators.DataGenerator`, by `fit` (``kwargs``) on each batch.

        ValueError if the estimator has no optimizer, or its recipe changes between steps.
        """
        if self._optimizer is None:
            raise ValueError("fit_generator needs an optimizer that lasts from batch to batch")
        if self.training.eps_warmup_epochs or self.training.ema_decay:
            raise ValueError("eps_warmup_epochs and ema_decay do not go with fit_generator")
        before = self.tunable.info.epochs
        NeuralNetworkMixin.fit_generator(self, generator, nb_epochs, verbose=verbose, **kwargs)
        self._describe(before + nb_epochs, f"last: epoch {nb_epochs}")

    def _describe(self, epochs: int, selection: str) -> None:
        changes = {"epochs": epochs, "selection": selection, "threat": self.threat}
        changes |= {"lambda_sampling": self.training.lambda_sampling, "benchmark_card": ""}
        self.tunable.info = self.tunable.info.model_copy(update=changes).with_bridge()

    def _examples(self, x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
        """Preprocess as ART's `fit`; return images in [0, 1] and integer labels, on the device."""
        y = np.asarray(y)
        if y.ndim == 1 or y.shape[1:] == (1,):
            # ART would take -1 for the last class
            good = (y >= 0) & (y < self.nb_classes) & (y == np.floor(y))
            if not good.all():
                raise ValueError(
                    f"label {y[~good][0]} is not an integer from 0 to {self.nb_classes - 1}"
                )
        one_hot = check_and_transform_label_format(y, nb_classes=self.nb_classes)
        images, one_hot = self._apply_preprocessing(x, one_hot, fit=True)
        if not np.array_equal(one_hot, np.eye(self.nb_classes)[one_hot.argmax(1)]):
            raise ValueError(f"labels are not one-hot of {self.nb_classes} classes, nor integers")
        checked, labels = check_arrays(images, one_hot.argmax(1), self.nb_classes)
        return checked.to(self._device), labels.to(self._device)

    def _card(self, epochs: int, batch_size: int) -> TrainingCard:
        card, trained = self.training, self.tunable.info.trained_lambdas
        if set(card.lambdas) != set(trained):
            raise ValueError(f"training.lambdas are {card.lambdas}; the model encodes {trained}")
        if card.selection != "last":
            raise ValueError('training.selection must be "last": fit has no validation images')
        counts = {"epochs": check_count(epochs, "nb_epochs", 1)}
        counts["batch_size"] = check_count(batch_size, "batch_size", 2)
        return TrainingCard(**(card.model_dump() | counts))

    def _trainable(self) -> tuple[TrainableClassifier, TrainingStep]:
        """Return the model, and the training step of its only network."""
        if isinstance(self.tunable, TrainableClassifier):
            members = self.tunable.members()
            if len(members) == 1:
                return self.tunable, members[0].step
        raise ValueError(f"not possible with a model of method {self.tunable.info.method!r}")

    def clone_for_refitting(self) -> Self:
        """Return such an estimator of a new model with fresh weights, its optimizer new too."""
        model, step = self._fresh()
        params: dict[str, Any] = {"model": model}
        if self._optimizer is not None:
            kind = type(self._optimizer)
            # AdamW, for one, has a default that its constructor does not know
            known = signature(kind).parameters
            defaults = {k: v for k, v in self._optimizer.defaults.items() if k in known}
            params["optimizer"] = kind(step.network.parameters(), **defaults)
        return self._sharing(fixed=self._fixed, **params)

    def reset(self) -> None:
        """Give the model fresh weights, in place."""
        (fresh, fresh_step), (model, step) = self._fresh(), self._trainable()
        step.network.load_state_dict(fresh_step.network.state_dict())
        model.info = fresh.info

    def _fresh(self) -> tuple[TrainableClassifier, TrainingStep]:
        model, _ = self._trainable()
        changes = {"seed": _draw_seed(), "selection": "none: fresh weights"}
        changes |= {"epochs": 0, "benchmark_card": "", "ancestors": [], "micro_batch": None}
        fresh = type(model).build(model.info.model_copy(update=changes))
        return fresh, fresh.members()[0].step


def _is_plain_cross_entropy(loss: object) -> bool:
    return (
        type(loss) is nn.CrossEntropyLoss
        and loss.weight is None
        and loss.label_smoothing == 0
        and loss.ignore_index < 0
        and loss.reduction == "mean"
    )


def _draw_seed() -> int:
    return int(torch.randint(2**62, ()))
