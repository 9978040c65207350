// The overview: a leaderboard and a figure for each track, with filters.
"use strict";

(() => {
  const { el, svg } = Site;
  const SHOWN = 50; // rows of a leaderboard before the button that shows all
  const COLORS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "ink"];
  const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "cross", "star"];
  const ABSCISSAS = { cost: "network evaluations an image", steps: "steps", seconds: "seconds of one worker for 1000 images" };
  const FILTERS = ["solver", "guidance", "correction"];
  const chosen = new Set();
  const byId = (id) => document.getElementById(id);
  const metricTitle = (name) => Site.metrics[name]?.title ?? name;
  const value = (row, name) => (row.metrics[name] ? Site.number(row.metrics[name][0]) : NaN);
  const error = (row, name) => (row.metrics[name] ? Site.number(row.metrics[name][1]) : NaN);
  const isLower = (name) => Site.metrics[name]?.lower !== false;
  const cost = (row) => (row.nfe === null ? NaN : row.nfe + row.nfe_guide);

  function wanted(row) {
    const most = parseFloat(byId("cost").value);
    const text = byId("text").value.trim().toLowerCase();
    return FILTERS.every((name) => !byId(name).value || row[name] === byId(name).value)
      && !(cost(row) > most) && (Number.isNaN(most) || !Number.isNaN(cost(row)))
      && text.split(/\s+/).every((word) => row.search.includes(word));
  }

  // A dot with its error bar on the common scale of the leaderboard.
  function bar(row, name, scale) {
    const [v, e] = [value(row, name), error(row, name)];
    if (!Number.isFinite(v)) return null;
    const at = (x) => 3 + 94 * Math.min(1, Math.max(0, scale(x)));
    const error_ = Number.isFinite(e) ? e : 0;
    return svg("svg", { viewBox: "0 0 100 12", class: "bar", "aria-hidden": "true", preserveAspectRatio: "none" },
      svg("line", { x1: at(v - error_), x2: at(v + error_), y1: 6, y2: 6 }), svg("circle", { cx: at(v), cy: 6, r: 2.5 }));
  }

  function scaleOf(rows, name) {
    const values = rows.map((row) => value(row, name)).filter(Number.isFinite);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    if (low > 0 && high > 20 * low) {
      const [a, b] = [Math.log(low), Math.log(high)];
      return (x) => (x > 0 ? (Math.log(x) - a) / (b - a || 1) : 0);
    }
    return (x) => (x - low) / (high - low || 1);
  }

  class Board {
    constructor(board, number) {
      Object.assign(this, board);
      this.rows = Site.rows.filter((row) => row.board === number);
      this.metric = this.metrics[0];
      this.sort = { key: "metric", up: isLower(this.metric) };
      this.all = false;
      this.figure = null;
      const options = (names, title) => names.map((name) => el("option", { value: name }, title(name)));
      const of = (what) => el("span", { class: "hidden" }, ` of ${this.title}`, what);
      this.metricSelect = el("select", { onchange: () => { this.metric = this.metricSelect.value; this.sort = { key: "metric", up: isLower(this.metric) }; this.logs(); this.show(); } }, options(this.metrics, metricTitle));
      this.abscissa = el("select", { onchange: () => this.show() }, options(Object.keys(ABSCISSAS), (name) => ABSCISSAS[name]));
      this.logX = el("input", { type: "checkbox", onchange: () => this.show() });
      this.logY = el("input", { type: "checkbox", onchange: () => this.show() });
      this.place = el("div", {});
      this.plot = el("div", { class: "figures" });
      this.node = el("section", { id: this.id, class: "board", "aria-labelledby": `${this.id}-title` },
        el("h3", { id: `${this.id}-title` }, this.title),
        el("div", { class: "filters" }, el("label", {}, "Metric", of(""), " ", this.metricSelect),
          el("label", {}, "against", of(""), " ", this.abscissa),
          el("label", {}, this.logX, " logarithmic abscissa", of("")), el("label", {}, this.logY, " logarithmic metric", of(""))),
        this.plot, this.place);
      this.logs();
      // A figure is drawn when somebody looks at it: a site may have a hundred leaderboards.
      this.watch = new IntersectionObserver((seen) => {
        if (!seen.some((each) => each.isIntersecting)) return;
        this.watch.disconnect();
        this.seen = true;
        this.show();
      }, { rootMargin: "600px" });
      this.watch.observe(this.node);
    }

    // An error of the solver falls as a power of the number of evaluations: both axes are logarithmic then.
    logs() {
      const convergence = this.metric.startsWith("solver_error");
      const values = this.rows.map((row) => value(row, this.metric)).filter(Number.isFinite);
      const [low, high] = [Math.min(...values), Math.max(...values)];
      this.logX.checked = convergence;
      this.logY.checked = low > 0 && (convergence || high > 20 * low);
    }

    key(row) {
      const { key } = this.sort;
      if (key === "metric") return value(row, this.metric);
      return key === "cost" ? cost(row) : key in row ? row[key] : value(row, key);
    }

    sorted() {
      const way = this.sort.up ? 1 : -1;
      const missing = (x) => x === null || Number.isNaN(x);
      return this.rows.filter(wanted).sort((a, b) => {
        const [x, y] = [this.key(a), this.key(b)];
        if (missing(x) || missing(y)) return missing(x) - missing(y);
        return way * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y);
      });
    }

    header(key, title, up, left = false) {
      const is = this.sort.key === key;
      const press = () => {
        this.sort = { key, up: is ? !this.sort.up : up };
        this.show();
        this.place.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
      };
      const arrow = is ? (this.sort.up ? " ▲" : " ▼") : "";
      return el("th", { scope: "col", class: left ? "left" : null, "aria-sort": is ? (this.sort.up ? "ascending" : "descending") : null },
        el("button", { type: "button", "data-key": key, onclick: press }, title, el("span", { "aria-hidden": "true" }, arrow)));
    }

    show() {
      const rows = this.sorted();
      this.table(rows);
      if (this.seen) this.draw(rows);
      return rows.length;
    }

    table(rows) {
      const others = this.metrics.filter((name) => name !== this.metric);
      const shown = this.all ? rows : rows.slice(0, SHOWN);
      const scale = scaleOf(rows, this.metric);
      const estimate = (row, name) => (row.metrics[name] ? Site.rounded(value(row, name), error(row, name)) : "–");
      const known = typeof Site.metrics[this.metric]?.lower === "boolean";
      const best = known ? `, ${isLower(this.metric) ? "lower" : "higher"} is better` : "";
      const table = el("table", {},
        el("caption", {}, `${this.title}: ${rows.length} of ${this.rows.length} records; ${metricTitle(this.metric)}${best}, ± one standard error over the choice of seeds`),
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "rank"), this.header("name", "method", true, true), this.header("guidance", "guidance", true, true),
          this.header("steps", "steps", true), this.header("cost", "evaluations", true),
          this.header("metric", metricTitle(this.metric), isLower(this.metric)), el("th", { scope: "col" }, el("span", { class: "hidden" }, "error bar")),
          others.map((name) => this.header(name, metricTitle(name), isLower(name))), this.header("seconds", "s / 1000", true),
          this.header("seeds", "seeds", true), this.header("folder", "folder", true, true), el("th", { scope: "col" }, "compare"))),
        el("tbody", {}, shown.map((row, place) => el("tr", {},
          el("td", {}, String(place + 1)),
          el("th", { scope: "row", class: "left" }, el("a", { href: Site.href(row.id) }, row.name)),
          el("td", { class: "left" }, row.guidance), el("td", {}, row.steps ?? "–"),
          el("td", {}, row.nfe === null ? "–" : row.nfe_guide ? `${row.nfe}+${row.nfe_guide}` : String(row.nfe)),
          el("td", {}, estimate(row, this.metric)), el("td", {}, bar(row, this.metric, scale)),
          others.map((name) => el("td", {}, estimate(row, name))), el("td", {}, row.seconds === null ? "–" : row.seconds.toFixed(1)),
          el("td", {}, row.seeds), el("td", { class: "left" }, row.folder),
          el("td", {}, el("input", { type: "checkbox", value: row.id, checked: chosen.has(row.id), "aria-label": `compare ${Site.title(row)}`, onchange: choose }))))));
      const more = rows.length > shown.length
        ? el("button", { type: "button", onclick: () => { this.all = true; this.show(); } }, `Show all ${rows.length} rows`) : null;
      this.place.replaceChildren(el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": `Leaderboard of ${this.title}` }, table), ...(more ? [more] : []));
    }

    draw(rows) {
      const x = (row) => (this.abscissa.value === "cost" ? cost(row) : row[this.abscissa.value] ?? NaN);
      const points = rows.map((row) => ({ row, x: x(row), y: value(row, this.metric) })).filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y)
        && !(this.logX.checked && p.x <= 0) && !(this.logY.checked && p.y <= 0));
      const groups = new Map();
      for (const point of points) {
        const name = [point.row.solver, point.row.correction === "none" ? "" : point.row.correction].filter(Boolean).join(" with ");
        if (!groups.has(name)) groups.set(name, []);
        groups.get(name).push(point);
      }
      const told = (point) => Site.rounded(point.y, error(point.row, this.metric));
      const series = [...groups].map(([name, members], place) => ({
        name, points: true, color: COLORS[place % COLORS.length], symbol: SYMBOLS[(place + Math.floor(place / COLORS.length)) % SYMBOLS.length],
        x: members.map((p) => p.x), y: members.map((p) => p.y), e: members.map((p) => error(p.row, this.metric)),
        text: members.map(told), names: members.map((p) => `${p.row.name}, ${p.row.guidance}`), href: members.map((p) => Site.href(p.row.id)),
      }));
      const front = frontier(points, isLower(this.metric));
      if (front.length > 1) {
        series.push({ name: "Pareto front", lines: true, color: "ink", dash: "dot", x: front.map((p) => p.x), y: front.map((p) => p.y),
          text: front.map(told), names: front.map((p) => `${p.row.name}, ${p.row.guidance}`) });
      }
      const figure = { title: `${metricTitle(this.metric)} against ${ABSCISSAS[this.abscissa.value]}; dotted: the Pareto front, better than all that cost as much or less`,
        x: ABSCISSAS[this.abscissa.value], y: metricTitle(this.metric), logx: this.logX.checked, logy: this.logY.checked, series };
      if (this.figure) Site.figure(figure, this.figure);
      else this.plot.append(this.figure = Site.figure(figure));
    }
  }

  // The points that no other beats at the same or a lower cost.
  function frontier(points, lower) {
    const way = lower ? 1 : -1;
    const found = [];
    for (const point of [...points].sort((a, b) => a.x - b.x || way * (a.y - b.y))) {
      if (!found.length || way * (point.y - found.at(-1).y) < 0) found.push(point);
    }
    return found;
  }

  function choose(event) {
    if (event.target.checked) chosen.add(event.target.value);
    else chosen.delete(event.target.value);
    const box = byId("chosen");
    const ids = [...chosen];
    box.hidden = ids.length === 0;
    const clear = el("button", { type: "button", onclick: () => {
      chosen.clear();
      box.hidden = true;
      for (const input of document.querySelectorAll("td input:checked")) input.checked = false;
    } }, "Clear");
    const last = ids.slice(-2);
    box.replaceChildren(ids.length < 2 ? "One record is chosen; choose another to compare. "
      : el("a", { href: `compare.html#a=${encodeURIComponent(last[1])}&b=${encodeURIComponent(last[0])}` }, "Compare the two records chosen last"), " ", clear);
  }

  Site.start = () => {
    for (const row of Site.rows) row.search = Site.title(row).toLowerCase();
    for (const name of FILTERS) {
      const values = [...new Set(Site.rows.map((row) => row[name]))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      byId(name).append(...values.map((text) => el("option", { value: text }, text)));
    }
    const boards = Site.boards.map((board, number) => new Board(board, number));
    byId("places").append(...boards.map((board) => board.node));
    const update = () => {
      const number = boards.reduce((total, board) => total + board.show(), 0);
      byId("count").textContent = `${number} of ${Site.rows.length} records`;
    };
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("filters").addEventListener("input", update);
    byId("filters").addEventListener("reset", () => setTimeout(update));
    update();
    document.body.dataset.ready = "true";
  };
})();
