for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if (!("sort" in head.dataset)) return;
    head.tabIndex = 0;
    const isText = head.dataset.sort === "text";
    const sort = () => {
      const before = head.getAttribute("aria-sort");
      const falls = isText ? before === "ascending" : before !== "descending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", falls ? "descending" : "ascending");
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const sign = falls ? -1 : 1;
      const rows = [...body.rows].sort((a, b) =>
        sign * (isText ? key(a).localeCompare(key(b)) : key(a) - key(b)));
      body.append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
  });
}
