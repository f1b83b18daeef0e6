// The request that the controls stand for, as it is sent and as a developer would write it.

import { find } from "./element.js";
import { hasKey } from "./api.js";
import { profile, settings } from "./controls.js";

// METHOD:PROFILE, as any OpenAI client may name it; weights of 0 say nothing, so that none is the server's default.
export function modelName(method, strength, weights = profile()) {
  const entries = Object.entries(weights).map(([name, weight]) => `${name}=${weight}`);
  if (method === "base" || !entries.length) return method;
  if (strength !== 1) entries.push(`strength=${strength}`);
  return `${method}:${entries.join(",")}`;
}

export function models() {
  const { method, strength, second, secondStrength } = settings();
  const first = modelName(method, strength);
  return second === null ? [first] : [first, modelName(second, secondStrength)];
}

export const messages = () => [{ role: "user", content: find("prompt").value }];

export function body(model, seed) {
  const { temperature, mostTokens } = settings();
  return { model, messages: messages(), temperature, max_tokens: mostTokens, ...(seed === null ? {} : { seed }) };
}

export function showRequest() {
  const [model] = models();
  const asked = body(model, settings().seed);
  if (!asked.messages[0].content) asked.messages[0].content = "Hello";
  find("model").textContent = model;
  find("curl").textContent = asCurl(asked);
  find("python").textContent = asPython(asked);
}

function asCurl(asked) {
  const json = JSON.stringify(asked, null, 1).replaceAll("'", "'\\''");
  const key = hasKey() ? "  -H 'Authorization: Bearer YOUR KEY' \\\n" : "";
  const begin = `curl ${location.origin}/v1/chat/completions \\\n  -H 'Content-Type: application/json' \\\n`;
  return `${begin}${key}  -d '${json}'`;
}

function asPython({ messages, ...rest }) {
  const lines = Object.entries(rest).map(([name, value]) => `    ${name}=${JSON.stringify(value)},\n`);
  return `from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key="${hasKey() ? "YOUR KEY" : "none"}")
answer = client.chat.completions.create(
${lines.join("")}    messages=[{"role": "user", "content": ${JSON.stringify(messages[0].content)}}],
)
print(answer.choices[0].message.content)`;
}

export function offerCopies() {
  for (const id of ["model", "curl", "python"]) {
    find(`copy-${id}`).addEventListener("click", async () => {
      const written = navigator.clipboard?.writeText(find(id).textContent); // none where the page came without TLS
      const done = await written?.then(() => true, () => false);
      find("copied").textContent = done ? "Copied." : "The browser does not allow copying; select the text instead.";
    });
  }
}
