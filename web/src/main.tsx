import { render } from 'preact';
import { App } from './app';
import { store } from './state';
import { FileTransport, embedded } from './transport/file';
import { HttpTransport } from './transport/http';
import './style.css';

// A key of the server may come in the address ("#key=..."); it leaves the address at once and stays in this tab.
function server_key(): string {
    const words = new URLSearchParams(location.hash.slice(1));
    const given = words.get('key');
    if (given !== null) {
        sessionStorage.setItem('attnscope-key', given);
        words.delete('key');
        history.replaceState(null, '', '#' + words);
    }
    return sessionStorage.getItem('attnscope-key') ?? '';
}

const file = embedded();
const transport = file ? new FileTransport(file) : new HttpTransport(new URL('.', location.href).pathname, server_key());
store.follow_address();
render(<App transport={transport} />, document.getElementById('app')!);
