// The box that tells a token's shares in words: by pointer, touch or arrow keys.

import { find } from "./element.js";

export function offerShares(said) {
  said.addEventListener("pointerover", event => show(event.target));
  said.addEventListener("pointerleave", () => show(document.activeElement));
  said.addEventListener("focusin", event => show(event.target));
  said.addEventListener("focusout", hide);
  said.addEventListener("keydown", walk);
}

function show(target) {
  if (!target.matches?.(".token")) return hide();
  const box = find("shares");
  box.textContent = `“${target.textContent.trim()}” ${target.dataset.shares}`;
  box.hidden = false;
  target.setAttribute("aria-describedby", "shares");
  const { left, bottom, top } = target.getBoundingClientRect();
  const below = bottom + box.offsetHeight + 8 < innerHeight;
  box.style.left = `${Math.max(8, Math.min(left, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${below ? bottom + 4 : top - box.offsetHeight - 4}px`;
}

export function hide() {
  find("shares").hidden = true;
}

// One stop of the Tab key for the whole answer; arrows, Home and End go on inside it.
function walk(event) {
  const at = event.target;
  const next = {
    ArrowRight: at.nextElementSibling,
    ArrowLeft: at.previousElementSibling,
    Home: at.parentElement.firstElementChild,
    End: at.parentElement.lastElementChild,
  }[event.key];
  if (!next) return;
  at.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
  event.preventDefault();
}
