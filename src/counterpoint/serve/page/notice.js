// Telling a person what went wrong, and asking for the key where the server wants one.

import { element, find } from "./element.js";

export function tell(error) {
  if (error.name === "AbortError") return;
  if (error.status === 401) needKey();
  const close = element("button", { type: "button", class: "quiet", onclick: clear }, "Close");
  find("alert").replaceChildren(element("p", {}, error.message), close);
}

export const clear = () => find("alert").replaceChildren();

export function needKey() {
  find("key-card").hidden = false;
  find("key").focus();
}

// Run what a button asks for; what fails is told, and the button rests meanwhile.
export async function attempt(button, action) {
  clear();
  button.disabled = true;
  try {
    return await action();
  } catch (error) {
    tell(error);
  } finally {
    button.disabled = false;
  }
}
