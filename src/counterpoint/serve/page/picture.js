// The trade-off between two dimensions: what was measured, what this profile should give, and what was said here.

import { element, find, number } from "./element.js";
import { methodOf } from "./asking.js";
import { profile, settings } from "./controls.js";
import { measure, score } from "./measure.js";
import { tell } from "./notice.js";
import { loadPlotly, plot } from "./plot.js";
import { needPrompt, run } from "./running.js";

let band;
let seen = false; // plotly.js is fetched when the picture first comes into view
const answers = []; // answers of this session, scored one by one
let means = []; // mean rewards of several answers to one prompt

// Scores in band.json and those of this session need not have one unit, so that they are never drawn together.
const KINDS = {
  experts: { view: "before", sign: "◆", symbol: "diamond", colour: "--muted",
    says: "mean rewards of the experts, measured when the band was made" },
  method: { view: "before", sign: "▲", symbol: "triangle-up", colour: "--c2", quiet: true,
    says: "mean rewards of this method, for each profile that was judged when the band was made" },
  second: { view: "before", sign: "▼", symbol: "triangle-down", colour: "--c3", quiet: true,
    says: "those of the second method" },
  predicted: { view: "before", sign: "★", symbol: "star", colour: "--c0",
    says: "a prediction for your profile: its experts’ mean rewards by weight, whatever the method and strength" },
  answers: { view: "here", sign: "●", symbol: "circle", colour: "--c1", says: "single answers of this session" },
  means: { view: "here", sign: "■", symbol: "square", colour: "--c0",
    says: "means of 8 answers to one prompt, yours as a star" },
};

export function buildPicture(found) {
  band = found;
  const names = band.dimensions.map(({ name }) => name);
  const options = () => names.map(name => element("option", { value: name }, name));
  for (const id of ["across", "up"]) find(id).replaceChildren(...options());
  find("up").value = another(band.dimensions)?.name ?? "";
  const known = band.experts.some(({ scores }) => Object.keys(scores).length);
  find("view").value = known || !band.scorers.length ? "before" : "here";
  for (const id of ["across", "up", "view"]) find(id).addEventListener("change", draw);
  find("measure").addEventListener("click", measureHere);
  document.addEventListener("wanted", draw);
  whenSeen(find("picture"), () => loadPlotly().then(() => { seen = true; draw(); }, tell));
}

// The two poles of one axis make no trade-off.
const another = ([first, ...rest]) => rest.find(({ axis }) => !axis || axis !== first.axis) ?? rest[0] ?? first;

function whenSeen(part, then) {
  new IntersectionObserver(([{ isIntersecting }], watcher) => {
    if (!isIntersecting) return;
    watcher.disconnect();
    then();
  }).observe(part);
}

// Score answers that came to an end, where the band has rewards to do it with.
export async function place(ended) {
  if (!band.scorers.length) return;
  for (const { messages, text, model } of ended.filter(({ text }) => text.trim())) {
    const [rewards] = await score(messages, [text]);
    answers.push({ label: `${answers.length + 1}: ${methodOf(model)}`, rewards });
  }
  draw();
}

async function measureHere() {
  if (needPrompt() === null) return;
  find("view").value = "here";
  means = [];
  await run(find("measure"), async signal => {
    for await (const point of measure(band, signal)) {
      means.push(point);
      draw();
    }
  });
}

function measured(wanted) {
  return band.points.filter(({ method }) => method === wanted)
    .map(({ label, method, rewards }) => ({ label: `${method} ${label}`, rewards }));
}

function predicted() {
  const wanted = profile();
  const mine = band.experts.filter(expert => wanted[expert.dimension] && Object.keys(expert.scores).length);
  const total = mine.reduce((sum, expert) => sum + wanted[expert.dimension], 0);
  if (!total) return [];
  const part = (name, { dimension, scores }) => wanted[dimension] * (scores[name] ?? 0) / total;
  const mean = name => mine.reduce((sum, expert) => sum + part(name, expert), 0);
  return [{ label: "you", rewards: Object.fromEntries(band.dimensions.map(({ name }) => [name, mean(name)])) }];
}

// Of each kind in view, its points that have both dimensions, as { label, x, y }.
function groups(across, up) {
  const { method, second } = settings();
  const experts = band.experts.map(({ name, scores }) => ({ label: name, rewards: scores }));
  const all = { experts, method: measured(method), second: measured(second), predicted: predicted(), answers, means };
  const pointsOf = kind => all[kind].filter(({ rewards }) => across in rewards && up in rewards)
    .map(({ label, rewards }) => ({ label, x: rewards[across], y: rewards[up] }));
  return Object.entries(KINDS).filter(([, { view }]) => view === find("view").value)
    .map(([kind, told]) => ({ ...told, points: pointsOf(kind) }))
    .filter(({ points }) => points.length);
}

function draw() {
  const [across, up] = [find("across").value, find("up").value];
  const shown = groups(across, up);
  find("measure-part").hidden = find("view").value !== "here" || !band.scorers.length;
  find("picture-says").replaceChildren(...(shown.length ? shown.map(legend) : [element("li", {}, nothing())]));
  showTable(shown, across, up);
  if (seen) plot(find("picture"), shown, across, up);
}

function legend({ sign, colour, says }) {
  const drawn = element("span", { class: "sign" }, sign);
  drawn.style.color = `var(${colour})`;
  return element("li", {}, drawn, says);
}

function nothing() {
  if (find("view").value === "before") return "This band.json holds no measured rewards.";
  return band.scorers.length ? "No answer was scored on these two dimensions yet: send a prompt, or measure."
    : "This band has no rewards to score answers with.";
}

function showTable(shown, across, up) {
  const row = (tag, cells) => element("tr", {}, ...cells.map(cell => element(tag, {}, cell)));
  const rows = shown.flatMap(({ sign, points }) =>
    points.map(({ label, x, y }) => row("td", [`${sign} ${label}`, number(x), number(y)])));
  find("points").replaceChildren(
    element("table", {}, element("thead", {}, row("th", ["point", across, up])), element("tbody", {}, ...rows)));
}
