// The page: it learns what the band offers, then waits for a person.

import { find } from "./element.js";
import { ask, rememberKey } from "./api.js";
import { askAll } from "./asking.js";
import { loadBelief } from "./belief.js";
import { showPair, watchChoices } from "./choices.js";
import { nameExperts } from "./colours.js";
import { buildControls } from "./controls.js";
import { clear, tell } from "./notice.js";
import { watchPerson } from "./person.js";
import { buildPicture, place } from "./picture.js";
import { offerCopies, showRequest } from "./request.js";
import { needPrompt, run, watchStop } from "./running.js";
import { watchSentence } from "./sentence.js";
import { watchTheme } from "./theme.js";

watchTheme(() => document.dispatchEvent(new Event("wanted")));
watchKey();
await start();

async function start() {
  try {
    build(await ask("GET", "/v1/band"));
  } catch (error) {
    tell(error);
  }
}

function build(band) {
  nameExperts(band.experts);
  document.addEventListener("wanted", showRequest);
  buildPicture(band);
  buildControls(band);
  const parts = [watchPrompt, watchStop, watchTabs, watchPerson, watchChoices, watchSentence, offerCopies];
  for (const watch of parts) watch();
  const amount = `${band.experts.length} experts for ${band.dimensions.length} dimensions`;
  find("about").textContent = `${amount}, one model for each person.`;
  document.body.dataset.ready = "true";
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
  find("prompt").addEventListener("input", showRequest);
  find("send").addEventListener("click", send);
  find("prompt").addEventListener("keydown", event => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
}

async function send() {
  if (needPrompt() === null) return;
  await run(find("send"), find("ask").hidden ? showPair : async signal => place(await askAll(signal)));
}

function watchTabs() {
  const tabs = [find("tab-ask"), find("tab-choose")];
  for (const [at, tab] of tabs.entries()) {
    tab.addEventListener("click", () => open(tab, tabs));
    tab.addEventListener("keydown", event => {
      if (event.key !== "ArrowRight" && event.key !== "ArrowLeft") return;
      open(tabs[1 - at], tabs);
      tabs[1 - at].focus();
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
