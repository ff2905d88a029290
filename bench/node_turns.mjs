// What node_turns.py runs: FOLDER MODEL N_TOKENS N_ROUNDS, node-llama-cpp from the folder that it was installed in. Requests past our library and
// through it, in turns; a line for each: 1 (past it) or 0, milliseconds a token from the first to the last.
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";
import path from "node:path";
import fs from "node:fs";

const [folder, model_path, n_tokens, n_rounds] = process.argv.slice(2);
const installed = createRequire(path.resolve(folder, "package.json"));
const {getLlama} = await import(pathToFileURL(installed.resolve("node-llama-cpp")));
const llama = await getLlama({gpu: false, build: "never", progressLogs: false, logLevel: "error", maxThreads: 1});
const model = await llama.loadModel({modelPath: model_path});
const context = await model.createContext({contextSize: 1024, flashAttention: true});
const sequence = context.getSequence();
const file = fs.openSync(process.env.PASS_BY, "r+"); // of pass_by.cpp
let seed = 1;
async function request(past) {
    fs.writeSync(file, new BigUint64Array([BigInt(past)]), 0, 8, 0);
    await sequence.clearHistory();
    const prompt = Array.from({length: 12}, () => 300 + (seed = (seed * 48271) % 2147483647) % 40000);
    let n = 0, begin = 0;
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        begin ||= performance.now();
        if (++n > +n_tokens) break;
    }
    console.log(`REQUEST ${past} ${(performance.now() - begin) / n_tokens}`);
}
for (const past of [1, 0]) await request(past);
for (let i = 0; i < +n_rounds; ++i) for (const past of i % 2 ? [0, 1, 1, 0] : [1, 0, 0, 1]) await request(past);
await context.dispose();
await model.dispose();
