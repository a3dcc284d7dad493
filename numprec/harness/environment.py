"""What a run was measured on: the header of its output, and env.json in its folder."""
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

PACKAGES = ("numprec", "numpy", "numba", "numba-cuda", "llvmlite", "scikit-learn", "ml_dtypes")
NOT_COMPARABLE = "CPU emulation, not comparable with a GPU"


def collect(device, precisions, scale, command):
    """A dictionary of plain values."""
    commit, dirty = _git()
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
    }


def header(environment):
    """The environment as the lines that open the output."""
    e = environment
    commit = "no git checkout" if e["git_commit"] is None else (
        e["git_commit"][:12] + (", with uncommitted changes" if e["git_dirty"] else ""))
    capability = "" if e["is_emulator"] else " (compute capability {}.{})".format(*e["compute_capability"])
    lines = [
        ("device", e["device"] + capability),
        ("times", e["times"]),
        ("CPU", f"{e['cpu']}, {e['cores']} cores usable; {e['platform']}"),
        ("versions", f"Python {e['python']}, " + ", ".join(
            f"{name} {version}" for name, version in e["packages"].items() if version)),
        ("commit", commit),
        ("run", f"{e['time']}  {e['command']}  (scale {e['scale']})"),
    ]
    text = [f"{name:<10}{value}" for name, value in lines]
    alike = {}
    for name, p in e["precisions"].items():
        alike.setdefault((p["status"], p["reason"]), []).append(name)
    for i, ((status, reason), names) in enumerate(alike.items()):
        text.append(f"{'' if i else 'precision':<10}{', '.join(names)}: {status}" + (f" ({reason})" if reason else ""))
    return "\n".join(text)


def _version(name):
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


def _git():
    """(commit, dirty) of the checkout that numprec is imported from; (None, None) elsewhere."""
    here = Path(__file__).resolve().parents[2]

    def git(*arguments):
        return subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10,
                              check=True).stdout.strip()
    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != here:
            return None, None
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
