// A recording of several sequences that share beginnings: the page shows any of them, and says which. Parts of view.test.mjs.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { startAttnscope } from './serve.mjs';
import { matrixReady, openPage, prints, run, startView, textReady } from './viewer.mjs';

const picker = 'header label:has-text("Sequence") select';
const lines = (page) => page.$$eval(`${picker} option`, (all) => all.map((o) => o.textContent));
const words = (page) => new URLSearchParams(new URL(page.url()).hash.slice(1));
const chosen = (page) => page.$eval(picker, (select) => select.value);

// What the tree of made_recording holds (tests/recording/tree.cpp): sequence, its parent, tokens that they share, tokens.
const tree = [[0, -1, 0, 100], [1, 0, 37, 107], [2, 1, 50, 80], [3, -1, 0, 90], [4, 2, 20, 25], [5, 0, 64, 64], [6, 3, 64, 128]];

export function sequenceParts({ binary, made, browser, work, single, accessible, fine }) {
    const show = (file, sequence, options) => JSON.parse(run(binary, ['show', file, '--sequence', String(sequence), '--json', ...options]));

    async function sequences() {
        const file = join(work, 'tree.attn');
        run(made, ['tree', file]);
        const server = await startView(binary, [file]);
        try {
            const page = await openPage(browser, server.url);
            await textReady(page);
            await page.waitForSelector(picker);
            assert.equal(await chosen(page), '0', 'a link without a sequence is of the first');
            const said = await lines(page);
            assert.equal(said.length, tree.length);
            tree.forEach(([id, parent, n_shared, n], i) => {
                assert.match(said[i], new RegExp(`^${id}${parent < 0 ? '' : ` \\(from ${parent}, token ${n_shared}\\)`}: .*${n} tokens$`));
                assert.equal(/p\d+/.test(said[i]), id !== 5, `${said[i]}: its own first words`);
            });
            assert.match(said[0], /slot 0/);
            // Its text, and the rows of show.
            const stands = async (sequence, token) => {
                await page.waitForFunction((n) => new RegExp(`sequence ${n} `).test(document.title), sequence);
                await page.waitForSelector(`.text-place[data-ready="${token}"]`, { timeout: 20000 });
                const top = show(file, sequence, ['--token', String(token), '--hide-first', '--top', '8']).top;
                const rows = await page.$$eval('.side table.reads tr', (all) => all.map((tr) => [...tr.children].map((td) => td.textContent)));
                assert.deepEqual(rows.map(([, column]) => Number(column)), top.map((t) => t.column), `sequence ${sequence}`);
                rows.forEach(([weight], i) => assert.ok(prints(weight, top[i].weight), `sequence ${sequence}: ${weight} is not ${top[i].weight}`));
            };
            for (const id of [2, 4, 6]) {
                await page.selectOption(picker, String(id));
                await stands(id, tree[id][3] - 1);
                await page.waitForFunction((n) => location.hash.includes(`sequence=${n}`), id);
            }
            await page.reload();
            await stands(6, 127);
            assert.equal(await chosen(page), '6', 'a link opens the sequence that it names');
            // By keys, and what is chosen of the model stays.
            await page.keyboard.press(']');
            await page.keyboard.press(',');
            await page.waitForFunction(() => location.hash.includes('sequence=5'));
            assert.equal(words(page).get('layer'), '0');
            await page.keyboard.press('a');
            await page.keyboard.press(',');
            await stands(4, 24);
            for (let i = 0; i < 6; ++i) await page.keyboard.press('.');
            await stands(6, 127);
            await page.keyboard.press('?');
            assert.ok((await page.$$eval('.help dd', (all) => all.map((d) => d.textContent))).includes('next sequence'));
            await page.keyboard.press('Escape');
            // Saved under its name, and every line says which it is of.
            await page.selectOption(picker, '2');
            await stands(2, 79);
            const [csv] = await Promise.all([page.waitForEvent('download'), page.keyboard.press('c')]);
            assert.equal(csv.suggestedFilename(), 'tree.attn-sequence-2-token-79-mean.csv');
            const [header, ...rest] = readFileSync(await csv.path(), 'utf8').trim().split('\r\n');
            assert.match(header, /,value,sequence$/);
            assert.ok(rest.length === 80 && rest.every((line) => line.endsWith(',2')));
            fine(page, 'several sequences');

            // The numbers of every view are those of the sequence.
            const values = show(file, 2, ['--token', '70', '--layer', '1', '--head', '2', '--values']).values;
            const row = await page.evaluate(async () => [...new Float32Array(await (await fetch('api/row?r=0&s=2&t=70&layer=1&head=2')).arrayBuffer())]);
            assert.deepEqual(row, values.map(Math.fround));
            const of = async (view, there) => {
                await page.evaluate((hash) => { location.hash = hash; }, `sequence=2&view=${view}`);
                await page.waitForSelector(there, { timeout: 60000 });
            };
            await of('matrix&layer=1&head=2', '.matrix-main canvas');
            await matrixReady(page);
            await page.focus('.matrix-main canvas >> nth=0');
            for (const press of ['ArrowUp', 'ArrowLeft']) await page.keyboard.press(press);
            await page.waitForFunction(() => /%/.test(document.querySelector('.matrix-hover output')?.textContent ?? ''), null, { timeout: 10000 });
            const [, query, key] = (await page.textContent('.matrix-hover')).match(/query (\d+) .* reads key (\d+)/s).map(Number);
            assert.equal(Math.fround(Number(await page.textContent('.matrix-hover .exact'))),
                Math.fround(show(file, 2, ['--token', String(query), '--layer', '1', '--head', '2', '--values']).values[key]));
            await of('heads', 'table.strongest tr');
            assert.match(await page.textContent('.controls'), /8 heads, each over \d+ rows/);
            await of('flow&span=60-70', '.flow-span .share');
            await of('health', '.verdict');
            assert.match(await page.textContent('.verdict'), / of 80 tokens ok/);
            await of('health&theme=dark', '.verdict');
            await page.selectOption(picker, '0');
            await page.waitForFunction(() => / of 100 tokens ok/.test(document.querySelector('.verdict')?.textContent ?? ''));

            // Side by side with another of the same recording.
            await of('compare', '.differences td');
            assert.match(await page.$eval('.controls label:has-text("Against") select', (s) => s.selectedOptions[0].textContent), /^tree\.attn: /);
            const beside = '.controls label:has-text("Its sequence") select';
            assert.deepEqual(await page.$$eval(`${beside} option`, (all) => all.map((o) => o.value)), ['0', '1', '3', '4', '5', '6']);
            await page.selectOption(beside, '1');
            await page.waitForFunction(() => /other_sequence=1/.test(location.hash));
            await page.waitForFunction(() => [...document.querySelectorAll('.compare-side h2')].map((h) => h.textContent).join() === 'tree.attn-sequence-2,tree.attn-sequence-1');
            await page.waitForSelector('.differences td');
            const common = Number((await page.textContent('.controls')).match(/\((\d+) tokens\)/)[1]);
            assert.ok(common >= 50 && common < 80, `${common} tokens are the same in a sequence and the one that it goes on from`);
            fine(page, 'the views of a sequence');

            // What is not there.
            for (const [hash, sentence] of [['sequence=99', /no sequence 99; this recording has sequences 0 to 6: sequence 0 is shown/],
                ['sequence=x', /“x” is no sequence/], ['sequence=-1', /“-1” is no sequence/], ['sequence=1e99&view=health', /“1e99” is no sequence/]]) {
                await page.evaluate((h) => { location.hash = h; }, hash);
                await page.waitForFunction((text) => new RegExp(text).test(document.querySelector('.note.odd')?.textContent ?? ''), sentence.source, { timeout: 10000 });
                await page.waitForFunction((select) => document.querySelector(select)?.value === '0', 'header .sequence select');
                assert.equal(await page.$('.failure'), null, hash);
            }
            const refused = await page.evaluate(async () => {
                const answer = await fetch('api/row?r=0&s=7&t=0');
                return [answer.status, (await answer.json()).error.message];
            });
            assert.deepEqual(refused, [404, 'there is no sequence 7; the recording has 7, 0 to 6']);
            fine(page, 'a sequence that is not there');
            await page.context().close();
            for (const [width, theme] of [[1280, 'light'], [400, 'dark']]) {
                const looked = await openPage(browser, `${server.url}#sequence=2&theme=${theme}`, { viewport: { width, height: 800 } });
                await textReady(looked);
                await looked.waitForSelector(picker);
                await accessible(looked, `a sequence, ${theme}`);
                assert.ok(await looked.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `wider than ${width}`);
                await looked.evaluate(() => document.activeElement?.blur());
                let reached = false;
                for (let i = 0; i < 6 && !reached; ++i) {
                    await looked.keyboard.press('Tab');
                    reached = await looked.$eval(picker, (select) => select.matches(':focus'));
                }
                assert.ok(reached, 'Tab does not reach the sequences');
                await looked.keyboard.press('ArrowDown'); // and who chooses with the arrows is still at it
                await looked.waitForFunction(() => location.hash.includes('sequence=3'));
                await textReady(looked);
                assert.ok(await looked.$eval(picker, (select) => select.matches(':focus')), 'the list goes away while one chooses');
                if (process.env.PICTURES) await looked.screenshot({ path: join(process.env.PICTURES, `sequence-${width}.png`) });
                fine(looked, `${width} wide`);
                await looked.context().close();
            }
        } finally {
            await server.stop();
        }
        const alone = await startView(binary, [single]);
        try {
            const page = await openPage(browser, `${alone.url}#sequence=1`);
            await page.waitForSelector('.note.odd:has-text("this recording has one, 0: sequence 0 is shown")', { timeout: 10000 });
            await textReady(page);
            assert.equal(await page.$(picker), null, 'one sequence is nothing to choose from');
            assert.ok(!page.asked.slice(-3).some((url) => /api\/sequences/.test(url)));
            fine(page, 'one sequence');
            await page.context().close();
        } finally {
            await alone.stop();
        }
    }

    // A sequence that begins while somebody looks is there to be chosen, and so is what it becomes.
    async function growingSequences() {
        const file = join(work, 'grows.attn');
        const writer = spawn(made, ['grow', file], { stdio: ['pipe', 'inherit', 'inherit'] });
        let server;
        try {
            for (let tries = 0; !server; ++tries) {
                await new Promise((r) => setTimeout(r, 200));
                server = await startView(binary, [file]).catch((error) => { if (tries > 40) throw error; });
            }
            const page = await openPage(browser, server.url);
            await page.waitForSelector('.text-place[data-ready="29"]', { timeout: 20000 });
            let loads = 0;
            page.on('load', () => ++loads);
            assert.equal(await page.$(picker), null);
            for (const n of [2, 3]) {
                writer.stdin.write('\n');
                await page.waitForFunction((k) => document.querySelectorAll('header .sequence option').length === k, n, { timeout: 10000 });
                assert.match((await lines(page))[n - 1], new RegExp(`^${n - 1} \\(from ${n - 2}, token 20\\): .*p\\d.*35 tokens$`));
                assert.equal(await page.getAttribute('.text-place', 'data-ready'), '29', 'what is looked at stays');
            }
            await page.selectOption(picker, '2');
            await page.waitForSelector('.text-place[data-ready="34"]', { timeout: 10000 });
            writer.stdin.end();
            await once(writer, 'exit');
            await page.waitForSelector('.note:has-text("still being written")', { state: 'detached', timeout: 10000 });
            assert.equal(await chosen(page), '2');
            assert.equal(loads, 0, 'the page was loaded again');
            fine(page, 'sequences that come');
            await page.context().close();
        } finally {
            writer.kill('SIGKILL');
            await server?.stop();
        }
    }

    // One recording holds what clients of the engine's server asked that begins alike, as chats do: the answer of the page's own prompt is
    // shown, not the first.
    async function ownAnswer() {
        const folder = join(work, 'of-many');
        const server = await startAttnscope(binary, ['--record', folder]);
        try {
            const ask = async (prompt) => {
                const answer = await fetch(`${server.url}/v1/chat/completions`, { method: 'POST', headers: { 'Content-Type': 'application/json' },
                    body: JSON.stringify({ messages: [{ role: 'user', content: prompt }], max_tokens: 4, record: true }) });
                assert.equal(answer.status, 200);
                return answer.json();
            };
            for (const prompt of ['The xylophone of another client', 'Quarks of a third client']) await ask(prompt);
            const page = await openPage(browser, `${server.url}/view/#view=live`);
            await page.waitForSelector('.live-form textarea', { timeout: 20000 });
            await page.fill('.live-form textarea', 'What is the capital of France?');
            await page.fill('.live-form label:has-text("Tokens") input', '6');
            await page.click('.live-form button[type=submit]');
            await page.waitForFunction(() => /recorded as \S+\.attn/.test(document.querySelector('.controls').textContent), null, { timeout: 60000 });
            const sequence = (await page.textContent('.controls')).match(/recorded as \S+\.attn, sequence (\d+)/)?.[1];
            assert.ok(Number(sequence) > 0, `recorded as the first: ${await page.textContent('.controls')}`);
            await page.waitForFunction((n) => location.hash.includes(`sequence=${n}`), sequence, { timeout: 10000 });
            await page.waitForFunction((n) => document.querySelector('header .sequence select')?.value === n, sequence, { timeout: 10000 });
            await page.click('nav button:has-text("Text")');
            await textReady(page);
            const text = await page.textContent('.pane-text');
            assert.match(text, /capital of France\?[^]*assistant/);
            assert.doesNotMatch(text, /xylophone|Quarks/);
            assert.match(await page.textContent('.note:has(.n-tokens)'), /^This recording is open: the server adds to it/); // and nobody died
            // Whoever asks next is there without a reload.
            const before = (await lines(page)).length;
            await ask('A harmonica of the first client again');
            await page.waitForFunction((n) => document.querySelectorAll('header .sequence option').length > n, before, { timeout: 15000 });
            assert.ok((await lines(page)).some((line) => /harmonica/.test(line)), (await lines(page)).join('\n'));
            assert.equal(await chosen(page), sequence);
            if (process.env.PICTURES) await page.screenshot({ path: join(process.env.PICTURES, 'own-answer.png') });
            fine(page, 'the answer of its own prompt');
            await page.context().close();
        } finally {
            await server.stop();
        }
        assert.ok(existsSync(folder));
    }

    return [sequences, growingSequences, ownAnswer];
}
