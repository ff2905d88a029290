// How fast the page is on a long recording, from the browser's own clocks: prints the table that stands in docs/view.md.
//   node measure.mjs ATTNSCOPE MADE_RECORDING [RECORDING]
// RECORDING is made where it is not given: 32,768 tokens of random queries and keys, 30 layers x 9 heads (1.5 GB in the folder for
// temporary files). MINUTES: of use, for the memory of the page (10). PARTS: some of text,steps,matrix,memory,heads (all).
import assert from 'node:assert/strict';
import { createReadStream, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { cpus, loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { openPage, run, startBrowser, startView } from './viewer.mjs';

const [binary, made, given] = process.argv.slice(2);
const folder = given ? undefined : mkdtempSync(join(tmpdir(), 'measure-'));
const recording = given ?? join(folder, 'long.attn');
if (!existsSync(recording)) run(made, ['long', recording]);
const minutes = Number(process.env.MINUTES ?? 10);
const parts = (process.env.PARTS ?? 'text,steps,matrix,memory,heads').split(',');
const part = (name) => parts.includes(name);

const sorted = (all) => [...all].sort((a, b) => a - b);
const median = (all) => sorted(all)[Math.floor(all.length / 2)];
const high = (all) => sorted(all)[Math.min(all.length - 1, Math.floor(all.length * 0.95))];
const ms = (v) => (v < 1000 ? `${v.toFixed(0)} ms` : `${(v / 1000).toFixed(2)} s`);
const spread = (all) => `${ms(median(all))}, 95% ${ms(high(all))}, at most ${ms(Math.max(...all))}`;
const mb = (v) => `${(v / 1e6).toFixed(0)} MB`;
const table = [];
const row = (what, bar, got) => {
    table.push(`| ${what} | ${bar} | ${got} |`);
    console.error(`${what}: ${got} (bar: ${bar})`);
};

// Reading the file alone: what the pass over all heads stands beside. The second time it lies in the system's memory, as for the page.
async function seconds_to_read() {
    const start = performance.now();
    for await (const _ of createReadStream(recording, { highWaterMark: 1 << 22 })); // eslint-disable-line
    return (performance.now() - start) / 1000;
}
await seconds_to_read();
const reading = await seconds_to_read();
const bytes = statSync(recording).size;

// When what stands on the page was painted: the frame after the one in which it was there.
function watch() {
    window.seen = {};
    const painted = (name) => requestAnimationFrame(() => requestAnimationFrame(() => { window.seen[name] ??= performance.now(); }));
    const look = () => {
        if (!window.seen.text && document.querySelector('.tok')) painted('text');
        if (!window.seen.tinted && document.querySelector('.text-place')?.dataset.ready) painted('tinted');
        if (!window.seen.text || !window.seen.tinted) requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}

let server = await startView(binary, [recording]);
const browser = await startBrowser();
let drawn_by = '';
try {
    for (const cold of part('text') ? [true, false] : []) { // a server that just started, and one that has the keys in memory
        const page = await openPage(browser, 'about:blank');
        await page.addInitScript(watch);
        await page.goto(server.url);
        await page.waitForFunction(() => window.seen.tinted, null, { timeout: 120000 });
        const { text, tinted } = await page.evaluate(() => window.seen);
        const n = await page.evaluate(() => document.querySelectorAll('*').length);
        row(cold ? 'the text is on the page' : '... opened again', '1.5 s', ms(text));
        row(cold ? 'and tinted by what the last token reads, all 270 heads' : '... and tinted', '1.5 s', ms(tinted));
        if (cold) row('elements on the page, of 32,768 tokens', '', String(n));
        // What of it is the server's: from when each question was asked to when its answer was there, ms after the page was asked for.
        const asked = await page.evaluate(() => performance.getEntriesByType('resource').filter((e) => e.startTime < window.seen.tinted)
            .map((e) => `${new URL(e.name).pathname.split('/').at(-1)} ${e.startTime.toFixed(0)}-${e.responseEnd.toFixed(0)}`));
        console.error(`  ${asked.join(', ')}`);
        await page.context().close();
    }
    const page = await openPage(browser, server.url);
    const devtools = await page.context().newCDPSession(page);
    await page.waitForSelector('.text-place[data-ready]:not([data-ready=""])', { timeout: 120000 });

    // From the key to the frame that shows the token's colours.
    const steps = (count, key, pause, from) => page.evaluate(async ([count, key, pause, from]) => {
        const place = document.querySelector('.text-place');
        const times = [];
        for (let i = 0; i < count; ++i) {
            await new Promise((r) => setTimeout(r, pause));
            const start = performance.now();
            const wanted = String(from + (key === 'ArrowLeft' ? -1 - i : 1 + i));
            window.dispatchEvent(new KeyboardEvent('keydown', { key }));
            if (place.dataset.ready !== wanted) {
                await new Promise((there, late) => {
                    const timer = setTimeout(() => late(new Error(`token ${wanted} does not come; ${place.dataset.ready} is there`)), 20000);
                    const observer = new MutationObserver(() => {
                        if (place.dataset.ready !== wanted) return;
                        observer.disconnect();
                        clearTimeout(timer);
                        there();
                    });
                    observer.observe(place, { attributes: true, attributeFilter: ['data-ready'] });
                });
            }
            await new Promise((r) => requestAnimationFrame(r));
            times.push(performance.now() - start);
        }
        return times;
    }, [count, key, pause, from]);
    const arrows = async () => {
        const last = Number(await page.getAttribute('.text-place', 'data-ready'));
        row('token to token, four a second, all 270 heads', '50 ms', spread(await steps(30, 'ArrowLeft', 250, last)));
        row('as fast as they come (each waits for the one before)', '50 ms', spread(await steps(40, 'ArrowLeft', 0, last - 30)));
        // A key that is held down, thirty times a second: how far behind the last one is.
        const behind = await page.evaluate(async (from) => {
            const place = document.querySelector('.text-place');
            const shown = new Set();
            const observer = new MutationObserver(() => shown.add(place.dataset.shown));
            observer.observe(place, { attributes: true, attributeFilter: ['data-shown'] });
            const begin = performance.now();
            for (let i = 0; i < 90; ++i) {
                await new Promise((r) => setTimeout(r, Math.max(0, begin + i * 33.3 - performance.now())));
                window.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
            }
            const last = performance.now();
            while (place.dataset.ready !== String(from - 90)) await new Promise((r) => requestAnimationFrame(r));
            observer.disconnect();
            return { ms: performance.now() - last, shown: shown.size };
        }, last - 70);
        row('held down, 30 a second for 3 s: the last one is there after', '50 ms', `${ms(behind.ms)}; ${behind.shown} of 90 tokens were shown on the way`);
        await page.evaluate(() => { location.hash = 'view=text&token=20000&layer=7&head=3'; });
        await page.waitForSelector('.text-place[data-ready="20000"]');
        row('the same of one head', '50 ms', spread(await steps(30, 'ArrowRight', 0, 20000)));
    };
    if (part('steps')) await arrows();
    drawn_by = await page.evaluate(() => {
        const gl = document.createElement('canvas').getContext('webgl2');
        return gl?.getParameter(gl.getExtension('WEBGL_debug_renderer_info')?.UNMASKED_RENDERER_WEBGL ?? gl.RENDERER) ?? 'nobody';
    });

    let start = 0;
    const matrix = async () => {
        await page.evaluate(() => { performance.clearResourceTimings(); location.hash = 'view=matrix&layer=7&head=3'; });
        start = performance.now();
        await page.waitForFunction(() => window.attnscope_matrix?.settled && window.attnscope_matrix.frames > 1, null, { timeout: 120000 });
        row("a head's picture, all 32,768 x 32,768, for the first time", '', ms(performance.now() - start));
        const zooms = { drawn: [], whole: [] };
        for (const key of ['+', '+', '+', '+', '+', '+', '-', '-', '-', '-', '-', '-']) {
            const { drawn, whole } = await page.evaluate(async (key) => {
                const m = window.attnscope_matrix;
                const frames = m.frames;
                const start = performance.now();
                window.dispatchEvent(new KeyboardEvent('keydown', { key }));
                while (m.frames === frames) await new Promise((r) => requestAnimationFrame(r));
                const drawn = performance.now() - start;
                while (!m.settled) await new Promise((r) => setTimeout(r, 2));
                return { drawn, whole: performance.now() - start };
            }, key);
            zooms.drawn.push(drawn);
            zooms.whole.push(whole);
        }
        row('a zoom step, to its first frame', '100 ms', spread(zooms.drawn));
        row('... until every tile of it is there', '100 ms', spread(zooms.whole));
        const tiles = await page.evaluate(() => performance.getEntriesByType('resource').filter((e) => e.name.includes('/tile?') && e.responseStatus === 200)
            .map((e) => ({ ms: e.responseEnd - e.requestStart, level: Number(new URL(e.name).searchParams.get('level')) })));
        for (const [what, of] of [['a picture tile that is kept', tiles.filter((t) => t.level >= 4)], ['a finer one, made from its rows', tiles.filter((t) => t.level < 4)]])
            if (of.length > 0) row(`${what}: from question to answer`, '', `${spread(of.map((t) => t.ms))} (${of.length})`);
        const frames = await page.evaluate(async () => {
            const times = [];
            let before = performance.now();
            const end = before + 3000;
            while (before < end) {
                window.dispatchEvent(new KeyboardEvent('keydown', { key: ['ArrowLeft', 'ArrowRight'][times.length % 2] }));
                await new Promise((r) => requestAnimationFrame(r));
                const now = performance.now();
                times.push(now - before);
                before = now;
            }
            return times;
        });
        row('frames a second while it is dragged', '60', `${(1000 / median(frames)).toFixed(0)}; ${frames.length} frames in 3 s`);
    };
    if (part('matrix')) await matrix();

    // Somebody at work: every few seconds another token, head, place of the picture. What is left is what a collection leaves.
    const heap = async () => {
        await devtools.send('HeapProfiler.collectGarbage');
        const { metrics } = await devtools.send('Performance.getMetrics');
        const of = (name) => metrics.find((m) => m.name === name)?.value ?? NaN;
        const resident = readFileSync(`/proc/${server.pid}/status`, 'utf8').match(/VmRSS:\s+(\d+)/)[1];
        return { used: of('JSHeapUsedSize'), nodes: of('Nodes'), server: 1024 * Number(resident) };
    };
    await devtools.send('Performance.enable');
    const samples = [];
    const end = performance.now() + (part('memory') ? minutes : 0) * 60000;
    for (let i = 0; performance.now() < end; ++i) {
        const turn = Math.floor(i / 3) % 3;
        await page.evaluate((hash) => { location.hash = hash; }, i % 3 === 0
            ? `view=matrix&layer=7&head=${turn}&camera=${(i * 997) % 20000},${(i * 991) % 20000},${[1, 4, 16][turn]}`
            : `view=text&token=${(i * 7919) % 32768}&layer=7&head=${turn}`);
        await page.waitForTimeout(700);
        for (let k = 0; k < 5; ++k) await page.keyboard.press(i % 3 === 0 ? ['ArrowLeft', '+', 'ArrowDown', '-', 'ArrowUp'][k] : 'ArrowRight');
        await page.waitForTimeout(800);
        if (i % 10 === 9) samples.push(await heap());
    }
    const third = Math.max(1, Math.floor(samples.length / 3));
    const mean = (all) => all.reduce((a, b) => a + b, 0) / all.length;
    if (samples.length > 2) {
        const [early, late] = [samples.slice(0, third), samples.slice(-third)].map((part) => mean(part.map((s) => s.used)));
        row(`memory of the page's script over ${minutes} minutes of use`, 'steady', `${mb(early)} in the first third, ${mb(late)} in the last; ${samples.at(-1).nodes} nodes`);
        row('... of the program', 'at most 6 GB of queries and keys', `${mb(samples[0].server)} at first, ${mb(samples.at(-1).server)} at last`);
    }
    assert.deepEqual(page.wrong, []);
    await page.context().close();

    if (part('heads')) { // by a server that has done nothing else
        await server.stop();
        rmSync(`${recording}.heads.json`, { force: true });
        server = await startView(binary, [recording]);
        start = performance.now();
        for (let status = 202; status === 202;) {
            const answer = await fetch(`${new URL(server.url).origin}/view/api/heads?r=0`);
            status = answer.status;
            await answer.arrayBuffer();
            await new Promise((r) => setTimeout(r, 200));
        }
        const took = (performance.now() - start) / 1000;
        rmSync(`${recording}.heads.json`, { force: true });
        const weights = (270 * 32768 * 32769) / 2;
        row('metrics of all 270 heads, one pass', 'with progress', `${took.toFixed(0)} s: ${(weights / took / 1e6).toFixed(0)} million weights a second, ${(bytes / took / 1e6).toFixed(1)} MB of the file a second`);
        row('reading the file alone', '', `${reading.toFixed(2)} s: ${(bytes / reading / 1e6).toFixed(0)} MB a second`);
    }
} finally {
    await browser.close();
    await server.stop();
    if (folder) rmSync(folder, { recursive: true, force: true });
}
console.log(`${cpus().length} x ${cpus()[0].model.trim()}, load ${loadavg()[1].toFixed(1)}; WebGL2: ${drawn_by}\n\n| | bar | measured |\n|---|---|---|\n${table.join('\n')}`);
