// What is believed of a person: bars with intervals, how sure, and a profile to use.

import { element, find, number, percent } from "./element.js";
import { ask } from "./api.js";
import { key } from "./colours.js";
import { parsed, setProfile, settings } from "./controls.js";
import { tell } from "./notice.js";
import { path } from "./person.js";

const LEGEND = "A bar is how much more you are believed to like an answer for it, the line the range in which that " +
  "lies with 90 % probability.";

export async function loadBelief() {
  if (settings().user) await ask("GET", path("/belief")).then(showBelief, tell);
}

export function showBelief(belief) {
  const { choices, profile } = belief;
  const button = element("button", { type: "button", id: "use", disabled: !profile, onclick: use(profile) },
    "Use this profile");
  const told = profile ?? (choices ? "none yet: no choice speaks for a dimension" : "");
  find("belief").replaceChildren(
    element("p", {}, verdict(belief)),
    bars(Object.entries(belief.dimensions)),
    element("p", { class: "muted" }, LEGEND),
    element("div", { class: "line" }, button, element("code", { class: "grow" }, told)));
}

const use = profile => () => {
  setProfile(...parsed(profile));
  find("tab-ask").click();
};

function verdict({ choices, sure, settled, profile }) {
  if (!choices) return `No choices yet; this is ${profile ? "what your sentence says" : "where everybody starts"}.`;
  const amount = `${choices} choice${choices === 1 ? "" : "s"}`;
  const how = `${percent(sure)} sure that this profile suits you about as well as any could, after ${amount}.`;
  return settled ? `Settled: ${how}` : `Not settled: ${how} More choices will tell.`;
}

function bars(weights) {
  const from = Math.min(0, ...weights.map(([, { low }]) => low));
  const to = Math.max(0, ...weights.map(([, { high }]) => high));
  const at = value => 100 * (value - from) / (to - from || 1);
  return element("ul", { class: "bars" }, ...weights.map(([name, one]) => bar(name, one, at)));
}

function bar(name, { weight, low, high }, at) {
  const figures = `${number(weight)} (${number(low)} to ${number(high)})`;
  return element("li", {}, element("span", {}, key(name), name),
    element("span", { class: "track", "aria-hidden": "true" },
      stretch("fill", at(Math.min(0, weight)), at(Math.max(0, weight))), stretch("whisker", at(low), at(high))),
    element("span", { class: "figures" }, figures));
}

function stretch(kind, from, to) {
  const made = element("i", { class: kind });
  made.style.left = `${from}%`;
  made.style.width = `${to - from}%`;
  return made;
}
