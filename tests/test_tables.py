"""The tables: what stands in a row, and what must not."""
import math

import pytest
from rows import environment, runs, training_row

from numprec.harness import tables

EMULATOR, GPU = environment(emulator=True), environment()


def trained():
    """fp64 converges, fp16 overflows, fp32 cannot be fitted."""
    return (runs("fp64", [0.4, 0.5, 0.6])
            + runs("fp16", [math.nan] * 3, stop_reason="overflow", finished=False)
            + runs("fp32", [None] * 3, status="FAIL", reason="MemoryError: too large"))


def test_a_fit_that_did_not_end_as_it_should_has_no_time_in_the_table():
    lines = tables.training(trained(), EMULATOR).splitlines()
    line = {name: next(line for line in lines if f"  {name}  " in line and "minus" not in line)
            for name in ("fp64", "fp32", "fp16")}
    assert "converged 3" in line["fp64"]
    assert "overflow 3" in line["fp16"] and "R2 nan" in line["fp16"]
    assert line["fp32"].endswith("FAIL")
    for name in ("fp32", "fp16"):
        assert line[name].split()[line[name].split().index(name) + 1] == "-"
    assert any("too large" in text for text in lines)


def test_scores_are_paired_by_seed():
    rows = runs("fp64", range(5)) + runs("fp32", [seed + 0.25 for seed in range(5)])
    found = tables.by_model(rows)["LinearRegression", "diabetes", "R2"]
    difference = tables.summarize(found["fp32"], found["fp64"])["difference"]
    assert (difference.value, difference.half_width, difference.n) == (0.25, 0, 5)


def test_stand_in_data_are_named_in_the_row():
    text = tables.training([training_row(data="digits", stand_in="fashion_mnist")], GPU)
    assert "digits (in place of fashion_mnist)" in text and "CPU emulation" not in text


@pytest.mark.parametrize("x, text", [
    (None, "-"), (0, "0"), (1234.5, "1234"), (1.2345, "1.23"), (0.012345, "0.0123"), (1.5e-5, "1.5e-05"),
    (2.5e7, "2.5e+07"), (math.inf, "inf"), (9.999, "10.0"),
])
def test_numbers_have_three_digits(x, text):
    assert tables.number(x) == text


def test_what_differs_in_numbers_alone_is_said_once():
    rows = [training_row(seed=seed, warnings=[f"kappa is {seed + 20}.5: expect 0 digits"]) for seed in range(3)]
    notes = tables.reasons(rows, lambda row: "M fp64")
    assert notes == ["warning M fp64: kappa is 20.5: expect 0 digits (and 2 times with other numbers)"]
