// The sliders and settings: built from the band, read whenever something is asked.

import { element, find, number } from "./element.js";
import { key } from "./colours.js";

let band;
let strengthMoved = false;

export function buildControls(found) {
  band = found;
  find("sliders").replaceChildren(...byAxis(band.dimensions).map(group));
  for (const id of ["method", "second"]) find(id).replaceChildren(...band.methods.map(option));
  explainUnavailable();
  find("max-tokens").max = band.most_tokens;
  const able = band.methods.filter(method => method.available).map(method => method.name);
  find("method").value = able.includes(band.default.model) ? band.default.model : able[0];
  find("second").value = able.includes("base") ? "base" : able[0];
  setProfile(...(band.default.profile ? parsed(band.default.profile) : [firstOfEachAxis()]));
  suggestStrengths();
  watchControls();
}

function byAxis(dimensions) {
  const groups = new Map();
  for (const dimension of dimensions) {
    const name = dimension.axis || `alone/${dimension.name}`;
    groups.set(name, [...(groups.get(name) ?? []), dimension]);
  }
  return [...groups.values()];
}

function group(dimensions) {
  const sliders = dimensions.map(slider);
  if (dimensions.length === 1) return sliders[0];
  return element("fieldset", {}, element("legend", {}, dimensions[0].axis), ...sliders);
}

function slider({ name, description }) {
  const id = `weight-${name.replaceAll(" ", "-")}`; // attributes that hold ids part them by spaces
  const range = { type: "range", min: 0, max: 1, step: 0.01, value: 0 };
  const input = element("input", { id, ...range, class: "weight", "data-name": name });
  const told = [description, held(band.bounds[name])].filter(Boolean).join(" ");
  const help = told ? element("p", { class: "muted", id: `${id}-help` }, told) : null;
  if (help) input.setAttribute("aria-describedby", help.id);
  return element("div", { class: "slider" },
    element("label", { htmlFor: id }, key(expertOf(name)), name),
    element("output", { htmlFor: id, id: `${id}-shown` }), input, help);
}

function held(bound) {
  return bound && `Held to ${bound[0]} ${bound[1] === null ? "or more" : `to ${bound[1]}`} by the operator.`;
}

const expertOf = dimension => band.experts.find(expert => expert.dimension === dimension)?.name ?? dimension;

const option = ({ name, available }) =>
  element("option", { value: name, disabled: !available }, available ? name : `${name} (not available)`);

function explainUnavailable() {
  const missing = band.methods.filter(method => !method.available);
  const place = find("unavailable");
  place.hidden = !missing.length;
  place.querySelector("summary").textContent = `${missing.length} not available, and why`;
  place.querySelector("dl").replaceChildren(
    ...missing.flatMap(({ name, why }) => [element("dt", {}, name), element("dd", {}, why)]));
}

const firstOfEachAxis = () =>
  Object.fromEntries(byAxis(band.dimensions).map(dimensions => [dimensions[0].name, 0.5]));

const weights = () => [...document.querySelectorAll(".weight")];

// Put a profile on the sliders; weights are relative, so that those above 1 are scaled to it.
export function setProfile(profile, strength) {
  const most = Math.max(1, ...Object.values(profile));
  for (const input of weights()) input.value = (profile[input.dataset.name] ?? 0) / most;
  if (strength !== undefined) {
    find("strength").value = strength;
    strengthMoved = true;
  }
  say();
}

// A profile as the server writes it, "name=weight, ..., strength=number", as the arguments of `setProfile`.
export function parsed(text) {
  const pairs = text.split(",").map(entry => entry.split("=")).map(([name, weight]) => [name.trim(), Number(weight)]);
  const { strength, ...weights } = Object.fromEntries(pairs);
  return [weights, strength];
}

export function profile() {
  const pairs = weights().map(input => [input.dataset.name, Number(input.value)]);
  return Object.fromEntries(pairs.filter(([, weight]) => weight > 0));
}

export function settings() {
  const seed = find("seed").value;
  return {
    method: find("method").value,
    second: find("compare").checked ? find("second").value : null,
    strength: Number(find("strength").value),
    secondStrength: Number(find("second-strength").value),
    temperature: Number(find("temperature").value),
    mostTokens: Number(find("max-tokens").value),
    seed: seed === "" ? null : Number(seed),
    user: find("user").value.trim(),
  };
}

// What was measured to be best for a method stands until a person moves the slider.
function suggestStrengths() {
  const suggested = id => band.strengths[find(id).value] ?? 1;
  if (!strengthMoved) find("strength").value = suggested("method");
  find("second-strength").value = suggested("second");
  const method = find("method").value;
  find("strength-help").textContent = method in band.strengths
    ? `How far from the base. ${number(band.strengths[method])} did best for ${method} on training prompts.`
    : "How far from the base: 0 is the base itself.";
  say();
}

function watchControls() {
  for (const part of document.querySelectorAll(".controls")) part.addEventListener("input", say);
  find("strength").addEventListener("input", () => { strengthMoved = true; });
  find("method").addEventListener("change", suggestStrengths);
  find("second").addEventListener("change", suggestStrengths);
  find("compare").addEventListener("change", () => { find("second-part").hidden = !find("compare").checked; });
  const even = Object.fromEntries(band.dimensions.map(({ name }) => [name, 0.5]));
  find("even").addEventListener("click", () => setProfile(even));
  find("none").addEventListener("click", () => setProfile({}));
}

// Show each slider's number, and let the rest of the page know.
function say() {
  for (const input of document.querySelectorAll(".controls input[type=range]")) {
    find(`${input.id}-shown`).value = number(Number(input.value));
  }
  document.dispatchEvent(new Event("wanted"));
}
