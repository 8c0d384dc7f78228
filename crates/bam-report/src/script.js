"use strict";
// The page reads without this. It adds two things: tables that sort, and lines that stand out under the pointer.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  for (const header of table.tHead.querySelectorAll("th:not([data-fixed])")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const column = header.cellIndex;
      const down = header.getAttribute("aria-sort") === "ascending";
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const [p, q] = [parseFloat(x), parseFloat(y)];
        if (Number.isNaN(p) || Number.isNaN(q)) {
          return Number.isNaN(p) - Number.isNaN(q) || x.localeCompare(y);
        }
        return p - q;
      };
      const rows = [...body.rows].sort((a, b) => (down ? compare(b, a) : compare(a, b)));
      table.tHead.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      body.append(...rows);
    });
  }
}
for (const figure of document.querySelectorAll("figure:has([data-run])")) {
  const point = (event) => {
    const run = event.target.closest("[data-run]")?.dataset.run;
    figure.classList.toggle("focused", run !== undefined);
    for (const line of figure.querySelectorAll(".run")) {
      line.classList.toggle("on", line.closest("[data-run]")?.dataset.run === run);
    }
  };
  figure.addEventListener("pointerover", point);
  figure.addEventListener("pointerleave", point);
}
addEventListener("beforeprint", () => document.querySelectorAll("details:not(.config)").forEach((fold) => (fold.open = true)));
