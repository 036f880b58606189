"""Files from the network with a pinned sha256, and what is taken out of packages, Debian's and npm's.

A downloaded file stays where it was put, so a machine without a network can be given it by hand.
"""

import io
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from remora.data.locations import read
from remora.demo.folder import OnPartProgress
from remora.errors import DataError
from remora.files import sha256_file

AR, ENTRY = b"!<arch>\n", 60
"""The first bytes of an ar archive, and the length of the header before each of its members."""
PIECE = 4 << 20
"""Bytes of one request, which is repeated if it fails: at 2 Mbit/s it takes less than a request may."""
MOST = 2 << 30
"""Bytes that are unpacked of one package at most; a bigger one is not what it says."""


@dataclass(frozen=True)
class Download:
    """A file that does not change: where it is published, what it must hash to, and its size in bytes."""

    url: str
    sha256: str
    size: int

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def fetched(file: Download, folder: Path, advice: str, progress: OnPartProgress) -> Path:
    """The file in `folder`, downloaded if it is not there.

    Args:
        file: What to download.
        folder: Where it is kept.
        advice: What to do without a network, for the error.
        progress: Called with (file name, bytes read, size).

    Raises:
        DataError: it cannot be downloaded, or has another sha256.
    """
    target = folder / file.name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{file.name}.part")
        try:
            with part.open("wb") as sink:
                while (at := sink.tell()) < file.size:
                    length = min(PIECE, file.size - at)
                    sink.write(read(file.url, at, None if length == file.size else length))
                    progress(file.name, sink.tell(), file.size)
        except OSError as error:
            part.unlink(missing_ok=True)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            size = f"{file.size / 1e6:.0f} MB"
            raise DataError(f"{file.url} ({size}) cannot be read: {reason}; next: {advice}") from error
        part.replace(target)
    if (found := sha256_file(target)) != file.sha256:
        raise DataError(f"{target} has the sha256 {found}, not {file.sha256}; delete it, then the same command again")
    return target


def unpack_deb(package: Path, below: str, suffixes: tuple[str, ...], folder: Path) -> int:
    """Unpack the files of a Debian package that are below a path and have one of the suffixes, without that path.

    Returns:
        Their number.

    Raises:
        DataError: it is not a Debian package, is torn, or has a form that Python cannot unpack.
    """
    advice = f"unpack it with  dpkg-deb -x {package.name} DIR  and give DIR"
    with package.open("rb") as file:
        name, start, size = _data_archive(file, package)
        if name.endswith(".zst"):
            raise DataError(f"{package}: {name} is compressed with zstd, which is not read; next: {advice}")
        file.seek(start)
        return _unpack_tar(io.BytesIO(file.read(size)), package, below, suffixes, folder)


def npm_files(package: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The contents of these files of an npm package, by name. Nothing is unpacked, and no link is followed.

    Raises:
        DataError: it is not an npm package, is torn, or lacks one of them.
    """
    found: dict[str, bytes] = {}
    with package.open("rb") as file, _torn_is_said(package), tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            if member.name in names and member.isfile():
                _refuse_most(package, member.size)
                content = tar.extractfile(member)
                found[member.name] = content.read() if content else b""
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{package} has no {' and no '.join(missing)}")
    return found


def _data_archive(file: BinaryIO, package: Path) -> tuple[str, int, int]:
    """(name, first byte, length) of the data.tar.* in a .deb, which is an ar archive of three members."""
    size = package.stat().st_size
    if file.read(len(AR)) != AR:
        raise DataError(f"{package} is not a Debian package")
    while len(header := file.read(ENTRY)) == ENTRY:
        name, length, start = header[:16].decode("ascii", "replace").rstrip(" /"), header[48:58].strip(), file.tell()
        if header[58:] != b"`\n" or not length.isdigit() or start + int(length) > size:
            break
        if name.startswith("data.tar"):
            return name, start, int(length)
        file.seek(start + int(length) + int(length) % 2)
    raise DataError(f"{package} is torn, or not a Debian package: it has no whole data.tar")


def _unpack_tar(file: BinaryIO, package: Path, below: str, suffixes: tuple[str, ...], folder: Path) -> int:
    """Unpack plain files by tarfile's `data` filter: no links, no devices, nothing outside the folder."""
    count = total = 0
    with _torn_is_said(package), tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not member.isfile() or not path.is_relative_to(below) or not path.name.endswith(suffixes):
                continue
            total += member.size
            _refuse_most(package, total)
            inside = member.replace(name=str(path.relative_to(below)), deep=False)
            tar.extract(inside, folder, filter="data")
            count += 1
    return count


def _refuse_most(package: Path, size: int) -> None:
    if size > MOST:
        raise DataError(f"{package} unpacks to more than {MOST >> 30} GiB, which it should not")


@contextmanager
def _torn_is_said(package: Path) -> Iterator[None]:
    """Say of which archive it was that tarfile could not read."""
    try:
        yield
    except (tarfile.TarError, EOFError, ValueError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's, not the archive's
        raise DataError(f"{package} cannot be unpacked: {next(iter(str(error).splitlines()), 'torn')}") from error
