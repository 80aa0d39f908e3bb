"use strict";
// The page works without this script, but for the gallery, the pickers and the sorting. Nothing is fetched, and names from a
// study only ever become text.
(() => {
  const $ = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  /** An element with attributes and children; strings become text. */
  function make(tag, attributes = {}, ...children) {
    const made = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.filter((c) => c !== null));
    return made;
  }

  /** A name, whose lines may be broken behind underscores. */
  function named(text, attributes = {}) {
    const parts = text.split("_").flatMap((part, k) => (k ? ["_", make("wbr"), part] : [part]));
    return make("bdi", attributes, ...parts);
  }

  /** A number in three digits. */
  const short = (value) => (value === null ? "undefined" : String(Number(value.toPrecision(3))));

  // -- tables and pickers ---------------------------------------------------------------------------------------------

  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.querySelectorAll("th")];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      if (button === null) return;
      button.disabled = false;
      button.addEventListener("click", () => {
        const first = head.dataset.first || "ascending";
        const now = head.getAttribute("aria-sort");
        const other = first === "ascending" ? "descending" : "ascending";
        const next = now === first ? other : first;
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        for (const body of table.tBodies) {
          const rows = [...body.rows].map((row) => [row, row.cells[column] && row.cells[column].dataset.v]);
          rows.sort(([, a], [, b]) => {
            const [x, y] = [Number(a), Number(b)];
            if (a === b || a === undefined || b === undefined) return 0;
            if (a === "" || b === "") return a === "" ? 1 : -1; // what is undefined comes last
            return sign * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
          });
          body.append(...rows.map(([row]) => row));
        }
      });
    });
  }

  const tabs = [...document.querySelectorAll("#metric-picker input")];
  function showMetric() {
    for (const tab of tabs) $(tab.value).hidden = !tab.checked;
  }
  if (tabs.length > 1) {
    tabs.forEach((tab) => tab.addEventListener("change", showMetric));
    $("metric-picker").hidden = false;
    showMetric();
  }

  window.addEventListener("beforeprint", () => {
    for (const closed of document.querySelectorAll("details:not([open])")) {
      closed.open = true;
      closed.dataset.closed = "";
    }
  });
  window.addEventListener("afterprint", () => {
    for (const opened of document.querySelectorAll("details[data-closed]")) {
      opened.open = false;
      delete opened.dataset.closed;
    }
  });

  // -- the gallery ----------------------------------------------------------------------------------------------------

  const data = JSON.parse($("data").textContent);
  if (data === null) return;
  const [height, width] = data.size;
  const STEPS = data.steps;
  const ZERO = STEPS + 1;
  const COLOURS = Float32Array.from(data.colours.flat());
  const GREY = [0.35 * 255, 0.6]; // the photograph below a map, as in all figures: lighter than it is, and grey
  const KEPT = 400; // maps that are kept as pixels

  const chosen = new Set(data.order.slice(0, 4));
  let order = data.images.map((_, i) => i);
  let current = 0;
  const kept = new Map();

  /** The pixels of a file at the gallery's size, from 0 to 255, four for each. */
  async function decode(file) {
    const image = new Image();
    image.src = "data:image/webp;base64," + file;
    await image.decode();
    const canvas = make("canvas", { width, height });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingQuality = "high";
    context.drawImage(image, 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  }

  function pixels(key, file) {
    if (!kept.has(key)) {
      if (kept.size >= KEPT) kept.delete(kept.keys().next().value);
      kept.set(key, decode(file));
    }
    return kept.get(key);
  }

  const photograph = (i) => (data.images[i].file === null ? null : pixels(`p${i}`, data.images[i].file));
  const map = (m, i) => pixels(`${m}:${i}`, data.maps[m][i].file);

  /** The value with the full colour. */
  function limit(m, i) {
    return $("scale-map").checked ? data.maps[m][i].limit : data.methods[m].limit;
  }

  /** Draw a map: `mix` is 0 for the photograph, 0.5 for the map over it, 1 for the map alone. */
  function paint(canvas, photo, greys, gain, mix) {
    const context = canvas.getContext("2d");
    const out = context.createImageData(width, height);
    const o = out.data;
    const first = Math.min(1, 2 * mix); // how much of the overlay there is over the photograph
    const second = Math.max(0, 2 * mix - 1); // how much of the photograph has gone from below it
    for (let p = 0; p < o.length; p += 4) {
      const r = photo === null ? 127.5 : photo[p];
      const g = photo === null ? 127.5 : photo[p + 1];
      const b = photo === null ? 127.5 : photo[p + 2];
      let below = GREY[0] + GREY[1] * (0.299 * r + 0.587 * g + 0.114 * b);
      below += second * (GREY[0] + GREY[1] * 127.5 - below);
      const value = greys === null ? 0 : (greys[p] - ZERO) * gain;
      const at = 4 * (Math.round(Math.max(-STEPS, Math.min(STEPS, value))) + STEPS);
      const cover = COLOURS[at + 3];
      o[p] = r + first * (below * (1 - cover) + COLOURS[at] * cover - r);
      o[p + 1] = g + first * (below * (1 - cover) + COLOURS[at + 1] * cover - g);
      o[p + 2] = b + first * (below * (1 - cover) + COLOURS[at + 2] * cover - b);
      o[p + 3] = 255;
    }
    context.putImageData(out, 0, 0);
  }

  /** A line sample of a method's colour and dashes. */
  function sample(method) {
    const line = make("svg:line", {
      x1: 1, y1: 5, x2: 27, y2: 5, stroke: method.colour, "stroke-width": 3, "stroke-dasharray": method.dash || null,
    });
    return make("svg:svg", { class: "sample", width: 28, height: 10, viewBox: "0 0 28 10", "aria-hidden": "true" }, line);
  }

  // what is there once: a figure for each method, and a plot for each metric with curves
  const figures = data.methods.map((method, m) => {
    const canvas = make("canvas", { width, height, role: "img" });
    const plate = make("p", { class: "plate", hidden: true });
    const facts = make("p", { class: "small" });
    const scores = make("dl", { class: "scores" });
    const name = make("figcaption", {}, sample(method), named(method.label, { class: "name" }));
    const figure = make("figure", { "data-method": m }, name, make("div", { class: "frame" }, canvas, plate), facts, scores);
    $("cells").append(figure);
    return { figure, canvas, plate, facts, scores };
  });
  const tiny = Math.max(height, width) < 64;
  const plain = $("photograph");
  plain.width = width;
  plain.height = height;
  if (tiny) $("gallery-body").classList.add("tiny");

  let turn = 0;
  /** Draw what is shown now; of several calls in one frame, the last one draws. */
  function draw() {
    const mine = ++turn;
    requestAnimationFrame(() => mine === turn && drawNow(mine));
  }

  async function drawNow(mine) {
    const i = current;
    const photo = await photograph(i);
    const wanted = data.methods.map((_, m) => m).filter((m) => chosen.has(m));
    const maps = await Promise.all(wanted.map((m) => (data.maps[m][i].empty === null ? map(m, i) : null)));
    if (mine !== turn) return; // something else was chosen meanwhile
    const mix = Number($("mix").value) / 100;
    if (photo !== null) paint(plain, photo, null, 0, 0);
    figures.forEach(({ figure }, m) => (figure.hidden = !chosen.has(m)));
    wanted.forEach((m, k) => {
      const cell = data.maps[m][i];
      const top = limit(m, i);
      paint(figures[m].canvas, photo, maps[k], top ? cell.scale / top : 0, mix);
    });
    $("gallery-body").dataset.drawn = String(mine);
  }

  /** Everything in words about the image that is shown. */
  function tell() {
    const i = current;
    const image = data.images[i];
    $("image-name").textContent = image.name;
    const at = order.indexOf(i);
    $("image-place").textContent = `${at + 1} of ${order.length}`;
    const facts = [["explained", image.explained]];
    if (image.predicted !== null) facts.push(["the network says", image.predicted]);
    facts.push(["probability", short(image.probability)]);
    if (image.disagreement !== null) facts.push(["disagreement", short(image.disagreement)]);
    $("image-facts").replaceChildren(
      ...facts.map(([term, value]) => make("div", {}, make("dt", {}, term), make("dd", {}, make("bdi", {}, value)))),
    );
    plain.setAttribute("aria-label", `Photograph ${image.name}`);
    data.methods.forEach((method, m) => {
      const cell = data.maps[m][i];
      const { canvas, plate, facts: line, scores } = figures[m];
      canvas.setAttribute("aria-label", `Map of ${method.label} for ${image.name}: ${cell.empty || method.meaning}`);
      plate.hidden = cell.empty === null;
      plate.textContent = cell.empty || "";
      const top = limit(m, i);
      line.textContent = method.meaning + (top ? `; full colour ${short(top)}` : "");
      scores.replaceChildren(
        ...data.metrics.map((metric, k) => {
          const own = data.scores[k][i];
          const best = own.best[m];
          const value = make("dd", {}, make(best ? "strong" : "span", {}, own.text[m]));
          if (best) value.append(make("span", { class: "sr" }, " (best)"));
          return make("div", {}, make("dt", {}, named(metric.label)), value);
        }),
      );
    });
    for (const radio of $("images").querySelectorAll("input")) radio.checked = Number(radio.value) === i;
    $("previous").disabled = at === 0;
    $("next").disabled = at === order.length - 1;
  }

  function show(i, { scroll = true } = {}) {
    current = i;
    tell();
    draw();
    plots();
    const label = $(`image-${i}`).parentElement;
    const list = $("images");
    if (scroll) {
      const left = label.offsetLeft - list.offsetLeft;
      if (left < list.scrollLeft || left + label.offsetWidth > list.scrollLeft + list.clientWidth) list.scrollLeft = left - 8;
    }
  }

  // -- the list of images: radio buttons, so that arrow keys move in it ------------------------------------------------

  const sorted = {
    study: () => 0,
    name: (a, b) => a.name.localeCompare(b.name, "en", { numeric: true }),
    low: (a, b) => (a.probability ?? Infinity) - (b.probability ?? Infinity),
    high: (a, b) => (b.probability ?? -Infinity) - (a.probability ?? -Infinity),
    disagreement: (a, b) => (b.disagreement ?? -Infinity) - (a.disagreement ?? -Infinity),
  };
  const labels = data.images.map((image, i) => {
    const radio = make("input", { type: "radio", name: "image", id: `image-${i}`, value: i, class: "sr" });
    radio.addEventListener("change", () => show(i));
    const thumb =
      image.file === null
        ? null
        : make("img", { src: "data:image/webp;base64," + image.file, alt: "", width: 72, height: 72, decoding: "async" });
    const note = make("span", { class: "note" });
    return make("label", { class: "thumb" }, radio, make("span", { class: "face" }, thumb, make("bdi", {}, image.name), note));
  });

  function sort() {
    const how = $("sort").value;
    order = data.images.map((_, i) => i).sort((a, b) => sorted[how](data.images[a], data.images[b]) || a - b);
    labels.forEach((label, i) => {
      const { probability, disagreement } = data.images[i];
      label.querySelector(".note").textContent =
        how === "disagreement" ? short(disagreement) : how === "low" || how === "high" ? short(probability) : "";
    });
    $("images").replaceChildren(...order.map((i) => labels[i]));
    $("images").scrollLeft = 0;
    show(order[0], { scroll: false });
  }

  function move(by) {
    const at = order.indexOf(current) + by;
    if (at >= 0 && at < order.length) show(order[at]);
  }

  $("sort").addEventListener("change", sort);
  $("previous").addEventListener("click", () => move(-1));
  $("next").addEventListener("click", () => move(1));
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
    if (event.target.closest("input, select, textarea, [contenteditable], .scroll, summary")) return; // they have their own arrows
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      event.preventDefault();
      move(event.key === "ArrowLeft" ? -1 : 1);
    }
  });

  // -- what else can be chosen ----------------------------------------------------------------------------------------

  const boxes = data.methods.map((method, m) => {
    const box = make("input", { type: "checkbox", value: m });
    box.checked = chosen.has(m);
    box.addEventListener("change", () => {
      if (box.checked) chosen.add(m);
      else chosen.delete(m);
      draw();
      plots();
    });
    $("methods").append(make("label", { class: "pill" }, box, sample(method), named(method.label)));
    return box;
  });
  function choose(which) {
    chosen.clear();
    which.forEach((m) => chosen.add(m));
    boxes.forEach((box, m) => (box.checked = chosen.has(m)));
    draw();
    plots();
  }
  $("all").addEventListener("click", () => choose(data.methods.map((_, m) => m)));
  $("none").addEventListener("click", () => choose([]));
  $("mix").addEventListener("input", draw);
  for (const id of ["scale-method", "scale-map"]) {
    $(id).addEventListener("change", () => {
      tell();
      draw();
    });
  }

  // -- curves ---------------------------------------------------------------------------------------------------------

  const W = 380, H = 230, L = 46, R = 12, T = 10, B = 40; // a plot, and the room around its axes

  /** Steps of 1, 2 or 5 that part a range in about five. */
  function ticks(low, high) {
    const rough = (high - low) / 5 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((f) => f * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + 1e-9 * step; v += step) found.push(Number(v.toPrecision(10)));
    return found;
  }

  function interpolate(xs, ys, x) {
    let k = xs.findIndex((v) => v >= x);
    if (k <= 0) return ys[Math.max(k, 0)];
    const [a, b] = [ys[k - 1], ys[k]];
    return a === null || b === null ? null : a + ((b - a) * (x - xs[k - 1])) / (xs[k] - xs[k - 1]);
  }

  /** The curves of the image that is shown, of the methods that are chosen. */
  function plots() {
    if (!data.curves.length) return;
    const reading = Number($("reading").value) / 100;
    $("reading-now").textContent = `${Math.round(100 * reading)}%`;
    $("plots").replaceChildren(...data.curves.map((curve) => plot(curve, reading)));
    readings(reading);
  }

  function plot(curve, reading) {
    const i = current;
    const own = data.methods.map((_, m) => m).filter((m) => chosen.has(m) && curve.y[m] !== null);
    const all = own.flatMap((m) => curve.y[m][i]).filter((v) => v !== null);
    let low = Math.min(...all, curve.probability ? 0 : Infinity);
    let high = Math.max(...all, -Infinity);
    if (!(high > low)) [low, high] = Number.isFinite(low) ? [low, low + 1] : [0, 1];
    const marks = ticks(low, high);
    const x = (v) => L + (W - L - R) * v;
    const y = (v) => H - B - ((H - B - T) * (v - low)) / (high - low);
    const metric = data.metrics[curve.metric];
    const better = metric.higher === null ? "" : metric.higher ? "\u2191 higher is better" : "\u2193 lower is better";
    const title = `${metric.label} ${better}`;
    const root = make("svg:svg", {
      viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}: ${curve.up} against the ${curve.across}`,
    });
    for (const v of marks) {
      root.append(
        make("svg:line", { class: "grid", x1: L, x2: W - R, y1: y(v), y2: y(v) }),
        make("svg:text", { class: "tick", x: L - 6, y: y(v) + 4, "text-anchor": "end" }, String(v)),
      );
    }
    for (const v of [0, 0.25, 0.5, 0.75, 1]) {
      root.append(make("svg:text", { class: "tick", x: x(v), y: H - B + 16, "text-anchor": "middle" }, String(v)));
    }
    root.append(
      make("svg:line", { class: "axis", x1: L, x2: W - R, y1: H - B, y2: H - B }),
      make("svg:text", { class: "axis-label", x: (L + W - R) / 2, y: H - 6, "text-anchor": "middle" }, curve.across),
      make("svg:line", { class: "reading", x1: x(reading), x2: x(reading), y1: T, y2: H - B }),
    );
    for (const m of own) {
      const points = curve.y[m][i].map((v, k) => (v === null ? null : `${x(curve.x[k]).toFixed(1)},${y(v).toFixed(1)}`));
      const line = make("svg:polyline", {
        points: points.filter((p) => p !== null).join(" "), fill: "none", stroke: data.methods[m].colour, "stroke-width": 2,
        "stroke-dasharray": data.methods[m].dash || null, "stroke-linejoin": "round", "data-method": m,
      });
      line.append(make("svg:title", {}, data.methods[m].label));
      root.append(line);
    }
    const heading = make("h4", {}, named(metric.label), make("span", {}, better));
    return make("figure", { class: "plot" }, make("figcaption", {}, heading, make("p", { class: "small" }, curve.up)), root);
  }

  /** The curves' values at one share of the pixels, as a table. */
  function readings(reading) {
    const head = make("tr", {}, make("th", { scope: "col" }, "method"));
    for (const curve of data.curves) {
      const label = data.metrics[curve.metric].label;
      head.append(
        make("th", { scope: "col", class: "number" }, named(label), make("br"), make("small", {}, `at ${Math.round(100 * reading)}%`)),
        make("th", { scope: "col", class: "number" }, named(label), make("br"), make("small", {}, "score")),
      );
    }
    const rows = data.methods.map((method, m) => {
      if (!chosen.has(m)) return null;
      const row = make("tr", {}, make("th", { scope: "row" }, sample(method), named(method.label)));
      for (const curve of data.curves) {
        const scores = data.scores[curve.metric][current];
        const value = curve.y[m] === null ? null : interpolate(curve.x, curve.y[m][current], reading);
        row.append(
          make("td", { class: "number" }, value === null ? "\u2013" : short(value)),
          make("td", { class: "number" }, make(scores.best[m] ? "strong" : "span", {}, scores.text[m])),
        );
      }
      return row;
    });
    $("readings").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
  }

  if (data.curves.length) {
    $("reading").addEventListener("input", plots);
    $("curves").hidden = false;
  }
  $("gallery-body").hidden = false;
  sort();
})();
