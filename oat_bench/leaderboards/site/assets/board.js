/* The page of a data set and threat model. */
"use strict";

const data = site.data();
const table = document.getElementById("models");
const rows = [...table.tBodies[0].rows];
const control = (id) => document.getElementById(id);
const boxes = [...document.querySelectorAll("[name=method]")];
const chart = new Chart(control("chart"));
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
  const usual = data.usual[attack];
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
    for (const cell of ["hypervolume", "robust"]) {
      const found = set(row, cell);
      if (found.dataset.value && score.n !== usual) site.small(found, `n ${score.n}`);
    }
    for (const [cell, point] of [["accurate", points[0]], ["robust-end", points.at(-1)]]) {
      const ra = score.compares ? point.ra[attack] : undefined;
      const value = cell === "accurate" ? point.sa[0] : ra?.[0];
      const found = set(row, cell, value ?? null);
      found.replaceChildren(`${point.sa[0].toFixed(1)} / ${ra ? ra[0].toFixed(1) : "–"}`);
      site.small(found, `λ ${point.lam}`);
    }
    const n = set(row, "n", score.n);
    n.textContent = score.n;
    const more = [score.m === null ? "" : `m ${score.m}`, score.clean === score.n ? "" : `SA ${score.clean}`];
    for (const text of more.filter(Boolean)) site.small(n, text);
  }
  site.sort(table);
}

/** Show the rows that the filters let through, and only their curves; RobustBench's points stay. */
function filter() {
  const words = control("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const methods = new Set(boxes.filter((box) => box.checked).map((box) => box.value));
  let count = 0;
  for (const [place, row] of places) {
    const { method } = data.rows[place];
    row.hidden = !(methods.has(method) && words.every((word) => row.dataset.text.includes(word))
      && !(control("reliable").checked && row.classList.contains("doubtful")));
    count += !row.hidden;
  }
  control("count").textContent = `${count} of ${places.size} shown`;
  chart.show(control("attack").value, (key) => !places.get(Number(key))?.hidden);
}

function get() {
  const head = table.tHead.querySelector("[aria-sort]");
  return {
    attack: control("attack").value,
    sa: control("required").value,
    filter: control("filter").value,
    reliable: control("reliable").checked ? "1" : "",
    without: boxes.filter((box) => !box.checked).map((box) => box.value).join(" "),
    sort: (head.getAttribute("aria-sort") === "descending" ? "-" : "") + head.dataset.key,
  };
}

function choose({ attack, sa, filter: words, reliable, without, sort }) {
  site.option(control("attack"), attack);
  control("required").value = sa;
  control("filter").value = words;
  control("reliable").checked = Boolean(reliable);
  const left = without.split(" ");
  for (const box of boxes) box.checked = !left.includes(box.value);
  const heads = [...table.tHead.rows[0].cells];
  const head = heads.find((one) => one.dataset.key === sort.replace("-", ""));
  if (head) {
    for (const other of heads) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", sort.startsWith("-") ? "descending" : "ascending");
  }
  fill();
  filter();
}

control("controls").hidden = false;
control("controls").addEventListener("submit", (event) => event.preventDefault());
fill();
filter();
const told = site.follow(get, choose);
control("controls").addEventListener("input", () => { fill(); filter(); told(); });
table.addEventListener("sorted", told);
