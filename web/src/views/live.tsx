// Tokens appear and tint while the model writes. Stopping the view does not stop the model; the stop button does.
import { useEffect, useRef, useState } from 'preact/hooks';
import { lut, percent, shade, text_decades } from '../colour';
import { largest, shown } from '../data';
import { use_keys } from '../keys';
import { Choice, Failure, Legend, Note, Switch, is_dark } from '../parts';
import { save_csv, saves } from '../save';
import { store, use_state } from '../state';
import { TextPane } from '../text/pane';
import { label } from '../text/pieces';
import type { Run } from '../text/pieces';
import type { Transport } from '../transport/transport';

// All that came of one generation. Kept outside of what is drawn, so that a paused view misses nothing.
class Conversation {
    texts: string[] = [];
    n_prompt = 0;
    rows: Float32Array[] = []; // one a generated token: what the query that chose it read
    verdicts: string[] = [];
    received = new Float64Array(0); // per token: sum over the rows ...
    seen_by = new Uint32Array(0);   // ... that could see it, and how many those are
    started = 0;
    first = 0;   // ms of the first token
    newest = 0;

    prompt(pieces: string[]) {
        this.texts = [...pieces];
        this.n_prompt = pieces.length;
        this.rows = [];
        this.verdicts = [];
        this.received = new Float64Array(pieces.length);
        this.seen_by = new Uint32Array(pieces.length);
    }
    token(text: string, row: Float32Array, verdict: string) {
        this.texts.push(text);
        this.rows.push(row);
        this.verdicts.push(verdict);
        if (this.received.length < row.length) {
            const more = new Float64Array(2 * row.length);
            more.set(this.received);
            this.received = more;
            const seen = new Uint32Array(2 * row.length);
            seen.set(this.seen_by);
            this.seen_by = seen;
        }
        for (let j = 0; j < row.length; ++j) {
            this.received[j] += row[j];
            ++this.seen_by[j];
        }
        this.newest = performance.now();
        if (this.rows.length === 1) this.first = this.newest;
    }
    // As it is now, which goes on elsewhere. Rows are not changed once they are there.
    copy(): Conversation {
        const other = Object.assign(new Conversation(), this);
        other.texts = [...this.texts];
        other.rows = [...this.rows];
        other.verdicts = [...this.verdicts];
        other.received = this.received.slice();
        other.seen_by = this.seen_by.slice();
        return other;
    }
    get speed(): number {
        return this.rows.length < 2 ? NaN : (1000 * (this.rows.length - 1)) / (this.newest - this.first);
    }
}

// The page goes: what ends now is ended by that.
let leaving = false;
addEventListener('pagehide', () => { leaving = true; });
addEventListener('pageshow', () => { leaving = false; });

// That an answer is being written, kept over a reload of the page, which ends it.
const mark = {
    get: () => { try { return sessionStorage.getItem('attnscope-writes') === '1'; } catch { return false; } },
    set: (writes: boolean) => { if (!leaving) try { sessionStorage.setItem('attnscope-writes', writes ? '1' : ''); } catch { /* a page without storage */ } },
};

// `recorded` is told the source that holds an answer and which of its sequences that is, once it is there.
export function LiveView({ transport, recorded }: { transport: Transport; recorded: (id: string, sequence: number) => Promise<void> }) {
    const state = use_state();
    const place = useRef<HTMLDivElement>(null);
    const pane = useRef<TextPane>();
    const talk = useRef(new Conversation());
    const held = useRef<Conversation>(); // what was there when the view was paused, which is shown until it goes on
    const on_view = () => held.current ?? talk.current;
    const stopper = useRef<AbortController>();
    const seen = useRef(0); // texts that are in the pane
    const [running, set_running] = useState(false);
    const [paused, set_paused] = useState(false);
    const [failure, set_failure] = useState('');
    const [ended, set_ended] = useState('');
    const [, redraw] = useState(0);
    const [prompt, set_prompt] = useState('');
    const [chat, set_chat] = useState(true);
    const [most, set_most] = useState(128);
    const [warmth, set_warmth] = useState(0);
    const [over, set_over] = useState<'newest' | 'total'>('newest');
    const [hover, set_hover] = useState(-1);
    const [record, set_record] = useState(true);
    const [recording, set_recording] = useState('');
    const [broken] = useState(mark.get); // an answer was on its way when the page was loaded again
    const [busy, set_busy] = useState<boolean | undefined>(undefined); // with what somebody else asked
    const name = useRef(''); // of the generation
    const own_end = useRef(-Infinity); // when the last answer to this page ended; the server needs a moment to notice
    const pause = (on: boolean) => {
        held.current = on ? talk.current.copy() : undefined;
        set_paused(on);
    };

    useEffect(() => {
        if (running) return;
        let current = true;
        const ask = () => document.hidden || transport.busy().then((now) => current && set_busy(now && performance.now() - own_end.current > 3000));
        void ask();
        const timer = setInterval(ask, 2000);
        return () => {
            current = false;
            clearInterval(timer);
        };
    }, [transport, running]);
    useEffect(() => {
        mark.set(false);
        pane.current = new TextPane(place.current!, { hover: set_hover, select: (token) => set_hover(token) });
        return () => {
            pane.current!.end();
            stopper.current?.abort();
            mark.set(false);
        };
    }, []);

    const weights = (hide_first = state.hide_first) => {
        const t = on_view();
        const n = t.rows.length;
        if (n === 0) return new Float32Array();
        if (hover >= t.n_prompt && hover - t.n_prompt < n) return shown(t.rows[hover - t.n_prompt], hide_first);
        if (over === 'newest') return shown(t.rows[n - 1], hide_first);
        // Each token's mean is over the rows that could see it: one that was written last has had one reader, not n.
        const mean = Float32Array.from(t.received.subarray(0, t.texts.length), (v, j) => (t.seen_by[j] > 0 ? v / t.seen_by[j] : 0));
        return shown(mean, hide_first);
    };
    const paint = () => {
        const t = on_view();
        if (seen.current > t.texts.length) seen.current = 0;
        const runs: Run[] = t.texts.slice(seen.current).map((text, i) => ({ first: seen.current + i, last: seen.current + i, text }));
        const generated = (token: number) => token >= t.n_prompt;
        if (seen.current === 0) pane.current!.set(runs, generated);
        else if (runs.length > 0) pane.current!.append(runs, generated);
        seen.current = t.texts.length;
        const w = weights();
        const scale = { largest: largest(w), log: state.log, decades: text_decades };
        const shades = new Float32Array(t.texts.length);
        for (let j = 0; j < w.length && j < shades.length; ++j) shades[j] = shade(w[j], scale);
        pane.current!.paint({ shades, lut: lut('warm', is_dark()), title: (j) => `${j}: ${percent(w[j] ?? NaN)}` });
        pane.current!.mark(hover >= t.n_prompt ? hover : t.texts.length - 1, hover < 0 && running);
        redraw((v) => v + 1);
    };
    const latest = useRef(paint);
    latest.current = paint;
    const pausing = useRef(paused);
    pausing.current = paused;
    useEffect(() => { if (on_view().texts.length > 0) paint(); }, [state.log, state.hide_first, state.theme, over, hover, paused]);

    const start = async () => {
        if (running || prompt.trim() === '') return;
        const stop = new AbortController();
        stopper.current = stop;
        set_failure('');
        set_ended('');
        set_recording('');
        pause(false);
        set_running(true);
        set_busy(undefined);
        seen.current = 0;
        mark.set(true);
        name.current = `view-${crypto.getRandomValues(new Uint32Array(3)).join('-')}`;
        let file = '';
        let sequence = 0;
        let waiting = false;
        try {
            for await (const event of transport.generate({ prompt, chat, max_tokens: most, temperature: warmth, name: name.current, record: record && transport.can('record') }, stop.signal)) {
                if (event.type === 'prompt') talk.current.prompt(event.pieces!.map((p) => p.text));
                else if (event.type === 'token') talk.current.token(event.text!, event.row!, event.verdict!);
                else {
                    set_ended(event.finish === 'aborted' ? 'stopped' : event.finish ?? '');
                    file = event.recording ?? '';
                    sequence = event.sequence ?? 0;
                }
                if (waiting || pausing.current) continue; // one drawing for all that comes within a frame
                waiting = true;
                requestAnimationFrame(() => {
                    waiting = false;
                    if (!pausing.current && !stop.signal.aborted) latest.current();
                });
            }
        } catch (error) {
            if (stop.signal.aborted) set_ended('stopped');
            else set_failure(String((error as Error).message));
        }
        mark.set(false);
        own_end.current = performance.now();
        set_running(false);
        if (file) {
            set_recording(sequence > 0 ? `${file}, sequence ${sequence}` : file);
            await recorded(file, sequence);
        }
        if (!pausing.current) latest.current();
    };
    // In order where something is recorded, so that the recording is closed and named.
    const stop = () => {
        if (!running) return;
        if (record && transport.can('record')) transport.stop(name.current).catch(() => stopper.current?.abort());
        else stopper.current?.abort();
    };
    use_keys('Live', [
        { keys: [' '], says: 'pause or resume the view', run: () => pause(!paused) },
        { keys: ['s'], says: 'stop the model', run: stop },
    ]);
    const t = on_view();
    const more = talk.current.rows.length - t.rows.length; // that came since the pause
    saves.now = {
        csv: () => {
            const from = hover >= t.n_prompt ? hover : over === 'newest' ? t.texts.length - 1 : undefined;
            save_csv(`live-${from === undefined ? 'mean-over-the-answer' : `token-${from}`}-mean`, ['token', 'text', 'layer', 'head', 'reduce', 'weight'],
                Array.from(weights(false), (w, j) => [j, t.texts[j], 'all', 'all', 'mean', w]));
        },
        name: 'live',
    };
    const w = weights();
    const unproven = t.verdicts.filter((v) => v !== 'ok').length;
    return (
        <div class="live-view">
            <form class="live-form" onSubmit={(event) => { event.preventDefault(); void start(); }}>
                <textarea aria-label="Prompt" placeholder="Ask the model" value={prompt} onInput={(event) => set_prompt(event.currentTarget.value)}
                    onKeyDown={(event) => { if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) void start(); }} />
                <Switch label="Chat" value={chat} change={set_chat} />
                <label class="control">Tokens <input type="number" min={1} max={100000} value={most} onChange={(e) => set_most(Number(e.currentTarget.value) || 1)} /></label>
                <label class="control">Temperature <input type="number" min={0} max={5} step={0.1} value={warmth} onChange={(e) => set_warmth(Number(e.currentTarget.value) || 0)} /></label>
                {transport.can('record') && <Switch label="Record" value={record} change={set_record} />}
                <button type="submit" disabled={running || prompt.trim() === ''} title={prompt.trim() === '' ? 'a prompt comes first' : undefined}>Write</button>
                <button type="button" disabled={!running} onClick={stop}>Stop</button>
                <button type="button" aria-pressed={paused} onClick={() => pause(!paused)}>{paused ? 'Resume the view' : 'Pause the view'}</button>
            </form>
            <div class="controls">
                <Choice label="Tint" value={over} options={[['newest', 'what the newest token read'], ['total', 'mean over the answer']]} change={set_over} />
                <Switch label="Log scale" value={state.log} change={(log) => store.set({ log })} />
                <Switch label="Hide first position" value={state.hide_first} change={(hide_first) => store.set({ hide_first })} />
                <span class="faint" role="status">{t.rows.length > 0 && <>{t.n_prompt} + {t.rows.length} tokens
                    {Number.isFinite(t.speed) && <>, {t.speed.toFixed(1)} a second</>}; {unproven === 0 ? 'every token proven' : `${unproven} tokens not proven`}
                    {ended && <>; ended: {ended}</>}{paused && running && <>; the model goes on</>}{paused && more > 0 && <>; {more} more since the pause</>}{recording && <>; recorded as <bdi>{recording}</bdi></>}</>}</span>
            </div>
            {!running && t.rows.length === 0 && broken && <Note of="broken">The page was loaded again while an answer was being written, which ended that answer.
                Answers are shown from now on{transport.can('record') ? '; what was recorded of it is in the list of recordings' : ''}.</Note>}
            {!running && busy && <Note class="busy" of="busy">The model is writing for somebody, perhaps for another window. That answer is shown where it
                was asked for; what you ask here comes after it.</Note>}
            {failure && <Failure message={failure} />}
            <div class="text-main">
                <div ref={place} class="text-place" tabIndex={0} role="region" aria-label="Text as it is written" data-tokens={t.rows.length} />
                <aside class="side">
                    <h2>{hover >= t.n_prompt ? <bdi>{label(t.texts[hover] ?? '')}</bdi> : over === 'newest' ? 'The newest token' : 'The answer so far'}</h2>
                    <h3 class="warm">Read</h3>
                    <table class="reads"><tbody>{strongest(w, 10).map((j) => (
                        <tr key={j}><td class="number">{percent(w[j])}</td><td class="number faint">{j}</td><td class="piece"><bdi>{label(t.texts[j] ?? '')}</bdi></td></tr>
                    ))}</tbody></table>
                    {w.length > 0 && <Legend map="warm" scale={{ largest: largest(w), log: state.log, decades: text_decades }} what="weight" />}
                </aside>
            </div>
        </div>
    );
}

function strongest(w: Float32Array, k: number): number[] {
    return Array.from(w, (_, j) => j).filter((j) => w[j] > 0).sort((a, b) => w[b] - w[a]).slice(0, k);
}
