"use strict";
// Asks for sentences and shows them as they are written. Everything that comes from the server is set as text, never as HTML.
(() => {
  const $ = (id) => document.getElementById(id);
  const texts = JSON.parse($("texts").textContent);
  const language = document.documentElement.lang;
  const address = (path, more = "") => `${path}?lang=${language}${more}`;
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const element = (tag, text = "", classes = "") => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (classes) made.className = classes;
    return made;
  };

  let reading = null; // what ends the request that is being answered
  let answers = null; // words, columns and sentences, as they are shown

  // The form

  let example = 0;
  $("example")?.addEventListener("click", async () => {
    example += 1;
    const answer = await fetch(address("/words", `&n=${example}`));
    if (answer.ok) $("words").value = (await answer.json()).words.join("\n");
  });
  const drawn = () => $("ask").elements.way.value === "draw";
  const showDraw = () => {
    $("draw").hidden = !drawn();
    for (const input of $("draw").querySelectorAll("input")) input.disabled = !drawn();
  };
  for (const way of $("ask").elements.way) way.addEventListener("change", showDraw);
  showDraw();

  const request = () => ({
    words: $("words").value,
    voices: [...document.querySelectorAll("input[name=voice]:checked")].map((input) => Number(input.value)),
    draw: drawn()
      ? { temperature: Number($("temperature").value), top_p: Number($("top_p").value), seed: Number($("seed").value) }
      : null,
  });
  const problem = (text) => {
    $("problem").textContent = text;
    $("problem").hidden = !text;
  };
  const busy = (now) => {
    $("write").disabled = now;
    $("stop").hidden = !now;
    $("progress").hidden = !now;
    $("table").setAttribute("aria-busy", String(now));
    if (!now) $("counted").textContent = "";
  };

  // The table

  const title = (column) => column.trained ? column.level : column.name;
  const about = (column) =>
    column.trained
      ? `${column.name}, ${fill(texts.trained, column)}`
      : fill(texts.untrained, column);

  const begin = (event) => {
    answers = { ...event, cells: event.words.map(() => event.columns.map(() => null)) };
    const table = element("table", "", "stacked answers");
    table.setAttribute("role", "table");
    const head = table.createTHead().insertRow();
    head.append(heading("col", texts.word));
    for (const column of event.columns) {
      const cell = heading("col", title(column));
      cell.append(element("span", about(column), "quiet"), element("span", "", "mean"));
      head.append(cell);
    }
    const body = table.createTBody();
    for (const word of event.words) {
      const row = body.insertRow();
      const name = heading("row", word);
      name.lang = "en";
      row.append(name);
      for (const column of event.columns) {
        const cell = row.insertCell();
        cell.dataset.label = title(column);
      }
    }
    for (const part of table.querySelectorAll("thead, tbody")) part.setAttribute("role", "rowgroup");
    for (const row of table.rows) row.setAttribute("role", "row");
    for (const cell of table.querySelectorAll("td")) cell.setAttribute("role", "cell");
    $("table").replaceChildren(table);
    $("notes").replaceChildren();
    $("take").hidden = true;
    $("answers").hidden = false;
    $("status").textContent = texts.writing;
    count();
  };
  const heading = (scope, text) => {
    const cell = element("th", text);
    cell.scope = scope;
    cell.setAttribute("role", scope === "col" ? "columnheader" : "rowheader");
    return cell;
  };
  const place = (event) => $("table").querySelector("tbody").rows[event.row].cells[event.column + 1];

  const beginning = (event) => {
    const sentence = element("p", event.text, "sentence being-written");
    sentence.lang = "en";
    place(event).replaceChildren(sentence);
  };
  const sentence = (event) => {
    const text = element("p", "", "sentence");
    text.lang = "en";
    text.append(...event.pieces.map(piece));
    const remarks = [];
    if (event.level) remarks.push(fill(texts.level, event));
    if (!event.uses_word) remarks.push(texts.unused);
    place(event).replaceChildren(text, element("p", remarks.join(" · "), "remark"));
    answers.cells[event.row][event.column] = { text: event.text, level: event.level ? fill(texts.level, event) : "" };
    count();
  };
  const piece = (part) => {
    if (!part.asked && !part.above) return document.createTextNode(part.text);
    const made = element(part.asked ? "b" : "span", part.text, `${part.asked ? "asked" : ""} ${part.above ? "above" : ""}`.trim());
    if (part.above) {
      const level = element("sub", part.above);
      level.title = fill(texts.above, { level: part.above });
      made.append(level);
    }
    return made;
  };
  const answered = (event) => {
    const column = answers.columns[event.column];
    if (event.level) {
      $("table").querySelectorAll("thead .mean")[event.column].textContent = fill(texts.level, event);
    }
    for (const [row, cells] of answers.cells.entries()) {
      if (!cells[event.column]) place({ row, column: event.column }).replaceChildren(element("p", texts.missing, "remark"));
    }
    if (event.cut || !event.kept) {
      const note = element("details");
      const why = event.cut ? texts.cut : texts.format;
      note.append(element("summary", `${title(column)}: ${why} ${texts.whole}`));
      const whole = element("pre", event.text);
      whole.tabIndex = 0;
      whole.lang = "en";
      note.append(whole);
      $("notes").append(note);
    }
  };
  const counts = () => ({
    done: answers.cells.flat().filter(Boolean).length,
    all: answers.words.length * answers.columns.length,
  });
  const count = () => {
    const now = counts();
    $("progress").max = now.all;
    $("progress").value = now.done;
    $("counted").textContent = fill(texts.progress, now);
  };

  // The stream

  const on = {
    waiting: (event) => { $("status").textContent = fill(texts.waiting, { n: event.before }); },
    failed: (event) => problem(event.message),
    began: begin,
    beginning,
    sentence,
    answer: answered,
  };
  const lines = async function* (body) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      yield* parts;
    }
  };
  const read = async (signal) => {
    const answer = await fetch(address("/write"), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(request()),
      signal,
    });
    if (!answer.ok) {
      problem(answer.status === 422 ? (await answer.json()).message : texts.lost);
      return;
    }
    for await (const line of lines(answer.body)) {
      const event = JSON.parse(line);
      on[event.kind]?.(event);
    }
    if (answers && $("problem").hidden) $("status").textContent = fill(texts.done, counts());
  };
  $("ask").addEventListener("submit", async (submitted) => {
    submitted.preventDefault();
    if (reading) return;
    reading = new AbortController();
    problem("");
    $("status").textContent = "";
    answers = null;
    busy(true);
    try {
      await read(reading.signal);
    } catch (error) {
      if (error.name === "AbortError") $("status").textContent = texts.stopped;
      else problem(texts.lost);
    } finally {
      reading = null;
      busy(false);
      $("take").hidden = !answers || !counts().done;
    }
  });
  $("stop").addEventListener("click", () => reading?.abort());

  // What the reader takes away

  const sheet = () => ({
    columns: answers.columns.map((column) => `${title(column)} (${about(column)})`),
    words: answers.words,
    rows: answers.cells.map((row) => row.map((cell) => cell ?? { text: "", level: "" })),
  });
  $("copy").hidden = !navigator.clipboard;
  $("copy").addEventListener("click", async () => {
    const { columns, words, rows } = sheet();
    const table = [[texts.word, ...columns], ...rows.map((row, n) => [words[n], ...row.map((cell) => cell.text)])];
    const plain = (text) => text.replace(/\s+/g, " ");
    await navigator.clipboard.writeText(table.map((row) => row.map(plain).join("\t")).join("\n"));
    $("status").textContent = texts.copied;
  });
  for (const button of document.querySelectorAll("[data-kind]")) {
    button.addEventListener("click", async () => {
      const answer = await fetch(address("/download"), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ kind: button.dataset.kind, ...sheet() }),
      });
      if (!answer.ok) {
        problem(texts.lost);
        return;
      }
      const link = element("a");
      link.href = URL.createObjectURL(await answer.blob());
      link.download = `sentences.${button.dataset.kind}`;
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
})();
