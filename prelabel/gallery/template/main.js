// Connects the controls, the keys, and the fragment of the URL.

function set(changes) {
  Object.assign(state, changes);
  byId("status").value = state.status;
  byId("sort").value = state.sort;
  byId("query").value = state.query;
  refresh();
}

function toggleClass(classNumber) {
  const classes = new Set(state.classes);
  if (!classes.delete(classNumber)) classes.add(classNumber);
  set({ classes });
}

function refresh() {
  fillGallery();
  showScore();
  showTiles();
  showPerImage();
  showClasses();
  showCount();
  byId("missing").hidden = true;
  byId("reset").hidden = !activeFilters();
  byId("copy").hidden = matches.length === 0;
  byId("nothing").hidden = matches.length > 0;
  byId("fold-title").textContent = activeFilters() ? `Filters (${activeFilters()} set)` : "Filters";
  showChosenClasses();
  dimScores();
  pressClasses();
  writeFragment();
}

function showScore() {
  for (const id of ["least", "viewer-least"]) {
    byId(id).value = String(state.score);
    byId(`${id}-shown`).textContent = state.score.toFixed(2);
  }
  byId("run-score").textContent = `slider at ${state.score.toFixed(2)}`;
  byId("run-score").hidden = state.score === START;
}

// "2 of 5 images, 3 of 8 detections": what matches the filters, of all on this page.
function showCount() {
  const shown = matches.reduce((sum, match) => sum + match.visible.length, 0);
  const all = cards.reduce((sum, card) => sum + card.all.filter((detection) => passesScore(detection, baseScore())).length, 0);
  const words = (value, total, [singular, plural]) => `${ofTotal(value, total)} ${total === 1 ? singular : plural}`;
  byId("count").textContent = `${words(matches.length, cards.length, IMAGES)}, ${words(shown, all, DETECTIONS)}`;
}

// Shows the chosen classes as buttons that remove them from the filter.
function showChosenClasses() {
  const buttons = [...state.classes].map((classNumber) => {
    const { name: className, color } = data.classes[classNumber];
    return el("li", {}, el("button", { type: "button", class: "chip", title: `Remove the filter ${className}`, on: { click: () => toggleClass(classNumber) } },
      el("span", { class: "swatch", style: { background: color } }), name(className, { class: "class-name" }), el("span", { "aria-hidden": "true" }, "✕")));
  });
  byId("chosen-classes").replaceChildren(...buttons);
  const [first, ...options] = byId("class").options;
  first.textContent = state.classes.size ? "Add a class" : "All classes";
  options.forEach((option, classNumber) => {
    option.textContent = `${data.classes[classNumber].name} (${ofTotal(classCount(classNumber), classCount(classNumber, baseScore()))})`;
  });
  byId("class").value = "-1";
}

// Refreshes at most once per animation frame, however fast the slider moves.
let waiting = false;
function refreshSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; refresh(); });
}

// Browsers limit how often a page may change its URL, so the URL changes a moment later.
let writing = 0;
function writeFragment() {
  clearTimeout(writing);
  writing = setTimeout(() => {
    const text = fragment(viewer.open ? imageId(cards[matches[view.position].card]) : "");
    if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }, 250);
}

function readFragment() {
  const parsed = parseFragment(location.hash.slice(1));
  if (parsed === null) return;
  if (viewer.open) viewer.close();
  set(parsed.changes);
  if (parsed.image === null) return;
  const card = cards.findIndex((each) => imageId(each) === parsed.image);
  if (card < 0) showMissing(parsed.image);
  else {
    // The link opens its image even if its filters exclude it.
    if (positionOf(card) < 0) set(NO_FILTERS);
    openViewer(positionOf(card));
  }
}

// Says that the page does not have the image of a link.
function showMissing(image) {
  const { images } = data.totals;
  const id = el("strong", {}, name(image));
  const sentences = cards.length < images
    ? [id, ` is not on this page, which shows ${ofTotal(cards.length, images)} images of the run. `, el("code", {}, "prelabel preview --limit 0"), " shows all."]
    : ["The run has no image ", id, "."];
  byId("missing").replaceChildren(...sentences);
  byId("missing").hidden = false;
}

async function copyIds() {
  const text = matches.map((match) => imageId(cards[match.card])).join("\n");
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // The clipboard is not available without permission, or if the page is not served securely.
    const area = el("textarea", { "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  byId("copied").textContent = `Copied ${counted(matches.length, "image id", "image ids")}`;
  setTimeout(() => { byId("copied").textContent = ""; }, 4000);
}

function wireControls() {
  for (const id of ["least", "viewer-least"]) byId(id).min = String(LOWEST);
  byId("class").append(el("option", { value: "-1" }, "All classes"),
    ...data.classes.map((_, classNumber) => el("option", { value: `${classNumber}` })));
  byId("least").addEventListener("input", (event) => { state.score = Number(event.target.value); refreshSoon(); });
  byId("query").addEventListener("input", (event) => { state.query = event.target.value; refreshSoon(); });
  byId("class").addEventListener("change", (event) => {
    if (Number(event.target.value) >= 0) toggleClass(Number(event.target.value));
    else set({ classes: new Set() });
  });
  byId("status").addEventListener("change", (event) => set({ status: event.target.value }));
  byId("sort").addEventListener("change", (event) => set({ sort: event.target.value }));
  byId("reset").addEventListener("click", () => { set(NO_FILTERS); byId("query").focus(); });
  byId("copy").addEventListener("click", copyIds);
  byId("classes-more").addEventListener("click", showAllClasses);
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  byId("masks-switch").hidden = !cards.some((card) => card.all.some((detection) => detection[CONTOUR]));
  byId("keypoints-switch").hidden = !cards.some((card) => card.all.some((detection) => detection[KEYPOINTS]));
  for (const layer of ["boxes", "masks", "keypoints", "labels"]) byId(`show-${layer}`).addEventListener("change", () => toggle(layer));
  // The filters are folded on a phone and always open on larger screens.
  const phone = matchMedia("(max-width: 640px)");
  const fold = () => { byId("fold").open = !phone.matches; };
  phone.addEventListener("change", fold);
  fold();
}

function toggle(layer) {
  state[layer] = !state[layer];
  byId(`show-${layer}`).checked = state[layer];
  paintNear();
  layOut();
}

function wireGallery() {
  gallery.addEventListener("click", (event) => {
    const button = event.target.closest(".shot");
    if (button) openViewer(positionOf(Number(button.dataset.number)));
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
  byId("viewer-least").addEventListener("input", (event) => { state.score = Number(event.target.value); rescore(); });
  stage.addEventListener("click", (event) => {
    if (!view.dragged) pinAt(event.clientX, event.clientY);
  });
  stage.addEventListener("dblclick", (event) => {
    const box = stage.getBoundingClientRect();
    zoom(view.zoom === ZOOMS[ZOOMS.length - 1] ? 0 : 1, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  viewer.addEventListener("keydown", viewerKeys);
  viewer.addEventListener("close", viewerClosed);
  new ResizeObserver(layOut).observe(stage);
  wireSwipes();
  wireDrags();
}

function wireHelp() {
  const help = byId("help");
  byId("open-help").addEventListener("click", () => help.showModal());
  byId("close-help").addEventListener("click", () => help.close());
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input[type=search], select");
  if (typing || event.altKey || event.ctrlKey || event.metaKey || byId("help").open) return;
  const layer = { b: "boxes", m: "masks", k: "keypoints", l: "labels" }[event.key.toLowerCase()];
  if (layer) toggle(layer);
  else if (event.key === "?") byId("help").showModal();
  else if (event.key === "/" && !viewer.open) {
    event.preventDefault();
    byId("fold").open = true;
    byId("query").focus();
  }
});

if (matchMedia("(max-width: 640px)").matches) byId("charts").open = false;
if (data.sampled) {
  const { images, failed } = data.totals;
  const sampled = cards.filter((card) => !card.error).length;
  byId("sampled").textContent = `A sample: ${number.format(sampled)} of ${counted(images - failed, ...IMAGES)}, chosen to show as many classes and score ranges as possible. The totals and histograms count the whole run.`;
  byId("sampled").hidden = false;
}
showRun();
makeTiles();
makeScores();
showFailures();
wireControls();
wireGallery();
wireViewer();
wireHelp();
refresh();
readFragment();
addEventListener("hashchange", readFragment);
