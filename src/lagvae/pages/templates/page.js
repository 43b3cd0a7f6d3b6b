"use strict";
// Draws the charts in the colours and the width of the page, and connects what a reader can set with them.
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const views = {};
  const chosen = {}; // signal → value, kept when a chart is drawn again
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function theme() {
    const [text, soft, line] = ["--text", "--soft", "--line"].map(style);
    return {
      background: "transparent", font: "system-ui, sans-serif", view: { stroke: null },
      axis: { labelColor: soft, titleColor: text, gridColor: line, domainColor: soft, tickColor: soft, titleFontWeight: 500 },
      legend: { labelColor: text, titleColor: text, symbolStrokeWidth: 2 },
      title: { color: text, anchor: "start", fontSize: 13, fontWeight: 600 },
      text: { color: text }, style: { bound: { stroke: style("--bad") } },
    };
  }

  function unitsOf(spec) {
    return spec.concat || [spec];
  }

  // A chart has as many columns as it names, on a narrow page one; what is left beside axes is what its views share.
  function fitted(given, width) {
    const spec = structuredClone(given);
    const columns = spec.concat && width > 640 ? spec.columns || 1 : 1;
    if (spec.concat) spec.columns = columns;
    for (const unit of unitsOf(spec)) {
      unit.width = Math.max(160, Math.floor(width / columns) - 76);
      if (!spec.concat) unit.width = Math.min(unit.width, 620);
    }
    return spec;
  }

  async function draw() {
    for (const [id, spec] of Object.entries(specs)) {
      const place = document.getElementById(id);
      const options = { actions: false, renderer: "svg", config: theme() };
      const { view } = await vegaEmbed(place, fitted(spec, place.clientWidth), options);
      views[id] = view;
      for (const [name, value] of Object.entries(chosen)) set(view, name, value);
    }
  }

  function set(view, name, value) {
    try { view.signal(name, value).runAsync(); } catch { /* this chart has no such signal */ }
  }

  function choose(name, value) {
    chosen[name] = value;
    for (const view of Object.values(views)) set(view, name, value);
  }

  // Boxes with data-filter: only what has a value that is ticked is shown, in charts and in tables.
  function filter() {
    const names = new Set([...document.querySelectorAll("[data-filter]")].map((box) => box.dataset.filter));
    for (const name of names) {
      const boxes = [...document.querySelectorAll("[data-filter]")].filter((box) => box.dataset.filter === name);
      choose(`shown_${name}`, boxes.filter((box) => box.checked).map((box) => box.value));
    }
    let count = 0;
    for (const row of document.querySelectorAll("tr[data-family]")) {
      row.hidden = [...names].some((name) => !chosen[`shown_${name}`].includes(row.dataset[name]));
      count += row.hidden ? 0 : 1;
    }
    const output = document.getElementById("count");
    if (output) output.textContent = `${count} ${count === 1 ? "run" : "runs"} shown`;
  }

  // The traversal: one picture has a strip of images for each unit (down) and each value of it (across).
  function traversal() {
    const strip = document.querySelector(".strip");
    if (!strip) return;
    const [unit, value, output] = ["unit", "value", "reading"].map((id) => document.getElementById(id));
    const { units, values, width, height } = JSON.parse(strip.dataset.grid);
    const image = strip.querySelector("img");
    const show = () => {
      const zoom = Math.min(strip.parentElement.clientWidth / width, 64 * 8 / width, 96 / height);
      strip.style.width = `${width * zoom}px`;
      strip.style.height = `${height * zoom}px`;
      image.style.width = `${width * values.length}px`;
      const [x, y] = [-value.value * width * zoom, -unit.selectedIndex * height * zoom];
      image.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
      output.textContent = `z = ${values[value.value]}`;
      image.alt = `Decoded images with ${units[unit.selectedIndex]} set to ${values[value.value]}`;
    };
    for (const control of [unit, value]) control.addEventListener("input", show);
    addEventListener("resize", show);
    show();
  }

  let width = innerWidth, timer;
  const again = () => { clearTimeout(timer); timer = setTimeout(draw, 150); };
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; again(); } });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  for (const box of document.querySelectorAll("[data-filter]")) box.addEventListener("change", filter);
  for (const list of document.querySelectorAll("select[data-signal]"))
    list.addEventListener("change", () => choose(list.dataset.signal, Number(list.value)));
  document.documentElement.classList.add("js");
  traversal();
  draw().then(filter).catch((error) => {
    document.documentElement.classList.remove("js"); // the tables and the pictures
    console.error(error);
  });
})();
