/* What every page has: tables that sort, and buttons that copy. */
"use strict";

const site = {
  /** The numbers of the page. */
  data() {
    return JSON.parse(document.getElementById("data").textContent);
  },

  /** A number with its interval below it, into an element. */
  show(element, value, low, high) {
    element.replaceChildren();
    if (value === null || value === undefined) {
      element.append("–");
      return;
    }
    element.append(value.toFixed(1));
    if (low !== undefined && low !== null) site.small(element, `${low.toFixed(1)}–${high.toFixed(1)}`);
  },

  /** A line in small print, into an element. */
  small(element, text) {
    const small = document.createElement("small");
    small.textContent = text;
    element.append(small);
  },

  /** Sort a table by the column that its head says, missing values and doubtful rows last. */
  sort(table) {
    const heads = [...table.tHead.rows[0].cells];
    const column = heads.findIndex((head) => head.hasAttribute("aria-sort"));
    if (column < 0) return;
    const sign = heads[column].getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const numeric = heads[column].matches(".number, [data-numeric]");
    const key = (row) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent.trim();
      return numeric ? (text === "" ? NaN : Number(text)) : text;
    };
    const order = (a, b) => {
      const doubt = a.classList.contains("doubtful") - b.classList.contains("doubtful");
      if (doubt) return doubt;
      const [first, second] = [key(a), key(b)];
      if (!numeric) return sign * first.localeCompare(second, "en", { numeric: true });
      if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) - Number.isNaN(second);
      return sign * (first - second);
    };
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(order));
  },

  /**
   * Keep what is chosen in the address, so that a view can be linked: #attack=pgd-20&sort=-n.
   * @param {() => object} get what is chosen, as texts by key.
   * @param {(chosen: object) => void} set chooses it; what a page does not have it passes over.
   * @returns {() => void} to be called when a choice was made.
   */
  follow(get, set) {
    const usual = get();
    const read = () => {
      const said = [...new URLSearchParams(location.hash.slice(1))].filter(([key]) => key in usual);
      if (said.length) set({ ...usual, ...Object.fromEntries(said) });
    };
    addEventListener("hashchange", read);
    read();
    return () => {
      const chosen = Object.entries(get()).filter(([key, value]) => value !== usual[key]);
      const address = `#${new URLSearchParams(chosen)}`;
      if (chosen.length || location.hash) history.replaceState(null, "", address);
    };
  },

  /** Choose an option of a list, if it has it. */
  option(list, value) {
    if ([...list.options].some((option) => option.value === value)) list.value = value;
  },
};

for (const table of document.querySelectorAll("table.sortable")) {
  table.classList.add("ready");
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const head = button.closest("th");
    const before = head.getAttribute("aria-sort");
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    const first = button.dataset.first ?? "ascending";
    const turned = before === "ascending" ? "descending" : "ascending";
    head.setAttribute("aria-sort", before ? turned : first);
    site.sort(table);
    table.dispatchEvent(new Event("sorted"));
  });
}

for (const button of document.querySelectorAll("[data-copies]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
