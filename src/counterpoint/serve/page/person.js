// A person's stored profile: onto the sliders, and from them.

import { find } from "./element.js";
import { ask } from "./api.js";
import { attempt } from "./notice.js";
import { profile, setProfile, settings } from "./controls.js";

export const path = rest => `/v1/users/${encodeURIComponent(settings().user)}${rest}`;

export function watchPerson() {
  find("load").addEventListener("click", () => attempt(find("load"), load));
  find("save").addEventListener("click", () => attempt(find("save"), save));
}

async function load() {
  if (!named()) return;
  const person = await ask("GET", path(""));
  if (person.profile) setProfile(person.profile, person.strength ?? undefined); // one that was learned has no strength
  const versions = `${person.versions} version${person.versions === 1 ? "" : "s"}`;
  find("person-says").textContent = person.profile
    ? `The profile of ${person.user} is on the sliders (${versions}, ${person.choices} choices).`
    : `Nothing is stored as the profile of ${person.user}.`;
}

async function save() {
  if (!named()) return;
  const { method, strength, user } = settings();
  await ask("PUT", path("/profile"), { profile: profile(), strength, method });
  find("person-says").textContent = `Saved. Requests with "user": "${user}" and no profile of their own now get it.`;
}

export function named() {
  const name = settings().user;
  if (!name) {
    find("person-says").textContent = "Say a name first.";
    find("user").focus();
  }
  return Boolean(name);
}
