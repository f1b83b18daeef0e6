// Send, stream, stop: one answer, or two side by side.

import { find } from "./element.js";
import { stream } from "./api.js";
import { Answer } from "./answer.js";
import { needKey } from "./notice.js";
import { body, messages, models } from "./request.js";
import { settings } from "./controls.js";

const SEEDS = 2 ** 31;

// Stream an answer of each model asked for until the end, or until `signal`; resolves to those that came to an end.
export async function askAll(signal) {
  const asked = models();
  const prompt = messages();
  const seed = settings().seed ?? Math.floor(Math.random() * SEEDS);
  const titles = asked.map((model, place) => asked.length > 1 ? `${"AB"[place]}: ${methodOf(model)}` : methodOf(model));
  const answers = titles.map(title => new Answer(title));
  find("answers").className = asked.length > 1 ? "pair" : "";
  find("answers").replaceChildren(...answers.map(answer => answer.card));
  const ended = await Promise.all(answers.map((answer, place) => run(answer, body(asked[place], seed), signal)));
  return answers.map(({ text }, place) => ({ messages: prompt, text, model: asked[place] }))
    .filter((_, place) => ended[place]);
}

export const methodOf = model => model.split(":")[0];

async function run(answer, asked, signal) {
  const started = performance.now();
  try {
    const traced = { ...asked, trace: true, stream_options: { include_usage: true } };
    for await (const event of stream("/v1/chat/completions", traced, signal)) answer.take(event);
  } catch (error) {
    if (error.name !== "AbortError") {
      answer.fail(error.message);
      if (error.status === 401) needKey();
      return false;
    }
  }
  answer.end(asked.seed, (performance.now() - started) / 1000, signal.aborted);
  return !signal.aborted;
}
