"""What each operation costs, as its chapter says, against what the emulator counts; and `bench.py profile`."""
from types import SimpleNamespace

import pytest

from numprec import device as devices
from numprec.harness.measure import profiling
from numprec.kernels import operations
from numprec.precision import PRECISIONS

FP32 = PRECISIONS["fp32"]
NEAR = 0.05
SHAPES = {                      # where it is not that of the smoke scale
    "cholesky": (48,),          # work of D elements stands beside D^2
    "batch": (1024, 64),        # the last batch is full
    "split": (8, 512, 3),       # rows of a column's largest value have no cut
    "rbf": (32, 32, 256),       # an exp is eleven operations, and counts as one
    "poly": (32, 32, 64),
    "sigmoid": (16, 16, 512),   # so is a tanh
    "smo_fit": (64, 1, 512),
}


@pytest.mark.parametrize("operation", operations().values(), ids=list(operations()))
def test_a_cost_is_what_is_counted_or_says_why_not(operation):
    """Of the first rung. A sentence that explains a difference which is none is wrong too."""
    shape = SHAPES.get(operation.name, operation.bench_shapes["smoke"])
    cost = operation.cost(FP32, *shape)
    found = profiling.counted(profiling.launched(operation, operation.rungs[0], FP32, shape))
    near = {name: abs(found[name] - cost[name]) <= NEAR * cost[name] for name in cost}
    assert all(near.values()) == (operation.cost_differs is None), (found, cost)
    assert operation.cost_differs is None or operation.cost_differs.endswith(".")


@pytest.mark.parametrize("name", ("im2col", "col2im", "conv", "max_pool", "average_pool"))
def test_windows_larger_than_the_image_are_cut_down_in_the_cost_too(name):
    operation = operations()[name]
    for shape in operation.shapes:
        found = profiling.counted(profiling.launched(operation, operation.rungs[0], FP32, shape))
        assert found == operation.cost(FP32, *shape), shape


@pytest.mark.parametrize("rung", operations()["triangular"].rungs, ids=lambda rung: rung.name)
def test_both_substitutions_are_counted(rung):
    """The compiler copies a part of their loops: what remains of the loop is counted too."""
    operation, shape = operations()["triangular"], (17, 2)
    found = profiling.counted(profiling.launched(operation, rung, FP32, shape))
    assert found["flops"] == operation.cost(FP32, *shape)["flops"] == 2 * 17 * 17 * 2


def test_an_addition_that_one_lane_needs_is_counted_once_a_warp():
    """The compiler moves the last one of each warp's sum to the lane that writes it."""
    operation = operations()["sum"]
    found = profiling.counted(profiling.launched(operation, operation.rung("shuffle"), FP32, (256,)))
    every_thread, warps, first = 256, 8, 1                  # 256 threads in 8 warps; the first thread writes the result
    assert found["flops"] == (1 + 4) * every_thread + warps + 4 * every_thread + first


def test_the_profile_shows_the_cost(capsys):
    """Counts and cost stand in one row, and below why they differ."""
    profiling.show(["running_moments"], [FP32], "smoke", lines=False)
    text = capsys.readouterr().out
    line, = (line.split() for line in text.splitlines() if line.startswith("elementwise"))
    assert line[:7] == ["elementwise", "fp32", "1", "256", "776", "192", "768"]
    assert operations()["running_moments"].cost_differs in text and "model" in text and "Nothing was measured" in text


def test_what_is_measured_stands_beside_the_model(monkeypatch, capsys):
    emulator, seen = devices.get("emulator"), []
    card = SimpleNamespace(is_emulator=False, name="a card")
    monkeypatch.setattr(profiling.devices, "get", lambda name=None: emulator if name else card)
    monkeypatch.setattr(profiling, "measured", lambda *what: seen.append(what) or "12.5 µs")
    profiling.show(["convert"], [FP32], "smoke", lines=False)
    text = capsys.readouterr().out
    line, = (line.rstrip() for line in text.splitlines() if line.startswith("elementwise"))
    assert line.endswith("12.5 µs") and line.count("µs") == 4 and "the median on a card" in text
    assert seen == [(card, operations()["convert"], operations()["convert"].rungs[0], FP32, (10_000,))]


def test_a_time_is_measured_as_the_bench_does():
    """By `launches`, which verifies a result first; here on the emulator, for the lack of a card."""
    time = profiling.measured(devices.get("emulator"), operations()["convert"], operations()["convert"].rungs[0], FP32,
                              (300,))
    number, unit = time.split()
    assert float(number) > 0 and unit == "µs"
