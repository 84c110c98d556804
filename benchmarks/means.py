"""Level and power of the test of a mean over operating points, beside Student's t and sign flips.

    python benchmarks/means.py  # every table, in minutes
    python benchmarks/means.py --samples 2000 --n 50 200 --patterns "few change"

The first table has rejections over the nominal level, the largest of n = 50, 200 and 1000 at each
level, 5%, 1% and 0.1%; the second the power of Gaffke's test; of Student's t, in percent, at the
same levels. Where an example's drop takes three values the sums are exact, else of samples.

Every pattern gives the chances of an example's drop in the mean over six lambda values, from -1
(gained at all) to 1 (lost at all). Its mean is the tolerance, at the edge of the hypothesis; for
the power more examples are lost at all.
"""

import argparse
from collections.abc import Callable

import numpy as np
from scipy.stats import binom, multinomial, t

from oat_bench.statistics.pairs import Floats, mean_drop_p_value

Test = Callable[[Floats, float], float]

LAMBDAS = 6
VALUES = np.arange(-LAMBDAS, LAMBDAS + 1) / LAMBDAS
LEVELS, TOLERANCES = np.array([0.05, 0.01, 0.001]), (0.0, 0.01)
#: n, and the drop beyond the tolerance that its power is of
DROPS = {50: 0.15, 200: 0.06, 1000: 0.025}


def independent(drop: float, changed: float = 0.1) -> Floats:
    """Return the chances if a share of the outcomes changes at each lambda, independently."""
    one = np.array([(changed - drop) / 2, 1 - changed, (changed + drop) / 2])
    chances = np.ones(1)
    for _ in range(LAMBDAS):
        chances = np.convolve(chances, one)
    return chances


def correlated(drop: float, changed: float = 0.15) -> Floats:
    """Return the chances if half of what changes changes at all lambda values, half at one."""
    return pattern({-6: changed / 4, 6: changed / 4, -1: changed / 4, 1: changed / 4}, drop)


def few(drop: float) -> Floats:
    """Return the chances if 2% of the examples change, 10 of 500, each at all lambda values."""
    return pattern({-6: 0.01, 6: 0.01}, drop)


def many_lose_little(drop: float) -> Floats:
    """Return the chances if 2% gain all and the rest of what changes loses one lambda of six."""
    return pattern({-6: 0.02, 1: 0.12}, drop)


def few_lose_all(drop: float) -> Floats:
    """Return the chances if 2% lose all and the rest of what changes gains one lambda of six."""
    return pattern({6: 0.02, -1: 0.12}, drop)


def pattern(counts: dict[int, float], drop: float) -> Floats:
    """Return chances, by lambda values lost, with what is lost scaled so that the mean is ``drop``.

    Args:
        counts: chance of an example by how many lambda values it loses, net.
        drop: the mean.
    """
    chances = np.zeros(len(VALUES))
    for lost, chance in counts.items():
        chances[lost + LAMBDAS] = chance
    lost, gained = VALUES > 0, VALUES < 0
    chances[lost] *= (drop - VALUES[gained] @ chances[gained]) / (VALUES[lost] @ chances[lost])
    chances[LAMBDAS] = 1 - chances.sum()
    return chances


PATTERNS: dict[str, Callable[[float], Floats]] = {
    "independent": independent,
    "correlated": correlated,
    "few change": few,
    "many lose one, few gain all": many_lose_little,
    "few lose all, many gain one": few_lose_all,
}


def gaffke(counts: Floats, tolerance: float) -> float:
    """Return the p-value of `oat_bench.statistics.pairs.mean_drop_p_value`."""
    return mean_drop_p_value(np.repeat(VALUES, counts), tolerance)


def student(counts: Floats, tolerance: float) -> float:
    """Return that of Student's t with two examples more, half lost and half gained."""
    n = counts.sum() + 2
    mean = counts @ VALUES / n
    error = np.sqrt(((counts @ VALUES**2 + 1) / n - mean**2) / n)
    return float(t.sf((mean - tolerance) / error, n - 3))


def sign_flips(counts: Floats, tolerance: float) -> float:
    """Return that of all flips of the examples' signs, exactly; of tolerance 0 only."""
    assert tolerance == 0
    chances, most = np.ones(1), 0
    for size in range(1, LAMBDAS + 1):
        m = int(counts[LAMBDAS - size] + counts[LAMBDAS + size])
        steps = np.zeros(2 * m * size + 1)
        steps[:: 2 * size] = binom.pmf(np.arange(m + 1), m, 0.5)
        chances, most = np.convolve(chances, steps), most + m * size
    observed = round(counts @ VALUES * LAMBDAS)
    return float(chances[most + observed :].sum())


def drawn(chances: Floats, n: int, samples: int) -> tuple[Floats, Floats]:
    """Return tables of counts and their weights: all of three values that occur, else samples."""
    values = np.flatnonzero(chances)
    if len(values) > 3:
        tables = np.random.default_rng(0).multinomial(n, chances, size=samples)
        found, times = np.unique(tables, axis=0, return_counts=True)
        return found, times / samples
    first, second = np.meshgrid(np.arange(n + 1), np.arange(n + 1))
    counts = np.stack([first.ravel(), second.ravel(), n - (first + second).ravel()], axis=1)
    counts = counts[counts[:, 2] >= 0]
    weights = multinomial.pmf(counts, n, chances[values])
    likely = weights > 1e-9
    tables = np.zeros((int(likely.sum()), len(chances)), dtype=int)
    tables[:, values] = counts[likely]
    return tables, weights[likely]


def rejected(test: Test, tables: Floats, weights: Floats, tolerance: float) -> Floats:
    """Return the probability that a test rejects, at each level."""
    p = np.array([test(table, tolerance) for table in tables])
    return np.array([weights[p <= level].sum() for level in LEVELS])


def row(*cells: object) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    """Print both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=20_000, help="where more values than three")
    parser.add_argument("--n", type=int, nargs="+", choices=DROPS, default=list(DROPS))
    parser.add_argument("--patterns", nargs="+", choices=PATTERNS, default=list(PATTERNS))
    options = parser.parse_args()
    samples = options.samples
    cases = [(name, tolerance) for name in options.patterns for tolerance in TOLERANCES]
    row("pattern", "tolerance", "Gaffke's test", "Student's t", "sign flips")
    row(*["---"] * 5)
    for name, tolerance in cases:
        cells = []
        for test in (gaffke, student, *([sign_flips] if tolerance == 0 else [])):
            shares = [
                rejected(test, *drawn(PATTERNS[name](tolerance), n, samples), tolerance)
                for n in options.n
            ]
            # the largest over n, in units of the nominal level
            cells.append(", ".join(f"{x:.2f}" for x in np.max(shares, axis=0) / LEVELS))
        row(name, f"{100 * tolerance:g}", *cells, *[""] * (3 - len(cells)))
    print()
    row("pattern", "tolerance", *[f"n = {n}, {100 * DROPS[n]:g} points beyond" for n in options.n])
    row(*["---"] * (2 + len(options.n)))
    for name, tolerance in cases:
        cells = []
        for n in options.n:
            chances = PATTERNS[name](tolerance)
            chances[[LAMBDAS, -1]] += -DROPS[n], DROPS[n]
            both = [
                rejected(test, *drawn(chances, n, samples // 10), tolerance)
                for test in (gaffke, student)
            ]
            cells.append("; ".join(", ".join(f"{100 * x:.0f}" for x in found) for found in both))
        row(name, f"{100 * tolerance:g}", *cells)


if __name__ == "__main__":
    main()
