"""The page of a run: well-formed, complete, by itself, and safe against what names and messages may hold."""
import base64
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
import rows as fabricated

from numprec.harness.judge import verdicts
from numprec.harness.record import store
from numprec.harness.show import report, summary
from numprec.harness.show.tables import of_kernels, of_training

VOID = {"meta", "img", "br"}
HOSTILE = 'no <script>alert("&")</script> here'


def some_rows():
    rows = [fabricated.kernel_row(p, "gram", rung) for p in ("fp64", "fp32", "fp16") for rung in ("naive", "tiled")]
    rows += fabricated.runs("fp64", [0.4, 0.5, 0.45, 0.47]) + fabricated.runs("fp16", [0.3, 0.41, 0.35, 0.372])
    rows += fabricated.runs("fp32", [0.4, 0.5, 0.45, 0.47], finished=False, stop_reason="stalled")
    rows.append(fabricated.kernel_row("fp16", "dot", "tree", status="FAIL", reason=HOSTILE))
    return rows


class Page(HTMLParser):
    """Reads a page and notes what is nested wrongly; `cells` are the texts of table cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.cells, self.text, self.wrong = [], [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "br":
            self.handle_data("\n")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append((tag, self.getpos()))

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if set(self.open) & {"td", "th"}:
            self.cells[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def text():
    return report.page(some_rows(), fabricated.environment())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_it_is_well_formed(page):
    assert page.wrong == [] and page.open == []
    anchors = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(anchors)) == len(anchors)
    assert {link["href"] for link in page.all("a")} == {f"#{anchor}" for anchor in anchors}


def test_it_fetches_nothing(text, page):
    assert not page.all("script") and not page.all("link") and "@import" not in text and "url(" not in text
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)


def test_it_is_accessible(page):
    assert page.all("html") == [{"lang": "en"}] and page.all("title") and page.all("meta")[1]["name"] == "viewport"
    assert page.all("img") and all(len(image["alt"]) > 40 for image in page.all("img"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:]))
    assert len([cell for cell in page.all("th") if "scope" in cell]) == len(page.all("th"))


def test_text_is_readable_on_its_background():
    """A contrast of 4.5 : 1, which WCAG 2.1 asks for in criterion 1.4.3, in the light and in the dark."""
    def luminance(colour):
        colour = colour if len(colour) == 6 else "".join(c + c for c in colour)
        parts = [int(colour[i:i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear))

    themes = re.findall(r":root \{(.*?)\}", report.STYLE, re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): #(\w+)", theme))
        for ink in ("ink", "faint", "link", "good", "bad", "open"):
            for ground in ("paper", "wash"):
                dark, light = sorted(map(luminance, (colours[ink], colours[ground])))
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ink, ground)


def test_it_holds_every_cell_of_every_table(page):
    rows, environment = some_rows(), fabricated.environment()
    tables = [summary.safe(rows, environment), of_kernels.table(rows, environment),
              *of_training.tables(rows, environment)]
    for table in tables:
        cells = {str(cell) for _, block in table.blocks for line in block for cell in line}
        assert cells <= set(page.cells)
        assert " ".join(table.legend.split()) in page.text


def test_the_answer_comes_first_and_the_rest_is_there(page):
    rows, environment = some_rows(), fabricated.environment()
    answer = verdicts.answer(rows, environment).splitlines()
    assert page.text.index(answer[0]) < page.text.index(verdicts.recommend(rows, environment)[0])
    for verdict in verdicts.judge(rows):
        assert verdict.sentence in page.text
    assert "4 of 4 fits stalled" in page.text and environment["command"] in page.text and HOSTILE in page.text


def test_messages_are_not_markup(text):
    assert "<script" not in text and "&lt;script&gt;" in text


def test_figures_are_in_the_page(page):
    drawn = [image["src"].partition("base64,") for image in page.all("img")]
    assert {head for head, _, _ in drawn} == {"data:image/svg+xml;"}
    for _, _, data in drawn:
        assert ElementTree.fromstring(base64.b64decode(data)).tag.endswith("svg")
    shown = b"".join(base64.b64decode(data) for _, _, data in drawn).decode()
    assert "LinearRegression on diabetes" in shown and "gram 64×64×64" in shown


def test_times_of_the_emulator_are_marked():
    text = Page(report.page(some_rows()[-13:], fabricated.environment(emulator=True))).text
    assert "Times: CPU emulation, not comparable with a GPU." in text


def test_a_folder_is_read_and_the_page_written_into_it(tmp_path):
    with store.Store(tmp_path) as results:
        results.write_environment(fabricated.environment())
        results.append([fabricated.kernel_row("fp32")])
    path = report.write(tmp_path)
    assert path == tmp_path / "report.html"
    assert "matmul 64x64x64" in Page(path.read_text(encoding="utf-8")).cells


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())
