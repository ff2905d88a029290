// Every view of the page on a real recording, live on a real server, and as a file from the disk; texts of strangers.
//   node view.test.mjs ATTNSCOPE MADE_RECORDING [PART,PART]
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync, openSync, writeSync, closeSync, copyFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { comparableParts } from './comparable.mjs';
import { sequenceParts } from './sequences.mjs';
import { servingParts } from './serving.mjs';
import { startAttnscope } from './serve.mjs';
import { capture, matrixReady, openPage, percentOf, prints, question, run, startBrowser, startView, textReady } from './viewer.mjs';

const [binary, made] = process.argv.slice(2);
const work = mkdtempSync(join(tmpdir(), 'view-'));
const a = join(work, 'a.attn');
const b = join(work, 'b.attn');
capture(binary, a);
capture(binary, b, ['--cache-type-k', 'q8_0', '--flash-attn', 'on']);
const browser = await startBrowser();

// No serious finding of axe-core, in either theme. Not as a script of the page: its policy would refuse that.
const axe = readFileSync(new URL('node_modules/axe-core/axe.min.js', import.meta.url), 'utf8');
async function accessible(page, what) {
    await page.evaluate(axe);
    const violations = await page.evaluate(async () => (await window.axe.run(document, { resultTypes: ['violations'] })).violations
        .filter((v) => ['serious', 'critical'].includes(v.impact)).map((v) => `${v.id}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160)).join(' | ')}`));
    assert.deepEqual(violations, [], `${what}: axe`);
}

const fine = (page, what) => assert.deepEqual(page.wrong, [], what);

async function onARecording() {
    const server = await startView(binary, [a, b]);
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        // The numbers are show's.
        const shown = JSON.parse(run(binary, ['show', a, '--json', '--hide-first', '--top', '8']));
        const rows = await page.$$eval('.side table.reads tr', (all) => all.map((tr) => [...tr.children].map((td) => td.textContent)));
        assert.equal(rows.length, 8);
        rows.forEach(([weight, column], i) => {
            assert.equal(Number(column), shown.top[i].column);
            assert.ok(prints(weight, shown.top[i].weight), `${weight} is not ${shown.top[i].weight}`);
        });
        assert.ok(await page.$$eval('.tok', (all) => all.filter((t) => t.style.backgroundColor !== '').length) > 10, 'nothing is tinted');
        // Keys move the selection, and the address says so.
        await page.keyboard.press('ArrowLeft');
        await page.waitForFunction(() => /token=\d+/.test(location.hash));
        const token = Number(new URL(page.url()).hash.match(/token=(\d+)/)[1]);
        assert.equal(token, shown.token - 1);
        await page.keyboard.press('?');
        assert.ok(await page.isVisible('.help kbd'));
        await page.keyboard.press('Escape');
        assert.equal(await page.$('.help'), null);
        for (const tint of ['readers', 'total', 'brightness', 'h2o', 'snapkv', 'tova']) {
            await page.selectOption('.controls label:has-text("Tint") select', tint);
            await page.waitForTimeout(300);
            fine(page, tint);
        }
        // A list that was chosen from gives the keys back; Escape takes them from one that has them, and "?" is none of its own.
        const list = '.controls label:has-text("Tint") select';
        const has_keys = () => page.evaluate(() => document.activeElement?.tagName === 'SELECT');
        await page.focus(list);
        await page.keyboard.press('?');
        assert.ok(await page.isVisible('.help kbd'), '"?" does nothing in a list');
        await page.keyboard.press('Escape');
        assert.equal(await has_keys(), false, 'Escape does not leave a list');
        await page.keyboard.press('Escape');
        await page.focus(list);
        await page.selectOption(list, 'h2o');
        assert.equal(await has_keys(), false, 'a list keeps the keys');
        assert.ok(await page.$$eval('.tok.struck', (all) => all.length) > 5, 'a budget of a half drops nothing');

        await page.keyboard.press('2');
        await page.waitForSelector('.side table.metrics', { timeout: 60000 });
        await page.waitForSelector('.side table.strongest tr');
        const box = await page.locator('.grid canvas').boundingBox();
        await page.mouse.click(box.x + box.width / 2, box.y + box.height / 3);
        await page.waitForFunction(() => /layer=\d+/.test(location.hash));
        fine(page, 'heads');

        await page.keyboard.press('3');
        await matrixReady(page);
        const colours = () => page.evaluate(() => {
            const canvas = document.querySelector('.matrix-main canvas');
            const copy = document.createElement('canvas');
            copy.width = canvas.width;
            copy.height = canvas.height;
            const c = copy.getContext('2d');
            c.drawImage(canvas, 0, 0);
            const data = c.getImageData(0, 0, copy.width, copy.height).data;
            const seen = new Set();
            for (let i = 0; i < data.length; i += 4 * 97) seen.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
            return seen.size;
        });
        assert.ok(await colours() > 20, `the matrix has ${await colours()} colours`);
        await page.mouse.move(box.x + 30, 300);
        await page.waitForFunction(() => /%/.test(document.querySelector('.matrix-hover output')?.textContent ?? ''), null, { timeout: 10000 });
        const hover = await page.textContent('.matrix-hover');
        const [, query, key] = hover.match(/query (\d+) .* reads key (\d+)/s);
        const hash = new URLSearchParams(new URL(page.url()).hash.slice(1));
        const values = JSON.parse(run(binary, ['show', a, '--json', '--values', '--token', query, '--layer', hash.get('layer'), '--head', hash.get('head') ?? '0'])).values;
        assert.ok(Math.abs(percentOf(await page.textContent('.matrix-hover output')) - (values[key] ?? 0)) < 1e-3 * (values[key] ?? 0) + 1e-6);
        // By keys one comes closer to something, not to the empty half of the picture.
        await page.keyboard.press('0');
        for (let i = 0; i < 5; ++i) {
            await page.keyboard.press('+');
            await matrixReady(page);
            assert.ok(await colours() > 3, `after ${i + 1} times "+" nothing is in sight`);
        }
        for (const press of ['+', '+', 'ArrowRight', '0', 'x']) await page.keyboard.press(press);
        await matrixReady(page);
        // Without a pointer: Tab reaches the picture, arrows go from cell to cell, the weight is told.
        await page.mouse.move(600, 2);
        await page.focus('.matrix-main canvas >> nth=0');
        await page.evaluate(() => document.activeElement.blur()); // from where Tab goes on
        await page.keyboard.press('Shift+Tab');
        await page.keyboard.press('Tab');
        assert.ok(await page.$eval('.matrix-main canvas', (canvas) => canvas.matches(':focus')), 'Tab does not reach the picture');
        const at_cell = async () => {
            await page.waitForFunction(() => /%/.test(document.querySelector('.matrix-hover output')?.textContent ?? ''), null, { timeout: 10000 });
            return (await page.textContent('.matrix-hover')).match(/query (\d+) .* reads key (\d+)/s).slice(1).map(Number);
        };
        const cell = await at_cell();
        for (const press of ['ArrowUp', 'Shift+ArrowLeft', 'ArrowLeft', 'ArrowRight', 'ArrowLeft']) await page.keyboard.press(press);
        await page.waitForTimeout(100);
        assert.deepEqual(await at_cell(), [cell[0] - 1, cell[1] - 11]);
        const words = new URLSearchParams(new URL(page.url()).hash.slice(1));
        const row = JSON.parse(run(binary, ['show', a, '--json', '--values', '--token', String(cell[0] - 1), '--layer', words.get('layer'), '--head', words.get('head') ?? '0'])).values;
        assert.equal(Math.fround(Number(await page.textContent('.matrix-hover .exact'))), Math.fround(row[cell[1] - 11]));
        await page.keyboard.press('?');
        const arrows = await page.$$eval('.help div', (all) => all.map((d) => [d.querySelector('dt').textContent, d.querySelector('dd').textContent]).filter(([keys]) => keys.includes('←')));
        assert.deepEqual(arrows.map(([, says]) => says), ['10 tokens back', 'key before, on the picture (Tab goes there)', '10 further, on the picture', 'all to the left, elsewhere'], JSON.stringify(arrows));
        await page.keyboard.press('Escape');
        // Next to nothing looks like nothing on light paper, and the legend says so.
        for (const theme of ['light', 'dark']) {
            await page.evaluate((t) => { location.hash = location.hash.replace(/&theme=\w+/, '') + `&theme=${t}`; }, theme);
            await page.waitForFunction((t) => document.documentElement.dataset.theme === t, theme);
            await page.waitForTimeout(100);
            const low = await page.$eval('.legend canvas', (canvas) => [...canvas.getContext('2d').getImageData(0, 0, 1, 1).data.slice(0, 3)]);
            assert.ok(theme === 'light' ? Math.min(...low) >= 250 : Math.max(...low) < 100, `${theme}: the lowest is ${low}`);
            assert.match(await page.textContent('.legend figcaption'), /not seen/);
        }
        fine(page, 'matrix');

        await page.keyboard.press('4');
        await page.waitForSelector('.flow-span .share');
        await page.keyboard.press('r');
        await page.waitForTimeout(500);
        fine(page, 'flow');
        await page.keyboard.press('5');
        await page.waitForSelector('.verdict.good', { timeout: 60000 });
        fine(page, 'health');
        await page.goto(`${server.url}#view=compare`);
        await page.waitForSelector('.differences td', { timeout: 60000 });
        const distances = await page.$$eval('.differences tbody tr', (all) => all.map((tr) => tr.children[2].textContent));
        assert.equal(distances.length, 270);
        const numbers = distances.map(percentOf);
        assert.ok(numbers[0] > numbers[269] && numbers[0] < 1, 'heads are not sorted by what differs');
        fine(page, 'compare');
        assert.ok(page.asked.every((url) => url.startsWith(new URL(server.url).origin) || url.startsWith('data:') || url.startsWith('blob:')), 'a request left the machine');
        await page.context().close();

        for (const theme of ['light', 'dark']) {
            for (const [view, there] of [['text', '.text-place[data-ready]'], ['heads', 'table.strongest'], ['matrix', '.matrix-foot'], ['flow', '.share'],
                ['health', '.verdict'], ['compare', '.differences']]) {
                const looked = await openPage(browser, `${server.url}#view=${view}&theme=${theme}`);
                await looked.waitForSelector(there, { timeout: 60000 });
                await looked.waitForTimeout(300);
                await accessible(looked, `${view}, ${theme}`);
                await looked.context().close();
            }
        }

        // A linked view, dark, on a phone.
        const phone = await openPage(browser, `${server.url}#token=20&theme=dark&layer=3`, { viewport: { width: 390, height: 800 } });
        await textReady(phone);
        assert.equal(await phone.evaluate(() => document.documentElement.dataset.theme), 'dark');
        assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth <= innerWidth), true, 'the page is wider than a phone');
        assert.match(await phone.textContent('.side'), /token 20 /);
        assert.ok(await phone.isVisible('header label:has-text("Theme") select'), 'a phone has no theme');
        await phone.evaluate(() => { location.hash = 'view=nothing'; });
        await phone.click('.note.odd .close');
        assert.equal(await phone.$('.note'), null);
        await phone.evaluate(() => { location.hash = 'view=flow'; });
        await phone.waitForSelector('.flow-span .share');
        assert.ok(await phone.isVisible('.flow-main .narrow'), 'nothing says why there are no ribbons');
        fine(phone, 'phone');
        await phone.context().close();

        // Nobody else's page gets anything; not even work is done for it.
        const origin = new URL(server.url).origin;
        const answer = async (headers) => (await fetch(`${origin}/view/api/info?r=0`, { headers })).status;
        assert.equal(await answer({}), 200);
        assert.equal(await answer({ Origin: 'http://evil.example' }), 403);
        assert.equal(await answer({ 'Sec-Fetch-Site': 'cross-site' }), 403);
        for (const path of ['sources', 'compare?a=0&b=1', 'heads?r=0']) {
            assert.equal((await fetch(`${origin}/view/api/${path}`, { headers: { 'Sec-Fetch-Site': 'cross-site' } })).status, 403, path);
        }
        for (const r of ['../../etc/passwd', '..%2fa.attn', '7', '-1', '']) {
            assert.ok((await fetch(`${origin}/view/api/info?r=${r}`)).status >= 400, r);
        }
        const policy = (await fetch(server.url)).headers.get('Content-Security-Policy');
        assert.match(policy, /default-src 'none'/);
        assert.doesNotMatch(policy, /unsafe/);
    } finally {
        await server.stop();
    }
}

// While an answer is on its way, numbers stand under the token whose they are.
async function slowAnswers() {
    const server = await startView(binary, [a]);
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        await page.waitForSelector('.side table.readers td');
        const shown = (token) => JSON.parse(run(binary, ['show', a, '--token', String(token), '--json', '--hide-first', '--top', '8'])).top;
        const stands = () => page.evaluate(() => ({
            token: Number(document.querySelector('.side').textContent.match(/token (\d+) /)[1]),
            rows: [...document.querySelectorAll('.side table.reads tr')].map((tr) => [...tr.children].slice(0, 2).map((td) => td.textContent)),
        }));
        const agree = ({ token, rows }) => shown(token).forEach(({ column, weight }, i) => {
            assert.equal(Number(rows[i][1]), column, `token ${token}`);
            assert.ok(prints(rows[i][0], weight), `token ${token}: ${rows[i][0]} is not ${weight}`);
        });
        const before = await stands();
        agree(before);
        await page.route('**/api/row*', async (route) => { await new Promise((r) => setTimeout(r, 1500)); await route.continue(); });
        await page.keyboard.press('Shift+ArrowLeft');
        await page.waitForTimeout(300);
        agree(await stands());
        await page.waitForFunction((token) => document.querySelector('.text-place').dataset.ready === String(token), before.token - 10, { timeout: 20000 });
        const after = await stands();
        assert.equal(after.token, before.token - 10);
        agree(after);
        // Nor do colours stand under a heading that is not theirs.
        await page.route('**/api/scores*', async (route) => { await new Promise((r) => setTimeout(r, 1500)); await route.continue(); });
        await page.selectOption('.controls label:has-text("Tint") select', 'total');
        await page.waitForSelector('.text-place[data-stale]', { timeout: 1000 });
        assert.match(await page.textContent('.side .computing'), /computing total over the generation/);
        assert.equal(await page.$('.side .legend'), null);
        const tinted = () => page.$$eval('.tok', (all) => all.filter((tok) => getComputedStyle(tok).backgroundColor !== 'rgba(0, 0, 0, 0)').length);
        assert.equal(await tinted(), 0, 'old colours stay');
        await page.waitForSelector('.side .legend', { timeout: 10000 });
        assert.equal(await page.$('[data-stale], .computing'), null);
        assert.ok(await tinted() > 5);
        fine(page, 'slow answers');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// Who runs through the text is shown the token he is at, not those that he has passed: rows that nobody waits for are not asked for.
async function passedBy() {
    const server = await startView(binary, [a]);
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        await page.waitForSelector('.side table.readers td');
        const from = Number(await page.getAttribute('.text-place', 'data-ready'));
        let asked = 0;
        await page.evaluate(() => {
            window.shown = new Set();
            const place = document.querySelector('.text-place');
            new MutationObserver(() => window.shown.add(place.dataset.shown)).observe(place, { attributes: true, attributeFilter: ['data-shown'] });
        });
        await page.route('**/api/row*', async (route) => { ++asked; await new Promise((r) => setTimeout(r, 400)); await route.continue(); });
        for (let i = 0; i < 30; ++i) await page.evaluate(() => new Promise((r) => {
            window.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
            requestAnimationFrame(() => requestAnimationFrame(r));
        }));
        const start = Date.now();
        await page.waitForFunction((token) => document.querySelector('.text-place').dataset.ready === String(token), from - 30, { timeout: 20000 });
        assert.ok(asked <= 3 + (Date.now() - start + 30 * 100) / 400 && asked < 25, `${asked} rows were asked for on the way over 30 tokens`);
        assert.ok(await page.evaluate(() => window.shown.size) >= 3, 'nothing was shown on the way');
        // Whoever turns round meets tokens that were passed by.
        for (const key of ['ArrowRight', 'ArrowRight', 'ArrowLeft', 'ArrowRight', 'ArrowRight']) await page.keyboard.press(key);
        await page.waitForFunction((token) => document.querySelector('.text-place').dataset.ready === String(token), from - 27, { timeout: 20000 });
        // Nor does what is asked for ahead overtake what somebody waits for.
        await page.waitForTimeout(1200);
        await page.keyboard.press('ArrowRight');
        await page.waitForTimeout(100);
        await page.keyboard.press('Shift+ArrowLeft');
        await page.waitForFunction((token) => document.querySelector('.text-place').dataset.ready === String(token), from - 36, { timeout: 20000 });
        fine(page, 'rows that were passed by');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// What is shown, as files: each view's CSV has rows, and its picture is not empty.
async function saved() {
    const server = await startView(binary, [a, b]);
    try {
        for (const [view, there, csv, png] of [
            ['text', '.text-place[data-ready]:not([data-ready=""])', /^a\.attn-token-\d+-mean\./],
            ['text&token=20&layer=18&head=6', '.text-place[data-ready="20"]', /^a\.attn-token-20-layer-18-head-6\./],
            ['text&token=20&tint=readers&layer=2&reduce=max', '.side table.readers td.number', /^a\.attn-token-20-readers-layer-2-max\./],
            ['heads', 'table.strongest tr', /^a\.attn-heads\./, /^a\.attn-heads-previous-first-entropy\./],
            ['matrix&token=30&layer=4', '.matrix-foot', /^a\.attn-token-30-layer-4-mean\./, /^a\.attn-matrix-layer-4-mean\./],
            ['flow&span=70-75&head=1', '.flow-span .share', /^a\.attn-flow-of-70-75-head-1-mean\./], ['health', '.verdict.good', /^a\.attn-health\./],
            ['compare', '.differences td', /^a\.attn-against-b\.attn-heads\./, /^a\.attn-against-b\.attn\./]]) {
            const page = await openPage(browser, `${server.url}#view=${view}`);
            await page.waitForSelector(there, { timeout: 60000 });
            if (view.startsWith('matrix')) await matrixReady(page);
            await page.waitForTimeout(300);
            for (const [key, kind] of [['c', 'csv'], ['p', 'png']]) {
                const [file] = await Promise.all([page.waitForEvent('download'), page.keyboard.press(key)]);
                assert.match(file.suggestedFilename(), new RegExp(`\\.${kind}$`), `${view}: ${file.suggestedFilename()}`);
                assert.match(file.suggestedFilename(), kind === 'csv' ? csv : png ?? csv, view);
                const bytes = readFileSync(await file.path());
                if (kind === 'csv') assert.ok(bytes.toString().split('\r\n').length > 4, `${view}: ${bytes}`);
                else {
                    assert.equal(bytes.subarray(1, 4).toString(), 'PNG');
                    const colours = await page.evaluate(async (base64) => {
                        const image = await createImageBitmap(await new Response(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))).blob());
                        const canvas = new OffscreenCanvas(image.width, image.height);
                        const c = canvas.getContext('2d');
                        c.drawImage(image, 0, 0);
                        const data = c.getImageData(0, 0, image.width, image.height).data;
                        const seen = new Set();
                        for (let i = 0; i < data.length; i += 4) seen.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
                        return seen.size;
                    }, bytes.toString('base64'));
                    assert.ok(colours > 8, `${view}: a picture of ${colours} colours`);
                    if (process.env.PICTURES) writeFileSync(join(process.env.PICTURES, `saved-${view}.png`), bytes);
                }
            }
            await page.keyboard.press('?');
            const listed = await page.$$eval('.help kbd', (all) => all.map((k) => k.textContent));
            for (const key of ['?', '←', '→', 'c', 'p', 't', 'm']) assert.ok(listed.includes(key), `${view}: "?" does not list ${key}`);
            fine(page, view);
            await page.context().close();
        }
    } finally {
        await server.stop();
    }
}

// The program is stopped and started again while somebody looks: every view says so, and goes on.
async function stoppedAndStarted() {
    const port = String(20000 + (process.pid % 10000));
    let server = await startView(binary, [a], ['--port', port]);
    const page = await openPage(browser, `${server.url}#view=matrix&layer=3&head=1`);
    try {
        await matrixReady(page);
        const views = [['text', 'ArrowLeft'], ['matrix&layer=4&head=2', '+'], ['heads&layer=9&head=1', 'ArrowUp'], ['flow&span=70-75', 'ArrowDown'], ['health', 'a']];
        for (const [view, key] of views) {
            await server.stop();
            await page.evaluate((v) => { location.hash = `view=${v}`; }, view);
            await page.waitForSelector('.failure:has-text("Was attnscope stopped?")', { timeout: 20000 });
            server = await startView(binary, [a], ['--port', port]);
            await page.waitForTimeout(1100);
            await page.keyboard.press(key);
            if (view.startsWith('matrix')) await matrixReady(page);
            if (/heads|flow|health/.test(view)) { // asked anew by who comes back
                await page.keyboard.press('1');
                await textReady(page);
                await page.evaluate((v) => { location.hash = `view=${v}`; }, view);
            }
            await page.waitForFunction(() => !document.querySelector('.failure'), null, { timeout: 20000 }).catch(() => assert.fail(`${view}: the sentence stays`));
        }
        page.wrong = page.wrong.filter((text) => !/ERR_CONNECTION_REFUSED/.test(text));
        fine(page, 'a program that was stopped and started');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// Of a long text only what is in sight costs elements; all of it is there, and can be found.
async function long() {
    const path = join(work, 'long.attn');
    run(made, ['long', path, '2000']);
    const server = await startView(binary, [path]);
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        const elements = () => page.$$eval('.tok', (all) => all.length);
        assert.ok(await elements() < 1500, `${await elements()} of 2,000 tokens are elements`);
        assert.equal((await page.textContent('.pane-text')).match(/ word\d+|\.↵|⟨⟩/g)?.length, 2000);
        assert.ok(await page.isVisible('.tok.selected'));
        for (const token of [0, 1000, 1999, 500]) {
            await page.evaluate((t) => { location.hash = `token=${t}`; }, token);
            await page.waitForSelector(`.text-place[data-ready="${token}"]`, { timeout: 60000 });
            assert.ok(await page.locator('.tok.selected').isVisible(), `token ${token} is not in sight`);
            // The pieces around it may be laid out a frame later.
            await page.waitForFunction(() => {
                const [place, box] = ['.text-place', '.tok.selected'].map((at) => document.querySelector(at)?.getBoundingClientRect());
                return box && box.top >= place.top - 4 && box.bottom <= place.bottom + 4;
            }, null, { timeout: 10000 }).catch(() => assert.fail(`token ${token} lies outside`));
        }
        const shown = JSON.parse(run(binary, ['show', path, '--token', '500', '--json', '--hide-first', '--top', '8']));
        await page.waitForFunction((column) => document.querySelector('.side table.reads tr td:nth-child(2)')?.textContent === String(column), shown.top[0].column);
        // Whoever leaves while the first pass for a column goes on and comes back gets it all the same.
        await page.route('**/api/column*', (route) => route.fulfill({ status: 202, contentType: 'application/json', body: '{"progress":0.5}' }));
        await page.keyboard.press('ArrowRight');
        await page.waitForSelector('.side progress', { timeout: 20000 });
        await page.keyboard.press('5');
        await page.waitForSelector('.verdict', { timeout: 60000 });
        await page.keyboard.press('1');
        await page.waitForSelector('.side progress', { timeout: 20000 });
        for (const key of ['ArrowLeft', 'ArrowRight', 'ArrowLeft', 'ArrowRight']) await page.keyboard.press(key);
        await page.unroute('**/api/column*');
        await page.waitForSelector('.side table.readers td.number', { timeout: 30000 });
        // Of a picture that is too large for the screen no cell falls between two pixels: a spike would be lost.
        await page.evaluate(() => { location.hash = 'view=matrix&layer=3&head=1'; });
        await matrixReady(page);
        for (const press of ['', '+', '+', '-', '-', '0']) {
            if (press) await page.keyboard.press(press);
            await page.waitForTimeout(250); // the address follows
            await matrixReady(page);
            const { level, pixels } = await page.evaluate(() => {
                const canvas = document.querySelector('.matrix-main canvas');
                const said = new URLSearchParams(location.hash.slice(1)).get('camera');
                const step = said ? Number(said.split(',')[2]) : 2000 / Math.min(canvas.clientWidth - 46, canvas.clientHeight - 18);
                return { level: window.attnscope_matrix.level, pixels: 2 ** window.attnscope_matrix.level / step };
            });
            assert.ok(pixels >= 1 - 1e-6, `after "${press}": a cell of level ${level} is ${pixels} pixels wide`);
        }
        fine(page, 'a long recording');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// Whatever a link says: the page shows something or says what is wrong, breaks nowhere, and goes on by its keys.
async function oddLinks() {
    const server = await startView(binary, [a, b]);
    const odd = ['token=1.5', 'token=-99', 'token=1e99', 'token=NaN', 'token=', 'token=99999999', 'layer=999', 'layer=2&head=999', 'head=-7', 'layer=1.5', 'view=nothing', 'view=live',
        'view=heads&x=__proto__&y=constructor&c=toString', 'view=heads&layer=1e9&head=1e9', 'view=matrix&camera=NaN,0,1', 'view=matrix&camera=1e300,1e300,1e-300',
        'view=matrix&camera=-1e300,0,1e5', 'view=matrix&camera=,,', 'view=matrix&layer=77', 'view=matrix&map=warm', 'view=flow&span=5-5', 'view=flow&span=0-1', 'view=flow&span=9-2',
        'view=flow&span=1-99999999999999999999', 'view=flow&span=<img src=x onerror=attacked=1>', 'tint=__proto__', 'tint=h2o&budget=NaN', 'tint=tova&budget=-5', 'tint=snapkv&budget=1e9',
        'view=compare&other=<script>', 'view=compare&other=0&source=0', 'source=../../etc/passwd', 'theme=<x>', 'reduce=median', '%', '%E0%A4%A', '&&&===', '#'.repeat(50), `token=${'9'.repeat(9000)}`];
    const said = {
        'view=nothing': /“nothing” is no view/, 'view=live': /nothing writes here/, 'token=99999999': /no token 99999999; this recording has tokens 0 to \d+: the last/,
        'layer=999': /no layer 999; this recording has layers 0 to 29: layer 29/, 'layer=2&head=999': /no head 999; this recording has heads 0 to 8/,
        'layer=1.5': /“1.5” is no layer/, 'view=flow&span=9-2': /“9-2” is no span.*: 2 to 8 is shown/, 'view=flow&span=<img src=x onerror=attacked=1>': /is no span/,
        'source=../../etc/passwd': /no recording “..\/..\/etc\/passwd”/, 'reduce=median': /“median” is no way to reduce rows/, [`token=${'9'.repeat(9000)}`]: /“9{40}…” is no token/,
    };
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        const last = await page.getAttribute('.text-place', 'data-ready');
        await page.evaluate(() => { location.hash = 'token=-5'; });
        await page.waitForSelector(`.text-place[data-ready="${Number(last) - 4}"]`, { timeout: 20000 });
        await page.waitForSelector('.side table.readers td.number', { timeout: 20000 });
        for (const words of odd) {
            await page.evaluate((hash) => { location.hash = hash; }, words);
            await page.waitForFunction(() => document.querySelector('main > *, main .failure')?.textContent.trim().length > 0, null, { timeout: 20000 });
            await page.waitForTimeout(150);
            assert.equal(await page.evaluate(() => window.attacked), undefined, words);
            if (said[words]) assert.match(await page.textContent('.note.odd'), said[words], words);
            if (/camera|^%|^&|^theme/.test(words) && !words.includes('<')) assert.equal(await page.$('.note.odd'), null, words);
            fine(page, words);
            for (const key of ['1', 'a', 'End']) await page.keyboard.press(key);
            await page.evaluate(() => { location.hash = ''; });
            await page.waitForSelector(`.text-place[data-ready="${last}"]`, { timeout: 20000 });
            assert.equal(await page.$('.failure, .note.odd'), null, `${words}: it does not go away`);
        }
        // A link that is followed right after a key, whose place in the address is still to be written.
        await page.evaluate(async () => {
            window.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowLeft' }));
            await new Promise((r) => setTimeout(r, 140));
            location.hash = 'token=12';
            for (const end = performance.now() + 30; performance.now() < end;); // the event of it waits
        });
        await page.waitForSelector('.text-place[data-ready="12"]', { timeout: 5000 });
        await page.evaluate(() => { location.hash = ''; });
        // Every key that "?" lists, in every view, in windows of odd sizes.
        for (const [width, height] of [[1280, 800], [320, 480], [1900, 260], [200, 200]]) {
            await page.setViewportSize({ width, height });
            for (const view of ['text', 'heads', 'matrix', 'flow', 'health', 'compare']) {
                await page.evaluate((v) => { location.hash = `view=${v}`; }, view);
                await page.waitForSelector('main > div', { timeout: 20000 });
                for (const key of ['j', 'k', 'Shift+J', 'g', 'G', ']', '}', '[', '{', 'm', 'l', 'h', 'ArrowUp', 'ArrowLeft', 'ArrowDown', 'ArrowRight', '+', '-', '0', 'x', 'r', 't', 'a', '?', 'Escape'])
                    await page.keyboard.press(key);
                await page.waitForTimeout(150);
                assert.equal(await page.$('.failure'), null, `${view}, ${width} x ${height}`);
                if (width >= 320) assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${view} is wider than ${width}`);
                fine(page, `${view}, ${width} x ${height}`);
            }
        }
        // By keys alone: everything that can be clicked is reached by Tab, and the list of keys closes again.
        await page.setViewportSize({ width: 1280, height: 800 });
        await page.evaluate(() => { location.hash = ''; });
        await textReady(page);
        const reached = new Set();
        for (let i = 0; i < 60; ++i) {
            await page.keyboard.press('Tab');
            reached.add(await page.evaluate(() => { const e = document.activeElement; return `${e.tagName} ${e.getAttribute('aria-label') ?? e.closest('label')?.textContent.slice(0, 12) ?? e.textContent.slice(0, 12)}`; }));
        }
        for (const [what, like] of [['views', /BUTTON Matrix/], ['saving', /BUTTON CSV/], ['tint', /SELECT Tint/], ['layer', /SELECT Layer/], ['the text', /DIV Text/], ['switches', /INPUT Log scale/]])
            assert.ok([...reached].some((r) => like.test(r)), `Tab does not reach ${what}: ${[...reached].join(', ')}`);
        fine(page, 'keys alone');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

async function withTextsOfStrangers() {
    const hostile = join(work, 'hostile.attn');
    run(made, ['hostile', hostile]);
    const html = join(work, 'hostile.html');
    run(binary, ['export', hostile, '--to', 'html', '-o', html]);
    const server = await startView(binary, [hostile]);
    try {
        for (const url of [server.url, pathToFileURL(html).href]) {
            const page = await openPage(browser, url);
            await textReady(page);
            for (const view of ['heads', 'flow', 'health', 'matrix', 'text']) {
                await page.evaluate((v) => { location.hash = `view=${v}&token=12`; }, view);
                await page.waitForTimeout(400);
            }
            await textReady(page);
            assert.equal(await page.evaluate(() => window.attacked), undefined, 'a token text ran');
            assert.equal(await page.$('.tok script, .tok img, .tok svg'), null, 'a token text became an element');
            const text = await page.textContent('.pane-text');
            assert.ok(text.includes('<script>window.attacked = 1</script>'));
            assert.ok(text.includes('⟨RLO⟩evil') && !text.includes('\u202e'));
            assert.ok(text.includes('👩‍🚀') && text.includes('👩'), 'characters that lie in two tokens are not whole');
            assert.ok(text.includes('␀␁␛') && text.includes('10,000 characters'));
            fine(page, url);
            await page.context().close();
        }
    } finally {
        await server.stop();
    }
}

async function fromADisk() {
    const html = join(work, 'a.html');
    const said = JSON.parse(run(binary, ['export', a, '--to', 'html', '--json', '-o', html]));
    assert.equal(said.heads, 270);
    assert.ok(statSync(html).size < 5e6);
    assert.doesNotMatch(readFileSync(html, 'utf8').replace(/http:\/\/www\.w3\.org\/[^\s"'`]*/g, ''), /(src|href)\s*=\s*["']?https?:/, 'the file refers to the outside');
    const page = await openPage(browser, pathToFileURL(html).href);
    await textReady(page);
    const shown = JSON.parse(run(binary, ['show', a, '--json', '--hide-first', '--top', '8']));
    const rows = await page.$$eval('.side table.reads tr', (all) => all.map((tr) => [...tr.children].map((td) => td.textContent)));
    rows.forEach(([weight, column], i) => {
        assert.equal(Number(column), shown.top[i].column);
        assert.ok(prints(weight, shown.top[i].weight), `${weight} is not ${shown.top[i].weight}`);
    });
    await page.evaluate(() => { location.hash = 'view=heads&layer=5&head=3'; });
    await page.waitForSelector('.side table.strongest tr');
    await page.keyboard.press('Enter');
    await matrixReady(page);
    await page.evaluate(() => { location.hash = 'view=text&layer=5&head=3'; });
    await textReady(page);
    const one = JSON.parse(run(binary, ['show', a, '--json', '--layer', '5', '--head', '3', '--hide-first', '--top', '1'])).top[0];
    await page.waitForFunction((column) => document.querySelector('.side table.reads tr td:nth-child(2)')?.textContent === String(column), one.column);
    const rounded = percentOf(await page.textContent('.side table.reads tr td'));
    assert.ok(Math.abs(rounded / one.weight - 1) < 0.06, `${rounded} is not ${one.weight}`);
    for (const view of ['flow', 'health']) {
        await page.evaluate((v) => { location.hash = `view=${v}`; }, view);
        await page.waitForSelector(view === 'flow' ? '.flow-span .share' : '.verdict.good');
    }
    fine(page, 'the exported file');
    assert.deepEqual(page.asked.filter((url) => !/^(file|data|blob):/.test(url)), [], 'the file asked somebody');
    await page.context().close();
}

// 500 tokens of SmolLM2, all layers and heads, in less than 5 MB.
async function aLongerFile() {
    const path = join(work, 'long-answer.attn');
    run(binary, ['capture', '-m', 'smollm2', '--ignore-eos', '--temp', '0.8', '--seed', '1', '-n', '490', '-c', '1024', '-p', 'Once upon a time, in a land far away,', '--force', '-o', path]);
    const html = join(work, 'long-answer.html');
    const said = JSON.parse(run(binary, ['export', path, '--to', 'html', '--json', '-o', html]));
    assert.ok(said.tokens >= 500 && said.heads === 270, JSON.stringify(said));
    assert.ok(statSync(html).size < 5e6, `${statSync(html).size} bytes`);
    const page = await openPage(browser, pathToFileURL(html).href);
    await textReady(page);
    await page.evaluate(() => { location.hash = 'view=heads'; });
    await page.waitForSelector('.side table.strongest tr');
    fine(page, 'the longer file');
    assert.deepEqual(page.asked.filter((url) => !/^(file|data|blob):/.test(url)), [], 'the file asked somebody');
    console.log(`${said.tokens} tokens: ${(said.bytes / 1e6).toFixed(2)} MB, weights from ${(100 * said.least).toFixed(1)}%, ${(100 * said.kept_share).toFixed(1)}% of all weight`);
    await page.context().close();
}

async function live() {
    const server = await startAttnscope(binary);
    try {
        const page = await openPage(browser, `${server.url}/view/`);
        // Without a recording there is nothing that the other views could show: they say so.
        await page.waitForSelector('.live-form textarea', { timeout: 20000 });
        for (const view of ['Text', 'Heads', 'Matrix', 'Flow', 'Health']) {
            const tab = page.locator(`nav button:has-text("${view}")`);
            assert.ok(await tab.isDisabled(), view);
            assert.match(await tab.getAttribute('title'), /of recordings: attnscope view FILE, or attnscope serve --record DIR/);
        }
        assert.match(await page.textContent('.note'), /of recordings: attnscope view FILE/);
        await page.keyboard.press('2');
        assert.ok(await page.isVisible('.live-form'));
        await page.fill('.live-form textarea', 'The treasure is buried under the old oak tree. Where is the treasure buried?');
        await page.fill('.live-form label:has-text("Tokens") input', '12');
        await page.click('.live-form button[type=submit]');
        await page.waitForFunction(() => Number(document.querySelector('.text-place').dataset.tokens) > 3, null, { timeout: 60000 });
        await page.waitForFunction(() => /ended: /.test(document.querySelector('.controls').textContent), null, { timeout: 60000 });
        assert.match(await page.textContent('.pane-text'), /assistant[^]*The treasure is buried under the old oak tree/);
        assert.match(await page.textContent('.controls'), /every token proven/);
        assert.ok(await page.$$eval('.tok', (all) => all.filter((t) => t.style.backgroundColor !== '').length) > 3);
        for (const theme of ['light', 'dark']) {
            await page.evaluate((name) => { location.hash = `view=live&theme=${name}`; }, theme);
            await page.waitForFunction((name) => document.documentElement.dataset.theme === name, theme);
            await accessible(page, `live, ${theme}`);
        }
        // Stop ends the generation; pausing the view does not.
        await page.fill('.live-form textarea', 'Write a long story about a lighthouse.');
        await page.fill('.live-form label:has-text("Tokens") input', '700');
        await page.click('.live-form button[type=submit]');
        await page.waitForFunction(() => /\+ ([5-9]|\d\d) tokens/.test(document.querySelector('.controls').textContent), null, { timeout: 60000 });
        await page.click('button:has-text("Pause the view")');
        const before = Number(await page.getAttribute('.text-place', 'data-tokens'));
        await page.waitForTimeout(1500);
        await page.click('button:has-text("Resume the view")');
        await page.waitForFunction((n) => Number(document.querySelector('.text-place').dataset.tokens) > n + 2, before, { timeout: 10000 });
        await page.click('.live-form button:has-text("Stop")');
        await page.waitForFunction(() => /ended: stopped/.test(document.querySelector('.controls').textContent), null, { timeout: 10000 });
        fine(page, 'live');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// A server that writes for many and records: its page begins with its own prompt, shows nobody's text unasked, and says whose it is.
async function liveForMany() {
    const folder = join(work, 'recorded');
    const server = await startAttnscope(binary, ['--in-process', '--record', folder]);
    try {
        const theirs = await fetch(`${server.url}/api/v1/generate`, { method: 'POST', headers: { 'Content-Type': 'application/json' },
            body: JSON.stringify({ prompt: 'The secret word of another client is xylophone, and', max_length: 4, record: true }) });
        assert.equal(theirs.status, 200, await theirs.text());
        const page = await openPage(browser, `${server.url}/view/`);
        await page.waitForSelector('.live-form textarea', { timeout: 20000 });
        await page.waitForTimeout(500);
        assert.doesNotMatch(await page.textContent('body'), /xylophone/, 'the page shows what another client asked');
        await page.fill('.live-form textarea', 'What is the capital of France?');
        await page.fill('.live-form label:has-text("Tokens") input', '6');
        await page.click('.live-form button[type=submit]');
        await page.waitForFunction(() => /ended: /.test(document.querySelector('.controls').textContent), null, { timeout: 60000 });
        assert.doesNotMatch(await page.textContent('.pane-text'), /xylophone/);
        // The mean of a token is over the rows that could see it: the newest but one was read by one row, which is all of its mean.
        await page.uncheck('.controls label:has-text("Hide first") input');
        const weights = [];
        for (const tint of ['newest', 'total']) {
            await page.selectOption('.controls label:has-text("Tint") select', tint);
            const [file] = await Promise.all([page.waitForEvent('download'), page.click('header button:has-text("CSV")')]);
            const lines = readFileSync(await file.path(), 'utf8').trim().split('\r\n').slice(1);
            weights.push(lines.map((line) => Number(line.slice(line.lastIndexOf(',') + 1))));
        }
        const read_once = weights[0].length - 1; // the newest row is one shorter than the text
        assert.ok(weights[0][read_once] > 0 && Math.abs(weights[1][read_once] / weights[0][read_once] - 1) < 1e-6, `${weights.map((w) => w[read_once])}`);
        // What was written here opens in the other views, and nobody is told that it is somebody's.
        await page.click('nav button:has-text("Text")');
        await textReady(page);
        assert.match(await page.textContent('.pane-text'), /capital of France\?[^]*assistant/);
        assert.equal(await page.$('.note.whose'), null);
        await page.keyboard.press('5');
        await page.waitForSelector('.verdict.good', { timeout: 60000 });
        // One that is stopped is recorded as well.
        await page.click('nav button:has-text("Live")');
        const write = async (text) => {
            await page.fill('.live-form textarea', text);
            await page.fill('.live-form label:has-text("Tokens") input', '900');
            await page.click('.live-form button[type=submit]');
            await page.waitForFunction(() => Number(document.querySelector('.text-place').dataset.tokens) > 5, null, { timeout: 60000 });
        };
        await write('Tell me a long story about a lighthouse.');
        await page.click('.live-form button:has-text("Stop")');
        await page.waitForFunction(() => /ended: stopped; recorded as \S+\.attn/.test(document.querySelector('.controls').textContent), null, { timeout: 20000 });
        // A page that is loaded again in the middle says what became of the answer; and that the model writes for somebody else.
        await write('Tell me a long story about a windmill.');
        await page.reload();
        await page.waitForSelector('.note:has-text("loaded again while an answer was being written")', { timeout: 20000 });
        const elsewhere = new AbortController();
        const answer = fetch(`${server.url}/api/v1/generate`, { method: 'POST', headers: { 'Content-Type': 'application/json' }, signal: elsewhere.signal,
            body: JSON.stringify({ prompt: 'A long story:', max_length: 900, ban_eos_token: true }) }).catch(() => undefined);
        await page.waitForSelector('.note.busy:has-text("writing for somebody")', { timeout: 20000 });
        elsewhere.abort();
        await answer;
        await page.waitForSelector('.note.busy', { state: 'detached', timeout: 20000 });
        const name = await page.$eval('header label:has-text("Recording") select', (select) => [...select.options].at(-1).value);
        await page.selectOption('header label:has-text("Recording") select', name);
        await page.waitForSelector('.note.whose');
        await textReady(page);
        assert.match(await page.textContent('.pane-text'), /xylophone/);
        fine(page, 'live for many');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// Ten recordings damaged on purpose: the page says so and shows what is good, or the program refuses with a sentence.
async function damaged() {
    const size = statSync(a).size;
    let opened = 0;
    let found = 0;
    for (let i = 0; i < 10; ++i) {
        const hurt = join(work, `hurt-${i}.attn`);
        copyFileSync(a, hurt);
        if (i === 9) truncateSync(hurt, Math.floor(size * 0.7));
        else {
            const file = openSync(hurt, 'r+');
            writeSync(file, Buffer.from('damage that nobody expects here'), 0, 31, Math.floor((size * (i + 1)) / 10.5));
            closeSync(file);
        }
        let server;
        try {
            server = await startView(binary, [hurt]);
        } catch {
            continue; // refused, in words, by the program
        }
        ++opened;
        try {
            const page = await openPage(browser, `${server.url}#view=health`);
            await page.waitForSelector('.verdict, .failure', { timeout: 60000 });
            // Some bytes of a database belong to nothing; the program that checks files says which.
            const whole = spawnSync(binary, ['verify', hurt]).status === 0;
            assert.equal((await page.$('.verdict.good')) !== null, whole, `damage ${i} was taken for health`);
            found += whole ? 0 : 1;
            assert.deepEqual(page.wrong, [], `damage ${i}`);
            await page.evaluate(() => { location.hash = 'view=text&token=30'; });
            await page.waitForSelector('.tok, .failure', { timeout: 20000 });
            await page.context().close();
        } finally {
            await server.stop();
        }
    }
    assert.ok(opened >= 3 && found >= 3, `${opened} of 10 damaged recordings could be looked at, ${found} said so`);
}

// A capture of somebody else's, oscillating between weights and raw scores.
async function somebodyElses() {
    const n = 40, layers = 4, heads = 4, width = 64;
    const values = new Float32Array(n * layers * heads * width);
    let seed = 1;
    const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
    for (let t = 0; t < n; ++t) {
        const raw = Math.floor(t / 3) % 2 === 1;
        for (let row = 0; row < layers * heads; ++row) {
            const at = (t * layers * heads + row) * width;
            let sum = 0;
            for (let j = 0; j < width; ++j) sum += values[at + j] = raw ? 200 * random() - 120 : random() ** 4;
            if (!raw) for (let j = 0; j < width; ++j) values[at + j] /= sum;
        }
    }
    const each = layers * heads * width;
    values.copyWithin(31 * each, 30 * each, 31 * each); // a token that was read twice
    values.fill(NaN, 35 * each, 36 * each);             // and one that is nothing
    const saved_as = (name, of) => {
        const header = `{'descr': '<f4', 'fortran_order': False, 'shape': (${n}, ${layers}, ${heads}, ${width}), }`;
        const padded = header.padEnd(118 - 1) + '\n';
        const npy = join(work, name);
        writeFileSync(npy, Buffer.concat([Buffer.from('\x93NUMPY\x01\x00', 'latin1'), Buffer.from([118, 0]), Buffer.from(padded, 'latin1'), Buffer.from(of.buffer)]));
        return npy;
    };
    const npy = saved_as('theirs.npy', values);
    // What `diagnose` leaves undecided is said here, too.
    const scores = saved_as('scores.npy', Float32Array.from(values, () => 20 * random() - 12));
    const undecided = JSON.parse(spawnSync(binary, ['diagnose', scores, '--json'], { encoding: 'utf8' }).stdout).findings.map((f) => f.undecided).filter((text) => text !== '');
    assert.ok(undecided.length > 0);
    const of_scores = await startView(binary, [scores]);
    try {
        const page = await openPage(browser, of_scores.url);
        await page.waitForSelector('.verdict.bad', { timeout: 60000 });
        assert.deepEqual(await page.$$eval('.undecided bdi', (all) => all.map((e) => e.textContent)), undecided);
        await page.context().close();
    } finally {
        await of_scores.stop();
    }
    const server = await startView(binary, [npy]);
    try {
        const page = await openPage(browser, server.url);
        await page.waitForSelector('.verdict.bad', { timeout: 60000 });
        assert.match(await page.textContent('.health-body'), /scores/);
        assert.match(await page.textContent('.health-body .repeats'), /One token has the numbers of an earlier one again/);
        const box = await (await page.$('.health-body canvas')).boundingBox();
        await page.mouse.move(box.x + 62 + ((box.width - 72) * 31.5) / n, box.y + 80);
        await page.waitForSelector('.health-body p:has-text("the numbers of token 30 again")', { timeout: 5000 });
        await page.mouse.move(box.x + 62 + ((box.width - 72) * 35.5) / n, box.y + 80);
        await page.waitForSelector('.health-body p:has-text("token 35")', { timeout: 5000 });
        fine(page, 'a capture of somebody else\'s');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// Two answers that part: said from where on, and what lies behind it is not tinted.
async function parting() {
    const other = join(work, 'parted.attn');
    run(binary, ['capture', '-m', 'smollm2', '--chat', '--temp', '1.5', '--seed', '7', '-n', '24', '-p', question, '--force', '-o', other]);
    const server = await startView(binary, [a, other]);
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        const ids = await page.evaluate(async () => Promise.all([0, 1].map(async (r) => (await (await fetch(`api/tokens?r=${r}`)).json()).ids)));
        let common = 0;
        while (common < ids[0].length && ids[0][common] === ids[1][common]) ++common;
        assert.ok(common > 5 && common < ids[0].length - 2, `${common} of ${ids[0].length} tokens are the same`);
        await page.keyboard.press('6');
        await page.waitForSelector('.differences td', { timeout: 60000 });
        assert.match(await page.textContent('.controls'), new RegExp(`The same up to token ${common - 1} .*; from there they part`));
        await page.waitForFunction((last) => new URLSearchParams(location.hash.slice(1)).get('token') === String(last), common - 1, { timeout: 5000 });
        await page.waitForFunction(() => [...document.querySelectorAll('.tok')].some((t) => t.style.backgroundColor !== ''), null, { timeout: 10000 });
        const apart = await page.$$eval('.tok.apart', (all) => all.map((t) => t.style.backgroundColor));
        assert.ok(apart.length >= ids[0].length + ids[1].length - 2 * common - 8 && apart.every((ground) => ground === ''), `${apart}`);
        // The whole line of a head is its button.
        const line = page.locator('.differences tbody tr >> nth=2');
        const [layer, head] = await line.locator('td').allTextContents();
        await line.locator('td').first().click();
        await page.waitForFunction(([l, h]) => { const words = new URLSearchParams(location.hash.slice(1)); return words.get('layer') === l && words.get('head') === h; }, [layer, head], { timeout: 5000 });
        fine(page, 'two answers that part');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// A token whose space ended the line above: its mark and its lines are at the word.
async function wrapped() {
    const server = await startView(binary, [a]);
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        let at = -1;
        for (let width = 900; width > 500 && at < 0; width -= 37) {
            await page.setViewportSize({ width, height: 800 });
            at = await page.$$eval('.tok', (all) => all.findIndex((t) => /^ \w/.test(t.textContent) && t.getClientRects().length === 2));
        }
        assert.ok(at > 0, 'no token lies in two lines');
        await page.evaluate(() => {
            window.starts = [];
            const { moveTo } = CanvasRenderingContext2D.prototype;
            CanvasRenderingContext2D.prototype.moveTo = function (x, y) { if (this.canvas.className === 'pane-lines') window.starts.push([x, y]); return moveTo.call(this, x, y); };
        });
        await page.$eval(`.tok >> nth=${at}`, (tok) => { location.hash = `token=${tok.dataset.run}`; });
        await page.waitForSelector('.tok.selected > .core', { timeout: 10000 });
        await page.waitForSelector('.side table.readers td.number', { timeout: 20000 });
        const { outlined, starts, box } = await page.evaluate(() => {
            const tok = document.querySelector('.tok.selected');
            const core = tok.querySelector('.core');
            const place = document.querySelector('.text-place').getBoundingClientRect();
            const r = core.getBoundingClientRect();
            return { outlined: [getComputedStyle(tok).outlineStyle, getComputedStyle(core).outlineStyle, core.getClientRects().length], starts: window.starts,
                box: { left: r.left - place.left, right: r.right - place.left, top: r.top - place.top } };
        });
        assert.deepEqual(outlined, ['none', 'solid', 1]);
        assert.ok(starts.some(([x, y]) => x > box.left - 8 && x < box.right + 8 && Math.abs(y - box.top) < 6), `${JSON.stringify(starts)} do not begin at ${JSON.stringify(box)}`);
        const text = await page.textContent('.pane-text');
        await page.keyboard.press('ArrowRight');
        await page.waitForFunction(() => !document.querySelector('.tok:not(.selected) .core'));
        assert.equal(await page.textContent('.pane-text'), text);
        fine(page, 'a token in two lines');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// Of an encoder and its decoder the page says whose a layer is, where a token has no row, and no number that would mean nothing.
async function encoderAndDecoder() {
    const [model, path] = [join(work, 't5.gguf'), join(work, 't5.attn')];
    run(binary, ['models', 'make', '--arch', 't5', '--layers', '2', '-o', model]);
    run(binary, ['capture', '-m', model, '-n', '8', '--ignore-eos', '--temp', '0', '-p', 'one two three', '-o', path]);
    const server = await startView(binary, [path]);
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        const names = ['0 encoder', '1 encoder', '2 decoder', '3 cross', '4 decoder', '5 cross'];
        assert.deepEqual(await page.$$eval('label.control:has-text("Layer") option', (all) => all.map((o) => o.textContent)), ['all', ...names]);
        await page.selectOption('label.control:has-text("Layer") select', '0');
        await page.waitForSelector('.failure:has-text("has no row in layer 0: that is a layer of the encoder, and the token is the decoder")', { timeout: 20000 });
        for (const [layer, cross] of [[3, true], [4, false]]) {
            await page.evaluate((l) => { location.hash = `view=heads&layer=${l}&head=1`; }, layer);
            await page.waitForSelector(`.side h2:has-text("Layer ${names[layer]}, head 1")`, { timeout: 20000 });
            await page.waitForSelector('.side table.strongest td.number', { timeout: 20000 });
            const told = Object.fromEntries(await page.$$eval('.side table.metrics tr', (all) => all.map((r) => [r.cells[0].textContent, r.cells[1].textContent])));
            for (const metric of ['self', 'previous token', 'local (last 8)', 'distance (tokens)', 'variance of the distance']) assert.equal(told[metric] === '–', cross, `${layer} ${metric}`);
            for (const metric of ['first position', 'entropy (nats)']) assert.notEqual(told[metric], '–', `${layer} ${metric}`);
            assert.equal((await page.$('.side p:has-text("no key is near or far")')) !== null, cross, `${layer}`);
        }
        const box = await page.locator('.grid canvas').boundingBox();
        await page.mouse.move(box.x + box.width / 2, box.y + 8 + (box.height - 40) * (2.5 / 6)); // of 6 layers, upwards, the fourth
        await page.waitForSelector('.grid .tip:has-text("layer 3 cross, head")', { timeout: 5000 });
        await accessible(page, 'heads of an encoder and its decoder');
        // In the matrix of the encoder the decoder's tokens have no rows: said while the pointer is on them, and forgotten behind.
        await page.evaluate(() => { location.hash = 'view=matrix&layer=0&head=0'; });
        await matrixReady(page);
        await page.focus('.matrix-main canvas');
        await page.keyboard.press('ArrowLeft');
        await page.waitForFunction(() => /no row in layer 0/.test(document.querySelector('.failure')?.textContent ?? ''), null, { timeout: 10000 }); // the selected token
        for (let i = 0; i < 12; ++i) await page.keyboard.press('ArrowUp');
        await page.waitForFunction(() => /%/.test(document.querySelector('.matrix-hover output')?.textContent ?? ''), null, { timeout: 10000 });
        assert.equal(await page.$('.failure'), null);
        fine(page, 'an encoder and its decoder');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// Its file is deleted while somebody looks: the page says so, and what was read stays.
async function gone() {
    const path = join(work, 'gone.attn');
    copyFileSync(a, path);
    const server = await startView(binary, [path]);
    try {
        const page = await openPage(browser, server.url);
        await textReady(page);
        await page.waitForSelector('.side table.readers td', { timeout: 20000 });
        const last = Number(await page.getAttribute('.text-place', 'data-ready'));
        rmSync(path);
        await page.waitForSelector('.note.gone:has-text("The file is gone; what was read of it stays.")', { timeout: 15000 });
        await page.keyboard.press('ArrowLeft');
        await page.waitForSelector(`.text-place[data-ready="${last - 1}"]`, { timeout: 20000 });
        await page.click('.note.gone .close');
        assert.equal(await page.$('.note.gone'), null);
        fine(page, 'a file that is gone');
        await page.context().close();
    } finally {
        await server.stop();
    }
}

// A recording that is still being written: the page says so, shows what is there, and more as it comes.
async function growing() {
    const path = join(work, 'growing.attn');
    const writer = spawn(binary, ['capture', '-m', 'smollm2', '--ignore-eos', '--temp', '0', '-n', '2000', '-p', 'The lighthouse', '--force', '-o', path], { stdio: 'ignore' });
    let server;
    try {
        for (let tries = 0; !server; ++tries) { // until it is there and holds something
            await new Promise((r) => setTimeout(r, 300));
            server = await startView(binary, [path]).catch((error) => { if (tries > 60) throw error; });
        }
        const page = await openPage(browser, server.url);
        const n = () => page.$eval('.note .n-tokens', (e) => Number(e.textContent));
        await page.waitForSelector('.note .n-tokens', { timeout: 30000 });
        const before = await n();
        await page.waitForFunction((least) => Number(document.querySelector('.note .n-tokens')?.textContent) > least, before, { timeout: 30000 });
        await textReady(page);
        await page.waitForFunction(() => document.querySelector('.pane-text').textContent.length > 60); // words of the answer
        // Its writer dies: what was written stays, and says so.
        writer.kill('SIGKILL');
        await page.waitForTimeout(2500);
        const left = await n();
        await page.keyboard.press('ArrowLeft');
        await page.waitForFunction((last) => Number(document.querySelector('.text-place').dataset.ready) === last - 2, left, { timeout: 30000 });
        fine(page, 'a recording that grows');
        await page.context().close();
    } finally {
        writer.kill('SIGKILL');
        await server?.stop();
    }
}

// The same viewer as part of another page, whose host answers by messages: what a notebook does. Nothing else is asked for, and the
// page around it keeps its style, keys and address.
async function widget() {
    const script = process.argv[5] ?? join(dirname(binary), '..', 'web', 'widget.js');
    const server = await startView(binary, [a]);
    const api = `${new URL(server.url).origin}/view/api/`;
    const context = await browser.newContext({ viewport: { width: 1000, height: 900 } });
    try {
        const page = await context.newPage();
        const asked = [];
        const wrong = [];
        page.on('request', (request) => asked.push(request.url()));
        page.on('pageerror', (error) => wrong.push(error.message));
        await page.route('http://notebook.test/**', (route) => route.request().url().endsWith('.js')
            ? route.fulfill({ contentType: 'text/javascript', body: readFileSync(script, 'utf8') })
            : route.fulfill({ contentType: 'text/html', body: '<!doctype html><title>A notebook</title><body><h2>Theirs</h2><div id="cell"></div><input id="outside"></body>' }));
        await page.exposeFunction('kernel', async (path, query) => {
            const answer = await fetch(`${api}${path}?${query}`);
            return { status: answer.status, body: Buffer.from(await answer.arrayBuffer()).toString('base64') };
        });
        await page.goto('http://notebook.test/#theirs');
        const style = () => page.$eval('h2', (e) => getComputedStyle(e).font + getComputedStyle(e).margin);
        const before = await style();
        await page.evaluate(async () => {
            const { default: { render } } = await import('http://notebook.test/widget.js');
            const listeners = new Set();
            const model = {
                get: (name) => ({ state: 'token=30&theme=dark', height: '600px' })[name],
                on: (event, listener) => event === 'msg:custom' && listeners.add(listener),
                off: (event, listener) => listeners.delete(listener),
                send: ({ id, path, query }) => window.kernel(path, query).then(({ status, body }) => {
                    const bytes = Uint8Array.from(atob(body), (c) => c.charCodeAt(0));
                    for (const listener of [...listeners]) listener({ attnscope: 1, id, status }, [new DataView(bytes.buffer)]);
                }),
            };
            window.end = render({ model, el: document.getElementById('cell') });
        });
        await page.waitForSelector('.text-place[data-ready="30"]', { timeout: 60000 });
        assert.ok(await page.$$eval('.tok', (all) => all.filter((t) => t.style.backgroundColor !== '').length) > 10, 'nothing is tinted');
        assert.equal(await page.$eval('.attnscope', (e) => e.dataset.theme), 'dark');
        await page.focus('#outside');
        await page.keyboard.press('ArrowLeft');
        await page.keyboard.press('2');
        assert.equal(await page.inputValue('#outside'), '2', 'a key of the page was taken');
        await page.click('.tok >> nth=25');
        await page.keyboard.press('ArrowRight');
        await page.waitForSelector('.text-place[data-ready="26"]', { timeout: 20000 });
        await page.keyboard.press('2');
        await page.waitForSelector('table.strongest tr', { timeout: 60000 });
        await page.keyboard.press('3');
        await page.waitForSelector('.matrix-main canvas');
        assert.equal(await page.evaluate(() => location.hash), '#theirs');
        assert.equal(await page.title(), 'A notebook');
        assert.equal(await style(), before, 'the style of the page around it changed');
        assert.deepEqual(asked.filter((url) => !url.startsWith('http://notebook.test/')), [], 'a request left the page');
        await page.evaluate(() => window.end());
        assert.equal(await page.$('.attnscope'), null);
        assert.deepEqual(wrong, []);
    } finally {
        await context.close();
        await server.stop();
    }
}

const ofSequences = sequenceParts({ binary, made, browser, work, single: a, accessible, fine });
const ofServing = servingParts({ binary, browser, work, single: a, accessible, fine });
const ofComparing = comparableParts({ binary, made, browser, work, fine });
const only = process.argv[4];
try {
    for (const part of [onARecording, slowAnswers, passedBy, stoppedAndStarted, saved, parting, wrapped, encoderAndDecoder, gone, long, oddLinks, withTextsOfStrangers, fromADisk, aLongerFile, live, liveForMany, damaged, growing, ...ofSequences, ...ofComparing, ...ofServing, widget, somebodyElses]) {
        if (only && !only.split(',').includes(part.name)) continue;
        const start = Date.now();
        await part();
        console.log(`${part.name}: good (${Date.now() - start} ms)`);
    }
} finally {
    await browser.close();
}
