// Fills the column of Node: prints JSON, see `measure.js`.
// Usage: node measure.mjs FOLDER [RUNS]     FOLDER holds cases.json and the files it names
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as ort from "onnxruntime-web";
import { measure } from "./measure.js";

const [folder, runs = "5"] = process.argv.slice(2);
const load = async (file) => new Uint8Array(readFileSync(join(folder, file)));
const column = await measure(ort, `Node ${process.versions.node.split(".")[0]}`, load, Number(runs));
console.log(JSON.stringify(column));
