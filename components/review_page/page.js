"use strict";

// A cell sorts by its figure where it has one, else by its text; cells without a figure stay last in either direction.
function key(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value;
  if (value === undefined) return cell.textContent.trim();
  return value === "" ? null : Number(value);
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b);
}

function sort(table, header) {
  const direction = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [key(row, header.cellIndex), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * compare(a, b);
  });
  body.append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(table, header));
  }
}

// The slider reads the table of thresholds, taken as it stands before a person sorts it.
const slider = document.getElementById("threshold");
const points = [...document.querySelectorAll("#threshold-table tbody tr")].map((row) =>
  [...row.cells].map((cell) => cell.textContent)
);

const asked = document.getElementById("asked");

function ofAnswers(index) {
  const [, rows, coverage, accuracy, errors] = points[index];
  if (rows === "0") return "No row is answered.";
  return `${rows} rows are answered (${coverage}), with an accuracy of ${accuracy}: ${errors} wrong answers.`;
}

function ofClass(option, index) {
  const [hits, alarms] = ["hits", "alarms"].map((name) => Number(option.dataset[name].split(" ")[index]));
  const rows = Number(option.dataset.rows);
  if (hits + alarms === 0) return "No row is called so.";
  const precision = (hits / (hits + alarms)).toFixed(3);
  const recall = rows ? `recall ${(hits / rows).toFixed(3)}` : "no test row has this label";
  const f1 = ((2 * hits) / (hits + alarms + rows)).toFixed(3);
  return `${hits + alarms} rows are called so: precision ${precision}, ${recall}, F1 ${f1}; ${alarms} false alarms, ${rows - hits} missed.`;
}

function show() {
  const option = asked.selectedOptions[0];
  const [threshold] = points[slider.value];
  document.getElementById("threshold-value").textContent = threshold;
  slider.setAttribute("aria-valuetext", threshold);
  document.getElementById("kept").textContent = option.value ? ofClass(option, slider.value) : ofAnswers(slider.value);
}

slider.addEventListener("input", show);
asked.addEventListener("input", show);
document.getElementById("explorer").hidden = false;
show();
