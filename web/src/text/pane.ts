// The whole text as one element a run of tokens, tinted. Made by hand, not by Preact: tens of thousands of elements, of which
// a change of colour may touch only those in sight. Token texts become text nodes and nothing else.
import type { Lut } from '../colour';
import { is_special, visible } from './pieces';
import type { Run } from './pieces';

const block_runs = 120;        // a block ends at the first line break after so many runs ...
const block_runs_most = 1200;  // ... or here
const longest_text = 400;      // characters of one token that are shown

interface Block {
    element: HTMLElement;
    first: number; // runs [first, last)
    last: number;
    painted: number; // which painting it shows
}

export interface Painting {
    shades: Float32Array; // 0..1 a token
    lut: Lut;
    kept?: Uint8Array;    // 0: struck through
    title: (token: number) => string;
}

export interface Line {
    from: number;
    to: number;
    strength: number; // 0..1
    colour: string;
}

export class TextPane {
    private blocks: Block[] = [];
    private spans: HTMLElement[] = []; // one a run
    private runs: Run[] = [];
    private run_of: number[] = [];
    private in_sight = new Set<Block>();
    private observer: IntersectionObserver;
    private painting?: Painting;
    private version = 0;
    private marked: HTMLElement[] = [];
    private canvas = document.createElement('canvas');
    private lines: Line[] = [];
    private body = document.createElement('div');
    private resized: ResizeObserver;
    private ended = false;

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
        this.body.addEventListener('mouseover', (event) => this.on.hover(this.token_at(event)));
        this.body.addEventListener('mouseleave', () => this.on.hover(-1));
        this.body.addEventListener('click', (event) => {
            const token = this.token_at(event);
            if (token >= 0) this.on.select(token);
        });
        root.addEventListener('scroll', () => this.draw_lines(), { passive: true });
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
        this.run_of = [];
        this.runs = [];
        this.marked = [];
        this.lines = [];
        this.body.textContent = '';
        this.append(runs, generated);
    }

    // Further runs, as a running generation brings them.
    append(runs: Run[], generated: (token: number) => boolean) {
        const touched = new Set<Block>();
        for (const run of runs) {
            let block = this.blocks[this.blocks.length - 1];
            const before = this.runs[this.runs.length - 1];
            const length = block ? block.last - block.first : 0;
            if (!block || length >= block_runs_most || (length >= block_runs && before.text.endsWith('\n'))) {
                block = { element: document.createElement('div'), first: this.runs.length, last: this.runs.length, painted: 0 };
                block.element.className = 'block';
                block.element.dataset.block = String(this.blocks.length);
                this.blocks.push(block);
                this.body.append(block.element);
                this.observer.observe(block.element);
            }
            const span = document.createElement('span');
            let text = visible(run.text);
            if (text.length > longest_text) {
                const all = [...run.text].length;
                text = [...text.slice(0, longest_text)].join('') + `… ⟨${all.toLocaleString('en')} characters⟩`;
            }
            span.append(document.createTextNode(text === '' ? '⟨⟩' : text));
            span.className = 'tok' + (generated(run.first) ? ' gen' : '') + (is_special(run.text) ? ' special' : '');
            span.dataset.run = String(this.runs.length);
            block.element.append(span);
            block.last = this.runs.length + 1;
            for (let token = run.first; token <= run.last; ++token) this.run_of[token] = this.runs.length;
            this.runs.push(run);
            this.spans.push(span);
            touched.add(block);
        }
        for (const block of touched) block.painted = 0;
    }

    paint(painting: Painting) {
        this.painting = painting;
        ++this.version;
        this.paint_in_sight();
    }

    private paint_in_sight() {
        const p = this.painting;
        if (!p) return;
        for (const block of this.in_sight.size > 0 ? this.in_sight : this.blocks.slice(0, 8)) {
            if (block.painted === this.version) continue;
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
                const style = this.spans[r].style;
                style.backgroundColor = at > 0 ? p.lut.css[at] : '';
                style.color = at > 0 ? p.lut.ink[at] : '';
                this.spans[r].classList.toggle('struck', struck);
                this.spans[r].title = p.title(run.last);
            }
        }
    }

    mark(token: number, scroll: boolean) {
        for (const span of this.marked) span.classList.remove('selected');
        const span = this.spans[this.run_of[token]];
        this.marked = span ? [span] : [];
        span?.classList.add('selected');
        if (span && scroll) span.scrollIntoView({ block: 'nearest' });
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
            const span = this.spans[this.run_of[token]];
            const rect = span?.getClientRects()[0];
            return rect ? { x: rect.left + rect.width / 2 - box.left, y: rect.top + rect.height / 2 - box.top, h: rect.height } : undefined;
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

    // The text as it is tinted, as a picture of what is in sight.
    picture(background: string): HTMLCanvasElement {
        const ratio = 2;
        const out = document.createElement('canvas');
        out.width = this.root.clientWidth * ratio;
        out.height = this.root.clientHeight * ratio;
        const c = out.getContext('2d')!;
        c.scale(ratio, ratio);
        c.fillStyle = background;
        c.fillRect(0, 0, out.width, out.height);
        const box = this.root.getBoundingClientRect();
        c.textBaseline = 'middle';
        for (const block of this.in_sight) {
            for (let r = block.first; r < block.last; ++r) {
                const style = getComputedStyle(this.spans[r]);
                c.font = `${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
                const node = this.spans[r].firstChild as Text;
                const range = document.createRange();
                let line = '', left = 0, top = 0, right = 0, bottom = 0;
                const flush = () => {
                    if (line === '') return;
                    c.fillStyle = style.backgroundColor;
                    c.fillRect(left - box.left, top - box.top, right - left, bottom - top);
                    c.fillStyle = style.color;
                    c.fillText(line, left - box.left, (top + bottom) / 2 - box.top);
                    line = '';
                };
                for (let i = 0; i < node.data.length;) { // a run that wraps lies in several boxes
                    const step = node.data.codePointAt(i)! > 0xffff ? 2 : 1;
                    range.setStart(node, i);
                    range.setEnd(node, i + step);
                    const rect = range.getClientRects()[0];
                    if (rect && (line === '' || Math.abs(rect.top - top) > 2)) {
                        flush();
                        ({ left, top, bottom } = rect);
                    }
                    if (rect && node.data[i] !== '\n') {
                        line += node.data.slice(i, i + step);
                        right = rect.right;
                    }
                    i += step;
                }
                flush();
            }
        }
        return out;
    }

    private token_at(event: Event): number {
        const span = (event.target as HTMLElement).closest?.('.tok') as HTMLElement | null;
        return span ? this.runs[Number(span.dataset.run)].last : -1;
    }
}
