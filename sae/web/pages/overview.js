// The overview: what the dictionary is, the density of all its features, the controls, and the list.
"use strict";

SAE.overview = {};

SAE.overview.make = () => {
  const { element, about, list } = SAE;
  const section = document.getElementById("overview");
  const controls = SAE.overview.controls();
  SAE.overview.charts = element("div", { class: "charts" });
  SAE.overview.shown = element("p", { id: "shown", role: "status", class: "shown" });
  section.append(
    element("h1", {}, "Features of ", element("span", { class: "id" }, about.id || "this dictionary")),
    SAE.overview.facts(), SAE.overview.charts, controls, SAE.overview.shown, list.make(),
  );
};

SAE.overview.facts = () => {
  const { element, about } = SAE, states = SAE.index.state.values;
  const number = (state) => states.filter((value) => value === SAE.STATES.indexOf(state)).length;
  const left = about.n_features_in_dictionary - about.n_features;
  const facts = [
    [SAE.defined("n_features", "dt"), SAE.count(about.n_features) + (left ? ` of ${SAE.count(about.n_features_in_dictionary)}` : "")],
    [SAE.defined("alive", "dt"), SAE.count(number("alive"))],
    [SAE.defined("ultralow", "dt"), about.ultralow_told ? SAE.count(number("ultralow")) : "–"],
    [SAE.defined("dead", "dt"), SAE.count(number("dead"))],
    [SAE.defined("n_tokens", "dt"), SAE.count(about.n_tokens)],
  ];
  for (const { label, value, meaning } of about.figures) {
    const term = element("dt", { class: "defined", tabindex: "0" }, label);
    term.tip = () => meaning;
    facts.push([term, value]);
  }
  return element("dl", { class: "facts" }, ...facts.map(([term, value]) => element("div", {}, term, element("dd", {}, value))));
};

SAE.overview.controls = () => {
  const { element } = SAE, fields = {};
  const option = (value, text) => element("option", { value }, text);
  fields.query = element("input", { type: "search", id: "query", placeholder: "token, or a feature's number", autocomplete: "off", spellcheck: "false" });
  fields.state = element("select", { id: "state" }, option("", "all"), ...["alive", "ultralow", "dead"].map((state) => option(state, state)));
  fields.kind = element("select", { id: "kind" }, option("", "any"), ...SAE.about.kinds.map((kind) => option(kind, kind)));
  fields.sort = element("select", { id: "sort" }, ...Object.keys(SAE.STATISTICS).map((key) => option(key, SAE.about.definitions[key].label)));
  fields.low = element("input", { type: "text", id: "low", inputmode: "decimal", size: "7", placeholder: "0" });
  fields.high = element("input", { type: "text", id: "high", inputmode: "decimal", size: "7", placeholder: "1" });
  const descending = element("button", { type: "button", id: "descending" });
  const reset = element("button", { type: "button", id: "reset" }, "Clear");
  SAE.overview.fields = { ...fields, descending, reset };
  for (const [key, field] of Object.entries(fields))
    field.addEventListener("input", () => SAE.list.change({ [key]: clean(key, field.value), ...(key === "sort" ? { descending: field.value !== "index" } : {}) }));
  fields.query.addEventListener("keydown", (event) => {
    const feature = /^#?\d+$/.test(fields.query.value.trim()) ? Number(fields.query.value.trim().replace("#", "")) : -1;
    if (event.key === "Enter" && feature >= 0 && feature < SAE.about.n_features) location.hash = `#${feature}`;
    else if (event.key === "Enter" || event.key === "Escape") fields.query.blur();
  });
  descending.addEventListener("click", () => SAE.list.change({ descending: !SAE.list.view.descending }));
  reset.addEventListener("click", () => SAE.list.change({ ...SAE.list.start }));
  const labelled = (text, ...nodes) => element("label", {}, element("span", {}, text), ...nodes);
  return element("div", { class: "controls", role: "search" },
    labelled("Search", fields.query), labelled("Sort by", fields.sort), descending,
    labelled("State", fields.state), labelled("Kind", fields.kind),
    element("fieldset", { class: "range" }, element("legend", {}, "Density"), labelled("from", fields.low), labelled("to", fields.high)), reset);

  function clean(key, value) {
    if (key !== "low" && key !== "high") return value;
    return value.trim() !== "" && Number.isFinite(Number(value)) ? value.trim() : "";
  }
};

// Everything that depends on the controls, drawn anew; the address keeps the view.
SAE.list.change = (changes, keepAddress = false) => {
  const { list } = SAE;
  Object.assign(list.view, changes);
  const parameters = new URLSearchParams();
  for (const [key, value] of Object.entries(list.view)) if (value !== list.start[key]) parameters.set(key, String(value));
  SAE.listAddress = String(parameters) ? `#?${parameters}` : "#";
  if (!keepAddress) SAE.replaceAddress(SAE.listAddress);
  list.update();
  SAE.overview.draw();
};
SAE.list.sortBy = (sort, descending) => SAE.list.change({ sort, descending });

SAE.overview.draw = () => {
  const { list, about } = SAE, { fields, shown } = SAE.overview;
  for (const key of ["query", "state", "kind", "sort", "low", "high"])
    if (document.activeElement !== fields[key] && fields[key].value !== list.view[key]) fields[key].value = list.view[key];
  fields.descending.textContent = list.view.descending ? "↓ high to low" : "↑ low to high";
  fields.reset.disabled = Object.entries(list.start).every(([key, value]) => list.view[key] === value);
  shown.textContent = list.order.length === about.n_features ? `All ${SAE.count(about.n_features)} features`
    : `${SAE.count(list.order.length)} of ${SAE.count(about.n_features)} features${list.order.length ? "" : "; nothing matches all of these"}`;
  SAE.overview.drawCharts();
  list.drawHead();
  list.draw();
};

// Density of all features on a log axis, those that are shown now in colour; dragging over it sets the range.
SAE.overview.drawCharts = () => {
  const { element, about, list } = SAE, densities = SAE.index.density.values;
  const step = 0.125, least = densities.reduce((low, value) => (value > 0 && value < low ? value : low), 1);
  const low = Math.floor(Math.log10(least)), n = Math.max(1, Math.ceil(-low / step));
  const inside = new Array(n).fill(0), outside = new Array(n).fill(0), shown = new Set(list.order);
  for (let feature = 0; feature < about.n_features; feature++) {
    if (!(densities[feature] > 0)) continue;
    const bin = Math.min(n - 1, Math.floor((Math.log10(densities[feature]) - low) / step));
    (shown.has(feature) ? inside : outside)[bin]++;
  }
  const width = Math.max(280, Math.round(SAE.overview.charts.clientWidth * (window.innerWidth > 1000 ? 0.6 : 1)));
  const edge = (bin) => 10 ** (low + bin * step), ticks = [];
  for (let power = low; power <= 0; power++) ticks.push({ at: power, text: power === 0 ? "1" : `1e${power}` });
  const chart = SAE.histogram([{ counts: inside, class: "main" }, { counts: outside, class: "rest" }], low, low + n * step, {
    width, height: 150, ticks, label: `Histogram of the density of ${SAE.count(about.n_features)} features on a logarithmic axis`,
    tip: (bin, total) => `${SAE.count(total)} features of density\n${SAE.percent(edge(bin))} to ${SAE.percent(edge(bin + 1))}`,
  });
  SAE.overview.brush(chart, low, n * step, width);
  const figure = element("figure", { class: "density" }, element("figcaption", {}, SAE.defined("density_histogram"), element("span", { class: "hint" }, "drag to filter")), chart);
  SAE.overview.charts.replaceChildren(figure, SAE.overview.kinds(shown));
};

SAE.overview.brush = (chart, low, span, width) => {
  let from = null;
  const shade = SAE.svg("rect", { class: "brush", y: 8, height: 122, x: 0, width: 0 });
  chart.append(shade);
  const at = (event) => {
    const box = chart.getBoundingClientRect();
    return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
  };
  const value = (place) => Number((10 ** (low + place * span)).toPrecision(2));
  chart.addEventListener("pointerdown", (event) => { from = at(event); chart.setPointerCapture(event.pointerId); });
  chart.addEventListener("pointermove", (event) => {
    if (from === null) return;
    shade.setAttribute("x", Math.min(from, at(event)) * width);
    shade.setAttribute("width", Math.abs(at(event) - from) * width);
  });
  chart.addEventListener("pointercancel", () => { from = null; });
  chart.addEventListener("pointerup", (event) => {
    if (from === null) return;
    const [left, right] = [Math.min(from, at(event)), Math.max(from, at(event))];
    from = null;
    if (right - left < 0.01) SAE.list.change({ low: "", high: "" });
    else SAE.list.change({ low: String(value(left)), high: right > 0.999 ? "" : String(value(right)) });
  });
};

// How many features have each kind of document as their most frequent one; a click filters.
SAE.overview.kinds = (shown) => {
  const { element, about, list } = SAE, counts = about.kinds.map(() => 0);
  for (const feature of shown) {
    const kind = SAE.index.kind.values[feature];
    if (kind >= 0 && SAE.stateOf(feature) !== "dead") counts[kind]++;
  }
  const rows = about.kinds.map((kind, i) => ({
    label: kind, value: counts[i], text: SAE.count(counts[i]), pressed: list.view.kind === kind,
    onclick: () => list.change({ kind: list.view.kind === kind ? "" : kind }),
  })).filter(({ value, label }) => value > 0 || label === list.view.kind).sort((a, b) => b.value - a.value);
  return element("figure", { class: "kinds" }, element("figcaption", {}, SAE.defined("features_by_kind")), SAE.bars(rows, "scrolling"));
};
