// Making and finding elements of the page.

export const find = id => document.getElementById(id);

// An element with properties (`class`, `data-...`, `aria-...`, `on...` or any other) and children: text or elements.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && !name.startsWith("aria")) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

export const number = (value, digits = 2) => Number(value.toFixed(digits)).toString().replace("-", "−");
export const percent = share => `${Math.round(100 * share)} %`;
