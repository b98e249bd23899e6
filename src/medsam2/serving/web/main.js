/** The page: puts its parts together and starts it. */

import { isDraftWaiting, saveDraft } from "./drafts.js";
import { sendEvents } from "./clock.js";
import { acceptFiles } from "./dropping.js";
import { listenToKeys } from "./keys.js";
import { showBar } from "./bar.js";
import { showCases } from "./cases.js";
import { showMeasurements } from "./measurements.js";
import { showObjects } from "./objects.js";
import { by } from "./page_parts.js";
import { showPlanes } from "./plane_panes.js";
import { onReturn } from "./presence.js";
import { resume } from "./opening.js";
import { showProgress } from "./progress.js";
import { showRounds } from "./rounds.js";
import { showSolid } from "./solid.js";
import { showStrip } from "./strip.js";
import { showTools } from "./tools.js";
import { showTour, offerTour } from "./tour.js";
import { greet } from "./user.js";
import { state, watch } from "./state.js";
import { inTurn, refreshMasks } from "./work.js";

async function startPage() {
  watch(["opened"], () => {
    by("start").hidden = state.opened !== null;
    by("work").hidden = state.opened === null;
    document.body.dataset.opened = state.opened?.kind ?? "";
  });
  watch(["isServerAway"], () => (by("away").hidden = !state.isServerAway));
  for (const show of [showBar, showCases, showTools, showPlanes, showStrip, showObjects, showProgress]) show();
  for (const show of [showMeasurements, showSolid, showTour, showRounds]) show();
  acceptFiles();
  listenToKeys();
  // A session that ended meanwhile is opened again by the first call that misses it.
  onReturn(() => (state.session ? inTurn("Picking up the work", refreshMasks) : greet()));
  window.addEventListener("pagehide", () => {
    if (isDraftWaiting()) saveDraft(true);
    sendEvents(true);
  });
  await greet();
  await resume();
  if (!state.opened) offerTour();
  document.body.dataset.ready = "yes";
}

startPage();
