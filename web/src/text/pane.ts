// The whole text, tinted. Made by hand, not by Preact: of tens of thousands of tokens those in sight have an element each, the rest lies
// in blocks of plain text, which the browser finds and lays out as such. Token texts become text nodes and nothing else.
import type { Lut } from '../colour';
import { is_special, visible } from './pieces';
import type { Run } from './pieces';

const block_runs = 120;        // a block ends at the first line break after so many runs ...
const block_runs_most = 1200;  // ... or here
const longest_text = 400;      // characters of one token that are shown
const most_elements = 4000;    // of tokens; those that were in sight last stay

interface Block {
    element: HTMLElement;
    first: number; // runs [first, last)
    last: number;
    filled: boolean; // an element a run; otherwise one text
    painted: number; // which painting it shows
}

const texts = new Map<string, string>(); // a text that comes again need not be looked through again

function text_of(run: Run): string {
    let text = texts.get(run.text);
    if (text === undefined) {
        text = made_text(run);
        if (texts.size < 20000 && run.text.length < 64) texts.set(run.text, text);
    }
    return text;
}

function made_text(run: Run): string {
    let text = visible(run.text);
    if (text.length > longest_text) {
        const all = [...run.text].length;
        text = [...text.slice(0, longest_text)].join('') + `… ⟨${all.toLocaleString('en')} characters⟩`;
    }
    return text === '' ? '⟨⟩' : text;
}

export interface Painting {
    shades: Float32Array; // 0..1 a token
    lut: Lut;
    kept?: Uint8Array;    // 0: struck through
    apart?: number;       // tokens from here on are faint: they do not belong to what is shown
    title: (token: number) => string;
}

export interface Line {
    from: number;
    to: number;
    strength: number; // 0..1
    colour: string;
}

// Of a token that lies in two lines, the space that ended the line and the word that begins the next, the word.
function widest(span?: HTMLElement): DOMRect | undefined {
    return [...(span?.getClientRects() ?? [])].reduce<DOMRect | undefined>((most, rect) => (most && most.width >= rect.width ? most : rect), undefined);
}

// The mark goes around the word, not around a space before it, which may be left behind in the line above.
function mark_core(span: HTMLElement) {
    const text = span.firstChild as Text | null;
    const spaces = text?.data?.match(/^\s+/)?.[0].length ?? 0;
    if (!text || spaces === 0 || spaces === text.data.length) return;
    const core = document.createElement('span');
    core.className = 'core';
    core.append(text.splitText(spaces));
    span.append(core);
}
function unmark_core(span: HTMLElement) {
    const core = span.querySelector('.core');
    if (!core) return;
    core.replaceWith(...core.childNodes);
    span.normalize();
}

export class TextPane {
    private blocks: Block[] = [];
    private spans: (HTMLElement | undefined)[] = []; // one a run, of blocks that are filled
    private filled: Block[] = [];                     // the newest last
    private block_of: number[] = [];                  // run: its block
    private generated: (token: number) => boolean = () => false;
    private runs: Run[] = [];
    private run_of: number[] = [];
    private in_sight = new Set<Block>();
    private observer: IntersectionObserver;
    private painting?: Painting;
    private version = 0;
    private pointed = -1; // token under the pointer: the only one whose number the browser can be asked to show
    private looks: (string | undefined)[] = []; // run: how its element looks, so that what stays is not touched
    private marked: HTMLElement[] = [];
    private canvas = document.createElement('canvas');
    private lines: Line[] = [];
    private body = document.createElement('div');
    private resized: ResizeObserver;
    private ended = false;
    private brought?: HTMLElement; // kept in sight while the blocks around it get their real heights

    constructor(private root: HTMLElement, private on: { hover: (token: number) => void; select: (token: number) => void }) {
        root.classList.add('pane');
        this.body.className = 'pane-text';
        this.canvas.className = 'pane-lines';
        this.canvas.setAttribute('aria-hidden', 'true');
        root.append(this.body, this.canvas);
        this.observer = new IntersectionObserver((entries) => {
            for (const entry of entries) {
                const block = this.blocks[Number((entry.target as HTMLElement).dataset.block)];
                if (!block || block.element !== entry.target) continue;
                if (entry.isIntersecting) this.in_sight.add(block);
                else this.in_sight.delete(block);
            }
            this.paint_in_sight();
        }, { root, rootMargin: '200px' });
        // What changes under a resting pointer is no wish to look at it: keys go on from there.
        let rests = '';
        const place_of = (event: MouseEvent) => `${event.clientX} ${event.clientY}`;
        this.body.addEventListener('mousemove', (event) => { rests = place_of(event); }, { passive: true });
        this.body.addEventListener('mouseover', (event) => {
            if (place_of(event) === rests) return;
            rests = place_of(event);
            const token = this.token_at(event);
            this.pointed = token;
            this.on.hover(token);
            this.tell();
        });
        this.body.addEventListener('mouseleave', () => {
            this.pointed = -1;
            this.on.hover(-1);
        });
        this.body.addEventListener('click', (event) => {
            const token = this.token_at(event);
            if (token >= 0) this.on.select(token);
        });
        root.addEventListener('scroll', () => this.draw_lines(), { passive: true });
        for (const by of ['wheel', 'pointerdown', 'touchstart']) root.addEventListener(by, () => { this.brought = undefined; }, { passive: true });
        this.resized = new ResizeObserver(() => this.draw_lines());
        this.resized.observe(root);
    }

    end() {
        this.ended = true;
        this.observer.disconnect();
        this.resized.disconnect();
    }

    set(runs: Run[], generated: (token: number) => boolean) {
        this.observer.disconnect();
        this.in_sight.clear();
        this.blocks = [];
        this.spans = [];
        this.looks = [];
        this.filled = [];
        this.block_of = [];
        this.run_of = [];
        this.runs = [];
        this.marked = [];
        this.lines = [];
        this.body.textContent = '';
        this.append(runs, generated);
    }

    // Further runs, as a running generation brings them.
    append(runs: Run[], generated: (token: number) => boolean) {
        this.generated = generated;
        const texts = new Map<Block, string>();
        for (const run of runs) {
            let block = this.blocks[this.blocks.length - 1];
            const before = this.runs[this.runs.length - 1];
            const length = block ? block.last - block.first : 0;
            if (!block || length >= block_runs_most || (length >= block_runs && before.text.endsWith('\n'))) {
                block = { element: document.createElement('div'), first: this.runs.length, last: this.runs.length, filled: false, painted: 0 };
                block.element.className = 'block';
                block.element.dataset.block = String(this.blocks.length);
                block.element.append(document.createTextNode(''));
                this.blocks.push(block);
                this.body.append(block.element);
                this.observer.observe(block.element);
            }
            const at = this.runs.length;
            this.runs.push(run);
            this.spans.push(undefined);
            this.block_of.push(this.blocks.length - 1);
            block.last = at + 1;
            for (let token = run.first; token <= run.last; ++token) this.run_of[token] = at;
            if (block.filled) block.element.append(...this.nodes_of(at));
            else texts.set(block, (texts.get(block) ?? '') + text_of(run));
            block.painted = 0;
        }
        for (const [block, text] of texts) (block.element.firstChild as Text).appendData(text);
    }

    // Its element, and behind it the line break that it ends with: inside, an outline would go on in the next line.
    private nodes_of(r: number): Node[] {
        const run = this.runs[r];
        const text = text_of(run);
        const breaks = text.endsWith('\n');
        const span = document.createElement('span');
        span.append(document.createTextNode(breaks ? text.slice(0, -1) : text));
        span.className = 'tok' + (this.generated(run.first) ? ' gen' : '') + (is_special(run.text) ? ' special' : '');
        span.dataset.run = String(r);
        this.spans[r] = span;
        this.looks[r] = undefined;
        return breaks ? [span, document.createTextNode('\n')] : [span];
    }

    private fill(block: Block) {
        if (block.filled) return;
        block.filled = true;
        block.painted = 0;
        const nodes: Node[] = [];
        for (let r = block.first; r < block.last; ++r) nodes.push(...this.nodes_of(r));
        block.element.replaceChildren(...nodes);
        this.filled.push(block);
        this.empty_others();
    }

    // Blocks that are long out of sight become plain text again: what is shown costs the same however long somebody scrolls.
    private empty_others() {
        let n = 0;
        for (const block of this.filled) n += block.last - block.first;
        for (let i = 0; i < this.filled.length && n > most_elements;) {
            const block = this.filled[i];
            if (this.in_sight.has(block) || i + 1 === this.filled.length || this.marked.some((m) => m.parentNode === block.element)) {
                ++i;
                continue;
            }
            this.filled.splice(i, 1);
            n -= block.last - block.first;
            block.filled = false;
            block.element.replaceChildren(document.createTextNode(this.runs.slice(block.first, block.last).map(text_of).join('')));
            this.spans.fill(undefined, block.first, block.last);
        }
    }

    paint(painting: Painting) {
        this.painting = painting;
        ++this.version;
        this.paint_in_sight();
        this.tell();
    }

    private tell() {
        const span = this.pointed >= 0 ? this.spans[this.run_of[this.pointed]] : undefined;
        if (span && this.painting) span.title = this.painting.title(this.pointed);
    }

    private paint_in_sight() {
        const p = this.painting;
        for (const block of this.in_sight.size > 0 ? this.in_sight : this.blocks.slice(0, 2)) {
            this.fill(block);
            if (!p || block.painted === this.version) continue;
            block.painted = this.version;
            for (let r = block.first; r < block.last; ++r) {
                const run = this.runs[r];
                let most = 0;
                let struck = p.kept !== undefined;
                for (let token = run.first; token <= run.last; ++token) {
                    if (p.shades[token] > most) most = p.shades[token];
                    if (p.kept && p.kept[token]) struck = false;
                }
                const at = Math.round(255 * most);
                const [ground, ink] = at > 0 ? [p.lut.css[at], p.lut.ink[at]] : ['', ''];
                const apart = p.apart !== undefined && run.first >= p.apart;
                const look = `${ground}${ink}${struck}${apart}`;
                if (this.looks[r] === look) continue;
                this.looks[r] = look;
                const span = this.spans[r]!;
                span.style.backgroundColor = ground;
                span.style.color = ink;
                span.classList.toggle('struck', struck);
                span.classList.toggle('apart', apart);
            }
        }
    }

    // Heights of blocks that were never in sight are estimates: what they turn out to be moves the rest.
    private bring(span: HTMLElement) {
        this.brought = span;
        let [frames, quiet] = [60, 0];
        const step = () => {
            if (this.ended || this.brought !== span || frames-- === 0 || quiet > 8) return;
            const before = this.root.scrollTop;
            span.scrollIntoView({ block: 'nearest' });
            quiet = this.root.scrollTop === before ? quiet + 1 : 0;
            requestAnimationFrame(step);
        };
        step();
    }

    mark(token: number, scroll: boolean) {
        for (const span of this.marked) {
            span.classList.remove('selected');
            unmark_core(span);
        }
        const block = this.blocks[this.block_of[this.run_of[token]]];
        if (block) this.fill(block);
        const span = this.spans[this.run_of[token]];
        this.marked = span ? [span] : [];
        span?.classList.add('selected');
        if (span) mark_core(span);
        if (span && scroll) this.bring(span);
    }

    draw(lines: Line[]) {
        this.lines = lines;
        this.draw_lines();
    }

    private draw_lines() {
        if (this.ended) return;
        const box = this.root.getBoundingClientRect();
        const ratio = window.devicePixelRatio || 1;
        const [width, height] = [this.root.clientWidth, this.root.clientHeight];
        if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
            this.canvas.width = Math.round(width * ratio);
            this.canvas.height = Math.round(height * ratio);
            this.canvas.style.width = `${width}px`;
            this.canvas.style.height = `${height}px`;
        }
        this.canvas.style.transform = `translateY(${this.root.scrollTop}px)`;
        const c = this.canvas.getContext('2d')!;
        c.setTransform(ratio, 0, 0, ratio, 0, 0);
        c.clearRect(0, 0, width, height);
        const middle = (token: number) => {
            const r = this.run_of[token];
            const block = this.blocks[this.block_of[r]];
            if (!block) return undefined;
            const rect = widest(this.spans[r]);
            if (rect) return { x: rect.left + rect.width / 2 - box.left, y: rect.top + rect.height / 2 - box.top, h: rect.height };
            const all = block.element.getBoundingClientRect(); // out of sight: about there
            return { x: all.left + all.width / 2 - box.left, y: all.top + (all.height * (r - block.first)) / (block.last - block.first) - box.top, h: 0 };
        };
        for (const line of this.lines) {
            const a = middle(line.from);
            const b = middle(line.to);
            if (!a || !b || Math.max(a.y, b.y) < -height || Math.min(a.y, b.y) > 2 * height) continue;
            c.strokeStyle = line.colour;
            c.globalAlpha = 0.35 + 0.6 * line.strength;
            c.lineWidth = 1 + 3 * line.strength;
            c.beginPath();
            c.moveTo(a.x, a.y - a.h / 2);
            const lift = Math.min(60, 14 + Math.abs(a.x - b.x) / 8);
            c.bezierCurveTo(a.x, Math.min(a.y, b.y) - lift, b.x, Math.min(a.y, b.y) - lift, b.x, b.y - b.h / 2);
            c.stroke();
        }
        c.globalAlpha = 1;
    }

    private token_at(event: Event): number {
        const span = (event.target as HTMLElement).closest?.('.tok') as HTMLElement | null;
        return span ? this.runs[Number(span.dataset.run)].last : -1;
    }
}
