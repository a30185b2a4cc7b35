"use strict";
// Show and hide levels, sort tables, read values off the curves. The page is whole without it.
(() => {
  const filter = document.getElementById("filter");
  if (filter) {
    filter.hidden = false;
    filter.addEventListener("change", (event) => {
      for (const element of document.querySelectorAll("[data-level]")) {
        if (element.dataset.level === event.target.value) element.toggleAttribute("hidden", !event.target.checked);
      }
    });
  }

  const compared = (a, b) => {
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const difference = Number(a) - Number(b);
    return Number.isNaN(difference) ? a.localeCompare(b, document.documentElement.lang) : difference;
  };
  const sort = (table, heading) => {
    const column = heading.cellIndex;
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const known = (row) => row.cells[column].dataset.value;
    const rows = [...body.rows].sort((a, b) => {
      const missing = known(a) === undefined || known(b) === undefined;
      return compared(known(a), known(b)) * (down && !missing ? -1 : 1);
    });
    body.append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const heading of table.tHead.rows[0].cells) {
      const button = document.createElement("button");
      button.type = "button";
      button.title = document.body.dataset.sortLabel;
      button.append(...heading.childNodes);
      heading.append(button);
      button.addEventListener("click", () => sort(table, heading));
    }
  }

  const tip = document.getElementById("tip");
  const charts = document.querySelectorAll("figure > svg");
  document.getElementById("hint").hidden = charts.length === 0;
  let near = null;
  const leave = () => {
    if (near) near.classList.remove("near");
    near = null;
    tip.hidden = true;
  };
  const hover = (svg, event) => {
    const matrix = svg.getScreenCTM();
    const distance = (circle) => Math.hypot(
      circle.cx.baseVal.value * matrix.a + matrix.e - event.clientX,
      circle.cy.baseVal.value * matrix.d + matrix.f - event.clientY);
    let found = null;
    for (const circle of svg.querySelectorAll(".curve:not([hidden]) circle")) {
      if (!found || distance(circle) < distance(found)) found = circle;
    }
    leave();
    if (!found || distance(found) > 60) return;
    near = found;
    near.classList.add("near");
    tip.textContent = near.querySelector("title").textContent;
    tip.hidden = false;
    const left = Math.min(event.clientX + 12, document.documentElement.clientWidth - tip.offsetWidth - 4);
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${Math.max(4, event.clientY - tip.offsetHeight - 10)}px`;
  };
  for (const svg of charts) {
    svg.addEventListener("pointermove", (event) => hover(svg, event));
    svg.addEventListener("pointerleave", leave);
  }
})();
