// Without this script everything can be read; with it, columns of the class table can be sorted.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column], data = cell.querySelector("data");
    return data ? Number(data.value) : cell.querySelector(".undefined") ? NaN : cell.textContent;
  };
  const compare = (a, b) => typeof a === "string" ? a.localeCompare(b, undefined, {numeric: true}) : a - b;
  const hint = document.createElement("span");
  hint.className = "hint";
  hint.textContent = " Click on a heading to sort.";
  table.caption.append(hint);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.ariaSort === "ascending" || (head.ariaSort === null && head.classList.contains("number"));
      const keyed = [...body.rows].map(row => [value(row, column), row]);
      keyed.sort(([a], [b]) =>
        Number.isNaN(a) || Number.isNaN(b) ? Number.isNaN(a) - Number.isNaN(b) : down ? compare(b, a) : compare(a, b));
      body.append(...keyed.map(([, row]) => row));
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.ariaSort = down ? "descending" : "ascending";
    });
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
