"""Running: cells survive crashes, runs survive kills, and what was finished is neither lost nor done twice."""
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rows as fabricated

from numprec import kernels
from numprec.harness.measure import cases
from numprec.harness.measure.timing import Effort
from numprec.harness.proofs import kills
from numprec.harness.record import exits, store, streams
from numprec.harness.run import executors, folders, planning, precompile, progress, run
from numprec.harness.run.request import Request
from numprec.harness.run.worker import Worker
from numprec.precision import precision_named

ROOT = Path(__file__).resolve().parents[2]
CORE = tuple(map(precision_named, ("fp64", "fp32", "fp16")))
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to send")


# ---- the worker process

def die(signal_number):
    os.kill(os.getpid(), signal_number)


def lethal(function, argument):
    """A cell that ends the process it arrives in."""
    kind = type("Lethal", (cases.TrainingCell,), {"__reduce__": lambda self: (function, (argument,))})
    return kind(**vars(cell(seed=4)))


def talk(device):
    print("printed by a cell")
    sys.stdin.read()
    return os.getpid(), device.kind, os.environ["NUMPREC_DEVICE"]


def refuse(device):
    raise ValueError("not this one")


def sleep(device, mark):
    Path(mark).touch()
    time.sleep(600)


@pytest.fixture(scope="module")
def worker():
    with Worker("emulator", {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests" / "harness")))}) as process:
        yield process


def cell(seed=0, precisions=CORE):
    return cases.TrainingCell(cases.MODELS[1], seed, precisions, Effort(budget=0.0, warm_up=0.0, least=1))


def test_a_cell_runs_in_another_process(worker):
    rows = worker.run(cell())
    assert [row["precision"] for row in rows] == ["fp64", "fp32", "fp16"]
    assert all(row["status"] == "ok" and row["cell"] == cell().key for row in rows)


def test_it_stays_and_what_it_prints_does_no_harm(worker):
    pid, kind, variable = worker.call(talk)
    assert pid == worker.pid != os.getpid() and kind == variable == "emulator"
    assert worker.call(talk)[0] == pid


def test_what_is_raised_there_is_raised_here(worker):
    with pytest.raises(ValueError, match="not this one"):
        worker.call(refuse)
    assert worker.call(talk)[0] == worker.pid


def test_a_request_that_cannot_be_unpickled_is_answered(worker):
    """As where the process lacks a module; without an answer, its owner would wait forever."""
    rows = worker.run(lethal(importlib.import_module, "module_of_nobody"), limit=60)
    assert {row["reason"] for row in rows} == {"the worker process cannot read what it is asked: ModuleNotFoundError: "
                                               "No module named 'module_of_nobody'"}
    assert worker.call(talk)[0] == worker.pid


@pytest.mark.parametrize("function, argument, reason", [
    (os._exit, 3, "the worker process ended with exit code 3"),
    pytest.param(die, 11, "the worker process died (signal 11, SIGSEGV)", marks=POSIX),
    pytest.param(die, 9, "the worker was lost: it was killed, by a user or by the system when memory ran out "
                 "(signal 9, SIGKILL)", marks=POSIX),
])
def test_a_crash_costs_one_cell(worker, function, argument, reason):
    before = worker.call(talk)[0]
    rows = worker.run(lethal(function, argument))
    assert [(row["status"], row["precision"], row["seed"]) for row in rows] == [("FAIL", p.name, 4) for p in CORE]
    for row in rows:
        assert row["reason"] == reason and row["cell"] == cell(seed=4).key and row["samples_s"] is None
        assert set(store.COLUMNS["row"] + store.COLUMNS["training"]) <= set(row)
    assert worker.call(talk)[0] == worker.pid != before


@POSIX
@pytest.mark.parametrize("function, argument", [(time.sleep, 600), (die, signal.SIGSTOP if os.name == "posix" else 0)])
def test_a_cell_that_does_not_end_is_ended(worker, function, argument):
    before = worker.call(talk)[0]
    rows = worker.run(lethal(function, argument), limit=0.5)
    assert {row["reason"] for row in rows} == {
        "the worker was lost: it gave no answer within 0.5 seconds, and was stopped"}
    assert not any(map(store.final, rows)) and worker.call(talk, limit=600)[0] == worker.pid != before


@POSIX
def test_the_start_of_a_process_counts_for_no_cell():
    """It takes seconds, and the limit is a fraction of one."""
    with Worker("emulator") as fresh:
        assert fresh.call(executors.identity, limit=0.3)[1] == "emulator"


def poisoned(cell, device):
    return [{"status": "FAIL", "reason": "CudaAPIError: [700] Call to cuMemcpyDtoH results in ILLEGAL_ADDRESS"}]


def test_after_an_error_of_cuda_the_next_cell_gets_a_new_process(worker):
    for _ in range(3):
        before = worker.call(talk)[0]
        assert worker.call(poisoned, cell=None)[0]["status"] == "FAIL"    # it does answer
        assert worker.call(talk)[0] != before


@POSIX
def test_an_orphan_ends_in_the_middle_of_a_cell(tmp_path):
    mark = tmp_path / "started"
    script = ("import sys; sys.path[:0] = sys.argv[1:3]\nimport test_running as t\n"
              "w = t.Worker('emulator', {'PYTHONPATH': ':'.join(sys.argv[1:3])})\nprint(w.pid, flush=True)\n"
              "w.call(t.sleep, mark=sys.argv[3])")
    parent = subprocess.Popen([sys.executable, "-c", script, str(ROOT), str(ROOT / "tests" / "harness"), str(mark)],
                              stdout=subprocess.PIPE, text=True)
    orphan = int(parent.stdout.readline())
    kills.wait_for(mark.exists, 60)
    parent.kill()
    parent.wait()
    kills.wait_for(lambda: not kills.alive(orphan), 30)
    parent.stdout.close()


# ---- compiling ahead

def test_kernels_are_compiled_ahead_once(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMPREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precompile, "FEW", 1)
    monkeypatch.setattr(precompile, "cores", lambda: 2)
    cells = plan(models=["LinearRegression"], operations=["sum/tree"], seeds=3)
    units = precompile.missing(cells)
    assert [(unit.kind, unit.precisions) for unit in units] == [
        (kind, (p,)) for kind in ("kernel", "training") for p in CORE]
    shown = []
    precompile.compile_all(units[:2], "emulator", lambda *numbers: shown.append(numbers))
    assert shown == [(1, 2), (2, 2)] and len(list((tmp_path / "cache").iterdir())) > 2
    assert precompile.missing(cells) == units[2:]
    monkeypatch.setattr(precompile, "_sources", lambda: "others")
    assert precompile.missing(cells) == units
    (tmp_path / "file").touch()
    for nowhere in "", str(tmp_path / "file"):
        monkeypatch.setenv("NUMPREC_CACHE", nowhere)
        assert precompile.missing(cells) == []


# ---- a run that is killed, and resumed

@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of `kills`, uninterrupted."""
    return kills.uninterrupted(tmp_path_factory.mktemp("whole") / "out")


@POSIX
def test_a_run_killed_three_times_is_as_one_that_was_not(whole, tmp_path):
    trial = kills.trial(tmp_path / "runs", whole, times=3, seed=2024)
    assert trial["kills"] == 3 == sum(moment["killed"] for moment in trial["moments"])
    assert trial["lost"] == trial["doubled"] == trial["extra"] == trial["different"] == trial["orphans"] == 0
    assert len(keys(tmp_path / "runs" / "0")) == len(set(keys(whole.folder))) > 0


def test_what_the_trial_would_find():
    row = {"cell": "a", "precision": "fp64", "score": 0.5, "samples_s": [1.0]}
    rows = [row, {**row, "precision": "fp32", "score": float("nan")}]
    assert not +kills.compare(rows, [{**each, "samples_s": [2.0]} for each in rows], 2)
    found = kills.compare(rows, [row, {**row, "cell": "b"}], 3)
    assert found == {"lost": 1, "doubled": 1, "extra": 1, "different": 0}
    assert kills.compare(rows, [{**row, "score": 0.25}, rows[1]], 2)["different"] == 1


# ---- through bench.py

def bench(*arguments, **options):
    return subprocess.run([sys.executable, "bench.py", *map(str, arguments)], cwd=ROOT, text=True,
                          capture_output=True, **options)


def keys(folder):
    """Of each line, as it stands there: whoever reads a run leaves out what is there twice."""
    lines = (folder / store.RESULTS).read_text(encoding="utf-8").splitlines()
    return [(row["cell"], row["precision"]) for row in map(json.loads, lines)]


def test_a_finished_run_that_is_resumed_has_nothing_to_do(whole):
    before = (whole.folder / store.RESULTS).read_bytes()
    done = bench(*kills.ARGUMENTS, "--out", whole.folder)
    assert done.returncode == 0, done.stderr
    assert "results are already there" in done.stderr and "0 of them in these" in done.stdout
    assert (whole.folder / store.RESULTS).read_bytes() == before
    assert len(store.read(whole.folder)[0]["resumed"]) == 1
    assert "0 cells with 0 results" in bench(*kills.ARGUMENTS, "--dry-run", "--out", whole.folder).stdout


def test_more_of_a_run_is_added_to_it(whole, tmp_path):
    out = tmp_path / "out"
    done = bench(*kills.ARGUMENTS, "--seeds", "2", "--precision", "fp32", "--out", out, "-q")
    assert done.returncode == 0 and done.stderr == ""
    done = bench("--resume", "--out", out, "--precision", "fp64,fp32", "-v")
    assert done.returncode == 0 and sorted(keys(out)) == sorted(
        key for key in keys(whole.folder) if not re.search("seed ([2-9]|..)$", key[0]))
    assert len([line for line in done.stderr.splitlines() if line.startswith("    ok ")]) == len(keys(out)) // 2


@pytest.mark.parametrize("arguments, says", [
    (("--scale", "quick"), "a run with scale smoke, and this one has scale quick"),
    (("--grow", "1,10"), "a run with grow [1], and this one has grow [1, 10]"),
])
def test_another_run_is_not_mixed_in(whole, arguments, says):
    done = bench(*kills.ARGUMENTS, *arguments, "--out", whole.folder)
    assert done.returncode == 2 and says in done.stderr and "--fresh" in done.stderr


@POSIX
def test_ctrl_c_keeps_what_is_finished(tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "bench.py", *kills.ARGUMENTS, "--seeds", "1000", "--out", str(out)],
                               cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    kills.wait_for(lambda: kills.results_in(out) > 2, 120)
    process.send_signal(signal.SIGINT)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said
    assert f"interrupted: {kills.results_in(out)} results" in printed and "--resume --out" in printed
    assert len(keys(out)) == len(set(keys(out)))


@pytest.fixture
def in_process(monkeypatch, tmp_path):
    """A run of fabricated cells in this process; returns its exit code."""
    monkeypatch.setenv("NUMPREC_DEVICE", "emulator")
    monkeypatch.setattr(folders, "_peaks", lambda runs: None)
    sys.path.insert(0, str(ROOT))
    import bench as command_line
    sys.path.remove(str(ROOT))

    def main(*arguments, executor=Fabricating):
        asked = command_line.request(["--scale", "smoke", "--no-plots", "--out", str(tmp_path / "out"), *arguments],
                                     "command", tmp_path / "runs")
        return run.benchmark(asked, executor)
    return main


class Fabricating(executors.InProcess):
    """Makes up the rows of cells."""

    def results(self, cells):
        from numprec.harness.record import rows
        for each in cells:
            yield each, [rows.failed(each, p, "made up") for p in each.precisions], 0.5


MODEL = ("--model", "LinearRegression")


def test_a_disk_that_fills_up_ends_the_run_with_a_sentence(in_process, tmp_path, monkeypatch, capsys):
    append, count = store.Store.append, []

    def full(self, rows):
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        count.append(rows)
        append(self, rows)
    monkeypatch.setattr(store.Store, "append", full)
    assert in_process(*MODEL) == 1
    printed = capsys.readouterr()
    assert "cannot write results: [Errno 28] No space left on device; results so far are kept" in printed.err
    assert "stopped: 10 results" in printed.out and len(keys(tmp_path / "out")) == 10


def test_an_interruption_leaves_finished_cells(in_process, tmp_path, capsys):
    class Interrupted(Fabricating):
        def results(self, cells):
            yield next(super().results(cells))
            raise KeyboardInterrupt
    assert in_process(*MODEL, executor=Interrupted) == 130
    assert "interrupted: 5 results" in capsys.readouterr().out and len(keys(tmp_path / "out")) == 5

    class Terminated(Fabricating):
        def results(self, cells):
            yield next(super().results(cells))
            raise streams.Stopped(signal.SIGTERM)
    assert in_process(*MODEL, executor=Terminated) == 143
    printed = capsys.readouterr().out
    assert "ended by SIGTERM: 10 results" in printed and "resume with: python bench.py --resume" in printed


def test_a_cell_whose_worker_was_killed_is_tried_again_and_one_that_failed_is_not(in_process, tmp_path, capsys):
    class Killing(Fabricating):
        """Kills the worker in the second cell, and counts its cells."""
        died, ran = f"{store.KILLED}: somebody killed it", []

        def results(self, cells):
            for each, rows, seconds in super().results(cells):
                self.ran.append(each.seed)
                yield each, [{**row, "reason": self.died if each.seed == 1 else row["reason"]} for row in rows], seconds
    out = tmp_path / "out"
    assert in_process(*MODEL, "--seeds", "3", executor=Killing) == 1 and Killing.ran == [0, 1, 2]
    assert f"resume with: python bench.py --resume --out {out}" in capsys.readouterr().out
    assert in_process(*MODEL, "--seeds", "3", executor=Killing) == 1 and Killing.ran == [0, 1, 2, 1]
    Killing.died = "made up"
    assert in_process(*MODEL, "--seeds", "3", executor=Killing) == 1 and Killing.ran == [0, 1, 2, 1, 1]
    assert "15 results, 5 of them in these" in capsys.readouterr().out and len(store.read(out)[1]) == 15
    assert in_process(*MODEL, "--seeds", "3", executor=Killing) == 1 and Killing.ran == [0, 1, 2, 1, 1]
    assert "resume with" not in capsys.readouterr().out.rpartition("0 of them")[2]


def test_a_folder_that_is_gone_ends_the_run_with_a_sentence(in_process, tmp_path, capsys):
    class Removing(Fabricating):
        def results(self, cells):
            for number, result in enumerate(super().results(cells)):
                if number == 1:
                    (tmp_path / "out").rename(tmp_path / "elsewhere")
                yield result
    if sys.platform == "win32":
        pytest.skip("Windows renames no folder in which a file is open")
    assert in_process(*MODEL, executor=Removing) == 1
    printed = capsys.readouterr()
    assert "results.jsonl was deleted or moved while the run wrote to it: what was deleted is lost" in printed.err
    assert "stopped: 10 results" in printed.out and "written: nothing" in printed.out
    assert len(keys(tmp_path / "elsewhere")) == 10


def test_a_folder_that_was_gone_for_a_moment_is_no_success(in_process, tmp_path, capsys, monkeypatch):
    def gone(results, rows):
        raise store.Gone("it was away")
    monkeypatch.setattr(store.Store, "append", gone)
    assert in_process(*MODEL) == exits.FAILED
    assert "stopped: 0 results" in capsys.readouterr().out


def test_a_folder_that_cannot_be_read_is_refused(tmp_path):
    for name in "x" * 300, "loop":
        if name == "loop":
            (tmp_path / name).symlink_to(tmp_path / name)
        with pytest.raises(folders.Refused, match="cannot read a run: "):
            folders.to_resume(Request(tmp_path, out=tmp_path / name))


def test_a_new_run_gets_a_new_folder_whatever_the_clock_says(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "datetime", SimpleNamespace(now=lambda zone: folders_time))
    folders_time = datetime(2026, 1, 2, 3, 4, 5)
    names = [folders.new(tmp_path / "runs").name for _ in range(3)]
    assert names == ["20260102T030405Z", "20260102T030405Z-2", "20260102T030405Z-3"]
    (tmp_path / "file").touch()
    with pytest.raises(folders.Refused, match="file"):
        folders.new(tmp_path / "file")


@pytest.mark.parametrize("odd", ["null", "[]", "5", '"x"', "{}", '{"schema_version": 2, "results": null}'])
def test_an_odd_folder_disturbs_no_other_run(in_process, tmp_path, odd, capsys):
    runs = tmp_path / "runs"
    for name, content in (("1", odd), ("2", None)):
        (runs / name).mkdir(parents=True)
        text = content or json.dumps(fabricated.environment(results=9, options={"arguments": []}))
        (runs / name / store.ENVIRONMENT).write_text(text)
        (runs / name / store.RESULTS).write_text("5\nnull\n[]\n{}\n" + odd + "\n")
    assert in_process(*MODEL, "--seeds", "1") == 1 and "Traceback" not in capsys.readouterr().err
    assert folders.to_resume(Request(runs)) == (runs / "2", [])


def test_the_latest_unfinished_run_is_the_one_to_resume(in_process, tmp_path):
    runs = tmp_path / "runs"
    with pytest.raises(folders.Refused, match="no unfinished run"):
        folders.to_resume(Request(runs))
    for name, results in (("1", 6), ("2", 7), ("3", 5)):
        with store.Store(runs / name) as results_of:
            results_of.write_environment(fabricated.environment(
                results=results, options={"arguments": ["--scale", name]}))
            for i in range(5):
                results_of.append([fabricated.training_row(seed=i)])
    assert folders.to_resume(Request(runs)) == (runs / "2", ["--scale", "2"])
    with pytest.raises(folders.Refused, match="choose one"):
        folders.to_resume(Request(runs, fresh=True))
    with pytest.raises(folders.Refused, match="holds no run"):
        folders.to_resume(Request(runs, out=tmp_path))


def test_a_budget_is_for_what_is_left(in_process, tmp_path, capsys):
    """Until everything is done the run counts as unfinished, and each time it is resumed it does what it plans."""
    out = tmp_path / "runs" / "1"
    asked = *MODEL, "--seeds", "4", "--out", str(out), "--budget"
    assert in_process(*asked, "0.001") == 1
    found = len(keys(out))
    assert 0 < found < 20
    for _ in range(5):
        assert folders.to_resume(Request(tmp_path / "runs"))[0] == out
        assert f"--resume --out {out}" in capsys.readouterr().out
        assert in_process(*asked, "1.2", "--dry-run") == 0          # there is time for two cells
        planned = int(re.search(r"cells with (\d+) results", capsys.readouterr().out)[1])
        assert in_process(*asked, "1.2") == 1 and planned > 0
        found += planned
        assert len(keys(out)) == found == len(set(keys(out)))
        if found == 20:
            break
    assert found == 20 == store.read(out)[0]["results"]
    with pytest.raises(folders.Refused, match="no unfinished run"):
        folders.to_resume(Request(tmp_path / "runs"))


def test_a_fresh_run_replaces_the_one_there(in_process, tmp_path):
    out = tmp_path / "out"
    assert in_process(*MODEL, "--seeds", "2") == 1
    assert in_process(*MODEL, "--seeds", "3") == 1 and len(keys(out)) == 15
    assert in_process(*MODEL, "--seeds", "1", "--fresh") == 1 and len(keys(out)) == 5


def test_a_fresh_run_leaves_nothing_of_the_one_before(in_process, tmp_path, monkeypatch):
    """Its tables and figures go, and other files stay; and when it is killed early there is nothing to resume."""
    out = tmp_path / "out"
    in_process(*MODEL, "--seeds", "1")
    made = ["scores.png", "scores_2.png", "scores_12.svg", "kernels.csv", "error_time.svg"]
    kept = ["scores_old.png", "mine.png", "notes.md", "report.html"]
    for name in made + kept:
        (out / name).touch()
    monkeypatch.setattr(folders, "environment_for", interrupted)
    assert in_process(*MODEL, "--seeds", "2", "--fresh") == 130
    assert sorted(path.name for path in out.iterdir()) == sorted([*kept, store.RESULTS, store.LOCK])
    with pytest.raises(folders.Refused, match="holds no run"):
        folders.to_resume(Request(tmp_path, out=out))


def test_a_fresh_run_has_no_environment_before_it_has_no_results(tmp_path, monkeypatch):
    with store.Store(tmp_path) as results:
        results.write_environment(fabricated.environment())
        results.append([fabricated.training_row()])
    opened = store._opened
    monkeypatch.setattr(store, "_opened", lambda path: (
        interrupted() if path.name == store.RESULTS else opened(path)))
    with pytest.raises(KeyboardInterrupt):
        store.Store(tmp_path, fresh=True)
    assert (tmp_path / store.RESULTS).stat().st_size and store.environment_of(tmp_path) is None
    with pytest.raises(store.Unusable, match="no env.json beside it"):    # the results of which nobody knows stay
        store.Store(tmp_path)


def interrupted(*_):
    raise KeyboardInterrupt


def test_another_commit_is_warned_of(in_process, tmp_path, capsys):
    in_process(*MODEL, "--seeds", "1")
    path = tmp_path / "out" / store.ENVIRONMENT
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "git_commit": "f" * 40}), encoding="utf-8")
    in_process(*MODEL, "--seeds", "2")
    printed = capsys.readouterr()
    assert "warning: results so far are of commit ffffffffffff" in printed.err
    again, = json.loads(path.read_text(encoding="utf-8"))["resumed"]
    commit = f"commit {again['git_commit'][:12]}" if again["git_commit"] else "no git checkout"
    assert f"\nresumed   {again['time']}  command  ({commit}" in printed.out
    assert "resumed" in (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    in_process(*MODEL, "--seeds", "3")
    assert f"resumed   2 times, {again['time']} to 2" in capsys.readouterr().out


def test_another_cpu_or_driver_is_warned_of(in_process, tmp_path, capsys):
    in_process(*MODEL, "--seeds", "1")
    path = tmp_path / "out" / store.ENVIRONMENT
    facts = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**facts, "cpu": "abacus", "gpu": {"driver": "1.2"}}), encoding="utf-8")
    in_process(*MODEL, "--seeds", "2")
    printed = capsys.readouterr()
    assert f"warning: results so far are of CPU abacus, those to come of {facts['cpu']}" in printed.err
    assert "warning: results so far are of driver 1.2, those to come of unknown" in printed.err
    assert f"CPU {facts['cpu']}; driver unknown" in " ".join(printed.out.split())


def test_a_data_set_that_is_required_and_absent(in_process, monkeypatch, capsys):
    from numprec import datasets

    def absent(name, **options):
        raise datasets.DataUnavailable(f"{name} cannot be had")
    monkeypatch.setattr(datasets, "load", absent)
    assert in_process(*MODEL, "--strict-data") == 5
    assert "diabetes cannot be had" in capsys.readouterr().err


# ---- the plan

def plan(models=("SVC", "LinearRegression"), operations=("sum",), seeds=4):
    return planning.ordered(cases.plan(cases.SCALES["smoke"], CORE, list(operations), list(models), seeds))


def shown(cells):
    return [(getattr(cell, "seed", "kernel"), "/".join(map(str, cell.precisions))) for cell in cells]


def test_seeds_come_before_models():
    assert [seed for seed, _ in shown(plan())] == ["kernel"] * 3 + [0, 0, 1, 1, 2, 2, 3, 3]


def test_what_is_done_is_left_out():
    cells = plan(operations=(), seeds=1)
    done = {(cells[0].key, "fp64"), *((cells[1].key, str(p)) for p in CORE)}
    assert shown(planning.remaining(cells, done)) == [(0, "fp32/fp16")]


def test_a_budget_costs_seeds_before_precisions():
    cells = plan(operations=())

    def fitted(budget):
        found = planning.fit(cells, budget, lambda cell: len(cell.precisions))
        return len(found), {name for _, name in shown(found)}
    everything = "fp64/fp32/fp16"
    assert fitted(24) == (8, {everything})
    assert fitted(23) == (7, {everything})
    assert fitted(12) == (4, {everything})                # two seeds each
    assert fitted(11) == (4, {"fp64/fp32"})
    assert fitted(7) == (3, {"fp64/fp32"})
    assert fitted(1) == (2, {"fp64/fp32"})                # each model, however short the time
    kept = planning.fit(cells, 18, lambda cell: len(cell.precisions))
    assert [seed for seed, _ in shown(kept)] == [0, 0, 1, 1, 2, 2]
    assert planning.difference(cells, kept).count("4 seeds to 3") == 2


def test_a_budget_costs_other_libraries_before_precisions():
    cells = planning.ordered(cases.plan(cases.SCALES["smoke"], CORE, [], ["SVC"], 2, compare=True))
    kept = planning.fit(cells, 6, lambda cell: len(cell.precisions))
    assert {cell.kind for cell in cells} == {"training", "peer"}
    assert shown(kept) == [(0, "fp64/fp32/fp16"), (1, "fp64/fp32/fp16")]


def test_kernels_leave_half_of_a_budget_to_the_models():
    now = [0.0]
    cells = plan()
    ran = []
    for each in planning.until(6, cells, clock=lambda: now[0]):
        ran.append(getattr(each, "seed", "kernel"))
        now[0] += 1.5
    assert ran == ["kernel", "kernel", 0, 0]
    assert list(planning.until(None, cells)) == cells


def test_earlier_runs_say_how_long_cells_take(tmp_path):
    cells = plan(models=("SVC",))
    svc = next(cell for cell in cells if cell.kind == "training")
    with store.Store(tmp_path / "1") as results:
        results.write_environment(fabricated.environment(scale="smoke", device="D", options={"grow": [1]}))
        results.append([fabricated.training_row(p, cell=svc.key, cell_s=8.0, peak_bytes=5000)
                        for p in ("fp64", "fp32")])
    expected = planning.Expected(tmp_path, "smoke", (1,), "D")
    assert expected.runs == 1 and expected.known(svc) and not expected.known(cells[0])
    assert expected.seconds(svc) == 12.0 and expected.seconds(cells[-1]) == 12.0     # three precisions, any seed
    assert expected.bytes(svc) == 5000
    assert expected.seconds(cells[0]) == pytest.approx(3 * 0.02)
    compiling = planning.Expected(tmp_path / "none", "smoke", (1,), "D", compiles=True)
    first, second = (next(cell for cell in cells if getattr(cell, "seed", None) == seed) for seed in (0, 1))
    assert compiling.seconds(cells[0]) == pytest.approx(3 * (planning.COMPILING["kernel"] + 0.02))
    assert compiling.seconds(first) - compiling.seconds(second) == pytest.approx(3 * planning.COMPILING["training"])
    for other in (("quick", (1,), "D"), ("smoke", (2,), "D"), ("smoke", (1,), "E")):
        assert planning.Expected(tmp_path, *other).runs == 0
    text = planning.describe(cells, "", expected, "smoke", "D", budget=100)
    assert "at least" in text and "48 s" in text and "Budget 2 min" in text


def test_the_memory_of_a_kernel_is_that_of_its_arrays(tmp_path):
    """At least half of what the inputs take: of triangular matrices, cost counts the half that is read."""
    expected, fp32 = planning.Expected(tmp_path, "smoke", (1,), "D"), precision_named("fp32")
    for operation in kernels.operations().values():
        shape = max(operation.shapes, key=np.prod)
        with np.errstate(all="ignore"):
            arrays = [np.asarray(a) for a in operation.inputs(np.random.default_rng(0), shape, "random", fp32)]
        size = sum(a.size * (4 if a.dtype.kind == "f" else a.itemsize) for a in arrays)
        each = cases.KernelCell(operation, operation.rungs[0], shape, (fp32,), Effort(0.0, 0.0, 1))
        assert expected.bytes(each) >= size / 2, operation.name
    full = cases.KernelCell(operation, operation.rungs[0], operation.bench_shapes["full"], (fp32,), Effort(0.0, 0.0, 1))
    assert operation.name == "working_set" and expected.bytes(full) >= 20_000 ** 2 * 4


def test_a_plan_is_quick_and_runs_nothing(tmp_path):
    before = os.times()
    done = bench("--dry-run", "--device", "emulator", "--out", tmp_path / "out")
    after = os.times()
    computing = sum(after[2:4]) - sum(before[2:4])    # of child processes: other programs on the machine do not count
    assert done.returncode == 0 and computing < 2
    assert "CNNClassifier" in done.stdout and not (tmp_path / "out").exists()


def test_progress_learns_its_pace(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    cells = plan(operations=())
    bar = progress.Progress(cells, expected=lambda cell: 2.0)
    assert bar.left() == 16.0
    for each, seconds in zip(cells, (6.0, 3.0)):
        bar.begin(each)
        now[0] += seconds
        bar.end(each, [{"status": "FAIL", "precision": "fp16", "reason": "overflow"}], seconds)
    assert bar.left() == pytest.approx(3 * 6.0 + 3 * 3.0)
    bar.begin(cells[2])                                     # two at a time from here
    now[0] += 3.0
    bar.end(cells[2], [], 6.0)
    bar.end(cells[3], [], 3.0)
    assert bar.left() == pytest.approx((2 * 6.0 + 2 * 3.0) * 12 / 18)
    bar.close()
    said = capsys.readouterr().err
    assert "FAIL fp16, 3.0 s; about 27 s left" in said and "overflow" in said
