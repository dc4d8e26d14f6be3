// SPDX-License-Identifier: Apache-2.0
// Sliders show the pair of pictures that is selected, and tables sort.
"use strict";

for (const view of document.querySelectorAll(".view")) {
  const frame = view.querySelector(".frame");
  const slider = view.querySelector("input");
  const select = { left: view.querySelector("select.left"), right: view.querySelector("select.right") };
  if (!slider) continue;

  const show = () => {
    for (const side of ["left", "right"]) {
      const index = select[side].selectedIndex;
      frame.querySelectorAll("img").forEach((picture, i) => picture.classList.toggle(side, i === index));
      frame.querySelector(`span.${side}`).textContent = select[side].options[index].text;
    }
  };
  slider.addEventListener("input", () => frame.style.setProperty("--split", `${slider.value}%`));
  select.left.addEventListener("change", show);
  select.right.addEventListener("change", show);
  view.querySelectorAll(".strip button").forEach((button, i) => {
    button.addEventListener("click", () => {
      select.right.selectedIndex = i;
      show();
    });
  });
  frame.style.setProperty("--split", `${slider.value}%`); // browsers remember sliders and choices over a reload
  show();
}

for (const all of document.querySelectorAll(".all-views select")) {
  all.addEventListener("change", () => {
    for (const select of document.querySelectorAll(`.view select.${all.className}`)) {
      const found = [...select.options].findIndex((option) => option.text === all.value);
      if (found < 0) continue;
      select.selectedIndex = found;
      select.dispatchEvent(new Event("change"));
    }
  });
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const descending = heading.ariaSort !== "descending";
    const body = heading.closest("table").tBodies[0];
    const key = (row) => row.cells[heading.cellIndex].dataset;
    const compare = (a, b) =>
      "value" in a && "value" in b ? a.value - b.value : a.text.localeCompare(b.text, undefined, { numeric: true });
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if ("value" in x !== "value" in y) return "value" in x ? -1 : 1; // what was not measured stays below
      return descending ? compare(y, x) : compare(x, y);
    });
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.ariaSort = descending ? "descending" : "ascending";
    body.append(...rows);
  });
}
