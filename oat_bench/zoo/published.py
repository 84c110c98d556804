"""Published models by name: in the checkout or the wheel, in the cache, or downloaded."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from oat_bench import cards
from oat_bench.errors import UserError, network_reason
from oat_bench.files import atomic_write, is_file, make_folder
from oat_bench.progress import note

#: where ``leaderboards/`` of the repository is served, unless $OAT_BENCH_MODELS says otherwise
ADDRESS = "https://raw.githubusercontent.com/OWNER/oat-bench/main/leaderboards"
INDEX = "models.json"  #: in a wheel: size and SHA-256 of each checkpoint, by its place
_BOARD = "Linf"  # the threat model that names leave out
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(?:/[A-Za-z0-9][A-Za-z0-9._+-]{0,63}){0,2}")
_ENDINGS = (".json", ".onnx", ".pt2", ".safetensors")  # of files
_TIMEOUT = 30.0  # seconds without an answer after which a server counts as not there


@dataclass(frozen=True)
class Published:
    """A model on a leaderboard whose weights are published."""

    place: str  # DATASET/THREAT MODEL/NAME, of its files under ``leaderboards/``
    bytes: int  # of the checkpoint
    sha256: str  # likewise; empty where it lies beside the entry

    @property
    def name(self) -> str:
        """What users call it."""
        dataset, board, name = self.place.split("/")
        return f"{dataset}/{name}" if board == _BOARD else self.place

    @property
    def entry(self) -> Path:
        """Its entry."""
        return cards.folder("leaderboards") / f"{self.place}.json"

    @property
    def file(self) -> str:
        """Its checkpoint, from where the leaderboards are."""
        return f"{self.place}.safetensors"


def models() -> list[Published]:
    """Return the published models, by name."""
    folder = cards.folder("leaderboards")
    index = folder / INDEX
    if index.is_file():
        stated = json.loads(index.read_text())
        found = [Published(place, **about) for place, about in stated.items()]
    else:
        files = [f for f in folder.glob("*/*/*.safetensors") if f.with_suffix(".json").is_file()]
        places = [(f, f.relative_to(folder).with_suffix("").as_posix()) for f in files]
        found = [Published(place, f.stat().st_size, "") for f, place in places]
    return sorted(found, key=lambda model: model.name)


def is_name(model: str) -> bool:
    """Whether a model may be published by this name; ``DATASET/NAME`` is meant for most."""
    return _NAME.fullmatch(model) is not None and not model.endswith(_ENDINGS)


def named(name: str) -> Published:
    """Return a published model; a `UserError`, as for a path, if no model has the name."""
    known = models()
    for model in known:
        if name in (model.name, model.place):
            return model
    near = get_close_matches(name, [model.name for model in known], n=2, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "see oat-bench list models"
    raise UserError(
        f"no checkpoint at {name}; expected a .safetensors file or a run's folder, or the name "
        f"of a published model: {hint}"
    )


def find(name: str) -> Path:
    """Return the checkpoint of a published model, downloaded if it is nowhere.

    Raises:
        UserError: if no model has the name, or it cannot be had, or is not what was published.
    """
    model = named(name)
    beside, cached = model.entry.with_suffix(".safetensors"), cache() / "models" / model.file
    if is_file(beside):
        return beside
    if not (is_file(cached) and cached.stat().st_size == model.bytes and _own(model, cached)):
        _download(model, cached)
    return cached


def cache() -> Path:
    """Return where downloads are kept: $OAT_BENCH_CACHE, else in the user's own folder."""
    own = os.environ.get("OAT_BENCH_CACHE")
    users = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or f"{users}/oat-bench").expanduser()


def _own(model: Published, path: Path) -> bool:
    return hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256


def _download(model: Published, to: Path) -> None:
    address = os.environ.get("OAT_BENCH_MODELS") or ADDRESS
    url = f"{address.rstrip('/')}/{model.file}"
    make_folder(to.parent, "$OAT_BENCH_CACHE")
    note(f"downloading {url} ({model.bytes / 1e6:.1f} MB) to {to}")
    try:
        with urlopen(url, timeout=_TIMEOUT) as answer:
            content: bytes = answer.read(model.bytes + 1)
    except (OSError, HTTPException, ValueError) as error:
        raise UserError(
            f"{model.name} is not on this machine and cannot be downloaded "
            f"({network_reason(error)}); put {url} at {to}"
        ) from error
    if hashlib.sha256(content).hexdigest() != model.sha256:
        raise UserError(
            f"{url} did not send the published file (its SHA-256 differs); try again, or put "
            f"the original at {to}"
        )
    atomic_write(to, content)
