"""What the assembler made of a kernel for a card, read from its cubin: registers, shared and local memory; and how many
blocks of it a multiprocessor holds.

A cubin is an ELF file. Its section `.nv.info` holds a list of attributes, each a byte for the form of its value, a byte
for what it is, and two for the value or for the size of the value that follows; the one for registers holds the symbol
of a function and their number.
"""
import struct
from typing import NamedTuple

_REGISTERS, _FRAME = 0x2F, 0x11
_SIZED = 4              # the form of a value that follows


class Resources(NamedTuple):
    """What a block of a kernel takes: registers and bytes of local memory a thread, bytes of static shared memory."""

    registers: int
    local_bytes: int
    shared_bytes: int


class Limits(NamedTuple):
    """What a multiprocessor has. Source: CUDA C++ Programming Guide, "Features and Technical Specifications per Compute
    Capability"; registers and shared memory are given out in units, see the occupancy calculator of Nsight Compute."""

    threads: int
    blocks: int
    shared_bytes: int
    reserved: int           # bytes of shared memory that each block takes besides
    registers: int = 65536
    register_unit: int = 256        # for a warp
    shared_unit: int = 256


LIMITS = {(7, 5): Limits(1024, 16, 64 * 1024, 0), (8, 0): Limits(2048, 32, 164 * 1024, 1024, shared_unit=128),
          (9, 0): Limits(2048, 32, 228 * 1024, 1024, shared_unit=128)}


def resources(kernel, argtypes, compute_capability):
    """Compiles a `@cuda.jit` kernel for the Numba types of its arguments; no GPU is needed."""
    from numprec.harness.measure import audit
    found = of_cubin(audit.cubin(kernel, tuple(argtypes), compute_capability))
    if compute_capability >= (9, 0) and found.shared_bytes:       # there the section counts what is reserved
        found = found._replace(shared_bytes=found.shared_bytes - LIMITS[compute_capability].reserved)
    return found


def of_cubin(cubin):
    """The Resources of the only kernel in a cubin, as it says them."""
    found = {_REGISTERS: 0, _FRAME: 0}
    shared = 0
    for name, offset, size in sections(cubin):
        if name == ".nv.info":
            for what, value in _attributes(cubin[offset:offset + size]):
                if what in found:
                    found[what] = max(found[what], struct.unpack_from("<I", value, 4)[0])
        elif name.startswith(".nv.shared."):
            shared = max(shared, size)
    return Resources(found[_REGISTERS], found[_FRAME], shared)


def occupancy(used, threads, compute_capability, dynamic_bytes=0):
    """Blocks of `threads` that a multiprocessor holds at once."""
    card = LIMITS[compute_capability]
    warps = -(-threads // 32)
    by_registers = card.blocks
    if used.registers:
        of_warp = _up(used.registers * 32, card.register_unit)
        by_registers = card.registers // of_warp // warps
    shared = _up(used.shared_bytes + dynamic_bytes + card.reserved, card.shared_unit)
    by_shared = card.shared_bytes // shared if shared else card.blocks
    return max(0, min(card.blocks, card.threads // (32 * warps), by_registers, by_shared))


def _up(n, unit):
    return -(-n // unit) * unit


def sections(elf):
    """(name, offset, size) of each section of a 64-bit ELF file."""
    start, = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", elf, start + i * size) for i in range(count)]
    base = rows[names][4]
    for name, _, _, _, offset, length in rows:
        yield elf[base + name:elf.index(b"\0", base + name)].decode(), offset, length


def _attributes(body):
    at = 0
    while at + 4 <= len(body):
        form, what, size = struct.unpack_from("<BBH", body, at)
        at += 4
        if form == _SIZED:
            yield what, body[at:at + size]
            at += size
