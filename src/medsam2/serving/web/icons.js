/** Small drawings for buttons, in a square of 24. */

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  box: "M4 7h16v11H4z",
  point: "M12 4v16M4 12h16",
  brush: "M5 19c0-3 2-4 4-4l9-10 2 2-10 9c0 2-1 4-5 3z",
  erase: "M4 15l8-9 7 6-6 7H8zM8 10l7 6",
  crosshair: "M12 3v6M12 15v6M3 12h6M15 12h6",
  pan: "M12 3v18M3 12h18M12 3l-3 3M12 3l3 3M12 21l-3-3M12 21l3-3M3 12l3-3M3 12l3 3M21 12l-3-3M21 12l-3 3",
  eye: "M3 12c3-5 6-6 9-6s6 1 9 6c-3 5-6 6-9 6s-6-1-9-6zM12 9.5a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5",
  "eye-shut": "M3 12c3 4 6 5 9 5s6-1 9-5M6 15l-2 3M18 15l2 3M12 17v3",
  lock: "M6 11h12v9H6zM8.5 11V8a3.5 3.5 0 0 1 7 0v3",
  "lock-open": "M6 11h12v9H6zM8.5 11V7a3.5 3.5 0 0 1 6.8-1",
};

/**
 * A drawing that takes the colour of the text around it.
 * @param {keyof typeof PATHS} name
 */
export function iconOf(name) {
  const icon = document.createElementNS(SVG, "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  icon.setAttribute("aria-hidden", "true");
  icon.classList.add("drawn");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("d", PATHS[name]);
  icon.append(line);
  return icon;
}
