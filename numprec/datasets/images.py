"""Fashion-MNIST and CIFAR-10: their files, how to parse them, and the cache of what was parsed.

Sources    H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning
               algorithms, arXiv:1708.07747, 2017; the IDX format is that of MNIST
           A. Krizhevsky, Learning multiple layers of features from tiny images, Technical report, University of
               Toronto 2009; the binary version has records of one label byte and 3,072 bytes, red, green, blue
"""
import contextlib
import os
import tempfile

import numpy as np

from numprec.datasets import files
from numprec.datasets.files import DataCorrupt, Source

_FASHION_MNIST = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR10 = "https://www.cs.toronto.edu/~kriz/"

SOURCES = {
    "fashion_mnist": Source(
        files={
            "train-images-idx3-ubyte": (47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
            "train-labels-idx1-ubyte": (60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
            "t10k-images-idx3-ubyte": (7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
            "t10k-labels-idx1-ubyte": (10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
        },
        folder="fashion_mnist", parsed="09627107dde20800f249b90a3b80609822fbaf088555476bb02aea854423a846",
        urls={f"{part}-ubyte.gz": f"{_FASHION_MNIST}{part}-ubyte.gz"
              for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")},
        elsewhere=("/usr/share/datasets/fashion-mnist",)),
    "cifar10": Source(
        files={
            "data_batch_1.bin": (30730000, "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5"),
            "data_batch_2.bin": (30730000, "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed"),
            "data_batch_3.bin": (30730000, "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67"),
            "data_batch_4.bin": (30730000, "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48"),
            "data_batch_5.bin": (30730000, "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add"),
            "test_batch.bin": (30730000, "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b"),
        },
        folder="cifar-10-batches-bin", parsed="9bb26ea52d5b395389569734654d923ce7ba78a18a63b56115e3cecfb33f114d",
        urls={"cifar-10-binary.tar.gz": f"{_CIFAR10}cifar-10-binary.tar.gz"},
        archive="cifar-10-binary.tar.gz"),
}


def arrays(name):
    """X_train, y_train, X_test, y_test: uint8 pixels, a sample a row, rows of the image from the top, each pixel with
    all its channels; int32 labels."""
    source = SOURCES[name]
    path = files.home() / "parsed" / f"{name}.npz"
    parsed = _from_cache(path, source)
    if parsed is None:
        parsed = PARSERS[name](files.read(name, source))
        _to_cache(path, parsed)
    return parsed


# ---- formats

def idx(name, content):
    """The array in an IDX file of unsigned bytes: 0, 0, type, dimensions, sizes (big-endian), elements."""
    if content[:3] != b"\0\0\x08" or len(content) < 4 * (1 + content[3]):
        raise DataCorrupt(f"{name} is no IDX file of unsigned bytes: it begins with {content[:4].hex() or 'nothing'}")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", content[3], offset=4))
    elements = len(content) - 4 * (1 + content[3])
    if int(np.prod(shape, dtype=object)) != elements:
        raise DataCorrupt(f"{name} announces {' x '.join(map(str, shape))} elements and holds {elements}")
    return np.frombuffer(content, np.uint8, offset=len(content) - elements).reshape(shape)


def _fashion_mnist(contents):
    parsed = []
    for part in "train", "t10k":
        names = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
        X, y = (idx(name, contents[name]) for name in names)
        if y.ndim != 1 or X.ndim != 3 or len(X) != len(y):
            raise DataCorrupt(f"{part}: images of shape {X.shape} do not go with labels of shape {y.shape}")
        parsed += [X.reshape(len(X), -1), y.astype(np.int32)]
    return parsed


def cifar_batch(name, content):
    """X (N, 3072), y (N,) of a binary batch, pixels as in `arrays`."""
    if not content or len(content) % 3073:
        raise DataCorrupt(f"{name} holds {len(content)} bytes, which is no multiple of the 3,073 of a record")
    records = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    y = records[:, 0].astype(np.int32)
    if y.max() > 9:
        raise DataCorrupt(f"{name} has the label {y.max()} in record {y.argmax()}; labels are 0 to 9")
    X = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return X.reshape(-1, 3072), y


def _cifar10(contents):
    batches = {name: cifar_batch(name, content) for name, content in contents.items()}
    test = batches.pop("test_batch.bin")
    X, y = zip(*batches.values())
    return [np.concatenate(X), np.concatenate(y), *test]


PARSERS = {"fashion_mnist": _fashion_mnist, "cifar10": _cifar10}


# ---- the cache

PARTS = ("X_train", "y_train", "X_test", "y_test")
SCRATCH = ".parsed-"    # how the name of a temporary file begins


def _from_cache(path, source):
    """What was parsed, or None. The digest of the arrays is part of the source, so that nothing is believed but what
    was parsed from its files; whatever else the file may be, it counts as absent."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if sum(part.file_size for part in stored.zip.infolist()) > 5 * sum(n for n, _ in source.files.values()):
                return None      # labels take four bytes there, and one in the files
            found = [stored[part] for part in PARTS]
        X_train, y_train, X_test, y_test = found
        formed = ([a.dtype for a in found] == 2 * [np.uint8, np.int32] and y_train.ndim == y_test.ndim == 1
                  and len(X_train) == len(y_train) and len(X_test) == len(y_test)
                  and X_train.ndim == X_test.ndim == 2 and X_train.shape[1] == X_test.shape[1])
        return found if formed and files.digest(found) == source.parsed else None
    except Exception:            # zipfile, tokenize and NumPy each have errors of their own for what is damaged
        return None


def _to_cache(path, parsed):
    """Writes it whole or not at all; where nothing can be written, does without."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.sweep(path.parent, SCRATCH)
        handle, temporary = tempfile.mkstemp(prefix=SCRATCH, dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **dict(zip(PARTS, parsed)))
        os.replace(temporary, path)
    except OSError:
        pass
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):    # where it has its place by now
                os.remove(temporary)
