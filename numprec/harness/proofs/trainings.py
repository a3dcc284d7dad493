"""Proofs: trainings on the real data that are too long for the tests, each with figures that it has to reach.

    python -m numprec.harness.proofs.trainings mlp              one epoch on all of Fashion-MNIST, fp32
    python -m numprec.harness.proofs.trainings cnn --precision fp32,mixed_fp16,mixed_bf16

A training appends one line to data/results/proofs.jsonl of the checkout, or to `--out`, when it has ended: what was
trained and how, a row an epoch, the held-out accuracy with its 95 % interval, the times and what they were measured on.
An interruption loses the training under way and nothing else. Exit code 1: a figure was not reached.

Hyper-parameters are the same in every precision and were fixed before any result was seen: Adam; one_cycle, which ends
in small steps wherever it ends; 0.003, three times Adam's usual rate, as the peak of the cycle; batches of 128, and of
64 where there are few images, so that an epoch has some dozens of updates.

Seconds are those of the epochs: no compilation, since a fit to a single batch goes first, and no evaluation. Where
other processes want the machine as well, CPU seconds / cores comes closer to what it takes by itself; `load` is how
many of them there were before and after.
"""
import argparse
import json
import math
import os
import sys
import time
import warnings
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from numprec import __version__, datasets
from numprec.harness.judge.statistics import LEVEL
from numprec.harness.record import environment
from numprec.harness.record.store import plain
from numprec.precision import select, unknown

RESULTS = Path(__file__).resolve().parents[3] / "data" / "results" / "proofs.jsonl"
REACHED, MISSED, USAGE, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Proof:
    """A training: `first` samples of a data set, all if None, and `held_out` of its test set. `accuracy` is what it has
    to reach in fp32 and in mixed precisions, and `seconds` how long it may take on two cores without a GPU."""

    model: str
    data: str
    parameters: dict = field(default_factory=dict)
    first: int | None = None
    held_out: int | None = None
    accuracy: float = 0.0
    seconds: float = math.inf

    def split(self):
        """The data set's name, its shape and its Split. Bytes stay bytes for images; rows are divided by 255."""
        data = datasets.load(self.data)
        data = data.first(self.first or len(data.X), self.held_out)
        split = data.split(0)
        if self.model == "MLPClassifier":
            split = split._replace(X_train=split.X_train / np.float32(255), X_test=split.X_test / np.float32(255))
        return data, split

    def estimator(self, precision, seed, data, **parameters):
        import numprec
        if self.model == "CNNClassifier":
            parameters["image_shape"] = data.image_shape
        return getattr(numprec, self.model)(precision, random_state=seed, **self.parameters | parameters)


MLP = dict(hidden_layer_sizes=(256, 128), batch_size=128, learning_rate="one_cycle", learning_rate_init=0.003)
PROOFS = {
    "mlp": Proof("MLPClassifier", "fashion_mnist", MLP | {"max_iter": 1}, accuracy=0.83, seconds=90),
    "mlp15": Proof("MLPClassifier", "fashion_mnist", MLP | {"max_iter": 15}, accuracy=0.895),
    "cnn": Proof("CNNClassifier", "cifar10", first=2500, held_out=2000, accuracy=0.25, seconds=900, parameters=dict(
        batch_size=64, learning_rate="one_cycle", learning_rate_init=0.003, max_iter=3)),
}


def wilson(right, n):
    """The interval of a share, (low, high). E. B. Wilson, Probable inference, the law of succession, and statistical
    inference, Journal of the American Statistical Association 22(158), 1927."""
    from scipy.stats import binomtest
    found = binomtest(right, n).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def run(name, precision, seed, device, facts):
    """Trains once. Returns the row; `facts` are what else it holds."""
    proof = PROOFS[name]
    data, split = proof.split()
    started = time.perf_counter()
    batch = proof.parameters["batch_size"]
    _fit(proof.estimator(precision, seed, data, max_iter=1), split.X_train[:batch], split.y_train[:batch])
    compiled = time.perf_counter() - started

    def note(row):
        print(f"{name} {precision} seed {seed}: epoch {row['epoch']}, loss {row['loss']:.4f}, accuracy "
              f"{row['accuracy']:.4f}, {row['seconds']:.1f} s", file=sys.stderr, flush=True)

    cpu, load = time.process_time(), _load()
    model = _fit(proof.estimator(precision, seed, data), split.X_train, split.y_train, callback=note)
    cpu = time.process_time() - cpu
    right = int(np.sum(model.predict(split.X_test) == split.y_test))
    seconds, cores = sum(row["seconds"] for row in model.history_), environment.cores()
    losses, accuracy = model.loss_curve_, right / len(split.y_test)
    row = {
        "proof": name, "model": proof.model, "precision": str(precision), "roles": precision.roles, "seed": seed,
        "parameters": {name: value for name, value in model.get_params(deep=False).items() if name != "precision"},
        "data": data.name,
        "sha256": data.sha256, "n_train": len(split.y_train), "n_test": len(split.y_test), "history": model.history_,
        "stop_reason": model.stop_reason_, "correct": right, "accuracy": accuracy, "level": LEVEL,
        "interval": wilson(right, len(split.y_test)), "interval_method": "Wilson", "seconds": seconds,
        "cpu_seconds": cpu, "cpu_seconds_per_core": cpu / cores, "first_fit_seconds": compiled,
        "numprec": __version__, "load": [load, _load()], **facts,
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    demanded = precision.accum.u <= 2.0 ** -24    # nothing is promised of sums in half precision
    missed = [text for text, wrong in (
        (f"accuracy {accuracy:.4f} < {proof.accuracy}", demanded and accuracy < proof.accuracy),
        ("the loss does not fall", demanded and len(losses) > 1 and losses[-1] >= losses[0]),
        (f"{cpu / cores:.0f} s on each of {cores} cores > {proof.seconds} s",
         device.is_emulator and cpu / cores > proof.seconds),
    ) if wrong]
    return row | {"demanded": demanded, "missed": missed}


def _fit(model, X, y, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")    # a few epochs are not meant to converge
        return model.fit(X, y, **options)


def _load():
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def append(path, row):
    """Adds a line to a file of JSON lines, in one write, on the disk when it returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        whole = True
        if file.tell():
            with open(path, "rb") as before:
                before.seek(-1, os.SEEK_END)
                whole = before.read() == b"\n"
        file.write((b"" if whole else b"\n") + json.dumps(plain(row), allow_nan=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(prog="python -m numprec.harness.proofs.trainings",
                                     description="Trainings on the real data, with figures that they have to reach.")
    parser.add_argument("proof", metavar="PROOF", help=", ".join(PROOFS))
    parser.add_argument("--precision", default="fp32", metavar="LIST", help="as of bench.py; default fp32")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="0, 1, ..., N - 1; default 1")
    parser.add_argument("--device", choices=("gpu", "emulator"), help="default: the GPU where there is one")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE", help="default data/results/proofs.jsonl")
    options = parser.parse_args(arguments)

    from numprec import device as devices
    if options.device:
        os.environ["NUMPREC_DEVICE"] = options.device    # the estimators ask for themselves
    try:
        if options.proof not in PROOFS:
            raise unknown("proof", options.proof, list(PROOFS))
        device = devices.get(options.device)
        precisions = select(options.precision, available=lambda p: device.availability(p).status == "native")
        command, code = " ".join(["python -m numprec.harness.proofs.trainings", *arguments]), REACHED
        # once, because a result makes the checkout that it is written to another one
        facts = environment.collect(device, precisions, options.proof, command)
        for seed in range(options.seeds):
            for precision in precisions:
                row = run(options.proof, precision, seed, device, facts)
                append(options.out, row)
                low, high = row["interval"]
                verdict = "; ".join(row["missed"]) or ("reached" if row["demanded"] else "nothing is demanded of it")
                print(f"{options.proof} {precision} seed {seed}: held-out accuracy {row['accuracy']:.4f} [{low:.4f}, "
                      f"{high:.4f}], {row['seconds']:.1f} s, {row['cpu_seconds']:.1f} CPU s on {row['cores']} cores, "
                      f"{row['stop_reason']}: {verdict}", flush=True)
                code = MISSED if row["missed"] else code
        return code
    except (ValueError, RuntimeError, OSError) as error:
        print(f"proofs: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("proofs: interrupted; trainings that had ended are written", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
