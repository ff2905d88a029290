// Records what llama.cpp attends to in this Node.js process, from now on, as Python's attnscope.attach() does. Needs koffi from npm.
import {spawn} from "node:child_process";
import {once} from "node:events";
import {createInterface} from "node:readline";
import koffi from "koffi";

let attached = false;

export async function attach(folder, program = "attnscope") {
    if (attached) throw new Error("this process is attached already: one recording ends before the next begins");
    const recorder = spawn(program, ["attach", "--caller", "-o", folder, "--", ...process.argv],
                           {stdio: ["ignore", "pipe", "inherit"], detached: true}); // a control-C here does not end it
    const ended = once(recorder, "exit");
    ended.catch(() => {}); // where it cannot be started: told below
    const lines = createInterface({input: recorder.stdout})[Symbol.asyncIterator]();
    const library = (await lines.next()).value, inbox = (await lines.next()).value;
    if (!inbox) {
        await ended.catch(error => {
            const why = error.code === "ENOENT" ? "there is no such program in PATH; its path is the second argument of attach()" : error.message;
            throw new Error(`${program} cannot be started: ${why}`);
        });
        throw new Error("attnscope attach did not begin to record");
    }
    recorder.stdout.destroy(); // which would keep this process from its end
    process.env.ATTNSCOPE_ATTACH = inbox;
    // for all to see: what is loaded later finds these functions first
    const loaded = koffi.load(library, {global: true});
    loaded.func("void attnscope_attach_begin()")();
    recorder.unref();
    attached = true;
    return async function close() {
        attached = false;
        loaded.func("void attnscope_attach_end()")();
        recorder.kill("SIGTERM");
        recorder.ref();
        await ended;
    };
}
