"""The tables: what stands in a row, what must not, and that every number comes from the rows."""
import csv
import math

import numpy as np
import pytest
from rows import environment, failed, kernel_row, network_row, peer_row, runs, training_row

from numprec.harness.judge import statistics
from numprec.harness.show import roofline, tables
from numprec.harness.show.tables import layout, of_kernels, of_training

EMULATOR, GPU = environment(emulator=True), environment()
KNOWN = {"schema_version", "kind", "cell", "precision", "roles", "status", "reason", "device", "operation", "rung",
         "shape", "model", "data", "seed", "grow", "target", "library"}    # of a cell whose worker died
BASE = [0.50, 0.45, 0.55, 0.48, 0.52]


def cells(table, heading=0):
    """A block of a Table as {first cell that is not blank, of two: {column: cell}}."""
    key = table.columns.index("precision") if "precision" in table.columns else 0
    return {row[key]: dict(zip(table.columns, row)) for row in table.blocks[heading][1]}


def training_table(rows, name, facts=GPU):
    return next(table for table in of_training.tables(rows, facts) if name in table.title)


# ---- kernels

def test_the_numbers_of_a_kernel():
    row = kernel_row("fp32", shape=(100, 100, 100), samples_s=[1e-3, 2e-3, 3e-3], end_to_end_s=[4e-3, 6e-3],
                     error=1e-7, error_over_bound=0.5, compile_s=1.5, flops=2e6, bytes=120e3)
    found = cells(of_kernels.table([row], GPU))["fp32"]
    assert found == {"rung": "tiled", "precision": "fp32", "ms": "2.00", "p10 - p90": "1.20 - 2.80",
                     "end to end": "5.00", "GB/s": "0.0600", "GFLOP/s": "1.00", "bound": "launch 0.20 %",
                     "vs fp32": "1.00", "error": "1.0e-07", "/bound": "0.500", "first s": "1.50", "status": "ok"}


def test_the_speed_up_is_over_fp32_on_the_same_rung():
    rows = [kernel_row("fp32", samples_s=[2e-3]), kernel_row("fp16", samples_s=[1e-3]),
            kernel_row("fp16", rung="naive", samples_s=[1e-3]), kernel_row("fp16", shape=(8, 8, 8), samples_s=[1e-3])]
    lines = [line for _, block in of_kernels.table(rows, GPU).blocks for line in block]
    at = of_kernels.table(rows, GPU).columns.index("vs fp32")
    assert [line[at] for line in lines] == ["1.00", "2.00", "-", "-"]


def test_a_failed_kernel_has_its_reason_and_no_time():
    rows = [kernel_row("fp32"), kernel_row("fp16", status="FAIL", reason="error is 12.3 times the bound")]
    found = cells(of_kernels.table(rows, GPU))["fp16"]
    assert found["status"] == "FAIL" and set(list(found.values())[2:9]) == {"-"}
    assert "FAIL matmul/tiled fp16: error is 12.3 times the bound" in tables.kernels(rows, GPU)


def test_what_failed_shows_no_time_whatever_its_row_holds():
    row = {**kernel_row("fp16"), "status": "FAIL", "samples_s": None, "compile_s": 7.0, "reason": "died"}
    assert cells(of_kernels.table([row], GPU))["fp16"]["first s"] == "-"
    kept = dict(status="FAIL", samples_s=None, reason="died", compile_s=7., predict_s=8., transfer_s=9., energy_j=5.)
    cost = cells(training_table([{**training_row(seed=seed), **kept} for seed in range(3)], "cost"))["fp64"]
    assert {cost[name] for name in ("ms", "JIT s", "predict ms", "transfer ms", "J")} == {"-"}


def test_the_emulator_shows_no_speed_up_and_marks_its_times():
    table = of_kernels.table([kernel_row("fp32")], EMULATOR)
    assert "vs fp32" not in table.columns and "CPU emulation, not comparable with a GPU" in table.title
    assert "by the host's clock" in table.legend and "CUDA events" not in table.legend


def test_status_names_what_is_not_native_and_what_was_throttled():
    row = kernel_row(availability="emulated", clocks={"before_mhz": 1980, "after_mhz": 1200, "throttled": True})
    assert of_kernels.status(row, GPU) == "ok, emulated, throttled"
    assert of_kernels.status(kernel_row(availability="emulated"), EMULATOR) == "ok"


# ---- the roofline: a copy of 2 TB/s, a launch of 4 µs, 60 TFLOP/s in float32, 120 in float16

@pytest.mark.parametrize("values, kind, share", [
    (dict(bytes=2e9, flops=1e9, samples_s=[2e-3]), "memory", 0.5),
    (dict(bytes=2e6, flops=6e10, samples_s=[4e-3]), "compute", 0.25),
    (dict(bytes=2e6, flops=6e10, samples_s=[4e-3], format="float16"), "compute", 0.125),
    (dict(bytes=2e3, flops=6e3, samples_s=[8e-6]), "launch", 0.5),
    (dict(bytes=2e3, flops=6e3, samples_s=[8e-6], launches=2), "launch", 1.0),
])
def test_what_bounds_a_kernel(values, kind, share):
    found = roofline.bound(kernel_row(**values), GPU)
    assert found.kind == kind and found.share == pytest.approx(share)
    assert str(found) == f"{kind} {100 * share:.0f} %"


def test_no_bound_without_a_time_or_a_peak():
    assert roofline.bound(kernel_row(status="FAIL"), GPU) is None
    assert roofline.bound(kernel_row(), environment(peaks=None)) is None
    assert roofline.bound(kernel_row(format="tfloat32"), GPU) is None
    assert cells(of_kernels.table([kernel_row()], environment(peaks=None)))["fp32"]["bound"] == "-"


# ---- training

def trained():
    """fp64 converges, fp16 overflows, fp32 cannot be fitted, and mixed_fp16 stalls once."""
    return (runs("fp64", [0.4, 0.5, 0.6])
            + runs("fp16", [math.nan] * 3, stop_reason="overflow", finished=False)
            + runs("fp32", [None] * 3, status="FAIL", reason="MemoryError: too large")
            + runs("mixed_fp16", [0.4, 0.5, 0.6], finished=lambda seed: seed != 1,
                   stop_reason=lambda seed: "converged" if seed != 1 else "stalled"))


def test_a_fit_that_did_not_end_as_it_should_has_no_time():
    cost = cells(training_table(trained(), "cost"))
    assert cost["fp64"]["ms"] == "1.10" and cost["fp64"]["status"] == "ok"
    for name, status in (("fp16", "3 unfinished"), ("fp32", "FAIL"), ("mixed_fp16", "1 unfinished")):
        assert (cost[name]["ms"], cost[name]["p10 - p90"], cost[name]["s/epoch"]) == ("-", "-", "-")
        assert cost[name]["status"] == status
    outcome = cells(training_table(trained(), "outcome"))
    assert outcome["fp16"]["stop"] == "overflow 3" and outcome["fp16"]["held out"] == "-"
    assert outcome["mixed_fp16"]["stop"] == "converged 2, stalled 1"
    assert outcome["fp32"]["stop"] == "FAIL" and outcome["fp32"]["verdict"] == "fails"
    assert "FAIL LinearRegression fp32: MemoryError: too large" in tables.training(trained(), GPU)


def test_scores_are_paired_by_seed():
    """fp32 has lost its first seed: the others are compared with the same seeds of fp64."""
    rows = runs("fp64", range(5)) + runs("fp32", [1.000001 * seed + 0.25 for seed in range(5)])[1:]
    outcome = cells(training_table(rows, "outcome"))
    assert outcome["fp32"]["minus fp64 [95 %]"] == "+0.2500 [+0.2500, +0.2500]"
    assert outcome["fp32"]["verdict"] == "better" and outcome["fp64"]["minus fp64 [95 %]"] == "-"


def test_the_outcome_is_that_of_the_statistics():
    other = np.array(BASE) + [0.001, -0.001, 0.002, 0, 0]
    found = cells(training_table(runs("fp64", BASE) + runs("fp16", other), "outcome"))["fp16"]
    mean, e = statistics.mean(other, 0.25), statistics.equivalence(other, BASE, 0.01, 0.25)
    assert found["held out"] == f"{mean.value:.4f} ± {mean.half_width:.4f}"
    d = e.difference
    assert found["minus fp64 [95 %]"] == f"{d.value:+.1e} [{d.low:+.4f}, {d.high:+.4f}]"
    assert found["p"] == f"{e.p:.4f}" and found["verdict"] == "equal"


def test_labels_iterations_and_counts():
    rows = runs("fp64", BASE, build=network_row)
    rows += runs("fp16", BASE, build=network_row, labels_differ=lambda seed: seed,
                 counts=lambda seed: {"overflow": 2, "underflow": 0.01 * seed, "skipped": int(seed == 4), "stalled": 0})
    rows += runs("mixed_fp16", BASE, build=network_row, n_iter=[1, 2, 4], counts=None)
    outcome = cells(training_table(rows, "outcome"))
    assert outcome["fp16"]["labels"] == "10 of 1800" and outcome["fp64"]["labels"] == "-"
    assert outcome["fp16"]["counts"] == "overflow 10, underflow 2 %, skipped 1" and outcome["fp64"]["counts"] == "none"
    assert outcome["mixed_fp16"]["counts"] == "-" and outcome["mixed_fp16"]["iterations"] == "7"
    assert outcome["fp16"]["iterations"] == "3"


def test_the_cost_of_a_network():
    rows = runs("fp64", BASE, build=network_row, samples_s=lambda seed: [0.1 * (seed + 1)] * 3, launches=40,
                target_s=lambda seed: 0.2 if seed else None, predict_s=2e-3, model_bytes=4000, peak_bytes=2e6,
                energy_j=1.5)
    found = cells(training_table(rows, "cost"))["fp64"]
    assert found == {"precision": "fp64", "ms": "300", "p10 - p90": "140 - 460", "s/epoch": "0.100",
                     "JIT s": "1.10", "transfer ms": "0.100", "predict ms": "2.00", "to target s": "0.200 (4/5)",
                     "launches": "40", "model kB": "4.00", "peak MB": "2.00", "J": "1.50", "status": "ok"}


def test_nothing_measured_is_a_dash():
    rows = runs("fp64", BASE, transfer_s=None, predict_s=None, model_bytes=None, peak_bytes=None, target=None)
    found = cells(training_table(rows, "cost"))["fp64"]
    assert {found[name] for name in ("transfer ms", "predict ms", "model kB", "peak MB", "to target s", "J")} == {"-"}


def test_what_was_skipped_says_so():
    rows = runs("fp64", BASE) + runs("mixed_bf16", BASE, status="SKIP", reason="needs compute capability 8.0")
    assert cells(training_table(rows, "cost"))["mixed_bf16"]["status"] == "SKIP"
    assert cells(training_table(rows, "outcome"))["mixed_bf16"]["stop"] == "SKIP"
    assert "SKIP LinearRegression mixed_bf16: needs compute capability 8.0" in tables.training(rows, GPU)


def test_speed_on_a_gpu_only():
    rows = runs("fp64", BASE, samples_s=lambda seed: [2e-3 * (seed + 1)], launches=100)
    rows += runs("fp32", BASE, samples_s=lambda seed: [1e-3 * (seed + 1)], launches=100)
    found = cells(training_table(rows, "speed"))
    assert found["fp32"]["vs fp64 [95 %]"] == "2.00 [2.00, 2.00]" and found["fp32"]["vs fp32 [95 %]"] == "-"
    assert found["fp64"]["vs fp32 [95 %]"] == "0.500 [0.500, 0.500]"
    assert found["fp64"]["launches"] == "7 %"      # 100 of 4 µs in 6 ms
    peaks = {**GPU["peaks"], "launch_in_graph_s": 2e-6}     # which is what a fit pays for a launch
    assert cells(training_table(rows, "speed", {**GPU, "peaks": peaks}))["fp64"]["launches"] == "3 %"
    assert not any("speed" in table.title for table in of_training.tables(rows, EMULATOR))


def test_other_libraries_stand_beside():
    rows = runs("fp64", BASE) + [peer_row(seed=seed, score=score) for seed, score in enumerate(BASE)]
    rows += [peer_row("cuML 26.08", "float32", seed, status="FAIL", reason="ImportError: no GPU") for seed in range(5)]
    table = training_table(rows, "Other libraries")
    found = {row[0]: dict(zip(table.columns, row)) for row in table.blocks[0][1]}
    assert list(found) == ["numprec fp64", "scikit-learn 1.9.1 float64", "cuML 26.08 float32"]
    assert found["scikit-learn 1.9.1 float64"]["held out"] == found["numprec fp64"]["held out"]
    assert found["cuML 26.08 float32"]["ms"] == "-" and found["cuML 26.08 float32"]["status"] == "FAIL"
    assert table.notes == ("FAIL cuML 26.08 LinearRegression: ImportError: no GPU",)


def test_legends_say_how_numbers_were_made():
    rows = runs("fp64", BASE) + [peer_row(seed=seed) for seed in range(5)]
    for name, parts in (("outcome", ["NumPy's in float64 on the host, from master weights"]),
                        ("cost", ["NumPy's in float64 on the host, from master weights", "the sum of the epochs alone",
                                  "whose turn is first there"]),
                        ("Other libraries", ["Their results are not verified", "says nothing counts as finished"])):
        legend = " ".join(training_table(rows, name).legend.split())
        assert all(part in legend for part in parts), legend


def test_stand_in_data_are_named():
    rows = [training_row(data="digits", stand_in="fashion_mnist"), training_row(grow=4, data="diabetes x4, synthetic")]
    for text in (tables.training(rows, GPU), tables.markdown(rows, GPU)):
        assert "LinearRegression on digits (in place of fashion_mnist): R2" in text
        assert "LinearRegression on diabetes x4, synthetic: R2" in text


# ---- everything

def everything(emulator=False):
    base = np.array(BASE)
    return [kernel_row(p) for p in ("fp64", "fp32", "fp16")] + runs("fp64", BASE) + runs("fp32", base + 1e-7 * base) \
        + runs("fp16", base - 0.2) + [peer_row(seed=seed) for seed in range(5)]


@pytest.mark.parametrize("facts", (GPU, EMULATOR), ids=("gpu", "emulator"))
def test_the_printed_text_is_complete_and_fits(facts):
    text = tables.text(everything(), facts)
    headings = ["Kernels", "Training: outcome", "Training: cost", "Other libraries", "Verdicts", "Recommendations",
                "Answer"]
    lines = text.splitlines()
    places = [next(i for i, line in enumerate(lines) if line.startswith(heading)) for heading in headings]
    assert places == sorted(places)
    assert max(map(len, lines)) <= 150
    assert "LinearRegression on diabetes: fp16 worse than fp64 by 0.2000 of R2" in text
    assert "Is low precision training a general-purpose method?" in text
    marked = "CPU emulation, not comparable with a GPU" in text
    assert marked == facts["is_emulator"]


def test_no_rows_no_tables():
    assert tables.text([], GPU) == "" and tables.kernels([], GPU) == "" and tables.training([], GPU) == ""


def test_the_files(tmp_path):
    rows = everything()
    paths = tables.write(rows, EMULATOR, tmp_path)
    assert [path.name for path in paths] == ["tables.md", "kernels.csv", "training.csv"]
    assert paths[0].read_text(encoding="utf-8") == tables.markdown(rows, EMULATOR)
    kernels, training = (list(csv.DictReader(path.open(encoding="utf-8", newline=""))) for path in paths[1:])
    assert [row["precision"] for row in kernels] == ["fp64", "fp32", "fp16"]
    assert float(kernels[0]["median_s"]) == 1.1e-3
    assert float(kernels[0]["p10_s"]) == np.quantile(rows[0]["samples_s"], 0.1)
    assert kernels[0]["times"] == "CPU emulation, not comparable with a GPU"
    by_name = {(row["library"], row["precision"]): row for row in training}
    e = statistics.equivalence([r["score"] for r in rows if r["kind"] == "training" and r["precision"] == "fp32"], BASE,
                               0.01, 0.25)
    assert float(by_name["numprec", "fp32"]["difference"]) == e.difference.value    # not rounded
    assert float(by_name["numprec", "fp32"]["narrow_high"]) == e.narrow.high
    assert by_name["numprec", "fp16"]["verdict"] == "worse" and by_name["numprec", "fp64"]["verdict"] == ""
    assert by_name["scikit-learn 1.9.1", "float64"]["score"] == "0.5"
    assert [path.name for path in tables.write(rows[:3], GPU, tmp_path)] == ["tables.md", "kernels.csv"]


def test_markdown_has_as_many_cells_in_every_line():
    blocks = [("one | two", [("x", "1")]), ("three", [("y", "2")])]
    table = layout.Table("T", ("a", "b"), "lr", blocks, "Legend.", ("n",))
    lines = [line for line in table.markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 6 and {line.replace("\\|", "").count("|") for line in lines} == {3}
    assert "**one \\| two**" in table.markdown() and "- n" in table.markdown()


def test_blocks_have_their_headings():
    lines = layout.Table("T", ("a", "b"), "lr", [("one", [("x", "1")]), ("", [("y", "2")])], "Legend.").text()
    assert lines == "T\n\n  a  b\n  -  -\none\n  x  1\n  y  2\n\nLegend."


# ---- numbers and notes

@pytest.mark.parametrize("values, text", [([], "-"), ([3, 3], "3"), ([41, 4, 23], "4 - 41")])
def test_whole_numbers_of_several_fits(values, text):
    assert layout.whole(values) == text


@pytest.mark.parametrize("p, text", [(None, "-"), (math.nan, "-"), (0.01234, "0.0123"), (9e-5, "<1e-4")])
def test_chances(p, text):
    assert layout.chance(p) == text


@pytest.mark.parametrize("x, text", [
    (None, "-"), (0, "0"), (1234.5, "1234"), (1.2345, "1.23"), (0.012345, "0.0123"), (1.5e-5, "1.5e-05"),
    (2.5e7, "2.5e+07"), (math.inf, "inf"), (9.999, "10.0"),
])
def test_numbers_have_three_digits(x, text):
    assert layout.number(x) == text


def test_what_differs_in_numbers_alone_is_said_once():
    rows = [training_row(seed=seed, warnings=[f"kappa is {seed + 20}.5: expect 0 digits"]) for seed in range(3)]
    notes = layout.reasons(rows, lambda row: "M fp64")
    assert notes == ("warning M fp64: kappa is 20.5: expect 0 digits (and 2 times with other numbers)",)


@pytest.mark.parametrize("facts", (GPU, EMULATOR), ids=("gpu", "emulator"))
def test_any_part_of_a_run_can_be_shown(facts, tmp_path):
    """As after an interruption, with failures anywhere, some of workers that knew next to nothing when they died."""
    rng = np.random.default_rng(0)
    rows = everything() + trained() + runs("fp32", BASE, build=network_row, metric="accuracy") \
        + runs("fp64", BASE, build=network_row)
    for _ in range(60):
        some = [dict(rows[i]) for i in np.sort(rng.choice(len(rows), rng.integers(1, 12), replace=False))]
        for row in some:
            if rng.random() < 0.3:
                row.update(failed({**row, "status": rng.choice(["FAIL", "SKIP"]), "reason": "died"}))
            if row["status"] == "FAIL" and rng.random() < 0.5:
                row.update((name, None) for name in row if name not in KNOWN)
        text = tables.text(some, facts)
        assert all(row["precision"] in text for row in some)
        tables.write(some, facts, tmp_path)
