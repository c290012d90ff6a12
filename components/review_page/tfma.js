"use strict";

const payload = JSON.parse(document.getElementById("payload").textContent);

function fill(element, found) {
  // The components rewrite what they are given.
  const data = structuredClone(found.data);
  if (element.localName === "fairness-nb-container") {
    element.weightColumn = "example_count";
    element.slicingMetrics = data;
  } else {
    element.config = found.config;
    element.data = data;
  }
}

for (const element of document.querySelectorAll("[data-part]")) {
  const part = payload[element.dataset.part];
  fill(element, Array.isArray(part) ? part[element.dataset.index] : part);
}

for (const choice of document.querySelectorAll("select[data-for]")) {
  const part = choice.dataset.for;
  const element = document.querySelector(`[data-part="${part}"]`);
  choice.addEventListener("input", () => fill(element, payload[part][choice.value]));
}
