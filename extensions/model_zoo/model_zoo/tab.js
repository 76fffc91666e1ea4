// The tab ModelZoo. Names come from catalogues of anybody: they are only ever set as text.
const root = element.querySelector('.zoo');
const body = root.querySelector('.body');
const text = Object.fromEntries([...root.querySelectorAll('[data-text]')].map((span) => [span.dataset.text, span.textContent]));
const spoken = window.sdwebuiSaid(root);
const say = (key, name) => text[key].replace('{name}', () => name);
const API = 'model_zoo/v1/';
const LIVE = ['waiting', 'downloading', 'verifying'];
const GROUPS = { esrgan: 'upscaler', realesrgan: 'upscaler', swinir: 'upscaler', scunet: 'upscaler', dat: 'upscaler', hat: 'upscaler',
  gfpgan: 'face', codeformer: 'face', facedetection: 'face' };
const groupOf = (model) => GROUPS[model.kind] || model.kind;
const state = { models: [], cards: new Map(), asked: 0, timer: null, home: '' };

function make(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields);
  made.append(...children);
  return made;
}

async function call(method, route, query = {}) {
  const answer = await fetch(`${API}${route}?${new URLSearchParams(query)}`, { method, cache: 'no-store' });
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(spoken(String(found.errors || found.detail || answer.statusText)));
  return found;
}

function sizeOf(bytes) {
  const units = ['B', 'KB', 'MB', 'GB', 'TB'];
  let step = 0;
  while (bytes >= 1000 && step < units.length - 1) { bytes /= 1000; step++; }
  return `${step && bytes < 100 ? bytes.toFixed(step > 2 ? 2 : 1) : Math.round(bytes)} ${units[step]}`;
}

function timeOf(seconds) {
  const minutes = Math.ceil(seconds / 60);
  return seconds < 90 ? `${Math.ceil(seconds)} s` : minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

// -- the frame ------------------------------------------------------------------------------------------------------

const search = make('input', { type: 'search', placeholder: text.search, ariaLabel: text.search, oninput: filter });
const kinds = make('select', { ariaLabel: text.all, onchange: filter });
const bar = make('div', { className: 'bar' }, search, kinds,
  make('button', { type: 'button', className: 'refresh', textContent: `🔄 ${text.refresh}`, onclick: () => load() }));
const problem = make('div', { className: 'problem', hidden: true });
problem.setAttribute('role', 'alert');
const problems = make('details', { className: 'problems', hidden: true });
const list = make('div', { className: 'models' });
const none = make('div', { className: 'note', textContent: text.none, hidden: true });
const hint = make('div', { className: 'note' });
body.replaceChildren(make('div', { className: 'note', textContent: text.intro }), bar, problem, problems, list, none, hint);

function complain(error) {
  problem.hidden = !error;
  problem.textContent = error ? error.message : '';
}

// -- the list -------------------------------------------------------------------------------------------------------

async function load() {
  const asked = ++state.asked;
  clearTimeout(state.timer);
  try {
    const found = await call('GET', 'models');
    if (asked !== state.asked) return;
    complain(null);
    show(found);
  } catch (error) {
    if (asked === state.asked) complain(error);
  }
  watch();
}

// Looks again while something is on its way; a hidden tab waits until it is seen.
function watch() {
  clearTimeout(state.timer);
  if (!root.isConnected) return;
  const busy = state.models.some((model) => LIVE.includes(model.state));
  if (busy) state.timer = setTimeout(() => root.offsetParent && !document.hidden ? load() : watch(), 1000);
}

function show(found) {
  const arrived = found.models.filter((model) => model.state === 'installed' &&
    LIVE.includes(state.models.find((one) => one.id === model.id)?.state));
  state.models = found.models;
  state.home = `${found.data_dir}/`;
  const ids = new Set(found.models.map((model) => model.id));
  for (const [id, card] of state.cards) if (!ids.has(id)) { card.root.remove(); state.cards.delete(id); }
  for (const model of found.models) draw(model);
  list.append(...found.models.map((model) => state.cards.get(model.id).root));
  offerKinds();
  problems.hidden = !found.problems.length;
  problems.replaceChildren(make('summary', { textContent: `${text.problems} (${found.problems.length})` }),
    make('ul', {}, ...found.problems.map((line) => make('li', { textContent: line }))));
  hint.textContent = say('ownHint', found.local_catalogue);
  filter();
  // The page's own lists are to have it too.
  if (arrived.length) document.getElementById('refresh_sd_model_checkpoint')?.click();
}

function offerKinds() {
  const groups = [...new Set(state.models.map(groupOf))];
  if (kinds.dataset.groups === groups.join()) return;
  const chosen = kinds.value;
  kinds.dataset.groups = groups.join();
  kinds.replaceChildren(new Option(text.all, ''), ...groups.map((group) => new Option(text[`kind:${group}`] || group, group)));
  kinds.value = groups.includes(chosen) ? chosen : '';
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const model of state.models) {
    const all = [model.id, model.name, model.description, aboutOf(model), model.licence, model.file].join(' ').toLowerCase();
    const fits = (!kinds.value || groupOf(model) === kinds.value) && words.every((word) => all.includes(word));
    state.cards.get(model.id).root.hidden = !fits;
    shown += fits;
  }
  none.hidden = shown > 0 || !state.models.length;
}

function draw(model) {
  let card = state.cards.get(model.id);
  if (!card) {
    card = frame(model);
    state.cards.set(model.id, card);
  }
  const live = LIVE.includes(model.state);
  const partial = model.state === 'partial';
  card.root.dataset.state = model.state;
  card.bar.hidden = !live && !partial;
  if (model.state === 'waiting' && !model.received) card.bar.removeAttribute('value');
  else if (model.total) Object.assign(card.bar, { max: model.total, value: model.received });
  else card.bar.removeAttribute('value');
  card.status.textContent = words(model);
  card.error.hidden = !model.error;
  card.error.textContent = spoken(model.error);
  card.start.hidden = live || model.state === 'installed' || model.state === 'other';
  card.start.textContent = partial ? `▶ ${text.resume}` : `⬇ ${text.download}`;
  card.stop.hidden = !live;
  card.discard.hidden = !partial;
}

function words(model) {
  if (model.state === 'partial') return say('partial', model.total ? `${sizeOf(model.received)} / ${sizeOf(model.total)}` : sizeOf(model.received));
  if (model.state !== 'downloading') return text[model.state];
  const parts = [model.total ? `${Math.floor(100 * model.received / model.total)} %` : text.downloading];
  parts.push(model.total ? `${sizeOf(model.received)} / ${sizeOf(model.total)}` : sizeOf(model.received));
  if (model.bytes_per_second) {
    parts.push(`${sizeOf(model.bytes_per_second)}/s`);
    if (model.total) parts.push(say('left', timeOf((model.total - model.received) / model.bytes_per_second)));
  }
  return parts.join(' · ');
}

// In the reader's language where the model ships with the program.
const aboutOf = (model) => (!model.local && text[`about:${model.id}`]) || model.description;

// Below the data directory without it.
function pathOf(model) {
  const path = `${model.folder}/${model.file.split('/').pop()}`;
  return path.startsWith(state.home) ? path.slice(state.home.length) : path;
}

// What does not change while a model is listed.
function frame(model) {
  const link = (label, href) => make('a', { textContent: label, href, target: '_blank', rel: 'noreferrer noopener' });
  const fact = (label, ...value) => make('span', { className: 'fact' }, make('span', { className: 'label', textContent: `${label}: ` }), ...value);
  const act = (method, query) => () => attempt(model.id, method, query);
  const card = {
    bar: make('progress'),
    status: make('span', { className: 'status' }),
    error: make('div', { className: 'problem' }),
    start: make('button', { type: 'button', className: 'primary start', onclick: act('PUT', {}) }),
    stop: make('button', { type: 'button', className: 'stop', textContent: `✖ ${text.cancel}`, onclick: act('DELETE', {}) }),
    discard: make('button', { type: 'button', className: 'discard', textContent: `🗑️ ${text.discard}`, onclick: act('DELETE', { discard: true }) }),
  };
  const title = make('div', { className: 'title' },
    make('b', {}, model.homepage ? link(model.name, model.homepage) : model.name),
    make('span', { className: 'tag', textContent: text[`kind:${groupOf(model)}`] || model.kind }));
  if (model.local) title.append(make('span', { className: 'tag own', textContent: text.ownCatalogue }));
  const checksum = model.sha256 ? make('code', { textContent: model.sha256.slice(0, 12) + '…', title: model.sha256 }) : text.noChecksum;
  const facts = make('div', { className: 'facts' },
    fact(text.licence, model.licence),
    fact(text.size, model.size ? sizeOf(model.size) : text.unknownSize),
    fact(text.folder, make('span', { className: 'path', textContent: pathOf(model), title: model.folder })),
    fact(text.checksum, checksum));
  card.root = make('article', { className: 'model' }, title,
    make('div', { className: 'description', textContent: aboutOf(model) }), facts,
    make('div', { className: 'does' }, card.start, card.stop, card.discard, card.bar, card.status), card.error);
  card.root.dataset.id = model.id;
  return card;
}

async function attempt(id, method, query) {
  complain(null);
  try {
    await call(method, 'download', { id, ...query });
    await load();
  } catch (error) {
    complain(error);
  }
}

load();
// Another browser may have begun something meanwhile.
new IntersectionObserver((seen) => { if (seen.some((one) => one.isIntersecting)) load(); }).observe(root);
