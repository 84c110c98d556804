"""All that stores hold, as one table: a row for each model, operating point and attack."""

from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from oat_bench.attacks.cell import CellInfo
from oat_bench.errors import UserError, unknown
from oat_bench.results.outcomes import COLUMNS, RETRIED_NAME, OutcomeStore
from oat_bench.statistics.accuracy import Accuracy, Estimate, clean_right, robust_right
from oat_bench.statistics.phases import Design, phases

#: what tells one row from another, most telling first
IDENTITY = ["store", *(k for k in CellInfo.model_fields if k not in ("format_version", "part"))]


#: what outcomes have in common that one attack's survivors may be told by another's
_SUBJECT = ["store", "data", "model", "lam", "width", "crafted", "norm", "eps", "gradients"]


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
    """Read every settled outcome, one row an example: the columns of `IDENTITY` and `COLUMNS`.

    And ``after``: the attacks, by commas, of whose survivors some of the rows are a sample.
    """
    frames = []
    for path in paths:
        store = OutcomeStore(path)
        for name, info in store.cells():
            if not info.attack.endswith(RETRIED_NAME):  # on some that stood: of no whole model
                about = info.model_dump(exclude={"format_version"}) | {"store": str(path)}
                after = store.after(name)
                about["after"] = None if after is None else ",".join(after)
                frames.append(store.read(name).assign(**about))
    if not frames:
        return pd.DataFrame(columns=[*IDENTITY, *COLUMNS, "after"])
    frame = pd.concat(frames, ignore_index=True)
    # of an attack made of parts an example is settled that one broke, or that the last one saw
    broken = frame["attacked_prediction"] != frame["label"]
    frame = frame[broken | (frame["part"] == frame["parts"])]
    return frame[[*IDENTITY, *COLUMNS, "after"]]


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Count: a row for each of `IDENTITY` with n, sa, ra (percent) and their 95% intervals.

    Of an attack on survivors, n are all examples, ``sampled`` of ``left`` it was run on.
    """
    rows = []
    together = dict(iter(frame.groupby(_SUBJECT)))
    for identity, part in frame.groupby(IDENTITY, sort=True):
        row: dict[str, object] = dict(zip(IDENTITY, identity, strict=True))
        whole, ra = _on_survivors(part, together[tuple(row[key] for key in _SUBJECT)])
        row |= {"n": len(whole), "left": ra.left, "sampled": ra.sampled}
        for name, found in (("sa", Accuracy.of(clean_right(whole))), ("ra", ra)):
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    numbers = ["n", "left", "sampled", "sa", "sa_low", "sa_high", "ra", "ra_low", "ra_high"]
    table = pd.DataFrame(rows, columns=[*IDENTITY, *numbers])
    return table.astype({"left": "Int64", "sampled": "Int64"})


def _on_survivors(part: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.DataFrame, Accuracy]:
    """Return the examples that outcomes are of, and RA.

    They are of survivors if the store says so, or else if the attack saw none that had fallen under
    others, which saw such. Then the first phase is those that saw all of its examples and more.
    What was seen besides, of a first n, are some more of the same sample: the first in one order.
    """
    (name,) = set(part["attack"])
    seen = others[others["attack"] != name].drop_duplicates(["attack", "example"])
    more = [
        attack
        for attack, rows in seen.groupby("attack")
        if len(rows) > len(part) and part["example"].isin(rows["example"]).all()
    ]
    before = seen[seen["attack"].isin(more)]
    fallen = before.loc[~robust_right(before), "example"]
    said = part["after"].dropna()
    first = {attack for names in said.unique() for attack in names.split(",") if attack}
    if first and first <= set(seen["attack"]):
        more = sorted(first)
        before = seen[seen["attack"].isin(more)]
    elif (said.empty or not more) and (fallen.empty or part["example"].isin(fallen).any()):
        return part, Accuracy.of(robust_right(part))
    found = phases(pd.concat([before, part]), name, Design(after={name: more}))
    assert found is not None
    whole = before.drop_duplicates("example")
    return whole[whole["example"].isin(found.examples)], found.accuracy()


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
    """Write `summarize`'s table for readers; width and precision only where they are unusual.

    SA and RA are `Estimate`s.
    """
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
        "m": "{m}",
    }
    rows = [
        {name: form.format_map(row | {"m": _m(row)}) for name, form in written.items()}
        | {"SA": _estimate(row, "sa"), "RA": _estimate(row, "ra")}
        | {"where": str(Path(row["store"]).parent)}
        for row in table.to_dict("records")
    ]
    frame = pd.DataFrame(rows, columns=[*written, "SA", "RA", "where"])
    usual = {"width": "1", "attacked at": "", "gradients": "float32", "m": ""}
    return frame.drop(columns=[name for name, word in usual.items() if (frame[name] == word).all()])


def _estimate(row: Mapping[Hashable, Any], name: str) -> Estimate:
    return Estimate(value=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"])


def _m(row: Mapping[Hashable, object]) -> str:
    # how many of how many survivors
    known = isinstance(row["sampled"], int)
    return "{sampled} of {left}".format_map(row) if known else ""
