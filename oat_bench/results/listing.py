"""All that stores hold, as one table: a row for each model, operating point and attack."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from oat_bench.attacks.cell import CellInfo
from oat_bench.errors import UserError, unknown
from oat_bench.results.outcomes import COLUMNS, RETRIED_NAME, OutcomeStore
from oat_bench.statistics.accuracy import Accuracy, clean_right, robust_right

#: what tells one row from another, most telling first
IDENTITY = ["store", *(k for k in CellInfo.model_fields if k not in ("format_version", "part"))]


def stores(folders: Iterable[Path]) -> list[Path]:
    """Find the stores in folders: a run's, or one that holds runs at any depth."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(
                f"no folder {folder}; name a run's folder, or one that holds runs (default: runs)"
            )
        found += [description.parents[1] for description in sorted(folder.rglob("cell.json"))]
    return list(dict.fromkeys(found))


def outcomes(paths: Iterable[Path]) -> pd.DataFrame:
    """Read every settled outcome, one row an example: the columns of `IDENTITY` and `COLUMNS`."""
    frames = []
    for path in paths:
        store = OutcomeStore(path)
        for name, info in store.cells():
            if not info.attack.endswith(RETRIED_NAME):  # on some that stood: of no whole model
                about = info.model_dump(exclude={"format_version"})
                frames.append(store.read(name).assign(store=str(path), **about))
    if not frames:
        return pd.DataFrame(columns=[*IDENTITY, *COLUMNS])
    frame = pd.concat(frames, ignore_index=True)
    # of an attack made of parts an example is settled that one broke, or that the last one saw
    broken = frame["attacked_prediction"] != frame["label"]
    frame = frame[broken | (frame["part"] == frame["parts"])]
    return frame.drop(columns="part")[[*IDENTITY, *COLUMNS]]


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Count: a row for each of `IDENTITY` with n, sa, ra (percent) and 95% Wilson intervals."""
    rows = []
    for identity, part in frame.groupby(IDENTITY, sort=True):
        row: dict[str, object] = dict(zip(IDENTITY, identity, strict=True))
        row["n"] = len(part)
        for name, right in (("sa", clean_right), ("ra", robust_right)):
            found = Accuracy.of(right(part))
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    numbers = ["n", "sa", "sa_low", "sa_high", "ra", "ra_low", "ra_high"]
    return pd.DataFrame(rows, columns=[*IDENTITY, *numbers])


def only(
    frame: pd.DataFrame, column: str, chosen: str | None, *, prefix: bool = False
) -> pd.DataFrame:
    """Keep the rows whose column is, or begins with, one of several values, by commas."""
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
    written = {
        "data set": "{dataset}",
        "method": "{method}",
        "network": "{architecture}",
        "model": "{model:.8}",
        "lambda": "{lam:g}",
        "width": "{width:g}",
        "attack": "{attack}",
        "attacked at": "{crafted}",
        "eps": "{eps:.3g}",
        "seed": "{seed}",
        "gradients": "{gradients}",
        "n": "{n}",
        "SA": "{sa:.1f} [{sa_low:.1f}, {sa_high:.1f}]",
        "RA": "{ra:.1f} [{ra_low:.1f}, {ra_high:.1f}]",
    }
    rows = [
        {name: form.format_map(row) for name, form in written.items()}
        | {"where": str(Path(row["store"]).parent)}
        for row in table.to_dict("records")
    ]
    frame = pd.DataFrame(rows, columns=[*written, "where"])
    usual = {"width": "1", "attacked at": "", "gradients": "float32"}
    return frame.drop(columns=[name for name, word in usual.items() if (frame[name] == word).all()])
