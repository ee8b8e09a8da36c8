"use strict";
// Replaces the parts marked data-live by newer ones. Without this script every page works, and lists reload themselves.
const every = Number(document.getElementById("main").dataset.refresh) * 1000;
// The value of a form differs in each answer, and is no news.
const content = (part) => part.innerHTML.replace(/name="csrf" value="[^"]*"/g, "");

async function refresh() {
  const parts = [...document.querySelectorAll("[data-live]")];
  if (document.hidden || !parts.length) return;
  const answer = await fetch(location.href, { cache: "no-store", redirect: "error" });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of parts) {
    const newer = page.getElementById(part.id);
    if (!newer || content(newer) === content(part)) continue;
    const focus = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    part.replaceChildren(...newer.childNodes);
    if (focus) part.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
  }
}

async function keep() {
  await refresh().catch(() => undefined);  // the desk was ended, or the network is slow: try again
  setTimeout(keep, every);
}
if (document.querySelector("main [data-live]")) setTimeout(keep, every);
