// The frame around the views: which recording, which view, help, theme, saving.
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { open, open_ahead, use_loaded } from './data';
import type { Opened } from './data';
import { all_keys, everywhere, listen, signs, use_keys } from './keys';
import type { Key } from './keys';
import { Choice, Failure, Note, Waiting, is_dark } from './parts';
import { picture_of } from './picture';
import { find, is_whole_page, place } from './place';
import { save_png, saves } from './save';
import { KeyForm } from './key_form';
import { SequenceChoice, from_its_end, name_of, source_line, use_sequences, wait_for_sequence } from './sequences';
import { store, use_odd, use_state } from './state';
import type { State, Theme, ViewName } from './state';
import { sequence_id } from './transport/transport';
import type { Sequence, Source, Transport } from './transport/transport';
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
    const [asked, ask] = useState(0);
    useEffect(() => {
        if (transport.key) transport.key.changed = () => ask((n) => n + 1);
    }, [transport]);
    const sources = use_loaded(() => transport.sources().then((all) => {
        const first = chosen(all, store.get().source);
        if (first?.kind === 'recording' && store.get().view !== 'live') open_ahead(transport, sequence_id(first.id, store.get().sequence));
        return all;
    }), [transport, asked]);
    if (sources.error && transport.key?.refused) return <Shell transport={transport} sources={[]}><KeyForm access={transport.key} /></Shell>;
    if (sources.error) return <Shell transport={transport} sources={[]}><Failure message={sources.error} /></Shell>;
    if (!sources.value) return <Shell transport={transport} sources={[]}><Waiting what="Opening" /></Shell>;
    return <Main transport={transport} first={sources.value} />;
}

// What there is to look at, looked for again while somebody looks: recordings of a server come, files go.
function use_sources(transport: Transport, first: Source[]): [Source[], () => Promise<void>] {
    const [sources, set] = useState(first);
    const latest = useRef(first);
    const look = async () => {
        const now = await transport.sources().catch(() => latest.current); // told by whatever is asked next
        const lost = latest.current.filter((s) => s.id === store.get().source && !now.some((n) => n.id === s.id)).map((s) => ({ ...s, gone: true }));
        const next = [...now, ...lost];
        if (JSON.stringify(next) === JSON.stringify(latest.current)) return;
        latest.current = next;
        set(next);
    };
    useEffect(() => {
        if (transport.kind !== 'server') return;
        const timer = setInterval(() => document.hidden || void look(), 5000);
        return () => clearInterval(timer);
    }, [transport]);
    return [sources, look];
}

// What this page had written and recorded, by source or sequence: nobody need be told whose that is.
const own = new Set<string>();

// What the last link wants and this recording does not have; with what is nearest to it.
function beyond(opened: Opened, state: State): { change: Partial<State>; sentence: string } | undefined {
    const { n } = opened;
    const [n_layer, n_head] = [opened.info.layers.length, opened.info.n_heads];
    const none = (what: string, asked: number, count: number, nearest: string) =>
        `there is no ${what} ${asked}; this recording has ${what}s 0 to ${count - 1}: ${nearest} is shown`;
    if (n > 0 && state.token >= n) return { change: { token: -1 }, sentence: none('token', state.token, n, 'the last') };
    if (n > 0 && state.token < -n) return { change: { token: 0 }, sentence: none('token', state.token, n, 'the first') };
    if (state.layer >= n_layer) return { change: { layer: n_layer - 1 }, sentence: none('layer', state.layer, n_layer, `layer ${n_layer - 1}`) };
    if (state.head >= n_head) return { change: { head: n_head - 1 }, sentence: none('head', state.head, n_head, `head ${n_head - 1}`) };
    return undefined;
}

// On a server that writes for many, nobody's recording is opened unless it was chosen. What a program decoded to try its cache is nothing to
// begin with.
function chosen(sources: Source[], id: string): Source | undefined {
    const open = sources.filter((s) => !s.of_server);
    return sources.find((s) => s.id === id) ?? open.find((s) => !s.warm_up) ?? open[0];
}

function Main({ transport, first }: { transport: Transport; first: Source[] }) {
    const state = use_state();
    const [sources, look] = use_sources(transport, first);
    const source = chosen(sources, state.source);
    const wanted = source?.kind === 'recording' ? sequence_id(source.id, state.sequence) : '';
    const [grown, set_grown] = useState(0);
    const opened = use_loaded(() => wanted ? open(transport, wanted) : undefined, [transport, wanted, grown]);
    const live_only = !source && transport.can('live');
    // What lies there may be a capture of somebody else's: of that only its health can be told.
    const ready = opened.value && opened.value.id === wanted ? opened.value : undefined; // what was opened before may still be there
    const sequences = use_sequences(transport, source, ready, opened.error !== undefined, state.sequence);
    const branches = (sequences.list?.length ?? 1) > 1;
    const other = sources.find((s) => s.id === state.other && (s.id !== source?.id || branches));
    const several = sources.filter((s) => s.kind === 'recording').length > 1 || branches;
    const wants: ViewName = (state.view === 'live' && !transport.can('live')) || (state.view === 'compare' && !several && !sequences.unknown) ? 'text' : state.view;
    const view: ViewName = live_only ? 'live' : source?.kind === 'capture' && wants !== 'live' ? 'health' : wants;

    // A recording that is still being written is looked at again while somebody looks.
    useEffect(() => {
        if (!ready || ready.info.complete || transport.kind === 'file') return;
        const timer = setInterval(() => {
            if (document.hidden) return;
            transport.info(ready.id).then((now) => {
                // its tokens may have been read before those that the same look told of
                if (now.n_tokens !== ready.n || now.complete) set_grown((g) => g + 1);
                sequences.look(now);
            }, () => undefined); // its file went: what was read stays
        }, 2000);
        return () => clearInterval(timer);
    }, [ready]);
    const n_sequences = sequences.fresh ? sequences.list!.length : transport.sequences ? Infinity : 1;
    const odd = ready && beyond(ready, state);
    useLayoutEffect(() => {
        if (state.source !== '' && !source?.gone && !sources.some((s) => s.id === state.source))
            store.mend({ source: '', sequence: 0 }, `there is no recording “${state.source.slice(0, 40)}” here`);
        else if (state.sequence >= n_sequences)
            store.mend({ sequence: 0 }, no_sequence(state.sequence, n_sequences));
        else if (state.view === 'live' && !transport.can('live')) store.mend({ view: 'text' }, 'nothing writes here: Live is of attnscope serve');
        else if (state.view === 'compare' && !live_only && !several && !sequences.unknown) store.mend({ view: 'text' }, 'Compare needs a second recording, or a second sequence');
        else if (odd) store.mend(odd.change, odd.sentence);
    }, [state, sources, odd, n_sequences, sequences.unknown]);
    const showing = useRef(view);
    showing.current = view;
    const recorded = async (name: string, sequence: number) => {
        own.add(sequence_id(name, sequence));
        await look();
        await wait_for_sequence(transport, name, sequence);
        if (showing.current === 'live') store.set({ view: 'live', source: name, sequence, layer: -1, head: -1, ...from_its_end });
    };
    useEffect(() => {
        if (is_whole_page()) document.title = source ? `${name_of(source, wanted)} – attnscope` : 'attnscope';
    }, [source?.name, wanted]);
    let body;
    if (view === 'live') body = <LiveView transport={transport} recorded={recorded} />;
    else if (!source) body = <Failure message="There is no recording to show yet." />;
    else if (view === 'health') body = <HealthView key={wanted} transport={transport} source={source} id={wanted || source.id} opened={ready} />;
    else if (opened.error && state.sequence > 0 && sequences.unknown) body = <Waiting what="Reading the recording" />; // is it there?
    else if (opened.error) body = <><Failure message={opened.error} /><HealthView key={wanted} transport={transport} source={source} id={wanted} /></>;
    else if (!ready) body = <Waiting what="Reading the recording" />;
    else if (odd) body = <Waiting what="Reading the recording" />; // the next moment shows the nearest
    else if (ready.n === 0) body = <Failure message="This recording holds no tokens yet." />;
    else if (view === 'text') body = <TextView key={ready.id} opened={ready} />;
    else if (view === 'heads') body = <HeadsView opened={ready} />;
    else if (view === 'matrix') body = <MatrixView key={ready.id} opened={ready} />;
    else if (view === 'flow') body = <FlowView opened={ready} />;
    else body = <CompareView opened={ready} source={source} said={other} sources={sources} />;
    return <Shell transport={transport} sources={sources} source={source} sequences={sequences.list} several={several} opened={ready} view={view}>{body}</Shell>;
}

function no_sequence(asked: number, n: number): string {
    return `there is no sequence ${asked}; this recording has ${n === 1 ? 'one, 0' : `sequences 0 to ${n - 1}`}: sequence 0 is shown`;
}

function Shell({ transport, sources, source, sequences, several = false, opened, view, children }: {
    transport: Transport; sources: Source[]; source?: Source; sequences?: Sequence[]; several?: boolean; opened?: Opened; view?: ViewName; children: any;
}) {
    const state = use_state();
    const odd = use_odd();
    const [help, set_help] = useState(false);
    const before = useRef(view);
    if (before.current !== view) { // what another view offered is not what is shown
        before.current = view;
        saves.now = {};
    }
    const save_picture = () => save_png(saves.now.name ?? `${source?.name ?? 'attnscope'}-${view ?? 'page'}`, picture_of(find('main')!));
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
        (name !== 'compare' || (transport.can('compare') && several)));
    // Why a view cannot be opened; undefined: it can.
    const shut = (name: ViewName): string | undefined => {
        if (name === 'live') return undefined;
        if (!source && transport.can('live')) return of_recordings(transport);
        return source?.kind === 'capture' && name !== 'health' ? 'a capture by another program: only its health can be told' : undefined;
    };
    const n = opened?.n ?? 0;
    const n_layer = opened?.info.layers.length ?? 0;
    const n_head = opened?.info.n_heads ?? 0;
    const step = (by: number) => {
        if (n > 0) store.set({ token: Math.max(0, Math.min(n - 1, opened!.token(store.get().token) + by)) });
    };
    const cycle = (value: number, by: number, count: number) => (count > 0 ? ((value + 1 + by + count + 1) % (count + 1)) - 1 : -1);
    const n_sequences = sequences?.length ?? 1;
    const go_to = (sequence: number) => store.set({ sequence: Math.max(0, Math.min(n_sequences - 1, sequence)), ...from_its_end });
    const keys: Key[] = [
        { keys: ['?'], says: 'this list', run: () => set_help((h) => !h) },
        { keys: ['Escape'], says: 'close this list', run: () => set_help(false) },
        ...available.map(([name, text], i): Key => ({ keys: [String(i + 1)], says: text, run: () => store.set({ view: name }) }))
            .filter((_, i) => shut(available[i][0]) === undefined),
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
        ...(n_sequences > 1 ? [
            { keys: ['.'], says: 'next sequence', run: () => go_to(state.sequence + 1) },
            { keys: [','], says: 'sequence before', run: () => go_to(state.sequence - 1) },
        ] : []),
        { keys: ['m'], says: 'mean or maximum', run: () => store.set({ reduce: store.get().reduce === 'mean' ? 'max' : 'mean' }) },
        { keys: ['l'], says: 'log or linear scale', run: () => store.set({ log: !store.get().log }) },
        { keys: ['h'], says: 'hide or show the first position', run: () => store.set({ hide_first: !store.get().hide_first }) },
        { keys: ['t'], says: 'dark or light', run: () => store.set({ theme: is_dark() ? 'light' : 'dark' }) },
        { keys: ['c'], says: 'save as CSV', run: () => saves.now.csv?.() },
        { keys: ['p'], says: 'save as PNG', run: () => save_picture() },
    ];
    use_keys(everywhere, keys);
    return (
        <div class="shell">
            <header>
                <h1 class="brand">attnscope</h1>
                {sources.length > 1 || sources[0]?.of_server
                    ? <Choice label="Recording" value={source?.id ?? ''}
                        options={[...(source ? [] : [['', 'recordings of this server …'] as const]), ...sources.map((s) => [s.id, source_line(s)] as const)]}
                        class="recording" change={(id) => store.set({ source: id, sequence: 0, layer: -1, head: -1, ...from_its_end, ...(id && view === 'live' ? { view: 'text' } : {}) })} />
                    : source && <span class="name"><bdi>{source.name}</bdi></span>}
                <SequenceChoice label="Sequence" value={state.sequence} all={sequences} change={go_to} />
                <nav aria-label="Views">
                    {available.map(([name, text]) => (
                        <button key={name} type="button" aria-current={view === name ? 'page' : undefined}
                            disabled={shut(name) !== undefined} title={shut(name)}
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
            {odd.length > 0 && <div class="note odd" role="status"><p>The link: {odd.join('; ')}.</p>
                <button type="button" class="close" aria-label="dismiss" onClick={() => store.put_away_odd()}>×</button></div>}
            {!source && transport.can('live') && <Note of="live">{of_recordings(transport)}</Note>}
            {source?.gone && view !== 'live' && <Note class="gone" of={`gone ${source.id}`}>The file is gone; what was read of it stays.</Note>}
            {source?.of_server && !own.has(sequence_id(source.id, state.sequence)) && view !== 'live' && <Note class="whose" of={`whose ${source.id}`}>Recorded by this server for
                the client that asked; the text is that client's, not necessarily yours.</Note>}
            {opened && view !== 'live' && <Notes opened={opened} of_server={source?.of_server} />}
            <main data-view={view}>{children}</main>
            {help && <Help close={() => set_help(false)} />}
        </div>
    );
}

function of_recordings(transport: Transport): string {
    return 'Text, Heads, Matrix, Flow and Health are of recordings: ' + (transport.can('record')
        ? 'they open when an answer was written and recorded, or when a recording of the list is chosen.' : 'attnscope view FILE, or attnscope serve --record DIR.');
}

function Notes({ opened, of_server }: { opened: Opened; of_server?: boolean }) {
    const { info } = opened;
    const absent = info.layers.filter((l) => l.absent);
    return (
        <>
            {!info.complete && <Note of={`open ${opened.id}`}>{of_server
                ? 'This recording is open: the server adds to it where the text goes on. (One of an earlier run was left so by a server that died.)'
                : 'This recording was not closed: it is still being written, or its writer died.'}
                {' '}What is here (<span class="n-tokens">{info.n_tokens}</span> token{info.n_tokens === 1 ? '' : 's'}) is whole; what comes is added.</Note>}
            {info.notice && <Note of={`${opened.id} ${info.notice}`}>{info.notice}</Note>}
            {info.weights && <Note of={`${opened.id} ${info.weights}`}>{info.weights}</Note>}
            {absent.length > 0 && <Note of={`absent ${opened.id}`}>{absent.length === 1 ? 'One layer has' : `${absent.length} layers have`} no rows: <bdi>{absent[0].absent}</bdi>
                {' '}(layer{absent.length === 1 ? '' : 's'} {absent.map((l) => info.layers.indexOf(l)).join(', ')}).</Note>}
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
                            <div key={key.keys.join()}>
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
