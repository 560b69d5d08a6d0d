"use strict";

const {distance} = require("./distance");

const LIMIT = 2;

/** Return the words that somebody may have meant, the nearest first. */
function suggest(written, words) {
  const found = [];
  for (const word of words) {
    const far = distance(written, word, LIMIT);
    if (far <= LIMIT) found.push({word, far});
  }
  found.sort((one, other) => one.far - other.far || (one.word < other.word ? -1 : 1));
  return found.map(({word}) => word);
}

module.exports = {suggest};
