// Settings beside the checkpoint that are plain HTML: each is stored when it has been changed.
document.addEventListener('change', (event) => {
  const row = event.target.closest?.('.quick-setting');
  const area = row && document.querySelector('#quicksettings_changed textarea');
  if (!area) return;
  const values = { [row.dataset.name]: window.sdwebuiSettings.valueOf(row) };
  Object.getOwnPropertyDescriptor(HTMLTextAreaElement.prototype, 'value').set.call(area, JSON.stringify({ values, at: Date.now() }));
  area.dispatchEvent(new Event('input', { bubbles: true }));
});
