"""Times calls fairly: compiled and warmed up before, repeated, and interleaved.

A contender is a function `run(times)` that makes `times` calls and returns the seconds they took, by CUDA events
on a GPU and by the host's clock on the emulator. Contenders take turns, one sample each, so that a clock that
ramps up, throttles or is shared with another process meets all of them alike. What compiling costs is the
caller's to measure: by the time a contender gets here it has run once.
"""
import math
from dataclasses import dataclass
from time import perf_counter

from numprec.harness.judge.statistics import bootstrap

SHORTEST_SAMPLE = 200e-6    # seconds; shorter calls are timed several at a time
TIGHT = 0.02                # stop when the interval of the median is within 2 % of it


@dataclass(frozen=True)
class Effort:
    """How long to measure one contender."""

    budget: float           # seconds of samples
    warm_up: float          # seconds of calls that are thrown away
    least: int = 5          # samples that are taken in any case, unless they cost PATIENCE budgets
    most: int = 1000

    PATIENCE = 4

    def brief(self):
        """A fifth of it, for what is measured besides, warm already."""
        return Effort(self.budget / 5, warm_up=0.0, least=min(5, self.least), most=20)

    def enough(self, samples, spent):
        """Whether `samples`, which took `spent` seconds, will do."""
        n = len(samples)
        if n < self.least:
            return n > 0 and spent >= self.PATIENCE * self.budget
        if spent >= self.budget or n >= self.most:
            return True
        if n < 2 * self.least or n & (n - 1):    # an interval costs time too: looked at when n is a power of two
            return False
        interval = bootstrap(samples, resamples=200)
        return interval.half_width <= TIGHT * interval.value


@dataclass(frozen=True)
class Samples:
    """Seconds per call, each the mean of `calls` calls made together."""

    seconds: tuple
    calls: int


def measure(contenders, effort, taken=None, together=True):
    """{key: run} -> {key: Samples}.

    `taken` are samples that there are already, {key: [seconds]}; a contender in it needs no warming up. `together`
    allows several calls to a sample where one is short.
    """
    taken = taken or {}
    samples = {key: list(taken.get(key, ())) for key in contenders}
    calls = {key: 1 if key in taken else _warm_up(run, effort) for key, run in contenders.items()}
    if not together:
        calls = dict.fromkeys(calls, 1)
    spent = {key: sum(seconds) for key, seconds in samples.items()}
    waiting = [key for key in contenders if not (samples[key] and effort.enough(samples[key], spent[key]))]
    while waiting:
        for key in tuple(waiting):
            seconds = contenders[key](calls[key])
            spent[key] += seconds
            samples[key].append(seconds / calls[key])
            if effort.enough(samples[key], spent[key]):
                waiting.remove(key)
    return {key: Samples(tuple(samples[key]), calls[key]) for key in contenders}


def _warm_up(run, effort):
    """Runs until `warm_up` seconds have passed; returns how many calls fill the shortest sample."""
    fastest, spent = math.inf, 0.0
    while True:
        seconds = run(1)
        spent += seconds
        fastest = min(fastest, seconds)
        if spent >= effort.warm_up:
            return max(1, math.ceil(SHORTEST_SAMPLE / max(fastest, 1e-9)))


def host_clock(call, synchronize, clock=perf_counter):
    """A contender that times `call()` end to end, by a clock of the host around a synchronisation."""
    def run(times):
        synchronize()
        start = clock()
        for _ in range(times):
            call()
        synchronize()
        return clock() - start
    return run
