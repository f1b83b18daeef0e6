// Blind choices: two answers, a choice, what it says of the person, and only then what the answers were.

import { element, find, number, percent } from "./element.js";
import { ask } from "./api.js";
import { attempt, tell } from "./notice.js";
import { key } from "./colours.js";
import { messages } from "./request.js";
import { parsed, setProfile, settings } from "./controls.js";
import { named, path } from "./person.js";

let pending = null;

export function watchChoices() {
  for (const choice of ["a", "b", "tie"]) find(`choose-${choice}`).addEventListener("click", () => choose(choice));
  document.addEventListener("keydown", byKey);
  find("understand").addEventListener("click", () => attempt(find("understand"), understand));
  find("sentence").addEventListener("keydown", event => { if (event.key === "Enter") find("understand").click(); });
}

export async function showPair(signal) {
  if (!named()) return;
  const { method, mostTokens } = settings();
  offer(null);
  find("revealed").replaceChildren();
  find("pair").replaceChildren(element("p", { class: "muted" }, "Two answers are being written …"));
  try {
    const found = await ask("POST", path("/pair"), { messages: messages(), method, max_tokens: mostTokens }, signal);
    find("pair").replaceChildren(blind("A", found.a), blind("B", found.b));
    offer(found.pair);
  } catch (error) {
    find("pair").replaceChildren();
    throw error;
  }
}

const blind = (letter, text) =>
  element("article", { class: "blind", "aria-label": `Answer ${letter}` }, element("h3", {}, letter), element("p", { class: "text" }, text));

function offer(pair) {
  pending = pair;
  document.querySelector(".choices").hidden = pair === null;
}

function byKey(event) {
  const choice = { a: "a", b: "b", t: "tie" }[event.key.toLowerCase()];
  const typing = event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey;
  if (choice && pending !== null && !typing && !find("choose").hidden) choose(choice);
}

async function choose(choice) {
  const pair = pending;
  offer(null);
  try {
    const told = await ask("POST", "/v1/feedback", { user: settings().user, id: pair, pair, choice });
    showBelief(told.belief);
    reveal(choice, told.revealed);
  } catch (error) {
    offer(pair);
    tell(error);
  }
}

function reveal(choice, revealed) {
  const chosen = choice === "tie" ? "You saw no difference." : `You chose ${choice.toUpperCase()}.`;
  const were = revealed ? ` A was made for ${revealed.a.profile}, B for ${revealed.b.profile}.` : "";
  const next = element("button", { type: "button", id: "next", onclick: () => find("send").click() }, "Next pair");
  find("revealed").replaceChildren(
    element("p", { role: "status" }, `${chosen}${were} You may change the prompt before the next pair.`), next);
  next.focus({ preventScroll: true });
}

export async function loadBelief() {
  const name = settings().user;
  if (!name) return;
  try {
    showBelief(await ask("GET", path("/belief")));
  } catch (error) {
    if (error.status !== 404) tell(error);
  }
}

function showBelief(belief) {
  const bars = Object.entries(belief.dimensions);
  const low = Math.min(0, ...bars.map(([, { low }]) => low));
  const high = Math.max(0, ...bars.map(([, { high }]) => high));
  const button = element("button", { type: "button", id: "use", disabled: !belief.choices || !belief.profile, onclick: () => use(belief) }, "Use this profile");
  find("belief").replaceChildren(
    element("p", {}, verdict(belief)),
    element("ul", { class: "bars" }, ...bars.map(([name, one]) => bar(name, one, low, high))),
    element("p", { class: "muted" }, "A bar is how much more you are believed to like an answer for it, the line the range in which it lies with 90 % probability."),
    element("div", { class: "line" }, button, element("code", { class: "grow" }, belief.choices ? belief.profile ?? "" : "")));
}

function verdict({ choices, sure, settled }) {
  const amount = `${choices} choice${choices === 1 ? "" : "s"}`;
  if (!choices) return "No choices yet; this is where everybody starts.";
  const how = `${percent(sure)} sure that this profile suits you about as well as any could, after ${amount}.`;
  return settled ? `Settled: ${how}` : `Not settled: ${how} More choices will tell.`;
}

function bar(name, { weight, low, high }, from, to) {
  const at = value => 100 * (value - from) / (to - from);
  const fill = element("i", { class: "fill" });
  fill.style.left = `${at(Math.min(0, weight))}%`;
  fill.style.width = `${Math.abs(at(weight) - at(0))}%`;
  const whisker = element("i", { class: "whisker" });
  whisker.style.left = `${at(low)}%`;
  whisker.style.width = `${at(high) - at(low)}%`;
  return element("li", {}, element("span", {}, key(name), name),
    element("span", { class: "track", "aria-hidden": "true" }, fill, whisker),
    element("span", { class: "figures" }, `${number(weight)} (${number(low)} to ${number(high)})`));
}

function use(belief) {
  setProfile(...parsed(belief.profile));
  find("tab-ask").click();
}

async function understand() {
  if (!named()) return;
  const told = await ask("POST", path("/sentence"), { text: find("sentence").value });
  const found = Object.entries(told.dimensions).filter(([, { weight }]) => weight > 0);
  const lines = found.map(([name, { weight, confidence }]) =>
    element("li", {}, key(name), `${name} ${number(weight)}, ${percent(confidence)} confident`));
  const quoted = clauses => (clauses ?? []).map(clause => `“${clause}”`).join(", ");
  const [lost, doubtful] = [quoted(told.not_understood), quoted(told.uncertain)];
  find("understood").replaceChildren(
    found.length ? element("ul", { class: "plain" }, ...lines) : element("p", {}, "Nothing in it is about what this band can do."),
    ...(doubtful ? [element("p", {}, `Uncertain: ${doubtful}.`)] : []),
    ...(lost ? [element("p", {}, `Not understood: ${lost}.`)] : []),
    ...(told.profile ? [element("button", { type: "button", id: "use-sentence", onclick: () => setProfile(...parsed(told.profile)) }, "Put it on the sliders")] : []));
}
