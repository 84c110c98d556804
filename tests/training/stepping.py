"""A training run's attack on images of a test's own."""

from dataclasses import replace


def attacked(run, x, y, sample, index, number, width=1.0):
    run.progress.epoch, run.progress.step = divmod(number, run.steps_per_epoch)
    return run.step.attack(replace(run.batch(index), x=x, y=y), sample, width)
