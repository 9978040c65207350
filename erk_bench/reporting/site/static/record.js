// A record's page: everything that its file says, and what it was made from.
"use strict";

(() => {
  const { el, svg } = Site;
  const short = (text) => (/^[0-9a-f]{40,64}$/.test(text) ? `${text.slice(0, 12)}…` : text);

  function section(title, ...children) {
    return el("section", { "aria-label": title }, el("h2", {}, title), children);
  }

  function metrics(record) {
    const rows = Object.entries(record.metrics).map(([name, [value, error, replicates, halves]]) => {
      const v = Site.number(value);
      const e = Site.number(error);
      return [Site.metrics[name]?.title ?? name, Site.rounded(v, e), String(v), String(e),
        halves ? `${Site.unpacked(halves).length} halves` : `${Site.unpacked(replicates).length} groups`];
    });
    return Site.table("Metrics, each with one standard error over the choice of seeds",
      ["metric", "value", "in full", "standard error", "error from"], rows);
  }

  function command(text) {
    const said = el("span", { "aria-live": "polite" });
    const copy = () => navigator.clipboard?.writeText(text).then(() => { said.textContent = " copied"; });
    return el("div", { class: "command" }, el("pre", { tabindex: "0" }, el("code", {}, text)),
      el("button", { type: "button", onclick: copy }, "Copy"), said);
  }

  function commands(record) {
    const { facts } = record;
    const commit = facts["environment.commit"];
    const made = commit ? ` It ran at commit ${commit}${facts["environment.dirty"] ? ", with changes" : ""}.` : "";
    const known = record.commands.length > 0;
    return [
      el("p", {}, (known ? "Each of these computes it anew."
        : "No command is known that computes it anew: its network or settings are not here.") + made),
      record.commands.map(command),
      el("p", {}, "Beside another record:"),
      record.files.slice(0, 1).map((file) => command(`erk-bench compare ${/^[\w./-]+$/.test(file) ? file : `'${file.replaceAll("'", "'\\''")}'`} OTHER_RECORD`)),
    ];
  }

  // A stage of what the record was made from, and the boxes in it.
  function provenance(record) {
    const { facts } = record;
    const box = (title, ...lines) => el("div", { class: "box" }, el("strong", {}, title),
      lines.filter((line) => line !== undefined && line !== null && line !== "").map((line) =>
        (typeof line === "string" ? el("span", { title: line }, short(line)) : line)));
    const files = Object.keys(facts).filter((key) => /^spec\..*\.path$/.test(key) && facts[key])
      .map((key) => box(key.slice(5, -5), facts[key], facts[key.replace(/path$/, "sha256")]));
    const set = !("spec.model.name" in facts);
    const stages = [
      set ? [box("images", facts["spec.images"], facts["spec.sha256"])] : files,
      [box("samples", record.facts.run_id, `seeds ${facts.seeds}`, `${facts.num_images} images`)],
      [box("features", ...facts.detectors),
        ...(facts["reference.name"] ? [box("reference", facts["reference.name"], facts["reference.sha256"], facts["reference.features"])] : []),
        ...(facts["converged.run_id"] ? [box("converged solution", facts["converged.run_id"], `${facts["converged.num_steps"]} steps`)] : [])],
      [box("record", ...record.files, facts.created)],
      record.places.map(([href, title, row]) => box("shown in", el("a", { href: Site.root + href }, title), row)),
    ].filter((stage) => stage.length);
    return el("ol", { class: "provenance", "aria-label": "From checkpoint to table" },
      stages.map((boxes) => el("li", {}, boxes)));
  }

  function samples(record) {
    if (!record.strip) return el("p", {}, "No images of this record are kept here.");
    return [el("p", {}, "Its first seeds, one an image."), el("div", { class: "tiles" }, Site.tiles([record]))];
  }

  function settings(record, title, wanted) {
    const rows = Object.entries(record.facts).filter(([key]) => wanted(key))
      .map(([key, value]) => [key.replace(/^spec\./, ""), Site.text(value)]);
    return rows.length ? Site.table(title, ["name", "value"], rows, "settings") : null;
  }

  // Leave-one-out values as dots around the value, and as numbers on demand.
  function replicates(name, [value, , packed, halves]) {
    const v = Number.isFinite(value) ? value : 0; // what the deviations are from
    const parts = [["without one group of images", packed], ["of random halves", halves]].filter(([, each]) => each);
    return parts.map(([what, each]) => {
      const values = Site.unpacked(each);
      const known = values.filter(Number.isFinite);
      const most = Math.max(...known.map(Math.abs), 1e-12);
      const dots = values.map((x, place) => svg("circle", {
        cx: 6 + (588 * (place + 0.5)) / values.length, cy: Number.isFinite(x) ? 40 - (34 * x) / most : 40, r: 2.5,
      }));
      const title = `${Site.metrics[name]?.title ?? name} ${what}`;
      const picture = svg("svg", { viewBox: "0 0 600 80", class: "dots", role: "img",
        "aria-label": `${title}: ${values.length} values within ${most.toPrecision(3)} of ${v}` },
      svg("line", { x1: 0, x2: 600, y1: 40, y2: 40 }), ...dots);
      return el("details", {}, el("summary", {}, `${title}: ${values.length} values within ±${most.toPrecision(3)} of ${v}`),
        picture, el("p", { class: "numbers" }, values.map((x) => (v + x).toPrecision(9)).join(", ")));
    });
  }

  Site.arrived = (record) => {
    const { facts } = record;
    const own = (key) => /^(spec|run_id|seeds|num_images|nfe|nfe_guide|protocol|format|created)/.test(key);
    const hashes = (key) => /^(reference|detectors|images|converged)/.test(key);
    const machine = (key) => key.startsWith("environment");
    const main = document.getElementById("main");
    document.body.prepend(
      el("a", { class: "skip", href: "#main" }, "To the content"),
      el("header", {}, el("nav", { "aria-label": "Site" }, el("a", { href: `${Site.root}index.html` }, "Overview"), " ",
        el("a", { href: `${Site.root}compare.html#a=${encodeURIComponent(record.id)}` }, "Compare this record"))));
    const images = facts.num_images.toLocaleString("en");
    const cost = facts["spec.model.name"] === undefined ? ""
      : `, ${facts.nfe}${facts.nfe_guide ? `+${facts.nfe_guide}` : ""} network evaluations an image`;
    main.append(
      el("p", {}, `${facts.run_id}: ${images} images${facts.seeds ? `, seeds ${facts.seeds}` : ""}${cost}.`),
      metrics(record),
      section("Samples", samples(record)),
      section("Reproduce", commands(record)),
      section("Where it comes from", provenance(record)),
      section("Settings", settings(record, "Every setting of the run", own)),
      section("Hashes", settings(record, "Reference, detectors and images", hashes)),
      section("Machine and versions", settings(record, "Where and with what it ran", machine),
        record.blocks ? el("p", {}, `${record.blocks[0]} blocks were timed: median ${record.blocks[1]} s, from ${record.blocks[2]} to ${record.blocks[3]} s.`) : null),
      section("Replicates", el("p", {}, "The values from which the standard errors are computed."),
        Object.entries(record.metrics).map(([name, metric]) => replicates(name, metric))));
  };
})();
