"""What the sanitizer can find, and how a finding is said."""
import numpy as np

from numprec.emulator.instrument import ANYWHERE, ATOMIC, BARRIER, GLOBAL, GRID, LOAD, SHARED, STORE, VOTE, WARP

# kinds of findings
BEYOND, MISALIGNED, UNWRITTEN, RACE, EXITED, DIVERGED, LANES, ENDLESS = range(8)
FINDINGS = 64          # kinds and places that are distinguished in one launch

FINDING = np.dtype([("kind", "i8"), ("site", "i8"), ("other", "i8"), ("block", "i8"), ("thread", "i8"), ("who", "i8"),
                    ("value", "i8"), ("count", "i8")])
THREAD = 10            # bits of a thread's number; above it stands its block's

_VERBS = {LOAD: "reads", STORE: "writes", ATOMIC: "updates"}
_WAITS = {BARRIER: "barrier", GRID: "barrier of the grid", WARP: "syncwarp", VOTE: "shuffle or vote"}


def _coordinates(index, shape):
    x, rest = index % shape[0], index // shape[0]
    return f"({x}, {rest % shape[1]}, {rest // shape[1]})"


def _element(launch, site, value):
    """(its name with index, its array's name and extent) of what an access means."""
    if site.space in (GLOBAL, ANYWHERE):
        return _argument(launch, site, value)
    array = (launch.shared if site.space == SHARED else launch.locals)[site.array]
    name = array.name or ("a shared array" if site.space == SHARED else "a local array")
    size = array.bytes or launch.shared_bytes - array.offset
    size_of = array.itemsize or 1
    index = (value - (array.offset if site.space == SHARED else 0)) // size_of
    inside = array.shape and 0 <= index < np.prod(array.shape)
    at = ", ".join(map(str, np.unravel_index(index, array.shape))) if inside else index
    return f"{name}[{at}]", f"{name} has {size // size_of} elements"


def _argument(launch, site, value):
    candidates = [launch.arguments[site.array]] if site.space == GLOBAL else [
        a for a in launch.arguments if np.lib.array_utils.byte_bounds(a.array)[0] <= value
        < np.lib.array_utils.byte_bounds(a.array)[1]]
    if not candidates:
        return f"address {value:#x}", "it lies in no array of the launch"
    name, array = candidates[0]
    offset = value - array.ctypes.data
    extent = f"{name} has the shape {array.shape}"
    if array.ndim == 1 and array.strides[0]:
        return f"{name}[{offset // array.strides[0]}]", extent
    low, high = np.lib.array_utils.byte_bounds(array)
    if low <= value < high and min(array.strides, default=0) > 0:
        index, rest = [0] * array.ndim, offset
        for axis in sorted(range(array.ndim), key=lambda a: -array.strides[a]):
            index[axis], rest = divmod(rest, array.strides[axis])
        return f"{name}[{', '.join(map(str, index))}]", extent
    return f"{name}, {offset // array.itemsize} elements from its first", extent


def sentence(launch, f):
    """A finding, a record of FINDING, in words; `launch` as a listener hears of it."""
    site, kind = launch.sites[f["site"]], f["kind"]
    other = launch.sites[f["other"]] if f["other"] >= 0 else None
    threads = int(np.prod(launch.block))
    place = f"kernel {launch.kernel}, line {site.line}" + (f" of {site.file}" if site.file else "")
    who = f"thread {_coordinates(int(f['thread']), launch.block)} of block {_coordinates(int(f['block']), launch.grid)}"
    more = f" ({f['count'] - 1} more like it)" if f["count"] > 1 else ""
    if kind <= RACE:
        name, extent = _element(launch, site, int(f["value"]))
        does = f"{who} {_VERBS[site.kind]} {name}"
        if kind == BEYOND:
            return f"{place}: {does}, but {extent}{more}"
        if kind == MISALIGNED:
            return f"{place}: {does} at an address that is no multiple of {site.align} bytes{more}"
        if kind == UNWRITTEN:
            return f"{place}: {does}, which nobody has written{more}"
        block, thread = divmod(int(f["who"]), 1 << THREAD)
        them = f"thread {_coordinates(thread, launch.block)}"
        if block != f["block"]:
            them += f" of block {_coordinates(block, launch.grid)}"
        between = "a barrier of the grid" if block != f["block"] else "a barrier"
        line = f"line {other.line}" + (f" of {other.file}" if other.file != site.file else "")
        return f"{place}: {does}, which {them} {_VERBS[other.kind]} in {line} without {between} in between{more}"
    if kind == EXITED:
        return f"{place}: {f['who']} of {threads} threads of block {_coordinates(int(f['block']), launch.grid)} have " \
               f"exited and do not reach this {_WAITS[site.kind]}{more}"
    if kind == DIVERGED:
        return f"{place}: threads of block {_coordinates(int(f['block']), launch.grid)} wait here while others wait " \
               f"at the {_WAITS[other.kind]} of line {other.line}{more}"
    if kind == LANES:
        absent = [lane for lane in range(32) if int(f["who"]) >> lane & 1]
        return f"{place}: the mask of this {_WAITS[site.kind]}, in the warp of {who}, names lanes that do not take " \
               f"part: {', '.join(map(str, absent))}{more}"
    return f"{place}: {who} was in this loop when the launch had made as many rounds as it is allowed; it seems to " \
           "run forever (sanitize(rounds=...) sets the limit)"
