"""The results in README.md: they say what data/results/ says, here and in a project made up for the test."""
import gzip
from pathlib import Path

import pytest
import rows as fabricated

from numprec.harness.judge import verdicts
from numprec.harness.record import store
from numprec.harness.show import published, summary

ROOT = Path(__file__).resolve().parents[2]


def some_rows():
    rows = [fabricated.kernel_row(p, "gram", "tiled") for p in ("fp64", "fp32")]
    return rows + fabricated.runs("fp64", [0.4, 0.5, 0.45]) + fabricated.runs("fp16", [0.3, 0.41, 0.35])


def marked(*names):
    return "".join(f"before {name}\n\n<!-- results:{name} -->\n<!-- /results:{name.split()[0]} -->\n\n"
                   for name in names)


def keep(root, name, rows=None, **environment):
    with store.Store(root / "data/results" / name) as results:
        results.write_environment(fabricated.environment(**environment))
        for row in some_rows() if rows is None else rows:
            results.append([row])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "README.md").write_text(marked("answer", "verdicts", "cost", "kernels", "recommendations", "measured"),
                                        encoding="utf-8")
    keep(tmp_path, "run")
    return tmp_path


def readme(root):
    return (root / "README.md").read_text(encoding="utf-8")


def test_the_readme_says_what_the_results_say():
    """`python bench.py publish` mends it."""
    assert published.stale(ROOT) == []


def test_sections_are_filled_in_and_what_is_around_them_stays(root):
    assert published.update(root) == [root / "README.md"]
    text, environment = readme(root), fabricated.environment()
    for line in (*verdicts.answer(some_rows(), environment).splitlines(),
                 *verdicts.recommend(some_rows(), environment)):
        assert line in text
    for table in (summary.safe, summary.cost, summary.fast):
        for _, lines in table(some_rows(), environment).blocks:
            for cell in (cell for line in lines for cell in line):
                assert cell.replace("\n", "<br>") in text
    assert "Some GPU (Some CPU, 2 cores), 2026-03-01, commit 0123456789ab: `python bench.py --scale full`" in text
    assert text.startswith("before answer\n\n<!-- results:answer -->\n") and text.count("before ") == 6
    assert published.stale(root) == [] and published.update(root) == []


def test_drift_is_seen(root):
    published.update(root)
    cell = summary.safe(some_rows(), fabricated.environment()).blocks[0][1][0][1]
    (root / "README.md").write_text(readme(root).replace(cell, "0.9999 ± 0.0001"), encoding="utf-8")
    sentence, = published.stale(root)
    assert "verdicts" in sentence
    published.update(root)
    assert cell in readme(root) and published.stale(root) == []


def test_other_results_make_it_stale(root):
    """Scores that move alike change the mean scores, and no difference."""
    published.update(root)
    (root / "data/results/run" / store.RESULTS).unlink()
    keep(root, "run", [{**row, "score": row["score"] + 0.1} if "score" in row else row for row in some_rows()])
    assert published.stale(root) == ["README.md: the section verdicts does not say what data/results does"]


def test_gzipped_results_are_the_same_results(root):
    published.update(root)
    path = root / "data/results/run" / store.RESULTS
    (path.parent / (path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert published.stale(root) == []


def test_a_section_may_name_its_run(root):
    keep(root, "later", time="2026-04-01T00:00:00+00:00", device="Later GPU",
         command="python bench.py --out x/y --seeds 3")
    (root / "README.md").write_text(marked("measured", "measured run"), encoding="utf-8")
    published.update(root)
    first, second = published.MARKER.finditer(readme(root))
    assert "`python bench.py --seeds 3`" in first["body"]    # where it was written says nothing here
    assert "Later GPU" in first["body"] and "data/results/later" in first["body"]
    assert "Some GPU" in second["body"] and second["run"] == "run"


# ---- figures

@pytest.fixture
def pictured(root):
    (root / "README.md").write_text(marked("figure-scores"), encoding="utf-8")
    published.update(root)
    return root


def test_figures_are_drawn_beside_the_results(pictured):
    path = pictured / "data/results/figures/run-scores.png"
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size < 150_000
    assert "](data/results/figures/run-scores.png)" in readme(pictured)
    assert published.stale(pictured) == [] and published.update(pictured) == []


def test_a_figure_of_other_results_is_stale(pictured):
    (pictured / "data/results/run" / store.RESULTS).unlink()
    keep(pictured, "run", some_rows()[:-1])
    assert published.stale(pictured) == ["data/results/figures/run-scores.png was drawn from other results"]
    assert pictured / "data/results/figures/run-scores.png" in published.update(pictured)
    assert published.stale(pictured) == []


def test_a_figure_that_is_missing_is_drawn_again(pictured):
    path = pictured / "data/results/figures/run-scores.png"
    path.unlink()
    assert published.stale(pictured) == ["data/results/figures/run-scores.png is missing"]
    assert published.update(pictured) == [path]


def test_a_figure_that_is_no_longer_shown_is_stale(pictured):
    (pictured / "README.md").write_text("nothing\n", encoding="utf-8")
    assert published.stale(pictured) == ["data/results/figures/run-scores.png is no longer shown"]


# ---- what is asked for and is not there

@pytest.mark.parametrize("text, says", [
    (marked("verdict"), "Did you mean 'verdicts'"),
    (marked("figure-score"), "Did you mean 'scores'"),
    (marked("verdicts rum"), "Did you mean 'run'"),
    ("<!-- results:cost -->\n", "has no <!-- /results:cost -->"),
    ("<!-- results:cost -->\n<!-- /results:answer -->\n", "has no <!-- /results:cost -->"),
    (marked("figure-curves"), "nothing to draw"),
])
def test_markers_that_cannot_be_filled(root, text, says):
    (root / "README.md").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=says):
        published.update(root)
    assert readme(root) == text


def test_without_a_run_there_is_nothing_to_show(tmp_path):
    (tmp_path / "README.md").write_text("no markers\n", encoding="utf-8")
    assert published.update(tmp_path) == [] and published.stale(tmp_path) == []
    (tmp_path / "README.md").write_text(marked("verdicts"), encoding="utf-8")
    with pytest.raises(ValueError, match="holds no run"):
        published.update(tmp_path)


# ---- proofs

def test_proofs_are_listed_and_other_files_named(tmp_path):
    folder = tmp_path / "data/results"
    folder.mkdir(parents=True)
    (folder / "proofs.jsonl").write_text(
        '{"proof": "mlp", "model": "MLPClassifier", "data": "digits", "precision": "fp32", "seed": 0, "history": [1, '
        '2], "accuracy": 0.91234, "interval": [0.9, 0.92], "seconds": 61.2, "device": "Some GPU", "missed": []}\n',
        encoding="utf-8")
    (folder / "trials.jsonl").write_text('{"trial": 1}\n{"trial": 2}\n', encoding="utf-8")
    (tmp_path / "README.md").write_text(marked("proofs"), encoding="utf-8")
    published.update(tmp_path)
    line = next(line for line in readme(tmp_path).splitlines() if "MLPClassifier" in line)
    assert "0.9123 [0.9000, 0.9200]" in line and "reached" in line and "Some GPU" in line
    assert "`trials.jsonl` (2 lines)" in readme(tmp_path)
