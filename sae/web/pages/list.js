// The list of all features: which are shown (search, filters), in which order, and only the rows in view as elements.
"use strict";

SAE.STATES = ["dead", "ultralow", "alive"];
// Statistics that the list sorts by: key (also of its definition), how it is written. The table's other columns of one
// number a feature are added when they are known.
SAE.STATISTICS = { index: String, density: SAE.percent, max_activation: SAE.number, kind_share: SAE.percent, top_logit_value: SAE.number, neuron_correlation: SAE.number };
SAE.silentWhenDead = ["max_activation", "mean_activation", "kind_share", "neuron_correlation"];

SAE.addStatistics = () => {
  for (const name of SAE.about.statistics) SAE.STATISTICS[name] ??= name.startsWith("n_") ? SAE.count : SAE.number;
};

SAE.list = {
  start: { query: "", state: "", kind: "", sort: "density", descending: true, low: "", high: "" },
  view: null,       // what the controls say now
  order: [],        // the features shown, in order
  selected: 0,      // a place in `order`
  drawn: { first: 0, last: 0 },
  rowHeight: 38,
};
SAE.list.view = { ...SAE.list.start };

// The value that features are sorted by; NaN (last, whichever way) where it says nothing of a dead feature.
SAE.statistic = (name, feature) => {
  if (name === "index") return feature;
  if (SAE.silentWhenDead.includes(name) && SAE.stateOf(feature) === "dead") return NaN;
  return SAE.index[name].values[feature];
};

SAE.stateOf = (feature) => SAE.STATES[SAE.index.state.values[feature]];

SAE.idsOf = (name, feature) => {
  const { values, width } = SAE.index[name];
  return values.subarray(feature * width, (feature + 1) * width).filter((id) => id >= 0);
};

SAE.list.update = () => {
  const { list, about } = SAE, { query, state, kind, sort, descending, low, high } = list.view;
  const wanted = matchingTokens(query);
  const [least, most] = [low === "" ? -Infinity : Number(low), high === "" ? Infinity : Number(high)];
  const kindId = kind === "" ? -1 : about.kinds.indexOf(kind);
  const columns = SAE.index;
  const keep = (feature) =>
    (state === "" || SAE.stateOf(feature) === state) &&
    (kindId < 0 || columns.kind.values[feature] === kindId) &&
    columns.density.values[feature] >= least && columns.density.values[feature] <= most &&
    (wanted === null || holds(columns.top_tokens, feature, wanted) || holds(columns.top_logits, feature, wanted));
  const keys = new Float64Array(about.n_features), order = [];
  for (let feature = 0; feature < about.n_features; feature++) {
    const value = SAE.statistic(sort, feature);
    keys[feature] = Number.isNaN(value) ? Infinity : descending ? -value : value;
    if (keep(feature)) order.push(feature);
  }
  list.order = order.sort((a, b) => (keys[a] === keys[b] ? a - b : keys[a] < keys[b] ? -1 : 1));
  list.selected = 0;

  function matchingTokens(text) {
    if (text === "") return null;
    const needle = text.toLowerCase(), found = new Uint8Array(SAE.nVocab);
    for (let id = 0; id < SAE.nVocab; id++) found[id] = SAE.searchable(id).includes(needle) ? 1 : 0;
    return found;
  }
  function holds({ values, width }, feature, tokens) {
    for (let i = feature * width; i < (feature + 1) * width; i++) if (values[i] >= 0 && tokens[values[i]]) return true;
    return false;
  }
};

// The table's parts are made once; `draw` fills in the rows that can be seen.
SAE.list.make = () => {
  const { element, list } = SAE;
  list.body = element("tbody");
  list.head = element("tr");
  list.table = element("table", { class: "features", "aria-describedby": "shown" }, element("thead", {}, list.head), list.body);
  window.addEventListener("scroll", () => requestAnimationFrame(() => list.draw({ onlyNew: true })), { passive: true });
  window.addEventListener("resize", () => requestAnimationFrame(() => { if (list.table.offsetParent) SAE.overview.draw(); }));
  window.addEventListener("beforeprint", () => list.draw({ atLeast: 400 }));
  return list.table;
};

SAE.list.columns = () => {
  const { sort } = SAE.list.view, shown = ["index", "density", "max_activation", "kind_share"];
  const extra = shown.includes(sort) ? [] : [sort];
  return ["index", "density", "max_activation", ...extra, "top_tokens", "kind_share", "top_logits"];
};

SAE.list.drawHead = () => {
  const { element, list } = SAE;
  list.head.replaceChildren(...list.columns().map((key) => {
    const heading = SAE.about.definitions[key === "kind_share" ? "kind" : key];
    const name = ["max_activation", "index", "density", "kind_share"].includes(key) || !(key in SAE.STATISTICS) ? key : "extra";
    const cell = element("th", { scope: "col", class: `col-${name === "max_activation" ? "number" : name}${name === "extra" ? " col-number" : ""}` });
    if (!(key in SAE.STATISTICS)) {
      cell.append(heading.label);
    } else {
      const sorted = list.view.sort === key, arrow = sorted ? (list.view.descending ? " ↓" : " ↑") : "";
      const button = element("button", { type: "button" }, `${heading.label}${arrow}`);
      button.addEventListener("click", () => list.sortBy(key, sorted ? !list.view.descending : key !== "index"));
      if (sorted) cell.setAttribute("aria-sort", list.view.descending ? "descending" : "ascending");
      cell.append(button);
    }
    cell.tip = () => heading.meaning;
    return cell;
  }));
};

SAE.list.draw = ({ atLeast = 0, onlyNew = false } = {}) => {
  const { element, list } = SAE;
  if (!list.table || list.table.offsetParent === null) return;
  const { order, rowHeight } = list, top = list.table.getBoundingClientRect().top;
  const inView = Math.max(0, Math.floor(-top / rowHeight)), outOfView = inView + Math.ceil(window.innerHeight / rowHeight);
  if (onlyNew && list.drawn.first <= inView && Math.min(outOfView, order.length) <= list.drawn.last) return;
  const first = Math.max(0, inView - 10), last = Math.min(order.length, Math.max(outOfView + 10, atLeast));
  list.drawn = { first, last };
  const gap = (rows) => {
    const row = element("tr", { class: "gap", "aria-hidden": "true" });
    row.style.height = `${rows * rowHeight}px`;
    return row;
  };
  const rows = [gap(first)];
  for (let place = first; place < last; place++) rows.push(list.row(place));
  rows.push(gap(order.length - last));
  list.table.setAttribute("aria-rowcount", String(order.length + 1));
  list.body.replaceChildren(...rows);
};

SAE.list.row = (place) => {
  const { element, list, index } = SAE, feature = list.order[place], state = SAE.stateOf(feature);
  const row = element("tr", { class: `row ${state} ${place === list.selected ? "selected" : ""}`, "aria-rowindex": place + 2 });
  const cells = {
    index: () => element("td", { class: "col-index" }, element("a", { href: `#${feature}` }, String(feature))),
    density: () => element("td", { class: "col-density" }, state === "dead" ? element("span", { class: "badge" }, "dead") : SAE.percent(index.density.values[feature])),
    top_tokens: () => element("td", { class: "col-top_tokens" }, SAE.chips(SAE.idsOf("top_tokens", feature))),
    top_logits: () => element("td", { class: "col-top_logits" }, SAE.chips(SAE.idsOf("top_logits", feature))),
    kind_share: () => {
      const share = index.kind_share.values[feature], kind = SAE.about.kinds[index.kind.values[feature]];
      const cell = element("td", { class: "col-kind_share" });
      if (kind === undefined || state === "dead") return cell;
      cell.append(element("span", { class: "kind-name" }, kind), element("span", { class: "kind-value" }, `${Math.round(share * 100)} %`));
      return cell;
    },
  };
  for (const key of list.columns())
    row.append(cells[key] ? cells[key]() : element("td", { class: "col-number" }, SAE.STATISTICS[key](SAE.statistic(key, feature))));
  row.addEventListener("click", (event) => {
    list.selected = place;
    if (event.target.tagName !== "A" && !String(window.getSelection())) location.hash = `#${feature}`;
  });
  return row;
};

// As many tokens as fit into one line; the others wrap out of sight.
SAE.chips = (ids) => SAE.element("div", { class: "chips" }, ...Array.from(ids, (id) => SAE.chip(id)));

// Move the selection by keyboard, keeping it in view.
SAE.list.select = (place) => {
  const { list } = SAE;
  list.selected = Math.max(0, Math.min(list.order.length - 1, place));
  const head = list.head.getBoundingClientRect().height + list.sticky();
  const y = list.table.getBoundingClientRect().top + list.head.offsetHeight + list.selected * list.rowHeight;
  if (y < head) window.scrollBy(0, y - head - list.rowHeight);
  else if (y + list.rowHeight > window.innerHeight) window.scrollBy(0, y + 2 * list.rowHeight - window.innerHeight);
  list.draw();
};
SAE.list.sticky = () => document.querySelector(".topbar").offsetHeight;
