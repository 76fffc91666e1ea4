// Keys and tool tips. Everything listens on the document, for the components of a tab exist only once it was opened.
(() => {
  const byId = (id) => document.getElementById(id);
  const openKind = () => ['txt2img', 'img2img'].find((kind) => byId(`${kind}_prompt`)?.offsetParent);

  const option = (name, otherwise) => window.sdwebuiOptions?.()[name] ?? otherwise;
  const BLANKS = { 'Tab': '\t', 'Carriage Return': '\r', 'Line Feed': '\n' };

  function wordAt(area) {
    const ends = option('keyedit_delimiters', '.,\\/!?%^*;:{}=`~() ') + '<>[]'
      + option('keyedit_delimiters_whitespace', Object.keys(BLANKS)).map((name) => BLANKS[name] ?? '').join('');
    let [from, to] = [area.selectionStart, area.selectionEnd];
    const text = area.value;
    if (from === to) {
      while (from > 0 && !ends.includes(text[from - 1])) from--;
      while (to < text.length && !ends.includes(text[to])) to++;
    }
    return [from, to];
  }

  function changed(area, text, left, right, start, end) {
    // As if it were typed, for Ctrl+Z takes back only what was typed, and makes nonsense of a text changed otherwise.
    area.setSelectionRange(left, right);
    if (!document.execCommand(text ? 'insertText' : 'delete', false, text)) {
      area.setRangeText(text, left, right);
      area.dispatchEvent(new Event('input', { bubbles: true }));
    }
    area.setSelectionRange(start, end);
  }

  // The innermost (…) around `at`: where it begins and ends, what is in it, and its weight.
  function bracketsAt(text, at) {
    const open = [];
    for (let place = 0; place < text.length; place++) {
      if (text[place] === '\\') place++;
      else if (text[place] === '(') open.push(place);
      else if (text[place] === ')') {
        const left = open.pop();
        if (!(left < at && at <= place)) continue;
        const inside = text.slice(left + 1, place), given = /^(.*):([0-9.]+)$/s.exec(inside);
        return { left, right: place + 1, words: given ? given[1] : inside, weight: given ? parseFloat(given[2]) : 1.1 };
      }
    }
    return null;
  }

  // What is weighed: the selection, else the (…) at the cursor, else the word there.
  function weighed(area) {
    const text = area.value, at = area.selectionStart;
    if (at === area.selectionEnd && bracketsAt(text, at)) return bracketsAt(text, at);
    let [left, right] = wordAt(area);
    while (left < right && /\s/.test(text[left])) left++;
    while (left < right && /\s/.test(text[right - 1])) right--;
    const words = text.slice(left, right);
    const around = [bracketsAt(text, left), bracketsAt(text, left + 1)];
    const brackets = around.find((one) => one && (one.words === words || text.slice(one.left, one.right) === words));
    return brackets ?? { left, right, words, weight: 1 };
  }

  function weigh(area, direction) {
    // Ctrl+Up and Ctrl+Down: (words:1.1), or another weight of the <lora:name:1> at the cursor.
    const text = area.value, at = area.selectionStart;
    const tag = [...text.matchAll(/<[^<>]+:(-?[0-9.]+)>/g)].find((one) => one.index <= at && at <= one.index + one[0].length);
    const precision = option(tag ? 'keyedit_precision_extra' : 'keyedit_precision_attention', tag ? 0.05 : 0.1);
    const moved = (weight) => Math.round((weight + direction * precision) * 1000) / 1000;
    if (tag) {
      const right = tag.index + tag[0].length - 1, weight = String(moved(parseFloat(tag[1])));
      changed(area, weight, right - tag[1].length, right, at, at);
      return;
    }
    const { left, right, words, weight: before } = weighed(area), weight = moved(before);
    if (!words || !(weight > 0)) return;
    const start = left + (weight === 1 ? 0 : 1);
    changed(area, weight === 1 ? words : `(${words}:${weight})`, left, right, start, start + words.length);
  }

  function carry(area, direction) {
    // Alt+Left and Alt+Right: the part between two commas changes places with its neighbour.
    const parts = area.value.split(',');
    let place = 0, index = 0;
    while (index < parts.length - 1 && place + parts[index].length < area.selectionStart) place += parts[index++].length + 1;
    const other = index + direction;
    if (other < 0 || other >= parts.length) return;
    const swapped = parts.map((part) => part.trim());
    [swapped[index], swapped[other]] = [swapped[other], swapped[index]];
    const start = swapped.slice(0, other).join(', ').length + (other ? 2 : 0);
    changed(area, swapped.join(', '), 0, area.value.length, start, start + swapped[other].length);
  }

  const seen = (id) => byId(id)?.offsetParent ? byId(id) : null;

  // While a job runs, Ctrl+Enter ends it and begins anew, as in A1111's page.
  let renewing = null;
  function renew(kind) {
    clearInterval(renewing);
    if (seen(`${kind}_generate`)) return byId(`${kind}_generate`).click();
    seen(`${kind}_interrupt`)?.click();
    let clicks = 0;
    renewing = setInterval(() => {
      const ready = seen(`${kind}_generate`);
      if ((clicks && !ready) || clicks > 3 || openKind() !== kind) return clearInterval(renewing);
      if (!ready) return;
      clicks++; // one that comes between the pictures of a job and its end is dropped by gradio
      ready.click();
    }, 300);
  }

  function interrupt(kind) {
    clearInterval(renewing);
    seen(`${kind}_interrupt`)?.click();
  }

  document.addEventListener('keydown', (event) => {
    const area = event.target;
    const kind = openKind();
    const enter = kind && event.key === 'Enter';
    if (enter && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      event.stopPropagation();
      if (!event.repeat) renew(kind);
    } else if (enter && event.altKey) {
      event.preventDefault();
      seen(`${kind}_skip`)?.click();
    } else if (event.key === 'Escape' && kind) {
      if (area.getAttribute?.('aria-expanded') !== 'true') interrupt(kind); // there it closes an open list
    } else if ((event.ctrlKey || event.metaKey) && (event.key === 'ArrowUp' || event.key === 'ArrowDown') && area.closest?.('.prompt')) {
      event.preventDefault();
      weigh(area, event.key === 'ArrowUp' ? 1 : -1);
    } else if (event.altKey && (event.key === 'ArrowLeft' || event.key === 'ArrowRight') && area.closest?.('.prompt') && option('keyedit_move', true)) {
      event.preventDefault();
      carry(area, event.key === 'ArrowLeft' ? -1 : 1);
    }
  }, true);

  // Gradio's gallery takes the focus when pictures come, and scrolls to it: not while somebody writes or reads elsewhere.
  const focus = HTMLElement.prototype.focus;
  HTMLElement.prototype.focus = function (options) {
    if (!this.closest('.thumbnails')) focus.call(this, options);
    else if (!/^(TEXTAREA|INPUT)$/.test(document.activeElement?.tagName)) focus.call(this, { preventScroll: true });
  };

  // What a route says, in the reader's words where they are known: from `server_messages.spans` within `element`.
  window.sdwebuiSaid = (element) => {
    const known = [...element.querySelectorAll('[data-said]')].map((span) => {
      const parts = span.dataset.said.split(/\{(\w+)\}/), escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
      const names = parts.filter((_, index) => index % 2);
      const pattern = new RegExp(`^${parts.map((part, index) => index % 2 ? '(.+)' : escaped(part)).join('')}$`);
      return { pattern, names, spoken: span.textContent, fixed: parts.filter((_, index) => !(index % 2)).join('').length };
    }).sort((one, other) => other.fixed - one.fixed);
    const say = (text) => {
      const found = known.find(({ pattern }) => pattern.test(text));
      if (!found) return null;
      const values = found.pattern.exec(text).slice(1);
      return found.spoken.replace(/\{(\w+)\}/g, (_, name) => values[found.names.indexOf(name)] ?? '');
    };
    return (message) => {
      const [line, ...more] = message.split('\n'); // below it, what may be chosen
      return [say(line) ?? say(line.replace(/^[\w.[\]-]+: (?=\S)/, '')) ?? line, ...more].join('\n');
    };
  };

  // Gradio writes "Error" above its messages in every language.
  function entitle(toasts) {
    for (const { firstChild: text } of toasts.querySelectorAll('.toast-title')) {
      const spoken = document.querySelector(`#page_hints [data-for="toast ${text?.data?.trim()}"]`)?.textContent;
      if (spoken && spoken !== text.data.trim()) text.data = `${spoken} `;
    }
  }

  const waiting = setInterval(() => {
    const toasts = document.querySelector('.toast-wrap');
    if (!toasts) return;
    clearInterval(waiting);
    new MutationObserver(() => entitle(toasts)).observe(toasts, { childList: true, subtree: true, characterData: true });
    entitle(toasts);
  }, 300);

  // Their names, for those who point at them and for those who have them read out: a symbol alone tells little.
  function nameTools() {
    for (const button of document.querySelectorAll('button.tool:not([aria-label])')) {
      const hint = document.querySelector(`#page_hints [data-for="${button.id}"]`)?.textContent;
      if (!hint) continue;
      button.title = hint;
      button.setAttribute('aria-label', hint);
    }
  }

  let naming = null;
  new MutationObserver(() => { naming ??= setTimeout(() => { naming = null; nameTools(); }, 300); })
    .observe(document.documentElement, { childList: true, subtree: true });
})();
