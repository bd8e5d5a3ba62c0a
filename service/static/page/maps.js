// Attention maps [query, key] of one input, fetched by need: a layer at a time while maps are small, else a head.

const LAYER_AT_ONCE = 512; // tokens
const KEPT_BYTES = 64 * 2 ** 20;

export class Maps {
  /**
   * @param {(addresses: string[]) => Promise<{tensors: object}>} ask runs the model on the input
   * @param {number} size tokens
   * @param {number} heads
   */
  constructor(ask, size, heads) {
    Object.assign(this, { ask, size, heads, kept: new Map(), coming: new Map() });
  }

  /** The map of a head, if it is here. */
  get(layer, head) {
    const cells = this.size ** 2;
    const whole = this.kept.get(`${layer}`);
    return whole?.subarray(head * cells, (head + 1) * cells) ?? this.kept.get(`${layer}.${head}`);
  }

  /** The map of a head, and with it those of its layer if the sequence is short enough. */
  async fetch(layer, head) {
    if (!this.get(layer, head)) await this.#load(...this.#need(layer, head));
    return this.get(layer, head);
  }

  /** All maps of a layer, for a sequence short enough. */
  async fetchLayer(layer) {
    if (!this.kept.has(`${layer}`)) await this.#load(...this.#need(layer, 0));
  }

  put(layer, head, map) {
    this.kept.set(`${layer}.${head}`, map);
  }

  /** Whether all layers together are little enough to be fetched before anyone asks. */
  fits(layers) {
    return this.size <= LAYER_AT_ONCE && layers * this.heads * this.size ** 2 * 4 <= KEPT_BYTES / 2;
  }

  #need(layer, head) {
    const address = `layers.${layer}.attention_weights`;
    return this.size <= LAYER_AT_ONCE ? [`${layer}`, address] : [`${layer}.${head}`, `${address}[${head}]`];
  }

  #load(name, address) {
    if (!this.coming.has(name)) {
      const load = this.ask([address]).then(({ tensors }) => {
        this.kept.set(name, tensors[address].data);
        this.#forget();
      });
      this.coming.set(name, load.finally(() => this.coming.delete(name)));
    }
    return this.coming.get(name);
  }

  #forget() {
    let bytes = [...this.kept.values()].reduce((sum, map) => sum + map.byteLength, 0);
    for (const [name, map] of this.kept) {
      if (bytes <= KEPT_BYTES || this.kept.size === 1) break;
      this.kept.delete(name);
      bytes -= map.byteLength;
    }
  }
}
