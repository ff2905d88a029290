// What Halo Weave does, in small: a conversation as token ids, streamed with attention, scored by brightness, pruned, and
// gone on with. Runs in the browser, from another origin than the server's.

async function call(base, path, body) {
    // Halo Weave sends JSON as text/plain: no preflight, which the server must take.
    const answer = await fetch(base + path, body === undefined ? {} : {
        method: 'POST', headers: { 'Content-Type': 'text/plain' }, body: JSON.stringify(body),
    });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
}

function floats(base64) {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
    return new Float32Array(bytes.buffer);
}

// Events of a stream, each parsed, as they come.
async function* stream(base, request) {
    const answer = await fetch(base + '/api/extra/generate/stream', {
        method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(request),
    });
    if (!answer.ok) throw new Error(`stream: ${answer.status} ${await answer.text()}`);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = '';
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        waiting += value;
        let end;
        while ((end = waiting.indexOf('\n\n')) >= 0) {
            const line = waiting.slice(0, end).split('\n').find((l) => l.startsWith('data: '));
            waiting = waiting.slice(end + 2);
            yield JSON.parse(line.slice(6));
        }
    }
}

// Magnitude voting. New positions start at 10,000.
function vote(scores, row) {
    while (scores.length < row.length) scores.push(10000);
    if (row.length < 2) return;
    const sink = Math.max(...row);
    const threshold = Math.max(0, (1 - sink) / row.length);
    for (let j = 0; j < row.length; ++j) {
        scores[j] = row[j] > threshold ? Math.min(10000, scores[j] + Math.floor(row[j] / threshold)) : scores[j] - 1;
    }
}

// One answer of the model: what was generated, and what each step says of it.
async function turn(base, ids, extra) {
    const out = { tokens: [], texts: [], lengths: [], sums: [], scores: [], tokenizeMs: null, done: null };
    for await (const event of stream(base, { input_ids: ids, max_length: 24, temperature: 0, ...extra })) {
        if (event.type === 'done') {
            out.done = event;
            continue;
        }
        if (event.type !== 'token') throw new Error(JSON.stringify(event));
        out.tokens.push(event.token.token_id);
        out.texts.push(event.token.text);
        out.requestId = event.request_id;
        const row = floats(event.attention.data);
        out.lengths.push(event.attention.context_length);
        out.sums.push(row.reduce((a, b) => a + b, 0));
        out.shape = event.attention.shape;
        if (event.attention.format === 'aggregated') vote(out.scores, row);
        if (out.tokenizeMs === null) { // while the generation runs
            const start = performance.now();
            await call(base, '/api/v1/tokenize', { text: 'Are you still there?', add_special_tokens: false });
            out.tokenizeMs = performance.now() - start;
        }
    }
    return out;
}

// The same request over WebSocket: the rows as bits, to be held against the stream's.
function turnOverWebSocket(base, ids, extra) {
    return new Promise((resolve, reject) => {
        const socket = new WebSocket(base.replace('http', 'ws') + '/api/extra/generate/stream/ws');
        socket.binaryType = 'arraybuffer';
        const out = { tokens: [], rows: [] };
        socket.onopen = () => socket.send(JSON.stringify({ input_ids: ids, max_length: 24, temperature: 0, ...extra }));
        socket.onerror = () => reject(new Error('the WebSocket failed'));
        socket.onmessage = ({ data }) => {
            if (data instanceof ArrayBuffer) return out.rows.push(new Float32Array(data));
            const event = JSON.parse(data);
            if (event.type === 'token') out.tokens.push(event.token_id);
            else if (event.type === 'done') { socket.close(); resolve(out); }
            else reject(new Error(data));
        };
    });
}

window.runConversation = async (base) => {
    const model = await call(base, '/api/v1/model');
    const prompt = '<|im_start|>user\nAnna keeps bees in Oslo. Boris bakes bread in Lisbon. Chen repairs clocks in Kyoto. '
        + 'Name one of them.<|im_end|>\n<|im_start|>assistant\n';
    const tokenized = await call(base, '/api/v1/tokenize', { text: prompt, add_special_tokens: false });
    const ids = tokenized.tokens.map((t) => t.token_id);

    const all = await turn(base, ids, { output_attentions: true, request_id: 'all' });
    const aggregated = { output_attentions: 'aggregated', request_id: 'first',
        attention: { reduce: 'mean', accumulate: ['brightness'] } };
    const first = await turn(base, ids, aggregated);

    const overSocket = await turnOverWebSocket(base, ids, { attention: { reduce: 'mean' } });
    const socketScores = [];
    for (const row of overSocket.rows) vote(socketScores, row);

    // The conversation so far, without its darkest fifth. The first position, the sink, is never dropped.
    const conversation = [...ids, ...first.tokens];
    const scores = conversation.map((_, i) => (i < first.scores.length ? first.scores[i] : 10000));
    const budget = Math.ceil(conversation.length * 0.8);
    const order = conversation.map((_, i) => i).sort((a, b) => scores[a] - scores[b] || a - b).filter((i) => i !== 0);
    const dropped = new Set(order.slice(0, conversation.length - budget));
    const kept = conversation.filter((_, i) => !dropped.has(i));
    const prune = await call(base, '/api/v1/prune', { input_ids: conversation, policy: 'brightness', scores, budget, pinned: [0] });
    const pruneById = await call(base, '/api/v1/prune', { input_ids: conversation, policy: 'brightness', request_id: 'first', budget, pinned: [0] });

    const next = await call(base, '/api/v1/tokenize', {
        text: '<|im_end|>\n<|im_start|>user\nAnd another?<|im_end|>\n<|im_start|>assistant\n', add_special_tokens: false });
    const pruned = [...kept, ...next.token_ids];
    const second = await turn(base, pruned, { output_attentions: 'aggregated', request_id: 'second' });
    return { model, tokenized, ids, all, first, overSocket: { tokens: overSocket.tokens }, socketScores, kept, pruned, prune, pruneById, second };
};

// Whether this page may talk to the server at all.
window.mayCall = (base) => call(base, '/api/v1/model').then(() => true, () => false);
