/* The page of a model. */
"use strict";

const data = site.data();
const names = new Map(data.names);
const control = (id) => document.getElementById(id);
const slider = control("lambda");

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
  control("examples-at").textContent = `at lambda ${point.lam}${width}`;
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
  chart.draw();
}

function traces(theme) {
  const width = data.widths[place()].width;
  const drawn = data.names.filter(([name]) => points().some((point) => point.ra[name])).map(([name, title], at) => {
    const whole = points().filter((point) => point.ra[name]);
    const chosen = name === attack();
    const colour = name === "worst" ? theme.text : theme.colours[at % theme.colours.length];
    return {
      type: "scatter",
      mode: "lines+markers",
      name: name === "worst" ? "worst case" : literal(title, 36),
      x: whole.map((point) => point.sa[0]),
      y: whole.map((point) => point.ra[name][0]),
      text: whole.map((point) => hover(title, point, point.ra[name], width, title)),
      customdata: whole.map((point) => point.lam),
      hovertemplate: "%{text}<extra></extra>",
      opacity: chosen ? 1 : 0.45,
      line: { color: colour, width: chosen ? 3 : 1.25 },
      marker: { color: colour, size: chosen ? 9 : 6, symbol: MARKERS[at % MARKERS.length] },
      error_x: chosen ? arms(whole.map((point) => point.sa), colour) : undefined,
      error_y: chosen ? arms(whole.map((point) => point.ra[name]), colour) : undefined,
    };
  });
  const ra = here().ra[attack()];
  drawn.push({
    type: "scatter",
    mode: "markers",
    name: `lambda ${here().lam}`,
    x: ra ? [here().sa[0]] : [],
    y: ra ? [ra[0]] : [],
    hoverinfo: "skip",
    showlegend: false,
    marker: { color: "rgba(0,0,0,0)", size: 22, line: { color: theme.text, width: 3 } },
  });
  return drawn;
}

const chart = new Chart(control("chart"), traces);
chart.onpick = (lam) => { fit(lam); lambda = lam; show(); };
control("controls").hidden = false;
control("slider").hidden = false;
control("controls").addEventListener("submit", (event) => event.preventDefault());
control("attack").addEventListener("input", show);
let lambda = 0;
control("width")?.addEventListener("input", () => { fit(lambda); show(); });
slider.addEventListener("input", () => { lambda = here().lam; show(); });
fit(0);
show();
