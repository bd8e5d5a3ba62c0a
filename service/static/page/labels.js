// What a head does, in a word, from two reductions that the server makes: where each query looks most
// (`attention_weights|top(K)`) and how broadly (`attention_weights|entropy`).

export const TOP = 16;
const BROAD = 0.8; // of the largest entropy that a row can have
const MOST = 0.5; // of the queries
export const LABELS = ["previous", "next", "diagonal", "delimiter", "broad"];
export const SORTS = ["layers", "sharp", "previous", "diagonal", "delimiter", "broad"];

/** Where the tokens are that stand for no word: [CLS], <s>, <|end|>. */
export function specials(tokens) {
  return new Set(tokens.flatMap((token, i) => (/^(\[[A-Z]+\]|<.+>)$/.test(token) ? [i] : [])));
}

function delimiters(tokens) {
  const found = specials(tokens);
  tokens.forEach((token, i) => /^\p{P}+$/u.test(token) && found.add(i));
  return found;
}

/**
 * Shares of the queries, per head of a layer.
 * @param {{shape: number[], data: Float32Array}} indices [head, query, k] of the most attended keys
 * @param {{data: Float32Array} | undefined} entropy [head, query] in nats; a module's own weights have none
 * @param {boolean} causal whether a query sees no later key
 * @returns {{previous: number, next: number, diagonal: number, delimiter: number, broad: number, sharp: number, label: string}[]}
 */
export function measure(indices, entropy, tokens, causal) {
  const [heads, size, kept] = indices.shape;
  const marks = delimiters(tokens);
  return Array.from({ length: heads }, (_, head) => {
    const best = (query) => indices.data[(head * size + query) * kept];
    const share = (holds, from = 0) => {
      let count = 0;
      for (let query = from; query < size; query++) count += holds(best(query), query);
      return count / Math.max(1, size - from);
    };
    const found = {
      previous: share((key, query) => key === query - 1, 1),
      next: share((key, query) => key === query + 1),
      diagonal: share((key, query) => key === query),
      delimiter: share((key) => marks.has(key)),
      broad: entropy ? broadness(entropy.data, head, size, causal) : 0,
    };
    return { ...found, sharp: 1 - found.broad, label: label(found) };
  });
}

function broadness(entropy, head, size, causal) {
  let sum = 0;
  let most = 0;
  for (let query = 0; query < size; query++) {
    sum += entropy[head * size + query];
    most += Math.log(causal ? query + 1 : size);
  }
  return most ? sum / most : 0;
}

function label({ broad, ...shares }) {
  if (broad >= BROAD) return "broad";
  const [name, share] = Object.entries(shares).reduce((a, b) => (b[1] > a[1] ? b : a));
  return share >= MOST ? name : "";
}
