import { render } from 'preact';
import { App } from './app';
import { store } from './state';
import { FileTransport, embedded } from './transport/file';
import { HttpTransport } from './transport/http';
import './style.css';

// A key of the server may come in the address ("#key=..."), also of a page that is open; it leaves the address at once.
function key_in_address(): string | null {
    const words = new URLSearchParams(location.hash.slice(1));
    const given = words.get('key');
    if (given === null) return null;
    words.delete('key');
    history.replaceState(null, '', '#' + words);
    return given;
}

// It stays in this tab, where the page may store something.
const kept_key = {
    get: () => { try { return sessionStorage.getItem('attnscope-key') ?? ''; } catch { return ''; } },
    set: (key: string) => { try { sessionStorage.setItem('attnscope-key', key); } catch { /* a page without storage */ } },
};

function from_server(): HttpTransport {
    const given = key_in_address();
    if (given !== null) kept_key.set(given);
    const transport = new HttpTransport(new URL('.', location.href).pathname, given ?? kept_key.get(), kept_key.set);
    window.addEventListener('hashchange', () => { // before the store reads what is left
        const key = key_in_address();
        if (key !== null) transport.key.give(key);
    });
    return transport;
}

const file = embedded();
const transport = file ? new FileTransport(file) : from_server();
store.follow_address();
render(<App transport={transport} />, document.getElementById('app')!);
