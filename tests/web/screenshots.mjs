// Pictures of the page for the documents, on a real recording.
//   node screenshots.mjs ATTNSCOPE MADE_OR_CAPTURED.attn OUT_DIR [THEIR_CAPTURE]
import { join } from 'node:path';
import { matrixReady, openPage, startBrowser, startView, textReady } from './viewer.mjs';

const [binary, recording, out, theirs] = process.argv.slice(2);
const browser = await startBrowser();
async function picture(files, name, hash, ready, options = {}) {
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
    await picture([recording], 'view-heads', '#view=heads&x=previous&y=induction&c=first&theme=dark&layer=18&head=0', (p) => p.waitForSelector('table.strongest tr', { timeout: 120000 }));
    await picture([recording], 'view-matrix', '#view=matrix&theme=dark', matrixReady);
    await picture([recording], 'view-flow', '#view=flow&theme=light', (p) => p.waitForSelector('.flow-span .share'));
    if (theirs) await picture([theirs], 'view-oscillation', '#theme=light', (p) => p.waitForSelector('.verdict', { timeout: 300000 }));
} finally {
    await browser.close();
}
