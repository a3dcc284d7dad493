"""Cells on a cluster: a local one of two workers, which die in the middle of cells, on the emulator."""
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from numba import cuda

distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")

from numprec.harness.measure import cases  # noqa: E402
from numprec.harness.measure.timing import Effort  # noqa: E402
from numprec.harness.record import store  # noqa: E402
from numprec.harness.run import cluster  # noqa: E402
from numprec.precision import precision_named  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PRECISIONS = tuple(map(precision_named, ("fp64", "fp32")))
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")


class Doomed(cases.TrainingCell):
    """A cell in whose middle the worker of dask dies: once for seed 1, and every time for seed 2. With seed 3 its own
    process ends."""

    @property
    def kind(self):
        if "numprec.harness.run.worker" in sys.argv[0].replace(os.sep, ".") and self.seed:
            if self.seed == 3:
                os._exit(5)
            mark = Path(os.environ["NUMPREC_TEST_FOLDER"]) / str(self.seed)
            if self.seed == 2 or not mark.exists():
                mark.write_text(mark.read_text() + "x" if mark.exists() else "x")
                os.kill(os.getppid(), signal.SIGKILL)
                time.sleep(600)
        return "training"


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """Five cells on two workers: {seed: rows}, and how often the worker was killed in each."""
    folder = tmp_path_factory.mktemp("marks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(Path(__file__).parent))))
        patch.setenv("NUMPREC_TEST_FOLDER", str(folder))
        cells = [(Doomed if seed in (1, 2, 3) else cases.TrainingCell)(
            cases.MODELS[1], seed, PRECISIONS, Effort(budget=0.0, warm_up=0.0, least=1)) for seed in range(5)]
        with cluster.Cluster("local", "emulator", workers=2) as runs:
            assert runs.device.is_emulator and runs.device.availability(PRECISIONS[0]).status == "emulated"
            found = [(cell, rows) for cell, rows, seconds in runs.results(cells)]
    assert sorted(cell.seed for cell, _ in found) == list(range(5))      # each once
    return {cell.seed: rows for cell, rows in found}, {p.name: len(p.read_text()) for p in folder.iterdir()}


def test_every_cell_has_its_rows_once(outcome):
    rows, killed = outcome
    for seed in range(5):
        assert [(row["cell"].endswith(f"seed {seed}"), row["precision"]) for row in rows[seed]] == [
            (True, "fp64"), (True, "fp32")]
    assert all(row["status"] == "ok" for seed in (0, 4) for row in rows[seed])


def test_a_cell_whose_worker_died_goes_to_another(outcome):
    rows, killed = outcome
    assert killed["1"] == 1 and [row["status"] for row in rows[1]] == ["ok", "ok"]


def test_a_cell_that_kills_its_workers_fails(outcome):
    rows, killed = outcome
    assert killed["2"] == 1 + cluster.RETRIES
    for row in rows[2]:
        assert row["status"] == "FAIL" and row["reason"].startswith(store.KILLED) and row["samples_s"] is None


def test_a_cell_that_crashes_leaves_its_worker_alone(outcome):
    rows, killed = outcome
    assert "3" not in killed
    assert {(row["status"], row["reason"]) for row in rows[3]} == {
        ("FAIL", "the worker process ended with exit code 5")}


def test_a_run_on_a_cluster(tmp_path):
    command = ("bench.py --scale smoke --model LinearRegression --seeds 2 --precision fp64,fp32 --no-plots "
               "--device emulator --scheduler local --out").split()
    done = subprocess.run([sys.executable, *command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment, rows = store.read(tmp_path)
    assert environment["peaks"] and "Traceback" not in done.stderr
    assert sorted((row["seed"], row["precision"]) for row in rows if row["status"] == "ok") == [
        (0, "fp32"), (0, "fp64"), (1, "fp32"), (1, "fp64")]


def unlike_the_others(device):
    """The identity of a GPU in the first process that asks, and of the emulator in the others."""
    try:
        (Path(os.environ["NUMPREC_TEST_FOLDER"]) / "first").touch(exist_ok=False)
    except FileExistsError:
        return "B", "emulator"
    return "A", "gpu"


def test_workers_with_different_kinds_of_device_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(Path(__file__).parent))))
    monkeypatch.setenv("NUMPREC_TEST_FOLDER", str(tmp_path))
    monkeypatch.setattr(cluster, "identity", unlike_the_others)
    with pytest.raises(cluster.Unreachable, match="different kinds of device: emulator, gpu.*--device"):
        cluster.Cluster("local", "emulator", workers=2)


def test_a_worker_of_another_kind_that_joins_later_ends_the_run(monkeypatch):
    """The kind of the first workers is that of the run; here the worker becomes one that lacks it."""
    if cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setenv("NUMPREC_DEVICE", "emulator")
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, resources=cluster.RESOURCE, memory_limit=None,
                                  dashboard_address=None) as there:
        with cluster.Cluster(there.scheduler_address) as runs:
            assert runs.device.kind == runs._kind == "emulator"
            runs._kind = "gpu"
            cell = cases.TrainingCell(cases.MODELS[1], 0, PRECISIONS, Effort(budget=0.0, warm_up=0.0, least=1))
            with pytest.raises(cluster.Unreachable, match="worker tcp://.*'gpu' was asked for"):
                list(runs.results([cell]))
        with pytest.raises(cluster.Unreachable, match="worker tcp://.*'gpu' was asked for"):
            cluster.Cluster(there.scheduler_address, "gpu")


@pytest.mark.parametrize("address, says", [
    ("tcp://127.0.0.1:9", "no scheduler answers at"),
    ("nonsense://", "no scheduler answers at"),
])
def test_a_scheduler_that_is_not_there(address, says, monkeypatch):
    monkeypatch.setattr(cluster, "ANSWER", 0.5)
    with pytest.raises(cluster.Unreachable, match=says):
        cluster.Cluster(address)
