// The trade-off between two dimensions: what was measured, what this profile should give, and what was said here.

import { element, find, number } from "./element.js";
import { methodOf } from "./asking.js";
import { profile } from "./controls.js";
import { measure, score } from "./measure.js";
import { attempt, tell } from "./notice.js";
import { colour } from "./theme.js";

let band;
let plotly;
const said = []; // answers of this session, scored one by one
let means = []; // mean rewards of several answers to one prompt

// Scores in band.json and those of this session's answers need not have one unit, so that they are never drawn together.
const KINDS = {
  measured: { view: "before", sign: "◆", symbol: "diamond", colour: "--muted",
    says: "mean rewards that were measured when the band was made" },
  predicted: { view: "before", sign: "★", symbol: "star", colour: "--c0",
    says: "a prediction for your profile: the mean of its experts’ rewards by weight, whatever the method and the strength" },
  said: { view: "here", sign: "●", symbol: "circle", colour: "--c1", says: "single answers of this session" },
  means: { view: "here", sign: "■", symbol: "square", colour: "--c0", says: "means of 8 answers to one prompt, yours as a star" },
};

export function buildPicture(found) {
  band = found;
  const names = band.dimensions.map(({ name }) => name);
  for (const id of ["across", "up"]) {
    find(id).replaceChildren(...names.map(name => element("option", { value: name }, name)));
    find(id).addEventListener("change", draw);
  }
  find("up").value = (band.dimensions.find(({ axis }) => axis !== band.dimensions[0]?.axis) ?? band.dimensions[1])?.name ?? "";
  find("view").value = band.points.length || !band.scorers.length ? "before" : "here";
  find("view").addEventListener("change", draw);
  find("measure").addEventListener("click", () => attempt(find("measure"), measureHere));
  document.addEventListener("wanted", draw);
  whenSeen(find("picture"), loadPlotly);
}

function whenSeen(place, then) {
  new IntersectionObserver(([{ isIntersecting }], watcher) => {
    if (!isIntersecting) return;
    watcher.disconnect();
    then();
  }).observe(place);
}

function loadPlotly() {
  plotly = new Promise((resolve, reject) => {
    const failed = () => reject(new Error("The picture could not be loaded; the table below it has its points."));
    document.head.append(element("script", { src: "/static/plotly.min.js", onload: () => resolve(window.Plotly), onerror: failed }));
  });
  plotly.then(draw, tell);
}

// Score answers that came to an end, where the band has rewards to do it with.
export async function place(answers) {
  if (!band.scorers.length) return;
  for (const { messages, text, model } of answers.filter(({ text }) => text.trim())) {
    const [rewards] = await score(messages, [text]);
    said.push({ label: `${said.length + 1}: ${methodOf(model)}`, rewards });
  }
  draw();
}

async function measureHere() {
  find("view").value = "here";
  means = [];
  for await (const point of measure(band)) {
    means.push(point);
    draw();
  }
}

function predicted() {
  const wanted = profile();
  const mine = band.experts.filter(expert => wanted[expert.dimension] && Object.keys(expert.scores).length);
  const total = mine.reduce((sum, expert) => sum + wanted[expert.dimension], 0);
  if (!total) return [];
  const mean = name => mine.reduce((sum, expert) => sum + wanted[expert.dimension] * (expert.scores[name] ?? 0), 0) / total;
  return [{ label: "you", rewards: Object.fromEntries(band.dimensions.map(({ name }) => [name, mean(name)])) }];
}

function groups(x, y) {
  const all = { measured: band.points, predicted: predicted(), said, means };
  return Object.entries(all)
    .map(([kind, points]) => [KINDS[kind], points.filter(({ rewards }) => x in rewards && y in rewards)])
    .filter(([{ view }, points]) => view === find("view").value && points.length);
}

async function draw() {
  const [x, y] = [find("across").value, find("up").value];
  const shown = groups(x, y);
  const here = find("view").value === "here";
  find("measure-part").hidden = !here || !band.scorers.length;
  find("picture-says").replaceChildren(...shown.map(([{ sign, says, colour: variable }]) => element("li", {}, signOf(sign, variable), says)));
  if (!shown.length) find("picture-says").append(element("li", {}, nothing(here)));
  showTable(shown, x, y);
  if (!plotly) return;
  const { react } = await plotly;
  await react("picture", shown.map(([kind, points]) => trace(kind, merged(points, x, y), x, y)), layout(shown, x, y), { displayModeBar: false, responsive: true });
}

function signOf(sign, variable) {
  const made = element("span", { class: "sign" }, sign);
  made.style.color = `var(${variable})`;
  return made;
}

function nothing(here) {
  if (!here) return "This band.json holds no measured rewards.";
  return band.scorers.length ? "No answer was scored on these two dimensions yet: send a prompt, or measure."
    : "This band has no rewards to score answers with.";
}

// Points at one place share a label.
function merged(points, x, y) {
  const places = new Map();
  for (const { label, rewards } of points) {
    const place = `${rewards[x]},${rewards[y]}`;
    const found = places.get(place);
    places.set(place, { rewards, label: found ? `${found.label}, ${label}` : label });
  }
  return [...places.values()];
}

function trace({ symbol, colour: variable }, points, x, y) {
  const symbols = points.map(({ label }) => /\byou\b/.test(label) ? "star" : symbol);
  return {
    type: "scatter", mode: "markers+text", textposition: "top center", cliponaxis: false, showlegend: false,
    x: points.map(({ rewards }) => rewards[x]), y: points.map(({ rewards }) => rewards[y]),
    text: points.map(({ label }) => label), hovertemplate: `%{text}<br>${x} %{x:.2f}<br>${y} %{y:.2f}<extra></extra>`,
    marker: { symbol: symbols, size: symbols.map(symbol => symbol === "star" ? 16 : 10), color: colour(variable), opacity: 1, line: { width: 0 } },
  };
}

function layout(shown, x, y) {
  const axis = name => ({
    title: { text: `more ${name} →` }, range: roomy(shown.flatMap(([, points]) => points.map(({ rewards }) => rewards[name]))),
    gridcolor: colour("--line"), zerolinecolor: colour("--edge"),
  });
  return {
    height: 360, margin: { l: 60, r: 20, t: 10, b: 50 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 13 }, xaxis: axis(x), yaxis: axis(y), dragmode: false,
  };
}

// The values with room around them, for the labels.
function roomy(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.18 * (high - low) || 1;
  return values.length ? [low - room, high + room] : [-1, 1];
}

function showTable(shown, x, y) {
  const rows = shown.flatMap(([{ sign }, points]) => points.map(({ label, rewards }) =>
    element("tr", {}, ...[`${sign} ${label}`, number(rewards[x]), number(rewards[y])].map(cell => element("td", {}, cell)))));
  const head = element("tr", {}, ...["point", x, y].map(cell => element("th", { scope: "col" }, cell)));
  find("points").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}
