"""Baselines from models, damaged models, outcomes from counts."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from oat_bench import datasets
from oat_bench.attacks.card import attack_card
from oat_bench.attacks.engines import prepare
from oat_bench.classifier import OperatingPoint
from oat_bench.evaluation.grid import evaluate
from oat_bench.evaluation.subject import Subject
from oat_bench.methods.oat import OAT
from oat_bench.results.entries import make_entry
from oat_bench.results.outcomes import write_parquet
from oat_bench.results.points import summarize
from oat_bench.statistics.phases import Design

ATTACKS = ("fgsm", "pgd-7")


def measure(
    classifier,
    data,
    *,
    attacks=ATTACKS,
    lambdas=(0.0, 1.0),
    n=100,
    seed=0,
    fewer=None,
    samples=None,
):
    """Return the attacks, made ready, and the outcomes."""
    threat = classifier.info.threat
    ready = [prepare(attack_card(a), threat, n_classes=10, seed=seed) for a in attacks]
    examples = datasets.nested_order(data.test.labels)[:n]
    subject = Subject(classifier, data.test, "", examples, fewer or {}, samples=samples or {})
    outcomes = evaluate(subject, [OperatingPoint(lam) for lam in lambdas], ready, show=False)
    return ready, outcomes


def publish(path: Path, classifier, data, ready, outcomes, design=None, **changes) -> Path:
    """Write an entry and its outcomes as x.json and x.parquet."""
    threat = classifier.info.threat
    design = design or Design([attack.card.name for attack in ready])
    entry = make_entry(
        classifier.info,
        summarize(outcomes, design, classifier.info.trained_at),
        ready,
        design=design,
        model_fingerprint=classifier.fingerprint(),
        command="oat-bench run",
        eps=threat.eps,
        norm=threat.norm,
        data_fingerprint=data.fingerprint(),
    ).model_copy(update=changes)
    path.write_text(entry.model_dump_json(by_alias=True))
    write_parquet(path.with_suffix(".parquet"), outcomes)
    return path


def noised(classifier, scale, seed=0):
    """Return the classifier with noise in every weight of more than one dimension."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in sorted(classifier.state_dict().items()):
        if value.is_floating_point() and value.ndim > 1:
            value = value + scale * value.std() * torch.randn(value.shape, generator=draw)
        state[name] = value
    return OAT.from_state(classifier.info, state)


def outcomes(robust, clean=None, lambdas=(0.0, 1.0), n=400):
    """Make outcomes: ``robust`` says by (attack, lambda) which examples stand."""
    frames = []
    for lam in lambdas:
        right = np.ones(n, bool) if clean is None else clean[lam]
        for attack in ("fgsm", "pgd-7"):
            stands = robust[attack, lam]
            columns = {
                "lam": lam,
                "width": 1.0,
                "attack": attack,
                "example": np.arange(len(stands)),
                "label": 1,
                "clean_prediction": np.where(right, 1, 0)[: len(stands)],
                "attacked_prediction": np.where(stands, 1, 0),
            }
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def first(count, n=400):
    return np.arange(n) < count


CELLS = [(attack, lam) for attack in ("fgsm", "pgd-7") for lam in (0.0, 1.0)]
