/** Convex outlines in the plane: their corners, their longest line, and their longest line across it. */

const ROUNDING = 1e-9;

/**
 * The corners of the convex outline of points, in order; of points in a line, both ends. Andrew's monotone chain (1979).
 * @param {number[][]} points  (x, y)
 * @returns {number[][]}
 */
export function hullOf(points) {
  const sorted = [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const unique = sorted.filter((point, i) => !i || point[0] !== sorted[i - 1][0] || point[1] !== sorted[i - 1][1]);
  if (unique.length < 3) return unique.length === 1 ? [unique[0], unique[0]] : unique;
  const half = (ordered) => {
    /** @type {number[][]} */
    const chain = [];
    for (const point of ordered) {
      while (chain.length > 1 && turn(chain[chain.length - 2], chain[chain.length - 1], point) <= 0) chain.pop();
      chain.push(point);
    }
    return chain.slice(0, -1);
  };
  return [...half(unique), ...half(unique.toReversed())];
}

const turn = (a, b, c) => (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);

/** The longest line between two corners. */
export function longestOf(outline) {
  let best = { length: -1, ends: [outline[0], outline[0]] };
  for (let i = 0; i < outline.length; i++) {
    for (let j = i + 1; j < outline.length; j++) {
      const length = Math.hypot(outline[i][0] - outline[j][0], outline[i][1] - outline[j][1]);
      if (length > best.length) best = { length, ends: [outline[i], outline[j]] };
    }
  }
  return best;
}

/**
 * The length of the longest chord at right angles to a direction. Along the direction, a chord's length is a concave
 * function with bends at the corners, so the longest one goes through a corner.
 * @param {number[][]} outline
 * @param {number[]} direction  Of length 1.
 */
export function widestAcross(outline, direction) {
  const along = outline.map(([x, y]) => x * direction[0] + y * direction[1]);
  const aside = outline.map(([x, y]) => y * direction[0] - x * direction[1]);
  let widest = 0;
  for (const place of along) {
    let [lowest, highest] = [Infinity, -Infinity];
    for (let i = 0; i < outline.length; i++) {
      const next = (i + 1) % outline.length;
      const part = (place - along[i]) / (along[next] - along[i]);
      // Of an edge along the chord, the neighbours have both ends.
      if (!(part >= -ROUNDING && part <= 1 + ROUNDING)) continue;
      const meets = aside[i] + part * (aside[next] - aside[i]);
      lowest = Math.min(lowest, meets);
      highest = Math.max(highest, meets);
    }
    widest = Math.max(widest, highest - lowest);
  }
  return widest;
}
