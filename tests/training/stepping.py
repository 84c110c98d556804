"""A training run's attack on images of a test's own."""

from dataclasses import replace


def attacked(run, x, y, sample, index, number, width=1.0):
    run.progress.epoch, run.progress.step = divmod(number, run.steps_per_epoch)
    some = slice(sample.n_standard, None)
    return run.step.attack(replace(run.batch(index), x=x, y=y), sample, width, some)
