// Two records side by side: differences, verdicts, settings that differ, and the same seeds.
"use strict";

(() => {
  const { el } = Site;
  const byId = (id) => document.getElementById(id);
  const shownP = (p) => (Number.isNaN(p) ? "–" : p < 1e-4 ? "< 0.0001" : p.toFixed(4));

  function gap([value, error]) {
    const small = error > 0 && error < 1e-5;
    const sign = value < 0 ? "" : "+";
    return small ? `${sign}${value.toExponential(1)} ± ${error.toExponential(1)}` : Site.rounded(value, error, "+");
  }

  function metricsTable(found) {
    const headers = ["metric", "record", "baseline", "Δ", "Δ / baseline", "z", "p", ...(found.several ? ["p (Holm)"] : []), "verdict", "pairing"];
    const rows = found.rows.map((row) => {
      const [value, error] = row.difference;
      const z = error === 0 ? (value === 0 ? 0 : Math.sign(value) * Infinity) : value / error;
      const { title, lower } = Site.metrics[row.name];
      const change = row.y.value > 2 * row.y.error ? `${value < 0 ? "" : "+"}${((100 * value) / row.y.value).toFixed(1)}%` : "–";
      return [`${title} (${lower ? "lower" : "higher"} is better)`, Site.rounded(row.x.value, row.x.error), Site.rounded(row.y.value, row.y.error),
        gap(row.difference), change, Number.isNaN(z) ? "–" : `${z < 0 ? "" : "+"}${z.toFixed(1)}`, shownP(row.p),
        ...(found.several ? [shownP(row.pHolm)] : []), row.verdict, row.lack ? `unpaired: ${row.lack}` : "paired"];
    });
    return Site.table("Differences: record minus baseline, each with one standard error", headers, rows, "compared");
  }

  function rulesText(found) {
    const { resolved, level, seedsOnly } = Site.rules;
    const how = found.several
      ? `p (Holm) is corrected for the ${found.rows.filter((row) => !Number.isNaN(row.p)).length} metrics of this table; better and worse are those below ${level.toFixed(4)}`
      : `better and worse are those with p below ${level.toFixed(4)}`;
    return `± is one jackknife standard error; ${how} (${resolved} standard errors of one comparison). ${seedsOnly}`;
  }

  function settings(a, b) {
    const keys = [...new Set([...Object.keys(a.facts), ...Object.keys(b.facts)])].filter((key) => !key.startsWith("facts."));
    const text = (record, key) => (key in record.facts ? Site.text(record.facts[key]) : "–");
    const rows = keys.map((key) => [key.replace(/^spec\./, ""), text(a, key), text(b, key)]).filter(([, x, y]) => x !== y);
    return rows.length ? Site.table("Settings and facts in which the two differ", ["name", "record", "baseline"], rows, "settings")
      : el("p", {}, "The two have the same settings.");
  }

  function samples(a, b) {
    if (!a.strip || !b.strip) return el("p", {}, "No images of both records are kept here.");
    if (a.strip[1] !== b.strip[1] || a.strip[2] !== b.strip[2]) return el("p", {}, "Their images are of different sizes.");
    const tiles = Site.tiles([a, b]);
    if (!tiles.length) return el("p", {}, "The images that are kept have no seed in common.");
    const box = el("div", { class: "tiles two", "data-mode": "side" }, tiles);
    const cut = el("input", { id: "cut", type: "range", min: "0", max: "100", value: "50", disabled: true,
      oninput: () => box.style.setProperty("--cut", `${cut.value}%`) });
    const mode = el("select", { id: "mode", onchange: () => {
      box.dataset.mode = mode.value;
      cut.disabled = mode.value !== "slider";
    } }, [["side", "side by side"], ["slider", "slider"], ["difference", "difference image"]].map(([value, text]) =>
      el("option", { value }, text)));
    return [el("p", {}, "The record above or left, the baseline below or right; a seed starts both from the same noise. Where the difference image is black they are equal."),
      el("div", { class: "filters" }, el("label", {}, "Show ", mode), el("label", {}, "Part of the baseline ", cut)), box];
  }

  function show(a, b) {
    const found = Statistics.compare(a, b, Site.metrics, Site.rules);
    const link = (record) => el("a", { href: Site.href(record.id) }, record.name);
    const parts = [el("h2", {}, link(a), " against ", link(b))];
    if (found.problem) parts.push(el("p", { class: "note" }, `They cannot be compared: ${found.problem}.`));
    else parts.push(metricsTable(found), el("p", {}, rulesText(found)));
    if (found.rows.some((row) => row.lack)) {
      parts.push(el("p", { class: "note" }, "Unpaired differences add the errors of both records, as of independent images; records of the same seeds are paired, which is surer."));
    }
    parts.push(el("section", { "aria-label": "The same seeds" }, el("h2", {}, "The same seeds"), samples(a, b)),
      el("section", { "aria-label": "Settings" }, el("h2", {}, "What differs"), settings(a, b)));
    byId("result").replaceChildren(...parts);
    byId("result").dataset.ready = `${a.id} ${b.id}`;
  }

  function fill(select, chosen) {
    const wanted = byId("text").value.toLowerCase();
    const rows = Site.rows.filter((row) => row.id === chosen || Site.title(row).toLowerCase().includes(wanted));
    select.replaceChildren(...rows.map((row) => el("option", { value: row.id, selected: row.id === chosen }, Site.title(row))));
  }

  async function update() {
    const [a, b] = [byId("a").value, byId("b").value];
    history.replaceState(null, "", `#a=${encodeURIComponent(a)}&b=${encodeURIComponent(b)}`);
    try {
      show(...await Promise.all([Site.load(a), Site.load(b)]));
    } catch (error) {
      byId("result").replaceChildren(el("p", { class: "note" }, error.message));
    }
  }

  Site.start = () => {
    const read = () => {
      const wanted = new URLSearchParams(location.hash.slice(1));
      const there = (id) => Site.rows.some((row) => row.id === id);
      const a = there(wanted.get("a")) ? wanted.get("a") : Site.rows[0].id;
      const board = Site.rows.find((row) => row.id === a).board;
      const other = Site.rows.find((row) => row.id !== a && row.board === board) ?? Site.rows[0];
      fill(byId("a"), a);
      fill(byId("b"), there(wanted.get("b")) ? wanted.get("b") : other.id);
      update();
    };
    byId("pair").addEventListener("submit", (event) => event.preventDefault());
    byId("a").addEventListener("change", update);
    byId("b").addEventListener("change", update);
    byId("text").addEventListener("input", () => { for (const id of ["a", "b"]) fill(byId(id), byId(id).value); });
    byId("swap").addEventListener("click", () => {
      const [a, b] = [byId("a").value, byId("b").value];
      fill(byId("a"), b);
      fill(byId("b"), a);
      update();
    });
    window.addEventListener("hashchange", read);
    read();
  };
})();
