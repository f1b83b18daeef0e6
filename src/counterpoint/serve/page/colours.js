// Which colour an expert has, everywhere on the page; the base is grey.

import { element, percent } from "./element.js";

export const BASE = "base";

const SERIES = 7; // colours to be told apart, also by the colour-blind; an eighth expert has the first one's again

let experts = [];

export const nameExperts = found => { experts = found; };

// A gate's shares are of its groups, which are named after dimensions.
const placeOf = name => experts.findIndex(expert => expert.name === name || expert.dimension === name);

// In the order of the experts, so that the same one is at the same end of every token; the base comes last.
export const inOrder = names => [...names].sort((one, other) => (placeOf(one) >>> 0) - (placeOf(other) >>> 0));

export function variable(name) {
  const place = placeOf(name);
  return place < 0 ? "--base" : `--c${place % SERIES}`;
}

export function key(name) {
  const square = element("i", { class: "key", "aria-hidden": "true" });
  square.style.background = `var(${variable(name)})`;
  return square;
}

// Who had a share, largest first, as [name, share of one].
export function ranked(credit) {
  const positive = Object.entries(credit).filter(([, share]) => share > 0);
  const total = positive.reduce((sum, [, share]) => sum + share, 0);
  return positive.map(([name, share]) => [name, share / total]).sort((one, other) => other[1] - one[1]);
}

export const inWords = shares =>
  shares.filter(([, share]) => share >= 0.005).map(([name, share]) => `${name} ${percent(share)}`).join(", ");
