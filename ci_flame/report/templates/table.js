"use strict";
// The table of functions: methods of Benchmark, which report.js defines.

const FIRST_ROWS = 200;

const tableMethods = {
  drawTable() {
    const table = this.data.table;
    const costs = table[this.costs];
    const [wholeBefore, wholeAfter] = [this.boxes.before[0], this.boxes.after[0]];
    const keys = {
      name: (r) => this.data.functions[table.frame[r]].toLowerCase(),
      before: (r) => costs.before[r],
      after: (r) => costs.after[r],
      change: (r) => Math.abs(costs.after[r] - costs.before[r]),
      growth: (r) => (costs.before[r] > 0 ? costs.after[r] / costs.before[r] : costs.after[r] > 0 ? Infinity : 1),
      share: (r) => costs.after[r],
      seen: (r) => table.seen[r] ?? Infinity,
    };
    const rows = table.frame.map((_, r) => r);
    const { column, down } = this.order;
    const key = keys[column || (this.plain ? "after" : "change")];
    const way = column === null || down ? -1 : 1;
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return x === y ? a - b : (x < y ? -1 : 1) * way;
    });
    for (const button of this.section.querySelectorAll("th button")) {
      const here = button.dataset.column === column;
      button.closest("th").setAttribute("aria-sort", here ? (down ? "descending" : "ascending") : "none");
    }
    const shown = this.allRows ? rows : rows.slice(0, FIRST_ROWS);
    const widest = this.plotRange(costs, rows);
    const body = this.section.querySelector("tbody");
    body.replaceChildren(...shown.map((r) => this.row(r, costs, wholeBefore, wholeAfter, widest)));
    const more = this.section.querySelector(".more");
    more.hidden = shown.length === rows.length;
    more.textContent = `Show all ${format.count(rows.length)} functions`;
    this.mark();
  },

  row(r, costs, wholeBefore, wholeAfter, widest) {
    const f = this.data.table.frame[r];
    const [before, after, tone] = [costs.before[r], costs.after[r], costs.tone[r]];
    const row = make("tr", this.data.blamed.includes(f) ? "blamed" : "");
    row.dataset.frame = f;
    const name = make("td", "function");
    const button = make("button", "");
    button.type = "button";
    button.append(make("span", "name", this.data.functions[f]), make("span", "module", this.data.modules[f]));
    button.title = this.data.names[f] + (this.data.table.place[r] ? `\n${this.data.table.place[r]}` : "");
    const about = this.plain || this.costs === "own" ? "" : this.data.table.about[r];
    if (about) {
      button.firstChild.after(make("span", "about", about));
      button.title += `\n${about}`;
    }
    name.append(button);
    row.append(name);
    row.addEventListener("click", () => this.pickFrame(f));
    const cell = (text, classes) => row.append(make("td", classes || "", text));
    if (this.plain) {
      cell(this.data.unit === "samples" ? format.count(Math.round(after)) : format.duration(after));
      const share = make("td", "share");
      const bar = make("span", "bar");
      const part = wholeAfter > 0 ? Math.min(1, after / wholeAfter) : 0;
      bar.style.width = `calc(${part.toFixed(4)} * (100% - 68px))`; // 68 px are the figure's
      share.append(bar, make("span", "", format.share(wholeAfter > 0 ? after / wholeAfter : 0)));
      row.append(share);
      return row;
    }
    cell(format.duration(before));
    cell(format.duration(after));
    cell(format.difference(before, after), "difference");
    cell(format.growth(before, after), `growth ${toneClass(tone)}`);
    const plot = make("td", "plot");
    plot.append(this.plot(before, after, costs.low[r], costs.high[r], tone, widest));
    row.append(plot);
    const seen = this.data.table.seen[r];
    cell(seen === null ? "–" : format.share(seen), "seen");
    cell(format.share(wholeAfter > 0 ? after / wholeAfter : 0));
    return row;
  },

  // Half the width of the interval plot, as ln of a ratio: what the sure changes need, 10 % to 100 %.
  plotRange(costs, rows) {
    const sizes = rows
      .filter((r) => costs.tone[r] && costs.before[r] > 0 && costs.after[r] > 0)
      .map((r) => Math.abs(Math.log(costs.after[r] / costs.before[r])));
    return Math.min(Math.log(2), Math.max(Math.log(1.1), ...sizes) * 1.25);
  },

  plot(before, after, low, high, tone, widest) {
    const plot = make("span", `interval ${toneClass(tone)}`);
    const place = (growth) => {
      const ratio = growth <= -1 ? -Infinity : Math.log1p(growth);
      return 50 + 50 * Math.max(-1, Math.min(1, ratio / widest));
    };
    const text = before > 0 && after > 0 ? format.interval(low, high) : format.growth(before, after);
    plot.title = `90 % interval: ${text}`;
    plot.append(make("span", "unseen", text), make("i", "zero"));
    if (before <= 0 && after <= 0) return plot;
    if (before > 0 && after > 0 && low !== null && high !== null) {
      const whisker = make("i", "whisker");
      whisker.style.left = `${place(low)}%`;
      whisker.style.width = `${Math.max(place(high) - place(low), 1)}%`;
      plot.append(whisker);
    }
    const dot = make("i", "dot");
    dot.style.left = `${place(before > 0 ? after / before - 1 : Infinity)}%`;
    plot.append(dot);
    return plot;
  },
};
