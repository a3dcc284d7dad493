"""The house rules: who may import whom, how long a file may be, how quick an import is, and what the text of the
project may hold."""
import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import numprec
from numprec import kernels

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "numprec").rglob("*.py"))

# part of the package -> the parts it may import, besides itself
ARROWS = {
    "__init__": set(),
    "precision": set(),
    "places": set(),
    "language": {"precision"},
    "kernels": {"language", "precision"},
    "emulator": {"precision", "places"},
    "cubins": {"emulator"},
    "device": {"precision", "emulator", "cubins"},
    "models": {"precision", "language", "kernels", "device", "__init__"},      # a saved model holds the version
    "datasets": {"precision", "places"},
    "harness": {"precision", "language", "kernels", "device", "emulator", "models", "datasets", "__init__"},
    "bench": {"harness", "__init__"},
    "start": {"kernels", "device", "emulator"},
}
COMMAND_LINES = {"bench": "bench", "numprec.kernels.__main__": "bench", "numprec.kernels.start.__main__": "start"}
"""They run chapters, and so may import more than a chapter may."""
FIGURES = "numprec/harness/show/figures/"
HARNESS = ("record", "judge", "measure", "show", "run", "proofs")    # a folder imports itself and those before it

# files longer than their limit. The list only shrinks: a file that fits again has to leave it.
KERNEL_LINES, LINES = 300, 400
MOST_ARGUMENTS = 8       # of a kernel
TOO_LONG = {
    "numprec/device.py",
    "numprec/emulator/launch.py",
    "numprec/kernels/networks/dense.py",
    "numprec/models/svm.py",
    "numprec/models/training.py",
    "tests/emulator/test_emulator_arithmetic.py",
    "tests/emulator/test_emulator_float16.py",
    "tests/emulator/test_emulator_language.py",
    "tests/emulator/test_emulator_launch.py",
    "tests/emulator/test_emulator_order.py",
    "tests/emulator/test_emulator_warps.py",
    "tests/harness/test_measuring.py",
    "tests/harness/test_running.py",
    "tests/harness/test_verdicts.py",
    "tests/models/test_linear.py",
    "tests/models/test_mlp.py",
    "tests/models/test_svm.py",
    "tests/models/test_tree.py",
    "tests/test_datasets.py",
}


def imports(path, package):
    """Dotted names that a file imports anywhere in it, with `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join(package.split(".")[:len(package.split(".")) - node.level + 1] + [base]).rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part_of(dotted):
    """The part of numprec that a dotted name lies in: numprec.kernels.products.matmul -> kernels."""
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ARROWS else "__init__"


def dotted_name(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of_numprec(path):
    """Dotted names of numprec that a file imports."""
    dotted = dotted_name(path)
    package = dotted if path.name == "__init__.py" else dotted.rpartition(".")[0]
    return [name for name in imports(path, package) if name.split(".")[0] == "numprec"]


def crossings(path):
    """(importing part, imported part) for each import of numprec in a file."""
    name = dotted_name(path)
    here = COMMAND_LINES.get(name) or part_of(name)
    return [(here, part_of(name)) for name in imports_of_numprec(path)]


def modules():
    """{module: the modules of numprec that it imports}, whichever way an import is spelled."""
    known = {dotted_name(path): path for path in SOURCES}

    def module(name):
        while name not in known:
            name = name.rpartition(".")[0]
        return name
    return {name: {module(each) for each in imports_of_numprec(path)} - {name} for name, path in known.items()}


def places(parts, package):
    """{module: its place in the reading order}, given {part: its chapters}; a part's own page opens it."""
    found = {}
    for part, chapters in parts.items():
        for name in (part, *(f"{part}.{chapter}" for chapter in chapters)):
            found[f"{package}.{name}"] = len(found)
    return found


def backwards(graph, place):
    """Imports of what stands later, among modules that have a place."""
    return [f"{name} imports {other}" for name, others in graph.items() for other in sorted(others)
            if name in place and other in place and place[other] > place[name]]


@pytest.mark.parametrize("path", [*SOURCES, ROOT / "bench.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    wrong = {(here, there) for here, there in crossings(path) if there != here and there not in ARROWS[here]}
    assert not wrong


def test_the_arrows_are_seen(tmp_path):
    """The check above sees each spelling of an import, also inside a function."""
    file = tmp_path / "f.py"
    file.write_text("def f():\n    from ..models import linear\n"
                    "from numprec import device\nimport numprec.harness.record.store\n"
                    "from . import x\n")
    assert list(imports(file, "numprec.kernels")) == [
        "numprec.device", "numprec.harness.record.store", "numprec.kernels.x", "numprec.models.linear"]
    assert part_of("numprec.device") == "device" and part_of("numprec.LinearRegression") == "__init__"


def test_nothing_imports_in_a_circle():
    """Not even inside functions, where an import may wait."""
    graphlib.TopologicalSorter(modules()).prepare()    # raises CycleError, which names the circle


def test_a_chapter_imports_only_chapters_before_it():
    place = places(kernels.PARTS, "numprec.kernels")
    on_disk = {name for name in modules() if name.startswith("numprec.kernels.") and not name.endswith(".__main__")}
    assert on_disk == set(place), "PARTS and the files of numprec/kernels differ"
    assert backwards(modules(), place) == []


def test_a_folder_of_the_harness_imports_only_folders_before_it():
    place = {name: HARNESS.index(name.split(".")[2]) for name in modules() if name.startswith("numprec.harness.")}
    assert set(place.values()) == set(range(len(HARNESS)))
    assert backwards(modules(), place) == []


def test_what_stands_later_is_seen():
    """The two checks above find an import against the order, and graphlib a circle."""
    place = places({"a": ("x", "y"), "b": ("z",)}, "n")
    graph = {"n.a.x": {"n.a.y"}, "n.a.y": {"n.b.z", "n.a.x"}, "n.b.z": {"n.a.x"}}
    assert backwards(graph, place) == ["n.a.x imports n.a.y", "n.a.y imports n.b.z"]
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph).prepare()


def test_files_are_short():
    """At most KERNEL_LINES in a chapter and LINES elsewhere, but for TOO_LONG."""
    found = set()
    for path in [*SOURCES, *(ROOT / "tests").rglob("*.py"), ROOT / "bench.py"]:
        name = path.relative_to(ROOT).as_posix()
        limit = KERNEL_LINES if name.startswith("numprec/kernels/") else LINES
        if len(path.read_text(encoding="utf-8").splitlines()) > limit:
            found.add(name)
    assert found - TOO_LONG == set(), "too long: split it"
    assert TOO_LONG - found == set(), "short enough now: remove it from TOO_LONG"


def test_kernels_have_few_arguments():
    """At most MOST_ARGUMENTS, or the docstring says "Many arguments" and why."""
    unexplained = []
    for path in (ROOT / "numprec" / "kernels").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            decorators = [ast.unparse(d) for d in getattr(node, "decorator_list", ())]
            if any(d.startswith("cuda.jit") and "device=True" not in d for d in decorators):
                many = len(node.args.args) > MOST_ARGUMENTS
                if many != ("Many arguments: " in (ast.get_docstring(node) or "")):
                    unexplained.append(f"{path.name}: {node.name}")
    assert unexplained == []


def test_matplotlib_is_imported_in_the_figure_files_only():
    users = {p.relative_to(ROOT).as_posix() for p in [*SOURCES, ROOT / "bench.py"]
             if any(name.split(".")[0] == "matplotlib" for name in imports(p, "numprec"))}
    assert users and all(user.startswith(FIGURES) for user in users)


def test_only_precision_names_formats():
    """float16 and bfloat16 as words of a program stand in precision.py alone; below it, formats.py implements them
    and instructions.py what some cards do with them."""
    may = {"numprec/precision.py", "numprec/language/formats.py", "numprec/language/instructions.py"}
    word = re.compile(r"\b(?:np|numpy|types|ml_dtypes)\.(?:b?float16|bfloat16|half)\b")
    found = [f"{p.relative_to(ROOT).as_posix()}: {line.strip()}" for p in SOURCES
             if p.relative_to(ROOT).as_posix() not in may and "emulator" not in p.parts
             for line in p.read_text(encoding="utf-8").splitlines() if word.search(line)]
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_have_docstrings(path):
    """Every module says what it is for; an `__init__.py` that only makes a package may be empty."""
    text = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(text)) or (path.name == "__init__.py" and not text.strip())


def run(*args, **env):
    import os
    return subprocess.run([sys.executable, *args], cwd=ROOT, env=os.environ | env, capture_output=True, text=True)


def test_import_is_light():
    """Neither Numba nor scikit-learn nor matplotlib is loaded by `import numprec`, nor by naming its precisions."""
    heavy = ("numba", "sklearn", "scipy", "matplotlib", "llvmlite", "tensorflow_datasets")
    done = run("-c", "import sys, numprec; numprec.PRECISIONS, numprec.precision_named('half'), dir(numprec)\n"
                     f"print([m for m in {heavy} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_help_is_light():
    """`bench.py --help` explains itself, and loads nothing heavy to do so."""
    done = run("-X", "importtime", "bench.py", "--help")
    assert done.returncode == 0 and "--precision" in done.stdout
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"numba", "sklearn", "scipy", "matplotlib", "llvmlite", "tensorflow_datasets"}


def test_exports():
    for name in numprec.__all__:
        assert getattr(numprec, name) is not None and name in dir(numprec)
    with pytest.raises(AttributeError, match="has no attribute 'LinearRegresion'"):
        numprec.LinearRegresion


@pytest.mark.parametrize("setting, says", [
    ("import sys; sys.platform = 'darwin'", "container"),
    ("import os; os.environ['NUMBA_ENABLE_CUDASIM'] = '1'", "needs no CUDA simulator"),
])
def test_where_it_cannot_run_one_sentence_says_so(setting, says):
    done = run("-c", setting + "\ntry:\n    import numprec\nexcept ImportError as error:\n    print(error)")
    sentence = done.stdout.strip()
    assert says in sentence and sentence.endswith(".") and "\n" not in sentence


def test_the_example_in_the_readme(tmp_path):
    """The kernel of one's own, from a file of its own, prints what the README says."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code, output = re.search(r"```python\n([^`]*emulate[^`]*)```\n\n```\n([^`]*)```", text).groups()
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    done = run(str(tmp_path / "example.py"), PYTHONPATH=str(ROOT))
    assert done.stdout == output, done.stderr


def test_text_speaks_of_the_project_alone():
    """No path of the machine it was written on; and what lies beside the checkout is known to .ci/run only."""
    files = [p for pattern in ("*.py", "*.md", "*.cfg", "*.toml", "*.ll") for folder in ("numprec", "tests", "data")
             for p in (ROOT / folder).rglob(pattern)]
    files += [p for p in ROOT.iterdir() if p.is_file() and p.suffix in (".py", ".md", ".cfg", ".toml")]
    home = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|Users/\w+|tmp/\w+|mnt/\w+)/")
    beside = re.compile(r"\.\./" + "shared")
    found = [f"{p.relative_to(ROOT)}: {line.strip()}" for p in files
             for line in p.read_text(encoding="utf-8").splitlines() if home.search(line) or beside.search(line)]
    assert not found


def test_every_chapter_with_operations_has_a_test_file_of_its_name():
    """And no two test files share a name: pytest imports them by it."""
    missing = [f"tests/kernels/{part}/test_{chapter}.py" for part, chapters in kernels.PARTS.items()
               for chapter in chapters if chapter in {operation.chapter for operation in kernels.operations().values()}
               and not (ROOT / f"tests/kernels/{part}/test_{chapter}.py").exists()]
    assert not missing
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
