"use strict";
// The interactive part of report.html: one differential flame graph and one table per benchmark.
// It decides nothing: colours, sentences and costs come with the data.
(() => {
  const ROWS = { low: 20, high: 28, room: 440 }; // px; a shallow graph has taller rows
  const NARROWEST = 0.5; // px; narrower boxes are not drawn
  const COLUMN = 2; // px; narrower boxes do not make the graph higher: deep stacks seen once or twice
  const READABLE = 24; // px; a narrower box that is asked for is zoomed to
  const LETTER = 6.5; // px of a letter of the 11.5 px font, on the generous side
  const SIDES = { both: (b, a) => (b + a) / 2, before: (b) => b, after: (b, a) => a };

  // ---- the tooltip, one for the page ----
  const tip = document.getElementById("tip");
  function showTip(content, x, y) {
    tip.replaceChildren(content);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.min(x + 14, document.documentElement.clientWidth - box.width - 8);
    const above = y + 18 + box.height > window.innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${Math.max(8, above ? y - box.height - 12 : y + 18)}px`;
  }
  const hideTip = () => { tip.hidden = true; };

  class Benchmark {
    constructor(section, data) {
      this.section = section;
      this.data = data;
      this.boxes = data.boxes;
      this.count = data.boxes.parent.length;
      this.zoomed = 0;
      this.focused = 0;
      this.plain = section.dataset.plain === "yes";
      this.side = this.plain ? "after" : "both";
      this.vanished = true;
      this.frames = null; // frames that are searched for or picked in the table
      this.drawn = new Map();
      this.order = { column: null, down: true };
      this.costs = "total";
      this.allRows = false;
      this.graph = section.querySelector(".graph");
      this.children = Array.from({ length: this.count }, () => []);
      for (let i = 1; i < this.count; i++) this.children[this.boxes.parent[i]].push(i);
      this.depth = new Uint16Array(this.count);
      for (let i = 1; i < this.count; i++) this.depth[i] = this.depth[this.boxes.parent[i]] + 1;
      const rows = this.depth.reduce((most, depth) => Math.max(most, depth), 0) + 1;
      this.rowHeight = Math.max(ROWS.low, Math.min(ROWS.high, Math.floor(ROWS.room / rows)));
      this.graph.style.setProperty("--row", `${this.rowHeight}px`);
      this.layOut();
      this.listen();
      this.drawTable();
    }

    // Widths from the leaves up, then left edges from the root down.
    layOut() {
      const { before, after, parent } = this.boxes;
      const weigh = SIDES[this.side];
      const below = new Float64Array(this.count); // all children
      const shown = new Float64Array(this.count); // children that are not hidden
      this.width = new Float64Array(this.count);
      for (let i = this.count - 1; i >= 0; i--) {
        const whole = Math.max(weigh(before[i], after[i]), below[i]);
        const hidden = i > 0 && !this.vanished && after[i] <= 0;
        this.width[i] = hidden ? 0 : whole - below[i] + shown[i];
        if (i > 0) {
          below[parent[i]] += whole;
          shown[parent[i]] += this.width[i];
        }
      }
      this.left = new Float64Array(this.count);
      const edge = new Float64Array(this.count);
      for (let i = 1; i < this.count; i++) {
        this.left[i] = edge[parent[i]];
        edge[parent[i]] += this.width[i];
        edge[i] = this.left[i];
      }
      if (this.width[this.zoomed] <= 0) this.zoomed = 0;
    }

    draw() {
      const room = this.graph.clientWidth;
      if (!room || !this.count) return;
      const scale = this.width[this.zoomed] > 0 ? room / this.width[this.zoomed] : 0;
      const origin = this.left[this.zoomed];
      const hadFocus = this.graph.contains(document.activeElement);
      const above = [];
      for (let i = this.boxes.parent[this.zoomed]; i >= 0; i = this.boxes.parent[i]) above.push(i);
      this.drawn = new Map();
      const fragment = document.createDocumentFragment();
      const seen = []; // [box, width], parents first
      let deepest = this.depth[this.zoomed];
      const todo = [this.zoomed];
      while (todo.length) {
        const i = todo.pop();
        const w = this.width[i] * scale;
        if (w < NARROWEST) continue;
        seen.push([i, w]);
        if (w >= COLUMN || this.data.guilty[i]) deepest = Math.max(deepest, this.depth[i]);
        for (let k = this.children[i].length - 1; k >= 0; k--) todo.push(this.children[i][k]);
      }
      const add = (i, x, w, held) => {
        const element = this.box(i, x, w, held);
        this.drawn.set(i, element);
        fragment.append(element);
      };
      for (const i of above.reverse()) add(i, 0, room, true);
      for (const [i, w] of seen) {
        if (this.depth[i] <= deepest) add(i, (this.left[i] - origin) * scale, w, false);
      }
      this.graph.style.height = `${(deepest + 1) * this.rowHeight + 4}px`;
      this.graph.replaceChildren(fragment);
      this.mark();
      if (!this.drawn.has(this.focused)) this.focused = this.zoomed;
      const focus = this.drawn.get(this.focused);
      if (focus) focus.tabIndex = 0;
      if (hadFocus && focus) focus.focus({ preventScroll: true });
      const reset = this.section.querySelector(".reset");
      reset.disabled = this.zoomed === 0;
    }

    box(i, x, w, held) {
      const { frame, before, after, tone } = this.boxes;
      const f = frame[i];
      const element = make("div", `box ${this.plain ? `hue${this.data.hues[f]}` : toneClass(tone[i])}`);
      element.dataset.i = i;
      element.style.left = `${x}px`;
      element.style.top = `${this.depth[i] * this.rowHeight}px`;
      element.style.width = `${w > 2.5 ? w - 1 : w}px`;
      element.tabIndex = -1;
      element.setAttribute("role", "treeitem");
      element.setAttribute("aria-level", this.depth[i] + 1);
      element.setAttribute("aria-label", this.words(i).join("; "));
      element.setAttribute("aria-selected", "false");
      if (this.data.kinds[f] !== "python") element.classList.add("foreign");
      if (!this.plain && after[i] <= 0 && before[i] > 0) element.classList.add("gone");
      if (!this.plain && before[i] <= 0 && after[i] > 0) element.classList.add("new");
      if (this.data.guilty[i]) element.classList.add("guilty");
      if (held) element.classList.add("held");
      if (w >= 30) {
        const told = this.plain ? "" : tone[i] || this.data.guilty[i] ? format.growth(before[i], after[i]) : "";
        const name = this.data.functions[f];
        const place = this.data.modules[f];
        element.append(make("span", "name", name));
        let used = 10 + name.length * LETTER;
        if (told && used + told.length * LETTER < w + 18) {
          element.append(make("span", "told", told));
          used += (told.length + 1) * LETTER;
        }
        if (place && used + place.length * LETTER < w) {
          element.firstChild.after(make("span", "module", place));
        }
      }
      return element;
    }

    // What the tooltip and the screen reader say, sentence of a finding first.
    words(i) {
      const b = this.boxes;
      const lines = [...(this.data.guilty[i] || [])];
      lines.push(i === 0 ? "[total], the whole benchmark" : this.data.names[b.frame[i]]);
      if (this.plain) {
        lines.push(`${this.cost(b.after[i])}, ${format.share(b.after[i] / b.after[0])}`);
        lines.push(`${format.count(b.samples_after[i])} samples`);
        return lines;
      }
      lines.push(`${format.duration(b.before[i])} → ${format.duration(b.after[i])} per iteration`);
      lines.push(this.change(i).join(", "));
      if (!b.tone[i]) lines.push("cannot be told from noise");
      return lines;
    }

    cost(value) {
      return this.data.unit === "samples"
        ? `${format.count(Math.round(value))} samples`
        : `${format.duration(value)} per iteration`;
    }

    change(i) {
      const b = this.boxes;
      const told = format.growth(b.before[i], b.after[i]);
      const interval = b.before[i] > 0 && b.after[i] > 0 ? format.interval(b.low[i], b.high[i]) : "";
      return interval ? [told, `90 % interval ${interval}`] : [told];
    }

    tooltip(i) {
      const b = this.boxes;
      const fragment = document.createDocumentFragment();
      for (const sentence of this.data.guilty[i] || []) fragment.append(make("p", "sentence", sentence));
      fragment.append(make("p", "who", i === 0 ? "[total]" : this.data.names[b.frame[i]]));
      const grid = make("div", this.plain ? "figures one" : "figures");
      const line = (label, ...cells) => {
        grid.append(make("span", "label", label));
        for (const cell of cells) grid.append(make("span", "", cell));
      };
      const [before, after] = [b.before[0] || Infinity, b.after[0] || Infinity];
      if (this.plain) {
        line("cost", this.cost(b.after[i]));
        line("share", format.share(b.after[i] / after));
        line("samples", format.count(b.samples_after[i]));
        fragment.append(grid);
        return fragment;
      }
      line("", "before", "after");
      line("per iteration", format.duration(b.before[i]), format.duration(b.after[i]));
      line(`of the ${this.section.classList.contains("waiting") ? "waiting" : "benchmark"}`, format.share(b.before[i] / before), format.share(b.after[i] / after));
      line("samples", format.count(b.samples_before[i]), format.count(b.samples_after[i]));
      fragment.append(grid);
      const change = make("p", `change ${toneClass(b.tone[i])}`, this.change(i).join(", "));
      if (b.before[i] > 0 && b.after[i] > 0) {
        change.append(`, ${format.difference(b.before[i], b.after[i])} per iteration`);
      }
      fragment.append(change);
      if (!b.tone[i]) fragment.append(make("p", "quiet", "cannot be told from noise"));
      return fragment;
    }

    // ---- search and highlight ----
    search(text) {
      const wanted = text.trim().toLowerCase();
      this.pick(wanted ? this.data.names.map((name) => name.toLowerCase().includes(wanted)) : null);
    }

    pick(frames) {
      this.frames = frames;
      this.mark();
      const told = this.section.querySelector(".matched");
      if (!frames) {
        told.textContent = "";
        return;
      }
      const { before, after } = this.matched();
      told.textContent = this.plain
        ? `matched ${format.share(after)}`
        : `matched ${format.share(before)} → ${format.share(after)}`;
    }

    // Shares of the benchmark in the outermost boxes that match: a match inside a match is not counted again.
    matched() {
      const { frame, parent, before, after } = this.boxes;
      const inside = new Uint8Array(this.count);
      let [sumBefore, sumAfter] = [0, 0];
      for (let i = 0; i < this.count; i++) {
        const covered = i > 0 && inside[parent[i]];
        inside[i] = covered || this.frames[frame[i]] ? 1 : 0;
        if (inside[i] && !covered) {
          sumBefore += before[i];
          sumAfter += after[i];
        }
      }
      return {
        before: before[0] > 0 ? sumBefore / before[0] : 0,
        after: after[0] > 0 ? sumAfter / after[0] : 0,
      };
    }

    mark() {
      this.graph.classList.toggle("searching", this.frames !== null);
      for (const [i, element] of this.drawn) {
        element.classList.toggle("hit", this.frames !== null && this.frames[this.boxes.frame[i]]);
      }
      for (const row of this.section.querySelectorAll("tbody tr")) {
        row.classList.toggle("picked", this.picked === Number(row.dataset.frame));
      }
    }

    pickFrame(f) {
      this.picked = this.picked === f ? undefined : f;
      this.section.querySelector(".search").value = "";
      this.pick(this.picked === undefined ? null : this.data.names.map((_, other) => other === f));
    }

    // ---- moving about ----
    zoom(i) {
      this.zoomed = i;
      this.focused = i;
      this.draw();
    }

    reset() {
      this.picked = undefined;
      this.section.querySelector(".search").value = "";
      this.pick(null);
      this.zoom(0);
      hideTip();
    }

    // A box that somebody asks for: on the side that has it, and zoomed until it can be seen.
    reveal(i) {
      if (this.width[i] <= 0) {
        const choose = (selector) => {
          const input = this.section.querySelector(selector);
          if (input) input.checked = true;
        };
        choose('.side[value="both"]');
        choose(".vanished");
        this.side = this.plain ? "after" : "both";
        this.vanished = true;
        this.layOut();
      }
      let outermost = i;
      for (let at = i; at >= 0; at = this.boxes.parent[at]) {
        if (this.width[i] * this.graph.clientWidth >= READABLE * this.width[at]) outermost = at;
      }
      this.zoom(outermost);
      this.focus(i);
    }

    focus(i) {
      const element = this.drawn.get(i);
      if (!element) return;
      const last = this.drawn.get(this.focused);
      if (last) {
        last.tabIndex = -1;
        last.setAttribute("aria-selected", "false");
      }
      this.focused = i;
      element.tabIndex = 0;
      element.setAttribute("aria-selected", "true");
      element.focus({ preventScroll: true });
      element.scrollIntoView({ block: "nearest", inline: "nearest" });
      const place = element.getBoundingClientRect();
      showTip(this.tooltip(i), Math.max(0, place.left), place.bottom - 12);
    }

    neighbour(step) {
      const siblings = this.children[this.boxes.parent[this.focused]] || [];
      const shown = siblings.filter((i) => this.drawn.has(i));
      return shown[shown.indexOf(this.focused) + step];
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const child = () =>
        this.children[this.focused].filter((i) => this.drawn.has(i))
          .reduce((best, i) => (best === undefined || this.width[i] > this.width[best] ? i : best), undefined);
      const moves = {
        ArrowDown: child,
        ArrowUp: () => (this.focused > 0 ? this.boxes.parent[this.focused] : undefined),
        ArrowLeft: () => this.neighbour(-1),
        ArrowRight: () => this.neighbour(1),
        Home: () => 0,
      };
      if (moves[event.key]) {
        const next = moves[event.key]();
        if (next !== undefined) this.focus(next);
      } else if (event.key === "Enter" || event.key === " ") {
        this.zoom(this.focused);
        this.focus(this.focused);
      } else {
        return;
      }
      event.preventDefault();
    }

    listen() {
      const at = (event) => {
        const element = event.target.closest(".box");
        return element && this.graph.contains(element) ? Number(element.dataset.i) : null;
      };
      this.graph.addEventListener("click", (event) => {
        const i = at(event);
        if (i === null) return;
        this.zoom(i);
        const element = this.drawn.get(i);
        if (element) element.focus({ preventScroll: true });
      });
      this.graph.addEventListener("mousemove", (event) => {
        const i = at(event);
        if (i === null) hideTip();
        else showTip(this.tooltip(i), event.clientX, event.clientY);
      });
      this.graph.addEventListener("mouseleave", hideTip);
      this.graph.addEventListener("focusout", hideTip);
      this.graph.addEventListener("keydown", (event) => this.key(event));
      const on = (selector, type, action) => {
        for (const element of this.section.querySelectorAll(selector)) {
          element.addEventListener(type, () => action(element));
        }
      };
      on(".reset", "click", () => this.reset());
      on(".search", "input", (input) => {
        this.picked = undefined;
        this.search(input.value);
      });
      on(".vanished", "change", (box) => {
        this.vanished = box.checked;
        this.layOut();
        this.draw();
      });
      on(".side", "change", (choice) => {
        this.side = choice.value;
        this.layOut();
        this.draw();
      });
      on(".costs", "change", (choice) => {
        this.costs = choice.value;
        this.drawTable();
      });
      on("th button", "click", (button) => {
        const column = button.dataset.column;
        const down = this.order.column === column ? !this.order.down : column !== "name";
        this.order = { column, down };
        this.drawTable();
      });
      on(".more", "click", () => {
        this.allRows = true;
        this.drawTable();
      });
      // No space to draw on is not an error: the section is hidden until its tab is chosen.
      new ResizeObserver(() => this.draw()).observe(this.graph);
    }
  }

  Object.assign(Benchmark.prototype, tableMethods);

  // ---- tabs ----
  const sections = [...document.querySelectorAll("section.benchmark")];
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const benchmarks = new Map();
  let current = -1;
  function choose(n) {
    current = n;
    hideTip();
    sections.forEach((section, k) => { section.hidden = k !== n; });
    tabs.forEach((tab, k) => {
      tab.setAttribute("aria-selected", String(k === n));
      tab.tabIndex = k === n ? 0 : -1;
    });
    const data = document.getElementById(`data-${n}`);
    if (data && !benchmarks.has(n)) benchmarks.set(n, new Benchmark(sections[n], JSON.parse(data.textContent)));
    const benchmark = benchmarks.get(n);
    if (benchmark) benchmark.draw();
    return benchmark;
  }
  const fromHash = () => {
    const n = Number((/^#b(\d+)$/.exec(location.hash) || [])[1] ?? -1);
    return n >= 0 && n < sections.length ? n : null;
  };
  tabs.forEach((tab, n) => {
    tab.addEventListener("click", () => choose(n));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = (n + step + tabs.length) % tabs.length;
      choose(next);
      tabs[next].focus();
      event.preventDefault();
    });
  });
  for (const link of document.querySelectorAll("a[data-benchmark]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const benchmark = choose(Number(link.dataset.benchmark));
      if (!benchmark) return;
      benchmark.reset();
      if (link.dataset.box) benchmark.reveal(Number(link.dataset.box));
    });
  }
  document.addEventListener("keydown", (event) => {
    const benchmark = benchmarks.get(current);
    if (!benchmark) return;
    if (event.key === "Escape") {
      benchmark.reset();
    } else if (event.key === "/" && !(event.target instanceof HTMLInputElement)) {
      benchmark.section.querySelector(".search").focus();
      event.preventDefault();
    }
  });
  window.addEventListener("hashchange", () => { if (fromHash() !== null) choose(fromHash()); });
  window.addEventListener("beforeprint", () => { const b = benchmarks.get(current); if (b) b.draw(); });
  document.documentElement.classList.add("js");
  window.ciFlame = { format, benchmarks, choose };
  if (sections.length) {
    const worst = sections.findIndex((section) => section.dataset.first === "yes");
    choose(fromHash() ?? Math.max(0, worst));
  }
})();
