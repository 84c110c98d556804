/* Charts stand in the page as SVG; this chooses what is seen of them, and says what is pointed at. */
"use strict";

class Chart {
  constructor(box) {
    this.box = box;
    this.place = [0, -1];
    box.addEventListener("pointerover", (event) => this.say(event.target.closest(".mark")));
    box.addEventListener("click", (event) => {
      const mark = event.target.closest(".mark");
      this.say(mark);
      if (mark?.dataset.lam) this.onpick?.(Number(mark.dataset.lam));
    });
    box.addEventListener("keydown", (event) => this.step(event));
  }

  get view() {
    return this.box.querySelector(".view:not([hidden])");
  }

  /** Show one of the plots, and of its curves those whose key is let through. */
  show(plot, lets = () => true) {
    for (const view of this.box.querySelectorAll(".view")) {
      view.toggleAttribute("hidden", view.dataset.plot !== plot);
    }
    for (const part of this.view.querySelectorAll("[data-curve]")) {
      part.toggleAttribute("hidden", !lets(part.dataset.curve));
    }
  }

  /** Bring a curve to the front, with a ring at one of its points. */
  choose(key, lam) {
    for (const curve of this.view.querySelectorAll(".curve")) {
      const chosen = curve.dataset.curve === key;
      curve.classList.toggle("chosen", chosen);
      if (chosen) curve.parentNode.append(curve);
      for (const mark of curve.querySelectorAll(".mark")) {
        mark.classList.toggle("here", chosen && Number(mark.dataset.lam) === lam);
      }
    }
    this.view.querySelector(".plot > svg").classList.add("choosing");
  }

  /** Go from point to point by keys: left and right along a curve, up and down between curves. */
  step(event) {
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    const curves = [...this.view.querySelectorAll(".curve:not([hidden])")];
    if (!curves.length) return;
    const row = Math.min(Math.max(this.place[0] + move[0], 0), curves.length - 1);
    const marks = curves[row].querySelectorAll(".mark");
    const column = Math.min(Math.max(this.place[1] + move[1], 0), marks.length - 1);
    this.place = [row, column];
    this.say(marks[column]);
  }

  say(mark) {
    if (!mark) return;
    for (const other of this.box.querySelectorAll(".near")) other.classList.remove("near");
    mark.classList.add("near");
    mark.closest(".curve").classList.add("near");
    document.getElementById(`${this.box.id}-says`).textContent = mark.querySelector("title").textContent;
  }
}

for (const box of document.querySelectorAll(".chart.plain")) new Chart(box);
