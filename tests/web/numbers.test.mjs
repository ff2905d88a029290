// Every number that a view prints, against `attnscope show` and `verify`, and against sums in float64 over the exported rows.
//   node numbers.test.mjs ATTNSCOPE
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { capture, matrixReady, openPage, percentOf, prints, run, startBrowser, startView } from './viewer.mjs';

const binary = process.argv[2];
const work = mkdtempSync(join(tmpdir(), 'numbers-'));
const [a, b] = ['a.attn', 'b.attn'].map((name) => join(work, name));
capture(binary, a);
capture(binary, b, ['--cache-type-k', 'q8_0', '--flash-attn', 'on']);

// The rows as NumPy would read them: float32, (tokens, layers, heads, columns).
function exported(recording) {
    const path = `${recording}.npy`;
    run(binary, ['export', recording, '--to', 'npy', '--padded', '--force', '-o', path]);
    const bytes = readFileSync(path);
    const header = 10 + bytes.readUInt16LE(8);
    const shape = bytes.subarray(10, header).toString('latin1').match(/'shape': \(([^)]*)\)/)[1].split(',').map(Number);
    const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset + header, bytes.byteOffset + bytes.length));
    const [n, n_layer, n_head, width] = shape;
    assert.equal(values.length, n * n_layer * n_head * width);
    return { n, n_layer, n_head, at: (t, l, h, j) => (j < width ? values[((t * n_layer + l) * n_head + h) * width + j] : 0) };
}
const rows = exported(a);
const { n, n_layer, n_head } = rows;
const pairs = Array.from({ length: n_layer * n_head }, (_, i) => [Math.floor(i / n_head), i % n_head]);
const weight = (t, j, { layer = -1, head = -1, reduce = 'mean' } = {}) => {
    const all = pairs.filter(([l, h]) => (layer < 0 || l === layer) && (head < 0 || h === head)).map(([l, h]) => rows.at(t, l, h, j));
    return reduce === 'max' ? Math.max(...all) : all.reduce((x, y) => x + y, 0) / all.length;
};
const mean_rows = Array.from({ length: n }, (_, t) => Float64Array.from({ length: t + 1 }, (_, j) => weight(t, j)));

const server = await startView(binary, [a, b]);
const browser = await startBrowser();
const api = async (path) => {
    for (;;) {
        const answer = await fetch(`${new URL(server.url).origin}/view/api/${path}`);
        if (answer.status !== 202) return answer.json();
        await answer.arrayBuffer();
        await new Promise((r) => setTimeout(r, 100));
    }
};
let page;
const cells = (selector) => page.$$eval(`${selector} tr`, (all) => all.map((tr) => [...tr.children].map((td) => td.textContent)));
const show = (words) => page.evaluate((hash) => { location.hash = hash; }, words);
// The numbers behind what is shown, as the page saves them.
async function csv() {
    const [file] = await Promise.all([page.waitForEvent('download'), page.keyboard.press('c')]);
    return readFileSync(await file.path(), 'utf8').replace(/^\ufeff/, '').trim().split('\r\n').slice(1)
        .map((line) => line.match(/(?<=^|,)("(?:[^"]|"")*"|[^,]*)/g));
}
// A column's weights differ from the row's by up to 4e-6 (view_numpy.py says why), an export of a mean by less.
const said = (text, want, what) => assert.ok([-4e-6, 0, 4e-6].some((e) => prints(text, want + e)), `${what}: ${text} is not ${want}`);
const near = (got, want, what) => assert.ok(Math.abs(got - want) <= 1e-6 * Math.max(1, Math.abs(want)), `${what}: ${got} is not ${want}`);

async function text() {
    const choices = [{}, { reduce: 'max' }, { layer: 3 }, { layer: 7, head: 2 }];
    for (const [token, choice] of [[n - 1, {}], [20, {}], [30, choices[1]], [25, choices[2]], [n - 4, choices[3]]]) {
        await show(new URLSearchParams({ view: 'text', token, ...choice }).toString());
        await page.waitForSelector(`.text-place[data-ready="${token}"]`);
        await page.waitForSelector('.side table.readers td');
        const about = JSON.stringify({ token, ...choice });
        if (!choice.reduce) {
            const words = ['--token', token, ...(choice.layer === undefined ? [] : ['--layer', choice.layer]), ...(choice.head === undefined ? [] : ['--head', choice.head])];
            const top = JSON.parse(run(binary, ['show', a, '--json', '--hide-first', '--top', '8', ...words.map(String)])).top;
            const reads = await cells('.side table.reads');
            assert.equal(reads.length, top.length);
            reads.forEach(([share, column], i) => {
                assert.equal(Number(column), top[i].column, about);
                assert.ok(prints(share, top[i].weight), `${about}: ${share} is not ${top[i].weight}`);
            });
            // Every tint is of these.
            const values = JSON.parse(run(binary, ['show', a, '--json', '--values', ...words.map(String)])).values;
            const saved = await csv();
            assert.equal(saved.length, values.length);
            saved.forEach((line, j) => {
                near(Number(line.at(-1)), values[j], `${about}, column ${j}`);
                assert.deepEqual(line.slice(4, 8), ['reads', String(token), String(choice.layer ?? 'all'), String(choice.head ?? 'all')], about);
            });
        }
        const reads = await cells('.side table.reads');
        for (const [share, column] of reads) assert.ok(prints(share, weight(token, Number(column), choice)), `${about}: ${share} of ${column}`);
        assert.ok(prints(await page.textContent('.side .first-share'), weight(token, 0, choice)), `${about}: the first position`);
        const readers = (await cells('.side table.readers')).filter((row) => row.length > 1);
        for (const [share, row] of readers) said(share, weight(Number(row), token, choice), `${about}: read by ${row}`);
        const later = Array.from({ length: n - token - 1 }, (_, i) => weight(token + 1 + i, token, choice)).sort((x, y) => y - x);
        assert.equal(readers.length, Math.min(8, later.length), about);
        readers.forEach(([share], i) => said(share, later[i], `${about}: reader ${i}`));
    }
    // As live: over the rows that chose the generated tokens.
    const chose = mean_rows.slice((await api('info?r=0')).n_prompt - 1, n - 1);
    const sums = { total: [], snapkv: [], tova: [] };
    for (let j = 0; j < n; ++j) {
        const got = chose.map((row) => row[j] ?? 0);
        sums.total.push(got.reduce((x, y) => x + y, 0));
        sums.snapkv.push(got.slice(-32).reduce((x, y) => x + y, 0) / Math.min(32, chose.length));
        sums.tova.push(got.at(-1));
    }
    sums.h2o = sums.total;
    for (const [tint, of] of Object.entries(sums)) {
        await show(`view=text&token=${n - 1}&tint=${tint}`);
        await page.waitForFunction((name) => document.querySelector('.side .legend')?.textContent.includes(name), { total: 'total', h2o: 'H2O', snapkv: 'SnapKV', tova: 'TOVA' }[tint]);
        await page.waitForSelector(`.text-place[data-ready="${n - 1}"]`);
        const saved = await csv();
        for (let j = 0; j < n; ++j) near(Number(saved[j].at(-1)), of[j], `${tint}, token ${j}`);
    }
}

async function heads() {
    const metrics = await api('heads?r=0'); // these against NumPy: view_numpy.py
    const names = ['self', 'previous', 'first', 'local', 'entropy', 'distance', 'distance_variance', 'induction', 'retrieval'];
    const ids = (await api('tokens?r=0')).ids;
    for (const [layer, head] of [[0, 0], [7, 2], [n_layer - 1, n_head - 1], [12, 5]]) {
        await show(`view=heads&layer=${layer}&head=${head}`);
        await page.waitForFunction((title) => document.querySelector('.side h2')?.textContent === title, `Layer ${layer}, head ${head}`);
        await page.waitForSelector('.side table.strongest tr');
        const table = await cells('.side table.metrics');
        assert.equal(table.length, names.length);
        table.forEach(([, said], k) => {
            const value = metrics.values[names[k]][layer * n_head + head];
            const of_tokens = names[k] === 'entropy' || names[k].startsWith('distance');
            assert.ok(of_tokens ? said === value.toPrecision(4) : prints(said, value), `${names[k]} of ${layer}/${head}: ${said} is not ${value}`);
        });
        // What the side lists of it, from its rows.
        const w = (t, j) => rows.at(t, layer, head, j);
        const skips = Array.from({ length: n }, (_, t) => w(t, 0)).reduce((x, y) => x + y, 0) > 0.5 * n;
        const from = skips ? 1 : 0;
        // Of every token that had a choice: the first reads itself, whatever the head does.
        const best = Array.from({ length: n }, (_, t) => Math.max(0, ...Array.from({ length: t + 1 - from }, (_, j) => w(t, j + from)))).slice(1);
        const strongest = await cells('.side table.strongest');
        best.slice().sort((x, y) => y - x).slice(0, strongest.length).forEach((v, i) => said(strongest[i][0], v, `the strongest of ${layer}/${head}`));
        const by_id = new Map();
        let all = 0;
        for (let j = from; j < n; ++j) for (let t = j; t < n; ++t) {
            by_id.set(ids[j], (by_id.get(ids[j]) ?? 0) + w(t, j));
            all += w(t, j);
        }
        const asking = new Map();
        best.forEach((v, i) => { if (v > 0) asking.set(ids[i + 1], [...(asking.get(ids[i + 1]) ?? []), v]); });
        const lists = { keys: [...by_id.values()].map((v) => v / all), queries: [...asking.values()].map((v) => v.reduce((x, y) => x + y, 0) / v.length) };
        for (const [what, title] of [['queries', 'Queries that look hardest'], ['keys', 'Keys that are looked at most']]) {
            const printed = await page.$$eval('.side h3', (h3, name) => [...h3.find((e) => e.textContent === name).nextElementSibling.querySelectorAll('td.number')].map((e) => e.textContent), title);
            assert.ok(printed.length > 3);
            const want = lists[what].sort((x, y) => y - x);
            printed.forEach((share, i) => said(share, want[i], `${what} of ${layer}/${head}, ${i}`));
        }
        const distance = (await api(`head?r=0&layer=${layer}&head=${head}`)).distance;
        const bins = distance.map(() => 0);
        for (let t = 0; t < n; ++t) for (let j = 0; j <= t; ++j) bins[t === j ? 0 : 1 + Math.floor(Math.log2(t - j))] += w(t, j) / n;
        bins.forEach((v, i) => near(distance[i], v, `distance ${i} of ${layer}/${head}`));
    }
    const saved = await csv();
    assert.equal(saved.length, pairs.length);
    saved.forEach((line, i) => names.forEach((name, k) => near(Number(line[3 + k]), metrics.values[name][i], `${name} in the CSV`)));
}

async function matrix() {
    for (const words of [{ layer: 4, head: 3 }, { layer: 11 }, {}]) {
        await show(new URLSearchParams({ view: 'matrix', ...words }).toString());
        await matrixReady(page);
        const box = await page.locator('.matrix-main canvas').first().boundingBox();
        const pointed = new Set();
        for (const [x, y] of [[0.15, 0.5], [0.1, 0.9], [0.3, 0.7], [0.35, 0.4]]) {
            await page.mouse.move(box.x + x * box.height, box.y + y * box.height);
            await page.waitForFunction(() => /%/.test(document.querySelector('.matrix-hover output')?.textContent ?? ''));
            const [, query, key, share] = (await page.textContent('.matrix-hover')).match(/query (\d+) .* reads key (\d+) .*: ([\d.e-]+ %)/s);
            pointed.add(`${query} ${key}`);
            const choice = Object.entries(words).flatMap(([name, value]) => [`--${name}`, String(value)]);
            const values = JSON.parse(run(binary, ['show', a, '--json', '--values', '--token', query, ...choice])).values;
            assert.ok(prints(share, values[key] ?? 0), `${query} reads ${key}: ${share} is not ${values[key]}`);
            const digits = Number(await page.textContent('.matrix-hover .exact')); // 9 digits tell every float apart
            if (words.head !== undefined) assert.equal(Math.fround(digits), Math.fround(values[key] ?? 0), `${query} reads ${key}: ${digits} is not ${values[key]}`);
            assert.ok(Math.abs(digits - (values[key] ?? 0)) < 1e-7, `${query} reads ${key}: ${digits} is not ${values[key]}`); // means: another order of additions
        }
        assert.ok(pointed.size > 2);
    }
}

async function flow() {
    for (const hide_first of ['1', '0']) {
        await show(`view=flow&hide_first=${hide_first}`);
        await page.waitForSelector('.flow-span .share');
        const hidden = await page.isChecked('.controls label:has-text("Hide first position") input');
        for (const i of [0, (await page.$$('.answers .flow-span')).length - 1]) {
            await page.click(`.answers .flow-span >> nth=${i}`);
            await page.waitForTimeout(200);
            await page.waitForSelector('.flow-span .share');
            const told = await page.textContent('.controls .flow-told');
            const [begin, last] = told.match(/tokens (\d+) to (\d+)/).slice(1).map(Number);
            const from = hidden ? 1 : 0;
            const read = Array.from({ length: last + 1 }, (_, j) => mean_rows.slice(begin - 1, last).reduce((sum, row) => sum + (row[j] ?? 0), 0) / (last + 1 - begin));
            const sum = (x, y) => read.slice(Math.max(x, from), y).reduce((s, v) => s + v, 0);
            const spans = await csv();
            const shares = await page.$$eval('.sources .share', (each) => each.map((e) => e.textContent));
            assert.equal(shares.length, spans.length);
            spans.forEach(([x, y, share], k) => {
                near(Number(share), sum(Number(x), Number(y)), `what ${begin} to ${last} read of ${x} to ${y}`);
                assert.ok(prints(shares[k], Number(share)), `${shares[k]} is not ${share}`);
            });
            const parts = told.match(/[\d.e-]+ %/g); // in the spans, inside, on the first position: all of it
            said(parts[0], sum(0, begin), 'what lies in the spans');
            said(parts[1], sum(begin, last + 1), 'what stays inside');
            assert.equal(parts.length, hidden ? 3 : 2, told);
            if (hidden) said(parts[2], read[0], 'the first position');
            assert.ok(Math.abs(parts.reduce((all, part) => all + percentOf(part), 0) - 1) < 0.002, `${told}: that is not all of it`);
        }
    }
}

// Tokens of an encoder look both ways: what a span reads behind it is listed, too, and the parts are all of it. Where a token has no row
// (in the decoder's layers of a T5) there is a sentence, and no number.
async function encoders() {
    const text = 'The sea is calm. A gull cries. The boat is late. Nobody waits.';
    for (const [arch, n] of [['bert', 0], ['t5', 6]]) {
        const [model, recording] = [join(work, `${arch}.gguf`), join(work, `${arch}.attn`)];
        run(binary, ['models', 'make', '--arch', arch, '--layers', '2', '-o', model]);
        run(binary, ['capture', '-m', model, '-p', text, '-n', String(n), '--ignore-eos', '--temp', '0', '-o', recording]);
        const own = await startView(binary, [recording]);
        const before = page;
        try {
            page = await openPage(browser, own.url);
            for (const rollout of ['0', '1']) {
                await show(`view=flow&hide_first=0&span=20-31&rollout=${rollout}`);
                await page.waitForFunction((on) => document.querySelector('.flow-span .share') && document.querySelector('.flow-view .note').textContent.startsWith('Rollout') === on, rollout === '1');
                const told = await page.textContent('.controls .flow-told');
                assert.match(told, /tokens 20 to 30/);
                const parts = told.match(/[\d.e-]+ %/g);
                assert.ok(Math.abs(parts.reduce((all, part) => all + percentOf(part), 0) - 1) < 0.002, `${arch}: ${told}: that is not all of it`);
                const spans = await csv();
                assert.ok(spans.some(([begin]) => Number(begin) >= 31), `${arch}: nothing behind the span is listed`);
                assert.ok(spans.some(([, end]) => Number(end) <= 20));
            }
            await show('view=flow&hide_first=0&rollout=0&span=0-9'); // an encoder's first token has a row of its own
            await page.waitForFunction(() => /tokens 0 to 8 read/.test(document.querySelector('.controls .flow-told')?.textContent));
            if (arch === 't5') {
                await show('view=text&token=3&layer=3');
                await page.waitForFunction(() => /token 3 has no row in layer 3/.test(document.body.textContent));
                await show('view=text&token=3&layer=0&tint=total');
                await page.waitForFunction(() => /there are no scores/.test(document.body.textContent));
                await show('view=text&token=3&layer=0&tint=readers');
                await page.waitForSelector('.text-place[data-ready="3"]');
                const values = (await csv()).map((line) => Number(line.at(-1)));
                assert.ok(values.slice(3, 10).every((v) => v > 0) && Number.isNaN(values.at(-1)), `${values}`);
                assert.ok(values.slice(0, 3).every((v) => Number.isNaN(v)), `${values}: those before it read it, too`);
            }
            assert.deepEqual(page.wrong, [], arch);
            await page.context().close();
        } finally {
            page = before;
            await own.stop();
        }
    }
}

async function health() {
    await show('view=health');
    await page.waitForSelector('.verdict.good');
    const verified = spawnSync(binary, ['verify', a, '--json'], { encoding: 'utf8' });
    const frames = JSON.parse(verified.stdout).frames;
    const saved = await csv();
    assert.equal(saved.length, frames.length);
    saved.forEach(([token, verdict, ratio], i) => {
        const f = frames[i];
        assert.deepEqual([Number(token), verdict], [f.token, f.verdict]);
        if (Number(ratio) >= 0) near(Number(ratio), f.witness_error / f.witness_tolerance, `the witness of token ${token}`);
    });
    const worst = Math.max(...frames.map((f) => f.witness_error / f.witness_tolerance));
    const said = await page.textContent('.verdict');
    assert.ok(said.match(/[\d.]+ ?%/g)?.some((share) => Math.abs(percentOf(share) - worst) < 0.006), `${said}: the worst is ${worst}`);
}

async function compare() {
    const other = exported(b);
    await show('view=compare');
    await page.waitForSelector('.differences td');
    const [ids, ids_b] = [(await api('tokens?r=0')).ids, (await api('tokens?r=1')).ids];
    let common = 0; // what both say: quantised keys may have led to another answer
    while (common < Math.min(n, other.n) && ids[common] === ids_b[common]) ++common;
    assert.match(await page.textContent('.controls'), common < Math.max(n, other.n) ? new RegExp(`The same up to token ${common - 1} \\(${common} tokens\\)`) : new RegExp(`${common} tokens, the same`));
    const table = await page.$$eval('.differences tbody tr', (all) => all.map((tr) => [...tr.children].map((td) => td.textContent)));
    const saved = await csv();
    assert.equal(table.length, pairs.length);
    table.forEach(([layer, head, said], i) => {
        let distance = 0;
        for (let t = 1; t < common; ++t) { // the first has one weight, 1
            for (let j = 0; j <= t; ++j) distance += Math.abs(rows.at(t, Number(layer), Number(head), j) - other.at(t, Number(layer), Number(head), j)) / 2 / (common - 1);
        }
        near(Number(saved[i][2]), distance, `the distance of ${layer}/${head}`);
        assert.ok(prints(said, Number(saved[i][2])), `${said} is not ${saved[i][2]}`);
    });
}

try {
    page = await openPage(browser, server.url);
    for (const view of [text, heads, matrix, flow, health, compare, encoders]) {
        await view();
        assert.deepEqual(page.wrong, [], view.name);
        console.log(`${view.name}: its numbers are the program's`);
    }
} finally {
    await browser.close();
    await server.stop();
}
