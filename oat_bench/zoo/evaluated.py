"""What was evaluated of a model: its entry, found by the fingerprint of the checkpoint."""

from contextlib import suppress
from pathlib import Path

from oat_bench.errors import UserError
from oat_bench.files import is_file
from oat_bench.results import records
from oat_bench.run_folder import CHECKPOINT, ENTRY
from oat_bench.zoo import published
from oat_bench.zoo.loading import load


def entry_of(model: str, runs: Path = Path("runs")) -> Path:
    """Return where the entry of a model lies; of a run's folder or an entry, that.

    That of a checkpoint is looked for beside it, under ``runs`` and among those published.

    Raises:
        UserError: if a checkpoint has none.
    """
    for one in published.models():
        if model in (one.name, one.place) and not Path(model).exists():
            return one.entry
    path = weights = Path(model)
    if not path.suffix:
        weights = path / CHECKPOINT
    if is_file(path / ENTRY) or weights.suffix != ".safetensors" or not is_file(weights):
        return path
    own = load(weights).fingerprint()
    beside = [weights.with_name(ENTRY), weights.with_suffix(".json")]
    others = [*sorted(runs.rglob(ENTRY)), *(one.entry for one in published.models())]
    for place in filter(is_file, [*beside, *others]):
        with suppress(UserError):  # of another format, or damaged
            if records.read(place).entry.model_fingerprint == own:
                return place
    raise UserError(
        f"{model}: no entry of this checkpoint beside it, under {runs} or among the published "
        f"models; oat-bench evaluate {model} makes one"
    )
