"use strict";

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
