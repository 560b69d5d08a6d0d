"use strict";
// ---- numbers: the same functions as report/words.py ----
const digits = (x) => x.toFixed(x < 9.995 ? 2 : x < 99.95 ? 1 : 0);
const format = {
  duration(ns) {
    if (ns <= 0) return "0";
    for (const [unit, size] of [["ns", 1], ["µs", 1e3], ["ms", 1e6], ["s", 1e9]]) {
      if (ns / size < 999.5) return `${digits(ns / size)} ${unit}`;
    }
    return `${(ns / 1e9).toFixed(0)} s`;
  },
  difference(before, after) {
    if (after === before) return "0";
    return (after > before ? "+" : "−") + format.duration(Math.abs(after - before));
  },
  signed(share) {
    const percent = Math.abs(share) * 100;
    const text = percent.toFixed(percent < 99.95 ? 1 : 0);
    return Number(text) === 0 ? "0.0" : (share > 0 ? "+" : "−") + text;
  },
  growth(before, after) {
    if (before <= 0) return after > 0 ? "new" : "0.0 %";
    if (after <= 0) return "gone";
    const ratio = after / before;
    return ratio >= 10 ? `× ${digits(ratio)}` : `${format.signed(ratio - 1)} %`;
  },
  interval(low, high) {
    if (low !== null && high !== null && high < 100) return `${format.signed(low)} to ${format.signed(high)} %`;
    if (low !== null) return `over ${low >= 9 ? `× ${digits(1 + low)}` : `${format.signed(low)} %`}`;
    return high !== null ? `under ${format.signed(high)} %` : "";
  },
  share(value) {
    if (value <= 0) return "0 %";
    return value < 0.0005 ? "<0.1 %" : `${(value * 100).toFixed(1)} %`;
  },
  count: (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ","),
};

const make = (tag, classes, text) => {
  const element = document.createElement(tag);
  if (classes) element.className = classes;
  if (text !== undefined) element.textContent = text;
  return element;
};
const toneClass = (tone) => (tone > 0 ? `up${tone}` : tone < 0 ? `down${-tone}` : "same");
