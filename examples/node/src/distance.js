"use strict";

const ROWS = [new Uint16Array(65), new Uint16Array(65)];

/**
 * Return how many letters one has to insert, take out or exchange to make one word of the other.
 * Words are of at most 64 letters; what is more than `limit` is told as `limit + 1`.
 */
function distance(one, other, limit) {
  if (Math.abs(one.length - other.length) > limit) return limit + 1;
  let [above, row] = ROWS;
  for (let x = 0; x <= other.length; x++) above[x] = x;
  for (let y = 1; y <= one.length; y++) {
    const letter = one.charCodeAt(y - 1);
    let least = y;
    row[0] = y;
    for (let x = 1; x <= other.length; x++) {
      const exchanged = above[x - 1] + (letter === other.charCodeAt(x - 1) ? 0 : 1);
      const moved = Math.min(above[x], row[x - 1]) + 1;
      row[x] = Math.min(exchanged, moved);
      least = Math.min(least, row[x]);
    }
    if (least > limit) return limit + 1; // it can only get more
    [above, row] = [row, above];
  }
  return Math.min(above[other.length], limit + 1);
}

module.exports = {distance};
