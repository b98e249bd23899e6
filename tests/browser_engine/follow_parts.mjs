/** Gives slices one by one to the engine's `ConnectedParts`, as a walk does. */

import { ConnectedParts } from "../../src/medsam2/serving/web/engine/postprocess.js";

export function followParts(given) {
  const patches = new Map(given.map(({ slice, patch }) => [slice, patch]));
  const parts = new ConnectedParts((slice) => patches.get(slice));
  const changes = given.map(({ slice, seed }) => parts.add(slice, seed ?? undefined));
  const slices = [...patches.keys()].sort((a, b) => a - b);
  return { changes, kept: slices.map((slice) => parts.kept(slice).inside) };
}
