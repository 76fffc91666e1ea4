// Cards of extra networks: search, order, folders; a click writes into the prompts, or takes out again.
(() => {
  const focused = {};
  const kindOf = (element) => element.closest('#tab_img2img') ? 'img2img' : 'txt2img';
  const byName = new Intl.Collator(undefined, { numeric: true, sensitivity: 'base' }).compare;

  function write(id, value) {
    const area = document.querySelector(`#${id} :is(textarea, input)`);
    if (!area) return;
    const own = area.tagName === 'TEXTAREA' ? HTMLTextAreaElement : HTMLInputElement;
    Object.getOwnPropertyDescriptor(own.prototype, 'value').set.call(area, value);
    area.dispatchEvent(new Event('input', { bubbles: true }));
  }

  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

  // What is there of `text` (a tag with any weight, or a word by itself) and of what follows it.
  function pattern(text, more) {
    const tag = /^(<[^:>]+:.*):[^:>]*>$/.exec(text);
    const body = tag ? `${escaped(tag[1])}(:[^>]*)?>` : `(?<![\\w-])${escaped(text)}(?![\\w-])`;
    return new RegExp(`[ ,]*${body}${more ? `(\\s*${escaped(more)})?` : ''}`);
  }

  function toggle(id, text, more, separator) {
    const value = document.querySelector(`#${id} textarea`)?.value ?? '';
    const found = pattern(text, more);
    if (found.test(value)) write(id, value.replace(found, '').replace(/^[ ,]+/, ''));
    else write(id, value + (value ? separator : '') + text + (more ? ` ${more}` : ''));
    return !found.test(value);
  }

  function use(card) {
    const kind = kindOf(card), list = card.closest('.networks'), separator = list.dataset.separator || ' ';
    const { text, more, negative } = card.dataset;
    if (list.dataset.kind === 'checkpoints') return send(card, 'checkpoint');
    const anywhere = list.dataset.kind === 'textual_inversion' && !negative;
    const added = toggle(anywhere && focused[kind] || `${kind}_prompt`, text, more, separator);
    const there = document.querySelector(`#${kind}_neg_prompt textarea`)?.value ?? '';
    if (negative && added !== pattern(negative).test(there)) toggle(`${kind}_neg_prompt`, negative, '', separator);
  }

  // For the server; the time makes two clicks on one card two changes.
  const send = (card, name) =>
    write(`${kindOf(card)}_card_${name}`, JSON.stringify({ kind: card.closest('.networks').dataset.kind, file: card.dataset.file, at: Date.now() }));

  function show(list) {
    const wanted = list.querySelector('.network-search').value.trim().toLowerCase();
    const folder = list.querySelector('.network-folders .chosen')?.dataset.folder ?? '';
    let shown = 0;
    for (const card of list.querySelectorAll('.network-card')) {
      const inside = !folder || card.dataset.file.startsWith(`${folder}/`);
      card.hidden = !inside || !card.dataset.words.includes(wanted) || ('secret' in card.dataset && wanted.length < 4);
      if (!card.hidden) shown++;
    }
    const count = list.querySelector('.network-count');
    count.textContent = wanted || folder ? shown : '';
  }

  function sort(list) {
    const order = list.querySelector('.network-order').value;
    const turn = 'descending' in list.querySelector('.network-turn').dataset ? -1 : 1;
    const keys = {
      'Path': (card) => card.dataset.file, 'Name': (card) => card.title,
      'Date Created': (card) => Number(card.dataset.created), 'Date Modified': (card) => Number(card.dataset.modified),
    };
    const key = keys[order], compare = order.startsWith('Date') ? (a, b) => a - b : byName;
    const cards = [...list.querySelectorAll('.network-card')].map((card) => [key(card), card]);
    cards.sort(([one], [other]) => turn * compare(one, other));
    list.querySelector('.network-cards').append(...cards.map(([, card]) => card));
  }

  function press(event) {
    const edited = event.target.closest?.('.network-edit');
    const card = event.target.closest?.('.network-card');
    if (edited) send(card, 'edit');
    else if (card) use(card);
    return Boolean(card);
  }

  function clicked(event) {
    if (press(event)) return;
    const button = event.target.closest?.('.networks button');
    const list = button?.closest('.networks');
    if (!list) return;
    if (button.matches('.network-turn')) {
      button.toggleAttribute('data-descending');
      sort(list);
    } else if (button.matches('.network-refresh')) {
      document.getElementById(`${kindOf(list)}_${list.dataset.kind}_refresh`)?.click();
    } else if ('folder' in button.dataset) {
      for (const other of button.parentElement.children) other.classList.toggle('chosen', other === button);
      show(list);
    }
  }

  document.addEventListener('focusin', (event) => {
    const box = event.target.closest?.('.prompt-box .prompt');
    if (box) focused[kindOf(box)] = box.id;
  });
  document.addEventListener('click', clicked);
  document.addEventListener('keydown', (event) => {
    if ((event.key === 'Enter' || event.key === ' ') && !event.ctrlKey && event.target.matches?.('.network-card, .network-edit')) {
      event.preventDefault();
      press(event);
    }
  });
  document.addEventListener('input', (event) => {
    if (event.target.matches?.('.network-search')) show(event.target.closest('.networks'));
    else if (event.target.matches?.('.network-order')) sort(event.target.closest('.networks'));
  });
  document.addEventListener('mouseover', (event) => {
    const edited = event.target.closest?.('.network-edit');
    if (edited && !edited.title) edited.title = edited.closest('.networks').dataset.edit;
  });

  window.sdwebuiNetworks = {
    refresh(kind, asked) {
      document.getElementById(`${kind}_${JSON.parse(asked).kind}_refresh`)?.click();
      return '';
    },
  };
})();
