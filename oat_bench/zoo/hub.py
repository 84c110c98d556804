"""Models on the Hugging Face hub; in a repository of ours lies what lies in a run's folder."""

from importlib import import_module
from typing import Any

from oat_bench import checkpoint
from oat_bench.classifier import TunableClassifier
from oat_bench.errors import UserError, one_line
from oat_bench.run_folder import CHECKPOINT


def library() -> Any:
    """Return huggingface_hub; a `UserError` if it is not installed."""
    try:
        return import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            "the hub needs huggingface_hub, which is not installed; pip install 'oat-bench[hub]'"
        ) from error


def load(name: str) -> TunableClassifier:
    """Load ``owner/name`` or ``owner/name@REVISION``; only the checkpoint is read, as weights."""
    hub = library()
    repository, _, revision = name.partition("@")
    try:
        path = hub.hf_hub_download(repository, CHECKPOINT, revision=revision or None)
    except Exception as error:
        raise UserError(f"hf:{name}: {_reason(error)}") from error
    return checkpoint.load(path)


def _reason(error: Exception) -> str:
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"the hub cannot be reached, and {CHECKPOINT} is not in its cache, "
            f"{constants.HF_HUB_CACHE}; load it once where there is a network, and copy it"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or a private one: log in with `hf auth login`"
    if isinstance(error, errors.EntryNotFoundError):
        return f"it has no {CHECKPOINT}, which `oat-bench leaderboard push` puts there"
    return one_line(error)
