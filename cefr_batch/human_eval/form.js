"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { form, separator, texts, scale, levels } = JSON.parse(byId("data").textContent);
  const parts = [1, 2].map((part) => [...document.querySelectorAll(`section.item[data-part="${part}"]`)]);
  const pages = [...parts[0], byId("second"), ...parts[1]];
  const items = parts[0].map((section) => section.dataset.item);
  const criteria = [...parts[1][0].querySelectorAll("fieldset")].map((fieldset) => fieldset.dataset.question);
  const RATER = /^[\p{L}\p{N}][\p{L}\p{N}\p{M} ._@-]*$/u;
  const LAST = `cefr-batch-ratings:${form}`; // the rater who used this form last in this browser
  let rater = "";
  let qualification = "";
  let ratings = new Map(); // "item.criterion" -> 1..5, "item.level" -> "A1".."C2"
  let second = false; // whether the target levels were shown, after which no level can be given
  let place = "start"; // or a page's number, or "overview"

  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
  const questions = () => (second ? criteria : ["level"]);
  const rated = (item) => questions().filter((name) => ratings.has(`${item}.${name}`)).length;
  const complete = (item) => rated(item) === questions().length;
  const missing = () => items.filter((item) => !complete(item));
  const pageOf = (item) => items.indexOf(item) + (second ? items.length + 1 : 0);
  const valueOf = (input) => (levels.includes(input.value) ? input.value : Number(input.value));

  // Progress in this browser.

  function keep() {
    try {
      localStorage.setItem(`${LAST}:${rater}`, JSON.stringify({ ratings: [...ratings], place, second, qualification }));
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

  function resume(name, chosen) {
    rater = name;
    let at = 0;
    try {
      const saved = JSON.parse(kept(`${LAST}:${rater}`)) ?? { ratings: [] };
      const known = new Map(items.flatMap((item) => criteria.map((criterion) => [`${item}.${criterion}`, scale])));
      items.forEach((item) => known.set(`${item}.level`, levels));
      ratings = new Map(saved.ratings.filter(([key, value]) => known.get(key)?.includes(value)));
      second = saved.second === true || criteria.some((name) => items.some((item) => ratings.has(`${item}.${name}`)));
      qualification = saved.qualification ?? "";
      at = saved.place === "overview" || (Number.isInteger(saved.place) && pages[saved.place]) ? saved.place : 0;
    } catch {
      ratings = new Map(); // not what this form wrote
      second = false;
    }
    if (chosen) qualification = chosen;
    byId("qualification").value = qualification;
    for (const input of document.querySelectorAll(".scale input")) {
      input.checked = ratings.get(input.name) === valueOf(input);
    }
    byId("who").textContent = rater;
    show(at);
  }

  // What is shown.

  function show(where) {
    place = !second && where > items.length ? items.length : where;
    byId("start").hidden = place !== "start";
    byId("top").hidden = place === "start";
    byId("overview").hidden = place !== "overview";
    byId("incomplete").hidden = true;
    byId("thanks").textContent = "";
    byId("finish").hidden = !second;
    byId("to-second").hidden = second;
    pages.forEach((page, index) => (page.hidden = index !== place));
    document.querySelectorAll('[data-question="level"]').forEach((fieldset) => (fieldset.disabled = second));
    const shown = pages[place] ?? byId(place);
    shown.querySelector("h1").focus();
    window.scrollTo(0, 0);
    if (place !== "start") keep();
    count();
  }

  function count() {
    const done = items.length - missing().length;
    byId("progress").value = done;
    byId("done").textContent = fill(second ? texts.done : texts.levels_done, { done, n: items.length });
    byId("levels-given").textContent = fill(texts.levels_done, { done, n: items.length });
    byId("missing").textContent = done === items.length ? texts.all_rated : fill(texts.missing, { n: items.length - done });
    document.querySelectorAll(".list button").forEach((button, index) => {
      const item = items[index];
      const mark = complete(item) ? "✓" : `${rated(item)}/${questions().length}`;
      const state = complete(item) ? texts.complete : fill(texts.partly, { done: rated(item), n: questions().length });
      button.textContent = `${index + 1} ${mark}`;
      button.setAttribute("aria-label", `${index + 1}: ${state}`);
      button.classList.toggle("complete", complete(item));
    });
  }

  // Files.

  const columns = [...criteria, "level"];

  const asJson = () => {
    const row = (item) => columns.map((name) => [name, ratings.get(`${item}.${name}`) ?? null]);
    const rows = items.map((item) => ({ item, ...Object.fromEntries(row(item)) }));
    return JSON.stringify({ form, rater, qualification: qualification || null, ratings: rows }, null, 2) + "\n";
  };

  const asCsv = () => {
    const row = (item) => [form, rater, item, ...columns.map((name) => ratings.get(`${item}.${name}`) ?? ""), qualification];
    const lines = [["form", "rater", "item", ...columns, "qualification"], ...items.map(row)];
    return "\ufeff" + lines.map((cells) => cells.join(separator) + "\r\n").join(""); // no cell can hold a separator
  };

  function save(kind) {
    const [text, type] = kind === "csv" ? [asCsv(), "text/csv"] : [asJson(), "application/json"];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `ratings-${form}-${rater.replace(/[^\p{L}\p{N}_-]+/gu, "-")}.${kind}`;
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
    if (RATER.test(name)) resume(name, byId("qualification").value);
    else byId("rater").focus();
  });

  document.addEventListener("change", (event) => {
    if (!event.target.matches(".scale input")) return;
    ratings.set(event.target.name, valueOf(event.target));
    keep();
    count();
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.save) save(button.dataset.save);
    if (button?.dataset.item) show(pageOf(button.dataset.item));
    if (button?.dataset.go) show(button.dataset.go === "overview" ? "overview" : Number(button.dataset.go));
  });

  // While the focus is in a sentence's section, a digit answers the question that has it, or the first one without an answer,
  // and goes on to the next.
  document.addEventListener("keydown", (event) => {
    const section = event.target.closest("section.item");
    if (!section || event.ctrlKey || event.altKey || event.metaKey) return;
    const groups = [...section.querySelectorAll("fieldset:enabled")];
    const group = event.target.closest("fieldset:enabled") ?? groups.find((one) => !one.querySelector(":checked"));
    const input = group?.querySelectorAll("input")[Number(event.key) - 1];
    if (!input) return;
    event.preventDefault();
    input.click();
    const next = groups[groups.indexOf(group) + 1];
    (next ? (next.querySelector(":checked") ?? next.querySelector("input")) : section.querySelector(".next")).focus();
  });

  byId("begin-second").addEventListener("click", () => {
    second = true;
    show(items.length + 1);
  });
  byId("finish").addEventListener("click", () => {
    if (missing().length === 0) return finish();
    byId("thanks").textContent = "";
    byId("incomplete-text").textContent = fill(texts.incomplete, { n: missing().length });
    byId("incomplete").hidden = false;
  });
  byId("save-anyway").addEventListener("click", finish);
  byId("first-missing").addEventListener("click", () => show(pageOf(missing()[0])));
  byId("change").addEventListener("click", () => {
    byId("qualification").value = ""; // the next rater's; who comes back keeps what was given
    show("start");
  });

  const last = kept(LAST);
  if (last) {
    byId("rater").value = last;
    resume(last, "");
  }
})();
