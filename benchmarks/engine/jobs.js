/** Does what a list of steps says with a segmenter, in Node and in a page's worker alike. */

const ARRAYS = {
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array,
  float32: Float32Array, float64: Float64Array,
};

/**
 * @param {any} segmenter
 * @param {any} job  Volume and steps, as `engine_runs.py` writes them.
 * @param {(file: string) => Promise<ArrayBuffer>} read
 * @returns {Promise<any[]>}  Of each step: its planes as [object, slice, run lengths], and milliseconds.
 */
export async function runJob(segmenter, job, read) {
  const { file, dtype, ...volume } = job.volume;
  const started = performance.now();
  const opened = segmenter.openVolume({ ...volume, voxels: new ARRAYS[dtype](await read(file)) });
  const results = [{ ...opened, planes: [], ms: performance.now() - started }];
  for (const step of job.steps) {
    const begin = performance.now();
    const found = await DOES[step.do](segmenter, step).catch((error) => ({ error: error.message, planes: [] }));
    results.push({ ...found, status: segmenter.status, ms: performance.now() - begin });
  }
  return results;
}

const DOES = {
  async add(segmenter, { object, prompt }) {
    const mask = prompt.mask && Uint8Array.from(prompt.mask);
    const found = await segmenter.addPrompt(object, { ...prompt, mask });
    return { score: found.score, planes: [[object, found.slice, runLengths(found.mask)]] };
  },
  async propagate(segmenter, { slices = Infinity }) {
    const stop = new AbortController();
    const latest = new Map();
    const order = [];
    for await (const { slice, done, of, masks } of segmenter.propagate({ signal: stop.signal })) {
      order.push([slice, done, of]);
      for (const [object, mask] of masks) latest.set(`${object} ${slice}`, [object, slice, runLengths(mask)]);
      if (order.length >= slices) stop.abort();
    }
    return { order, planes: [...latest.values()] };
  },
  async add_and_follow_at_once(segmenter, { object, prompt }) {
    const shown = segmenter.addPrompt(object, prompt);
    return { shown: (await Promise.all([shown, DOES.propagate(segmenter, {})]))[1].order.length, planes: [] };
  },
  async change_while_following(segmenter, { object, prompt }) {
    let change = null;
    let count = 0;
    for await (const _ of segmenter.propagate()) if (++count === 2) change = segmenter.addPrompt(object, prompt);
    await change;
    return { count, planes: [] };
  },
  async masks(segmenter, { object }) {
    const planes = [...segmenter.masks(object)].map(({ slice, mask }) => [object, slice, runLengths(mask)]);
    return { scores: [...segmenter.scores(object)], planes };
  },
  async labels(segmenter) {
    const planes = [];
    for (const { slice, labels } of segmenter.labels()) {
      for (const object of new Set(labels)) {
        if (object) planes.push([object, slice, runLengths(labels.map((label) => Number(label === object)))]);
      }
    }
    return { planes };
  },
  async remove(segmenter, { object, slice }) {
    await segmenter.removePrompts(object, slice);
    return { planes: [] };
  },
  undo: async (segmenter) => ({ isDone: await segmenter.undo(), planes: [] }),
  redo: async (segmenter) => ({ isDone: await segmenter.redo(), planes: [] }),
};

/** Lengths of the runs of a mask, row by row, the first one outside. */
function runLengths(mask) {
  const lengths = [];
  let [value, start] = [0, 0];
  for (let at = 0; at < mask.length; at++) {
    if (mask[at] === value) continue;
    lengths.push(at - start);
    [value, start] = [mask[at], at];
  }
  return [...lengths, mask.length - start];
}
