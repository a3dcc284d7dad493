"""bench.py from end to end, and the rules that keep its numbers honest."""
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from numba import cuda

from numprec import kernels
from numprec.harness.judge import outcomes
from numprec.harness.measure import cases
from numprec.harness.record import store
from numprec.harness.run import executors, folders, run
from numprec.language import ladder
from numprec.precision import PRECISIONS

ROOT = Path(__file__).resolve().parents[2]

spec = importlib.util.spec_from_file_location("bench", ROOT / "bench.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)


def command_line(*arguments):
    return subprocess.run([sys.executable, "bench.py", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True)


# ---- the command line

@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """One real run, with its folder."""
    folder = tmp_path_factory.mktemp("run") / "out"
    done = command_line("--scale", "smoke", "--precision", "fp32,fp64", "--device", "emulator", "--out", folder)
    return SimpleNamespace(done=done, folder=folder)


def test_a_run_passes(smoke):
    assert smoke.done.returncode == 0, smoke.done.stdout + smoke.done.stderr
    assert all(row["status"] == "ok" for row in store.read(smoke.folder)[1])


def test_times_of_the_emulator_are_marked(smoke):
    for heading in ("times     ", "Kernels (", "Training: cost ("):
        line = next(line for line in smoke.done.stdout.splitlines() if line.startswith(heading))
        assert "CPU emulation, not comparable with a GPU" in line


def test_every_model_and_its_kernels_have_their_rows(smoke):
    environment, rows = store.read(smoke.folder)
    kernels = {(row["operation"], row["rung"], row["precision"]) for row in rows if row["kind"] == "kernel"}
    assert kernels == {(*name.split("/"), p) for name in cases.TRAINED for p in ("fp32", "fp64")}
    trained = {(row["model"], row["precision"], row["seed"]) for row in rows if row["kind"] == "training"}
    models = [model.at(cases.SCALES["smoke"]) for model in cases.MODELS]
    assert trained == {(model.label, p, seed) for model in models for p in ("fp32", "fp64")
                       for seed in range(model.seeds or cases.SCALES["smoke"].seeds)}
    assert environment["schema_version"] == store.SCHEMA_VERSION and environment["is_emulator"]
    assert environment["precisions"]["fp32"]["status"] == "emulated"


def test_rows_are_complete(smoke):
    """Each row has the columns of the store's docstring, JSON's own types, and a command that repeats it."""
    for line in (smoke.folder / store.RESULTS).read_text(encoding="utf-8").splitlines():
        row = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        for column in store.COLUMNS["row"] + store.COLUMNS[row["kind"]]:
            assert column in row, (row["kind"], column)
        assert row["status"] != "ok" or row["samples_s"]
        assert row["command"].startswith("python bench.py --scale smoke --") and row["cell_s"] > 0
    commands = {row["command"] for row in store.read(smoke.folder)[1]}
    for command in commands:
        bench.parser().parse_args(command.split()[2:])


def test_linear_regression_is_accurate(smoke):
    rows = [row for row in store.read(smoke.folder)[1] if row.get("model") == "LinearRegression"]
    precisions = outcomes.by_model(rows)["LinearRegression on diabetes"]
    assert 0.2 < precisions["fp64"].score.value < 0.7    # the mean over 5 splits of what scikit-learn finds too
    assert abs(precisions["fp32"].against(precisions["fp64"]).difference.value) < 1e-5


def test_figures_are_drawn(smoke):
    for name in ("error_time.png", "scores.png"):
        assert (smoke.folder / name).read_bytes().startswith(b"\x89PNG")


def test_progress_without_a_terminal_is_a_line_per_cell(smoke):
    lines = [line for line in smoke.done.stderr.splitlines() if line.startswith("[")]
    rows = store.read(smoke.folder)[1]
    assert len(lines) == len({(r.get("operation"), r.get("rung"), r.get("model"), r["seed"]) for r in rows})


@pytest.mark.parametrize("arguments, says", [
    (("--precision", "fp31"), "Did you mean 'fp32'"),
    (("--operation", "matmull"), "Did you mean 'matmul'"),
    (("--operation", "reduce"), "--chapter reduce"),
    (("--chapter", "matmull"), "Did you mean 'matmul'"),
    (("--chapter", "householder"), "the chapter 'householder' has no operation of its own"),
    (("--operation", "householder"), "the chapter 'householder' has no operation of its own"),
    (("--operation", "matmul/tyled"), "Did you mean 'matmul/tiled'"),
    (("--model", "LinearRegresion"), "Did you mean 'LinearRegression'"),
    (("--seeds", "0"), "positive whole number"),
    (("--scale", "tiny"), "invalid choice"),
    (("--scale", "smok"), "Did you mean 'smoke'"),
    (("--presicion", "fp32"), "Did you mean '--precision'"),
    (("polt", "folder"), "Did you mean 'plot'"),
    (("--budget", "soon"), "positive number of seconds"),
    (("--grow", "1,0"), "positive whole number"),
    (("--workers", "2"), "--workers is for --scheduler local"),
    (("--resume", "--fresh"), "choose one"),
])
def test_usage_errors(arguments, says, tmp_path):
    done = command_line(*arguments, "--device", "emulator", "--out", tmp_path / "out")
    assert done.returncode == 2 and says in done.stderr and not done.stdout
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in done.stderr


def test_an_unwritable_folder_is_refused_before_the_first_cell(tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = command_line("--device", "emulator", "--out", tmp_path / "file")
    assert done.returncode == 2 and "cannot write results" in done.stderr and not done.stdout


@pytest.mark.parametrize("command", [("plot", "nowhere"), ("report", "nowhere"), ("compare", "nowhere", "nowhere")])
def test_commands_about_a_run_that_is_not_there(command, tmp_path):
    done = command_line(command[0], *(tmp_path / name for name in command[1:]))
    assert done.returncode == 2 and "no run found" in done.stderr and "Traceback" not in done.stderr


def test_a_run_compared_with_itself(smoke):
    done = command_line("compare", smoke.folder, smoke.folder)
    assert done.returncode == 0, done.stderr


def test_a_gpu_asked_for_and_absent():
    if cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = command_line("--device", "gpu")
    assert done.returncode == 3 and "Traceback" not in done.stderr


def test_help_is_quick():
    start = time.perf_counter()
    done = command_line("--help")
    assert done.returncode == 0 and time.perf_counter() - start < 1


def test_list_names_everything():
    done = command_line("--list")
    assert done.returncode == 0
    for name in (*PRECISIONS, *(model.name for model in cases.MODELS), *kernels.operations()):
        assert name in done.stdout


def test_an_operation_is_that_one_and_a_chapter_is_all_of_its_own():
    """Operations that climb the ladder of matmul stand in other chapters too."""
    assert {operation.name for operation, _ in cases.rungs(["matmul"])} == {"matmul"}
    assert [(operation.name, rung.name) for operation, rung in cases.rungs(["matmul/tiled"])] == [("matmul", "tiled")]
    assert cases.operations_of(["matmul"]) == ["matmul", "matmul_ta", "matmul_tb"]
    assert cases.operations_of(["norm", "reduce"]) == ["sum", "dot", "norm"]
    asked = bench.request(["--operation", "sum/tree", "--chapter", "norm"])
    assert asked.chosen() == (["sum/tree", "norm"], [])


@pytest.mark.parametrize("command", ["sanitize", "profile"])
def test_a_chapter_without_operations_does_not_pass_for_one_without_bugs(command, capsys):
    assert bench.main([command, "--chapter", "cholesky,householder"]) == 2
    said = capsys.readouterr()
    assert "the chapter 'householder' has no operation of its own" in said.err and not said.out


@pytest.fixture
def in_process(monkeypatch):
    """bench.py in this process, where its parts can be replaced; returns its exit code."""
    monkeypatch.setenv("NUMPREC_DEVICE", "emulator")
    monkeypatch.setattr(folders, "_peaks", lambda runs: None)

    def main(*arguments, executor=executors.InProcess):
        return run.benchmark(bench.request(["--scale", "smoke", *map(str, arguments)], root=ROOT), executor)
    return main


def test_a_fresh_run_removes_all_that_the_one_before_wrote(smoke, in_process, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    shutil.copytree(smoke.folder, folder)
    assert len(list(folder.iterdir())) > 10

    def stop(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(folders, "environment_for", stop)
    assert in_process("--fresh", "--out", folder) == 130
    assert {path.name for path in folder.iterdir()} == {store.RESULTS, store.LOCK}


# ---- no time without a right result

def broken(p, **options):
    """Forgets all of the sum but its first term."""
    storage, accum = p.storage, p.accum

    @cuda.jit
    def matmul_broken(A, B, C, extra):
        n, m = cuda.grid(2)
        if m < C.shape[0] and n < C.shape[1]:
            C[m, n] = storage(accum(A[m, 0]) * accum(B[0, n]))
    return matmul_broken


def crashing(p, **options):
    raise OverflowError("out of registers")


def step(factory):
    return ladder.Rung(factory, "matmul", (7, 5), lambda precision: True)


@pytest.mark.parametrize("factory, reason", [(broken, "times the bound"), (crashing, "out of registers")])
def test_a_wrong_result_fails_and_has_no_time(factory, reason, in_process, monkeypatch, tmp_path, capsys):
    matmul = kernels.operations()["matmul"]
    monkeypatch.setattr(cases, "rungs", lambda names=None: [(matmul, step(factory)), (matmul, matmul.rung("naive"))])
    folder = tmp_path / "out"
    assert in_process("--operation", "matmul", "--precision", "fp32,fp16", "--out", str(folder)) == 1
    printed = capsys.readouterr().out
    assert "FAIL matmul/" + factory.__name__ in printed and reason in printed
    rows = store.read(folder)[1]
    for row in rows:
        if row["rung"] == factory.__name__:
            assert row["status"] == "FAIL" and reason in row["reason"] and row["samples_s"] is None
        else:
            assert row["status"] == "ok" and row["samples_s"]      # the run went on
    assert sum(row["status"] == "FAIL" for row in rows) == 2
    for line in printed.splitlines():
        if line.endswith("FAIL"):
            assert not re.search(r"\d - \d", line)                 # no quartiles
