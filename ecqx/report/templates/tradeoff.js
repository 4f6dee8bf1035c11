"use strict";
// The centre piece: every setting of the grid, accuracy against size, to be switched on and off.
// All numbers come from the runs as they were recorded; means and deviations are over their seeds.

(() => {
  const tasks = JSON.parse(document.getElementById("runs").textContent);
  const form = document.getElementById("controls");
  const plot = document.getElementById("tradeoff-plot");
  const point = document.getElementById("point");
  const COLOURS = { ECQ: "var(--ecq)", ECQx: "var(--ecqx)" };
  const SYMBOLS = { 2: "triangle-down", 3: "diamond", 4: "circle", 5: "square", 6: "triangle-up", 7: "cross", 8: "x" };
  const SHAPES = {
    2: "M5 2h10l-5 9z", 3: "M10 1l5 5-5 5-5-5z", 4: "M10 1.5a4.5 4.5 0 1 0 .01 0z", 5: "M5.5 1.5h9v9h-9z",
    6: "M5 10h10l-5-9z", 7: "M8 1h4v3h3v4h-3v3H8V8H5V4h3z", 8: "M6 1l4 4 4-4 2 2-4 3 4 4-2 1-4-3-4 3-2-1 4-4-4-3z",
  };
  // How far below full precision the ordinate begins where "near full precision" is on, in points.
  const NEAR = 15;

  // -- numbers -----------------------------------------------------------------------------------

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const deviation = (values) => {
    const middle = mean(values);
    const squares = values.reduce((sum, value) => sum + (value - middle) ** 2, 0);
    return values.length > 1 ? Math.sqrt(squares / (values.length - 1)) : 0;
  };
  const of = (setting, name) => setting.runs.map((run) => run[name]);
  const rounded = (value, digits) => value.toFixed(digits).replace("-", "−");
  const spread = (values, digits, factor = 1) =>
    rounded(factor * mean(values), digits) +
    (values.length > 1 ? ` ± ${rounded(factor * deviation(values), digits)}` : "");

  // Settings that no other one beats in both mean size and mean validation accuracy.
  function front(settings) {
    const points = settings
      .map((setting) => [mean(of(setting, "bytes")), mean(of(setting, "accuracy_validation")), setting])
      .sort((a, b) => a[0] - b[0] || b[1] - a[1]);
    let best = -Infinity;
    return points.filter(([, accuracy]) => accuracy > best && ((best = accuracy), true)).map(([, , setting]) => setting);
  }

  // -- controls ----------------------------------------------------------------------------------

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  function swatch(path, colour, filled) {
    const holder = document.createElement("template");
    holder.innerHTML = `<svg class="mark" viewBox="0 0 20 12" aria-hidden="true"><path stroke-width="1.5"/></svg>`;
    const drawn = holder.content.querySelector("path");
    drawn.setAttribute("d", path);
    drawn.style.stroke = colour;
    drawn.style.fill = filled ? colour : "none";
    return holder.content.firstChild;
  }

  // A group of check boxes, or of radio buttons; a choice is [value, label, checked, swatch].
  function group(name, title, type, choices) {
    const labels = choices.map(([value, label, checked, ...marks]) => {
      const input = element("input", { type, name, value });
      input.checked = checked;
      return element("label", {}, input, ...marks, label);
    });
    return element("fieldset", {}, element("legend", {}, title), ...labels);
  }

  const distinct = (values) => [...new Set(values)].sort((a, b) => (a > b ? 1 : -1));
  const every = tasks.flatMap((task) => task.settings);
  const chosen = (name) => [...form.querySelectorAll(`[name=${name}]:checked`)].map((input) => input.value);

  if (tasks.length > 1) {
    form.append(group("task", "Task", "radio", tasks.map(({ title }, i) => [i, title, i === 0])));
  } else {
    form.append(element("input", { type: "hidden", name: "task" }));
  }
  form.append(
    group("method", "Method", "checkbox", distinct(every.map(({ method }) => method))
      .map((method) => [method, method, true, swatch(SHAPES[4], COLOURS[method], method === "ECQx")])),
    group("bits", "Bits", "checkbox", distinct(every.map(({ bits }) => bits))
      .map((bits) => [bits, String(bits), true, swatch(SHAPES[bits] ?? SHAPES[4], "var(--faint)", true)])),
    group("show", "Show", "checkbox", [
      ["front", "Pareto fronts", true], ["spread", "spread over seeds", true],
      ["runs", "single runs", false], ["near", "only near full precision", true],
    ]),
  );

  // -- the chart ---------------------------------------------------------------------------------

  const state = { task: null, shown: [], chosen: null };

  function look() {
    state.task = tasks[Number(chosen("task")[0] ?? 0)];
    const measured = state.task.settings.flatMap(({ method, bits: own }) => [method, String(own)]);
    for (const input of form.querySelectorAll("[name=method], [name=bits]")) {
      input.disabled = !measured.includes(input.value);
    }
    const [methods, bits] = [chosen("method"), chosen("bits").map(Number)];
    state.shown = state.task.settings
      .filter((setting) => methods.includes(setting.method) && bits.includes(setting.bits))
      .sort((a, b) => mean(of(a, "bytes")) - mean(of(b, "bytes")));
  }

  const title = ({ method, bits, lam }) => `${method}, ${bits} bit, Λ ${lam}`;

  function hover(setting) {
    return [
      `<b>${title(setting)}</b>`,
      `${state.task.metric}: ${spread(of(setting, "accuracy"), 2, 100)} %`,
      `size: ${spread(of(setting, "bytes"), 2, 1e-3)} kB`,
      `ratio: ${spread(of(setting, "compression_ratio"), 1)}`,
      `sparsity: ${spread(of(setting, "sparsity"), 1, 100)} %`,
      `seeds: ${of(setting, "seed").join(", ")}`,
    ].join("<br>");
  }

  const hoverOfRun = (setting, run) => [
    `<b>${title(setting)}, seed ${run.seed}</b>`,
    `${state.task.metric}: ${rounded(100 * run.accuracy, 2)} %`,
    `size: ${run.bytes} bytes`, `ratio: ${rounded(run.compression_ratio, 1)}`,
    `sparsity: ${rounded(100 * run.sparsity, 1)} %`, `run: ${run.run_id}`,
  ].join("<br>");

  const kilobytes = (setting) => mean(of(setting, "bytes")) / 1000;
  const percent = (setting) => 100 * mean(of(setting, "accuracy"));
  const plain = { type: "scatter", hovertemplate: "%{text}<extra></extra>" };

  function markers(settings, method, bits, withSpread) {
    const bar = (values, factor) =>
      withSpread && values.some((own) => own.length > 1)
        ? { array: values.map((own) => factor * deviation(own)), color: COLOURS[method], thickness: 1, width: 2 } : {};
    return {
      ...plain, mode: "markers", name: `${method}, ${bits} bit`,
      x: settings.map(kilobytes), y: settings.map(percent), text: settings.map(hover),
      customdata: settings.map((setting) => state.shown.indexOf(setting)),
      error_x: bar(settings.map((setting) => of(setting, "bytes")), 1e-3),
      error_y: bar(settings.map((setting) => of(setting, "accuracy")), 100),
      marker: {
        symbol: SYMBOLS[bits] ?? "circle", size: 10, color: method === "ECQx" ? COLOURS[method] : "var(--card)",
        line: { color: COLOURS[method], width: 1.8 },
      },
    };
  }

  function singleRuns(settings, method, bits) {
    const runs = settings.flatMap((setting) => setting.runs.map((run) => [setting, run]));
    return {
      ...plain, mode: "markers", name: `${method}, ${bits} bit, single runs`, opacity: 0.6,
      x: runs.map(([, run]) => run.bytes / 1000), y: runs.map(([, run]) => 100 * run.accuracy),
      text: runs.map(([setting, run]) => hoverOfRun(setting, run)),
      customdata: runs.map(([setting]) => state.shown.indexOf(setting)),
      marker: { symbol: SYMBOLS[bits] ?? "circle", size: 5, color: COLOURS[method] },
    };
  }

  function frontLine(settings, method) {
    const best = front(settings);
    return {
      type: "scatter", mode: "lines", name: `${method}, Pareto front`, hoverinfo: "skip",
      x: best.map(kilobytes), y: best.map(percent),
      line: { color: COLOURS[method], width: 2.5, dash: method === "ECQ" ? "dash" : "solid" },
    };
  }

  function traces() {
    const show = chosen("show");
    const made = [];
    for (const method of distinct(state.shown.map((setting) => setting.method))) {
      const own = state.shown.filter((setting) => setting.method === method);
      if (show.includes("front")) made.push(frontLine(own, method));
      for (const bits of distinct(own.map((setting) => setting.bits))) {
        const alike = own.filter((setting) => setting.bits === bits);
        if (show.includes("runs")) made.push(singleRuns(alike, method, bits));
        made.push(markers(alike, method, bits, show.includes("spread")));
      }
    }
    if (state.chosen) {
      made.push({
        type: "scatter", mode: "markers", name: "chosen", hoverinfo: "skip",
        x: [kilobytes(state.chosen)], y: [percent(state.chosen)],
        marker: { symbol: "circle-open", size: 20, color: "var(--text)", line: { width: 2 } },
      });
    }
    return made;
  }

  function layout() {
    const { task } = state;
    const [middle, half] = [100 * task.accuracy, 100 * (task.deviation ?? 0)];
    const wide = { type: "rect", xref: "paper", x0: 0, x1: 1, layer: "below" };
    const values = state.shown.map(percent);
    const lowest = Math.min(...values, middle);
    const clipped = chosen("show").includes("near") && lowest < middle - NEAR;
    const top = Math.max(...values, middle + half);
    return {
      // Another task has other axes; the rest keeps the reader's zoom.
      uirevision: `${task.key} ${clipped}`,
      xaxis: { title: { text: "file size (kB)" }, type: "log", dtick: "D2", tickformat: "~r" },
      yaxis: {
        title: { text: `${task.metric} (%)` }, automargin: true,
        ...(clipped ? { range: [middle - NEAR, top + 1] } : {}),
      },
      shapes: [
        { ...wide, y0: middle - half, y1: Math.min(100, middle + half), fillcolor: "var(--faint)", opacity: 0.15, line: { width: 0 } },
        { ...wide, type: "line", y0: middle, y1: middle, line: { color: "var(--faint)", dash: "dot", width: 1.5 } },
      ],
      annotations: [{
        xref: "paper", x: 0, xanchor: "left", y: middle, yanchor: "bottom", showarrow: false,
        text: `full precision ${rounded(middle, 2)} %`,
        font: { color: "var(--faint)", size: 11 },
      }],
    };
  }

  // -- the chosen point --------------------------------------------------------------------------

  const COLUMNS = [
    ["seed", ({ seed }) => seed], ["accuracy (%)", (run) => rounded(100 * run.accuracy, 2)],
    ["validation (%)", (run) => rounded(100 * run.accuracy_validation, 2)],
    ["full precision (%)", (run) => rounded(100 * run.accuracy_fp32, 2)],
    ["sparsity (%)", (run) => rounded(100 * run.sparsity, 1)], ["size (bytes)", ({ bytes }) => bytes],
    ["ratio", (run) => rounded(run.compression_ratio, 1)],
    ["entropy (bit/weight)", (run) => rounded(run.entropy_bits_per_weight, 2)], ["run", ({ run_id: id }) => id],
  ];

  function describe(setting) {
    const { task } = state;
    const shared = { ...(setting.p === null ? {} : { p: setting.p }), ...task.configurations[setting.method] };
    const terms = Object.entries(shared).map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
    const head = element("tr", {}, ...COLUMNS.map(([name]) => element("th", { scope: "col", class: "right" }, name)));
    const rows = setting.runs.map((run) =>
      element("tr", {}, ...COLUMNS.map(([, text]) => element("td", { class: "right" }, String(text(run))))));
    const table = element("table", {},
      element("caption", { class: "hidden" }, "Runs of the chosen point"), element("thead", {}, head), element("tbody", {}, ...rows));
    const region = element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Runs of the point" }, table);
    point.replaceChildren(
      element("h3", {}, `${title(setting)}: ${task.title}`),
      element("p", {}, `${task.metric} ${spread(of(setting, "accuracy"), 2, 100)} %, ` +
        `${spread(of(setting, "bytes"), 2, 1e-3)} kB of ${Math.round(task.bytes / 1000)} kB in 32 bit, ` +
        `ratio ${spread(of(setting, "compression_ratio"), 1)}.`),
      region, element("dl", {}, ...terms),
    );
  }

  function choose(setting) {
    state.chosen = setting;
    if (setting) describe(setting);
    else point.replaceChildren(element("p", {}, "Nothing is shown: choose a method and a bit width."));
  }

  const draw = () => ecqx.draw(plot, traces(), layout());

  // The smallest file whose validation accuracy is within a point of the best one shown.
  function smallest() {
    const validation = (setting) => mean(of(setting, "accuracy_validation"));
    const floor = Math.max(...state.shown.map(validation)) - 0.01;
    return state.shown.find((setting) => validation(setting) >= floor - 1e-12) ?? null;
  }

  function update() {
    look();
    if (!state.shown.includes(state.chosen)) choose(smallest());
    if (plot.data) draw();
  }

  function step(by) {
    const at = state.shown.indexOf(state.chosen) + by;
    if (at < 0 || at >= state.shown.length) return;
    choose(state.shown[at]);
    draw();
  }

  form.addEventListener("change", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));

  let listening = false;
  ecqx.register(plot, async () => {
    await draw();
    if (listening) return;
    listening = true;
    plot.on("plotly_click", ({ points }) => {
      const index = points[0]?.customdata;
      if (index === undefined) return;
      choose(state.shown[index]);
      draw();
    });
  });
  update();
})();
