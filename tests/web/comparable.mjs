// What Compare offers beside the recording that is shown: one that can be compared with it, or a word that there is none.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { openPage, run, startView } from './viewer.mjs';

export function comparableParts({ binary, made, browser, work, fine }) {
    const record = (name, model, prompt) => {
        const file = join(work, `${name}.attn`);
        run(binary, ['capture', '-m', model, '-p', prompt, '-n', '2', '--force', '-o', file]);
        return file;
    };
    const chosen = (page) => page.$eval('.controls label:has-text("Against") select', (s) => s.selectedOptions[0]?.textContent.split(': ')[0]); // behind it stand its first words

    async function comparable() {
        const model = (name, options) => {
            const file = join(work, `${name}.gguf`);
            run(binary, ['models', 'make', '-o', file, ...options]);
            return file;
        };
        const [four, two] = [model('four', []), model('two', ['--layers', '2'])];
        const shown = record('shown', four, 'The same beginning'), shape = record('another-shape', two, 'The same beginning');
        const same = record('same', four, 'The same beginning, and more');
        const tree = join(work, 'compared-tree.attn');
        run(made, ['tree', tree]);
        let server = await startView(binary, [shown, shape, same]);
        try {
            const page = await openPage(browser, `${server.url}#view=compare`);
            await page.waitForSelector('.differences td', { timeout: 20000 });
            assert.equal(await chosen(page), 'same.attn');
            assert.equal(await page.$('.failure'), null);
            // Whoever chooses another one gets it, and is told why not.
            await page.selectOption('.controls label:has-text("Against") select', { value: '1' });
            await page.waitForSelector('.failure', { timeout: 20000 });
            assert.match(await page.textContent('.failure'), /models of other shapes/);
            assert.equal(await chosen(page), 'another-shape.attn');
            fine(page, 'one that can be compared');
            await page.context().close();
        } finally {
            await server.stop();
        }
        server = await startView(binary, [shown, shape]);
        try {
            const page = await openPage(browser, `${server.url}#view=compare`);
            await page.waitForSelector('.failure', { timeout: 20000 });
            assert.match(await page.textContent('.failure'), /The other recording is of a model of another shape, or begins with another token/);
            assert.doesNotMatch(await page.textContent('main'), /Comparing every row/);
            fine(page, 'none that can be compared');
            await page.context().close();
        } finally {
            await server.stop();
        }
        server = await startView(binary, [tree, shape]); // another sequence of its own
        try {
            const page = await openPage(browser, `${server.url}#view=compare`);
            await page.waitForSelector('.differences td', { timeout: 20000 });
            assert.equal(await chosen(page), 'compared-tree.attn');
            await page.context().close();
        } finally {
            await server.stop();
        }
    }

    return [comparable];
}
