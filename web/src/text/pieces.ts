// Bytes of tokens as text that can be shown. Recordings come from strangers: whatever a token holds is shown as text, what
// cannot be seen gets a visible sign, and what would turn the line around (bidirectional controls) gets its name.

// Consecutive tokens [first, last] whose bytes together are whole characters.
export interface Run {
    first: number;
    last: number;
    text: string;
}

// 0: the end of `bytes` is no cut character; else how many bytes of one lie there.
function cut_at_end(bytes: Uint8Array): number {
    for (let back = 1; back <= 3 && back <= bytes.length; ++back) {
        const b = bytes[bytes.length - back];
        if (b < 0x80) return 0;
        if (b < 0xc0) continue;
        const length = b >= 0xf5 || b < 0xc2 ? 1 : b >= 0xf0 ? 4 : b >= 0xe0 ? 3 : 2;
        return length > back ? back : 0;
    }
    return 0;
}

export function runs_of(ids: Int32Array, pieces: Map<number, Uint8Array>): Run[] {
    const decoder = new TextDecoder('utf-8'); // broken bytes become U+FFFD
    const runs: Run[] = [];
    const none = new Uint8Array();
    const whole = new Map<number, string | undefined>(); // texts of ids that end with a whole character
    let open: number[] = [];
    let first = 0;
    for (let i = 0; i < ids.length; ++i) {
        const piece = pieces.get(ids[i]) ?? none;
        if (open.length === 0) {
            first = i;
            if (!whole.has(ids[i])) whole.set(ids[i], cut_at_end(piece) === 0 ? decoder.decode(piece) : undefined);
            const text = whole.get(ids[i]);
            if (text !== undefined) {
                runs.push({ first: i, last: i, text });
                continue;
            }
        }
        open.push(...piece);
        const bytes = Uint8Array.from(open);
        // A character has at most 4 bytes: what is still open after that many tokens is broken, not cut.
        if (cut_at_end(bytes) > 0 && i - first < 3 && i + 1 < ids.length) continue;
        runs.push({ first, last: i, text: decoder.decode(bytes) });
        open = [];
    }
    return runs;
}

const names: Record<number, string> = {
    0x00ad: 'SHY', 0x061c: 'ALM', 0x200b: 'ZWSP', 0x200e: 'LRM', 0x200f: 'RLM', 0x2028: 'LS', 0x2029: 'PS', 0x202a: 'LRE', 0x202b: 'RLE',
    0x202c: 'PDF', 0x202d: 'LRO', 0x202e: 'RLO', 0x2060: 'WJ', 0x2066: 'LRI', 0x2067: 'RLI', 0x2068: 'FSI', 0x2069: 'PDI', 0xfeff: 'BOM',
};

// The text with signs for what cannot be seen. Line breaks stay, after their sign; a lone space stays a space.
export function visible(text: string): string {
    let out = '';
    for (const c of text) {
        const code = c.codePointAt(0)!;
        if (c === '\n') out += '↵\n';
        else if (c === '\t') out += '⇥\t';
        else if (c === '\r') out += '␍';
        else if (code < 0x20) out += String.fromCodePoint(0x2400 + code);
        else if (code === 0x7f) out += '␡';
        else if (code >= 0x80 && code < 0xa0) out += `⟨${code.toString(16).toUpperCase()}⟩`;
        else if (names[code]) out += `⟨${names[code]}⟩`;
        else out += c;
    }
    // A mark that would sit on the token before gets a circle of its own.
    if (/^\p{M}/u.test(out)) out = '◌' + out;
    if (/^ +$/.test(out)) out = '·'.repeat(out.length);
    return out;
}

// In one line, for tables and labels.
export function label(text: string, longest = 40): string {
    const line = visible(text).replace(/↵\n/g, '↵').replace(/⇥\t/g, '⇥');
    const characters = [...line.slice(0, 4 * longest)];
    return characters.length > longest ? characters.slice(0, longest - 1).join('') + '…' : line;
}

// Special tokens by their look: <s>, <|im_start|>, [INST].
export function is_special(text: string): boolean {
    return /^(<\|[^|]{1,60}\|>|<\/?[a-z_]{1,40}>|<unused\d+>|\[\/?[A-Z_]{2,20}\])$/.test(text);
}
