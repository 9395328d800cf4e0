// Sorts a table of the class "sortable" by a column, and filters its rows by a text.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const text = (row, column) => row.cells[column].textContent.trim();
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      let direction = -1;
      head.style.cursor = "pointer";
      head.addEventListener("click", () => {
        direction = -direction;
        const compared = (a, b) => {
          const [x, y] = [text(a, column), text(b, column)];
          const [p, q] = [parseFloat(x), parseFloat(y)];
          if (isNaN(p) !== isNaN(q)) return isNaN(p) ? 1 : -1; // Cells without a figure come last.
          return direction * (isNaN(p) ? x.localeCompare(y) : p - q);
        };
        body.append(...[...body.rows].sort(compared));
      });
    });
    const filter = document.createElement("input");
    filter.type = "search";
    filter.placeholder = "show rows with ...";
    filter.setAttribute("aria-label", "Show rows with this text");
    filter.addEventListener("input", () => {
      const wanted = filter.value.toLowerCase();
      for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    table.before(filter);
  }
});
