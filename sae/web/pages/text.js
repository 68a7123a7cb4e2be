// Bytes of the corpus as text that shows what is there and does nothing. Never as markup: text nodes only.
// The rules are tested in a browser, tests/web.
"use strict";

{
  // Characters that draw nothing, break the line, or turn its direction.
  const hidden = /[\p{Cc}\p{Cf}\p{Co}\p{Zl}\p{Zp}\p{Zs}\u034F\u115F\u1160\u17B4\u17B5\u180B-\u180D\u180F\u2800\u3164\uFFA0\uFE00-\uFE0F\u{E0100}-\u{E01EF}]/u;
  const rightToLeft = /[\u0590-\u08FF\uFB1D-\uFDFF\uFE70-\uFEFC\u{10800}-\u{10FFF}\u{1E800}-\u{1EFFF}]/u;
  const smallest = [0, 0x80, 0x800, 0x10000];
  let starts, bytes, cache;

  // The whole character at `at`, strictly (no overlong forms, no surrogates), or null.
  const characterAt = (raw, at) => {
    const lead = raw[at];
    if (lead < 0x80) return { code: lead, length: 1 };
    const length = lead >= 0xf8 ? 0 : lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 0;
    if (length === 0 || at + length > raw.length) return null;
    let code = lead & (0x7f >> length);
    for (let i = 1; i < length; i++) {
      if ((raw[at + i] & 0xc0) !== 0x80) return null;
      code = (code << 6) | (raw[at + i] & 0x3f);
    }
    if (code < smallest[length - 1] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return null;
    return { code, length };
  };

  const hex = (value, digits) => value.toString(16).padStart(digits, "0");

  const show = (code) => {
    const text = String.fromCodePoint(code);
    if (text === " ") return { kind: "space", text: " " };
    if (text === "\n") return { kind: "newline", text: "↵" };
    if (text === "\t") return { kind: "tab", text: "→" };
    if (code < 0x20 || code === 0x7f) return { kind: "escape", text: `\\x${hex(code, 2)}` };
    if (hidden.test(text)) return { kind: "escape", text: `U+${hex(code, 4).toUpperCase()}` };
    return { kind: "text", text };
  };

  // Segments {kind, text} of `raw`; `whole` where every byte belongs to a character.
  SAE.decodeText = (raw) => {
    const segments = [];
    let whole = true;
    for (let at = 0; at < raw.length; ) {
      const character = characterAt(raw, at);
      if (character === null) whole = false;
      const next = character === null ? { kind: "escape", text: `\\x${hex(raw[at], 2)}` } : show(character.code);
      at += character === null ? 1 : character.length;
      const last = segments.at(-1);
      if (last && last.kind === "text" && next.kind === "text") last.text += next.text;
      else segments.push(next);
    }
    return { segments, whole };
  };

  SAE.setTokens = (newStarts, newBytes) => {
    [starts, bytes, cache] = [newStarts, newBytes, []];
    SAE.nVocab = starts.length - 1;
  };

  SAE.token = (id) => {
    if (!cache[id]) {
      const raw = bytes.subarray(starts[id], starts[id + 1]);
      cache[id] = { id, raw, ...SAE.decodeText(raw) };
      if (!raw.length) cache[id].segments = [{ kind: "escape", text: "∅" }];
    }
    return cache[id];
  };

  // A token as one plain string, for tooltips, labels and sorting.
  SAE.plain = (id) => SAE.token(id).segments.map(({ kind, text }) => (kind === "space" ? "·" : text)).join("");

  // What the search looks into: the text as it is and as it is shown, in lower case.
  SAE.searchable = (id) => {
    const token = SAE.token(id);
    token.searchable ??= `${token.segments.map(({ text }) => text).join("")}\n${SAE.plain(id)}`.toLowerCase();
    return token.searchable;
  };

  const continues = (id) => (SAE.token(id).raw[0] & 0xc0) === 0x80;

  // The tokens as cells {from, to, segments}: one each, but consecutive tokens that make up a character only together
  // share a cell.
  SAE.cells = (ids) => {
    const cells = [];
    for (let from = 0; from < ids.length; ) {
      const token = SAE.token(ids[from]);
      let to = from + 1, segments = token.segments, joined = [...token.raw];
      for (let end = from + 1; !token.whole && end < Math.min(ids.length, from + 8) && continues(ids[end]); end++) {
        joined = [...joined, ...SAE.token(ids[end]).raw];
        const decoded = SAE.decodeText(joined);
        if (decoded.whole) { [to, segments] = [end + 1, decoded.segments]; break; }
      }
      cells.push({ from, to, segments });
      from = to;
    }
    return cells;
  };

  // Whether most letters of the cells belong to a script that is written from right to left.
  SAE.isRightToLeft = (cells) => {
    let right = 0, letters = 0;
    for (const { segments } of cells)
      for (const { kind, text } of segments)
        if (kind === "text")
          for (const character of text) {
            if (rightToLeft.test(character)) right++;
            if (/\p{L}/u.test(character)) letters++;
          }
    return right > letters / 2;
  };

  SAE.appendSegments = (node, segments) => {
    for (const { kind, text } of segments) {
      if (kind === "text") node.append(text);
      else node.append(SAE.element("span", { class: `seg-${kind}` }, text));
    }
    return node;
  };

  // A token on its own, as in lists.
  SAE.chip = (id, tip) => {
    const chip = SAE.appendSegments(SAE.element("bdi", { class: "chip" }), SAE.token(id).segments);
    chip.tip = () => `token ${SAE.plain(id)}\nid ${id}${tip ? `\n${tip}` : ""}`;
    return chip;
  };
}

// document.createElement with attributes and children; strings become text nodes.
SAE.element = (name, attributes = {}, ...children) => {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
};

// A feature's name, as in the paper.
SAE.name = (feature) => `${SAE.about.id ? `${SAE.about.id}/` : "feature "}${feature}`;

// Numbers as they are read.
SAE.number = (value, digits = 3) => {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(digits)));
};
SAE.count = (value) => (Number.isFinite(value) ? value.toLocaleString("en-US") : "–");
SAE.percent = (value) => {
  if (!Number.isFinite(value)) return "–";
  const percent = value * 100;
  if (percent === 0 || percent >= 9.95) return `${percent.toFixed(percent && percent < 99.95 ? 1 : 0)} %`;
  return `${Number(percent.toPrecision(2))} %`;
};

// A label whose definition shows on hover and focus, and stands in the footer.
SAE.defined = (key, tag = "span") => {
  const definition = SAE.about.definitions[key];
  const label = SAE.element(tag, { class: "defined", tabindex: "0" }, definition.label);
  label.tip = () => definition.meaning;
  return label;
};
