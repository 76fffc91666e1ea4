// Keys and tool tips. Everything listens on the document, for the components of a tab exist only once it was opened.
(() => {
  const byId = (id) => document.getElementById(id);
  const kindOf = (element) => element.closest('#tab_img2img') ? 'img2img' : element.closest('#tab_txt2img') ? 'txt2img' : null;
  const openKind = () => ['txt2img', 'img2img'].find((kind) => byId(`${kind}_prompt`)?.offsetParent);

  function weigh(area, factor) {
    // Ctrl+Up and Ctrl+Down: (words:1.1), around the selection or the word at the cursor.
    let [from, to] = [area.selectionStart, area.selectionEnd];
    const text = area.value;
    if (from === to) {
      while (from > 0 && !/[\s,()<>[\]:]/.test(text[from - 1])) from--;
      while (to < text.length && !/[\s,()<>[\]:]/.test(text[to])) to++;
    }
    if (from === to) return;
    let weight = 1, [left, right] = [from, to];
    const after = /^:([0-9.]+)\)/.exec(text.slice(to));
    if (text[from - 1] === '(' && after) { weight = parseFloat(after[1]); left = from - 1; right = to + after[0].length; }
    weight = Math.round((weight + factor) * 100) / 100;
    if (!(weight > 0)) return;
    const words = text.slice(from, to);
    const changed = weight === 1 ? words : `(${words}:${weight})`;
    area.setRangeText(changed, left, right);
    const start = left + (weight === 1 ? 0 : 1);
    area.setSelectionRange(start, start + words.length);
    area.dispatchEvent(new Event('input', { bubbles: true }));
  }

  document.addEventListener('keydown', (event) => {
    const area = event.target;
    const kind = area.closest ? kindOf(area) : null;
    if ((event.ctrlKey || event.metaKey) && event.key === 'Enter' && kind) {
      event.preventDefault();
      event.stopPropagation();
      byId(`${kind}_generate`)?.click();
    } else if (event.key === 'Escape' && openKind()) {
      byId(`${openKind()}_interrupt`)?.click();
    } else if ((event.ctrlKey || event.metaKey) && (event.key === 'ArrowUp' || event.key === 'ArrowDown') && area.closest?.('.prompt')) {
      event.preventDefault();
      weigh(area, event.key === 'ArrowUp' ? 0.1 : -0.1);
    }
  }, true);

  // Gradio's gallery takes the focus when pictures come, and scrolls to it: not while somebody writes or reads elsewhere.
  const focus = HTMLElement.prototype.focus;
  HTMLElement.prototype.focus = function (options) {
    if (!this.closest('.thumbnails')) focus.call(this, options);
    else if (!/^(TEXTAREA|INPUT)$/.test(document.activeElement?.tagName)) focus.call(this, { preventScroll: true });
  };

  document.addEventListener('mouseover', (event) => {
    const button = event.target.closest?.('button.tool');
    if (button && !button.title) button.title = document.querySelector(`#page_hints [data-for="${button.id}"]`)?.textContent || '';
  });
})();
