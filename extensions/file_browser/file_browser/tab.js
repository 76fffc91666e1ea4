// The tab FileBrowser. Names of files come from anywhere: they are only ever set as text.
const root = element.querySelector('.files');
const body = root.querySelector('.body');
const text = Object.fromEntries([...root.querySelectorAll('[data-text]')].map((span) => [span.dataset.text, span.textContent]));
const spoken = window.sdwebuiSaid(root);
const say = (key, name) => text[key].replace('{name}', () => name);
const API = 'file_browser/v1/';
const SLICE = 4 * 2 ** 20;
const PATIENCE = 20;
const state = { path: '', entries: [], asked: 0 };
const uploads = [];
let busy = false;

function make(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

class Refused extends Error {
  constructor(status, message) { super(message); this.status = status; }
}

async function call(method, route, query = {}, more = {}) {
  const answer = await fetch(`${API}${route}?${new URLSearchParams(query)}`, { method, cache: 'no-store', ...more });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, spoken(String(found.errors || found.detail || answer.statusText)));
  return found;
}

const below = (name) => state.path ? `${state.path}/${name}` : name;
const downloadOf = (path) => `${API}download?${new URLSearchParams({ path })}`;

function sizeOf(bytes) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let step = 0;
  while (bytes >= 1024 && step < units.length - 1) { bytes /= 1024; step++; }
  return `${step && bytes < 100 ? bytes.toFixed(1) : Math.round(bytes)} ${units[step]}`;
}

// -- the frame ------------------------------------------------------------------------------------------------------

const crumbs = make('div', { className: 'crumbs' });
const chooser = make('input', { type: 'file', multiple: true, hidden: true });
const uploadButton = make('button', { type: 'button', className: 'primary', textContent: `⬆ ${text.upload}`, onclick: () => chooser.click() });
const bar = make('div', { className: 'bar' }, crumbs, uploadButton,
  make('button', { type: 'button', className: 'make-folder', textContent: `📁 ${text.newFolder}`, onclick: newFolder }),
  make('button', { type: 'button', className: 'refresh', textContent: `🔄 ${text.refresh}`, onclick: () => open(state.path) }), chooser);
const problem = make('div', { className: 'problem', hidden: true });
problem.setAttribute('role', 'alert');
const queue = make('div', { className: 'queue' });
const list = make('div', { className: 'list' });
const preview = make('div', { className: 'preview', hidden: true });
body.replaceChildren(bar, problem, queue, make('div', { className: 'columns' }, list, preview),
  make('div', { className: 'note', textContent: text.resumeHint }));

function complain(error) {
  problem.hidden = !error;
  problem.textContent = error ? error.message : '';
}

async function attempt(work) {
  complain(null);
  try { return await work(); } catch (error) { complain(error); }
}

// -- the list -------------------------------------------------------------------------------------------------------

function open(path) {
  const asked = ++state.asked;
  return attempt(async () => {
    const found = await call('GET', 'list', { path });
    if (asked !== state.asked) return;
    if (path !== state.path) preview.hidden = true;
    Object.assign(state, { path, entries: found.entries, truncated: found.truncated });
    draw();
  });
}

function draw() {
  const parts = state.path ? state.path.split('/') : [];
  const crumb = (label, path) => make('button', { type: 'button', textContent: label, onclick: () => open(path) });
  crumbs.replaceChildren(crumb(`🏠 ${text.top}`, ''), ...parts.flatMap((part, index) =>
    ['/', crumb(part, parts.slice(0, index + 1).join('/'))]));
  uploadButton.disabled = !state.path;
  uploadButton.title = state.path ? '' : text.chooseFolder;
  const head = make('tr', {}, ...['name', 'size', 'modified'].map((key) => make('th', { className: key, textContent: text[key] })),
    make('th', { className: 'does' }));
  list.replaceChildren(make('table', {}, make('thead', {}, head), make('tbody', {}, ...state.entries.map(row))));
  if (!state.entries.length) list.append(make('div', { className: 'note', textContent: state.path ? text.empty : text.chooseFolder }));
  if (state.truncated) list.append(make('div', { className: 'note', textContent: text.truncated }));
}

function row(entry) {
  const path = below(entry.name);
  const folder = entry.kind === 'folder';
  const icon = folder ? '📁' : entry.picture ? '🖼️' : '📄';
  const act = folder ? () => open(path) : entry.picture ? () => show(entry, path) : () => location.assign(downloadOf(path));
  const does = make('td', { className: 'does' });
  const tool = (symbol, key, onclick) => does.append(make('button', { type: 'button', textContent: symbol, title: text[key], ariaLabel: `${text[key]}: ${entry.name}`, onclick }));
  if (!folder) does.append(make('a', { className: 'icon', href: downloadOf(path), download: entry.name, textContent: '⬇️', title: text.download, ariaLabel: `${text.download}: ${entry.name}` }));
  if (state.path) {
    tool('✏️', 'rename', () => rename(entry.name));
    tool('🗑️', 'delete', () => remove(entry));
  }
  return make('tr', {},
    make('td', { className: 'name' }, make('button', { type: 'button', textContent: `${icon} ${entry.name}`, title: entry.name, onclick: act })),
    make('td', { className: 'size', textContent: folder ? '' : sizeOf(entry.size) }),
    make('td', { className: 'modified', textContent: new Date(entry.modified * 1000).toLocaleString([], { dateStyle: 'short', timeStyle: 'short' }) }),
    does);
}

async function show(entry, path) {
  const found = await attempt(() => call('GET', 'preview', { path }));
  if (!found) return;
  preview.hidden = false;
  preview.replaceChildren(
    make('div', { className: 'head' }, make('b', { textContent: entry.name }),
      make('button', { type: 'button', textContent: '✖', title: text.close, onclick: () => { preview.hidden = true; } })),
    make('img', { src: found.picture, alt: entry.name }),
    make('div', { className: 'note', textContent: `${found.width} × ${found.height}, ${sizeOf(entry.size)}` }),
    make('pre', { textContent: found.infotext || text.noInfotext }));
}

// -- changes --------------------------------------------------------------------------------------------------------

async function change(method, route, query, more) {
  const changed = await attempt(() => call(method, route, query, more));
  if (changed) await open(state.path);
}

function newFolder() {
  const name = window.prompt(text.askFolder, '');
  if (name?.trim()) change('PUT', 'folder', { path: below(name.trim()) });
}

function rename(old) {
  const name = window.prompt(text.askName, old);
  if (!name?.trim() || name.trim() === old) return;
  change('PATCH', 'entry', {}, { body: JSON.stringify({ path: below(old), to: below(name.trim()) }), headers: { 'Content-Type': 'application/json' } });
}

function remove(entry) {
  const folder = entry.kind === 'folder';
  if (window.confirm(say(folder ? 'askDeleteFolder' : 'askDelete', entry.name))) {
    change('DELETE', 'entry', { path: below(entry.name), recursive: folder });
  }
}

// -- uploads: one after the other, each in slices; what has arrived is never sent again -----------------------------

function enqueue(files) {
  if (!files.length) return;
  if (!state.path) return complain(new Error(text.chooseFolder));
  complain(null);
  for (const file of files) {
    const bar = make('progress', { max: file.size || 1, value: 0 });
    const status = make('span', { textContent: text.waiting });
    const stop = new AbortController();
    const cancel = make('button', { type: 'button', textContent: '✖', title: text.cancel, onclick: () => stop.abort() });
    const line = make('div', { className: 'upload' }, make('span', { className: 'what', textContent: file.name, title: file.name }), bar, status, cancel);
    queue.append(line);
    uploads.push({ file, folder: state.path, bar, status, stop, cancel, line });
  }
  work();
}

async function work() {
  if (busy) return;
  busy = true;
  for (let upload = uploads.shift(); upload; upload = uploads.shift()) {
    try {
      await send(upload);
      upload.status.textContent = text.done;
      setTimeout(() => upload.line.remove(), 4000);
      if (upload.folder === state.path) await open(state.path);
    } catch (error) {
      upload.stop.signal.aborted ? upload.line.remove() : upload.status.textContent = error.message;
    }
    upload.cancel.onclick = () => upload.line.remove();
  }
  busy = false;
}

async function send({ file, folder, bar, status, stop }) {
  const signal = stop.signal;
  const query = { path: `${folder}/${file.name}`, size: file.size, id: `m${file.lastModified}-${file.size}`, replace: false };
  let offset = null;
  for (let failures = 0; ;) {
    try {
      signal.throwIfAborted();
      if (offset === null) offset = (await call('GET', 'upload', query, { signal })).offset;
      bar.value = offset;
      status.textContent = file.size ? `${Math.floor(100 * offset / file.size)} %` : '';
      const body = file.slice(offset, offset + SLICE);
      const headers = { 'Content-Type': 'application/octet-stream' };
      const answer = await call('PUT', 'upload', { ...query, offset }, { body, headers, signal });
      offset = answer.offset;
      failures = 0;
      if (answer.complete) { bar.value = bar.max; return; }
    } catch (error) {
      if (signal.aborted) {
        await call('DELETE', 'upload', query).catch(() => null);
        throw error;
      }
      if (error.status === 409 && offset === null && !query.replace) {
        if (!window.confirm(say('askReplace', file.name))) throw error;
        query.replace = true;
        continue;
      }
      // 409 further on: an earlier, broken call still writes, or wrote more than we know.
      if ((error.status && ![409, 429, 499, 502, 503, 504].includes(error.status)) || ++failures > PATIENCE) throw error;
      status.textContent = text.retrying;
      offset = null;
      await new Promise((resolve) => setTimeout(resolve, Math.min(500 * failures, 5000)));
    }
  }
}

chooser.onchange = () => { enqueue([...chooser.files]); chooser.value = ''; };
root.addEventListener('dragover', (event) => { event.preventDefault(); root.classList.add('over'); });
root.addEventListener('dragleave', (event) => { if (!root.contains(event.relatedTarget)) root.classList.remove('over'); });
root.addEventListener('drop', (event) => {
  event.preventDefault();
  event.stopPropagation();
  root.classList.remove('over');
  enqueue([...event.dataTransfer.files]);
});
open('');
