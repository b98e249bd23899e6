/** Which intensities become black and white where the user names none: `imaging/intensity.py`. */

const SOFT_TISSUE = [-160, 240];
const PERCENTILES = [0.5, 99.5];
const BACKGROUND_SHARE = 0.1; // of zeros; with more they are left out
const DISPLAY_PEAK = 192; // 8-bit pictures as bright as this were made for a screen
const SAMPLE_SIZE = 1_000_000;
// Hounsfield units: scanners pad with less, metal and bone exceed them, and some air is in every CT.
const HU_RANGE = [-1100, 400];
const HU_AIR = [-1100, -900];
const HU_HIGHEST_MINIMUM = -500;

/**
 * The intensities of stored voxels, in the precision that Python reads them with.
 * @returns {(voxel: number) => number}
 */
export function scaling(voxels, slope, shift) {
  if (slope === 1 && shift === 0) return (voxel) => voxel;
  const isShort = voxels.BYTES_PER_ELEMENT <= 2 || voxels instanceof Float32Array;
  return isShort ? (voxel) => Math.fround(voxel * slope + shift) : (voxel) => voxel * slope + shift;
}

/**
 * Find the window of a scan. The sample of a large scan is the one that Python takes if its voxels come in the
 * file's order: whoever segments another plane may call this before turning the voxels.
 * @param {import("./segmenter.js").OpenVolume} volume
 * @returns {{window: [number, number], source: string}}
 * @throws {Error} There is nothing to see.
 */
export function findWindow({ voxels, shape, slope = 1, shift = 0, window = null, modality = null, fileWindow = null }) {
  const valueOf = scaling(voxels, slope, shift);
  const [lowest, highest] = extremes(voxels, valueOf);
  if (window) {
    if (!window.every(Number.isFinite) || window[0] >= window[1]) {
      throw new Error(`A window is two numbers, the lower one first, not ${window.join(" and ")}.`);
    }
    return { window, source: "caller" };
  }
  const isByte = voxels.BYTES_PER_ELEMENT === 1 && !(voxels instanceof Int8Array) && slope === 1 && shift === 0;
  if (isByte && highest >= DISPLAY_PEAK && (modality === "US" || modality === "CT" || shape[0] === 1)) {
    return { window: [0, 255], source: "display" };
  }
  if (modality === "CT" && fileWindow) return { window: fileWindow, source: "file" };
  const softTissue = { window: /** @type {[number, number]} */ ([...SOFT_TISSUE]), source: "soft-tissue" };
  if (modality === "CT" && !isByte) return softTissue;
  const sample = sampleOf(voxels, valueOf);
  if (modality === null && lowest <= HU_HIGHEST_MINIMUM && looksLikeHounsfield(sample)) return softTissue;
  return percentileWindow(sample, lowest, highest);
}

function extremes(voxels, valueOf) {
  let [low, high, infinite] = [Infinity, -Infinity, 0];
  for (let at = 0; at < voxels.length; at++) {
    const value = voxels[at];
    if (value < low) low = value;
    if (value > high) high = value;
    if (value === Infinity || value === -Infinity) infinite++;
  }
  if (infinite) throw new Error(`${infinite} voxels of the scan are infinite; a scan needs finite numbers.`);
  if (low > high) throw new Error("Every voxel of the scan is NaN; there is nothing to segment.");
  const ends = [valueOf(low), valueOf(high)].sort((a, b) => a - b);
  if (!ends.every(Number.isFinite)) throw new Error("The file scales its voxels to numbers that are not finite.");
  if (ends[0] === ends[1]) throw new Error(`Every voxel of the scan is ${ends[0]}; there is nothing to segment.`);
  return ends;
}

/** All voxels of a small scan, or the million of a large one that `numpy.random.default_rng(0)` picks; without NaN. */
function sampleOf(voxels, valueOf) {
  const picks = voxels.length > SAMPLE_SIZE ? picksOf(voxels.length, SAMPLE_SIZE) : null;
  const sample = new Float64Array(picks?.length ?? voxels.length);
  let count = 0;
  for (let at = 0; at < sample.length; at++) {
    const value = valueOf(voxels[picks ? picks[at] : at]);
    if (!Number.isNaN(value)) sample[count++] = value;
  }
  return sample.subarray(0, count);
}

/** `default_rng(0).integers(0, length, count)`: PCG64 (O'Neill 2014), brought to the range as Lemire (2019) does. */
export function picksOf(length, count) {
  const wide = (1n << 128n) - 1n;
  const multiplier = 0x2360ed051fc65da44385df649fccf645n;
  let state = 35399562948360463058890781895381311971n; // of the seed 0
  const step = 87136372517582989555478159403783844777n;
  let waiting = -1; // the upper half of the last number
  const next = () => {
    if (waiting >= 0) {
      const half = waiting;
      waiting = -1;
      return half;
    }
    state = (state * multiplier + step) & wide;
    const mixed = BigInt.asUintN(64, (state >> 64n) ^ state);
    const turn = state >> 122n;
    const number = BigInt.asUintN(64, (mixed >> turn) | (mixed << (64n - turn)));
    waiting = Number(number >> 32n);
    return Number(number & 0xffffffffn);
  };
  const refused = (2 ** 32 - length) % length;
  const picks = new Float64Array(count);
  for (let at = 0; at < count; at++) {
    for (;;) {
      // 64 bits of a product, in two steps that a double has room for.
      const bits = next();
      const low = (bits & 0xffff) * length;
      const high = Math.floor(bits / 65536) * length + Math.floor(low / 65536);
      picks[at] = Math.floor(high / 65536);
      if ((high % 65536) * 65536 + (low % 65536) >= refused) break;
    }
  }
  return picks;
}

function looksLikeHounsfield(sample) {
  let [unpadded, typical, air, isWhole] = [0, 0, 0, true];
  for (const value of sample) {
    if (value >= HU_RANGE[0]) unpadded++;
    if (value >= HU_RANGE[0] && value <= HU_RANGE[1]) typical++;
    if (value >= HU_AIR[0] && value <= HU_AIR[1]) air++;
    if (value !== Math.round(value)) isWhole = false;
  }
  return typical >= 0.5 * Math.max(1, unpadded) && (isWhole || air >= 0.05 * sample.length);
}

function percentileWindow(sample, lowest, highest) {
  const shown = sample.filter((value) => value !== 0);
  const sorted = (shown.length <= (1 - BACKGROUND_SHARE) * sample.length ? shown : sample).sort();
  if (sorted.length) {
    const [lower, upper] = PERCENTILES.map((share) => {
      const place = (share / 100) * (sorted.length - 1);
      const below = Math.floor(place);
      const [a, b] = [sorted[below], sorted[Math.min(below + 1, sorted.length - 1)]];
      return place - below < 0.5 ? a + (b - a) * (place - below) : b - (b - a) * (1 - (place - below));
    });
    if (lower < upper) return { window: /** @type {[number, number]} */ ([lower, upper]), source: "percentiles" };
  }
  return { window: /** @type {[number, number]} */ ([lowest, highest]), source: "range" };
}
