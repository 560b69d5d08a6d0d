// Made node-wall.pb.gz: npm install @datadog/pprof@5.20.0 && node hot.mjs $PWD/
import { createRequire } from "node:module";
import { writeFileSync } from "node:fs";
const { time, encode } = createRequire(process.argv[2])("@datadog/pprof");
function fibonacci(n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
function sortNumbers() { const a = []; for (let i = 0; i < 20000; i++) a.push(Math.sin(i)); a.sort(); return a.length; }
time.start({ durationMillis: 2000, intervalMicros: 1000 });
for (let i = 0; i < 40; i++) { fibonacci(24); sortNumbers(); }
const profile = time.stop();
writeFileSync("node.pb.gz", await encode(profile));
