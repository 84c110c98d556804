"""The training log in TensorBoard and W&B: the rows of log.csv, each once, after a restart too."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from oat_bench import run
from oat_bench.errors import UserError
from oat_bench.training import tracking


@pytest.fixture
def install(monkeypatch):
    """Put a package in place of one that may not be installed."""

    def install(name, **content):
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        vars(made).update(content)
        monkeypatch.setitem(sys.modules, name, made)

    return install


def test_tensorboard_shows_the_log_once_also_after_a_restart(brief, digits, tmp_path):
    training = brief.training.model_copy(update={"epochs": 2})
    card, device = brief.model_copy(update={"training": training}), torch.device("cpu")
    for _ in range(2):  # a run that is killed before it writes its checkpoint goes on
        with tracking.tracked(["tensorboard"], tmp_path, {}) as track:
            run.train(card, digits, tmp_path, seed=0, device=device, track=track)
        (tmp_path / "checkpoint.safetensors").unlink()
    log, shown = pd.read_csv(tmp_path / "log.csv"), EventAccumulator(str(tmp_path / "tensorboard"))
    tags = shown.Reload().Tags()["scalars"]
    assert {tag.replace("/", "@", 1) for tag in tags} == set(log.columns)
    for tag in tags:
        points, column = shown.Scalars(tag), log[tag.replace("/", "@", 1)]
        assert [point.step for point in points] == [1, 2]
        assert [point.value for point in points] == pytest.approx(column.to_list(), rel=1e-5)


class Recorded:
    """W&B's interface, as of 0.18 to 0.31, that records what it is told; steps only go up there."""

    Error = type("Error", (Exception,), {})

    def __init__(self, refuses=""):
        self.started, self.rows, self.failed, self.refuses = [], [], [], refuses

    def init(self, *, dir, id, resume, project, name, config):
        if self.refuses:
            raise self.Error(self.refuses)
        self.started.append((name, id, resume, config))
        return self

    def log(self, data, step):
        self.rows.append((step, data))

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.failed.append(kind)


def test_wandb_is_told_each_row_under_its_own_number(install, tmp_path):
    wandb = Recorded()
    install("wandb", init=wandb.init, Error=wandb.Error)
    rows = [{"epoch": 1, "loss": 0.5, "SA@0.4": 90.0}, {"epoch": 2, "loss": 0.25}]
    with tracking.tracked(["wandb"], tmp_path / "a", {"lr": 0.1}) as track:
        for network in ("lambda0", "lambda1"):
            for row in rows:
                track(network, row)
    values = {"lambda0/epoch": 1, "lambda0/loss": 0.5, "lambda0/SA/0.4": 90.0}
    assert wandb.rows[0] == (1, values)
    assert [step for step, _ in wandb.rows] == [1, 2, 3, 4]
    assert wandb.rows[3][1] == {"lambda1/epoch": 2, "lambda1/loss": 0.25}
    # the same training goes on as the same run, another is another; one that fails is known to
    for folder, settings in (("a", {"lr": 0.1}), ("a", {"lr": 0.2}), ("b", {"lr": 0.1})):
        with (
            pytest.raises(ZeroDivisionError),
            tracking.tracked(["wandb"], tmp_path / folder, settings),
        ):
            raise ZeroDivisionError
    names, ids = zip(*[(name, identity) for name, identity, *_ in wandb.started], strict=True)
    assert names == ("a", "a", "a", "b")
    assert (ids[0] == ids[1], len(set(ids))) == (True, 3)
    assert wandb.failed == [None, *[ZeroDivisionError] * 3]
    assert {one[2] for one in wandb.started} == {"allow"}
    refusing = Recorded("api_key not configured")
    install("wandb", init=refusing.init, Error=refusing.Error)
    with (
        pytest.raises(UserError, match=r"not configured; log in with wandb login"),
        tracking.tracked(["wandb"], tmp_path, {}),
    ):
        pass


@pytest.mark.parametrize("kind", tracking.KINDS)
def test_a_package_that_is_not_there_is_said_before_anything_is_read(monkeypatch, invoke, kind):
    monkeypatch.setitem(sys.modules, kind, None)
    code, out, err = invoke("train", "--dataset", "nowhere/at/all", "--log", kind)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"pip install 'oat-bench[{kind}]'" in err
