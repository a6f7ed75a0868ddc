// Builds the page into the folder that is given, by default into the service's package.
//
// Whoever changes src/ runs `make page` and commits both; `make check` builds again and compares.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const out = process.argv[2] ?? join(here, "../feedwater_service/web/assets");
mkdirSync(out, { recursive: true });

await build({
  entryPoints: [join(here, "src/page.tsx")],
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  // Browsers of the last four years: what follows is no smaller for newer ones.
  target: ["chrome109", "firefox115", "safari16"],
  jsx: "automatic",
  jsxImportSource: "preact",
  charset: "utf8",
  legalComments: "none",
  logLevel: "warning",
});
copyFileSync(join(here, "src/index.html"), join(out, "index.html"));
writeFileSync(join(out, "licenses.txt"), licenses(["preact", "uplot"]));

function licenses(names) {
  const texts = names.map((name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, "LICENSE"), "utf8").trim()}\n`;
  });
  return `The page contains these libraries, unchanged but for being made smaller.\n\n${texts.join("\n\n")}`;
}
