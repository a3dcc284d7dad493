"""The commands that prove what is too long for the tests: trainings, here on digits instead, and planted bugs."""
import json

import pytest

from numprec.harness.proofs import planted, trainings
from numprec.harness.proofs.trainings import Proof


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs a command line with one more proof, "small"; returns the exit code and the rows that are in the file."""
    small = Proof("MLPClassifier", "digits", dict(hidden_layer_sizes=(16,), batch_size=64, max_iter=2,
                                                  learning_rate_init=0.1), accuracy=0.5)
    monkeypatch.setitem(trainings.PROOFS, "small", small)
    monkeypatch.setitem(trainings.PROOFS, "hopeless", Proof(small.model, "digits", small.parameters, accuracy=1.1))
    path = tmp_path / "results" / "proofs.jsonl"

    def run(*arguments):
        code = trainings.main([*arguments, "--out", str(path)])
        return code, [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return run


def test_rows(command, capsys):
    """One for each seed and precision, added to those of earlier runs."""
    code, rows = command("small", "--precision", "fp32,mixed_fp16", "--seeds", "2")
    assert code == trainings.REACHED and capsys.readouterr().out.count("reached") == 4
    assert [(row["precision"], row["seed"]) for row in rows] == [
        ("fp32", 0), ("mixed_fp16", 0), ("fp32", 1), ("mixed_fp16", 1)]
    for row in rows:
        assert row["data"] == "digits" and (row["n_train"], row["n_test"]) == (1437, 360)
        assert [epoch["epoch"] for epoch in row["history"]] == [1, 2]
        assert row["accuracy"] == row["correct"] / 360 > 0.5
        assert row["interval"][0] < row["accuracy"] < row["interval"][1]
        assert row["seconds"] == pytest.approx(sum(epoch["seconds"] for epoch in row["history"]))
        assert row["cpu_seconds"] > 0 and row["packages"]["numpy"] and row["parameters"]["batch_size"] == 64
        assert row["missed"] == []
    assert len(command("small")[1]) == 5


def test_a_figure_that_is_not_reached(command, capsys):
    """The row is written all the same. Of sums in half precision nothing is demanded."""
    code, (row,) = command("hopeless")
    assert code == trainings.MISSED and row["missed"][0].startswith("accuracy 0.")
    assert "< 1.1" in capsys.readouterr().out
    assert command("hopeless", "--precision", "fp16")[0] == trainings.REACHED
    assert "nothing is demanded" in capsys.readouterr().out


def test_an_interruption_leaves_what_was_finished(command, monkeypatch, capsys):
    command("small")
    fit = trainings._fit

    def interrupted(model, X, y, **options):
        if options:
            raise KeyboardInterrupt
        return fit(model, X, y, **options)
    monkeypatch.setattr(trainings, "_fit", interrupted)
    code, rows = command("small")
    assert code == trainings.INTERRUPTED and len(rows) == 1 and "interrupted" in capsys.readouterr().err


def test_a_line_that_was_cut_off_spoils_no_other(tmp_path):
    path = tmp_path / "rows.jsonl"
    trainings.append(path, {"a": 1})
    with open(path, "ab") as file:
        file.write(b'{"a": ')
    trainings.append(path, {"a": float("inf")})
    assert path.read_text().splitlines() == ['{"a": 1}', '{"a": ', '{"a": "inf"}']


@pytest.mark.parametrize("arguments, says", [
    (["cmn"], "Did you mean 'cnn'"), (["small", "--precision", "fp17"], "Did you mean 'fp16'")])
def test_usage(command, capsys, arguments, says):
    assert command(*arguments) == (trainings.USAGE, []) and says in capsys.readouterr().err


def test_without_the_data(command, monkeypatch, capsys):
    """No stand-in: a proof is about the data that it names."""
    def unavailable(name):
        raise trainings.datasets.DataUnavailable("put it there")
    monkeypatch.setattr(trainings.datasets, "load", unavailable)
    assert command("small") == (trainings.USAGE, []) and "put it there" in capsys.readouterr().err


@pytest.mark.parametrize("right, n, low, high", [
    (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)])
def test_the_interval_of_a_share_is_wilson_s(right, n, low, high):
    """R. G. Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17, 1998,
    table I, method 3."""
    assert trainings.wilson(right, n) == pytest.approx((low, high), abs=6e-5)


# ---- planted bugs

def test_each_planted_bug_is_in_code_that_some_rung_runs():
    chapters = {bug.chapter for bug in planted.bugs()}
    assert {"matmul", "collectives", "householder"} <= chapters
    assert [chapter for chapter in sorted(chapters) if not planted.served(chapter)] == []


@pytest.mark.parametrize("chapter, operations, chapters", [
    ("matmul", {"matmul"}, {"matmul"}),
    ("householder", {"qr", "least_squares"}, {"qr", "least_squares"}),       # qr imports it; so does least_norm,
    ("least_norm", {"least_squares"}, {"least_squares"})])                  # which has no rungs, either
def test_who_runs_the_code_of_a_chapter(chapter, operations, chapters):
    served = planted.served(chapter)
    assert ({o.name for o, _ in served}, {rung.chapter for _, rung in served}) == (operations, chapters)
