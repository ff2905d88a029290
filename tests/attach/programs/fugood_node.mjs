// @fugood/llama.node, from the folder that it was installed in: MODEL N_PREDICT FLASH(0|1) PROMPT. Prints what it decoded, and the
// seconds from its first token to its last, on the clock and of processors.
import {createRequire} from "node:module";
import path from "node:path";

const [folder, model, n_predict, flash, prompt] = process.argv.slice(2);
const {loadModel} = createRequire(path.resolve(folder, "package.json"))("@fugood/llama.node");
const context = await loadModel({model, n_ctx: 512, n_gpu_layers: 0, n_threads: 1,
                                 flash_attn_type: flash === "1" ? "on" : "off"});
const {tokens} = await context.tokenize(prompt);
let begin = 0, before;
const on_token = () => {
    before ??= process.cpuUsage();
    begin ||= performance.now();
};
const result = await context.completion({prompt, n_predict: +n_predict, temperature: 0, ignore_eos: true}, on_token);
const seconds = (performance.now() - begin) / 1000, {user, system} = process.cpuUsage(before);
console.log("TEXT " + JSON.stringify(prompt + result.text));
console.log(`SECONDS ${seconds} ${(user + system) / 1e6}`);
await context.release();
