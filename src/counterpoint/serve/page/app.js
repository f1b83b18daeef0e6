// The page: it learns what the band offers, then waits for a person.

import { find } from "./element.js";
import { ask, rememberKey } from "./api.js";
import { askAll } from "./asking.js";
import { loadBelief, showPair, watchChoices } from "./choices.js";
import { nameExperts } from "./colours.js";
import { buildControls } from "./controls.js";
import { attempt, clear, tell } from "./notice.js";
import { watchPerson } from "./person.js";
import { buildPicture, place } from "./picture.js";
import { offerCopies, showRequest } from "./request.js";
import { hide } from "./shares.js";
import { watchTheme } from "./theme.js";

let running = null;

watchTheme(() => document.dispatchEvent(new Event("wanted")));
watchKey();
await start();

async function start() {
  try {
    const band = await ask("GET", "/v1/band");
    nameExperts(band.experts);
    document.addEventListener("wanted", showRequest);
    find("prompt").addEventListener("input", showRequest);
    buildPicture(band);
    buildControls(band);
    watchPrompt();
    watchTabs();
    watchPerson();
    watchChoices();
    offerCopies();
    find("about").textContent = `${band.experts.length} experts for ${band.dimensions.length} dimensions, one model for each person.`;
    document.body.dataset.ready = "true";
  } catch (error) {
    tell(error);
  }
}

function watchKey() {
  find("key-form").addEventListener("submit", event => {
    event.preventDefault();
    rememberKey(find("key").value);
    find("key-card").hidden = true;
    clear();
    if (!document.body.dataset.ready) start();
  });
}

function watchPrompt() {
  find("send").addEventListener("click", send);
  find("stop").addEventListener("click", stop);
  find("prompt").addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", event => {
    if (event.key === "Escape") { hide(); stop(); }
  });
}

async function send() {
  if (running) return;
  if (!find("prompt").value.trim()) {
    find("status").textContent = "Write a prompt first.";
    find("prompt").focus();
    return;
  }
  running = new AbortController();
  find("stop").disabled = false;
  find("status").textContent = "Answering …";
  await attempt(find("send"), () => find("ask").hidden ? showPair(running.signal) : answer(running.signal));
  find("status").textContent = running.signal.aborted ? "Stopped." : "";
  find("stop").disabled = true;
  running = null;
}

async function answer(signal) {
  await place(await askAll(signal));
}

function stop() {
  running?.abort();
}

function watchTabs() {
  const tabs = [find("tab-ask"), find("tab-choose")];
  for (const tab of tabs) {
    tab.addEventListener("click", () => open(tab, tabs));
    tab.addEventListener("keydown", event => {
      if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
      const other = tabs[1 - tabs.indexOf(tab)];
      open(other, tabs);
      other.focus();
    });
  }
}

function open(tab, tabs) {
  for (const one of tabs) {
    one.setAttribute("aria-selected", one === tab);
    one.tabIndex = one === tab ? 0 : -1;
    find(one.getAttribute("aria-controls")).hidden = one !== tab;
  }
  if (tab.id === "tab-choose") loadBelief();
}
