"""The published files of a data set: found or downloaded, and known by their MD5."""

import hashlib
import io
import socket
import sys
import tarfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from oat_bench.errors import UserError, network_reason
from oat_bench.files import atomic_write, make_folder
from oat_bench.progress import console, note

TIMEOUT = 30.0  # seconds without an answer after which a server counts as not there
_offline = ContextVar("offline", default=False)
_LARGEST = 1 << 32  # bytes; the largest that is published, STL-10's archive, has 2.6e9


class Source(NamedTuple):
    """A file on the web."""

    url: str
    filename: str
    md5: str


def from_archive(
    name: str, data_dir: Path, source: Source, folder: str, md5: Mapping[str, str]
) -> Path:
    """Return where the files of a published tar.gz are; download and unpack it if nowhere."""
    found = locate(name, data_dir, folder, md5)
    if found is None:
        _check_online(name, data_dir)
        found, wanted = data_dir / folder, {f"{folder}/{file}" for file in md5}
        with tarfile.open(_download(name, data_dir, source, source.url)) as tar:
            for member in tar:
                if member.name in wanted and (content := tar.extractfile(member)):
                    atomic_write(data_dir / member.name, content.read())
    check(name, found, md5)
    return found


def one_by_one(
    name: str, data_dir: Path, sources: Sequence[Source], folder: str = "", *also: Mapping[str, str]
) -> Path:
    """Return where files are; download those that are not; ``also`` are other MD5s of them."""
    md5 = {source.filename: source.md5 for source in sources}
    found = locate(name, data_dir, folder, md5, partial=True) or data_dir / folder
    wanted = " and ".join(source.url for source in sources)
    for source in sources:
        if not (found / source.filename).is_file():
            _download(name, found, source, wanted)
    check(name, found, md5, *also)
    return found


def locate(
    name: str, data_dir: Path, folder: str, files: Collection[str], *, partial: bool = False
) -> Path | None:
    """Return the folder that holds files, not just some unless ``partial``; None if none does."""
    for candidate in (data_dir / folder, data_dir, data_dir / name / folder, data_dir / name):
        missing = [file for file in files if not (candidate / file).is_file()]
        if len(missing) < len(files):
            if partial or not missing:
                return candidate
            raise UserError(
                f"{candidate} lacks {', '.join(missing)} of {name}; complete it, or remove what is "
                "there to have it downloaded"
            )
    return None


def check(name: str, folder: Path, *published: Mapping[str, str]) -> None:
    """Refuse files of an MD5 that was not published, so that readers need not doubt the others."""
    found = {file: _md5(folder / file) for file in published[0]}
    if others := [f for f, md5 in found.items() if md5 not in [p.get(f) for p in published]]:
        raise UserError(
            f"{folder}: not the published {', '.join(others)} of {name} (MD5 differs); remove what "
            "is there to have the originals downloaded, or name other images as a folder, such as "
            "--dataset ./my-images"
        )


def _md5(path: Path) -> str:
    if path.stat().st_size > _LARGEST:  # a sparse file may say that it is endless
        return "of none that was published"
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download(name: str, folder: Path, source: Source, wanted: str) -> Path:
    """Fetch a file, unless it is there; ``wanted`` is what the user may put there instead."""
    from torchvision.datasets.utils import download_url

    path = folder / source.filename
    if path.is_file():
        check(name, folder, {source.filename: source.md5})
        return path
    _check_online(name, folder)
    make_folder(folder, "--data-dir")
    note(f"downloading {source.url} to {path}")
    with TemporaryDirectory(prefix=".", dir=folder) as part:
        try:
            with _quietly_and_in_time():
                download_url(source.url, part, path.name, source.md5)
        except RuntimeError as error:
            raise UserError(
                f"{source.url} did not send the published file (its MD5 differs); try again, or "
                f"put the original {path.name} into {folder}"
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            raise UserError(
                f"{name} is not in {folder} and cannot be downloaded "
                f"({network_reason(error)}); put {wanted} there, or name the folder that holds "
                "its files with --data-dir"
            ) from error
        (Path(part) / path.name).replace(path)
    return path


@contextmanager
def offline() -> Iterator[None]:
    """Neither download nor unpack what is not there: a `UserError`."""
    before = _offline.set(True)
    try:
        yield
    finally:
        _offline.reset(before)


def _check_online(name: str, folder: Path) -> None:
    if _offline.get():
        raise UserError(f"{name} is not in {folder}")


@contextmanager
def _quietly_and_in_time() -> Iterator[None]:
    """Keep torchvision's downloads off stdout, their bar on a terminal, and from hanging."""
    shown = sys.stderr if console.is_terminal else io.StringIO()
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with redirect_stdout(shown), redirect_stderr(shown):
            yield
    finally:
        socket.setdefaulttimeout(before)
