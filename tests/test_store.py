"""The folder of a run: nothing that was finished is lost, nothing is there twice, and nobody else writes to it."""
import math
import subprocess
import sys

import numpy as np
import pytest

from numprec.harness import store


def cell(name, *precisions):
    return [{"cell": name, "precision": p, "x": i, "y": 'a "quoted" \\ name'} for i, p in enumerate(precisions)]


TWO = cell("first", "fp64", "fp32"), cell('a "second"\\', "fp64", "fp32", "fp16")


@pytest.fixture
def folder(tmp_path):
    """A run of two cells."""
    with store.Store(tmp_path) as results:
        results.write_environment({"device": "none"})
        for rows in TWO:
            results.append(rows)
    return tmp_path


def named(rows):
    return [(row["cell"], row["precision"]) for row in rows]


def test_it_keeps_what_json_cannot_say(tmp_path):
    with store.Store(tmp_path) as results:
        results.write_environment({"device": "none"})
        results.append([{"precision": "fp64", "a": np.float32(0.5), "b": math.inf, "c": (1, np.int64(2), [-math.inf]),
                         "d": math.nan}])
    environment, (row,) = store.read(tmp_path)
    assert environment == {"device": "none", "schema_version": 2} and math.isnan(row.pop("d"))
    assert row == {"schema_version": 2, "cell": None, "of": 1, "precision": "fp64", "a": 0.5, "b": math.inf,
                   "c": [1, 2, [-math.inf]]}


def test_a_run_is_gone_on_with(folder):
    with store.Store(folder, resume=True) as results:
        assert named(results.rows) == named(TWO[0] + TWO[1])
        assert results.done == set(named(results.rows))
        results.append(cell("third", "fp64"))
        assert ("third", "fp64") in results.done
    assert named(store.read(folder)[1]) == named(TWO[0] + TWO[1]) + [("third", "fp64")]


def test_a_fresh_run_discards_the_one_before(folder):
    with store.Store(folder) as results:
        assert results.rows == [] and results.done == set() and store.environment_of(folder) is None
        results.write_environment({})
        results.append(cell("only", "fp64"))
    assert named(store.read(folder)[1]) == [("only", "fp64")]


def test_what_a_kill_left_half_written_is_cut_off_at_any_byte(folder, monkeypatch):
    """Wherever the last write was cut, the first cell stays, and the second is redone as a whole."""
    monkeypatch.setattr(store, "PROBE", 1)
    path = folder / store.RESULTS
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for size in range(len(lines[0] + lines[1]), len(whole)):
        path.write_bytes(whole[:size])
        assert len(store.read(folder)[1]) == whole[:size].count(b"\n")      # what was cut off is not read
        with store.Store(folder, resume=True) as results:
            assert named(results.rows) == named(store.finished(folder)) == named(TWO[0])
            results.append(TWO[1])
        assert path.read_bytes() == whole


def test_a_cell_that_was_added_to_loses_only_what_was_added(folder):
    with store.Store(folder, resume=True) as results:
        results.append(cell('a "second"\\', "bf16", "mixed_fp16"))
    path = folder / store.RESULTS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    assert named(store.finished(folder)) == named(TWO[0] + TWO[1])
    assert [row["of"] for row in store.finished(folder)] == [2, 2, 3, 3, 3]


def test_damage_in_the_middle_is_refused(folder):
    path = folder / store.RESULTS
    path.write_bytes(path.read_bytes().replace(b"{", b"#", 1))
    with pytest.raises(store.Unusable, match="line 1 .* is damaged"):
        store.Store(folder, resume=True)
    (folder / store.ENVIRONMENT).write_text("{")
    with pytest.raises(store.Unusable, match="damaged"):
        store.environment_of(folder)


def test_an_environment_where_there_is_none(folder, tmp_path):
    assert store.environment_of(folder)["device"] == "none"
    assert store.environment_of(tmp_path / "nowhere") is None
    assert store.environment_of(folder / store.RESULTS) is None


def test_a_second_process_is_kept_out(folder):
    script = ("import sys\nfrom numprec.harness import store\n"
              "try:\n    store.Store(sys.argv[1], resume=True)\nexcept store.Unusable as error:\n    print(error)")

    def other():
        return subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True,
                              check=True).stdout
    with store.Store(folder, resume=True):
        assert "another process is writing" in other()
    assert other() == ""


def test_a_write_that_fails_leaves_whole_cells(folder, monkeypatch):
    """A full disk takes a part of a write, and refuses the rest."""
    class FullDisk:
        def __init__(self, file, room):
            self.file, self.room = file, room

        def write(self, data):
            if not self.room:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[:self.room])
            self.room -= written
            return written

        def __getattr__(self, name):
            return getattr(self.file, name)

    before = (folder / store.RESULTS).read_bytes()
    with store.Store(folder, resume=True) as results:
        results._file = FullDisk(results._file, room=150)
        with pytest.raises(OSError, match="No space left"):
            results.append(cell("third", "fp64", "fp32"))
        assert len(results.rows) == len(results.done) == 5
    assert (folder / store.RESULTS).read_bytes() == before


def test_an_interruption_while_the_disk_works_finds_the_cell_in_the_run(folder, monkeypatch):
    def interrupted(file):
        raise KeyboardInterrupt
    with store.Store(folder, resume=True) as results:
        monkeypatch.setattr(store.os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            results.append(cell("third", "fp64"))
        assert named(results.rows) == named(store.finished(folder)) and ("third", "fp64") in results.done


def test_a_disk_with_no_room_is_found_out_at_once(tmp_path):
    resource = pytest.importorskip("resource", reason="no limits on file sizes on Windows")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (store.PROBE // 2, limit[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            store.Store(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in tmp_path.iterdir()] == [store.LOCK]
    store.Store(tmp_path).__exit__()     # the lock was let go
