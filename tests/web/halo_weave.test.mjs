// A page from another origin takes a conversation through Halo Weave's whole cycle, in a real browser, with the real model.
//   node halo_weave.test.mjs ATTNSCOPE
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { startAttnscope, startPages } from './serve.mjs';

const files = ['conversation.html', 'conversation.js'];
const pages = await startPages(files);
const strangers = await startPages(files);
const server = await startAttnscope(process.argv[2], ['--cors-origin', pages.origin]);
// The sandbox needs privileges that a container's root does not have; the page is our own.
const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
try {
    const stranger = await browser.newPage();
    await stranger.goto(`${strangers.origin}/conversation.html`, { waitUntil: 'load' });
    assert.equal(await stranger.evaluate((url) => window.mayCall(url), server.url), false, 'an origin that nobody allowed may call');

    const page = await browser.newPage();
    page.on('pageerror', (error) => console.error('page:', error.message));
    await page.goto(`${pages.origin}/conversation.html`, { waitUntil: 'load' });
    assert.equal(await page.evaluate((url) => window.mayCall(url), server.url), true);
    const r = await page.evaluate((url) => window.runConversation(url), server.url);

    assert.equal(r.model.num_layers, 30);
    assert.equal(r.model.num_attention_heads, 9);
    assert.equal(r.model.num_key_value_heads, 3);
    assert.equal(r.tokenized.token_count, r.ids.length);
    assert.deepEqual(r.tokenized.token_ids, r.ids);

    // Every token has attention, the first one too; entry i belongs to input_ids[i], then to what was generated before.
    const n = r.ids.length;
    assert.ok(r.all.tokens.length >= 3, `only ${r.all.tokens.length} tokens`);
    assert.deepEqual(r.all.lengths, r.all.tokens.map((_, i) => n + i));
    assert.deepEqual(r.all.shape, [30, 9, n + r.all.tokens.length - 1]);
    for (const sum of r.all.sums) assert.ok(Math.abs(sum - 270) < 1e-2, `270 rows sum to ${sum}`);
    assert.deepEqual(r.first.tokens, r.all.tokens, 'the same request twice gives another answer');
    for (const sum of r.first.sums) assert.ok(Math.abs(sum - 1) < 1e-4, `the mean row sums to ${sum}`);
    assert.equal(r.first.requestId, 'first');
    assert.ok(r.first.done.reused >= n - 1, 'the prompt was read again');
    for (const t of [r.all, r.first, r.second]) assert.ok(t.tokenizeMs < 5000, `tokenising took ${t.tokenizeMs} ms`);

    // Brightness, in the browser and in the server, to the last vote.
    assert.deepEqual(r.first.scores, r.first.done.scores.brightness);
    assert.deepEqual(r.overSocket.tokens, r.first.tokens);
    assert.deepEqual(r.socketScores, r.first.scores, 'the WebSocket brings other rows than the stream');
    assert.ok(new Set(r.first.scores).size > 3, 'all positions are equally bright');

    // The prune the page did itself is what the server says, from scores and from what it remembers.
    assert.deepEqual(r.prune.input_ids, r.kept);
    assert.deepEqual(r.pruneById.input_ids, r.kept);
    assert.ok(r.kept.length < n + r.first.tokens.length);

    // The conversation goes on from the pruned ids.
    assert.ok(r.second.tokens.length >= 1);
    assert.deepEqual(r.second.lengths, r.second.tokens.map((_, i) => r.pruned.length + i));
    console.log(`first answer: ${JSON.stringify(r.first.texts.join(''))}`);
    console.log(`kept ${r.kept.length} of ${n + r.first.tokens.length} tokens; then: ${JSON.stringify(r.second.texts.join(''))}`);
} finally {
    await browser.close();
    pages.stop();
    strangers.stop();
    await server.stop();
}
