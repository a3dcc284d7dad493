"""Compiled kernels of the GPU on disk, so that a second process starts at once.

    keep(kernel)       from here on, what `@cuda.jit` compiles of this kernel is kept, and found again

Numba's own cache leaves out kernels that are linked with other files, as those of float16 are, and stores pickles. Here
an entry is the linked cubin and a few words of JSON in the folder of `numprec.emulator.cache`, whose rules and keys are
the same; a key holds the compilers too. Sources: Numba's `CUDADispatcher.compile`, which asks its `_cache` first.
"""
import functools
import os

from numba.cuda.core import sigutils
from numba.cuda.core.caching import NullCache

from numprec.emulator import cache


def keep(kernel):
    """Keeps the compiled forms of a dispatcher on disk, unless it was told how by `cache=True`."""
    if type(kernel._cache) is NullCache:
        kernel._cache = Cubins(kernel)


class Cubins:
    """What Numba asks of a dispatcher's cache."""

    def __init__(self, kernel):
        self._kernel = kernel

    def load_overload(self, sig, target_context):
        """The kernel for these argument types, bound to the current context; None where it has to be compiled."""
        from cuda.core import ObjectCode
        from numba.cuda import types, typing
        from numba.cuda.codegen import CUDACodeLibrary
        from numba.cuda.dispatcher import _Kernel
        argtypes, _ = sigutils.normalize_signature(sig)
        found = cache.load(_key(self._kernel, argtypes))
        if found is None:
            return None
        about, cubin = found
        library = CUDACodeLibrary(target_context.codegen(), about["name"], entry_name=about["name"])
        library._cubin_cache[library._ensure_cc(None)] = ObjectCode.from_cubin(cubin)
        library._finalized, library.use_cooperative = True, about["cooperative"]
        kernel = _Kernel._rebuild(
            cooperative=about["cooperative"], name=about["name"], signature=typing.signature(types.void, *argtypes),
            codelibrary=library, debug=False, lineinfo=False, call_helper=None, extensions=[],
            shared_memory_carveout=about["carveout"])
        kernel.bind()
        return kernel

    def save_overload(self, sig, kernel):
        """Stores a kernel, unless it needs more than its cubin: the host's help, or arrays of its own."""
        library = kernel._codelibrary
        if (kernel.debug or kernel.lineinfo or kernel.extensions or kernel.launch_config_sensitive
                or self._kernel.targetoptions.get("link") or library._setup_functions or library._teardown_functions
                or library.referenced_objects):
            return
        argtypes, _ = sigutils.normalize_signature(sig)
        about = {"name": kernel.entry_name, "cooperative": kernel.cooperative,
                 "carveout": kernel.shared_memory_carveout}
        cache.store(_key(self._kernel, argtypes), about, bytes(library.get_cubin().code))


def _key(kernel, argtypes):
    from numba import cuda
    return cache.kernel_key(kernel, argtypes, tuple(cuda.get_current_device().compute_capability)[:2],
                            "cubin " + _compilers())


@functools.cache
def _compilers():
    """Which NVVM, NVRTC and nvJitLink compile here; their own version numbers leave out the last place."""
    from cuda.pathfinder import load_nvidia_dynamic_lib
    files = [load_nvidia_dynamic_lib(name).abs_path for name in ("nvvm", "nvrtc", "nvJitLink")]
    return " ".join(f"{os.path.basename(path)} {os.stat(path).st_size} {os.stat(path).st_mtime_ns}" for path in files)
