// The page: what is looked at (state.js), what the server said of it (the scene), and the panels that show both.

import { describe, forward, models as listModels, Refusal } from "./api.js";
import { Arcs } from "./arcs.js";
import { BlockDiagram } from "./block_diagram.js";
import { onChange } from "./colours.js";
import { showCopy } from "./copy.js";
import { $, make, say } from "./elements.js";
import { HeadGrid } from "./head_grid.js";
import { drawScale, Heatmap } from "./heatmap.js";
import { Input } from "./input.js";
import { LABELS, SORTS, specials } from "./labels.js";
import { Latency } from "./latency.js";
import { look } from "./scene.js";
import { fromHash, toHash } from "./state.js";
import { words } from "./strings.js";
import * as tabs from "./tabs.js";
import { clock } from "./timing.js";
import { Tokens } from "./tokens.js";
import { Tour } from "./tour.js";
import { clear, watch } from "./trouble.js";
import { canChange, interventionsOf, WhatIf } from "./what_if.js";

const state = fromHash(location.hash);
let t = words(state.lang);
let description; // of the chosen model
let scene; // of the last input; undefined until there is one
let hovered; // the query under the pointer

const input = new Input(state, run);
const latency = new Latency($("latency"));
const heatmap = new Heatmap($("heatmap"), { point, leave: () => hover(undefined), pick });
const grid = new HeadGrid($("grid"), chooseHead);
const tokens = new Tokens($("tokens"), { pick, hover });
const arcs = new Arcs($("panel-arcs"), { pick, hover });
const block = new BlockDiagram($("panel-block"));
const whatIf = new WhatIf($("panel-what-if"), { change, choose: chooseHead });
const tour = new Tour($("tour"), () => ({ scene, description }), openPanel);

async function start() {
  clear();
  const models = await listModels();
  if (!models.length) throw new Refusal(t("noModels"));
  if (!models.some(({ name }) => name === state.model)) {
    state.model = (models.find(({ accepts }) => accepts.includes("text")) ?? models[0]).name;
  }
  $("model").replaceChildren(...models.map(({ name }) => make("option", { value: name }, name)));
  $("model").value = state.model;
  await chooseModel();
}

async function chooseModel() {
  description = await describe(state.model);
  input.show(description, t);
  await run();
}

/** Runs the model on the input, and shows what can be shown of it at once; the rest is asked for by need. */
async function run() {
  clear();
  document.body.classList.add("running", "stale"); // stale until there is an answer
  const given = input.value;
  const looked = await look(description, given, state, asker(description.name, given));
  document.body.classList.remove("running", ...(looked ? ["stale"] : []));
  if (!looked) return; // a later run has begun
  scene = looked;
  hovered = undefined;
  tokens.show(scene.names);
  $("map").hidden = $("heads").hidden = !scene.maps;
  draw();
  tour.refresh(t);
  await looked.seen(); // first what was asked for, then all heads
  if (scene !== looked || !scene.maps) return;
  showHeads();
  await looked.prefetch((layer, mapOf) => grid.refine(layer, mapOf, looked.size));
}

/** What the panels ask with: a model on an input. */
const asker = (model, given) => async (addresses, interventions) => {
  const answer = await forward(model, given, addresses, interventions);
  latency.add(answer.timings, t);
  return answer;
};

function showHeads() {
  grid.show(scene.strongest, scene.measures, headName);
  grid.sort(state.sort);
  grid.mark(scene.layer, scene.head);
}

const headName = (layer, head, { label }) => t("head", { layer, head }) + (label ? `: ${t(label)}` : "");

const shown = () => {
  const hidden = state.hide ? specials(scene.names) : new Set();
  return scene.names.flatMap((_, i) => (hidden.has(i) ? [] : [i]));
};

/** Every panel, as the state and the scene are. */
function draw() {
  history.replaceState(null, "", toHash(state));
  if (!scene) return;
  if (scene.maps) drawMap();
  drawPanel();
  showCopy($("copy"), copied, t);
  $("honest").textContent = `${t("provenance", { ...description, model: description.name, hash: description.sha256.slice(0, 12) })} ${t("honest")}`;
  $("honest").title = description.sha256;
}

function drawMap() {
  const map = scene.maps.get(scene.layer, scene.head);
  const measure = scene.measures[scene.layer][scene.head];
  grid.mark(scene.layer, scene.head);
  $("map-name").textContent = t("head", scene);
  $("map-label").textContent = measure.label && t(measure.label);
  $("map-label").dataset.label = measure.label;
  heatmap.show(map, scene.names, shown(), state.log, scene.query);
  $("heatmap").setAttribute("aria-label", t("map", { head: t("head", scene) }));
  drawScale(heatmap.most, state.log);
  drawRow();
}

/** What follows the pointer: one row of the map. */
function drawRow() {
  const query = hovered ?? scene.query;
  const map = scene.maps.get(scene.layer, scene.head);
  tokens.colour(map.subarray(query * scene.size, (query + 1) * scene.size), scene.query);
  arcs.show(map, scene.names, shown(), query, t);
}

function drawPanel() {
  const offered = scene.maps ? ["arcs", "block", ...(canChange(description) ? ["what-if"] : [])] : ["block"];
  tabs.mark(offered.includes(state.panel) ? state.panel : offered[0], offered);
  if (tabs.isShown("block")) block.show(description.outputs, { ...scene }, t);
  if (tabs.isShown("what-if") && offered.includes("what-if")) whatIf.show({ scene, state, layers: scene.measures.length }, t);
}

/** The request of what is in the picture. */
function copied() {
  const outputs = [scene.maps ? `layers.${scene.layer}.attention_weights[${scene.head}]` : "block_output"];
  return { model: description.name, input: scene.input, outputs, interventions: scene.maps && canChange(description) && interventionsOf(state) };
}

async function chooseHead(layer, head) {
  const seen = clock("interaction");
  Object.assign(state, { layer, head });
  const asked = scene;
  await asked.maps.fetch(layer, head);
  if (scene !== asked || state.layer !== layer || state.head !== head) return;
  Object.assign(scene, { layer, head });
  draw();
  seen();
}

function pick(query) {
  const seen = clock("interaction");
  state.query = scene.query = query;
  hovered = undefined;
  draw();
  seen();
}

function hover(query) {
  if (!scene?.maps || hovered === query) return;
  hovered = query;
  if (query === undefined) $("cell").textContent = "";
  drawRow();
}

function point(query, key) {
  const seen = clock("interaction");
  hovered = query;
  drawRow();
  const weight = scene.maps.get(scene.layer, scene.head)[query * scene.size + key];
  $("cell").textContent = t("cell", { query: scene.names[query], key: scene.names[key], share: (weight * 100).toFixed(2) });
  $("cell").title = weight;
  seen();
}

/** Another intervention: only the panel of what if shows it, beside the run as it is. */
function change(patch) {
  clear();
  Object.assign(state, patch);
  draw();
}

function openPanel(name) {
  state.panel = name;
  draw();
}

/** The words anew, in another language. */
function speak() {
  t = words(state.lang);
  document.documentElement.lang = state.lang === "pt" ? "pt-BR" : "en";
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  const names = { layers: "layers", sharp: "sharp", previous: "byPrevious", diagonal: "byDiagonal", delimiter: "byDelimiter", broad: "byBroad" };
  $("sort").replaceChildren(...SORTS.map((by) => make("option", { value: by }, t(names[by]))));
  latency.show(t);
  if (description) input.show(description, t);
  if (scene?.maps) grid.redraw(headName);
  $("labels").replaceChildren(...LABELS.map((label) => make("li", { dataset: { label } }, t(label))));
  tour.refresh(t);
  showState();
  draw();
}

function showState() {
  $("language").value = state.lang;
  $("sort").value = state.sort;
  $("log").checked = state.log;
  $("hide").checked = state.hide;
}

function listen() {
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    state.query = -1;
    if (description) run(); // else what has been typed is run as soon as there is a model
  });
  const onChoice = (id, name, property, then) =>
    $(id).addEventListener("change", () => {
      state[name] = $(id)[property];
      return then();
    });
  onChoice("model", "model", "value", () => {
    Object.assign(state, { layer: -1, head: -1, query: -1 });
    return chooseModel();
  });
  onChoice("language", "lang", "value", speak);
  onChoice("log", "log", "checked", draw);
  onChoice("hide", "hide", "checked", draw);
  onChoice("sort", "sort", "value", () => {
    grid.sort(state.sort);
    draw();
  });
  tabs.listen(openPanel);
  $("start-tour").addEventListener("click", () => scene && tour.start(t));
  addEventListener("hashchange", () => {
    Object.assign(state, fromHash(location.hash));
    speak();
    start();
  });
  addEventListener("resize", () => scene && drawPanel());
  onChange(speak); // which draws everything anew
}

watch(start, () => t);
listen();
speak();
start();
