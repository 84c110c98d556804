"""Files of published data sets: found in a folder, or downloaded with their checksum."""

import gzip
import hashlib
import secrets
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import torch

from oat_bench.datasets.splits import Split
from oat_bench.errors import UserError, one_line
from oat_bench.files import atomic_write, check_unfolded, make_folder
from oat_bench.progress import bar, note

#: seconds without an answer after which a server counts as not there
TIMEOUT = 30.0
_CHUNK = 1 << 20
#: thrice the largest that is published, STL-10
_MAX_DOWNLOAD = 1 << 33


@dataclass(frozen=True)
class Source:
    """A file on the web: its address, its name on disk and its MD5."""

    url: str
    filename: str
    md5: str


def locate(
    data_dir: Path, name: str, folder: str, files: Iterable[str], *, partial: bool = False
) -> Path | None:
    """Find the files of a data set where people and torchvision put them.

    Looked for, in this order, in ``data_dir/folder``, ``data_dir``, ``data_dir/name/folder`` and
    ``data_dir/name``.

    Args:
        data_dir: the user's folder of data sets.
        name: of the data set.
        folder: the folder inside the published archive; may be empty.
        files: their names.
        partial: a folder that holds some of them will do.

    Returns:
        The folder that holds them, or None if there is not one of them.

    Raises:
        UserError: if some are there and some are not.
    """
    files = list(files)
    candidates = dict.fromkeys(
        [data_dir / folder, data_dir, data_dir / name / folder, data_dir / name]
    )
    for candidate in candidates:
        missing = [file for file in files if not (candidate / file).is_file()]
        if not missing or (partial and len(missing) < len(files)):
            return candidate
        if len(missing) < len(files):
            raise UserError(
                f"{candidate} lacks {', '.join(missing)} of {name}; complete it, or remove what is "
                "there to have it downloaded"
            )
    return None


def download(source: Source, data_dir: Path, name: str, wanted: str = "") -> Path:
    """Fetch a file, unless it is there, and check its MD5.

    Args:
        source: which file.
        data_dir: where it goes.
        name: of the data set.
        wanted: what the user may put there instead; this file if empty.

    Returns:
        Its path.

    Raises:
        UserError: if it cannot be had or is not what was published.
    """
    path = data_dir / source.filename
    if path.is_file():
        if _md5(path) != source.md5:
            raise UserError(
                f"{path} is damaged (MD5 differs from the published one); remove it to have it "
                "downloaded again"
            )
        return path
    # some servers refuse Python's own name
    request = Request(source.url, headers={"User-Agent": "oat-bench"})
    try:
        with _network():
            response = urlopen(request, timeout=TIMEOUT)
        with response:
            make_folder(data_dir, "--data-dir")
            note(f"downloading {source.url} to {path}")
            _save(response, path, source)
    except _UnreachableError as error:
        raise UserError(
            f"{name} is not in {data_dir} and cannot be downloaded ({error}); put "
            f"{wanted or source.url} there, or name the folder that holds its files with --data-dir"
        ) from error
    return path


def _save(response: HTTPResponse, path: Path, source: Source) -> None:
    """Write what comes under a temporary name, check it, rename it."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    digest = hashlib.md5(usedforsecurity=False)
    size = int(response.headers.get("Content-Length") or 0)
    try:
        with part.open("wb") as file, bar(f"{path.name}, MiB", size >> 20) as line:
            while chunk := _receive(response):
                if file.tell() > _MAX_DOWNLOAD:
                    raise UserError(f"{source.url} sends more than {_MAX_DOWNLOAD} bytes")
                file.write(chunk)
                digest.update(chunk)
                line.advance(len(chunk) / _CHUNK)
        if digest.hexdigest() != source.md5:
            raise UserError(
                f"{source.url} sent something else than was published (MD5 differs); try again, or "
                f"put the original {path.name} into {path.parent}"
            )
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _receive(response: HTTPResponse) -> bytes:
    with _network():
        return response.read(_CHUNK)


class _UnreachableError(Exception):
    """The network failed, and not the disk."""


@contextmanager
def _network() -> Iterator[None]:
    try:
        yield
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error  # urllib wraps the system's errors
        reason = getattr(reason, "strerror", None) or reason
        raise _UnreachableError(" ".join(str(reason).split()) or type(error).__name__) from error


def unpack(archive: Path, members: Iterable[str], data_dir: Path) -> None:
    """Take some files out of a tar.gz archive, each under its name in the archive.

    Only what is named is written, whatever else the archive holds, and only as files: names come
    from here, never from the archive.

    Raises:
        UserError: if the archive is damaged, lacks one, or unfolds to more than it may.
    """
    try:
        with _Gzip(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            wanted = set(members)
            for member in tar:
                # also before what is not wanted is passed over
                check_unfolded(archive, member.offset_data + member.size)
                if member.name in wanted and member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None
                    atomic_write(data_dir / member.name, content.read())
                    wanted.remove(member.name)
                    if not wanted:
                        return
    except UserError:
        raise
    # tarfile raises ValueError and OverflowError at some numbers in headers
    except (tarfile.TarError, OSError, zlib.error, EOFError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"{archive}: damaged ({one_line(error)}); remove it and try again"
        ) from error
    raise UserError(f"{archive} lacks {', '.join(sorted(wanted))}; remove it and try again")


class _Gzip(gzip.GzipFile):
    """Refuses to be read in pieces that no honest archive asks for, such as a name of gigabytes."""

    def read(self, size: int | None = -1) -> bytes:
        """Read ``size`` bytes, or what is left."""
        if size is not None:
            check_unfolded(Path(self.name), size)
        return super().read(size)


def check_originals(name: str, folder: Path, *published: Mapping[str, str]) -> None:
    """Say so if a file is not the published one, byte for byte.

    Args:
        name: of the data set.
        folder: where the files lie.
        published: the checksum (MD5) of each file; one mapping for each form in which they were
            published.
    """
    files = list(published[0])
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda file: _md5(folder / file), files)
    known = [{checksums[file] for checksums in published} for file in files]
    others = [file for file, md5, ok in zip(files, found, known, strict=True) if md5 not in ok]
    if others:
        note(
            f"{folder}: {', '.join(others)} differ{'s' if len(others) == 1 else ''} from what was "
            f"published (MD5); what is measured here is not comparable with others' {name}"
        )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def make_split(
    where: object, images: np.ndarray, labels: np.ndarray, n_classes: int, first_label: int = 0
) -> Split:
    """Check images and labels read from files, and put them together.

    Args:
        where: the file, to name it.
        images: uint8 of shape [n, C, H, W].
        labels: integers of shape [n].
        n_classes: labels are ``first_label`` ... ``first_label + n_classes - 1``.
        first_label: subtracted from the labels.

    Raises:
        UserError: if the counts disagree or a label is out of range.
    """
    if len(images) != len(labels):
        raise UserError(f"{where}: {len(images)} images with {len(labels)} labels")
    if len(images) == 0:
        raise UserError(f"{where}: holds no image")
    last_label = first_label + n_classes - 1
    wrong = (labels < first_label) | (labels > last_label)
    if wrong.any():
        place = int(wrong.argmax())
        raise UserError(
            f"{where}: label {int(labels[place])} of image {place} is out of range; expected "
            f"{first_label} to {last_label}"
        )
    y = torch.from_numpy(labels.astype(np.int64) - first_label)
    return Split(torch.from_numpy(np.array(images, order="C")), y)
