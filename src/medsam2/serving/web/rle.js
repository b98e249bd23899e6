/** A slice's mask as the compressed run lengths of COCO, there and back. */

const BITS = 0x1f;
const SIGN = 0x10;
const GOES_ON = 0x20;
const FIRST = 48;

/**
 * Write a mask.
 * @param {Uint8Array} mask  Row by row, not 0 inside.
 * @param {number} height
 * @param {number} width
 */
export function encodeRle(mask, height, width) {
  const runs = [];
  let value = 0;
  let length = 0;
  for (let x = 0; x < width; x++) {
    for (let y = 0; y < height; y++) {
      const here = mask[y * width + x] ? 1 : 0;
      if (here !== value) {
        runs.push(length);
        length = 0;
        value = here;
      }
      length++;
    }
  }
  runs.push(length);
  let text = "";
  runs.forEach((run, i) => {
    // From the fourth on, the difference to the one before the last.
    let rest = i > 2 ? run - runs[i - 2] : run;
    for (;;) {
      const group = rest & BITS;
      rest >>= 5;
      const isLast = rest === (group & SIGN ? -1 : 0);
      text += String.fromCharCode(group + (isLast ? 0 : GOES_ON) + FIRST);
      if (isLast) break;
    }
  });
  return text;
}

/**
 * Read a mask.
 * @param {string} text
 * @param {number} height
 * @param {number} width
 * @returns {Uint8Array} Row by row, 0 or 1.
 */
export function decodeRle(text, height, width) {
  const mask = new Uint8Array(height * width);
  const runs = [];
  let at = 0;
  let i = 0;
  while (i < text.length) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(i++) - FIRST;
      value |= (code & BITS) << shift;
      shift += 5;
    } while (code & GOES_ON);
    if (code & SIGN && shift < 32) value |= -1 << shift;
    if (runs.length > 2) value += runs[runs.length - 2];
    if (runs.length % 2) fillColumns(mask, at, value, height, width);
    runs.push(value);
    at += value;
  }
  return mask;
}

function fillColumns(mask, start, length, height, width) {
  for (let at = start; at < start + length; at++) mask[(at % height) * width + Math.floor(at / height)] = 1;
}
