// A profile from what a person says of themselves, with what was not understood.

import { element, find, number, percent } from "./element.js";
import { ask } from "./api.js";
import { key } from "./colours.js";
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
  try {
    show(...heard(await ask("POST", path("/sentence"), { text: find("sentence").value })));
  } catch (error) {
    show();
    throw error;
  }
}

const show = (...found) => find("understood").replaceChildren(...found);

function heard({ profile, dimensions, not_understood: lost, uncertain }) {
  const found = Object.entries(dimensions).filter(([, { weight }]) => weight > 0);
  const lines = found.map(([name, { weight, confidence }]) =>
    element("li", {}, key(name), `${name} ${number(weight)}, ${percent(confidence)} confident`));
  const use = element("button", { type: "button", id: "use-sentence", onclick: () => setProfile(...parsed(profile)) },
    "Put it on the sliders");
  const doubts = Object.entries(dimensions).filter(([, { weight, confidence }]) => !weight && confidence >= MAYBE)
    .map(([name, { confidence }]) => `${name} (${percent(confidence)})`);
  const nothing = element("p", {}, "Nothing in it is about what this band can do.");
  return [
    found.length ? element("ul", { class: "plain" }, ...lines) : nothing,
    ...listed("Perhaps meant, but too unsure to use", doubts),
    ...listed("Uncertain", uncertain.map(quoted)),
    ...listed("Not understood", lost.map(quoted)),
    ...(profile ? [use] : []),
  ];
}

const quoted = text => `“${text}”`;

function listed(what, parts) {
  return parts.length ? [element("p", {}, `${what}: ${parts.join(", ")}.`)] : [];
}
