"""The data sets: what they contain, where it is from, how they are split, and how their files are got.

Real files of Fashion-MNIST and CIFAR-10 are tested where NUMPREC_DATA names a folder that holds them; everything else
about files is tested with small ones of the same formats, and a server on this machine.
"""
import contextlib
import gzip
import hashlib
import http.server
import io
import lzma
import os
import tarfile
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from numprec import datasets
from numprec.datasets import DataCorrupt, DataUnavailable, files, images
from numprec.datasets.files import Source

# shape, dtype, number of classes, and how the arrays' SHA-256 begins; scikit-learn computes the scaling of diabetes,
# so its last bits are not the data's
FACTS = {
    "iris": ((150, 4), np.float64, 3, "0055ca9c3c36"),
    "diabetes": ((442, 10), np.float64, None, ""),
    "diabetes_raw": ((442, 10), np.float64, None, "e9c1f7559552"),
    "digits": ((1797, 64), np.uint8, 10, "fe61bc84cd6a"),
}

# shapes of training and test images, and how the SHA-256 of the arrays begins
REAL = {
    "fashion_mnist": ((60000, 784), (10000, 784), (28, 28, 1), "09627107dde2"),
    "cifar10": ((50000, 3072), (10000, 3072), (32, 32, 3), "9bb26ea52d5b"),
}


def test_every_data_set_is_tested():
    assert {*FACTS, *REAL} == set(datasets.names())


@pytest.mark.parametrize("name", FACTS)
def test_contents(name):
    shape, dtype, classes, digest = FACTS[name]
    data = datasets.load(name)
    assert data.name == name and data.X.shape == shape and data.X.dtype == dtype
    assert data.task == ("classification" if classes else "regression")
    assert classes is None or len(np.unique(data.y)) == classes
    assert data.source and data.licence and data.stand_in is None
    assert data.sha256.startswith(digest)


@pytest.mark.parametrize("name", FACTS)
def test_splits_are_paired_and_complete(name):
    data = datasets.load(name)
    one, again, other = data.split(1), data.split(1), data.split(2)
    for a, b in zip(one, again):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.y_test, other.y_test)
    assert len(one.X_train) + len(one.X_test) == len(data.X)
    assert len(one.y_test) == pytest.approx(0.2 * len(data.y), abs=1)
    np.testing.assert_array_equal(np.sort(np.concatenate([one.y_train, one.y_test])), np.sort(data.y))
    assert data.test_to_train == pytest.approx(0.25)


def test_classes_keep_their_shares():
    split = datasets.load("iris").split(0)
    np.testing.assert_array_equal(np.bincount(split.y_test), (10, 10, 10))


def test_arrays_are_shared_and_read_only():
    data = datasets.load("iris")
    assert datasets.load("iris") is data
    with pytest.raises(ValueError, match="read-only"):
        data.X[0, 0] = 0


def test_a_test_set_of_its_own_is_every_split():
    X, y = np.zeros((4, 1)), np.zeros(4)
    data = datasets.Dataset("own", "regression", X, y, "nowhere", "none", test=(X[:1], y[:1]))
    assert data.split(0).X_test is data.split(1).X_test is data.test[0]
    assert data.test_to_train == 0


def test_unknown_name():
    with pytest.raises(ValueError, match="Did you mean 'diabetes'"):
        datasets.load("diabetis")


def test_first():
    data = datasets.load("digits")
    few = data.first(100)
    assert few.name == "digits[:100]" and len(few.X) == len(few.y) == 100 and few.test is None
    assert data.first(5000) is data
    own = replace(data, test=(data.X[:50], data.y[:50])).first(100, 20)
    assert own.first(200, 10).name == "digits[:100], test [:20], test [:10]" and own.first(100, 30) is own
    assert own.name == "digits[:100], test [:20]" and len(own.test[0]) == len(own.test[1]) == 20


# ---- the real files

@pytest.mark.parametrize("name", REAL)
def test_real_files(name):
    folder = os.environ.get("NUMPREC_DATA")
    if not folder or not (Path(folder) / images.SOURCES[name].folder).is_dir():
        pytest.skip(f"NUMPREC_DATA names no folder with the files of {name}")
    train, test, image_shape, digest = REAL[name]
    data = datasets.load(name)
    assert data.X.shape == train and data.test[0].shape == test and data.image_shape == image_shape
    assert data.X.dtype == np.uint8 and data.y.dtype == np.int32 and not data.X.flags.writeable
    np.testing.assert_array_equal(np.bincount(data.y), train[0] // 10)
    np.testing.assert_array_equal(np.bincount(data.test[1]), test[0] // 10)
    assert data.sha256.startswith(digest)
    again = images.arrays(name)    # from the cache by now
    assert replace(data, X=again[0], y=again[1], test=tuple(again[2:])).sha256 == data.sha256


def test_the_catalogue_knows_the_downloads():
    known = files.catalogue()
    for source in images.SOURCES.values():
        for file, url in source.urls.items():
            assert known[url].filename == file and len(known[url].checksum) == 64


# ---- small files of the same formats

def idx_file(array):
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return head + array.tobytes()


RNG = np.random.default_rng(0)
PIXELS, LABELS = RNG.integers(0, 256, (6, 4, 5), np.uint8), RNG.integers(0, 10, 6).astype(np.uint8)
RECORDS = [np.concatenate([RNG.integers(0, 10, (3, 1)), RNG.integers(0, 256, (3, 3072))], 1).astype(np.uint8)
           for _ in range(6)]
CONTENTS = {
    "fashion_mnist": {"train-images-idx3-ubyte": idx_file(PIXELS), "train-labels-idx1-ubyte": idx_file(LABELS),
                      "t10k-images-idx3-ubyte": idx_file(PIXELS[:2]), "t10k-labels-idx1-ubyte": idx_file(LABELS[:2])},
    "cifar10": dict(zip([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"],
                        (r.tobytes() for r in RECORDS))),
}


def described(contents):
    return {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}


def tar_of(members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


CIFAR_TAR = tar_of({f"cifar-10-batches-bin/{name}": content for name, content in CONTENTS["cifar10"].items()})


@pytest.fixture
def small(tmp_path, monkeypatch):
    """An empty data directory, where the two data sets are small ones and no server is asked."""
    for name, contents in CONTENTS.items():
        monkeypatch.setitem(images.SOURCES, name, replace(
            images.SOURCES[name], files=described(contents), elsewhere=(),
            parsed=files.digest(images.PARSERS[name](contents))))
    monkeypatch.setenv("NUMPREC_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(files, "unreachable", lambda url: "nobody.example cannot be reached (test)")
    datasets._load.cache_clear()
    yield tmp_path / "data"
    datasets._load.cache_clear()


def lay_out(folder, contents, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)


def check_cifar10():
    X, y, X_test, y_test = images.arrays("cifar10")
    assert X.shape == (15, 3072) and X_test.shape == (3, 3072) and X.dtype == np.uint8
    assert y.dtype == y_test.dtype == np.int32
    records = np.concatenate(RECORDS)
    np.testing.assert_array_equal(np.concatenate([y, y_test]), records[:, 0])
    pixels = np.concatenate([X, X_test]).reshape(-1, 32, 32, 3)
    for channel in range(3):
        plane = records[:, 1 + 1024 * channel:1 + 1024 * (channel + 1)]
        np.testing.assert_array_equal(pixels[..., channel].reshape(-1, 1024), plane)


def everything_below(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(small, packed):
    lay_out(small / "fashion_mnist", CONTENTS["fashion_mnist"], packed)
    X, y, X_test, y_test = images.arrays("fashion_mnist")
    np.testing.assert_array_equal(X, PIXELS.reshape(6, 20))
    np.testing.assert_array_equal(y, LABELS)
    np.testing.assert_array_equal(X_test, PIXELS[:2].reshape(2, 20))
    np.testing.assert_array_equal(y_test, LABELS[:2])


def test_files_of_the_system(small, tmp_path, monkeypatch):
    monkeypatch.setitem(images.SOURCES, "fashion_mnist",
                        replace(images.SOURCES["fashion_mnist"], elsewhere=(str(tmp_path / "system"),)))
    lay_out(tmp_path / "system", CONTENTS["fashion_mnist"], packed=True)
    assert len(datasets.load("fashion_mnist").X) == 6


def test_cifar_batches(small):
    lay_out(small / "cifar-10-batches-bin", CONTENTS["cifar10"])
    check_cifar10()


def test_cifar_archive(small):
    small.mkdir()
    (small / "cifar-10-binary.tar.gz").write_bytes(CIFAR_TAR)
    check_cifar10()
    assert everything_below(small) == {"cifar-10-binary.tar.gz", "parsed/cifar10.npz"}


@pytest.mark.parametrize("damage, says", [
    (lambda c: c[:-1], " 55 bytes"), (lambda c: c[:-1] + bytes([c[-1] ^ 1]), " 56 bytes"), (lambda c: b"", " 0 bytes"),
    (lambda c: c + b"\0", "more bytes"), (lambda c: idx_file(PIXELS[::-1].copy()), "more bytes")],
    ids=["truncated", "one bit", "empty", "longer", "foreign"])
@pytest.mark.parametrize("packed", [False, True])
def test_wrong_files_are_refused_by_name(small, damage, says, packed):
    good = CONTENTS["fashion_mnist"]
    lay_out(small / "fashion_mnist", {**good, "t10k-images-idx3-ubyte": damage(good["t10k-images-idx3-ubyte"])}, packed)
    with pytest.raises(DataCorrupt, match=f"t10k-images-idx3-ubyte.*{says}.*truncated") as caught:
        datasets.load("fashion_mnist", stand_in=True)    # nor does anything stand in for it
    assert hashlib.sha256(good["t10k-images-idx3-ubyte"]).hexdigest() in str(caught.value)
    assert not (small / "parsed").exists()


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", gzip.compress(b"x" * 1000)[:-9]],
                         ids=("empty", "html", "cut off"))
def test_what_is_not_gzip_is_refused_by_name(small, content):
    lay_out(small / "fashion_mnist", CONTENTS["fashion_mnist"], packed=True)
    (small / "fashion_mnist" / "train-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataCorrupt, match="train-labels-idx1-ubyte.gz"):
        images.arrays("fashion_mnist")


@pytest.mark.parametrize("content", [
    b"", b"<html>", CIFAR_TAR[:len(CIFAR_TAR) // 2], tar_of({"README": b"hello"}),
    tar_of({f"cifar-10-batches-bin/{n}": c[:-1] for n, c in CONTENTS["cifar10"].items()})],
    ids=["empty", "html", "cut off", "foreign", "members cut off"])
def test_wrong_archives_are_refused_by_name(small, content):
    small.mkdir()
    (small / "cifar-10-binary.tar.gz").write_bytes(content)
    with pytest.raises(DataCorrupt, match="cifar-10-binary.tar.gz"):
        images.arrays("cifar10")
    assert everything_below(small) == {"cifar-10-binary.tar.gz"}


def headers(size, kind=tarfile.XHDTYPE, count=1):
    """A tar file, gzipped, of headers of `size` zeros each."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, size
    return gzip.compress((info.tobuf() + bytes(-(-size // 512) * 512)) * count, 1)


SPARSE = tarfile.TarInfo("cifar-10-batches-bin/test_batch.bin")
SPARSE.type, SPARSE.pax_headers = tarfile.REGTYPE, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                                    "GNU.sparse.name": SPARSE.name, "GNU.sparse.realsize": "1e9"}


@pytest.mark.parametrize("content", [
    headers(1 << 26), headers(512, count=3000), headers(1 << 26, tarfile.GNUTYPE_LONGNAME), lzma.compress(CIFAR_TAR),
    lzma.compress(CIFAR_TAR)[:-9], gzip.compress(SPARSE.tobuf(tarfile.PAX_FORMAT) + b"x\n" * 256),
    gzip.compress(bytes(1 << 26))],
    ids=["large header", "many headers", "long name", "xz", "damaged xz", "odd sparse file", "zeros"])
def test_archives_that_do_harm_are_refused_soon(small, content):
    small.mkdir()
    (small / "cifar-10-binary.tar.gz").write_bytes(content)
    start = time.process_time()
    with pytest.raises(DataCorrupt, match="cifar-10-binary.tar.gz"):
        images.arrays("cifar10")
    assert time.process_time() - start < 5


def test_an_archive_that_was_unpacked_under_its_name(small):
    small.mkdir()
    (small / "cifar-10-binary.tar.gz").write_bytes(gzip.decompress(CIFAR_TAR))
    check_cifar10()


@pytest.mark.parametrize("content, says", [
    (b"", "begins with nothing"), (b"\0\0\x0d\1\0\0\0\1\0", "no IDX"), (b"\0\0\x08\3\0\0\0\1", "no IDX"),
    (idx_file(PIXELS)[:-1], "6 x 4 x 5 elements and holds 119"),
    (b"\0\0\x08\2" + b"\xff" * 8, "4294967295 x 4294967295 elements and holds 0")])
def test_malformed_idx(content, says):
    with pytest.raises(DataCorrupt, match=says):
        images.idx("name", content)


@pytest.mark.parametrize("content, says", [
    (b"", "0 bytes"), (b"\0" * 3072, "3072 bytes"), (b"\x0a" * 3073, "label 10")])
def test_malformed_cifar_batch(content, says):
    with pytest.raises(DataCorrupt, match=says):
        images.cifar_batch("name", content)


def test_images_and_labels_must_go_together():
    contents = {**CONTENTS["fashion_mnist"], "t10k-labels-idx1-ubyte": idx_file(LABELS)}
    with pytest.raises(DataCorrupt, match="t10k"):
        images.PARSERS["fashion_mnist"](contents)


# ---- the cache of parsed arrays

def test_cache_is_used_and_survives_damage(small, monkeypatch):
    lay_out(small / "cifar-10-batches-bin", CONTENTS["cifar10"])
    check_cifar10()
    cache = small / "parsed" / "cifar10.npz"
    good = cache.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(files, "read", lambda *_: pytest.fail("the cache was not used"))
        check_cifar10()
    for place in range(0, len(good), 997):
        cache.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1:])
        check_cifar10()
    for damaged in good[:len(good) // 2], b"", b"\x80\x04N.":
        cache.write_bytes(damaged)
        check_cifar10()
        assert cache.read_bytes() == good    # written anew
    np.savez(cache, files=np.array([print], object), X_train=np.array([print], object))    # a pickle inside
    check_cifar10()
    np.save(cache.with_suffix(".npy"), np.zeros(3))
    cache.with_suffix(".npy").replace(cache)                                # one array, and no archive of them
    check_cifar10()
    with np.load(cache) as stored:
        forged = {**stored, "y_train": np.zeros_like(stored["y_train"])}
        odd = {**stored, "X_train": stored["X_train"].ravel()}, {**stored, "y_train": stored["y_train"].view(np.uint32)}
    for parts in odd:                                                       # the same bytes
        np.savez(cache, **parts)
        check_cifar10()
    for write in np.savez, np.savez_compressed:
        write(cache, **forged)
        check_cifar10()
    np.savez_compressed(cache, **{**forged, "X_train": np.zeros((1000, 3072), np.uint8)})
    check_cifar10()
    assert everything_below(small / "parsed") == {"cifar10.npz"}


def test_cache_of_other_files_is_not_used(small, monkeypatch):
    lay_out(small / "cifar-10-batches-bin", CONTENTS["cifar10"])
    images.arrays("cifar10")
    others = {name: content[::-1] for name, content in CONTENTS["cifar10"].items()}
    monkeypatch.setitem(images.SOURCES, "cifar10", replace(images.SOURCES["cifar10"], files=described(others),
                                                           parsed="of others"))
    with pytest.raises(DataCorrupt):
        images.arrays("cifar10")


def test_without_a_place_for_the_cache(small):
    lay_out(small / "cifar-10-batches-bin", CONTENTS["cifar10"])
    (small / "parsed").write_text("in the way")
    check_cifar10()


def test_a_full_disk_leaves_nothing_behind(small, monkeypatch):
    lay_out(small / "cifar-10-batches-bin", CONTENTS["cifar10"])

    def full(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(images.np, "savez", full)
    check_cifar10()
    assert not everything_below(small / "parsed")


# ---- the network

def test_no_files_and_no_network(small):
    for name, says in ("cifar10", "put cifar-10-binary.tar.gz, or the folder cifar-10-batches-bin"), \
                      ("fashion_mnist", "put train-images-idx3-ubyte.gz"):
        with pytest.raises(DataUnavailable, match=says) as caught:
            datasets.load(name)
        assert str(small) in str(caught.value) and "NUMPREC_DATA" in str(caught.value)
        with pytest.warns(UserWarning, match=f"digits stands in for {name}"):
            data = datasets.load(name, stand_in=True)
        assert data.name == "digits" and data.stand_in == name
        with warnings.catch_warnings():
            warnings.simplefilter("error")    # it has been said
            assert datasets.load(name, stand_in=True).stand_in == name
    assert datasets.load("digits").stand_in is None
    assert not small.exists()
    lay_out(small / "cifar-10-batches-bin", dict([*CONTENTS["cifar10"].items()][:4]))
    with pytest.raises(DataUnavailable, match="lacks data_batch_5.bin, test_batch.bin"):
        datasets.load("cifar10")


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://nobody.invalid/x", "http://10.255.255.1/x"])
def test_an_unreachable_server_is_known_within_seconds(url):
    files.unreachable.cache_clear()
    start = time.monotonic()
    assert "cannot be reached" in files.unreachable(url)
    assert time.monotonic() - start < files.PATIENCE + 2


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(head=True)

    def do_GET(self):
        self.answer(head=False)

    def answer(self, head):
        name = self.path.rpartition("/")[2]
        self.server.asked.append((self.command, name))
        content, missing = self.server.content.get(name), self.server.cut
        if self.server.manner and not head:
            return self.harm(content, self.server.manner)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content and not head:
            self.wfile.write(content[:len(content) - missing])

    def harm(self, content, manner):
        if manner == "silent":
            return self.server.done.wait(20)
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):    # whom it harms leaves
            self.wfile.write(content[:100])
            while manner != "stalls":
                self.wfile.write(b"x" if manner == "drips" else content)
                if manner == "drips":
                    time.sleep(0.05)
            self.server.done.wait(20)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("place", ["file", "x" * 300, "~nobody-of-this-name/data", "loop"])
def test_a_data_directory_that_can_be_none(small, place, tmp_path, monkeypatch):
    """Nothing can be read or put there, whether or not the network would have it."""
    (tmp_path / "file").write_text("in the way")
    try:
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
    except OSError:
        pytest.skip("no right to make links")
    monkeypatch.setenv("NUMPREC_DATA", place if place.startswith("~") else str(tmp_path / place))
    for reachable in False, True:
        monkeypatch.setattr(files, "unreachable", lambda url: None if reachable else "nobody answers")
        for name in "cifar10", "fashion_mnist":
            with pytest.raises(DataUnavailable):
                images.arrays(name)
            with pytest.warns(UserWarning, match="digits stands in"):
                datasets._announce.cache_clear()
                assert datasets.load(name, stand_in=True).stand_in == name


def test_files_that_may_not_be_read(small, monkeypatch):
    lay_out(small / "fashion_mnist", CONTENTS["fashion_mnist"])

    def denied(*_):
        raise PermissionError(13, "Permission denied")
    monkeypatch.setattr(files, "_reader", lambda path, opened: denied)
    with pytest.raises(DataUnavailable, match="the files of fashion_mnist cannot be read.*Permission denied"):
        images.arrays("fashion_mnist")


@pytest.fixture
def server(small, monkeypatch):
    """Serves the archive of CIFAR-10 and the files of Fashion-MNIST; the catalogue knows them."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.asked, httpd.cut, httpd.manner, httpd.done = [], 0, None, threading.Event()
    httpd.content = {f"{name}.gz": gzip.compress(c) for name, c in CONTENTS["fashion_mnist"].items()}
    httpd.content["cifar-10-binary.tar.gz"] = CIFAR_TAR
    known = {}
    for name, source in list(images.SOURCES.items()):
        urls = {file: f"http://127.0.0.1:{httpd.server_port}/{file}" for file in source.urls}
        monkeypatch.setitem(images.SOURCES, name, replace(source, urls=urls))
        for file, url in urls.items():
            content = httpd.content[file]
            known[url] = UrlInfo(size=len(content), checksum=hashlib.sha256(content).hexdigest(), filename=file)
    monkeypatch.setattr(files, "catalogue", lambda: known)
    monkeypatch.setattr(files, "unreachable", REACHABLE)
    REACHABLE.cache_clear()
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.done.set()
    httpd.shutdown()
    httpd.server_close()


REACHABLE = files.unreachable


def test_download(server, small):
    check_cifar10()
    assert len(datasets.load("fashion_mnist").X) == 6
    packed = {f"fashion_mnist/{name}.gz" for name in CONTENTS["fashion_mnist"]}
    assert everything_below(small) == packed | {"cifar-10-binary.tar.gz", "parsed/cifar10.npz",
                                                "parsed/fashion_mnist.npz"}
    assert not [p for p in small.rglob(".download-*")]
    asked = len(server.asked)
    (small / "parsed" / "cifar10.npz").unlink()
    check_cifar10()
    assert len(server.asked) == asked    # from the archive


def test_a_download_that_is_not_what_it_should_be(server, small):
    server.content["cifar-10-binary.tar.gz"] = CIFAR_TAR[:-1] + b"x"
    with pytest.raises(DataCorrupt, match="thrown away"):
        images.arrays("cifar10")
    assert not everything_below(small) and not list(small.iterdir())


@pytest.mark.parametrize("manner, error, says", [
    ("silent", DataUnavailable, "Timeout"), ("stalls", DataUnavailable, "imed out"),
    ("drips", DataUnavailable, "bytes came in"), ("endless", DataCorrupt, "has more than [0-9]+ bytes")])
def test_a_server_that_does_harm(server, small, monkeypatch, manner, error, says):
    """It never answers, falls silent in the middle, sends a byte now and then, or never stops."""
    monkeypatch.setattr(files, "SILENCE", 0.3)
    monkeypatch.setattr(files, "SLOWEST", 1e6)
    server.manner = manner
    start = time.monotonic()
    with pytest.raises(error, match=says):
        images.arrays("cifar10")
    assert time.monotonic() - start < 10 and not list(small.iterdir())


def test_what_was_left_of_a_download_is_swept(server, small):
    old, new = (small / f"{files.SCRATCH}{name}" for name in ("old", "new"))
    for folder in old, new:
        folder.mkdir(parents=True)
        (folder / "half").touch()
    for path in old / "half", old:
        os.utime(path, (1, 1))
    (small / "parsed").mkdir()
    half = small / "parsed" / f"{images.SCRATCH}old"
    half.touch()
    os.utime(half, (1, 1))
    check_cifar10()
    assert not old.exists() and new.exists() and not half.exists()


def test_a_download_that_breaks_off(server, small):
    server.cut = 10
    with pytest.raises(DataUnavailable, match="the download of cifar10 failed"):
        images.arrays("cifar10")
    assert not list(small.iterdir())


def test_a_server_without_the_file(server, small):
    server.content.clear()
    with pytest.raises(DataUnavailable, match="status 404"):
        images.arrays("cifar10")
    assert not small.exists()


# ---- where the data directory is

def test_home(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPREC_DATA", str(tmp_path))
    assert files.home() == tmp_path
    monkeypatch.delenv("NUMPREC_DATA")
    assert files.home() == Path(datasets.__file__).resolve().parents[2] / "data"
    monkeypatch.setattr(files, "__file__", str(tmp_path / "site-packages" / "numprec" / "datasets" / "files.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    assert files.home() == tmp_path / "cache" / "numprec" / "data"
    monkeypatch.setattr(files.places, "caches", lambda: None)
    with pytest.raises(files.DataUnavailable, match="NUMPREC_DATA"):
        files.home()


def test_a_source_is_plain_data():
    for source in images.SOURCES.values():
        assert isinstance(source, Source) and all(len(digest) == 64 for _, digest in source.files.values())


def test_no_pickle_is_ever_loaded():
    for path in Path(datasets.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "pickle.load" not in text and "import pickle" not in text and "allow_pickle=True" not in text
