// A profile from what a person says of themselves, with what was not understood.

import { element, find, number, percent } from "./element.js";
import { ask } from "./api.js";
import { key } from "./colours.js";
import { loadBelief } from "./belief.js";
import { parsed, setProfile } from "./controls.js";
import { attempt } from "./notice.js";
import { named, path } from "./person.js";

const MAYBE = 0.3; // confidence from which a dimension is worth a mention

export function watchSentence() {
  find("understand").addEventListener("click", () => attempt(find("understand"), understand));
  find("sentence").addEventListener("keydown", event => {
    if (event.key === "Enter") find("understand").click();
  });
}

async function understand() {
  if (!named()) return;
  show(element("p", { class: "muted" }, "Reading … the first time takes some seconds."));
  const text = find("sentence").value;
  try {
    show(...heard(await ask("POST", path("/sentence"), { text }), text));
  } catch (error) {
    show();
    throw error;
  }
}

async function learnFrom(text) {
  if (!named()) return;
  const { saved } = await ask("POST", path("/sentence"), { text, save: true });
  if (saved) find("person-says").textContent = "Learning starts from your sentence, which is your profile until then.";
  await loadBelief();
}

const show = (...found) => find("understood").replaceChildren(...found);

function heard({ profile, dimensions, not_understood: lost, uncertain }, text) {
  const found = Object.entries(dimensions).filter(([, { weight }]) => weight > 0);
  const lines = found.map(([name, { weight, confidence }]) =>
    element("li", {}, key(name), `${name} ${number(weight)}, ${percent(confidence)} confident`));
  const use = element("button", { type: "button", id: "use-sentence", onclick: () => setProfile(...parsed(profile)) },
    "Put it on the sliders");
  const start = element("button", { type: "button", id: "start-sentence",
    onclick: event => attempt(event.currentTarget, () => learnFrom(text)) }, "Start learning from it");
  const doubts = Object.entries(dimensions).filter(([, { weight, confidence }]) => !weight && confidence >= MAYBE)
    .map(([name, { confidence }]) => `${name} (${percent(confidence)})`);
  const nothing = element("p", {}, "Nothing in it is about what this band can do.");
  return [
    found.length ? element("ul", { class: "plain" }, ...lines) : nothing,
    ...listed("Perhaps meant, but too unsure to use", doubts),
    ...listed("Uncertain", uncertain.map(quoted)),
    ...listed("Not understood", lost.map(quoted)),
    ...(profile ? [use, start] : []),
  ];
}

const quoted = text => `“${text}”`;

function listed(what, parts) {
  return parts.length ? [element("p", {}, `${what}: ${parts.join(", ")}.`)] : [];
}
