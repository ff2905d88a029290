// The OpenAI client library from npm, streaming from the real model.
//   node openai.test.mjs ATTNSCOPE
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { startAttnscope } from './serve.mjs';

const server = await startAttnscope(process.argv[2], ['--api-key', 'secret']);
try {
    const client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'secret', maxRetries: 0 });
    const models = (await client.models.list()).data;
    assert.equal(models.length, 1);
    const request = {
        model: models[0].id, temperature: 0, max_tokens: 24,
        // With the system message of its own template the small model does not know.
        messages: [{ role: 'system', content: 'Be brief.' }, { role: 'user', content: 'What is the capital of France?' }],
    };

    let text = '';
    let chunks = 0;
    let finish = null;
    let usage = null;
    for await (const chunk of await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } })) {
        usage = chunk.usage ?? usage;
        if (chunk.choices.length === 0) continue;
        ++chunks;
        text += chunk.choices[0].delta.content ?? '';
        finish = chunk.choices[0].finish_reason ?? finish;
    }
    assert.match(text, /Paris/);
    assert.ok(chunks > 3, `${chunks} chunks are no stream`);
    assert.ok(finish === 'stop' || finish === 'length');
    assert.ok(usage.prompt_tokens > 5 && usage.completion_tokens > 0);

    const whole = await client.chat.completions.create(request);
    assert.equal(whole.choices[0].message.content, text, 'streaming and not give different answers');
    assert.ok(whole.usage.prompt_tokens_details.cached_tokens > 0, 'the same prompt was read again');

    // Attention rides along for clients that ask for it, and no client has to.
    const attended = await client.chat.completions.create({ ...request, stream: true, attention: { reduce: 'top_k', top_k: 3 } });
    let rows = 0;
    for await (const chunk of attended) {
        if (!chunk.attention) continue;
        assert.equal(chunk.attention.columns.length, 3);
        ++rows;
    }
    assert.ok(rows > 3);

    // Leaving in mid-stream frees the server for the next request.
    const left = await client.chat.completions.create({ ...request, max_tokens: 900, ignore_eos: true, stream: true });
    for await (const chunk of left) {
        if (chunk) break;
    }
    const start = Date.now();
    await client.completions.create({ model: models[0].id, prompt: 'Once', max_tokens: 2, temperature: 0 });
    assert.ok(Date.now() - start < 5000, 'the next request waited for a client that had left');

    const wrong = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: 'guess', maxRetries: 0 });
    await assert.rejects(wrong.models.list(), (error) => error instanceof OpenAI.AuthenticationError);
    await assert.rejects(client.chat.completions.create({ ...request, response_format: { type: 'nonsense' } }),
        (error) => error instanceof OpenAI.BadRequestError);
    await assert.rejects(client.chat.completions.create({ ...request, attention: { reduce: 'nonsense' } }),
        (error) => error instanceof OpenAI.BadRequestError && /reduce/.test(error.message));

    // What the engine's own server makes of tools is the same with attention and without.
    const tools = [{ type: 'function', function: { name: 'capital_of', parameters: {
        type: 'object', properties: { country: { enum: ['France', 'Peru'] } }, required: ['country'] } } }];
    const [plain, withRows] = [await client.chat.completions.create({ ...request, tools }),
        await client.chat.completions.create({ ...request, tools, attention: { reduce: 'mean' } })];
    assert.deepEqual(withRows.choices[0].message, plain.choices[0].message);
    assert.equal(withRows.attention.length, plain.usage.completion_tokens);
    assert.ok(withRows.attention.every((row) => row.verdict === 'ok'));
    const two = await client.completions.create({ model: models[0].id, prompt: ['Once', 'The sea'], max_tokens: 2, temperature: 0 });
    assert.equal(two.choices.length, 2);
    console.log(`answer: ${JSON.stringify(text)}`);
} finally {
    await server.stop();
}
