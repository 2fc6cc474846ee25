// Tables that are copied as CSV, light and dark, and what a printer wants open.
"use strict";

function csv(table) {
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const told = (cell) => cell.dataset.value ?? cell.textContent.trim();
  return [...table.rows].map((row) => [...row.cells].map((cell) => quoted(told(cell))).join(",") + "\n").join("");
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Of older browsers, and where a page from a file may not ask.
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function watchTables() {
  for (const button of document.querySelectorAll("button.copy")) {
    const named = button.textContent;
    button.addEventListener("click", async () => {
      const text = csv(button.closest(".table").querySelector("table"));
      button.textContent = (await copied(text)) ? "Copied" : "Not copied: select the table by hand";
      setTimeout(() => (button.textContent = named), 2000);
    });
  }
}

function watchPage() {
  document.getElementById("theme").addEventListener("change", (event) => {
    document.documentElement.dataset.theme = event.target.value;
  });
  document.getElementById("print").addEventListener("click", () => window.print());
  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
}

watchTables();
watchPage();
startMap().catch((error) => {
  document.getElementById("readout").textContent = `The map cannot be shown: ${error.message}`;
  throw error;
});
