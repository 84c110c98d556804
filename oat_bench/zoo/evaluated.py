"""What was evaluated of a model: its entry, found by the fingerprint of the checkpoint."""

from contextlib import suppress
from pathlib import Path

from oat_bench.errors import UserError, one_line
from oat_bench.files import is_file
from oat_bench.progress import note
from oat_bench.results import records
from oat_bench.results.records import Record
from oat_bench.run_folder import CHECKPOINT, ENTRY
from oat_bench.zoo import published
from oat_bench.zoo.loading import load


def entry_of(model: str, runs: Path = Path("runs")) -> Path:
    """Return where the entry of a model lies; of a run's folder or an entry, that.

    That of a checkpoint is looked for beside it, under ``runs`` and among those published; of
    several under ``runs``, that of most outcomes is taken. Which one it is, is said.

    Raises:
        UserError: if there is none.
    """
    for one in published.models():
        if model in (one.name, one.place) and not Path(model).exists():
            return one.entry
    path = Path(model)
    weights = path / CHECKPOINT if is_file(path / CHECKPOINT) else path
    if is_file(path / ENTRY) or (path.suffix == ".json" and is_file(path)):
        return path
    if weights.suffix != ".safetensors" or not is_file(weights):
        raise UserError(
            f"no entry at {one_line(model)}; expected a run's folder, an entry.json, a checkpoint "
            "(.safetensors) that was evaluated, or a published model (oat-bench list models)"
        )
    own = load(weights).fingerprint()
    beside = [weights.with_name(ENTRY), weights.with_suffix(".json")]
    for places in (beside, [*runs.rglob(ENTRY)], [one.entry for one in published.models()]):
        of_it = [(_outcomes(record), place) for place in places if (record := _of(place, own))]
        if of_it:
            _, place = min(of_it, key=lambda one: (-one[0], one[1]))
            note(f"{model}: evaluated in {place}")
            return place
    raise UserError(
        f"{model}: no entry of this checkpoint beside it, under {runs} or among the published "
        f"models; oat-bench evaluate {model} makes one"
    )


def _of(place: Path, fingerprint: str) -> Record | None:
    if is_file(place):
        with suppress(UserError):  # of another format, or damaged
            record = records.read(place)
            return record if record.entry.model_fingerprint == fingerprint else None
    return None


def _outcomes(record: Record) -> int:
    points = record.entry.operating_points
    return sum(point.n * len(point.robust_acc) for point in points)
