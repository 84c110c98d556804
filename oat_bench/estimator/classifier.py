"""An estimator of ART, the Adversarial Robustness Toolbox, with an operating point."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from threading import RLock
from typing import Any, ClassVar, Self

import numpy as np
import torch
from art import config
from art.estimators.classification import PyTorchClassifier
from art.estimators.estimator import NeuralNetworkMixin
from art.utils import check_and_transform_label_format
from numpy.typing import ArrayLike
from torch import Tensor, nn

from oat_bench.cards import Threat, TrainingCard
from oat_bench.classifier import OperatingPoint, TunableClassifier
from oat_bench.datasets import Split, check_arrays
from oat_bench.images import check_count, check_images
from oat_bench.methods import OAT
from oat_bench.networks.conditioning import validate_lambda
from oat_bench.progress import Bar
from oat_bench.training.loop import Trainer
from oat_bench.training.pgd import evaluating

#: how many operating points' networks an estimator keeps
_KEPT = 8
#: how far outside of the clip values attacks may query, in units of their range: ZOO and others do
#: not clip on the way; images of 0 to 16 or to 255 lie further off
_QUERIED = 8.0
#: what convolutions and linear layers say of their shapes
_SIZES = {"in_channels", "out_channels", "in_features", "out_features"}


class OATClassifier(PyTorchClassifier):
    """A tunable classifier as ART sees it: at every moment a plain one, at the operating point.

    The point is a robustness weight, ``lam``, and for classifiers of several widths (OATS) a share
    of the channels, ``width``.

    Everything that ART computes (predictions, losses, gradients, activations) and every attack,
    one that was built earlier included, follows the point, and follows the weights when they are
    trained. Only two things go unnoticed: weights written through ``.data``, and those written by
    an optimiser with ``fused=True`` while the network is in eval mode; call `refresh` then.

    Threads may share an estimator: `predict` with ``lam`` or ``width`` leaves it as it is. But its
    state is every thread's: the point, which `operating_point` moves for all, the layer that
    `get_activations` watches, dropout while it is on. A thread that needs another point for
    anything but `predict` takes an estimator of its own from `at`. While one trains none predicts.

    The arguments are those of `PyTorchClassifier`, with defaults for most, and four more.

    Args:
        model: such as `oat_bench.load` returns; shared, not copied.
        loss: cross-entropy if None.
        input_shape: C, H, W; the model's own if None.
        nb_classes: number of logits; the model's own if None.
        optimizer: over the parameters of ``model.network``; if None, `fit` makes an SGD by the
            recipe, anew at each call.
        use_amp: not supported.
        opt_level: has no effect without ``use_amp``.
        loss_scale: has no effect without ``use_amp``.
        channels_first: only True; images are [n, C, H, W].
        clip_values: smallest and largest value of the images that attacks make.
        preprocessing_defences: as in ART.
        postprocessing_defences: as in ART.
        preprocessing: as in ART; what comes out goes into the network and must be in [0, 1].
        device_type: ``cpu`` or ``gpu``; where the model is if None.
        lam: the operating point to begin with, in [0, 1]; the largest trained one if None.
        width: likewise, one of the model's; its widest if None.
        training: the recipe of `fit`, but for its epochs and batch size, which are arguments of
            `fit`; SGD at learning rate 0.1 with a cosine schedule if None.
        threat: the attack that `fit` trains against; the model's own if None.

    Raises:
        ValueError: if an argument is out of range, contradicts the model, or is not supported.
    """

    estimator_params: ClassVar = [
        *PyTorchClassifier.estimator_params,
        *("lam", "width", "training", "threat"),
    ]

    def __init__(
        self,
        model: TunableClassifier,
        loss: nn.Module | None = None,
        input_shape: tuple[int, ...] | None = None,
        nb_classes: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        use_amp: bool = False,
        opt_level: str = "O1",
        loss_scale: float | str | None = "dynamic",
        channels_first: bool = True,
        clip_values: Any = (0.0, 1.0),
        preprocessing_defences: Any = None,
        postprocessing_defences: Any = None,
        preprocessing: Any = (0.0, 1.0),
        device_type: str | None = None,
        *,
        lam: float | None = None,
        width: float | None = None,
        training: TrainingCard | None = None,
        threat: Threat | None = None,
    ) -> None:
        info = model.info
        if use_amp or not channels_first:
            raise ValueError("use_amp and channels_first=False are not supported")
        if input_shape is not None and tuple(input_shape) != info.input_shape:
            raise ValueError(f"input_shape is {input_shape}; the model has {info.input_shape}")
        if nb_classes is not None and nb_classes != info.num_classes:
            raise ValueError(f"nb_classes is {nb_classes}; the model has {info.num_classes}")
        if device_type is None:
            on_cpu = next(iter(model.state_dict().values())).device.type == "cpu"
            device_type = "cpu" if on_cpu else "gpu"
        widest = info.widths[0]
        point = OperatingPoint(
            info.trained_lambdas[-1] if lam is None else float(lam),
            widest if width is None else float(width),
        )
        self._follower = _Follower(model, point)
        self._fixed = False
        self.training = training or TrainingCard(
            epochs=1, lr=0.1, lambdas=info.trained_lambdas, lambda_sampling=info.lambda_sampling
        )
        self.threat = threat or info.threat
        super().__init__(
            self._follower.network,
            loss=nn.CrossEntropyLoss() if loss is None else loss,
            input_shape=info.input_shape,
            nb_classes=info.num_classes,
            optimizer=optimizer,
            opt_level=opt_level,
            loss_scale=loss_scale,
            clip_values=clip_values,
            preprocessing_defences=preprocessing_defences,
            postprocessing_defences=postprocessing_defences,
            preprocessing=preprocessing,
            device_type=device_type,
        )
        model.to(self._device)

    # --- the operating point

    @property
    def tunable(self) -> TunableClassifier:
        """The tunable classifier; estimators from `at` have the same one."""
        return self._follower.tunable

    @property
    def model(self) -> nn.Module:
        """The plain network, in which each change of the point and of the weights shows."""
        self._follower()
        return self._follower.network

    @property
    def lam(self) -> float:
        """The robustness weight of the current operating point, in [0, 1].

        Raises:
            ValueError: if set to something that is not a number in [0, 1].
            AttributeError: if set on an estimator that `at` returned.
        """
        return self._follower.point.lam

    @lam.setter
    def lam(self, lam: float) -> None:
        self._move(OperatingPoint(float(lam), self.width))

    @property
    def width(self) -> float:
        """The share of the channels of the current operating point.

        Raises:
            ValueError: if set to something that is not one of the model's widths.
            AttributeError: if set on an estimator that `at` returned.
        """
        return self._follower.point.width

    @width.setter
    def width(self, width: float) -> None:
        self._move(OperatingPoint(self.lam, float(width)))

    def _move(self, point: OperatingPoint) -> None:
        self._follower.point = self._checked(point)

    def _checked(self, point: OperatingPoint) -> OperatingPoint:
        widths = self.tunable.info.widths
        if point.width not in widths:
            have = ", ".join(f"{width:g}" for width in widths)
            raise ValueError(f"width is {point.width:g}; the model has {have}")
        self.tunable.check_lambda(point.lam, self.tunable.info.trained_lambdas)
        if self._fixed and point != self._follower.point:
            both = len(widths) > 1
            here = f"lam = {self.lam:g}" + (f", width = {self.width:g}" if both else "")
            there = f"{point.lam:g}" + (f", width={point.width:g}" if both else "")
            raise AttributeError(
                f"this estimator is fixed at {here}; for another point call at({there})"
            )
        return point

    @contextmanager
    def operating_point(
        self, lam: float | None = None, width: float | None = None
    ) -> Iterator[Self]:
        """Be at a point within a with block, and back where it was after it, come what may.

        Every thread that uses the estimator then is.

        Args:
            lam: as it is if None.
            width: as it is if None.
        """
        before = self._follower.point
        self._move(self._point(lam, width))
        try:
            yield self
        finally:
            self._follower.point = before

    def at(self, lam: float | None = None, width: float | None = None) -> Self:
        """Return an estimator that stays at a point and shares model, optimizer and settings.

        Args:
            lam: as it is if None.
            width: as it is if None.

        Raises:
            ValueError: if ``lam`` is not a number in [0, 1], or the model has no such width.
        """
        point = self._point(lam, width)
        return self._sharing(lam=point.lam, width=point.width, fixed=True)

    def _point(self, lam: float | None, width: float | None) -> OperatingPoint:
        return OperatingPoint(
            self.lam if lam is None else float(lam), self.width if width is None else float(width)
        )

    def refresh(self) -> None:
        """Take up weights that were written in a way that goes unnoticed; see `OATClassifier`."""
        self._follower.forget()

    def __copy__(self) -> Self:
        return self._sharing(fixed=self._fixed)

    def _sharing(self, *, fixed: bool, **changes: Any) -> Self:
        other = type(self)(**(self.get_params() | changes))
        other._fixed = fixed
        return other

    # --- prediction

    def predict(
        self,
        x: np.ndarray,
        batch_size: int = 128,
        training_mode: bool = False,
        *,
        lam: ArrayLike | None = None,
        width: float | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Predict.

        Args:
            x: images of shape [n, C, H, W], n >= 0, of any floating type, within the clip values.
                What some attacks ask for outside of them is let pass; images of another scale, such
                as 0 to 255, are refused.
            batch_size: images in one pass, >= 1.
            training_mode: whether the network has its dropout on.
            lam: a float instead of the current operating point, or one for each image, shape [n].
            width: instead of the current operating point's, for all images.
            kwargs: go to `PyTorchClassifier.predict`.

        Returns:
            Logits after ART's postprocessing, float32 of shape [n, nb_classes].

        Raises:
            ValueError: if x are not such images, a lam is not a number in [0, 1], or there is no
                classifier at it, or its shape fits neither, or the model has no such width.
            AttributeError: if this estimator is fixed elsewhere.
        """
        check_count(batch_size, "batch_size", 1)
        points = np.asarray(self.lam if lam is None else lam, dtype=float)
        if points.ndim > 0:
            width = self._checked(self._point(None, width)).width
            return self._predict_each(x, batch_size, training_mode, points, width)
        # an argument is no state: other threads have other ones
        elsewhere = lam is not None or width is not None
        point = self._checked(self._point(points.item(), width))
        if training_mode and len(x):  # what ART draws besides decides what dropout drops
            there = self.at(point.lam, point.width) if elsewhere else self
            logits: np.ndarray = super(OATClassifier, there).predict(
                x, batch_size, training_mode, **kwargs
            )
            return logits
        model = self._follower.plain(point) if elsewhere else self.model.eval()
        return self._in_batches(x, batch_size, lambda images, _: model(images))

    def _predict_each(
        self, x: np.ndarray, batch_size: int, training_mode: bool, lam: np.ndarray, width: float
    ) -> np.ndarray:
        if self._fixed:
            raise AttributeError(f"this estimator is fixed at lam = {self.lam:g}")
        if training_mode:
            raise ValueError("training_mode=True does not go with one lam for each image")
        values = torch.as_tensor(lam, dtype=torch.float32, device=self._device)
        if values.shape != (len(x),):
            raise ValueError(
                f"lam has shape {tuple(values.shape)}; expected a float or shape ({len(x)},)"
            )
        validate_lambda(values, len(x), self._device)
        for value in np.unique(lam):
            self.tunable.check_lambda(float(value), self.tunable.info.trained_lambdas)
        if not isinstance(self.tunable, OAT):
            return self._predict_by_lambda(x, batch_size, lam, width)
        network = self.tunable.network
        with self._follower.lock, evaluating(network):
            return self._in_batches(
                x, batch_size, lambda images, batch: network(images, values[batch], width)
            )

    def _in_batches(
        self, x: np.ndarray, batch_size: int, logits: Callable[[Tensor, slice], Tensor]
    ) -> np.ndarray:
        """Compute logits batch by batch on the device; they leave it once."""
        prepared, _ = self._apply_preprocessing(x, y=None, fit=False)
        images = torch.from_numpy(prepared)
        starts = range(0, len(x) or 1, batch_size)
        batches = [slice(start, start + batch_size) for start in starts]
        with torch.no_grad():
            parts = [logits(images[batch].to(self._device), batch) for batch in batches]
        predictions = torch.cat(parts).cpu().numpy()
        processed: np.ndarray = self._apply_postprocessing(preds=predictions, fit=False)
        return processed

    def _predict_by_lambda(
        self, x: np.ndarray, batch_size: int, lam: np.ndarray, width: float
    ) -> np.ndarray:
        """Predict the images of one lambda after those of another, each by the plain network."""
        logits = np.empty((len(x), self.nb_classes), dtype=np.float32)
        for value in np.unique(lam):
            logits[lam == value] = self.predict(x[lam == value], batch_size, lam=value, width=width)
        return logits

    def _apply_preprocessing(
        self, x: Any, y: Any, fit: bool = False, no_grad: bool = True
    ) -> tuple[Any, Any]:
        span, slack = (-np.inf, np.inf), 0.0
        if self.clip_values is not None:
            span = float(np.min(self.clip_values[0])), float(np.max(self.clip_values[1]))
            slack = _QUERIED * (span[1] - span[0])
        check_images(x, name="x", shape=self.input_shape, span=span, slack=slack)
        x, y = super()._apply_preprocessing(x, y, fit=fit, no_grad=no_grad)
        # with numpy 2 some attacks (HopSkipJump, Boundary) bring float64, which no layer takes
        return (x.float() if isinstance(x, Tensor) else x.astype(np.float32, copy=False)), y

    def get_activations(
        self,
        x: np.ndarray | Tensor,
        layer: int | str | None = None,
        batch_size: int = 128,
        framework: bool = False,
    ) -> np.ndarray | Tensor:
        """Return a layer's output, as `PyTorchClassifier.get_activations` does."""
        if not len(x):  # ART concatenates batches, of which there are none
            one = np.zeros((1, *self.input_shape), dtype=np.float32)
            return self.get_activations(one, layer, batch_size, framework)[:0]
        children = list(self.model.children())
        hooks = [set(child._forward_hooks) for child in children]
        try:
            return super().get_activations(x, layer, batch_size, framework)  # type: ignore[no-any-return]
        finally:
            # ART leaves its hook and keeps the outputs, which hold a graph and do not deep-copy
            self._features: dict[str, Tensor] = {}
            for child, before in zip(children, hooks, strict=True):
                for hook in set(child._forward_hooks) - before:
                    del child._forward_hooks[hook]

    # --- training

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
        """Train the whole family, in place, whatever the operating point.

        By OAT (Algorithm 1); a model of several widths by OATS (Algorithm 2).

        Order, lambda and random starts are drawn from torch's global generator, so that
        `torch.manual_seed` fixes them. What the model says of itself (epochs, threat, how its
        weights were selected) is brought up to date.

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
            ValueError: if an argument, an image, a label, the loss or the recipe is not one that
                OAT can train with; the message says which.
        """
        if kwargs:
            raise ValueError(f"fit has no argument {', '.join(sorted(kwargs))}")
        if not training_mode:
            raise ValueError("training_mode=False is not supported: OAT trains its batch norms")
        if not _is_plain_cross_entropy(self._loss):
            raise ValueError("OAT trains by plain cross-entropy; leave out loss, or train by hand")
        model = self._oat()
        network, optimizer = model.network, self._optimizer
        if optimizer is not None:
            mine = {id(parameter) for parameter in network.parameters()}
            groups = optimizer.param_groups
            if not any(id(parameter) in mine for group in groups for parameter in group["params"]):
                raise ValueError("the optimizer has none of the parameters of model.network")
        if scheduler is not None and (optimizer is None or scheduler.optimizer is not optimizer):
            raise ValueError("the scheduler is not one of the estimator's optimizer")
        images, labels = self._examples(x, y)
        if drop_last and len(labels) < batch_size:
            raise ValueError(f"drop_last leaves no batch of {batch_size} of {len(labels)} images")
        trainer = _Trainer(
            network,
            self._card(nb_epochs, batch_size),
            self.threat,
            train=Split(images, labels, levels=1),
            validation=Split(images[:0], labels[:0], levels=1),
            seed=_draw_seed(),
            optimizer=optimizer,
        )
        trainer.scheduler = scheduler
        if drop_last:
            trainer.steps_per_epoch = len(labels) // batch_size
        before = model.info.epochs
        try:
            trainer.train(show=verbose)
        finally:
            network.eval()
            self._describe(before + trainer.progress.epoch, trainer.selection, self.threat)

    def fit_generator(
        self, generator: Any, nb_epochs: int = 20, verbose: bool = False, **kwargs: Any
    ) -> None:
        """Train by OAT on the batches of an ART data generator, a step of `fit` for each.

        Args:
            generator: an `art.data_generators.DataGenerator`.
            nb_epochs: passes over the generator.
            verbose: as in `fit`.
            kwargs: go to `fit`; a scheduler would step after each batch.

        Raises:
            ValueError: if the estimator has no optimizer, or its recipe changes between steps.
        """
        if self._optimizer is None:
            raise ValueError("fit_generator needs an optimizer that lasts from batch to batch")
        if self.training.eps_warmup_epochs or self.training.ema_decay:
            raise ValueError("eps_warmup_epochs and ema_decay do not go with fit_generator")
        before = self.tunable.info.epochs
        NeuralNetworkMixin.fit_generator(self, generator, nb_epochs, verbose=verbose, **kwargs)
        self._describe(before + nb_epochs, f"last: epoch {nb_epochs}", self.threat)

    def _describe(self, epochs: int, selection: str, threat: Threat) -> None:
        """Have the model say what its weights now are: no longer those that a card trained."""
        changes = {
            "epochs": epochs,
            "selection": selection,
            "threat": threat,
            "lambda_sampling": self.training.lambda_sampling,
            "benchmark_card": "",
        }
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
        expected = np.eye(self.nb_classes)[one_hot.argmax(1)]
        if not np.array_equal(one_hot, expected):
            raise ValueError(f"labels are not one-hot of {self.nb_classes} classes, nor integers")
        checked, labels = check_arrays(images, one_hot.argmax(1), self.nb_classes)
        return checked.to(self._device), labels.to(self._device)

    def _card(self, epochs: int, batch_size: int) -> TrainingCard:
        card, trained = self.training, self.tunable.info.trained_lambdas
        if set(card.lambdas) != set(trained):
            raise ValueError(f"training.lambdas are {card.lambdas}; the model encodes {trained}")
        if card.selection != "last":
            raise ValueError('training.selection must be "last": fit has no validation images')
        counts = {
            "epochs": check_count(epochs, "nb_epochs", 1),
            "batch_size": check_count(batch_size, "batch_size", 2),
        }
        return TrainingCard(**(card.model_dump() | counts))

    def _oat(self) -> OAT:
        if not isinstance(self.tunable, OAT):
            raise ValueError(f"not possible with a model of method {self.tunable.info.method!r}")
        return self.tunable

    # --- copies

    def get_params(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_params(), "model": self.tunable}

    def set_params(self, **kwargs: Any) -> None:
        """Set constructor's arguments, all but ``model``.

        Raises:
            ValueError: if one is unknown, not valid, or another model.
        """
        if kwargs.pop("model", self.tunable) is not self.tunable:
            raise ValueError("an estimator keeps its model; make a new OATClassifier")
        super().set_params(**kwargs)

    def clone_for_refitting(self) -> Self:
        """Return an estimator of the same kind around a new model with fresh weights.

        Its optimizer, if there is one, is new too, with the defaults of this one's.
        """
        model = self._fresh()
        params: dict[str, Any] = {"model": model}
        if self._optimizer is not None:
            kind = type(self._optimizer)
            # AdamW, for one, has a default that its constructor does not know
            known = signature(kind).parameters
            defaults = {k: v for k, v in self._optimizer.defaults.items() if k in known}
            params["optimizer"] = kind(model.network.parameters(), **defaults)
        return self._sharing(fixed=self._fixed, **params)

    def reset(self) -> None:
        """Give the model fresh weights, in place."""
        fresh, model = self._fresh(), self._oat()
        model.network.load_state_dict(fresh.network.state_dict())
        model.info = fresh.info

    def _fresh(self) -> OAT:
        info = self._oat().info.model_copy(
            update={
                "seed": _draw_seed(),
                "epochs": 0,
                "selection": "none: fresh weights",
                "benchmark_card": "",
            }
        )
        return type(self._oat()).build(info)

    def save(self, filename: str, path: str | None = None) -> None:
        """Write the state of the whole family, and of the optimizer if there is one, as ART does.

        `oat_bench.save` writes a checkpoint instead, which also says what the weights are.

        Args:
            filename: the files are called this with ``.model`` and ``.optimizer`` after it.
            path: the folder; ART's data folder if None.
        """
        target = Path(config.ART_DATA_PATH if path is None else path) / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.save(self.tunable.state_dict(), f"{target}.model")
        if self._optimizer is not None:
            torch.save(self._optimizer.state_dict(), f"{target}.optimizer")

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()
        # the wrapper's class is made in a function, so it cannot be pickled
        del state["_model_wrapper"], state["_model"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._model = self._make_model_wrapper(self._follower.network)

    def __repr__(self) -> str:
        width = f", width={self.width:g}" if len(self.tunable.info.widths) > 1 else ""
        return f"{super().__repr__()[:-1]}, lam={self.lam:g}{width})"


class _Follower:
    """Keeps a plain network at an operating point of a tunable classifier.

    It is a forward pre-hook of the network, not a part of the estimator, because some attacks
    (AutoPGD with a loss of its own, AutoAttack) take the network out of the estimator and keep it.

    Args:
        tunable: whose weights are followed.
        point: where; may be set.

    Attributes:
        network: the plain network.
        lock: held while anything of this changes; threads may share it.
    """

    def __init__(self, tunable: TunableClassifier, point: OperatingPoint) -> None:
        self.tunable, self.point, self.lock = tunable, point, RLock()
        self.network = tunable.at(point.lam, point.width)
        self.forget()
        # ART does not call a Sequential, but its layers
        sequential = isinstance(self.network, nn.Sequential)
        first = next(self.network.children()) if sequential else self.network
        first.register_forward_pre_hook(self)

    def forget(self) -> None:
        """Build everything anew when it is next needed."""
        with self.lock:
            self._plain: dict[OperatingPoint, nn.Module] = {}
            self._weights: list[Tensor] = []
            self._stamp: list[tuple[int, int]] = []
            self._shown: OperatingPoint | None = None

    def __call__(self, *hook_arguments: object) -> None:
        """Bring the network up to date."""
        with self.lock, torch.inference_mode(False):
            self._notice()
            if self._shown != (point := self.point):
                _exchange_tensors(self.network, self.plain(point))
                self._shown = point

    def plain(self, point: OperatingPoint) -> nn.Module:
        """Return the network of a point, for this and later calls: it is not to be changed."""
        # what is built here may later be differentiated, even if this call never is
        with self.lock, torch.inference_mode(False):
            self._notice()
            if point not in self._plain:
                if len(self._plain) == _KEPT:
                    del self._plain[next(iter(self._plain))]
                self._plain[point] = self.tunable.at(point.lam, point.width)
            return self._plain[point]

    def _notice(self) -> None:
        """Forget all where the weights have changed."""
        weights = list(self.tunable.state_dict().values())
        stamp = [(weight.data_ptr(), weight._version) for weight in weights]
        if stamp != self._stamp:
            self.forget()
            # held, so that no other tensor can come to lie at the same address
            self._weights, self._stamp = weights, stamp

    def __getstate__(self) -> dict[str, Any]:
        return {"tunable": self.tunable, "point": self.point, "network": self.network}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = RLock()
        self.forget()


def _exchange_tensors(network: nn.Module, source: nn.Module) -> None:
    """Put the parameters and buffers of ``source`` into a network of the same build.

    The tensors of the network are replaced, not written to: a graph may still need them. Of another
    width they have other shapes, which the layers also say in numbers.
    """
    for old, new in zip(network.modules(), source.modules(), strict=True):
        for name, parameter in new.named_parameters(recurse=False):
            setattr(old, name, parameter)
        for name, buffer in new.named_buffers(recurse=False):
            setattr(old, name, buffer)
        for name in _SIZES & vars(new).keys():
            setattr(old, name, getattr(new, name))


class _Trainer(Trainer):
    """A training run that steps a scheduler after each epoch."""

    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None

    def _epoch(self, line: Bar) -> None:
        super()._epoch(line)
        if self.scheduler is not None:
            self.scheduler.step()


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
