// The AI SDK as it comes from npm, unmodified, against `attnscope serve`.
//   node clients.mjs URL
import assert from 'node:assert/strict';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { generateObject, generateText, streamText } from 'ai';
import { z } from 'zod';

const provider = createOpenAICompatible({ name: 'attnscope', baseURL: `${process.argv[2]}/v1`, supportsStructuredOutputs: true });
const model = provider('local');
const asked = { model, system: 'Be brief.', prompt: 'What is the capital of France?', temperature: 0, maxOutputTokens: 40, maxRetries: 0 };
const begun = Date.now();

const whole = await generateText(asked);
assert.match(whole.text, /Paris/);
assert.ok(whole.usage.outputTokens > 0);
let text = '';
for await (const part of streamText(asked).textStream) text += part;
assert.equal(text, whole.text);
const { object } = await generateObject({ ...asked, maxOutputTokens: 200, schema: z.object({ city: z.enum(['Paris', 'Rome']), sure: z.boolean() }) });
assert.ok(['Paris', 'Rome'].includes(object.city));
console.log(`AI SDK: as it should (${((Date.now() - begun) / 1000).toFixed(1)} s)`);
