// docs/openapi.yaml against running servers, as they are by default and with --in-process: its examples are sent, the answers held
// against its schemas, and no endpoint that docs/http.md names may be missing. What is the engine's server's is there alone.
//   node openapi.test.mjs ATTNSCOPE
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import Ajv2020 from 'ajv/dist/2020.js';
import { parse } from 'yaml';
import { startAttnscope } from './serve.mjs';

const docs = new URL('../../docs/', import.meta.url);
const spec = parse(await readFile(new URL('openapi.yaml', docs), 'utf8'), { merge: true });
const ajv = new Ajv2020.default({ strict: false, allErrors: true });
ajv.addSchema({ $id: 'spec', ...spec });

function resolve(object) {
    if (!object?.$ref) return object;
    return object.$ref.slice(2).split('/').reduce((at, key) => at[key], spec);
}

function check(schema, value, what) {
    // references inside point into the document
    const absolute = JSON.parse(JSON.stringify(schema).replaceAll('"#/', '"spec#/'));
    const validate = ajv.compile(absolute);
    assert.ok(validate(value), `${what}: ${ajv.errorsText(validate.errors)}: ${JSON.stringify(value).slice(0, 300)}`);
}

let n = 0;
async function ask(url, path, method, operation, body) {
    const what = `${method} ${path} ${body ? JSON.stringify(body).slice(0, 80) : ''}`;
    const request = operation.requestBody?.content['application/json'];
    if (request && body) check(request.schema, body, `${what}: the example itself`);
    const answer = await fetch(url + path, { method: method.toUpperCase(), body: body && JSON.stringify(body) });
    const text = await answer.text();
    const response = resolve(operation.responses[answer.status]);
    assert.ok(response, `${what}: status ${answer.status} is not in the document: ${text.slice(0, 200)}`);
    assert.equal(answer.status, 200, `${what}: ${text.slice(0, 200)}`);
    const type = answer.headers.get('content-type').split(';')[0];
    const content = response.content[type];
    assert.ok(content, `${what}: ${type} is not in the document`);
    if (type === 'application/json') check(content.schema, JSON.parse(text), what);
    if (type === 'text/event-stream') {
        const data = text.split('\n').filter((line) => line.startsWith('data: ')).map((line) => line.slice(6));
        assert.ok(data.length >= 2, `${what}: ${data.length} events`);
        for (const event of data) if (event !== '[DONE]') check(content.schema, JSON.parse(event), what);
        if (body.attention) assert.ok(data.some((event) => event.includes('"attention":{')), `${what}: no event has attention`);
    }
    ++n;
    // A body that is no object is refused in the shape that the document gives.
    if (request && operation.responses['400']) {
        const refused = await fetch(url + path, { method: 'POST', body: '[1, 2' });
        assert.equal(refused.status, 400, what);
        check(resolve(operation.responses['400']).content['application/json'].schema, await refused.json(), `${what}: refused`);
    }
}

const text = await readFile(new URL('http.md', docs), 'utf8');
const named = new Set([...text.matchAll(/(?:GET|POST) (\/[a-z0-9_/-]+)/g), ...text.matchAll(/`(\/(?:api|v1)\/[a-z0-9_/-]+)`/g)].map((m) => m[1]));
assert.ok(named.size > 20);
for (const path of named) {
    if (path.endsWith('/ws') || path.endsWith('/')) continue; // a WebSocket is beyond OpenAPI
    assert.ok(spec.paths[path], `docs/http.md names ${path}, docs/openapi.yaml does not`);
}

for (const options of [[], ['--in-process']]) {
    const server = await startAttnscope(process.argv[2], options);
    try {
        n = 0;
        // What of the model's shape llama-server does not tell is known once it has decoded something.
        await fetch(`${server.url}/api/v1/generate`, { method: 'POST', body: JSON.stringify({ prompt: 'a', max_length: 1, attention: { reduce: 'mean' } }) });
        for (const [path, { 'x-engines-server': elsewhere, ...operations }] of Object.entries(spec.paths)) {
            for (const [method, operation] of Object.entries(operations)) {
                const content = operation.requestBody?.content['application/json'];
                const bodies = content?.examples ? Object.values(content.examples).map((e) => e.value) : [content?.example];
                if (elsewhere && options.length > 0) {
                    const refused = await fetch(server.url + path, { method: method.toUpperCase(), body: JSON.stringify(bodies[0]) });
                    assert.equal(refused.status, 404, path);
                    assert.match((await refused.json()).error.message, /without it/, path);
                } else {
                    for (const body of bodies) await ask(server.url, path, method, operation, body);
                }
            }
        }
        console.log(`${n} requests answered as the document says, serve ${options}`);
    } finally {
        await server.stop();
    }
}
