"""Entries of known numbers, with the outcomes behind them."""

import json

import pandas as pd
import pytest

from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.cards import Threat
from oat_bench.evaluation.cost import Cost
from oat_bench.results import records
from oat_bench.results.entries import make_entry
from oat_bench.results.outcomes import write_parquet
from oat_bench.results.points import summarize
from oat_bench.statistics import frontier
from oat_bench.statistics.phases import Design


def make_outcomes(points, n, width=1.0):
    """Right are the first examples: {lambda: (clean, {attack: attacked})} in numbers of them."""
    rows = []
    for lam, (clean, robust) in points.items():
        for attack, hits in robust.items():
            for example in range(n):
                prediction = 1 if example < clean else 2
                attacked = prediction if example < min(hits, clean) else 3
                rows.append((lam, width, attack, example, 1, prediction, attacked))
    names = ["lam", "width", "attack", "example", "label"]
    return pd.DataFrame(rows, columns=[*names, "clean_prediction", "attacked_prediction"])


@pytest.fixture
def publish(build_classifier, tmp_path):
    """Write an entry, with or without its outcomes, and read it."""

    def publish(
        name,
        points,
        *,
        n=100,
        costs=None,
        with_outcomes=False,
        with_frontiers=False,
        examined=False,
        folder="lb/digits/Linf",
        **changes,
    ):
        points = {
            lam: (clean, robust if isinstance(robust, dict) else {"pgd-20": robust})
            for lam, (clean, robust) in points.items()
        }
        widths = [1.0] if costs is None else list(costs)
        frame = pd.concat([make_outcomes(points, n, width) for width in widths])
        attacks = list(dict.fromkeys(frame["attack"]))
        info = build_classifier().info.model_copy(update={"benchmark_card": "b" * 64})
        results = summarize(frame, Design(attacks), info.trained_at)
        if costs is not None:
            results = [
                result.model_copy(update={"cost": costs[result.width]}) for result in results
            ]
        entry = make_entry(
            info,
            results,
            [prepare(attack_card(a), Threat(eps=0.25), n_classes=10, seed=0) for a in attacks],
            model_fingerprint="f" * 64,
            command="oat-bench run",
            eps=0.25,
            norm="Linf",
            frontiers=frontier.summarize(frame, Design(attacks)) if with_frontiers else None,
        ).model_copy(update={"name": name} | changes)
        path = tmp_path / folder / f"{name.lower().replace(' ', '-')[:40]}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(entry.model_dump_json(by_alias=True))
        if examined:
            report = {"verdict": "pass", "model_fingerprint": entry.model_fingerprint}
            path.with_suffix(".integrity.json").write_text(json.dumps(report))
        if with_outcomes:
            write_parquet(path.with_suffix(".parquet"), frame)
        return records.read(path)

    return publish


@pytest.fixture
def cost():
    def cost(flops, *, parameters=10, latency=1.0, machine="m"):
        timed = {"latency_ms": latency, "latency_spread": (0.9 * latency, 1.1 * latency)}
        return Cost(parameters=parameters, flops=flops, machine=machine, **timed)

    return cost
