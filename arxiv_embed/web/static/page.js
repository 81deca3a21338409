// What is better with a script: results replaced without a reload, and the keyboard. Everything works without it.
"use strict";

(() => {
  const form = document.getElementById("form");
  const box = document.getElementById("q");
  const results = document.getElementById("results");
  const status = document.getElementById("status");
  const keys = document.getElementById("keys");
  const parser = new DOMParser();
  let underway = null;

  // Pages

  function addressOf(form) {
    const given = new URLSearchParams();
    for (const [name, value] of new FormData(form)) {
      if (value.trim()) given.append(name, value);
    }
    if (given.has("q")) given.delete("like");
    return given.size ? `/?${given}` : "/";
  }

  async function show(address, { push, focus }) {
    underway?.abort();
    const request = (underway = new AbortController());
    document.body.classList.add("loading");
    results.setAttribute("aria-busy", "true");
    let page;
    try {
      const answer = await fetch(address, { signal: request.signal, headers: { accept: "text/html" } });
      page = parser.parseFromString(await answer.text(), "text/html");
      if (!page.getElementById("results")) throw new Error("no page");
    } catch (error) {
      if (error.name === "AbortError") return;
      location.assign(address); // the browser says better what is wrong
      return;
    }
    if (push && address !== location.pathname + location.search) history.pushState(null, "", address);
    document.title = page.title;
    results.replaceChildren(...page.getElementById("results").childNodes);
    fill(page);
    status.textContent = page.getElementById("status").textContent;
    document.body.classList.remove("loading");
    results.removeAttribute("aria-busy");
    if (push) scrollTo(0, 0);
    if (focus) results.focus({ preventScroll: true });
  }

  // The form as the page's answer has it, but for the box that is being typed in.
  function fill(page) {
    const theirs = page.getElementById("form");
    form.querySelector("input[name=like]")?.remove();
    const like = theirs.querySelector("input[name=like]");
    if (like) form.prepend(like);
    box.required = theirs.elements.q.required;
    box.placeholder = theirs.elements.q.placeholder;
    for (const name of ["q", "category", "since", "until", "withdrawn", "k"]) {
      form.elements[name].value = theirs.elements[name].value;
    }
    if (theirs.querySelector("details").open) form.querySelector("details").open = true;
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    show(addressOf(form), { push: true });
  });

  form.addEventListener("change", (event) => {
    if (event.target === box || !form.reportValidity()) return;
    if (box.value.trim() || form.querySelector("input[name=like]")) show(addressOf(form), { push: true });
  });

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-soft]");
    if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    event.preventDefault();
    show(link.pathname + link.search, { push: true, focus: true });
  });

  addEventListener("popstate", () => show(location.pathname + location.search, { push: false }));

  // Keys

  const titles = () => [...results.querySelectorAll(".title")];
  const hit = () => document.activeElement?.closest(".hit");

  function move(step) {
    const all = titles();
    const now = all.findIndex((title) => title.closest(".hit") === hit());
    const next = all[now < 0 ? (step > 0 ? 0 : all.length - 1) : now + step];
    if (next) {
      next.focus({ preventScroll: true });
      next.closest(".hit").scrollIntoView({ block: "nearest" });
    } else if (now === 0 && step < 0) {
      box.focus();
    }
  }

  const actions = {
    "/": () => {
      box.focus();
      box.select();
    },
    "?": () => keys.showModal(),
    j: () => move(1),
    k: () => move(-1),
    ArrowDown: () => move(1),
    ArrowUp: () => move(-1),
    m: () => hit()?.querySelector(".similar").click(),
    Escape: () => document.activeElement?.blur(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || keys.open) return;
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action) return;
    const writing = event.target.closest?.("input, select, textarea");
    const leaves = event.key === "Escape" || (event.target === box && event.key === "ArrowDown");
    if (writing && !leaves) return;
    if (event.key.startsWith("Arrow") && !titles().length) return; // there the page scrolls
    if (event.key !== "Escape") event.preventDefault();
    action();
  });

  const button = document.getElementById("keys-button");
  button.hidden = false;
  button.addEventListener("click", () => keys.showModal());
})();
