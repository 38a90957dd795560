"use strict";
// Tables that sort, filter and page, and names of the dots of the charts. All text goes into text nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function links(frame, bits, folders) {
  const found = folders.map((folder, n) => [folder, `../${folder}/${frame}.fits`, n])
    .concat([["picture", `../previews/${frame}.masked.png`, folders.length]])
    .filter(([, , n]) => bits >> n & 1);
  return found.flatMap(([text, href], n) =>
    [n ? " " : "", element("a", { href, "aria-label": `${text} of ${frame}` }, text)]);
}

function compare(a, b, descending) {
  const missing = value => value === null || value === "";
  if (missing(a) || missing(b)) return missing(a) - missing(b); // unknown values stay last
  const order = typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  return descending ? -order : order;
}

class Table {
  constructor(container, name) {
    Object.assign(this, data[name]);
    this.title = container.dataset.title;
    this.sorted = null;
    this.descending = false;
    this.page = 0;
    this.status = element("span", { role: "status" });
    this.body = element("tbody");
    container.append(this.controls(), element("div", { class: "wide", tabindex: 0, role: "region", "aria-label": this.title },
      element("table", {}, element("caption", {}, this.title), this.head(), this.body)));
    this.draw();
  }

  controls() {
    this.search = element("input", { type: "search" });
    this.search.addEventListener("input", () => this.restart());
    const row = element("div", { class: "controls" }, element("label", {}, "Find", this.search));
    this.menus = this.columns.map((column, n) => column.menu ? this.menu(column, n) : null);
    this.menus.forEach((menu, n) => menu && row.append(element("label", {}, this.columns[n].heading, menu)));
    this.previous = element("button", { type: "button", "aria-label": `previous page, ${this.title}` }, "‹ Previous");
    this.next = element("button", { type: "button", "aria-label": `next page, ${this.title}` }, "Next ›");
    this.previous.addEventListener("click", () => { this.page -= 1; this.draw(); });
    this.next.addEventListener("click", () => { this.page += 1; this.draw(); });
    row.append(this.previous, this.next, this.status);
    return row;
  }

  menu(column, n) {
    const values = [...new Set(this.rows.map(row => row[n]))].sort((a, b) => compare(a, b, false));
    const menu = element("select", {}, element("option", { value: "all" }, "all"));
    values.forEach((value, k) => menu.append(element("option", { value: k }, value === "" ? "(none)" : value)));
    menu.values = values;
    menu.addEventListener("change", () => this.restart());
    return menu;
  }

  head() {
    this.headings = this.columns.map((column, n) => {
      const button = element("button", { type: "button" }, column.heading);
      button.addEventListener("click", () => this.sort(n));
      return element("th", { scope: "col", class: column.kind, "aria-sort": "none" }, button);
    });
    return element("thead", {}, element("tr", {}, ...this.headings));
  }

  sort(n) {
    this.descending = this.sorted === n && !this.descending;
    this.sorted = n;
    this.headings.forEach((heading, k) =>
      heading.setAttribute("aria-sort", k !== n ? "none" : this.descending ? "descending" : "ascending"));
    this.restart();
  }

  restart() {
    this.page = 0;
    this.draw();
  }

  selected() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = this.rows.filter(row =>
      words.every(word => row.some(cell => String(cell ?? "").toLowerCase().includes(word))) &&
      this.menus.every((menu, n) => !menu || menu.value === "all" || row[n] === menu.values[menu.value]));
    return this.sorted === null ? rows
      : rows.sort((a, b) => compare(a[this.sorted], b[this.sorted], this.descending));
  }

  draw() {
    const rows = this.selected();
    const first = this.page * PAGE;
    const shown = rows.slice(first, first + PAGE);
    this.body.replaceChildren(...shown.map(row => element("tr", {}, ...row.map((cell, n) => this.cell(cell, n, row)))));
    this.previous.disabled = this.page === 0;
    this.next.disabled = first + PAGE >= rows.length;
    this.status.textContent = rows.length ? `${first + 1} to ${first + shown.length} of ${rows.length}` : "no rows";
  }

  cell(value, n, row) {
    const kind = this.columns[n].kind;
    if (kind === "files") return element("td", {}, ...links(row[0], value, this.folders));
    const text = value === null ? "" : String(value);
    const made = n === 0 ? element("th", { scope: "row" }, text) : element("td", { class: kind }, text);
    if (text.length > 40) made.classList.add("long");
    return made;
  }
}

const tables = {};
for (const container of document.querySelectorAll("[data-table]")) {
  tables[container.dataset.table] = new Table(container, container.dataset.table);
}

// The nearest dot of a chart names its light; a click looks the light up in the table.
const tip = document.getElementById("tip");
function dots(chart) {
  chart.dots ??= [...chart.querySelectorAll("path[data-i]")].flatMap(path => {
    const numbers = path.dataset.i.split(" ");
    return [...path.getAttribute("d").matchAll(/M([\d.-]+) ([\d.-]+)/g)].map((m, k) => ({ x: +m[1], y: +m[2], i: +numbers[k] }));
  });
  return chart.dots;
}
function nearest(chart, event) {
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.getScreenCTM().inverse());
  const best = { distance: 20 };
  for (const dot of dots(chart)) {
    const distance = Math.hypot(dot.x - point.x, dot.y - point.y);
    if (distance < best.distance) Object.assign(best, dot, { distance });
  }
  return best.i;
}
for (const chart of document.querySelectorAll("figure .chart[data-column], figure[data-column] .chart")) {
  const { columns, rows } = data.lights;
  const n = columns.findIndex(column => column.name === chart.closest("figure").dataset.column);
  chart.addEventListener("pointermove", event => {
    const row = rows[nearest(chart, event)];
    tip.hidden = !row;
    if (!row) return;
    tip.textContent = n < 0 ? row[0] : `${row[0]}: ${row[n] ?? ""}`;
    tip.style.left = `${Math.min(event.clientX + 12, innerWidth - 190)}px`;
    tip.style.top = `${event.clientY + 12}px`;
  });
  chart.addEventListener("pointerleave", () => { tip.hidden = true; });
  chart.addEventListener("click", event => {
    const row = rows[nearest(chart, event)];
    if (!row) return;
    tables.lights.search.value = row[0];
    tables.lights.restart();
    document.getElementById("lights").scrollIntoView();
  });
}
