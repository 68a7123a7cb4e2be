// Examples of one feature: rows of tokens coloured by activation, lined up at the one that each is an example of.
"use strict";

SAE.examples = { wrap: false };

// A CSS colour for an activation; anything above zero is told apart from zero.
SAE.heat = (value, maximum) =>
  value > 0 ? `color-mix(in srgb, var(--hot) ${(8 + 92 * Math.min(1, value / maximum)).toFixed(1)}%, transparent)` : "transparent";

// The examples as records, in the table's order, empty slots left out.
SAE.examples.read = (known) => {
  const [, length] = known.shape("example_tokens"), found = [];
  const intervals = known.column("example_interval"), tokens = known.column("example_tokens"), { window } = SAE.about;
  for (let slot = 0; slot < intervals.length; slot++) {
    if (intervals[slot] < 0) continue;
    const at = slot * length, ids = [], values = [], activations = known.column("example_activations");
    let own = 0;   // place of the example's own token, which is in the middle of the window
    for (let i = at; i < at + length; i++) {
      if (tokens[i] < 0) continue;
      if (i === at + window) own = ids.length;
      ids.push(tokens[i]);
      values.push(activations[i]);
    }
    const of = (name) => known.column(name)[slot];
    found.push({
      interval: intervals[slot], ids, values, own, peak: of("example_peak"),
      document: of("example_document"), context: of("example_context"), position: of("example_position"),
    });
  }
  return found;
};

// One section for the strongest examples and one for each interval that has any.
SAE.examples.sections = (known, maximum) => {
  const { element, about } = SAE, groups = new Map();
  for (const example of SAE.examples.read(known)) {
    if (!groups.has(example.interval)) groups.set(example.interval, []);
    groups.get(example.interval).push(example);
  }
  return [...groups.keys()].sort((a, b) => a - b).map((interval) => {
    const rows = groups.get(interval), heading = element("h3", {});
    if (interval === 0) {
      heading.append(SAE.defined("examples_top"), " ", element("span", { class: "hint" }, `${rows.length} examples`));
    } else {
      const n = about.n_intervals, low = (maximum * (n - interval)) / n, high = (maximum * (n - interval + 1)) / n;
      heading.append(SAE.defined("examples_interval"), ` ${interval} of ${n} `,
        element("span", { class: "numbers" }, `${SAE.number(low)} – ${SAE.number(high)}`),
        element("span", { class: "hint" }, SAE.examples.share(known, interval, n)));
    }
    return element("section", { class: "interval" }, heading, element("ol", { class: "examples" }, ...rows.map((row) => SAE.examples.row(row, maximum))));
  });
};

// How many of the active tokens lie in an interval: exact where the histogram's bins fit into the intervals.
SAE.examples.share = (known, interval, n) => {
  const bins = known.column("histogram"), each = bins.length / n;
  if (!Number.isInteger(each)) return "";
  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const share = sum(bins.subarray((n - interval) * each, (n - interval + 1) * each)) / sum(bins);
  return Number.isFinite(share) ? `${SAE.percent(share)} of active tokens` : "";
};

SAE.examples.row = (example, maximum) => {
  const { element } = SAE, cells = SAE.cells(example.ids);
  const peakCell = cells.findIndex(({ from, to }) => from <= example.own && example.own < to);
  const left = element("span", { class: "left" }), right = element("span", { class: "right" });
  cells.forEach((cell, i) => (i < peakCell ? left : right).append(SAE.examples.cell(cell, example, maximum, i === peakCell)));
  const line = element("span", { class: "line", dir: SAE.isRightToLeft(cells) ? "rtl" : "ltr" }, left, right);
  const button = element("button", { type: "button", class: "peak", "aria-expanded": "false", "aria-label": `activation ${SAE.number(example.peak)}, show the whole example` }, SAE.number(example.peak));
  const row = element("li", { class: "example" }, button, line);
  button.addEventListener("click", () => {
    const open = row.classList.toggle("open");
    button.setAttribute("aria-expanded", String(open));
    row.querySelector(".detail")?.remove();
    if (open) row.append(SAE.examples.detail(example));
  });
  return row;
};

SAE.examples.cell = ({ from, to, segments }, example, maximum, isPeak) => {
  const cell = SAE.appendSegments(SAE.element("bdi", { class: `token${isPeak ? " strongest" : ""}` }), segments);
  const colours = example.values.slice(from, to).map((value) => SAE.heat(value, maximum));
  if (colours.length === 1) cell.style.background = colours[0];
  else {
    const stops = colours.map((colour, i) => `${colour} ${(i / colours.length) * 100}% ${((i + 1) / colours.length) * 100}%`);
    cell.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  }
  cell.tip = () => example.ids.slice(from, to).map((id, i) => {
    const value = example.values[from + i];
    return `token ${SAE.plain(id)}\nid ${id}\nactivation ${SAE.number(value)}${value > 0 ? ` (${SAE.percent(value / maximum)} of maximum)` : ""}`;
  }).join("\n\n");
  return cell;
};

SAE.examples.detail = (example) => {
  const { element } = SAE, active = example.values.map((value, i) => ({ value, id: example.ids[i] })).filter(({ value }) => value > 0);
  return element("div", { class: "detail" },
    element("span", {}, `document ${SAE.count(example.document)} · context ${SAE.count(example.context)} · position ${example.position}`),
    element("ul", { class: "actives" }, ...active.map(({ value, id }) => element("li", {}, SAE.chip(id), ` ${SAE.number(value)}`))));
};
