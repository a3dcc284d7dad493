"""What only a GPU shows, on the stand-in for one: see tests/fakegpu/README.md."""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numba import cuda

from numprec import device as devices
from numprec import kernels
from numprec.harness.measure import cases, timing
from numprec.harness.record import exits, telemetry
from numprec.harness.run.worker import Worker
from numprec.precision import precision_named

if "FAKEGPU_LIB" not in os.environ:
    pytest.skip("on the stand-in for a GPU only: python tests/fakegpu/run.py python -m pytest tests/test_fakegpu.py",
                allow_module_level=True)

import fcntl  # noqa: E402    which Windows lacks

import stand_in  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
COUNT = np.arange(64, dtype=np.float32)


@pytest.fixture
def card():
    stand_in.reset()
    yield devices.get("gpu")
    assert stand_in.counters()["violations"] == 0


# ---- compiled kernels

def doubling(factor=2, **options):
    """A kernel that is the same each time it is made, as it is in another process."""
    @cuda.jit(**options)
    def double(out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] *= factor
    return double


def meeting():
    @cuda.jit
    def meet(out):
        cuda.cg.this_grid().sync()
        out[cuda.grid(1)] += 1
    return meet


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPREC_CACHE", str(tmp_path / "kernels"))


@pytest.mark.parametrize("make, name, dtype, after", [
    (doubling, "double", np.float32, 2 * COUNT),
    (doubling, "double", np.float16, 2 * COUNT),    # is linked with a file of CUDA C
    (meeting, "meet", np.float32, COUNT + 1),       # is linked with NVIDIA's library, and launched in another way
])
def test_a_compiled_kernel_is_found_on_disk(card, cache, make, name, dtype, after):
    for compilations in [name], []:
        stand_in.reset()
        out = card.array(COUNT.astype(dtype))
        card.launch(make(), 2, 32, out)
        assert card.to_host(out).tolist() == after.tolist()
        assert stand_in.compiled == compilations


def test_another_kernel_or_type_or_option_is_compiled(card, cache):
    kernels = doubling(), doubling(3), doubling(fastmath=True)
    for kernel in kernels:
        card.launch(kernel, 1, 32, card.array(COUNT))
    card.launch(doubling(), 1, 32, card.array(COUNT.astype(np.float64)))
    assert stand_in.compiled == ["double"] * 4


@pytest.mark.parametrize("options", [{"lineinfo": True}, {"cache": True}])
def test_what_is_not_kept(card, cache, tmp_path, monkeypatch, options):
    """What needs the source again, and what Numba keeps by itself."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "numba"))
    card._compiled(doubling(**options), (card.array(COUNT),))
    assert stand_in.compiled == ["double"] and not list((tmp_path / "kernels").glob("*"))


def test_a_graph_lets_go_of_its_stream(card):
    kernel = doubling()
    alive = stand_in.alive()
    for _ in range(3):
        with card.capture() as graph:
            card.launch(kernel, 1, 32, card.array(COUNT))
        graph.replay()
        del graph
    assert {name: stand_in.alive()[name] - alive[name] for name in ("stream", "graph", "exec")} == {
        "stream": 0, "graph": 0, "exec": 0}


def test_other_threads_work_on_during_a_capture(card, monkeypatch):
    """They compile and load a kernel, allocate, launch, wait and read; none of it fails, or ends up in the graph."""
    from numba.cuda.dispatcher import _Kernel
    kernel, new, out, found = doubling(), doubling(5), card.array(COUNT), []
    launch = _Kernel.launch

    def work():
        mine = card.array(COUNT)
        card.launch(new, 2, 32, mine)
        card.synchronize()
        found.append(card.to_host(mine).tolist())
        return card.free_memory()

    def meanwhile(self, args, grid, block, stream, shared):
        if hasattr(stream, "is_building"):
            pool.submit(work).result()
        launch(self, args, grid, block, stream, shared)
    monkeypatch.setattr(_Kernel, "launch", meanwhile)
    with ThreadPoolExecutor(1) as pool, card.capture() as graph:
        card.launch(kernel, 2, 32, out)
        card.launch(kernel, 2, 32, out)
    assert found == [(5 * COUNT).tolist()] * 2
    graph.replay()
    assert card.to_host(out).tolist() == (4 * COUNT).tolist()


def test_no_launch_lowers_the_shared_memory_of_another(card):
    kernel, out = doubling(), card.array(COUNT)
    card.launch(kernel, 1, 32, out, shared=64 * 1024)
    card.launch(kernel, 1, 32, out, shared=50 * 1024)
    kernel[1, 32, 0, 64 * 1024](out)
    assert (card.to_host(out)[:32] == 8 * COUNT[:32]).all()


# ---- memory

def test_memory_is_counted_by_the_arrays_that_live(card):
    """Not in steps of 2 MiB, as the card gives it out, and without what is about to be given back."""
    before = card.array(COUNT)
    with telemetry.Memory(card) as memory:
        card.array(np.zeros(10))
        assert memory.peak == 80
        for _ in range(3):
            card.empty(3_000_000, np.float64)
        assert memory.peak == 24_000_000
        kept = card.zeros(4, np.int32), card.empty(3_000_000, np.float64)
        assert memory.peak == 24_000_016 and len(kept) == 2
    assert "empty" not in vars(card) and before.size == 64


def test_what_numba_is_about_to_give_back_is_free(card):
    free = card.free_memory()
    array = card.empty(2 ** 24, np.uint8)
    assert card.free_memory() == free - 2 ** 24
    del array
    assert card.free_memory() == free


@pytest.mark.parametrize("make", [
    lambda card, n: card.empty(n, np.uint8), lambda card, n: card.zeros((2, n), np.uint8),
    lambda card, n: card.array(np.empty(n, np.uint8))], ids=["empty", "zeros", "array"])
def test_what_does_not_fit_is_said_in_a_sentence(card, make):
    most = card.empty(card.free_memory() - 2 ** 22, np.uint8)
    with pytest.raises(MemoryError, match=rf"does not fit on {card.name}, where 0\.00\d+ GB are free: use fewer"):
        make(card, 2 ** 23)
    del most


# ---- processes

def python(*arguments, **variables):
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True,
                          env=os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"} | variables)


BENCH = ("bench.py", "--scale", "smoke", "--operation", "sum/tree", "--precision", "native", "--dry-run")


def test_a_card_that_one_process_has_for_itself(tmp_path):
    """The process that plans and writes leaves it to the one that measures."""
    alone = {"FAKEGPU_EXCLUSIVE": "1", "TMPDIR": str(tmp_path)}
    done = python(*BENCH, **alone)
    assert done.returncode == 0 and f"on {devices.get().name}; nothing is run" in done.stdout, done.stderr
    with open(tmp_path / "fakegpu.exclusive.0") as another:
        fcntl.flock(another, fcntl.LOCK_EX)
        done = python(*BENCH, **alone)
    assert done.returncode == exits.NO_GPU and done.stdout == ""
    assert done.stderr.startswith("bench.py: the device 'gpu' cannot be used: ") and done.stderr.count("\n") == 1


def test_a_fault_costs_one_precision():
    """The worker is replaced at once, and the other precision of the cell is measured in the next one."""
    operation = kernels.operations()["sum"]
    cell = cases.KernelCell(operation, operation.rung("serial"), (100,), tuple(map(precision_named, ("fp64", "fp32"))),
                            timing.Effort(0.0, 0.0, 1))
    with Worker("gpu", {"FAKEGPU_FAULT": "sum_serial:float64"}, stderr=subprocess.DEVNULL) as worker:
        first = worker.pid
        faulty, right = worker.run(cell)
        assert worker.pid != first
    assert faulty["status"] == "FAIL" and "ILLEGAL_ADDRESS" in faulty["reason"]
    assert right["status"] == "ok" and right["samples_s"]


@pytest.mark.parametrize("named, found", [
    ("1,7", ["1"]), ("1, 0", ["1", "0"]), ("0,-1,1", ["0"]),
    ("GPU-face0075-1234-4321-abcd-000000000002,x", ["GPU-face0075-1234-4321-abcd-000000000002"])])
def test_cards_of_a_cluster_are_those_that_cuda_shows(named, found):
    done = python("-c", "from numprec.harness.run import cluster\nprint(cluster._gpus())", FAKEGPU_DEVICES="2",
                  CUDA_VISIBLE_DEVICES=named)
    assert done.stdout.strip() == str(found), done.stderr
