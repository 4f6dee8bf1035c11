"use strict";
// Draws the charts that come into sight, hides what is unticked, zooms, sorts tables, sets the theme.

const ecqx = (() => {
  const config = JSON.parse(document.getElementById("config").textContent);
  const charts = new Map();

  // -- charts ------------------------------------------------------------------------------------

  const hidden = (figure) => [...figure.querySelectorAll(".controls input:not(:checked)")].map((input) => input.value);

  function drawn(plot) {
    const chart = charts.get(plot);
    chart.view ??= vegaEmbed(plot, chart.spec(), {
      mode: "vega-lite", renderer: "svg", actions: false, config, tooltip: { theme: "custom" },
    }).then(({ view }) => view.signal("hidden", hidden(chart.figure)).runAsync());
    return chart.view;
  }

  function zoom(view, factor, right = 0, up = 0) {
    for (const [name, shift] of [["x", right], ["y", up]]) {
      const scale = view.scale(name);
      const [from, to] = scale.range();
      const [middle, half] = [(from + to) / 2 + 0.2 * shift * (to - from), ((to - from) / 2) * factor];
      view.signal(`zoom_${name}`, factor ? [scale.invert(middle - half), scale.invert(middle + half)] : null);
    }
    return view.runAsync();
  }

  for (const figure of document.querySelectorAll("figure.chart")) {
    const plots = [...figure.querySelectorAll(".plot")];
    let specs = null;
    for (const [i, plot] of plots.entries()) {
      const chart = { figure, view: null };
      chart.spec = () => {
        specs ??= JSON.parse(figure.querySelector(".spec").textContent);
        chart.zooms = JSON.stringify(specs[i]).includes('"bind":"scales"');
        return specs[i];
      };
      charts.set(plot, chart);
    }
    const each = (act) => plots.forEach((plot) => drawn(plot).then((view) => act(view, charts.get(plot))));
    figure.addEventListener("change", () => each((view) => view.signal("hidden", hidden(figure)).runAsync()));
    for (const button of figure.querySelectorAll("[data-zoom]")) {
      button.addEventListener("click", () => each((view, chart) => chart.zooms && zoom(view, Number(button.dataset.zoom))));
    }
  }

  const moves = { ArrowLeft: [1, -1, 0], ArrowRight: [1, 1, 0], ArrowUp: [1, 0, 1], ArrowDown: [1, 0, -1] };
  const zooms = { ...moves, "+": [0.7], "=": [0.7], "-": [1.4], 0: [0] };

  document.addEventListener("keydown", async (event) => {
    const chart = charts.get(event.target);
    if (!chart?.zooms || !(event.key in zooms) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    zoom(await chart.view, ...zooms[event.key]);
  });

  const sight = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (isIntersecting) sight.unobserve(target), drawn(target);
    }
  }, { rootMargin: "600px" });
  charts.forEach((_, plot) => sight.observe(plot));

  const drawAll = () => Promise.all([...charts.keys()].map(drawn));
  addEventListener("beforeprint", drawAll);

  // -- tables ------------------------------------------------------------------------------------

  function sort(table, column, ascending) {
    const body = table.tBodies[0];
    const key = (row) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
    const rows = [...body.rows].map((row) => [key(row), row]);
    const known = rows.filter(([text]) => text !== "" && text !== "–");
    const numeric = known.every(([text]) => Number.isFinite(Number(text)));
    const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, "en", { numeric: true });
    known.sort(([a], [b]) => (ascending ? compare(a, b) : compare(b, a)));
    // What has no value stays at the end.
    const unknown = rows.filter((row) => !known.includes(row));
    body.append(...[...known, ...unknown].map(([, row]) => row));
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = [...table.tHead.rows[0].cells];
    for (const [column, heading] of headings.entries()) {
      heading.querySelector("button").addEventListener("click", () => {
        const ascending = heading.getAttribute("aria-sort") !== "ascending";
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
        sort(table, column, ascending);
      });
    }
  }

  // -- theme -------------------------------------------------------------------------------------

  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const switcher = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const show = () => switcher.setAttribute("aria-pressed", String(isDark()));

  switcher.addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    // What the system prefers needs no choice of the reader's, and then follows the system.
    if ((wanted === "dark") === dark.matches) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    show();
  });
  dark.addEventListener("change", show);
  show();

  return { charts, drawn, drawAll, zoom };
})();
