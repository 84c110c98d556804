"""What commands that look at a trained model ask of it: its data, lambda, widths and folder."""

from pathlib import Path
from typing import TYPE_CHECKING

from oat_bench.errors import UserError

if TYPE_CHECKING:
    import torch

    from oat_bench.classifier import TunableClassifier
    from oat_bench.datasets import Dataset


def load_model(model: str, device: "torch.device") -> "TunableClassifier":
    """Read a checkpoint, a run's folder or an exported file."""
    from oat_bench import checkpoint, deployment

    if deployment.is_exported(model):
        return deployment.load(model).to(device)
    return checkpoint.load(model, device)


def data_of(trained: "TunableClassifier", model: str, dataset: str | None) -> str:
    """Return the data set of a model, or the folder that was named for it.

    Raises:
        UserError: if it is a folder of images, and none was named.
    """
    from oat_bench import datasets

    name = trained.info.dataset
    # a checkpoint must not choose what is read here
    if dataset is None and name not in datasets.DATASETS:
        raise UserError(f"{model} is of data set {name!r}; name its folder with --dataset")
    return dataset or name


def load_data(
    trained: "TunableClassifier",
    model: str,
    dataset: str | None,
    data_dir: Path,
    *,
    skip_broken: bool = False,
    image_size: int | None = None,
) -> "Dataset":
    """Load the data set of a model, or the folder that was named for it, and check that it fits.

    A folder's images are resized as those of the training were, if ``image_size`` is None.

    Raises:
        UserError: if there is none, or it does not fit.
    """
    from oat_bench import classifier, datasets
    from oat_bench.progress import note

    info, name = trained.info, data_of(trained, model, dataset)
    size = classifier.image_size(info, name, image_size)
    data = datasets.load(name, data_dir, skip_broken=skip_broken, image_size=size)
    fitting = classifier.check_fits(info, data)
    own = classifier.trained_on(info, data)
    if own is False:
        note(
            f"{name}: not the images, or not the splits, that {model} was trained on; it may have "
            "been trained on some of these test images"
        )
    elif own is None and fitting is not data:
        note(f"{name}: taken for {fitting.name}; {model} does not say which images those are")
    return fitting


def choose_lambdas(
    trained: "TunableClassifier", lambdas: list[float] | None, option: str = "--lambda"
) -> list[float]:
    """Return the lambda asked for by an option, or those of training; of a file of one, that one.

    Raises:
        UserError: if there is no classifier at one.
    """
    from oat_bench.classifier import check_lambdas
    from oat_bench.deployment import Exported

    if isinstance(trained, Exported):
        lambdas = trained.choose_lambdas(lambdas)
    info = trained.info
    check_lambdas(info.method, info.trained_lambdas, lambdas or (), option)
    return lambdas or info.trained_lambdas


def choose_widths(trained: "TunableClassifier", widths: list[float] | None) -> list[float]:
    """Return the widths asked for, or all, the widest first.

    Raises:
        UserError: if the network does not have one.
    """
    from oat_bench.classifier import check_widths

    check_widths(trained.info.widths, widths or ())
    return widths or trained.info.widths


def default_out(trained: "TunableClassifier", model: str, name: str | None = None) -> Path:
    """Return the run's folder, if the model is one, else a folder of its own under runs/.

    That begins with ``name``, or with the data set's.
    """
    from oat_bench.cards import publishable

    named = (
        Path("runs") / f"{name or publishable(trained.info.dataset)}-{trained.fingerprint()[:8]}"
    )
    return Path(model) if Path(model).is_dir() else named
