"use strict";
// Filters, aligns and copies what stands in the document; nothing that the run has met is ever parsed as markup.
(() => {
  const one = (id) => document.getElementById(id);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  let later = 0; // the timer that writes the view into the address

  // Copying.
  const copied = (button, done) => {
    const label = button.dataset.label ?? (button.dataset.label = button.textContent);
    button.textContent = done ? "copied" : "press Ctrl+C";
    one("said").textContent = done ? `${button.dataset.what} copied` : "";
    setTimeout(() => { button.textContent = label; }, 2000);
  };
  const selected = (text) => {
    const area = document.createElement("textarea");
    const before = document.activeElement;
    area.className = "unseen";
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    before?.focus();
    return done;
  };
  const copy = async (button) => {
    const text = (one(button.dataset.copies) ?? button.previousElementSibling).textContent;
    try {
      await navigator.clipboard.writeText(text);
      copied(button, true);
    } catch {
      copied(button, selected(text));
    }
  };
  all("button.copy").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => copy(button));
  });

  // Links into what is folded.
  const open = (target) => {
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  };

  const filters = one("filters");
  const heat = document.querySelector(".heat");
  const follow = () => {
    clearTimeout(later);
    if (filters && /^(#\?|$)/.test(location.hash)) return restore(); // back to no view is back to all cells
    const target = one(location.hash.slice(1));
    if (!target) return undefined;
    if (filters && target.closest("[hidden]")) clear();
    open(target);
    target.scrollIntoView();
    return undefined;
  };
  window.addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (link && link.hash === location.hash) follow(); // else nothing tells of it
  });
  if (!filters) {
    if (location.hash) follow();
    return;
  }

  // Cells: a square and the line of its evidence, found by the place that both carry.
  const decoded = (word) => {
    try {
      return decodeURIComponent(word);
    } catch {
      return word; // of a place that was cut
    }
  };
  const cells = all("a.cell", heat).map((square) => {
    const place = square.getAttribute("href").slice(1);
    const values = place.slice(place.indexOf(":") + 1);
    const axes = new Map(values.replace(/~\d+$/, "").split(",").filter(Boolean).map((part) => part.split("=").map(decoded)));
    return { square, axes, row: one(place), line: square.closest("tr"), outcome: square.className.split(" ")[1] };
  });
  const text = (cell) => {
    if (cell.text === undefined) {
      const heads = all("th", cell.row.closest("table").tHead);
      const checks = [...cell.row.cells].filter((part, i) => heads[i]?.className === "check" && part.textContent);
      const names = checks.map((part) => heads[part.cellIndex].textContent);
      cell.text = [cell.square.getAttribute("aria-label"), cell.row.textContent, ...names].join("\n").toLowerCase();
    }
    return cell.text;
  };

  // Filters.
  const boxes = all("input[name=outcome]", filters);
  const selects = all("#axes select");
  const [find, align, told, about, note] = ["find", "align", "told", "about", "filtered"].map(one);
  const asked = () => ({
    outcomes: boxes.filter((box) => box.checked).map((box) => box.value),
    axes: selects.filter((select) => select.selectedIndex > 0).map((select) => [select.name, select.value]),
    find: find.value.trim().toLowerCase(),
  });
  const matches = (cell, { outcomes, axes, find: wanted }) =>
    (!outcomes.length || outcomes.includes(cell.outcome)) &&
    axes.every(([axis, value]) => cell.axes.get(axis) === value) &&
    (!wanted || text(cell).includes(wanted));
  const apply = () => {
    const state = asked();
    const [lines, folds] = [new Set(), new Set()];
    let shown = 0;
    for (const cell of cells) {
      const hidden = !matches(cell, state);
      cell.square.hidden = hidden;
      cell.row.hidden = hidden;
      if (!hidden) {
        shown += 1;
        lines.add(cell.line);
        folds.add(cell.row.closest("details"));
      }
    }
    for (const body of heat.tBodies) {
      const [heading, ...rest] = body.rows;
      rest.forEach((line) => { line.hidden = !lines.has(line); });
      heading.hidden = rest.every((line) => line.hidden);
    }
    all("#evidence > details").forEach((fold) => { fold.hidden = !folds.has(fold); });
    const few = shown < cells.length;
    told.textContent = few ? `${shown} of ${cells.length} cells` : `${cells.length} cells`;
    note.hidden = !few;
    note.textContent = few ? `Filtered: ${told.textContent}; Escape in the matrix clears.` : "";
    rove();
  };

  // Columns: the squares of a line by their value of an axis.
  const home = new Map(all("tbody tr:not(.area)", heat).map((line) => [line, [...line.querySelectorAll("a.cell")]]));
  const head = (label) => Object.assign(document.createElement("th"), { scope: "col", textContent: label });
  const regroup = () => {
    const axis = align.selectedIndex > 0 ? align.value : "";
    const values = axis ? [...new Set(cells.map((cell) => cell.axes.get(axis)).filter((value) => value !== undefined))] : [];
    const without = axis && cells.some((cell) => !cell.axes.has(axis));
    const columns = axis ? [...values, ...(without ? [undefined] : [])] : [null];
    const names = columns.map((value) => (value === null ? "cells" : value === undefined ? `no ${axis}` : `${axis}=${value}`));
    heat.tHead.rows[0].replaceChildren(head("probe"), ...names.map(head));
    all(".area th", heat).forEach((heading) => { heading.colSpan = columns.length + 1; });
    const valued = new Map(cells.map((cell) => [cell.square, cell.axes.get(axis)]));
    home.forEach((squares, line) => {
      const made = columns.map((value) => {
        const part = document.createElement("td");
        part.append(...squares.filter((square) => value === null || valued.get(square) === value));
        return part;
      });
      line.replaceChildren(line.cells[0], ...made);
    });
    heat.classList.toggle("aligned", Boolean(axis));
  };

  // The view in the address, so that it can be linked.
  const keep = () => {
    const state = asked();
    const words = new URLSearchParams();
    if (state.outcomes.length) words.set("outcome", state.outcomes.join(","));
    state.axes.forEach(([axis, value]) => words.set(`axis.${axis}`, value));
    if (find.value.trim()) words.set("find", find.value.trim());
    if (align.selectedIndex > 0) words.set("columns", align.value);
    const place = String(words) ? `#?${words}` : location.pathname + location.search;
    clearTimeout(later);
    later = setTimeout(() => history.replaceState(null, "", place), 150);
  };
  const pick = (select, value) => {
    select.selectedIndex = Math.max(0, [...select.options].findIndex((option, i) => i > 0 && option.value === value));
  };
  const restore = () => {
    const words = new URLSearchParams(location.hash.slice(2));
    const outcomes = (words.get("outcome") ?? "").split(",");
    boxes.forEach((box) => { box.checked = outcomes.includes(box.value); });
    selects.forEach((select) => pick(select, words.get(`axis.${select.name}`)));
    find.value = words.get("find") ?? "";
    pick(align, words.get("columns"));
    const fold = one("axes")?.closest("details");
    if (fold && selects.some((select) => select.selectedIndex > 0)) fold.open = true;
    regroup();
    apply();
  };
  const clear = () => {
    boxes.forEach((box) => { box.checked = false; });
    selects.forEach((select) => { select.selectedIndex = 0; });
    find.value = "";
    apply();
  };

  // One stop for Tab among all squares; arrows go from square to square.
  let current = null;
  const rove = (next) => {
    const to = next ?? (current && !current.hidden ? current : cells.find((cell) => !cell.square.hidden)?.square);
    if (current && current !== to) current.tabIndex = -1;
    current = to ?? current;
    if (to) to.tabIndex = 0;
  };
  const beside = (from, way) => {
    const here = from.getBoundingClientRect();
    let [best, least] = [null, Infinity];
    for (const square of all("a.cell:not([hidden])", heat)) {
      const there = square.getBoundingClientRect();
      const down = (there.top - here.top) * way;
      const far = down * 1000 + Math.abs(there.left - here.left);
      if (down > 4 && far < least) [best, least] = [square, far];
    }
    return best;
  };
  const within = (from, step) => {
    const squares = all("a.cell:not([hidden])", heat);
    return squares[squares.indexOf(from) + step];
  };
  const ends = (from, last) => all("a.cell:not([hidden])", from.closest("tr")).at(last ? -1 : 0);
  const moves = {
    ArrowRight: (from) => within(from, 1),
    ArrowLeft: (from) => within(from, -1),
    ArrowDown: (from) => beside(from, 1),
    ArrowUp: (from) => beside(from, -1),
    Home: (from) => ends(from, false),
    End: (from) => ends(from, true),
  };
  const tell = (event) => {
    const square = event.target.closest("a.cell");
    if (square) about.textContent = square.getAttribute("aria-label");
  };
  heat.addEventListener("keydown", (event) => {
    const square = event.target.closest("a.cell");
    if (!square || !(event.key in moves) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const next = moves[event.key](square);
    if (!next) return;
    rove(next);
    next.focus();
  });
  heat.addEventListener("focusin", (event) => {
    const square = event.target.closest("a.cell");
    if (square) rove(square);
    tell(event);
  });
  heat.addEventListener("pointerover", tell);

  // Beginning.
  one("matrix").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    clear();
    keep();
  });
  filters.addEventListener("submit", (event) => event.preventDefault());
  const changed = (event) => {
    if (event.target === align) regroup();
    apply();
    keep();
  };
  find.addEventListener("input", changed);
  filters.addEventListener("change", changed);
  one("clear").addEventListener("click", () => { clear(); keep(); });
  cells.forEach((cell) => { cell.square.tabIndex = -1; });
  filters.reset();
  filters.hidden = false;
  about.hidden = false;
  about.ariaHidden = "true"; // the squares say it themselves
  about.textContent = "Arrow keys go from square to square; Enter leads to the evidence.";
  apply();
  if (location.hash) follow();
  performance.mark("ready");
})();
