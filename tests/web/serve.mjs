// Starts what the tests talk to: `attnscope serve` over the real SmolLM2, and a server of pages on another port.
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { once } from 'node:events';

// Resolves to {url, stop} once the server listens; its own output shows what went wrong.
export async function startAttnscope(binary, options = []) {
    const child = spawn(binary, ['serve', '-m', 'smollm2', '-c', '1024', '--port', '0', ...options],
        { stdio: ['ignore', 'pipe', 'inherit'] });
    let said = '';
    const url = await new Promise((resolve, reject) => {
        child.stdout.on('data', (data) => {
            said += data;
            const match = said.match(/listening on (http:\/\/\S+)/);
            if (match) resolve(match[1]);
        });
        child.once('exit', (code) => reject(new Error(`attnscope serve ended with ${code} before it listened`)));
    });
    return {
        url,
        async stop() {
            if (child.exitCode !== null) throw new Error(`attnscope serve had ended with ${child.exitCode}`);
            child.kill('SIGTERM');
            const [code] = await once(child, 'exit');
            if (code !== 0) throw new Error(`attnscope serve ended with ${code}`);
        },
    };
}

// Serves the files of this folder that are named. Its origin is http://localhost:PORT.
export async function startPages(files) {
    const types = { html: 'text/html', js: 'text/javascript' };
    const server = createServer(async (request, response) => {
        const name = request.url.slice(1);
        if (!files.includes(name)) return response.writeHead(404).end();
        response.writeHead(200, { 'Content-Type': types[name.split('.').pop()] });
        response.end(await readFile(new URL(name, import.meta.url)));
    }).listen(0, 'localhost');
    await once(server, 'listening');
    return { origin: `http://localhost:${server.address().port}`, stop: () => server.close() };
}
