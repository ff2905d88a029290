// node-llama-cpp that attaches itself: FOLDER MODEL N_PREDICT WHEN PROMPT ATTNSCOPE OUT. Prints what it decoded.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import path from "node:path";
import {copyFileSync} from "node:fs";

const [folder, model_path, n_predict, when, prompt, attnscope, out] = process.argv.slice(2);
const at = createRequire(path.resolve(folder, "package.json"));
copyFileSync(new URL("attach.mjs", import.meta.url), path.join(folder, "attach.mjs")); // beside koffi
const {attach} = await import(pathToFileURL(path.resolve(folder, "attach.mjs")));
let close;
const now = async moment => { if (when === moment) close = await attach(out, attnscope); };
await now("first");
const {getLlama} = await import(pathToFileURL(at.resolve("node-llama-cpp")));
const llama = await getLlama({gpu: false, build: "never", progressLogs: false, logLevel: "error", maxThreads: 1});
await now("loaded");
const model = await llama.loadModel({modelPath: model_path});
const context = await model.createContext({contextSize: 512, flashAttention: true});
await now("context");
const tokens = model.tokenize(prompt);
const generated = [];
for await (const token of context.getSequence().evaluate(tokens, {temperature: 0, yieldEogToken: true})) {
    generated.push(token);
    if (generated.length >= +n_predict) break;
}
console.log("DECODED " + JSON.stringify([...tokens, ...generated]));
await context.dispose();
await model.dispose();
await close();
