// What is looked at, and its permalink: the part of the URL behind #, which never reaches the server.

export const SENTENCE = "The cat sat on the mat because it was tired.";

const DEFAULTS = {
  model: "", // the first that reads text
  text: SENTENCE,
  rows: 16, // of the seeded tensor, for a model without text
  layer: -1, // -1: the last
  head: -1,
  query: -1, // -1: the word "it", else the middle
  sort: "layers",
  log: false,
  hide: false,
  panel: "arcs",
  scale: "", // "5.11:0,4.3:0.5": heads and what their result is multiplied by
  cut: -1, // the token that nobody may look at
  lang: navigator.language.startsWith("pt") ? "pt" : "en",
};

/** The state that a permalink names. */
export function fromHash(hash) {
  const state = { ...DEFAULTS };
  for (const [name, value] of new URLSearchParams(hash.replace(/^#/, ""))) {
    if (!(name in DEFAULTS)) continue;
    const type = typeof DEFAULTS[name];
    state[name] = type === "number" ? Number.parseInt(value, 10) || 0 : type === "boolean" ? value === "1" : value;
  }
  return state;
}

/** The permalink of a state; what is as it is anyway is left out. */
export function toHash(state) {
  const named = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) {
    if (state[name] !== value) named.set(name, typeof value === "boolean" ? "1" : state[name]);
  }
  return `#${named}`;
}
