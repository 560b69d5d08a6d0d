// Suggest words for misspelled ones, as the service does for each search that finds nothing.
// Long enough that the start of V8 and of its compilers is a small part of it.
"use strict";

const {suggest} = require("../src/suggest");

const KINDS = ["table", "chair", "shelf", "lamp", "bed", "bench", "wardrobe", "mirror"];
const WOODS = ["oak", "beech", "walnut", "ash", "pine", "maple", "cherry", "elm"];
const WORDS = KINDS.flatMap((kind) => WOODS.map((wood) => `${wood}-${kind}`));
const WRITTEN = ["oka-table", "bech-chair", "wallnut-lamp", "maple-wardrob", "chery-bank", "zzz"];
const TIMES = Number(process.argv[2] || 16_000);

let suggested = 0;
for (let time = 0; time < TIMES; time++)
  for (const written of WRITTEN) suggested += suggest(written, WORDS).length;
console.log(`${suggested} suggestions`);
