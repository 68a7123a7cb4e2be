// Loading data files, and turning them into typed arrays.
// A data file is a classic script that calls SAE.receive(name, header, payload): that works from disk, where fetch and
// modules do not. The payload is deflated bytes in base64.
"use strict";

const SAE = { index: null, about: null, tokens: null };

{
  const waiting = new Map();   // name -> {promise, resolve}
  const allowed = /^(data\/(index|tokens|features_\d{4,})|\.\.\/report\/report)\.js$/;
  const policy = window.trustedTypes
    ? trustedTypes.createPolicy("sae", { createScriptURL: (url) => { if (allowed.test(url)) return url; throw new TypeError(url); } })
    : { createScriptURL: (url) => url };

  SAE.receive = (name, header, payload) => {
    const request = waiting.get(name);
    if (request) request.resolve({ header, payload });
  };

  // The data file `name`, loaded once. Rejects with a sentence for the reader where the file is missing.
  SAE.request = (name) => {
    if (waiting.has(name)) return waiting.get(name).promise;
    const request = {};
    request.promise = new Promise((resolve, reject) => {
      request.resolve = resolve;
      const script = document.createElement("script");
      script.src = policy.createScriptURL(`data/${name}.js`);
      script.onerror = () => {
        waiting.delete(name);
        reject(new Error(`data/${name}.js could not be read; it belongs beside this page.`));
      };
      script.onload = () => script.remove();
      document.head.append(script);
    });
    waiting.set(name, request);
    return request.promise;
  };

  // A page cannot see whether a file lies beside it, but a script that does can say so: `sae report` leaves one.
  SAE.reported = () => { document.getElementById("report").hidden = false; };
  SAE.askForReport = () => {
    const script = document.createElement("script");
    script.src = policy.createScriptURL("../report/report.js");
    script.onerror = script.onload = () => script.remove();
    document.head.append(script);
  };
}

SAE.inflate = async (payload) => {
  if (typeof DecompressionStream === "undefined") throw new Error("This browser is too old to unpack the data (Chromium 80, Firefox 113 or later).");
  const binary = atob(payload);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
};

// Half floats, by their 65,536 bit patterns.
SAE.half = (() => {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return table;
})();

{
  const readers = {
    f8: (buffer) => new Float64Array(buffer),
    f4: (buffer) => new Float32Array(buffer),
    f2: (buffer) => Float32Array.from(new Uint16Array(buffer), (bits) => SAE.half[bits]),
    u1: (buffer) => whole(new Uint8Array(buffer), 0xff),
    u2: (buffer) => whole(new Uint16Array(buffer), 0xffff),
    u4: (buffer) => whole(new Uint32Array(buffer), 0xffffffff),
  };
  const whole = (values, none) => Float64Array.from(values, (value) => (value === none ? -1 : value));

  // {name: {values, width, shape}} of `count` rows; whole numbers that are missing are -1.
  SAE.unpack = (columns, count, buffer) => {
    const found = {};
    let offset = 0;
    for (const { name, dtype, shape } of columns) {
      const width = shape.reduce((product, size) => product * size, 1);
      const size = Number(dtype[1]) * width * count;
      if (offset + size > buffer.byteLength) throw new Error(`The data end within the column ${name}; make the page again.`);
      found[name] = { values: readers[dtype](buffer.slice(offset, offset + size)), width, shape };
      offset += size;
    }
    if (offset !== buffer.byteLength) throw new Error("The data are longer than their columns; make the page again.");
    return found;
  };
}

SAE.loadIndex = async () => {
  const { header, payload } = await SAE.request("index");
  if (header.format !== 1) throw new Error(`These data have the format ${header.format}, the page reads format 1; make the page again.`);
  SAE.about = header;
  SAE.index = SAE.unpack(header.index_columns, header.n_features, await SAE.inflate(payload));
};

SAE.loadTokens = async () => {
  const { header, payload } = await SAE.request("tokens");
  const buffer = await SAE.inflate(payload);
  const [lengths] = header.columns;
  const { values } = SAE.unpack([lengths], header.n_vocab, buffer.slice(0, header.n_vocab * Number(lengths.dtype[1]))).lengths;
  const starts = new Float64Array(header.n_vocab + 1);
  for (let id = 0; id < header.n_vocab; id++) starts[id + 1] = starts[id] + values[id];
  SAE.setTokens(starts, new Uint8Array(buffer, header.n_vocab * Number(lengths.dtype[1])));
};

// All that the page knows of one feature: column(name) is a typed array of its values.
SAE.loadFeature = async (feature) => {
  const number = Math.floor(feature / SAE.about.chunk);
  const part = await SAE.request(`features_${String(number).padStart(4, "0")}`);
  if (!part.columns) {
    const count = Math.min(SAE.about.chunk, SAE.about.n_features - part.header.start);
    const buffer = await SAE.inflate(part.payload);
    part.columns ??= SAE.unpack(SAE.about.chunk_columns, count, buffer);
  }
  const row = feature - part.header.start;
  return {
    feature,
    column: (name) => part.columns[name].values.subarray(row * part.columns[name].width, (row + 1) * part.columns[name].width),
    shape: (name) => part.columns[name].shape,
  };
};
