// Tiles on a map, drawn by WebGL2. A tile is 256 x 256 cells of a level: 2^level x 2^level weights each, their mean and their
// maximum. Until a tile is there, the coarser one that covers it is drawn.
import { lut } from '../colour';
import type { MapName } from '../colour';
import { tile_size } from '../transport/transport';
import type { Tile } from '../transport/transport';

export interface Camera {
    x: number;     // key at the left edge
    y: number;     // query at the upper edge
    step: number;  // tokens a CSS pixel
}

export interface Look {
    largest: number;
    log: boolean;
    peaks: boolean;
    map: MapName;
    dark: boolean;
    ground: string; // of the page, #rrggbb: where nothing is
}

const vertex = `#version 300 es
in vec2 corner;
uniform vec4 place;  // x, y, width, height in clip space
uniform vec4 part;   // of the texture
out vec2 at;
void main() {
    at = part.xy + corner * part.zw;
    gl_Position = vec4(place.xy + corner * place.zw, 0.0, 1.0);
}`;
const fragment = `#version 300 es
precision highp float;
in vec2 at;
uniform sampler2D cells;
uniform sampler2D map;
uniform float largest;
uniform bool logarithmic;
uniform bool peaks;
out vec4 colour;
void main() {
    vec2 cell = texture(cells, at).rg;
    if (cell.g == 0.0) discard; // nothing looked there: the future, what lies beyond a window
    float x = max(0.0, (peaks ? cell.g : cell.r) / largest);
    float shade = logarithmic ? (x > 0.0 ? clamp(1.0 + log(x) / log(10.0) / 4.0, 0.0, 1.0) : 0.0) : clamp(x, 0.0, 1.0);
    colour = vec4(texture(map, vec2((shade * 255.0 + 0.5) / 256.0, 0.5)).rgb, 1.0);
}`;

interface Held {
    texture?: WebGLTexture;
    empty: boolean; // there, and nothing to draw
    pending: boolean;
    failed?: number; // ms: when its answer was an error; asked for again once somebody moves a moment later
    used: number;
}

// The finest level whose cells are no smaller than a pixel: every cell is drawn, so no spike falls between two pixels.
export function level_of(tokens_a_pixel: number, levels: number): number {
    return Math.max(0, Math.min(levels - 1, Math.ceil(Math.log2(Math.max(1, tokens_a_pixel)) - 1e-9)));
}

const most_tiles = 384; // 256 KB each on the card
const most_pending = 6;

export class MatrixRenderer {
    private gl: WebGL2RenderingContext;
    private uniforms: Record<string, WebGLUniformLocation | null> = {};
    private tiles = new Map<string, Held>();
    private clock = 0;
    private pending = 0;
    private map_key = '';
    private map_texture: WebGLTexture;
    private scheduled = 0;
    private camera: Camera = { x: 0, y: 0, step: 1 };
    private look: Look = { largest: 1, log: true, peaks: true, map: 'viridis', dark: false, ground: '#ffffff' };
    readonly levels: number;
    private ended = false;
    frames = 0; // drawn so far
    level = 0;  // of the last frame

    constructor(private canvas: HTMLCanvasElement, private n: number, private ask: (level: number, x: number, y: number, wanted: () => boolean) => Promise<Tile>,
        private on_error: (message: string) => void) {
        const gl = canvas.getContext('webgl2', { antialias: false, preserveDrawingBuffer: true });
        if (!gl) throw new Error('This browser has no WebGL2, which the matrix is drawn with.');
        this.gl = gl;
        this.levels = Math.max(0, Math.ceil(Math.log2(n / tile_size))) + 1;
        const program = gl.createProgram()!;
        for (const [kind, text] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]] as const) {
            const shader = gl.createShader(kind)!;
            gl.shaderSource(shader, text);
            gl.compileShader(shader);
            if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS)) throw new Error(gl.getShaderInfoLog(shader) ?? 'a shader does not compile');
            gl.attachShader(program, shader);
        }
        gl.bindAttribLocation(program, 0, 'corner');
        gl.linkProgram(program);
        gl.useProgram(program);
        for (const name of ['place', 'part', 'cells', 'map', 'largest', 'logarithmic', 'peaks']) {
            this.uniforms[name] = gl.getUniformLocation(program, name);
        }
        const corners = gl.createBuffer();
        gl.bindBuffer(gl.ARRAY_BUFFER, corners);
        gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), gl.STATIC_DRAW);
        gl.enableVertexAttribArray(0);
        gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
        this.map_texture = gl.createTexture()!;
        gl.uniform1i(this.uniforms.cells, 0);
        gl.uniform1i(this.uniforms.map, 1);
    }

    end() {
        this.ended = true;
        cancelAnimationFrame(this.scheduled);
        this.forget();
        this.gl.deleteTexture(this.map_texture);
    }

    // All tiles again: other rows were chosen.
    forget() {
        for (const held of this.tiles.values()) if (held.texture) this.gl.deleteTexture(held.texture);
        this.tiles.clear();
    }

    show(camera: Camera, look: Look) {
        this.camera = camera;
        this.look = look;
        this.schedule();
    }

    // Nothing that is in sight is still being fetched.
    get settled(): boolean {
        return this.pending === 0 && this.scheduled === 0;
    }

    private schedule() {
        if (this.scheduled === 0 && !this.ended) {
            this.scheduled = requestAnimationFrame(() => {
                this.scheduled = 0;
                this.draw();
            });
        }
    }

    private draw() {
        const { gl, canvas } = this;
        const ratio = window.devicePixelRatio || 1;
        const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
        if (canvas.width !== width || canvas.height !== height) {
            canvas.width = width;
            canvas.height = height;
        }
        ++this.clock;
        ++this.frames;
        gl.viewport(0, 0, width, height);
        const key = `${this.look.map}${this.look.dark}`;
        const rgb = lut(this.look.map, this.look.dark).rgb;
        gl.activeTexture(gl.TEXTURE1);
        gl.bindTexture(gl.TEXTURE_2D, this.map_texture);
        if (this.map_key !== key) {
            this.map_key = key;
            gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB8, 256, 1, 0, gl.RGB, gl.UNSIGNED_BYTE, rgb);
            this.filter(gl.NEAREST);
        }
        gl.activeTexture(gl.TEXTURE0);
        const ground = [1, 3, 5].map((i) => parseInt(this.look.ground.slice(i, i + 2), 16) / 255 || 0);
        gl.clearColor(ground[0], ground[1], ground[2], 1);
        gl.clear(gl.COLOR_BUFFER_BIT);
        gl.uniform1f(this.uniforms.largest, this.look.largest || 1);
        gl.uniform1i(this.uniforms.logarithmic, this.look.log ? 1 : 0);
        gl.uniform1i(this.uniforms.peaks, this.look.peaks ? 1 : 0);

        const { x, y, step } = this.camera;
        const level = this.level = level_of(step / ratio, this.levels);
        const across = tile_size * 2 ** level;
        const [right, lower] = [x + canvas.clientWidth * step, y + canvas.clientHeight * step];
        const wanted: [number, number, number][] = [];
        for (let ty = Math.max(0, Math.floor(y / across)); ty * across < Math.min(lower, this.n); ++ty) {
            for (let tx = Math.max(0, Math.floor(x / across)); tx * across < Math.min(right, this.n); ++tx) wanted.push([level, tx, ty]);
        }
        // The middle of the screen first.
        const [cx, cy] = [(x + right) / 2 / across - 0.5, (y + lower) / 2 / across - 0.5];
        wanted.sort((a, b) => Math.hypot(a[1] - cx, a[2] - cy) - Math.hypot(b[1] - cx, b[2] - cy));
        const coarsest = this.levels - 1;
        if (level < coarsest) this.want(coarsest, 0, 0);
        for (const [l, tx, ty] of wanted) {
            this.want(l, tx, ty);
            this.draw_best(l, tx, ty);
        }
        this.drop_old();
    }

    private draw_best(level: number, tx: number, ty: number) {
        for (let up = level; up < this.levels; ++up) {
            const scale = 2 ** (up - level);
            const held = this.tiles.get(`${up}/${Math.floor(tx / scale)}/${Math.floor(ty / scale)}`);
            if (held?.empty) return;
            if (!held?.texture) continue;
            held.used = this.clock;
            const { gl } = this;
            const size = tile_size * 2 ** level;
            const [px, py] = [(tx * size - this.camera.x) / this.camera.step, (ty * size - this.camera.y) / this.camera.step];
            const [w, h] = [this.canvas.clientWidth, this.canvas.clientHeight];
            const extent = size / this.camera.step;
            gl.uniform4f(this.uniforms.place, (2 * px) / w - 1, 1 - (2 * py) / h, (2 * extent) / w, (-2 * extent) / h);
            gl.uniform4f(this.uniforms.part, (tx % scale) / scale, (ty % scale) / scale, 1 / scale, 1 / scale);
            gl.bindTexture(gl.TEXTURE_2D, held.texture);
            gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
            return;
        }
    }

    private want(level: number, tx: number, ty: number) {
        const key = `${level}/${tx}/${ty}`;
        const there = this.tiles.get(key);
        if (there && (there.failed === undefined || performance.now() - there.failed < 1000)) {
            there.used = this.clock;
            return;
        }
        // Nothing lies above the diagonal of a causal model; a tile wholly above it is asked for all the same, for models
        // whose prompts see later tokens: the answer that nothing is there is quick.
        if (this.pending >= most_pending) return;
        const held: Held = { empty: false, pending: true, used: this.clock };
        this.tiles.set(key, held);
        ++this.pending;
        this.ask(level, tx, ty, () => this.wants(key, held)).then((tile) => {
            if (!this.wants(key, held)) return;
            this.on_error('');
            if (tile.cells.length === 0) held.empty = true;
            else held.texture = this.upload(tile);
        }, (error) => {
            held.failed = performance.now();
            if (this.wants(key, held)) this.on_error(String(error?.message ?? error));
        }).finally(() => {
            held.pending = false;
            --this.pending;
            this.schedule();
        });
    }

    // Does whoever asked for this tile still show it?
    private wants(key: string, held: Held): boolean {
        return !this.ended && this.tiles.get(key) === held;
    }

    private upload(tile: Tile): WebGLTexture {
        const { gl } = this;
        const texture = gl.createTexture()!;
        gl.activeTexture(gl.TEXTURE0);
        gl.bindTexture(gl.TEXTURE_2D, texture);
        gl.pixelStorei(gl.UNPACK_ALIGNMENT, 4);
        gl.texImage2D(gl.TEXTURE_2D, 0, gl.RG16F, tile_size, tile_size, 0, gl.RG, gl.HALF_FLOAT, tile.cells);
        this.filter(gl.NEAREST);
        return texture;
    }

    private filter(how: number) {
        const { gl } = this;
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, how);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, how);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
    }

    private drop_old() {
        if (this.tiles.size <= most_tiles) return;
        const old = [...this.tiles].filter(([, held]) => !held.pending && held.used < this.clock).sort((a, b) => a[1].used - b[1].used);
        for (const [key, held] of old.slice(0, this.tiles.size - most_tiles)) {
            if (held.texture) this.gl.deleteTexture(held.texture);
            this.tiles.delete(key);
        }
    }
}
