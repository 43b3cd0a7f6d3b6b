"""Pages for a browser: they hold what they show, say what the summary says, and run no code that a name holds."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest
from helpers import QUICK, SHORT, program
from pareto_runs import change, write_run
from small import TINY, compose

from lagvae.errors import ComparisonError
from lagvae.experiment.page import plane
from lagvae.experiment.report import constraint_rows, measured_rows
from lagvae.experiment.run import train
from lagvae.pages import page as pages
from lagvae.pareto.comparison import analyse
from lagvae.pareto.fronts import MAXIMISE, MINIMISE
from lagvae.pareto.page import Look, curve_rows, run_rows
from lagvae.pareto.points import collect
from lagvae.pareto.side_by_side import side_by_side
from lagvae.pareto.tables import comparison_sections
from lagvae.runs.layout import RunFolder

jinja2 = pytest.importorskip("jinja2")
pytest.importorskip("altair")
vl_convert = pytest.importorskip("vl_convert")

HOSTILE = "<img src=x onerror=alert(1)>"
"""A name that would run code where it is not escaped."""

EXPLICIT = ("epsilon=explicit", "constraints.neg_elbo.epsilon=30", "constraints.mmd.epsilon=1e-3", "training.start=scratch")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Seen(HTMLParser):
    """The elements of a page, and the cells of its tables."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.cells: list[str] = []
        self.specs: dict[str, Any] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(values[key]) for key in ("src", "srcset", "data", "action") if key in values]
        (self.links if tag == "a" else self.addresses).extend([str(values["href"])] if "href" in values else [])
        self._open = "specs" if values.get("id") == "specs" else tag
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in ("td", "th", "a"):
            self.cells[-1] += data
        elif self._open == "specs":
            self.specs = json.loads(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with a hostile name, and its page."""
    cfg = compose([*TINY, *EXPLICIT, f"paths.root={tmp_path_factory.mktemp('root')}", "callbacks.figures=true"])
    cfg.name = HOSTILE
    train(cfg)
    return RunFolder(Path(cfg.paths.runs) / HOSTILE)


@pytest.fixture(scope="module")
def seen(run: RunFolder) -> Seen:
    return Seen(run.page.read_text(encoding="utf-8"))


def test_the_page_of_a_run_says_what_its_summary_says(run: RunFolder, seen: Seen) -> None:
    summary = run.read_summary()
    rows = [*constraint_rows(summary), *measured_rows(summary)]
    assert len(rows) > 10
    for row in rows:
        places = [k for k in range(len(seen.cells)) if tuple(seen.cells[k : k + len(row)]) == row]
        assert len(places) == 1, row
    text = run.page.read_text(encoding="utf-8")
    assert "neg_elbo ≤ 30.00, mmd ≤ 1.00e-03; it reached neg_elbo = " in text
    assert f">{summary['verdict']}</strong>" in text
    assert "callbacks.figures" in seen.cells


def test_a_page_holds_all_that_it_shows(run: RunFolder, seen: Seen) -> None:
    assert run.page.stat().st_size < 3_000_000
    assert len(seen.addresses) >= 6, "the pictures of a run"
    assert all(address.startswith("data:image/png;base64,") for address in seen.addresses)
    assert "default-src &#39;none&#39;" in run.page.read_text(encoding="utf-8")


def test_without_javascript_a_picture_stands_for_every_chart(run: RunFolder, seen: Seen) -> None:
    """What needs a script is hidden where none runs, and the pictures of the figures are shown."""
    for chart, figure in {"curves": "constraints", "plane": "rate_distortion", "latent": "latent"}.items():
        assert chart in seen.specs
        (address,) = (pages.data_address(file.read_bytes()) for file in run.path.rglob(f"{figure}.png"))
        assert address in seen.addresses


def test_blocks_of_a_template_leave_no_empty_lines(run: RunFolder) -> None:
    _, _, body = run.page.read_text(encoding="utf-8").partition("<body>")
    lines = body.partition("<script")[0].split("\n")
    assert lines.count("") < len(lines) / 4, "where each of them did, there would be as many as others"


def test_a_name_runs_no_code(run: RunFolder, seen: Seen) -> None:
    text = run.page.read_text(encoding="utf-8")
    assert "<h1>&lt;img src=x onerror=alert(1)&gt;</h1>" in text
    assert "x" not in seen.addresses
    assert seen.tags.count("script") == 3, "the data, Vega and the script of the page"


def test_the_charts_of_a_run_hold_its_series_and_its_bounds(seen: Seen) -> None:
    curves = seen.specs["curves"]
    titles = [unit["title"] for unit in curves["concat"]]
    assert titles[:4] == ["−ELBO", "mmd", "rate", "distortion"]
    assert {"λ of neg_elbo", "neg_elbo − bound", "λ of mmd", "I_q, lower end of its interval"} <= {*titles}
    assert '"datum": 30.0' in json.dumps(curves["concat"][0])
    series = {row["series"] for row in curves["datasets"]["panel0"]}
    assert series == {"one batch", "training data", "validation data"}
    assert {"path", "ends", "bound"} == {*seen.specs["plane"]["datasets"]}
    assert seen.specs["plane"]["datasets"]["bound"] == [], "−ELBO is far from its bound"
    assert "the bound" not in json.dumps(seen.specs["plane"], ensure_ascii=False)
    assert {row["label"] for row in seen.specs["latent"]["datasets"]["latent"]} == {*"0123456789"}


@pytest.mark.parametrize(("steps", "seen_alone"), [((10, 20), 0), ((20,), 1)])
def test_a_curve_of_one_point_is_drawn_as_a_point(steps: tuple[int, ...], seen_alone: int) -> None:
    from lagvae.experiment.page import Panel, panel_chart

    panel = Panel("rate", "nats", {"one batch": [(10, 1.0), (20, 2.0)], "training data": [(step, 1.5) for step in steps]})
    chart = panel_chart(panel, "rows").to_dict() | {"datasets": {"rows": panel.rows}}
    drawn = re.findall(r'aria-roledescription="point"[^>]*opacity="1"', vl_convert.vegalite_to_svg(chart))
    assert len(drawn) == seen_alone


def test_charts_are_what_vega_lite_allows(seen: Seen) -> None:
    """They are drawn without this check, which takes more time than all else."""
    import altair

    for spec in (seen.specs["curves"]["concat"][0], seen.specs["plane"], seen.specs["latent"]):
        altair.Chart.from_dict({key: value for key, value in spec.items() if key != "datasets"})


def test_a_run_without_a_constraint_on_neg_elbo_has_a_page(tmp_path: Path) -> None:
    words = ("family=target_rate", "callbacks.figures=true", "name=run")
    said = program(tmp_path, *QUICK, *SHORT, *words)
    assert said.status == 0, said.err
    assert "was not written" not in said.err
    assert "−ELBO" in (tmp_path / "runs" / "run" / "report.html").read_text(encoding="utf-8")


def test_a_page_that_fails_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(path: Path) -> None:
        raise ValueError("no such colour")

    stale = tmp_path / "report.html"
    stale.touch()
    assert pages.try_page(stale, fails) == []
    assert not stale.exists(), "a page of other results is left"
    said = " ".join(capsys.readouterr().err.split())
    assert "report.html was not written (ValueError: no such colour). The results are complete without it." in said


def test_what_a_page_needs_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages.note_missing.cache_clear()
    monkeypatch.setitem(sys.modules, "altair", None)

    def write(path: Path) -> None:
        import altair  # noqa: F401

    assert pages.try_page(tmp_path / "a.html", write) == pages.try_page(tmp_path / "b.html", write) == []
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("Without the package altair no page is written") == 1
    assert pages.INSTALL in said


def test_scripts_are_bundled_once_for_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("vl_convert.javascript_bundle", lambda snippet: made.append(1) or "a = '</script>'")

    def scripts() -> str:
        pages.vega_scripts.cache_clear()
        return pages.vega_scripts()

    try:
        assert scripts() == scripts() == r"a = '<\/script>'"
        assert len(made) == 1
        (file,) = (tmp_path / "lagvae").iterdir()
        file.write_text(file.read_text(encoding="utf-8").replace("a =", "evil ="), encoding="utf-8")
        assert scripts() == r"a = '<\/script>'"
        assert len(made) == 2, "what was changed is not used"
    finally:
        pages.vega_scripts.cache_clear()


# ---- comparisons


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Runs of two methods with both signs of α, at two slacks; one has a page, one has failed, one has a hostile name."""
    folder = tmp_path / "runs" / "sweep"
    for k, gamma in enumerate((0.5, 1.5)):
        write_run(folder / f"lag{k}", "lagvae", -1.0, (5.0 + k, 23.0 + k), gamma=gamma, width=1.0)
        write_run(folder / f"low{k}", "lagvae", 1.0, (2.0 - k, 23.1 + k), gamma=gamma, width=1.0)
    write_run(folder / HOSTILE, "infovae", -1.0, (4.0, 24.0), width=1.0)
    change(folder / "low1" / "summary.json", "verdict", "</script><script>alert(2)</script>")
    (folder / "lag0" / "report.html").touch()
    write_run(folder / "half", "lagvae", -1.0, (5.0, 24.0), gamma=0.7)
    (folder / "half" / "summary.json").unlink()
    return folder


def page_of(sweep: Path) -> Path:
    """The page of a comparison, beside its figures, which are empty here: to draw them takes seconds."""
    from lagvae.pareto.page import write_comparison_page

    out = sweep / "pareto-analysis"
    out.mkdir()
    figures = [out / f"figure{k}.png" for k in (1, 2)]
    for figure in figures:
        figure.touch()
    write_comparison_page(out / "pareto.html", analyse(collect([sweep])), figures)
    return out / "pareto.html"


def test_the_page_of_a_comparison_says_what_its_tables_say(sweep: Path) -> None:
    page = page_of(sweep)
    seen = Seen(page.read_text(encoding="utf-8"))
    sections = comparison_sections(analyse(collect([sweep])))
    rows = [tuple(row) for section in sections for _, _, lines in section.tables for row in lines]
    assert len(rows) > 8
    for row in rows:
        assert any(tuple(seen.cells[k : k + len(row)]) == row for k in range(len(seen.cells))), row
    assert "Unfinished: 1" in page.read_text(encoding="utf-8")
    assert page.stat().st_size < 3_000_000
    assert all(address.startswith("data:image/png;base64,") for address in seen.addresses)
    assert len(seen.addresses) == 2
    assert seen.tags.count("script") == 3
    assert {unit["title"] for unit in seen.specs["figures"]["concat"]} == {
        *("Figure 2, training data", "Figure 2, test data", "Figure 1, training data")
    }
    runs = {row["run"]: row for row in seen.specs["figures"]["datasets"]["runs"]}
    assert {*runs} == {"lag0", "lag1", "low0", "low1", HOSTILE}
    assert (runs["lag1"]["train_x"], runs["lag1"]["train_lower"], runs["lag1"]["train_y"]) == (24.0, 5.5, 5.5)
    assert runs["low1"]["test_y"] == runs["low1"]["test_upper"] == 1.5, "the end that a run with α > 0 optimises"


def test_the_axis_of_a_comparison_holds_intervals_and_errors(sweep: Path) -> None:
    """Nothing is cut there: what lies outside would be drawn over the rest of the page."""
    analysis = analyse(collect([sweep]))
    first, *others = run_rows(analysis, dict.fromkeys(run.name for run in analysis.collection.runs))
    for low, high in (("test_lower", "test_upper"), ("train_y_low", "train_y_high")):
        rows = [first | {low: -50.0, high: 90.0}, *others]
        with pages.unchecked_charts():
            assert Look.of(analysis, rows).scale.to_dict()["domain"] == [-50.0, 90.0]


@pytest.mark.parametrize(("bound", "seen"), [(None, False), (1.0, False), (11.0, True), (14.0, True), (40.0, False)])
def test_a_bound_is_drawn_where_it_is_seen(tmp_path: Path, bound: float | None, seen: bool) -> None:
    """Rate and distortion are 2 and 8 on one split, 6 and 10 on the other: the ranges hold sums of 10 to 16, and a margin."""
    ends = {"train": (2.0, 8.0), "test": (6.0, 10.0)}
    splits = {name: {"neg_elbo": r + d, "rate": r, "distortion": d} for name, (r, d) in ends.items()}
    drawing = plane(tmp_path / "none.csv", {"splits": splits, "constraints": {"neg_elbo": {"bound": bound}}})
    assert drawing is not None
    rows = drawing.data["bound"]
    assert (rows != []) is seen
    assert [row["rate"] + row["distortion"] for row in rows] == pytest.approx([bound] * len(rows))
    assert ("the bound" in json.dumps(drawing.chart.to_dict(), ensure_ascii=False)) is seen


@pytest.mark.parametrize(("alpha", "sign"), [(-0.5, MAXIMISE), (0.5, MINIMISE), (4.0, MINIMISE)])
def test_curves_of_any_alpha_are_of_its_sign(alpha: float, sign: int) -> None:
    curve = SimpleNamespace(split="train", family="lagvae", alpha=alpha, gammas=[1.0, 2.0], means=[3.0, 4.0])
    analysis: Any = SimpleNamespace(curves=[curve])
    assert [row["sign"] for row in curve_rows(analysis)] == [str(sign)] * 2


def test_links_to_runs_hold_in_a_folder_that_was_moved(sweep: Path) -> None:
    page_of(sweep)
    moved = sweep.rename(sweep.parent / "else where")
    page = moved / "pareto-analysis" / "pareto.html"
    seen = Seen(page.read_text(encoding="utf-8"))
    assert seen.links == ["../lag0/report.html"]
    assert (page.parent / unquote(seen.links[0])).resolve() == moved / "lag0" / "report.html"
    linked = [row["page"] for row in seen.specs["figures"]["datasets"]["runs"] if row["page"]]
    assert linked == seen.links


def test_pictures_that_would_make_a_page_too_large_are_shown_from_their_files(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LARGEST", 0)
    seen = Seen(page_of(sweep).read_text(encoding="utf-8"))
    assert {*seen.addresses} == {"figure1.png", "figure2.png"}


def test_pictures_are_held_in_their_order_as_long_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last byte; what does not fit leaves its room to those after it."""
    sources = {"page.js": "", "shown.html": "{% for name in pictures %}<img src='{{ pictures[name] }}'>{% endfor %}"}
    monkeypatch.setattr("jinja2.PackageLoader", lambda package: jinja2.DictLoader(sources))
    files = [tmp_path / "page" / "figures" / f"{name}.png" for name in "abc"]
    files[0].parent.mkdir(parents=True)
    for file, size in zip(files, (300, 600, 30), strict=True):
        file.write_bytes(bytes(size))
    page = tmp_path / "page" / "page.html"
    held = [pages.data_address(file.read_bytes()) for file in files]
    names = [f"figures/{file.name}" for file in files]

    def shown(room: int) -> list[str]:
        monkeypatch.setattr(pages, "LARGEST", room)
        pages.write_page(page, "shown.html", {}, files)
        return Seen(page.read_text(encoding="utf-8")).addresses

    assert shown(0) == names
    linked = page.stat().st_size
    first, second, third = map(len, held)
    assert shown(linked + first) == [held[0], *names[1:]]
    assert shown(linked + first - 1) == [*names[:2], held[2]]
    assert shown(linked + first + third) == [held[0], names[1], held[2]]
    assert shown(linked + first + second) == [*held[:2], names[2]]
    assert shown(linked + first + second + third) == held


# ---- side by side


def test_runs_of_any_family_and_data_stand_side_by_side(tmp_path: Path) -> None:
    settings = {"data": {"name": "mnist", "batch": 64, "seed": 3}, "training.start": "scratch"}
    write_run(tmp_path / "a", "lagvae", -1.0, (5.0, 23.0), gamma=0.5, width=1.0)
    write_run(tmp_path / HOSTILE, "vae", 1.0, (2.0, 21.0), seed=3, settings=settings)
    for name in ("a", HOSTILE):
        summary = tmp_path / name / "summary.json"
        for key, value in {"data": name, "stationarity": None, "messages": []}.items():
            change(summary, key, value)
        for constraint in ("neg_elbo", "mmd"):
            for key, value in {
                "nats": True,
                "train": 1.25,
                "val": 2.0,
                "test": 3.0,
                "multiplier": 2.0,
                "verdict": "active",
            }.items():
                change(summary, f"constraints.{constraint}.{key}", value)
    own = json.loads((tmp_path / "a" / "summary.json").read_text())["splits"]
    others = {"val": {**own["test"], "neg_elbo": 29.0}, "test": {**own["test"], "neg_elbo": 28.0}}
    change(tmp_path / "a" / "summary.json", "splits", {"train": own["train"], **others})
    problem, train_rows, test_rows, different = (
        {label: values for label, *values in rows} for _, rows in side_by_side([tmp_path], tmp_path / "c.html")
    )
    assert problem["neg_elbo"] == ["1.25, λ = 2: active", "1.25 (bound 22.50), λ = 2: active"]
    assert problem["family"] == ["vae", "lagvae"]
    assert train_rows["−ELBO (nats)"] == ["21.00 ± 0.05", "23.00 ± 0.05"]
    assert test_rows["−ELBO (nats)"] == ["21.00 ± 0.05", "28.00 ± 0.05"], "not what was measured on validation data"
    assert different["training.start"] == ["scratch", "calibrated"]
    assert different["data.name"] == ["mnist", "digits"]
    assert different["seed"] == ["3", "0"]
    assert "data.seed" not in different, "it follows the seed"
    assert "name" not in different, "it decides about no result"
    assert different["data.split_seed"] == ["–", "0"]
    text = (tmp_path / "c.html").read_text(encoding="utf-8")
    seen = Seen(text)
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert seen.addresses == []
    assert seen.cells.count("21.00 ± 0.05") == 2, "on training and on test data"


def test_more_runs_than_fit_the_terminal_stand_in_several_tables_under_what_their_names_have_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for k in range(5):
        folder = tmp_path / f"lagvae-q-1-gamma0.{k}-scratch-seed{3 * k}"
        write_run(folder, "lagvae", -1.0, (5.0, 23.0 + k), gamma=0.1 * k, seed=3 * k)
        for key, value in {"data": "digits", "stationarity": None, "messages": [], "constraints": {}}.items():
            change(folder / "summary.json", key, value)
    side_by_side([tmp_path])
    said = capsys.readouterr().out
    assert "What the names of all 5 runs share is left out below: lagvae-q-1-…." in said
    assert max(map(len, said.splitlines())) <= 100
    for k in range(5):
        assert f" gamma0.{k}-scratch-seed{3 * k} " in said, "whole, on one line"
    train, rest = said.partition("Measured on training data")[2].split("Measured on test data", 1)[0].split("runs 3 to 5 of 5")
    assert [f"{23 + k}.00 ± 0.05" in train for k in range(5)] == [True, True, False, False, False]
    assert [f"{23 + k}.00 ± 0.05" in rest for k in range(5)] == [False, False, True, True, True]


def test_runs_without_results_are_named(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "a", "lagvae", -1.0, (5.0, 23.0), gamma=0.5)
    write_run(tmp_path / "runs" / "b", "lagvae", -1.0, (5.0, 23.0), gamma=0.5)
    (tmp_path / "runs" / "b" / "summary.json").unlink()
    said = program(tmp_path, "a", "b", script="compare")
    assert said.status == 1
    assert "Left out: b has not finished" in said.err
    assert "A comparison needs two finished runs" in said.err
    assert "has one. Finish what was left out with " in " ".join(said.err.split())
    with pytest.raises(ComparisonError, match=r"A comparison needs two finished runs, and .* has none"):
        side_by_side([tmp_path / "runs" / "b"])
    said = program(tmp_path, "a", "--html", "c.txt", script="compare")
    assert "--html=c.txt has the unknown ending '.txt'; use .html." in said.err


# ---- in a browser


def dom(page: Path, *options: str) -> str:
    """The elements of a page after its scripts have run."""
    assert CHROMIUM is not None
    words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--virtual-time-budget=20000"]
    done = subprocess.run(
        [CHROMIUM, *words, *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)


def with_reader(page: Path, copy: Path, script: str) -> Path:
    """A copy of a page with what a reader does in it, as a script that puts what it finds into the title."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    wait = "const wait = (ms) => new Promise((done) => setTimeout(done, ms));"
    act = f"<script>{wait} setTimeout(async () => {{ {script} }}, 6000);</script></body>"
    head, _, tail = text.rpartition("</body>")
    copy.write_text(head + act + tail, encoding="utf-8")
    return copy


def title(text: str) -> Any:
    found = re.search(r"<title>(.*?)</title>", text)
    assert found is not None
    return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_a_run_and_moves_through_its_codes(run: RunFolder, tmp_path: Path) -> None:
    drawn = dom(run.page)
    assert drawn.count("<svg") == 3
    assert 'class="js"' in drawn
    assert 'class="js"' not in dom(run.page, "--blink-settings=scriptEnabled=false")
    script = """
        const [slider, unit] = ["value", "unit"].map((id) => document.getElementById(id));
        const image = document.querySelector(".strip img"), before = image.style.transform, said = [];
        slider.value = 0; slider.dispatchEvent(new Event("input"));
        said.push(document.getElementById("reading").textContent, image.style.transform !== before);
        unit.selectedIndex = 1; unit.dispatchEvent(new Event("input"));
        said.push(image.alt);
        const list = document.querySelector("[data-signal=across]");
        const place = () => document.querySelector("#latent .mark-text text").getAttribute("transform");
        const at = place(); list.value = 3; list.dispatchEvent(new Event("change")); await wait(500);
        said.push(at !== place());
        const near = document.querySelector("#curves .mark-path path"), box = near.getBoundingClientRect();
        const where = { bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
        for (const kind of ["pointerover", "pointermove", "mousemove"]) near.dispatchEvent(new PointerEvent(kind, where));
        await wait(500);
        said.push(document.getElementById("vg-tooltip-element").textContent);
        document.title = JSON.stringify(said);"""
    reading, moved, alt, other, told = title(dom(with_reader(run.page, tmp_path / "read.html", script)))
    assert reading == "z = -2.5"
    assert moved
    assert re.match(r"Decoded images with z\[\d+\]: .* nats set to -2.5", alt)
    assert other, "the codes are shown in the plane of another unit"
    assert re.match(r"of(one batch|training data|validation data)step\d+−ELBO\d+\.\d+", told), told


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_filters_and_describes_runs(sweep: Path, tmp_path: Path) -> None:
    page = page_of(sweep)
    script = """
        const marks = () => document.querySelectorAll("#figures .mark-symbol.role-mark path").length;
        const said = [marks(), document.getElementById("count").textContent];
        const box = document.querySelector("[data-filter=family][value=infovae]");
        box.focus(); box.click(); await wait(800);
        said.push(document.activeElement === box, marks(), document.getElementById("count").textContent);
        const mark = document.querySelector("#figures .mark-symbol.role-mark path"), at = mark.getBoundingClientRect();
        const where = { bubbles: true, clientX: at.x + at.width / 2, clientY: at.y + at.height / 2 };
        for (const kind of ["pointerover", "pointermove", "mousemove"]) mark.dispatchEvent(new PointerEvent(kind, where));
        await wait(500);
        said.push(document.getElementById("vg-tooltip-element").textContent);
        document.title = JSON.stringify(said);"""
    found = title(dom(with_reader(page, tmp_path / "read.html", script)))
    before, counted, focused, after, recounted, told = found
    assert (before, counted) == (14, "5 runs shown"), "5 on each split, and 4 over their slack"
    assert focused
    assert (after, recounted) == (12, "4 runs shown")
    assert "lag0" in told
    assert "setting" in told


WIDTHS = {"desktop": 1280, "phone": 390}
SCHEMES = {"light": "1", "dark": "0"}  # as Chromium numbers them

MEASURED = """
    const linear = (c) => c / 255 <= .04045 ? c / 255 / 12.92 : ((c / 255 + .055) / 1.055) ** 2.4;
    const light = (colour) => {
        const [r, g, b] = colour.match(/[0-9.]+/g).map(linear);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const page = light(getComputedStyle(document.body).backgroundColor);
    const contrast = (colour) => {
        const [low, high] = [page, light(colour)].sort((a, b) => a - b);
        return (high + .05) / (low + .05);
    };
    const all = (selector) => [...document.querySelectorAll(selector)].filter((one) => one.textContent);
    const colours = all("svg text").map((text) => getComputedStyle(text).fill);
    colours.push(...all("p, td, th, h1, h2, a, caption").map((text) => getComputedStyle(text).color));
    const controls = [...document.querySelectorAll("a[href], input, select, summary")];
    const shown = controls.filter((one) => one.checkVisibility());
    const reached = shown.filter((one) => { one.focus(); return document.activeElement === one && one.tabIndex === 0; });
    const outlined = getComputedStyle(document.activeElement).outlineStyle;
    document.title = JSON.stringify({
        screen: innerWidth, wide: document.documentElement.scrollWidth,
        charts: document.querySelectorAll("svg.marks").length, dark: page < .2,
        contrast: Math.min(...colours.map(contrast)), controls: shown.length, reached: reached.length, outlined });"""
"""What a page looks like: its width, its charts, the least contrast of its texts, and which controls can have the focus."""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_pages_fit_every_screen(run: RunFolder, sweep: Path, tmp_path: Path, width: str, scheme: str) -> None:
    """No page is wider than the screen, texts have a contrast of 3 and more, and every control can have the focus.

    Headless Chromium has no window below 500 pixels, so that a phone is a frame of its width within a page.
    """
    for page, charts in ((run.page, 3), (page_of(sweep), 1)):
        inner = with_reader(page, tmp_path / "inner.html", MEASURED + " parent.postMessage(document.title, '*');")
        outer = tmp_path / "outer.html"
        outer.write_text(
            f'<title>0</title><iframe src="{inner.name}" width="{WIDTHS[width]}" height="800" style="border: 0"></iframe>'
            '<script>addEventListener("message", (sent) => { document.title = sent.data; });</script></body>'
        )
        seen = title(dom(outer, "--window-size=1400,900", f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}"))
        assert seen["screen"] == WIDTHS[width]
        assert seen["wide"] <= seen["screen"]
        assert seen["charts"] == charts
        assert seen["dark"] == (scheme == "dark")
        assert seen["contrast"] >= 3, page
        assert seen["reached"] == seen["controls"] > 0
        assert seen["outlined"] == "solid"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_marks_runs_that_are_dragged_over_and_opens_their_pages(sweep: Path, tmp_path: Path) -> None:
    """Runs in a rectangle in one figure are marked in all of them; a click on a run leads to its page."""
    script = """
        const points = () => [...document.querySelectorAll("#figures .mark-symbol.role-mark path")];
        const faint = () => points().filter((point) => Number(point.getAttribute("opacity")) < .5).length;
        const said = [points().length, faint()];
        const mark = points()[0];
        mark.scrollIntoView({ block: "center" });
        const box = mark.getBoundingClientRect();
        const at = (dx, dy) => ({ bubbles: true, view: window, button: 0, buttons: 1,
            clientX: box.x + box.width / 2 + dx, clientY: box.y + box.height / 2 + dy });
        const drag = (kind, where, target) => {
            target.dispatchEvent(new PointerEvent(`pointer${kind}`, at(...where)));
            target.dispatchEvent(new MouseEvent(`mouse${kind}`, at(...where)));
        };
        const under = document.elementFromPoint(at(-9, -9).clientX, at(-9, -9).clientY);
        drag("down", [-9, -9], under);
        for (const step of [0, 6, 9]) drag("move", [step, step], window);
        drag("up", [9, 9], window);
        await wait(800);
        said.push(faint());
        let opened = null;
        HTMLAnchorElement.prototype.dispatchEvent = function () { opened = this.getAttribute("href"); return true; };
        for (const point of points()) {
            point.dispatchEvent(new MouseEvent("click", { bubbles: true, view: window }));
            await wait(100);
            if (opened) break;
        }
        said.push(opened);
        document.title = JSON.stringify(said);"""
    found = title(dom(with_reader(page_of(sweep), tmp_path / "read.html", script)))
    all_points, before, faint, opened = found
    assert before == 0
    assert 5 < faint < all_points, "more than a figure has, so those in other figures too"
    assert opened == "../lag0/report.html"
