// The controls, and the keys.

function set(changes) {
  Object.assign(state, changes);
  byId("class").value = String(state.class);
  byId("status").value = state.status;
  byId("sort").value = state.sort;
  byId("query").value = state.query;
  byId("least").value = String(state.least);
  refresh();
}

function refresh() {
  fillGallery();
  byId("least-shown").textContent = state.least.toFixed(2);
  const shown = chosen.reduce((sum, one) => sum + one.shown.length, 0);
  byId("count").textContent = `${counted(chosen.length, "picture", "pictures")}, ${counted(shown, "detection", "detections")}`;
  byId("reset").hidden = !filtered();
  byId("nothing").hidden = chosen.length > 0;
  dimScores();
  pressClasses();
}

// Once a frame at most, however fast the slider moves or one types.
let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; refresh(); });
}

function wireControls() {
  const least = byId("least");
  least.min = String(LOWEST);
  least.value = String(START);
  byId("class").append(el("option", { value: "-1" }, "All classes"),
    ...data.classes.map((one, place) => el("option", { value: `${place}` }, `${one.name} (${count.format(one.count)})`)));
  least.addEventListener("input", () => { state.least = Number(least.value); soon(); });
  byId("query").addEventListener("input", (event) => { state.query = event.target.value; soon(); });
  byId("class").addEventListener("change", (event) => set({ class: Number(event.target.value) }));
  byId("status").addEventListener("change", (event) => set({ status: event.target.value }));
  byId("sort").addEventListener("change", (event) => set({ sort: event.target.value }));
  byId("reset").addEventListener("click", () => { set({ query: "", class: -1, status: "all", least: START }); byId("query").focus(); });
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("masks-switch").hidden = !cards.some((card) => card.all.some((one) => one[OUTLINE]));
  for (const what of ["boxes", "masks", "labels"]) byId(`show-${what}`).addEventListener("change", () => toggle(what));
}

function toggle(what) {
  state[what] = !state[what];
  byId(`show-${what}`).checked = state[what];
  paintNear();
  place();
}

function wireGallery() {
  gallery.addEventListener("click", (event) => {
    const button = event.target.closest(".shot");
    if (button) openViewer(chosen.findIndex((one) => one.number === Number(button.dataset.number)));
  });
  gallery.addEventListener("keydown", moveFocus);
  byId("more").firstElementChild.addEventListener("click", append);
  let width = 0;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === width) return;
    width = contentRect.width;
    paintNear();
  }).observe(gallery);
}

function wireViewer() {
  byId("close").addEventListener("click", () => viewer.close());
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("zoom-in").addEventListener("click", () => zoom(1));
  byId("zoom-out").addEventListener("click", () => zoom(-1));
  stage.addEventListener("dblclick", (event) => {
    const box = stage.getBoundingClientRect();
    zoom(view.zoom === ZOOMS[ZOOMS.length - 1] ? 0 : 1, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  viewer.addEventListener("keydown", viewerKeys);
  viewer.addEventListener("close", closedViewer);
  new ResizeObserver(place).observe(stage);
  swipes();
}

function wireHelp() {
  const help = byId("help");
  byId("open-help").addEventListener("click", () => help.showModal());
  byId("close-help").addEventListener("click", () => help.close());
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=search], select");
  if (typing || event.altKey || event.ctrlKey || event.metaKey || byId("help").open) return;
  const what = { b: "boxes", m: "masks", l: "labels" }[event.key.toLowerCase()];
  if (what) toggle(what);
  else if (event.key === "?") byId("help").showModal();
  else if (event.key === "/" && !viewer.open) {
    event.preventDefault();
    byId("query").focus();
  }
});

if (matchMedia("(max-width: 640px)").matches) byId("charts").open = false;
if (data.sampled) {
  const { images, failed } = data.totals;
  const some = cards.filter((card) => !card.error).length;
  byId("sampled").textContent = `A sample: ${count.format(some)} of ${counted(images - failed, "image", "images")}, chosen to show as many classes and ranges of scores as it can. Totals and histograms are those of the whole run.`;
  byId("sampled").hidden = false;
}
showRun();
showTiles();
showScores();
showPerImage();
showClasses();
showFailures();
wireControls();
wireGallery();
wireViewer();
wireHelp();
refresh();
