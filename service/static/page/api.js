// The server's API: models, and what is inside a run of one, as binary tensors.

import { read, write } from "./safetensors.js";

const SAFETENSORS = "application/x-safetensors";
let key = ""; // only here, never stored

/** What cannot be done, in the server's own sentence; status 0: nobody answered; none: the server was not asked. */
export class Refusal extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

export function useKey(value) {
  key = value;
}

export const hasKey = () => key !== "";

export const models = async () => (await ask("v1/models")).json().then((answer) => answer.models);

export const describe = async (model) => (await ask(`v1/models/${model}`)).json();

export const isReady = () => fetch("readyz").then((answer) => answer.ok, () => false);

/**
 * Runs a model on one sequence.
 * @param {string} model
 * @param {{text: string} | {shape: number[], data: Float32Array}} input a sentence, or hidden_states [1, sequence, hidden]
 * @param {string[]} outputs addresses
 * @param {object} [interventions] {address: {scale: number}}
 * @returns {Promise<{tensors: Object<string, {shape: number[], data: Float32Array}>, tokens: string[], timings: object}>}
 *   tensors without the batch's axis; timings in ms, the network's by what the server does not account for
 */
export async function forward(model, input, outputs, interventions) {
  const started = performance.now();
  const answer = await ask(`v1/models/${model}/forward`, request(input, outputs, interventions));
  const { tensors, metadata } = read(await answer.arrayBuffer());
  const total = performance.now() - started;
  for (const tensor of Object.values(tensors)) tensor.shape = tensor.shape.slice(1);
  return { tensors, tokens: JSON.parse(metadata.tokens ?? "[[]]")[0], timings: timings(answer.headers.get("Server-Timing"), total) };
}

/** Method, headers and body of a run: JSON for a sentence, safetensors for a tensor. */
export function request(input, outputs, interventions) {
  const fields = { outputs, ...(interventions && { interventions }) };
  const body = "text" in input ? JSON.stringify({ text: input.text, ...fields }) : write("hidden_states", input, fields);
  const type = "text" in input ? "application/json" : SAFETENSORS;
  return { method: "POST", headers: { "Content-Type": type, Accept: SAFETENSORS }, body };
}

async function ask(path, { headers, ...rest } = {}) {
  const allHeaders = { ...headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { ...rest, headers: allHeaders }).catch(() => {
    throw new Refusal("the server does not answer", 0);
  });
  if (!answer.ok) {
    const { error } = await answer.json().catch(() => ({ error: `status ${answer.status}` }));
    throw new Refusal(error, answer.status);
  }
  return answer;
}

function timings(header, total) {
  const stages = Object.fromEntries([...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]));
  const served = Object.values(stages).reduce((sum, ms) => sum + ms, 0);
  return { ...stages, network: Math.max(0, total - served) };
}
