// A click on the large picture of a result shows it over the whole window; arrows change it, Esc or a click closes it.
(() => {
  let box = null, pictures = [], index = 0;

  function show(at) {
    index = (at + pictures.length) % pictures.length;
    box.querySelector('img').src = pictures[index];
    box.querySelectorAll('button').forEach((button) => { button.hidden = button.className !== 'lightbox-close' && pictures.length < 2; });
  }

  function close() {
    box?.remove();
    box = null;
  }

  function open(gallery, shown) {
    pictures = [...gallery.querySelectorAll('.thumbnails img, .grid-container img')].map((image) => image.src);
    if (!pictures.includes(shown)) pictures.unshift(shown);
    box = document.createElement('div');
    box.className = 'lightbox';
    box.innerHTML = '<img alt=""><button type="button" class="lightbox-left">‹</button><button type="button" class="lightbox-right">›</button><button type="button" class="lightbox-close">×</button>';
    box.classList.toggle('whole', window.sdwebuiOptions().js_modal_lightbox_initially_zoomed !== false);
    box.addEventListener('click', (event) => {
      if (event.target.className === 'lightbox-left') show(index - 1);
      else if (event.target.className === 'lightbox-right') show(index + 1);
      else close();
    });
    document.body.append(box);
    show(pictures.indexOf(shown));
  }

  document.addEventListener('click', (event) => {
    const gallery = event.target.closest?.('.results .gallery-container, .results .block');
    const image = event.target.closest?.('.media-button')?.querySelector('img') ?? (event.target.matches?.('.preview img') ? event.target : null);
    if (!gallery || !image || image.closest('.thumbnails') || window.sdwebuiOptions().js_modal_lightbox === false) return;
    event.preventDefault();
    event.stopPropagation();
    open(gallery, image.src);
  }, true);

  document.addEventListener('keydown', (event) => {
    if (!box) return;
    const does = { Escape: close, ArrowLeft: () => show(index - 1), ArrowRight: () => show(index + 1) }[event.key];
    if (!does) return;
    event.preventDefault();
    event.stopImmediatePropagation(); // Escape ends a job otherwise, by the page's own keys
    does();
  }, true);
})();
