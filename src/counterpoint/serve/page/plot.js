// Groups of points as a plotly.js figure in the colours of the theme.

import { element } from "./element.js";
import { colour } from "./theme.js";

export function loadPlotly() {
  return new Promise((resolve, reject) => {
    const onerror = () => reject(new Error("The picture could not be loaded; the table below it has its points."));
    document.head.append(element("script", { src: "/static/plotly.min.js", onload: resolve, onerror }));
  });
}

export function plot(part, groups, across, up) {
  const traces = groups.map(group => trace({ ...group, points: merged(group.points) }, across, up));
  return window.Plotly.react(part, traces, layout(groups, across, up), { displayModeBar: false, responsive: true });
}

// Points at one place share a label.
function merged(points) {
  const places = new Map();
  for (const { label, x, y } of points) {
    const found = places.get(`${x},${y}`);
    places.set(`${x},${y}`, { x, y, label: found ? `${found.label}, ${label}` : label });
  }
  return [...places.values()];
}

function trace({ points, symbol, colour: variable, quiet }, across, up) {
  const symbols = points.map(({ label }) => /\byou\b/.test(label) ? "star" : symbol);
  const sizes = symbols.map(symbol => symbol === "star" ? 16 : 10);
  return {
    type: "scatter", mode: quiet ? "markers" : "markers+text", textposition: "top center",
    cliponaxis: false, showlegend: false,
    x: points.map(({ x }) => x), y: points.map(({ y }) => y), text: points.map(({ label }) => label),
    hovertemplate: `%{text}<br>${across} %{x:.2f}<br>${up} %{y:.2f}<extra></extra>`,
    marker: { symbol: symbols, size: sizes, color: colour(variable), opacity: 1, line: { width: 0 } },
  };
}

function layout(groups, across, up) {
  const points = groups.flatMap(({ points }) => points);
  const axis = (name, values) => ({ title: { text: `more ${name} →` }, range: roomy(values),
    gridcolor: colour("--line"), zerolinecolor: colour("--edge") });
  return {
    xaxis: axis(across, points.map(({ x }) => x)), yaxis: axis(up, points.map(({ y }) => y)),
    height: 360, margin: { l: 60, r: 20, t: 10, b: 50 }, dragmode: false,
    paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: colour("--ink"), family: "system-ui, sans-serif", size: 13 },
  };
}

// The values with room around them, for the labels.
function roomy(values) {
  if (!values.length) return [-1, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = 0.18 * (high - low) || 1;
  return [low - room, high + room];
}
