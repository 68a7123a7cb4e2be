// The page of one feature.
"use strict";

SAE.feature = { shown: null, log: false };

SAE.feature.show = async (feature) => {
  const article = document.getElementById("feature");
  SAE.feature.shown = feature;
  const known = await SAE.loadFeature(feature);
  if (SAE.feature.shown !== feature) return;
  article.replaceChildren(SAE.feature.head(feature), SAE.feature.statistics(feature), ...SAE.feature.content(known, feature));
  for (const near of [-1, 1]) {
    const next = SAE.feature.neighbour(near);
    if (next !== null) SAE.loadFeature(next).catch(() => {});
  }
};

// The feature before or after this one in the list's order, or in the dictionary's where the list leaves it out.
SAE.feature.neighbour = (step) => {
  const { order } = SAE.list, place = order.indexOf(SAE.feature.shown);
  const next = place < 0 ? SAE.feature.shown + step : order[place + step];
  return next === undefined || next < 0 || next >= SAE.about.n_features ? null : next;
};

SAE.feature.random = () => {
  const alive = SAE.list.order.filter((feature) => SAE.stateOf(feature) !== "dead");
  if (alive.length) location.hash = `#${alive[Math.floor(Math.random() * alive.length)]}`;
};

SAE.feature.head = (feature) => {
  const { element, about, list } = SAE, place = list.order.indexOf(feature);
  const go = (text, label, target) => {
    const button = element("button", { type: "button", "aria-label": label, disabled: target === null }, text);
    button.addEventListener("click", () => { location.hash = `#${target}`; });
    return button;
  };
  const random = element("button", { type: "button" }, "random");
  random.addEventListener("click", SAE.feature.random);
  const back = element("button", { type: "button" }, "all features");
  back.addEventListener("click", () => SAE.showList());
  const where = place < 0 ? "" : `${SAE.count(place + 1)} of ${SAE.count(list.order.length)} by ${about.definitions[list.view.sort].label.toLowerCase()}`;
  return element("header", { class: "feature-head" },
    element("h1", {}, element("span", { class: "quiet" }, SAE.name("")), String(feature)),
    element("nav", { "aria-label": "Features" }, element("span", { class: "hint" }, where), back,
      go("←", "previous feature", SAE.feature.neighbour(-1)), go("→", "next feature", SAE.feature.neighbour(1)), random));
};

SAE.feature.statistics = (feature) => {
  const { element, index } = SAE, dead = SAE.stateOf(feature) === "dead";
  const kind = SAE.about.kinds[index.kind.values[feature]];
  const of = (name, text = SAE.number) => [SAE.defined(name, "dt"), text(SAE.statistic(name, feature))];
  const facts = [
    of("density", SAE.percent), [SAE.defined("n_active", "dt"), `${SAE.count(index.n_active.values[feature])} of ${SAE.count(SAE.about.n_tokens)}`],
    ...(dead ? [] : [of("max_activation"), of("mean_activation")]),
    ...(dead || kind === undefined ? [] : [[SAE.defined("kind", "dt"), `${kind}, ${Math.round(index.kind_share.values[feature] * 100)} %`]]),
    ...SAE.about.statistics.filter((name) => !["density", "n_active", "max_activation", "mean_activation"].includes(name)).map((name) => of(name, SAE.STATISTICS[name])),
  ];
  return element("dl", { class: "facts" }, ...facts.map(([term, value]) => element("div", {}, term, element("dd", {}, value))));
};

SAE.feature.content = (known, feature) => {
  const { element } = SAE, state = SAE.stateOf(feature), maximum = SAE.index.max_activation.values[feature];
  const aside = element("div", { class: "panels" }), main = element("div", { class: "reading" });
  if (state === "dead") main.append(SAE.feature.note("Never active", `Not one of the ${SAE.count(SAE.about.n_tokens)} tokens that were looked at made this feature active. It may be dead, or fire on text that was not among them. Its direction exists all the same: what follows from the weights alone is shown.`));
  else {
    if (state === "ultralow") main.append(SAE.feature.note("Ultralow density", SAE.about.definitions.ultralow.meaning));
    aside.append(SAE.feature.activations(known, feature, maximum));
    main.append(SAE.examples.toolbar(), ...SAE.examples.sections(known, maximum));
    main.classList.toggle("wrap", SAE.examples.wrap);
  }
  aside.append(SAE.feature.logits(known), SAE.feature.logitHistogram(known));
  if (state !== "dead") aside.append(SAE.feature.kinds(known));
  aside.append(SAE.feature.neurons(known, state));
  if (state !== "dead") aside.append(SAE.feature.partners(known));
  return [element("div", { class: `columns${state === "dead" ? " silent" : ""}` }, aside, main)];
};

SAE.feature.note = (title, text) => SAE.element("p", { class: "note" }, SAE.element("strong", {}, `${title}. `), text);

SAE.examples.toolbar = () => {
  const button = SAE.element("button", { type: "button", id: "wrap", "aria-pressed": String(SAE.examples.wrap) }, "whole text");
  button.addEventListener("click", () => {
    SAE.examples.wrap = !SAE.examples.wrap;
    button.setAttribute("aria-pressed", String(SAE.examples.wrap));
    document.querySelector(".reading").classList.toggle("wrap", SAE.examples.wrap);
  });
  const scale = SAE.element("span", { class: "scale", "aria-hidden": "true" }, "0 ", SAE.element("span", { class: "ramp" }), " maximum");
  return SAE.element("div", { class: "reading-head" }, SAE.element("h2", {}, "Examples"), scale, button);
};

SAE.feature.panel = (key, ...content) => SAE.element("section", { class: "panel" }, SAE.element("h2", {}, SAE.defined(key)), ...content);

SAE.feature.activations = (known, feature, maximum) => {
  const counts = known.column("histogram"), active = SAE.index.n_active.values[feature];
  const panel = SAE.feature.panel("histogram"), place = SAE.element("div");
  const button = SAE.element("button", { type: "button", class: "small", "aria-pressed": String(SAE.feature.log) }, "log");
  const draw = () => place.replaceChildren(SAE.histogram([{ counts, class: "main" }], 0, maximum, {
    log: SAE.feature.log, colour: (bin) => `color-mix(in srgb, var(--hot) ${30 + (70 * bin) / counts.length}%, var(--cold))`,
    label: `Histogram of ${SAE.count(active)} activations up to ${SAE.number(maximum)}`,
    tip: (bin, total) => `${SAE.count(total)} tokens (${SAE.percent(total / active)} of the active ones)\nactivation ${SAE.number((bin * maximum) / counts.length)} to ${SAE.number(((bin + 1) * maximum) / counts.length)}`,
  }));
  button.addEventListener("click", () => {
    SAE.feature.log = !SAE.feature.log;
    button.setAttribute("aria-pressed", String(SAE.feature.log));
    draw();
  });
  draw();
  panel.firstChild.append(button);
  panel.append(place);
  return panel;
};

SAE.feature.logits = (known) => {
  const side = (name, key) => {
    const ids = known.column(`logit_${name}_ids`), values = known.column(`logit_${name}_values`);
    const rows = Array.from(ids, (id, i) => ({ id, value: values[i] })).filter(({ id }) => id >= 0).slice(0, 20)
      .map(({ id, value }) => ({ label: SAE.chip(id), value, text: SAE.number(value, 2) }));
    return SAE.element("div", {}, SAE.element("h3", {}, SAE.defined(key)), SAE.bars(rows, "logits"));
  };
  return SAE.element("section", { class: "panel pair" }, side("top", "top_logits"), side("bottom", "bottom_logits"));
};

SAE.feature.logitHistogram = (known) => {
  const counts = known.column("logit_histogram"), [low, high] = known.column("logit_edges");
  const at = (bin) => low + ((high - low) * bin) / counts.length;
  return SAE.feature.panel("logit_histogram", SAE.histogram([{ counts, class: "logit" }], low, high, {
    log: true, label: `Histogram of the logit weights of all tokens, from ${SAE.number(low)} to ${SAE.number(high)}`,
    colour: (bin) => (at(bin + 0.5) < 0 ? "var(--negative)" : "var(--positive)"),
    tip: (bin, total) => `${SAE.count(total)} tokens of the vocabulary\nlogit weight ${SAE.number(at(bin))} to ${SAE.number(at(bin + 1))}`,
  }));
};

SAE.feature.kinds = (known) => {
  const counts = Array.from(known.column("kind_counts")), all = counts.reduce((sum, count) => sum + count, 0);
  const { kinds, kind_tokens: tokens, n_tokens: n } = SAE.about;
  const rows = kinds.map((kind, i) => ({
    label: kind, value: counts[i] / all, text: SAE.percent(counts[i] / all), mark: tokens[i] / n,
    tip: `${SAE.count(counts[i])} of ${SAE.count(all)} active tokens are in ${kind} documents,\nas are ${SAE.percent(tokens[i] / n)} of all tokens.\nActive on ${SAE.percent(counts[i] / tokens[i])} of the tokens in ${kind} documents.`,
  })).filter(({ value }) => value > 0).sort((a, b) => b.value - a.value);
  const panel = SAE.feature.panel("kind_counts", SAE.bars(rows.slice(0, 8)));
  if (rows.length > 8) panel.append(SAE.element("details", {}, SAE.element("summary", {}, `${rows.length - 8} more kinds`), SAE.bars(rows.slice(8))));
  return panel;
};

SAE.feature.neurons = (known, state) => {
  const rows = (name) => Array.from(known.column(`neuron_${name}_ids`), (id, i) => ({ id, value: known.column(`neuron_${name}_values`)[i] }))
    .filter(({ id }) => id >= 0).map(({ id, value }) => ({ label: `${SAE.about.id.split("/")[0]}/neurons/${id}`, value, text: SAE.number(value, 2) }));
  const part = (name, key) => SAE.element("div", {}, SAE.element("h3", {}, SAE.defined(key)), SAE.bars(rows(name), "neurons"));
  return SAE.element("section", { class: "panel" }, ...(state === "dead" ? [] : [part("correlated", "neuron_correlated")]), part("coefficient", "neuron_coefficient"));
};

SAE.feature.partners = (known) => {
  const link = (id) => (id < SAE.about.n_features ? SAE.element("a", { href: `#${id}` }, SAE.name(id)) : SAE.name(id));
  const part = (name, label) => {
    const values = known.column(`${name}_correlated_values`);
    const rows = Array.from(known.column(`${name}_correlated_ids`), (id, i) => ({ id, value: values[i] }))
      .filter(({ id }) => id >= 0).map(({ id, value }) => ({ label: label(id), value, text: SAE.number(value, 2) }));
    return SAE.element("div", {}, SAE.element("h3", {}, SAE.defined(`${name}_correlated`)), SAE.bars(rows, "partners"));
  };
  const { other } = SAE.about;
  return SAE.element("section", { class: "panel" }, part("feature", link), ...(other ? [part("other", (id) => `${other}/${id}`)] : []));
};
