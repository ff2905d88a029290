// The frame around the views: which recording, which view, help, theme, saving.
import { useEffect, useRef, useState } from 'preact/hooks';
import { open, open_ahead, use_loaded } from './data';
import type { Opened } from './data';
import { all_keys, listen, signs, use_keys } from './keys';
import type { Key } from './keys';
import { Choice, Failure, Waiting, is_dark } from './parts';
import { picture_of } from './picture';
import { find, is_whole_page, place } from './place';
import { save_png, saves } from './save';
import { store, use_state } from './state';
import type { Theme, ViewName } from './state';
import type { Source, Transport } from './transport/transport';
import { CompareView } from './views/compare';
import { FlowView } from './views/flow';
import { HeadsView } from './views/heads';
import { HealthView } from './views/health';
import { LiveView } from './views/live';
import { MatrixView } from './views/matrix';
import { TextView } from './views/text';

const views: readonly (readonly [ViewName, string])[] = [
    ['text', 'Text'], ['heads', 'Heads'], ['matrix', 'Matrix'], ['flow', 'Flow'], ['health', 'Health'], ['live', 'Live'],
    ['compare', 'Compare'],
];

export function App({ transport }: { transport: Transport }) {
    const sources = use_loaded(() => transport.sources().then((all) => {
        const first = chosen(all, store.get().source);
        if (first?.kind === 'recording' && store.get().view !== 'live') open_ahead(transport, first.id);
        return all;
    }), [transport]);
    if (sources.error) return <Shell transport={transport} sources={[]}><Failure message={sources.error} /></Shell>;
    if (!sources.value) return <Shell transport={transport} sources={[]}><Waiting what="Opening" /></Shell>;
    return <Main transport={transport} sources={sources.value} />;
}

// On a server that writes for many, nobody's recording is shown unless it was chosen.
function chosen(sources: Source[], id: string): Source | undefined {
    return sources.find((s) => s.id === id) ?? sources.find((s) => !s.of_server);
}

function Main({ transport, sources }: { transport: Transport; sources: Source[] }) {
    const state = use_state();
    const source = chosen(sources, state.source);
    const wanted = source?.kind === 'recording' ? source.id : '';
    const [grown, set_grown] = useState(0);
    const opened = use_loaded(() => wanted ? open(transport, wanted) : undefined, [transport, wanted, grown]);
    const other = sources.find((s) => s.id === state.other) ?? sources.find((s) => s.kind === 'recording' && s.id !== source?.id);
    const live_only = !source && transport.can('live');
    // What lies there may be a capture of somebody else's: of that only its health can be told.
    const view: ViewName = live_only ? 'live' : source?.kind === 'capture' && state.view !== 'live' ? 'health' : state.view;
    // What was opened before may still be there while the next one is read.
    const ready = opened.value && opened.value.id === wanted ? opened.value : undefined;

    // A recording that is still being written is looked at again while somebody looks.
    useEffect(() => {
        if (!ready || ready.info.complete || transport.kind === 'file') return;
        const timer = setInterval(() => {
            if (document.hidden) return;
            transport.info(ready.id).then((now) => {
                if (now.n_tokens !== ready.info.n_tokens || now.complete) set_grown((g) => g + 1);
            }, () => undefined); // its file went: what was read stays
        }, 2000);
        return () => clearInterval(timer);
    }, [ready]);
    useEffect(() => {
        if (is_whole_page()) document.title = source ? `${source.name} – attnscope` : 'attnscope';
    }, [source?.name]);
    let body;
    if (view === 'live') body = <LiveView transport={transport} />;
    else if (!source) body = <Failure message="There is no recording to show yet." />;
    else if (view === 'health') body = <HealthView transport={transport} source={source} opened={ready} />;
    else if (opened.error) body = <><Failure message={opened.error} /><HealthView transport={transport} source={source} /></>;
    else if (!ready) body = <Waiting what="Reading the recording" />;
    else if (ready.n === 0) body = <Failure message="This recording holds no tokens yet." />;
    else if (view === 'text') body = <TextView key={ready.id} opened={ready} />;
    else if (view === 'heads') body = <HeadsView opened={ready} />;
    else if (view === 'matrix') body = <MatrixView key={ready.id} opened={ready} />;
    else if (view === 'flow') body = <FlowView opened={ready} />;
    else body = <CompareView opened={ready} other={other} sources={sources} />;
    return <Shell transport={transport} sources={sources} source={source} opened={ready} view={view}>{body}</Shell>;
}

function Shell({ transport, sources, source, opened, view, children }: {
    transport: Transport; sources: Source[]; source?: Source; opened?: Opened; view?: ViewName; children: any;
}) {
    const state = use_state();
    const [help, set_help] = useState(false);
    const before = useRef(view);
    if (before.current !== view) { // what another view offered is not what is shown
        before.current = view;
        saves.now = {};
    }
    const save_picture = () => save_png(`${source?.name ?? 'attnscope'}-${view ?? 'page'}`, picture_of(find('main')!));
    useEffect(listen, []);
    useEffect(() => {
        place().dataset.theme = is_dark() ? 'dark' : 'light';
    }, [state.theme]);
    useEffect(() => {
        const query = matchMedia('(prefers-color-scheme: dark)');
        const changed = () => store.set({ theme: store.get().theme });
        query.addEventListener('change', changed);
        return () => query.removeEventListener('change', changed);
    }, []);
    const available = views.filter(([name]) => (name !== 'live' || transport.can('live')) &&
        (name !== 'compare' || (transport.can('compare') && sources.filter((s) => s.kind === 'recording').length > 1)));
    const n = opened?.n ?? 0;
    const n_layer = opened?.info.layers.length ?? 0;
    const n_head = opened?.info.n_heads ?? 0;
    const step = (by: number) => {
        if (n > 0) store.set({ token: Math.max(0, Math.min(n - 1, opened!.token(store.get().token) + by)) });
    };
    const cycle = (value: number, by: number, count: number) => (count > 0 ? ((value + 1 + by + count + 1) % (count + 1)) - 1 : -1);
    const keys: Key[] = [
        { keys: ['?'], says: 'this list', run: () => set_help((h) => !h) },
        { keys: ['Escape'], says: 'close this list', run: () => set_help(false) },
        ...available.map(([name, text], i): Key => ({ keys: [String(i + 1)], says: text, run: () => store.set({ view: name }) })),
        { keys: ['ArrowRight', 'j'], says: 'next token', run: () => step(1) },
        { keys: ['ArrowLeft', 'k'], says: 'token before', run: () => step(-1) },
        { keys: ['Shift+ArrowRight', 'Shift+J'], says: '10 tokens on', run: () => step(10) },
        { keys: ['Shift+ArrowLeft', 'Shift+K'], says: '10 tokens back', run: () => step(-10) },
        { keys: ['Home', 'g'], says: 'first token', run: () => store.set({ token: 0 }) },
        { keys: ['End', 'G', 'Shift+G'], says: 'last token', run: () => store.set({ token: -1 }) },
        { keys: [']'], says: 'next layer', run: () => store.set({ layer: cycle(store.get().layer, 1, n_layer) }) },
        { keys: ['['], says: 'layer before', run: () => store.set({ layer: cycle(store.get().layer, -1, n_layer) }) },
        { keys: ['}', 'Shift+}'], says: 'next head', run: () => store.set({ head: cycle(store.get().head, 1, n_head) }) },
        { keys: ['{', 'Shift+{'], says: 'head before', run: () => store.set({ head: cycle(store.get().head, -1, n_head) }) },
        { keys: ['a'], says: 'all layers and heads', run: () => store.set({ layer: -1, head: -1 }) },
        { keys: ['m'], says: 'mean or maximum', run: () => store.set({ reduce: store.get().reduce === 'mean' ? 'max' : 'mean' }) },
        { keys: ['l'], says: 'log or linear scale', run: () => store.set({ log: !store.get().log }) },
        { keys: ['h'], says: 'hide or show the first position', run: () => store.set({ hide_first: !store.get().hide_first }) },
        { keys: ['t'], says: 'dark or light', run: () => store.set({ theme: is_dark() ? 'light' : 'dark' }) },
        { keys: ['c'], says: 'save as CSV', run: () => saves.now.csv?.() },
        { keys: ['p'], says: 'save as PNG', run: () => save_picture() },
    ];
    use_keys('Everywhere', keys);
    return (
        <div class="shell">
            <header>
                <h1 class="brand">attnscope</h1>
                {sources.length > 1 || sources[0]?.of_server
                    ? <Choice label="Recording" value={source?.id ?? ''}
                        options={[...(source ? [] : [['', 'recordings of this server …'] as const]), ...sources.map((s) => [s.id, s.name] as const)]}
                        change={(id) => store.set({ source: id, token: -1, layer: -1, head: -1, span: '', camera: '', ...(id && view === 'live' ? { view: 'text' } : {}) })} />
                    : source && <span class="name"><bdi>{source.name}</bdi></span>}
                <nav aria-label="Views">
                    {available.map(([name, text]) => (
                        <button key={name} type="button" aria-current={view === name ? 'page' : undefined}
                            disabled={source?.kind === 'capture' && name !== 'health' && name !== 'live'}
                            onClick={() => store.set({ view: name })}>{text}</button>
                    ))}
                </nav>
                <span class="tools">
                    <button type="button" onClick={() => saves.now.csv?.()} title="save what is shown as CSV (c)">CSV</button>
                    <button type="button" onClick={() => save_picture()} title="save what is shown as PNG (p)">PNG</button>
                    <Choice<Theme> label="Theme" value={state.theme} options={[['auto', 'auto'], ['light', 'light'], ['dark', 'dark']]}
                        change={(theme) => store.set({ theme })} />
                    <button type="button" onClick={() => set_help(!help)} aria-expanded={help} title="keys (?)">?</button>
                </span>
            </header>
            {source?.of_server && view !== 'live' && <p class="note whose" role="status">Recorded by this server for the client that asked; the text is
                that client's, not necessarily yours.</p>}
            {opened && view !== 'live' && <Notes opened={opened} />}
            <main data-view={view}>{children}</main>
            {help && <Help close={() => set_help(false)} />}
        </div>
    );
}

function Notes({ opened }: { opened: Opened }) {
    const { info } = opened;
    const absent = info.layers.filter((l) => l.absent);
    return (
        <>
            {!info.complete && <p class="note" role="status">This recording was not closed: it is still being written, or its writer died.
                What is here (<span class="n-tokens">{info.n_tokens}</span> tokens) is whole; what comes is added.</p>}
            {info.notice && <p class="note" role="status">{info.notice}</p>}
            {info.weights && <p class="note">{info.weights}</p>}
            {absent.length > 0 && <p class="note">{absent.length === 1 ? 'One layer has' : `${absent.length} layers have`} no rows: <bdi>{absent[0].absent}</bdi>
                {' '}(layer{absent.length === 1 ? '' : 's'} {absent.map((l) => l.layer).join(', ')}).</p>}
        </>
    );
}

function Help({ close }: { close: () => void }) {
    return (
        <div class="help" role="dialog" aria-modal="false" aria-label="Keys">
            <button type="button" class="close" onClick={close} aria-label="close">×</button>
            {all_keys().map(([group, keys]) => (
                <section key={group}>
                    <h2>{group}</h2>
                    <dl>
                        {keys.map((key) => (
                            <div key={key.says}>
                                <dt>{key.keys.map((k) => <kbd key={k}>{signs[k] ?? k.replace('Shift+', '⇧')}</kbd>)}</dt>
                                <dd>{key.says}</dd>
                            </div>
                        ))}
                    </dl>
                </section>
            ))}
        </div>
    );
}
