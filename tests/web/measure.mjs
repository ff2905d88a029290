// How fast the page is on a recording, from the browser's own clocks: docs/view.md quotes it.
//   node measure.mjs ATTNSCOPE RECORDING
import { matrixReady, openPage, startBrowser, startView, textReady } from './viewer.mjs';

const [binary, recording] = process.argv.slice(2);
const median = (all) => [...all].sort((a, b) => a - b)[Math.floor(all.length / 2)];
const ms = (v) => `${v.toFixed(0)} ms`;
const server = await startView(binary, [recording]);
const browser = await startBrowser();
try {
    const started = Date.now();
    const page = await openPage(browser, server.url);
    await page.waitForFunction(() => document.querySelectorAll('.tok').length > 0, null, { timeout: 120000 });
    const paints = await page.evaluate(() => performance.getEntriesByType('paint').map((e) => [e.name, e.startTime]));
    console.log(`text on the page after ${Date.now() - started} ms; ${paints.map(([n, t]) => `${n} ${ms(t)}`).join(', ')}`);
    await textReady(page);
    console.log(`tinted after ${Date.now() - started} ms`);
    // The first column asks for everything in memory; afterwards only what is new.
    await page.waitForSelector('.side table.readers', { timeout: 600000 });
    console.log(`who reads the token, for the first time, after ${Date.now() - started} ms`);
    const times = [];
    for (let i = 0; i < 20; ++i) {
        times.push(await page.evaluate(async () => {
            const place = document.querySelector('.text-place');
            const before = place.dataset.ready;
            const start = performance.now();
            window.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
            while (place.dataset.ready === before || Number(place.dataset.ready) !== Number(new URLSearchParams(location.hash.slice(1)).get('token') ?? NaN)) {
                await new Promise((r) => setTimeout(r, 1));
                if (performance.now() - start > 20000) break;
            }
            return performance.now() - start;
        }));
    }
    console.log(`token to token: median ${ms(median(times))}, worst ${ms(Math.max(...times))}`);
    await page.evaluate(() => { location.hash = 'view=matrix&layer=7&head=3'; });
    const matrix = Date.now();
    await matrixReady(page).catch(() => console.log('the picture takes longer than a minute'));
    console.log(`picture of one head after ${Date.now() - matrix} ms`);
    const zooms = [];
    for (let i = 0; i < 8; ++i) {
        const start = Date.now();
        await page.keyboard.press('+');
        await page.waitForTimeout(1);
        await matrixReady(page);
        zooms.push(Date.now() - start);
    }
    console.log(`zoom steps until all tiles are there: ${zooms.map(ms).join(', ')}`);
    const frames = await page.evaluate(async () => {
        const times = [];
        let last = performance.now();
        const end = last + 3000;
        while (last < end) {
            window.dispatchEvent(new KeyboardEvent('keydown', { key: ['ArrowLeft', 'ArrowRight'][times.length % 2] }));
            await new Promise((r) => requestAnimationFrame(r));
            const now = performance.now();
            times.push(now - last);
            last = now;
        }
        return times;
    });
    console.log(`panning: ${(1000 / median(frames)).toFixed(0)} frames a second (median), worst frame ${ms(Math.max(...frames))}`);
    console.log(`page memory: ${(await page.evaluate(() => performance.memory?.usedJSHeapSize ?? NaN) / 1e6).toFixed(0)} MB`);
    const start = Date.now();
    const origin = new URL(server.url).origin;
    for (let done = 202; done === 202;) {
        const answer = await fetch(`${origin}/view/api/heads?r=0`);
        done = answer.status;
        await answer.arrayBuffer();
        await new Promise((r) => setTimeout(r, 100));
        if (Date.now() - start > Number(process.env.MOST_HEADS_MS ?? 600000)) {
            console.log('metrics of all heads take longer');
            break;
        }
    }
    console.log(`metrics of all heads: ${((Date.now() - start) / 1000).toFixed(1)} s`);
} finally {
    await browser.close();
    await server.stop();
}
