"""What a run was measured on: the header of its output, and env.json in its folder."""
import itertools
import os
import platform
import subprocess
import textwrap
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

from numprec import __version__
from numprec.harness.record import telemetry

PACKAGES = ("numprec", "numpy", "scipy", "numba", "numba-cuda", "llvmlite", "cuda-bindings", "cuda-core",
            "nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc", "scikit-learn", "ml_dtypes", "tabulate", "matplotlib")
NOT_COMPARABLE = "CPU emulation, not comparable with a GPU"


def collect(device, precisions, scale, command):
    """A dictionary of plain values. A run adds to it what `peaks.measure` finds, under "peaks"."""
    commit, dirty = git_commit()
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "scale": scale,
        "device": device.name,
        "is_emulator": device.is_emulator,
        "compute_capability": list(device.compute_capability),
        "times": NOT_COMPARABLE if device.is_emulator else "measured on the GPU",
        "cpu": _cpu(),
        "cores": cores(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": commit,
        "git_dirty": dirty,
        "precisions": {str(p): {"roles": p.roles, "status": a.status, "reason": a.reason}
                       for p in precisions for a in [device.availability(p)]},
        "gpu": telemetry.facts(device),
    }


def header(environment):
    """The environment as the lines that open the output."""
    e = environment
    capability = "" if e["is_emulator"] else " (compute capability {}.{})".format(*e["compute_capability"])
    lines = [
        ("device", e["device"] + capability),
        *[("", line) for line in _gpu(e.get("gpu") or {})],
        ("times", e["times"]),
        ("CPU", f"{e['cpu']}, {e['cores']} cores usable; {e['platform']}"),
        ("versions", f"Python {e['python']}, " + ", ".join(
            f"{name} {version}" for name, version in e["packages"].items() if version)),
        ("commit", _commit(e)),
        ("run", f"{e['time']}  {e['command']}  (scale {e['scale']})"),
        *[("" if i else "resumed", line) for i, line in enumerate(_resumed(e.get("resumed") or ()))],
        *[("" if i else "peaks", line) for i, line in enumerate(_peaks(e.get("peaks") or {}))],
    ]
    text = [_line(name, value) for name, value in lines]
    alike = {}
    for name, p in e["precisions"].items():
        alike.setdefault((p["status"], p["reason"]), []).append(name)
    for i, ((status, reason), names) in enumerate(alike.items()):
        why = f" ({reason})" if reason else ""
        text.append(_line("" if i else "precision", f"{', '.join(names)}: {status}{why}"))
    return "\n".join(text)


def _line(name, value):
    return textwrap.fill(value, 118, initial_indent=f"{name:<10}", subsequent_indent=" " * 10, break_on_hyphens=False,
                         break_long_words=False)


def _commit(facts):
    if facts["git_commit"] is None:
        return "no git checkout"
    return facts["git_commit"][:12] + (", with uncommitted changes" if facts["git_dirty"] else "")


def _resumed(times):
    """When a run was resumed, and by what command; equal commands in a row share a line."""
    lines = []
    for (commit, *others), group in itertools.groupby(times, key=lambda each: (
            _commit(each), *(f"{name} {each[name.lower()]}" for name in ("CPU", "driver") if name.lower() in each))):
        first, *rest = group
        commit = "commit " * (first["git_commit"] is not None) + commit
        when = f"{len(rest) + 1} times, {first['time']} to {rest[-1]['time']}" if rest else first["time"]
        lines.append(f"{when}  {first['command']}  ({'; '.join([commit, *others])})")
    return lines


def _gpu(facts):
    """What NVML and CUDA said of the card, in two lines; what they did not say is left out."""
    def known(*parts):
        return ", ".join(form.format(facts[name]) for name, form in parts if facts.get(name) is not None)

    def switch(name):
        return name.upper() + (" on" if facts[name] else " off") if facts.get(name) is not None else ""

    card = known(("multiprocessors", "{} multiprocessors"), ("power_limit_w", "power limit {:.0f} W"),
                 ("driver", "driver {}"), ("cuda_driver", "CUDA up to {}"), ("cuda_runtime", "CUDA runtime {}"))
    clocks = known(("sm_clock_mhz", "SM clock {} MHz"), ("sm_clock_max_mhz", "at most {}"),
                   ("memory_clock_mhz", "memory clock {} MHz"), ("memory_clock_max_mhz", "at most {}"))
    return list(filter(None, [", ".join(filter(None, [card, switch("ecc"), switch("mig")])), clocks]))


def _peaks(peaks):
    """The measured ceilings, and why one of them is missing."""
    if not peaks:
        return []
    rates = [f"{name} {rate / 1e9:,.3g}" for name, rate in peaks["flops_per_s"].items() if rate]
    parts = [f"copy {peaks['copy_bytes_per_s'] / 1e9:,.3g} GB/s"] if peaks["copy_bytes_per_s"] else []
    parts += [f"launch {1e6 * peaks['launch_s']:.3g} us"] if peaks["launch_s"] else []
    parts += ["multiply-adds in GFLOP/s: " + ", ".join(rates)] if rates else []
    return ["; ".join(parts) + " (no tensor cores: no rung uses them)",
            *(f"not measured: {name} ({reason})" for name, reason in (peaks.get("problems") or {}).items())]


def _version(name):
    if name == "numprec":    # which need not be installed
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cores():
    """Those that this process may use, which a container can make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def git_commit():
    """(commit, dirty) of the checkout that numprec is imported from; (None, None) elsewhere."""
    here = Path(__file__).resolve().parents[3]

    def git(*arguments):
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10,
                              check=True).stdout.strip()
    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here:
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
