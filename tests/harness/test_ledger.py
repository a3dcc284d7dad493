"""What many processes find is kept as it comes, and whatever ends the work ends them."""
import json
import multiprocessing
import os
import time

import pytest

from numprec.harness.record import exits, ledger

KEY, FACTS = ("name", "number"), {"sources": "a", "seeds": 3}


def opened(path, facts=FACTS):
    return ledger.Ledger(path, KEY, facts)


def test_what_has_its_line_is_there_the_next_time(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    with opened(path) as first:
        first.add({"name": "x", "number": 1, "found": ["ü"]})
    with opened(path) as again:
        assert again.rows == {("x", 1): {"name": "x", "number": 1, "found": ["ü"], **FACTS}}
    with opened(path, {**FACTS, "sources": "b"}) as others:
        assert others.rows == {}


def test_a_line_that_was_torn_is_done_again_and_the_next_one_stands_by_itself(tmp_path):
    path, rows = tmp_path / "out.jsonl", [{"name": "x", "number": i} for i in range(2)]
    with opened(path) as first:
        for row in rows:
            first.add(row)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with opened(path) as torn:
            left = [row for row in rows if ("x", row["number"]) not in torn.rows]
            assert left
            for row in left:
                torn.add(row)
        with opened(path) as again:
            assert set(again.rows) == {("x", 0), ("x", 1)}


@pytest.mark.parametrize("line", [b"\xff", b"[" * 100_000, b"5", b'{"name": "x"}', b'{"name": []}'])
def test_a_damaged_line_costs_itself(tmp_path, line):
    path, row = tmp_path / "out.jsonl", {"name": "x", "number": 1, **FACTS}
    path.write_bytes(b"\n".join([json.dumps(row).encode(), line, json.dumps({**row, "number": 2}).encode(), b""]))
    with opened(path) as found:
        assert set(found.rows) == {("x", 1), ("x", 2)}


@pytest.mark.parametrize("content", [b"thesis", b'{"operation": "sum"}\n', b"\xff\xfe"])
def test_a_file_of_somebody_else_stays(tmp_path, content):
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(exits.Refused, match="was not written by this program"):
        opened(path)
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path in tmp_path, tmp_path / "file" / "out.jsonl", tmp_path / ("x" * 300):
        with pytest.raises(exits.Refused, match="cannot keep what is found: "):
            opened(path)


@pytest.mark.parametrize("how", [KeyboardInterrupt, ValueError])
def test_whatever_ends_the_work_ends_the_processes(how):
    before, begun = multiprocessing.active_children(), time.monotonic()
    with pytest.raises(how), ledger.workers() as pool:
        assert pool.submit(os.getpid).result() != os.getpid()
        for _ in range(9):
            pool.submit(time.sleep, 600)
        raise how
    # A process counts as active until its exit code is stored, which the pool's own thread may be about to do.
    while left := [process for process in multiprocessing.active_children() if process not in before]:
        assert time.monotonic() - begun < 60, left
        time.sleep(0.01)
    assert time.monotonic() - begun < 60


def test_a_process_that_crashes_is_reported():
    with pytest.raises(exits.Refused, match="crashed") as refused, ledger.workers() as pool:
        pool.submit(os._exit, 9).result()
    assert refused.value.code == exits.FAILED
