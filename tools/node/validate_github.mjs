// Prints what GitHub's own language service finds in workflows and action.yml files, one
// `FILE:LINE: SEVERITY: MESSAGE` a line: node validate_github.mjs FILE...
import { readFileSync } from "node:fs";
import { register } from "node:module";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

register("./json_modules.mjs", import.meta.url);
// After the hook is there, so not at the top.
const { validate } = await import("@actions/languageservice");
const { TextDocument } = await import("vscode-languageserver-textdocument");
const severities = { 1: "error", 2: "warning", 3: "information", 4: "hint" };
for (const file of process.argv.slice(2)) {
  const uri = pathToFileURL(resolve(file)).href;
  const document = TextDocument.create(uri, "yaml", 1, readFileSync(file, "utf8"));
  for (const each of await validate(document)) {
    const line = each.range.start.line + 1;
    console.log(`${file}:${line}: ${severities[each.severity ?? 1]}: ${each.message}`);
  }
}
