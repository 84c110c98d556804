"""Writing files so that a reader only ever sees a whole one."""

import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from oat_bench.errors import UserError


def atomic_write(path: Path, data: bytes | str) -> None:
    """Write a file whole: a crash or a full disk leaves the old one, never half a new one."""
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


def is_file(path: Path) -> bool:
    """Whether there is such a file: False, not an error, where none can be called so."""
    return os.path.isfile(path)  # noqa: PTH113


def make_folder(path: Path, option: str = "--out") -> Path:
    """Create a folder for output, which the user may choose by ``option``, and try to write."""
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


_UNFOLDED_TIMES = 250


def check_unfolded(path: Path | str, size: int, stored: int | None = None) -> None:
    """Refuse a file whose bytes in memory are over 256 MiB and 250 times those on disk."""
    stored = Path(path).stat().st_size if stored is None else stored
    if size > max(1 << 28, _UNFOLDED_TIMES * stored):
        raise UserError(
            f"{path}: {stored} bytes would unfold to {size}; expected at most {_UNFOLDED_TIMES} "
            "times as many, so store it less compressed if it is what it should be"
        )


def read_bounded(path: Path, limit: int, kind: str) -> bytes:
    """Read a file that should be of a ``kind``, and have no more than ``limit`` bytes."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # room is made for what is asked for; what is no plain file does not know its size
            most = size if path.is_file() else limit
            content = b"" if size > limit else file.read(most + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({reason})") from error
    if size > limit or len(content) > limit:
        raise too_large(path, limit, kind)
    return content


def too_large(path: Path | str, limit: int, kind: str) -> UserError:
    """Build the error for a file of more bytes than one of its kind has."""
    return UserError(f"{path}: too large for {kind} (over {limit} bytes)")


def sha256(*parts: bytes | str | memoryview) -> str:
    """Hash the parts, each with its length, so that no two lists of parts read the same."""
    digest = hashlib.sha256()
    for part in parts:
        content = memoryview(part.encode() if isinstance(part, str) else part)
        digest.update(content.nbytes.to_bytes(8, "big"))
        digest.update(content)
    return digest.hexdigest()
