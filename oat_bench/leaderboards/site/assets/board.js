/* The page of a data set and threat model. */
"use strict";

const data = site.data();
const names = new Map(data.names);
const table = document.getElementById("models");
const rows = [...table.tBodies[0].rows];
const control = (id) => document.getElementById(id);
const places = new Map(rows.map((row) => [Number(row.dataset.row), row]));

/** RA that a frontier offers at an SA: between Pareto-optimal points one of the two is drawn. */
function robustnessAt(sa, points) {
  const beats = (a, b) => a[0] >= b[0] && a[1] >= b[1] && (a[0] > b[0] || a[1] > b[1]);
  const best = points.filter((b) => !points.some((a) => beats(a, b))).sort((a, b) => a[0] - b[0]);
  const above = best.findIndex((point) => point[0] >= sa);
  if (above < 0) return null;
  if (above === 0) return best[0][1];
  const [low, high] = [best[above - 1], best[above]];
  return low[1] + ((high[1] - low[1]) * (sa - low[0])) / (high[0] - low[0]);
}

function set(row, cell, value) {
  const found = row.querySelector(`[data-cell="${cell}"]`);
  if (value !== undefined) found.dataset.value = value ?? "";
  return found;
}

/** Write what depends on the attack and the required SA. */
function fill() {
  const attack = control("attack").value;
  const required = control("required").valueAsNumber;
  control("required-shown").textContent = Number.isNaN(required) ? "?" : String(required);
  for (const [place, row] of places) {
    const { points, scores } = data.rows[place];
    const score = scores[attack];
    const at = points.map((point) => [point.sa, score.compares ? point.ra[attack] : undefined]);
    const whole = at.every(([, ra]) => ra);
    set(row, "rank", score.rank).textContent = score.rank ?? "–";
    set(row, "remark").textContent = score.remark;
    set(row, "doubts").textContent = score.doubts;
    row.querySelector(".doubt").hidden = !score.doubts;
    row.classList.toggle("doubtful", Boolean(score.doubts));
    site.show(set(row, "hypervolume", score.hypervolume?.[0]), ...(score.hypervolume ?? []));
    let robust = null;
    if (required === data.required && score.robust) robust = score.robust;
    else if (whole && !Number.isNaN(required)) {
      const value = robustnessAt(required, at.map(([sa, ra]) => [sa[0], ra[0]]));
      robust = value === null ? null : [value];
    }
    site.show(set(row, "robust", robust?.[0]), ...(robust ?? []));
    for (const [cell, point] of [["accurate", points[0]], ["robust-end", points.at(-1)]]) {
      const ra = score.compares ? point.ra[attack] : undefined;
      const value = cell === "accurate" ? point.sa[0] : ra?.[0];
      const small = document.createElement("small");
      small.textContent = `λ ${point.lam}`;
      set(row, cell, value ?? null).replaceChildren(
        `${point.sa[0].toFixed(1)} / ${ra ? ra[0].toFixed(1) : "–"}`, small);
    }
    const n = set(row, "n", score.n);
    n.textContent = score.n;
    if (score.m !== null) {
      const small = document.createElement("small");
      small.textContent = `m ${score.m}`;
      n.append(small);
    }
  }
  site.sort(table);
}

/** Show the rows that the filters let through, and only their curves. */
function filter() {
  const words = control("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const methods = new Set([...document.querySelectorAll("[name=method]:checked")].map((box) => box.value));
  let count = 0;
  for (const [place, row] of places) {
    const { method } = data.rows[place];
    row.hidden = !(methods.has(method) && words.every((word) => row.dataset.text.includes(word))
      && !(control("reliable").checked && row.classList.contains("doubtful")));
    count += !row.hidden;
  }
  control("count").textContent = `${count} of ${places.size} shown`;
}

function traces(theme) {
  const attack = control("attack").value;
  const drawn = [];
  data.rows.forEach(({ label, points, width, scores }, place) => {
    const whole = points.filter((point) => point.ra[attack]);
    if (places.get(place).hidden || !whole.length || !scores[attack].compares) return;
    const doubtful = Boolean(scores[attack].doubts);
    const colour = theme.colours[place % theme.colours.length];
    const shown = control("intervals").checked;
    drawn.push({
      type: "scatter",
      mode: "lines+markers",
      name: literal(doubtful ? `${label} (unreliable)` : label, 36),
      x: whole.map((point) => point.sa[0]),
      y: whole.map((point) => point.ra[attack][0]),
      text: whole.map((point) => hover(label, point, point.ra[attack], width, names.get(attack))),
      customdata: whole.map((point) => point.lam),
      hovertemplate: "%{text}<extra></extra>",
      line: { color: colour, width: 2, dash: doubtful ? "dot" : "solid" },
      marker: { color: colour, size: 9, symbol: MARKERS[place % MARKERS.length] },
      error_x: shown ? arms(whole.map((point) => point.sa), colour) : undefined,
      error_y: shown ? arms(whole.map((point) => point.ra[attack]), colour) : undefined,
    });
  });
  const fixed = data.fixed.filter((point) => typeof point.ra[attack] === "number");
  if (fixed.length) {
    const says = ({ label, network, sa, ra }) =>
      `<b>${literal(label)}</b><br>${literal(network)}<br>SA ${sa.toFixed(1)}, RA ${ra[attack].toFixed(1)}`;
    drawn.push({
      type: "scatter",
      mode: "markers",
      name: "RobustBench",
      x: fixed.map((point) => point.sa),
      y: fixed.map((point) => point.ra[attack]),
      text: fixed.map(says),
      customdata: fixed.map(() => null),
      hovertemplate: "%{text}<extra></extra>",
      marker: { color: theme.soft, size: 7, symbol: "diamond-open" },
    });
  }
  return drawn;
}

const chart = new Chart(control("chart"), traces);
control("controls").hidden = false;
control("controls").addEventListener("submit", (event) => event.preventDefault());
control("controls").addEventListener("input", () => { fill(); filter(); chart.draw(); });
control("intervals").addEventListener("input", () => chart.draw());
fill();
filter();
