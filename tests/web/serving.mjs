// What the page asks and says on a server: its key, whose list it is, an answer that is paused and stopped. Parts of view.test.mjs.
import assert from 'node:assert/strict';
import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { startAttnscope } from './serve.mjs';
import { openPage, startView, textReady } from './viewer.mjs';

const list = 'header label:has-text("Recording") select';
const form = '.live-form textarea';

export function servingParts({ binary, browser, work, single, accessible, fine }) {
    // A server with --api-key: the page asks for it, takes it from the address, also once it is open, and shows it to nobody.
    async function asksForAKey() {
        const server = await startAttnscope(binary, ['--in-process', '--api-key', 'open sesame']);
        try {
            const page = await openPage(browser, `${server.url}/view/`);
            await page.waitForSelector('.key-form');
            await accessible(page, 'the question for a key');
            assert.ok(await page.isDisabled('.key-form button'));
            for (const wrong of ['sesame', 'Bärenklau ☂']) { // one that fits no header is as wrong as another
                await page.fill('.key-form input', wrong);
                await page.keyboard.press('Enter');
                await page.waitForSelector('.key-form .failure:has-text("none of this server")');
            }
            await page.fill('.key-form input', 'open sesame');
            await page.click('.key-form button');
            await page.waitForSelector(form);
            await page.reload();
            await page.waitForSelector(form, { timeout: 20000 });
            await page.fill(form, 'Say yes.'); // what it asks brings the key, too
            await page.fill('.live-form label:has-text("Tokens") input', '2');
            await page.click('.live-form button[type=submit]');
            await page.waitForFunction(() => /ended: /.test(document.querySelector('.controls').textContent), null, { timeout: 60000 });
            fine(page, 'a key that was typed');
            await page.context().close();
            const another = await openPage(browser, `${server.url}/view/#theme=dark&key=open%20sesame`);
            await another.waitForSelector(form);
            assert.equal(new URL(another.url()).hash, '#theme=dark');
            await another.context().close();
            const third = await openPage(browser, `${server.url}/view/`);
            await third.waitForSelector('.key-form');
            await third.evaluate(() => { location.hash = 'theme=light&key=open%20sesame'; });
            await third.waitForSelector(form);
            assert.equal(new URL(third.url()).hash, '#theme=light');
            assert.equal(await third.evaluate(() => document.documentElement.dataset.theme), 'light');
            fine(third, 'a key in the address of an open page');
            await third.context().close();
        } finally {
            await server.stop();
        }
    }

    // A pause holds everything that is shown; the end of one's own answer is not taken for somebody else's.
    async function pausedAndStopped() {
        const server = await startAttnscope(binary, ['--in-process']);
        try {
            const page = await openPage(browser, `${server.url}/view/`);
            await page.waitForSelector(form);
            assert.ok(await page.isDisabled('.live-form button[type=submit]'), 'nothing can be written of no prompt');
            await page.fill(form, 'Write a long story about a lighthouse.');
            await page.fill('.live-form label:has-text("Tokens") input', '900');
            await page.click('.live-form button[type=submit]');
            const shown = () => page.getAttribute('.text-place', 'data-tokens').then(Number);
            await page.waitForFunction(() => Number(document.querySelector('.text-place').dataset.tokens) > 8, null, { timeout: 60000 });
            await page.click('button:has-text("Pause the view")');
            await page.waitForSelector('button:has-text("Resume the view")');
            const seen = () => page.evaluate(() => [document.querySelector('.pane-text').textContent, document.querySelector('.side').textContent,
                document.querySelector('.controls').textContent.match(/\d+ \+ \d+ tokens/)[0]]);
            const [before, n] = [await seen(), await shown()];
            await page.waitForTimeout(700);
            await page.click('.live-form button:has-text("Stop")');
            await page.waitForFunction(() => /ended: stopped/.test(document.querySelector('.controls').textContent), null, { timeout: 10000 });
            assert.deepEqual(await seen(), before, 'what is shown went on');
            assert.match(await page.textContent('.controls'), /[1-9]\d* more since the pause/);
            for (let i = 0; i < 28; ++i) {
                assert.equal(await page.$('.note.busy'), null, 'its own answer is taken for somebody else\'s');
                await page.waitForTimeout(100);
            }
            await page.click('button:has-text("Resume the view")');
            await page.waitForFunction((least) => Number(document.querySelector('.text-place').dataset.tokens) > least, n);
            fine(page, 'paused and stopped');
            await page.context().close();
        } finally {
            await server.stop();
        }
    }

    // Names are numbers: the list says what each is about. What a program decodes to try its cache is not opened first.
    async function whatListsSay() {
        const other = join(work, 'copy-of-a.attn');
        copyFileSync(single, other);
        const server = await startView(binary, [single, other]);
        try {
            const page = await openPage(browser, server.url);
            await textReady(page);
            const options = () => page.$$eval(`${list} option`, (all) => all.map((o) => o.textContent));
            for (const line of await options()) assert.match(line, /\.attn: .?Anna keeps bees in Oslo/, 'the words of the user, not of the template');
            assert.equal(await page.$eval(list, (select) => select.value), '0');
            await page.route('**/view/api/sources?*', async (route) => {
                const body = await (await route.fetch()).json();
                body.sources[0].warm_up = true;
                await route.fulfill({ json: body });
            });
            await page.reload();
            await textReady(page);
            assert.match((await options())[0], /: .the program’s warm-up.$/);
            assert.equal(await page.$eval(list, (select) => select.value), '1');
            // A heading has something below it.
            const headings = () => page.$$eval('.side h3', (all) => all.map((h) => h.textContent));
            assert.ok(!(await headings()).includes('Attention over time'), 'nobody reads the last token');
            await page.keyboard.press('ArrowLeft');
            await page.keyboard.press('ArrowLeft');
            await page.waitForSelector('.side h3:has-text("Attention over time")');
            // A warm-up is nothing to compare with; two that are equal are said to be.
            await page.click('nav button:has-text("Compare")');
            await page.waitForSelector('.compare-view .failure');
            await page.unroute('**/view/api/sources?*');
            await page.evaluate(() => { location.hash = ''; });
            await page.reload();
            await textReady(page);
            await page.click('nav button:has-text("Compare")');
            await page.waitForSelector('.compare-view .equal:has-text("Nothing differs")', { timeout: 60000 });
            fine(page, 'what lists say');
            await page.context().close();
        } finally {
            await server.stop();
        }
    }

    return [asksForAKey, pausedAndStopped, whatListsSay];
}
