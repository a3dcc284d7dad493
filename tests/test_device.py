"""The device layer: the same expectations of the GPU and of the emulator, whichever is here."""
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest
from numba import cuda

from numprec import device as devices
from numprec.precision import FORMATS, PRECISIONS, Precision

FMT = pytest.mark.parametrize("fmt", FORMATS.values(), ids=str)


@cuda.jit
def add_index(out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] += i


@cuda.jit
def coordinates(out):
    x, y, z = cuda.grid(3)
    out[z, y, x] = (cuda.blockIdx.z * 10 + cuda.blockIdx.y) * 10 + cuda.blockIdx.x


@cuda.jit
def reverse(out):
    tile = cuda.shared.array(0, np.int32)
    i = cuda.threadIdx.x
    n = cuda.blockDim.x
    far = tile.size - n                      # the far end, so that all of the shared memory has to be there
    tile[far + i] = out[i]
    cuda.syncthreads()
    out[i] = tile[far + n - 1 - i]


# ---- arrays

@FMT
def test_array_is_rounded_and_comes_back(device, fmt):
    host = np.random.default_rng(0).standard_normal((3, 5)) * 1e3
    array = device.array(host, fmt)
    assert array.dtype == fmt.element and array.shape == (3, 5)
    back = device.to_host(array)
    assert back.dtype == fmt.numpy
    np.testing.assert_array_equal(back.view(fmt.element), fmt.round(host).view(fmt.element))


def test_assign_is_one_copy(device, monkeypatch):
    """Straight from the host into the array: nothing is allocated on the way."""
    array, host = device.zeros((2, 3), FORMATS["bfloat16"]), np.arange(6.0).reshape(2, 3) / 7
    with monkeypatch.context() as patched:
        for name in "array", "empty", "zeros", "_copy":
            patched.setattr(device, name, None)
        device.assign(array, host, FORMATS["bfloat16"])
    np.testing.assert_array_equal(device.to_host(array), FORMATS["bfloat16"].round(host))


@pytest.mark.parametrize("host", [
    np.arange(6, dtype=np.int32), np.arange(6.0).reshape(2, 3), np.array(2.5), np.zeros((0, 4), np.float32),
    np.arange(12, dtype=np.int64).reshape(3, 4).T, np.arange(10.0)[::-2], np.arange(4, dtype=">f4"),
    np.ones(3, ml_dtypes.bfloat16)], ids=lambda a: f"{a.dtype.str}{a.shape}")
def test_array_keeps_the_dtype(device, host):
    back = device.to_host(device.array(host))
    assert back.dtype == host.dtype.newbyteorder("=") and back.shape == host.shape
    np.testing.assert_array_equal(back, host)


def test_array_converts(device):
    bf16 = FORMATS["bfloat16"]
    bits = device.to_host(device.array([1.0, 3.14159], bf16)).view(np.uint16)
    assert device.array(np.ones(3, ml_dtypes.bfloat16)).dtype == np.uint16
    again = device.to_host(device.array(bits, FORMATS["float32"]))      # uint16 is bfloat16 throughout
    np.testing.assert_array_equal(again, bf16.round([1.0, 3.14159]).astype(np.float32))
    assert device.to_host(device.array([1, 2], np.int32)).dtype == np.int32


def test_array_is_a_copy(device):
    host = np.ones(4, np.float32)
    array = device.array(host)
    host[:] = 2
    back = device.to_host(array)
    back[:] = 3
    assert device.to_host(array).tolist() == [1, 1, 1, 1]


@FMT
def test_zeros_and_empty(device, fmt):
    assert not device.to_host(device.zeros((2, 3), fmt)).astype(float).any()
    array = device.empty((2, 3), fmt)
    assert array.shape == (2, 3) and array.dtype == fmt.element
    if device.is_emulator:
        assert np.isnan(device.to_host(array).astype(float)).all()
    assert device.empty(5, np.int32).dtype == np.int32 and device.zeros(5, np.int64).shape == (5,)


# ---- launches

def test_launch(device):
    out = device.zeros(1000, np.float32)
    device.launch(add_index, 8, 128, out)
    np.testing.assert_array_equal(device.to_host(out), np.arange(1000))


def test_launch_in_three_dimensions(device):
    out = device.empty((4, 3, 4), np.int32)
    device.launch(coordinates, (2, 1, 2), (2, 3, 2), out)
    z, _, x = np.indices((4, 3, 4))
    np.testing.assert_array_equal(device.to_host(out), z // 2 * 100 + x // 2)


@pytest.mark.parametrize("kilobytes", [1, 48, 64])
def test_dynamic_shared_memory(device, kilobytes):
    """More than 48 KB has to be asked of CUDA; 64 KB is what an sm_75 card gives."""
    out = device.array(np.arange(128, dtype=np.int32))
    device.launch(reverse, 1, 128, out, shared=kilobytes * 1024)
    assert device.to_host(out).tolist() == list(range(127, -1, -1))


def test_capture_records_and_replay_runs(device):
    out = device.zeros(100, np.int32)
    with device.capture() as graph:
        device.launch(add_index, 1, 128, out)
        with pytest.raises(RuntimeError, match="nothing to read"):
            device.to_host(out)
        with pytest.raises(RuntimeError, match="has ended"):
            graph.replay()
        with pytest.raises(RuntimeError, match="already under way"), device.capture():
            pass
        device.launch(add_index, 1, 64, out)
    assert not device.to_host(out).any()
    graph.replay()
    once = np.arange(100) * (1 + (np.arange(100) < 64))
    np.testing.assert_array_equal(device.to_host(out), once)
    graph.replay(times=3)
    np.testing.assert_array_equal(device.to_host(out), 4 * once)


def test_a_graph_keeps_its_arrays(device):
    out = device.zeros(64, np.int32)
    with device.capture() as graph:
        scratch = device.zeros(64, np.int32)
        device.launch(add_index, 1, 64, scratch)
        device.launch(add_index, 1, 64, out)
    del scratch
    noise = [device.array(np.full(64, 7, np.int32)) for _ in range(20)]
    graph.replay(2)
    assert all((device.to_host(a) == 7).all() for a in noise)
    np.testing.assert_array_equal(device.to_host(out), 2 * np.arange(64))


def test_capture_of_nothing_and_after_an_error(device):
    with device.capture() as graph:
        pass
    graph.replay()
    with pytest.raises(KeyError), device.capture():
        raise KeyError
    out = device.zeros(4, np.int32)
    device.launch(add_index, 1, 4, out)           # is not recorded any more
    assert device.to_host(out).tolist() == [0, 1, 2, 3]


def test_a_capture_is_of_its_thread_alone(device):
    """Meanwhile another thread launches, reads, waits, and makes a graph of its own."""
    mine, other, before = device.zeros(32, np.int32), device.zeros(32, np.int32), device.launches

    def work():
        begun = device.launches
        device.launch(add_index, 1, 32, other)
        read = device.to_host(other)
        with device.capture() as graph:
            device.launch(add_index, 1, 32, other)
        graph.replay()
        device.synchronize()
        return begun, read.tolist(), device.to_host(other).tolist(), device.launches, len(graph.launches)

    with ThreadPoolExecutor(1) as pool, device.capture() as graph:
        device.launch(add_index, 1, 32, mine)
        found = pool.submit(work).result()
    assert found == (0, list(range(32)), list(range(0, 64, 2)), 2, 1)
    assert len(graph.launches) == 1 and device.launches == before and not device.to_host(mine).any()


def test_timer_and_memory(device):
    out = device.zeros(10, np.float32)
    with device.timer() as timer:
        assert timer.seconds is None
        device.launch(add_index, 1, 32, out)
    assert timer.seconds > 0
    device.synchronize()
    assert isinstance(device.free_memory(), int) and device.free_memory() > 0


# ---- which device

def test_device_says_what_it_is(device):
    assert device.kind == ("emulator" if device.is_emulator else "gpu")
    assert device.name in repr(device) and device.compute_capability >= (5, 0)


def test_launches_are_counted(device):
    out, before = device.zeros(4, np.int32), device.launches
    device.launch(add_index, 1, 4, out)
    with device.capture() as graph:
        device.launch(add_index, 1, 4, out)
        device.launch(add_index, 1, 4, out)
    assert device.launches == before + 1
    graph.replay(3)
    assert device.launches == before + 1 + 3 * 2


def test_the_same_request_gets_the_same_device():
    assert devices.get() is devices.get()
    assert devices.get("emulator", seed=1) is devices.get("emulator", seed=1)
    assert devices.get("emulator", seed=1) is not devices.get("emulator", seed=2)
    emulator = devices.get("emulator", seed=3, workers=1, compute_capability=(8, 0))
    assert (emulator.seed, emulator.workers, emulator.compute_capability) == (3, 1, (8, 0))


def test_the_environment_chooses(monkeypatch):
    monkeypatch.setattr(devices, "_obstacle", lambda: "Numba finds no CUDA GPU")
    monkeypatch.delenv("NUMPREC_DEVICE", raising=False)
    assert devices.get().is_emulator and devices.kind() == "emulator"
    monkeypatch.setenv("NUMPREC_DEVICE", "gpu")
    with pytest.raises(RuntimeError, match="'gpu' was asked for, but Numba finds no CUDA GPU"):
        devices.get()
    assert devices.get("emulator").is_emulator    # an argument goes before the environment
    monkeypatch.setenv("NUMPREC_DEVICE", "tpu")
    with pytest.raises(ValueError, match="'gpu' or 'emulator', not 'tpu'"):
        devices.get()


def test_a_card_is_chosen_before_the_emulator(monkeypatch):
    card = object.__new__(devices.GPU)
    monkeypatch.setattr(devices, "_obstacle", lambda: None)
    monkeypatch.setattr(devices, "_gpu", lambda: card)
    monkeypatch.delenv("NUMPREC_DEVICE", raising=False)
    assert devices.kind() == "gpu" and devices.get() is card and devices.get("gpu", seed=1) is card
    monkeypatch.setenv("NUMPREC_DEVICE", "emulator")
    assert devices.get().is_emulator


def test_a_gpu_is_refused_after_a_fork(monkeypatch):
    card = object.__new__(devices.GPU)
    card.process = -1
    monkeypatch.setattr(devices, "_obstacle", lambda: None)
    monkeypatch.setattr(devices, "_gpu", lambda: card)
    with pytest.raises(RuntimeError, match="'spawn', or choose the device 'emulator'"):
        devices.get("gpu")
    assert devices.get("emulator").is_emulator


@pytest.mark.parametrize("capability, unlike_native", [
    ((5, 2), {"fp16": "unavailable", "mixed_bf16": "emulated"}),
    ((5, 3), {"mixed_bf16": "emulated"}),
    ((7, 5), {"mixed_bf16": "emulated"}),
    ((8, 0), {}),
    ((9, 0), {}),
])
def test_availability_on_a_gpu(capability, unlike_native, precision):
    card = object.__new__(devices.GPU)
    card.compute_capability = capability
    found = card.availability(precision)
    assert found.status == unlike_native.get(precision.name, "native")
    assert "{}.{}".format(*capability) in found.reason


def test_availability_on_the_emulator(precision):
    assert devices.get("emulator").availability(precision).status == "emulated"


def test_nothing_is_accumulated_in_bfloat16():
    bf16 = FORMATS["bfloat16"]
    card = object.__new__(devices.GPU)
    card.compute_capability = (9, 0)
    for device in (card, devices.get("emulator")):
        assert device.availability(Precision("bf16", bf16, bf16, bf16)).status == "unavailable"
        assert device.availability(PRECISIONS["mixed_bf16"]).status != "unavailable"
