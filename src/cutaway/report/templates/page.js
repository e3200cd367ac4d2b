"use strict";

// Tables sort by a button in each column head: numbers by data-sort, the rest as text.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    const label = document.createElement("span");
    label.append(...head.childNodes);
    button.append(label);
    head.append(button);
    if (table.tBodies[0].querySelector(`tr > :nth-child(${column + 1}).number`)) head.classList.add("number");
    button.addEventListener("click", () => sort(table, heads, column));
  });
}

function sort(table, heads, column) {
  const rising = heads[column].getAttribute("aria-sort") !== "ascending";
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
  const body = table.tBodies[0];
  const key = (row) => {
    const cell = row.cells[column];
    const number = cell.dataset.sort === undefined || cell.dataset.sort === "" ? NaN : Number(cell.dataset.sort);
    return [number, cell.textContent.trim()];
  };
  const rows = [...body.rows].map((row) => [key(row), row]);
  rows.sort(([[a, text], ], [[b, other], ]) => {
    // Cells without a number stay last in both directions.
    if (Number.isNaN(a) !== Number.isNaN(b)) return Number.isNaN(a) ? 1 : -1;
    const order = Number.isNaN(a) ? text.localeCompare(other) : a - b;
    return rising ? order : -order;
  });
  body.append(...rows.map(([, row]) => row));
}

// Maps: the same view and strength for all on the page. The key m shows and hides them.
const root = document.documentElement;
const forms = [...document.querySelectorAll("form.controls")];
let show = "both";

function view(next) {
  show = next;
  root.classList.toggle("show-film", show === "film");
  root.classList.toggle("show-ground", show === "ground");
  for (const form of forms) form.elements.show.value = show;
}

for (const form of forms) {
  form.hidden = false;
  form.addEventListener("input", () => {
    view(form.elements.show.value);
    const smooth = form.elements.smooth.checked;
    const strength = form.elements.strength.value;
    root.classList.toggle("smooth", smooth);
    for (const film of document.querySelectorAll(".ground ~ .film")) film.style.opacity = strength / 100;
    for (const other of forms) {
      other.elements.smooth.checked = smooth;
      other.elements.strength.value = strength;
    }
  });
  form.addEventListener("submit", (event) => event.preventDefault());
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=radio], [type=checkbox], [type=range]), textarea");
  if (event.key !== "m" || event.ctrlKey || event.metaKey || event.altKey || typing || !forms.length) return;
  view(show === "ground" ? "both" : "ground");
});

// Code can be copied. A page opened as a file may not use the clipboard, so the text is selected as well.
for (const block of document.querySelectorAll(".code")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-label", `Copy the ${block.querySelector(".label").textContent} lines`);
  button.addEventListener("click", async () => {
    const code = block.querySelector("code");
    getSelection().selectAllChildren(code);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2500);
  });
  block.prepend(button);
}

// Paper has no buttons: everything is open in print.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.closed = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-closed]")) {
    details.open = false;
    delete details.dataset.closed;
  }
});
