// What lies on the page as a picture: boxes, texts and canvases, drawn where the browser put them. Controls are left out. Text goes from
// text nodes into fillText and nowhere else.
import { colour } from './parts';

const left_out = '.controls, .live-form, .tip';
const ratio = 2;

export function picture_of(root: HTMLElement): HTMLCanvasElement {
    const whole = root.getBoundingClientRect();
    const above = root.querySelector('.controls')?.getBoundingClientRect();
    const top = above && above.bottom < whole.bottom ? above.bottom : whole.top;
    const box = new DOMRect(whole.left, top, whole.width, whole.bottom - top);
    const out = document.createElement('canvas');
    out.width = Math.max(1, Math.round(box.width * ratio));
    out.height = Math.max(1, Math.round(box.height * ratio));
    const c = out.getContext('2d')!;
    c.scale(ratio, ratio);
    c.fillStyle = colour('ground');
    c.fillRect(0, 0, out.width, out.height);
    c.translate(-box.left, -box.top);
    c.textBaseline = 'middle';
    draw(c, root, box, 1);
    return out;
}

function overlaps(a: DOMRect, b: DOMRect): boolean {
    return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

function draw(c: CanvasRenderingContext2D, element: HTMLElement, seen: DOMRect, opacity: number) {
    if (element.matches(left_out)) return;
    const rect = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    if (style.visibility !== 'visible' || style.display === 'none') return;
    if (style.display !== 'contents' && !overlaps(rect, seen)) return;
    const shown = opacity * Number(style.opacity);
    c.globalAlpha = shown;
    for (const r of element.getClientRects()) draw_box(c, r, style);
    if (element instanceof HTMLCanvasElement) {
        if (element.width > 0 && element.height > 0) c.drawImage(element, rect.left, rect.top, rect.width, rect.height);
        return;
    }
    const clips = style.overflowX !== 'visible' || style.overflowY !== 'visible';
    if (clips) {
        c.save();
        c.beginPath();
        c.rect(rect.left, rect.top, rect.width, rect.height);
        c.clip();
    }
    for (const node of element.childNodes) {
        if (node instanceof Text) draw_text(c, node, style, seen, shown);
        else if (node instanceof HTMLElement) draw(c, node, seen, shown);
    }
    if (clips) c.restore();
}

function draw_box(c: CanvasRenderingContext2D, r: DOMRect, style: CSSStyleDeclaration) {
    c.fillStyle = style.backgroundColor; // transparent where there is none
    c.fillRect(r.left, r.top, r.width, r.height);
    const side = (width: string, kind: string, paint: string, x: (w: number) => [number, number, number, number]) => {
        const w = parseFloat(width);
        if (!(w > 0) || kind === 'none') return;
        c.fillStyle = paint;
        c.fillRect(...x(w));
    };
    side(style.borderTopWidth, style.borderTopStyle, style.borderTopColor, (w) => [r.left, r.top, r.width, w]);
    side(style.borderBottomWidth, style.borderBottomStyle, style.borderBottomColor, (w) => [r.left, r.bottom - w, r.width, w]);
    side(style.borderLeftWidth, style.borderLeftStyle, style.borderLeftColor, (w) => [r.left, r.top, w, r.height]);
    side(style.borderRightWidth, style.borderRightStyle, style.borderRightColor, (w) => [r.right - w, r.top, w, r.height]);
    if (style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0) {
        c.strokeStyle = style.outlineColor;
        c.lineWidth = parseFloat(style.outlineWidth);
        c.strokeRect(r.left - 1, r.top - 1, r.width + 2, r.height + 2);
    }
}

// Line by line: a text that wraps lies in several boxes.
function draw_text(c: CanvasRenderingContext2D, node: Text, style: CSSStyleDeclaration, seen: DOMRect, opacity: number) {
    if (node.data.trim() === '') return;
    const range = document.createRange();
    range.selectNodeContents(node);
    if (!overlaps(range.getBoundingClientRect(), seen)) return;
    c.font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
    c.fillStyle = style.color;
    c.globalAlpha = opacity;
    c.direction = style.direction === 'rtl' ? 'rtl' : 'ltr';
    let line = '', left = 0, top = 0, right = 0, bottom = 0;
    const flush = () => {
        if (line.trim() !== '') {
            c.textAlign = 'left';
            c.fillText(line, left, (top + bottom) / 2);
            if (style.textDecorationLine.includes('line-through')) c.fillRect(left, (top + bottom) / 2 - 1, right - left, 2);
        }
        line = '';
    };
    for (let i = 0; i < node.data.length;) {
        const step = node.data.codePointAt(i)! > 0xffff ? 2 : 1;
        range.setStart(node, i);
        range.setEnd(node, i + step);
        const rect = range.getClientRects()[0];
        if (rect && (line === '' || Math.abs(rect.top - top) > 2)) {
            flush();
            ({ left, top, bottom } = rect);
        }
        if (rect && node.data[i] !== '\n' && (rect.width > 0 || node.data[i].trim() !== '')) { // no space that was collapsed
            line += node.data.slice(i, i + step);
            left = Math.min(left, rect.left);
            right = rect.right;
        }
        i += step;
    }
    flush();
}
