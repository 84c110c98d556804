"""All that stores hold, as one table: a row for each model, operating point and attack."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from oat_bench.attacks.cell import CellInfo
from oat_bench.errors import UserError, unknown
from oat_bench.results.outcomes import COLUMNS, RETRIED_NAME, OutcomeStore
from oat_bench.statistics.accuracy import Accuracy, clean_right, robust_right

#: what tells one row from another, most telling first
IDENTITY = [
    "store",
    *(name for name in CellInfo.model_fields if name not in ("format_version", "part")),
]


def stores(folders: Iterable[Path]) -> list[Path]:
    """Find the stores in folders: a run's, or one that holds runs at any depth.

    Raises:
        UserError: if a folder does not exist.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"no folder {folder}; name a run's folder, or one that holds runs (default: runs)"
            )
        for description in sorted(folder.rglob("cell.json")):
            found.setdefault(description.parents[1])
    return list(found)


def outcomes(paths: Iterable[Path]) -> pd.DataFrame:
    """Read every outcome that is settled, one row an example.

    Of an attack made of parts an example is settled that some part broke, or that the last one saw.

    Returns:
        The columns of `IDENTITY` and of `oat_bench.results.outcomes.COLUMNS`.

    Raises:
        UserError: if a file is damaged.
    """
    frames = []
    for path in paths:
        store = OutcomeStore(path)
        for name, info in store.cells():
            if info.attack.endswith(RETRIED_NAME):  # on some that stood: no accuracy of a model
                continue
            about = {"store": str(path), **info.model_dump(exclude={"format_version"})}
            frames.append(store.read(name).assign(**about))
    if not frames:
        return pd.DataFrame(columns=[*IDENTITY, *COLUMNS])
    frame = pd.concat(frames, ignore_index=True)
    broken = frame["attacked_prediction"] != frame["label"]
    frame = frame[broken | (frame["part"] == frame["parts"])]
    return frame.drop(columns="part")[[*IDENTITY, *COLUMNS]]


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Count: one row for each store, model, operating point and attack, with n, SA and RA.

    Returns:
        The columns of `IDENTITY`, then n, sa, ra (percent) and their 95% Wilson intervals.
    """
    rows = []
    for identity, part in frame.groupby(IDENTITY, sort=True):
        row: dict[str, object] = dict(zip(IDENTITY, identity, strict=True))
        row["n"] = len(part)
        for name, right in (("sa", clean_right(part)), ("ra", robust_right(part))):
            accuracy = Accuracy.of(right)
            row |= {
                name: accuracy.value,
                f"{name}_low": accuracy.low,
                f"{name}_high": accuracy.high,
            }
        rows.append(row)
    numbers = ["n", *(f"{name}{end}" for name in ("sa", "ra") for end in ("", "_low", "_high"))]
    return pd.DataFrame(rows, columns=[*IDENTITY, *numbers])


def only(
    frame: pd.DataFrame, column: str, chosen: str | None, *, prefix: bool = False
) -> pd.DataFrame:
    """Keep the rows whose column is one of several values.

    Args:
        frame: from `outcomes`.
        column: its name.
        chosen: the values, with commas between; all if None.
        prefix: whether it is enough that a value begins so.

    Raises:
        UserError: if no row has one of the values; it names those that there are.
    """
    if chosen is None or frame.empty:
        return frame
    values = frame[column].astype(str)
    kept = pd.Series(False, index=frame.index)
    for value in (part.strip() for part in chosen.split(",")):
        same = values.str.startswith(value) if prefix else values == value
        if not same.any():
            raise unknown(f"{column} in these results", value, set(values))
        kept |= same
    return frame[kept]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Write `summarize`'s table for readers; width and precision only where they are unusual."""
    columns = {
        "data set": table["dataset"],
        "method": table["method"],
        "network": table["architecture"],
        "model": table["model"].str[:8],
        "lambda": table["lam"].map("{:g}".format),
        "width": table["width"].map("{:g}".format),
        "attack": table["attack"],
        "attacked at": table["crafted"],
        "eps": table["eps"].map("{:.3g}".format),
        "seed": table["seed"].astype(str),
        "gradients": table["gradients"],
        "n": table["n"].astype(str),
        "SA": _accuracies(table, "sa"),
        "RA": _accuracies(table, "ra"),
        "where": table["store"].map(lambda store: str(Path(store).parent)),
    }
    usual = {"width": "1", "attacked at": "", "gradients": "float32"}
    return pd.DataFrame(
        {k: v for k, v in columns.items() if k not in usual or (v != usual[k]).any()}
    )


def _accuracies(table: pd.DataFrame, name: str) -> pd.Series:
    columns = (table[name], table[f"{name}_low"], table[f"{name}_high"])
    return pd.Series(
        [f"{value:.1f} [{low:.1f}, {high:.1f}]" for value, low, high in zip(*columns, strict=True)],
        index=table.index,
        dtype=str,
    )
