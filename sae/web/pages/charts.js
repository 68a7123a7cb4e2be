// Charts as SVG, made by hand: bars are all that is needed.
"use strict";

SAE.svg = (name, attributes = {}, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
};

// Round values, about `count` of them, from `low` to `high`.
SAE.ticks = (low, high, count = 5) => {
  const span = high - low;
  if (!(span > 0) || !Number.isFinite(span)) return [low];
  const rough = span / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
};

// Bars over [low, high]. `counts` may hold several stacked series: [{counts, class}].
// options: label (what it shows, for readers of the screen), tip(bin), ticks [{at, text}], log (counts on a log axis),
// colour(bin) a CSS colour, width, height.
SAE.histogram = (series, low, high, options) => {
  const { width = 370, height = 130, log = false } = options;
  const bottom = height - 20, top = 8, n = series[0].counts.length;
  const chart = SAE.svg("svg", { viewBox: `0 0 ${width} ${height}`, class: "chart", role: "img", "aria-label": options.label });
  const totals = Array.from({ length: n }, (_, bin) => series.reduce((sum, { counts }) => sum + counts[bin], 0));
  const highest = Math.max(1, ...totals);
  const scale = (count) => (bottom - top) * (log ? Math.log1p(count) / Math.log1p(highest) : count / highest);
  const x = (value) => ((value - low) / (high - low || 1)) * width;
  for (const { at, text } of options.ticks ?? SAE.ticks(low, high).map((at) => ({ at, text: SAE.number(at) }))) {
    const near = x(at) < 14 ? "start" : x(at) > width - 14 ? "end" : "middle";
    chart.append(SAE.svg("line", { x1: x(at), x2: x(at), y1: top, y2: bottom + 3, class: "tick" }));
    chart.append(SAE.svg("text", { x: x(at), y: height - 4, "text-anchor": near, class: "tick-label" }, text));
  }
  chart.append(SAE.svg("line", { x1: 0, x2: width, y1: bottom, y2: bottom, class: "axis" }));
  for (let bin = 0; bin < n; bin++) {
    const slot = width / n, group = SAE.svg("g");
    let below = 0;
    for (const { counts, class: name } of series) {
      const upper = scale(below + counts[bin]), lower = scale(below);
      below += counts[bin];
      if (!counts[bin]) continue;
      const drawn = Math.max(upper - lower, 1);
      const bar = { x: bin * slot + slot * 0.06, y: bottom - lower - drawn, width: slot * 0.88, height: drawn, class: `bar ${name}` };
      group.append(SAE.svg("rect", bar));
      if (options.colour) group.lastChild.style.fill = options.colour(bin);
    }
    group.append(SAE.svg("rect", { x: bin * slot, y: top, width: slot, height: bottom - top, class: "hit" }));
    if (options.tip) group.lastChild.tip = () => options.tip(bin, totals[bin]);
    chart.append(group);
  }
  return chart;
};

// Labelled horizontal bars in a list: rows [{label (text or a node), value, text, mark (a value to mark), tip, onclick, pressed}].
SAE.bars = (rows, name) => {
  const largest = Math.max(...rows.map(({ value }) => Math.abs(value)), 1e-12);
  const list = SAE.element("ul", { class: `bars ${name ?? ""}` });
  for (const { label, value, text, mark, tip, onclick, pressed } of rows) {
    const fill = SAE.element("span", { class: `fill ${value < 0 ? "negative" : ""}` });
    fill.style.width = `${(Math.abs(value) / largest) * 100}%`;
    const track = SAE.element("span", { class: "track" }, fill);
    if (mark <= largest) {
      track.append(SAE.element("span", { class: "mark" }));
      track.lastChild.style.left = `${(mark / largest) * 100}%`;
    }
    const parts = [SAE.element("span", { class: "bar-label" }, label), track, SAE.element("span", { class: "bar-value" }, text)];
    const row = onclick ? SAE.element("button", { type: "button", class: "bar-row", "aria-pressed": String(Boolean(pressed)) }, ...parts)
      : SAE.element("span", { class: "bar-row" }, ...parts);
    if (onclick) row.addEventListener("click", onclick);
    if (tip) row.tip = () => tip;
    list.append(SAE.element("li", {}, row));
  }
  return list;
};
