// Tables: sorted by a column's button, filtered by words, saved as the CSV that `fairseq-tickets table` prints; links to runs.
function sortTable(table, column, header) {
  const falling = header.getAttribute("aria-sort") === "ascending", body = table.tBodies[0];
  const value = row => row.cells[column].textContent.trim(), number = text => parseFloat(text.replace(/,/g, ""));
  const rows = [...body.rows], numeric = rows.every(row => ["", "-"].includes(value(row)) || !isNaN(number(value(row))));
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    if (!numeric) return x.localeCompare(y, "en", {numeric: true});
    return (isNaN(number(x)) ? -Infinity : number(x)) - (isNaN(number(y)) ? -Infinity : number(y));
  });
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  body.append(...(falling ? rows.reverse() : rows));
}

function filterRows(table, text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let left = 0;
  for (const row of table.tBodies[0].rows) {
    const whole = row.textContent.toLowerCase();
    row.hidden = !words.every(word => whole.includes(word));
    left += !row.hidden;
  }
  return left;
}

for (const header of document.querySelectorAll("table.sortable th"))
  header.firstChild.addEventListener("click", () => sortTable(header.closest("table"), header.cellIndex, header));
for (const input of document.querySelectorAll("[data-filter]"))
  input.addEventListener("input", () => filterRows(document.querySelector(`#${input.dataset.filter} table`), input.value));
for (const button of document.querySelectorAll("[data-csv]"))
  button.addEventListener("click", () => save(`${button.dataset.name}.csv`, "text/csv", DATA.csv[+button.dataset.csv]));

const runTable = document.getElementById("run-table");
if (runTable) {
  const originals = [...runTable.tBodies[0].rows], count = document.getElementById("run-count"), all = document.getElementById("all-runs");
  const filter = document.getElementById("run-filter");
  const tell = left => { count.textContent = left === originals.length ? `${left} runs` : `${left} of ${originals.length} runs`; };
  filter.addEventListener("input", () => { all.hidden = true; tell(filterRows(runTable, filter.value)); });
  all.addEventListener("click", () => { filter.value = ""; all.hidden = true; tell(filterRows(runTable, "")); });
  for (const link of document.querySelectorAll("[data-runs]"))
    link.addEventListener("click", () => {
      const wanted = new Set(link.dataset.runs.trim().split(" ").map(Number));
      originals.forEach((row, number) => { row.hidden = !wanted.has(number); });
      filter.value = "";
      all.hidden = false;
      tell(wanted.size);
    });
  document.getElementById("runs-csv").addEventListener("click", () => {
    const quoted = text => /[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
    const rows = [runTable.tHead.rows[0], ...[...runTable.tBodies[0].rows].filter(row => !row.hidden)];
    save("runs.csv", "text/csv", rows.map(row => [...row.cells].map(cell => quoted(cell.textContent)).join(",") + "\n").join(""));
  });
}
