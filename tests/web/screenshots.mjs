// Pictures of the page for the documents, on a real recording and on the oscillation made again.
//   node screenshots.mjs ATTNSCOPE OUT_DIR [NAME]
//   ALL=1 node screenshots.mjs ATTNSCOPE OUT_DIR [NAME]: every view light and dark, as wide as a desk's and a phone's screen
// NAME: one picture alone. RECORDING=FILE.attn: of that recording.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { matrixReady, openPage, run, startBrowser, startView, textReady } from './viewer.mjs';

const [binary, out, only] = process.argv.slice(2);
const work = mkdtempSync(join(tmpdir(), 'pictures-'));
mkdirSync(out, { recursive: true });
const captured = (name, prompt, options = []) => {
    const path = join(work, name);
    run(binary, ['capture', '-m', 'smollm2', '--chat', '--temp', '0', '-n', '160', '-p', prompt, '-o', path, ...options]);
    return path;
};
const why = 'Why is the sky blue?';
const recording = process.env.RECORDING ?? captured('sky.attn', why);
const theirs = join(work, 'oscillation.npy');
const oscillation = fileURLToPath(new URL('oscillation.mjs', import.meta.url));
if (spawnSync(process.execPath, [oscillation, theirs], { stdio: 'inherit' }).status !== 0) throw new Error('oscillation.mjs failed');

const browser = await startBrowser();
const wrong = [];
const desk = { width: 1280, height: 800 };
const phone = { width: 390, height: 800 };

const readers = async (p) => { await textReady(p); await p.waitForSelector('.side table.readers td.number', { timeout: 60000 }); };
const verdict = (p) => p.waitForSelector('.verdict', { timeout: 300000 });
const flow = async (p) => {
    await p.waitForSelector('.flow-span .share', { timeout: 60000 });
    await p.click('.answers .flow-span >> nth=2');
    await p.waitForTimeout(300);
    await p.waitForSelector('.flow-span .share');
};
const heads = async (p) => { // the head that stands out
    await p.waitForSelector('table.strongest tr', { timeout: 120000 });
    const all = await p.evaluate(async () => (await fetch('api/heads?r=0')).json());
    const top = all.values.induction.indexOf(Math.max(...all.values.induction));
    await p.evaluate(([l, h]) => { location.hash += `&layer=${l}&head=${h}`; }, [Math.floor(top / all.n_head), top % all.n_head]);
    await p.waitForFunction((text) => document.querySelector('.side h2')?.textContent === text, `Layer ${Math.floor(top / all.n_head)}, head ${top % all.n_head}`);
    await p.waitForSelector('table.strongest tr', { timeout: 60000 });
};

async function picture(files, name, hash, ready, viewport = desk) {
    if (only && name !== only) return;
    const server = await startView(binary, files);
    try {
        const page = await openPage(browser, `${server.url}${hash}`, { viewport });
        await ready(page);
        await page.waitForTimeout(500);
        await page.screenshot({ path: join(out, `${name}.png`) });
        wrong.push(...page.wrong.map((what) => `${name}: ${what}`));
        if (await page.evaluate(() => document.documentElement.scrollWidth > innerWidth)) wrong.push(`${name}: wider than its window`);
        await page.context().close();
    } finally {
        await server.stop();
    }
    console.log(join(out, `${name}.png`));
}

async function documents() {
    // An answer that says the same again and again: heads of induction find what stood there before.
    const repeating = process.env.RECORDING ?? captured('lighthouses.attn', 'Tell me three facts about lighthouses. Say for each of them how people came to know it.');
    await picture([recording], 'view-text', '#token=150&theme=light', readers);
    await picture([repeating], 'view-heads', '#view=heads&x=previous&y=induction&c=first&theme=dark', heads);
    await picture([repeating], 'view-matrix', '#view=matrix&theme=dark', matrixReady);
    await picture([recording], 'view-flow', '#view=flow&theme=light', flow);
    await picture([recording], 'view-phone', '#token=150&theme=dark', readers, phone);
    await picture([theirs], 'view-oscillation', '#theme=light', verdict);
}

async function all() {
    const other = captured('q8.attn', why, ['--cache-type-k', 'q8_0', '--flash-attn', 'on']);
    const differences = (p) => p.waitForSelector('.differences td', { timeout: 60000 });
    for (const [size, viewport] of [['desk', desk], ['phone', phone]]) {
        for (const theme of ['light', 'dark']) {
            const of = (view, files, words, ready) => picture(files, `${view}-${theme}-${size}`, `#theme=${theme}&${words}`, ready, viewport);
            for (const [view, ready] of Object.entries({ text: readers, heads, matrix: matrixReady, flow, health: verdict, compare: differences }))
                await of(view, [recording, other], `view=${view}&token=60`, ready);
            await of('h2o', [recording], 'tint=h2o&budget=0.4', textReady);
            await of('help', [recording], 'tint=readers&token=20', async (p) => { await textReady(p); await p.keyboard.press('?'); });
            await of('oscillation', [theirs], '', verdict);
        }
    }
}

try {
    await (process.env.ALL ? all() : documents());
} finally {
    await browser.close();
    rmSync(work, { recursive: true, force: true });
}
if (wrong.length > 0) throw new Error(wrong.join('\n'));
