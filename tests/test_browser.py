"""The page in a browser: nothing fails, nothing is loaded, and every control does what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import pytest
from browsing import DESKTOP, PHONE, chromium, prefer, requests, resize
from made_comparison import records, rules
from made_runs import (
    MIXED_TASKS,
    make_inputs,
    make_layers,
    make_mixed_grid,
    make_mixed_suite,
    make_samples,
)
from matplotlib.figure import Figure

from ecqx.report.build import build
from ecqx.report.evidence import Evidence
from ecqx.report.page import Origin
from ecqx.report.selection import front

# Draws everything, as printing does, and waits for what plotly does in the next moment.
DRAW_ALL = """
const done = arguments[0];
ecqx.ready.then(() => {
  dispatchEvent(new Event("beforeprint"));
  setTimeout(() => done(document.querySelectorAll(".plot:not(.js-plotly-plot)").length), 300);
});
"""
CENTRE = 'const plot = document.getElementById("tradeoff-plot");'


CONTRAST = """
const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function light(colour) {
  pixel.fillStyle = colour;
  pixel.fillRect(0, 0, 1, 1);
  const parts = [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
  return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
}
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (colour !== "rgba(0, 0, 0, 0)") return colour;
  }
}
const low = [];
const texts = "a, p, li, h1, h2, h3, h4, td, button, label, summary, span, figcaption, dt, dd";
for (const e of document.querySelectorAll(texts)) {
  if (!e.checkVisibility() || !e.textContent.trim() || e.closest(".js-plotly-plot")) continue;
  const [one, other] = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (other + 0.05);
  if (ratio < 4.5) low.push([e.tagName, e.className, ratio]);
}
const [front, back] = ["var(--ecq)", "var(--ecqx)"].map((colour) => {
  document.body.style.color = colour;
  return light(getComputedStyle(document.body).color);
});
return [low, front, back, light(behind(document.querySelector(".card")))];
"""


def small_suite() -> dict[str, Any]:
    """Something of everything that a page can show, and no more: each plot takes time."""
    widths = {"mlp": (4,), "resnet20": (2, 4), "deeplab": (4,)}
    grids = [
        make_mixed_grid(task, bits=bits, lambdas=(0.02, 0.1, 0.4)) for task, bits in widths.items()
    ]
    compared = records(("mlp",), ("ECQ", "ECQx", "LSQ", "fp16"), seeds=(0, 1), trials=2)
    return make_mixed_suite() | {
        "records": [run for grid in grids for run in grid] + compared,
        "rules": rules(2),
        "layers": make_layers("mlp"),
        "samples": make_samples("deeplab", count=1) | make_inputs("mlp"),
        "published": (),
    }


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        # The static figures are not looked at here.
        patch.setattr(Figure, "savefig", lambda *_, **__: None)
        patch.setattr(Figure, "draw_without_rendering", lambda *_: None)
        build(out=out, origin=Origin("a: 1\n", {"digits": "01"}), **small_suite())
    return (out / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    """The page, newly opened at a desktop's width with the centre piece drawn."""
    resize(browser, DESKTOP)
    prefer(browser, color_scheme="light", reduced_motion="reduce")
    browser.get(address)
    browser.execute_async_script(
        'const done = arguments[0]; document.getElementById("tradeoff").scrollIntoView();'
        f"{CENTRE} const wait = () => (plot.data ? done() : setTimeout(wait, 20)); wait();"
    )
    return browser


def errors(page: Any) -> list[str]:
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def control(page: Any, name: str, value: str) -> Any:
    return page.find_element("css selector", f'#controls [name="{name}"][value="{value}"]')


def shown(page: Any) -> set[str]:
    """Names of the centre piece's traces of markers."""
    return set(
        page.execute_script(
            f"{CENTRE} return plot.data.filter((t) => t.mode === 'markers').map((t) => t.name)"
        )
    ) - {"chosen"}


def grid_of(task: str) -> list[dict[str, Any]]:
    return [r for r in small_suite()["records"] if (r["task"], r["sweep"]) == (task, "grid")]


@pytest.fixture(scope="module")
def drawn(browser: Any, address: str) -> Any:
    """The page with all its charts drawn; its tests come first and leave it as it was."""
    resize(browser, DESKTOP)
    prefer(browser, color_scheme="light", reduced_motion="reduce")
    requests(browser)
    browser.get(address)
    assert browser.execute_async_script(DRAW_ALL) == 0
    # Printing has made it light.
    browser.execute_script("delete document.documentElement.dataset.theme")
    return browser


def test_everything_is_drawn_without_error_or_request(drawn: Any, address: str) -> None:
    assert errors(drawn) == []
    assert [url for url in requests(drawn) if not url.startswith(("data:", "blob:"))] == [address]
    # Every panel shows data: no plot is without a point, a bar or a picture.
    shapes = ".points path, .point path, .hm image, .im image"
    bare = f"[...document.querySelectorAll('.plot')].filter((p) => !p.querySelector('{shapes}'))"
    assert drawn.execute_script(f"return {bare}.map((p) => p.getAttribute('aria-label'))") == []


def test_keys_hide_and_show(drawn: Any) -> None:
    from selenium.webdriver import Keys

    figure = drawn.find_element("id", "figure-accuracy_sparsity")
    button = figure.find_element("css selector", '.key button[data-name="ECQ"]')
    visible = (
        "return [...arguments[0].querySelectorAll('.plot')].map("
        "(p) => p.data.filter((t) => t.visible).map((t) => t.name).join())"
    )
    assert set(drawn.execute_script(visible, figure)) == {"ECQ,ECQx,full precision"}
    button.send_keys(Keys.SPACE)
    assert button.get_attribute("aria-pressed") == "false"
    assert set(drawn.execute_script(visible, figure)) == {"ECQx,full precision"}
    button.send_keys(Keys.ENTER)
    assert set(drawn.execute_script(visible, figure)) == {"ECQ,ECQx,full precision"}


def test_screen_readers_find_their_way(drawn: Any) -> None:
    named: dict[str, list[str]] = {}
    for node in drawn.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]:
        if not node.get("ignored"):
            name = node.get("name", {}).get("value", "")
            named.setdefault(node["role"]["value"], []).append(name)
    for role in ("button", "checkbox", "radio", "link", "region", "navigation", "table"):
        assert named[role], role
        assert all(named[role]), role
    plots = drawn.find_elements("css selector", "figure.chart .plot")
    assert {plot.get_attribute("aria-label") for plot in plots} <= set(named["group"])
    assert len(named["main"]) == len(named["banner"]) == len(named["contentinfo"]) == 1
    levels = drawn.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))"
    )
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = drawn.execute_script(
        "return [...document.querySelectorAll('[id]')]"
        ".filter((e) => !e.closest('svg')).map((e) => e.id)"
    )
    assert len(ids) == len(set(ids))


def test_nothing_is_wider_than_the_window(drawn: Any) -> None:
    drawn.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    # No wider than the window, and no plot beyond its card: it has taken the new size.
    overlapping = (
        "[...document.querySelectorAll('.plot .main-svg')].filter((s) => "
        "s.getBoundingClientRect().right > s.closest('.card').getBoundingClientRect().right)"
    )
    sizes = f"[document.documentElement.scrollWidth, innerWidth, {overlapping}.length]"
    for width in (PHONE, 320, DESKTOP):
        resize(drawn, width)
        whole, window, beyond = drawn.execute_async_script(
            f"const done = arguments[0]; setTimeout(() => done({sizes}), 500);"
        )
        assert whole <= window == width
        assert beyond == 0


def test_on_paper_there_are_no_controls(drawn: Any) -> None:
    drawn.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        for name in (".bar", "#controls", ".steps", ".files"):
            assert not drawn.find_element("css selector", name).is_displayed()
        assert drawn.find_element("id", "tradeoff-plot").is_displayed()
        back = "return getComputedStyle(document.body).backgroundColor"
        assert drawn.execute_script(back) == "rgb(255, 255, 255)"
    finally:
        drawn.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_every_table_sorts_by_every_column(drawn: Any) -> None:
    from selenium.webdriver import Keys

    drawn.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    result = drawn.execute_script(
        """
        const wrong = [];
        for (const table of document.querySelectorAll("main table.sortable")) {
          const headings = [...table.tHead.rows[0].cells];
          headings.forEach((heading, column) => {
            for (const order of ["ascending", "descending"]) {
              heading.querySelector("button").click();
              const sorted = headings.filter((other) => other.hasAttribute("aria-sort"));
              const keys = [...table.tBodies[0].rows]
                .map((row) => row.cells[column].dataset.key ?? row.cells[column].textContent)
                .filter((key) => key !== "" && key !== "–");
              const numbers = keys.map(Number);
              if (order === "descending") numbers.reverse();
              const numeric = numbers.every(Number.isFinite);
              const inOrder = !numeric || numbers.every((n, i) => i === 0 || numbers[i - 1] <= n);
              if (sorted.length !== 1 || heading.getAttribute("aria-sort") !== order || !inOrder)
                wrong.push([table.caption.textContent, column, order]);
            }
          });
        }
        return [document.querySelectorAll("main table.sortable").length, wrong];
        """
    )
    assert result[0] > 10
    assert result[1] == []
    # Words sort too, here by keyboard; rows are kept whole.
    table = drawn.find_element("css selector", "#table-results table")
    before = {row.text for row in table.find_elements("css selector", "tbody tr")}
    table.find_element("css selector", "th button").send_keys(Keys.ENTER)
    rows = [row.text for row in table.find_elements("css selector", "tbody tr")]
    assert set(rows) == before
    tasks = [cell.text for cell in table.find_elements("css selector", "td:first-child")]
    assert tasks == sorted(tasks)


def test_motion_is_a_matter_of_preference(drawn: Any) -> None:
    behaviour = "return getComputedStyle(document.documentElement).scrollBehavior"
    prefer(drawn, reduced_motion="reduce")
    assert drawn.execute_script(behaviour) == "auto"
    prefer(drawn, reduced_motion="no-preference")
    assert drawn.execute_script(behaviour) == "smooth"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_lines_stand_out_in_both_themes(drawn: Any, scheme: str) -> None:
    prefer(drawn, color_scheme=scheme)
    low, ecq, ecqx, card = drawn.execute_script(CONTRAST)
    assert low == []
    assert (card > 0.5) == (scheme == "light")
    for line in (ecq, ecqx):
        lighter, darker = max(line, card), min(line, card)
        assert (lighter + 0.05) / (darker + 0.05) >= 3


def test_methods_and_bits_go_off_and_on(page: Any) -> None:
    control(page, "task", "1").click()
    every = {f"{method}, {bits} bit" for method in ("ECQ", "ECQx") for bits in (2, 4)}
    assert shown(page) == every
    control(page, "method", "ECQ").click()
    assert shown(page) == {"ECQx, 2 bit", "ECQx, 4 bit"}
    control(page, "bits", "4").click()
    assert shown(page) == {"ECQx, 2 bit"}
    control(page, "method", "ECQx").click()
    assert shown(page) == set()
    assert "Nothing is shown" in page.find_element("id", "point").text
    for name, value in (("method", "ECQ"), ("method", "ECQx"), ("bits", "4")):
        control(page, name, value).click()
    assert shown(page) == every
    assert errors(page) == []


def test_controls_work_by_keyboard(page: Any) -> None:
    from selenium.webdriver import Keys

    control(page, "task", "0").send_keys(Keys.ARROW_DOWN)
    assert control(page, "task", "1").is_selected()
    control(page, "method", "ECQ").send_keys(Keys.SPACE)
    assert shown(page) == {"ECQx, 2 bit", "ECQx, 4 bit"}
    before = page.find_element("css selector", "#point h3").text
    page.find_element("id", "next").send_keys(Keys.ENTER)
    after = page.find_element("css selector", "#point h3").text
    assert after != before
    page.find_element("id", "previous").send_keys(Keys.SPACE)
    assert page.find_element("css selector", "#point h3").text == before
    ranges = f"{CENTRE} return plot._fullLayout.yaxis.range"
    opened = page.execute_script(ranges)
    plot = page.find_element("id", "tradeoff-plot")
    plot.send_keys("+")
    nearer = page.execute_script(ranges)
    assert opened[0] < nearer[0] < nearer[1] < opened[1]
    plot.send_keys(Keys.ARROW_UP)
    assert page.execute_script(ranges)[0] > nearer[0]
    plot.send_keys("0")
    assert page.execute_script(ranges) == pytest.approx(opened)


def test_shown_and_hovered_values_are_those_of_the_runs(page: Any) -> None:
    control(page, "task", "1").click()
    control(page, "show", "runs").click()
    traces = page.execute_script(
        f"{CENTRE} return plot.data.map(({{name, x, y, text}}) => ({{name, x, y, text}}))"
    )
    runs = grid_of("resnet20")
    by_setting: dict[Any, list[dict[str, Any]]] = {}
    for run in runs:
        by_setting.setdefault((run["method"], run["bits"], run["lam"]), []).append(run)
    seen = 0
    for trace in traces:
        for x, y, words in zip(trace["x"], trace["y"], trace["text"] or (), strict=False):
            method, bits, lam = re.match(r"<b>(\w+), (\d) bit, Λ ([\d.]+)", words).groups()
            own = by_setting[method, int(bits), float(lam)]
            if "single runs" in trace["name"]:
                (own,) = [[r] for r in own if r["run_id"] in words]
                assert f"size: {own[0]['bytes']} bytes" in words
            else:
                accuracy = [100 * r["accuracy"] for r in own]
                spread = f"{fmean(accuracy):.2f} ± {stdev(accuracy):.2f} %"
                assert f"top-1 accuracy: {spread}" in words
                ratio = [r["compression_ratio"] for r in own]
                assert f"ratio: {fmean(ratio):.1f} ± {stdev(ratio):.1f}" in words
            assert x == pytest.approx(fmean(r["bytes"] for r in own) / 1000)
            assert y == pytest.approx(100 * fmean(r["accuracy"] for r in own))
            seen += 1
    assert seen == len(runs) + len(by_setting)
    # What plotly shows on the screen is that text.
    hovered = page.execute_script(
        f"{CENTRE} const at = plot.data.findIndex((t) => t.name === 'ECQx, 4 bit');"
        "Plotly.Fx.hover(plot, [{curveNumber: at, pointNumber: 2}]);"
        "return [plot.querySelector('.hovertext').textContent, plot.data[at].text[2]]"
    )
    assert hovered[0] == re.sub("<.*?>", "", hovered[1])


def test_the_chosen_point_lists_its_runs(page: Any) -> None:
    heading = page.find_element("css selector", "#point h3").text
    method, bits, lam = re.match(r"(\w+), (\d) bit, Λ ([\d.]+): MLP_GSC", heading).groups()
    chosen = (method, int(bits), float(lam))
    own = [r for r in grid_of("mlp") if (r["method"], r["bits"], r["lam"]) == chosen]
    rows = page.find_elements("css selector", "#point tbody tr")
    cells = [[cell.text for cell in row.find_elements("tag name", "td")] for row in rows]
    assert cells == [
        [
            *(str(r["seed"]), f"{100 * r['accuracy']:.2f}"),
            *(f"{100 * r['accuracy_validation']:.2f}", f"{100 * r['accuracy_fp32']:.2f}"),
            *(f"{100 * r['sparsity']:.1f}", str(r["bytes"]), f"{r['compression_ratio']:.1f}"),
            *(f"{r['entropy_bits_per_weight']:.2f}", r["run_id"]),
        ]
        for r in own
    ]
    shared = page.find_element("css selector", "#point dl").text
    assert "epochs" in shared
    assert "gradient" in shared


@pytest.mark.parametrize("bits", [(2, 4), (4,)])
def test_fronts_are_those_of_the_report(page: Any, bits: tuple[int, ...]) -> None:
    control(page, "task", "1").click()
    if 2 not in bits:
        control(page, "bits", "2").click()
    evidence = Evidence.collect("made", MIXED_TASKS, grid_of("resnet20"))
    for method in ("ECQ", "ECQx"):
        settings = [s for s in evidence.of("resnet20", method=method) if s.bits in bits]
        expected = [s.mean("bytes").mean / 1000 for s in front(settings)]
        drawn = page.execute_script(
            f"{CENTRE} return plot.data.find((t) => t.name === '{method}, Pareto front').x"
        )
        assert drawn == pytest.approx(expected)


def test_the_theme_can_be_switched(page: Any) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    colours = (
        f"{CENTRE} return [getComputedStyle(document.body).backgroundColor,"
        "plot._fullLayout.font.color, plot.data.find((t) => t.name === 'ECQx, 4 bit').marker.color]"
    )
    light = page.execute_script(colours)
    button = page.find_element("id", "theme")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    dark = page.execute_script(colours)
    assert button.get_attribute("aria-pressed") == "true"
    assert all(one != other for one, other in zip(light, dark, strict=True))
    button.click()
    assert page.execute_script(colours) == light
    # The charts hear of it after the styles.
    prefer(page, color_scheme="dark")
    WebDriverWait(page, 10).until(lambda p: p.execute_script(colours) == dark)
    # On paper everything is light, and afterwards as it was.
    page.execute_script("dispatchEvent(new Event('beforeprint'))")
    printed = page.execute_script(colours)
    page.execute_script("dispatchEvent(new Event('afterprint'))")
    assert printed[1:] == light[1:]
    assert page.execute_script(colours) == dark


def test_without_script_the_tables_are_there(page: Any, address: str) -> None:
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get(address)
        assert "figures/" in page.find_element("css selector", "noscript").text
        assert page.find_element("css selector", "#table-best_files td").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_first_stop_of_the_keyboard_skips_to_the_content(page: Any, address: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    # Some browsers begin where the page is scrolled to.
    page.get(address)
    ActionChains(page).send_keys(Keys.TAB).perform()
    focused = page.switch_to.active_element
    assert focused.get_attribute("class") == "skip"
    assert focused.location["y"] >= 0
    outline = page.execute_script("return getComputedStyle(arguments[0]).outlineWidth", focused)
    assert outline == "3px"
    focused.send_keys(Keys.ENTER)
    assert page.execute_script("return document.activeElement.id") == "content"
