// Figures that can be hovered and zoomed, drawn by plotly's bundle in the colours of the page.
"use strict";

(() => {
  const { el } = Site;
  const drawn = new Map();
  const dark = matchMedia("(prefers-color-scheme: dark)");

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  // Plotly itself would write 2 for 20.
  const ticks = [...Array(25).keys()].flatMap((n) => [1, 2, 5].map((digit) => Number(`${digit}e${n - 12}`)));
  const axis = (title, log) => ({
    title: { text: title, standoff: 12 }, gridcolor: color("--line"), zeroline: false,
    linecolor: color("--line"), automargin: true,
    ...(log ? { type: "log", tickmode: "array", tickvals: ticks, ticktext: ticks.map(String) } : {}),
  });

  function layout(figure) {
    return {
      title: { text: "" }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--ink"), family: "system-ui, sans-serif", size: 13 },
      margin: { l: 60, r: 12, t: 8, b: 48 }, hovermode: "closest", height: 420,
      xaxis: axis(figure.x, figure.logx), yaxis: axis(figure.y, figure.logy),
      legend: { orientation: "h", yanchor: "bottom", y: 1.02, x: 0 }, showlegend: figure.series ? figure.series.length > 1 : false,
      annotations: [],
    };
  }

  // Plotly reads some HTML in texts; names are to stay as they are.
  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  function series(each) {
    const ink = each.color === "ink" ? color("--ink") : each.color === "#000000" ? color("--ink") : each.color;
    return {
      type: "scatter", mode: each.lines ? "lines" : each.points ? "markers" : "lines+markers", name: escaped(each.name),
      x: each.x, y: each.y.map(Site.number), customdata: each.href ?? each.x.map(() => ""),
      text: each.text.map((text, place) => escaped(each.names ? `${each.names[place]}: ${text}` : text)),
      hovertemplate: `%{text}<br>%{xaxis.title.text} %{x}<extra>${escaped(each.name)}</extra>`,
      error_y: each.e ? { type: "data", array: each.e.map(Site.number), thickness: 1.2, width: 3, color: ink } : undefined,
      line: { color: ink, dash: each.dash }, marker: { color: ink, symbol: each.symbol, size: 8 },
    };
  }

  function heat(figure) {
    const row = figure.ys.indexOf(figure.best[1]);
    const column = figure.xs.indexOf(figure.best[0]);
    const z = figure.z.map((line) => line.map((value) => (value === null ? null : Site.number(value))));
    return {
      traces: [{
        type: "heatmap", x: figure.xs, y: figure.ys, z, text: figure.text, colorscale: "Viridis", reversescale: figure.lower,
        xtype: "category", hovertemplate: `${escaped(figure.x)} %{x}, ${escaped(figure.y)} %{y}<br>%{text}<extra></extra>`,
      }],
      best: { x: column, y: row, text: "★", showarrow: false, font: { size: 18, color: "#ffffff" } },
    };
  }

  function draw(node, figure) {
    const shown = layout(figure);
    let traces;
    if (figure.kind === "heat") {
      const found = heat(figure);
      traces = found.traces;
      shown.xaxis.type = shown.yaxis.type = "category";
      shown.annotations = [found.best];
    } else {
      traces = figure.series.map(series);
    }
    Plotly.react(node, traces, shown, { displaylogo: false, responsive: true });
    if (!drawn.has(node)) {
      node.on("plotly_click", ({ points: [point] }) => { if (point.customdata) location.href = point.customdata; });
    }
    drawn.set(node, figure);
  }

  // A figure with its caption; the table of the page has the same numbers. Call again with its node to renew it.
  Site.figure = (figure, node = null) => {
    const box = node ?? el("figure", { class: "plot" }, el("figcaption", {}, figure.title), el("div", { class: "canvas", role: "img", "aria-label": `${figure.title}: ${figure.y} against ${figure.x}; the table has the numbers` }));
    box.querySelector("figcaption").textContent = figure.title;
    const canvas = box.querySelector(".canvas");
    if (box.isConnected) draw(canvas, figure);
    else requestAnimationFrame(() => draw(canvas, figure));
    return box;
  };

  const redraw = () => { for (const [node, figure] of drawn) if (node.isConnected) draw(node, figure); };
  dark.addEventListener("change", redraw);
  for (const place of document.querySelectorAll("[data-figures]")) {
    const figures = JSON.parse(document.getElementById(place.dataset.figures).textContent);
    for (const figure of figures) place.append(Site.figure(figure));
  }
})();
