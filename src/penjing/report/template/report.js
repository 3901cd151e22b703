"use strict";
// The page is whole without this: it only lets tables be sorted, and unfolds what is folded for print.
(() => {
  const value = (row, i) => {
    const cell = row.cells[i];
    const number = cell.dataset.sort;
    return number === undefined ? cell.textContent.trim() : Number(number);
  };
  const order = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  const sort = (table, head, i) => {
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [value(a, i), value(b, i)];
      return x === "" || y === "" ? order(x, y) : (down ? -1 : 1) * order(x, y);
    });
    body.append(...rows);
  };
  for (const table of document.querySelectorAll("table")) {
    if (table.tBodies[0].rows.length < 4 || !table.querySelector("[data-sort]")) continue;
    [...table.tHead.rows[0].cells].forEach((head, i) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sort(table, head, i));
      head.append(button);
    });
  }
  addEventListener("beforeprint", () => {
    for (const folded of document.querySelectorAll("details")) folded.open = true;
  });
})();
