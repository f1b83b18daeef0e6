// Light, dark, or as the system has it; remembered in this browser.

import { find } from "./element.js";

const THEME = "counterpoint-theme";

export function watchTheme(changed) {
  const picker = find("theme");
  picker.value = localStorage.getItem(THEME) ?? "auto";
  const apply = () => {
    document.documentElement.dataset.theme = picker.value;
    localStorage.setItem(THEME, picker.value);
    changed();
  };
  picker.addEventListener("change", apply);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  apply();
}

// The value that a colour of the style sheet has in the theme in force; plotly.js takes no variables.
export function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
