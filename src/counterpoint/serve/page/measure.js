// What a prompt's answers are worth on average: those of the base, of each expert alone, and of the profile at hand.

import { find } from "./element.js";
import { ask } from "./api.js";
import { body, messages, modelName } from "./request.js";
import { settings } from "./controls.js";

const ANSWERS = 8;

// Rewards by dimension of each response.
export async function score(asked, responses) {
  const { dimensions, scores } = await ask("POST", "/v1/score", { messages: asked, responses });
  return scores.map(row => Object.fromEntries(dimensions.map((name, place) => [name, row[place]])));
}

// Yields one point after the other, the profile at hand first.
export async function* measure(band) {
  const asked = messages();
  if (!asked[0].content.trim()) throw new Error("Write a prompt first: its answers are what is measured.");
  const { method, strength } = settings();
  const corners = [...new Set(band.experts.map(({ dimension }) => dimension))];
  const ways = [["you", modelName(method, strength)], ["base", "base"], ...corners.map(name => [name, `${method}:${name}=1,strength=${strength}`])];
  for (const [place, [label, model]] of ways.entries()) {
    find("measure-says").textContent = `Answering as ${label}, ${place + 1} of ${ways.length} …`;
    yield { label, rewards: mean(await score(asked, await answers(model))) };
  }
  find("measure-says").textContent = `${ANSWERS} answers each to “${asked[0].content}”.`;
}

async function answers(model) {
  const { choices } = await ask("POST", "/v1/chat/completions", { ...body(model, settings().seed), n: ANSWERS });
  return choices.map(choice => choice.message.content);
}

const mean = all => Object.fromEntries(Object.keys(all[0]).map(name => [name, all.reduce((sum, rewards) => sum + rewards[name], 0) / all.length]));
