"use strict";
// Keeps what changes of a page up to date while something does. The page is whole without it.
(() => {
  const SECONDS = 5;
  const follow = document.getElementById("follow");
  if (!follow) return;
  follow.hidden = false;
  const wanted = follow.querySelector("input");

  const inUse = (live) => live.contains(document.activeElement) || live.querySelector("input:checked") !== null;
  const look = async () => {
    const live = document.getElementById("live");
    if (!wanted.checked || document.hidden || inUse(live)) return;
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const scrolled = live.querySelector(".wide, .log")?.scrollTop ?? 0;
    const news = page.getElementById("live");
    if (!news || inUse(live)) return;
    live.replaceWith(news);
    const scrolls = news.querySelector(".wide, .log");
    if (scrolls) scrolls.scrollTop = scrolled;
  };
  setInterval(() => look().catch(() => {}), 1000 * SECONDS); // a server that is away may come back
})();
