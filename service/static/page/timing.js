// How long a person waits for a picture: until it is painted, as the browser's own performance measures.

/** The function that ends what begins now; of each name only the last measure is kept. */
export function clock(name) {
  const start = performance.now();
  const end = () => {
    performance.clearMeasures(name);
    performance.measure(name, { start });
  };
  return () => requestAnimationFrame(() => setTimeout(end));
}
