// node-llama-cpp, from the folder that it was installed in: MODEL N_PREDICT FLASH(0|1) PROMPT. Prints what it decoded, and the
// seconds from its first token to its last, on the clock and of processors.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import path from "node:path";

const [folder, model_path, n_predict, flash, prompt] = process.argv.slice(2);
const at = createRequire(path.resolve(folder, "package.json"));
const {getLlama} = await import(pathToFileURL(at.resolve("node-llama-cpp")));
const llama = await getLlama({gpu: false, build: "never", progressLogs: false, logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: model_path});
const context = await model.createContext({contextSize: 512, flashAttention: flash === "1"});
const sequence = context.getSequence();
const tokens = model.tokenize(prompt);
const generated = [];
let begin = 0, before;
for await (const token of sequence.evaluate(tokens, {temperature: 0, yieldEogToken: true})) {
    generated.push(token);
    before ??= process.cpuUsage();
    begin ||= performance.now();
    if (generated.length >= +n_predict) break;
}
console.log("DECODED " + JSON.stringify([...tokens, ...generated]));
const {user, system} = process.cpuUsage(before);
console.log(`SECONDS ${(performance.now() - begin) / 1000} ${(user + system) / 1e6}`);
await context.dispose();
await model.dispose();
