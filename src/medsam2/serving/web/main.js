/** The entry of the page: puts its parts together and starts it. */

import { sendEvents, whenServerReturns } from "./background.js";
import { isDraftWaiting, saveDraft } from "./drafts.js";
import { listenToKeys } from "./keys.js";
import { showStrip } from "./navigation.js";
import { reopenLast } from "./opening.js";
import { byId } from "./page.js";
import { showMeasurements, showObjects, showProgress } from "./panel.js";
import { showPlanes } from "./plane_panes.js";
import { refreshMasks, runTask } from "./session.js";
import { startEngine } from "./sessions.js";
import { acceptFiles, showCases, showRounds } from "./start_page.js";
import { state, watch } from "./state.js";
import { showBar, showTools } from "./toolbar.js";
import { offerTour, showTour } from "./tour.js";
import { loadUser } from "./user.js";
import { show3D } from "./view_3d.js";

async function startPage() {
  byId("not-started")?.remove();
  await startEngine();
  watch(["opened"], () => {
    byId("start").hidden = state.opened !== null;
    byId("work").hidden = state.opened === null;
    document.body.dataset.opened = state.opened?.kind ?? "";
  });
  watch(["isServerAway"], () => (byId("away").hidden = !state.isServerAway));
  for (const show of [showBar, showCases, showTools, showPlanes, showStrip, showObjects, showProgress]) show();
  for (const show of [showMeasurements, show3D, showTour, showRounds]) show();
  acceptFiles();
  listenToKeys();
  // The first request that finds the session ended opens it again.
  whenServerReturns(() => (state.session ? runTask("Refreshing the masks", refreshMasks) : loadUser()));
  window.addEventListener("pagehide", () => {
    if (isDraftWaiting()) saveDraft(true);
    sendEvents(true);
  });
  await loadUser();
  await reopenLast();
  if (!state.opened) offerTour();
  document.body.dataset.ready = "yes";
}

startPage();
