"""Where a store lies: a folder on disk, or an address of fsspec such as s3://bucket/outcomes."""

import posixpath
import secrets
from pathlib import Path
from typing import Any

from oat_bench.errors import UserError, one_line
from oat_bench.files import atomic_write, read_bounded, too_large

#: where an upload is seen once it is whole, or not at all; elsewhere files are renamed into place
_OBJECTS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory"}


class Place:
    """A folder of small files, each written whole: by path, ``file://`` or address of fsspec."""

    def __init__(self, address: Path | str) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.address, self._fs, self._root = str(address), LocalFileSystem(), str(address)
        if "://" in self.address:
            try:
                # what others wrote since is listed too
                self._fs, self._root = url_to_fs(self.address, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                raise UserError(f"--store {address}: {one_line(error)}") from error
        self._local = isinstance(self._fs, LocalFileSystem)

    def __reduce__(self) -> tuple[Any, ...]:
        return Place, (self.address,)

    def name(self, file: str) -> str:
        """Return the full name of a file, for messages."""
        return f"{self.address.rstrip('/')}/{file}"

    def absolute(self) -> "Place":
        """Return the same place, whatever the working folder."""
        return Place(Path(self.address).absolute()) if "://" not in self.address else self

    def _path(self, file: str) -> str:
        return posixpath.join(self._root, file)

    def files(self, folder: str, ending: str) -> list[str]:
        """Return the files of a folder in it that end so, sorted; none where there is no folder."""
        try:
            paths = self._fs.ls(self._path(folder), detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = [posixpath.basename(path.rstrip("/")) for path in paths]
        hidden = (name for name in names if name.endswith(ending) and not name.startswith("."))
        return [posixpath.join(folder, name) for name in sorted(hidden)]

    def exists(self, file: str) -> bool:
        """Whether there is such a file."""
        return bool(self._fs.exists(self._path(file)))

    def read(self, file: str, limit: int, kind: str) -> bytes:
        """Read a file that should be of a ``kind``, and have no more than ``limit`` bytes."""
        if self._local:
            return read_bounded(Path(self._path(file)), limit, kind)
        content: bytes = self._fs.cat_file(self._path(file), end=limit + 1)
        if len(content) > limit:
            raise too_large(self.name(file), limit, kind)
        return content

    def write(self, file: str, data: bytes | str) -> None:
        """Write a file whole: another process sees all of it or none."""
        path, data = self._path(file), data.encode() if isinstance(data, str) else data
        if self._local:
            atomic_write(Path(path), data)
        elif self.address.partition("://")[0] in _OBJECTS:
            self._fs.pipe_file(path, data)
        else:
            temporary = f"{posixpath.dirname(path)}/.{secrets.token_hex(4)}.tmp"
            self._fs.makedirs(posixpath.dirname(path), exist_ok=True)
            self._fs.pipe_file(temporary, data)
            self._fs.mv(temporary, path)

    def mark(self) -> str:
        """Write an empty file, to be seen from elsewhere or removed; return its name."""
        name = f".mark.{secrets.token_hex(4)}"
        self.write(name, b"")
        return name

    def remove(self, file: str) -> None:
        """Remove a file."""
        self._fs.rm_file(self._path(file))

    def checked(self) -> "Place":
        """Refuse a place that cannot be written to, before anything is computed for it."""
        try:
            self.remove(self.mark())
        except Exception as error:  # each file system has its own kinds
            raise UserError(
                f"cannot write to {self.address} ({one_line(error) or type(error).__name__}); "
                "choose another place with --store"
            ) from error
        return self
