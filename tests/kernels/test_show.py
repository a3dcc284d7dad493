"""`python -m numprec.kernels`: the contents, the title pages, a chapter that runs, and the exercises under *Try*."""
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from numprec import device as devices
from numprec import kernels
from numprec.harness.measure import profiling
from numprec.harness.record.exits import FAILED, Refused
from numprec.harness.show import book, chapter, contents
from numprec.precision import PRECISIONS

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = {"sectors": 1, "wavefronts": 2, "barriers": 3, "flops / byte": 4, "occupancy": 5}
TRIES = [(f"{name}-{i}", exercise) for name, module in kernels.chapters().items()
         for i, exercise in enumerate(contents.page_of(module).exercises())
         if exercise.command.startswith(f"{chapter.PROGRAM} ")]
EXERCISES = [pytest.param(exercise, id=name) for name, exercise in TRIES if not exercise.by_hand]
BY_HAND = [exercise for _, exercise in TRIES if exercise.by_hand]


def line_of(text, rung):
    """The columns of the one line of a table that begins with a rung's name."""
    line, = (line for line in text.splitlines() if re.match(rf"{rung}\s+[\d,.-]+\s", line))
    return line.split()


def test_the_contents_name_everything(capsys):
    assert book.main([]) == 0
    text = capsys.readouterr().out
    for name in (*kernels.PARTS, *kernels.chapters(), *kernels.operations()):
        assert re.search(rf"\b{name}\b", text), name
    for rung in {rung.name for operation in kernels.operations().values() for rung in operation.rungs}:
        assert re.search(rf"\b{rung}\b", text), rung


def test_every_page_has_its_ideas():
    """A title in one sentence, and one sentence each on the GPU and on precision."""
    for part, names in kernels.PARTS.items():
        page = contents.page_of(contents.part_module(part))
        assert page.title.endswith(".")
        climbs = any(contents.ladders(name) for name in names)
        assert {"Idea", "Precision", *(("Ladders",) * climbs)} <= set(page.labels), part
        for name in names:
            page = contents.page_of(kernels.chapters()[name])
            assert page.sentence("Idea") and page.sentence("Precision"), name


def test_a_page_is_read_by_its_labels():
    page = contents.page("""A title
in two lines.

Idea       one [1]. Two
           lines

    picture

Sources    none

A paragraph.

Try        python -m numprec.kernels x
           What? Answer: y, barriers: 2, for
           a reason.
""")
    assert page.title == "A title in two lines."
    assert page.labels["Idea"] == "one [1]. Two\nlines" and page.sentence("Idea") == "one [1]."
    assert page.labels["Sources"] == "none" and page.sentence("Maths") == ""
    assert page.exercises() == [("python -m numprec.kernels x", "What?", "y, barriers: 2, for a reason.")]


def test_nothing_has_drifted():
    drifted = [str(path.relative_to(ROOT)) for path in contents.stale(ROOT)]
    assert not drifted, f"run `{contents.COMMAND}`"


def test_what_drifts_is_seen_and_brought_up_to_date(tmp_path):
    for path in (contents.README, *(f"numprec/kernels/{part}/__init__.py" for part in kernels.PARTS)):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    assert contents.stale(tmp_path) == []
    page, readme = tmp_path / "numprec/kernels/products/__init__.py", tmp_path / contents.README
    for path, word in ((page, "naive, tiled"), (readme, "[reduce](")):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(word, "other", 1), encoding="utf-8")
        assert contents.stale(tmp_path) == [path]
        assert contents.update(tmp_path) == [path] and path.read_text(encoding="utf-8") == text


def test_a_chapter_runs(capsys):
    """A line for each rung; operations that climb the same ladder are named."""
    assert book.main(["reduce", "--shape", "1000"]) == 0
    text = capsys.readouterr().out
    for rung in kernels.operations()["sum"].rungs:
        assert len(line_of(text, rung.name)) == 12
    assert "sum 1000, fp32" in text and "The same ladder: dot" in text
    assert "T4" in text and "H100" in text and "model" in text and "Nothing was measured" in text
    assert text.index("Idea") < text.index("Ladder") < text.index("counted by the emulator") < text.index("Try")
    assert "Answer" not in text


def test_several_precisions_have_a_line_each(capsys):
    assert book.main(["sum", "--rung", "serial", "--shape", "100", "--precision", "fp32,fp16"]) == 0
    text = capsys.readouterr().out
    assert re.search("^serial +fp32 ", text, re.MULTILINE) and re.search("^serial +fp16 ", text, re.MULTILINE)


def test_many_rungs_share_the_cores():
    """As they are asked for, whichever process is done first."""
    todo = [("sum", "serial", PRECISIONS["fp32"], (n,)) for n in (8, 16, 64)]
    assert len(todo) >= chapter.MANY
    assert [found.sectors for found in chapter._all_figures(todo)] == [n + 1 for *_, (n,) in todo]


def test_the_figures_of_a_tiled_product():
    """Of 32 x 32 x 32 results in tiles of 16: for each of two pairs of tiles, a thread stores and the warp loads."""
    operation = kernels.operations()["matmul"]
    found = chapter.figures(operation, operation.rung("tiled"), PRECISIONS["fp32"], (32, 32, 32))
    tiles, tile, warp, sector = 2, 16, 32, 8               # floats in a sector
    assert found.barriers == 2 * tiles
    assert found.sectors == (2 * 32 / tile + 1) / sector
    assert found.wavefronts == tiles * (2 / warp + tile * 2 / warp) and 0 < found.error <= 1
    assert found.rung == "tiled" and len(found.seconds) == len(chapter.CARDS)


@pytest.mark.parametrize("name, chosen", [("matmul", "matmul"), ("numprec.kernels.products.matmul", "matmul"),
                                          ("numprec/kernels/products/matmul.py", "matmul"), ("products", "products"),
                                          ("matmul_ta", "matmul")])
def test_a_chapter_has_many_names(name, chosen):
    assert book._chapter(name) == (chosen, name if name == "matmul_ta" else None)


def test_a_part_shows_its_title_page(capsys):
    assert book.main(["products"]) == 0
    assert capsys.readouterr().out.startswith(contents.page_of("numprec.kernels.products").title)


def test_a_chapter_that_launches_nothing_says_who_builds_on_it(capsys):
    assert book.main(["smo_step"]) == 0
    assert "Chapters that build on it: smo, " in capsys.readouterr().out


def test_the_first_part_runs_by_chapter_and_by_page(capsys):
    assert book.main(["barrier"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("barrier\n=")
    assert book.main(["memory"]) == 0
    assert page in capsys.readouterr().out


def test_the_source_of_a_rung(capsys):
    assert book.main(["matmul", "--source", "tiled"]) == 0
    text = capsys.readouterr().out
    assert "def tiled(" in text and "def naive(" not in text and "numprec/kernels/products/matmul.py, line" in text


@pytest.mark.parametrize("arguments, says", [
    (["matmull"], "Did you mean 'matmul'"),
    (["matmul", "--rung", "tield"], "Did you mean 'tiled'"),
    (["matmul", "--source", "tield"], "Did you mean 'tiled'"),
    (["matmul", "--operation", "matmul_tc"], "Did you mean 'matmul_t"),
    (["matmul", "--precision", "fp31"], "Did you mean 'fp32'"),
    (["matmul", "--shape", "64x64"], "matmul takes 1024x1024x16"),
    (["matmul", "--shape", "64x0x64"], "is no shape"),
    (["matmul", "--without", "syncthreads"], "it has to be in one"),
    (["matmul", "--without", "no such words"], "in no lines"),
])
def test_what_cannot_be_done_is_a_sentence(arguments, says, capsys):
    assert book.main(arguments) == 2
    told = capsys.readouterr()
    assert says in told.err and not told.out


def test_a_crash_is_no_error_of_usage(monkeypatch, capsys):
    def crashes(*what):
        raise Refused("a process that ran kernels crashed", FAILED)
    monkeypatch.setattr(chapter, "figures", crashes)
    assert book.main(["sum", "--rung", "serial"]) == FAILED
    assert "a process that ran kernels crashed" in capsys.readouterr().err


def test_a_wrong_result_is_named(monkeypatch, capsys):
    wrong = chapter.Figures("serial", "fp32", 1.0, 0.0, 0.0, 1.0, 1.0, 2.0, "latency", (1e-6, 1e-6))
    monkeypatch.setattr(chapter, "figures", lambda *what: wrong)
    assert book.main(["sum", "--rung", "serial"]) == 1
    assert "WRONG: serial in fp32" in capsys.readouterr().out


def test_where_there_is_a_gpu_its_time_is_shown(monkeypatch, capsys):
    emulator = devices.get("emulator")
    card = SimpleNamespace(is_emulator=False, name="a card")
    monkeypatch.setattr(devices, "get", lambda name=None, **options: emulator if name else card)
    monkeypatch.setattr(profiling, "measured", lambda *what: "12.5 µs")
    assert book.main(["sum", "--rung", "serial", "--shape", "100"]) == 0
    text = capsys.readouterr().out
    assert line_of(text, "serial")[-2:] == ["12.5", "µs"] and "the median on a card" in text and "model" not in text


@pytest.mark.parametrize("exercise", EXERCISES)
def test_an_exercise_has_its_answer(exercise, capsys):
    """Each command under *Try* prints what the docstring answers."""
    arguments = shlex.split(exercise.command)[3:]
    if "--without" in arguments:                   # changes a chapter before it is imported
        done = subprocess.run([sys.executable, "-m", "numprec.kernels", *arguments], cwd=ROOT, capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        text = done.stdout
    else:
        assert book.main(arguments) == 0
        text = capsys.readouterr().out
    if quoted := re.match(r'"([^"]+)"', exercise.answer):
        assert quoted[1] in " ".join(text.split())
    else:
        rung, column, number = re.match(r"(\w+), ([\w /]+): ([\d.,]*\d)", exercise.answer).groups()
        assert line_of(text, rung)[COLUMNS[column]] == number


class Asked(Exception):
    pass


def test_the_command_beside_an_exercise_by_hand_is_understood(monkeypatch):
    """It names a chapter, a rung and precisions that there are; it is not run, since it does not hold the answer."""
    def ask(todo):
        raise Asked(todo)
    monkeypatch.setattr(chapter, "_all_figures", ask)
    for exercise in [*BY_HAND, contents.Exercise(f"{chapter.PROGRAM} matmul --rung tiled", "Exercise: 1 + 1?", "2")]:
        with pytest.raises(Asked) as asked:
            book.main(shlex.split(exercise.command)[3:])
        assert asked.value.args[0] and exercise.answer


def test_the_chapters_that_one_begins_with_have_exercises():
    for name in ("reduce", "argmax", "matmul", "cross_entropy", "im2col", "conv"):
        assert contents.page_of(kernels.chapters()[name]).exercises(), name
