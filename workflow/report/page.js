"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const root = document.documentElement;

  // Dark and light: the system decides until the reader does.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const memory = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
    set: (value) => { try { localStorage.setItem("theme", value); } catch { /* A browser may refuse. */ } } };
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const showTheme = () => $("theme").setAttribute("aria-pressed", String(isDark()));
  if (["dark", "light"].includes(memory.get())) root.dataset.theme = memory.get();
  $("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    memory.set(root.dataset.theme);
    showTheme();
  });
  dark.addEventListener("change", showTheme);
  showTheme();

  // One page at a time; the address names it.
  const pages = all(".page"), links = all("nav a"), narrow = matchMedia("(max-width: 56rem)");
  document.body.classList.add("paged");
  const openMenu = () => { $("menu").open = !narrow.matches; };
  const showPage = (move) => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const page = (target && target.closest(".page")) || pages[0];
    for (const one of pages) one.hidden = one !== page;
    for (const link of links) {
      if (link.getAttribute("href") === `#${page.id}`) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (!move) return;
    openMenu();
    if (target && target !== page) target.scrollIntoView();
    else { scrollTo(0, 0); page.querySelector("h1").focus({ preventScroll: true }); }
  };
  addEventListener("hashchange", () => showPage(true));
  narrow.addEventListener("change", openMenu);
  openMenu();
  showPage(false);

  // Sort a table by a column; a second press turns the order.
  const number = (cell) => {
    const text = cell.dataset.value ?? cell.textContent.replace(/,/g, "");
    if (/^\s*∞/.test(text)) return Infinity;
    const found = parseFloat(text);
    return Number.isNaN(found) ? null : found;
  };
  const sortBy = (table, place, header) => {
    const down = header.getAttribute("aria-sort") === "ascending";
    const numeric = all("tbody tr", table).some((row) => row.cells[place]?.matches(".number"));
    const key = (row) => (numeric ? number(row.cells[place]) : row.cells[place].textContent.trim());
    const compare = (one, other) => {
      const [a, b] = [key(one), key(other)];
      // A row without a number is last in both orders.
      if (a === null || b === null) return (a === null) - (b === null);
      const order = numeric ? (a === b ? 0 : a < b ? -1 : 1) : a.localeCompare(b, "en", { numeric: true });
      return down ? -order : order;
    };
    for (const one of all("thead th", table)) one.setAttribute("aria-sort", "none");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    const body = table.tBodies[0];
    body.append(...[...body.rows].sort(compare));
  };
  for (const table of all("table.sortable")) {
    all("thead th", table).forEach((header, place) =>
      header.querySelector("button").addEventListener("click", () => sortBy(table, place, header)));
  }

  // The filters select rows of the table and points of the figure.
  const rows = all("#arms tbody tr"), points = all("#hero .point");
  const rowOf = new Map(rows.map((row) => [row.dataset.arm, row]));
  const value = (id) => ($(id) ? $(id).value : "");
  const filter = () => {
    const [experiment, protects, dataset] = ["experiment", "protects", "dataset"].map(value);
    const words = value("words").toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const shown = (!experiment || row.dataset.experiments.split(" ").includes(experiment))
        && (!protects || row.dataset.protects.split(" ").includes(protects))
        && (!dataset || row.dataset.dataset === dataset)
        && words.every((word) => text.includes(word));
      row.hidden = !shown;
      count += shown;
    }
    for (const point of points) point.toggleAttribute("hidden", rowOf.get(point.dataset.arm).hidden);
    $("count").textContent = `${count} of ${rows.length} arms`;
    hideTip();
  };

  // The values of the points under the pointer, or of the focused one.
  const tip = $("tip");
  const mark = (arms) => {
    for (const one of [...rows, ...points]) one.classList.toggle("lit", arms.includes(one.dataset.arm));
  };
  const hideTip = () => { tip.hidden = true; mark([]); };
  const showTip = (point) => {
    const near = points.filter((one) => !one.hasAttribute("hidden")
      && Math.hypot(one.dataset.x - point.dataset.x, one.dataset.y - point.dataset.y) < 7 && one !== point);
    const shown = [point, ...near];
    tip.replaceChildren(...shown.slice(0, 5).map((one) => {
      const line = document.createElement("p");
      line.textContent = one.getAttribute("aria-label");
      return line;
    }));
    if (shown.length > 5) tip.append(`and ${shown.length - 5} more`);
    tip.hidden = false;
    const area = tip.parentElement.getBoundingClientRect(), box = point.querySelector("path").getBoundingClientRect();
    const left = Math.min(box.right - area.left + 8, area.width - tip.offsetWidth - 4);
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${box.bottom - area.top + 8}px`;
    mark(shown.map((one) => one.dataset.arm));
  };
  for (const point of points) {
    point.addEventListener("pointerenter", () => showTip(point));
    point.addEventListener("pointerleave", hideTip);
    point.addEventListener("focus", () => showTip(point));
    point.addEventListener("blur", hideTip);
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
  for (const row of rows) {
    row.addEventListener("pointerenter", () => mark([row.dataset.arm]));
    row.addEventListener("pointerleave", () => mark([]));
  }

  const form = $("filters");
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    for (const field of all("select, input", form)) field.value = "";
    filter();
  });
  // The recommended technique of each threat is shown first.
  for (const button of all(".show")) {
    const others = all(".other", button.closest("tbody"));
    const open = (shown) => {
      button.setAttribute("aria-expanded", String(shown));
      for (const row of others) row.hidden = !shown;
    };
    button.addEventListener("click", () => open(others[0].hidden));
    open(false);
  }
  filter();
})();
