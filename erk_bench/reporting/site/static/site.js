// What every page shares: building elements from text, numbers as tables show them, and records.
"use strict";

const Site = (() => {
  const root = document.body.dataset.root || "";
  const site = { root, records: {} };

  // An element with attributes and children. Texts become text nodes, so names cannot become markup.
  site.el = (tag, attributes = {}, ...children) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined && child !== false) node.append(child);
    }
    return node;
  };

  site.svg = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  // Numbers that JSON does not have come as texts.
  site.number = (value) =>
    ({ nan: NaN, inf: Infinity, "-inf": -Infinity })[value] ?? (value === null ? NaN : value);

  const fixed = (value, digits) =>
    Number.isFinite(value) ? value.toFixed(digits).replace(/^-(0(?:\.0*)?)$/, "$1") : String(value).toLowerCase().replace("infinity", "inf");

  // value ± error, rounded to two figures of the error.
  site.rounded = (value, error, sign = "") => {
    let digits = 0;
    while (digits < 6 && Math.abs(error) * 10 ** digits < 9.5) digits += 1;
    const plus = sign === "+" && !(value < 0) ? "+" : "";
    return `${plus}${fixed(value, digits)} ± ${fixed(error, digits)}`;
  };

  // Deviations from a metric's value (from 0 where that is not finite) that Python packed as 24-bit numbers.
  site.unpacked = ([scale, text]) => {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    const values = [];
    for (let at = 0; at < bytes.length; at += 3) {
      const whole = ((bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16)) << 8) >> 8;
      values.push(whole === -(2 ** 23) ? NaN : (whole / (2 ** 23 - 1)) * scale);
    }
    return values;
  };

  site.common = (content) => Object.assign(site, content);
  site.index = (content) => {
    site.boards = content.boards;
    site.rows = content.rows.map((values) => {
      const row = Object.fromEntries(content.columns.map((name, place) => [name, values[place]]));
      row.folder = site.folders[row.folder];
      row.metrics = Object.fromEntries(site.boards[row.board].metrics.map((name, place) => [name, row.metrics[place]]));
      return row;
    });
    site.start?.();
  };

  // All facts of a record by dotted names: its own, and those that it has in common with others.
  site.record = (record) => {
    const facts = { ...site.bases[record.base] };
    for (const key of record.lacks) delete facts[key];
    record.facts = { ...facts, ...record.own };
    record.files = record.files.map((file) => `${site.folders[record.folder]}/${file}`);
    record.places ??= [];
    site.records[record.id] = record;
    site.arrived?.(record);
  };

  // Reads a record's file; pages opened from the disk cannot fetch, but may add a script.
  site.load = (id) => new Promise((resolve, reject) => {
    if (site.records[id]) return resolve(site.records[id]);
    const script = site.el("script", {
      src: `${root}records/${encodeURIComponent(id)}.js`,
      onload: () => resolve(site.records[id]),
      onerror: () => reject(new Error(`the file of the record ${id} is missing`)),
    });
    document.head.append(script);
  });

  site.href = (id) => `${root}records/${encodeURIComponent(id)}.html`;

  site.title = (row) => [
    row.name, row.steps === null ? null : `${row.steps} steps`, row.guidance, `seeds ${row.seeds}`, row.folder,
  ].filter(Boolean).join(", ");

  site.text = (value) => {
    if (value === null) return "null";
    if (Array.isArray(value)) {
      const pairs = value.every((each) => Array.isArray(each) && each.length === 2);
      return value.length && pairs ? value.map((each) => each.join("=")).join(", ") : value.map(site.text).join(", ");
    }
    return typeof value === "object" ? JSON.stringify(value) : String(value);
  };

  // A table of texts and nodes. The first cell of a row names it.
  site.table = (caption, headers, rows, kind = "") => site.el("div",
    { class: "wide", tabindex: "0", role: "region", "aria-label": caption },
    site.el("table", { class: kind }, site.el("caption", {}, caption),
      site.el("thead", {}, site.el("tr", {}, headers.map((text) => site.el("th", { scope: "col" }, text)))),
      site.el("tbody", {}, rows.map((row) => site.el("tr", {}, row.map((cell, place) =>
        site.el(place ? "td" : "th", place ? { class: ["better", "worse"].includes(cell) ? cell : null } : { scope: "row" }, cell)))))));

  // The same seeds of one or two records. Two lie on each other, so that a cut or their difference can be shown.
  site.tiles = (records) => {
    const [first, ...others] = records.map((record) => record.strip);
    const seeds = first[0].filter((seed) => others.every((strip) => strip[0].includes(seed)));
    const side = Math.min(Math.max(first[1] * 8, 64), 160);
    const height = (side * first[2]) / first[1];
    return seeds.map((seed) => {
      const layers = records.map((record, number) => {
        const [all] = record.strip;
        const layer = site.el("div", { class: `layer layer-${number}` });
        layer.style.backgroundImage = `url("${root}images/${encodeURIComponent(record.id)}.png")`;
        layer.style.backgroundSize = `${all.length * 100}% 100%`;
        layer.style.backgroundPosition = `${all.length > 1 ? (100 * all.indexOf(seed)) / (all.length - 1) : 0}% 0`;
        return layer;
      });
      const tile = site.el("div", { class: first[1] < 65 ? "tile pixels" : "tile", role: "img",
        "aria-label": `seed ${seed} of ${records.map((record) => record.name).join(" and of ")}` }, layers);
      tile.style.width = `${side}px`;
      tile.style.height = `${height}px`;
      return site.el("figure", {}, tile, site.el("figcaption", {}, `seed ${seed}`));
    });
  };

  return site;
})();
