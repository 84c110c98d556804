"""Training shared by two processes: the weights of one, batch norm, one that is killed."""

import contextlib
import multiprocessing
import os
import sys
import time
import traceback
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from test_loop import LAMBDAS, digits, network
from torch import nn
from torch.distributed import TCPStore

from oat_bench import cli
from oat_bench.cards import Threat
from oat_bench.checkpoint import load
from oat_bench.errors import UserError
from oat_bench.methods.float import FloatNetwork, FloatStep
from oat_bench.networks.card import NetworkCard
from oat_bench.networks.synchronised import Synchronised
from oat_bench.training import loop
from oat_bench.training.card import TrainingCard
from oat_bench.training.conditional import ConditionalStep
from oat_bench.training.ranks import Ranks, join
from oat_bench.training.sampling import sample_lambda
from oat_bench.training.step import TrainingStep

THREAT, NONE = Threat(eps=0.3, step_size=0.1), Threat(eps=0, step_size=0)
CPU, STORES = torch.device("cpu"), []

# --- two processes


def be_rank(number, port):
    """Become one of two processes that torchrun would start."""
    torch.set_num_threads(1)
    given = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    given |= {"TORCHELASTIC_USE_AGENT_STORE": True}
    os.environ |= {name: str(value) for name, value in given.items()}


def two_processes(target, *arguments):
    """Start a function of number, port and arguments in two processes, as torchrun does."""
    # forked from one that has imported what takes long
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([loop.__name__, "sklearn.datasets"])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    STORES.append(store)  # it lives as long as they
    port = store.port
    started = [processes.Process(target=target, args=(k, port, *arguments)) for k in range(2)]
    for process in started:
        process.start()
    return started


def do(number, port, queue, task):
    be_rank(number, port)
    try:
        ranks = join(CPU)
        queue.put((number, task(ranks)))
        ranks.leave()
    except BaseException:
        queue.put((number, traceback.format_exc()))


def on_two_ranks(task):
    """Return what a function of `Ranks` returns on each of two."""
    queue = multiprocessing.get_context("forkserver").Queue()
    started = two_processes(do, queue, task)
    found = dict(queue.get(timeout=240) for _ in started)
    for process in started:
        process.join()
    assert not any(isinstance(one, str) for one in found.values()), found
    return [found[0], found[1]]


# --- the weights of one process


class Foreign(TrainingStep):
    """A step of another package, whose batch norm is torch's own."""

    def __init__(self):
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(4)
        self.network = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, 10))

    def losses(self, batch):
        yield F.cross_entropy(self.network(batch.x), batch.y)

    def points(self):
        return [(0, 1.0)]


def floating():
    return FloatStep(FloatNetwork(NetworkCard(architecture="wrn-10-1", norm="dual"), 10, 1, 0))


def conditional(**options):
    return ConditionalStep(network(**options))


def oats():
    return conditional(widths=[1, 0.5])


def dedicated():
    return conditional(norm="single", film="none", encoding="scalar")


ONE = {"loss_sampling": "one"}
#: what is trained, how, and how many images one process, and each rank, takes at once
CASES = {
    "OAT": (conditional, {"validate_every": 2}, 32, 32),
    "OAT, one loss": (conditional, ONE, 32, 32),
    "OAT, a lambda a batch": (conditional, {"sampling": "per-batch"}, 32, 32),
    "OAT, published order": (conditional, {"order": "published", "nesterov": True}, 32, 32),
    # whose attack starts where signs are rounding's: it hardly moves
    "OAT, TRADES of one loss": (
        conditional,
        {"objective": "trades", "lambdas": [0, 0.2], "eps_warmup_epochs": 1e4} | ONE,
        32,
        32,
    ),
    "OAT, in parts": (conditional, {"ema_decay": 0.9}, 16, 8),
    "OAT, one loss, in parts": (conditional, ONE, 16, 8),
    "OAT, per rank": (conditional, {"batch_norm": "per-rank"}, 16, 32),
    "OAT, per rank, in parts": (conditional, {"batch_norm": "per-rank"} | ONE, 8, 8),
    "OATS": (oats, {"lambda_sampling": "uniform"}, 32, 32),
    "OATS, one loss": (oats, {"selection": "best"} | ONE, 32, 32),
    "PGD-AT": (dedicated, {"lambdas": [0.2]}, 32, 32),
    "PGD-AT, one loss": (dedicated, {"lambdas": [0.2]} | ONE, 32, 32),
    "FLOAT": (floating, {"lambdas": [0, 1]}, 32, 32),
    "of another package": (Foreign, {}, 32, 32),
}


def prepared(name, ranks, folder=None, threat=THREAT, **changes):
    """Make ready to train in steps of 32 images, and of 3, which are too few to be shared."""
    make, values, alone, each = CASES[name]
    card = {"epochs": 1, "batch_size": 32, "lr": 0.02, "lambdas": LAMBDAS, "attack_steps": 2}
    how = {"ranks": ranks, "folder": folder}
    card = TrainingCard(**(card | values | changes))
    run = loop.Trainer(make(), card, threat, *digits(35, 19), **how)
    run.limit = each if ranks.size > 1 else alone
    return run


def state_of(run):
    return {key: value.numpy() for key, value in run.step.network.state_dict().items()}


def trained(ranks):
    # two steps: after more, rounding of weights may flip the sign of an attack's gradient
    found = {}
    for name in CASES:
        run = prepared(name, ranks)
        run.train(show=False)
        found[name] = state_of(run), run.progress.history, run.progress.micro_batch, run.selection
    return found


def agree(state, expected, rtol=1e-4, atol=1e-5):
    assert state.keys() == expected.keys()
    for key in state:
        pair = (torch.from_numpy(one[key]) for one in (state, expected))
        torch.testing.assert_close(
            *pair, rtol=rtol, atol=atol, msg=lambda text, key=key: f"{key}: {text}"
        )


@pytest.fixture(scope="module")
def found():
    return *on_two_ranks(trained), trained(Ranks())


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_what_one_process_does(found, name):
    first, second, (expected, history, at_once, selection) = (one[name] for one in found)
    for state, log, parts, chosen in (first, second):
        agree(state, expected)
        assert (parts, chosen) == (at_once, selection)
        for row, other in zip(log, history, strict=True):
            seconds = {"seconds": other["seconds"]}
            assert row | seconds == pytest.approx(other, rel=1e-5)
    assert all((first[0][key] == value).all() for key, value in second[0].items())


def broken(name, folder, ranks):
    """Train two epochs; stop at the third step of four, and leave the state."""
    run = prepared(name, ranks, folder, NONE, epochs=2)
    take_step, run.taken = run._step, 0

    def step(index):
        if run.taken == 3:
            raise KeyboardInterrupt
        run.taken += 1
        return take_step(index)

    run._step = step
    with contextlib.suppress(KeyboardInterrupt):
        run.train(show=False)


def resumed(name, folder, ranks):
    run = prepared(name, ranks, folder, NONE, epochs=2)
    run.train(show=False)
    return state_of(run)


def from_one_to_two_and_back(folder, ranks):
    for name in ("OAT", "OAT, per rank"):
        broken(name, folder / "two" / name, ranks)
    return resumed("OAT", folder / "one", ranks)


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, monkeypatch):
    expected = {}
    for name in ("OAT", "OAT, per rank"):
        whole = prepared(name, Ranks(), None, NONE, epochs=2)
        whole.train(show=False)
        expected[name] = state_of(whole)
    broken("OAT", tmp_path / "one", Ranks())
    ours = on_two_ranks(partial(from_one_to_two_and_back, tmp_path))
    for state in (*ours, resumed("OAT", tmp_path / "two" / "OAT", Ranks())):
        agree(state, expected["OAT"])
    last = resumed("OAT, per rank", tmp_path / "two" / "OAT, per rank", Ranks())
    agree(last, expected["OAT, per rank"])


# --- batch norm


def batch_norm(h, weights, ranks):
    """Differentiate a batch norm of doubles, every rank on its own images."""
    norm = nn.BatchNorm2d(3).double() if weights else nn.BatchNorm2d(3, affine=False).double()
    norm(h + 3), norm.train()
    for parameter, start in zip(norm.parameters(), (2.0, -1.0), strict=weights):
        nn.init.constant_(parameter, start)
    # of one image alone, and the others
    own = h if ranks.size == 1 else h[:1] if ranks.first else h[1:]
    own = own.clone(memory_format=torch.channels_last).requires_grad_()
    with Synchronised() if ranks.size > 1 else contextlib.nullcontext():
        out = norm(own)
        (out**3).sum().backward()
    gradients = [parameter.grad.clone() for parameter in norm.parameters()]
    ranks.add_up(gradients or [torch.zeros(1)])
    found = [*norm.buffers(), *gradients]
    return [t.detach().numpy() for t in (out, own.grad)], [t.numpy() for t in found]


def batch_norms(h, ranks):
    return [batch_norm(h, weights, ranks) for weights in (True, False)]


@pytest.mark.parametrize("size", [1, 4])
def test_batch_norm_over_two_ranks_is_torchs_over_all_images(size):
    h = 5 + torch.randn(7, 3, size, size, dtype=torch.double, generator=torch.manual_seed(0))
    whole, halves = batch_norms(h, Ranks()), on_two_ranks(partial(batch_norms, h))
    for (each, same), one, other in zip(whole, *halves, strict=True):
        for value, *parts in zip(each, one[0], other[0], strict=True):
            joined = torch.cat([torch.from_numpy(part) for part in parts])
            torch.testing.assert_close(joined, torch.from_numpy(value), rtol=1e-9, atol=1e-9)
        for value, *parts in zip(same, one[1], other[1], strict=True):
            for part in parts:
                assert part == pytest.approx(value, rel=1e-9)


# --- who does what


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("parts", [1, 3])
def test_pieces_are_all_images_once_with_lambda_0_in_equal_shares(size, parts):
    card, n = TrainingCard(epochs=1, lr=1, lambdas=LAMBDAS), 96
    sample = sample_lambda(card, torch.randperm(n), 0, 0)
    for together in (True, False):
        each = [Ranks(k, size).pieces(parts, together) for k in range(size)]
        places = [place for pieces in each for place, _ in pieces]
        assert sorted(i for place in places for i in range(n)[place]) == list(range(n))
        for place, part in (piece for pieces in each for piece in pieces):
            assert set(range(n)[place]) <= set(range(n)[part])
            assert len(range(n)[part]) == n // parts
        counts = [sample.at(place).n_standard for place in places]
        assert max(counts) - min(counts) <= 1


def test_too_many_ranks_are_refused():
    run = prepared("OAT", Ranks(0, 12))
    with pytest.raises(UserError, match=r"12 ranks: a step of 32 images does not give each rank"):
        run._settle_split()
    run = prepared("OAT, per rank", Ranks(0, 12))
    run._settle_split()
    assert run.progress.micro_batch == 8  # batch norm learns nothing of fewer


def test_batch_norm_per_rank_is_part_of_the_fingerprint_and_the_default_is_not():
    card = TrainingCard(epochs=1, lr=1)
    assert "batch_norm" not in card.stated()
    assert card.model_copy(update={"batch_norm": "per-rank"}).fingerprint() != card.fingerprint()


# --- a rank that is killed

CARD = """
dataset = "digits"
[network]
architecture = "wrn-10-1"
encoding_dim = 8
[threat]
eps = 0.2
step_size = 0.05
[training]
epochs = 2
batch_size = 256
lr = 0.1
attack_steps = 1
lambdas = [0, 1]
"""


def command(number, port, folder, *arguments):
    """Run the command line as a rank, with a state after each step."""
    be_rank(number, port)
    os.chdir(folder)
    loop.SAVE_EVERY = 0.0
    log = os.open("stderr", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 2)
    sys.argv = ["oat-bench", *arguments]
    cli.main()


def test_a_killed_rank_ends_all_with_one_line_and_the_same_command_goes_on(tmp_path, invoke):
    (tmp_path / "card.toml").write_text(CARD)
    train = ("train", "--benchmark", "card.toml", "--out", "run")
    first, second = two_processes(command, tmp_path, *train)
    while not (tmp_path / "run" / "training.safetensors").exists():
        assert first.is_alive()
        time.sleep(0.01)
    second.kill()
    first.join(60)
    said = (tmp_path / "stderr").read_text().splitlines()
    assert first.exitcode == 2
    assert said[-1].startswith("oat-bench: a rank was lost; ")
    assert "on 2 ranks (2 x cpu)" in said[0]
    assert len(said) == 2, said
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
    code, _, err = invoke(*train)
    assert code == 0, err
    assert "images a second" in err
    assert load(tmp_path / "run").info.micro_batch is None


def test_what_all_ranks_find_wrong_is_said_once(tmp_path):
    for process in two_processes(command, tmp_path, "train", "--benchmark", "none.toml"):
        process.join(60)
        assert process.exitcode == 2
    assert (tmp_path / "stderr").read_text().count("\n") == 1


def test_other_commands_are_not_for_torchrun(monkeypatch, invoke):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(cli, "first_to_speak", lambda: True)
    code, _, err = invoke("evaluate", "runs/none")
    assert (code, err) == (
        2,
        "oat-bench: torchrun is for train and run; start evaluate without it\n",
    )
