"""The rows of a run as tables, a legend under each: to read, as Markdown, and as CSV files of unrounded numbers.

    layout        how a table and a number are laid out
    of_kernels    time, traffic, arithmetic and error of every rung
    of_training   outcome, cost and speed of every model; other libraries beside them
    records       the same for the CSV files
"""
import csv
import io
from pathlib import Path

from numprec.harness.judge import verdicts
from numprec.harness.record import store
from numprec.harness.record.environment import header
from numprec.harness.show.tables import of_kernels, of_training, records
from numprec.harness.show.tables.layout import filled, number, title

__all__ = ["kernels", "markdown", "number", "text", "title", "training", "write"]


def kernels(rows, environment):
    """The kernel table as text, "" where no kernel ran."""
    table = of_kernels.table(rows, environment)
    return table.text() if table else ""


def training(rows, environment):
    """The tables of training as text, "" where no model was trained."""
    return "\n\n".join(table.text() for table in of_training.tables(rows, environment))


def text(rows, environment):
    """All that a run prints when it is done: tables, verdicts, recommendations, and the answer."""
    parts = [kernels(rows, environment), training(rows, environment)]
    for heading, sentences in _conclusions(rows, environment):
        parts.append("\n".join([heading, "", *(filled(sentence, "  ") for sentence in sentences)]))
    return "\n\n".join(part for part in parts if part)


def markdown(rows, environment):
    """The same in Markdown, with what it was measured on."""
    table = of_kernels.table(rows, environment)
    parts = [f"# {title('Results', environment)}", f"```\n{header(environment)}\n```"]
    parts += [each.markdown() for each in ([table] if table else []) + of_training.tables(rows, environment)]
    for heading, sentences in _conclusions(rows, environment):
        parts.append("\n".join([f"## {heading}", "", *(f"- {sentence}" for sentence in sentences)]))
    return "\n\n".join(parts) + "\n"


def _conclusions(rows, environment):
    """(heading, sentences), of those that there are."""
    found = (("Verdicts", verdicts.sentences(verdicts.judge(rows))),
             ("Recommendations", verdicts.recommend(rows, environment)),
             ("Answer", verdicts.answer(rows, environment).splitlines()))
    return [(heading, sentences) for heading, sentences in found if sentences]


def write(rows, environment, folder):
    """Writes tables.md, and kernels.csv and training.csv where there are such rows; returns their paths."""
    folder = Path(folder)
    paths = [folder / "tables.md"]
    store.replace(paths[0], markdown(rows, environment).encode())
    for name, of_rows in ("kernels.csv", records.kernels), ("training.csv", records.training):
        found = of_rows(rows, environment)
        if found:
            paths.append(folder / name)
            columns = list(dict.fromkeys(column for record in found for column in record))
            file = io.StringIO(newline="")
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(found)
            store.replace(paths[-1], file.getvalue().encode())
    return paths
