"""Anybody's network, or anybody's family of them, as a tunable classifier.

A user's file is Python, and naming it runs it: ``./mine.py:build`` calls ``build()`` in it, and
``./mine.py:build=weights.pt`` calls ``build("weights.pt")``.
"""

import importlib.util
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from oat_bench.benchmark import card_for
from oat_bench.cards import Threat
from oat_bench.classifier import ModelInfo, TunableClassifier
from oat_bench.datasets import DATA_DIR, Dataset, load
from oat_bench.errors import UserError, one_line
from oat_bench.files import sha256
from oat_bench.methods.fixed import LAMBDA, Fixed
from oat_bench.methods.own import Own

#: ``path.py:function``, and what follows ``=`` is its argument
_SOURCE = re.compile(r"(?P<path>.+\.py):(?P<function>[^:=]*)(?:=(?P<argument>.*))?", re.DOTALL)
#: where an object with ``at(lam)`` is looked at, unless told otherwise
LAMBDAS = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0]
OWN = "oat_bench_own_"  #: begins a module's name where its file's is taken
_TRIED = 4  #: test images that a model is tried on before it is taken
_ROUNDING = 1e-4  #: rows of probabilities add up to 1 to this


class Normalized(nn.Module):
    """A network behind (x - mean) / std, channel by channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.module = module
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map images in [0, 1] to what the network returns for them."""
        logits: Tensor = self.module((x - self.mean) / self.std)
        return logits


def wrap(
    model: Any,
    *,
    dataset: Dataset | str,
    name: str = "",
    normalize: tuple[Sequence[float], Sequence[float]] | None = None,
    lambdas: Sequence[float] | None = None,
    widths: Sequence[float] | None = None,
    threat: Threat | None = None,
    data_dir: str | Path = DATA_DIR,
    code: str = "",
) -> TunableClassifier:
    """Take a network or a family of them for a tunable classifier; nothing is copied.

    Args:
        model: a `torch.nn.Module` in eval mode, images [n, C, H, W] in [0, 1] to logits
            [n, classes], which has no dial; or an object with ``at(lam)`` or ``at(lam, width)``
            that returns such modules.
        dataset: what it classifies: a name, the path of a folder of images, or what
            `oat_bench.datasets.load` returned.
        name: of the network in tables; its class if empty.
        normalize: mean and standard deviation of each channel, where the network expects
            normalised images.
        lambdas: of an object with ``at``: those to evaluate, ascending, in [0, 1].
        widths: likewise; 1 if None.
        threat: eps, norm and step size that it is meant for; those of the data set's card if None.
        data_dir: where data sets are looked for, and downloaded to.
        code: fingerprint of the code, where it is known; outcomes that are stored are of it.

    Raises:
        UserError: if it is not such a model; it is tried on four test images.
    """
    dial = callable(getattr(model, "at", None))
    if not dial and not isinstance(model, nn.Module):
        raise UserError(
            f"a model is a {type(model).__name__}; expected a torch.nn.Module, or an object with "
            "at(lam) that returns one"
        )
    if isinstance(dataset, str):
        dataset = load(dataset, data_dir)
    name = name or type(model).__name__
    info = ModelInfo(
        method="own" if dial else "fixed",
        dataset=dataset.name,
        classes=list(dataset.classes),
        input_shape=dataset.input_shape,
        own_name=name,
        own_widths=list(widths or [1.0]),
        options={"code": code} if code else {},
        trained_lambdas=sorted(lambdas or LAMBDAS) if dial else [LAMBDA],
        dial=dial,
        threat=threat or card_for(dataset.name).threat,
        seed=0,
        epochs=0,
        selection="none: as it was given",
    )

    def prepare(module: nn.Module) -> nn.Module:
        if module.training:
            raise UserError(
                f"{name} is in train mode, where batch norm and dropout answer differently each "
                "time; call .eval() on it first"
            )
        return module if normalize is None else Normalized(module, *normalize).eval()

    wrapped: TunableClassifier = Own(info, model, prepare) if dial else Fixed(info, prepare(model))
    x = dataset.test.inputs(slice(_TRIED))
    for width in info.widths:
        for lam in dict.fromkeys((info.trained_lambdas[0], info.trained_lambdas[-1])):
            where = f"{name} at lambda {lam:g}" if dial else name
            check_outputs(wrapped.at(lam, width), x, info.num_classes, where)
    return wrapped


@torch.no_grad()
def check_outputs(module: nn.Module, x: Tensor, n_classes: int, name: str) -> None:
    """Refuse a network, called ``name``, that does not map images to logits [n, n_classes]."""
    try:
        logits = module(x.to(next(module.parameters(), x).device))
    except Exception as error:
        raise UserError(
            f"{name} fails on images of shape {list(x.shape)} "
            f"({type(error).__name__}: {one_line(error)}); expected logits"
        ) from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (len(x), n_classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(
            f"{name} returns {got} for {len(x)} images; expected logits of shape "
            f"[{len(x)}, {n_classes}], one for each class of the data set"
        )
    if not bool(torch.isfinite(logits).all()):
        raise UserError(f"{name} returns NaN or infinite logits for test images")
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < _ROUNDING).all()):
        raise UserError(
            f"{name} returns probabilities, whose flat ends hide gradients from attacks; return "
            "logits: leave out the softmax"
        )


def is_source(model: str) -> bool:
    """Whether a model is named by a function in a Python file."""
    return _SOURCE.fullmatch(model) is not None


def from_source(model: str, dataset: Dataset) -> TunableClassifier:
    """Run a user's function, ``path.py:function[=argument]``, and `wrap` what it returns."""
    match = _SOURCE.fullmatch(model)
    assert match is not None
    path, argument = Path(match["path"]), match["argument"]
    build = _function(path, match["function"])
    try:
        made = build() if argument is None else build(argument)
    except Exception as error:
        raise UserError(f"{model} raises {type(error).__name__}: {one_line(error)}") from error
    parts = [path.read_bytes(), match["function"], argument or ""]
    if argument and Path(argument).is_file():
        parts.append(Path(argument).read_bytes())
    kind = type(made)
    # a network of torch's own classes is called after what built it
    given = kind.__module__.partition(".")[0] != "torch"
    name = kind.__name__ if given else f"{path.stem}.{match['function']}"
    return wrap(made, dataset=dataset, name=name, code=sha256(*parts))


def _function(path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise UserError(f"no file at {path}; expected Python, such as ./mine.py:build")
    # under its own name its classes unpickle; but no library is replaced
    module_name = path.stem if path.stem not in sys.modules else f"{OWN}{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"{path} raises {type(error).__name__}: {one_line(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [k for k, v in vars(module).items() if callable(v) and not k.startswith("_")]
        raise UserError(
            f"{path} has no function {name!r}; it has {', '.join(sorted(known)) or 'none'}"
        )
    return found  # type: ignore[no-any-return]
