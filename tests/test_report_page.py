"""The page of a report: all numbers are there, a name is shown as text, and a browser asks nothing of any network."""

import html
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from test_findings import Planted
from test_report_tables import described
from typer.testing import CliRunner

from vlprobe.cli import app
from vlprobe.report import writing
from vlprobe.report.figures import curves_figure, heat_figure, inline, panel, png_file, reliance_figure, svg_file
from vlprobe.report.page import _figure_of, page
from vlprobe.report.slopes import slopes_figure

SCRIPT = """</style></script><script>alert('x')</script><img src=x onerror="alert(1)">"""


def planted(folder, model="looker"):
    planted = Planted(folder).model(0.9, 0.25, model).model(0.9, 0.9, "reader", stage="vqa")
    for control, right in (("bag-of-words", 0.3), ("n-grams", 0.4), ("pixels", 0.88)):
        planted.put(right, model, control=control, layer="")
    planted.put(0.8, model, layer="joint.0", validation=0.1)
    return planted.put(0.7, model, layer="language.2", validation=0.2)


def renamed(folder, **names):
    """Plant results whose fields have other values: names that no key of a result can hold."""
    results = planted(folder).put(0.5, condition="text-only").results
    lines = [json.loads(line) for line in results.file.read_text().splitlines()]
    for line in lines:
        line.update({field: new[line[field]] for field, new in names.items() if line[field] in new})
    results.file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return Planted(folder)


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return described(planted(tmp_path_factory.mktemp("results")))


@pytest.fixture(scope="module")
def written(contents):
    return page(contents)


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.ids, self.links, self.titles = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        self.ids += [named["id"]] if "id" in named else []
        self.links += [named[key] for key in ("href", "src", "xlink:href", "action", "data") if named.get(key)]
        self.titles += [named["title"]] if "title" in named else []

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_has_the_findings_and_the_scores(written, contents):
    read = Reader(written)
    text = " ".join(" ".join(read.text).split())
    for finding in contents["findings"]:
        assert finding["text"].partition(": ")[2] in text
    assert "0.900 *† joint.1" in text.replace("0.900*†", "0.900 *†")
    assert any(title.startswith("95 % interval [0.000, 1.000], n = 120") for title in read.titles)
    for name, score in (("majority", "0.250"), ("bag-of-words", "0.300"), ("n-grams", "0.400"), ("pixels", "0.883")):
        assert f"{name} matched {score}" in text
    assert "vlprobe run planted.yaml" in text and "abc123" in text and "Not finished" not in text


def test_findings_lead_to_their_figures(written, contents):
    links = re.findall(r'<a href="#([\w-]+)">colour</a>: (.*?)</span>', written)
    told = {text.partition(":")[0]: place for place, text in links}
    assert told["looker takes it from the image"] == "panel-1-1"
    lost = re.search(r'<figure id="lost-1">.*?</figure>', written, re.DOTALL).group()
    assert "looker, joint.1: 0.900 matched" in lost
    panel_of = re.search(r'<figure id="panel-1-2"><h4>(.*?)</h4>', written).group(1)
    assert panel_of == "reader (vqa)"
    kinds = {each["kind"]: each for each in contents["all_findings"]}
    assert [_figure_of(kinds[kind], contents) for kind in ("mismatched", "stage-loss", "stage")] == [
        "lost-1", "lost-1", "panel-1-2",
    ]  # fmt: skip


def test_other_probes_stand_beside_the_linear_one(tmp_path):
    planted_here = (
        planted(tmp_path).put(0.75, "looker", probe="mlp").put(0.2, "looker", probe="mlp", control="shuffled-labels")
    )
    planted_here.put(0.5, "looker", probe="mdl", metric="compression")
    text = page(described(planted_here))
    heads = re.findall(r'<th scope="col">(m\w+)<small>shuffled labels</small></th>', text)
    assert heads == ["mlp", "mdl"]
    assert "0.750<small>0.200</small>" in text and "0.500x<small>-</small>" in text
    assert "mdl (how many times shorter the train labels get)" in text
    assert text.count("0.900*†") == 1  # the answer is the linear probe's, as without them


def test_the_page_names_what_is_lacking(tmp_path):
    text = page(described(planted(tmp_path).put(0.5, "third")))
    assert "Not finished" in text and "colour, third (pretrained), mismatched" in text


def test_a_run_that_has_hardly_begun_is_reported(tmp_path):
    begun = (
        Planted(tmp_path / "results").put(0.5, condition="mismatched").put(0.25, control="majority", layer="", task="t")
    )
    contents = described(begun)
    assert writing.write_report(contents, tmp_path / "report") == tmp_path / "report" / "index.html"
    assert [path.name for path in sorted((tmp_path / "report" / "figures").iterdir())] == [
        "01-colour-layers.png",
        "01-colour-layers.svg",
    ]
    assert "Nothing to compare yet." in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_asks_for_nothing(written):
    read = Reader(written)
    assert "script" not in read.tags and "link" in read.tags
    assert all(link.startswith("#") or link == "data:," for link in read.links)
    assert {link[1:] for link in read.links if link.startswith("#")} <= set(read.ids)
    assert len(read.ids) == len(set(read.ids))
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", written)
    assert "default-src 'none'" in written
    tables = re.findall(r"<table.*?</table>", written, re.DOTALL)
    assert tables and all(
        "<caption>" in table and 'scope="col"' in table and 'scope="row"' in table for table in tables
    )


def test_markup_in_names_is_text(tmp_path):
    names = {"looker": f"m{SCRIPT}"}, {"colour": f"t{SCRIPT}"}, {"text-only": f"c{SCRIPT}"}
    results = renamed(tmp_path, **dict(zip(("model", "task", "condition"), names, strict=True)))
    text = page(described(results, name=f"s{SCRIPT}"))
    read = Reader(text)
    assert "script" not in read.tags and "img" not in read.tags and text.count("</style>") == 1
    shown = " ".join(read.text)
    assert all(f"{letter}{SCRIPT}" in shown for letter in "mtsc")


def test_every_score_is_drawn_and_told(contents):
    task = contents["tasks"]["colour"]
    drawn = inline(panel(task, "looker (pretrained)", contents["conditions"]), 'a "label" <b>', 7)
    root = ET.fromstring(drawn)
    assert root.get("aria-label") == 'a "label" <b>'
    told = {element.text for element in root.iter("{http://www.w3.org/2000/svg}title")}
    rows = [row for row in task["curves"] if row["model"] == "looker (pretrained)"]
    assert len(rows) == 4
    for row in rows:
        start = f"looker, {row['layer']}, {row['condition']}: {row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        assert [line for line in told if line.startswith(start)]
    assert {"majority: 0.250", "words: 0.400", "pixels: 0.883"} <= told
    assert len([line for line in told if line.endswith("best on the validation part")]) == 2
    assert all(name.startswith("f7-") for name in re.findall(r' id="([^"]+)"', drawn))


def test_points_stand_where_the_scores_are(contents):
    task = contents["tasks"]["colour"]
    drawn = inline(panel(task, "reader (vqa)", contents["conditions"]), "", 1)
    heights = [float(y) for y in re.findall(r'<path aria-label="reader[^>]*translate\([^,]+,([^)]+)\)', drawn)]
    assert heights == pytest.approx([(1 - 0.9) * 130] * 2)


def test_figures_are_files(contents):
    task = contents["tasks"]["colour"]
    figures = [
        curves_figure("colour", task, contents["conditions"]),
        heat_figure("colour", task),
        reliance_figure("colour", task, contents["conditions"], (-0.1, 1.0), legend=True),
    ]
    for figure in figures:
        assert ET.fromstring(svg_file(figure)).tag.endswith("svg")
        assert png_file(figure)[:4] == b"\x89PNG"
    assert re.search(r"looker, joint.1: 0.900 matched, 0.250 mismatched: loses \+0.650", svg_file(figures[2]))


def test_slopes_join_the_stages_of_an_architecture(contents, tmp_path):
    task = contents["tasks"]["colour"]
    assert contents["stages"] == [("looker (pretrained)", "reader (vqa)")]
    figure = slopes_figure("colour", task, contents["stages"], contents["conditions"], (0.0, 1.0))
    heights = [
        float(y) for y in re.findall(r'<path aria-label="[^>]*translate\([^,]+,([^)]+)\)', inline(figure, "", 1))
    ]
    assert heights == pytest.approx([(1 - 0.65) * 130, 130])
    assert slopes_figure("colour", task, [], contents["conditions"], (0.0, 1.0)) is None
    others = Planted(tmp_path).model(0.9, 0.3, "drawn", stage="random").model(0.9, 0.3, "a").model(0.9, 0.3, "b")
    assert described(others)["stages"] == []


def test_the_command_writes_all_of_it(contents, tmp_path):
    done = CliRunner().invoke(app, ["report", contents["folder"], "--output", str(tmp_path / "there")])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == f"Report: {(tmp_path / 'there' / 'index.html').as_uri()}"
    names = sorted(path.name for path in (tmp_path / "there" / "figures").iterdir())
    assert names == [
        f"01-colour-{kind}.{end}" for kind in ("heat", "layers", "lost", "slopes") for end in ("png", "svg")
    ]


def test_what_is_not_installed_is_named(contents, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "find_spec", lambda name: None)
    with pytest.raises(writing.VlprobeError, match=r"vl-convert-python.*pip install 'vlprobe\[report\]'"):
        writing.write_report(contents, tmp_path)


def test_one_of_a_kind_is_not_many(contents):
    assert '<p class="note">1 test of where' in page(contents | {"tests": 1}) and "1 tests" not in page(
        contents | {"tests": 1}
    )
    assert re.search(r">\d\d? tests of where", page(contents))


def numbers(text, task):
    """Return the rows of the table `The numbers` of one task, a text a cell, and what stands below it."""
    table = text.partition(f'aria-label="{task}: the numbers"')[2].partition("</table>")[0]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in table.split("<tr>")[1:]]
    return [[re.sub(r"<[^>]+>", "|", cell) for cell in row] for row in rows], re.search(
        "<caption>(.*?)</caption>", table
    )[1]


def test_the_numbers_have_the_streaming_probe_and_it_judges_nothing(tmp_path):
    """One model is heard by the linear probe, one by the streaming one, with random weights at their own best layer."""
    plant = planted(tmp_path)
    for layer, right, drawn in (("joint.0", 0.6, 0.5), ("joint.1", 0.7, 0.4)):
        for control, score in (("", right), ("shuffled-labels", 0.25), ("random-init", drawn)):
            plant.put(score, "streamer", layer=layer, control=control, probe="streaming-lda")
    plant.put(0.25, "streamer", control="majority", layer="", probe="")
    contents = described(plant)
    before = described(planted(tmp_path / "before"))
    assert contents["tasks"]["colour"]["verdicts"] == before["tasks"]["colour"]["verdicts"]
    text = page(contents)
    rows, said = numbers(text, "colour")
    heads, *cells = rows
    told = {(row[0], row[1]): dict(zip(heads, row, strict=True)) for row in cells}
    mine = told["streamer", "matched"]
    assert [mine[name] for name in ("score", "95 % interval", "best layer")] == [
        "0.700", "[0.000, 1.000]", "joint.1|streaming-lda|",
    ]  # fmt: skip
    assert [mine[name] for name in ("last", "layer 0", "shuffled labels", "untrained", "selects")] == [
        "0.700|joint.1|", "0.600", "0.250", "0.500", "–",
    ]  # fmt: skip
    assert (mine["n"], mine["seeds"], mine["takes it"], mine["not above"]) == ("120", "1", "", "")
    assert told["looker", "matched"]["best layer"] == "joint.1" and "They are not the linear probe" in said
    assert "streaming" not in numbers(page(before), "colour")[1]
    # The main table tells the same controls where one points at the score.
    assert re.search(
        r'title="streaming-lda, .* 95 % interval [^"]*; layer 0 0.600; shuffled labels 0.250; untrained 0.500"', text
    )


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


def opened(path, *options):
    """Open a page in a browser that reaches no network; return its DOM, what it says, and what it asked for."""
    log = path.with_suffix(".netlog")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--no-first-run", "--disable-default-apps", "--disable-extensions",
             "--disable-dev-shm-usage", f"--user-data-dir={path.parent / 'profile'}", "--disable-domain-reliability",
             "--disable-features=OptimizationHints,MediaRouter"]  # fmt: skip
    command = [CHROMIUM, "--headless=new", *quiet, "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr",
               f"--log-net-log={log}",
               "--window-size=1600,1200", "--timeout=20000", "--dump-dom", *options]  # fmt: skip
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    asked = set(re.findall(r'"url":"(https?:[^"]*)"', log.read_text(errors="replace")))
    return done.stdout, said, {url for url in asked if not re.search(r"google(apis)?\.com|gvt1\.com", url)}


@browser
def test_a_browser_finds_no_fault_and_asks_nothing(tmp_path):
    results = renamed(tmp_path / "results", model={"looker": SCRIPT}, task={"colour": SCRIPT})
    (tmp_path / "page.html").write_text(page(described(results)), encoding="utf-8")
    dom, said, asked = opened(tmp_path / "page.html")
    assert "<script" not in dom and "Findings" in dom and dom.count("<svg") >= 4
    assert (said, asked) == ([], set())


@browser
def test_the_browser_would_tell(tmp_path):
    fault = "<script>console.error('told')</script><img src='http://example.invalid/x.png'>"
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><title>x</title>{fault}", encoding="utf-8")
    _, said, asked = opened(tmp_path / "page.html")
    assert any("told" in line for line in said) and asked == {"http://example.invalid/x.png"}


@browser
def test_the_page_fits_a_phone_and_a_wide_screen(written, tmp_path):
    """Nothing but what scrolls by itself is wider than the window."""
    inside = html.escape(re.sub(r"<meta http-equiv.*?>", "", written))
    frames = "".join(
        f'<iframe srcdoc="{inside}" style="width:{width}px;height:900px"></iframe>' for width in (380, 1600)
    )
    measure = """<script>addEventListener("load", () => { document.title = JSON.stringify(
        [...document.querySelectorAll("iframe")].map(f => f.contentDocument.documentElement).map(root =>
        [root.scrollWidth, root.clientWidth])) })</script>"""
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html><title>none</title>{frames}{measure}", encoding="utf-8")
    dom, _, _ = opened(tmp_path / "page.html")
    phone, wide = json.loads(re.search(r"<title>(.*?)</title>", dom).group(1))
    assert phone[0] == phone[1] <= 380 and wide[0] == wide[1] > 1500
