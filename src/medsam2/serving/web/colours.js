/** Colours of objects, on the screen and in files. */

/** Colours of new objects, the same as in exported files: easy to tell apart, and readable on grey. */
const COLOURS = [
  "#e63c3c", "#3cb44b", "#5b8cff", "#f5be28", "#b46bd6", "#28bec8", "#f58232", "#e664b4", "#96c83c", "#b98f62",
];
// D65, the white of sRGB, and the threshold of CIE's function of lightness.
const WHITE = [0.95047, 1, 1.08883];
const DARK = 216 / 24389;
const SLOPE = 24389 / 27;
const HIGHEST = 65535;

export const PROMPT_COLOUR = "#ffe066";

/** The colour that an object gets from its number, "#rrggbb". */
export const colourOf = (number) => COLOURS[(number - 1) % COLOURS.length];

/** Red, green and blue of "#rrggbb", 0..255. */
export function rgbOf(colour) {
  const rgb = parseInt(colour.slice(1), 16);
  return [rgb >> 16, (rgb >> 8) & 255, rgb & 255];
}

/**
 * A colour in CIELab as DICOM writes it (PS3.3 C.10.7.1.1).
 * @param {string} colour  "#rrggbb"
 * @returns {number[]} Three whole numbers, 0..65535.
 */
export function labOf(colour) {
  const [r, g, b] = rgbOf(colour)
    .map((part) => part / 255)
    .map((part) => (part > 0.04045 ? ((part + 0.055) / 1.055) ** 2.4 : part / 12.92));
  // The matrix of sRGB (IEC 61966-2-1).
  const xyz = [
    0.4124564 * r + 0.3575761 * g + 0.1804375 * b,
    0.2126729 * r + 0.7151522 * g + 0.072175 * b,
    0.0193339 * r + 0.119192 * g + 0.9503041 * b,
  ];
  const [x, y, z] = xyz
    .map((part, i) => part / WHITE[i])
    .map((part) => (part > DARK ? Math.cbrt(part) : (SLOPE * part + 16) / 116));
  const lab = [(116 * y - 16) / 100, (500 * (x - y) + 128) / 255, (200 * (y - z) + 128) / 255];
  return lab.map((part) => Math.round(HIGHEST * Math.min(1, Math.max(0, part))));
}
