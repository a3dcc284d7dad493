"""Where kernels run: on a GPU, or on the emulator when there is none. The only file that asks which.

    device = get()                         the GPU if Numba finds one, else the emulator
    A = device.array(A_host, storage)      rounded to storage, then copied
    device.launch(kernel, grid, block, A, shared=0)
    device.to_host(A)

`get("gpu")`, `get("emulator")` and the environment variable NUMPREC_DEVICE choose by hand. Both worlds have the
same methods; the base class holds what does not differ. uint16 arrays hold bfloat16 bits throughout (see
`numprec.language.formats`), so `to_host` returns them as bfloat16.

Launches inside `with device.capture() as graph:` are recorded and not run; `graph.replay(times)` runs them in
order: a CUDA graph on the GPU, a plain list on the emulator. Capture and count of launches are a thread's own, so that
threads can share a device: what one of them records neither holds up the others nor takes in their launches.
"""
import contextlib
import functools
import os
import threading
import time
import warnings
from typing import NamedTuple

import numpy as np

from numprec.precision import FORMATS, Format

__all__ = ["Availability", "Device", "get", "kind"]


class Availability(NamedTuple):
    """How a device computes in a precision: status is "native", "emulated" or "unavailable"."""

    status: str
    reason: str


class Timer:
    """`seconds` between entry and exit of `with device.timer() as t:`."""

    seconds = None


class Graph:
    """Recorded launches. They hold their arguments, which therefore live as long as the graph does."""

    def __init__(self, device):
        self.launches = []
        self._device = device
        self._run = None

    def replay(self, times=1):
        """Runs the launches in order, `times` times over."""
        if self._run is None:
            raise RuntimeError("a graph can be replayed once its capture has ended")
        for _ in range(times):
            self._run()
        self._device._thread.launches += times * len(self.launches)


class _Thread(threading.local):
    """What a device knows of each thread: its launches so far, and the Graph that it records, if any."""

    launches = 0
    recording = None


class Device:
    """What the GPU and the emulator have in common."""

    kind = None
    name = None
    compute_capability = None

    def __init__(self):
        self._thread = _Thread()

    @property
    def launches(self):
        """Launches of kernels by this thread so far, replayed ones included."""
        return self._thread.launches

    @property
    def is_emulator(self):
        return self.kind == "emulator"

    def __repr__(self):
        return f"<{self.name}>"

    def array(self, host, fmt=None):
        """A copy of `host` on the device, C-contiguous. A Format rounds the values to it, once; a dtype converts to
        it; otherwise the dtype stays. A bfloat16 array becomes its bits."""
        return self._copy(_converted(host, fmt))

    def assign(self, array, host, fmt=None):
        """Overwrites a device array with what `array(host, fmt)` holds, in one copy."""
        self._overwrite(array, _converted(host, fmt))

    def to_host(self, array):
        """A NumPy copy; it waits for the kernels launched before."""
        if self._thread.recording is not None:
            raise RuntimeError("launches are being recorded, not run: there is nothing to read before the replay")
        return _numbers(self._fetch(array))

    def from_gpu(self, array):
        """A NumPy copy of an array in the memory of the GPU, of anything with `__cuda_array_interface__`: one copy,
        whatever its layout, and a uint16 stays one. ValueError where that memory is out of reach."""
        raise ValueError(f"an array of {type(array).__module__.partition('.')[0]} lies in the memory of a GPU, which "
                         f"the {self.name} does not reach: pass a copy on the host, such as cupy.asnumpy(X)")

    def launch(self, kernel, grid, block, *args, shared=0):
        """Runs a `@cuda.jit` kernel on `grid` blocks of `block` threads (numbers, or tuples of up to three), with
        `shared` bytes of dynamic shared memory."""
        thread = self._thread
        if thread.recording is not None:
            thread.recording.launches.append((kernel, grid, block, args, shared))
        else:
            self._launch(kernel, grid, block, args, shared)
            thread.launches += 1

    @contextlib.contextmanager
    def capture(self):
        """Yields a Graph that records the launches that this thread makes inside, without running them."""
        if self._thread.recording is not None:
            raise RuntimeError("a capture is already under way in this thread")
        graph = self._thread.recording = Graph(self)
        try:
            yield graph
        finally:
            self._thread.recording = None
        graph._run = self._instantiate(graph.launches)


class Emulator(Device):
    """The CPU, running the same kernels through `numprec.emulator`. Arrays are NumPy's.

    `seed` shuffles the order in which threads run, `workers` is the number of host threads (default: all cores),
    `compute_capability` the card to stand in for.
    """

    kind = "emulator"

    def __init__(self, seed=None, workers=None, compute_capability=(7, 5)):
        super().__init__()
        self.seed, self.workers, self.compute_capability = seed, workers, tuple(compute_capability)
        self.name = "CPU emulator of compute capability {}.{}".format(*self.compute_capability)

    def empty(self, shape, fmt):
        """An array to be written. Every byte is 0xFF, a NaN in each format, so that what is not written shows."""
        from numprec.emulator import fresh
        array = np.empty(shape, _element(fmt))
        array.reshape(-1).view(np.uint8)[:] = 0xFF
        fresh.made_empty(array)
        return array

    def zeros(self, shape, fmt):
        return np.zeros(shape, _element(fmt))

    def _copy(self, host):
        return np.array(host, order="C")

    def _fetch(self, array):
        return np.array(array, order="C")

    def _overwrite(self, array, other):
        from numprec.emulator import fresh
        array[...] = other
        fresh.overwritten(array)

    def _launch(self, kernel, grid, block, args, shared):
        from numprec import emulator
        emulator.launch(kernel, grid, block, args, shared=shared, seed=self.seed, workers=self.workers,
                        compute_capability=self.compute_capability)

    def _instantiate(self, launches):
        """Compiles the launches' kernels, so that a replay does nothing else than run them."""
        from numprec.emulator.launch import prepare
        for kernel, _, _, args, _ in launches:
            prepare(kernel, args, self.compute_capability)

        def run():
            for launch in launches:
                self._launch(*launch)
        return run

    @contextlib.contextmanager
    def timer(self):
        timer = Timer()
        start = time.perf_counter()
        yield timer
        timer.seconds = time.perf_counter() - start

    def synchronize(self):
        """Nothing to wait for: a launch returns when it is done."""

    def free_memory(self):
        import psutil
        return psutil.virtual_memory().available

    def availability(self, precision):
        if precision.accum == FORMATS["bfloat16"]:
            return _NO_BFLOAT16_ARITHMETIC
        return Availability("emulated", "the CPU computes it, rounding as a GPU does; times say nothing about a GPU")


class GPU(Device):
    """The current CUDA device of numba.cuda. Arrays are Numba's device arrays, all work is on the default stream."""

    kind = "gpu"
    process = None    # that made it; CUDA is of no use in forks of this one

    def __init__(self):
        super().__init__()
        self.process = os.getpid()
        from numba import cuda
        from numba.cuda.core import config

        from numprec import cubins
        config.CUDA_LOW_OCCUPANCY_WARNINGS = 0    # every fit of one launch would raise it
        self._cuda, self._keep = cuda, cubins.keep
        card = cuda.get_current_device()
        self.compute_capability = tuple(card.compute_capability)[:2]
        self.name = card.name if isinstance(card.name, str) else card.name.decode()

    def array(self, host, fmt=None):
        if not hasattr(host, "__cuda_array_interface__"):
            return super().array(host, fmt)
        array = self._cuda.as_cuda_array(host)    # a view of memory already on the GPU
        if (fmt is None or array.dtype == _element(fmt)) and array.is_c_contiguous():
            return array
        return super().array(self.to_host(array), fmt)

    def from_gpu(self, array):
        try:
            return self._cuda.as_cuda_array(array).copy_to_host()
        except NotImplementedError as error:    # negative strides, a mask
            raise ValueError(f"an array on the GPU cannot be read: {error}; pass a contiguous one") from error

    def assign(self, array, host, fmt=None):
        if hasattr(host, "__cuda_array_interface__"):
            self._overwrite(array, self.array(host, fmt))
        else:
            super().assign(array, host, fmt)

    def empty(self, shape, fmt):
        """An array to be written; its contents are whatever was there. MemoryError where it does not fit."""
        with self._room(lambda: int(np.prod(shape, dtype=object)) * _element(fmt).itemsize):
            return self._cuda.device_array(shape, _element(fmt))

    def zeros(self, shape, fmt):
        return self._copy(np.zeros(shape, _element(fmt)))

    def _copy(self, host):
        with self._room(lambda: host.nbytes):
            return self._cuda.to_device(np.asarray(host, order="C"))

    @contextlib.contextmanager
    def _room(self, needed):
        """Says in a sentence that memory ran out; `needed()` is the size in bytes of what is allocated inside."""
        from numba.cuda.cudadrv.driver import CudaAPIError, binding
        try:
            yield
        except CudaAPIError as error:
            if error.code != binding.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
                raise
            raise MemoryError(f"an array of {needed() / 1e9:.2g} GB does not fit on {self.name}, where "
                              f"{self.free_memory() / 1e9:.2g} GB are free: use fewer samples at a time, or a narrower "
                              "precision") from error

    def _fetch(self, array):
        return array.copy_to_host()

    def _overwrite(self, array, other):
        array.copy_to_device(other)

    def _launch(self, kernel, grid, block, args, shared):
        if shared > 48 * 1024:
            self._allow_shared(self._compiled(kernel, args))
        self._keep(kernel)
        kernel[grid, block, 0, shared](*args)

    def _compiled(self, kernel, args):
        """What Numba makes of a kernel for arguments like these."""
        self._keep(kernel)
        return kernel._compile_for_args(*args)

    def _allow_shared(self, compiled):
        """More than 48 KB of dynamic shared memory has to be asked for, kernel by kernel, which Numba does not do
        (CUDA C++ Programming Guide, section "Shared Memory" of each compute capability from 7.x). It is asked for all
        that the card has, so that no launch lowers what another one, in another thread perhaps, is about to use."""
        from numba.cuda.cudadrv.driver import binding, driver
        function = compiled._codelibrary.get_cufunc()
        most = function.device.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN - compiled.shared_mem_per_block
        attribute = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.cuKernelSetAttribute(attribute, most, function.handle, function.device.id)

    def _instantiate(self, launches):
        """Captures the launches into a CUDA graph, on a stream of its own that runs nothing.

        Other threads work on meanwhile: cuda.core's streams do not block the default stream, and the relaxed mode
        forbids no call to anybody. Kernels are compiled and loaded before. They are launched without Numba's
        `kernel[...]`, which would keep the stream for the sake of its table of configurations.
        """
        from cuda.core import Device as Card
        from cuda.core import Stream
        if not launches:
            return lambda: None
        compiled = [self._compiled(kernel, args) for kernel, _, _, args, _ in launches]
        for kernel, (*_, shared) in zip(compiled, launches):
            if shared > 48 * 1024:
                self._allow_shared(kernel)
        card = Card(self._cuda.get_current_device().id)
        card.set_current()
        builder = card.create_graph_builder()
        try:
            builder.begin_building(mode="relaxed")
            try:
                for kernel, (_, grid, block, args, shared) in zip(compiled, launches):
                    kernel.launch(args, grid, block, builder, shared)
            finally:
                builder.end_building()
            graph = builder.complete()
        finally:
            builder.close()
        default = Stream.from_handle(0)
        return lambda: graph.launch(default)

    @contextlib.contextmanager
    def timer(self):
        timer, start, stop = Timer(), self._cuda.event(), self._cuda.event()
        start.record()
        yield timer
        stop.record()
        stop.synchronize()
        timer.seconds = self._cuda.event_elapsed_time(start, stop) / 1e3    # CUDA counts milliseconds

    def synchronize(self):
        self._cuda.default_stream().synchronize()    # not the context, which may not be waited for during a capture

    def free_memory(self):
        manager = self._cuda.current_context().memory_manager
        pending = getattr(manager, "deallocations", None)    # a manager that somebody plugged in may have none
        if pending is not None:
            pending.clear()    # else what Numba has yet to give back counts as taken
        return manager.get_memory_info().free

    def allocated(self):
        """Bytes in the arrays of this process on the card, without those that Numba has yet to give back; None where
        somebody plugged in a memory manager that does not count them."""
        allocations = getattr(self._cuda.current_context().memory_manager, "allocations", None)
        return None if allocations is None else sum(memory.size for memory in list(allocations.values()))

    def availability(self, precision):
        capability = "compute capability {}.{}".format(*self.compute_capability)
        if precision.accum == FORMATS["bfloat16"]:
            return _NO_BFLOAT16_ARITHMETIC
        if precision.accum == FORMATS["float16"] and self.compute_capability < (5, 3):
            return Availability("unavailable", f"float16 arithmetic needs 5.3, this is {capability}")
        if FORMATS["bfloat16"] in precision.formats and self.compute_capability < (8, 0):
            return Availability("emulated", f"bfloat16 is native from 8.0; {capability} rounds it with integers")
        return Availability("native", capability)


_NO_BFLOAT16_ARITHMETIC = Availability(
    "unavailable", "bfloat16 is a format for storage: its bits are never computed with, so accum must be another")


def _element(fmt):
    return fmt.element if isinstance(fmt, Format) else np.dtype(fmt)


def _converted(host, fmt):
    """What goes to the device, on the host."""
    host = np.asarray(host)
    if isinstance(fmt, Format):
        host = fmt.round(_numbers(host))
    elif fmt is not None:
        host = host.astype(fmt)
    return _bits(host.astype(host.dtype.newbyteorder("="), copy=False))


def _is_bfloat16(dtype):
    return dtype.name == "bfloat16"


def _bits(host):
    return host.view(np.uint16) if _is_bfloat16(host.dtype) else host


def _numbers(host):
    return host.view(FORMATS["bfloat16"].numpy) if host.dtype == np.uint16 else host


@functools.lru_cache(maxsize=None)
def _obstacle():
    """In words why there is no GPU to use, or None. A card whose compiler is missing warns, once."""
    from numba import cuda
    if not cuda.is_available():
        return "Numba finds no CUDA GPU"
    from cuda.pathfinder import DynamicLibNotFoundError, load_nvidia_dynamic_lib
    try:
        for library in ("nvvm", "nvrtc", "nvJitLink"):
            load_nvidia_dynamic_lib(library)
    except DynamicLibNotFoundError:
        problem = f"there is a CUDA GPU but not the library {library}: install numprec with the extra cu12 or cu13"
        warnings.warn(problem, stacklevel=3)
        return problem
    return None


@functools.lru_cache(maxsize=None)
def _gpu():
    return GPU()


@functools.lru_cache(maxsize=None)
def _emulator(**options):
    return Emulator(**options)


def get(name=None, **options):
    """The device called `name`, "gpu" or "emulator"; None leaves the choice to NUMPREC_DEVICE, and then to what is
    there. `options` (seed, workers, compute_capability) are the emulator's; a GPU has no use for them. The same
    request gets the same object. RuntimeError where the device cannot be had."""
    if kind(name) == "emulator":
        return _emulator(**options)
    gpu = _gpu()
    if gpu.process not in (None, os.getpid()):
        raise RuntimeError("a process that was forked after its parent had used the GPU cannot use it: start it by "
                           "multiprocessing's 'spawn', or choose the device 'emulator'")
    return gpu


def kind(name=None):
    """The kind of device that `get(name)` gives, "gpu" or "emulator", with the same errors. It takes no context on a
    card, of which some cards have one alone to give."""
    name = (name or os.environ.get("NUMPREC_DEVICE") or "any").strip().lower()
    if name not in ("any", "gpu", "emulator"):
        raise ValueError(f"the device is 'gpu' or 'emulator', not {name!r}")
    obstacle = None if name == "emulator" else _obstacle()
    if obstacle and name == "gpu":
        raise RuntimeError(f"the device 'gpu' was asked for, but {obstacle}; 'emulator' runs everywhere")
    return "emulator" if name == "emulator" or obstacle else "gpu"
