// One answer as it grows: each token in the colours of those whose it was.

import { element, number, percent } from "./element.js";
import { BASE, inOrder, inWords, key, ranked, variable } from "./colours.js";
import { offerShares } from "./shares.js";

const BLENDS = ["soup", "moe"];

export class Answer {
  constructor(title) {
    this.text = "";
    this.tokens = 0;
    this._placed = 0; // characters of the text that have a colour
    this._waiting = []; // tokens whose text has not come yet
    this._sum = {};
    this._rest = document.createTextNode("");
    const help = "Answer by token; arrow keys go from one to the next";
    this._said = element("div", { class: "said", role: "group", "aria-label": help }, this._rest);
    this._legend = element("ul", { class: "legend", "aria-label": "Whose tokens these are, on average" });
    this._facts = element("p", { class: "muted facts" });
    this.card = element("section", { class: "card answer", "aria-label": title, "aria-busy": "true" },
      element("h2", {}, title), this._legend, this._said, this._facts);
    offerShares(this._said);
  }

  // Take in one event of the stream.
  take(event) {
    if (event.counterpoint) this._made = event.counterpoint;
    if (event.usage) this.tokens = event.usage.completion_tokens;
    const choice = event.choices[0];
    if (!choice) return;
    this.text += choice.delta.content ?? "";
    this._waiting.push(...(choice.trace ?? []));
    this._finish = choice.finish_reason ?? this._finish;
    this._colour();
  }

  // Tokens are coloured as far as the text has come: what may be a stop string is held back, its tokens are not.
  _colour() {
    const before = this._placed;
    while (this._waiting.length && this.text.startsWith(this._waiting[0].token, this._placed)) {
      const { token, credit } = this._waiting.shift();
      this._placed += token.length;
      this._count(credit);
      if (token) this._rest.before(span(token, ranked(credit)));
    }
    this._rest.data = this.text.slice(this._placed);
    if (this._placed > before) this._showLegend();
  }

  _count(credit) {
    for (const [name, share] of ranked(credit)) this._sum[name] = (this._sum[name] ?? 0) + share;
  }

  _showLegend() {
    const total = Object.values(this._sum).reduce((sum, share) => sum + share, 0);
    this._legend.replaceChildren(...inOrder(Object.keys(this._sum)).map(name =>
      element("li", {}, key(name), `${name} `, element("span", { class: "muted" }, percent(this._sum[name] / total)))));
  }

  // Say how it ended, and how it was made.
  end(seed, seconds, stopped = false) {
    this.card.setAttribute("aria-busy", "false");
    if (this._said.firstElementChild) this._said.firstElementChild.tabIndex = 0;
    if (!this.text) this._rest.data = stopped ? "" : "(an empty answer)";
    const why = stopped ? "stopped by you" : this._finish === "length" ? "cut at the most tokens" : "ended by itself";
    const amount = this.tokens ? `${this.tokens} tokens in ${number(seconds, 1)} s, ` : "";
    this._facts.textContent = `${amount}${why}; seed ${seed}. ${inForce(this._made)}${this._alike()}`;
  }

  // Where experts are blended before anything is said, colours tell of the blend and not of the token.
  _alike() {
    return BLENDS.includes(this._made?.method) && Object.keys(this._sum).length > 1
      ? " This method blends experts before it speaks: every token has the same shares."
      : "";
  }

  fail(message) {
    this.card.setAttribute("aria-busy", "false");
    this._said.classList.toggle("nothing", !this.text);
    this.card.append(element("p", { class: "wrong", role: "alert" }, message));
  }
}

function span(token, shares) {
  const shown = token.replaceAll("\n", "↵\n");
  const made = element("span", { class: "token", tabIndex: -1, "data-shares": inWords(shares) }, shown);
  made.style.backgroundImage = `linear-gradient(to right, ${stops(shares).join(", ")})`;
  const [lead, share] = shares[0] ?? [BASE, 0];
  const tint = lead === BASE ? 0 : 40 * Math.max(0, 2 * share - 1);
  made.style.backgroundColor = `color-mix(in srgb, var(${variable(lead)}) ${tint.toFixed()}%, transparent)`;
  return made;
}

function stops(shares) {
  let from = 0;
  const share = new Map(shares);
  return inOrder(share.keys()).map(name => {
    const to = from + 100 * share.get(name);
    const stop = `var(${variable(name)}) ${from.toFixed(1)}% ${to.toFixed(1)}%`;
    from = to;
    return stop;
  });
}

// The coefficients that reached the model, and which of them an operator's bound moved.
function inForce(made) {
  if (!made) return "";
  const weights = Object.entries(made.weights).map(([name, weight]) => `${name} ${number(weight)}`).join(", ");
  const held = Object.entries(made.bounds).map(([name, bound]) =>
    ` The operator holds ${name} to ${number(bound.in_force)} (asked: ${number(bound.asked)}).`);
  return `In force: ${weights || "the base"}.${held.join("")}`;
}
