"""The report in a real browser: no errors, tables that work, links that lead somewhere, readable by everybody."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
import pytest

from nightflow import page, weakness

pytestmark = pytest.mark.workflow

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
HOSTILE = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\'{{7*7}}'
N_LIGHTS = 2000


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium without a window."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium (Debian's package chromium; `make engines` installs it)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def opened(browser):
    """A function that opens a file and collects what the browser complains about."""
    contexts = []

    def open_page(path, **device):
        contexts.append(browser.new_context(**device))
        tab = contexts[-1].new_page()
        tab.complaints = []
        tab.on("console", lambda message: tab.complaints.append(message.text))
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on(
            "request", lambda request: request.url.startswith(("file:", "data:")) or tab.complaints.append(request.url)
        )
        tab.goto(Path(path).as_uri())
        return tab

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def large_page(root, tmp_path_factory):
    """The page of 2,000 lights, some of them bad, with text in the headers that would like to be a program."""
    rng = np.random.default_rng(7)
    frames = pd.DataFrame({"frame": [f"M51_V_{i:04d}" for i in range(N_LIGHTS)], "kind": "light", "status": "ok"})
    frames = frames.assign(
        target="M51", filter=np.where(np.arange(N_LIGHTS) % 2, "V", "R"), path=HOSTILE, night="2024-03-08"
    )
    frames = frames.assign(mjd_mid=60377.8 + np.arange(N_LIGHTS) * 2e-4, exptime=60.0, reason="", instrument=HOSTILE)
    frames.loc[5, ["status", "reason"]] = "rejected", HOSTILE
    lights = frames.assign(
        used=frames["status"].eq("ok"), remarks=HOSTILE, median=rng.normal(300, 10, N_LIGHTS), stddev=20.0,
        sky_std=20.0, fwhm=rng.normal(3, 0.05, N_LIGHTS), flux_scale=1.0, ellipticity=0.05, n_stars=100, remark=HOSTILE,
    )  # fmt: skip
    lights.loc[1234, "fwhm"], lights.loc[77, ["used", "reason"]] = 6.0, [False, "too few stars"]
    lights = lights.join(weakness.depth_losses(lights))
    stack = {"target": "M51", "filter": "V", "rejected": HOSTILE, "unit": None, "picture": None}
    night = {
        "frames": frames,
        "lights": lights,
        "stacks": [stack],
        "masters": [],
        "previews": [],
        "composites": [],
        "made": [],
        "folders": [],
    }
    night["detector"] = pd.DataFrame({"camera": [HOSTILE], "amplifier": ["0"], "warning": [HOSTILE]}).reindex(
        columns=["camera", "amplifier", "warning"]
        + [f"{a}_{b}" for a in ("gain", "read_noise") for b in ("header", "measured", "used")]
        + ["saturation_header", "saturation_found", "saturation_used"]
    ).astype(object).fillna("")  # fmt: skip

    templates = {name: (root / "workflow" / "report" / name).read_text("utf-8") for name in TEMPLATES}
    folder = tmp_path_factory.mktemp("large")
    (folder / "index.html").write_text(page.render(templates, night, str(folder)), encoding="utf-8")
    return folder / "index.html"


TEMPLATES = ("night.html.j2", "night.css", "night.js")


def rows(tab, table="lights"):
    return tab.locator(f"[data-table={table}] tbody tr th").all_inner_texts()


def status(tab, table="lights"):
    return tab.locator(f"[data-table={table}] [role=status]").inner_text()


def serious(tab):
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(tab).response["violations"]
    return [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")]


def test_two_thousand_lights_are_paged_sorted_and_filtered(opened, large_page):
    tab = opened(large_page)
    assert large_page.stat().st_size < 1_500_000 and tab.complaints == []
    assert len(rows(tab)) == 50 and status(tab) == "1 to 50 of 2000"
    tab.get_by_label("next page, Lights").click()
    assert rows(tab)[0] == "M51_V_0050" and status(tab) == "51 to 100 of 2000"
    heading = tab.locator("[data-table=lights] th", has_text="FWHM")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "descending" and rows(tab)[0] == "M51_V_1234"
    tab.locator("[data-table=lights]").get_by_label("Stacked").select_option(label="no")
    assert sorted(rows(tab)) == ["M51_V_0005", "M51_V_0077"]
    tab.locator("[data-table=lights]").get_by_label("Find").fill("too few")
    assert rows(tab) == ["M51_V_0077"] and status(tab) == "1 to 1 of 1"
    tab.locator("[data-table=lights]").get_by_label("Find").fill("nothing like it")
    assert rows(tab) == [] and status(tab) == "no rows" and tab.complaints == []


def test_the_worst_light_and_why_come_first(opened, large_page):
    tab = opened(large_page)
    text = tab.locator("main section").first.inner_text()
    assert text.index("M51_V_0077") < text.index("M51_V_1234")
    assert "too few stars" in text and re.search(r"M51_V_1234.*0\.7\d mag less deep.*seeing 6 px, median 3", text)


def test_text_of_headers_stays_text(opened, large_page):
    tab = opened(large_page)
    assert tab.evaluate("window.hacked") is None and tab.complaints == []
    assert HOSTILE in tab.locator("main").inner_text() and "49" not in tab.locator("h1").inner_text()
    source = large_page.read_text(encoding="utf-8")
    assert "<img src=x" not in source and source.count("<script") == 2


def test_a_dot_names_its_light_and_finds_it_in_the_table(opened, large_page):
    tab = opened(large_page)
    box = tab.locator("figure[data-column=fwhm] .chart").bounding_box()
    x, y = tab.evaluate(
        """() => { const c = document.querySelector('figure[data-column=fwhm] .chart'); c.scrollIntoView();
        const d = [...c.querySelectorAll('path[data-i]')].flatMap(p => { const n = p.dataset.i.split(' ');
          return [...p.getAttribute('d').matchAll(/M([\\d.-]+) ([\\d.-]+)/g)].map((m, k) => [n[k], +m[1], +m[2]]); })
          .find(d => d[0] === '1234');
        const q = new DOMPoint(d[1], d[2]).matrixTransform(c.getScreenCTM()); return [q.x, q.y]; }"""
    )
    assert box
    tab.mouse.move(x, y)
    assert tab.locator("#tip").inner_text() == "M51_V_1234: 6"
    tab.mouse.click(x, y)
    assert rows(tab) == ["M51_V_1234"] and tab.complaints == []


@pytest.mark.parametrize(
    "device",
    [
        {},
        {"color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
    ],
    ids=["light", "dark", "phone"],
)
def test_readable_by_everybody(opened, large_page, reduced, device):
    for path in (large_page, reduced.results / "report" / "index.html"):
        tab = opened(path, **device)
        assert serious(tab) == [] and tab.complaints == []
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_every_link_leads_somewhere(opened, reduced):
    report = reduced.results / "report"
    tab = opened(report / "index.html")
    tab.locator("details summary").click()
    addresses = tab.locator("a").evaluate_all("links => links.map(link => link.href)")
    files = {unquote(urlparse(address).path) for address in addresses}
    assert {str(reduced.results / "previews" / "M67_V_001.masked.png")} < files
    assert {str(reduced.results / "stacks" / "M67" / "V.fits")} < files
    assert [file for file in files if not Path(file).is_file()] == []
    for address in addresses:
        if urlparse(address).fragment:
            assert tab.locator("#" + urlparse(address).fragment).count() == 1
    for picture in tab.locator("img").all():
        assert picture.evaluate("image => image.complete && image.naturalWidth > 8") and picture.get_attribute("alt")


def test_what_the_night_was_made_of_is_on_the_page(opened, reduced):
    tab = opened(reduced.results / "report" / "index.html")
    assert "dark_2018-05-12" in tab.locator("[data-table=calibration] tbody").inner_text()
    detectors = tab.locator("section[aria-labelledby=detectors] tbody td.number").all_inner_texts()
    gains = [float(text) for text in detectors[1:3]]
    assert gains[1] == pytest.approx(gains[0], rel=0.05)  # measured and header
    assert len(tab.locator("section[aria-labelledby=masters] tbody tr").all()) == 4
    assert {chart.get_attribute("data-column") for chart in tab.locator("figure[data-column]").all()} >= {
        "median", "stddev", "fwhm", "ellipticity", "depth_loss",
    }  # fmt: skip


def test_provenance_leads_from_the_stack_to_every_raw_light(reduced):
    document = json.loads((reduced.results / "provenance.json").read_text(encoding="utf-8"))
    derived = {}
    for relation in document["wasDerivedFrom"].values():
        derived.setdefault(relation["prov:generatedEntity"], set()).add(relation["prov:usedEntity"])
    found, waiting = set(), ["nf:stacks/M67/V.fits"]
    while waiting:
        entity = waiting.pop()
        found.add(entity)
        waiting += derived.get(entity, set()) - found
    raw = {f"nf:{path.name}" for path in reduced.raw.rglob("*.fits")}
    assert raw <= found and all("nf:datasum" in document["entity"][entity] for entity in found)


def test_snakemakes_own_report_builds(reduced, tmp_path):
    workspace = reduced.copy(tmp_path / "copy")
    workspace.run("--report", "night.html")
    text = (workspace.folder / "night.html").read_text(encoding="utf-8")
    for shown in ("index.html", "night.svg", "quality.tsv", "Dots are stacked lights", "stacks/M67/V.png"):
        assert shown in text
