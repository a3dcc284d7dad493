"""Where a kernel looks whether its launch was told to stop.

A launch is one call of machine code, which the Python interpreter cannot interrupt. So the code asks at some places:
the scheduler after each pass over the threads of a block or a warp, which is wherever they wait and at the end of every
block, and the kernel itself at the head of those loops that may go on for long. To ask costs a load and a branch; a
thread that is told to stop returns as if its work were done. The places are few, because a loop that asks is neither
vectorised nor unrolled. None ask but loops
  - other than over a range, which may never end, such as a spin lock;
  - over a range, with another loop or an operation that waits inside, unless their numbers of passes are constants, and
    few;
and those not if each pass waits for other threads, as then the scheduler asks. So a launch that is told to stop goes on
at most for the innermost loop over a range that it is in, unless it is knocked at, see interrupts.py.
"""
import re
from dataclasses import dataclass, field

SHORT = 2 ** 16     # passes that a nest of loops makes without asking

_LABEL = re.compile(r"^([\w.$-]+):")
_SUCCESSOR = re.compile(r"label (%[\w.$-]+)")
_TESTED = re.compile(r"^  %\S+ = icmp sgt i64 (%[\w.$-]+), 0$")
_LOADED = re.compile(r"^  (%[\w.$-]+) = load i64, ptr (%[\w.$-]+)")
# Numba's, of what is left of a range, as it writes it and as LLVM's passes leave it
_COUNTED = re.compile(r"^  %\S+ = (?:sub nuw nsw i64 (?=\S+ 1$)|add nsw i64 (?=\S+ -1$))(%[\w.$-]+), ")
_STORED = re.compile(r"^  store i64 (\S+), ptr (%[\w.$-]+)")


@dataclass
class _Block:
    lines: list
    successors: list = field(default_factory=list)
    before: list = field(default_factory=list)
    dominators: int = -1        # a bit for each block; at first all


def ask_in_loops(lines, same):
    """The text of @emu.body, a line an item, that asks in its long loops. `same` {element taken out of a tuple: what
    was put in}."""
    head, *rest = lines
    blocks = _blocks(rest)
    _dominate(blocks)
    loops = _loops(blocks)
    asking = {header for header, body in loops.items() if _is_long(header, body, loops, blocks, same)}
    if not asking:
        return lines
    renamed = re.compile(r", (" + "|".join(map(re.escape, sorted(asking, key=len, reverse=True))) + r") \]")
    out = [head]
    for name, block in blocks.items():
        phis = sum(" = phi " in line for line in block.lines)
        for number, line in enumerate(block.lines):
            if " = phi " in line:
                line = renamed.sub(r", \1.asked ]", line)
            out.append(line)
            # a block is its label, its phis, and the rest
            if name in asking and number == phis:
                plain = name[1:]
                out += [f"  %{plain}.stop = call i1 @emu.stopped(ptr %ctx)",
                        f"  br i1 %{plain}.stop, label %emu.abandoned, label %{plain}.asked", f"{plain}.asked:"]
    return [*out, "emu.abandoned:", "  ret void"]


def lasting_loops(lines, same):
    """Names of the headers of all loops but those whose passes are constants, and few. The arguments are those of
    `ask_in_loops`."""
    blocks = _blocks(lines[1:])
    _dominate(blocks)
    loops = _loops(blocks)

    def lasts(header):
        sizes = {other: _range(other, loops[other], blocks, same) for other in loops.keys() & loops[header]}
        return None in sizes.values() or False in sizes.values() or _passes(header, loops, sizes) > SHORT

    return {header[1:] for header in loops if lasts(header)}


def _blocks(lines):
    """{name with %: block} of a function without its head, in the order of the text."""
    blocks, name = {}, "%0"              # LLVM's name of a first block that has none, and then no label
    for line in lines:
        label = _LABEL.match(line)
        if label:
            name = f"%{label[1]}"
        blocks.setdefault(name, _Block([])).lines.append(line)
    for name, block in blocks.items():
        block.successors = sorted({s for line in block.lines for s in _SUCCESSOR.findall(line)})
        for successor in block.successors:
            blocks[successor].before.append(name)
    return blocks


def _dominate(blocks):
    """Finds for each block those through which every way to it leads."""
    bit = {name: 1 << i for i, name in enumerate(blocks)}
    first = next(iter(blocks))
    blocks[first].dominators = bit[first]
    changed = True
    while changed:
        changed = False
        for name, block in blocks.items():
            if name != first:
                common = -1
                for other in block.before:
                    common &= blocks[other].dominators
                if common | bit[name] != block.dominators:
                    block.dominators = common | bit[name]
                    changed = True
    for name, block in blocks.items():
        block.dominators = {other for other in blocks if block.dominators & bit[other]}


def _loops(blocks):
    """{header: names of the blocks of the loop}: those that lead back to a header without passing it."""
    loops = {}
    for name, block in blocks.items():
        for header in block.successors:
            if header in block.dominators:
                body, waiting = loops.setdefault(header, {header}), [name]
                while waiting:
                    at = waiting.pop()
                    if at not in body:
                        body.add(at)
                        waiting += blocks[at].before
    return loops


def _is_long(header, body, loops, blocks, same):
    latches = [name for name in body if header in blocks[name].successors]
    waiting = [name for name in body if any("@emu.sync." in line for line in blocks[name].lines)]
    if any(all(name in blocks[latch].dominators for latch in latches) for name in waiting):
        return False
    inner = loops.keys() & body                  # itself among them
    sizes = {other: _range(other, loops[other], blocks, same) for other in inner}
    if None in sizes.values():
        return True
    if len(inner) == 1 and not waiting:
        return False
    return False in sizes.values() or _passes(header, loops, sizes) > SHORT


def _passes(header, loops, sizes):
    """Of the innermost loops in a loop, or of itself, where all sizes are constants."""
    inside = [other for other in sizes if other != header and other in loops[header]]
    children = [other for other in inside if not any(other in loops[between] for between in inside if between != other)]
    return sizes[header] * (sum(_passes(child, loops, sizes) for child in children) or 1)


def _range(header, body, blocks, same):
    """The number of passes of a loop over a range; False where it is not a constant, None for another loop."""
    loaded = {m[1]: m[2] for m in map(_LOADED.match, blocks[header].lines) if m}
    tested = {m[1] for m in map(_TESTED.match, blocks[header].lines) if m}
    counted = {m[1] for name in body for m in map(_COUNTED.match, blocks[name].lines) if m}
    left = tested & counted & loaded.keys()
    if not left:
        return None
    place = _source(loaded[min(left)], same)
    sizes = {m[1] for name, block in blocks.items() if name not in body for m in map(_STORED.match, block.lines)
             if m and _source(m[2], same) == place}
    return max(map(int, sizes)) if sizes and all(size.isdecimal() for size in sizes) else False


def _source(value, same):
    while value in same:
        value = same[value]
    return value
