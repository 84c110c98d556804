"""An estimator of ART, the Adversarial Robustness Toolbox, with an operating point."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from art import config
from art.estimators.classification import PyTorchClassifier
from numpy.typing import ArrayLike
from torch import Tensor, nn

from oat_bench.cards import Threat
from oat_bench.classifier import OperatingPoint, TunableClassifier, check_widths
from oat_bench.estimator.fitting import Fitting
from oat_bench.estimator.follower import Follower
from oat_bench.images import check_count, check_images
from oat_bench.training.card import TrainingCard

#: how far outside of the clip values attacks may query, in units of their range: ZOO and others do
#: not clip on the way; images of 0 to 16 or to 255 lie further off
_QUERIED = 8.0


class OATClassifier(Fitting):
    """A tunable classifier as ART sees it: at every moment a plain one, at the operating point.

    Everything that ART computes, and every attack, one built earlier included, follows the point
    (``lam``; of OATS ``width`` too) and the weights when they are trained. Two things go unnoticed:
    weights written through ``.data``, and those written by an optimiser with ``fused=True`` while
    the network is in eval mode; call `refresh` then.

    Threads may share an estimator, but its state is every thread's: the point, the layer that
    `get_activations` watches, dropout while it is on. A thread that needs another point for
    anything but `predict` takes an estimator of its own from `at`. While one trains none predicts.

    The arguments are those of `PyTorchClassifier`, with defaults for most, and four more.

    Args:
        model: such as `oat_bench.load` returns; shared, not copied.
        loss: cross-entropy if None.
        input_shape, nb_classes: C, H, W and number of logits; the model's own if None.
        optimizer: over the parameters of ``model.network``; if None, `fit` makes an SGD by the
            recipe, anew at each call.
        use_amp, channels_first: only False and True; opt_level and loss_scale have no effect.
        clip_values: smallest and largest value of the images that attacks make.
        preprocessing: as in ART, like both sorts of defences; what comes out must be in [0, 1].
        device_type: ``cpu`` or ``gpu``; where the model is if None.
        lam, width: the point to begin with; the largest trained lambda and the widest if None.
        training: the recipe of `fit`, but for epochs and batch size; SGD at learning rate 0.1 with
            a cosine schedule if None.
        threat: the attack that `fit` trains against; the model's own if None.

    Raises:
        ValueError: if an argument is out of range, contradicts the model, or is not supported.
    """

    _ours = ("lam", "width", "training", "threat")
    estimator_params: ClassVar = [*PyTorchClassifier.estimator_params, *_ours]

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
        lam = info.trained_lambdas[-1] if lam is None else float(lam)
        width = info.widths[0] if width is None else float(width)
        self._follower = Follower(model, OperatingPoint(lam, width))
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

    @property
    def model(self) -> nn.Module:
        """The plain network, in which each change of the point and of the weights shows."""
        self._follower()
        return self._follower.network

    @property
    def lam(self) -> float:
        """The point's robustness weight, in [0, 1]; AttributeError if set on one that is fixed."""
        return self._follower.point.lam

    @lam.setter
    def lam(self, lam: float) -> None:
        self._follower.point = self._checked(OperatingPoint(float(lam), self.width))

    @property
    def width(self) -> float:
        """The point's share of the channels, one of the model's widths; set as `lam`."""
        return self._follower.point.width

    @width.setter
    def width(self, width: float) -> None:
        self._follower.point = self._checked(OperatingPoint(self.lam, float(width)))

    def _checked(self, point: OperatingPoint) -> OperatingPoint:
        info = self.tunable.info
        check_widths(info.widths, [point.width])
        self.tunable.check_lambda(point.lam, info.trained_lambdas)
        if self._fixed and point != self._follower.point:
            both = len(info.widths) > 1
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
        """Be at a point within a with block, for every thread; what is None stays as it is."""
        before = self._follower.point
        self._follower.point = self._checked(self._point(lam, width))
        try:
            yield self
        finally:
            self._follower.point = before

    def at(self, lam: float | None = None, width: float | None = None) -> Self:
        """Return an estimator that stays at a point and shares model, optimizer and settings.

        What is None is as it is here; ValueError if the model has no such point.
        """
        point = self._point(lam, width)
        return self._sharing(lam=point.lam, width=point.width, fixed=True)

    def _point(self, lam: float | None, width: float | None) -> OperatingPoint:
        here = self._follower.point
        there = (here.lam if lam is None else lam, here.width if width is None else width)
        return OperatingPoint(*map(float, there))

    def refresh(self) -> None:
        """Take up weights that were written in a way that goes unnoticed; see `OATClassifier`."""
        self._follower.forget()

    def __copy__(self) -> Self:
        return self._sharing(fixed=self._fixed)

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
        """Return logits after ART's postprocessing, float32 of shape [n, nb_classes].

        Args:
            x: images [n, C, H, W], n >= 0, of any floating type, within the clip values or, as some
                attacks ask, near; those of another scale, such as 0 to 255, are refused.
            batch_size: images in one pass, >= 1.
            training_mode: whether the network has its dropout on.
            lam: a float instead of the current operating point, or one for each image, shape [n].
            width: instead of the current operating point's, for all images.
            kwargs: go to `PyTorchClassifier.predict`.

        Raises:
            ValueError: if x are not such images, lam has another shape, or there is no such point.
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
            predict = super(OATClassifier, there).predict
            return predict(x, batch_size, training_mode, **kwargs)  # type: ignore[no-any-return]
        model = self._follower.plain(point) if elsewhere else self.model.eval()
        return self._in_batches(x, batch_size, lambda images, _: model(images))

    def _predict_each(
        self, x: np.ndarray, batch_size: int, training_mode: bool, lam: np.ndarray, width: float
    ) -> np.ndarray:
        if training_mode:
            raise ValueError("training_mode=True does not go with one lam for each image")
        values = torch.as_tensor(lam, dtype=torch.float32, device=self._device)
        if values.shape != (len(x),):
            raise ValueError(
                f"lam has shape {tuple(values.shape)}; expected a float or shape ({len(x)},)"
            )
        for value in np.unique(lam):
            self._checked(OperatingPoint(float(value), width))
        with self._follower.lock:
            logits = self.tunable.logits
            return self._in_batches(x, batch_size, lambda z, batch: logits(z, values[batch], width))

    def _in_batches(
        self, x: np.ndarray, batch_size: int, logits: Callable[[Tensor, slice], Tensor]
    ) -> np.ndarray:
        """Compute logits batch by batch on the device; they leave it once."""
        prepared, _ = self._apply_preprocessing(x, y=None, fit=False)
        images = torch.from_numpy(prepared)
        batches = [slice(i, i + batch_size) for i in range(0, len(x) or 1, batch_size)]
        with torch.no_grad():
            parts = [logits(images[batch].to(self._device), batch) for batch in batches]
        predictions = torch.cat(parts).cpu().numpy()
        return self._apply_postprocessing(preds=predictions, fit=False)  # type: ignore[no-any-return]

    def _apply_preprocessing(
        self, x: Any, y: Any, fit: bool = False, no_grad: bool = True
    ) -> tuple[Any, Any]:
        low, high = (-np.inf, np.inf) if self.clip_values is None else self.clip_values
        span = float(np.min(low)), float(np.max(high))
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
        """Return a layer's output, as ART's own does."""
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

    def get_params(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_params(), "model": self.tunable}

    def set_params(self, **kwargs: Any) -> None:
        """Set constructor's arguments, all but ``model``."""
        if kwargs.pop("model", self.tunable) is not self.tunable:
            raise ValueError("an estimator keeps its model; make a new OATClassifier")
        super().set_params(**kwargs)

    def save(self, filename: str, path: str | None = None) -> None:
        """Write the family's state and the optimizer's, ``.model`` and ``.optimizer``, as ART does.

        To ``path``, ART's data folder if None. `oat_bench.save` writes a checkpoint instead.
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
