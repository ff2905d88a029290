// Answers from the host of a widget, by messages: a notebook's kernel. Nothing is fetched.
//
// Each question is one message {attnscope: 1, id, path, query}: what GET /view/api/PATH?QUERY of the server means, query without "?".
// Its answer is one message {attnscope: 1, id, status} and one buffer, the body of that route's answer.
import { ApiTransport } from './api';
import { TransportError } from './transport';
import type { LiveEvent } from './transport';

// What an anywidget model offers of itself.
export interface Model {
    send(content: unknown, callbacks?: unknown, buffers?: ArrayBuffer[]): void;
    on(event: string, listener: (content: any, buffers: DataView[]) => void): void;
    off(event: string, listener?: (content: any, buffers: DataView[]) => void): void;
}

interface Waiting {
    resolve: (answer: Response) => void;
    reject: (error: Error) => void;
}

export class WidgetTransport extends ApiTransport {
    readonly kind = 'widget';
    private waiting = new Map<string, Waiting>();
    private asked = 0;
    private name = Math.random().toString(36).slice(2); // a kernel's answers reach every view and every window that shows this model

    constructor(private model: Model) {
        super();
        model.on('msg:custom', this.heard);
    }

    // Afterwards nothing is answered.
    end() {
        this.model.off('msg:custom', this.heard);
        for (const { reject } of this.waiting.values()) reject(new TransportError('The widget was closed.'));
        this.waiting.clear();
    }

    protected ask(path: string, words: URLSearchParams): Promise<Response> {
        const id = `${this.name}-${++this.asked}`;
        return new Promise((resolve, reject) => {
            this.waiting.set(id, { resolve, reject });
            this.model.send({ attnscope: 1, id, path, query: String(words) });
        });
    }
    private heard = (content: any, buffers: DataView[]) => {
        const waiting = content?.attnscope === 1 ? this.waiting.get(content.id) : undefined;
        if (!waiting) return;
        this.waiting.delete(content.id);
        const status = Number(content.status);
        if (!(status >= 200 && status <= 599)) return waiting.reject(new TransportError('The kernel gave an answer that says nothing.'));
        const body = buffers?.[0];
        const bytes = body && new Uint8Array(body.buffer as ArrayBuffer, body.byteOffset, body.byteLength);
        waiting.resolve(new Response(status === 204 || status === 205 || status === 304 ? null : bytes, { status }));
    };

    async *generate(): AsyncIterable<LiveEvent> {
        throw new TransportError('A widget shows a recording; to look while a model writes: attnscope serve');
    }
}
