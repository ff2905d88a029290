// The viewer as part of another page. One file without an outside reference, to be imported as an ES module; its default export is
// what anywidget asks of a front end. web/README.md says how to embed it.
import { render } from 'preact';
import { App } from './app';
import { live_in } from './place';
import { parse_words, store } from './state';
import type { State } from './state';
import style from './style.css?inline';
import type { Transport } from './transport/transport';
import { WidgetTransport } from './transport/widget';
import type { Model } from './transport/widget';

export { HttpTransport } from './transport/http';
export { WidgetTransport } from './transport/widget';
export { TransportError } from './transport/transport';
export type { Model, Transport };

export interface Options {
    height?: string;        // of the part, a CSS length; 640px
    state?: string | Partial<State>; // what is shown first, as behind "#" of the page's address: "view=heads&layer=3"
}

export interface Mounted {
    set(state: string | Partial<State>): void; // shows something else
    state(): State;
    end(): void;                               // takes it out again
}

// Shows what `transport` answers inside `element`, in a shadow tree: styles do not leak, neither way. Keys count while the focus
// is inside; the address of the page is left alone. One viewer a module: a second mount() shares what is shown, not the element.
export function mount(element: HTMLElement, transport: Transport, options: Options = {}): Mounted {
    const host = document.createElement('div');
    host.className = 'attnscope';
    host.style.height = options.height ?? '640px';
    host.tabIndex = -1; // a click anywhere inside gives it the keys
    const shadow = host.attachShadow({ mode: 'open' });
    const sheet = document.createElement('style');
    sheet.textContent = style;
    const app = document.createElement('div');
    app.id = 'app';
    shadow.append(sheet, app);
    element.append(host);
    live_in(host, shadow);
    const set = (state: string | Partial<State>) => store.set(typeof state === 'string' ? parse_words(state) : state);
    if (options.state) set(options.state);
    render(<App transport={transport} />, app);
    return {
        set,
        state: () => store.get(),
        end() {
            render(null, app);
            host.remove();
        },
    };
}

// anywidget: the traits `state` and `height` of the model, if there are any, and messages as transport/widget.ts says.
function render_widget({ model, el }: { model: Model & { get(name: string): any }; el: HTMLElement }) {
    const transport = new WidgetTransport(model);
    const mounted = mount(el, transport, { state: model.get('state') || undefined, height: model.get('height') || undefined });
    const changed = () => mounted.set(model.get('state') || '');
    model.on('change:state', changed);
    return () => {
        model.off('change:state', changed);
        mounted.end();
        transport.end();
    };
}

export default { render: render_widget };
