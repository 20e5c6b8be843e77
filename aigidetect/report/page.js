
"use strict";
(() => {
  const body = document.querySelector("#pictures tbody");
  const rows = [...body.rows];
  const heads = [...document.querySelectorAll("#pictures thead th")];
  const name = document.getElementById("name");
  const verdict = document.getElementById("verdict");
  const shown = document.getElementById("shown");
  const viewer = document.getElementById("viewer");
  const collate = new Intl.Collator("en", { numeric: true }).compare;

  const key = (row, column) => {
    const cell = row.cells[column];
    return "key" in cell.dataset ? Number(cell.dataset.key) : cell.textContent;
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : collate(a, b));

  const sort = (head) => {
    const column = heads.indexOf(head);
    const falling = head.getAttribute("aria-sort") === "ascending";
    for (const other of heads) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", falling ? "descending" : "ascending");
    const keyed = rows.map((row) => [key(row, column), row]);
    keyed.sort((a, b) => (falling ? compare(b[0], a[0]) : compare(a[0], b[0])));
    body.append(...keyed.map((pair) => pair[1]));
  };

  const filter = () => {
    const wanted = name.value.toLowerCase();
    let count = 0;
    for (const row of rows) {
      const file = row.querySelector("th").textContent.toLowerCase();
      row.hidden = !file.includes(wanted) || (verdict.value !== "" && row.dataset.verdict !== verdict.value);
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${rows.length} shown`;
  };

  for (const head of heads) head.querySelector("button")?.addEventListener("click", () => sort(head));
  name.addEventListener("input", filter);
  verdict.addEventListener("change", filter);
  body.addEventListener("click", (event) => {
    const button = event.target.closest("button.map");
    if (!button) return;
    const file = button.closest("tr").querySelector("th").textContent;
    const map = document.getElementById("viewer-map");
    map.src = button.dataset.map;
    map.alt = `Heat map of ${file}`;
    document.getElementById("viewer-name").textContent = file;
    viewer.showModal();
  });
  document.getElementById("viewer-close").addEventListener("click", () => viewer.close());

  // A browser keeps what was typed when the page is loaded again.
  filter();
  document.getElementById("controls").hidden = false;
})();
