"""The folder of a run: nothing that was finished is lost, nothing is there twice, and nobody else writes to it."""
import functools
import itertools
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import rows

from numprec.harness.record import rows as measured
from numprec.harness.record import schema, store
from numprec.harness.show import tables


def cell(name, *precisions):
    return [rows.training_row(p, cell=name, data='a "quoted" \\ name') for p in precisions]


TWO = cell("first", "fp64", "fp32"), cell('a "second"\\', "fp64", "fp32", "fp16")


@pytest.fixture
def folder(tmp_path):
    """A run of two cells."""
    with store.Store(tmp_path) as results:
        results.write_environment(rows.environment())
        for each in TWO:
            results.append(each)
    return tmp_path


def named(found):
    return [(row["cell"], row["precision"]) for row in found]


def test_it_keeps_what_json_cannot_say(tmp_path):
    with store.Store(tmp_path) as results:
        results.write_environment(rows.environment())
        results.append([rows.training_row(score=np.float32(0.5), condition=math.inf, target=math.nan,
                                          parameters={"c": (1, np.int64(2), [-math.inf])})])
    environment, (row,) = store.read(tmp_path)
    assert environment == rows.environment() and row["of"] == 1
    assert (row["score"], row["condition"], row["parameters"]) == (0.5, math.inf, {"c": [1, 2, [-math.inf]]})
    assert math.isnan(row["target"])


@pytest.mark.parametrize("column, value", [("samples_s", [0.0]), ("score", "high"), ("first_fit_s", -1.0),
                                           ("n_iter", math.nan)])
def test_what_could_not_be_read_again_is_a_failure_that_names_it(tmp_path, column, value, capsys):
    """A clock that is coarse gives a sample of no time at all."""
    with store.Store(tmp_path) as results:
        results.write_environment(rows.environment())
        results.append([rows.training_row("fp64"), rows.training_row("fp32", **{column: value})])
        kept = results.rows
    good, bad = store.read(tmp_path)[1]
    assert capsys.readouterr().err == "" and [row["status"] for row in kept] == ["ok", "FAIL"]
    assert good["status"] == "ok" and bad["status"] == "FAIL" and bad[column] is None
    assert bad["reason"].startswith(f"a value cannot be kept: {column} is ")


def test_a_reason_that_no_file_can_hold_is_spelled_out(tmp_path):
    row = rows.training_row()
    measured.fail(row, "cannot open \udcff.txt")
    with store.Store(tmp_path) as results:
        results.write_environment(rows.environment())
        results.append([row])
    assert store.read(tmp_path)[1][0]["reason"] == "cannot open \\udcff.txt"


def test_a_run_is_resumed(folder):
    with store.Store(folder, resume=True) as results:
        assert named(results.rows) == named(TWO[0] + TWO[1])
        assert results.done == set(named(results.rows))
        results.append(cell("third", "fp64"))
        assert ("third", "fp64") in results.done
    assert named(store.read(folder)[1]) == named(TWO[0] + TWO[1]) + [("third", "fp64")]


def test_a_fresh_run_discards_the_one_before(folder):
    with store.Store(folder, fresh=True) as results:
        assert results.rows == [] and results.done == set() and store.environment_of(folder) is None
        results.write_environment(rows.environment())
        results.append(cell("only", "fp64"))
    assert named(store.read(folder)[1]) == [("only", "fp64")]


def test_what_a_kill_left_half_written_is_cut_off_wherever_it_was_cut(folder, monkeypatch):
    """Wherever the last write was cut, the first cell stays, and the second is redone as a whole."""
    monkeypatch.setattr(store, "PROBE", 1)
    path = folder / store.RESULTS
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    begin, ends = len(lines[0] + lines[1]), {sum(map(len, lines[:i])) + by for i in (3, 4, 5) for by in (-1, 0, 1)}
    with monkeypatch.context() as patch:
        patch.setattr(store, "_row", functools.lru_cache(store._row))
        for size in range(len(whole) - 1, begin - 1, -1):
            os.truncate(path, size)
            found, keep = store._complete(path, pytest.fail)
            assert (named(found), keep) == (named(TWO[0]), begin)
    for size in sorted({begin, *ends} - {len(whole), len(whole) + 1}):
        path.write_bytes(whole[:size])
        assert named(store.read(folder)[1]) == named(TWO[0])                # what was cut off is not read
        with store.Store(folder, resume=True) as results:
            assert named(results.rows) == named(TWO[0]) and results.done == store.finished(folder)
            results.append(TWO[1])
        assert path.read_bytes() == whole


def test_a_cell_that_was_added_to_loses_only_what_was_added(folder):
    with store.Store(folder, resume=True) as results:
        results.append(cell('a "second"\\', "bf16", "mixed_fp16"))
    path = folder / store.RESULTS
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    found = store.read(folder)[1]
    assert named(found) == named(TWO[0] + TWO[1]) and [row["of"] for row in found] == [2, 2, 3, 3, 3]


# ---- damage

DAMAGED = [b"", b"#", b"{", b"5", b"null", b'"text"', b"[]", b"{}", b"[" * 100_000, b"\xff\xfe", b"1" * 5000, b"NaN",
           b'{"schema_version": 2}']


@pytest.mark.parametrize("number", range(5))
def test_a_damaged_line_costs_its_cell_and_no_more(folder, capsys, number):
    path = folder / store.RESULTS
    lines = path.read_bytes().split(b"\n")
    mine = named(TWO[0]) if number < 2 else named(TWO[1])
    for damage in DAMAGED:
        content = b"\n".join([*lines[:number], damage, *lines[number + 1:]])
        path.write_bytes(content)
        others = [key for key in named(TWO[0] + TWO[1]) if key not in mine]
        assert named(store.read(folder)[1]) == others
        assert f"{path}, line {number + 1}: " in capsys.readouterr().err
    with store.Store(folder, resume=True) as results:
        assert named(results.rows) == others
        results.append(TWO[0] if number < 2 else TWO[1])
    assert sorted(named(store.read(folder)[1])) == sorted(named(TWO[0] + TWO[1]))
    assert path.read_bytes().startswith(b"\n".join(lines[:number]))


@pytest.mark.parametrize("left", [some for n in (1, 2, 3) for some in itertools.permutations(range(3), n)
                                  if some != (0, 1, 2)], ids=str)
@pytest.mark.parametrize("then", ["", "#\n", "half"])
def test_what_is_left_of_a_cell_costs_nothing_that_is_written_after_it(folder, left, then):
    """Lines that were lost or put in another order: the cell is written again behind them, and found."""
    path = folder / store.RESULTS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], *(lines[2 + i] for i in left), lines[0] if then == "half" else then]))
    for _ in range(2):
        with store.Store(folder, resume=True) as results:
            missing = [each for each in TWO if not set(named(each)) <= results.done]
            for each in missing:
                results.append(each)
        assert sorted(named(store.read(folder)[1])) == sorted(named(TWO[0] + TWO[1]))
    assert not missing


def test_many_damaged_lines_share_a_warning(folder, capsys):
    with open(folder / store.RESULTS, "ab") as file:
        file.write(b"#\n" * 100)
    assert len(store.read(folder)[1]) == 5
    said = capsys.readouterr().err.splitlines()
    assert len(said) == store.REPORTED + 1 and "95 more lines" in said[-1]


@pytest.mark.parametrize("of", [-2, 0, 10 ** 6, 10 ** 30, 1.5, "2", None, True, [2]])
def test_how_many_rows_were_written_together_is_not_believed(folder, of):
    path = folder / store.RESULTS
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([json.dumps({**json.loads(first), "of": of}) + "\n", *others]))
    assert named(store.read(folder)[1]) == named(TWO[1])


def test_rows_that_are_there_twice_count_once_and_the_last_one_does(folder):
    path = folder / store.RESULTS
    path.write_bytes(2 * path.read_bytes())
    assert named(store.read(folder)[1]) == named(TWO[0] + TWO[1])
    with store.Store(folder, resume=True) as results:
        results.append([{**TWO[0][1], "score": 0.75}])
        assert [row["score"] for row in results.rows] == [0.5, 0.75, 0.5, 0.5, 0.5]
    assert [row["score"] for row in store.read(folder)[1]] == [0.5, 0.75, 0.5, 0.5, 0.5]


ODD = [None, True, -1, 0, 0.5, 10 ** 30, -10 ** 400, math.inf, math.nan, "", "x", "\ud800", [], [None], [-1], {},
       {"a": []}]


def places(value, path=()):
    """The paths to all that stands in a value, at any depth."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, item in inner:
        yield (*path, name)
        yield from places(item, (*path, name))


def replaced(value, path, odd):
    if not path:
        return odd
    value = value.copy()
    value[path[0]] = replaced(value[path[0]], path[1:], odd)
    return value


def test_every_value_is_right_or_named():
    """Whatever stands in the place of any value, at any depth: it is refused by the name of its column, or it is one
    that this column may have, of which tables can be made."""
    sound = [rows.kernel_row(), rows.network_row("mixed_fp16", counts=dict(rows.COUNTS)), rows.peer_row()]
    sound += [rows.failed({**rows.training_row(), "status": "FAIL"})]
    for row in sound:
        row["of"] = 1
        row = json.loads(json.dumps(store.plain(row)))
        assert schema.row(row) == ""
        for path in places(row):
            for odd in ODD:
                changed = replaced(row, path, odd)
                said = schema.row(changed)
                assert not said or said.startswith((path[0], "labels_differ")), (path, odd)
                if not said:
                    tables.text([changed], rows.environment())
            assert path[0] == "parameters" or any(schema.row(replaced(row, path, odd)) for odd in ODD), path
    assert schema.environment(rows.environment()) == ""
    for name in rows.environment():
        known = name in schema.ENVIRONMENT or name in schema.FURTHER or name == "schema_version"
        assert known and any(schema.environment({**rows.environment(), name: odd}) for odd in ODD)


@pytest.mark.parametrize("content", ["", "null", "[]", "5", "{", "{}", "[" * 100_000, '{"schema_version": 1}',
                                     '{"schema_version": 2}', "\udcff"])
def test_a_damaged_environment_is_refused_by_name(folder, content):
    (folder / store.ENVIRONMENT).write_text(content, errors="surrogateescape")
    before = (folder / store.RESULTS).read_bytes()
    for use in store.environment_of, store.read:
        with pytest.raises(store.Unusable, match="env.json cannot be used: ") as refused:
            use(folder)
        assert ("--fresh" in str(refused.value)) == store._ours(folder / store.ENVIRONMENT)
    assert (folder / store.RESULTS).read_bytes() == before


def test_an_environment_lacks_nothing_that_is_asked_of_it():
    facts = rows.environment()
    for name in facts:
        less = {key: value for key, value in facts.items() if key != name}
        assert schema.environment(less) == ("" if name in schema.FURTHER else f"{name} is missing" if
                                            name != "schema_version" else schema.environment({}))


# ---- what is not ours

FOREIGN = {store.RESULTS: b"thesis", store.ENVIRONMENT: b'{"my": "settings"}', "tables.md": b"# Results\nmine\n",
           "training.csv": b"epoch,loss\n1,2\n", "scores.png": b"\x89PNG of mine", "roofline.svg": b"<svg/>"}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("how", [{}, {"fresh": True}, {"resume": True}])
def test_a_file_of_somebody_else_stays(tmp_path, name, how, capsys):
    """A picture does not prevent a run from being resumed or discarded: early ones carry no mark."""
    (tmp_path / name).write_bytes(FOREIGN[name])
    if name in (store.RESULTS, store.ENVIRONMENT) or "resume" not in how and not (
            "fresh" in how and name.endswith((".png", ".svg"))):
        with pytest.raises(store.Unusable, match=f"{name} was not written by this program"):
            store.Store(tmp_path, files=list(FOREIGN), **how)
        assert len(list(tmp_path.iterdir())) == 1
    else:
        store.Store(tmp_path, files=list(FOREIGN), **how).__exit__()
        told = capsys.readouterr().err
        assert told == ("" if "resume" in how else f"bench.py: warning: {tmp_path / name} does not say that this "
                        "program drew it, and is not touched\n")
    with pytest.raises(store.Unusable, match="is not touched"):
        store.replace(tmp_path / name, b"")
    assert (tmp_path / name).read_bytes() == FOREIGN[name]


@pytest.mark.parametrize("name", [store.RESULTS, store.ENVIRONMENT, store.LOCK, "tables.md"])
@pytest.mark.parametrize("dangling", [True, False])
def test_no_link_is_followed_for_writing(tmp_path, name, dangling):
    folder, target = tmp_path / "run", tmp_path / "target"
    folder.mkdir()
    if not dangling:
        target.write_bytes(store.ROW)
    try:
        (folder / name).symlink_to(target)
    except OSError:
        pytest.skip("no right to make links")
    for how in {}, {"fresh": True}, {"resume": True}:
        with pytest.raises(store.Unusable, match="links are not followed"):
            with store.Store(folder, files=["tables.md"], **how) as results:
                store.replace(results.folder / name, b"")    # a resumed run writes its tables late
    assert (folder / name).is_symlink() and target.exists() == (not dangling)
    assert dangling or target.read_bytes() == store.ROW


def test_results_without_an_environment_are_kept(folder):
    (folder / store.ENVIRONMENT).unlink()
    before = (folder / store.RESULTS).read_bytes()
    with pytest.raises(store.Unusable, match="no env.json beside it says of what"):
        store.Store(folder)
    assert (folder / store.RESULTS).read_bytes() == before
    with store.Store(folder, fresh=True) as results:
        assert results.rows == []


@pytest.mark.parametrize("harm", [
    lambda folder: (folder / store.RESULTS).unlink(), lambda folder: folder.rename(folder.parent / "elsewhere"),
    lambda folder: (folder / store.RESULTS).replace(folder / "other"), shutil.rmtree,
    lambda folder: (shutil.rmtree(folder), folder.mkdir(), (folder / store.RESULTS).touch())],
    ids=["file deleted", "folder renamed", "file renamed", "folder deleted", "another in its place"])
@pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes and renames no file that is open")
def test_results_that_are_gone_are_noticed(folder, harm):
    with store.Store(folder, resume=True) as results:
        results.append(cell("third", "fp64"))
        harm(folder)
        with pytest.raises(store.Gone, match="deleted or moved"):
            results.append(cell("fourth", "fp64"))


def test_what_was_left_half_written_is_swept(folder):
    old, new = (folder / f"{store.TEMPORARY}{name}" for name in ("old", "new"))
    for path in old, new:
        path.touch()
    os.utime(old, (1, 1))
    store.Store(folder, resume=True).__exit__()
    assert not old.exists() and new.exists()


def test_a_folder_without_an_environment(folder, tmp_path):
    assert store.environment_of(folder) == rows.environment()
    assert store.environment_of(tmp_path / "nowhere") is None
    assert store.environment_of(folder / store.RESULTS) is None
    with pytest.raises(FileNotFoundError):
        store.read(tmp_path / "nowhere")


def test_a_second_process_is_kept_out(folder):
    script = ("import sys\nfrom numprec.harness.record import store\n"
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
        assert results.done == store.finished(folder) and ("third", "fp64") in results.done


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
