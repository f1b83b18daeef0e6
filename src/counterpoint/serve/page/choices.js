// Blind choices: two answers, a choice, what it says of the person, and only then what the answers were.

import { element, find } from "./element.js";
import { ask } from "./api.js";
import { showBelief } from "./belief.js";
import { settings } from "./controls.js";
import { tell } from "./notice.js";
import { named, path } from "./person.js";
import { messages } from "./request.js";

const KEYS = { a: "a", b: "b", t: "tie" };

let pending = null; // the pair that waits for a choice

export function watchChoices() {
  for (const choice of Object.values(KEYS)) find(`choose-${choice}`).addEventListener("click", () => choose(choice));
  document.addEventListener("keydown", event => {
    const typing = event.target.matches("input, textarea, select") || event.ctrlKey || event.metaKey || event.altKey;
    const choice = KEYS[event.key.toLowerCase()];
    if (choice && !typing && pending !== null && !find("choose").hidden) choose(choice);
  });
}

export async function showPair(signal) {
  if (!named()) return;
  const { method, mostTokens } = settings();
  offer(null);
  find("revealed").replaceChildren();
  show(element("p", { class: "muted" }, "Two answers are being written …"));
  try {
    const asked = { messages: messages(), method, max_tokens: mostTokens };
    const { pair, a, b } = await ask("POST", path("/pair"), asked, signal);
    show(blind("A", a), blind("B", b));
    offer(pair);
  } catch (error) {
    show();
    throw error;
  }
}

const show = (...found) => find("pair").replaceChildren(...found);

function blind(letter, text) {
  return element("article", { class: "blind", "aria-label": `Answer ${letter}` },
    element("h3", {}, letter), element("p", { class: "text" }, text));
}

function offer(pair) {
  pending = pair;
  document.querySelector(".choices").hidden = pair === null;
}

// The pair's own id is that of the feedback as well: however often it is sent, it counts once.
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
  const were = revealed ? ` A was made with ${revealed.a || "the base"}, B with ${revealed.b || "the base"}.` : "";
  const words = `${chosen}${were} You may change the prompt before the next pair.`;
  const next = element("button", { type: "button", id: "next", onclick: () => find("send").click() }, "Next pair");
  find("revealed").replaceChildren(element("p", { role: "status" }, words), next);
  next.focus({ preventScroll: true });
}
