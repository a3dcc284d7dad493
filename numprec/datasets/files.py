"""Where the files of a data set are: laid out already, or downloaded; verified in either case, before anyone parses.

A Source lists the files with size and SHA-256, all of which must be there and right. They are looked for, under the
name itself or gzipped, in folders of the data directory and of the system, then in an archive in the data directory,
and are downloaded into the data directory at last. tensorflow-datasets is the catalogue of checksums and the
downloader; it is not asked to extract, which would need TensorFlow.

Nothing is half written: a download goes to a temporary folder beside its place and is moved when it is verified.
"""
import gzip
import hashlib
import os
import sys
import tarfile
import tempfile
import threading
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from numprec import places

RETRIES = 2         # of a request that fails on the way; tensorflow-datasets would go on for minutes
PATIENCE = 8        # seconds until a server that does not answer counts as out of reach


class DataUnavailable(FileNotFoundError):
    """The files are neither here nor to be had; the message says which ones to put where."""


class DataCorrupt(ValueError):
    """A file is truncated, damaged or another one than its name says."""


@dataclass(frozen=True)
class Source:
    """`files` {name: (bytes, SHA-256)}, all without compression; `folder` is where they lie under the data directory,
    `elsewhere` other places; they may also lie in `folder` of the tar file `archive`. `urls` {file name: URL}."""

    files: dict
    folder: str
    urls: dict
    archive: str | None = None
    elsewhere: tuple = ()


def home():
    """The data directory: NUMPREC_DATA; else data/ of the checkout that bench.py stands in; else a folder of the
    user's cache. Raises DataUnavailable where there is none of them."""
    named = os.environ.get("NUMPREC_DATA")
    if named:
        return Path(named).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "bench.py").is_file():
        return checkout / "data"
    base = places.caches()
    if base is None:
        raise DataUnavailable("there is no place for data, as the user has no home: name a folder in NUMPREC_DATA")
    return base / "numprec" / "data"


def read(name, source):
    """{file name: bytes} of the data set `name`, verified. Raises DataUnavailable or DataCorrupt."""
    found = _laid_out(source)
    if found is None:
        _download(name, source)
        found = _laid_out(source)
    contents = {}
    for file, (place, take) in found.items():
        contents[file] = _verified(place, take, *source.files[file])
    return contents


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
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                file = wanted.get(member.name.removeprefix("./"))
                if file and member.isfile():
                    members[file] = tar.extractfile(member).read(source.files[file][0] + 1)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataCorrupt(f"{archive} cannot be read ({error}): delete it and get it again") from error
    for file in source.files:
        if file not in members:
            raise DataCorrupt(f"{archive} does not hold {source.folder}/{file}: it is another archive than its name "
                              "says, or was cut off; delete it and get it again")
    return {file: (f"{archive}:{source.folder}/{file}", lambda size, content=content: content)
            for file, content in members.items()}


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

    from tensorflow_datasets.core.download import download_manager, downloader
    from tensorflow_datasets.core.utils import tqdm_utils
    if not sys.stderr.isatty():
        tqdm_utils.disable_progress_bar()
    downloader.MAX_RETRIES = RETRIES
    target = home() if source.archive else home() / source.folder
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target, ignore_cleanup_errors=True) as scratch:
        manager = download_manager.DownloadManager(
            download_dir=scratch, url_infos=catalogue(), force_checksums_validation=True)
        try:
            paths = manager.download(source.urls)
        except download_manager.NonMatchingChecksumError as error:
            raise DataCorrupt(f"a download of {name} is not what it should be, and was thrown away: {error}") from error
        except Exception as error:
            raise DataUnavailable(f"the download of {name} failed ({type(error).__name__}: {error}): "
                                  f"{_instructions(source)}") from error
        for file, path in paths.items():
            os.replace(path, target / file)


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
