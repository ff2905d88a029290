// Pictures of the page for the documents, on a real recording.
//   node screenshots.mjs ATTNSCOPE MADE_OR_CAPTURED.attn OUT_DIR [THEIR_CAPTURE]   (of oscillation.mjs)
//   ALL=OTHER.attn node screenshots.mjs ...: every view light and dark, as wide as a desk's and a phone's screen, to be looked at
import { join } from 'node:path';
import { matrixReady, openPage, startBrowser, startView, textReady } from './viewer.mjs';

const [binary, recording, out, theirs] = process.argv.slice(2);
const browser = await startBrowser();
const only = process.argv[6]; // one picture
async function picture(files, name, hash, ready, options = {}) {
    if (only && name !== only) return;
    const server = await startView(binary, files);
    const page = await openPage(browser, `${server.url}${hash}`, { viewport: { width: 1280, height: 720 }, ...options });
    await ready(page);
    await page.waitForTimeout(500);
    await page.screenshot({ path: join(out, `${name}.png`) });
    if (page.wrong.length > 0) console.error(name, page.wrong);
    await page.context().close();
    await server.stop();
    console.log(join(out, `${name}.png`));
}
async function documents() {
    await picture([recording], 'view-text', '#token=-32&theme=light', async (p) => { await textReady(p); await p.waitForSelector('.side table.readers td.number', { timeout: 60000 }); });
    await picture([recording], 'view-heads', '#view=heads&x=previous&y=induction&c=first&theme=dark', async (p) => {
        await p.waitForSelector('table.strongest tr', { timeout: 120000 });
        const all = await p.evaluate(async () => (await fetch('api/heads?r=0')).json()); // the head that stands out
        const top = all.values.induction.indexOf(Math.max(...all.values.induction));
        await p.evaluate(([l, h]) => { location.hash += `&layer=${l}&head=${h}`; }, [Math.floor(top / all.n_head), top % all.n_head]);
        await p.waitForTimeout(1000);
    });
    await picture([recording], 'view-matrix', '#view=matrix&theme=dark', matrixReady);
    await picture([recording], 'view-flow', '#view=flow&theme=light', async (p) => {
        await p.waitForSelector('.flow-span .share');
        await p.click('.answers .flow-span >> nth=2');
        await p.waitForTimeout(500);
    });
    await picture([recording], 'view-phone', '#token=-32&theme=dark', textReady, { viewport: { width: 390, height: 800 } });
    if (theirs) await picture([theirs], 'view-oscillation', '#theme=light', (p) => p.waitForSelector('.verdict', { timeout: 300000 }));
}
async function all(other) {
    const ready = {
        text: async (p) => { await textReady(p); await p.waitForSelector('.side table.readers td.number', { timeout: 60000 }); },
        heads: (p) => p.waitForSelector('table.strongest tr', { timeout: 120000 }), matrix: matrixReady,
        flow: async (p) => { await p.waitForSelector('.flow-span .share'); await p.click('.answers .flow-span >> nth=1').catch(() => undefined); },
        health: (p) => p.waitForSelector('.verdict'), compare: (p) => p.waitForSelector('.differences td', { timeout: 60000 }),
    };
    for (const [size, viewport] of [['desk', { width: 1280, height: 800 }], ['phone', { width: 390, height: 800 }]]) {
        for (const theme of ['light', 'dark']) {
            for (const [view, there] of Object.entries(ready)) {
                await picture([recording, other], `${view}-${theme}-${size}`, `#view=${view}&theme=${theme}`, there, { viewport });
            }
            await picture([recording, other], `help-${theme}-${size}`, `#theme=${theme}&tint=h2o`, async (p) => { await textReady(p); await p.keyboard.press('?'); }, { viewport });
        }
    }
}
try {
    if (process.env.ALL) await all(process.env.ALL);
    else await documents();
} finally {
    await browser.close();
}
