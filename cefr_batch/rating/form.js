"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { form, separator, texts, scale } = JSON.parse(byId("data").textContent);
  const sections = [...document.querySelectorAll("section.item")];
  const items = sections.map((section) => section.dataset.item);
  const criteria = [...sections[0].querySelectorAll("fieldset")].map((fieldset) => fieldset.dataset.criterion);
  const RATER = /^[\p{L}\p{N}][\p{L}\p{N}\p{M} ._@-]*$/u;
  const LAST = `cefr-batch-ratings:${form}`; // the rater who used this form last in this browser
  let rater = "";
  let ratings = new Map(); // "item.criterion" -> 1..5
  let place = "start"; // or an item's number, or "overview"

  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
  const rated = (item) => criteria.filter((name) => ratings.has(`${item}.${name}`)).length;
  const complete = (item) => rated(item) === criteria.length;
  const missing = () => items.filter((item) => !complete(item));

  // Progress in this browser.

  function keep() {
    try {
      localStorage.setItem(`${LAST}:${rater}`, JSON.stringify({ ratings: [...ratings], place }));
      localStorage.setItem(LAST, rater);
    } catch {
      byId("not-kept").hidden = false;
    }
  }

  function kept(key) {
    try {
      return localStorage.getItem(key);
    } catch {
      byId("not-kept").hidden = false;
      return null;
    }
  }

  function resume(name) {
    rater = name;
    let at = 0;
    try {
      const saved = JSON.parse(kept(`${LAST}:${rater}`)) ?? { ratings: [] };
      const known = new Set(items.flatMap((item) => criteria.map((criterion) => `${item}.${criterion}`)));
      ratings = new Map(saved.ratings.filter(([key, value]) => known.has(key) && scale.includes(value)));
      at = saved.place === "overview" || (Number.isInteger(saved.place) && sections[saved.place]) ? saved.place : 0;
    } catch {
      ratings = new Map(); // not what this form wrote
    }
    for (const input of document.querySelectorAll(".scale input")) {
      input.checked = ratings.get(input.name) === Number(input.value);
    }
    byId("who").textContent = rater;
    show(at);
  }

  // What is shown.

  function show(where) {
    place = where;
    byId("start").hidden = place !== "start";
    byId("top").hidden = place === "start";
    byId("overview").hidden = place !== "overview";
    byId("incomplete").hidden = true;
    byId("thanks").textContent = "";
    sections.forEach((section, index) => (section.hidden = index !== place));
    const shown = sections[place] ?? byId(place);
    shown.querySelector("h1").focus();
    window.scrollTo(0, 0);
    if (place !== "start") keep();
    count();
  }

  function count() {
    const done = items.length - missing().length;
    byId("progress").value = done;
    byId("done").textContent = fill(texts.done, { done, n: items.length });
    byId("missing").textContent = done === items.length ? texts.all_rated : fill(texts.missing, { n: items.length - done });
    document.querySelectorAll(".list button").forEach((button, index) => {
      const item = items[index];
      const mark = complete(item) ? "✓" : `${rated(item)}/${criteria.length}`;
      const state = complete(item) ? texts.complete : fill(texts.partly, { done: rated(item), n: criteria.length });
      button.textContent = `${index + 1} ${mark}`;
      button.setAttribute("aria-label", `${index + 1}: ${state}`);
      button.classList.toggle("complete", complete(item));
    });
  }

  // Files.

  const asJson = () => {
    const row = (item) => criteria.map((name) => [name, ratings.get(`${item}.${name}`) ?? null]);
    const rows = items.map((item) => ({ item, ...Object.fromEntries(row(item)) }));
    return JSON.stringify({ form, rater, ratings: rows }, null, 2) + "\n";
  };

  const asCsv = () => {
    const row = (item) => [form, rater, item, ...criteria.map((name) => ratings.get(`${item}.${name}`) ?? "")];
    const lines = [["form", "rater", "item", ...criteria], ...items.map(row)];
    return "\ufeff" + lines.map((cells) => cells.join(separator) + "\r\n").join(""); // no cell can hold a separator
  };

  function save(kind) {
    const [text, type] = kind === "csv" ? [asCsv(), "text/csv"] : [asJson(), "application/json"];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `ratings-${form}-${rater.replace(/[^A-Za-z0-9_-]+/g, "-")}.${kind}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    return link.download;
  }

  function finish() {
    byId("incomplete").hidden = true;
    byId("thanks").textContent = fill(texts.thanks, { file: save("json") });
  }

  // What the rater does.

  byId("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("rater").value.normalize("NFC").trim();
    byId("rater-problem").textContent = RATER.test(name) ? "" : texts.rater_problem;
    if (RATER.test(name)) resume(name);
    else byId("rater").focus();
  });

  document.addEventListener("change", (event) => {
    if (!event.target.matches(".scale input")) return;
    ratings.set(event.target.name, Number(event.target.value));
    keep();
    count();
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.save) save(button.dataset.save);
    if (button?.dataset.go) show(button.dataset.go === "overview" ? "overview" : Number(button.dataset.go));
  });

  // While the focus is in a sentence's section, a digit rates the criterion that has it, or the first unrated one, and
  // goes on to the next.
  document.addEventListener("keydown", (event) => {
    const section = event.target.closest("section.item");
    if (!section || event.ctrlKey || event.altKey || event.metaKey || !scale.includes(Number(event.key))) return;
    const groups = [...section.querySelectorAll("fieldset")];
    const group = event.target.closest("fieldset") ?? groups.find((one) => !one.querySelector(":checked"));
    if (!group) return;
    event.preventDefault();
    group.querySelector(`input[value="${event.key}"]`).click();
    const next = groups[groups.indexOf(group) + 1];
    (next ? (next.querySelector(":checked") ?? next.querySelector("input")) : section.querySelector(".next")).focus();
  });

  byId("finish").addEventListener("click", () => {
    if (missing().length === 0) return finish();
    byId("thanks").textContent = "";
    byId("incomplete-text").textContent = fill(texts.incomplete, { n: missing().length });
    byId("incomplete").hidden = false;
  });
  byId("save-anyway").addEventListener("click", finish);
  byId("first-missing").addEventListener("click", () => show(items.indexOf(missing()[0])));
  byId("change").addEventListener("click", () => show("start"));

  const last = kept(LAST);
  if (last) {
    byId("rater").value = last;
    resume(last);
  }
})();
