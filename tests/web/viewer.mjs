// Starts `attnscope view` and a browser for the tests and pictures of the page.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chromium } from 'playwright-core';

export function run(binary, args) {
    const done = spawnSync(binary, args, { encoding: 'utf8' });
    if (done.status !== 0) throw new Error(`${args[0]}: ${done.stderr}`);
    return done.stdout;
}

export const question = 'Anna keeps bees in Oslo. Boris bakes bread in Lisbon. Chen repairs clocks in Kyoto. Who repairs clocks, and in which city?';

export function capture(binary, out, options = []) {
    run(binary, ['capture', '-m', 'smollm2', '--chat', '--temp', '0', '-n', '24', '-p', question, '--force', '-o', out, ...options]);
}

export async function startView(binary, files, options = []) {
    const child = spawn(binary, ['view', '--no-browser', ...files, ...options], { stdio: ['ignore', 'pipe', 'inherit'] });
    let said = '';
    const url = await new Promise((resolve, reject) => {
        child.stdout.on('data', (data) => {
            said += data;
            const match = said.match(/(http:\/\/\S+)\n/);
            if (match) resolve(match[1]);
        });
        child.once('exit', (code) => reject(new Error(`attnscope view ended with ${code} before it listened`)));
    });
    return {
        url,
        pid: child.pid,
        async stop() {
            child.kill('SIGTERM');
            const [code] = child.exitCode === null ? await once(child, 'exit') : [child.exitCode];
            if (code !== 0) throw new Error(`attnscope view ended with ${code}`);
        },
    };
}

// The sandbox needs privileges that a container's root does not have; the pages are our own. As on a machine without a GPU: pages are
// drawn by the processor, WebGL2 by SwiftShader. CHROMIUM_DRAWS: other words about that, for a machine with a GPU.
export function startBrowser() {
    const draws = process.env.CHROMIUM_DRAWS?.split(' ') ?? ['--disable-gpu', '--enable-unsafe-swiftshader'];
    return chromium.launch({
        executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
        args: ['--no-sandbox', '--disable-dev-shm-usage', ...draws],
    });
}

// A page whose errors, refused requests and broken policies are remembered.
export async function openPage(browser, url, options = {}) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    const page = await context.newPage();
    page.wrong = [];
    page.asked = [];
    page.on('pageerror', (error) => page.wrong.push(`error: ${error.message}`));
    page.on('console', (message) => { if (message.type() === 'error' && !/status of 4\d\d/.test(message.text())) page.wrong.push(message.text()); });
    page.on('request', (request) => page.asked.push(request.url()));
    page.on('dialog', (dialog) => { page.wrong.push('a dialog opened'); dialog.dismiss(); });
    // ATTNSCOPE_PAGE=FOLDER: the page as scripts/build-web.sh FOLDER made it, to look at a change without building the program.
    const fresh = process.env.ATTNSCOPE_PAGE;
    for (const [name, contentType] of fresh ? [['viewer.js', 'text/javascript'], ['viewer.css', 'text/css']] : []) {
        await page.route(`**/view/${name}`, (route) => route.fulfill({ path: `${fresh}/${name}`, contentType }));
    }
    await page.goto(url, { waitUntil: 'load' });
    return page;
}

export const textReady = (page) => page.waitForSelector('.text-place[data-ready]:not([data-ready=""])', { timeout: 60000 });
export async function matrixReady(page) {
    await page.waitForFunction(() => window.attnscope_matrix?.settled && window.attnscope_matrix.frames > 1, null, { timeout: 60000 });
}

// Whether the page's percentage is that of the value, to half a unit of the last digit that it prints.
export const percentOf = (text) => Number(text.replace(/[^\d.e-]/g, '')) / 100;
export function prints(text, value) {
    const [, decimals = '', exponent = '0'] = text.match(/^\d+(?:\.(\d+))?(?:e(-?\d+))?/);
    return Math.abs(percentOf(text) - value) <= 0.50005 * 10 ** (Number(exponent) - decimals.length) / 100;
}
