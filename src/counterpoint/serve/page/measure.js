// What a prompt's answers are worth on average: those of the profile at hand, of the base, and of each dimension alone.

import { find } from "./element.js";
import { ask } from "./api.js";
import { settings } from "./controls.js";
import { body, messages, modelName } from "./request.js";

const ANSWERS = 8;

// Rewards by dimension of each response.
export async function score(asked, responses, signal) {
  const { dimensions, scores } = await ask("POST", "/v1/score", { messages: asked, responses }, signal);
  return scores.map(row => Object.fromEntries(dimensions.map((name, place) => [name, row[place]])));
}

// Yields one point after the other, the profile at hand first.
export async function* measure(band, signal) {
  const asked = messages();
  const ways = waysToAnswer(band);
  for (const [place, [label, model]] of ways.entries()) {
    find("measure-says").textContent = `Answering as ${label}, ${place + 1} of ${ways.length} …`;
    const wanted = { ...body(model, settings().seed), n: ANSWERS };
    const { choices } = await ask("POST", "/v1/chat/completions", wanted, signal);
    yield { label, rewards: mean(await score(asked, choices.map(choice => choice.message.content), signal)) };
  }
  find("measure-says").textContent = `${ANSWERS} answers each to “${asked[0].content}”.`;
}

function waysToAnswer(band) {
  const { method, strength } = settings();
  const alone = [...new Set(band.experts.map(({ dimension }) => dimension))];
  return [["you", modelName(method, strength)], ["base", "base"],
    ...alone.map(name => [name, modelName(method, strength, { [name]: 1 })])];
}

function mean(all) {
  const average = name => all.reduce((sum, rewards) => sum + rewards[name], 0) / all.length;
  return Object.fromEntries(Object.keys(all[0]).map(name => [name, average(name)]));
}
