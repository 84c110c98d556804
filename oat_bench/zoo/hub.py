"""Checkpoints of ours on the Hugging Face hub."""

from oat_bench import checkpoint
from oat_bench.classifier import TunableClassifier
from oat_bench.errors import UserError, one_line
from oat_bench.run_folder import CHECKPOINT


def load(name: str) -> TunableClassifier:
    """Load ``owner/name[@revision]``, where one was pushed; nothing in it runs as code."""
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            f"hf:{name} needs huggingface_hub, which is not installed; pip install 'oat-bench[hub]'"
        ) from error
    repository, _, revision = name.partition("@")
    try:
        path = hf_hub_download(repository, CHECKPOINT, revision=revision or None)
    except (OSError, ValueError) as error:
        raise UserError(f"hf:{name}: {one_line(error)}") from error
    return checkpoint.load(path)
