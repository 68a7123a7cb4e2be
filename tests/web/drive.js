// Drives the page in a real browser, and writes what it found as JSON into the document. Loaded by test_page.py's copy of
// index.html after the page's own scripts.
"use strict";

{
  const found = { errors: [], violations: [] };
  window.addEventListener("error", (event) => found.errors.push(String(event.message)));
  window.addEventListener("unhandledrejection", (event) => found.errors.push(String(event.reason)));
  document.addEventListener("securitypolicyviolation", (event) => found.violations.push(event.violatedDirective));

  const wait = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
  const until = async (condition, what) => {
    for (let i = 0; i < 400; i++) { if (condition()) return; await wait(10); }
    throw new Error(`waited in vain for ${what}`);
  };
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const text = (node) => node.textContent;
  const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const open = async (feature) => {
    location.hash = `#${feature}`;
    await until(() => !document.getElementById("feature").hidden && document.title === `A/1/${feature}`, `feature ${feature}`);
  };
  const backToList = async () => {
    press("u");
    await until(() => !document.getElementById("overview").hidden, "the list");
  };
  const listed = () => all("tbody .row .col-index a").map((link) => Number(text(link)));
  const scrolls = () => document.documentElement.scrollWidth > document.documentElement.clientWidth;
  const tipOf = (node) => {
    node.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
    return text(document.getElementById("tip"));
  };

  const lists = async () => {
    found.title = document.title;
    found.all = listed();
    found.facts = Object.fromEntries(all("#overview .facts > div").map((fact) => [text(fact.firstChild), text(fact.lastChild)]));
    found.sorted = {};
    for (const key of Object.keys(SAE.STATISTICS)) {
      SAE.list.change({ sort: key, descending: true });
      found.sorted[key] = [...SAE.list.order];
    }
    SAE.list.change({ ...SAE.list.start, state: "dead" });
    found.dead = listed();
    found.address = location.hash;
    SAE.list.change({ ...SAE.list.start, query: "<SCRIPT>" });
    found.search = [...SAE.list.order];
    SAE.list.change({ ...SAE.list.start, low: "1e-3", high: "1e-2" });
    found.range = [...SAE.list.order];
    SAE.list.change({ ...SAE.list.start, kind: SAE.about.kinds[1] });
    found.shownNothing = text(document.getElementById("shown"));
    SAE.list.change({ ...SAE.list.start });
    found.kinds = all("#kind option").map(text);
    found.listScrolls = scrolls();
  };

  const features = async () => {
    await open(0);
    const rows = all(".example");
    found.heading = text(document.querySelector("#feature h1"));
    found.first = all(".token", rows[0]).map(text);
    found.strongest = text(rows[0].querySelector(".strongest"));
    found.gradient = rows[0].querySelector(".token:nth-child(1)") && all(".token", rows[0]).map((token) => token.style.background.includes("gradient"));
    found.tip = tipOf(rows[0].querySelector(".strongest"));
    found.sections = all(".interval h3").map(text);
    found.examples = rows.length;
    found.logits = all(".pair .chip").map(text);
    found.logitValues = all(".pair .bar-value").map(text);
    found.neurons = all(".bars.neurons .bar-label").map(text);
    found.partners = all(".bars.partners .bar-label").map(text);
    found.partnerLink = document.querySelector(".bars.partners a").getAttribute("href");
    found.isolated = all(".token, .chip").every((node) => getComputedStyle(node).unicodeBidi === "isolate");
    rows[1].querySelector("button").click();
    found.detail = text(rows[1].querySelector(".detail span"));
    press("w");
    found.wrapped = document.querySelector(".reading").classList.contains("wrap") && !scrolls();
    press("w");
    found.featureScrolls = scrolls();
    found.featureFacts = Object.fromEntries(all("#feature .facts > div").map((fact) => [text(fact.firstChild), text(fact.lastChild)]));
    await open(3);
    found.deadNote = text(document.querySelector(".note"));
    found.deadExamples = all(".example").length;
    await open(4);
    found.lowNote = text(document.querySelector(".note"));
    found.lowExamples = all(".example").length;
    location.hash = "#99999";
    await until(() => document.getElementById("message").className === "error", "the error");
    found.missing = text(document.getElementById("message"));
  };

  const keys = async () => {
    await open(found.all[0]);
    press("j");
    await until(() => document.title === `A/1/${found.all[1]}`, "j");
    press("k");
    await until(() => document.title === `A/1/${found.all[0]}`, "k");
    await backToList();
    press("j");
    found.selected = text(document.querySelector(".row.selected .col-index"));
    press("/");
    await until(() => document.activeElement.id === "query", "the search");
    document.activeElement.blur();
    press("Enter");
    await until(() => document.title === `A/1/${found.all[1]}`, "Enter");
    press("r");
    await wait(100);
    found.random = SAE.feature.shown;
    press("?");
    found.help = document.getElementById("help").open;
    document.getElementById("help").close();
  };

  const reach = async () => {
    found.plain = Array.from({ length: SAE.nVocab }, (_, id) => SAE.plain(id));
    found.escaped = Array.from({ length: SAE.nVocab }, (_, id) => SAE.token(id).segments.filter(({ kind }) => kind === "escape").map(({ text }) => text).join(" "));
    found.fetched = await fetch("http://127.0.0.1:9/x").then(() => "answered", () => "refused");
    try { document.createElement("div").innerHTML = "<b>x</b>"; found.markup = "made"; } catch { found.markup = "refused"; }
    await wait(100);   // reports of violations come late
    found.images = all("img, iframe, object, embed, svg script, link:not([rel=stylesheet])").length;
    found.scripts = all("script").length;
    found.titleAtEnd = document.title;
  };

  const run = async () => {
    await until(() => document.documentElement.dataset.ready, "the start");
    await lists();
    await features();
    await keys();
    await reach();
  };
  run().catch((error) => found.errors.push(String(error.stack))).then(() => {
    const result = document.createElement("pre");
    result.id = "result";
    result.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
    document.body.append(result);
  });
}
