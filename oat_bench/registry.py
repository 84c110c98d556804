"""Names that cards and commands use, and what they stand for.

A name stands for a Python object, ``"module:attribute"``, or a module, imported when it is first
asked for. Other packages add theirs by an entry point in their pyproject.toml:

    [project.entry-points."oat_bench.methods"]
    my-defence = "my_package:MyDefence"
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from oat_bench.errors import UserError, one_line, unknown

T = TypeVar("T")


class Registry(Mapping[str, Any]):
    """Objects by name: those built in, those of installed packages, those registered.

    Args:
        kind: what they are, in the words of an error.
        group: of entry points, by which other packages add theirs.
        built_in: ``"module:attribute"`` or ``"module"`` by name.
    """

    def __init__(self, kind: str, group: str, built_in: Mapping[str, str]) -> None:
        self.kind, self.group = kind, group
        self._built_in = dict(built_in)
        self.registered: dict[str, Any] = {}  #: what this process entered by `register`

    @cached_property
    def _foreign(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=self.group)}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that enters an object under a name, for this process."""

        def enter(value: T) -> T:
            self.registered[name] = value
            return value

        return enter

    def __iter__(self) -> Iterator[str]:
        return iter({**self._built_in, **self._foreign, **self.registered})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        # what is built in is known without a look at every installed package
        return name in self.registered or name in self._built_in or name in self._foreign

    def known(self, name: str) -> str:
        """Return a name that there is; a UserError names the nearest."""
        if name not in self:
            raise unknown(self.kind, name, self)
        return name

    def meant(self, name: str) -> str:
        """Return the name that is meant, whatever its case, dashes and underscores."""
        plain = {_plain(known): known for known in self}
        return name if name in self else plain.get(_plain(name), name)

    def __getitem__(self, name: str) -> Any:
        """Return the object of a name; a UserError if there is none, or its package fails."""
        if name in self.registered:
            return self.registered[name]
        if name in self._built_in:
            module, _, attribute = self._built_in[name].partition(":")
            found = import_module(module)
            return getattr(found, attribute) if attribute else found
        point = self._foreign[self.known(name)]
        try:
            return point.load()
        except Exception as error:
            raise UserError(
                f"{self.kind} {name!r} is {point.value}, which cannot be imported "
                f"({type(error).__name__}: {one_line(error)}); mend or remove its package"
            ) from error


def _plain(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


METHODS = Registry(
    "method",
    "oat_bench.methods",
    {
        "oat": "oat_bench.methods.oat:OAT",
        "oat-single-bn": "oat_bench.methods.oat:OATSingleBN",
        "oats": "oat_bench.methods.oat:OATS",
        "oats-single-bn": "oat_bench.methods.oat:OATSSingleBN",
        "solar": "oat_bench.methods.solar:SOLAR",
        "float": "oat_bench.methods.float:FLOAT",
        "pgd-at": "oat_bench.methods.pgd_at:PGDAT",
        "pgd-ats": "oat_bench.methods.pgd_at:PGDATS",
        "oat-dial": "oat_bench.methods.dial:OATDial",
        "fixed": "oat_bench.methods.fixed:Fixed",
        "own": "oat_bench.methods.own:Own",
        "output-mixing": "oat_bench.methods.mixing:OutputMixing",
        "random-choice": "oat_bench.methods.random_choice:RandomChoice",
        "mixednuts": "oat_bench.methods.mixednuts:MixedNUTS",
        "weight-interpolation": "oat_bench.methods.weights:WeightInterpolation",
        "affine-interpolation": "oat_bench.methods.affine:AffineInterpolation",
        "dial": "oat_bench.methods.dial:Dial",
    },
)
ENGINES = Registry(
    "engine",
    "oat_bench.engines",
    {
        "oat_bench": "oat_bench.attacks.in_house",
        "torchattacks": "oat_bench.attacks.with_torchattacks",
        "art": "oat_bench.attacks.with_art",
        "file": "oat_bench.attacks.saved",
    },
)
DATASETS = Registry(
    "data set",
    "oat_bench.datasets",
    {
        "fashion-12x12": "oat_bench.datasets.published:fashion_12x12",
        "digits": "oat_bench.datasets.published:digits",
        "fashion-mnist": "oat_bench.datasets.published:fashion_mnist",
        "svhn": "oat_bench.datasets.published:svhn",
        "cifar10": "oat_bench.datasets.cifar:cifar10",
        "cifar100": "oat_bench.datasets.cifar:cifar100",
        "stl10": "oat_bench.datasets.published:stl10",
        "image-folder": "oat_bench.datasets:unnamed_folder",
    },
)


def dataset_meant(name: str) -> str:
    """Return the data set that is meant, see `Registry.meant`; the path of a folder stays."""
    return name if os.path.isdir(name) else DATASETS.meant(name)  # noqa: PTH112


ARCHITECTURES = Registry("architecture", "oat_bench.architectures", {})
#: where models lie that no path names, ``NAME:...``; each is called with what follows the colon
MODELS = Registry(
    "place of models",
    "oat_bench.models",
    {"hf": "oat_bench.zoo.hub:load", "robustbench": "oat_bench.zoo.robustbench:load"},
)
