"use strict";
// What the whole page shares: theme, tables that sort, and charts that are drawn when they come
// into sight. The plotting library lies in the page, packed.

const ecqx = (() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)").matches;

  // -- colours: any CSS expression, as the present theme shows it -------------------------------

  const probe = document.body.appendChild(document.createElement("span"));
  probe.hidden = true;
  const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  let colours = new Map();

  function colour(expression) {
    if (!colours.has(expression)) {
      probe.style.color = expression;
      pixel.fillStyle = getComputedStyle(probe).color;
      pixel.fillRect(0, 0, 1, 1);
      const [red, green, blue] = pixel.getImageData(0, 0, 1, 1).data;
      colours.set(expression, `rgb(${red}, ${green}, ${blue})`);
    }
    return colours.get(expression);
  }

  function resolved(value) {
    if (typeof value === "string") return /^(var|color-mix)\(/.test(value) ? colour(value) : value;
    if (Array.isArray(value)) return value.some((own) => typeof own !== "number") ? value.map(resolved) : value;
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, own]) => [key, resolved(own)]));
  }

  // -- the library -------------------------------------------------------------------------------

  async function unpacked() {
    const text = document.getElementById("library").textContent;
    const packed = Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  const ready = unpacked();

  // -- drawing -----------------------------------------------------------------------------------

  const axis = () => ({
    gridcolor: "var(--grid)", linecolor: "var(--line)", tickcolor: "var(--line)",
    zeroline: false, showline: true, ticks: "outside", ticklen: 4, title: { standoff: 8 },
  });

  function framed(layout) {
    const shared = {
      paper_bgcolor: "rgba(0, 0, 0, 0)", plot_bgcolor: "rgba(0, 0, 0, 0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: "var(--text)" },
      // Above the axes there is room for the buttons, which would hide points otherwise.
      margin: { l: 52, r: 10, t: 30, b: 44 }, showlegend: false, hovermode: "closest",
      dragmode: coarse ? false : "zoom", xaxis: axis(), yaxis: axis(),
      modebar: { bgcolor: "rgba(0, 0, 0, 0)", color: "var(--faint)", activecolor: "var(--accent)" },
      hoverlabel: {
        bgcolor: "var(--card)", bordercolor: "var(--faint)", align: "left",
        font: { color: "var(--text)" },
      },
    };
    return resolved({ uirevision: "kept", ...layout, template: { layout: shared } });
  }

  function draw(plot, data, layout) {
    const settings = {
      displaylogo: false, responsive: true, toImageButtonOptions: { format: "svg" },
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
    };
    return Plotly.react(plot, resolved(data), framed(layout), settings);
  }

  // Counts are drawn by their logarithm; masks come as runs of equal labels.
  function laidOut(trace) {
    if (trace.meta === "counts") {
      const z = trace.z.map((row) => row.map((count) => (count > 0 ? Math.log10(count) : null)));
      const ticks = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 100000, 1000000];
      const most = Math.max(...z.flat());
      const tickvals = ticks.map(Math.log10).filter((tick) => tick <= most);
      const colorbar = { ...trace.colorbar, tickvals, ticktext: ticks.slice(0, tickvals.length).map(String) };
      return { ...trace, customdata: trace.z, z, zmin: 0, zmax: Math.max(most, 0.3), colorbar };
    }
    if (trace.meta?.runs) {
      const { runs, width, names } = trace.meta;
      const flat = runs.flatMap(([label, count]) => Array(count).fill(label));
      const rows = Array.from({ length: flat.length / width }, (_, i) => flat.slice(i * width, (i + 1) * width));
      return { ...trace, meta: null, z: rows, text: rows.map((row) => row.map((label) => names[label])) };
    }
    return trace;
  }

  const drawings = new Map();

  for (const figure of document.querySelectorAll("figure.chart")) {
    const plots = [...figure.querySelectorAll(".plot")];
    const hidden = new Set();
    let panels = null;
    for (const [i, plot] of plots.entries()) {
      drawings.set(plot, () => {
        panels ??= JSON.parse(figure.querySelector(".spec").textContent)
          .map(({ data, layout }) => ({ data: data.map(laidOut), layout }));
        const { data, layout } = panels[i];
        return draw(plot, data.map((trace) => ({ ...trace, visible: !hidden.has(trace.name) })), layout);
      });
    }
    for (const button of figure.querySelectorAll(".key button")) {
      button.addEventListener("click", () => {
        const { name } = button.dataset;
        if (!hidden.delete(name)) hidden.add(name);
        button.setAttribute("aria-pressed", String(!hidden.has(name)));
        plots.filter((plot) => plot.data).forEach((plot) => drawings.get(plot)());
      });
    }
  }

  const sight = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      ready.then(() => drawings.get(target)());
    }
  }, { rootMargin: "400px" });

  function register(plot, drawing) {
    drawings.set(plot, drawing);
    sight.observe(plot);
  }

  drawings.forEach((_, plot) => sight.observe(plot));

  function redraw(all = false) {
    colours = new Map();
    for (const [plot, drawing] of drawings) if (all || plot.data) drawing();
  }

  ready.catch(() => {
    for (const plot of drawings.keys()) {
      plot.textContent = "This browser cannot unpack the charts; the same figures lie in figures/.";
    }
  });

  // -- zoom by keyboard --------------------------------------------------------------------------

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

  function zoomed(plot, factor, [right, up]) {
    const change = {};
    for (const name of Object.keys(plot._fullLayout).filter((key) => /^[xy]axis\d*$/.test(key))) {
      const [from, to] = plot._fullLayout[name].range.map(Number);
      const [middle, half] = [(from + to) / 2, ((to - from) / 2) * factor];
      const shift = (name[0] === "x" ? right : up) * 0.4 * half;
      change[`${name}.range`] = [middle - half + shift, middle + half + shift];
    }
    Plotly.relayout(plot, change);
  }

  document.addEventListener("keydown", (event) => {
    const plot = event.target;
    if (!plot.classList.contains("plot") || !plot.data || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in moves) zoomed(plot, 1, moves[event.key]);
    else if (event.key === "+" || event.key === "=") zoomed(plot, 0.7, [0, 0]);
    else if (event.key === "-") zoomed(plot, 1 / 0.7, [0, 0]);
    else if (event.key === "0") Plotly.newPlot(plot, [], {}).then(() => drawings.get(plot)());
    else return;
    event.preventDefault();
  });

  // -- tables that sort --------------------------------------------------------------------------

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

  // -- theme and print ---------------------------------------------------------------------------

  const switcher = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);

  function tell() {
    switcher.setAttribute("aria-pressed", String(isDark()));
    redraw();
  }

  switcher.addEventListener("click", () => {
    const wanted = isDark() ? "light" : "dark";
    // What the system prefers needs no wish of the reader's, and then follows the system.
    if ((wanted === "dark") === dark.matches) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    tell();
  });
  dark.addEventListener("change", tell);
  switcher.setAttribute("aria-pressed", String(isDark()));

  let theme;
  addEventListener("beforeprint", () => {
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    if (window.Plotly) redraw(true);
  });
  addEventListener("afterprint", () => {
    if (theme) root.dataset.theme = theme;
    else delete root.dataset.theme;
    redraw();
  });

  return { draw, register, ready };
})();
