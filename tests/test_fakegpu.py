"""What only a GPU shows, on the stand-in for one: see tests/fakegpu/README.md."""
import os

import numpy as np
import pytest
from numba import cuda

from numprec import device as devices

if "FAKEGPU_LIB" not in os.environ:
    pytest.skip("on the stand-in for a GPU only: python tests/fakegpu/run.py python -m pytest tests/test_fakegpu.py",
                allow_module_level=True)

import stand_in    # noqa: E402

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


def test_no_launch_lowers_the_shared_memory_of_another(card):
    kernel, out = doubling(), card.array(COUNT)
    card.launch(kernel, 1, 32, out, shared=64 * 1024)
    card.launch(kernel, 1, 32, out, shared=50 * 1024)
    kernel[1, 32, 0, 64 * 1024](out)
    assert (card.to_host(out)[:32] == 8 * COUNT[:32]).all()
