"""The command line whose output nobody can read, and that somebody ends."""
import io
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from numprec.harness.record import exits, streams

ROOT = Path(__file__).resolve().parents[2]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither these signals nor /dev/full")
MAIN = """
    import os, signal, sys, time
    from pathlib import Path
    from numprec.harness.record.streams import guarded

    def main():
        print("x" * 100_000, "ü", flush=True)
        print("said", "ü", file=sys.stderr)
        Path(sys.argv[1]).write_text("done")          # whatever became of the output
        file = os.open(sys.argv[1], os.O_RDONLY)
        return 100 + (file < 3)                       # a stream that is closed is nobody else's place
    sys.exit(guarded(main))
"""


def program(shell, tmp_path, text=MAIN, **environment):
    """(exit code, what it left in its file, stderr) of a Python program in a shell command, as "python > file"."""
    script, mark = tmp_path / "main.py", tmp_path / "mark"
    script.write_text(textwrap.dedent(text), encoding="utf-8")
    command = shell.replace("python", f"'{sys.executable}' '{script}' '{mark}'")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, encoding="utf-8", errors="replace",
                          env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
    return done.returncode, mark.read_text() if mark.exists() else "", done.stderr


@POSIX
@pytest.mark.parametrize("shell, code, says", [
    ("python > /dev/full; exit $?", 100, "not all of the output could be written: [Errno 28] No space left on device"),
    ("python | true; exit ${PIPESTATUS[0]}", 100, "said"),
    ("python >&-; exit $?", 100, "said"),
    ("python 2>&-; exit $?", 100, ""),
    ("python <&- >&- 2>&-; exit $?", 100, ""),
    ("python 2> /dev/full; exit $?", 100, ""),
    ("PYTHONIOENCODING=ascii python > /dev/null; exit $?", 100, "said \\xfc"),
    ("python -u > /dev/null; exit $?", 100, "said ü"),
])
def test_what_cannot_be_shown_keeps_nothing_from_being_done(shell, code, says, tmp_path):
    found, mark, said = program(shell, tmp_path, PYTHONUNBUFFERED="1" if "-u" in shell else "")
    assert (found, mark) == (code, "done") and says in said
    assert "Traceback" not in said and "Exception ignored" not in said and "BrokenPipe" not in said


@POSIX
def test_output_that_is_lost_is_no_success(tmp_path):
    assert program("python > /dev/full; exit $?", tmp_path, MAIN.replace("100 + (file < 3)", "0"))[0] == exits.FAILED
    assert program("python | true; exit ${PIPESTATUS[0]}", tmp_path, MAIN.replace("100 + (file < 3)", "0"))[0] == 0


@POSIX
@pytest.mark.parametrize("name, code, says", [
    ("SIGINT", 130, "bench.py: interrupted"), ("SIGTERM", 143, "bench.py: ended by SIGTERM"),
    ("SIGHUP", 129, "bench.py: ended by SIGHUP")])
def test_a_signal_before_there_is_anything_to_keep(name, code, says, tmp_path):
    text = MAIN.replace('print("x" * 100_000', f'os.kill(os.getpid(), signal.{name}); time.sleep(60); print("x"')
    assert program("python; exit $?", tmp_path, text) == (code, "", says + "\n")


@POSIX
def test_a_signal_that_is_ignored_stays_so(tmp_path):
    text = MAIN.replace('print("x" * 100_000', 'os.kill(os.getpid(), signal.SIGHUP); print("x"')
    assert program("trap '' HUP; python; exit $?", tmp_path, text)[:2] == (100, "done")


@POSIX
@pytest.mark.parametrize("shell, code", [
    ("python bench.py --list | true; exit ${PIPESTATUS[0]}", 0), ("python bench.py --list > /dev/full; exit $?", 1),
    ("python bench.py report nowhere 2>&-; exit $?", 2)])
def test_the_command_line_is_guarded(shell, code):
    done = subprocess.run(["bash", "-c", shell.replace("python", f"'{sys.executable}'")], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@POSIX
def test_another_program_goes_by_its_own_name():
    done = subprocess.run(["bash", "-c", f"'{sys.executable}' -m numprec.kernels > /dev/full"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("python -m numprec.kernels: not all of the output")


def test_a_path_on_another_drive_is_typed_as_it_is(monkeypatch):
    def across(path):      # as ntpath has it
        raise ValueError("path is on mount 'D:', start on mount 'C:'")
    monkeypatch.setattr(exits.os.path, "relpath", across)
    assert exits.typed("D:/runs/1") == "D:/runs/1"


def test_signals_have_the_shells_codes():
    from numprec.harness.record.streams import Stopped, code_of, how
    assert (code_of(KeyboardInterrupt()), how(KeyboardInterrupt())) == (130, "interrupted")
    assert (code_of(Stopped(signal.SIGTERM)), how(Stopped(signal.SIGTERM))) == (143, "ended by SIGTERM")


@POSIX
def test_a_stream_that_holds_no_bytes_is_left_alone_and_the_others_come_back(monkeypatch):
    """As a notebook's."""
    text, before = io.StringIO(), sys.stderr
    monkeypatch.setattr(sys, "stdout", text)

    def main():
        assert sys.stdout is text and sys.stderr is not before
        print("said")
        return 7
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        assert streams.guarded(main) == 7 and text.getvalue() == "said\n"
        assert sys.stdout is text and sys.stderr is before
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
