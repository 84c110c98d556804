"""Progress: what is done, how long the rest takes, and how it is said."""

import io
import re

import pytest
import torch
from rich.console import Console
from torch import nn

from oat_bench import progress
from oat_bench.acceleration import Accelerated
from oat_bench.progress import Bar
from oat_bench.training.loop import _latest


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def run(line, clock, shares, speed=10.0, stage=1000.0):
    """Make stages of two kinds at each point; what survives of the second is its share."""
    seen = []
    for share in shares:
        for kind, needed in (("cheap", 0.9), ("costly", share)):
            line.begin(kind, stage * (0.85 if kind == "cheap" else 5.0), kind, stage / 100)
            images = round(100 * needed * (1 if kind == "cheap" else 10))
            line.needs(images)
            for _ in range(images):
                clock.now += stage / 100 / speed
                line.advance(stage / 100)
                seen.append((clock.now, line.seconds_left, line.share))
    return seen


def test_the_time_left_is_steady_and_ends_at_none():
    clock, shares = Clock(), [0.0, 0.2, 0.3, 0.35, 0.4, 0.5]
    line = Bar("evaluating", {"cheap": 6 * 850.0, "costly": 6 * 5000.0}, clock=clock)
    seen = run(line, clock, shares)
    total = seen[-1][0]
    assert seen[-1][1] == pytest.approx(0, abs=1e-6)
    assert seen[-1][2] == pytest.approx(1)
    # what was expected at first is off by the survivors that nobody knew of, and no more
    for now, left, _ in seen[10:]:
        assert total / 2.2 < now + left < 2.2 * total


def test_what_was_stored_takes_no_time_and_teaches_nothing():
    clock = Clock()
    line = Bar("evaluating", {"a": 300.0}, clock=clock)
    for images in (0, 0, 100):
        line.begin("a", 100.0, "a")
        line.needs(images)
        before = line.left
        clock.now += images
        line.advance(images)
    assert before == 100
    assert line.left == 0
    assert line.share == 1


def test_steps_that_were_done_before_take_no_part_in_the_speed():
    with progress.bar("training", 100, done=90, show=False) as line:
        line._clock = clock = Clock()
        line._last = 0.0
        for _ in range(5):
            clock.now += 2
            line.advance()
        assert line.seconds_left == pytest.approx(10)
        assert line.share == pytest.approx(0.95)


def test_passes_move_the_line_wherever_they_are_made():
    model, x = Accelerated(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))), torch.rand(7, 1, 2, 2)
    with progress.passes("outer", {"": 100.0}) as outer:
        with progress.passes("inner", {}, show=False) as inner:
            model(x)
            model(x.requires_grad_()).sum().backward()
        assert (outer.done, inner.done) == (3 * 7, 0)
    model(x)
    assert outer.done == 3 * 7


def test_without_a_terminal_a_line_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress, "console", Console(stderr=True, width=20))
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock)
    with progress.bar("training", 100) as line:
        line._clock, line._last = clock, 0.0
        line.note("epoch 1/4")
        for _ in range(100):
            clock.now += 1
            line.advance()
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines == [
        f"training: {n}%, 0:{(100 - n) // 60:02d}:{(100 - n) % 60:02d} left; epoch 1/4"
        for n in (30, 60, 90)
    ]


def test_at_80_columns_a_bar_keeps_its_words(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(
        progress, "console", Console(file=shown, width=80, force_terminal=True, color_system=None)
    )
    history = [{"loss": 2.5}, {"loss": 1.234, "SA@0": 94.2, "SA@1": 80.1, "RA@0": 1.2, "RA@1": 44}]
    words = f"epoch 103/200{_latest(history)}"
    assert words == "epoch 103/200, SA 94 to 80, RA 1 to 44, loss 1.234"
    with progress.bar("training", 1000) as line:
        line._clock = clock = Clock()
        line._last = 0.0
        clock.now = 1800.0
        line.advance(100)
        line.note(words[:-2])
        line.note(words)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())
    assert words in text
    assert " 10% 4:30:00 " in text
    assert max(len(line.rstrip()) for line in re.split(r"[\r\n]", text)) <= 80


def test_a_log_line_is_of_the_widest_network():
    row = {"loss": 1.0, "SA@0 x1": 90, "RA@0 x1": 10, "SA@1 x1": 80, "RA@1 x1": 40}
    row |= {"SA@0 x0.5": 70, "RA@0 x0.5": 5, "SA@1 x0.5": 60, "RA@1 x0.5": 30}
    assert _latest([row]) == ", SA 90 to 80, RA 10 to 40, loss 1.000"
