// The form of the settings tab: shows one section or what the search finds, collects what was changed.
(() => {
  const view = { section: null, search: "", idle: false, sent: {} };
  let root = null;

  const read = {
    switch: (input) => input.checked,
    number: (input) => (input.value === "" ? null : Number(input.value)),
    text: (input) => input.value,
    lines: (input) => input.value.split("\n").map((line) => line.trim()).filter(Boolean),
    names: (input) => [...input.querySelectorAll("input:checked")].map((box) => box.value),
    json: (input) => JSON.parse(input.value),
  };

  const write = {
    switch: (input, value) => { input.checked = value; },
    number: (input, value) => { input.value = value === null ? "" : value; },
    text: (input, value) => { input.value = value; },
    lines: (input, value) => { input.value = value.join("\n"); },
    names: (input, value) => {
      for (const box of input.querySelectorAll("input")) box.checked = value.includes(box.value);
    },
    json: (input, value) => { input.value = typeof value === "string" ? value : JSON.stringify(value); },
  };

  function reset(input) {
    for (const one of [input, ...input.querySelectorAll("input, option")]) {
      if (one instanceof HTMLOptionElement) one.selected = one.defaultSelected;
      else if (one.type === "checkbox") one.checked = one.defaultChecked;
      else if ("defaultValue" in one) one.value = one.defaultValue;
    }
  }

  function valueOf(row) {
    const input = row.querySelector("[data-kind]");
    try {
      return read[input.dataset.kind](input);
    } catch {
      return input.value;  // the server says what is wrong with it
    }
  }

  function changes() {
    const changed = {};
    for (const row of root ? root.querySelectorAll(".setting") : []) {
      const value = valueOf(row);
      const differs = JSON.stringify(value) !== row.dataset.before;
      row.classList.toggle("changed", differs);
      if (differs) changed[row.dataset.name] = value;
    }
    const pending = root && root.querySelector(".settings-pending");
    if (pending) {
      const count = Object.keys(changed).length;
      pending.hidden = count === 0;
      pending.querySelector("b").textContent = count;
    }
    return changed;
  }

  function show() {
    const words = view.search.toLowerCase().split(/\s+/).filter(Boolean);
    let any = false;
    for (const section of root.querySelectorAll("section")) {
      let shown = false;
      for (const row of section.querySelectorAll(".setting")) {
        const text = (section.firstElementChild.textContent + " " + row.dataset.words).toLowerCase();
        const fits = words.length ? words.every((word) => text.includes(word)) : section.dataset.section === view.section;
        const visible = fits && (view.idle || !row.classList.contains("idle"));
        row.hidden = !visible;
        shown = shown || visible;
      }
      section.hidden = !shown;
      any = any || shown;
    }
    root.querySelector(".settings-nothing").hidden = any;
    for (const button of root.querySelectorAll("nav button")) {
      button.hidden = button.classList.contains("idle") && !view.idle;
      button.classList.toggle("selected", !words.length && button.dataset.section === view.section);
    }
  }

  function opened() {
    if (!root.querySelector(".settings-form")) return;
    for (const row of root.querySelectorAll(".setting")) {
      const input = row.querySelector("[data-kind]");
      const refused = "refused" in row.dataset && row.dataset.name in view.sent;
      row.dataset.words = row.querySelector("label").textContent + " " + row.dataset.name;
      if (refused) reset(input);  // gradio may have left what was typed in a new form
      row.dataset.before = JSON.stringify(valueOf(row));
      if (refused) write[input.dataset.kind](input, view.sent[row.dataset.name]);  // to be corrected, not typed again
    }
    changes();
    const search = root.querySelector("#settings_search");
    const idle = root.querySelector("#settings_show_idle");
    search.value = view.search;
    idle.checked = view.idle;
    view.section = view.section || root.querySelector("section:not(.idle)").dataset.section;
    search.addEventListener("input", () => { view.search = search.value; show(); });
    idle.addEventListener("change", () => { view.idle = idle.checked; show(); });
    for (const button of root.querySelectorAll("nav button")) {
      button.addEventListener("click", () => {
        view.section = button.dataset.section;
        view.search = search.value = "";
        show();
      });
    }
    root.querySelector(".settings-pending button").addEventListener("click", () => {
      document.querySelector("#settings_submit").click();
    });
    show();
  }

  window.sdwebuiSettings = {
    attach(element, watch) {
      root = element;
      element.addEventListener("input", () => changes());
      watch("value", opened);
      opened();
    },
    collect: () => JSON.stringify(view.sent = changes()),
    valueOf,
  };
})();

// After a restart the page is built anew: wait for a server that says another id, then load it.
window.sdwebuiWaitForRestart = async () => {
  const before = window.gradio_config.app_id;
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    try {
      const answer = await fetch("config", { cache: "no-store" });
      if (answer.ok && (await answer.json()).app_id !== before) return location.reload();
    } catch (error) {
      console.info("not back yet", error);
    }
  }
};
