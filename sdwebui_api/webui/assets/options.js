// The settings that scripts heed, and what follows from those that need no place of their own.
(() => {
  let read = null, values = {};
  window.sdwebuiOptions = () => {
    const told = document.querySelector('#page_options [data-options]')?.dataset.options;
    if (told && told !== read) values = JSON.parse(read = told);
    return values;
  };

  let plain = '', working = false, lock = null;

  async function awake(wanted) {
    try {
      if (wanted && !lock && window.sdwebuiOptions().prevent_screen_sleep_during_generation) lock = await navigator.wakeLock?.request('screen') ?? null;
      else if (!wanted && lock) { await lock.release(); lock = null; }
    } catch (refused) { console.info('the screen may sleep', refused); }
  }

  function play() {
    const { sound, notification_audio: wanted, notification_volume: volume } = window.sdwebuiOptions();
    if (!sound || !wanted) return;
    const audio = new Audio(sound);
    audio.volume = Math.min(1, Math.max(0, (volume ?? 100) / 100));
    audio.play().catch((refused) => console.info('no sound', refused));
  }

  // Twice a second: cheaper than watching every change of a large page.
  setInterval(() => {
    const options = window.sdwebuiOptions();
    const height = String(options.gallery_height || '').trim();
    document.documentElement.style.setProperty('--gallery-height', /^\d+$/.test(height) ? `${height}px` : height || '512px');
    const bar = document.querySelector('[role="progressbar"] > .progress-text'); // gradio has others of that class
    if (Boolean(bar) !== working) {
      working = Boolean(bar);
      awake(working);
      if (!working) play();
    }
    if (!document.title.startsWith('[')) plain = document.title;
    const title = bar && options.show_progress_in_title ? `[${bar.textContent.split(' · ')[0]}] ${plain}` : plain;
    if (document.title !== title) document.title = title;
  }, 500);
})();
