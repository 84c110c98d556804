"""An evaluation and its report, as the commands make them."""

from oat_bench.result import measured


def evaluate_and_report(classifier, card, data, attacks, out, **options):
    result = measured(classifier, card, data, attacks, out=out, **options)
    result.save(out)
    return result
