"""Writing files so that a reader only ever sees a whole one."""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from oat_bench.errors import UserError


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write ``data`` under a temporary name beside ``path``, then rename it into place.

    A crash, a kill or a full disk leaves the old file (or none), never half a new one.
    """
    atomic_write_all({path: data})


def atomic_write_all(contents: Mapping[Path, bytes | str]) -> None:
    """Write files that belong together: none is renamed into place before all are on disk."""
    temporaries: dict[Path, Path] = {}
    try:
        for path, data in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            # the token keeps two writers of one file apart
            temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
            temporaries[path] = temporary
            with temporary.open("wb") as file:
                file.write(data.encode() if isinstance(data, str) else data)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in temporaries.items():
            temporary.replace(path)
    except BaseException:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)
        raise


def make_folder(path: Path, option: str = "--out") -> Path:
    """Create a folder for output, or say in one line why it cannot be one.

    Args:
        path: the folder.
        option: of the command line, by which the user may choose another.

    Raises:
        UserError: if the folder cannot be created or written to.
    """
    try:
        str(path).encode()  # safetensors takes no other path
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, UnicodeEncodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its name is not UTF-8"
        raise UserError(
            f"cannot write to {path} ({reason}); choose another folder with {option}"
        ) from error
    return path


def sha256(*parts: bytes | str | memoryview) -> str:
    """Hash the parts, each with its length, so that no two lists of parts read the same."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        length = content.nbytes if isinstance(content, memoryview) else len(content)
        digest.update(length.to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()
