// Start, addresses (#3450 a feature, #?sort=density the list), keys, tooltips, colours.
"use strict";

// Replace the address without a new entry in the history; some browsers refuse that for pages from disk.
SAE.replaceAddress = (hash) => {
  try { history.replaceState(null, "", hash); } catch { /* the view is then not in the address, nothing else */ }
};

SAE.remember = (key, value) => {
  try {
    if (value === undefined) return localStorage.getItem(`sae-${key}`);
    localStorage.setItem(`sae-${key}`, value);
  } catch { /* no storage for pages from disk here */ }
  return value ?? null;
};

SAE.fail = (error) => {
  const message = document.getElementById("message");
  message.hidden = false;
  message.className = "error";
  message.textContent = error.message;
};

SAE.listAddress = "#";
SAE.showList = () => { location.hash = SAE.listAddress; };

// Show what the address names.
SAE.route = async () => {
  const address = location.hash.slice(1), overview = document.getElementById("overview"), article = document.getElementById("feature");
  document.getElementById("message").hidden = true;
  SAE.hideTip();
  if (/^\d+$/.test(address)) {
    const feature = Number(address);
    if (feature >= SAE.about.n_features) {
      overview.hidden = article.hidden = true;
      SAE.fail(new Error(`There is no feature ${feature} here: the page holds ${SAE.count(SAE.about.n_features)}, from 0.`));
      return;
    }
    if (!overview.hidden) SAE.list.scrolled = window.scrollY;
    await SAE.feature.show(feature);
    if (SAE.feature.shown !== feature) return;
    [overview.hidden, article.hidden] = [true, false];
    document.title = SAE.name(feature);
    document.getElementById("main").focus({ preventScroll: true });
    window.scrollTo(0, 0);
    return;
  }
  const shown = SAE.feature.shown;
  SAE.feature.shown = null;
  [overview.hidden, article.hidden] = [false, true];
  document.title = `${SAE.about.id || "Dictionary"} · ${SAE.count(SAE.about.n_features)} features`;
  const parameters = Object.fromEntries(new URLSearchParams(address.replace(/^\?/, "")));
  const known = Object.fromEntries(Object.entries(parameters).filter(([key]) => Object.hasOwn(SAE.list.start, key)));
  if ("descending" in known) known.descending = known.descending !== "false";
  if (!Object.hasOwn(SAE.STATISTICS, known.sort ?? "")) delete known.sort;
  SAE.list.change({ ...SAE.list.start, ...known }, true);
  if (shown !== null) {
    window.scrollTo(0, SAE.list.scrolled ?? 0);
    if (SAE.list.order.includes(shown)) SAE.list.select(SAE.list.order.indexOf(shown));
  }
};

{
  const tip = document.getElementById("tip");
  const owner = (node) => { while (node && !node.tip) node = node.parentNode; return node; };
  const show = (event) => {
    const node = owner(event.target);
    if (!node) return SAE.hideTip();
    tip.textContent = node.tip();
    tip.hidden = false;
    const box = node.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - own.width - 8));
    const below = box.bottom + 6 + own.height <= window.innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? box.bottom + 6 : Math.max(8, box.top - own.height - 6)}px`;
  };
  SAE.hideTip = () => { tip.hidden = true; };
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", () => SAE.hideTip());
  window.addEventListener("scroll", () => SAE.hideTip(), { passive: true });
}

SAE.KEYS = {
  j: ["next feature", () => SAE.move(1)],
  k: ["previous feature", () => SAE.move(-1)],
  Enter: ["open the feature that is marked in the list", (event) => {
    if (SAE.feature.shown === null && ["BODY", "MAIN"].includes(event.target.tagName) && SAE.list.order.length) location.hash = `#${SAE.list.order[SAE.list.selected]}`;
  }],
  r: ["a random feature of those in the list", () => SAE.feature.random()],
  "/": ["search", (event) => {
    event.preventDefault();
    if (SAE.feature.shown !== null) SAE.showList();
    setTimeout(() => { SAE.overview.fields.query.focus(); SAE.overview.fields.query.select(); }, 0);
  }],
  u: ["all features", () => SAE.showList()],
  w: ["whole text of the examples, or one line each", () => document.getElementById("wrap")?.click()],
  l: ["histogram on a linear or a logarithmic axis", () => document.querySelector("#feature .panel button.small")?.click()],
  "?": ["this help", () => document.getElementById("help").showModal()],
};

SAE.move = (step) => {
  if (SAE.feature.shown === null) { SAE.list.select(SAE.list.selected + step); return; }
  const next = SAE.feature.neighbour(step);
  if (next !== null) location.hash = `#${next}`;
};

SAE.makeHelp = () => {
  const { element } = SAE, help = document.getElementById("help");
  const close = element("button", { type: "button" }, "Close");
  close.addEventListener("click", () => help.close());
  help.append(element("h2", {}, "Keys"), element("dl", { class: "keys" },
    ...Object.entries(SAE.KEYS).map(([key, [meaning]]) => element("div", {}, element("dt", {}, element("kbd", {}, key)), element("dd", {}, meaning)))), close);
  document.getElementById("keys").addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    if (event.key === "Escape" && SAE.feature.shown !== null) SAE.showList();
    SAE.KEYS[event.key]?.[1](event);
  });
};

SAE.makeFooter = () => {
  const { element, about } = SAE, footer = document.getElementById("footer");
  const entries = Object.values(about.definitions).sort((a, b) => a.label.localeCompare(b.label)).map(({ label, meaning }) => element("div", {}, element("dt", {}, label), element("dd", {}, meaning)));
  footer.append(element("h2", {}, "What the numbers are"), element("dl", { class: "definitions" }, ...entries));
  footer.hidden = false;
};

SAE.makeTheme = () => {
  const button = document.getElementById("theme"), choices = ["auto", "light", "dark"];
  const apply = (choice) => {
    document.documentElement.style.colorScheme = choice === "auto" ? "light dark" : choice;
    button.textContent = `Theme: ${choice}`;
    button.value = choice;
    SAE.remember("theme", choice);
  };
  apply(choices.includes(SAE.remember("theme")) ? SAE.remember("theme") : "auto");
  button.addEventListener("click", () => apply(choices[(choices.indexOf(button.value) + 1) % 3]));
};

SAE.start = async () => {
  SAE.makeTheme();
  await Promise.all([SAE.loadIndex(), SAE.loadTokens()]);
  const brand = document.getElementById("brand");
  brand.textContent = SAE.about.id || "Features";
  brand.addEventListener("click", (event) => { event.preventDefault(); SAE.showList(); });
  SAE.addStatistics();
  SAE.overview.make();
  SAE.makeFooter();
  SAE.makeHelp();
  SAE.askForReport();
  SAE.list.update();
  window.addEventListener("hashchange", () => {
    SAE.route().catch(SAE.fail);
  });
  await SAE.route();
  document.documentElement.dataset.ready = "true";
};

SAE.start().catch(SAE.fail);
