// How long a person waits for a picture: until it is painted, as the browser's own performance measures.

/** The function that waits for the picture of what begins now; of each name only the last measure is kept. */
export function clock(name) {
  const start = performance.now();
  return async () => {
    await new Promise((painted) => requestAnimationFrame(() => setTimeout(painted)));
    performance.clearMeasures(name);
    performance.measure(name, { start });
  };
}
