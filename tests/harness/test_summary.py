"""A run in three small tables: known rows give known cells, and what is not known is not filled in."""
import rows as fabricated

from numprec.harness.show import summary


def lines(table):
    """{first cell: {column: cell}}."""
    (_, rows), = table.blocks
    return {row[0]: dict(zip(table.columns, row)) for row in rows}


def test_scores_and_verdicts():
    rows = [row for p, shift in (("fp64", 0), ("fp16", -0.05), ("fp32", 1e-6))
            for row in fabricated.runs(p, [score + shift + 1e-6 * shift * i
                                           for i, score in enumerate((0.4, 0.41, 0.42, 0.43))])]
    table = summary.safe(rows, fabricated.environment())
    line, = lines(table).values()
    assert table.columns == ("model and data", "fp64", "fp32", "fp16")       # as the table of precisions has them
    assert line["model and data"] == "LinearRegression on diabetes, R2"
    assert line["fp64"].startswith("0.4150 ± ") and "\n" not in line["fp64"]
    assert line["fp32"].startswith("0.4150 ± ") and line["fp32"].endswith("\nequal")
    assert line["fp16"].startswith("0.3650 ± ") and line["fp16"].endswith("\nworse")


def test_what_is_missing_is_said():
    rows = fabricated.runs("fp64", [0.4, 0.5, 0.45])
    rows += fabricated.runs("fp64", [0.4, 0.5, 0.45], model="SVC", data="iris")
    rows += fabricated.runs("fp32", [0.4, 0.5, 0.45], model="SVC", data="iris", finished=False, stop_reason="stalled")
    rows += [fabricated.training_row("fp16", model="SVC", data="iris", status="SKIP", reason="no fp16 here")]
    found = lines(summary.safe(rows, fabricated.environment()))
    assert found["LinearRegression on diabetes, R2"]["fp32"] == "not run"
    assert found["SVC on iris, R2"]["fp32"].endswith("\nfails")
    assert found["SVC on iris, R2"]["fp16"] == "skipped: no fp16 here"
    times = lines(summary.cost(rows, fabricated.environment()))
    assert times["SVC on iris"]["fp32"] == times["SVC on iris"]["fp16"] == "-"     # stalled: never shown as fast


def test_milliseconds_of_a_fit():
    rows = fabricated.runs("fp64", [0.4, 0.5, 0.45], samples_s=lambda seed: [1e-3 * (seed + 1)] * 3)
    line, = lines(summary.cost(rows, fabricated.environment())).values()
    assert line["fp64"] == "2.00"


def test_microseconds_of_the_highest_rung():
    rows = [fabricated.kernel_row("fp32", rung=rung, samples_s=[seconds] * 3, flops=6e10)
            for rung, seconds in (("naive", 9e-3), ("tiled", 2e-3))]
    line, = lines(summary.fast(rows, fabricated.environment())).values()
    assert (line["operation"], line["rung"]) == ("matmul 64x64x64", "tiled")
    assert line["fp32"] == "2000 (compute 50 %)"      # 6e10 operations at 6e13 a second take half of it


def test_one_rung_stands_for_an_operation():
    """A precision without a time there has none: not that of the rung below."""
    rows = [fabricated.kernel_row(name, rung="tiled", samples_s=[1e-3] * 3) for name in ("fp64", "fp32", "fp16")]
    rows += [fabricated.kernel_row("fp64", rung="wide", status="SKIP", reason="not there"),
             fabricated.kernel_row("fp32", rung="wide", samples_s=[2e-3] * 3),
             fabricated.kernel_row("fp16", rung="wide", status="FAIL", reason="wrong")]
    line, = lines(summary.fast(rows, fabricated.environment())).values()
    assert line["rung"] == "wide" and line["fp32"].startswith("2000")
    assert line["fp64"] == line["fp16"] == "-"


def test_a_highest_rung_that_fails_throughout_is_not_replaced():
    rows = [fabricated.kernel_row("fp32", rung="tiled"), fabricated.kernel_row("fp32", rung="wide", status="FAIL")]
    line, = lines(summary.fast(rows, fabricated.environment())).values()
    assert line["rung"] == "wide" and line["fp32"] == "-"
    skipped = [rows[0], fabricated.kernel_row("fp32", rung="wide", status="SKIP")]
    line, = lines(summary.fast(skipped, fabricated.environment())).values()
    assert line["rung"] == "tiled" and line["fp32"] != "-"


def test_the_shape_that_most_rows_have():
    rows = [fabricated.kernel_row("fp32", rung=rung, shape=(8, 8, 8)) for rung in ("naive", "tiled")]
    rows += [fabricated.kernel_row("fp32", rung="naive", shape=(8, 8, k)) for k in (16, 4096)]
    assert [row["shape"] for row in summary.main_shapes(rows)] == [[8, 8, 8]] * 2


def test_without_rows_there_is_no_table():
    environment = fabricated.environment()
    assert summary.safe([], environment) is summary.cost([], environment) is summary.fast([], environment) is None
