"""What the card says about itself, by NVML: clocks, why they are held back, energy, and the facts of a run's header;
and how much memory a computation takes.

NVML comes with NVIDIA's driver and `cuda.bindings`. Where either is missing, where a card or a container does not
answer a question, and on the emulator, the answer is None: telemetry explains measurements and must never prevent one.

Sources
    NVIDIA Management Library (NVML) API reference: clocks in MHz, power in mW, energy in mJ since the driver's start
"""
import functools
import weakref
from time import perf_counter

HELD_BACK = 0x4 | 0x8 | 0x20 | 0x40 | 0x80    # power cap, hardware slowdown, thermal (two kinds), power brake
METERED = 1.0                                 # seconds: the energy counter moves some ten times in one
GRAPHICS_CLOCK, SM_CLOCK, MEMORY_CLOCK = 0, 1, 2


@functools.cache
def _nvml():
    """The bindings of NVML, initialised; None where there is none."""
    try:
        from cuda.bindings import nvml
        nvml.init_v2()
        return nvml
    except Exception:      # no module, no library, no driver, no permission: each has an exception of its own
        return None


@functools.cache
def _handle():
    """NVML's name of the device that Numba uses, whatever CUDA_VISIBLE_DEVICES makes its number."""
    try:
        from numba import cuda
        uuid = cuda.get_current_device().uuid
        return _nvml().device_get_handle_by_uuid(uuid if isinstance(uuid, str) else uuid.decode())
    except Exception:
        return None


def ask(device, question, *arguments):
    """What `nvml.device_get_<question>` answers about the device, or None."""
    if device.is_emulator or _nvml() is None or _handle() is None:
        return None
    try:
        return getattr(_nvml(), "device_get_" + question)(_handle(), *arguments)
    except Exception:
        return None


def clocks(device):
    """{"sm_mhz", "memory_mhz", "throttled"} at this moment, or None. Throttled: by power or temperature, not by idling
    or a clock that somebody set."""
    now = ask(device, "clock_info", SM_CLOCK)
    if now is None:
        return None
    reasons = ask(device, "current_clocks_event_reasons")
    return {"sm_mhz": now, "memory_mhz": ask(device, "clock_info", MEMORY_CLOCK),
            "throttled": None if reasons is None else bool(reasons & HELD_BACK)}


def span(before, after):
    """The column `clocks` of rows that were measured between two calls of `clocks`."""
    if before is None or after is None:
        return None
    held = [moment["throttled"] for moment in (before, after) if moment["throttled"] is not None]
    return {"before_mhz": before["sm_mhz"], "after_mhz": after["sm_mhz"], "throttled": any(held) if held else None}


class Energy:
    """Adds up what the card takes between `start` and `stop`, or inside `with energy:`, over several of them.

    `joules` is None until they have lasted METERED seconds in all, because the card's counter is coarse. It counts all
    that the card does, idling and other processes included.
    """

    def __init__(self, device):
        self._device, self._total, self._seconds, self._before = device, 0, 0.0, None

    def _counter(self):
        return ask(self._device, "total_energy_consumption")

    def start(self):
        self._since, self._before = perf_counter(), self._counter()

    def stop(self):
        after = self._counter()
        if self._before is not None and after is not None:
            self._total += after - self._before
            self._seconds += perf_counter() - self._since
        self._before = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def joules(self):
        return self._total / 1e3 if self._seconds >= METERED else None


class Memory:
    """Within `with Memory(device) as memory:` follows what is allocated through the device; `memory.peak` is the most
    bytes at a time.

    These are the arrays that were made inside and live; on a GPU they are counted by Numba, which makes them. Compiled
    code, other processes, and arrays that were there before, do not count. None where the device cannot be followed.
    """

    def __init__(self, device):
        self._device, self._live, self.peak = device, 0, None
        self._allocated = getattr(device, "allocated", None)    # a GPU's

    def __enter__(self):
        self._methods = [name for name in ("empty", "zeros", "_copy") if hasattr(self._device, name)]
        before = self._allocated and self._allocated()
        if len(self._methods) == 3 and (before is not None or self._allocated is None):
            self.peak, self._before = 0, before
            for name in self._methods:
                setattr(self._device, name, self._followed(getattr(self._device, name)))
        return self

    def __exit__(self, *_):
        if self.peak is not None:
            for name in self._methods:
                delattr(self._device, name)    # of the object; its class's method shows again

    def _followed(self, allocate):
        @functools.wraps(allocate)
        def followed(*arguments):
            array = allocate(*arguments)
            if self._allocated is None:
                owner = array if array.base is None else array.base
                self._live += owner.nbytes
                weakref.finalize(owner, self._forget, owner.nbytes).atexit = False
            else:
                self._live = self._allocated() - self._before
            self.peak = max(self.peak, self._live)
            return array
        return followed

    def _forget(self, size):
        self._live -= size


def facts(device):
    """What env.json says of the card; {} on the emulator."""
    if device.is_emulator:
        return {}
    limit, ecc, mig = (ask(device, question) for question in ("enforced_power_limit", "ecc_mode", "mig_mode"))
    return {
        "multiprocessors": _quietly(_multiprocessors),
        "memory_bytes": _quietly(_memory),
        "sm_clock_mhz": ask(device, "clock_info", SM_CLOCK),
        "sm_clock_max_mhz": ask(device, "max_clock_info", SM_CLOCK),
        "memory_clock_mhz": ask(device, "clock_info", MEMORY_CLOCK),
        "memory_clock_max_mhz": ask(device, "max_clock_info", MEMORY_CLOCK),
        "power_limit_w": None if limit is None else limit / 1e3,
        "ecc": None if ecc is None else bool(ecc[0]),
        "mig": None if mig is None else bool(mig[0]),
        "driver": _quietly(lambda: _nvml().system_get_driver_version()),
        "cuda_driver": _quietly(_cuda_driver),
        "cuda_runtime": _quietly(_cuda_runtime),
    }


def _quietly(question):
    try:
        return question()
    except Exception:
        return None


def _multiprocessors():
    from numba import cuda
    return int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def _memory():
    from numba import cuda
    return int(cuda.current_context().get_memory_info().total)


def _cuda_driver():
    """The newest CUDA that the driver knows."""
    version = _nvml().system_get_cuda_driver_version_v2()
    return f"{version // 1000}.{version % 1000 // 10}"


def _cuda_runtime():
    from numba import cuda
    return ".".join(map(str, cuda.runtime.get_version()))
