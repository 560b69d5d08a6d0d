// A loader hook: JSON files are modules also where an import does not say `with { type: "json" }`,
// as those of @actions/languageservice, which is written for bundlers.
import { readFile } from "node:fs/promises";

export async function load(url, context, next) {
  if (!url.endsWith(".json")) return next(url, context);
  const text = await readFile(new URL(url), "utf8");
  const source = `export default ${JSON.stringify(JSON.parse(text))};`;
  return { format: "module", shortCircuit: true, source };
}
