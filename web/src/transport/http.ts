// Answers from the server that the page came from: `attnscope view` or `attnscope serve`. Same origin only.
import { ApiTransport, sentence_of } from './api';
import { bytes_of_base64 } from './base64';
import { TransportError } from './transport';
import type { Generation, Key, LiveEvent } from './transport';

export class HttpTransport extends ApiTransport {
    readonly kind = 'server';

    readonly key: Key = {
        refused: false,
        given: () => this.secret !== '',
        give: (secret) => {
            this.secret = secret;
            this.keep(secret);
            this.key.changed?.();
        },
    };

    // base: where the page lies, ending in "/". secret: the key of a server that wants one. keep: is told another one that was given.
    constructor(private base: string, private secret: string, private keep: (secret: string) => void = () => undefined) {
        super();
    }

    private headers(): Record<string, string> {
        return /^[ -~]+$/.test(this.secret) ? { 'X-Api-Key': this.secret } : {}; // another one is no header, and fits nothing
    }

    protected async ask(path: string, words: URLSearchParams): Promise<Response> {
        try {
            const answer = await fetch(`${this.base}api/${path}?${words}`, { headers: this.headers(), cache: 'no-store' });
            this.key.refused = answer.status === 401;
            return answer;
        } catch {
            throw new TransportError('The server does not answer. Was attnscope stopped?');
        }
    }

    private async post(path: string, body: unknown, signal?: AbortSignal): Promise<Response> {
        const answer = await fetch(path, {
            method: 'POST', body: JSON.stringify(body), signal, headers: { 'Content-Type': 'application/json', ...this.headers() },
        });
        if (!answer.ok) throw new TransportError(await sentence_of(answer), answer.status);
        return answer;
    }

    // Aborting the signal closes the connection, which stops the generation within a token.
    async *generate(request: Generation, signal: AbortSignal): AsyncIterable<LiveEvent> {
        let prompt = request.prompt;
        if (request.chat) {
            const messages = [{ role: 'user', content: prompt }];
            prompt = (await (await this.post('/apply-template', { messages }, signal)).json()).prompt;
        }
        const tokenized = await (await this.post('/api/v1/tokenize', { text: prompt, add_special_tokens: true }, signal)).json();
        yield { type: 'prompt', pieces: tokenized.tokens.map((t: any) => ({ id: t.token_id, text: t.text })) };
        const answer = await this.post('/api/extra/generate/stream', {
            input_ids: tokenized.token_ids, max_length: request.max_tokens, temperature: request.temperature,
            output_attentions: 'aggregated', attention: { reduce: 'mean', flow: 'lossless' }, genkey: request.name,
            ...(request.record ? { record: true } : {}),
        }, signal);
        for await (const event of events_of(answer)) {
            if (event.type === 'token') {
                if (event.attention?.error) throw new TransportError(String(event.attention.error));
                const data = bytes_of_base64(event.attention.data);
                yield { type: 'token', token: event.token.token_id, text: event.token.text, row: new Float32Array(data.buffer),
                    verdict: event.attention.verdict };
            } else if (event.type === 'done') {
                yield { type: 'done', finish: event.finish_reason, recording: event.recording, sequence: event.sequence };
            } else if (event.type === 'error') {
                throw new TransportError(String(event.error?.msg ?? event.error));
            }
        }
    }

    async stop(name: string): Promise<void> {
        await this.post('/api/extra/abort', { genkey: name });
    }

    async busy(): Promise<boolean | undefined> {
        try {
            const answer = await fetch('/api/extra/perf', { headers: this.headers(), cache: 'no-store' });
            if (!answer.ok) return undefined;
            const { idle, queue } = await answer.json();
            return idle === 0 || queue > 0;
        } catch {
            return undefined;
        }
    }
}

// Server-sent events, each parsed, as they come.
async function* events_of(answer: Response): AsyncIterable<any> {
    const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
    let waiting = '';
    for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        waiting += value;
        for (let end; (end = waiting.indexOf('\n\n')) >= 0; waiting = waiting.slice(end + 2)) {
            const line = waiting.slice(0, end).split('\n').find((l) => l.startsWith('data: '));
            if (line) yield JSON.parse(line.slice(6));
        }
    }
}
