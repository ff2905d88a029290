// How many clicks the things that one wants first take, counted while they are done, and held against the table of docs/view.md.
//   node clicks.mjs ATTNSCOPE
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { capture, matrixReady, openPage, run, startBrowser, startView, textReady } from './viewer.mjs';

const binary = process.argv[2];
const work = mkdtempSync(join(tmpdir(), 'clicks-'));
const [a, b] = ['a.attn', 'b.attn'].map((name) => join(work, name));
capture(binary, a);
capture(binary, b, ['--cache-type-k', 'q8_0', '--flash-attn', 'on']);
const server = await startView(binary, [a, b]);
const browser = await startBrowser();

let clicks = 0;
let page;
const click = async (selector, options) => { ++clicks; await page.click(selector, options); };
const choose = async (label, value) => { clicks += 2; await page.selectOption(`.controls label:has-text("${label}") select`, value); }; // open, choose
const counted = [];
async function thing(what, doIt, goes_on = false) {
    if (!goes_on) {
        await page?.context().close();
        page = await openPage(browser, server.url);
        await textReady(page);
    }
    clicks = 0;
    await doIt();
    counted.push([what, goes_on ? `${clicks} more` : String(clicks)]);
    console.log(`${what} | ${counted.at(-1)[1]}`);
}
const later = (selector) => page.waitForSelector(selector, { timeout: 60000 });

try {
    await thing('what a token of the answer read', async () => {
        await page.hover('.tok.gen >> nth=3');
        await later('.side table.reads td.number');
        assert.match(await page.textContent('.side'), /generated/);
    });
    await thing('who read a word of the prompt', async () => {
        await page.hover('.tok:not(.gen) >> nth=30');
        await later('.side table.readers td.number');
    });
    await thing('which heads are induction heads', async () => {
        await click('nav button:has-text("Heads")');
        await choose('Up', 'induction');
        await later('.scatter canvas');
    });
    await thing('the matrix of such a head', async () => {
        const box = await page.locator('.scatter canvas').boundingBox();
        const metrics = await (await fetch(`${new URL(server.url).origin}/view/api/heads?r=0`)).json();
        const top = metrics.values.induction.indexOf(Math.max(...metrics.values.induction));
        const across = metrics.values.previous;
        const at = (across[top] - Math.min(...across)) / (Math.max(...across) - Math.min(...across));
        await click('.scatter canvas', { position: { x: 72 + at * (box.width - 86), y: 12 } });
        assert.match(await page.textContent('.side h2'), new RegExp(`Layer ${Math.floor(top / metrics.n_head)}, head ${top % metrics.n_head}`));
        await click('.side button:has-text("its matrix")');
        await matrixReady(page);
    }, true);
    await thing('the exact weight of one cell', async () => {
        await page.hover('.matrix-main canvas >> nth=0', { position: { x: 120, y: 260 } });
        await page.waitForFunction(() => /%/.test(document.querySelector('.matrix-hover output')?.textContent ?? ''), null, { timeout: 20000 });
    }, true);
    await thing('what a sentence of the answer was written from', async () => {
        await click('nav button:has-text("Flow")');
        await later('.flow-span .share');
        await click('.answers .flow-span >> nth=0');
        await later('.flow-span.chosen');
    });
    await thing('whether the numbers can be believed', async () => {
        await click('nav button:has-text("Health")');
        await later('.verdict.good');
    });
    await thing('what H2O would drop at 40%', async () => {
        await choose('Tint', 'h2o');
        await later('.tok.struck');
        const slider = await page.locator('input[type=range]').boundingBox();
        await click('input[type=range]', { position: { x: slider.width * 0.4, y: slider.height / 2 } });
        await page.waitForFunction(() => /tokens stay/.test(document.querySelector('.controls').textContent));
    });
    await thing('which heads change from one recording to the other', async () => {
        await click('nav button:has-text("Compare")');
        await later('.differences td');
    });
    await thing('all of this for somebody without attnscope', async () => {
        run(binary, ['export', a, '--to', 'html', '-o', join(work, 'a.html')]);
        assert.ok(statSync(join(work, 'a.html')).size > 100000);
    });
    const page_of_docs = readFileSync(new URL('../../docs/view.md', import.meta.url), 'utf8');
    const rows = page_of_docs.split('## What one wants first')[1].split('##')[0].match(/^\| [^|]+ \| \d.*$/gm);
    assert.deepEqual(rows.map((line) => parseInt(line.split('|')[2], 10)), counted.map(([, n]) => parseInt(n, 10)), 'docs/view.md counts otherwise');
} finally {
    await browser.close();
    await server.stop();
}
