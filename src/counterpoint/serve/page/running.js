// What takes a while, one at a time: it can be stopped by the button or by Esc, and says that it is under way.

import { find } from "./element.js";
import { attempt } from "./notice.js";
import { hide } from "./shares.js";

let running = null;

export function watchStop() {
  find("stop").addEventListener("click", stop);
  document.addEventListener("keydown", event => {
    if (event.key !== "Escape") return;
    hide();
    stop();
  });
}

function stop() {
  running?.abort();
}

// `action` gets the signal that ends it; while something is under way, nothing else begins.
export async function run(button, action) {
  if (running) return;
  running = new AbortController();
  find("stop").disabled = false;
  find("status").textContent = "Answering …";
  await attempt(button, () => action(running.signal));
  find("status").textContent = running.signal.aborted ? "Stopped." : "";
  find("stop").disabled = true;
  running = null;
}

// The prompt, or null where there is none yet; then the person is told.
export function needPrompt() {
  const prompt = find("prompt").value.trim();
  if (!prompt) {
    find("status").textContent = "Write a prompt first.";
    find("prompt").focus();
  }
  return prompt || null;
}
