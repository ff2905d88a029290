// Pictures of the page for the documents, on a real recording.
//   node screenshots.mjs ATTNSCOPE MADE_OR_CAPTURED.attn OUT_DIR [THEIR_CAPTURE]   (of oscillation.mjs)
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
try {
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
} finally {
    await browser.close();
}
