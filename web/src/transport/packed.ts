// One head's weights as an exported file holds them: for every pair (key, query) of the lower triangle, key after key, a bit
// whether the weight is kept; then one byte for each kept weight, its place on a logarithmic scale from `least` to 1.

export interface Packing {
    least: number;  // smaller weights are left out
    levels: number; // codes 0 .. levels: least * (1 / least) ** (code / levels)
}

export interface Packed {
    weight(query: number, key: number): number;
}

export function packed_head(bytes: ArrayBuffer, n: number, packing: Packing): Packed {
    const kept_bytes = Math.ceil((n * (n + 1)) / 2 / 8);
    const kept = new Uint8Array(bytes, 0, kept_bytes);
    const codes = new Uint8Array(bytes, kept_bytes);
    const scale = Float32Array.from({ length: packing.levels + 1 }, (_, code) => packing.least ** (1 - code / packing.levels));
    // Dense, one byte a pair: 0 where nothing is kept, else code + 1.
    const dense = new Uint8Array((n * (n + 1)) / 2);
    for (let key = 0, bit = 0, code = 0; key < n; ++key) {
        for (let query = key; query < n; ++query, ++bit) {
            if (kept[bit >> 3] & (0x80 >> (bit & 7))) dense[(query * (query + 1)) / 2 + key] = codes[code++] + 1;
        }
    }
    return {
        weight(query, key) {
            const at = key <= query ? dense[(query * (query + 1)) / 2 + key] : 0;
            return at === 0 ? 0 : scale[at - 1];
        },
    };
}
