/* Charts: plotly in the colours of the page, fetched when a chart comes near. */
"use strict";

/* Okabe and Ito's palette without black and yellow; the markers of the figures */
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const DARK_COLOURS = ["#56B4E9", "#FF8A4C", "#2FC79A", "#E6A3C8", "#F0C050", "#9AD0F5"];
const MARKERS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x"];

/** Text as plotly shows it letter by letter: it reads some HTML in what it is given. */
function literal(text, length = 60) {
  const letters = [...text];
  const cut = letters.length > length ? `${letters.slice(0, length - 1).join("")}…` : text;
  return cut.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function accuracy([value, low, high]) {
  return `${value.toFixed(1)} [${low.toFixed(1)}, ${high.toFixed(1)}]`;
}

/** What a point says when it is pointed at. */
function hover(label, point, ra, width, attack) {
  const lines = [`lambda ${point.lam}${point.trained ? "" : " (not trained)"}, width ${width}`];
  lines.push(`SA ${accuracy(point.sa)}, n ${point.sa[3]}`);
  const sample = ra[4] === undefined ? "" : ` (m ${ra[4]})`;
  lines.push(`RA ${accuracy(ra)}, n ${ra[3]}${sample}, ${literal(attack)}`);
  return `<b>${literal(label)}</b><br>${lines.join("<br>")}`;
}

/** Lengths of the intervals' arms, as plotly takes them. */
function arms(accuracies, colour) {
  return {
    type: "data",
    symmetric: false,
    array: accuracies.map(([value, , high]) => Math.max(high - value, 0)),
    arrayminus: accuracies.map(([value, low]) => Math.max(value - low, 0)),
    thickness: 1,
    width: 0,
    color: `${colour}66`,
  };
}

class Chart {
  /**
   * @param {HTMLElement} box where it is drawn.
   * @param {(theme: object) => object[]} traces what is drawn, in the colours of a theme.
   */
  constructor(box, traces) {
    this.box = box;
    this.traces = traces;
    this.ready = false;
    this.place = [0, -1];
    this.printing = false;
    box.querySelector(".wait").textContent = "The chart is loading; its numbers are in the tables.";
    new IntersectionObserver((seen, observer) => {
      if (!seen.some((one) => one.isIntersecting)) return;
      observer.disconnect();
      this.load();
    }, { rootMargin: "800px" }).observe(box);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    addEventListener("beforeprint", () => { this.printing = true; this.draw(); });
    addEventListener("afterprint", () => { this.printing = false; this.draw(); });
    box.addEventListener("keydown", (event) => this.step(event));
  }

  load() {
    const script = document.createElement("script");
    script.src = this.box.dataset.library;
    script.addEventListener("load", () => {
      this.box.replaceChildren();
      this.ready = true;
      this.draw();
      this.box.on("plotly_hover", ({ points: [{ data, pointNumber }] }) => this.say(data, pointNumber));
      this.box.on("plotly_click", ({ points }) => this.onpick?.(points[0].customdata));
    });
    script.addEventListener("error", () => {
      this.box.querySelector(".wait").textContent = "The chart could not be loaded; its numbers are in the tables.";
    });
    document.head.append(script);
  }

  theme() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const dark = !this.printing && matchMedia("(prefers-color-scheme: dark)").matches;
    return {
      colours: dark ? DARK_COLOURS : COLOURS,
      page: this.printing ? "#ffffff" : colour("--page"),
      text: this.printing ? "#000000" : colour("--text"),
      soft: this.printing ? "#444444" : colour("--soft"),
      line: this.printing ? "#bbbbbb" : colour("--line"),
    };
  }

  draw() {
    if (!this.ready) return;
    const theme = this.theme();
    const narrow = this.box.clientWidth < 600;
    const touch = matchMedia("(pointer: coarse)").matches;
    const traces = this.traces(theme);
    const halves = narrow && traces.every(({ name }) => name.length <= 16);
    const axis = { gridcolor: theme.line, linecolor: theme.line, zeroline: false, automargin: true };
    const layout = {
      paper_bgcolor: theme.page,
      plot_bgcolor: theme.page,
      font: { color: theme.text, size: narrow ? 12 : 13, family: getComputedStyle(document.body).fontFamily },
      margin: { l: 56, r: 16, t: 24, b: 48 },
      xaxis: { ...axis, title: { text: "standard accuracy (SA), %" } },
      yaxis: { ...axis, title: { text: narrow ? "RA, %" : "robust accuracy (RA), %" } },
      legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom", ...(halves && { entrywidth: 0.5, entrywidthmode: "fraction" }) },
      hoverlabel: { bgcolor: theme.page, bordercolor: theme.soft, font: { color: theme.text }, align: "left" },
      hovermode: "closest",
      dragmode: touch ? false : "zoom",
      uirevision: "kept",
      showlegend: true,
      // a page of A4 between its margins, at 96 dots an inch
      ...(this.printing ? { width: 680, height: 400 } : { autosize: true }),
    };
    const config = {
      responsive: true,
      displaylogo: false,
      displayModeBar: touch ? false : "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    };
    Plotly.react(this.box, traces, layout, config);
  }

  /** Go from point to point by keys: left and right along a curve, up and down between curves. */
  step(event) {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    const move = moves[event.key];
    if (!this.ready || !move) return;
    event.preventDefault();
    const curves = this.box.data.map((trace, at) => at).filter((at) => this.box.data[at].customdata?.length);
    if (!curves.length) return;
    const row = Math.min(Math.max(this.place[0] + move[0], 0), curves.length - 1);
    const last = this.box.data[curves[row]].x.length - 1;
    const column = Math.min(Math.max(this.place[1] + move[1], 0), last);
    this.place = [row, column];
    Plotly.Fx.hover(this.box, [{ curveNumber: curves[row], pointNumber: column }]);
    this.say(this.box.data[curves[row]], column);
  }

  say(trace, at) {
    const text = trace.text?.[at];
    if (!text) return;
    const plain = new DOMParser().parseFromString(text.replaceAll("<br>", "; "), "text/html");
    document.getElementById(`${this.box.id}-says`).textContent = plain.body.textContent;
  }
}
