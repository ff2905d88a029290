// @fugood/llama.node, from the folder that it was installed in: MODEL N_PREDICT FLASH(0|1) PROMPT. Prints what it decoded.
import {createRequire} from "node:module";
import path from "node:path";

const [folder, model, n_predict, flash, prompt] = process.argv.slice(2);
const {loadModel} = createRequire(path.resolve(folder, "package.json"))("@fugood/llama.node");
const context = await loadModel({model, n_ctx: 512, n_gpu_layers: 0, n_threads: 1,
                                 flash_attn_type: flash === "1" ? "on" : "off"});
const {tokens} = await context.tokenize(prompt);
const result = await context.completion({prompt, n_predict: +n_predict, temperature: 0, ignore_eos: true}, () => {});
console.log("TEXT " + JSON.stringify(prompt + result.text));
await context.release();
