"""What is measured, and that no number stands in a row which the same run has not shown to be right."""
import contextlib
import dataclasses
import functools
import itertools
import json
import math
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from numba import cuda

from numprec import device as devices
from numprec import kernels
from numprec.harness.judge import outcomes
from numprec.harness.measure import cases, fits, launches, peaks, peers, problems, timing
from numprec.harness.record import environment, rows, store, telemetry
from numprec.harness.run.worker import complete, execute
from numprec.language import ladder
from numprec.precision import precision_named

QUICK = timing.Effort(budget=0.0, warm_up=0.0, least=1)


# ---- kernels

class FakeDevice:
    """Runs Python functions as kernels on NumPy arrays."""

    name, is_emulator, compute_capability, launches = "a device", True, (7, 5), 0

    def availability(self, precision):
        return SimpleNamespace(status="unavailable" if precision.name == "fp16" else "native", reason="no fp16 here")

    def array(self, host, fmt=None):
        return np.array(host)

    to_host = array

    def synchronize(self):
        pass

    def launch(self, kernel, *args):
        self.recorded.append((kernel, args)) if self.recorded is not None else kernel(*args)

    recorded = None

    @contextlib.contextmanager
    def capture(self):
        launches = self.recorded = []

        def replay(times):
            for _ in range(times):
                for kernel, args in launches:
                    kernel(*args)
        yield SimpleNamespace(launches=launches, replay=replay)
        self.recorded = None

    @contextlib.contextmanager
    def timer(self):
        yield SimpleNamespace(seconds=1e-3)


def operation_of(kernel, oracle=lambda x: x + 1, bound=lambda p, x: np.full(x.shape, p.storage.u * 8)):
    def launch(device, rung, precision, x):
        y = np.full_like(x, np.nan)
        device.launch(kernel, x, y)
        return y
    return ladder.Operation(
        "increment", inputs=lambda rng, shape, kind, precision: (rng.random(shape),), oracle=oracle, error_bound=bound,
        launch=launch, cost=lambda p, n: {"flops": n, "bytes": 2 * n}, shapes=(), bench_shapes={})


def increment(x, y):
    y[:] = x + 1


def drifting(x, y):
    y[:] = x + 1
    x += 1


def idle(x, y):
    pass


def rows_of(operation, *precisions, **rung):
    rung = SimpleNamespace(name="only", compute_capability=rung.get("compute_capability", (7, 5)))
    cell = cases.KernelCell(operation, rung, (10,), tuple(map(precision_named, precisions)), QUICK)
    return launches.kernel_rows(cell, FakeDevice())


def test_a_right_result_is_timed():
    row, = rows_of(operation_of(increment), "fp32")
    assert (row["status"], row["samples_s"], row["launches"]) == ("ok", (1e-3,), 1)
    assert row["flops"] == 10 and row["shape"] == (10,)


@pytest.mark.parametrize("kernel, reason", [(drifting, "later launch"), (idle, "inf times the bound")])
def test_a_result_that_changes_or_is_never_written_has_no_time(kernel, reason):
    row, = rows_of(operation_of(kernel), "fp32")
    assert row["status"] == "FAIL" and reason in row["reason"]
    assert row["samples_s"] is None and row["end_to_end_s"] is None and row["compile_s"] is None


def test_what_a_device_lacks_is_skipped_with_its_reason():
    skipped, done = rows_of(operation_of(increment), "fp16", "fp32")
    assert (skipped["status"], skipped["reason"], skipped["samples_s"]) == ("SKIP", "no fp16 here", None)
    assert done["status"] == "ok"
    skipped, = rows_of(operation_of(increment), "fp32", compute_capability=(9, 0))
    assert skipped["status"] == "SKIP" and "compute capability 9.0" in skipped["reason"]


class CudaAPIError(Exception):
    """As Numba's; after the first one each call fails, in this process and not in the next."""


@pytest.mark.parametrize("when, calls", [
    ("verified", [["fp64", "fp32", "fp16"], ["fp32", "fp16"]]),             # it is known which one did
    ("timed", [["fp64", "fp32", "fp16"], ["fp64"], ["fp32"], ["fp16"]]),    # it may be any of them
])
def test_a_fault_of_cuda_fails_one_precision(when, calls, monkeypatch):
    """The others are measured in another process, together where that is possible."""
    precisions = tuple(map(precision_named, ("fp64", "fp32", "fp16")))
    cell = cases.KernelCell(operation_of(increment), SimpleNamespace(name="only", compute_capability=(7, 5)), (10,),
                            precisions, QUICK)
    culprit, asked = precisions[0 if when == "verified" else 1], []

    def process(part):
        asked.append([str(p) for p in part.precisions])
        device, broken = FakeDevice(), []
        device.availability = lambda p: devices.Availability("native", "")

        def verified(cell, p, device, row):
            if broken or (when == "verified" and p == culprit):
                broken.append(p)
                raise CudaAPIError("[700]")
            return launches._Launch(device, lambda: (), ())
        monkeypatch.setattr(launches, "_verified", verified)

        def measure(contenders, *arguments, **options):
            if when == "timed" and culprit in contenders:
                raise CudaAPIError("[700]")
            return {p: timing.Samples([1e-3], 1) for p in contenders}
        monkeypatch.setattr(launches.timing, "measure", measure)
        return execute(part, device)
    found = {row["precision"]: row for row in complete(cell, process)}
    assert asked == calls and list(found) == ["fp64", "fp32", "fp16"]
    assert {name: row["status"] for name, row in found.items()} == {
        str(p): "FAIL" if p == culprit else "ok" for p in precisions}
    assert found[str(culprit)]["reason"] == "CudaAPIError: [700]"


def test_both_clocks_of_a_kernel():
    """The device's own timer, and the host's clock around a launch and the wait for it."""
    operation = kernels.operations()["dot"]
    cell = cases.KernelCell(operation, operation.rung("tree"), (1000,), (precision_named("fp32"),), QUICK)
    row, = execute(cell, devices.get())
    assert row["status"] == "ok" and row["samples_s"] and row["end_to_end_s"] and row["format"] == "float32"
    assert row["cell"] == "dot/tree 1000" and row["device"] == devices.get().name
    assert set(row) == set(store.COLUMNS["row"] + store.COLUMNS["kernel"])


def test_no_more_samples_than_are_of_use():
    durations = (1e-6 * (1 + 7919 * i % 1000) for i in itertools.count())    # so wide that 2 % is out of reach
    effort = timing.Effort(budget=10.0, warm_up=0.0, most=100)
    for given, most in (effort, 100), (effort.brief(), 20):
        found = timing.measure({"": lambda times: next(durations)}, given, together=False)[""]
        assert len(found.seconds) == most and found.calls == 1


class Unpoisoned(devices.Emulator):
    """Passes for a GPU, whose new arrays hold whatever was there: here, zeros."""

    kind = "gpu"

    def empty(self, shape, fmt):
        return self.zeros(shape, fmt)


def test_what_a_kernel_does_not_write_is_seen_on_a_gpu_too():
    """Half of the result is never written, and right by chance."""
    @cuda.jit
    def half(x, y):
        i = cuda.grid(1)
        if i < y.size // 2:
            y[i] = x[i]

    def launch(device, rung, precision, x):
        y = device.empty(x.shape, precision.storage)
        device.launch(half, 1, 32, x, y)
        return y
    operation = dataclasses.replace(
        operation_of(None, oracle=lambda x: np.where(np.arange(10) < 5, x, 0)), launch=launch)
    rung = SimpleNamespace(name="only", compute_capability=(7, 5))
    cell, device = cases.KernelCell(operation, rung, (10,), (precision_named("fp32"),), QUICK), Unpoisoned()
    row, = launches.kernel_rows(cell, device)
    assert row["status"] == "FAIL" and row["samples_s"] is None and "empty" not in vars(device)


# ---- comparing with an oracle

@pytest.mark.parametrize("result, oracle, bound, over_bound", [
    ([1.0, 2.0], [1.0, 2.5], [1.0, 1.0], 0.5),
    ([1.0, 2.0], [1.0, 2.0], [0.0, 0.0], 0.0),
    ([1.0, 2.0], [1.0, 2.5], [1.0, 0.0], math.inf),
    ([np.nan], [1.0], [1.0], math.inf),
    ([np.inf], [np.inf], [1.0], 0.0),
    ([np.inf], [-np.inf], [1.0], math.inf),
    ([3], 3, 0, 0.0),                                     # one element for a scalar
    (([1.0], [5]), ([1.0], [4]), ([1.0], [2]), 0.5),      # the worst of several results
])
def test_check(result, oracle, bound, over_bound):
    def arrays(x):
        return tuple(map(np.array, x)) if isinstance(x, tuple) else np.array(x)
    assert launches.check(arrays(result), arrays(oracle), arrays(bound)).over_bound == over_bound


def test_an_infinite_bound_verifies_nothing():
    row, = rows_of(operation_of(increment, oracle=lambda x: x, bound=lambda p, x: np.full(x.shape, np.inf)), "fp32")
    assert row["status"] == "SKIP" and row["error"] > 0
    assert row["samples_s"] is None and row["error_over_bound"] is None and row["compile_s"] is None
    row, = rows_of(operation_of(increment, bound=lambda p, x: np.full(x.shape, np.inf)), "fp32")
    assert row["status"] == "ok"    # nothing wrong, so nothing to bound


def test_check_refuses_another_shape():
    with pytest.raises(ValueError, match="shape"):
        launches.check(np.zeros(3), np.zeros(4), np.ones(4))


# ---- training

class Estimator:
    """Predicts the mean; `fp16` ends in an overflow, and `fp32` cannot be fitted."""

    def __init__(self, precision):
        self.precision = precision

    def get_params(self, deep):
        return {"precision": self.precision, "alpha": 1}

    def fit(self, X, y):
        if self.precision.name == "fp32":
            raise MemoryError("too large")
        self.stop_reason_ = "overflow" if self.precision.name == "fp16" else "converged"
        self.mean_ = y.mean()
        return self

    def predict(self, X):
        return np.full(len(X), np.nan if self.precision.name == "fp16" else self.mean_)


class FakeModel:
    name, label, data, finished, first, target = "Estimator", "Estimator", "diabetes", ("converged",), None, -1

    def make(self, precision):
        return Estimator(precision)


def trained():
    device = FakeDevice()
    device.availability = lambda precision: SimpleNamespace(status="native", reason="")
    precisions = tuple(map(precision_named, ("fp64", "fp32", "fp16")))
    return [row for seed in range(3)
            for row in fits.training_rows(cases.TrainingCell(FakeModel(), seed, precisions, QUICK), device)]


def test_a_fit_that_fails_leaves_a_reason_and_no_time():
    for fp64, fp32, fp16 in zip(*[iter(trained())] * 3):
        assert fp64["status"] == "ok" and fp64["finished"] and fp64["samples_s"]
        assert fp32["status"] == "FAIL" and "too large" in fp32["reason"] and fp32["samples_s"] is None
        assert fp16["stop_reason"] == "overflow" and not fp16["finished"] and math.isnan(fp16["score"])


# ---- what the device says of itself

class Card:
    """A GPU by name alone."""

    name, is_emulator = "a card", False


class Nvml:
    """Answers as NVML does, and has no answer to what it has no attribute for."""

    energy = 1000     # mJ, and 500 more at each look

    def device_get_clock_info(self, handle, which):
        return {1: 1500, 2: 5000}[which]

    def device_get_current_clocks_event_reasons(self, handle):
        return 0x1 | 0x40     # idle, and too hot

    def device_get_total_energy_consumption(self, handle):
        self.energy += 500
        return self.energy

    def device_get_enforced_power_limit(self, handle):
        raise RuntimeError("not supported")


@pytest.fixture
def nvml(monkeypatch):
    monkeypatch.setattr(telemetry, "_nvml", lambda found=Nvml(): found)
    monkeypatch.setattr(telemetry, "_handle", lambda: 1)


def test_telemetry_without_a_driver(monkeypatch):
    """No number, and no exception either."""
    monkeypatch.setattr(telemetry, "_nvml", lambda: None)
    energy = telemetry.Energy(Card)
    with energy:
        pass
    assert energy.joules is None and telemetry.clocks(Card) is None and telemetry.span(None, None) is None
    assert telemetry.facts(Card)["sm_clock_mhz"] is None and telemetry.facts(Card)["driver"] is None
    assert telemetry.facts(FakeDevice()) == {} and telemetry.clocks(FakeDevice()) is None


def test_a_missing_library_is_no_error():
    """The bindings are there and the driver is not, or nothing is: either way there is an answer."""
    telemetry._nvml.cache_clear()
    assert telemetry._nvml() is None or cuda.is_available()


def test_telemetry_of_a_card(nvml, monkeypatch):
    now = telemetry.clocks(Card)
    assert now == {"sm_mhz": 1500, "memory_mhz": 5000, "throttled": True}
    later = {"sm_mhz": 1400, "memory_mhz": 5000, "throttled": False}
    assert telemetry.span(now, later) == {"before_mhz": 1500, "after_mhz": 1400, "throttled": True}
    assert telemetry.span(later, later)["throttled"] is False
    assert telemetry.facts(Card)["power_limit_w"] is None and telemetry.facts(Card)["sm_clock_mhz"] == 1500


def test_energy_adds_up_and_is_not_reported_for_moments(nvml, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(telemetry, "perf_counter", lambda: 0.4 * next(clock))
    energy = telemetry.Energy(Card)
    joules = []
    for _ in range(4):
        with energy:
            pass
        joules.append(energy.joules)
    assert joules == [None, None, 1.5, 2.0]     # 0.5 J each, once they lasted a second


def test_memory_that_lives_at_the_same_time():
    device = devices.get("emulator")
    with telemetry.Memory(device) as memory:
        kept = device.zeros(100, np.float32)
        view = device.empty((10, 10), np.float64)[1:]
        device.array(np.zeros(1000, np.int8))           # gone at once
        assert memory.peak == 400 + 800 + 1000
        del view
        more = device.empty(50, np.float64)
    assert memory.peak == 2200 and kept.nbytes == more.nbytes == 400
    device.empty(10 ** 6, np.int8)                      # after it, nothing is followed
    assert memory.peak == 2200 and "empty" not in vars(device)


@pytest.fixture(scope="module")
def measured():
    return peaks.measure(devices.get(), seconds=0.2)


def test_peaks_are_measured(measured):
    assert measured["problems"] == {}
    assert 1e7 < measured["copy_bytes_per_s"] < 1e14 and 1e-7 < measured["launch_s"] < 0.1
    assert 1e-7 < measured["launch_in_graph_s"] < 0.1
    assert list(measured["flops_per_s"]) == ["float64", "float32", "float16"]
    assert all(1e6 < rate < 1e16 for rate in measured["flops_per_s"].values())


def test_launches_of_a_graph_are_counted_one_by_one(monkeypatch):
    """Each costs a share of the graph that is replayed."""
    device, graphs = devices.get(), []

    def measure(contenders, effort):
        graphs.append(contenders[""](3))
        return {"": timing.Samples((5.0,), 1)}
    monkeypatch.setattr(timing, "measure", measure)
    assert peaks._launch(device, QUICK) == 5.0
    assert peaks._launch(device, QUICK, peaks.MANY) == 5.0 / peaks.MANY and peaks.MANY >= 100


def test_a_peak_with_a_wrong_result_is_not_reported(monkeypatch):
    def forgetful(fmt, many):
        @cuda.jit
        def peak_forgetful(one, y):
            y[cuda.grid(1), 0] = fmt(0)
        return peak_forgetful
    monkeypatch.setattr(peaks, "chains", forgetful)
    found = peaks.measure(devices.get(), seconds=0.02)
    assert found["flops_per_s"] == dict.fromkeys(peaks.FORMATS) and set(found["problems"]) == set(peaks.FORMATS)
    assert found["copy_bytes_per_s"] and "wrong" in found["problems"]["float32"]


def test_the_header_names_the_device_and_its_peaks(measured):
    precisions = [precision_named("fp32"), precision_named("storage=f16,compute=bf16,accum=bf16")]
    facts = environment.collect(devices.get("emulator"), precisions, "smoke", "python bench.py")
    facts["peaks"] = {**measured, "launch_s": None, "problems": {"launch_s": "x"}}
    facts["gpu"] = {"multiprocessors": 40, "ecc": False, "sm_clock_mhz": 585, "power_limit_w": None}
    text = environment.header(facts)
    for part in ("40 multiprocessors, ECC off", "SM clock 585 MHz", "copy ", "float16 ", "no tensor cores",
                 "not measured: launch_s (x)", "scipy ", "numprec 0.", "unavailable (bfloat16 is a format"):
        assert part in " ".join(text.split()), text
    assert "power limit" not in text and max(map(len, text.splitlines())) <= 118


# ---- peers

def peer_cells(model, **options):
    cells = cases.plan(cases.SCALES["smoke"], [precision_named("fp32")], [], [model], 1, compare=True, **options)
    return [cell for cell in cells if cell.kind == "peer"]


def test_scikit_learn_is_always_a_peer():
    for model in cases.MODELS:
        libraries = {cell.library for cell in peer_cells(model.name)}
        assert ("sklearn" in libraries) == (model.name != "CNNClassifier")    # which it does not have


@pytest.mark.parametrize("model, least", [("LinearRegression", 0.3), ("SVC", 0.9), ("MLPClassifier", 0.85)])
def test_peers_see_the_same_data(model, least):
    cell, = [cell for cell in peer_cells(model) if cell.library == "sklearn"]
    rows = execute(pickle.loads(pickle.dumps(cell)), FakeDevice())
    assert [row["precision"] for row in rows] == ["float64", "float32"]
    for row in rows:
        assert row["status"] == "ok", row["reason"]
        assert row["kind"] == "peer" and row["library"].startswith("scikit-learn 1") and row["score"] > least
        assert row["samples_s"] and row["predict_s"] > 0 and row["parameters"]["random_state"] == 0
        assert (row["n_train"], row["n_test"]) == tuple(map(len, problems.of(cell).split[2:]))
        assert set(store.COLUMNS["row"] + store.COLUMNS["peer"]) == set(row)
    assert abs(rows[0]["score"] - rows[1]["score"]) < 0.03


def test_a_peer_that_fails_says_why(monkeypatch):
    def broken(parameters, fmt, problem):
        raise ImportError("a library half installed")
    monkeypatch.setattr(peers, "PEERS", (peers.Peer("sklearn", "SVC", ("float32",), broken),))
    row, = execute(peer_cells("SVC")[0], FakeDevice())
    assert row["status"] == "FAIL" and "half installed" in row["reason"] and row["samples_s"] is None


class Library:
    """Takes an hour to import, and a second a fit."""

    max_iter, woken = 10, False

    def __init__(self, clock, iterations):
        self.clock, self.n_iter_ = clock, iterations

    def fit(self, X, y):
        self.clock.now += 1 if Library.woken else 3600
        Library.woken = True

    def predict(self, X):
        return np.zeros(len(X))


@pytest.mark.parametrize("iterations, stop, finished", [
    (3, "converged", True), (10, "max_iter", False), (None, None, None)])
def test_a_library_wakes_up_before_it_is_timed_and_says_how_it_ended(clock, monkeypatch, iterations, stop, finished):
    monkeypatch.setattr(Library, "woken", False)
    peer = peers.Peer("sklearn", "SVC", ("float64",), lambda *_: Library(clock, iterations))
    monkeypatch.setattr(peers, "PEERS", (peer,))
    cell = dataclasses.replace(peer_cells("SVC")[0], effort=QUICK)
    row, = execute(cell, FakeDevice())
    assert row["status"] == "ok", row["reason"]
    assert row["samples_s"] == (1,) and row["first_fit_s"] == 3601
    assert (row["stop_reason"], row["finished"]) == (stop, finished)
    outcome, = outcomes.by_model([row], "peer")["SVC on iris"].values()
    assert bool(outcome.medians) == (finished is not False)      # a fit that does not say how it ended is shown


@pytest.mark.parametrize("given, stop", [
    (dict(tol=1e-3), "converged"), (dict(tol=1e-3, max_iter=1), "max_iter")])
def test_what_scikit_learn_says_of_its_end(given, stop):
    cell = dataclasses.replace(peer_cells("SVC")[0], effort=QUICK, precisions=("float64",))
    cell = dataclasses.replace(cell, model=dataclasses.replace(cell.model, parameters=given))
    row, = execute(cell, FakeDevice())
    assert row["status"] == "ok" and row["stop_reason"] == stop and row["finished"] == (stop == "converged")


def test_a_peer_that_died_stands_with_those_that_ran():
    cell = dataclasses.replace(peer_cells("SVC")[0], effort=QUICK, precisions=("float64",))
    died = rows.failed(dataclasses.replace(cell, seed=1), "float64", "killed")
    found = execute(cell, FakeDevice()) + [died]
    assert found[0]["library"] == died["library"] and died["library"].startswith("scikit-learn 1")
    outcome, = outcomes.by_model(found, "peer")["SVC on iris"].values()
    assert len(outcome.rows) == 2


def test_the_version_of_a_library_under_another_name(monkeypatch):
    """No library is imported for it."""
    monkeypatch.setattr(peers, "_distributions", lambda: {"cupy": ["numpy"]})
    peers.title.cache_clear()
    assert peers.title("cupy") == f"cupy {np.__version__}" and peers.title("no_such_library") == "no_such_library"
    peers.title.cache_clear()


def test_a_library_that_is_absent_is_not_asked(monkeypatch):
    monkeypatch.setattr(peers, "PEERS", (peers.Peer("no_such_library", "SVC", ("float32",), None),))
    assert peer_cells("SVC") == []


# ---- problems

IRIS = cases.Model("DecisionTreeClassifier", data="iris", target=0.9)


def cell_of(model, *precisions, seed=0, effort=QUICK, grow=1):
    return cases.TrainingCell(model, seed, tuple(map(precision_named, precisions)), effort, grow)


def test_splits_of_iris_are_stratified_and_differ():
    splits = [problems.of(cell_of(IRIS, seed=seed)).split for seed in range(10)]
    for split in splits:
        assert np.bincount(split.y_test).tolist() == [10, 10, 10] and len(split.y_train) == 120
    assert len({split.X_test.tobytes() for split in splits}) == 10


def test_a_grown_problem_has_more_rows_of_the_same_kind():
    real, grown, again = (problems.of(cell_of(IRIS, grow=factor)) for factor in (1, 16, 16))
    X, Z = real.split.X_train, grown.split.X_train
    assert grown.name == "iris x16, synthetic" and grown.columns()["grow"] == 16 and real.name == "iris"
    assert Z.shape == (16 * 120, 4) and len(np.unique(Z, axis=0)) > 15 * 120 and Z.dtype == X.dtype
    assert Z.tobytes() == again.split.X_train.tobytes()
    assert (Z >= X.min(axis=0)).all() and (Z <= X.max(axis=0)).all()
    for c in range(3):     # rows keep the label of what they were made from
        near = Z[grown.split.y_train == c].mean(axis=0) - X[real.split.y_train == c].mean(axis=0)
        assert (abs(near) < 0.1 * X.std(axis=0)).all()
    assert grown.split.X_test is not X and np.array_equal(grown.split.X_test, real.split.X_test)    # held out: real


def test_what_would_not_fit_into_memory_is_refused_in_every_row():
    rows = execute(cell_of(IRIS, "fp32", "fp64", grow=10 ** 12), FakeDevice())
    assert [row["status"] for row in rows] == ["FAIL"] * 2
    assert all("smaller --grow" in row["reason"] and row["model"] == "DecisionTreeClassifier" for row in rows)


def test_growing_is_for_models_and_named_in_their_cells():
    precisions = [precision_named("fp32")]
    plan = cases.plan(cases.SCALES["smoke"], precisions, ["dot"], ["SVC"], seeds=2, grow=(1, 16))
    keys = [cell.key for cell in plan if cell.kind == "training"]
    assert keys == ["SVC on iris, seed 0", "SVC on iris, seed 1", "SVC on iris x16, seed 0", "SVC on iris x16, seed 1"]
    assert len({cell.key for cell in plan}) == len(plan)
    assert [pickle.loads(pickle.dumps(cell)) for cell in plan] == plan


def test_seeds_of_the_scales():
    def seeds(scale):
        plan = cases.plan(cases.SCALES[scale], [precision_named("fp32")], [])
        return [sum(cell.model == model.at(cases.SCALES[scale]) for cell in plan)
                for model in cases.MODELS + cases.VARIANTS]
    assert seeds("smoke") == [10, 10, 10, 5, 3, 0] and seeds("quick") == [10, 10, 10, 3, 3, 10]
    assert seeds("full") == [10, 10, 10, 5, 5, 10]


def test_a_cell_that_cannot_run_has_its_rows_all_the_same():
    missing = dataclasses.replace(IRIS, data="no such data")
    row, = execute(cell_of(missing, "fp32"), FakeDevice())
    assert row["status"] == "FAIL" and "unknown data set" in row["reason"]
    assert set(row) == set(store.COLUMNS["row"] + store.COLUMNS["training"])


# ---- fits

class Clock:
    """Stands still but for what is done."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in fits, timing:
        monkeypatch.setattr(module, "perf_counter", clock)
    monkeypatch.setattr(timing, "host_clock", functools.partial(timing.host_clock, clock=clock))
    monkeypatch.setattr(fits, "_compiled", set())
    return clock


class Network:
    """Trains `seconds` a fit in three epochs, its accuracy rising; looking at it takes an hour."""

    fits, seconds, batch_size, random_state = 0, 3.0, 50, None

    def __init__(self, precision, clock, accuracies):
        self.precision, self.clock, self.accuracies, self.epochs = precision, clock, accuracies, 3

    def get_params(self, deep):
        return {"precision": self.precision, "batch_size": self.batch_size}

    def set_params(self, max_iter):
        self.epochs = max_iter
        return self

    def fit(self, X, y, *, callback=None):
        type(self).fits += 1
        self.rows, self.y, start = len(X), y, self.clock.now
        for epoch in range(self.epochs):
            self.clock.now += self.seconds / 3
            self.accuracy = self.accuracies[epoch]
            if callback:
                callback({"epoch": epoch + 1, "seconds": self.seconds / 3, "loss": 1.0, "underflow": 0.5, "lost": 0.25})
        assert callback is None or self.clock.now - start > 3600
        self.stop_reason_, self.skipped_steps_, self.overflow_count_ = "max_iter", 2, 7
        self.gradient_exponents_ = {-3: 5, -2: 1}
        return self

    def predict(self, X):
        self.clock.now += 3600
        right = np.arange(len(X)) < self.accuracy * len(X)
        return np.where(right, problems.of(cell_of(IRIS)).split.y_test[:len(X)], -1)


def network_rows(clock, accuracies=(0.5, 0.9, 0.8), effort=QUICK, grow=1, seconds=3.0, make=Network):
    Network.fits, Network.seconds = 0, seconds
    model = SimpleNamespace(name="Network", label="Network", data="iris", first=None, target=0.9,
                            finished=("max_iter",), make=lambda p: make(p, clock, accuracies))
    return execute(cell_of(model, "fp64", "fp32", effort=effort, grow=grow), FakeDevice())


def test_scores_after_epochs_cost_no_training_time(clock):
    for row in network_rows(clock):
        assert row["status"] == "ok", row["reason"]
        assert [epoch["held_out"] for epoch in row["history"]] == [0.5, 0.9, 0.8] and row["score"] == 0.8
        assert [epoch["elapsed_s"] for epoch in row["history"]] == pytest.approx([1, 2, 3])
        assert row["samples_s"] == pytest.approx((3,)) and row["predict_s"] == pytest.approx(3600)
        assert row["target_s"] == pytest.approx(2)                         # the first time, though it fell again
        assert row["compile_s"] == pytest.approx(1)                        # one epoch, which is no sample
        assert row["first_fit_s"] == pytest.approx(4)
        assert row["counts"] == {"overflow": 7, "skipped": 2, "stalled": 0, "underflow": 0.5, "lost": 0.25}
        assert row["exponents"] == {"-3": 5, "-2": 1} and row["parameters"] == {"batch_size": 50}
        assert row["labels_differ"] == 0


def test_a_target_never_reached_has_no_time(clock):
    assert [row["target_s"] for row in network_rows(clock, accuracies=(0.5, 0.6, 0.7))] == [None, None]


def test_long_fits_are_made_once_and_short_ones_again(clock):
    effort = timing.Effort(budget=1.0, warm_up=0.0, least=3)
    rows = network_rows(clock, effort=effort, seconds=6.0)
    assert [len(row["samples_s"]) for row in rows] == [1, 1] and Network.fits == 4      # and one to compile each
    rows = network_rows(clock, effort=effort, seconds=0.3)
    assert [len(row["samples_s"]) for row in rows] == [4, 4] and Network.fits == 8      # compiled already


def test_a_fit_without_a_result_says_how_it_ended(clock):
    class Overflown(Network):
        def fit(self, X, y, *, callback=None):
            super().fit(X, y)
            self.stop_reason_ = "overflow" if self.precision.name == "fp32" else "max_iter"
            return self

        def predict(self, X):
            if self.stop_reason_ == "overflow":
                raise ValueError("nothing to predict with")
            return super().predict(X)
    fp64, fp32 = network_rows(clock, make=Overflown)
    assert fp64["status"] == "ok" and fp64["labels_differ"] == 0
    assert (fp32["status"], fp32["stop_reason"], fp32["finished"]) == ("FAIL", "overflow", False)
    assert "nothing to predict with" in fp32["reason"] and fp32["samples_s"] is None


class Solver:
    """Has no epochs. Its first fit takes 100 seconds and its first prediction 50, later ones a hundredth of it."""

    warm, order = {}, []
    stop_reason_ = "converged"

    def __init__(self, precision, clock):
        self.precision, self.clock = precision, clock

    def get_params(self, deep):
        return {}

    def _spend(self, call, seconds):
        key = call, self.precision
        self.clock.now += seconds / 100 if key in self.warm else seconds
        self.warm[key] = True

    def fit(self, X, y):
        self.order.append(str(self.precision))
        self._spend("fit", 100)

    def predict(self, X):
        self._spend("predict", 50)
        return np.zeros(len(X))


class Meter:
    """A card that takes 2 W."""

    def __init__(self, clock):
        self.clock, self.joules = clock, 0.0

    def start(self):
        self.since = self.clock.now

    def stop(self):
        self.joules += 2 * (self.clock.now - self.since)


def solver_rows(clock, monkeypatch, seed=0, effort=QUICK, precisions=("fp64", "fp32", "fp16")):
    monkeypatch.setattr(Solver, "warm", {})
    monkeypatch.setattr(Solver, "order", [])
    monkeypatch.setattr(telemetry, "Energy", lambda device: Meter(clock))
    model = SimpleNamespace(name="Solver", label="Solver", data="iris", first=None, target=None,
                            finished=("converged",), make=lambda p: Solver(p, clock))
    device = FakeDevice()
    device.availability = lambda precision: SimpleNamespace(status="native", reason="")
    return execute(cell_of(model, *precisions, seed=seed, effort=effort), device)


@pytest.mark.parametrize("least", (1, 4))
def test_what_compiles_on_the_way_counts_nowhere(clock, monkeypatch, least):
    for row in solver_rows(clock, monkeypatch, effort=timing.Effort(budget=1.0, warm_up=0.0, least=least)):
        assert row["status"] == "ok", row["reason"]
        assert set(row["samples_s"]) == {1} and row["compile_s"] == 99 and row["first_fit_s"] == 100
        assert row["energy_j"] == 2 and row["predict_s"] == 0.5


def test_the_first_fit_of_a_seed_is_that_of_another_precision(clock, monkeypatch):
    """The rows stay in the order of the cell."""
    names = ["fp64", "fp32", "fp16"]
    for seed, first in enumerate(names + names):
        assert [row["precision"] for row in solver_rows(clock, monkeypatch, seed)] == names
        assert Solver.order[0] == first and set(Solver.order[:3]) == set(names)
        monkeypatch.setattr(fits, "_compiled", set())


def test_batches_grow_with_the_problem(clock):
    assert [row["parameters"]["batch_size"] for row in network_rows(clock, grow=4)] == [200, 200]


def test_fits_that_disagree_have_no_time(clock):
    class Fickle(Network):
        def predict(self, X):
            return super().predict(X) + (self.fits > 4)
    effort = timing.Effort(budget=1.0, warm_up=0.0, least=3)
    for row in network_rows(clock, effort=effort, seconds=0.3, make=Fickle):
        assert row["status"] == "FAIL" and "something else than the first" in row["reason"] and not row["samples_s"]
        assert {row[name] for name in rows.COSTS if name in row} == {None}
        assert {(epoch["seconds"], epoch["elapsed_s"]) for epoch in row["history"]} == {(None, None)}


@pytest.fixture(scope="module")
def mlp_rows():
    """What a real network on real data gives."""
    model, = cases.models_named(["MLPClassifier"])
    model = model.at(cases.SCALES["smoke"])
    model = dataclasses.replace(model, parameters={**model.parameters, "max_iter": 2})
    return execute(cell_of(model, "fp64", "fp32", "mixed_fp16"), devices.get())


def test_rows_of_a_network(mlp_rows):
    sizes, numbers = {"fp64": 8, "fp32": 4, "mixed_fp16": 4}, 64 * 32 + 32 + 32 * 10 + 10
    for row in mlp_rows:
        assert row["status"] == "ok", row["reason"]
        assert set(row) == set(store.COLUMNS["row"] + store.COLUMNS["training"])
        assert [epoch["epoch"] for epoch in row["history"]] == [1, 2]
        assert row["history"][-1]["held_out"] == row["score"] > 0.8 and row["stop_reason"] == "max_iter"
        assert row["history"][-1]["elapsed_s"] <= row["samples_s"][0] and len(row["samples_s"]) == 1
        assert row["model_bytes"] == numbers * sizes[row["precision"]]
        assert row["peak_bytes"] > 3 * row["model_bytes"]      # weights, gradients, moments
        assert row["transfer_s"] > 0 and row["predict_s"] > 0 and row["energy_j"] is None
        assert (row["clocks"] is None) == (telemetry.clocks(devices.get()) is None)
        assert row["parameters"]["hidden_layer_sizes"] == (32,) and row["launches"] > 2 * 23
    assert [row["counts"]["skipped"] for row in mlp_rows][:2] == [0, 0]
    assert mlp_rows[0]["labels_differ"] == 0 and mlp_rows[1]["labels_differ"] <= 2
    assert json.loads(json.dumps(store.plain(mlp_rows)))


@pytest.mark.parametrize("precision, learned, expected", [
    ("mixed_fp16", {"LinearRegression": dict(coef_=np.zeros(3), intercept_=0.0)}, 8 * 4),
    ("mixed_fp16", {"SVC": dict(support_vectors_=np.zeros((5, 2)), dual_coef_=np.zeros((1, 5)), intercept_=np.zeros(1),
                                state="accum")}, 2 * 10 + 4 * 5 + 4),
    ("mixed_fp16", {"SVC": dict(support_vectors_=np.zeros((5, 2)), dual_coef_=np.zeros((1, 5)), intercept_=np.zeros(1),
                                state="storage")}, 2 * 10 + 2 * 5 + 4),
    ("fp16", {"MLPClassifier": dict(coefs_=[np.zeros((2, 3))], intercepts_=[np.zeros(3)])}, 2 * 9),
    ("fp16", {"DecisionTreeClassifier": dict(tree_=SimpleNamespace(children_left=0, node_count=7))}, 7 * 18),
    ("storage=f16,compute=f16,accum=f32,master=f64",
     {"CNNClassifier": dict(parameters_={"conv1.F": np.zeros(10), "norm1.mean": np.zeros(2), "norm1.var": np.zeros(2)})
      }, 8 * 10 + 4 * 4),
])
def test_a_model_is_as_large_as_what_predictions_are_made_from(precision, learned, expected):
    (name, attributes), = learned.items()
    fitted = type(name, (), attributes)()
    assert fits.model_bytes(fitted, precision_named(precision)) == expected
    assert fits.model_bytes(Estimator(None), precision_named(precision)) is None


def test_rows_of_a_model_without_epochs():
    model, = cases.models_named(["LinearRegression"])
    row, = execute(cell_of(model, "fp32", effort=timing.Effort(0.0, 0.0, 3)), devices.get())
    assert row["status"] == "ok", row["reason"]
    assert row["history"] is None and row["labels_differ"] is None and row["compile_s"] >= 0
    assert row["counts"]["overflow"] == 0 and row["model_bytes"] == 8 * 11
    assert row["target_s"] is None or row["target_s"] == np.median(row["samples_s"])


def test_one_ladder_has_sums_of_several_lengths():
    """For the figure of error against length; its other rungs have one shape each, like those of every operation."""
    plan = cases.plan(cases.SCALES["quick"], [precision_named("fp32")], ["matmul", "dot"], [])
    shapes = {}
    for cell in plan:
        shapes.setdefault(f"{cell.operation.name}/{cell.rung.name}", []).append(cell.shape)
    assert shapes.pop("matmul/naive") == [(16, 16, K) for K in (16, 64, 256, 1024, 4096)] + [(256, 256, 256)]
    assert all(len(each) == 1 for each in shapes.values()) and len(shapes) > 4
    assert len({cell.key for cell in plan}) == len(plan)


def test_scales_differ_in_what_they_run():
    precisions = [precision_named("fp32"), precision_named("fp16")]

    def kernels(scale, operations=None):
        plan = cases.plan(cases.SCALES[scale], precisions, operations, [])
        return list(dict.fromkeys(f"{cell.operation.name}/{cell.rung.name}" for cell in plan))
    everything = [f"{operation.name}/{rung.name}" for operation, rung in cases.rungs()]
    assert sorted(kernels("smoke")) == sorted(cases.TRAINED)
    assert kernels("quick") == kernels("full") == everything
    assert kernels("smoke", ["matmul"])[:3] == ["matmul/naive", "matmul/tiled", "matmul/register_blocked"]
