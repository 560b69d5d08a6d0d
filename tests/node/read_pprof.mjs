// Prints what pprof-format reads: one JSON line per sample, in the file's order.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { createRequire } from "node:module";

const [, , modules, file] = process.argv;
const { Profile } = createRequire(`${modules}/`)("pprof-format");
const profile = Profile.decode(gunzipSync(readFileSync(file)));
const text = (index) => profile.stringTable.strings[Number(index)];
const byId = (list) => new Map(list.map((each) => [Number(each.id), each]));
const locations = byId(profile.location);
const functions = byId(profile.function);

const types = profile.sampleType.map((type) => [text(type.type), text(type.unit)]);
console.log(JSON.stringify({ types, period: Number(profile.period) }));
for (const sample of profile.sample) {
  const stack = sample.locationId
    .map((id) => locations.get(Number(id)).line[0])
    .map((line) => text(functions.get(Number(line.functionId)).name))
    .reverse();
  const labels = Object.fromEntries(
    sample.label.map((label) => [text(label.key), Number(label.num)]),
  );
  console.log(JSON.stringify({ stack, labels, values: sample.value.map(String) }));
}
