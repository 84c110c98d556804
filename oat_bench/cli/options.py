"""The options that several commands share, and groups of them, each one decorator."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from oat_bench.cli.context import Context, Planned
from oat_bench.cli.values import COUNTS, DATASET, EPS, LAMBDAS, SETTING, SHARD, WIDTHS, Number
from oat_bench.errors import UserError

Command = Callable[..., None]
Decorator = Callable[[Command], Command]
PATH = click.Path(path_type=Path)
FILE, FOLDER = ("FILE", PATH), ("FOLDER", PATH)
_SET = ("NAME|FOLDER", DATASET)


def option(
    flag: str, kind: Any, text: str, default: Any = None, *names: str, required: bool = False
) -> Decorator:
    """Return an option that takes a value, as the command's parameter ``names`` if given.

    ``kind`` is a type of click's, a list of choices, what stands for a text on the help page, or a
    pair of that and a type; ``text`` is of the help page.
    """
    if isinstance(kind, list):
        kind = click.Choice(kind)
    pair = (kind, None) if isinstance(kind, str) else (None, kind)
    shown, kind = kind if isinstance(kind, tuple) else pair
    more: dict[str, Any] = {"required": True} if required else {"default": default}
    return click.option(flag, *names, metavar=shown, help=text, type=kind, **more)


def flag(name: str, text: str) -> Decorator:
    """Return an option that is given or not."""
    return click.option(name, is_flag=True, help=text)


def group(*options: Decorator) -> Decorator:
    """Return several options as one decorator; a help page lists them in this order."""

    def decorate(command: Command) -> Command:
        for each in reversed(options):
            command = each(command)
        return command

    return decorate


def in_context(command: Command) -> Command:
    """Hand a command what it was told of model, data, device and folder as one `Context`."""

    @wraps(command)
    def call(**values: Any) -> None:
        own = [field.name for field in fields(Context) if field.name in values]
        planned = click.get_current_context().find_object(Planned)
        given = {name: values.pop(name) for name in own}
        context = Context(**{"model": None} | given, planned=planned)
        command(context, **values)

    return call


def with_changes(command: Command) -> Command:
    """Hand a command what changes its card as one mapping: values, or their text, by key."""
    keys = ("threat.eps", "threat.norm", "training.epochs", "training.batch_size")

    @wraps(command)
    def call(settings: tuple[tuple[str, str], ...], **values: Any) -> None:
        given = {key: values.pop(key.replace(".", "_"), None) for key in keys}
        changes = dict(settings) | {key: one for key, one in given.items() if one is not None}
        command(changes=changes, **values)

    return call


def check_trained(changes: Iterable[str], *sections: str) -> None:
    """Refuse changes, by key, of other sections of a card: they come too late for a model."""
    for key in changes:
        if key.partition(".")[0] not in sections:
            raise UserError(
                f"--set {key}: the model is trained; expected a key of {' or '.join(sections)}, "
                "such as threat.step_size"
            )


def lambdas(text: str, flag: str = "--lambda", name: str = "lambdas") -> Decorator:
    """Return an option that takes lambda values."""
    return option(flag, LAMBDAS, text, None, name)


def count(flag: str, text: str, least: int = 1) -> Decorator:
    """Return an option that takes how many."""
    return option(flag, ("N", click.IntRange(least)), text)


def seed(text: str, default: int | None = None) -> Decorator:
    """Return an option that takes a seed."""
    return option("--seed", ("N", click.IntRange(0, 2**31 - 1)), text, default)


def gradients(default: str | None = None) -> Decorator:
    """Return the option of the precision that attacks compute in; the card's by default."""
    text = "Precision that attacks differentiate in; predictions are float32."
    text += "" if default else " [default: the card's]"
    return option("--gradients", ["float32", "bf16"], text, default)


# --- data and device

IMAGES = group(
    option("--data-dir", FOLDER, "Where data sets are looked for, and downloaded to.", "data"),
    flag(
        "--skip-broken",
        "Leave out images of a folder that cannot be read, or are of another size or type.",
    ),
    option(
        "--image-size",
        ("N", click.IntRange(1, 4096)),
        "Resize the shorter side of a folder's images to N, crop to the centre. "
        "[default: the model's, else the card's, else all must be of one size]",
    ),
)
SEED = seed("Of all randomness.", 0)
DEVICE = option("--device", ["auto", "cpu", "cuda"], "Where to compute.", "auto")

# --- of a benchmark

#: read by --help, which imports no card
DEFAULT_BENCHMARK = "fashion-12x12"
BENCHMARK_OPTIONS = group(
    option("--dataset", _SET, "Data set, and the benchmark of its name; or a folder of images."),
    option(
        "--benchmark",
        "NAME|FILE",
        f"Benchmark card, by name or path. [default: {DEFAULT_BENCHMARK}; image-folder for a "
        "folder]",
    ),
    IMAGES,
)
TRAINING_OPTIONS = group(
    option(
        "--dataset-name",
        "NAME",
        "What a folder is called in results. [default: made from the folder's name]",
    ),
    option("--method", "NAME", "Method that makes the classifier. [default: the card's]"),
)
START = option(
    "--from",
    "MODEL",
    "Start from the weights of this model, a checkpoint, a run's folder or a name: network, method "
    "and lambda values are its own, the recipe is the card's. [default: fresh weights]",
    None,
    "start",
)
LOG = click.option(
    "--log",
    "logs",
    type=click.Choice(["tensorboard", "wandb"]),
    multiple=True,
    help="Show the training log there too; may be repeated. [default: log.csv alone]",
)
CARD_WIDTHS = option(
    "--widths",
    WIDTHS,
    "Shares of the channels: of the network to train, or to evaluate. [default: the card's]",
)
BATCH_SIZE = count(
    "--batch-size",
    "Images attacked at a time; no outcome depends on it. [default: what fills the device] "
    "Of training: --set training.batch_size=N.",
)
_SETTINGS = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    type=SETTING,
    multiple=True,
    help="Another value of a key of the card, such as training.lr=0.05; no value: the default. "
    "`oat-bench show card` has all keys. Options of their own come after it.",
)
#: what may be another threat model than the card's, or the model's
THREAT_OPTIONS = group(
    option(
        "--eps",
        EPS,
        "Radius of attacks, in training too: 4/255 or 0.03; their step size keeps its share of it. "
        "[default: that of the model, or of the card named]",
        None,
        "threat_eps",
    ),
    option(
        "--norm",
        ["Linf", "L2"],
        "Norm of attacks, in training too; another needs its --eps. [default: likewise]",
        None,
        "threat_norm",
    ),
    _SETTINGS,
    with_changes,
)
EPOCHS = option(
    "--epochs",
    ("N", click.IntRange(1)),
    "Passes over the training images. [default: the card's]",
    None,
    "training_epochs",
)
TRAINING_BATCH_SIZE = option(
    "--batch-size",
    ("N", click.IntRange(2)),
    "Images of a training step. [default: the card's]",
    None,
    "training_batch_size",
)
ATTACK_OPTIONS = group(
    option(
        "--attacks",
        "LIST",
        "Attack cards, by name or path; or all, those for the norm and the classes; -NAME leaves "
        "one out: all,-autoattack; or file:PATH, what --save-images wrote. [default: the card's]",
    ),
    lambdas("Lambda to evaluate. [default: the card's]"),
    CARD_WIDTHS,
    option(
        "--n-examples",
        COUNTS,
        "Test images; for some attacks, at each lambda, a sample of those that the others leave "
        "standing: 10000,autoattack=256. [default: the card's]",
    ),
    option(
        "--precision",
        ("POINTS", Number(0, 50, min_open=True, max_open=True)),
        "In place of such a number: run AutoAttack, or any attack of several [[parts]], until the "
        "95% interval of its RA is +-POINTS wide at each lambda.",
    ),
    flag(
        "--only",
        "Report what is asked for alone. [default: also what the folder has of this model]",
    ),
    BATCH_SIZE,
    gradients(),
    click.option(
        "--save-images",
        "images",
        type=click.Choice(["safetensors", "png"]),
        is_flag=False,
        flag_value="safetensors",
        help="Keep attacked images, float32. png: PNGs too, to look at: rounded to 8 bits.",
    ),
)
STORE = option(
    "--store",
    "PLACE",
    "Keep outcomes in another folder, or at an address that fsspec reads, such as "
    "s3://bucket/outcomes. [default: outcomes/ in the folder for results]",
)
#: who computes; docs/scale.md has examples
SCALE = group(
    STORE,
    option(
        "--shard",
        SHARD,
        "Compute one of N shares of the work into the store, and no report; when all are done, the "
        "same command without --shard finds them and writes it.",
    ),
    click.option(
        "--ray",
        metavar="[ADDRESS]",
        is_flag=False,
        flag_value="",
        help="Compute on the workers of a Ray cluster, HOST:PORT; of one started here, if no "
        "address follows.",
    ),
    count("--cpus-per-worker", "Cores and threads of a Ray worker. [default: 1]"),
    option(
        "--gpus-per-worker",
        ("N", Number(min=0)),
        "GPUs of a Ray worker, or the share of one: 0.5. [default: 1, on --device cpu 0]",
    ),
)
_OUT = option("--out", PATH, "Folder for results. [default: under runs/]")
RUN_OPTIONS = group(SEED, DEVICE, _OUT)

# --- of a model

MODEL_WIDTHS = option("--widths", WIDTHS, "Shares of the channels. [default: all of the network's]")


def model_options(text: str = "Of the model; needed where it is a folder of images.") -> Decorator:
    """Return the argument MODEL and the options of its data, device and folder, as a `Context`."""
    out = option("--out", PATH, "Folder for results. [default: the run's folder, or under runs/]")
    dataset = option("--dataset", _SET, text)
    return group(click.argument("model"), dataset, IMAGES, DEVICE, out, in_context)


# --- of runs that are read

RUNS = click.argument("runs", metavar="RUN...", nargs=-1, required=True)
ATTACK = option("--attack", "NAME", "Whose RA. [default: the worst case, or the last all have]")
