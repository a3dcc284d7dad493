"""What each operation costs, as its chapter says, against what the emulator counts; and `bench.py profile`."""
from types import SimpleNamespace

import pytest

from numprec import device as devices
from numprec.harness.measure import profiling
from numprec.kernels import operations
from numprec.precision import PRECISIONS

FP32 = PRECISIONS["fp32"]


@pytest.mark.parametrize("name", ("im2col", "col2im", "conv", "max_pool", "average_pool"))
def test_windows_larger_than_the_image_are_cut_down_in_the_cost_too(name):
    operation = operations()[name]
    for shape in operation.shapes:
        found = profiling.counted(profiling.launched(operation, operation.rungs[0], FP32, shape))
        assert found == operation.cost(FP32, *shape), shape


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
