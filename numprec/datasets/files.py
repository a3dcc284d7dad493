"""Where the files of a data set are: laid out already, or downloaded; verified in either case, before anyone parses.

A Source lists the files with size and SHA-256, all of which must be there and right. They are looked for, under the
name itself or gzipped, in folders of the data directory and of the system, then in an archive in the data directory,
and are downloaded into the data directory at last. tensorflow-datasets is the catalogue of sizes and checksums; its own
downloader waits without end for a server that has fallen silent, and stores whatever that sends.

Nothing is half written: a download goes to a temporary folder beside its place and is moved when it is verified. No
more is read of a file, an archive or an answer than what it should hold.
"""
import contextlib
import gzip
import hashlib
import io
import os
import shutil
import sys
import tarfile
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from numprec import places

RETRIES = 2         # of a request that breaks off on the way
PATIENCE = 8        # seconds until a server that does not answer counts as out of reach
SILENCE = 30        # seconds without a byte, after which a download has failed
SLOWEST = 10_000    # bytes per second, which it has to reach on the whole
SCRATCH = ".download-"    # how the name of a temporary folder begins
STALE = 3600        # seconds after which nobody can be writing to it any more
BESIDES = 1 << 24   # bytes that an archive may hold besides the files that are wanted: headers, a page of explanation


class DataUnavailable(FileNotFoundError):
    """The files are neither here nor to be had; the message says which ones to put where."""


class DataCorrupt(ValueError):
    """A file is truncated, damaged or another one than its name says."""


@dataclass(frozen=True)
class Source:
    """`files` {name: (bytes, SHA-256)}, all without compression; `folder` is where they lie under the data directory,
    `elsewhere` other places; they may also lie in `folder` of the tar file `archive`. `urls` {file name: URL};
    `parsed` is the `digest` of the arrays in them."""

    files: dict
    folder: str
    urls: dict
    parsed: str
    archive: str | None = None
    elsewhere: tuple = ()


def home():
    """The data directory: NUMPREC_DATA; else data/ of the checkout that bench.py stands in; else a folder of the
    user's cache. Raises DataUnavailable where there is none of them."""
    named = os.environ.get("NUMPREC_DATA")
    if named:
        try:
            return Path(named).expanduser()
        except RuntimeError as error:       # a user whom the system does not know
            raise DataUnavailable(f"NUMPREC_DATA is {named}: {error}") from None
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "bench.py").is_file():
        return checkout / "data"
    base = places.caches()
    if base is None:
        raise DataUnavailable("there is no place for data, as the user has no home: name a folder in NUMPREC_DATA")
    return base / "numprec" / "data"


def read(name, source):
    """{file name: bytes} of the data set `name`, verified. Raises DataUnavailable or DataCorrupt."""
    try:
        found = _laid_out(source)
        if found is None:
            _download(name, source)
            found = _laid_out(source)
        return {file: _verified(place, take, *source.files[file]) for file, (place, take) in found.items()}
    except DataUnavailable:
        raise
    except OSError as error:
        raise DataUnavailable(f"the files of {name} cannot be read or put into {home()} ({error}): "
                              f"{_instructions(source)}") from error


def digest(arrays):
    """SHA-256 of the bytes of every array, little-endian: the same data gives the same digest anywhere."""
    total = hashlib.sha256()
    for a in arrays:
        total.update(np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()


# ---- laid out

def _laid_out(source):
    """{file name: (place, function that reads at most so many bytes)} where all files are in one place, else None."""
    for folder in (home() / source.folder, *map(Path, source.elsewhere)):
        found = {}
        for file in source.files:
            for path, opened in (folder / file, open), (folder / f"{file}.gz", gzip.open):
                if path.is_file():
                    found[file] = path, _reader(path, opened)
                    break
        if len(found) == len(source.files):
            return found
    archive = source.archive and home() / source.archive
    if archive and archive.is_file():
        return _in_archive(source, archive)
    return None


def _reader(path, opened):
    def take(size):
        with opened(path, "rb") as file:
            return file.read(size)
    return take


def _in_archive(source, archive):
    """The same for the members of a tar file, which is read once, from front to back."""
    wanted, members = {f"{source.folder}/{file}": file for file in source.files}, {}
    most = sum(size for size, _ in source.files.values()) + BESIDES
    with open(archive, "rb") as packed:    # what may not be opened is none that is damaged
        opened = gzip.open if packed.read(2) == b"\x1f\x8b" else open
    try:
        with opened(archive, "rb") as file, tarfile.open(fileobj=_Bounded(file, most), mode="r|") as tar:
            for member in tar:
                name = wanted.get(member.name.removeprefix("./"))
                if name and member.isreg() and not member.issparse():
                    members[name] = tar.extractfile(member).read(source.files[name][0] + 1)
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, ArithmeticError, RecursionError) as error:
        raise DataCorrupt(f"{archive} cannot be read ({error}): delete it and get it again") from error
    for file in source.files:
        if file not in members:
            raise DataCorrupt(f"{archive} does not hold {source.folder}/{file}: it is another archive than its name "
                              "says, or was cut off; delete it and get it again")
    return {file: (f"{archive}:{source.folder}/{file}", lambda size, content=content: content)
            for file, content in members.items()}


class _Bounded(io.RawIOBase):
    """Reads `file` up to `most` bytes; ValueError beyond."""

    def __init__(self, file, most):
        self._file, self._left, self._most = file, most, most

    def readable(self):
        return True

    def read(self, size=-1):
        content = self._file.read(size if 0 <= size <= self._left else self._left + 1)
        self._left -= len(content)
        if self._left < 0:
            raise ValueError(f"it holds more than {self._most} bytes")
        return content


def _verified(place, take, size, sha256):
    """The content of a file if it is what it should be."""
    advice = "the file is truncated, damaged or another one; delete it and get it again"
    try:
        content = take(size + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataCorrupt(f"{place} cannot be decompressed ({error}): {advice}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        length = "more" if len(content) > size else len(content)
        raise DataCorrupt(f"{place} has SHA-256 {digest} and {length} bytes, expected are {sha256} and {size}: "
                          f"{advice}")
    return content


# ---- downloaded

def catalogue():
    """{URL: UrlInfo(size, checksum, filename)} of all that tensorflow-datasets knows."""
    from tensorflow_datasets.core.download import checksums
    return checksums.get_all_url_infos()


def _download(name, source):
    """Puts the files of source.urls into the data directory, under source.folder unless one is the archive."""
    for url in source.urls.values():
        problem = unreachable(url)
        if problem:
            raise DataUnavailable(f"{_what_is_missing(name, source)}, and {problem}: {_instructions(source)}")

    target, known = home() if source.archive else home() / source.folder, catalogue()
    target.mkdir(parents=True, exist_ok=True)
    sweep(target, SCRATCH)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=target, ignore_cleanup_errors=True) as scratch:
        paths = {file: Path(scratch) / file for file in source.urls}
        for file, path in paths.items():
            url = source.urls[file]
            try:
                problem = _fetched(url, path, known[url].size, known[url].checksum)
            except Exception as error:
                raise DataUnavailable(f"the download of {name} failed ({type(error).__name__}: {error}): "
                                      f"{_instructions(source)}") from error
            if problem:
                raise DataCorrupt(f"a download of {name} is not what it should be, and was thrown away: {url} "
                                  f"{problem}")
        for file, path in paths.items():
            os.replace(path, target / file)


def _fetched(url, path, size, sha256):
    """Downloads to `path`. Returns what is wrong with it, or ""; raises what requests, urllib3 and the disk do."""
    from requests import ConnectionError, Timeout
    from urllib3.exceptions import ProtocolError
    for left in reversed(range(RETRIES + 1)):
        try:
            return _fetched_once(url, path, size, sha256)
        except Timeout:
            raise
        except (ConnectionError, ProtocolError):
            if not left:
                raise


def _fetched_once(url, path, size, sha256):
    import requests
    from tqdm import tqdm
    total, count, end = hashlib.sha256(), 0, time.monotonic() + SILENCE + size / SLOWEST
    answer = requests.get(url, stream=True, timeout=(PATIENCE, SILENCE),
                          headers={"Accept-Encoding": "identity"})    # what is packed need not be packed again
    bar = tqdm(total=size, desc=path.name, unit="B", unit_scale=True, disable=not sys.stderr.isatty())
    with answer, bar, open(path, "wb") as file:
        answer.raise_for_status()
        while chunk := answer.raw.read1(1 << 16):
            count += len(chunk)
            if count > size:
                return f"has more than {size} bytes"
            if time.monotonic() > end:
                raise TimeoutError(f"{count} of {size} bytes came in {SILENCE + size / SLOWEST:.0f} s")
            total.update(chunk)
            file.write(chunk)
            bar.update(len(chunk))
    return "" if total.hexdigest() == sha256 else f"has SHA-256 {total.hexdigest()} and {count} bytes"


def sweep(folder, prefix):
    """Deletes the temporary files and folders in `folder` that were left by programs which were killed."""
    for path in folder.glob(prefix + "*"):
        with contextlib.suppress(OSError):
            if time.time() - max(each.lstat().st_mtime for each in (path, *path.glob("*"))) > STALE:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _what_is_missing(name, source):
    folder = home() / source.folder
    missing = [file for file in source.files if not any((folder / f).is_file() for f in (file, f"{file}.gz"))]
    if len(missing) < len(source.files):
        return f"{folder} lacks {', '.join(missing)}"
    return f"{name} is not in {home()}"


def _instructions(source):
    files = ", ".join(source.urls)
    if source.archive:
        what = f"put {source.archive}, or the folder {source.folder} from it, into {home()}"
    else:
        what = f"put {files} into {home() / source.folder}"
    places = ", ".join(sorted({url.rpartition("/")[0] + "/" for url in source.urls.values()}))
    return f"{what} (from {places}); NUMPREC_DATA names another folder"


@lru_cache(maxsize=None)
def unreachable(url):
    """Why a server cannot be reached, in words; None if it can. Asked once a process."""
    import requests
    host, answer = urlsplit(url).netloc, [f"no answer came within {PATIENCE} s"]

    def ask():
        try:
            status = requests.head(url, timeout=PATIENCE / 2, allow_redirects=True).status_code
            answer[0] = None if status < 400 or status in (405, 501) else f"it answers with status {status}"
        except requests.RequestException as error:
            answer[0] = type(error).__name__

    # a thread, because the look-up of a name heeds no time limit
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return answer[0] and f"{host} cannot be reached ({answer[0]})"
