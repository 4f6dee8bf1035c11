"""The page in a browser: nothing fails, nothing is loaded, and every control does what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from browsing import DESKTOP, PHONE, chromium, prefer, requests, resize
from made_comparison import records, rules
from made_runs import (
    MIXED_TASKS,
    draw,
    make_inputs,
    make_layers,
    make_mixed_grid,
    make_mixed_suite,
    make_samples,
)

from ecqx.report.evidence import Evidence
from ecqx.report.page import Origin
from ecqx.report.selection import front

# Draws everything, as printing does; tells how many charts are missing.
DRAW_ALL = """
const done = arguments[0];
ecqx.drawAll().then(() => done(document.querySelectorAll(".plot:not(:has(svg.marks))").length));
"""
# Marks of a kind in a figure that can be seen.
MARKS = """
return [...document.querySelectorAll(`#figure-${arguments[0]} svg .mark-symbol path`)]
  .map((mark) => mark.getAttribute("aria-label") ?? "").filter((text) => text.includes("setting"));
"""

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
    // Stripes of tables are so faint that what lies behind them counts.
    if (colour !== "rgba(0, 0, 0, 0)" && !colour.includes("/")) return colour;
  }
}
const low = [];
const texts = "a, p, li, h1, h2, h3, h4, td, button, label, summary, span, figcaption, dt, dd";
for (const e of document.querySelectorAll(texts)) {
  if (!e.checkVisibility() || !e.textContent.trim() || e.closest(".plot")) continue;
  const [one, other] = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
  const ratio = (one + 0.05) / (other + 0.05);
  if (ratio < 4.5) low.push([e.tagName, e.className, ratio]);
}
return [low, light(behind(document.querySelector(".card")))];
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
    draw(small_suite() | {"origin": Origin("a: 1\n", {"digits": "01"})}, out)
    return (out / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(browser: Any, address: str) -> Any:
    """The page, newly opened at a desktop's width with all charts drawn."""
    resize(browser, DESKTOP)
    prefer(browser, color_scheme="light", reduced_motion="reduce")
    browser.get(address)
    assert browser.execute_async_script(DRAW_ALL) == 0
    return browser


def errors(page: Any) -> list[str]:
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def control(page: Any, figure: str, value: str) -> Any:
    return page.find_element("css selector", f'#figure-{figure} input[value="{value}"]')


def marks(page: Any, figure: str) -> list[str]:
    """What the marks of a figure say to a screen reader, once the charts have settled."""
    page.execute_async_script("setTimeout(arguments[0], 150)")
    return [str(label) for label in page.execute_script(MARKS, figure)]


def kinds(page: Any, figure: str) -> set[str]:
    """Method and bit width of the marks of a figure."""
    found = (re.search(r"setting: (\w+, \d bit)", label) for label in marks(page, figure))
    return {match[1] for match in found if match}


@pytest.fixture(scope="module")
def drawn(browser: Any, address: str) -> Any:
    """The page with all its charts drawn; its tests come first and leave it as it was."""
    resize(browser, DESKTOP)
    prefer(browser, color_scheme="light", reduced_motion="reduce")
    requests(browser)
    browser.get(address)
    assert browser.execute_async_script(DRAW_ALL) == 0
    return browser


def test_everything_is_drawn_without_error_or_request(drawn: Any, address: str) -> None:
    assert errors(drawn) == []
    assert [url for url in requests(drawn) if not url.startswith(("data:", "blob:"))] == [address]
    # Every panel shows data: no plot is without a point, a bar or a picture.
    shapes = ".mark-symbol path, .mark-rect path, .mark-image image"
    bare = f"[...document.querySelectorAll('.plot')].filter((p) => !p.querySelector('{shapes}'))"
    assert drawn.execute_script(f"return {bare}.map((p) => p.getAttribute('aria-label'))") == []


def test_screen_readers_find_their_way(drawn: Any) -> None:
    named: dict[str, list[str]] = {}
    for node in drawn.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]:
        if not node.get("ignored"):
            name = node.get("name", {}).get("value", "")
            named.setdefault(node["role"]["value"], []).append(name)
    for role in ("button", "checkbox", "link", "region", "navigation", "table"):
        assert named[role], role
        assert all(named[role]), role
    plots = drawn.find_elements("css selector", "figure.chart .plot")
    labels = {plot.get_attribute("aria-label") for plot in plots}
    assert labels <= set(named["graphics-document"])
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
    # No plot beyond its card, and nothing cut off but in a region that scrolls.
    overlapping = (
        "[...document.querySelectorAll('.plot svg.marks, .card *:not(svg *)')].filter((s) => "
        "s.checkVisibility() && !s.closest('.wide, .hidden, pre') && "
        "s.getBoundingClientRect().right > s.closest('.card').getBoundingClientRect().right + 1)"
        ".map((s) => s.outerHTML.slice(0, 80))"
    )
    from selenium.webdriver.support.wait import WebDriverWait

    for width in (PHONE, 340, DESKTOP):
        resize(drawn, width)
        # The charts take their new size a moment later.
        WebDriverWait(drawn, 10).until(
            lambda page: page.execute_script(f"return {overlapping}") == []
        )
        sizes = "return [document.documentElement.scrollWidth, innerWidth]"
        whole, window = drawn.execute_script(sizes)
        assert whole <= window == width


def test_on_paper_there_are_no_controls(drawn: Any) -> None:
    drawn.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        for name in (".bar", ".zoom", ".files"):
            assert not drawn.find_element("css selector", name).is_displayed()
        assert drawn.find_element("css selector", ".plot").is_displayed()
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
    low, card = drawn.execute_script(CONTRAST)
    assert low == []
    assert (card > 0.5) == (scheme == "light")
    # Text of the charts is in the colour of the text around it.
    colours = drawn.execute_script(
        "const plot = document.querySelector('.plot'); const text = plot.querySelector('svg text');"
        "return [getComputedStyle(plot).color, getComputedStyle(text).fill]"
    )
    assert colours[0] == colours[1]


def test_methods_bits_and_runs_go_off_and_on(page: Any) -> None:
    name = "accuracy_size"
    every = {f"{method}, {bits} bit" for method in ("ECQ", "ECQx") for bits in (2, 4)}
    assert kinds(page, name) == every
    means = len(marks(page, name))
    control(page, name, "ECQ").click()
    assert kinds(page, name) == {"ECQx, 2 bit", "ECQx, 4 bit"}
    control(page, name, "4 bit").click()
    assert kinds(page, name) == {"ECQx, 2 bit"}
    for value in ("ECQ", "4 bit", "single runs"):
        control(page, name, value).click()
    shown = marks(page, name)
    runs = [label for label in shown if ", run " in label]
    assert len(shown) == means + len(runs)
    assert len(runs) == len([r for r in small_suite()["records"] if r["sweep"] == "grid"])
    assert errors(page) == []


def test_switches_and_zoom_work_by_keyboard(page: Any) -> None:
    from selenium.webdriver import Keys

    name = "accuracy_size"
    control(page, name, "ECQ").send_keys(Keys.SPACE)
    assert kinds(page, name) == {"ECQx, 2 bit", "ECQx, 4 bit"}
    plot = page.find_element("css selector", f"#figure-{name} .plot")
    ends = (
        "const [plot, done] = arguments; setTimeout(() => ecqx.charts.get(plot).view.then("
        "(view) => done([...view.scale('x').domain(), ...view.scale('y').domain()])), 100);"
    )
    opened = page.execute_async_script(ends, plot)
    plot.send_keys("+")
    nearer = page.execute_async_script(ends, plot)
    assert opened[0] < nearer[0] < nearer[1] < opened[1]
    assert opened[2] < nearer[2] < nearer[3] < opened[3]
    plot.send_keys(Keys.ARROW_UP)
    assert page.execute_async_script(ends, plot)[2] > nearer[2]
    plot.send_keys("0")
    assert page.execute_async_script(ends, plot) == pytest.approx(opened)
    page.find_element("css selector", f"#figure-{name} [data-zoom='0.7']").send_keys(Keys.ENTER)
    assert page.execute_async_script(ends, plot) == pytest.approx(nearer)


def test_fronts_are_those_of_the_selection(page: Any) -> None:
    """Of what is shown: with one bit width hidden the front is that of the other."""
    fronts = """
    const [figure, number, done] = arguments;
    const plot = document.querySelectorAll(`#figure-${figure} .plot`)[number];
    ecqx.charts.get(plot).view.then((view) => {
      const lines = [];
      const visit = (item) => {
        if (item.marktype === "line" && item.items.length && item.items[0].datum.bytes)
          lines.push([item.items[0].datum.series, item.items.map((point) => point.datum.bytes)]);
        (item.items ?? []).forEach(visit);
      };
      visit(view.scenegraph().root);
      done(lines);
    });
    """
    evidence = Evidence.collect("small", MIXED_TASKS, small_suite()["records"]).sweeps("grid")
    for hidden, widths in (("", (2, 4)), ("2 bit", (4,))):
        if hidden:
            control(page, "accuracy_size", hidden).click()
            marks(page, "accuracy_size")
        drawn = dict(page.execute_async_script(fronts, "accuracy_size", 1))
        for method in ("ECQ", "ECQx"):
            settings = [s for s in evidence.of("resnet20", method=method) if s.bits in widths]
            expected = [s.mean("bytes").mean for s in front(settings)]
            assert drawn[method] == pytest.approx(expected)


def test_values_are_shown_where_the_mouse_points(page: Any) -> None:
    from selenium.webdriver import ActionChains

    mark = page.find_element("css selector", "#figure-accuracy_sparsity .mark-symbol path")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(page).move_to_element(mark).perform()
    page.execute_async_script("setTimeout(arguments[0], 200)")
    words = page.find_element("id", "vg-tooltip-element").text
    for part in ("setting", "accuracy (%)", "±", "sparsity (%)", "size (kB)", "0, 1, 2"):
        assert part in words


def test_the_theme_can_be_switched(page: Any) -> None:
    colours = (
        "return [getComputedStyle(document.body).backgroundColor,"
        "getComputedStyle(document.querySelector('.plot svg text')).fill]"
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
    prefer(page, color_scheme="dark")
    assert page.execute_script(colours) == dark


def test_without_script_the_tables_are_there(browser: Any, address: str) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(address)
        assert "figures/" in browser.find_element("css selector", "noscript").text
        assert browser.find_element("css selector", "#table-best_files td").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_first_stop_of_the_keyboard_skips_to_the_content(browser: Any, address: str) -> None:
    from selenium.webdriver import ActionChains, Keys

    # Some browsers begin where the page is scrolled to.
    browser.get(address)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    focused = browser.switch_to.active_element
    assert focused.get_attribute("class") == "skip"
    assert focused.location["y"] >= 0
    outline = browser.execute_script("return getComputedStyle(arguments[0]).outlineWidth", focused)
    assert outline == "3px"
    focused.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.activeElement.id") == "content"
