// What the server said of one input: names of the positions, what each head does, and maps as they are needed.

import { measure, TOP } from "./labels.js";
import { Maps } from "./maps.js";
import { clock } from "./timing.js";

let looks = 0;

/**
 * Runs the model once: every head's strongest keys, and the whole map of the one that is looked at.
 * @param {object} description of the model, as /v1 gives it
 * @param {object} input
 * @param {object} state of which layer, head and query are read
 * @param {(addresses: string[], interventions?: object) => Promise<object>} ask the model on this input
 * @returns {Promise<object | undefined>} the scene; undefined if another was asked for meanwhile
 */
export async function look(description, input, state, ask) {
  const turn = ++looks;
  const attention = description.outputs.filter(({ address, shape }) => address.endsWith(".attention_weights") && shape.length === 3);
  const heads = attention[0]?.shape[0] ?? 0;
  const layer = within(state.layer, attention.length);
  const head = within(state.head, heads);
  const chosen = `layers.${layer}.attention_weights[${head}]`;
  const outputs = attention.flatMap(({ address, axes }) => [`${address}|top(${TOP})`, ...(axes[2] === "key" ? [`${address}|entropy`] : [])]);
  const { tensors, tokens } = await ask(outputs.length ? [chosen, ...outputs] : ["block_output|norm"]);
  if (turn !== looks) return undefined;
  const seen = clock("first picture");
  const size = tokens.length || input.shape[1];
  const names = tokens.length ? tokens : Array.from({ length: size }, (_, i) => String(i));
  const scene = { ask, seen, input, names, size, layer, head, query: queryOf(state.query, tokens, size), run: {}, prefetch: async () => undefined };
  if (!attention.length) return scene;
  const strongest = attention.map(({ address }) => ({
    values: tensors[`${address}|top(${TOP}).values`],
    indices: tensors[`${address}|top(${TOP}).indices`],
  }));
  const causal = (l) => description.config?.layers[l]?.mask === "causal";
  const measures = attention.map(({ address }, l) => measure(strongest[l].indices, tensors[`${address}|entropy`], tokens, causal(l)));
  const maps = new Maps(ask, size, heads);
  maps.put(layer, head, tensors[chosen].data);
  const prefetch = async (come) => {
    for (let l = 0; maps.fits(attention.length) && l < attention.length && turn === looks; l++) {
      await maps.fetchLayer(l);
      if (turn === looks) come(l, (h) => maps.get(l, h));
    }
  };
  return { ...scene, strongest, measures, maps, prefetch };
}

const within = (i, count) => (i < 0 || i >= count ? Math.max(0, count - 1) : i);

/** The chosen query, else the word "it", else the middle. */
function queryOf(query, tokens, size) {
  if (query >= 0 && query < size) return query;
  const it = tokens.findIndex((token) => /^[ĠĊ▁]?it$/i.test(token));
  return it < 0 ? Math.floor(size / 2) : it;
}
