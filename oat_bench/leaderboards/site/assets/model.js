/* The page of a model. */
"use strict";

const data = site.data();
const control = (id) => document.getElementById(id);
const slider = control("lambda");
const chart = new Chart(control("chart"));
let lambda = 0;

const attack = () => control("attack").value;
const place = () => Number(control("width")?.value ?? 0);
const points = () => data.widths[place()].points;
const here = () => points()[slider.valueAsNumber];

/** Fit the slider to the operating points of a width, at the lambda that is nearest. */
function fit(lam) {
  const all = points();
  slider.max = all.length - 1;
  const far = all.map((point) => Math.abs(point.lam - lam));
  slider.value = far.indexOf(Math.min(...far));
  control("marks").replaceChildren(...all.map((point) => {
    const mark = document.createElement("li");
    mark.textContent = point.lam;
    return mark;
  }));
}

/** Show one operating point everywhere on the page. */
function show() {
  const point = here();
  const ra = point.ra[attack()];
  control("at-lambda").textContent = point.lam + (point.trained ? "" : " *");
  site.show(control("at-sa"), ...point.sa);
  site.show(control("at-ra"), ...(ra ?? []));
  slider.setAttribute("aria-valuetext",
    `lambda ${point.lam}: SA ${point.sa[0].toFixed(1)}, RA ${ra ? ra[0].toFixed(1) : "not measured"}`);
  [...control("marks").children].forEach((mark, at) => mark.classList.toggle("here", at === slider.valueAsNumber));
  for (const row of document.querySelectorAll("tr[data-point]")) {
    const current = Number(row.closest("table").dataset.width) === place() && Number(row.dataset.point) === slider.valueAsNumber;
    current ? row.setAttribute("aria-current", "true") : row.removeAttribute("aria-current");
  }
  const width = data.widths.length > 1 ? `, width ${data.widths[place()].width}` : "";
  if (control("examples-at")) control("examples-at").textContent = `at lambda ${point.lam}${width}`;
  const examples = data.widths[place()].examples?.[slider.valueAsNumber] ?? [];
  examples.forEach(([image, clean, attacked], at) => {
    const card = control("examples").children[at];
    card.querySelector(".attacked").src = image;
    const label = card.querySelector("dl").dataset.label;
    for (const [which, says] of [["clean", clean], ["attacked", attacked]]) {
      const cell = card.querySelector(`[data-says="${which}"]`);
      cell.className = says === label ? "right" : "wrong";
      cell.firstElementChild.textContent = says;
    }
  });
  chart.show(String(place()));
  chart.choose(attack(), point.lam);
}

function choose(chosen) {
  site.option(control("attack"), chosen.attack);
  if (control("width")) site.option(control("width"), chosen.width);
  lambda = Number(chosen.lambda) || 0;
  fit(lambda);
  show();
}

control("controls").hidden = false;
control("slider").hidden = false;
control("controls").addEventListener("submit", (event) => event.preventDefault());
fit(0);
show();
const told = site.follow(
  () => ({ attack: attack(), width: control("width")?.value ?? "", lambda: String(here().lam) }), choose);
chart.onpick = (lam) => { lambda = lam; fit(lam); show(); told(); };
control("attack").addEventListener("input", () => { show(); told(); });
control("width")?.addEventListener("input", () => { fit(lambda); show(); told(); });
slider.addEventListener("input", () => { lambda = here().lam; show(); told(); });
