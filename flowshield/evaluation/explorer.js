"use strict";
// Shows what the shields said of a grid of requests (explorer_grid.py); computes no verdict itself.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const plane = at("plane"), canvas = plane.querySelector("canvas"), svg = plane.querySelector("svg");
const PAD = { left: 52, right: 14, top: 12, bottom: 40 };
const TEXT_WIDTH = 7; // pixels a letter of a label, at most
const LEVELS = [-20, -8, -3, 0, 1.5, 3, 5]; // nats from the threshold, as in the report
const state = { episode: 0, moment: 0, shield: data.opening.shield, preset: data.opening.preset,
                column: 0, row: 0 };

function bytes(text) { return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)); }
function floats(text) {
  const view = new DataView(bytes(text).buffer);
  return Float32Array.from({ length: view.byteLength / 4 }, (_, i) => view.getFloat32(4 * i, true));
}
function decoded(verdicts) {
  verdicts.arrays ??= {
    score: floats(verdicts.score), supported: bytes(verdicts.supported),
    projected: floats(verdicts.projected), projectedScore: floats(verdicts.projectedScore),
    found: bytes(verdicts.found), map: new Int8Array(bytes(verdicts.map).buffer),
  };
  return verdicts.arrays;
}

const moment = () => data.episodes[state.episode].moments[state.moment];
const verdicts = () => moment().shields[state.shield];
const span = (axis) => axis[axis.length - 1] - axis[0];

// What is asked now, and what the shield said of it.
function told() {
  const { horizons, returns, presets } = moment(), all = decoded(verdicts());
  const onGrid = state.preset === null;
  const i = onGrid ? state.row * horizons.length + state.column
                   : returns.length * horizons.length + state.preset;
  const request = onGrid ? [horizons[state.column], returns[state.row]] : presets[state.preset];
  return { request, score: all.score[i], supported: all.supported[i] === 1,
           projection: [all.projected[2 * i], all.projected[2 * i + 1]],
           projectionScore: all.projectedScore[i], found: all.found[i] === 1,
           threshold: verdicts().threshold };
}

// As wording.number: with an exponent where it would be long without one.
function number(value, decimals) {
  if (value === -Infinity) return "−∞";
  if (decimals > 5 || decimals < -3 || Math.abs(value) >= 1e6) return withExponent(value, decimals);
  return value.toFixed(Math.max(0, decimals)).replace(/^-(0(\.0*)?)$/, "$1").replace("-", "−");
}
function withExponent(value, decimals) {
  if (Math.abs(value) < 0.005 * 10 ** -decimals) return "0";
  const figures = Math.floor(Math.log10(Math.abs(value))) + decimals;
  return value.toExponential(Math.min(6, Math.max(0, figures))).replace("+", "").replaceAll("-", "−");
}
const returned = (r) => number(r, data.decimals);
const command = ([h, r]) => `(${number(h, 0)}, ${returned(r)})`;

// ---------------------------------------------------------------- drawing

function frame() {
  const box = plane.getBoundingClientRect(), { horizons, returns } = moment();
  const labels = returnTicks(box.height - PAD.top - PAD.bottom).map(tickLabel);
  PAD.left = Math.max(52, 26 + TEXT_WIDTH * Math.max(...labels.map((label) => label.length)));
  const width = box.width - PAD.left - PAD.right, height = box.height - PAD.top - PAD.bottom;
  return { box, width, height,
           x: (h) => PAD.left + width * (h - horizons[0]) / span(horizons),
           y: (r) => PAD.top + height * (1 - (r - returns[0]) / span(returns)) };
}

function drawMap(f) {
  const ratio = window.devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = Math.round(f.box.width * ratio);
  canvas.height = Math.round(f.box.height * ratio);
  const style = getComputedStyle(document.documentElement);
  const rgb = (name) => style.getPropertyValue(name).trim().match(/\w\w/g).map((h) => parseInt(h, 16));
  const colors = [...Array(8).keys()].map((k) => rgb(`--l${k}`)), ink = rgb("--ink");
  const w = Math.round(f.width * ratio), h = Math.round(f.height * ratio);
  const image = context.createImageData(w, h), above = new Float32Array(w * h);
  const { horizons, returns } = moment(), { map } = decoded(verdicts());
  const columns = data.finer * (horizons.length - 1) + 1, rows = data.finer * (returns.length - 1) + 1;
  for (let j = 0; j < h; j++) {
    const v = (1 - (j + 0.5) / h) * (rows - 1), v0 = Math.min(rows - 2, Math.floor(v));
    for (let i = 0; i < w; i++) {
      const u = (i + 0.5) / w * (columns - 1), u0 = Math.min(columns - 2, Math.floor(u));
      const k = v0 * columns + u0, a = u - u0, b = v - v0;
      const value = (1 - b) * ((1 - a) * map[k] + a * map[k + 1])
                  + b * ((1 - a) * map[k + columns] + a * map[k + columns + 1]);
      above[j * w + i] = data.mapStep * (value + 0.5);
    }
  }
  const line = Math.max(1, Math.round(ratio));
  for (let j = 0; j < h; j++) {
    for (let i = 0; i < w; i++) {
      const k = j * w + i, value = above[k], inside = value >= 0;
      const edge = (i >= line && (above[k - line] >= 0) !== inside)
                || (j >= line && (above[k - line * w] >= 0) !== inside);
      const color = edge ? ink : colors[LEVELS.filter((level) => value >= level).length];
      image.data.set([...color, 255], 4 * k);
    }
  }
  context.putImageData(image, Math.round(PAD.left * ratio), Math.round(PAD.top * ratio));
}

function add(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return svg.appendChild(element);
}

function ticks(axis, most) {
  const rough = span(axis) / most, power = 10 ** Math.floor(Math.log10(rough));
  const stride = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
  const first = Math.ceil(axis[0] / stride), found = [];
  for (let k = first; k * stride <= axis[axis.length - 1]; k++) found.push(k * stride);
  return found;
}

const returnTicks = (height) => ticks(moment().returns, height / 55);
const tickLabel = (r) => String(+r.toPrecision(6)).replaceAll("-", "−");

function drawAxes(f) {
  const { horizons, returns } = moment(), bottom = PAD.top + f.height;
  add("rect", { x: PAD.left, y: PAD.top, width: f.width, height: f.height, fill: "none", stroke: "var(--ink)" });
  for (const h of ticks(horizons, f.width / 80)) {
    add("path", { d: `M${f.x(h)} ${bottom}v5`, stroke: "var(--ink)" });
    add("text", { x: f.x(h), y: bottom + 17, "text-anchor": "middle" }, number(h, 0));
  }
  for (const r of returnTicks(f.height)) {
    add("path", { d: `M${PAD.left} ${f.y(r)}h-5`, stroke: "var(--ink)" });
    add("text", { x: PAD.left - 8, y: f.y(r) + 4, "text-anchor": "end" }, tickLabel(r));
  }
  add("text", { x: PAD.left + f.width / 2, y: f.box.height - 6, "text-anchor": "middle" }, "horizon H (steps)");
  const middle = PAD.top + f.height / 2;
  add("text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, "return R");
}

// A place inside the frame, and whether the command lies there.
function placed(f, [h, r]) {
  const x = Math.min(PAD.left + f.width, Math.max(PAD.left, f.x(h)));
  const y = Math.min(PAD.top + f.height, Math.max(PAD.top, f.y(r)));
  return { x, y, inside: Math.hypot(x - f.x(h), y - f.y(r)) < 1,
           angle: Math.atan2(f.y(r) - y, f.x(h) - x) * 180 / Math.PI };
}

function drawCommands(f) {
  const now = told(), from = placed(f, now.request), to = placed(f, now.projection);
  const { bound, fulfilled, returns } = moment();
  if (bound !== null && bound >= returns[0] && bound <= returns[returns.length - 1]) {
    add("path", { d: `M${PAD.left} ${f.y(bound)}h${f.width}`, stroke: "var(--bound)", "stroke-width": 2, "stroke-dasharray": "7 4" });
  }
  const star = placed(f, fulfilled);
  add("path", { d: "M0-9L2.300-3.200 8.600-2.800 3.700 1.200 5.300 7.300 0 3.900-5.300 7.300-3.700 1.200-8.600-2.800-2.300-3.200Z",
                transform: `translate(${star.x} ${star.y})`, fill: "var(--star)", stroke: "var(--ink)", "stroke-width": 0.8 });
  if (!now.supported) {
    add("path", { d: `M${from.x} ${from.y}L${to.x} ${to.y}`, stroke: "var(--request)", "stroke-width": 1.6 });
    add("circle", { id: "projection", cx: to.x, cy: to.y, r: 6, fill: "var(--page)", stroke: "var(--ink)", "stroke-width": 1.6 });
  }
  const shape = from.inside ? "M-7-7L7 7M7-7L-7 7" : "M-4-7L7 0-4 7Z";
  add("path", { id: "request", d: shape, transform: `translate(${from.x} ${from.y}) rotate(${from.inside ? 0 : from.angle})`,
                stroke: "var(--request)", "stroke-width": 3.2, fill: "var(--request)" });
}

function drawTold() {
  const now = told(), box = at("told"), list = box.querySelector("dl"), shield = data.shields[state.shield];
  const { bound, fulfilled } = moment();
  at("verdict").textContent = now.supported ? "supported" : "not supported";
  box.className = now.supported ? "good" : "bad";
  const what = shield.score === "density" ? "log p(H, R | s)" : "log P(at least R within H | s)";
  const rows = [
    ["request (H, R)", command(now.request)],
    [what, `${number(now.score, 2)} nats`],
    ["threshold", `${number(now.threshold, 2)} nats`],
    ["score minus threshold", `${number(now.score - now.threshold, 2)} nats`],
    [now.supported ? "given to the agent" : "projection (H, R)", command(now.projection)],
  ];
  if (!now.supported) {
    rows.push(["its score", `${number(now.projectionScore, 2)} nats${now.found ? "" : ": not supported either"}`]);
    const [dh, dr] = [0, 1].map((k) => now.projection[k] - now.request[k]);
    rows.push(["moved by", `${number(dh, 0)} steps, ${returned(dr)} return`]);
  }
  if (bound !== null) {
    const beyond = now.request[1] > bound ? "; the request is provably impossible" : "";
    rows.push(["provable bound on R", returned(bound) + beyond]);
  }
  rows.push(["what the episode really did", command(fulfilled)]);
  list.replaceChildren(...rows.flatMap(([name, value]) => {
    const [dt, dd] = ["dt", "dd"].map((tag) => document.createElement(tag));
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
}

function draw(mapToo) {
  const f = frame();
  if (f.width < 10) return;
  if (mapToo) drawMap(f);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${f.box.width} ${f.box.height}`);
  drawAxes(f);
  drawCommands(f);
  drawTold();
  at("step").textContent = `step ${moment().step} of ${data.episodes[state.episode].length}`;
  at("boundkey").hidden = moment().bound === null;
  [...at("presets").querySelectorAll("button")].forEach((button, k) => {
    button.setAttribute("aria-pressed", String(state.preset === k));
    button.title = `left of it now: ${command(moment().presets[k])}`;
    button.style.borderColor = state.preset === k ? "var(--request)" : "";
  });
}

// ---------------------------------------------------------------- asking

function ask(column, row) {
  const { horizons, returns } = moment();
  state.preset = null;
  state.column = Math.min(horizons.length - 1, Math.max(0, column));
  state.row = Math.min(returns.length - 1, Math.max(0, row));
  draw(false);
}

// The grid point nearest to a command.
function nearest([h, r]) {
  const { horizons, returns } = moment();
  return [Math.round((h - horizons[0]) / span(horizons) * (horizons.length - 1)),
          Math.round((r - returns[0]) / span(returns) * (returns.length - 1))];
}

function pointed(event) {
  const f = frame(), { horizons, returns } = moment();
  const x = event.clientX - f.box.left - PAD.left, y = event.clientY - f.box.top - PAD.top;
  ask(Math.round(x / f.width * (horizons.length - 1)), Math.round((1 - y / f.height) * (returns.length - 1)));
}

let pointer = -1; // that drags the request: a second finger does not
plane.addEventListener("pointerdown", (event) => {
  if (plane.hasPointerCapture(pointer)) return;
  pointer = event.pointerId;
  plane.setPointerCapture(pointer);
  plane.focus({ preventScroll: true }); // else the plane may move under the finger
  pointed(event);
});
plane.addEventListener("pointermove", (event) => {
  if (event.pointerId === pointer && plane.hasPointerCapture(pointer)) pointed(event);
});
plane.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] }[event.key];
  if (!move) return;
  event.preventDefault();
  const [column, row] = state.preset === null ? [state.column, state.row] : nearest(told().request);
  ask(column + move[0], row + move[1]);
});

function option(parent, label, pressed, type, group) {
  if (type === "button") {
    const button = parent.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", pressed);
    return button;
  }
  const holder = parent.appendChild(document.createElement("label"));
  const radio = holder.appendChild(Object.assign(document.createElement("input"), { type: "radio", name: group }));
  holder.append(` ${label}`);
  radio.addEventListener("change", pressed);
  return radio;
}

data.episodes.forEach((episode, k) => {
  at("episode").add(new Option(`return ${returned(episode.return)} in ${episode.length} steps`, k, false, k === state.episode));
});
data.shields.forEach((shield, k) => {
  const radio = option(at("shields"), shield.label, () => { state.shield = k; draw(true); }, "radio", "shield");
  radio.checked = k === state.shield;
});
data.commands.forEach((label, k) => option(at("presets"), label, () => { state.preset = k; draw(false); }, "button"));

function pick(episode, momentIndex) {
  const asked = told().request;
  Object.assign(state, { episode, moment: momentIndex });
  at("moment").max = data.episodes[episode].moments.length - 1;
  at("moment").value = momentIndex;
  if (state.preset === null) [state.column, state.row] = nearest(asked);
  ({ column: state.column, row: state.row } = clamped());
  draw(true);
}
function clamped() {
  const { horizons, returns } = moment();
  return { column: Math.min(horizons.length - 1, Math.max(0, state.column)),
           row: Math.min(returns.length - 1, Math.max(0, state.row)) };
}
at("episode").addEventListener("change", (event) => pick(Number(event.target.value), 0));
at("moment").addEventListener("input", (event) => pick(state.episode, Number(event.target.value)));
new ResizeObserver(() => draw(true)).observe(plane);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(true));

pick(state.episode, 0);
