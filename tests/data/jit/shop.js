'use strict';
// Stages that a loop calls in turn: enough of them that V8 inlines none.

function tokenize(size) {
  let words = 0;
  let inside = false;
  for (let i = 0; i < size; i++) {
    const letter = ((i * 7919) >>> 3) % 5 !== 0;
    if (letter && !inside) words++;
    inside = letter;
  }
  return words;
}

const times = Number(process.argv[3]);

function weigh(size) {
  let sum = 0;
  for (let i = 1; i <= (size * times) / 4; i++) sum += Math.sqrt(i) / (i + 1);
  return sum;
}

function digest(size) {
  let hash = 17;
  for (let i = 0; i < size; i++) hash = (hash * 31 + (hash >>> 7) + i) | 0;
  return hash;
}

function checkout(stages, size) {
  let total = 0;
  for (const stage of stages) total += stage(size);
  return total;
}

function main(rounds) {
  const stages = [tokenize, weigh, digest];
  let total = 0;
  for (let round = 0; round < rounds; round++) total += checkout(stages, 400);
  return total;
}

console.log(main(Number(process.argv[2])));
